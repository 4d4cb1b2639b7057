//! The view of a timer that its closure gets is not the owner.

use std::time::Duration;

use usockets::{Loop, Timer, TimerRef};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let timer: Timer<Option<&'static TimerRef<_>>> = Timer::new(&event_loop, None).unwrap();
    let mut kept = Vec::new();
    timer.set(Duration::ZERO, None, move |timer, _| kept.push(timer)).unwrap();
}
