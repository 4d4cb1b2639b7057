//! A job for another thread's loop must be allowed to go there.

use std::cell::Cell;
use std::rc::Rc;

use usockets::LoopHandle;

fn main() {
    let function = |handle: LoopHandle| {
        let count = Rc::new(Cell::new(0));
        let _ = handle.defer(move |_| count.set(count.get() + 1));
    };
    let _ = function;
}
