//! Every call of the system, allocation and look-up of the engine fails once, in each of several ways.
//!
//! Needs an engine built with `USOCKETS_FAULT_INJECTION=1`. Whatever fails: nothing crashes or hangs,
//! every byte arrives or somebody is told, states are dropped once, and descriptors come back.

#![cfg(usockets_fault_injection)]

mod util;

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use usockets::{
    CloseReason, Interest, ListenOptions, Loop, LoopRef, Overload, Poll, Refusal, Socket,
    SocketContext, Timer, UnixListenOptions, UsError,
};
use usockets_sys::{usx_fault_calls, usx_fault_fired, usx_fault_plan, usx_fault_set};
use util::{
    Descriptors, Drops, Event, Nobody, Record, Token, alone_for, localhost_listener, own_address,
    pattern, unix_pair,
};

/// How long the tests may take that try everything.
const SWEEP_MAX: Duration = Duration::from_secs(120);

/// Turns after which a scenario hangs. The clock moves by [`TICK`] in each.
const TURNS_MAX: u32 = 2000;
const TICK: Duration = Duration::from_millis(20);

/// Turns without news after which a scenario is over.
const QUIET_TURNS: u32 = 8;

/// A way to fail.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Error(c_int),
    /// A transfer moves no more than so many bytes.
    Short(usize),
}

const FAULTS: [Fault; 9] = [
    Fault::Error(libc::EINTR),
    Fault::Error(libc::EAGAIN),
    Fault::Error(libc::EMFILE),
    Fault::Error(libc::ENOBUFS),
    Fault::Error(libc::ECONNABORTED),
    Fault::Error(libc::ENOMEM),
    Fault::Error(libc::ECONNRESET),
    Fault::Short(1),
    Fault::Short(1000),
];

/// Lets the `at`-th call from now on fail; 0: none.
fn set_fault(at: u64, fault: Fault) {
    let (error, short_count) = match fault {
        Fault::Error(error) => (error, 0),
        Fault::Short(count) => (0, count),
    };
    let plan = usx_fault_plan { at, error, short_count };
    // SAFETY: the plan is copied.
    unsafe { usx_fault_set(&raw const plan) };
}

/// Whether the fault has struck.
fn has_struck() -> bool {
    // SAFETY: asks for a number of this thread.
    unsafe { usx_fault_fired() != 0 }
}

/// Calls made since the fault was set.
fn calls() -> u64 {
    // SAFETY: asks for a number of this thread.
    unsafe { usx_fault_calls() }
}

/// What a scenario leaves behind for the judgement.
#[derive(Debug, Default)]
struct Case {
    drops: Drops,
    /// Failures that somebody was told of.
    reports: Rc<RefCell<Vec<String>>>,
}

impl Case {
    fn report(&self, what: impl ToString) {
        self.reports.borrow_mut().push(what.to_string());
    }

    /// For a callback.
    fn reporter(&self) -> impl Fn(String) + 'static {
        let reports = Rc::clone(&self.reports);
        move |what| reports.borrow_mut().push(what)
    }

    fn is_reported(&self) -> bool {
        !self.reports.borrow().is_empty()
    }

    /// Turns the loop until nothing has happened for a while after `done`.
    fn turn_until(&self, event_loop: &Loop, mut done: impl FnMut() -> bool) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            if let Err(error) = event_loop.turn(Some(Duration::from_micros(200))) {
                self.report(error);
            }
            event_loop.advance_clock(TICK).expect("a test clock");
            quiet = if done() { quiet + 1 } else { 0 };
            if quiet > QUIET_TURNS {
                return;
            }
        }
        panic!("the scenario hangs; reported: {:?}", self.reports.borrow());
    }
}

/// Runs the scenario with every call failing in every way.
fn sweep(name: &str, scenario: impl Fn(&Case) -> Result<(), UsError>) {
    let before = Descriptors::now();
    // Says whether the fault has struck, and how many calls were made.
    let run = |at: u64, fault: Fault| {
        let case = Case::default();
        set_fault(at, fault);
        if let Err(error) = scenario(&case) {
            case.report(error);
        }
        let struck = has_struck();
        let made = calls();
        set_fault(0, fault);
        // Threads that look up names may take a moment to give theirs back.
        before.assert_unchanged();
        assert_eq!(case.drops.live(), 0, "states are left");
        assert!(struck || !case.is_reported(), "without a fault: {:?}", case.reports);
        (struck, made)
    };
    // Everything works without a fault.
    let (_, calls) = run(0, FAULTS[0]);
    let mut all_cases = 0;
    for fault in FAULTS {
        // Says where it was if it does not return.
        struct Position<'a>(&'a str, Fault, Cell<u64>);
        impl Drop for Position<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("{}: call {} fails with {:?}", self.0, self.2.get(), self.1);
                }
            }
        }
        let position = Position(name, fault, Cell::new(1));
        let mut cases = 0;
        loop {
            let (struck, made) = run(position.2.get(), fault);
            cases += u64::from(struck);
            // Not every call is a transfer that could be short.
            if made < position.2.get() {
                break;
            }
            position.2.set(position.2.get() + 1);
        }
        assert!(cases > 0 || matches!(fault, Fault::Short(_)), "{fault:?} was never tried");
        all_cases += cases;
    }
    println!("{name}: {calls} calls, {all_cases} cases");
}

/// A loop whose time passes by turns.
fn test_loop() -> Result<Loop, UsError> {
    Loop::builder().test_clock().build(())
}

// -- Echo -------------------------------------------------------------------------------------

/// Output that waits for room, and what has come in.
#[derive(Debug)]
struct Session {
    _token: Token,
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

impl Session {
    fn new(drops: &Drops) -> Self {
        Self { _token: drops.token(), output: Vec::new(), sent: 0, input: Vec::new() }
    }

    fn flush(&mut self, socket: &Socket<false, Self>) {
        self.sent += socket.write(&self.output[self.sent..]);
    }
}

/// A server that echoes, pauses while its output waits, and ends after its peer.
fn echo_server(
    case: &Case,
    event_loop: &LoopRef,
    open: &Rc<Cell<i32>>,
) -> Result<SocketContext<false, (), Session>, UsError> {
    let (drops, report) = (case.drops.clone(), case.reporter());
    let (opened, closed) = (Rc::clone(open), Rc::clone(open));
    SocketContext::<false, (), Session>::builder_with(move || Session::new(&drops))
        .on_open(move |(), _, _, _| opened.set(opened.get() + 1))
        .on_data(|(), socket, session, data| {
            session.output.extend_from_slice(data);
            session.flush(socket);
            if session.sent < session.output.len() {
                socket.pause();
            }
        })
        .on_writable(|(), socket, session| {
            session.flush(socket);
            if session.sent == session.output.len() {
                socket.resume();
            }
        })
        .on_end(|(), socket, session| {
            // Paused while output waits, so there is none.
            assert_eq!(session.sent, session.output.len());
            socket.shutdown();
        })
        .on_close(move |(), _, _, reason| {
            closed.set(closed.get() - 1);
            if *reason != CloseReason::End {
                report(format!("server: {reason}"));
            }
        })
        .build(event_loop, ())
}

/// What a client has seen at its end.
type Seen = Rc<RefCell<Option<Vec<u8>>>>;

/// A client that sends the data, and ends when all of it has come back.
fn echo_client(
    case: &Case,
    event_loop: &LoopRef,
    data: &Rc<Vec<u8>>,
    seen: &Seen,
) -> Result<SocketContext<false, (), Session>, UsError> {
    let (drops, data, length) = (case.drops.clone(), Rc::clone(data), data.len());
    let (report_close, report_error) = (case.reporter(), case.reporter());
    let (closed, failed) = (Rc::clone(seen), Rc::clone(seen));
    SocketContext::<false, (), Session>::builder_with(move || Session::new(&drops))
        .on_open(move |(), socket, session, _| {
            session.output = data.to_vec();
            session.flush(socket);
        })
        .on_writable(|(), socket, session| session.flush(socket))
        .on_data(move |(), socket, session, input| {
            session.input.extend_from_slice(input);
            if session.input.len() >= length {
                socket.shutdown();
            }
        })
        // The end before that: whoever ended it has reported why.
        .on_end(|(), socket, _| socket.close())
        .on_close(move |(), _, session, reason| {
            let before = closed.replace(Some(std::mem::take(&mut session.input)));
            assert!(before.is_none(), "it ends twice");
            if !matches!(reason, CloseReason::End | CloseReason::Local) {
                report_close(format!("client: {reason}"));
            }
        })
        .on_connect_error(move |(), _, _, error| {
            assert!(failed.replace(Some(Vec::new())).is_none(), "it ends twice");
            report_error(format!("client: {error}"));
        })
        .build(event_loop, ())
}

/// Over TCP or, with a path, a Unix socket.
fn echo(case: &Case, path: Option<&PathBuf>) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let data = Rc::new(pattern(300_000));
    let (open, seen) = (Rc::new(Cell::new(0)), Seen::default());
    let server = echo_server(case, &event_loop, &open)?;
    let client = echo_client(case, &event_loop, &data, &seen)?;
    let _listener;
    match path {
        Some(path) => {
            _listener = server.listen_unix(path)?;
            client.connect_unix(path)?;
        }
        None => {
            let listener = server.listen(own_address())?;
            let address = listener.local_addr()?;
            _listener = listener;
            client.connect(address)?;
        }
    }
    case.turn_until(&event_loop, || seen.borrow().is_some() && open.get() == 0);
    if event_loop.metrics().accept_failures > 0 {
        case.report("a connection was not accepted");
    }
    let received = seen.take().expect("it has ended");
    assert!(received.len() <= data.len() && received == data[..received.len()], "other bytes");
    assert!(
        received.len() == data.len() || case.is_reported(),
        "{} of {} bytes, and nobody was told",
        received.len(),
        data.len()
    );
    Ok(())
}

#[test]
fn echo_over_tcp() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("echo over TCP", |case| echo(case, None));
}

#[test]
fn echo_over_unix() {
    let _guard = alone_for(SWEEP_MAX);
    let path = std::env::temp_dir().join(format!("usockets-faults-{}", std::process::id()));
    let left = Cell::new(0);
    sweep("echo over Unix", |case| {
        // What an earlier case has left behind is in nobody's way.
        let result = echo(case, Some(&path));
        left.set(left.get() + u32::from(path.exists()));
        result
    });
    // At the end the listener looks whether the file is its own, and removes it: either may fail.
    let most = 2 * FAULTS.iter().filter(|fault| matches!(fault, Fault::Error(_))).count();
    assert!(left.get() as usize <= most, "the file is left behind {} times", left.get());
    let _gone = std::fs::remove_file(&path);
}

#[test]
fn listening_on_a_path_leaves_no_file_behind() {
    let _guard = alone_for(SWEEP_MAX);
    let path = std::env::temp_dir().join(format!("usockets-listen-{}", std::process::id()));
    let event_loop = test_loop().expect("a loop");
    let context = Record::<()>::new().builder().build(&event_loop, ()).expect("a context");
    let before = Descriptors::now();
    for fault in FAULTS {
        let mut at = 1;
        loop {
            set_fault(at, fault);
            let listener = context.listen_unix(&path);
            let (struck, made) = (has_struck(), calls());
            set_fault(0, fault);
            assert!(struck || listener.is_ok(), "without a fault: {listener:?}");
            assert_eq!(path.exists(), listener.is_ok(), "call {at} fails with {fault:?}");
            // Nothing fails any more: what it has made it removes.
            drop(listener);
            assert!(!path.exists(), "after call {at} failed with {fault:?}");
            if made < at {
                break;
            }
            at += 1;
        }
    }
    event_loop.turn(Some(Duration::ZERO)).expect("a turn");
    before.assert_unchanged();
}

// -- Connect ----------------------------------------------------------------------------------

/// Connects, and closes when open. Ends in exactly one way.
fn connect_once(
    case: &Case,
    begin: impl Fn(&SocketContext<false, (), Token>) -> Result<(), UsError>,
) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let ended = Rc::new(Cell::new(0));
    let (opened, closed, failed) = (Rc::new(Cell::new(0)), Rc::clone(&ended), Rc::clone(&ended));
    let (drops, open, was_open) = (case.drops.clone(), Rc::clone(&opened), Rc::clone(&opened));
    let (report_close, report_error) = (case.reporter(), case.reporter());
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .on_open(move |(), socket, _, _| {
            open.set(open.get() + 1);
            socket.close();
        })
        .on_close(move |(), _, _, reason| {
            assert_eq!(was_open.get(), 1, "closed, but never open");
            closed.set(closed.get() + 1);
            if *reason != CloseReason::Local {
                report_close(reason.to_string());
            }
        })
        .on_connect_error(move |(), _, _, error| {
            failed.set(failed.get() + 1);
            report_error(error.to_string());
        })
        .build(&event_loop, ())?;
    begin(&context)?;
    case.turn_until(&event_loop, || ended.get() > 0);
    assert_eq!(ended.get(), 1);
    assert!(opened.get() == 1 || case.is_reported(), "not open, and nobody was told");
    Ok(())
}

#[test]
fn connect_to_an_address() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = TcpListener::bind(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("a listener");
    sweep("connect to an address", |case| {
        let result = connect_once(case, |context| context.connect(address).map(drop));
        // The other ends would count as descriptors of ours.
        while listener.accept().is_ok() {}
        result
    });
}

#[test]
fn connect_to_a_name() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = localhost_listener();
    let port = listener.local_addr().expect("it is bound").port();
    listener.set_nonblocking(true).expect("a listener");
    sweep("connect to a name", |case| {
        let result = connect_once(case, |context| context.connect(("localhost", port)).map(drop));
        while listener.accept().is_ok() {}
        result
    });
}

/// A fault may spoil one attempt, so the address that works is there twice.
#[test]
fn connect_to_several_addresses() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = TcpListener::bind(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("a listener");
    let nobody = Nobody::new();
    let addresses = [nobody.address(), address, address];
    sweep("connect to several addresses", |case| {
        let result = connect_once(case, |context| context.connect(addresses.as_slice()).map(drop));
        while listener.accept().is_ok() {}
        result
    });
}

#[test]
fn connect_to_a_path() {
    let _guard = alone_for(SWEEP_MAX);
    let path = std::env::temp_dir().join(format!("usockets-connect-{}", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a listener");
    listener.set_nonblocking(true).expect("a listener");
    sweep("connect to a path", |case| {
        let result = connect_once(case, |context| context.connect_unix(&path).map(drop));
        while listener.accept().is_ok() {}
        result
    });
    std::fs::remove_file(&path).expect("the file");
}

#[test]
fn connect_to_nobody() {
    let _guard = alone_for(SWEEP_MAX);
    let nobody = Nobody::new();
    sweep("connect to nobody", |case| {
        let event_loop = test_loop()?;
        let record = Record::<()>::new();
        let context = record.builder().build(&event_loop, ())?;
        context.connect(nobody.address())?;
        case.turn_until(&event_loop, || record.ended());
        let events = record.take();
        let [Event::ConnectError(kind)] = events[..] else { panic!("{events:?}") };
        if kind != ErrorKind::ConnectionRefused {
            case.report(kind);
        }
        Ok(())
    });
}

// -- Close ------------------------------------------------------------------------------------

#[test]
fn every_way_to_close() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("close", |case| {
        let event_loop = test_loop()?;
        let drops = case.drops.clone();
        let record = Record::<Token>::new();
        let context = record.builder_with(move || drops.token()).build(&event_loop, ())?;
        let mut peers = Vec::new();
        let mut sockets = Vec::new();
        let mut made = 0;
        for _ in 0..6 {
            let (ours, theirs) = unix_pair();
            match context.accept_fd(ours) {
                Ok(socket) => {
                    made += 1;
                    sockets.push(socket);
                    peers.push(theirs);
                }
                Err(error) => case.report(error),
            }
        }
        let ends = || {
            let is_end = |event: &&Event| matches!(event, Event::Close(_) | Event::ConnectError(_));
            record.events().iter().filter(is_end).count()
        };
        case.turn_until(&event_loop, || record.opened() + ends() >= made);
        for (index, socket) in sockets.iter().enumerate() {
            match index {
                0 => socket.close(),
                1 => socket.reset(),
                2 => {
                    assert!(socket.write(b"last words") <= 10);
                    socket.close();
                }
                3 => {
                    // The peer goes.
                    drop(peers.pop());
                }
                4 => {
                    socket.pause();
                    if let Err(error) = socket.set_timeout(Duration::from_secs(1)) {
                        assert!(matches!(error, UsError::Closed | UsError::Stale), "{error}");
                    }
                    socket.resume();
                    socket.shutdown();
                }
                _ => {}
            }
        }
        context.close();
        case.turn_until(&event_loop, || ends() == made);
        assert!(sockets.iter().all(Socket::is_closed));
        for event in record.take() {
            match event {
                Event::Close(CloseReason::System { .. } | CloseReason::Reset) => {
                    case.report(format!("{event:?}"));
                }
                Event::ConnectError(kind) => case.report(kind),
                _ => {}
            }
        }
        Ok(())
    });
}

#[test]
fn the_reason_of_a_close_carries_the_systems_error() {
    let _guard = alone_for(SWEEP_MAX);
    let mut found = false;
    for at in 1..20 {
        let event_loop = test_loop().expect("a loop");
        let record = Record::<()>::new();
        let context = record.builder().build(&event_loop, ()).expect("a context");
        let (ours, mut theirs) = unix_pair();
        context.accept_fd(ours).expect("a socket");
        let case = Case::default();
        case.turn_until(&event_loop, || record.opened() == 1);
        theirs.write_all(b"x").expect("there is room");
        set_fault(at, Fault::Error(libc::EHOSTUNREACH));
        for _ in 0..3 {
            let _turned = event_loop.turn(Some(Duration::ZERO));
        }
        set_fault(0, Fault::Error(0));
        if let Some(reason) = record.closed() {
            assert_eq!(reason, CloseReason::System { errno: libc::EHOSTUNREACH });
            let error = reason.error().expect("the system's error");
            assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
            assert_eq!(error.kind(), ErrorKind::HostUnreachable);
            assert!(!reason.is_local());
            assert_eq!(reason.to_string(), error.to_string());
            found = true;
        }
    }
    assert!(found, "no call of the system failed");
}

// -- Adopt ------------------------------------------------------------------------------------

#[test]
fn adopt() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("adopt", |case| {
        let event_loop = test_loop()?;
        let (old, new) = (Record::<Token>::new(), Record::<(Token, [u8; 500])>::new());
        let (for_old, for_new, for_move) =
            (case.drops.clone(), case.drops.clone(), case.drops.clone());
        let target =
            new.builder_with(move || (for_new.token(), [0; 500])).build(&event_loop, ())?;
        let (log, goal, report) = (old.clone(), target.clone(), case.reporter());
        let source = old
            .builder_with(move || for_old.token())
            .on_data(move |(), socket, _, data| {
                let own = data.len().min(3);
                let drops = for_move.clone();
                let moved =
                    socket.adopt(&goal, data.len() - own, move |_| (drops.token(), [1; 500]));
                match moved {
                    Ok(()) => log.push_data(&data[..own]),
                    Err(error) => {
                        log.push_data(data);
                        report(error.to_string());
                    }
                }
            })
            .build(&event_loop, ())?;
        let (ours, mut theirs) = unix_pair();
        source.accept_fd(ours)?;
        theirs.write_all(b"onetwo").expect("there is room");
        let mut peer = Some(theirs);
        case.turn_until(&event_loop, || {
            if old.data_length() + new.data_length() == 6 {
                // Not earlier: at a hang-up an EAGAIN would say that everything was read.
                drop(peer.take());
            }
            old.ended() || new.ended()
        });
        assert!(!(old.ended() && new.ended()), "it ends twice");
        for event in old.events().into_iter().chain(new.events()) {
            match event {
                Event::Close(CloseReason::System { .. } | CloseReason::Reset) => {
                    case.report(format!("{event:?}"));
                }
                Event::ConnectError(kind) => case.report(kind),
                _ => {}
            }
        }
        let received = [old.data(), new.data()].concat();
        assert!(b"onetwo".starts_with(&received), "{received:?}");
        assert!(received == b"onetwo" || case.is_reported(), "{received:?}, and nobody was told");
        Ok(())
    });
}

// -- Other objects ----------------------------------------------------------------------------

#[test]
fn timers_polls_signals_and_jobs() {
    let _guard = alone_for(SWEEP_MAX);
    // What all watches of a signal share.
    drop(Loop::<()>::new().expect("a loop").on_signal(12, |_, _| ()));
    sweep("timers, polls, signals and jobs", |case| {
        let event_loop = test_loop()?;
        let count = Rc::new(Cell::new(0));
        let bump = || {
            let count = Rc::clone(&count);
            move || count.set(count.get() + 1)
        };
        let timer = Timer::new(&event_loop, case.drops.token())?;
        let (fired, token) = (bump(), case.drops.token());
        timer.set(TICK, None, move |_, state| {
            token.hold();
            state.hold();
            fired();
        })?;
        let (source, mut other) = unix_pair();
        let ready = bump();
        let poll = Poll::new(
            &event_loop,
            source,
            Interest::READABLE,
            case.drops.token(),
            move |poll, state, _| {
                state.hold();
                if util::read_some(&mut poll.source()).is_some_and(|data| !data.is_empty()) {
                    ready();
                }
            },
        )?;
        poll.source().set_nonblocking(true).expect("a socket");
        let raised = bump();
        let _watch = event_loop.on_signal(12, move |_, _| raised())?;
        let local = bump();
        event_loop.defer(move |_| local())?;
        let sent = case.drops.token();
        event_loop.handle().defer(move |_| sent.hold())?;
        other.write_all(b"x").expect("there is room");
        signal_hook::low_level::raise(12).expect("a signal");
        case.turn_until(&event_loop, || count.get() == 4);
        assert_eq!(count.get(), 4);
        Ok(())
    });
}

// -- Listening --------------------------------------------------------------------------------

/// Three clients of a listener that takes one at a time are served one after the other. Whatever fails,
/// none is left waiting.
fn listen_with_options(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (drops, report) = (case.drops.clone(), case.reporter());
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .on_open(|(), socket, _, _| {
            socket.send(b"hi").unwrap_or_else(|_| socket.reset());
            socket.close();
        })
        .on_close(move |(), _, _, reason| {
            if *reason != CloseReason::Local {
                report(reason.to_string());
            }
        })
        .build(&event_loop, ())?;
    let options = ListenOptions::new()
        .keepalive(Duration::from_secs(60))
        .max_connections(1, Overload::StopAccepting)
        .max_connections_per_address(5, Refusal::Reset);
    let listener = context.listen_with(own_address(), &options)?;
    let address = listener.local_addr()?;
    let mut peers: Vec<_> =
        (0..3).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    peers.iter().for_each(|peer| peer.set_nonblocking(true).expect("a socket"));
    listener.pause();
    listener.resume();
    let mut input = vec![0; 3];
    let mut has_ended = vec![false; 3];
    case.turn_until(&event_loop, || {
        for (i, peer) in peers.iter_mut().enumerate() {
            match peer.read(&mut [0; 8]) {
                Ok(count) if count > 0 => input[i] += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => has_ended[i] = true,
            }
        }
        !has_ended.contains(&false) && listener.connections() == Some(0)
    });
    assert!(has_struck() || input == [2; 3], "{input:?}");
    let path = std::env::temp_dir().join(format!("usockets-faults-{}", std::process::id()));
    let options = UnixListenOptions::new().mode(0o777).max_connections(1, Overload::StopAccepting);
    let result = context.listen_unix_with(&path, &options).map(drop);
    let _file_may_stay = std::fs::remove_file(&path);
    result
}

#[test]
fn listening() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("listen with options", listen_with_options);
}

// -- Several addresses ------------------------------------------------------------------------

unsafe extern "C" {
    /// Replaces `getaddrinfo` in the helper threads of all loops; NULL brings it back.
    fn us_internal_resolver_set_lookup(
        lookup: Option<
            unsafe extern "C" fn(
                *const c_char,
                *const c_char,
                *const libc::addrinfo,
                *mut *mut libc::addrinfo,
            ) -> c_int,
        >,
    );
}

/// Gives every name two addresses: first 127.0.0.2, where nobody listens, then 127.0.0.1.
unsafe extern "C" fn two_addresses(
    _host: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    let mut list = ptr::null_mut();
    for host in [c"127.0.0.1", c"127.0.0.2"] {
        let mut one = ptr::null_mut();
        // SAFETY: the arguments are those of a caller of `getaddrinfo`, but for the host.
        let code = unsafe { libc::getaddrinfo(host.as_ptr(), service, hints, &raw mut one) };
        if code != 0 {
            return code;
        }
        // SAFETY: a list of one, which was just made. Lists are released node by node.
        unsafe { (*one).ai_next = list };
        list = one;
    }
    // SAFETY: the caller waits for the list here.
    unsafe { *result = list };
    0
}

#[test]
fn the_second_address_of_a_name_is_tried() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = localhost_listener();
    let port = listener.local_addr().expect("it is bound").port();
    listener.set_nonblocking(true).expect("a listener");
    let before = Descriptors::now();
    // SAFETY: the function is one of `getaddrinfo`'s kind.
    unsafe { us_internal_resolver_set_lookup(Some(two_addresses)) };
    let connect = |case: &Case| {
        let result = connect_once(case, |context| context.connect(("any.name", port)).map(drop));
        while listener.accept().is_ok() {}
        result
    };
    let case = Case::default();
    connect(&case).expect("it begins");
    assert!(!case.is_reported(), "the second address was not tried: {:?}", case.reports);
    drop(case);
    before.assert_unchanged();
    sweep("connect to the second address", connect);
    // SAFETY: brings the real one back.
    unsafe { us_internal_resolver_set_lookup(None) };
}
