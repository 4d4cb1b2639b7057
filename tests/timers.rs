//! Timers: when they expire, how often, and what may be done from inside.

mod util;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use usockets::{Timer, UsError};
use util::{
    Drops, Log, Random, assert_nothing_live, drain, guard, new_loop, pump, settle, test_clock_loop,
};

const MS: Duration = Duration::from_millis(1);

#[test]
fn one_expiry_at_its_time_and_no_more() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let timer = Timer::new(&event_loop, 0)?;
    assert!(!timer.is_armed());
    timer.set(10 * MS, None, |timer, count| {
        assert!(!timer.is_armed());
        *count += 1;
    })?;
    assert!(timer.is_armed());
    settle(&event_loop);
    event_loop.advance_clock(10 * MS - Duration::from_nanos(1))?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 0, "it is early");
    event_loop.advance_clock(Duration::from_nanos(1))?;
    assert_eq!(timer.with_state(|count| *count)?, 0, "it expired outside of a turn");
    event_loop.turn(Some(Duration::ZERO))?;
    assert_eq!(timer.with_state(|count| *count)?, 1, "it is late");
    assert!(!timer.is_armed());
    event_loop.advance_clock(1000 * MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 1);
    assert_eq!(event_loop.metrics().timers_fired, 1);
    Ok(())
}

#[test]
fn repeated_expiries_do_not_drift() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let start = event_loop.now();
    let timer = Timer::new(&event_loop, Vec::new())?;
    timer.set(10 * MS, Some(10 * MS), |timer, times| {
        assert!(timer.is_armed());
        times.push(timer.event_loop().now());
    })?;
    // The loop looks at odd times: 3, 6, 9, 12, ... ms.
    for _ in 0..100 {
        event_loop.advance_clock(3 * MS)?;
        event_loop.turn(Some(Duration::ZERO))?;
    }
    let times = timer.with_state(std::mem::take)?;
    assert_eq!(times.len(), 30);
    for (number, time) in (1_u32..).zip(times) {
        let due = number * 10 * MS;
        let late = (time - start).checked_sub(due).expect("it is not early");
        assert!(late < 3 * MS, "expiry {number} is {late:?} late");
    }
    Ok(())
}

#[test]
fn missed_expiries_come_as_one() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let timer = Timer::new(&event_loop, 0)?;
    timer.set(10 * MS, Some(10 * MS), |_, count| *count += 1)?;
    event_loop.advance_clock(57 * MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 1);
    // The rhythm is as before.
    event_loop.advance_clock(2 * MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 1);
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 2);
    Ok(())
}

#[test]
fn first_and_later_times_differ() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let start = event_loop.now();
    let timer = Timer::new(&event_loop, Vec::new())?;
    timer.set(MS, Some(100 * MS), move |timer, times| {
        times.push(timer.event_loop().now() - start);
    })?;
    for _ in 0..300 {
        event_loop.advance_clock(MS)?;
        event_loop.turn(Some(Duration::ZERO))?;
    }
    assert_eq!(timer.with_state(std::mem::take)?, [MS, 101 * MS, 201 * MS]);
    Ok(())
}

#[test]
fn setting_anew_replaces_times_and_closure() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let drops = Drops::new();
    let token = drops.token();
    let timer = Timer::new(&event_loop, Vec::new())?;
    timer.set(10 * MS, Some(10 * MS), move |_, log| {
        token.hold();
        log.push("old");
    })?;
    timer.set(20 * MS, None, |_, log| log.push("new"))?;
    drops.assert_all_dropped();
    event_loop.advance_clock(15 * MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|log| log.len())?, 0);
    event_loop.advance_clock(100 * MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(std::mem::take)?, ["new"]);

    // The time counts from the call on.
    timer.rearm(5 * MS, None)?;
    event_loop.advance_clock(4 * MS)?;
    timer.rearm(5 * MS, None)?;
    event_loop.advance_clock(4 * MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|log| log.len())?, 0);
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(std::mem::take)?, ["new"]);
    Ok(())
}

#[test]
fn a_cancelled_timer_is_silent_and_can_be_armed_again() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let timer = Timer::new(&event_loop, 0)?;
    timer.cancel();
    timer.set(MS, Some(MS), |_, count| *count += 1)?;
    timer.cancel();
    assert!(!timer.is_armed());
    event_loop.advance_clock(10 * MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 0);
    // The closure is kept.
    timer.rearm(MS, None)?;
    event_loop.advance_clock(MS)?;
    // Due, but cancelled before the turn.
    timer.cancel();
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 0);
    timer.rearm(MS, None)?;
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 1);
    Ok(())
}

#[test]
fn cancelling_inside_ends_the_repetition() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let timer = Timer::new(&event_loop, 0)?;
    timer.set(MS, Some(MS), |timer, count| {
        *count += 1;
        if *count == 3 {
            timer.cancel();
            assert!(!timer.is_armed());
        }
    })?;
    for _ in 0..10 {
        event_loop.advance_clock(MS)?;
        event_loop.turn(Some(Duration::ZERO))?;
    }
    assert_eq!(timer.with_state(|count| *count)?, 3);
    assert!(!event_loop.is_alive());
    Ok(())
}

#[test]
fn setting_inside_takes_over_when_the_closure_has_returned() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let drops = Drops::new();
    let (token, witness) = (drops.token(), drops.clone());
    let timer = Timer::new(&event_loop, Vec::new())?;
    timer.set(MS, Some(MS), move |timer, log| {
        log.push("first");
        timer.set(2 * MS, None, |_, log| log.push("second")).expect("it is there");
        // What runs is not dropped under its feet.
        token.hold();
        assert_eq!(witness.live(), 1);
        assert!(timer.is_armed());
    })?;
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    drops.assert_all_dropped();
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|log| log.len())?, 1);
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(std::mem::take)?, ["first", "second"]);
    Ok(())
}

#[test]
fn rearming_inside_keeps_the_closure() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let timer = Timer::new(&event_loop, Vec::new())?;
    let start = event_loop.now();
    timer.set(MS, None, move |timer, times: &mut Vec<Duration>| {
        times.push(timer.event_loop().now() - start);
        let next = 1 << times.len();
        timer.rearm(next * MS, None).expect("it is there");
    })?;
    for _ in 0..20 {
        event_loop.advance_clock(MS)?;
        event_loop.turn(Some(Duration::ZERO))?;
    }
    assert_eq!(timer.with_state(std::mem::take)?, [MS, 3 * MS, 7 * MS, 15 * MS]);
    Ok(())
}

#[test]
fn a_timer_may_be_dropped_in_its_own_closure() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let (states, closures) = (Drops::new(), Drops::new());
    let slot = Rc::new(RefCell::new(Some(Timer::new(&event_loop, states.token())?)));
    let (own, token) = (Rc::clone(&slot), closures.token());
    let (live_states, live_closures) = (states.clone(), closures.clone());
    slot.borrow().as_ref().expect("it is there").set(MS, Some(MS), move |timer, state| {
        drop(own.take());
        assert!(!timer.is_armed());
        assert!(matches!(timer.set(MS, None, |_, _| ()), Err(UsError::Stale)));
        assert!(matches!(timer.rearm(MS, None), Err(UsError::Stale)));
        timer.cancel();
        // Both are dropped later.
        state.hold();
        token.hold();
        assert_eq!((live_states.live(), live_closures.live()), (1, 1));
    })?;
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert!(slot.borrow().is_none());
    states.assert_all_dropped();
    closures.assert_all_dropped();
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn a_timer_stops_another_that_is_due() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let log = Log::<&str>::new();
    let timers = Rc::new(RefCell::new(Vec::new()));
    for name in ["first", "second", "third"] {
        let timer = Timer::new(&event_loop, ())?;
        let (log, others) = (log.clone(), Rc::clone(&timers));
        timer.set(MS, None, move |_, ()| {
            log.push(name);
            // One is cancelled, the other one dropped.
            let mut others: Vec<Timer> = others.take();
            if let Some(other) = others.pop() {
                other.cancel();
            }
        })?;
        timers.borrow_mut().push(timer);
    }
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert_eq!(log.take(), ["first"]);
    Ok(())
}

#[test]
fn expiries_come_in_the_order_of_their_times() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let log = Log::<Duration>::new();
    let mut random = Random::new(5);
    let timers: Vec<_> = (0..10_000)
        .map(|_| {
            let after = Duration::from_nanos(random.next() % 100_000_000_000);
            let timer = Timer::new(&event_loop, ()).expect("a timer");
            let log = log.clone();
            timer.set(after, None, move |_, ()| log.push(after)).expect("a time");
            (after, timer)
        })
        .collect();
    let start = event_loop.now();
    let mut passed = Duration::ZERO;
    while passed < Duration::from_secs(100) {
        let step = Duration::from_millis(1 + random.next() % 500);
        event_loop.advance_clock(step)?;
        passed += step;
        settle(&event_loop);
        let due = timers.iter().filter(|(after, _)| *after <= passed).count();
        assert_eq!(log.len(), due, "after {passed:?}");
    }
    assert_eq!(event_loop.now() - start, passed);
    let order = log.take();
    assert!(order.is_sorted());
    assert_eq!(order.len(), 10_000);
    Ok(())
}

#[test]
fn all_that_is_due_at_once_comes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let count = Rc::new(Cell::new(0));
    let timers: Vec<_> = (0..20_000)
        .map(|_| {
            let timer = Timer::new(&event_loop, ()).expect("a timer");
            let count = Rc::clone(&count);
            timer.set(MS, None, move |_, ()| count.set(count.get() + 1)).expect("a time");
            timer
        })
        .collect();
    event_loop.advance_clock(MS)?;
    // More than one turn's worth, which does not make the loop sleep in between.
    let start = Instant::now();
    pump(&event_loop, || count.get() == timers.len());
    assert!(start.elapsed() < util::scaled(Duration::from_secs(5)));
    assert_eq!(event_loop.metrics().live_timers, 20_000);
    drop(timers);
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn with_a_real_clock_none_is_early() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let mut random = Random::new(11);
    let fired = Rc::new(Cell::new(0));
    let timers: Vec<_> = (0..200)
        .map(|_| {
            let after = Duration::from_micros(random.next() % 100_000);
            let timer = Timer::new(&event_loop, ()).expect("a timer");
            let (start, fired) = (Instant::now(), Rc::clone(&fired));
            timer
                .set(after, None, move |_, ()| {
                    assert!(start.elapsed() >= after, "{:?} of {after:?}", start.elapsed());
                    fired.set(fired.get() + 1);
                })
                .expect("a time");
            timer
        })
        .collect();
    event_loop.run()?;
    assert_eq!(fired.get(), timers.len());
    Ok(())
}

#[test]
fn with_a_real_clock_a_time_counts_from_the_call() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let timer = Timer::new(&event_loop, None)?;
    let outer = Timer::new(&event_loop, ())?;
    let inner = Rc::new(timer);
    let armed = Rc::clone(&inner);
    outer.set(MS, None, move |_, ()| {
        // The loop's time is old by now.
        let start = Instant::now();
        while start.elapsed() < 20 * MS {}
        let start = Instant::now();
        armed
            .set(10 * MS, None, move |_, elapsed| *elapsed = Some(start.elapsed()))
            .expect("a time");
    })?;
    event_loop.run()?;
    let elapsed = inner.with_state(|elapsed| *elapsed)?.expect("it expired");
    assert!(elapsed >= 10 * MS, "{elapsed:?}");
    Ok(())
}

#[test]
fn no_time_at_all_is_the_next_turn() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let timer = Timer::new(&event_loop, 0)?;
    timer.set(Duration::ZERO, None, |_, count| *count += 1)?;
    assert_eq!(timer.with_state(|count| *count)?, 0);
    assert!(timer.is_armed());
    event_loop.run()?;
    assert_eq!(timer.with_state(|count| *count)?, 1);
    // Inside its own closure it is not run again in the same turn, for ever.
    timer.set(Duration::ZERO, None, |timer, count| {
        *count += 1;
        timer.rearm(Duration::ZERO, None).expect("it is there");
    })?;
    for _ in 0..20 {
        event_loop.turn(Some(10 * MS))?;
    }
    let count = timer.with_state(|count| *count)?;
    assert!((5..=21).contains(&count), "{count} expiries in 20 turns");
    Ok(())
}

#[test]
fn times_that_make_no_sense() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let timer = Timer::new(&event_loop, ())?;
    let error = timer.rearm(MS, None).expect_err("there is no closure");
    assert!(matches!(error, UsError::InvalidOption { .. }), "{error}");
    let error = timer.set(MS, Some(Duration::ZERO), |_, ()| ()).expect_err("without pause");
    assert!(matches!(error, UsError::InvalidOption { option: "every", .. }), "{error}");
    assert!(!timer.is_armed());
    // For ever, or longer.
    timer.set(Duration::MAX, Some(Duration::MAX), |_, ()| panic!("not in our time"))?;
    assert!(timer.is_armed());
    for _ in 0..10 {
        event_loop.advance_clock(Duration::from_secs(100 * 365 * 86_400))?;
        settle(&event_loop);
        if event_loop.now() > Duration::from_secs(400 * 365 * 86_400) {
            break;
        }
    }
    Ok(())
}

#[test]
fn a_timer_far_away_is_not_forgotten() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let day = Duration::from_secs(86_400);
    let timer = Timer::new(&event_loop, 0)?;
    timer.set(400 * day, None, |_, count| *count += 1)?;
    for _ in 0..399 {
        event_loop.advance_clock(day)?;
        event_loop.turn(Some(Duration::ZERO))?;
    }
    assert_eq!(timer.with_state(|count| *count)?, 0);
    event_loop.advance_clock(day)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|count| *count)?, 1);
    Ok(())
}

#[test]
fn an_armed_timer_keeps_the_loop_unless_told_not_to() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let timer = Timer::new(&event_loop, 0)?;
    assert!(!event_loop.is_alive());
    event_loop.run()?;
    timer.set(MS, Some(MS), |timer, count| {
        *count += 1;
        if *count == 3 {
            timer.cancel();
        }
    })?;
    assert!(event_loop.is_alive());
    event_loop.run()?;
    assert_eq!(timer.with_state(|count| *count)?, 3);

    let unref = Timer::new_unref(&event_loop, 0)?;
    unref.set(MS, Some(MS), |_, count| *count += 1)?;
    assert!(!event_loop.is_alive());
    event_loop.run()?;
    // It works while something else keeps the loop.
    timer.set(20 * MS, None, |_, _| ())?;
    event_loop.run()?;
    assert!(unref.with_state(|count| *count)? > 1);
    Ok(())
}

#[test]
fn the_state_is_lent_to_the_closure() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let timer = Timer::new(&event_loop, String::from("a"))?;
    timer.set(MS, None, |timer, text| {
        assert!(matches!(timer.with_state(|_| ()), Err(UsError::StateInUse)));
        text.push('b');
    })?;
    timer.with_state(|_| {
        assert!(matches!(timer.with_state(|_| ()), Err(UsError::StateInUse)));
    })?;
    event_loop.advance_clock(MS)?;
    settle(&event_loop);
    assert_eq!(timer.with_state(|text| text.clone())?, "ab");
    assert_eq!(timer.event_loop(), *event_loop);
    assert!(!format!("{timer:?}").is_empty());
    Ok(())
}

#[test]
fn the_loop_takes_its_timers_along() -> Result<(), UsError> {
    let _guard = guard();
    let (states, closures) = (Drops::new(), Drops::new());
    let event_loop = new_loop();
    let loop_ref = event_loop.clone();
    let timer = Timer::new(&event_loop, states.token())?;
    let token = closures.token();
    timer.set(MS, None, move |_, _| token.hold())?;
    drop(event_loop);
    states.assert_all_dropped();
    closures.assert_all_dropped();
    assert!(!timer.is_armed());
    timer.cancel();
    assert!(matches!(timer.set(MS, None, |_, _| ()), Err(UsError::LoopClosed)));
    assert!(matches!(timer.rearm(MS, None), Err(UsError::LoopClosed)));
    assert!(matches!(timer.with_state(|_| ()), Err(UsError::LoopClosed)));
    assert!(matches!(Timer::new(&loop_ref, ()), Err(UsError::LoopClosed)));
    assert!(matches!(Timer::new_unref(&loop_ref, ()), Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn timers_come_and_go() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let drops = Drops::new();
    let mut random = Random::new(3);
    let mut timers = Vec::new();
    for _ in 0..5000 {
        match random.below(4) {
            0 if !timers.is_empty() => {
                drop(timers.swap_remove(random.below(timers.len())));
            }
            1 if !timers.is_empty() => {
                let timer: &Timer<util::Token> = &timers[random.below(timers.len())];
                timer.rearm(MS * u32::try_from(random.below(50)).expect("small"), None)?;
            }
            2 => {
                event_loop.advance_clock(MS)?;
                event_loop.turn(Some(Duration::ZERO))?;
            }
            _ => {
                let timer = Timer::new(&event_loop, drops.token())?;
                let token = drops.token();
                timer.set(5 * MS, Some(7 * MS), move |_, state| {
                    token.hold();
                    state.hold();
                })?;
                timers.push(timer);
            }
        }
    }
    timers.clear();
    drops.assert_all_dropped();
    drain(&event_loop);
    assert_nothing_live(&event_loop);
    Ok(())
}
