//! All state is dropped exactly once, whatever way a connection goes (invariant I4).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use usockets::{Loop, Socket, SocketContext, UsError};

use crate::SSL;
use crate::util::{
    self, Drops, Nobody, Peer, Secured, Token, hand_over, new_loop, own_address, pump, settle,
    tcp_pair, unix_pair,
};

type Context = SocketContext<SSL, Token, Token>;

/// What a way of going may use.
struct Scene {
    event_loop: Loop,
    context: Context,
    /// Another context, with a larger state.
    target: SocketContext<SSL, Token, (Token, [u64; 100])>,
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
            .secured()
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
            .secured()
            .on_close(move |_, _, _, _| close())
            .build(&event_loop, drops.token())
            .expect("a context");
        Self { event_loop, context, target, drops, opened, closed, failed }
    }

    /// An open socket and its peer.
    fn open(&self) -> (Socket<SSL, Token>, Peer) {
        hand_over(&self.event_loop, &self.context, unix_pair())
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
    let _peer = Peer::connect(listener.local_addr().expect("it is bound"));
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
        .secured()
        .accept_filter(move |_, incoming| {
            let mut kept = keep.borrow_mut();
            if kept.is_empty() { kept.push(incoming.into_fd()) } else { incoming.refuse() }
        })
        .on_open(|_, _, _, _| unreachable!("none proceeds"))
        .build(&event_loop, drops.token())
        .expect("a context");
    let listener = context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let (_first, mut second) = (Peer::connect(address), Peer::connect(address));
    assert_eq!(second.read_to_end(&event_loop), b"");
    assert_eq!((kept.borrow().len(), drops.made()), (1, 1));
    drop((listener, context, event_loop));
    drops.assert_all_dropped();
}

// -- Sizes ------------------------------------------------------------------------------------

#[test]
fn large_states_stay_whole_through_moves() {
    let _guard = util::guard();
    let event_loop = new_loop();
    type Large = (Token, [u8; 50_000]);
    let drops = Drops::new();
    let (a, b) = (drops.clone(), drops.clone());
    let large = SocketContext::<SSL, (), Large>::builder_with(move || (a.token(), [1; 50_000]))
        .secured()
        .build(&event_loop, ())
        .expect("a context");
    let small =
        SocketContext::<SSL, Vec<Socket<SSL, Token>>, Token>::builder_with(move || b.token())
            .secured()
            .on_adopt(|moved, socket, _| moved.push(socket.clone()))
            .build(&event_loop, Vec::new())
            .expect("a context");
    let (socket, _peer) = hand_over(&event_loop, &large, tcp_pair());
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

// -- Closures ---------------------------------------------------------------------------------

#[test]
fn closures_of_a_context_go_with_it() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let [a, b, c, d] = [(); 4].map(|()| drops.token());
    let builder = SocketContext::<SSL, Token, ()>::builder_with(move || a.hold())
        .secured()
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
