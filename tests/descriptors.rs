//! Descriptors in and out.

#![cfg(unix)]

mod util;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use usockets::{CloseReason, Origin, SocketContext, UsError};
use util::{
    Descriptors, Drops, Event, Peer, Record, accept_one, alone, assert_nothing_live, drain, guard,
    listen, new_loop, own_address, panic_of, pump, recorded, settle, tcp_pair, unix_pair,
};

// -- In ---------------------------------------------------------------------------------------

#[test]
fn connected_sockets_of_std_are_taken_over() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let log = record.clone();
        let context = record
            .builder()
            .on_open(move |(), socket, (), info| {
                assert_eq!(info.origin(), Origin::HandedOver);
                assert!(!info.is_client());
                assert_eq!(info.peer_addr(), None);
                log.add_socket(socket, Event::Open);
            })
            .build(&event_loop, ())?;
        let (tcp, mut far_tcp) = tcp_pair();
        let (unix, mut far_unix) = unix_pair();
        let (plain, mut far_plain) = unix_pair();
        let sockets = [
            context.accept_fd(tcp)?,
            context.accept_fd(unix)?,
            context.accept_fd(OwnedFd::from(plain))?,
        ];
        assert!(record.take().is_empty(), "nothing is called back inside `accept_fd`");
        assert!(sockets.iter().all(|socket| !socket.is_established()));
        assert_eq!(sockets[0].write(b"too early"), 0);
        // A pending open is live.
        assert!(event_loop.is_alive());
        event_loop.turn(None)?;
        assert_eq!(record.take(), [Event::Open, Event::Open, Event::Open]);
        for socket in &sockets {
            assert!(socket.is_established());
            assert_eq!(socket.write(b"hi"), 2);
        }
        for far in [&mut far_tcp as &mut dyn Read, &mut far_unix, &mut far_plain] {
            let mut text = [0; 2];
            far.read_exact(&mut text).expect("it is connected");
            assert_eq!(&text, b"hi");
        }
        far_tcp.write_all(b"from tcp").expect("it is connected");
        pump(&event_loop, || record.data() == b"from tcp");
        drop((far_tcp, far_unix, far_plain));
        pump(&event_loop, || record.count(&Event::Close(CloseReason::HangUp)) == 2);
        sockets[0].close();
        drain(&event_loop);
    }
    before.assert_unchanged();
    Ok(())
}

#[test]
fn a_socket_that_is_taken_over_may_be_closed_before_it_opens() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let record = Record::<util::Token>::new();
    let tokens = drops.clone();
    let context = record.builder_with(move || tokens.token()).build(&event_loop, ())?;
    let (ours, mut theirs) = tcp_pair();
    context.accept_fd(ours)?.close();
    drain(&event_loop);
    assert_eq!(record.take(), [Event::ConnectError(ErrorKind::Interrupted)]);
    drops.assert_all_dropped();
    assert_eq!(theirs.read(&mut [0; 8]).expect("it was connected"), 0);

    // Or go with the loop.
    let (ours, mut theirs) = tcp_pair();
    context.accept_fd(ours)?;
    drop(event_loop);
    assert_eq!(record.take(), [Event::ConnectError(ErrorKind::Interrupted)]);
    drops.assert_all_dropped();
    assert_eq!(theirs.read(&mut [0; 8]).expect("it was connected"), 0);
    Ok(())
}

#[test]
fn a_factory_that_panics_closes_the_descriptor() -> Result<(), UsError> {
    let _guard = alone();
    let event_loop = new_loop();
    let context = SocketContext::<false, (), u8>::builder_with(|| panic!("no state"))
        .on_open(|_, _, _, _| panic!("it has no state"))
        .on_close(|_, _, _, _| panic!("it has no state"))
        .build(&event_loop, ())?;
    let before = Descriptors::now();
    let (ours, theirs) = tcp_pair();
    assert_eq!(panic_of(|| context.accept_fd(ours)), "no state");
    assert_eq!(panic_of(|| context.connect("127.0.0.1:1")), "no state");
    drop(theirs);
    before.assert_unchanged();
    assert_nothing_live_but_contexts(&event_loop);
    // Of an accepted socket it comes out of the turn.
    let listener = listen(&context);
    let mut peer = Peer::connect(listener.local_addr()?);
    let message = panic_of(|| {
        for _ in 0..1000 {
            event_loop.turn(Some(Duration::from_millis(5))).expect("a turn");
        }
    });
    assert_eq!(message, "no state");
    assert!(peer.read_to_end(&event_loop).is_empty());
    Ok(())
}

#[track_caller]
fn assert_nothing_live_but_contexts(event_loop: &usockets::LoopRef) {
    assert_eq!(event_loop.metrics().live_sockets, 0);
    assert_eq!(event_loop.metrics().live_listeners, 0);
}

#[test]
fn listeners_of_std_are_taken_over() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    let path = std::env::temp_dir().join(format!("usockets-inherited-{}", std::process::id()));
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = recorded(&event_loop, &record);
        let tcp = TcpListener::bind(own_address()).expect("a listener");
        let address = tcp.local_addr().expect("it is bound");
        // Blocking, and with a connection that waits already.
        let mut early = TcpStream::connect(address).expect("it listens");
        let listener = context.listen_fd(tcp)?;
        assert_eq!(listener.local_addr()?, address);
        pump(&event_loop, || record.opened() == 1);
        assert_eq!(record.socket().write(b"hi"), 2);
        early.read_exact(&mut [0; 2]).expect("it is connected");
        let _late = TcpStream::connect(address).expect("it listens");
        pump(&event_loop, || record.opened() == 2);

        let unix = UnixListener::bind(&path).expect("a listener");
        let unix_listener = context.listen_fd(unix)?;
        assert_eq!(unix_listener.local_unix_addr()?.as_pathname(), Some(path.as_path()));
        let _peer = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
        pump(&event_loop, || record.opened() == 3);
        drop((listener, unix_listener));
        assert!(TcpStream::connect(address).is_err());
        // It was not ours to remove.
        assert!(path.exists());
    }
    std::fs::remove_file(&path).expect("the file");
    before.assert_unchanged();
    Ok(())
}

#[test]
fn a_descriptor_that_another_process_has_passed_on() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = TcpListener::bind(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let number = listener.into_raw_fd();
    // SAFETY: the number was just given up by its owner.
    let inherited = unsafe { OwnedFd::from_raw_fd(number) };
    let _listener = context.listen_fd(inherited)?;
    let _peer = Peer::connect(address);
    pump(&event_loop, || record.opened() == 1);
    Ok(())
}

#[test]
fn what_cannot_be_taken_over_is_an_error_and_closed() -> Result<(), UsError> {
    let _guard = alone();
    let event_loop = new_loop();
    let drops = Drops::new();
    let tokens = drops.clone();
    let context = SocketContext::<false, (), _>::builder_with(move || tokens.token())
        .build(&event_loop, ())?;
    let before = Descriptors::now();
    let (connected, _far) = tcp_pair();
    let error = context.listen_fd(connected).expect_err("it does not listen");
    assert!(matches!(error, UsError::Io { operation: "listen", .. }), "{error}");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    assert!(context.listen_fd(datagrams).is_err());
    let file = || std::fs::File::open(std::env::current_exe().expect("a path")).expect("a file");
    assert!(context.listen_fd(file()).is_err());
    let error = context.accept_fd(file()).expect_err("it is no socket");
    assert!(matches!(error, UsError::Io { operation: "accept_fd", .. }), "{error}");
    drop(_far);
    before.assert_unchanged();
    drops.assert_all_dropped();
    drop(context);
    assert_nothing_live(&event_loop);
    Ok(())
}

// -- Out --------------------------------------------------------------------------------------

#[test]
fn with_fd_lends_the_descriptor() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let local = socket.with_fd(|fd| {
        assert_eq!(fd.as_raw_fd(), socket.as_raw_fd().expect("it is open"));
        // It outlives the closure, whatever that does.
        socket.close();
        assert!(socket.is_closed());
        SockRef::from(&fd).local_addr().expect("it is still open")
    })?;
    assert_eq!(local.as_socket(), Some(peer.stream().peer_addr().expect("it was connected")));
    assert!(matches!(socket.with_fd(|_| ()), Err(UsError::Closed)));
    assert!(matches!(socket.as_raw_fd(), Err(UsError::Closed)));
    assert!(peer.read_to_end(&event_loop).is_empty());
    assert!(matches!(socket.with_fd(|_| ()), Err(UsError::Stale)));

    // A listener too.
    let listener = listen(&context);
    let asked = listener.with_fd(|fd| SockRef::from(&fd).local_addr().expect("it is bound"))?;
    assert_eq!(asked.as_socket(), Some(listener.local_addr()?));
    listener.with_fd(|_| context.close())?;
    assert!(matches!(listener.with_fd(|_| ()), Err(UsError::Closed)));
    Ok(())
}

#[test]
fn a_clone_outlives_the_socket() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = recorded(&event_loop, &record);
        let (socket, mut peer) = accept_one(&event_loop, &context, &record);
        let clone = socket.try_clone_fd()?;
        assert_ne!(clone.as_raw_fd(), socket.as_raw_fd()?);
        socket.close();
        drain(&event_loop);
        assert_eq!(record.closed(), Some(CloseReason::Local));
        assert!(matches!(socket.try_clone_fd(), Err(UsError::Stale)));

        // The connection lives on, and is none of the loop's any more.
        let mut stream = TcpStream::from(clone);
        stream.set_nonblocking(false).expect("a socket");
        stream.write_all(b"still here").expect("it is connected");
        assert_eq!(peer.read(&event_loop, 10), b"still here");
        peer.write(&event_loop, b"to the clone");
        settle(&event_loop);
        assert!(record.data().is_empty());
        let mut text = [0; 12];
        stream.read_exact(&mut text).expect("it is connected");
        assert_eq!(&text, b"to the clone");
        let events = event_loop.metrics().events;
        settle(&event_loop);
        assert_eq!(event_loop.metrics().events, events, "the poller still watches it");
    }
    before.assert_unchanged();
    Ok(())
}

#[test]
fn a_duplicate_made_behind_our_back_does_no_harm() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let duplicate = socket.with_fd(|fd| fd.try_clone_to_owned().expect("a descriptor"))?;
    socket.close();
    drain(&event_loop);
    // With level-triggered polling a descriptor left behind would be reported for ever.
    peer.write(&event_loop, b"nobody reads this");
    settle(&event_loop);
    let events = event_loop.metrics().events;
    settle(&event_loop);
    assert_eq!(event_loop.metrics().events, events, "the poller still watches it");
    // The number may be used again.
    let (next, _other) = accept_one(&event_loop, &context, &record);
    assert_eq!(next.write(b"x"), 1);
    drop(duplicate);
    Ok(())
}

#[test]
fn there_is_no_descriptor_while_a_name_is_looked_up() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    let socket = context.connect("localhost:1")?;
    assert!(matches!(socket.with_fd(|_| ()), Err(UsError::Closed)));
    assert!(matches!(socket.as_raw_fd(), Err(UsError::Closed)));
    assert!(matches!(socket.set_nodelay(true), Err(UsError::Closed)));
    assert!(!socket.is_closed());
    drain(&event_loop);
    Ok(())
}

// -- Options ----------------------------------------------------------------------------------

#[test]
fn connected_sockets_send_small_segments_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let listener = listen(&recorded(&event_loop, &record));
    let client = Record::<()>::new();
    let socket = recorded(&event_loop, &client).connect(listener.local_addr()?)?;
    pump(&event_loop, || client.opened() == 1);
    assert!(socket.with_fd(|fd| SockRef::from(&fd).tcp_nodelay().expect("TCP"))?);
    // And one that was handed over.
    let (ours, _theirs) = tcp_pair();
    let socket = recorded(&event_loop, &client).accept_fd(ours)?;
    pump(&event_loop, || client.opened() == 2);
    assert!(socket.with_fd(|fd| SockRef::from(&fd).tcp_nodelay().expect("TCP"))?);
    Ok(())
}

#[test]
fn descriptors_are_not_inherited_by_children() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let checked = Rc::new(Cell::new(0));
    let check = |fd: std::os::fd::BorrowedFd<'_>| {
        // SAFETY: only asks for the flags of an open descriptor.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        checked.set(checked.get() + 1);
    };
    let listener = listen(&context);
    listener.with_fd(check)?;
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.with_fd(check)?;
    let connected = context.connect(listener.local_addr()?)?;
    connected.with_fd(check)?;
    if let Some(fd) = event_loop.as_fd() {
        check(fd);
    }
    assert!(checked.get() >= 3);
    Ok(())
}
