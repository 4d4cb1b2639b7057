//! Unix sockets: paths, abstract names, and peers that write and go.

#![cfg(unix)]

mod util;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use usockets::{CloseReason, Loop, Origin, SocketContext, UsError};
use util::{
    Descriptors, Event, Random, Record, alone, assert_same, drain, guard, guard_for, new_loop,
    pattern, pump, recorded, settle,
};

/// A folder of the test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("usockets-test-{}-{number}", process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn context(event_loop: &Loop) -> SocketContext<false> {
    SocketContext::builder().build(event_loop, ()).expect("a context")
}

/// A name for an abstract socket that nobody else uses.
fn abstract_name(name: &str) -> String {
    format!("\0usockets-test-{}-{name}", process::id())
}

// -- Connections ------------------------------------------------------------------------------

#[test]
fn both_sides_talk_over_a_path() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.path("socket");
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let log = server.clone();
    let listening = server
        .builder()
        .on_open(move |(), socket, (), info| {
            assert_eq!(info.origin(), Origin::Accepted);
            assert_eq!(info.peer_addr(), None);
            log.add_socket(socket, Event::Open);
        })
        .build(&event_loop, ())?;
    let listener = listening.listen_unix(&path)?;
    assert_eq!(listener.local_unix_addr()?.as_pathname(), Some(path.as_path()));
    assert!(matches!(listener.local_addr(), Err(UsError::InvalidAddress { .. })));

    let socket = recorded(&event_loop, &client).connect_unix(&path)?;
    pump(&event_loop, || client.opened() == 1 && server.opened() == 1);
    let accepted = server.socket();
    assert_eq!(socket.peer_unix_addr()?.as_pathname(), Some(path.as_path()));
    assert!(accepted.peer_unix_addr()?.is_unnamed());
    assert!(matches!(socket.peer_addr(), Err(UsError::InvalidAddress { .. })));
    assert!(matches!(socket.local_addr(), Err(UsError::InvalidAddress { .. })));
    assert!(matches!(socket.set_nodelay(true), Err(UsError::Io { .. })));

    assert_eq!(socket.write(b"ping"), 4);
    pump(&event_loop, || server.data() == b"ping");
    assert_eq!(accepted.write(b"pong"), 4);
    pump(&event_loop, || client.data() == b"pong");
    socket.close();
    drop(listener);
    drain(&event_loop);
    assert_eq!(server.closed(), Some(CloseReason::HangUp));
    assert_eq!(client.closed(), Some(CloseReason::Local));
    Ok(())
}

#[test]
fn states_are_given_to_unix_connections_too() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.path("socket");
    let event_loop = new_loop();
    let context = SocketContext::<false, (), u32>::builder_with(|| 5).build(&event_loop, ())?;
    let _listener = context.listen_unix(&path)?;
    assert_eq!(context.connect_unix(&path)?.with_state(|state| *state)?, 5);
    assert_eq!(context.connect_unix_with_state(&path, 9)?.with_state(|state| *state)?, 9);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_names_work_and_leave_no_file() -> Result<(), UsError> {
    use std::os::linux::net::SocketAddrExt;
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let name = abstract_name("talk");
    let listening = recorded(&event_loop, &server);
    let listener = listening.listen_unix(&name)?;
    let address = listener.local_unix_addr()?;
    assert_eq!(address.as_abstract_name(), Some(&name.as_bytes()[1..]));
    let socket = recorded(&event_loop, &client).connect_unix(&name)?;
    pump(&event_loop, || client.opened() == 1 && server.opened() == 1);
    assert_eq!(socket.write(b"ping"), 4);
    pump(&event_loop, || server.data() == b"ping");

    let error = listening.listen_unix(&name).expect_err("the name is taken");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    drop(listener);
    let _again = listening.listen_unix(&name)?;
    // A name may have a NUL in it.
    let _odd = listening.listen_unix(format!("{name}\0more"))?;
    Ok(())
}

#[test]
fn output_that_does_not_fit_waits_for_room() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.path("socket");
    let event_loop = new_loop();
    let data = pattern(4 << 20);
    let record = Record::<usize>::new();
    let (first, later, log) = (data.clone(), data.clone(), record.clone());
    let context = record
        .builder()
        .on_open(move |(), socket, sent, _| {
            log.add_socket(socket, Event::Open);
            *sent = socket.write(&first);
            assert!(*sent < first.len());
        })
        .on_writable(move |(), socket, sent| {
            *sent += socket.write(&later[*sent..]);
            if *sent == later.len() {
                socket.shutdown();
            }
        })
        .build(&event_loop, ())?;
    let _listener = context.listen_unix(&path)?;
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        let mut stream = UnixStream::connect(path).expect("it listens");
        stream.read_to_end(&mut received).expect("it is connected");
        received
    });
    pump(&event_loop, || record.ended());
    assert_same(&reader.join().expect("no panic"), &data);
    Ok(())
}

// -- Paths ------------------------------------------------------------------------------------

#[test]
fn paths_that_cannot_be_addresses_are_refused() {
    let _guard = guard();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let long = format!("/tmp/{}", "x".repeat(200));
    for result in [
        context.listen_unix(&long).map(drop),
        context.connect_unix(&long).map(drop),
        context.listen_unix(format!("\0{}", "x".repeat(200))).map(drop),
    ] {
        let error = result.expect_err("too long");
        let UsError::UnixPathTooLong { length, .. } = error else { panic!("{error}") };
        assert!(length > 200);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    for path in ["", "a\0b"] {
        let error = context.listen_unix(path).expect_err("no path");
        assert!(matches!(error, UsError::InvalidAddress { .. }), "{error}");
        let error = context.connect_unix(path).expect_err("no path");
        assert!(matches!(error, UsError::InvalidAddress { .. }), "{error}");
    }
    assert_eq!(event_loop.metrics().live_sockets, 0);
}

#[test]
fn the_longest_path_works() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let fill = 107 - folder.path("").as_os_str().len();
    let path = folder.path(&"x".repeat(fill));
    assert_eq!(path.as_os_str().len(), 107);
    let listener = context.listen_unix(&path)?;
    assert_eq!(listener.local_unix_addr()?.as_pathname(), Some(path.as_path()));
    let _peer = UnixStream::connect(&path).expect("it listens");
    pump(&event_loop, || record.opened() == 1);
    Ok(())
}

#[test]
fn a_folder_that_does_not_exist_is_an_error() {
    let _guard = guard();
    let folder = Folder::new();
    let event_loop = new_loop();
    let path = folder.path("nowhere/socket");
    let error = context(&event_loop).listen_unix(path).expect_err("no such folder");
    assert!(matches!(error, UsError::Io { operation: "listen", .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_regular_file_is_left_alone() {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.path("diary");
    fs::write(&path, "dear diary").expect("a file");
    let event_loop = new_loop();
    let error = context(&event_loop).listen_unix(&path).expect_err("there is a file");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(fs::read_to_string(&path).expect("the file"), "dear diary");
}

#[test]
fn a_link_to_a_file_is_left_alone() {
    let _guard = guard();
    let folder = Folder::new();
    let (path, link) = (folder.path("diary"), folder.path("link"));
    fs::write(&path, "dear diary").expect("a file");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let event_loop = new_loop();
    let error = context(&event_loop).listen_unix(&link).expect_err("there is a file");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(fs::read_to_string(&link).expect("the file"), "dear diary");
}

#[test]
fn a_socket_without_a_listener_is_replaced() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.path("socket");
    // std leaves the file behind.
    drop(UnixListener::bind(&path).expect("a listener"));
    assert!(path.exists());
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let _listener = recorded(&event_loop, &record).listen_unix(&path)?;
    let _peer = UnixStream::connect(&path).expect("it listens");
    pump(&event_loop, || record.opened() == 1);
    Ok(())
}

#[test]
fn a_socket_with_a_listener_is_left_alone() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let foreign_path = folder.path("foreign");
    let foreign = UnixListener::bind(&foreign_path).expect("a listener");
    let own_path = folder.path("own");
    let own = context.listen_unix(&own_path)?;
    for path in [&foreign_path, &own_path] {
        let error = context.listen_unix(path).expect_err("somebody listens there");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        UnixStream::connect(path).expect("it still listens");
    }
    // Looking whether somebody listens is at most a connection that goes away.
    foreign.set_nonblocking(true).expect("a listener");
    while let Ok((mut stream, _)) = foreign.accept() {
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    drop(own);
    Ok(())
}

#[test]
fn the_own_file_goes_with_the_listener() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let path = folder.path("socket");
    let listener = context.listen_unix(&path)?;
    let file = fs::symlink_metadata(&path).expect("a file");
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o077, 0, "others may use it");
    let _peer = UnixStream::connect(&path).expect("it listens");
    pump(&event_loop, || record.opened() == 1);
    drop(listener);
    assert!(!path.exists());
    // With its context, and with the loop.
    context.listen_unix(&path)?.detach();
    context.close();
    assert!(!path.exists());
    context.listen_unix(&path)?.detach();
    drop(event_loop);
    assert!(!path.exists());
    Ok(())
}

#[test]
fn a_file_that_took_the_place_of_the_own_one_stays() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let event_loop = new_loop();
    let context = context(&event_loop);
    let path = folder.path("socket");
    let listener = context.listen_unix(&path)?;
    fs::remove_file(&path).expect("the file");
    let successor = UnixListener::bind(&path).expect("a listener");
    drop(listener);
    UnixStream::connect(&path).expect("the successor listens");
    drop(successor);
    Ok(())
}

// -- Connections that cannot be made ----------------------------------------------------------

/// How a connection to a path fails.
fn failure(path: &Path) -> ErrorKind {
    let event_loop = new_loop();
    let record = Record::<()>::new();
    match recorded(&event_loop, &record).connect_unix(path) {
        Err(error) => {
            assert!(matches!(error, UsError::Io { operation: "connect", .. }), "{error}");
            error.kind()
        }
        Ok(_socket) => {
            drain(&event_loop);
            let events = record.take();
            let [Event::ConnectError(kind)] = events[..] else { panic!("{events:?}") };
            kind
        }
    }
}

#[test]
fn what_nobody_listens_on_says_so() {
    let _guard = guard();
    let folder = Folder::new();
    assert_eq!(failure(&folder.path("nothing")), ErrorKind::NotFound);
    let stale = folder.path("stale");
    drop(UnixListener::bind(&stale).expect("a listener"));
    assert_eq!(failure(&stale), ErrorKind::ConnectionRefused);
    let file = folder.path("file");
    fs::write(&file, "").expect("a file");
    assert_eq!(failure(&file), ErrorKind::ConnectionRefused);
}

#[test]
fn a_full_queue_is_an_error_or_a_wait_but_no_hang() -> Result<(), UsError> {
    let _guard = alone();
    let folder = Folder::new();
    let path = folder.path("socket");
    let raw =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    raw.bind(&socket2::SockAddr::unix(&path).expect("an address")).expect("it is free");
    raw.listen(1).expect("a listener");
    let descriptors = Descriptors::now();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let mut failed = 0;
    for _ in 0..20 {
        match context.connect_unix(&path) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                failed += 1;
            }
        }
    }
    settle(&event_loop);
    let reported = record.count(&Event::ConnectError(ErrorKind::WouldBlock));
    assert!(failed + reported > 0, "nothing was refused");
    context.close();
    drain(&event_loop);
    let ends = record.events().iter().filter(|event| **event != Event::Open).count();
    assert_eq!(ends + failed, 20, "each ends once");
    drop((context, record, event_loop));
    descriptors.assert_unchanged();
    Ok(())
}

// -- Peers that write and go ------------------------------------------------------------------

#[test]
fn a_thousand_peers_write_and_go() -> Result<(), UsError> {
    let _guard = guard_for(std::time::Duration::from_secs(60));
    let folder = Folder::new();
    let path = folder.path("socket");
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let _listener = context.listen_unix(&path)?;
    let mut random = Random::new(2024);
    let data = pattern(150_000);
    for round in 0..1000 {
        // Small ones and large ones; none at all now and then.
        let length = random.below(if round % 10 == 0 { data.len() } else { 3000 });
        let mut stream = UnixStream::connect(&path).expect("it listens");
        let accepted_before = random.below(2) == 0;
        if accepted_before {
            pump(&event_loop, || record.opened() == round + 1);
        }
        let paused = accepted_before && random.below(3) == 0;
        if paused {
            record.socket().pause();
        }
        stream.write_all(&data[..length]).expect("there is room");
        drop(stream);
        if paused {
            settle(&event_loop);
            assert!(!record.socket().is_closed(), "round {round}");
            record.socket().resume();
        }
        pump(&event_loop, || record.ended());
        let events = record.take();
        let received: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Data(data) => Some(data.as_slice()),
                _ => None,
            })
            .collect();
        assert_same(&received.concat(), &data[..length]);
        assert_eq!(events.first(), Some(&Event::Open));
        assert_eq!(events.last(), Some(&Event::Close(CloseReason::HangUp)), "round {round}");
    }
    Ok(())
}

#[test]
fn a_peer_that_goes_with_unread_input_loses_nothing_of_its_output() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.path("socket");
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let _listener = context.listen_unix(&path)?;
    let mut stream = UnixStream::connect(&path).expect("it listens");
    pump(&event_loop, || record.opened() == 1);
    assert_eq!(record.socket().write(b"never read"), 10);
    stream.write_all(b"important").expect("there is room");
    drop(stream);
    pump(&event_loop, || record.ended());
    assert_eq!(record.data(), b"important");
    Ok(())
}

#[test]
fn half_close_works_as_over_tcp() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.path("socket");
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let _listener = context.listen_unix(&path)?;
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"question").expect("there is room");
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    pump(&event_loop, || record.has(&Event::End));
    assert_eq!(record.take(), [Event::Open, Event::Data(b"question".to_vec()), Event::End]);
    let socket = record.socket();
    assert_eq!(socket.write(b"answer"), 6);
    socket.shutdown();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is connected");
    assert_eq!(answer, "answer");
    pump(&event_loop, || record.ended());
    assert_eq!(record.take(), [Event::Close(CloseReason::End)]);
    Ok(())
}
