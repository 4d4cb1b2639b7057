//! Compiles: states of 16 bytes' alignment, and larger ones in a box.

use usockets::{Loop, SocketContext, Timer};

#[derive(Default)]
#[repr(align(16))]
struct Aligned([u8; 16]);

#[derive(Default)]
#[repr(align(64))]
struct Wide([u8; 32]);

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let context = SocketContext::<false, Aligned, Box<Wide>>::builder();
    let context = context.build(&event_loop, Aligned::default()).unwrap();
    let listener = context.listen("127.0.0.1:0").unwrap();
    let _ = context.connect(listener.local_addr().unwrap()).unwrap();
    let timer = Timer::new(&event_loop, Aligned::default()).unwrap();
    timer.with_state(|state| assert_eq!(std::ptr::from_mut(state).addr() % 16, 0)).unwrap();
}
