//! The state of a socket is lent for one callback.

use usockets::{Loop, SocketContext};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let context = SocketContext::<false, Option<&'static mut u32>, u32>::builder()
        .on_open(|kept, _, session, _| *kept = Some(session))
        .build(&event_loop, None);
    drop(context);
}
