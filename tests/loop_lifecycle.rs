//! Loops: how they run, stop, end, and what they leave behind.

mod util;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use usockets::{Backend, CloseReason, Loop, LoopRef, Metrics, SocketContext, Timer, UsError};
use util::{
    Descriptors, Drops, Echo, Event, Log, Peer, Record, Token, accept_one, alone,
    assert_nothing_live, drain, guard, listen, new_loop, panic_of, pump, recorded, settle,
    test_clock_loop, wait_until,
};

const MS: Duration = Duration::from_millis(1);

// -- Running ----------------------------------------------------------------------------------

#[test]
fn a_loop_without_anything_returns_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    assert!(!event_loop.is_alive());
    event_loop.run()?;
    event_loop.run()?;
    assert!(!event_loop.is_running());
    Ok(())
}

#[test]
fn a_turn_says_whether_anything_is_live() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let before = event_loop.metrics().iterations;
    assert!(!event_loop.turn(Some(Duration::ZERO))?);
    assert_eq!(event_loop.metrics().iterations, before + 1, "it turns also for nothing");
    let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    assert!(!event_loop.turn(Some(Duration::ZERO))?, "a context is no reason to live");
    let listener = listen(&context);
    assert!(event_loop.turn(Some(Duration::ZERO))?);
    drop(listener);
    assert!(!event_loop.turn(Some(Duration::ZERO))?);
    Ok(())
}

#[test]
fn a_turn_waits_as_long_as_it_is_told() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let _keep_alive = event_loop.keep_alive()?;
    let start = Instant::now();
    event_loop.turn(Some(30 * MS))?;
    assert!(start.elapsed() >= 29 * MS, "{:?}", start.elapsed());
    // Work that is queued is not waited for.
    let start = Instant::now();
    event_loop.defer(|_| ())?;
    event_loop.turn(None)?;
    let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    let (ours, _theirs) = util::tcp_pair();
    let socket = context.accept_fd(ours)?;
    event_loop.turn(None)?;
    assert!(socket.is_established(), "a pending open is work");
    socket.close();
    event_loop.turn(None)?;
    assert_eq!(event_loop.metrics().live_sockets, 0, "a pending close is work");
    assert!(start.elapsed() < util::scaled(Duration::from_secs(5)));
    Ok(())
}

#[test]
fn a_run_ends_when_the_last_thing_does() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    let timer = Timer::new(&event_loop, ())?;
    let slot = Rc::new(RefCell::new(Some(listen(&context))));
    let (listener, closing) = (Rc::clone(&slot), socket.clone());
    let mut step = 0;
    timer.set(MS, Some(MS), move |timer, ()| {
        step += 1;
        match step {
            1 => drop(listener.take()),
            2 => closing.close(),
            _ => timer.cancel(),
        }
    })?;
    event_loop.run()?;
    assert!(slot.borrow().is_none());
    assert_eq!(record.closed(), Some(CloseReason::Local));
    assert!(!event_loop.is_alive());
    Ok(())
}

#[test]
fn a_stop_ends_the_run_after_the_iteration() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let _keep_alive = event_loop.keep_alive()?;
    let log = Log::<&str>::new();
    let (job, post) = (log.clone(), log.clone());
    event_loop.on_post(move |_| post.push("post"))?;
    event_loop.defer(move |event_loop| {
        event_loop.stop();
        job.push("job");
    })?;
    event_loop.run()?;
    assert_eq!(log.take(), ["job", "post"]);
    Ok(())
}

#[test]
fn a_stop_before_the_run_is_remembered_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let keep_alive = event_loop.keep_alive()?;
    event_loop.stop();
    event_loop.stop();
    let before = event_loop.metrics().iterations;
    // A turn has nothing to do with it.
    event_loop.turn(Some(Duration::ZERO))?;
    event_loop.run()?;
    assert_eq!(event_loop.metrics().iterations, before + 1, "it ran all the same");
    // It is used up.
    event_loop.defer(move |_| drop(keep_alive))?;
    event_loop.run()?;
    assert_eq!(event_loop.metrics().iterations, before + 2);
    Ok(())
}

#[test]
fn a_run_for_some_time() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let keep_alive = event_loop.keep_alive()?;
    let start = Instant::now();
    event_loop.run_for(30 * MS)?;
    assert!(start.elapsed() >= 30 * MS, "{:?}", start.elapsed());
    assert!(start.elapsed() < util::scaled(Duration::from_secs(5)));
    // It leaves nothing behind.
    assert_nothing_live(&event_loop);
    // And ends earlier if there is nothing left to do.
    drop(keep_alive);
    event_loop.run_for(Duration::from_secs(3600))?;
    event_loop.run_for(Duration::ZERO)?;
    // A stop counts too.
    let _keep_alive = event_loop.keep_alive()?;
    event_loop.defer(|event_loop| event_loop.stop())?;
    event_loop.run_for(Duration::from_secs(3600))?;
    // An early end leaves no stop for later.
    event_loop.defer(|event_loop| event_loop.stop())?;
    let iterations = event_loop.metrics().iterations;
    event_loop.run()?;
    assert!(event_loop.metrics().iterations > iterations);
    Ok(())
}

#[test]
fn an_end_and_a_stop_at_once_are_one() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let ran = Rc::new(Cell::new(0));
    for round in 1..=10 {
        // The time is over in the very iteration after which nothing is live.
        let count = Rc::clone(&ran);
        event_loop.defer(move |_| count.set(count.get() + 1))?;
        event_loop.run_for(Duration::ZERO)?;
        let count = Rc::clone(&ran);
        event_loop.defer(move |_| count.set(count.get() + 1))?;
        event_loop.run()?;
        assert_eq!(ran.get(), 2 * round, "a stop was left over");
    }
    Ok(())
}

#[test]
fn reasons_to_stay_alive_are_counted() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (first, second) = (event_loop.keep_alive()?, event_loop.keep_alive()?);
    assert!(event_loop.is_alive());
    assert!(!format!("{first:?}").is_empty());
    drop(first);
    assert!(event_loop.is_alive());
    event_loop.run_for(5 * MS)?;
    drop(second);
    assert!(!event_loop.is_alive());
    event_loop.run()?;
    // A guard may outlive its loop.
    let late = event_loop.keep_alive()?;
    let loop_ref = event_loop.clone();
    drop(event_loop);
    drop(late);
    assert!(matches!(loop_ref.keep_alive(), Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn a_loop_does_not_run_inside_itself() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Rc::new(Loop::<u32>::new()?);
    let tried = Rc::new(Cell::new(0));
    let check = {
        let tried = Rc::clone(&tried);
        move |event_loop: &Loop<u32>| {
            assert!(matches!(event_loop.run(), Err(UsError::LoopAlreadyRunning)));
            assert!(matches!(event_loop.run_for(MS), Err(UsError::LoopAlreadyRunning)));
            assert!(matches!(event_loop.turn(None), Err(UsError::LoopAlreadyRunning)));
            tried.set(tried.get() + 1);
        }
    };
    let (inner, check_inside) = (Rc::clone(&event_loop), check.clone());
    event_loop.defer(move |_| check_inside(&inner))?;
    event_loop.run()?;
    event_loop.with_state(|_| check(&event_loop))?;
    assert_eq!(tried.get(), 2);
    event_loop.run()?;
    Ok(())
}

#[test]
fn another_loop_runs_inside_a_callback() -> Result<(), UsError> {
    let _guard = guard();
    let outer = new_loop();
    let count = Rc::new(Cell::new(0));
    let done = Rc::clone(&count);
    outer.defer(move |_| {
        let inner = new_loop();
        let counted = Rc::clone(&done);
        inner.defer(move |_| counted.set(counted.get() + 1)).expect("it is there");
        inner.run().expect("it is another loop");
        done.set(done.get() + 10);
    })?;
    outer.run()?;
    assert_eq!(count.get(), 11);
    Ok(())
}

#[test]
fn a_panic_leaves_the_loop_usable() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    for _ in 0..3 {
        event_loop.defer(|_| panic!("by design"))?;
        assert_eq!(panic_of(|| event_loop.run()), "by design");
        assert!(!event_loop.is_running());
        echo.assert_echoes(&event_loop);
    }
    Ok(())
}

// -- State and facts --------------------------------------------------------------------------

#[test]
fn the_state_is_of_the_given_type() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::<Vec<u8>>::new()?;
    assert_eq!(event_loop.with_state(|state| state.len())?, 0);
    event_loop.with_state(|state| {
        state.push(1);
        assert!(matches!(event_loop.with_state(|_| ()), Err(UsError::StateInUse)));
    })?;
    let loop_ref: LoopRef = event_loop.clone();
    assert_eq!(loop_ref.with_state(|state: &mut Vec<u8>| state.len())?, 1);
    let error = loop_ref.with_state(|_: &mut Vec<i8>| ()).expect_err("another type");
    assert!(matches!(error, UsError::WrongType), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::Other);
    Ok(())
}

#[test]
fn the_back_end_is_the_one_that_was_asked_for() -> Result<(), UsError> {
    let _guard = guard();
    let poll = Loop::builder().backend(Backend::Poll).build(())?;
    assert_eq!(poll.backend(), Backend::Poll);
    Echo::new(&poll).assert_echoes(&poll);
    if cfg!(target_os = "linux") {
        let epoll = Loop::builder().backend(Backend::Epoll).build(())?;
        assert_eq!(epoll.backend(), Backend::Epoll);
        Echo::new(&epoll).assert_echoes(&epoll);
    }
    let auto = new_loop();
    assert_ne!(auto.backend(), Backend::Auto);
    match std::env::var("USOCKETS_BACKEND").as_deref() {
        Ok("poll") => assert_eq!(auto.backend(), Backend::Poll),
        Ok("epoll") => assert_eq!(auto.backend(), Backend::Epoll),
        _ => {}
    }
    let loop_ref = auto.clone();
    drop(auto);
    assert_eq!(loop_ref.backend(), Backend::Auto);
    Ok(())
}

#[test]
fn the_clock_goes_or_stands_still() -> Result<(), UsError> {
    let _guard = guard();
    let real = new_loop();
    let before = real.now();
    real.turn(Some(5 * MS))?;
    pump(&real, || real.now() > before);
    let error = real.advance_clock(MS).expect_err("a real clock");
    assert!(matches!(error, UsError::InvalidOption { .. }), "{error}");

    let test = test_clock_loop();
    let before = test.now();
    test.turn(Some(5 * MS))?;
    assert_eq!(test.now(), before);
    test.advance_clock(Duration::from_secs(7))?;
    test.turn(Some(Duration::ZERO))?;
    assert_eq!(test.now(), before + Duration::from_secs(7));
    Ok(())
}

#[test]
fn handles_of_one_loop_are_equal() -> Result<(), UsError> {
    let _guard = guard();
    let (one, other) = (new_loop(), new_loop());
    assert_eq!(one.clone(), *one);
    assert_ne!(one.clone(), *other);
    assert_ne!(one.id(), other.id());
    assert!(format!("{one:?}").contains("backend"));
    Ok(())
}

#[test]
fn metrics_count_what_happens() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    assert_eq!(event_loop.metrics().live_contexts, 0);
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let timer = Timer::new(&event_loop, ())?;
    timer.set(Duration::ZERO, None, |_, ()| ())?;
    assert_eq!(socket.write(b"four"), 4);
    peer.read(&event_loop, 4);
    peer.write(&event_loop, b"seven!!");
    pump(&event_loop, || record.data_length() == 7);
    event_loop.handle().wake();
    pump(&event_loop, || event_loop.metrics().wakeups > 0);
    event_loop.handle().defer(|_| ())?;
    let metrics = event_loop.metrics();
    assert_eq!(metrics.accepted, 1);
    assert_eq!(metrics.bytes_sent, 4);
    assert_eq!(metrics.sends, 1);
    assert_eq!(metrics.bytes_received, 7);
    assert!(metrics.receives >= 1);
    assert_eq!(metrics.timers_fired, 1);
    assert_eq!(metrics.live_sockets, 1);
    assert_eq!(metrics.live_timers, 1);
    assert_eq!(metrics.live_contexts, 1);
    assert_eq!(metrics.live_listeners, 0);
    assert_eq!(metrics.queued_jobs, 1);
    assert!(metrics.live_block_bytes > 0);
    assert!(metrics.iterations > 0 && metrics.waits > 0 && metrics.events > 0);
    socket.close();
    settle(&event_loop);
    assert_eq!(event_loop.metrics().sockets_closed, 1);
    assert_eq!(event_loop.metrics().live_sockets, 0);
    let loop_ref = event_loop.clone();
    drop(event_loop);
    assert_eq!(loop_ref.metrics(), Metrics::default());
    Ok(())
}

// -- The end ----------------------------------------------------------------------------------

/// Writes its name down when it is dropped.
struct Named(&'static str, Log<&'static str>);

impl Drop for Named {
    fn drop(&mut self) {
        self.1.push(self.0);
    }
}

#[test]
fn the_end_comes_in_order() -> Result<(), UsError> {
    let _guard = guard();
    let log = Log::<&str>::new();
    let named = |name| Named(name, log.clone());
    let event_loop = Loop::from_state(named("loop state"))?;
    let (socket_log, close_log) = (log.clone(), log.clone());
    let opened = Rc::new(Cell::new(false));
    let open = Rc::clone(&opened);
    let context = SocketContext::<false, Named, Named>::builder_with(move || {
        Named("socket state", socket_log.clone())
    })
    .on_open(move |_, _, _, _| open.set(true))
    .on_close(move |_, _, _, reason| {
        assert_eq!(*reason, CloseReason::LoopClosed);
        close_log.push("on_close");
    })
    .build(&event_loop, named("context state"))?;
    let listener = listen(&context);
    let _peer = Peer::connect(listener.local_addr()?);
    pump(&event_loop, || opened.get());
    let timer = Timer::new(&event_loop, named("timer state"))?;
    timer.set(Duration::from_secs(3600), None, |_, _| ())?;
    let (source, _other) = util::unix_pair();
    let poll = usockets::Poll::new(
        &event_loop,
        source,
        usockets::Interest::READABLE,
        named("poll state"),
        |_, _, _| (),
    )?;
    let (sent, local) = (named("local job"), named("local job"));
    event_loop.defer(move |_| drop((sent, local)))?;

    drop(event_loop);
    let order = log.take();
    assert_eq!(order[..2], ["local job", "local job"]);
    assert_eq!(order[2..4], ["on_close", "socket state"]);
    let mut middle = order[4..6].to_vec();
    middle.sort_unstable();
    assert_eq!(middle, ["poll state", "timer state"]);
    assert_eq!(order[6..], ["context state", "loop state"]);
    drop((context, listener, timer, poll));
    assert!(log.is_empty(), "dropped twice");
    Ok(())
}

#[test]
fn what_is_left_of_a_loop_says_that_it_is_gone() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::from_state(1)?;
    let loop_ref = event_loop.clone();
    assert!(!loop_ref.is_closed());
    drop(event_loop);
    assert!(loop_ref.is_closed());
    assert!(!loop_ref.is_alive());
    assert!(!loop_ref.is_running());
    assert_eq!(loop_ref.now(), Duration::ZERO);
    loop_ref.stop();
    loop_ref.clear_hooks();
    assert!(matches!(loop_ref.with_state(|_: &mut i32| ()), Err(UsError::LoopClosed)));
    assert!(matches!(loop_ref.keep_alive(), Err(UsError::LoopClosed)));
    assert!(matches!(loop_ref.on_pre(|_| ()), Err(UsError::LoopClosed)));
    assert!(matches!(loop_ref.on_post(|_| ()), Err(UsError::LoopClosed)));
    assert!(matches!(loop_ref.on_wakeup(|_| ()), Err(UsError::LoopClosed)));
    assert!(matches!(loop_ref.on_signal(10, |_, _| ()), Err(UsError::LoopClosed)));
    assert!(loop_ref.defer(|_| ()).is_err());
    assert_eq!(UsError::LoopClosed.kind(), std::io::ErrorKind::NotConnected);
    Ok(())
}

#[test]
fn nothing_new_is_made_while_the_loop_ends() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let tried = Rc::new(Cell::new(false));
    let done = Rc::clone(&tried);
    let record = Record::<()>::new();
    let context = record
        .builder()
        .on_close(move |(), socket, (), _| {
            let event_loop = socket.event_loop();
            assert!(event_loop.is_closed());
            let context = socket.context::<()>().expect("it is still there");
            assert!(matches!(context.connect("127.0.0.1:1"), Err(UsError::LoopClosed)));
            assert!(matches!(context.connect("localhost:1"), Err(UsError::LoopClosed)));
            assert!(matches!(context.listen("127.0.0.1:0"), Err(UsError::LoopClosed)));
            let (one, _other) = util::tcp_pair();
            assert!(matches!(context.accept_fd(one), Err(UsError::LoopClosed)));
            assert!(matches!(Timer::new(&event_loop, ()), Err(UsError::LoopClosed)));
            assert!(event_loop.defer(|_| panic!("nobody runs it")).is_err());
            assert!(event_loop.handle().defer(|_| panic!("nobody runs it")).is_err());
            assert!(matches!(
                socket.adopt(&context, 0, |()| ()),
                Err(UsError::LoopClosed | UsError::Closed)
            ));
            let built = SocketContext::<false>::builder().build(&event_loop, ());
            assert!(matches!(built, Err(UsError::LoopClosed)));
            done.set(true);
        })
        .build(&event_loop, ())?;
    let (_, _peer) = accept_one(&event_loop, &context, &record);
    drop(event_loop);
    assert!(tried.get());
    Ok(())
}

#[test]
fn a_loop_dropped_inside_a_closure_ends_after_it() -> Result<(), UsError> {
    let _guard = guard();
    let drops = Drops::new();
    let event_loop = new_loop();
    let record = Record::<Token>::new();
    let tokens = drops.clone();
    let context = record.builder_with(move || tokens.token()).build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let loop_ref = event_loop.clone();
    socket.with_state(|token: &mut Token| {
        drop(event_loop);
        assert!(loop_ref.is_closed());
        // The state is lent, so it is still there.
        token.hold();
        assert_eq!(record.events(), [Event::Open]);
    })?;
    drops.assert_all_dropped();
    assert_eq!(record.closed(), Some(CloseReason::LoopClosed));
    let other = new_loop();
    assert!(peer.read_to_end(&other).is_empty());
    Ok(())
}

#[test]
fn a_loop_dropped_inside_its_own_run_ends_after_it() -> Result<(), UsError> {
    let _guard = guard();
    let drops = Drops::new();
    let slot = Rc::new(RefCell::new(None));
    let event_loop = Rc::new(Loop::from_state(drops.token())?);
    *slot.borrow_mut() = Some(Rc::clone(&event_loop));
    let (own, witness) = (Rc::clone(&slot), drops.clone());
    event_loop.defer(move |event_loop| {
        // The run holds another reference: this one is not the last.
        drop(own.take());
        assert!(!event_loop.is_closed());
        assert_eq!(witness.live(), 1);
    })?;
    event_loop.run()?;
    drop(event_loop);
    drops.assert_all_dropped();
    Ok(())
}

#[test]
fn descriptors_are_given_back() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    for round in 0..20 {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = recorded(&event_loop, &record);
        let listener = listen(&context);
        let client = recorded(&event_loop, &record);
        client.connect(listener.local_addr()?)?;
        client.connect("127.0.0.1:1")?;
        if round % 2 == 0 {
            pump(&event_loop, || record.opened() == 2);
        }
        let _watch = event_loop.on_signal(12, |_, _| ())?;
        let handle = event_loop.handle();
        drop(event_loop);
        // What is left of it has no descriptor but the one that wakes it.
        drop((context, client, listener, handle, record));
    }
    before.assert_unchanged();
    Ok(())
}

#[test]
fn a_loop_per_thread() {
    let _guard = guard();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                for _ in 0..5 {
                    let event_loop = new_loop();
                    Echo::new(&event_loop).assert_echoes(&event_loop);
                }
            })
        })
        .collect();
    wait_until(|| threads.iter().all(thread::JoinHandle::is_finished));
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn several_loops_on_one_thread() -> Result<(), UsError> {
    let _guard = guard();
    let loops: Vec<_> = (0..10).map(|_| new_loop()).collect();
    let echoes: Vec<_> = loops.iter().map(Echo::new).collect();
    for (event_loop, echo) in loops.iter().zip(&echoes) {
        echo.assert_echoes(event_loop);
    }
    drop(echoes);
    for event_loop in &loops {
        drain(event_loop);
        assert_nothing_live(event_loop);
    }
    Ok(())
}
