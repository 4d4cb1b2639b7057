//! Threads that hand jobs to the loop, and ask it for answers.
//!
//! ```text
//! cargo run --example defer_from_threads
//! ```
//!
//! Four threads add numbers to a sum that belongs to the loop and that no lock guards: only jobs on
//! the loop's thread touch it. Each thread then asks for the sum as it is. When the last one is
//! done nothing keeps the loop running, and the total is printed: 2002000. A job that comes after
//! the end of the loop is handed back.

use std::thread;

use usockets::{KeepAlive, Loop, LoopHandle, LoopRef, UsError};

const THREADS: u64 = 4;
const NUMBERS: u64 = 1000;

/// The state of the loop.
struct Sum {
    value: u64,
    /// One for each thread that is not done. Without them the loop would have no reason to run.
    guards: Vec<KeepAlive>,
}

fn main() -> Result<(), UsError> {
    let event_loop = Loop::from_state(Sum { value: 0, guards: Vec::new() })?;
    for _ in 0..THREADS {
        let guard = event_loop.keep_alive()?;
        event_loop.with_state(|sum| sum.guards.push(guard))?;
    }
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let handle = event_loop.handle(); // the one part of a loop that other threads may have
            thread::spawn(move || work(number, &handle))
        })
        .collect();

    event_loop.run()?;

    for thread in threads {
        thread.join().expect("no thread panics")?;
    }
    println!("the sum is {}", event_loop.with_state(|sum| sum.value)?);

    let handle = event_loop.handle();
    drop(event_loop);
    let text = String::from("nothing is lost");
    let error = handle.defer(move |_event_loop| println!("{text}")).expect_err("the loop is gone");
    println!("a late job comes back: {error}");
    let _job = error.into_job(); // with everything that it holds
    Ok(())
}

fn work(number: u64, handle: &LoopHandle) -> Result<(), UsError> {
    // Does not wait. Jobs of one thread run in their order, each exactly once.
    for value in 1..=NUMBERS {
        handle.defer(move |event_loop| with_sum(event_loop, |sum| sum.value += value))?;
    }
    // Waits for the answer, which comes after the jobs above.
    let value = handle.run_on_loop(|event_loop| with_sum(event_loop, |sum| sum.value))?;
    println!("thread {number} sees a sum of {value}");

    handle.defer(|event_loop| with_sum(event_loop, |sum| drop(sum.guards.pop())))?;
    Ok(())
}

fn with_sum<R>(event_loop: &LoopRef, f: impl FnOnce(&mut Sum) -> R) -> R {
    event_loop.with_state(f).expect("it is a `Sum`, and jobs run one after the other")
}
