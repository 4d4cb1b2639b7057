//! Several addresses of one connection: who wins, what is told of the others, and where a connection
//! comes from.

mod util;

use std::cell::RefCell;
use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Socket as RawSocket, Type};
use usockets::{
    AttemptOutcome, CloseReason, ConnectAttempt, ConnectOptions, DeadlineKind, Deadlines, Loop,
    SocketContext, Target, UsError,
};
use util::{
    Descriptors, Echo, Nobody, alone, assert_nothing_live, drain, guard, localhost_listener,
    own_address, pump, settle, test_clock_loop,
};

/// The default delay between attempts.
const DELAY: Duration = Duration::from_millis(250);

/// A listener whose queue is full: it answers nobody, as an address does to which there is no way.
struct Silent {
    listener: RawSocket,
    _waiting: Vec<RawSocket>,
}

impl Silent {
    /// `None` if this machine has no such address.
    fn new(address: SocketAddr) -> Option<Self> {
        let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let stream = || RawSocket::new(domain, Type::STREAM, None);
        let listener = stream().ok()?;
        listener.bind(&address.into()).ok()?;
        listener.listen(0).ok()?;
        let address = listener.local_addr().ok()?;
        // What does not get in waits; two are enough on Linux, more do no harm.
        let waiting = (0..4).map(|_| {
            let socket = stream().expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            let _under_way = socket.connect(&address);
            socket
        });
        Some(Self { _waiting: waiting.collect(), listener })
    }

    fn ipv4() -> Self {
        Self::new(own_address()).expect("127.0.0.0/8")
    }

    fn address(&self) -> SocketAddr {
        let address = self.listener.local_addr().expect("it is bound");
        address.as_socket().expect("an IP address")
    }
}

/// What a client was told, and what it then knew of its attempts.
#[derive(Debug, Default)]
struct Told {
    opened: Option<Vec<ConnectAttempt>>,
    error: Option<(ErrorKind, String)>,
    /// Those in the error.
    failed: Vec<ConnectAttempt>,
}

fn client(event_loop: &Loop) -> (SocketContext<false>, Rc<RefCell<Told>>) {
    let told = Rc::new(RefCell::new(Told::default()));
    let (opened, failed) = (Rc::clone(&told), Rc::clone(&told));
    let context = SocketContext::<false>::builder()
        .on_open(move |(), socket, (), _| {
            opened.borrow_mut().opened = Some(socket.connect_attempts());
        })
        .on_connect_error(move |(), socket, (), error| {
            let mut told = failed.borrow_mut();
            assert!(told.error.is_none(), "told twice");
            told.error = Some((error.kind(), error.to_string()));
            if let UsError::Connect { attempts, source, .. } = error {
                assert_eq!(*attempts, socket.connect_attempts());
                assert_eq!(error.kind(), source.kind());
                assert!(error.source().is_some());
                told.failed.clone_from(attempts);
            }
        })
        .build(event_loop, ())
        .expect("a context");
    (context, told)
}

fn outcomes(attempts: &[ConnectAttempt]) -> Vec<AttemptOutcome> {
    attempts.iter().map(ConnectAttempt::outcome).collect()
}

fn failed(errno: i32) -> AttemptOutcome {
    AttemptOutcome::Failed { errno }
}

fn race(addresses: &[SocketAddr]) -> Target {
    Target::addresses(addresses.iter().copied()).expect("addresses")
}

// -- Who wins ---------------------------------------------------------------------------------

/// The IPv6 side answers nothing; IPv4 is tried 250 ms later and wins.
#[test]
fn a_dead_family_costs_one_delay() -> Result<(), UsError> {
    let _guard = alone();
    let Some(dead) = Silent::new((Ipv6Addr::LOCALHOST, 0).into()) else {
        println!("skipped: this machine has no IPv6");
        return Ok(());
    };
    let descriptors = Descriptors::now();
    {
        let event_loop = test_clock_loop();
        let alive = TcpListener::bind(own_address()).expect("a listener");
        let alive_address = alive.local_addr().expect("it is bound");
        let (context, told) = client(&event_loop);
        let twice = [dead.address(), dead.address(), alive_address, alive_address];
        let socket = context.connect(race(&twice))?;
        assert_eq!(socket.connect_attempts()[0].outcome(), AttemptOutcome::Running);
        assert!(matches!(socket.local_addr(), Err(UsError::Io { .. })), "nobody has won yet");
        event_loop.advance_clock(DELAY - Duration::from_nanos(1))?;
        settle(&event_loop);
        assert_eq!(socket.connect_attempts()[1].outcome(), AttemptOutcome::NotBegun);
        event_loop.advance_clock(Duration::from_nanos(1))?;
        pump(&event_loop, || told.borrow().opened.is_some());
        let attempts = told.borrow_mut().opened.take().expect("it is open");
        let expected = [
            AttemptOutcome::GivenUp,
            AttemptOutcome::Connected,
            AttemptOutcome::NotBegun,
            AttemptOutcome::NotBegun,
        ];
        assert_eq!(outcomes(&attempts), expected);
        let addresses: Vec<_> = attempts.iter().map(ConnectAttempt::address).collect();
        assert_eq!(addresses, [dead.address(), alive_address, dead.address(), alive_address]);
        assert_eq!(attempts[1].began(), Some(DELAY));
        assert_eq!(attempts[1].took(), Some(Duration::ZERO), "the clock stands still");
        assert_eq!((attempts[2].began(), attempts[2].took()), (None, None));
        assert_eq!(socket.peer_addr()?, alive_address);
        assert!(socket.connect_attempts().is_empty(), "only until `on_open` has returned");
        assert_eq!(event_loop.metrics().connects, 2);
        socket.close();
        drain(&event_loop);
        drop(context);
        assert_nothing_live(&event_loop);
    }
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn an_address_that_refuses_costs_no_delay() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let echo = Echo::new(&event_loop);
    let nobody = Nobody::new();
    let (context, told) = client(&event_loop);
    context.connect(vec![nobody.address(), echo.address()])?;
    pump(&event_loop, || told.borrow().opened.is_some());
    let attempts = told.borrow_mut().opened.take().expect("it is open");
    assert_eq!(outcomes(&attempts), [failed(libc::ECONNREFUSED), AttemptOutcome::Connected]);
    let error = attempts[0].error().expect("it failed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(attempts[1].error().is_none());
    Ok(())
}

#[test]
fn a_late_answer_wins_if_it_is_the_first() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let silent = Silent::ipv4();
    let echo = Echo::new(&event_loop);
    let (context, told) = client(&event_loop);
    let addresses = [silent.address(), silent.address(), echo.address()];
    let options = ConnectOptions::new().attempt_delay(Duration::from_secs(2));
    let socket = context.connect_with(addresses.as_slice(), &options, ())?;
    for begun in 1..=3 {
        let attempts = socket.connect_attempts();
        let running = attempts.iter().filter(|one| one.outcome() == AttemptOutcome::Running);
        assert_eq!(running.count(), begun);
        event_loop.advance_clock(Duration::from_secs(2))?;
        event_loop.turn(Some(Duration::ZERO))?;
    }
    pump(&event_loop, || told.borrow().opened.is_some());
    assert_eq!(socket.peer_addr()?, echo.address());
    Ok(())
}

// -- Nobody wins ------------------------------------------------------------------------------

#[test]
fn the_error_has_the_error_of_every_address() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let nobody = Nobody::new();
    let multicast: SocketAddr = "224.0.0.1:80".parse().expect("an address");
    let (context, told) = client(&event_loop);
    let socket = context.connect(race(&[multicast, nobody.address(), multicast]))?;
    assert!(told.borrow().error.is_none(), "nothing is called back inside `connect`");
    pump(&event_loop, || told.borrow().error.is_some());
    let told = told.take();
    let expected =
        [failed(libc::ENETUNREACH), failed(libc::ECONNREFUSED), failed(libc::ENETUNREACH)];
    assert_eq!(outcomes(&told.failed), expected);
    let (kind, text) = told.error.expect("it has failed");
    assert_eq!(kind, ErrorKind::ConnectionRefused, "what a peer said tells most");
    assert!(text.contains(&nobody.address().to_string()), "{text}");
    assert!(text.contains("224.0.0.1:80: Network is unreachable"), "{text}");
    drain(&event_loop);
    assert!(socket.connect_attempts().is_empty());
    Ok(())
}

#[test]
fn one_address_is_no_race() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let nobody = Nobody::new();
    for target in [race(&[nobody.address()]), Target::address(nobody.address())] {
        let (context, told) = client(&event_loop);
        context.connect(target)?;
        pump(&event_loop, || told.borrow().error.is_some());
        assert_eq!(
            told.borrow().error.as_ref().map(|(kind, _)| *kind),
            Some(ErrorKind::ConnectionRefused)
        );
        assert!(told.borrow().failed.is_empty(), "it is `UsError::Io`");
    }
    Ok(())
}

#[test]
fn closing_cancels_every_attempt() -> Result<(), UsError> {
    let _guard = alone();
    let silent = Silent::ipv4();
    let descriptors = Descriptors::now();
    {
        let event_loop = test_clock_loop();
        let (context, told) = client(&event_loop);
        let socket = context.connect(race(&[silent.address(); 5]))?;
        event_loop.advance_clock(DELAY)?;
        settle(&event_loop);
        socket.close();
        drain(&event_loop);
        let (kind, _) = told.take().error.expect("it is told");
        assert_eq!(kind, ErrorKind::Interrupted);
        context.connect(race(&[silent.address(); 5]))?;
        event_loop.advance_clock(DELAY)?;
        settle(&event_loop);
        drop(event_loop);
        let (kind, _) = told.take().error.expect("it is told");
        assert_eq!(kind, ErrorKind::Interrupted);
    }
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn the_deadline_covers_the_whole_race() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let silent = Silent::ipv4();
    let errors = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&errors);
    let context = SocketContext::<false>::builder()
        .on_connect_error(move |(), socket, (), error| {
            assert_eq!(socket.close_reason(), Some(CloseReason::Deadline(DeadlineKind::Connect)));
            let UsError::Connect { attempts, .. } = error else { panic!("{error}") };
            log.borrow_mut().push((error.kind(), outcomes(attempts)));
        })
        .deadlines(Deadlines::new().connect(DELAY + DELAY / 2))
        .build(&event_loop, ())?;
    let socket = context.connect(race(&[silent.address(); 3]))?;
    event_loop.advance_clock(DELAY)?;
    settle(&event_loop);
    assert!(!socket.is_closed());
    event_loop.advance_clock(DELAY)?;
    pump(&event_loop, || socket.is_closed());
    drain(&event_loop);
    let errors = errors.take();
    // Timers are served before deadlines: the third one may have begun in the same turn.
    let [(ErrorKind::TimedOut, outcomes)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(outcomes[..2], [AttemptOutcome::GivenUp; 2]);
    Ok(())
}

// -- Names ------------------------------------------------------------------------------------

#[test]
fn names_are_raced_and_kept() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let listener = localhost_listener();
    let address = listener.local_addr().expect("it is bound");
    for options in [ConnectOptions::new(), ConnectOptions::new(), ConnectOptions::new().no_cache()]
    {
        let (context, told) = client(&event_loop);
        let socket = context.connect_with(("localhost", address.port()), &options, ())?;
        pump(&event_loop, || told.borrow().opened.is_some());
        let attempts = told.borrow_mut().opened.take().expect("it is open");
        assert!(outcomes(&attempts).contains(&AttemptOutcome::Connected));
        assert!(attempts.iter().all(|one| one.address().port() == address.port()));
        assert_eq!(socket.peer_addr()?, address);
    }
    Ok(())
}

#[test]
fn a_name_in_the_cache_begins_to_connect_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let listener = localhost_listener();
    let target = ("localhost", listener.local_addr().expect("it is bound").port());
    let (context, told) = client(&event_loop);
    let first = context.connect(target)?;
    assert!(first.connect_attempts().is_empty(), "the addresses are not known yet");
    pump(&event_loop, || told.borrow().opened.is_some());
    assert!(!context.connect(target)?.connect_attempts().is_empty());
    event_loop.advance_clock(Duration::from_secs(31))?;
    event_loop.turn(Some(Duration::ZERO))?;
    assert!(context.connect(target)?.connect_attempts().is_empty());
    Ok(())
}

// -- Where a connection comes from ------------------------------------------------------------

#[test]
fn the_device_can_be_chosen() -> Result<(), UsError> {
    let _guard = guard();
    if !cfg!(target_os = "linux") {
        println!("skipped: devices are chosen by address elsewhere");
        return Ok(());
    }
    let event_loop = test_clock_loop();
    let echo = Echo::new(&event_loop);
    let loopback = ConnectOptions::new().device("lo");
    let (context, told) = client(&event_loop);
    context.connect_with(echo.address(), &loopback, ())?;
    pump(&event_loop, || told.borrow().opened.is_some());

    let missing = ConnectOptions::new().device("none-such");
    let error = context.connect_with(echo.address(), &missing, ()).expect_err("no such device");
    let UsError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.raw_os_error(), Some(libc::ENODEV));
    context.connect_with(race(&[echo.address(); 2]), &missing, ())?;
    pump(&event_loop, || told.borrow().error.is_some());
    assert_eq!(outcomes(&told.borrow().failed), [failed(libc::ENODEV); 2]);
    Ok(())
}

#[test]
fn options_out_of_range_are_refused() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let echo = Echo::new(&event_loop);
    let context = SocketContext::<false>::builder()
        .on_connect_error(|_, _, _, _| panic!("there was no attempt"))
        .build(&event_loop, ())?;
    let new = ConnectOptions::new;
    for options in [
        new().device(""),
        new().device("a\0b"),
        new().device("a-name-of-16-chr"),
        new().attempt_delay(Duration::ZERO),
        new().attempt_delay(Duration::from_nanos(9_999_999)),
        new().attempt_delay(Duration::from_nanos(2_000_000_001)),
        new().attempt_delay(Duration::MAX),
    ] {
        let error = context.connect_with(echo.address(), &options, ()).expect_err("out of range");
        assert!(matches!(error, UsError::InvalidOption { .. }), "{options:?}: {error}");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    assert!(matches!(context.connect(Vec::new()), Err(UsError::InvalidAddress { .. })));
    assert_eq!(event_loop.metrics().connects, 0);
    Ok(())
}

#[test]
fn a_local_address_leaves_the_other_family_out() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let echo = Echo::new(&event_loop);
    let other = SocketAddr::from((Ipv6Addr::LOCALHOST, echo.address().port()));
    let options = ConnectOptions::new().local_addr(SocketAddr::from(([127, 0, 0, 9], 0)));
    let (context, told) = client(&event_loop);
    let socket = context.connect_with(race(&[other, echo.address()]), &options, ())?;
    pump(&event_loop, || told.borrow().opened.is_some());
    let attempts = told.borrow_mut().opened.take().expect("it is open");
    assert_eq!(outcomes(&attempts), [failed(libc::EAFNOSUPPORT), AttemptOutcome::Connected]);
    assert_eq!(socket.local_addr()?.ip(), IpAddr::from([127, 0, 0, 9]));
    Ok(())
}
