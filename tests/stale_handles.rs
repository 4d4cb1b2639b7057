//! Views of timers and polls that are gone (invariant I3). Those of contexts and sockets are in
//! `streams/stale_handles.rs`.

mod util;

use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use usockets::{Poll, Timer, UsError};
use util::{Log, drain, new_loop, unix_pair};

#[test]
fn view_of_a_timer_that_was_dropped_is_stale() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let owner = Rc::new(std::cell::RefCell::new(None));
    let timer = Timer::new(&event_loop, false).expect("a timer");
    let inside = Rc::clone(&owner);
    let log = Log::<&str>::new();
    let seen = log.clone();
    timer
        .set(Duration::ZERO, Some(Duration::from_millis(1)), move |timer, _| {
            let dropped: Option<Timer<bool>> = inside.take();
            drop(dropped);
            assert!(!timer.is_armed());
            assert!(matches!(timer.rearm(Duration::ZERO, None), Err(UsError::Stale)));
            let set = timer.set(Duration::ZERO, None, |_, _| unreachable!("it was dropped"));
            assert!(matches!(set, Err(UsError::Stale)));
            timer.cancel();
            seen.push("fired");
        })
        .expect("it is open");
    owner.replace(Some(timer));
    drain(&event_loop);
    assert_eq!(log.take(), ["fired"]);
    assert_eq!(event_loop.metrics().live_timers, 0);
}

#[test]
fn poll_that_was_dropped_gets_no_event_of_the_same_batch() {
    let _guard = util::guard();
    let event_loop = new_loop();
    type Polls = Vec<Poll<std::os::unix::net::UnixStream>>;
    let polls: Rc<std::cell::RefCell<Polls>> = Rc::default();
    let log = Log::<&str>::new();
    for _ in 0..20 {
        let (ours, mut theirs) = unix_pair();
        theirs.write_all(b"x").expect("there is room");
        let (all, log) = (Rc::clone(&polls), log.clone());
        let poll =
            Poll::new(&event_loop, ours, usockets::Interest::READABLE, (), move |_, (), _| {
                log.push("ready");
                let dropped = all.take();
                drop(dropped);
            });
        polls.borrow_mut().push(poll.expect("a poll"));
    }
    drain(&event_loop);
    assert_eq!(log.len(), 1, "the others were dropped in time");
    assert_eq!(event_loop.metrics().live_polls, 0);
}
