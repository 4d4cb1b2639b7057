//! All state is dropped exactly once, whatever way a connection goes (invariant I4), and in the order that
//! the documentation says (invariant I9).

mod util;

use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use usockets::{Interest, Loop, LoopRef, Poll, Socket, SocketContext, Timer, UsError};
use util::{
    Drops, Log, Nobody, Token, drain, new_loop, own_address, pump, settle, tcp_pair, unix_pair,
};

type Context = SocketContext<false, Token, Token>;

/// What a way of going may use.
struct Scene {
    event_loop: Loop,
    context: Context,
    /// Another context, with a larger state.
    target: SocketContext<false, Token, (Token, [u64; 100])>,
    drops: Drops,
    opened: Rc<Cell<usize>>,
    closed: Rc<Cell<usize>>,
    failed: Rc<Cell<usize>>,
}

impl Scene {
    fn new() -> Self {
        let (event_loop, drops) = (new_loop(), Drops::new());
        let (opened, closed, failed) = (Rc::default(), Rc::default(), Rc::default());
        let count = |counter: &Rc<Cell<usize>>| {
            let counter = Rc::clone(counter);
            move || counter.set(counter.get() + 1)
        };
        let (open, close, fail) = (count(&opened), count(&closed), count(&failed));
        let (captured, made) = (drops.token(), drops.clone());
        let context = Context::builder_with(move || made.token())
            .on_open(move |_, _, _, _| {
                captured.hold();
                open();
            })
            .on_close(move |_, _, token, _| {
                token.hold();
                close();
            })
            .on_connect_error(move |_, _, token, _| {
                token.hold();
                fail();
            })
            .build(&event_loop, drops.token())
            .expect("a context");
        let (made, close) = (drops.clone(), count(&closed));
        let target = SocketContext::builder_with(move || (made.token(), [0; 100]))
            .on_close(move |_, _, _, _| close())
            .build(&event_loop, drops.token())
            .expect("a context");
        Self { event_loop, context, target, drops, opened, closed, failed }
    }

    /// An open socket and its peer.
    fn open(&self) -> (Socket<false, Token>, UnixStream) {
        let (ours, theirs) = unix_pair();
        let socket = self.context.accept_fd(ours).expect("a socket");
        pump(&self.event_loop, || socket.is_established());
        (socket, theirs)
    }

    fn turn(&self) {
        settle(&self.event_loop);
    }

    /// Ends everything, and counts.
    #[track_caller]
    fn expect(self, opened: usize, closed: usize, failed: usize) {
        let Self { event_loop, context, target, drops, .. } = self;
        drop((context, target));
        drop(event_loop);
        let counts = (self.opened.get(), self.closed.get(), self.failed.get());
        assert_eq!(counts, (opened, closed, failed), "opened, closed, failed");
        drops.assert_all_dropped();
    }
}

// -- The ways of a socket ---------------------------------------------------------------------

#[test]
fn socket_that_its_peer_closes() {
    let _guard = util::guard();
    let scene = Scene::new();
    let (socket, peer) = scene.open();
    drop(peer);
    pump(&scene.event_loop, || scene.closed.get() == 1);
    assert!(matches!(socket.with_state(|_| ()), Err(UsError::Closed | UsError::Stale)));
    scene.expect(1, 1, 0);
}

#[test]
fn socket_that_is_closed_or_reset() {
    let _guard = util::guard();
    let scene = Scene::new();
    let ((a, _peer_a), (b, _peer_b)) = (scene.open(), scene.open());
    a.close();
    b.reset();
    a.with_state(|token| token.hold()).expect("until on_close");
    scene.turn();
    scene.expect(2, 2, 0);
}

#[test]
fn accepted_socket() {
    let _guard = util::guard();
    let scene = Scene::new();
    let listener = scene.context.listen(own_address()).expect("a listener");
    let _peer = util::Peer::connect(listener.local_addr().expect("it is bound"));
    pump(&scene.event_loop, || scene.opened.get() == 1);
    drop(listener);
    scene.expect(1, 1, 0);
}

#[test]
fn connection_that_is_refused() {
    let _guard = util::guard();
    let scene = Scene::new();
    let nobody = Nobody::new();
    scene.context.connect(nobody.address()).expect("the answer comes later");
    pump(&scene.event_loop, || scene.failed.get() == 1);
    scene.expect(0, 0, 1);
}

#[test]
fn connection_that_the_program_gives_up() {
    let _guard = util::guard();
    let scene = Scene::new();
    let listener = scene.context.listen(own_address()).expect("a listener");
    let socket = scene.context.connect(listener.local_addr().expect("it is bound"));
    drop(listener);
    let socket = socket.expect("the answer comes later");
    socket.close();
    assert!(socket.is_closed());
    scene.turn();
    scene.expect(0, 0, 1);
}

#[test]
fn connection_with_a_state_of_its_own() {
    let _guard = util::guard();
    let scene = Scene::new();
    let listener = scene.context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    scene.context.connect_with_state(address, scene.drops.token()).expect("it begins");
    pump(&scene.event_loop, || scene.opened.get() == 2);
    drop(listener);
    scene.expect(2, 2, 0);
}

#[test]
fn connect_call_that_fails() {
    let _guard = util::guard();
    let scene = Scene::new();
    let too_long = format!("/{}", "x".repeat(200));
    let token = scene.drops.token();
    assert!(scene.context.connect_with_state("no port", token).is_err());
    let token = scene.drops.token();
    let error = scene.context.connect_unix_with_state(too_long, token).expect_err("too long");
    assert!(matches!(error, UsError::UnixPathTooLong { length: 201, .. }), "{error}");
    assert!(scene.context.connect("no port").is_err());
    assert_eq!(scene.event_loop.metrics().live_sockets, 0);
    scene.expect(0, 0, 0);
}

#[test]
fn descriptor_that_is_no_socket() {
    let _guard = util::guard();
    let scene = Scene::new();
    let file = std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let file = file.expect("a file");
    let error = scene.context.accept_fd(file).expect_err("it is a file");
    assert!(matches!(error, UsError::Io { .. }), "{error}");
    scene.turn();
    scene.expect(0, 0, 0);
}

#[test]
fn socket_that_is_handed_over_and_closed_before_it_opens() {
    let _guard = util::guard();
    let scene = Scene::new();
    let (ours, _theirs) = unix_pair();
    scene.context.accept_fd(ours).expect("a socket").close();
    scene.turn();
    scene.expect(0, 0, 1);
}

#[test]
fn socket_that_is_closed_with_its_context() {
    let _guard = util::guard();
    let scene = Scene::new();
    let pairs: Vec<_> = (0..5).map(|_| scene.open()).collect();
    scene.context.close();
    assert!(pairs.iter().all(|(socket, _)| socket.is_closed()));
    scene.turn();
    scene.expect(5, 5, 0);
}

#[test]
fn sockets_in_all_states_that_end_with_the_loop() {
    let _guard = util::guard();
    let scene = Scene::new();
    let listener = scene.context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let (_open, _peer) = scene.open();
    let (closing, _peer) = scene.open();
    let (moving, _peer) = scene.open();
    closing.close();
    let captured = scene.drops.token();
    let adopted = moving.adopt(&scene.target, 0, move |_| {
        captured.hold();
        unreachable!("the loop ends first, or the socket is closed in its old context")
    });
    adopted.expect("it is open");
    moving.close();
    let (ours, _theirs) = unix_pair();
    scene.context.accept_fd(ours).expect("one that opens");
    scene.context.connect(address).expect("one that connects");
    // A connection that waits to be accepted has no state yet.
    let _waiting = std::net::TcpStream::connect(address).expect("it listens");
    scene.event_loop.metrics();
    scene.expect(3, 3, 2);
}

#[test]
fn socket_that_moves() {
    let _guard = util::guard();
    let scene = Scene::new();
    let (socket, _peer) = scene.open();
    let (captured, made) = (scene.drops.token(), scene.drops.clone());
    let live = scene.drops.live();
    let adopted = socket.adopt(&scene.target, 0, move |old| {
        old.hold();
        captured.hold();
        (made.token(), [1; 100])
    });
    adopted.expect("it is open");
    scene.turn();
    assert_eq!(scene.drops.live(), live - 1, "the old state went, the new came, the closure went");
    scene.expect(1, 1, 0);
}

#[test]
fn socket_that_is_closed_before_it_moves() {
    let _guard = util::guard();
    let scene = Scene::new();
    let (socket, _peer) = scene.open();
    let captured = scene.drops.token();
    let adopted = socket.adopt(&scene.target, 0, move |_| {
        captured.hold();
        unreachable!("it was closed")
    });
    adopted.expect("it is open");
    scene.context.close();
    scene.turn();
    scene.expect(1, 1, 0);
}

#[test]
fn connection_that_the_filter_refuses_or_keeps() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let (made, kept) = (drops.clone(), Rc::new(RefCell::new(Vec::new())));
    let keep = Rc::clone(&kept);
    let context = Context::builder_with(move || made.token())
        .accept_filter(move |_, incoming| {
            let mut kept = keep.borrow_mut();
            if kept.is_empty() { kept.push(incoming.into_fd()) } else { incoming.refuse() }
        })
        .on_open(|_, _, _, _| unreachable!("none proceeds"))
        .build(&event_loop, drops.token())
        .expect("a context");
    let listener = context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let (_first, mut second) = (util::Peer::connect(address), util::Peer::connect(address));
    assert_eq!(second.read_to_end(&event_loop), b"");
    assert_eq!((kept.borrow().len(), drops.made()), (1, 1));
    drop((listener, context, event_loop));
    drops.assert_all_dropped();
}

// -- Sizes ------------------------------------------------------------------------------------

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
fn large_states_stay_whole_through_moves() {
    let _guard = util::guard();
    let event_loop = new_loop();
    type Large = (Token, [u8; 50_000]);
    let drops = Drops::new();
    let (a, b) = (drops.clone(), drops.clone());
    let large = SocketContext::<false, (), Large>::builder_with(move || (a.token(), [1; 50_000]))
        .build(&event_loop, ())
        .expect("a context");
    let small =
        SocketContext::<false, Vec<Socket<false, Token>>, Token>::builder_with(move || b.token())
            .on_adopt(|moved, socket, _| moved.push(socket.clone()))
            .build(&event_loop, Vec::new())
            .expect("a context");
    let (ours, _theirs) = tcp_pair();
    let socket = large.accept_fd(ours).expect("a socket");
    settle(&event_loop);
    let token = drops.token();
    let convert = move |old: &mut Large| {
        assert!(old.1.iter().all(|byte| *byte == 1));
        token
    };
    socket.adopt(&small, 0, convert).expect("it is open");
    settle(&event_loop);
    let moved = small.with_state(|moved| moved.pop()).expect("it is not lent").expect("it moved");
    let token = drops.token();
    moved.adopt(&large, 0, move |_| (token, [2; 50_000])).expect("it is open");
    settle(&event_loop);
    assert_eq!(drops.live(), 1);
    drop(event_loop);
    drops.assert_all_dropped();
}

// -- Closures, jobs, sources ------------------------------------------------------------------

#[test]
fn closures_of_a_context_go_with_it() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let [a, b, c, d] = [(); 4].map(|()| drops.token());
    let builder = SocketContext::<false, Token, ()>::builder_with(move || a.hold())
        .on_data(move |_, _, (), _| b.hold())
        .accept_filter(move |_, _| c.hold())
        // Replaced below.
        .on_end(move |_, _, ()| d.hold());
    let last = drops.token();
    let builder = builder.on_end(move |_, _, ()| last.hold());
    assert_eq!(drops.dropped(), 1, "a callback that is replaced is dropped");
    let context = builder.build(&event_loop, drops.token()).expect("a context");
    let (ours, _theirs) = unix_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    drop(context);
    settle(&event_loop);
    assert_eq!(drops.dropped(), 1, "the socket keeps its context");
    socket.close();
    settle(&event_loop);
    drops.assert_all_dropped();
    assert_eq!(event_loop.metrics().live_contexts, 0);
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
