//! Timers: once, again and again, armed anew from inside, and cancelled.
//!
//! ```text
//! cargo run --example timers
//! ```
//!
//! Prints a line for each expiry with the time since the start, and ends when no timer is armed any
//! more, which is after a third of a second.

use std::time::{Duration, Instant};

use usockets::{Loop, Timer, UsError};

fn main() -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;
    let start = Instant::now();
    let say = move |text: &str| println!("{:4} ms  {text}", start.elapsed().as_millis());

    // Again and again, until it cancels itself. What it counts is its state.
    let ticker = Timer::new(&event_loop, 0)?;
    ticker.set(ms(50), Some(ms(50)), move |timer, ticks| {
        *ticks += 1;
        say(&format!("tick {ticks}"));
        if *ticks == 6 {
            timer.cancel();
        }
    })?;

    // Armed anew from inside, each time for twice as long: what a client does that tries again.
    let retry = Timer::new(&event_loop, ms(10))?;
    retry.set(ms(10), None, move |timer, delay| {
        *delay *= 2;
        if *delay > ms(300) {
            say("gives up");
            return;
        }
        say(&format!("tries again in {} ms", delay.as_millis()));
        timer.rearm(*delay, None).expect("the timer has a closure");
    })?;

    // Never expires: the next one cancels it in time.
    let alarm = Timer::new(&event_loop, ())?;
    alarm.set(ms(200), None, move |_timer, ()| say("the alarm rings, though it should not"))?;

    // Once. It owns the alarm, and may drop it as well.
    let once = Timer::new(&event_loop, Some(alarm))?;
    once.set(ms(125), None, move |_timer, alarm| {
        say("cancels the alarm");
        *alarm = None;
    })?;

    // Does not keep the loop running, and so never expires either.
    let unref = Timer::new_unref(&event_loop, ())?;
    unref.set(Duration::from_secs(60), None, move |_timer, ()| say("a minute has passed"))?;

    event_loop.run()?;

    let ticks = ticker.with_state(|ticks| *ticks)?;
    say(&format!("nothing is armed any more, after {ticks} ticks"));
    Ok(())
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
