//! Timeouts of sockets, on a clock that the test moves.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use usockets::{CloseReason, Loop, UsError};

use super::Record;
use crate::SSL;
use crate::util::{
    Event, Random, accept_one, guard, new_loop, pump, recorded, settle, tcp_pair, test_clock_loop,
};

/// How late a timeout may be.
const GRANULARITY: Duration = Duration::from_nanos(1 << 22);

const DAY: Duration = Duration::from_secs(86_400);

/// Advances the clock until the event comes, in small steps, and says how long that took.
fn time_until(event_loop: &Loop, record: &Record<()>, event: &Event, step: Duration) -> Duration {
    let mut passed = Duration::ZERO;
    while !record.has(event) {
        assert!(passed < 100 * DAY, "it does not come");
        event_loop.advance_clock(step).expect("a test clock");
        passed += step;
        event_loop.turn(Some(Duration::ZERO)).expect("a turn");
    }
    passed
}

#[test]
fn never_early_and_hardly_late() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    let mut random = Random::new(9);
    for round in 0..300 {
        // From a few microseconds to minutes.
        let magnitude = 1_u64 << (10 + random.below(27));
        let after = Duration::from_nanos(1 + random.next() % magnitude);
        // Somewhere in a tick.
        event_loop.advance_clock(Duration::from_nanos(random.next() % (1 << 23)))?;
        event_loop.turn(Some(Duration::ZERO))?;
        record.take();
        let (event, arm) = if random.below(2) == 0 {
            (Event::Timeout, socket.set_timeout(after))
        } else {
            (Event::LongTimeout, socket.set_long_timeout(after))
        };
        arm?;
        event_loop.advance_clock(after - Duration::from_nanos(1))?;
        settle(&event_loop);
        assert_eq!(record.take(), [], "round {round}: {after:?} is early");
        event_loop.advance_clock(GRANULARITY + Duration::from_nanos(1))?;
        event_loop.turn(Some(Duration::ZERO))?;
        assert_eq!(record.take(), [event], "round {round}: {after:?} is late");
        event_loop.advance_clock(after + GRANULARITY)?;
        settle(&event_loop);
        assert_eq!(record.take(), [], "round {round}: {after:?} comes twice");
    }
    assert_eq!(event_loop.metrics().timeouts_fired, 300);
    Ok(())
}

#[test]
fn from_milliseconds_to_weeks() -> Result<(), UsError> {
    let _guard = guard();
    for after in [
        Duration::from_millis(1),
        Duration::from_secs(1),
        Duration::from_secs(60),
        Duration::from_secs(3600),
        DAY,
        30 * DAY,
        50 * DAY,
    ] {
        let event_loop = test_clock_loop();
        let record = Record::<()>::new();
        let context = recorded(&event_loop, &record);
        let (socket, _peer) = accept_one(&event_loop, &context, &record);
        socket.set_timeout(after)?;
        let step = (after / 1000).max(Duration::from_micros(100));
        let passed = time_until(&event_loop, &record, &Event::Timeout, step);
        assert!(passed >= after, "{after:?} came after {passed:?}");
        assert!(passed <= after + GRANULARITY + step, "{after:?} came after {passed:?}");
    }
    Ok(())
}

#[test]
fn too_long_is_an_error() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    for after in [50 * DAY + Duration::from_nanos(1), 1000 * DAY, Duration::MAX] {
        let error = socket.set_timeout(after).expect_err("beyond 50 days");
        assert!(matches!(error, UsError::InvalidOption { option: "timeout", .. }), "{error}");
        assert!(socket.set_long_timeout(after).is_err());
    }
    Ok(())
}

#[test]
fn arming_anew_moves_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    // Later, again and again, as with every message.
    socket.set_timeout(Duration::from_secs(10))?;
    for _ in 0..20 {
        event_loop.advance_clock(Duration::from_secs(9))?;
        settle(&event_loop);
        socket.set_timeout(Duration::from_secs(10))?;
    }
    assert_eq!(record.take(), [Event::Open]);
    // And earlier.
    socket.set_timeout(Duration::from_secs(3600))?;
    event_loop.turn(Some(Duration::ZERO))?;
    socket.set_timeout(Duration::from_secs(1))?;
    event_loop.advance_clock(Duration::from_secs(1) + GRANULARITY)?;
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Timeout]);
    event_loop.advance_clock(Duration::from_secs(7200))?;
    settle(&event_loop);
    assert_eq!(record.take(), []);
    Ok(())
}

#[test]
fn zero_disarms() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.set_timeout(Duration::ZERO)?;
    socket.set_timeout(Duration::from_secs(1))?;
    socket.set_long_timeout(Duration::from_secs(1))?;
    socket.set_timeout(Duration::ZERO)?;
    event_loop.advance_clock(Duration::from_secs(2))?;
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open, Event::LongTimeout], "one of them is independent");
    socket.set_long_timeout(Duration::from_secs(1))?;
    event_loop.advance_clock(Duration::from_secs(2))?;
    // Due, but disarmed before the turn.
    socket.set_long_timeout(Duration::ZERO)?;
    settle(&event_loop);
    assert_eq!(record.take(), []);
    Ok(())
}

#[test]
fn both_kinds_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    record.take();
    for (short, long) in [(1, 2), (2, 1), (1, 1)] {
        socket.set_timeout(Duration::from_secs(short))?;
        socket.set_long_timeout(Duration::from_secs(long))?;
        event_loop.advance_clock(Duration::from_secs(1) + GRANULARITY)?;
        settle(&event_loop);
        assert_eq!(record.has(&Event::Timeout), short == 1);
        assert_eq!(record.has(&Event::LongTimeout), long == 1);
        event_loop.advance_clock(Duration::from_secs(1))?;
        settle(&event_loop);
        assert_eq!(record.count(&Event::Timeout), 1);
        assert_eq!(record.count(&Event::LongTimeout), 1);
        record.take();
    }
    Ok(())
}

#[test]
fn arming_anew_from_the_callback() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_timeout(move |(), socket, ()| {
            log.push(Event::Timeout);
            socket.set_timeout(Duration::from_secs(1)).expect("it is open");
        })
        .build(&event_loop, ())?;
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.set_timeout(Duration::from_secs(1))?;
    for round in 1..=10 {
        event_loop.advance_clock(Duration::from_secs(1) + GRANULARITY)?;
        settle(&event_loop);
        assert_eq!(record.count(&Event::Timeout), round);
    }
    Ok(())
}

#[test]
fn closing_from_the_callback() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_timeout(move |(), socket, ()| {
            log.push(Event::Timeout);
            socket.close();
        })
        .build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.set_timeout(Duration::from_secs(1))?;
    socket.set_long_timeout(Duration::from_secs(1))?;
    event_loop.advance_clock(Duration::from_secs(2))?;
    pump(&event_loop, || record.ended());
    assert!(peer.read_to_end(&event_loop).is_empty());
    let events = record.take();
    // Both are due: the long one may come first, never after the close.
    assert_eq!(events.last(), Some(&Event::Close(CloseReason::Local)), "{events:?}");
    assert_eq!(events.iter().filter(|event| **event == Event::Timeout).count(), 1);
    Ok(())
}

#[test]
fn one_socket_closes_another_whose_time_has_come() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let sockets = Rc::new(RefCell::new(Vec::<usockets::Socket<SSL>>::new()));
    let (log, all) = (record.clone(), Rc::clone(&sockets));
    let context = record
        .builder()
        .on_timeout(move |(), _, ()| {
            log.push(Event::Timeout);
            all.borrow().iter().for_each(|socket| socket.close());
        })
        .build(&event_loop, ())?;
    let mut peers = Vec::new();
    for _ in 0..5 {
        let (socket, peer) = accept_one(&event_loop, &context, &record);
        socket.set_timeout(Duration::from_secs(1))?;
        sockets.borrow_mut().push(socket);
        peers.push(peer);
    }
    event_loop.advance_clock(Duration::from_secs(2))?;
    pump(&event_loop, || record.count(&Event::Close(CloseReason::Local)) == 5);
    assert_eq!(record.count(&Event::Timeout), 1);
    Ok(())
}

#[test]
fn many_sockets_each_at_its_time() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let mut random = Random::new(4);
    let mut due = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..200 {
        let (socket, peer) = accept_one(&event_loop, &context, &record);
        let after = Duration::from_millis(1 + random.next() % 60_000);
        socket.set_timeout(after)?;
        due.push(after);
        peers.push(peer);
    }
    let step = Duration::from_millis(100);
    let mut passed = Duration::ZERO;
    while passed < Duration::from_secs(61) {
        event_loop.advance_clock(step)?;
        passed += step;
        event_loop.turn(Some(Duration::ZERO))?;
        let fired = record.count(&Event::Timeout);
        let latest = due.iter().filter(|after| **after <= passed).count();
        let earliest = due.iter().filter(|after| **after + GRANULARITY <= passed).count();
        assert!((earliest..=latest).contains(&fired), "{fired} after {passed:?}");
    }
    assert_eq!(record.count(&Event::Timeout), 200);
    Ok(())
}

#[test]
fn a_closed_socket_has_no_timeouts() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.set_timeout(Duration::from_secs(1))?;
    socket.close();
    assert!(matches!(socket.set_timeout(Duration::from_secs(1)), Err(UsError::Closed)));
    event_loop.advance_clock(Duration::from_secs(5))?;
    settle(&event_loop);
    assert!(matches!(socket.set_long_timeout(Duration::from_secs(1)), Err(UsError::Stale)));
    assert_eq!(record.take(), [Event::Open, Event::Close(CloseReason::Local)]);
    let loop_gone = socket.clone();
    drop(event_loop);
    assert!(matches!(loop_gone.set_timeout(Duration::ZERO), Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn a_timeout_can_be_set_before_the_socket_opens() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (ours, _theirs) = tcp_pair();
    let socket = context.accept_fd(ours)?;
    socket.set_timeout(Duration::from_secs(1))?;
    pump(&event_loop, || record.opened() == 1);
    event_loop.advance_clock(Duration::from_secs(2))?;
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open, Event::Timeout]);
    Ok(())
}

#[test]
fn with_a_real_clock_the_loop_wakes_for_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    let after = Duration::from_millis(30);
    let start = std::time::Instant::now();
    socket.set_timeout(after)?;
    while !record.has(&Event::Timeout) {
        // Without limit: only the timeout can end the wait.
        event_loop.turn(None)?;
    }
    let elapsed = start.elapsed();
    // The time of the loop may be a little older than the call.
    assert!(elapsed + GRANULARITY >= after, "{elapsed:?}");
    Ok(())
}
