//! Connections that are made, and connections that cannot be made.

mod util;

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Socket as RawSocket, Type};
use usockets::{
    CloseReason, ConnectOptions, ConnectTarget, Loop, Origin, Socket, SocketContext, Target,
    UsError,
};
use util::{
    Drops, Event, Nobody, Record, alone, assert_nothing_live, drain, guard, listen, new_loop,
    own_address, pump, recorded, settle, test_clock_loop,
};

/// A listener whose queue is full, so that one more connection is neither made nor refused.
struct FullListener {
    listener: RawSocket,
    _waiting: Vec<RawSocket>,
}

impl FullListener {
    fn new() -> Self {
        let stream = || RawSocket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let listener = stream();
        listener.bind(&own_address().into()).expect("a port");
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().expect("it is bound");
        // What does not get in waits; two are enough on Linux, more do no harm.
        let waiting = (0..4).map(|_| {
            let socket = stream();
            socket.set_nonblocking(true).expect("a socket");
            let _under_way = socket.connect(&address);
            socket
        });
        Self { _waiting: waiting.collect(), listener }
    }

    fn address(&self) -> SocketAddr {
        let address = self.listener.local_addr().expect("it is bound");
        address.as_socket().expect("an IP address")
    }
}

#[test]
fn both_sides_learn_where_the_connection_came_from() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listening = {
        let record = server.clone();
        server
            .builder()
            .on_open(move |(), socket, (), info| {
                assert_eq!(info.origin(), Origin::Accepted);
                assert!(!info.is_client());
                assert_eq!(info.peer_addr(), Some(socket.peer_addr().expect("it is open")));
                assert!(socket.is_established());
                record.add_socket(socket, Event::Open);
            })
            .build(&event_loop, ())?
    };
    let connecting = {
        let record = client.clone();
        client
            .builder()
            .on_open(move |(), socket, (), info| {
                assert_eq!(info.origin(), Origin::Connected);
                assert!(info.is_client());
                assert_eq!(info.peer_addr(), None);
                record.add_socket(socket, Event::Open);
            })
            .build(&event_loop, ())?
    };
    let listener = listen(&listening);
    let socket = connecting.connect(listener.local_addr()?)?;
    assert!(!socket.is_established());
    assert!(!socket.is_closed());
    assert_eq!(socket.close_reason(), None);
    assert!(client.events().is_empty(), "nothing is called back inside `connect`");

    pump(&event_loop, || client.opened() == 1 && server.opened() == 1);
    let accepted = server.socket();
    assert_eq!(client.socket(), socket);
    assert!(socket.is_established());
    assert_ne!(accepted.id(), socket.id());
    assert_eq!(socket.peer_addr()?, listener.local_addr()?);
    assert_eq!(socket.local_addr()?, accepted.peer_addr()?);
    assert_eq!(accepted.local_addr()?, listener.local_addr()?);
    assert!(matches!(socket.peer_unix_addr(), Err(UsError::InvalidAddress { .. })));
    assert_eq!(event_loop.metrics().connects, 1);
    assert_eq!(event_loop.metrics().accepted, 1);

    // Each closes once, and the state is gone then.
    drop(listener);
    socket.close();
    assert_eq!(socket.close_reason(), Some(CloseReason::Local));
    pump(&event_loop, || server.has(&Event::End));
    accepted.close();
    drain(&event_loop);
    assert_eq!(client.take(), [Event::Open, Event::Close(CloseReason::Local)]);
    assert_eq!(server.take(), [Event::Open, Event::End, Event::Close(CloseReason::Local)]);
    drop((listening, connecting));
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn a_socket_takes_nothing_before_it_is_open() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = listen(&recorded(&event_loop, &server));
    let socket = recorded(&event_loop, &client).connect(listener.local_addr()?)?;
    assert_eq!(socket.write(b"too early"), 0);
    assert!(!socket.is_write_pending());
    pump(&event_loop, || client.opened() == 1 && server.opened() == 1);
    settle(&event_loop);
    assert_eq!(client.take(), [Event::Open], "no `on_writable` is owed");
    assert_eq!(socket.write(b"now"), 3);
    pump(&event_loop, || server.data() == b"now");
    Ok(())
}

#[test]
fn states_come_from_the_factory_or_the_caller() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let made = Rc::new(Cell::new(0));
    let count = Rc::clone(&made);
    let context = SocketContext::<false, (), u32>::builder_with(move || {
        count.set(count.get() + 1);
        count.get()
    })
    .build(&event_loop, ())?;
    let listener = listen(&context);
    let address = listener.local_addr()?;
    assert_eq!(context.connect(address)?.with_state(|state| *state)?, 1);
    assert_eq!(context.connect(address)?.with_state(|state| *state)?, 2);
    assert_eq!(context.connect_with_state(address, 77)?.with_state(|state| *state)?, 77);
    let options = ConnectOptions::new();
    assert_eq!(context.connect_with(address, &options, 78)?.with_state(|state| *state)?, 78);
    assert_eq!(made.get(), 2);
    // The accepted ones get theirs when they are accepted.
    pump(&event_loop, || made.get() == 6);
    Ok(())
}

#[test]
fn a_refused_connection_says_so_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let record = Record::<util::Token>::new();
    let context = {
        let (drops, log) = (drops.clone(), record.clone());
        record
            .builder_with(move || drops.token())
            .on_connect_error(move |(), socket, token, error| {
                token.hold();
                assert!(matches!(error, UsError::Io { operation: "connect", .. }), "{error}");
                // The handle is harmless.
                assert!(socket.is_closed());
                assert!(!socket.is_established());
                assert_eq!(socket.write(b"nobody"), 0);
                assert!(matches!(socket.with_state(|_| ()), Err(UsError::StateInUse)));
                socket.close();
                socket.reset();
                log.push(Event::ConnectError(error.kind()));
            })
            .build(&event_loop, ())?
    };
    let nobody = Nobody::new();
    let socket = context.connect(nobody.address())?;
    drain(&event_loop);
    assert_eq!(record.take(), [Event::ConnectError(ErrorKind::ConnectionRefused)]);
    drops.assert_all_dropped();
    assert!(socket.is_closed());
    assert!(matches!(socket.with_state(|_| ()), Err(UsError::Stale)));
    drop(context);
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn a_connection_that_nobody_watches_may_fail() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    let nobody = Nobody::new();
    context.connect(nobody.address())?;
    event_loop.run()?;
    drop(context);
    assert_nothing_live(&event_loop);
    Ok(())
}

/// How a connection fails, whether at once or later: the kind of the error, and whether it was the
/// look-up.
fn failure(target: impl ConnectTarget, options: &ConnectOptions) -> (ErrorKind, bool) {
    let event_loop = new_loop();
    let failure = Rc::new(Cell::new(None));
    let slot = Rc::clone(&failure);
    let context = SocketContext::<false>::builder()
        .on_open(|_, _, _, _| panic!("it must not connect"))
        .on_close(|_, _, _, _| panic!("it was never open"))
        .on_connect_error(move |_, _, _, error| {
            let before = slot.replace(Some(describe(error)));
            assert_eq!(before, None, "reported twice");
        })
        .build(&event_loop, ())
        .expect("a context");
    match context.connect_with(target, options, ()) {
        Err(error) => describe(&error),
        Ok(socket) => {
            drain(&event_loop);
            assert!(socket.is_closed());
            failure.get().expect("an error was reported")
        }
    }
}

fn describe(error: &UsError) -> (ErrorKind, bool) {
    match error {
        UsError::Io { operation, source, .. } => {
            assert_eq!(*operation, "connect");
            assert!(source.raw_os_error().is_some(), "an error of the system has its number");
        }
        UsError::Resolve { code, reason, .. } => {
            assert_ne!(*code, 0);
            assert!(!reason.is_empty());
        }
        other => panic!("{other}"),
    }
    (error.kind(), matches!(error, UsError::Resolve { .. }))
}

#[test]
fn what_cannot_be_reached_says_why() {
    let _guard = guard();
    let defaults = ConnectOptions::new();
    // There is no connection to a group of hosts.
    let multicast = failure("224.0.0.1:80", &defaults);
    assert_eq!(multicast, (ErrorKind::NetworkUnreachable, false));
    // An address of this machine that it does not have (it is reserved for documentation).
    let foreign = ConnectOptions::new().local_addr(SocketAddr::from(([203, 0, 113, 7], 0)));
    let unavailable = failure(Nobody::new().address(), &foreign);
    assert_eq!(unavailable, (ErrorKind::AddrNotAvailable, false));
    // Port 0 is nobody's.
    assert_eq!(failure("127.0.0.1:0", &defaults), (ErrorKind::ConnectionRefused, false));
}

#[test]
fn a_name_without_an_address_says_so() {
    let _guard = guard();
    // An empty label: no resolver has to be asked for that.
    let error = failure("no..such.name:80", &ConnectOptions::new());
    assert_eq!(error, (ErrorKind::NotFound, true));
    let too_long = format!("{}.example", "x".repeat(64));
    let error = failure((too_long, 80), &ConnectOptions::new());
    assert_eq!(error, (ErrorKind::NotFound, true));
}

#[test]
fn targets_that_make_no_sense_are_refused_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<false>::builder()
        .on_connect_error(|_, _, _, _| panic!("there was no attempt"))
        .build(&event_loop, ())?;
    for target in ["", "localhost", "localhost:", "localhost:port", "127.0.0.1:65536", "::1:80"] {
        let error = context.connect(target).expect_err(target);
        assert!(matches!(error, UsError::InvalidAddress { .. }), "{target}: {error}");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    assert!(matches!(context.connect(("a\0b", 80)), Err(UsError::InvalidAddress { .. })));
    assert!(matches!(context.connect(("", 80)), Err(UsError::InvalidAddress { .. })));
    assert_eq!(event_loop.metrics().connects, 0);
    drain(&event_loop);
    drop(context);
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn every_kind_of_target_connects() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = recorded(&event_loop, &server).listen("127.0.0.1:0")?;
    let context = recorded(&event_loop, &client);
    let address = listener.local_addr()?;
    let port = address.port();
    let text = address.to_string();
    let v4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);

    context.connect(address)?;
    context.connect(v4)?;
    context.connect((Ipv4Addr::LOCALHOST, port))?;
    context.connect((IpAddr::V4(Ipv4Addr::LOCALHOST), port))?;
    context.connect(text.as_str())?;
    context.connect(&text)?;
    context.connect(text.clone())?;
    context.connect(("127.0.0.1", port))?;
    context.connect((String::from("127.0.0.1"), port))?;
    context.connect(Target::address(address))?;
    context.connect(Target::name("127.0.0.1", port)?)?;
    context.connect(("localhost", port))?;
    context.connect(format!("localhost:{port}"))?;
    context.connect(Target::name("localhost", port)?)?;
    pump(&event_loop, || client.opened() == 14 && server.opened() == 14);
    Ok(())
}

#[test]
fn ipv6_connects() -> Result<(), UsError> {
    let _guard = guard();
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return Ok(());
    }
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = recorded(&event_loop, &server).listen("[::1]:0")?;
    let address = listener.local_addr()?;
    let context = recorded(&event_loop, &client);
    let socket = context.connect(format!("[::1]:{}", address.port()))?;
    context.connect((Ipv6Addr::LOCALHOST, address.port()))?;
    context.connect(("::1", address.port()))?;
    pump(&event_loop, || client.opened() == 3 && server.opened() == 3);
    assert_eq!(socket.peer_addr()?, address);
    assert!(socket.local_addr()?.is_ipv6());
    Ok(())
}

#[test]
fn a_name_with_several_addresses_tries_them_all() -> Result<(), UsError> {
    let _guard = guard();
    // The server listens on the *last* address of the name.
    let addresses: Vec<_> = ("localhost", 0).to_socket_addrs().expect("a name").collect();
    let last = addresses.last().expect("it has an address");
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = recorded(&event_loop, &server).listen(last)?;
    let port = listener.local_addr()?.port();
    let socket = recorded(&event_loop, &client).connect(("localhost", port))?;
    pump(&event_loop, || client.opened() == 1);
    assert_eq!(socket.peer_addr()?, listener.local_addr()?);
    assert_eq!(client.take(), [Event::Open]);
    Ok(())
}

#[test]
fn the_local_address_can_be_chosen() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = recorded(&event_loop, &server).listen("127.0.0.1:0")?;
    let options = ConnectOptions::new().local_addr(SocketAddr::from(([127, 0, 0, 9], 0)));
    let context = recorded(&event_loop, &client);
    let socket = context.connect_with(listener.local_addr()?, &options, ())?;
    pump(&event_loop, || client.opened() == 1 && server.opened() == 1);
    assert_eq!(socket.local_addr()?.ip(), IpAddr::from([127, 0, 0, 9]));
    assert_eq!(server.socket().peer_addr()?, socket.local_addr()?);

    let by_name =
        context.connect_with(("localhost", listener.local_addr()?.port()), &options, ())?;
    pump(&event_loop, || client.opened() == 2);
    assert_eq!(by_name.local_addr()?.ip(), IpAddr::from([127, 0, 0, 9]));
    Ok(())
}

#[test]
fn closing_before_the_connection_is_made_cancels_it_once() -> Result<(), UsError> {
    let _guard = alone();
    let descriptors = util::Descriptors::now();
    {
        let event_loop = new_loop();
        let full = FullListener::new();
        let drops = Drops::new();
        let cancelled = Rc::new(Cell::new(0));
        let context = {
            let (drops, cancelled) = (drops.clone(), Rc::clone(&cancelled));
            SocketContext::<false, (), _>::builder_with(move || drops.token())
                .on_open(|_, _, _, _| panic!("it was closed before"))
                .on_close(|_, _, _, _| panic!("it was never open"))
                .on_connect_error(move |_, socket, _, error| {
                    assert!(matches!(error, UsError::Cancelled), "{error}");
                    assert_eq!(error.kind(), ErrorKind::Interrupted);
                    assert!(socket.is_closed());
                    cancelled.set(cancelled.get() + 1);
                })
                .build(&event_loop, ())?
        };
        let check = |close: &dyn Fn(&Socket<false, _>), target: Target| {
            cancelled.set(0);
            let socket = context.connect(target)?;
            close(&socket);
            assert!(socket.is_closed());
            assert!(socket.close_reason().is_some_and(|reason| reason.is_local()));
            assert_eq!(cancelled.get(), 0, "nothing is called back inside `close`");
            close(&socket);
            drain(&event_loop);
            assert_eq!(cancelled.get(), 1);
            Ok::<(), UsError>(())
        };
        // Neither made nor refused; about to be made; being looked up.
        let listener = TcpListener::bind(own_address()).expect("a listener");
        let address = listener.local_addr().expect("it is bound");
        for target in [
            Target::address(full.address()),
            Target::address(address),
            Target::name("localhost", 1)?,
        ] {
            check(&|socket| socket.close(), target.clone())?;
            check(&|socket| socket.reset(), target.clone())?;
            check(&|_| context.close(), target.clone())?;
        }
        // After some turns, in the middle of it.
        let socket = context.connect(full.address())?;
        settle(&event_loop);
        assert!(!socket.is_closed());
        cancelled.set(0);
        socket.close();
        drain(&event_loop);
        assert_eq!(cancelled.get(), 1);
        drops.assert_all_dropped();
        drop(context);
        assert_nothing_live(&event_loop);
    }
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn dropping_the_loop_cancels_what_is_being_connected() -> Result<(), UsError> {
    let _guard = alone();
    let full = FullListener::new();
    let descriptors = util::Descriptors::now();
    let drops = Drops::new();
    let errors = Rc::new(Cell::new(0));
    let event_loop = new_loop();
    let context = {
        let (drops, errors) = (drops.clone(), Rc::clone(&errors));
        SocketContext::<false, (), _>::builder_with(move || drops.token())
            .on_connect_error(move |_, _, _, error| {
                assert!(matches!(error, UsError::Cancelled), "{error}");
                errors.set(errors.get() + 1);
            })
            .build(&event_loop, ())?
    };
    context.connect(full.address())?;
    context.connect(("localhost", full.address().port()))?;
    context.connect("127.0.0.1:1")?.close();
    drop(event_loop);
    assert_eq!(errors.get(), 3);
    drops.assert_all_dropped();
    assert!(matches!(context.connect(full.address()), Err(UsError::LoopClosed)));
    // The last handle keeps what wakes the loop.
    drop(context);
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn the_timeout_works_while_connecting() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let full = FullListener::new();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_timeout(move |(), socket, ()| {
            assert!(!socket.is_established());
            log.push(Event::Timeout);
            socket.close();
        })
        .build(&event_loop, ())?;
    let socket = context.connect(full.address())?;
    socket.set_timeout(Duration::from_secs(3))?;
    event_loop.advance_clock(Duration::from_millis(2999))?;
    settle(&event_loop);
    assert!(record.events().is_empty());
    event_loop.advance_clock(Duration::from_millis(10))?;
    pump(&event_loop, || record.ended());
    assert_eq!(record.take(), [Event::Timeout, Event::ConnectError(ErrorKind::Interrupted)]);
    Ok(())
}

#[test]
fn a_failed_attempt_can_be_repeated_from_its_callback() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = listen(&recorded(&event_loop, &server));
    let address = listener.local_addr()?;
    let nobody = Nobody::new();
    let refused = nobody.address();
    let log = client.clone();
    let context = client
        .builder()
        .on_connect_error(move |(), socket, (), error| {
            log.push(Event::ConnectError(error.kind()));
            let context = socket.context::<()>().expect("it is still there");
            let target = if log.events().len() < 3 { refused } else { address };
            context.connect(target).expect("it begins");
        })
        .build(&event_loop, ())?;
    context.connect(refused)?;
    pump(&event_loop, || client.opened() == 1);
    let failed = Event::ConnectError(ErrorKind::ConnectionRefused);
    assert_eq!(client.take(), [failed.clone(), failed.clone(), failed, Event::Open]);
    Ok(())
}

#[test]
fn a_hundred_connections_at_once_are_all_made() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = recorded(&event_loop, &server).listen("127.0.0.1:0")?;
    let context = recorded(&event_loop, &client);
    for index in 0..100 {
        if index % 2 == 0 {
            context.connect(listener.local_addr()?)?;
        } else {
            context.connect(("localhost", listener.local_addr()?.port()))?;
        }
    }
    pump(&event_loop, || client.opened() == 100 && server.opened() == 100);
    context.close();
    drop(listener);
    pump(&event_loop, || server.count(&Event::End) == 100);
    assert_eq!(client.count(&Event::Close(CloseReason::ContextClosed)), 100);
    Ok(())
}

#[test]
fn connecting_on_a_loop_that_is_gone_is_an_error() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop: Loop = Loop::new()?;
    let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    drop(event_loop);
    assert!(matches!(context.connect("127.0.0.1:1"), Err(UsError::LoopClosed)));
    assert!(matches!(context.connect("localhost:1"), Err(UsError::LoopClosed)));
    assert!(matches!(context.connect_unix("/nowhere"), Err(UsError::LoopClosed)));
    Ok(())
}
