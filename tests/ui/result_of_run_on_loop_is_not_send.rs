//! What comes back from the loop's thread must be allowed to come.

use usockets::{LoopHandle, LoopRef};

fn main() {
    let function = |handle: LoopHandle| -> LoopRef {
        handle.run_on_loop(|event_loop| event_loop.clone()).unwrap()
    };
    let _ = function;
}
