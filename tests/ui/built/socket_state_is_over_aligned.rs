//! The engine aligns states to 16 bytes.

use usockets::{Loop, SocketContext};

#[derive(Default)]
#[repr(align(32))]
struct Wide([u8; 32]);

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let context = SocketContext::<false, (), Wide>::builder().build(&event_loop, ()).unwrap();
    let _ = context.listen("127.0.0.1:0");
}
