//! The engine aligns states to 16 bytes.

use usockets::{Loop, Timer};

#[repr(align(64))]
struct Wide;

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let _ = Timer::new(&event_loop, Wide);
}
