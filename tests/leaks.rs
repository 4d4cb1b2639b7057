//! Nothing is left behind when a loop is gone: no descriptor, no value, whatever refers to what (invariant
//! I9). Memory that is lost shows in the builds with a leak checker.

mod util;

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use usockets::{
    Backend, Interest, KeepAlive, ListenSocket, Loop, LoopRef, Poll, Socket, SocketContext, Timer,
    UsError,
};
use util::{Descriptors, Drops, Echo, Token, new_loop, own_address, pump, settle, unix_pair};

type Plain = SocketContext<false>;

fn plain(event_loop: &LoopRef) -> Plain {
    Plain::builder().build(event_loop, ()).expect("a context")
}

#[test]
fn loop_gives_its_descriptors_back() {
    let _guard = util::alone();
    let before = Descriptors::now();
    for backend in [Backend::Auto, Backend::Epoll, Backend::Poll] {
        for _ in 0..100 {
            let event_loop = Loop::builder().backend(backend).build(()).expect("a loop");
            let _handle = event_loop.handle();
            settle(&event_loop);
        }
        before.assert_unchanged();
    }
}

#[test]
fn handles_of_a_loop_that_is_gone_keep_no_connection() {
    let _guard = util::alone();
    let before = Descriptors::now();
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    echo.assert_echoes(&event_loop);
    let mut peer = echo.peer();
    peer.write(&event_loop, b"x");
    let loop_ref = event_loop.clone();
    drop(event_loop);
    // The peer sees the end although handles are left.
    let other = new_loop();
    let rest = peer.read_to_end(&other);
    assert!(rest.len() <= 1, "{rest:?}");
    drop((echo, loop_ref, other, peer));
    before.assert_unchanged();
}

#[test]
fn calls_that_fail_leave_no_descriptor() {
    let _guard = util::alone();
    let event_loop = new_loop();
    let context = plain(&event_loop);
    let listener = context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let before = Descriptors::now();
    for _ in 0..10 {
        assert!(context.listen(address).is_err(), "the port is taken");
        assert!(context.listen("192.0.2.1:0").is_err(), "the address is not ours");
        assert!(context.listen_unix("/proc/no/such/folder").is_err());
        assert!(context.listen_unix("/".repeat(300)).is_err());
        assert!(context.connect("nonsense").is_err());
        assert!(context.connect_unix("\0").is_err() || drained(&event_loop));
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert!(context.listen_fd(file).is_err());
        let local = usockets::ConnectOptions::new().local_addr(([192, 0, 2, 1], 0).into());
        assert!(context.connect_with(address, &local, ()).is_err());
        let tls = SocketContext::<true>::builder().build(&event_loop, ());
        assert!(tls.and_then(|context| context.listen(own_address())).is_err());
        assert!(event_loop.on_signal(libc::SIGKILL, |_, _| ()).is_err());
        assert!(event_loop.on_signal(-1, |_, _| ()).is_err());
    }
    before.assert_unchanged();
}

/// Lets what was begun come to its end.
fn drained<T: 'static>(event_loop: &Loop<T>) -> bool {
    settle(event_loop);
    true
}

#[test]
fn descriptors_that_were_given_out_are_the_programs() {
    let _guard = util::alone();
    let before = Descriptors::now();
    let event_loop = new_loop();
    let context = plain(&event_loop);
    let (ours, theirs) = unix_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    let copy = UnixStream::from(socket.try_clone_fd().expect("it is open"));
    let listener = context.listen(own_address()).expect("a listener");
    let kept = listener.with_fd(|fd| fd.try_clone_to_owned()).expect("it is open");
    drop((listener, context));
    drop(event_loop);
    (&copy).write_all(b"still open").expect("it is the program's");
    let listener = std::net::TcpListener::from(kept.expect("a copy"));
    assert!(listener.local_addr().is_ok());
    drop((copy, theirs, listener, socket));
    before.assert_unchanged();
}

#[test]
fn signals_give_their_descriptors_back() {
    let _guard = util::alone();
    let event_loop = new_loop();
    // What signal handling needs once per process.
    drop(event_loop.on_signal(libc::SIGWINCH, |_, _| ()).expect("a signal"));
    let before = Descriptors::now();
    for _ in 0..10 {
        let watch = event_loop.on_signal(libc::SIGWINCH, |_, _| ()).expect("a signal");
        signal_hook::low_level::raise(libc::SIGWINCH).expect("a signal");
        settle(&event_loop);
        drop(watch);
    }
    before.assert_unchanged();
    let watch = event_loop.on_signal(libc::SIGWINCH, |_, _| ()).expect("a signal");
    drop(event_loop);
    signal_hook::low_level::raise(libc::SIGWINCH).expect("a signal");
    drop(watch);
}

#[test]
fn loop_does_not_wait_for_a_look_up() {
    let _guard = util::alone();
    let before = Descriptors::now();
    let drops = Drops::new();
    for _ in 0..10 {
        let event_loop = new_loop();
        let made = drops.clone();
        let context = SocketContext::<false, Token, Token>::builder_with(move || made.token())
            .build(&event_loop, drops.token())
            .expect("a context");
        context.connect("name.invalid:1").expect("it is looked up");
        let started = Instant::now();
        drop(event_loop);
        assert!(started.elapsed() < util::scaled(Duration::from_secs(2)));
    }
    drops.assert_all_dropped();
    before.assert_unchanged();
}

// -- Cycles -----------------------------------------------------------------------------------

/// Whatever a state may refer to.
#[derive(Default)]
struct Everything {
    contexts: Vec<SocketContext<false, Tangle, Tangle>>,
    sockets: Vec<Socket<false, Tangle>>,
    listeners: Vec<ListenSocket>,
    timers: Vec<Timer<Tangle>>,
    polls: Vec<Poll<UnixStream, Tangle>>,
    guards: Vec<KeepAlive>,
    loops: Vec<LoopRef>,
    handles: Vec<usockets::LoopHandle<Tangle>>,
}

/// A state that refers to everything, itself included.
struct Tangle {
    _token: Token,
    _all: Rc<RefCell<Everything>>,
}

#[test]
fn cycles_are_broken_by_the_end_of_the_loop() {
    let _guard = util::alone();
    let before = Descriptors::now();
    let drops = Drops::new();
    let all: Rc<RefCell<Everything>> = Rc::default();
    let tangle = {
        let (drops, all) = (drops.clone(), Rc::downgrade(&all));
        move || Tangle { _token: drops.token(), _all: all.upgrade().expect("it is there") }
    };

    let event_loop = Loop::from_state(tangle()).expect("a loop");
    let (factory, in_callback, in_hook) = (tangle.clone(), tangle(), tangle());
    let context = SocketContext::builder_with(factory)
        .on_data(move |_, _, _, _| _ = &in_callback)
        .build(&event_loop, tangle())
        .expect("a context");
    event_loop.on_pre(move |_| _ = &in_hook).expect("it is open");
    let timer = Timer::new(&event_loop, tangle()).expect("a timer");
    let in_closure = tangle();
    let every = Some(Duration::from_millis(1));
    timer.set(Duration::ZERO, every, move |_, _| _ = &in_closure).expect("it is open");
    let (in_handler, (source, _peer)) = (tangle(), unix_pair());
    let poll = Poll::new(&event_loop, source, Interest::READABLE, tangle(), move |_, _, _| {
        _ = &in_handler;
    });
    let (ours, _theirs) = unix_pair();
    let listener = context.listen(own_address()).expect("a listener");
    {
        let mut everything = all.borrow_mut();
        everything.sockets.push(context.accept_fd(ours).expect("a socket"));
        let address = listener.local_addr().expect("it is bound");
        everything.sockets.push(context.connect(address).expect("a socket"));
        everything.contexts.push(context);
        everything.listeners.push(listener);
        everything.timers.push(timer);
        everything.polls.push(poll.expect("a poll"));
        everything.guards.push(event_loop.keep_alive().expect("a guard"));
        everything.loops.push(event_loop.clone());
        everything.handles.push(event_loop.typed_handle());
    }
    let in_job = tangle();
    drop(all);
    settle(&event_loop);
    event_loop.defer(move |_| drop(in_job)).expect("it is open");

    drop(event_loop);
    drops.assert_all_dropped();
    drop((_peer, _theirs));
    before.assert_unchanged();
}

// -- The order of drops -----------------------------------------------------------------------

/// Calls `f` with all orders of the numbers below `count`.
fn permutations(count: usize, f: &mut impl FnMut(&[usize])) {
    fn go(order: &mut Vec<usize>, count: usize, f: &mut impl FnMut(&[usize])) {
        if order.len() == count {
            return f(order);
        }
        for next in 0..count {
            if !order.contains(&next) {
                order.push(next);
                go(order, count, f);
                order.pop();
            }
        }
    }
    go(&mut Vec::new(), count, f);
}

#[test]
fn handles_can_be_dropped_in_any_order() {
    let guard = util::alone();
    let before = Descriptors::now();
    let drops = Drops::new();
    let mut orders = 0;
    permutations(7, &mut |order| {
        orders += 1;
        if orders % 500 == 0 {
            guard.step(&format!("order {orders}"));
        }
        let event_loop = Loop::from_state(drops.token()).expect("a loop");
        let made = drops.clone();
        let context = SocketContext::<false, Token, Token>::builder_with(move || made.token())
            .build(&event_loop, drops.token())
            .expect("a context");
        let (ours, theirs) = unix_pair();
        let socket = context.accept_fd(ours).expect("a socket");
        let listener = context.listen_unix(format!("\0{}-{orders}", std::process::id()));
        let timer = Timer::new(&event_loop, drops.token()).expect("a timer");
        let token = drops.token();
        timer.set(Duration::ZERO, None, move |_, _| token.hold()).expect("it is open");
        let token = drops.token();
        let poll =
            Poll::new(&event_loop, theirs, Interest::READABLE, drops.token(), move |_, _, _| {
                token.hold();
            });
        let guard = event_loop.keep_alive().expect("a guard");
        if orders % 2 == 0 {
            event_loop.turn(Some(Duration::ZERO)).expect("a turn");
        }
        let mut values: [Option<Box<dyn std::any::Any>>; 7] = [
            Some(Box::new(event_loop)),
            Some(Box::new(context)),
            Some(Box::new(socket)),
            Some(Box::new(listener.expect("a listener"))),
            Some(Box::new(timer)),
            Some(Box::new(poll.expect("a poll"))),
            Some(Box::new(guard)),
        ];
        for index in order {
            drop(values[*index].take());
        }
    });
    assert_eq!(orders, 5040);
    drops.assert_all_dropped();
    before.assert_unchanged();
}

// -- Owners in odd places ---------------------------------------------------------------------

thread_local! {
    static LOOP: RefCell<Option<Loop<Token>>> = const { RefCell::new(None) };
    static CONTEXT: RefCell<Option<SocketContext<false, Token, Token>>> =
        const { RefCell::new(None) };
}

#[test]
fn loop_in_a_thread_local_ends_with_its_thread() {
    let _guard = util::alone();
    let before = Descriptors::now();
    let drops = Drops::new();
    let tokens = drops.clone();
    let ended = thread::spawn(move || {
        let event_loop = Loop::from_state(tokens.token()).expect("a loop");
        let made = tokens.clone();
        let context = SocketContext::builder_with(move || made.token())
            .build(&event_loop, tokens.token())
            .expect("a context");
        let (ours, theirs) = unix_pair();
        context.accept_fd(ours).expect("a socket");
        settle(&event_loop);
        CONTEXT.set(Some(context));
        let handle = event_loop.handle();
        LOOP.set(Some(event_loop));
        drop(theirs);
        handle
    });
    let handle = ended.join().expect("the thread ends quietly");
    drops.assert_all_dropped();
    assert!(handle.defer(|_| ()).is_err_and(|e| matches!(e.reason(), UsError::LoopClosed)));
    drop(handle);
    before.assert_unchanged();
}

#[test]
fn loop_that_is_dropped_inside_its_own_closures() {
    let _guard = util::alone();
    let before = Descriptors::now();
    let drops = Drops::new();
    let scene = || {
        let event_loop = Loop::from_state(drops.token()).expect("a loop");
        let made = drops.clone();
        let context = SocketContext::<false, Token, Token>::builder_with(move || made.token())
            .build(&event_loop, drops.token())
            .expect("a context");
        let (ours, theirs) = unix_pair();
        let socket = context.accept_fd(ours).expect("a socket");
        pump(&event_loop, || socket.is_established());
        let timer = Timer::new(&event_loop, drops.token()).expect("a timer");
        (event_loop, context, socket, timer, theirs)
    };
    let check = |token: &mut Token, loop_ref: &LoopRef| {
        token.hold();
        assert!(loop_ref.is_closed());
        assert!(matches!(loop_ref.keep_alive(), Err(UsError::LoopClosed)));
    };

    {
        let (event_loop, _context, socket, _timer, _peer) = scene();
        let loop_ref = event_loop.clone();
        let ended = socket.with_state(|token| {
            drop(event_loop);
            check(token, &loop_ref);
            assert_eq!(socket.write(b"still there"), 11, "until the closure ends");
        });
        ended.expect("the state was there");
        assert!(matches!(socket.with_state(|_| ()), Err(UsError::LoopClosed)));

        let (event_loop, context, _socket, _timer, _peer) = scene();
        let loop_ref = event_loop.clone();
        let ended = context.with_state(|token| {
            drop(event_loop);
            check(token, &loop_ref);
        });
        ended.expect("the state was there");

        let (event_loop, _context, _socket, timer, _peer) = scene();
        let loop_ref = event_loop.clone();
        let ended = timer.with_state(|token| {
            drop(event_loop);
            check(token, &loop_ref);
            let set = timer.set(Duration::ZERO, None, |_, _| ());
            assert!(matches!(set, Err(UsError::LoopClosed)));
        });
        ended.expect("the state was there");

        let (event_loop, _context, _socket, _timer, _peer) = scene();
        let loop_ref = event_loop.clone();
        let ended = loop_ref.with_state(|token: &mut Token| {
            drop(event_loop);
            check(token, &loop_ref);
        });
        ended.expect("the state was there");
    }
    drops.assert_all_dropped();
    before.assert_unchanged();
}
