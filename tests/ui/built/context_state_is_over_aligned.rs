//! The engine aligns states to 16 bytes.

use usockets::{Loop, SocketContext};

#[repr(align(64))]
struct Wide;

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let _ = SocketContext::<false, Wide>::builder().build(&event_loop, Wide);
}
