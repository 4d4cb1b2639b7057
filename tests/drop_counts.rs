//! All state is dropped exactly once (invariant I4), and in the order that the documentation says (invariant
//! I9). The ways that connections go are in `streams/drop_counts.rs`.

mod util;

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use usockets::{Interest, Loop, LoopRef, Poll, SocketContext, Timer, UsError};
use util::{Drops, Log, Token, drain, new_loop, settle, unix_pair};

/// A state without bytes, whose end counts all the same.
struct Empty;

thread_local! {
    static EMPTY: Cell<usize> = const { Cell::new(0) };
}

impl Default for Empty {
    fn default() -> Self {
        EMPTY.set(EMPTY.get() + 1);
        Self
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        EMPTY.set(EMPTY.get() - 1);
    }
}

#[test]
#[expect(clippy::default_constructed_unit_structs, reason = "`default` counts")]
fn states_without_bytes_are_dropped_once() {
    let _guard = util::guard();
    let event_loop = Loop::from_state(Empty::default()).expect("a loop");
    let timer = Timer::new(&event_loop, Empty::default()).expect("a timer");
    let context = SocketContext::<false, Empty, Empty>::builder()
        .build(&event_loop, Empty::default())
        .expect("a context");
    let (ours, _theirs) = unix_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    settle(&event_loop);
    assert_eq!(EMPTY.get(), 4);
    socket.close();
    settle(&event_loop);
    assert_eq!(EMPTY.get(), 3);
    drop(timer);
    assert_eq!(EMPTY.get(), 2);
    drop(context);
    assert_eq!(EMPTY.get(), 1);
    drop(event_loop);
    assert_eq!(EMPTY.get(), 0);
}

#[test]
fn builder_that_fails_drops_what_it_was_given() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let token = drops.token();
    let built = SocketContext::<true, Token, ()>::builder()
        .on_open(move |_, _, (), _| token.hold())
        .build(&event_loop, drops.token());
    if cfg!(not(usockets_tls)) {
        assert!(matches!(built, Err(UsError::TlsUnavailable)));
    }
    drop(built);
    drops.assert_all_dropped();
    let gone: LoopRef = event_loop.clone();
    drop(event_loop);
    let token = drops.token();
    let built = SocketContext::<false, Token, ()>::builder()
        .on_open(move |_, _, (), _| token.hold())
        .build(&gone, drops.token());
    assert!(matches!(built, Err(UsError::LoopClosed)));
    drops.assert_all_dropped();
}

// -- Jobs and sources -------------------------------------------------------------------------

#[test]
fn jobs_are_dropped_when_they_have_run_or_cannot() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let job = || {
        let token = drops.token();
        move |_: &LoopRef| token.hold()
    };
    event_loop.defer(job()).expect("it is open");
    event_loop.handle().defer(job()).expect("it is open");
    event_loop.run().expect("no error");
    drops.assert_all_dropped();

    event_loop.defer(job()).expect("it is open");
    event_loop.handle().defer(job()).expect("it is open");
    let (gone, handle) = (event_loop.clone(), event_loop.handle());
    drop(event_loop);
    drops.assert_all_dropped();

    let rejected = (gone.defer(job()).err(), handle.defer(job()).err());
    assert_eq!(drops.live(), 2, "they come back");
    drop(rejected);
    drops.assert_all_dropped();
}

#[test]
fn timers_drop_closures_that_are_replaced() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let timer = Timer::new(&event_loop, drops.token()).expect("a timer");
    for _ in 0..3 {
        let token = drops.token();
        timer.set(Duration::from_secs(1), None, move |_, _| token.hold()).expect("it is open");
        assert_eq!(drops.live(), 2);
    }
    let (first, second) = (drops.token(), drops.token());
    let second = Cell::new(Some(second));
    let ran = Rc::new(Cell::new(0));
    let runs = Rc::clone(&ran);
    let replace = move |timer: &usockets::TimerRef<Token>, _: &mut Token| {
        first.hold();
        if let Some(second) = second.take() {
            let runs = Rc::clone(&runs);
            let set = timer.set(Duration::ZERO, None, move |_, _| {
                second.hold();
                runs.set(runs.get() + 1);
            });
            set.expect("it is open");
            first.hold();
        }
    };
    timer.set(Duration::ZERO, None, replace).expect("it is open");
    drain(&event_loop);
    assert_eq!(ran.get(), 1, "the second closure takes over");
    assert_eq!(drops.live(), 2, "the second closure and the state");
    drop(timer);
    drops.assert_all_dropped();
}

#[test]
fn hooks_drop_closures_that_are_replaced_from_inside() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let (outer, tokens) = (drops.token(), drops.clone());
    event_loop
        .on_pre(move |event_loop| {
            let inner = tokens.token();
            event_loop.on_pre(move |_| inner.hold()).expect("it is open");
            outer.hold();
        })
        .expect("it is open");
    settle(&event_loop);
    assert_eq!((drops.made(), drops.live()), (2, 1));
    event_loop.clear_hooks();
    drops.assert_all_dropped();
}

#[test]
fn sources_of_polls_come_back_or_are_dropped() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    struct Source(UnixStream, Token);
    impl std::os::fd::AsFd for Source {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.1.hold();
            self.0.as_fd()
        }
    }
    let source = || Source(unix_pair().0, drops.token());
    let watch =
        |source| Poll::new(&event_loop, source, Interest::NONE, drops.token(), |_, _, _| ());
    drop(watch(source()));
    drops.assert_all_dropped();

    let kept = watch(source()).expect("a poll").into_inner().expect("its handler does not run");
    assert_eq!(drops.live(), 1);
    drop(kept);

    let poll = watch(source()).expect("a poll");
    let gone = event_loop.clone();
    let (second, third) = (source(), source());
    drop(event_loop);
    assert_eq!(drops.live(), 3, "the poll keeps its source");
    drop(poll.into_inner().expect("the loop is gone"));
    let failed = Poll::try_new(&gone, second, Interest::NONE, drops.token(), |_, _, _| ());
    let (error, second) = failed.expect_err("the loop is gone");
    assert!(matches!(error, UsError::LoopClosed));
    assert_eq!(drops.live(), 2, "the source came back, the state did not");
    drop((second, third));
    drops.assert_all_dropped();
}

// -- Order ------------------------------------------------------------------------------------

/// Logs its name when it is dropped.
struct Named(&'static str, Log<&'static str>);

impl Drop for Named {
    fn drop(&mut self) {
        self.1.push(self.0);
    }
}

#[test]
fn end_of_a_loop_has_an_order() {
    let _guard = util::guard();
    let log = Log::new();
    let named = |name| Named(name, log.clone());
    let event_loop = Loop::from_state(named("state of the loop")).expect("a loop");
    let factory = log.clone();
    let callback = named("callback");
    let closed = log.clone();
    let context = SocketContext::<false, Named, Named>::builder_with(move || {
        Named("state of the socket", factory.clone())
    })
    .on_open(move |_, _, _, _| _ = &callback)
    .on_close(move |_, _, _, _| closed.push("on_close"))
    .build(&event_loop, named("state of the context"))
    .expect("a context");
    let (ours, _theirs) = unix_pair();
    let _socket = context.accept_fd(ours).expect("a socket");
    let timer = Timer::new(&event_loop, named("state of the timer")).expect("a timer");
    let (source, _peer) = unix_pair();
    let state = named("state of the poll");
    let poll = Poll::new(&event_loop, source, Interest::READABLE, state, |_, _, _| ());
    let poll = poll.expect("a poll");
    settle(&event_loop);
    let job = named("job");
    event_loop.defer(move |_| drop(job)).expect("it is open");

    drop(event_loop);
    let expected = [
        "job",
        "on_close",
        "state of the socket",
        "state of the timer",
        "state of the poll",
        "state of the context",
        "callback",
        "state of the loop",
    ];
    let mut order = log.take();
    assert_eq!(order.len(), expected.len(), "{order:?}");
    // Between timers and polls there is no order.
    order[3..5].sort_by_key(|name| *name != "state of the timer");
    assert_eq!(order, expected);
    drop((timer, poll, context));
    assert!(log.is_empty());
}
