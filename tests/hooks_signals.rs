//! What a loop calls in every iteration, when it is woken, and when the process gets a signal.

#![cfg(unix)]

mod util;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use signal_hook::low_level::raise;
use usockets::{Timer, UsError};
use util::{
    Descriptors, Drops, Event, Log, Record, accept_one, alone, assert_nothing_live, guard,
    new_loop, panic_of, pump, recorded, settle, test_clock_loop,
};

const SIGHUP: i32 = 1;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGWINCH: i32 = 28;
const SIGKILL: i32 = 9;

// -- Hooks ------------------------------------------------------------------------------------

#[test]
fn the_order_of_an_iteration() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let log = Log::<&str>::new();
    let entry = |name: &'static str| {
        let log = log.clone();
        move || log.push(name)
    };
    let record = Record::<()>::new();
    let (data, close, timeout) = (entry("data"), entry("close"), entry("timeout"));
    let context = record
        .builder()
        .on_data(move |(), _, (), _| data())
        .on_close(move |(), _, (), _| close())
        .on_timeout(move |(), _, ()| timeout())
        .build(&event_loop, ())?;
    let (reading, mut peer) = accept_one(&event_loop, &context, &record);
    let (closing, _other) = accept_one(&event_loop, &context, &record);
    let (pre, post, job, wakeup) = (entry("pre"), entry("post"), entry("job"), entry("wakeup"));
    event_loop.on_pre(move |_| pre())?;
    event_loop.on_post(move |_| post())?;
    event_loop.on_wakeup(move |_| wakeup())?;
    let timer = Timer::new(&event_loop, ())?;
    let fired = entry("timer");
    timer.set(Duration::from_secs(1), None, move |_, ()| fired())?;
    reading.set_timeout(Duration::from_secs(1))?;

    // All at once.
    peer.write(&event_loop, b"");
    std::io::Write::write_all(&mut peer.stream(), b"x").expect("there is room");
    log.take();
    event_loop.advance_clock(Duration::from_secs(2))?;
    closing.close();
    event_loop.defer(move |_| job())?;
    event_loop.handle().wake();
    event_loop.turn(Some(Duration::from_secs(5)))?;
    let order = log.take();
    let position = |name: &str| {
        let found = order.iter().position(|one| *one == name);
        found.unwrap_or_else(|| panic!("no {name} in {order:?}"))
    };
    assert_eq!(order.first(), Some(&"pre"), "{order:?}");
    assert_eq!(order.last(), Some(&"post"), "{order:?}");
    assert!(position("job") < position("data"), "{order:?}");
    assert!(position("wakeup") < position("data"), "{order:?}");
    assert!(position("data") < position("timer"), "{order:?}");
    assert!(position("data") < position("timeout"), "{order:?}");
    assert!(position("timer") < position("close"), "{order:?}");
    assert!(position("timeout") < position("close"), "{order:?}");
    assert_eq!(order.len(), 8, "{order:?}");
    Ok(())
}

#[test]
fn hooks_run_once_in_every_iteration() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (pre, post) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (before, after) = (Rc::clone(&pre), Rc::clone(&post));
    event_loop.on_pre(move |event_loop| {
        assert!(event_loop.is_running());
        before.set(before.get() + 1);
    })?;
    let counted = Rc::clone(&pre);
    event_loop.on_post(move |_| {
        after.set(after.get() + 1);
        assert_eq!(after.get(), counted.get());
    })?;
    for _ in 0..10 {
        event_loop.turn(Some(Duration::ZERO))?;
    }
    assert_eq!((pre.get(), post.get()), (10, 10));
    assert!(!event_loop.is_alive(), "a hook is no reason to live");
    event_loop.run()?;
    assert_eq!(pre.get(), 10);
    Ok(())
}

#[test]
fn a_hook_is_replaced_and_removed() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let log = Log::<&str>::new();
    let (token, first) = (drops.token(), log.clone());
    event_loop.on_pre(move |_| {
        token.hold();
        first.push("first");
    })?;
    event_loop.turn(Some(Duration::ZERO))?;
    let (token, second) = (drops.token(), log.clone());
    event_loop.on_pre(move |_| {
        token.hold();
        second.push("second");
    })?;
    assert_eq!(drops.live(), 1);
    event_loop.turn(Some(Duration::ZERO))?;
    event_loop.clear_hooks();
    drops.assert_all_dropped();
    event_loop.turn(Some(Duration::ZERO))?;
    assert_eq!(log.take(), ["first", "second"]);
    Ok(())
}

#[test]
fn a_hook_replaces_and_removes_itself() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let log = Log::<&str>::new();
    let (token, witness, events) = (drops.token(), drops.clone(), log.clone());
    event_loop.on_post(move |event_loop| {
        events.push("old");
        let events = events.clone();
        event_loop.on_post(move |_| events.push("new")).expect("it is there");
        // What runs is not dropped under its feet.
        token.hold();
        assert_eq!(witness.live(), 1);
    })?;
    event_loop.turn(Some(Duration::ZERO))?;
    drops.assert_all_dropped();
    event_loop.turn(Some(Duration::ZERO))?;
    assert_eq!(log.take(), ["old", "new"]);

    let (token, events) = (drops.token(), log.clone());
    event_loop.on_pre(move |event_loop| {
        event_loop.clear_hooks();
        token.hold();
        events.push("last");
    })?;
    settle(&event_loop);
    assert_eq!(log.take(), ["last"]);
    drops.assert_all_dropped();
    Ok(())
}

#[test]
fn a_hook_that_panics_stays() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let count = Rc::new(Cell::new(0));
    let calls = Rc::clone(&count);
    event_loop.on_pre(move |_| {
        calls.set(calls.get() + 1);
        assert_ne!(calls.get(), 1, "by design");
    })?;
    assert!(panic_of(|| event_loop.turn(Some(Duration::ZERO))).contains("by design"));
    event_loop.turn(Some(Duration::ZERO))?;
    assert_eq!(count.get(), 2);
    Ok(())
}

#[test]
fn the_loop_takes_its_hooks_along() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let (one, two, three) = (drops.token(), drops.token(), drops.token());
    event_loop.on_pre(move |_| one.hold())?;
    event_loop.on_post(move |_| two.hold())?;
    event_loop.on_wakeup(move |_| three.hold())?;
    drop(event_loop);
    drops.assert_all_dropped();
    Ok(())
}

#[test]
fn the_wakeup_hook_is_for_wakes_only_and_they_merge() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let _keep_alive = event_loop.keep_alive()?;
    let count = Rc::new(Cell::new(0));
    let calls = Rc::clone(&count);
    event_loop.on_wakeup(move |event_loop| {
        calls.set(calls.get() + 1);
        event_loop.stop();
    })?;
    let handle = event_loop.handle();
    // Jobs wake the loop, but not the hook.
    let sender = handle.clone();
    thread::spawn(move || sender.run_on_loop(|event_loop| event_loop.stop()).expect("it is there"));
    event_loop.run()?;
    settle(&event_loop);
    assert_eq!(count.get(), 0);
    // Several wakes before the loop looks are one.
    (0..100).for_each(|_| handle.wake());
    event_loop.run()?;
    settle(&event_loop);
    assert_eq!(count.get(), 1);
    // Each wake of a loop that sleeps is answered.
    for round in 2..20 {
        let waker = handle.clone();
        let other = thread::spawn(move || waker.wake());
        event_loop.run()?;
        assert_eq!(count.get(), round);
        other.join().expect("no panic");
    }
    Ok(())
}

#[test]
fn hooks_may_close_and_write() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let sockets = Rc::new(RefCell::new(Some(socket)));
    let slot = Rc::clone(&sockets);
    event_loop.on_pre(move |_| {
        if let Some(socket) = slot.take() {
            assert_eq!(socket.write(b"from a hook"), 11);
            socket.close();
        }
    })?;
    assert_eq!(peer.read_to_end(&event_loop), b"from a hook");
    assert!(record.has(&Event::Close(usockets::CloseReason::Local)));
    Ok(())
}

// -- Signals ----------------------------------------------------------------------------------

#[test]
fn a_signal_calls_its_handler_on_the_loop() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let keep_alive = event_loop.keep_alive()?;
    let signals = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&signals);
    let watch = event_loop.on_signal(SIGUSR1, move |event_loop, signal| {
        assert!(event_loop.is_running());
        log.borrow_mut().push(signal);
        event_loop.stop();
    })?;
    assert!(format!("{watch:?}").contains("10"));
    raise(SIGUSR1).expect("a signal");
    assert!(signals.borrow().is_empty(), "not in the signal handler itself");
    event_loop.run()?;
    assert_eq!(signals.take(), [SIGUSR1]);
    // From another thread, while the loop sleeps.
    let other = thread::spawn(|| raise(SIGUSR1).expect("a signal"));
    event_loop.run()?;
    assert_eq!(signals.take(), [SIGUSR1]);
    other.join().expect("no panic");
    drop((keep_alive, watch));
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn a_burst_of_signals_is_not_lost_altogether() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let count = Rc::new(Cell::new(0));
    let calls = Rc::clone(&count);
    let _watch = event_loop.on_signal(SIGHUP, move |_, _| calls.set(calls.get() + 1))?;
    for _ in 0..5000 {
        raise(SIGHUP).expect("a signal");
    }
    pump(&event_loop, || count.get() > 0);
    settle(&event_loop);
    let answered = count.get();
    assert!(answered <= 5000);
    raise(SIGHUP).expect("a signal");
    pump(&event_loop, || count.get() > answered);
    Ok(())
}

#[test]
fn several_loops_and_handlers_watch_one_signal() -> Result<(), UsError> {
    let _guard = guard();
    let (one, other) = (new_loop(), new_loop());
    let log = Log::<&str>::new();
    let entry = |name: &'static str| {
        let log = log.clone();
        move |_: &usockets::LoopRef, _: i32| log.push(name)
    };
    let first = one.on_signal(SIGUSR2, entry("first"))?;
    let _second = one.on_signal(SIGUSR2, entry("second"))?;
    let _third = other.on_signal(SIGUSR2, entry("third"))?;
    raise(SIGUSR2).expect("a signal");
    pump(&one, || log.len() == 2);
    pump(&other, || log.len() == 3);
    let mut names = log.take();
    names.sort_unstable();
    assert_eq!(names, ["first", "second", "third"]);

    // One that is dropped is silent, the others are not.
    drop(first);
    raise(SIGUSR2).expect("a signal");
    pump(&one, || log.len() == 1);
    settle(&one);
    assert_eq!(log.take(), ["second"]);
    Ok(())
}

#[test]
fn a_watch_does_not_keep_the_loop_and_leaves_nothing() -> Result<(), UsError> {
    let _guard = alone();
    let event_loop = new_loop();
    // The first one opens what all later ones share.
    drop(event_loop.on_signal(SIGWINCH, |_, _| ())?);
    let before = Descriptors::now();
    let drops = Drops::new();
    for _ in 0..10 {
        let token = drops.token();
        let watch = event_loop.on_signal(SIGWINCH, move |_, _| token.hold())?;
        assert!(!event_loop.is_alive());
        event_loop.run()?;
        drop(watch);
    }
    drops.assert_all_dropped();
    before.assert_unchanged();
    // After it the default action, whatever it was, does not come back: this process lives on.
    raise(SIGWINCH).expect("a signal");

    // A watch may outlive its loop.
    let watch = event_loop.on_signal(SIGWINCH, |_, _| panic!("the loop is gone"))?;
    drop(event_loop);
    raise(SIGWINCH).expect("a signal");
    drop(watch);
    Ok(())
}

#[test]
fn a_handler_may_drop_its_own_watch() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let slot = Rc::new(RefCell::new(None));
    let (own, count) = (Rc::clone(&slot), Rc::new(Cell::new(0)));
    let calls = Rc::clone(&count);
    *slot.borrow_mut() = Some(event_loop.on_signal(SIGWINCH, move |_, _| {
        drop(own.take());
        calls.set(calls.get() + 1);
    })?);
    raise(SIGWINCH).expect("a signal");
    pump(&event_loop, || count.get() == 1);
    raise(SIGWINCH).expect("a signal");
    settle(&event_loop);
    assert_eq!(count.get(), 1);
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn signals_that_cannot_be_watched_are_an_error() {
    let _guard = alone();
    let event_loop = new_loop();
    let before = Descriptors::now();
    // The last one is no signal at all.
    for signal in [SIGKILL, 19, 11, 4, 8, 9999, -1] {
        let watched = event_loop.on_signal(signal, |_, _| ());
        let error = watched.expect_err("it cannot be watched");
        assert!(matches!(error, UsError::Io { operation: "on_signal", .. }), "{signal}: {error}");
    }
    before.assert_unchanged();
    assert_nothing_live(&event_loop);
}
