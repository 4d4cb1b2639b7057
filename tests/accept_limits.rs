//! What a listener takes: pauses, budgets, limits, and what becomes of those who are too many.

mod util;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read};
use std::iter;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Socket as Socket2, Type};
use usockets::{
    CloseReason, ListenOptions, ListenSocket, Loop, Overload, Refusal, SocketContext, UsError,
};
use util::{
    Event, Peer, Record, drain, guard, listen, new_loop, own_address, pump, recorded, settle,
    test_clock_loop,
};

fn listen_with<T: 'static, S: 'static>(
    context: &SocketContext<false, T, S>,
    options: &ListenOptions,
) -> ListenSocket {
    context.listen_with(own_address(), options).expect("a listener")
}

fn address_of(listener: &ListenSocket) -> SocketAddr {
    listener.local_addr().expect("it is bound")
}

/// A client with an address of the test's choice.
fn connect_from(source: [u8; 4], address: SocketAddr) -> Peer {
    let socket = Socket2::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source = SocketAddr::from((Ipv4Addr::from(source), 0));
    socket.bind(&source.into()).expect("an address of this machine");
    socket.connect(&address.into()).expect("it listens");
    Peer::from_stream(socket.into())
}

/// Waits until a peer's connection has ended, and says how.
#[track_caller]
fn end_of(event_loop: &Loop, peer: &Peer) -> Result<(), ErrorKind> {
    let result = Cell::new(None);
    pump(event_loop, || {
        match peer.stream().read(&mut [0; 8]) {
            Ok(0) => result.set(Some(Ok(()))),
            Ok(_) => panic!("somebody has written"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => result.set(Some(Err(error.kind()))),
        }
        result.get().is_some()
    });
    result.get().expect("it has ended")
}

// -- Pauses and budgets -----------------------------------------------------------------------

#[test]
fn a_paused_listener_lets_connections_wait() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = listen(&context);
    assert!(!listener.is_paused());
    listener.pause();
    listener.pause();
    assert!(listener.is_paused());
    let mut peer = Peer::connect(address_of(&listener));
    settle(&event_loop);
    assert_eq!(record.opened(), 0);
    assert!(event_loop.is_alive(), "a paused listener keeps the loop running");
    listener.resume();
    listener.resume();
    assert!(!listener.is_paused());
    pump(&event_loop, || record.opened() == 1);
    // Sockets go on while their listener is paused.
    listener.pause();
    peer.write(&event_loop, b"go on");
    pump(&event_loop, || record.data() == b"go on");
    Ok(())
}

#[test]
fn a_closed_listener_neither_pauses_nor_counts() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = recorded(&event_loop, &Record::<()>::new());
    let options = ListenOptions::new().max_connections(5, Overload::StopAccepting);
    let listener = listen_with(&context, &options);
    assert_eq!(listener.connections(), Some(0));
    listener.pause();
    context.close();
    for _ in 0..3 {
        assert!(!listener.is_paused());
        assert_eq!(listener.connections(), None);
        listener.resume();
        listener.pause();
        settle(&event_loop);
    }
    drop(event_loop);
    listener.resume();
    assert!(!listener.is_paused());
    assert_eq!(listener.connections(), None);
    Ok(())
}

#[test]
fn pausing_inside_on_open_takes_effect_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let slot = Rc::new(RefCell::new(None::<ListenSocket>));
    let (log, own) = (record.clone(), Rc::clone(&slot));
    let context = record
        .builder()
        .on_open(move |(), socket, (), _| {
            log.add_socket(socket, Event::Open);
            own.borrow().as_ref().expect("it listens").pause();
        })
        .build(&event_loop, ())?;
    *slot.borrow_mut() = Some(listen(&context));
    let address = address_of(slot.borrow().as_ref().expect("it listens"));
    let _peers: Vec<_> = (0..4).map(|_| Peer::connect(address)).collect();
    for open in 1..=4 {
        pump(&event_loop, || record.opened() == open);
        settle(&event_loop);
        assert_eq!(record.opened(), open);
        slot.borrow().as_ref().expect("it listens").resume();
    }
    Ok(())
}

#[test]
fn a_budget_bounds_what_one_turn_accepts() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = listen_with(&context, &ListenOptions::new().accept_budget(2));
    let _peers: Vec<_> = (0..9).map(|_| Peer::connect(address_of(&listener))).collect();
    while record.opened() < 9 {
        let before = record.opened();
        event_loop.turn(None)?;
        assert!(record.opened() <= before + 2);
    }
    Ok(())
}

// -- Limits of the listener -------------------------------------------------------------------

#[test]
fn a_full_listener_goes_on_when_a_socket_is_gone() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new().max_connections(2, Overload::StopAccepting);
    let listener = listen_with(&context, &options);
    let _peers: Vec<_> = (0..6).map(|_| Peer::connect(address_of(&listener))).collect();
    for open in 2..=6 {
        pump(&event_loop, || record.opened() == open);
        settle(&event_loop);
        assert_eq!(record.opened(), open);
        assert_eq!(listener.connections(), Some(2));
        assert!(!listener.is_paused());
        record.socket().close();
    }
    pump(&event_loop, || listener.connections() == Some(1));
    assert_eq!(event_loop.metrics().refused_connections, 0);
    Ok(())
}

#[test]
fn a_full_listener_lets_the_loop_sleep() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new().max_connections(1, Overload::StopAccepting);
    let listener = listen_with(&context, &options);
    let _peers: Vec<_> = (0..3).map(|_| Peer::connect(address_of(&listener))).collect();
    pump(&event_loop, || record.opened() == 1);
    let before = event_loop.metrics().waits;
    event_loop.run_for(Duration::from_millis(200))?;
    // Strangers knock at ports on some machines; what waits in the backlog wakes nobody.
    assert!(event_loop.metrics().waits - before < 20, "{:?}", event_loop.metrics());
    Ok(())
}

#[test]
fn a_full_listener_turns_others_away_if_told_to() -> Result<(), UsError> {
    let _guard = guard();
    for (refusal, expected) in
        [(Refusal::Close, Ok(())), (Refusal::Reset, Err(ErrorKind::ConnectionReset))]
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = record
            .builder()
            .accept_filter(|(), incoming| incoming.accept())
            .build(&event_loop, ())?;
        let options = ListenOptions::new().max_connections(1, Overload::Refuse(refusal));
        let listener = listen_with(&context, &options);
        let first = Peer::connect(address_of(&listener));
        pump(&event_loop, || record.opened() == 1);
        for refused in 1..=3 {
            let peer = Peer::connect(address_of(&listener));
            assert_eq!(end_of(&event_loop, &peer), expected);
            assert_eq!(event_loop.metrics().refused_connections, refused);
        }
        assert_eq!(record.take(), [Event::Open], "callbacks know nothing of them");
        assert_eq!(listener.connections(), Some(1));
        drop(first);
        pump(&event_loop, || record.has(&Event::End));
        record.socket().close();
        pump(&event_loop, || listener.connections() == Some(0));
        let _again = Peer::connect(address_of(&listener));
        pump(&event_loop, || record.opened() == 2);
    }
    Ok(())
}

#[test]
fn what_the_filter_refuses_or_takes_does_not_count() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let taken = Rc::new(RefCell::new(Vec::new()));
    let keep = Rc::clone(&taken);
    let context = record
        .builder()
        .accept_filter(move |(), incoming| {
            count.set(count.get() + 1);
            match count.get() {
                1 => incoming.refuse(),
                2 => keep.borrow_mut().push(incoming.into_fd()),
                _ => incoming.accept(),
            }
        })
        .build(&event_loop, ())?;
    let options = ListenOptions::new()
        .max_connections(1, Overload::StopAccepting)
        .max_connections_per_address(1, Refusal::Close);
    let listener = listen_with(&context, &options);
    let mut peers = Vec::new();
    for number in 1..=3 {
        peers.push(Peer::connect(address_of(&listener)));
        pump(&event_loop, || asked.get() == number);
        assert_eq!(listener.connections(), Some(u32::from(number == 3)));
    }
    pump(&event_loop, || record.opened() == 1);
    // What was taken away can come back by another door, past the limit.
    context.accept_fd(taken.borrow_mut().pop().expect("one was taken"))?;
    pump(&event_loop, || record.opened() == 2);
    assert_eq!(listener.connections(), Some(1));
    Ok(())
}

#[test]
fn an_adopted_socket_counts_until_it_is_gone() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (record, moved) = (Record::<()>::new(), Record::<[u64; 100]>::new());
    let context = recorded(&event_loop, &record);
    let target = moved.builder_with(|| [0; 100]).build(&event_loop, ())?;
    let options = ListenOptions::new().max_connections(1, Overload::StopAccepting);
    let listener = listen_with(&context, &options);
    let _peers: Vec<_> = (0..2).map(|_| Peer::connect(address_of(&listener))).collect();
    pump(&event_loop, || record.opened() == 1);
    record.socket().adopt(&target, 0, |()| [1; 100])?;
    pump(&event_loop, || moved.opened() == 1);
    settle(&event_loop);
    assert_eq!((record.opened(), listener.connections()), (1, Some(1)));
    moved.socket().close();
    pump(&event_loop, || record.opened() == 2);
    Ok(())
}

#[test]
fn a_socket_that_lingers_counts_until_its_output_is_sent() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop(); // however slow the reader, no deadline passes
    let record = Record::<()>::new();
    let context = record.builder().build(&event_loop, ())?;
    let options =
        ListenOptions::new().send_buffer(64 << 10).max_connections(1, Overload::StopAccepting);
    let listener = listen_with(&context, &options);
    let mut peer = Peer::connect(address_of(&listener));
    pump(&event_loop, || record.opened() == 1);
    // More than the system takes.
    let output = vec![7; 8 << 20];
    record.socket().send(&output)?;
    record.socket().close();
    pump(&event_loop, || record.closed() == Some(CloseReason::Local));
    settle(&event_loop);
    assert_eq!(listener.connections(), Some(1));
    let _next = Peer::connect(address_of(&listener));
    settle(&event_loop);
    assert_eq!(record.opened(), 1);
    assert_eq!(peer.read_to_end(&event_loop).len(), output.len());
    drop(peer);
    pump(&event_loop, || record.opened() == 2);
    Ok(())
}

#[test]
fn sockets_outlive_the_listener_that_counted_them() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new()
        .max_connections(1, Overload::StopAccepting)
        .max_connections_per_address(1, Refusal::Reset);
    let listener = listen_with(&context, &options);
    let mut peer = Peer::connect(address_of(&listener));
    pump(&event_loop, || record.opened() == 1);
    drop(listener);
    settle(&event_loop);
    let other = listen_with(&context, &options);
    peer.write(&event_loop, b"still here");
    pump(&event_loop, || record.data() == b"still here");
    record.socket().close();
    pump(&event_loop, || record.ended());
    settle(&event_loop);
    assert_eq!(other.connections(), Some(0));
    drop(other);
    drain(&event_loop);
    Ok(())
}

#[test]
fn a_panic_loses_no_place() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let opened = Rc::new(Cell::new(0));
    let count = Rc::clone(&opened);
    let context = SocketContext::<false, (), u8>::builder_with(move || {
        count.set(count.get() + 1);
        assert_ne!(count.get(), 1, "the first state cannot be made");
        0
    })
    .on_open(|(), socket, _, _| socket.close())
    .build(&event_loop, ())?;
    let options = ListenOptions::new()
        .max_connections(1, Overload::StopAccepting)
        .max_connections_per_address(1, Refusal::Reset);
    let listener = listen_with(&context, &options);
    let _first = Peer::connect(address_of(&listener));
    let panicked = catch_unwind(AssertUnwindSafe(|| pump(&event_loop, || false)));
    assert!(panicked.is_err());
    pump(&event_loop, || listener.connections() == Some(0));
    let _second = Peer::connect(address_of(&listener));
    pump(&event_loop, || opened.get() == 2);
    pump(&event_loop, || listener.connections() == Some(0));
    Ok(())
}

// -- Limits per address -----------------------------------------------------------------------

#[test]
fn each_address_has_its_share() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new().max_connections_per_address(2, Refusal::Close);
    let listener = listen_with(&context, &options);
    let mut peers = Vec::new();
    for source in (1..=20).map(|last| [127, 3, 0, last]) {
        let before = record.opened();
        peers.extend((0..2).map(|_| connect_from(source, address_of(&listener))));
        pump(&event_loop, || record.opened() == before + 2);
        let refused = connect_from(source, address_of(&listener));
        assert_eq!(end_of(&event_loop, &refused), Ok(()));
    }
    assert_eq!(listener.connections(), Some(40));
    assert_eq!(event_loop.metrics().refused_connections, 20);
    // Whoever has lost one may have another.
    record.socket().close();
    pump(&event_loop, || listener.connections() == Some(39));
    peers.push(connect_from([127, 3, 0, 20], address_of(&listener)));
    pump(&event_loop, || record.opened() == 41);
    let refused = connect_from([127, 3, 0, 20], address_of(&listener));
    assert_eq!(end_of(&event_loop, &refused), Ok(()));
    Ok(())
}

#[test]
fn an_ipv4_peer_of_an_ipv6_listener_counts_as_itself() -> Result<(), UsError> {
    let _guard = guard();
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return Ok(());
    }
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new().max_connections_per_address(1, Refusal::Reset);
    // If no port is left that is free on all addresses, take one that the system does not give away.
    let ports = iter::once(0).chain(20_000..20_100);
    let addresses: Vec<_> =
        ports.map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).collect();
    let listener = context.listen_with(&addresses[..], &options)?;
    let port = address_of(&listener).port();
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let _first = connect_from([127, 3, 1, 1], four);
    let _second = connect_from([127, 3, 1, 2], four);
    let _six = TcpStream::connect(("::1", port)).expect("it listens");
    pump(&event_loop, || record.opened() == 3);
    let refused = connect_from([127, 3, 1, 2], four);
    assert_eq!(end_of(&event_loop, &refused), Err(ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn both_limits_hold_together() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new()
        .max_connections(3, Overload::Refuse(Refusal::Reset))
        .max_connections_per_address(2, Refusal::Close);
    let listener = listen_with(&context, &options);
    let address = address_of(&listener);
    let connect = |last| connect_from([127, 3, 2, last], address);
    let _both = [connect(1), connect(1)];
    pump(&event_loop, || record.opened() == 2);
    assert_eq!(end_of(&event_loop, &connect(1)), Ok(()), "beyond its share");
    let _third = connect(2);
    pump(&event_loop, || record.opened() == 3);
    let full = Err(ErrorKind::ConnectionReset);
    assert_eq!(end_of(&event_loop, &connect(2)), full, "beyond all");
    assert_eq!(end_of(&event_loop, &connect(3)), full, "beyond all");
    assert_eq!(event_loop.metrics().refused_connections, 3);
    Ok(())
}
