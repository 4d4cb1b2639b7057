//! Listening sockets that a process is started with. Each test is such a process: started by a shell,
//! which puts the sockets where the protocol says and its own id, that the program keeps, in the environment.

#![cfg(unix)]

mod util;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{self, Command, Stdio};

use rustix::io::{FdFlags, fcntl_getfd};
use usockets::{SocketContext, UsError, inherited_listeners};
use util::{child_command, child_role, guard, new_loop, own_address};

/// Moves the standard input and output to the descriptors 3 and 4, and the standard error to the output.
const MOVE: &str = "exec 3<&0 4<&1 0</dev/null 1>&2";

/// The same, with nothing at 3 and 4.
const NOTHING: &str = "exec 3<&- 4<&- 0</dev/null 1>&2";

/// Runs this test program in the role, with two descriptors and what the shell says before. Returns what
/// it prints.
fn run(test: &str, descriptors: [OwnedFd; 2], setup: &str, variables: &str) -> process::Child {
    let program = child_command(test, "server");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{setup}; {variables} exec \"$0\" \"$@\""));
    shell.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        shell.env(name, value.expect("it is set"));
    }
    let [input, output] = descriptors;
    shell
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is a shell")
}

#[track_caller]
fn assert_succeeds(mut child: process::Child) {
    let mut said = String::new();
    let errors = child.stderr.as_mut().expect("it is piped");
    errors.read_to_string(&mut said).expect("text");
    assert!(child.wait().expect("it ends").success(), "{said}");
}

/// Two sockets that listen: TCP, and a Unix socket without a file.
fn listeners(name: &str) -> (TcpListener, UnixListener, [OwnedFd; 2]) {
    let tcp = TcpListener::bind(own_address()).expect("a listener");
    let path = std::env::temp_dir().join(format!("usockets-activation-{}-{name}", process::id()));
    let unix = UnixListener::bind(&path).expect("a listener");
    let twins = [tcp.as_fd(), unix.as_fd()].map(|fd| fd.try_clone_to_owned().expect("a twin"));
    (tcp, unix, twins)
}

#[test]
fn an_activated_process_serves_the_sockets_it_was_given() {
    let test = "an_activated_process_serves_the_sockets_it_was_given";
    if child_role().is_some() {
        serve().expect("it serves");
        return;
    }
    let _guard = guard();
    let (tcp, unix, twins) = listeners("serve");
    let address = tcp.local_addr().expect("it is bound");
    let name = unix.local_addr().expect("it is bound");
    let path = name.as_pathname().expect("a path").to_owned();
    let child = run(test, twins, MOVE, "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:admin");
    let mut answers = [String::new(), String::new()];
    let mut web = TcpStream::connect(address).expect("it listens");
    web.write_all(b"?").expect("it is connected");
    web.read_to_string(&mut answers[0]).expect("it is connected");
    let mut admin = UnixStream::connect(&path).expect("it listens");
    admin.write_all(b"?").expect("it is connected");
    admin.read_to_string(&mut answers[1]).expect("it is connected");
    assert_succeeds(child);
    assert_eq!(answers, ["web", "admin"]);
    // The file is that of whoever made it.
    fs::remove_file(&path).expect("it is still there");
}

/// Answers one question on each socket with its name.
fn serve() -> Result<(), UsError> {
    let inherited = inherited_listeners()?;
    assert_eq!(inherited.len(), 2);
    assert!(inherited_listeners()?.is_empty(), "they are handed out once");
    for listener in &inherited {
        let flags = fcntl_getfd(listener).expect("it is open");
        assert!(flags.contains(FdFlags::CLOEXEC), "{listener:?}");
    }
    assert!(inherited[0].local_addr()?.ip().is_loopback());
    assert!(matches!(inherited[0].local_unix_addr(), Err(UsError::InvalidAddress { .. })));
    assert!(inherited[1].local_unix_addr()?.as_pathname().is_some());
    assert!(matches!(inherited[1].local_addr(), Err(UsError::InvalidAddress { .. })));

    let event_loop = new_loop();
    let mut kept = Vec::new();
    for listener in inherited {
        let name = listener.name().expect("there are names").to_owned();
        let context = SocketContext::<false>::builder()
            .on_data(move |(), socket, (), _| {
                assert_eq!(socket.write(name.as_bytes()), name.len());
                socket.close();
            })
            .build(&event_loop, ())?;
        kept.push(context.listen_fd(listener)?);
    }
    while event_loop.metrics().sockets_closed < 2 {
        event_loop.turn(None)?;
    }
    Ok(())
}

#[test]
fn without_names_there_are_none() {
    let test = "without_names_there_are_none";
    if child_role().is_some() {
        let inherited = inherited_listeners().expect("they are there");
        assert_eq!(inherited.len(), 1, "the second descriptor is not meant");
        assert_eq!(inherited[0].name(), None);
        return;
    }
    let _guard = guard();
    let (_tcp, unix, twins) = listeners("names");
    assert_succeeds(run(test, twins, MOVE, "LISTEN_PID=$$ LISTEN_FDS=1"));
    remove(&unix);
}

#[test]
fn descriptors_of_another_process_are_left_alone() {
    let test = "descriptors_of_another_process_are_left_alone";
    if child_role().is_some() {
        assert!(inherited_listeners().expect("nothing is wrong").is_empty());
        return;
    }
    let _guard = guard();
    for variables in ["LISTEN_PID=1 LISTEN_FDS=2", "LISTEN_FDS=2", "LISTEN_PID=$$", ""] {
        let (_tcp, unix, twins) = listeners("others");
        assert_succeeds(run(test, twins, MOVE, variables));
        remove(&unix);
    }
}

#[test]
fn variables_that_make_no_sense_are_named() {
    let test = "variables_that_make_no_sense_are_named";
    if child_role().is_some() {
        let expected = std::env::var("EXPECTED").expect("it is set");
        for _ in 0..2 {
            let error = inherited_listeners().expect_err("nonsense");
            let UsError::InvalidOption { option, .. } = error else { panic!("{error}") };
            assert_eq!(option, expected);
        }
        return;
    }
    let _guard = guard();
    for (variables, wrong) in [
        ("LISTEN_PID=me LISTEN_FDS=2", "LISTEN_PID"),
        ("LISTEN_PID=$$ LISTEN_FDS=two", "LISTEN_FDS"),
        ("LISTEN_PID=$$ LISTEN_FDS=-1", "LISTEN_FDS"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web", "LISTEN_FDNAMES"),
    ] {
        let (_tcp, unix, twins) = listeners("nonsense");
        let variables = format!("EXPECTED={wrong} {variables}");
        assert_succeeds(run(test, twins, MOVE, &variables));
        remove(&unix);
    }
}

#[test]
fn a_descriptor_that_does_not_listen_is_an_error() {
    let test = "a_descriptor_that_does_not_listen_is_an_error";
    if child_role().is_some() {
        let error = inherited_listeners().expect_err("the second one does not listen");
        let UsError::Io { operation, address, .. } = &error else { panic!("{error}") };
        assert_eq!(*operation, "inherited_listeners");
        assert_eq!(*address, std::env::var("EXPECTED").ok(), "{error}");
        return;
    }
    let _guard = guard();
    let (tcp, unix, [first, _]) = listeners("listens");
    let (connected, _peer) = UnixStream::pair().expect("a pair");
    let variables = "EXPECTED='descriptor 4' LISTEN_PID=$$ LISTEN_FDS=2";
    assert_succeeds(run(test, [first, connected.into()], MOVE, variables));
    let file = fs::File::open("/dev/null").expect("it is there");
    let first = tcp.as_fd().try_clone_to_owned().expect("a twin");
    assert_succeeds(run(test, [first, file.into()], MOVE, variables));
    // Or is not there at all.
    let variables = "EXPECTED='descriptor 3' LISTEN_PID=$$ LISTEN_FDS=1";
    assert_succeeds(run(
        test,
        [tcp.into(), unix.as_fd().try_clone_to_owned().expect("a twin")],
        NOTHING,
        variables,
    ));
    remove(&unix);
}

/// Removes the file of a listener.
fn remove(listener: &UnixListener) {
    let address = listener.local_addr().expect("it is bound");
    fs::remove_file(address.as_pathname().expect("a path")).expect("it is still there");
}
