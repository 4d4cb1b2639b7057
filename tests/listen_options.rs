//! Options of listeners, on real sockets, and what listening says of itself.

mod util;

use std::cell::RefCell;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process;
use std::rc::Rc;
use std::time::Duration;
use std::{fs, io};

use rustix::fs::Mode;
use rustix::net::sockopt;
use rustix::process::{getegid, geteuid, umask};
use usockets::{
    Incoming, ListenOptions, Loop, Overload, Refusal, SocketContext, UnixListenOptions, UsError,
};
use util::{
    Event, Peer, Record, alone, child_role, guard, new_loop, own_address, pump, recorded,
    run_child, settle,
};

fn context(event_loop: &Loop) -> SocketContext<false> {
    SocketContext::builder().build(event_loop, ()).expect("a context")
}

/// A path of the test's own. The listener removes it.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("usockets-options-{}-{name}", process::id()))
}

fn mode_of(path: &PathBuf) -> u32 {
    fs::symlink_metadata(path).expect("a file").mode() & 0o7777
}

// -- TCP --------------------------------------------------------------------------------------

/// What the options of [`inherited`] make of an accepted socket.
fn assert_inherited(fd: BorrowedFd<'_>) {
    assert!(!sockopt::tcp_nodelay(fd).expect("an answer"));
    assert!(sockopt::socket_keepalive(fd).expect("an answer"));
    assert_eq!(sockopt::tcp_keepidle(fd).expect("an answer"), Duration::from_secs(90));
    assert_eq!(sockopt::tcp_keepintvl(fd).expect("an answer"), Duration::from_secs(9));
    assert_eq!(sockopt::tcp_keepcnt(fd).expect("an answer"), 5);
    // Linux doubles what it is asked for.
    let received = sockopt::socket_recv_buffer_size(fd).expect("an answer");
    assert!((50_000..=100_000).contains(&received), "{received}");
    let sent = sockopt::socket_send_buffer_size(fd).expect("an answer");
    assert!((40_000..=80_000).contains(&sent), "{sent}");
}

fn inherited() -> ListenOptions {
    ListenOptions::new()
        .nodelay(false)
        .keepalive(Duration::from_millis(89_500))
        .keepalive_probes(Duration::from_secs(9), 5)
        .receive_buffer(50_000)
        .send_buffer(40_000)
}

#[test]
fn accepted_sockets_have_what_was_asked_for() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = context.listen_with(own_address(), &inherited())?;
    let foreign = TcpListener::bind(own_address()).expect("a listener");
    let given = context.listen_fd_with(foreign, &inherited())?;
    let mut peers = Vec::new();
    for (open, listener) in [(1, &listener), (2, &given)] {
        peers.push(Peer::connect(listener.local_addr()?));
        pump(&event_loop, || record.opened() == open);
        record.socket().with_fd(assert_inherited)?;
    }
    Ok(())
}

#[test]
fn the_defaults_are_nodelay_and_no_keepalive() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = context.listen_with(own_address(), &ListenOptions::new())?;
    let _peer = Peer::connect(listener.local_addr()?);
    pump(&event_loop, || record.opened() == 1);
    record.socket().with_fd(|fd| {
        assert!(sockopt::tcp_nodelay(fd).expect("an answer"));
        assert!(!sockopt::socket_keepalive(fd).expect("an answer"));
    })
}

#[cfg(target_os = "linux")]
#[test]
fn a_silent_connection_is_kept_back() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = ListenOptions::new().defer_accept(Duration::from_secs(600));
    let listener = context.listen_with(own_address(), &options)?;
    let mut silent = Peer::connect(listener.local_addr()?);
    let mut speaking = Peer::connect(listener.local_addr()?);
    speaking.write(&event_loop, b"hello");
    pump(&event_loop, || record.data() == b"hello");
    assert_eq!(record.opened(), 1);
    silent.write(&event_loop, b" there");
    pump(&event_loop, || record.data_length() == 11);
    assert_eq!(record.opened(), 2);
    Ok(())
}

#[test]
fn a_listener_with_fast_open_serves_everybody() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = context.listen_with(own_address(), &ListenOptions::new().fast_open(16))?;
    let mut peer = Peer::connect(listener.local_addr()?);
    peer.write(&event_loop, b"not that fast");
    pump(&event_loop, || record.data() == b"not that fast");
    Ok(())
}

#[test]
fn values_out_of_range_are_named() {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let new = ListenOptions::new;
    let (second, zero) = (Duration::from_secs(1), Duration::ZERO);
    let cases = [
        (new().backlog(0), "backlog"),
        (new().receive_buffer(0), "receive_buffer"),
        (new().receive_buffer(usize::MAX), "receive_buffer"),
        (new().send_buffer(0), "send_buffer"),
        (new().accept_budget(0), "accept_budget"),
        (new().accept_budget(1025), "accept_budget"),
        (new().max_connections(0, Overload::StopAccepting), "max_connections"),
        (new().max_connections_per_address(0, Refusal::Close), "max_connections_per_address"),
        (new().defer_accept(zero), "defer_accept"),
        (new().defer_accept(Duration::MAX), "defer_accept"),
        (new().fast_open(0), "fast_open"),
        (new().fast_open(u32::MAX), "fast_open"),
        (new().keepalive(zero), "keepalive"),
        (new().keepalive(Duration::from_secs(32_768)), "keepalive"),
        (new().keepalive_probes(second, 1), "keepalive_probes"),
        (new().keepalive(second).keepalive_probes(zero, 1), "keepalive_probes"),
        (new().keepalive(second).keepalive_probes(second, 0), "keepalive_probes"),
        (new().keepalive(second).keepalive_probes(second, 128), "keepalive_probes"),
    ];
    for (options, name) in cases {
        let error = context.listen_with(own_address(), &options).expect_err(name);
        let UsError::InvalidOption { option, .. } = error else { panic!("{name}: {error}") };
        assert_eq!(option, name);
    }
    assert_eq!(event_loop.metrics().live_listeners, 0);
}

// -- Descriptors ------------------------------------------------------------------------------

#[test]
fn a_descriptor_that_listens_has_limits_too() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let foreign = TcpListener::bind(own_address()).expect("a listener");
    let options = ListenOptions::new().backlog(7).max_connections(1, Overload::StopAccepting);
    let listener = context.listen_fd_with(foreign, &options)?;
    let _peers: Vec<_> =
        (0..2).map(|_| Peer::connect(listener.local_addr().expect("it is bound"))).collect();
    pump(&event_loop, || record.opened() == 1);
    settle(&event_loop);
    assert_eq!((record.opened(), listener.connections()), (1, Some(1)));
    Ok(())
}

#[test]
fn it_is_too_late_for_some_options_of_a_descriptor() {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let cases = [
        (ListenOptions::new().reuse_port(true), "reuse_port"),
        (ListenOptions::new().ipv6_only(true), "ipv6_only"),
        (ListenOptions::new().backlog(0), "backlog"),
    ];
    for (options, name) in cases {
        let foreign = TcpListener::bind(own_address()).expect("a listener");
        let error = context.listen_fd_with(foreign, &options).expect_err(name);
        let UsError::InvalidOption { option, .. } = error else { panic!("{name}: {error}") };
        assert_eq!(option, name);
    }
    // A Unix socket has no peers by address.
    let path = path("seat");
    let foreign = UnixListener::bind(&path).expect("a listener");
    fs::remove_file(&path).expect("it is there");
    let options = ListenOptions::new().max_connections_per_address(1, Refusal::Close);
    let error = context.listen_fd_with(foreign, &options).expect_err("no address");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(matches!(error, UsError::Io { operation: "listen", .. }), "{error}");
}

// -- Unix sockets -----------------------------------------------------------------------------

#[test]
fn the_mode_of_a_file_is_as_asked_for_whatever_the_umask() -> Result<(), UsError> {
    let _guard = alone();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let path = path("mode");
    let before = umask(Mode::empty());
    for mask in [0, 0o022, 0o777] {
        umask(Mode::from_raw_mode(mask));
        let listener = context.listen_unix(&path)?;
        assert_eq!(mode_of(&path), 0o700 & !mask, "the default");
        drop(listener);
        for mode in [0, 0o600, 0o660, 0o666, 0o777] {
            let listener = context.listen_unix_with(&path, &UnixListenOptions::new().mode(mode))?;
            assert_eq!(mode_of(&path), mode);
            drop(listener);
            assert!(!path.exists());
        }
    }
    umask(before);
    Ok(())
}

#[test]
fn the_owner_of_a_file_is_as_asked_for() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let path = path("owner");
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let (other, others) = if user == 0 { (12_345, 54_321) } else { (user, group) };
    let cases = [
        (UnixListenOptions::new(), user, group),
        (UnixListenOptions::new().owner(other), other, group),
        (UnixListenOptions::new().group(others), user, others),
        (UnixListenOptions::new().owner(other).group(others).mode(0o660), other, others),
    ];
    for (options, user, group) in cases {
        let _listener = context.listen_unix_with(&path, &options)?;
        let file = fs::symlink_metadata(&path).expect("a file");
        assert_eq!((file.uid(), file.gid()), (user, group), "{options:?}");
    }
    if user != 0 {
        let options = UnixListenOptions::new().owner(0);
        let error = context.listen_unix_with(&path, &options).expect_err("only root may");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(!path.exists());
    }
    Ok(())
}

#[test]
fn values_out_of_range_are_named_for_unix_sockets_too() {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let file = path("bad");
    let name = PathBuf::from(format!("\0usockets-options-{}", process::id()));
    let new = UnixListenOptions::new;
    let cases = [
        (&file, new().mode(0o1000), "mode"),
        (&file, new().owner(u32::MAX), "owner"),
        (&file, new().group(u32::MAX), "group"),
        (&file, new().backlog(0), "backlog"),
        (&file, new().max_connections(0, Overload::StopAccepting), "max_connections"),
        (&name, new().mode(0o600), "mode"),
        (&name, new().owner(0), "owner"),
        (&name, new().group(0), "group"),
    ];
    for (path, options, name) in cases {
        let error = context.listen_unix_with(path, &options).expect_err(name);
        let UsError::InvalidOption { option, .. } = error else { panic!("{name}: {error}") };
        assert_eq!(option, name);
    }
    assert!(!file.exists());
}

#[test]
fn unix_listeners_have_limits_and_buffers() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let options = UnixListenOptions::new()
        .backlog(16)
        .accept_budget(1)
        .max_connections(1, Overload::Refuse(Refusal::Close));
    let names = [path("limits"), PathBuf::from(format!("\0usockets-limits-{}", process::id()))];
    for (open, name) in [1, 2].into_iter().zip(names) {
        let listener = context.listen_unix_with(&name, &options)?;
        let client = SocketContext::<false>::builder().build(&event_loop, ())?;
        let _first = client.connect_unix(&name)?;
        pump(&event_loop, || record.opened() == open);
        let refused = client.connect_unix(&name)?;
        pump(&event_loop, || refused.is_closed());
        assert_eq!(listener.connections(), Some(1));
        client.close();
    }
    assert_eq!(event_loop.metrics().refused_connections, 2);
    Ok(())
}

// -- Who is there -----------------------------------------------------------------------------

#[test]
fn a_unix_peer_is_known_by_its_credentials() {
    if child_role().is_some() {
        let mut path = String::new();
        io::stdin().read_line(&mut path).expect("the parent says where");
        let mut stream = UnixStream::connect(path.trim_end()).expect("it listens");
        let _end = stream.read(&mut [0]);
        return;
    }
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let asked = Rc::clone(&seen);
    let context = record
        .builder()
        .accept_filter(move |(), incoming: Incoming<'_>| {
            asked.borrow_mut().push(incoming.peer_credentials());
            incoming.accept();
        })
        .build(&event_loop, ())
        .expect("a context");
    let path = path("peer");
    let _listener = context.listen_unix(&path).expect("a listener");
    let mut child = run_child("a_unix_peer_is_known_by_its_credentials", "client");
    let mut input = child.stdin.take().expect("stdin is piped");
    writeln!(input, "{}", path.display()).expect("it reads");
    pump(&event_loop, || record.opened() == 1);
    let credentials = record.socket().peer_credentials().expect("a Unix socket");
    assert_eq!(credentials.pid.unsigned_abs(), child.id());
    assert_eq!(credentials.uid, geteuid().as_raw());
    assert_eq!(credentials.gid, getegid().as_raw());
    let before = seen.borrow_mut().pop().expect("the filter was asked");
    assert_eq!(before.expect("a Unix socket"), credentials);

    record.socket().close();
    assert!(matches!(record.socket().peer_credentials(), Err(UsError::Closed)));
    pump(&event_loop, || record.ended());
    let mut rest = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped"))
        .read_to_string(&mut rest)
        .expect("text");
    assert!(child.wait().expect("it ends").success(), "{rest}");
}

#[test]
fn an_ip_socket_knows_no_credentials() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .accept_filter(|(), incoming| {
            let error = incoming.peer_credentials().expect_err("an IP socket");
            assert!(matches!(error, UsError::InvalidAddress { .. }), "{error}");
        })
        .on_open(move |(), socket, (), _| {
            let error = socket.peer_credentials().expect_err("an IP socket");
            assert!(matches!(error, UsError::InvalidAddress { .. }), "{error}");
            log.add_socket(socket, Event::Open);
        })
        .build(&event_loop, ())?;
    let listener = context.listen(own_address())?;
    let _peer = Peer::connect(listener.local_addr()?);
    pump(&event_loop, || record.opened() == 1);
    Ok(())
}

// -- Errors -----------------------------------------------------------------------------------

#[test]
fn an_error_names_what_could_not_be_listened_on() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let named = |error: UsError, expected: &str| {
        assert!(error.to_string().contains(expected), "{error}");
        let UsError::Io { operation: "listen", address, .. } = error else { panic!("{error}") };
        assert_eq!(address.as_deref(), Some(expected));
    };
    let listener = context.listen(own_address())?;
    let taken = listener.local_addr()?;
    named(context.listen(taken).expect_err("the port is taken"), &taken.to_string());
    // Of several, the last one.
    let foreign = SocketAddr::from(([203, 0, 113, 7], 0));
    let error = context.listen(&[taken, foreign][..]).expect_err("none works");
    named(error, "203.0.113.7:0");

    let path = path("taken");
    let _listener = context.listen_unix(&path)?;
    let error = context.listen_unix(&path).expect_err("somebody listens there");
    named(error, &path.display().to_string());
    let name = format!("usockets-taken-{}", process::id());
    let _listener = context.listen_unix(format!("\0{name}"))?;
    let error = context.listen_unix(format!("\0{name}")).expect_err("the name is taken");
    named(error, &format!("@{name}"));
    Ok(())
}
