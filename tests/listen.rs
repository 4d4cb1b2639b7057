//! Listeners: addresses, options, what is accepted and what is not, and running out of descriptors.

mod util;

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use usockets::{ListenOptions, Loop, Origin, SocketContext, Timer, UsError};
use util::{
    Echo, Event, Peer, Record, accept_one, assert_nothing_live, child_role, drain, guard, listen,
    new_loop, own_address, pump, recorded, run_child, settle,
};

fn context(event_loop: &Loop) -> SocketContext<false> {
    SocketContext::builder().build(event_loop, ()).expect("a context")
}

#[track_caller]
fn assert_refuses(address: SocketAddr) {
    let error = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

// -- Addresses and options --------------------------------------------------------------------

#[test]
fn port_zero_is_a_port_of_the_systems_choice() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let (first, second) = (context.listen("127.0.0.1:0")?, context.listen("127.0.0.1:0")?);
    assert_ne!(first.local_addr()?.port(), 0);
    assert_ne!(first.local_addr()?, second.local_addr()?);
    assert_eq!(first.local_addr()?.ip(), IpAddr::from([127, 0, 0, 1]));
    assert!(matches!(first.local_unix_addr(), Err(UsError::InvalidAddress { .. })));
    assert_eq!(first.event_loop(), *event_loop);
    assert_eq!(event_loop.metrics().live_listeners, 2);
    Ok(())
}

#[test]
fn a_port_in_use_is_an_error() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let listener = listen(&context);
    let check = |address: SocketAddr| {
        let error = context.listen(address).expect_err("the port is taken");
        assert!(matches!(error, UsError::Io { operation: "listen", .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    };
    check(listener.local_addr()?);
    let foreign = TcpListener::bind(own_address()).expect("a listener");
    check(foreign.local_addr().expect("it is bound"));
    assert_eq!(event_loop.metrics().live_listeners, 1);
    Ok(())
}

#[test]
fn an_address_of_another_machine_is_an_error() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let error = context(&event_loop).listen("203.0.113.7:0").expect_err("not our address");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    Ok(())
}

#[test]
fn what_is_no_address_is_an_error() {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    for address in ["", "localhost", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536"] {
        let error = context.listen(address).expect_err(address);
        assert!(matches!(error, UsError::Io { operation: "listen", .. }), "{address}: {error}");
    }
    assert_eq!(context.listen("127.0.0.1").expect_err("no port").kind(), ErrorKind::InvalidInput);
    let none: &[SocketAddr] = &[];
    let error = context.listen(none).expect_err("no address at all");
    assert!(matches!(error, UsError::InvalidAddress { .. }), "{error}");
    let error = context.listen("no..such.name:80").expect_err("no such name");
    assert!(matches!(error, UsError::Io { operation: "listen", .. }), "{error}");
}

#[test]
fn a_name_is_looked_up_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let listener = context(&event_loop).listen(("localhost", 0))?;
    assert!(listener.local_addr()?.ip().is_loopback());
    Ok(())
}

#[test]
fn the_first_of_several_addresses_that_works_is_taken() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let taken = listen(&context);
    let listener = context.listen(&[taken.local_addr()?, own_address()][..])?;
    assert_ne!(listener.local_addr()?, taken.local_addr()?);
    // Where none works, the last one says why.
    let foreign = SocketAddr::from(([203, 0, 113, 7], 0));
    let error = context.listen(&[foreign, taken.local_addr()?][..]).expect_err("none works");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let error = context.listen(&[taken.local_addr()?, foreign][..]).expect_err("none works");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    Ok(())
}

#[test]
fn a_port_is_shared_by_those_who_ask_for_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new().reuse_port(true);
    let first = context.listen_with(own_address(), &options)?;
    let address = first.local_addr()?;
    let second = context.listen_with(address, &options)?;
    assert_eq!(second.local_addr()?, address);
    let error = context.listen(address).expect_err("it did not ask for it");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    // Every connection is served, whichever listener gets it.
    let peers: Vec<_> = (0..40).map(|_| Peer::connect(address)).collect();
    pump(&event_loop, || record.opened() == peers.len());
    // And by the one that is left.
    drop(first);
    let _peer = Peer::connect(address);
    pump(&event_loop, || record.opened() == peers.len() + 1);
    Ok(())
}

#[test]
fn a_port_can_be_listened_on_again_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = listen(&context);
    let address = listener.local_addr()?;
    let peer = Peer::connect(address);
    pump(&event_loop, || record.opened() == 1);
    // We close first, so that the port has a connection in TIME_WAIT.
    record.socket().close();
    drop(listener);
    pump(&event_loop, || record.ended());
    drop(peer);
    let _again = context.listen(address)?;
    Ok(())
}

#[test]
fn an_ipv6_listener_takes_ipv4_unless_told_not_to() -> Result<(), UsError> {
    let _guard = guard();
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return Ok(());
    }
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let both = context.listen("[::]:0")?;
    let port = both.local_addr()?.port();
    let _v6 = Peer::connect(SocketAddr::from((IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), port)));
    let _v4 = Peer::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    pump(&event_loop, || record.opened() == 2);
    // An IPv4 peer has an IPv4 address.
    let addresses: Vec<_> = [record.socket()].iter().map(|socket| socket.peer_addr()).collect();
    assert!(addresses.iter().all(Result::is_ok));

    let only = context.listen_with("[::]:0", &ListenOptions::new().ipv6_only(true))?;
    let port = only.local_addr()?.port();
    assert_refuses(SocketAddr::from(([127, 0, 0, 1], port)));
    let _v6 = Peer::connect(SocketAddr::from((IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), port)));
    pump(&event_loop, || record.opened() == 3);
    Ok(())
}

#[test]
fn the_backlog_is_a_number_above_zero() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let error = context
        .listen_with(own_address(), &ListenOptions::new().backlog(0))
        .expect_err("no backlog at all");
    assert!(matches!(error, UsError::InvalidOption { option: "backlog", .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    for backlog in [1, 1024, u32::MAX] {
        let options = ListenOptions::new().backlog(backlog);
        let listener = context.listen_with(own_address(), &options)?;
        let _peer = Peer::connect(listener.local_addr()?);
    }
    Ok(())
}

// -- Life -------------------------------------------------------------------------------------

#[test]
fn a_listener_closes_when_dropped_or_told() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let listener = listen(&context);
    let address = listener.local_addr()?;
    assert!(!listener.is_closed());
    assert!(format!("{listener:?}").contains(&address.to_string()));
    drop(listener);
    assert_refuses(address);
    let listener = listen(&context);
    let address = listener.local_addr()?;
    listener.close();
    assert_refuses(address);
    event_loop.run()?;
    assert_eq!(event_loop.metrics().live_listeners, 0);
    Ok(())
}

#[test]
fn a_detached_listener_closes_with_its_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let kept = listen(&context);
    let detached = listen(&context);
    let address = detached.local_addr()?;
    detached.detach();
    let _peer = Peer::connect(address);
    pump(&event_loop, || record.opened() == 1);

    context.close();
    assert!(kept.is_closed());
    assert!(matches!(kept.local_addr(), Err(UsError::Closed)));
    assert!(matches!(kept.with_fd(|_| ()), Err(UsError::Closed)));
    assert_refuses(address);
    drain(&event_loop);
    // And with the loop.
    let detached = listen(&context);
    let address = detached.local_addr()?;
    detached.detach();
    drop(event_loop);
    assert_refuses(address);
    assert!(kept.is_closed());
    assert!(matches!(kept.local_addr(), Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn a_listener_keeps_the_loop_running_and_its_sockets_outlive_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = listen(&context);
    assert!(event_loop.is_alive());
    let mut peer = Peer::connect(listener.local_addr()?);
    pump(&event_loop, || record.opened() == 1);
    drop(listener);
    peer.write(&event_loop, b"still here");
    pump(&event_loop, || record.data() == b"still here");
    record.socket().close();
    drain(&event_loop);
    assert!(!event_loop.is_alive());
    Ok(())
}

#[test]
fn closing_a_listener_inside_its_own_accept() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let slot = Rc::new(RefCell::new(None));
    let (log, listener) = (record.clone(), Rc::clone(&slot));
    let context = record
        .builder()
        .on_open(move |(), socket, (), _| {
            log.add_socket(socket, Event::Open);
            drop(listener.take());
        })
        .build(&event_loop, ())?;
    *slot.borrow_mut() = Some(listen(&context));
    let address = slot.borrow().as_ref().expect("it listens").local_addr()?;
    let peers: Vec<_> = (0..10).map(|_| Peer::connect(address)).collect();
    pump(&event_loop, || record.opened() > 0);
    settle(&event_loop);
    assert_eq!(record.opened(), 1, "accepted by a closed listener");
    assert_refuses(address);
    drop(peers);
    Ok(())
}

#[test]
fn listening_inside_a_callback() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let addresses = Rc::new(RefCell::new(Vec::new()));
    let more = Rc::clone(&addresses);
    let context = record
        .builder()
        .on_open(move |(), socket, (), _| {
            log.add_socket(socket, Event::Open);
            let context = socket.context::<()>().expect("it is still there");
            let listener = listen(&context);
            more.borrow_mut().push(listener.local_addr().expect("it is bound"));
            listener.detach();
        })
        .build(&event_loop, ())?;
    let (_, _peer) = accept_one(&event_loop, &context, &record);
    let _other = Peer::connect(addresses.borrow()[0]);
    pump(&event_loop, || record.opened() == 2);
    Ok(())
}

// -- The accept filter ------------------------------------------------------------------------

#[test]
fn the_filter_keeps_refuses_and_takes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let taken = Rc::new(RefCell::new(Vec::<OwnedFd>::new()));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let context = {
        let (taken, seen) = (Rc::clone(&taken), Rc::clone(&seen));
        let mut count = 0;
        record
            .builder()
            .accept_filter(move |(), incoming| {
                let peer = incoming.peer_addr().expect("an IP address");
                assert!(format!("{incoming:?}").contains("peer"));
                // The descriptor is there to be asked.
                let fd = incoming.as_fd();
                let asked = SockRef::from(&fd).peer_addr().expect("it is connected");
                assert_eq!(asked.as_socket(), Some(peer));
                seen.borrow_mut().push(peer);
                count += 1;
                match count {
                    1 => incoming.accept(),
                    2 => incoming.refuse(),
                    3 => taken.borrow_mut().push(incoming.into_fd()),
                    // As if it had been accepted.
                    _ => {
                        let _dropped = incoming;
                    }
                }
            })
            .build(&event_loop, ())?
    };
    let listener = listen(&context);
    let connect = || {
        let peer = Peer::connect(listener.local_addr().expect("it is bound"));
        let number = seen.borrow().len() + 1;
        pump(&event_loop, || seen.borrow().len() == number);
        settle(&event_loop);
        let address = peer.stream().local_addr().expect("it is connected");
        assert_eq!(seen.borrow().last(), Some(&address));
        peer
    };
    let (accepted, mut refused, taken_away, dropped) = (connect(), connect(), connect(), connect());
    assert_eq!(record.take(), [Event::Open, Event::Open], "of the first and the last");
    assert!(refused.read_to_end(&event_loop).is_empty());
    drop((accepted, dropped));

    // What was taken away is ours alone.
    let fd = taken.borrow_mut().pop().expect("one was taken");
    let mut server = TcpStream::from(fd);
    server.set_nonblocking(false).expect("a socket");
    let mut client = taken_away.into_stream();
    client.set_nonblocking(false).expect("a socket");
    server.write_all(b"hello").expect("it is connected");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("it is connected");
    assert_eq!(&answer, b"hello");
    Ok(())
}

#[test]
fn the_filter_hands_connections_to_another_loop() -> Result<(), UsError> {
    let _guard = guard();
    let (front, back) = (new_loop(), new_loop());
    let record = Record::<()>::new();
    let log = record.clone();
    let worker = record
        .builder()
        .on_open(move |(), socket, (), info| {
            assert_eq!(info.origin(), Origin::HandedOver);
            log.add_socket(socket, Event::Open);
        })
        .build(&back, ())?;
    let acceptor = {
        let worker = worker.clone();
        SocketContext::<false>::builder()
            .accept_filter(move |(), incoming| {
                worker.accept_fd(incoming.into_fd()).expect("the other loop is there");
            })
            .on_open(|_, _, _, _| panic!("the connection was taken"))
            .on_close(|_, _, _, _| panic!("the connection was taken"))
            .build(&front, ())?
    };
    let listener = listen(&acceptor);
    let mut peer = Peer::connect(listener.local_addr()?);
    pump(&front, || back.is_alive());
    assert_eq!(front.metrics().live_sockets, 0);
    peer.write(&back, b"over there");
    pump(&back, || record.data() == b"over there");
    assert_eq!(record.socket().write(b"over here"), 9);
    assert_eq!(peer.read(&back, 9), b"over here");
    Ok(())
}

#[test]
fn a_filter_may_use_the_state_and_close_its_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let slot = Rc::new(RefCell::new(None::<SocketContext<false, u32>>));
    let own = Rc::clone(&slot);
    let context = SocketContext::<false, u32>::builder()
        .accept_filter(move |count, incoming| {
            *count += 1;
            if *count == 2 {
                let context = own.take().expect("it was put there");
                context.close();
                assert!(matches!(context.with_state(|_| ()), Err(UsError::StateInUse)));
            }
            incoming.accept();
        })
        .build(&event_loop, 0)?;
    *slot.borrow_mut() = Some(context.clone());
    let listener = listen(&context);
    let address = listener.local_addr()?;
    let peers: Vec<_> = (0..5).map(|_| Peer::connect(address)).collect();
    pump(&event_loop, || context.with_state(|count| *count >= 2).expect("not lent"));
    settle(&event_loop);
    assert!(listener.is_closed());
    assert_eq!(context.with_state(|count| *count)?, 2, "accepted by a closed listener");
    // The one that the filter was asked about has proceeded: it was no socket of the context yet.
    assert_eq!(event_loop.metrics().live_sockets, 1);
    drop(peers);
    drain(&event_loop);
    drop((context, listener));
    assert_nothing_live(&event_loop);
    Ok(())
}

// -- Descriptors run out ----------------------------------------------------------------------

/// Descriptors that the child may have.
const LIMIT: u64 = 64;

/// How often a listener without descriptors may look again in half a second.
const ATTEMPTS_MAX: u64 = 20;

#[test]
fn running_out_of_descriptors_holds_up_new_connections_only() {
    if child_role().is_some() {
        serve_with_few_descriptors().expect("the server works");
        return;
    }
    let _guard = guard();
    let name = "running_out_of_descriptors_holds_up_new_connections_only";
    let mut child = run_child(name, "server");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let mut wait_for = |what: &str| {
        let found = lines.find_map(|line| {
            let line = line.expect("text");
            line.split_once(what).map(|(_, rest)| rest.to_owned())
        });
        found.unwrap_or_else(|| panic!("the child did not say `{what}`"))
    };
    let address: SocketAddr = wait_for("listening on ").parse().expect("an address");
    let mut first = TcpStream::connect(address).expect("it listens");
    let echo = |stream: &mut TcpStream| {
        stream.write_all(b"x").expect("it is connected");
        stream.read_exact(&mut [0]).expect("an echo");
    };
    echo(&mut first);
    // More than it can take; they wait in the listener's queue.
    let mut others: Vec<_> = (0..LIMIT + 20)
        .map(|_| TcpStream::connect(address).expect("there is room in the queue"))
        .collect();
    wait_for("out of descriptors");
    // Those who were there are served meanwhile.
    for _ in 0..100 {
        echo(&mut first);
    }
    wait_for("did not spin");
    // Some go, and those who waited get in.
    others.drain(..40);
    for stream in &mut others {
        echo(stream);
    }
    echo(&mut first);
    drop((first, others));
    drop(child.stdin.take());
    assert!(child.wait().expect("the child ends").success());
}

/// The server, in a process of its own.
fn serve_with_few_descriptors() -> Result<(), UsError> {
    let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: LIMIT };
    // SAFETY: a valid structure of this process.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0, "the limit cannot be lowered");
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    println!("listening on {}", echo.address());
    pump(&event_loop, || event_loop.metrics().accept_failures > 0);
    println!("out of descriptors");

    // For half a second: tries now and then, and does not spin.
    let before = event_loop.metrics();
    let waited = Rc::new(Cell::new(false));
    let done = Rc::clone(&waited);
    let timer = Timer::new(&event_loop, ())?;
    timer.set(Duration::from_millis(500), None, move |_, ()| done.set(true))?;
    while !waited.get() {
        event_loop.turn(None)?;
    }
    let after = event_loop.metrics();
    let failures = after.accept_failures - before.accept_failures;
    let iterations = after.iterations - before.iterations;
    let served = after.receives - before.receives;
    assert!(failures <= ATTEMPTS_MAX, "{failures} attempts in half a second");
    assert!(iterations <= served + 2 * ATTEMPTS_MAX, "{iterations} iterations, {served} served");
    println!("did not spin");

    // Until everybody has gone.
    let context = echo.context.clone();
    pump(&event_loop, || event_loop.metrics().accepted > LIMIT + 20);
    pump(&event_loop, || event_loop.metrics().live_sockets == 0);
    drop((echo, context, timer));
    drain(&event_loop);
    assert_nothing_live(&event_loop);
    Ok(())
}
