//! A loop has one owner.

use usockets::Loop;

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let second: Loop = event_loop.clone();
    drop(second);
}
