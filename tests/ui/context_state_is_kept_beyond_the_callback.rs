//! The state of a context is lent for one callback.

use std::cell::RefCell;
use std::rc::Rc;

use usockets::{Loop, SocketContext};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let kept: Rc<RefCell<Option<&mut u32>>> = Rc::default();
    let context = SocketContext::<false, u32>::builder()
        .on_open(move |count, _, _, _| *kept.borrow_mut() = Some(count))
        .build(&event_loop, 0);
    drop(context);
}
