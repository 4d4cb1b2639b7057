//! Descriptors and credentials that go from process to process, and a listener that does.

#![cfg(target_os = "linux")]

mod util;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{IoSlice, Read, Write, pipe};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs, io, process, thread};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use usockets::{
    CloseReason, ContextBuilder, ListenSocket, Loop, ReceivedDescriptors, Socket, SocketContext,
    UsError,
};
use util::{
    Descriptors, Event, Record, alone, assert_nothing_live, child_role, drain, guard, guard_for,
    listen, new_loop, panic_of, pump, pump_for, recorded, run_child, scaled, settle, tcp_pair,
    unix_pair,
};

/// What a context was told of, in order.
type Told = Rc<RefCell<Vec<ReceivedDescriptors>>>;

fn receiving(record: &Record<()>) -> (ContextBuilder<false>, Told) {
    let told = Told::default();
    let list = Rc::clone(&told);
    let builder = record.builder().on_descriptors(move |(), _, (), received| {
        list.borrow_mut().push(received);
    });
    (builder, told)
}

/// Two sockets of the loop that are connected to each other; the first one receives descriptors.
fn connected(
    event_loop: &Loop,
    receiver: &Record<()>,
    sender: &Record<()>,
) -> Result<(Told, Socket<false>), UsError> {
    let (builder, told) = receiving(receiver);
    let context = builder.build(event_loop, ())?;
    let (ours, theirs) = unix_pair();
    context.accept_fd(ours)?;
    let socket = recorded(event_loop, sender).accept_fd(theirs)?;
    pump(event_loop, || receiver.opened() + sender.opened() == 2);
    Ok((told, socket))
}

/// A peer that knows nothing of this crate.
fn send_raw(stream: &UnixStream, data: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(stream, &[IoSlice::new(data)], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(data.len()));
}

/// Reads what comes through the pipe, to whose other end `writer` leads and nobody else does.
fn assert_leads_to(writer: OwnedFd, mut reader: impl Read) {
    File::from(writer).write_all(b"through").expect("it is a pipe");
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("it is a pipe");
    assert_eq!(text, "through");
}

// -- Receiving and sending --------------------------------------------------------------------

#[test]
fn descriptors_come_before_the_bytes_that_they_were_sent_with() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    {
        let event_loop = new_loop();
        let (receiver, sender) = (Record::<()>::new(), Record::<()>::new());
        let (told, socket) = connected(&event_loop, &receiver, &sender)?;
        let (reader, writer) = pipe().expect("a pipe");
        let (other_reader, other_writer) = pipe().expect("a pipe");
        assert_eq!(socket.write(b"before "), 7);
        socket.send_with_descriptors(b"with", &[writer.as_fd(), other_writer.as_fd()], false)?;
        drop((writer, other_writer));
        pump(&event_loop, || receiver.data() == b"before with");
        let mut fds = told.borrow_mut().remove(0).fds;
        assert_eq!(fds.len(), 2);
        assert_leads_to(fds.remove(0), reader);
        assert_leads_to(fds.remove(0), other_reader);
        // Bytes alone are no matter for the callback.
        assert_eq!(socket.write(b" after"), 6);
        pump(&event_loop, || receiver.data_length() == 17);
        assert!(told.borrow().is_empty());
        socket.close();
        drain(&event_loop);
        assert_eq!(receiver.closed(), Some(CloseReason::HangUp));
    }
    before.assert_unchanged();
    Ok(())
}

#[test]
fn descriptors_that_nobody_takes_are_closed() -> Result<(), UsError> {
    let _guard = alone();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let ignoring = recorded(&event_loop, &record);
    let dropping = record.builder().on_descriptors(|(), _, (), _| ()).build(&event_loop, ())?;
    for context in [&ignoring, &dropping] {
        let (ours, theirs) = unix_pair();
        context.accept_fd(ours)?;
        let (mut reader, writer) = pipe().expect("a pipe");
        record.take();
        send_raw(&theirs, b"take it", &[writer.as_fd()]);
        drop(writer);
        pump(&event_loop, || record.data() == b"take it");
        assert_eq!(reader.read(&mut [0]).expect("a pipe"), 0, "nobody has the other end");
    }
    Ok(())
}

#[test]
fn a_callback_for_descriptors_that_panics_leaks_none_and_loses_no_byte() -> Result<(), UsError> {
    let _guard = alone();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record
        .builder()
        .on_descriptors(|(), _, (), received| panic!("{} came", received.fds.len()))
        .build(&event_loop, ())?;
    let (ours, theirs) = unix_pair();
    context.accept_fd(ours)?;
    pump(&event_loop, || record.opened() == 1);
    let before = Descriptors::now();
    let (mut reader, writer) = pipe().expect("a pipe");
    send_raw(&theirs, b"later", &[writer.as_fd(), theirs.as_fd()]);
    drop(writer);
    assert_eq!(panic_of(|| while event_loop.turn(None).expect("a turn") {}), "2 came");
    assert_eq!(reader.read(&mut [0]).expect("a pipe"), 0);
    drop(reader);
    before.assert_unchanged();
    assert!(!record.has(&Event::Data(b"later".to_vec())));
    pump(&event_loop, || record.data() == b"later");
    Ok(())
}

#[test]
fn what_the_callback_does_to_the_socket_keeps_its_bytes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let target = recorded(&event_loop, &new);
    // The first time it pauses, then it moves, and in the new context there is no callback.
    let calls = Rc::new(Cell::new(0));
    let count = Rc::clone(&calls);
    let context = old
        .builder()
        .on_descriptors(move |(), socket, (), _| {
            count.set(count.get() + 1);
            if count.get() == 1 {
                socket.pause();
            } else {
                socket.adopt(&target, 0, |()| ()).expect("it is open");
            }
        })
        .build(&event_loop, ())?;
    let (ours, theirs) = unix_pair();
    let socket = context.accept_fd(ours)?;
    pump(&event_loop, || old.opened() == 1);
    send_raw(&theirs, b"one", &[theirs.as_fd()]);
    pump(&event_loop, || calls.get() == 1);
    settle(&event_loop);
    assert_eq!(old.data_length(), 0);
    socket.resume();
    pump(&event_loop, || old.data() == b"one");
    send_raw(&theirs, b"two", &[theirs.as_fd()]);
    pump(&event_loop, || new.data() == b"two");
    assert_eq!(new.events()[0], Event::Adopt);
    send_raw(&theirs, b"three", &[theirs.as_fd()]);
    pump(&event_loop, || new.data() == b"twothree");
    assert_eq!(calls.get(), 2);
    Ok(())
}

#[test]
fn descriptors_that_find_no_room_are_reported() -> Result<(), UsError> {
    let _guard = alone();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (builder, told) = receiving(&record);
    let context = builder.build(&event_loop, ())?;
    let (ours, theirs) = unix_pair();
    context.accept_fd(ours)?;
    pump(&event_loop, || record.opened() == 1);
    send_raw(&theirs, b"lost", &[theirs.as_fd(), theirs.as_fd(), theirs.as_fd()]);
    let before = Descriptors::now();
    let old = getrlimit(Resource::Nofile);
    // Room for one of three.
    let next = theirs.try_clone().expect("there is room");
    let number = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&next)).expect("a number");
    drop(next);
    setrlimit(Resource::Nofile, Rlimit { current: Some(number + 1), ..old }).expect("lower");
    pump(&event_loop, || record.data() == b"lost");
    setrlimit(Resource::Nofile, old).expect("as it was");
    let received = told.borrow_mut().remove(0);
    assert!(received.is_truncated);
    assert!(received.fds.is_empty());
    before.assert_unchanged();
    Ok(())
}

#[test]
fn descriptors_wait_with_their_bytes_and_go_after_a_close() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    {
        let event_loop = new_loop();
        let (receiver, sender) = (Record::<()>::new(), Record::<()>::new());
        let (told, socket) = connected(&event_loop, &receiver, &sender)?;
        // No room any more.
        let mut sent = 0;
        let chunk = vec![7; 100_000];
        while let taken @ 1.. = socket.write(&chunk) {
            sent += taken;
        }
        let mut readers = Vec::new();
        for _ in 0..3 {
            let (reader, writer) = pipe().expect("a pipe");
            socket.send_with_descriptors(b"with", &[writer.as_fd()], false)?;
            readers.push(reader);
            sent += 4;
        }
        pump(&event_loop, || receiver.data_length() == sent);
        assert_eq!(told.borrow().len(), 3);
        for (received, reader) in told.borrow_mut().drain(..).zip(readers) {
            assert_leads_to(received.fds.into_iter().next().expect("one"), reader);
        }
        socket.close();
        drain(&event_loop);
    }
    before.assert_unchanged();
    Ok(())
}

#[test]
fn descriptors_that_were_not_sent_go_with_the_loop() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    let (ours, theirs) = unix_pair();
    let (mut reader, writer) = pipe().expect("a pipe");
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let socket = recorded(&event_loop, &record).accept_fd(ours)?;
        pump(&event_loop, || record.opened() == 1);
        while socket.write(&[7; 100_000]) > 0 {}
        socket.send_with_descriptors(b"x", &[writer.as_fd()], false)?;
        drop(writer);
    }
    assert_eq!(reader.read(&mut [0]).expect("a pipe"), 0);
    drop((reader, theirs));
    before.assert_unchanged();
    Ok(())
}

#[test]
fn what_cannot_be_sent_is_an_error_and_changes_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (receiver, sender) = (Record::<()>::new(), Record::<()>::new());
    let (told, socket) = connected(&event_loop, &receiver, &sender)?;
    let (ours, _far) = tcp_pair();
    let tcp = recorded(&event_loop, &Record::<()>::new()).accept_fd(ours)?;
    settle(&event_loop);
    let file = File::open("/dev/null").expect("it is there");
    let fd = file.as_fd();
    let invalid = |result| matches!(result, Err(UsError::InvalidOption { .. }));
    assert!(invalid(socket.send_with_descriptors(b"", &[fd], false)));
    assert!(invalid(socket.send_with_descriptors(b"x", &[fd; 254], false)));
    let error = tcp.send_with_descriptors(b"x", &[fd], false).expect_err("TCP has none");
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    // As many as there may be.
    socket.send_with_descriptors(b"x", &[fd; 253], false)?;
    pump(&event_loop, || receiver.data() == b"x");
    assert_eq!(told.borrow_mut().pop().map(|received| received.fds.len()), Some(253));
    socket.close();
    assert!(matches!(socket.send_with_descriptors(b"x", &[fd], false), Err(UsError::Closed)));
    pump(&event_loop, || sender.ended() && receiver.ended());
    settle(&event_loop);
    assert!(matches!(socket.send_with_descriptors(b"x", &[fd], false), Err(UsError::Stale)));
    Ok(())
}

#[test]
fn credentials_come_with_every_chunk_if_they_are_wanted() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (receiver, sender) = (Record::<()>::new(), Record::<()>::new());
    let (builder, told) = receiving(&receiver);
    let context = builder.receive_credentials().build(&event_loop, ())?;
    let name = format!("\0usockets-test-{}-credentials", process::id());
    let _listener = context.listen_unix(&name)?;
    let socket = recorded(&event_loop, &sender).connect_unix(&name)?;
    pump(&event_loop, || sender.opened() == 1);
    // Perhaps before it is accepted.
    assert_eq!(socket.write(b"one"), 3);
    pump(&event_loop, || receiver.data() == b"one");
    socket.send_with_descriptors(b"two", &[], true)?;
    pump(&event_loop, || receiver.data() == b"onetwo");
    let told = told.borrow();
    assert_eq!(told.len(), 2);
    for received in told.iter() {
        let credentials = received.credentials.expect("they were asked for");
        assert_eq!(u32::try_from(credentials.pid), Ok(process::id()));
        assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
        assert_eq!(credentials.gid, rustix::process::getgid().as_raw());
        assert!(received.fds.is_empty() && !received.is_truncated);
    }
    Ok(())
}

/// Sends its standard input's file on and says what it was sent.
const PYTHON: &str = r#"
import array, os, socket, sys
channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
channel.connect(sys.argv[1])
data, fds, flags, address = socket.recv_fds(channel, 100, 10)
os.write(fds[0], b"python was told " + data)
os.close(fds[0])
socket.send_fds(channel, [b"for you"], [0])
channel.recv(1)
"#;

#[test]
fn descriptors_go_to_and_come_from_python() -> Result<(), UsError> {
    let _guard = guard();
    let folder = Folder::new();
    let path = folder.0.join("channel");
    let (input, output) = (folder.0.join("input"), folder.0.join("output"));
    fs::write(&input, "the text of a file").expect("a file");
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (builder, told) = receiving(&record);
    let context = builder.build(&event_loop, ())?;
    let _listener = context.listen_unix(&path)?;
    let started = Command::new("python3")
        .args(["-c", PYTHON])
        .arg(&path)
        .stdin(File::open(&input).expect("it was written"))
        .spawn();
    let mut python = match started {
        Ok(python) => python,
        Err(error) if env::var_os("CI").is_none() => {
            println!("skipped: python3 cannot be run: {error}");
            return Ok(());
        }
        Err(error) => panic!("python3 cannot be run: {error}"),
    };
    pump(&event_loop, || record.opened() == 1);
    let written = File::create(&output).expect("a file");
    record.socket().send_with_descriptors(b"hello", &[written.as_fd()], false)?;
    pump(&event_loop, || record.data() == b"for you");
    let fd = told.borrow_mut().remove(0).fds.remove(0);
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).expect("text");
    assert_eq!(text, "the text of a file");
    assert_eq!(fs::read_to_string(&output).expect("text"), "python was told hello");
    record.socket().close();
    pump(&event_loop, || event_loop.metrics().live_sockets == 0);
    assert!(python.wait().expect("it ends").success());
    Ok(())
}

/// A folder of the test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("usockets-fd-passing-{}-{number}", process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

// -- Listeners --------------------------------------------------------------------------------

#[test]
fn the_file_of_a_listener_that_was_handed_over_stays() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    {
        let folder = Folder::new();
        let event_loop = new_loop();
        let (old, new) = (Record::<()>::new(), Record::<()>::new());
        for by_clone in [true, false] {
            let path = folder.0.join(format!("{by_clone}"));
            let listener = recorded(&event_loop, &old).listen_unix(&path)?;
            let fd = if by_clone {
                let fd = listener.try_clone_fd()?;
                drop(listener);
                fd
            } else {
                listener.into_fd()?
            };
            // Nobody accepts for a while: who connects now waits.
            let early = UnixStream::connect(&path).expect("it still listens");
            let opened = new.opened();
            let successor = recorded(&event_loop, &new).listen_fd(fd)?;
            let late = UnixStream::connect(&path).expect("it listens");
            pump(&event_loop, || new.opened() == opened + 2);
            drop((early, late, successor));
            drain(&event_loop);
        }
        assert_eq!(old.opened(), 0);
        // Without it, the file goes with the listener.
        let path = folder.0.join("kept");
        drop(recorded(&event_loop, &old).listen_unix(&path)?);
        assert!(!path.exists());
        drain(&event_loop);
        settle(&event_loop);
        assert_nothing_live(&event_loop);
    }
    before.assert_unchanged();
    Ok(())
}

#[test]
fn two_loops_accept_from_one_listener() -> Result<(), UsError> {
    let _guard = guard();
    let (first, second) = (new_loop(), new_loop());
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let listener = listen(&recorded(&first, &old));
    let address = listener.local_addr()?;
    let successor = recorded(&second, &new).listen_fd(listener.try_clone_fd()?)?;
    assert_eq!(successor.local_addr()?, address);
    let _one = TcpStream::connect(address).expect("it listens");
    pump(&first, || old.opened() == 1);
    drop(listener);
    let _two = TcpStream::connect(address).expect("it still listens");
    settle(&first);
    pump(&second, || new.opened() == 1);
    assert_eq!(old.opened(), 1);
    Ok(())
}

/// Answers every byte with its own letter.
fn serve(event_loop: &Loop, letter: u8) -> SocketContext<false> {
    SocketContext::<false>::builder()
        .on_data(move |(), socket, (), data| {
            data.fill(letter);
            assert_eq!(socket.write(data), data.len());
        })
        .build(event_loop, ())
        .expect("a context")
}

const OLD: u8 = b'p';
const NEW: u8 = b's';

/// How long the hand-over may take: processes start slowly on a busy machine.
const HAND_OVER_MAX: Duration = Duration::from_secs(60);

/// How often each of the two must have answered.
const ANSWERS: usize = 200;

/// Connects, asks, reads the answer and closes, again and again, and counts who has answered.
#[derive(Default)]
struct Client {
    old: AtomicUsize,
    new: AtomicUsize,
    stop: AtomicBool,
}

impl Client {
    fn run(&self, address: SocketAddr) -> io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(scaled(Duration::from_secs(10))))?;
            stream.write_all(b"?")?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            let count = if answer[0] == OLD { &self.old } else { &self.new };
            count.fetch_add(1, Ordering::Relaxed);
            // No TIME_WAIT: ports are scarce when many tests run.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }
}

#[test]
fn a_listener_goes_to_another_process_while_clients_connect() -> Result<(), UsError> {
    if let Some(path) = child_role() {
        succeed(&path).expect("the successor works");
        return Ok(());
    }
    let _guard = guard_for(HAND_OVER_MAX);
    let folder = Folder::new();
    let path = folder.0.join("channel");
    let event_loop = new_loop();
    let listener = serve(&event_loop, OLD).listen("127.0.0.1:0")?;
    let address = listener.local_addr()?;

    let client = Arc::new(Client::default());
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let client = Arc::clone(&client);
            thread::spawn(move || client.run(address))
        })
        .collect();
    let failed = || clients.iter().any(thread::JoinHandle::is_finished);
    pump_for(&event_loop, HAND_OVER_MAX, || {
        failed() || client.old.load(Ordering::Relaxed) >= ANSWERS
    });

    // The successor comes, is sent the listener, and says when it accepts.
    let offered = Rc::new(Cell::new(Some(listener.try_clone_fd()?)));
    let listener = Rc::new(Cell::new(Some(listener)));
    let mine = Rc::clone(&listener);
    let channel = SocketContext::<false>::builder()
        .receive_credentials()
        .on_open(move |(), socket, (), _| {
            let fd = offered.take().expect("one successor");
            socket.send_with_descriptors(b"l", &[fd.as_fd()], true).expect("it is open");
        })
        .on_data(move |(), _, (), data| {
            assert_eq!(data, b"r");
            drop(mine.take());
        })
        .build(&event_loop, ())?;
    let meeting = channel.listen_unix(&path)?;
    let name = "a_listener_goes_to_another_process_while_clients_connect";
    let mut child = run_child(name, path.to_str().expect("text"));
    pump_for(&event_loop, HAND_OVER_MAX, || {
        failed() || client.new.load(Ordering::Relaxed) >= ANSWERS
    });
    assert!(listener.take().is_none(), "the successor has said that it accepts");

    client.stop.store(true, Ordering::Relaxed);
    pump(&event_loop, || clients.iter().all(thread::JoinHandle::is_finished));
    for client in clients {
        client.join().expect("no panic").expect("nothing was refused or reset");
    }
    assert!(client.old.load(Ordering::Relaxed) >= ANSWERS);
    assert!(client.new.load(Ordering::Relaxed) >= ANSWERS);

    // The successor ends with the channel.
    drop(meeting);
    channel.close();
    drain(&event_loop);
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    Ok(())
}

/// The successor: gets the listener, accepts, says so.
fn succeed(path: &str) -> Result<(), UsError> {
    let _guard = guard_for(HAND_OVER_MAX);
    let event_loop = new_loop();
    let service = serve(&event_loop, NEW);
    let listening = Rc::new(Cell::new(None::<ListenSocket>));
    let (place, end) = (Rc::clone(&listening), Rc::clone(&listening));
    let own = service.clone();
    let channel = SocketContext::<false>::builder()
        .receive_credentials()
        .on_descriptors(move |(), socket, (), mut received| {
            let credentials = received.credentials.expect("they were asked for");
            assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
            assert_ne!(u32::try_from(credentials.pid), Ok(process::id()));
            let fd = received.fds.pop().expect("the listener");
            place.set(Some(own.listen_fd(fd).expect("it listens")));
            assert_eq!(socket.write(b"r"), 1);
        })
        .on_close(move |(), _, (), _| {
            drop(end.take());
            service.close();
        })
        .build(&event_loop, ())?;
    channel.connect_unix(path)?;
    drain(&event_loop);
    Ok(())
}
