//! Options that the system has for a connection, and what it tells about one.

#![cfg(target_os = "linux")]

mod util;

use std::io::ErrorKind;
use std::net::{Ipv6Addr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use usockets::{CloseReason, Socket, SocketContext, TcpKeepAlive, TcpState, UsError};
use util::{
    Echo, Event, Peer, Record, accept_one, drain, guard, new_loop, pump, recorded, unix_pair,
};

/// What the system itself says of an option that is a number.
fn number(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> libc::c_int {
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&value)).expect("small");
    // SAFETY: the descriptor is open; there is room for a number, of that length.
    let got = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    value
}

fn tcp(socket: &Socket<false>, name: libc::c_int) -> libc::c_int {
    socket.with_fd(|fd| number(fd, libc::IPPROTO_TCP, name)).expect("an open socket")
}

fn general(socket: &Socket<false>, name: libc::c_int) -> libc::c_int {
    socket.with_fd(|fd| number(fd, libc::SOL_SOCKET, name)).expect("an open socket")
}

fn is_invalid<R>(result: &Result<R, UsError>) -> bool {
    matches!(result, Err(UsError::InvalidOption { .. }))
}

#[test]
fn nodelay_is_on_and_can_be_changed() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    assert!(socket.nodelay()?, "it is on from the beginning");
    for on in [false, true] {
        socket.set_nodelay(on)?;
        assert_eq!(tcp(&socket, libc::TCP_NODELAY), libc::c_int::from(on));
        assert_eq!(socket.nodelay()?, on);
    }
    Ok(())
}

#[test]
fn keepalive_has_three_numbers() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(socket.keepalive()?, None);
    assert_eq!(general(&socket, libc::SO_KEEPALIVE), 0);

    // What is not given stays; times are rounded up.
    let (interval, retries) = (tcp(&socket, libc::TCP_KEEPINTVL), tcp(&socket, libc::TCP_KEEPCNT));
    for (asked, rounded) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (60_000, 60)] {
        socket.set_keepalive(Some(TcpKeepAlive::after(Duration::from_millis(asked))))?;
        assert_eq!(general(&socket, libc::SO_KEEPALIVE), 1);
        assert_eq!(tcp(&socket, libc::TCP_KEEPIDLE), rounded, "{asked} ms");
    }
    assert_eq!(tcp(&socket, libc::TCP_KEEPINTVL), interval);
    assert_eq!(tcp(&socket, libc::TCP_KEEPCNT), retries);

    let probes = TcpKeepAlive::after(Duration::from_secs(7))
        .with_interval(Duration::from_secs(3))
        .with_retries(2);
    socket.set_keepalive(Some(probes))?;
    assert_eq!(tcp(&socket, libc::TCP_KEEPIDLE), 7);
    assert_eq!(tcp(&socket, libc::TCP_KEEPINTVL), 3);
    assert_eq!(tcp(&socket, libc::TCP_KEEPCNT), 2);
    assert_eq!(socket.keepalive()?, Some(probes));

    // What is refused changes nothing.
    let second = TcpKeepAlive::after(Duration::from_secs(1));
    for wrong in [
        TcpKeepAlive::after(Duration::from_secs(32_768)),
        TcpKeepAlive::after(Duration::MAX),
        second.with_interval(Duration::from_secs(32_768)),
        second.with_retries(0),
        second.with_retries(128),
    ] {
        assert!(is_invalid(&socket.set_keepalive(Some(wrong))), "{wrong:?}");
        assert_eq!(socket.keepalive()?, Some(probes));
    }
    socket.set_keepalive(None)?;
    assert_eq!(socket.keepalive()?, None);
    Ok(())
}

#[test]
fn linger_takes_no_time_for_which_a_close_would_block() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(socket.linger()?, None);
    for wrong in [Duration::from_nanos(1), Duration::from_secs(5)] {
        assert!(is_invalid(&socket.set_linger(Some(wrong))));
        assert_eq!(socket.linger()?, None);
    }
    socket.set_linger(Some(Duration::ZERO))?;
    assert_eq!(socket.linger()?, Some(Duration::ZERO));
    socket.set_linger(None)?;
    assert_eq!(socket.linger()?, None);

    // An ordinary close is a reset now.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.close();
    drain_sockets(&event_loop, &record);
    let error = peer.stream().peek(&mut [0]).expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    Ok(())
}

/// Turns the loop until the one connection is closed.
fn drain_sockets(event_loop: &usockets::Loop, record: &Record<()>) {
    pump(event_loop, || record.ended());
    pump(event_loop, || event_loop.metrics().live_sockets == 0);
}

#[test]
fn buffer_sizes_are_what_the_system_makes_of_them() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.set_send_buffer_size(20_000)?;
    socket.set_receive_buffer_size(30_000)?;
    assert_eq!(socket.send_buffer_size()?, 40_000);
    assert_eq!(socket.receive_buffer_size()?, 60_000);
    assert_eq!(general(&socket, libc::SO_SNDBUF), 40_000);
    assert_eq!(general(&socket, libc::SO_RCVBUF), 60_000);
    // Too little and too much become the system's limits.
    socket.set_send_buffer_size(0)?;
    assert!(socket.send_buffer_size()? > 0);
    socket.set_receive_buffer_size(i32::MAX as usize)?;
    assert!(socket.receive_buffer_size()? >= 60_000);
    #[cfg(target_pointer_width = "64")]
    {
        assert!(is_invalid(&socket.set_send_buffer_size(1 << 31)));
        assert!(is_invalid(&socket.set_receive_buffer_size(usize::MAX)));
    }
    Ok(())
}

#[test]
fn traffic_class_is_set_for_either_family() -> Result<(), UsError> {
    const EXPEDITED: u8 = 0xb8;
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let ipv4 = |fd: BorrowedFd<'_>| number(fd, libc::IPPROTO_IP, libc::IP_TOS);
    let ipv6 = |fd: BorrowedFd<'_>| number(fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS);

    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(socket.traffic_class()?, 0);
    socket.set_traffic_class(EXPEDITED)?;
    assert_eq!(socket.traffic_class()?, EXPEDITED);
    assert_eq!(socket.with_fd(ipv4)?, EXPEDITED.into());

    // A peer with an IPv4 address on a socket for both.
    let listener = context.listen("[::]:0")?;
    let port = listener.local_addr()?.port();
    let _peer = Peer::connect(([127, 0, 0, 1], port).into());
    pump(&event_loop, || record.opened() == 2);
    let socket = record.socket();
    assert!(socket.peer_addr()?.is_ipv6(), "its address is mapped");
    socket.set_traffic_class(EXPEDITED)?;
    assert_eq!(socket.traffic_class()?, EXPEDITED);
    assert_eq!(socket.with_fd(ipv4)?, EXPEDITED.into());

    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return Ok(());
    }
    let _peer = Peer::connect((Ipv6Addr::LOCALHOST, port).into());
    pump(&event_loop, || record.opened() == 3);
    let socket = record.socket();
    socket.set_traffic_class(EXPEDITED)?;
    assert_eq!(socket.traffic_class()?, EXPEDITED);
    assert_eq!(socket.with_fd(ipv6)?, EXPEDITED.into());
    Ok(())
}

#[test]
fn quickack_user_timeout_and_mark_reach_the_system() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    for on in [false, true] {
        socket.set_quickack(on)?;
        assert_eq!(tcp(&socket, libc::TCP_QUICKACK), libc::c_int::from(on));
        assert_eq!(socket.quickack()?, on);
    }

    assert_eq!(socket.user_timeout()?, None);
    for (asked, rounded) in [(0, 1), (1, 1), (1_000_000, 1), (1_000_001, 2), (5_000_000_000, 5000)]
    {
        socket.set_user_timeout(Some(Duration::from_nanos(asked)))?;
        assert_eq!(tcp(&socket, libc::TCP_USER_TIMEOUT), rounded, "{asked} ns");
    }
    assert_eq!(socket.user_timeout()?, Some(Duration::from_secs(5)));
    for wrong in [Duration::from_secs(25 * 86_400), Duration::MAX] {
        assert!(is_invalid(&socket.set_user_timeout(Some(wrong))));
    }
    socket.set_user_timeout(None)?;
    assert_eq!(socket.user_timeout()?, None);

    assert_eq!(socket.mark()?, 0);
    match socket.set_mark(0xabcd_0123) {
        Ok(()) => assert_eq!(socket.mark()?, 0xabcd_0123),
        Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
    }
    Ok(())
}

#[test]
fn tcp_info_follows_the_connection() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let begun = socket.tcp_info()?;
    assert_eq!(begun.state, TcpState::Established);
    assert!(begun.congestion_window > 0);
    assert!(begun.send_mss > 0 && begun.path_mtu >= begun.send_mss);

    peer.write(&event_loop, &[1; 3000]);
    pump(&event_loop, || record.data_length() == 3000);
    assert_eq!(socket.write(&[2; 2000]), 2000);
    assert_eq!(peer.read(&event_loop, 2000), [2; 2000]);
    // These came with Linux 4.1 to 5.4; the gate's kernel has them. Acknowledgements may be late.
    pump(&event_loop, || socket.tcp_info().is_ok_and(|info| info.bytes_acked == Some(2000)));
    let used = socket.tcp_info()?;
    assert_eq!(used.bytes_received, Some(3000));
    assert_eq!(used.bytes_sent, Some(2000));
    assert_eq!(used.not_sent, Some(0));
    assert_eq!((used.unacked, used.lost, used.total_retransmits), (0, 0, 0));
    assert!(used.rtt > Duration::ZERO && used.min_rtt.is_some_and(|time| time > Duration::ZERO));
    assert!(used.delivery_rate.is_some_and(|rate| rate > 0));
    assert!(used.segments_in > begun.segments_in && used.peer_window > Some(0));

    drop(peer);
    pump(&event_loop, || record.has(&Event::End));
    assert_eq!(socket.tcp_info()?.state, TcpState::CloseWait);
    socket.close();
    assert!(matches!(socket.tcp_info(), Err(UsError::Closed)));
    drain_sockets(&event_loop, &record);
    assert!(matches!(socket.tcp_info(), Err(UsError::Stale)));
    Ok(())
}

#[test]
fn unix_sockets_have_no_options_of_tcp_and_ip() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (ours, _theirs) = unix_pair();
    let socket = recorded(&event_loop, &record).accept_fd(ours)?;
    pump(&event_loop, || record.opened() == 1);
    let probes = TcpKeepAlive::after(Duration::from_secs(1));
    for (name, result) in [
        ("set_nodelay", socket.set_nodelay(true)),
        ("nodelay", socket.nodelay().map(drop)),
        ("set_keepalive", socket.set_keepalive(Some(probes))),
        ("set_traffic_class", socket.set_traffic_class(8)),
        ("traffic_class", socket.traffic_class().map(drop)),
        ("set_quickack", socket.set_quickack(true)),
        ("set_user_timeout", socket.set_user_timeout(Some(Duration::from_secs(1)))),
        ("tcp_info", socket.tcp_info().map(drop)),
    ] {
        let error = result.expect_err(name);
        assert!(matches!(error, UsError::Io { operation, .. } if operation == name), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
    }
    // Those of all sockets it has.
    socket.set_send_buffer_size(10_000)?;
    assert_eq!(socket.send_buffer_size()?, 20_000);
    socket.set_linger(None)?;
    socket.set_keepalive(None)?;
    Ok(())
}

#[test]
fn options_of_a_socket_that_is_closed_say_so() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    let record = Record::<()>::new();
    let socket = recorded(&event_loop, &record).connect(echo.address())?;
    // Before the connection is made they are those of the attempt.
    socket.set_receive_buffer_size(100_000)?;
    assert!(matches!(socket.tcp_info()?.state, TcpState::SynSent | TcpState::Established));
    pump(&event_loop, || record.opened() == 1);
    socket.close();
    let closed = |result: Result<(), UsError>| matches!(result, Err(UsError::Closed));
    assert!(closed(socket.set_nodelay(true)));
    assert!(closed(socket.set_keepalive(None)));
    assert!(closed(socket.set_linger(None)));
    assert!(closed(socket.set_send_buffer_size(1)));
    assert!(closed(socket.set_traffic_class(0)));
    assert!(closed(socket.set_quickack(true)));
    assert!(closed(socket.set_user_timeout(None)));
    assert!(closed(socket.set_mark(0)));
    assert!(closed(socket.traffic_class().map(drop)));
    pump(&event_loop, || record.ended());
    assert_eq!(record.closed(), Some(CloseReason::Local));
    drop(echo);
    drain(&event_loop);
    let unconnected = SocketContext::<false>::builder().build(&event_loop, ())?;
    let resolving = unconnected.connect("localhost:1")?;
    assert!(closed(resolving.set_nodelay(true)), "there is no descriptor yet");
    drain(&event_loop);
    Ok(())
}
