//! Closures that the loop keeps own what they use.

use std::time::Duration;

use usockets::{Interest, Loop, Poll, Timer};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let mut count = 0;
    event_loop.on_pre(|_| count += 1).unwrap();

    let mut count = 0;
    let _ = event_loop.on_signal(10, |_, _| count += 1);

    let text = String::new();
    let _ = event_loop.defer(|_| println!("{text}"));

    let text = String::new();
    let _ = event_loop.handle().defer(|_| println!("{text}"));

    let mut count = 0;
    let timer = Timer::new(&event_loop, ()).unwrap();
    timer.set(Duration::ZERO, None, |_, ()| count += 1).unwrap();

    let mut count = 0;
    let source = std::io::stdin();
    let _ = Poll::new(&event_loop, source, Interest::READABLE, (), |_, (), _| count += 1);
}
