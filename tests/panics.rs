//! A panic in code of the program comes out of the call that runs the loop, once, and costs nothing else
//! (invariant I5). That it may happen anywhere is in the table of `tests/misuse`; what it leaves of connections
//! is in `streams/panics.rs`.

mod util;

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use usockets::{Loop, LoopRef, SocketContext, Timer, UsError};
use util::{Log, new_loop, panic_of};

/// Panics without printing.
fn quietly(message: &'static str) -> ! {
    resume_unwind(Box::new(message))
}

#[test]
fn payload_comes_out_unchanged_and_once() {
    let _guard = util::guard();
    let event_loop = new_loop();
    event_loop.defer(|_| resume_unwind(Box::new(vec![1, 2, 3]))).expect("it is open");

    let payload = catch_unwind(AssertUnwindSafe(|| event_loop.run())).expect_err("it panics");
    assert_eq!(payload.downcast_ref(), Some(&vec![1, 2, 3]));
    event_loop.run().expect("the panic is over");
}

#[test]
fn every_way_to_run_lets_the_panic_out() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let ways: [fn(&Loop); 3] = [
        |event_loop| event_loop.run().expect("no error"),
        |event_loop| event_loop.run_for(Duration::from_secs(1)).expect("no error"),
        |event_loop| {
            let _alive = event_loop.turn(None).expect("no error");
        },
    ];
    for way in ways {
        event_loop.defer(|_| quietly("in a job")).expect("it is open");
        assert_eq!(panic_of(|| way(&event_loop)), "in a job");
    }
    assert!(!event_loop.is_running());
}

#[test]
fn rest_of_a_batch_of_jobs_stays_for_the_next_run() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let (ran, handle) = (Log::<u32>::new(), event_loop.handle());
    for number in 0..6_u32 {
        let ran = ran.clone();
        event_loop
            .defer(move |_| if number % 2 == 0 { quietly("even") } else { ran.push(number) })
            .expect("it is open");
        handle
            .defer(move |_| {
                if number % 2 == 0 {
                    quietly("even")
                }
            })
            .expect("it is open");
    }
    let panics = (0..6).filter(|_| catch_unwind(AssertUnwindSafe(|| event_loop.run())).is_err());
    assert_eq!(panics.count(), 6);
    event_loop.run().expect("all jobs are done");
    assert_eq!(ran.take(), [1, 3, 5]);
}

#[test]
fn no_callback_runs_between_the_panic_and_the_end_of_the_run() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<&str>::new();
    let (pre, post) = (log.clone(), log.clone());
    event_loop.on_pre(move |_| pre.push("pre")).expect("it is open");
    event_loop.on_post(move |_| post.push("post")).expect("it is open");
    let (a, b) = (Timer::new(&event_loop, ()).expect("a"), Timer::new(&event_loop, ()).expect("b"));
    for timer in [&a, &b] {
        let log = log.clone();
        let set = timer.set(Duration::ZERO, None, move |_, ()| {
            log.push("timer");
            quietly("in a timer");
        });
        set.expect("it is open");
    }
    thread::yield_now();
    while log.count(&"timer") < 1 {
        let _panicked = catch_unwind(AssertUnwindSafe(|| event_loop.turn(None)));
    }
    let events = log.take();
    assert_eq!(events.last(), Some(&"timer"), "{events:?}");
    assert_eq!(panic_of(|| event_loop.turn(None)), "in a timer");
    assert_eq!(log.take(), ["pre", "timer"]);
    event_loop.turn(Some(Duration::ZERO)).expect("all is over");
    assert_eq!(log.take(), ["pre", "post"]);
}

#[test]
fn periodic_timer_goes_on_after_its_panic() {
    let _guard = util::guard();
    let event_loop = util::test_clock_loop();
    let timer = Timer::new(&event_loop, 0).expect("a timer");
    let period = Duration::from_millis(10);
    let set = timer.set(period, Some(period), |_, count| {
        *count += 1;
        if *count % 2 == 1 {
            quietly("odd");
        }
    });
    set.expect("it is open");
    for round in 1..=4 {
        event_loop.advance_clock(period).expect("a test clock");
        let turned = catch_unwind(AssertUnwindSafe(|| event_loop.turn(Some(Duration::ZERO))));
        assert_eq!(turned.is_err(), round % 2 == 1, "round {round}");
        assert_eq!(timer.with_state(|count| *count).expect("it is given back"), round);
        assert!(timer.is_armed());
    }
}

#[test]
fn closure_that_panics_gives_the_state_back() {
    let _guard = util::guard();
    let event_loop = Loop::from_state(1).expect("a loop");
    let timer = Timer::new(&event_loop, 1).expect("a timer");
    let context = SocketContext::<false, i32>::builder().build(&event_loop, 1).expect("a context");
    assert_eq!(panic_of(|| event_loop.with_state(|_| quietly("loop"))), "loop");
    assert_eq!(panic_of(|| timer.with_state(|_| quietly("timer"))), "timer");
    assert_eq!(panic_of(|| context.with_state(|_| quietly("context"))), "context");
    assert_eq!(event_loop.with_state(|number| *number).expect("it is not lent"), 1);
    assert_eq!(timer.with_state(|number| *number).expect("it is not lent"), 1);
    assert_eq!(context.with_state(|number| *number).expect("it is not lent"), 1);
    event_loop.run().expect("no frame is left open");
}

#[test]
fn run_on_loop_tells_the_other_thread() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let keep_alive = event_loop.keep_alive().expect("a guard");
    let handle = event_loop.handle();
    let caller = thread::spawn(move || handle.run_on_loop(|_| -> u8 { quietly("over there") }));
    assert_eq!(panic_of(|| event_loop.run()), "over there");
    assert!(matches!(caller.join(), Ok(Err(UsError::JobPanicked))));
    drop(keep_alive);
}

// -- Several panics ---------------------------------------------------------------------------

/// Panics when it is dropped.
struct Grenade(&'static str);

impl Drop for Grenade {
    fn drop(&mut self) {
        if !thread::panicking() {
            quietly(self.0);
        }
    }
}

#[test]
fn first_of_several_panics_wins() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = SocketContext::<false, Grenade>::builder()
        .build(&event_loop, Grenade("the second"))
        .expect("a context");
    event_loop
        .defer(move |_| {
            // The last handle: the state's destructor panics, and waits.
            drop(context);
            quietly("the third");
        })
        .expect("it is open");
    let first = Grenade("the first");
    event_loop.defer(move |_| drop(first)).expect("it is open");
    assert_eq!(panic_of(|| event_loop.run()), "the second");
    assert_eq!(panic_of(|| event_loop.run()), "the first");
    event_loop.run().expect("all are out");
}

/// A payload whose own destructor would panic. Without bytes, so that it is no loss of memory.
struct Booby;

static DROPPED: AtomicUsize = AtomicUsize::new(0);

impl Drop for Booby {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
        if !thread::panicking() {
            quietly("dropped a payload");
        }
    }
}

/// A state that panics with such a payload.
struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        resume_unwind(Box::new(Booby));
    }
}

#[test]
fn later_payloads_are_not_dropped() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let contexts: Vec<_> = (0..3)
        .map(|_| SocketContext::<false, Trap>::builder().build(&event_loop, Trap))
        .map(|context| context.expect("a context"))
        .collect();
    event_loop.defer(move |_| drop(contexts)).expect("it is open");

    let payload = catch_unwind(AssertUnwindSafe(|| event_loop.run())).expect_err("it panics");
    assert!(payload.is::<Booby>());
    assert_eq!(DROPPED.load(Ordering::SeqCst), 0, "no payload was dropped on the way");
    let _kept = ManuallyDrop::new(payload);
    event_loop.run().expect("all are out");
}

// -- Panics that go no further ----------------------------------------------------------------

#[test]
fn loop_inside_a_callback_of_another_one_passes_the_panic_on() {
    let _guard = util::guard();
    let (outer, inner) = (new_loop(), new_loop());
    inner.defer(|_| quietly("in the inner loop")).expect("it is open");
    let inner = Rc::new(inner);
    let runs = Rc::clone(&inner);
    outer.defer(move |_| runs.run().expect("another loop can be run")).expect("it is open");
    assert_eq!(panic_of(|| outer.run()), "in the inner loop");
    inner.run().expect("it is over");
    outer.run().expect("it is over");
}

#[test]
fn panic_that_the_program_catches_itself_is_none() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let job = |event_loop: &LoopRef| {
        let caught = catch_unwind(AssertUnwindSafe(|| quietly("caught")));
        assert!(caught.is_err());
        event_loop.stop();
    };
    event_loop.defer(job).expect("it is open");
    event_loop.run().expect("the panic never left the job");
}
