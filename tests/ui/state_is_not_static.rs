//! States live as long as their loop, which may be longer than any stack frame.

use usockets::{Loop, Timer};

fn main() {
    let text = String::new();
    let event_loop = Loop::from_state(&text).unwrap();
    let timer = Timer::new(&event_loop, &text).unwrap();
    drop(timer);
}
