//! An echo server and its client, over TCP and over Unix sockets.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use usockets::{CloseReason, LoopRef, Socket, SocketContext, UsError};

use crate::util::{Drops, Token, alone_for, own_address, pattern};
use crate::{Case, FAULTS, Fault, SWEEP_MAX, sweep, test_loop};

/// Output that waits for room, and what has come in.
#[derive(Debug)]
struct Session {
    _token: Token,
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

impl Session {
    fn new(drops: &Drops) -> Self {
        Self { _token: drops.token(), output: Vec::new(), sent: 0, input: Vec::new() }
    }

    fn flush(&mut self, socket: &Socket<false, Self>) {
        self.sent += socket.write(&self.output[self.sent..]);
    }
}

/// A server that echoes, pauses while its output waits, and ends after its peer.
fn echo_server(
    case: &Case,
    event_loop: &LoopRef,
    open: &Rc<Cell<i32>>,
) -> Result<SocketContext<false, (), Session>, UsError> {
    let (drops, report) = (case.drops.clone(), case.reporter());
    let (opened, closed) = (Rc::clone(open), Rc::clone(open));
    SocketContext::<false, (), Session>::builder_with(move || Session::new(&drops))
        .on_open(move |(), _, _, _| opened.set(opened.get() + 1))
        .on_data(|(), socket, session, data| {
            session.output.extend_from_slice(data);
            session.flush(socket);
            if session.sent < session.output.len() {
                socket.pause();
            }
        })
        .on_writable(|(), socket, session| {
            session.flush(socket);
            if session.sent == session.output.len() {
                socket.resume();
            }
        })
        .on_end(|(), socket, session| {
            // Paused while output waits, so there is none.
            assert_eq!(session.sent, session.output.len());
            socket.shutdown();
        })
        .on_close(move |(), _, _, reason| {
            closed.set(closed.get() - 1);
            if *reason != CloseReason::End {
                report(format!("server: {reason}"));
            }
        })
        .build(event_loop, ())
}

/// What a client has seen at its end.
type Seen = Rc<RefCell<Option<Vec<u8>>>>;

/// A client that sends the data, and ends when all of it has come back.
fn echo_client(
    case: &Case,
    event_loop: &LoopRef,
    data: &Rc<Vec<u8>>,
    seen: &Seen,
) -> Result<SocketContext<false, (), Session>, UsError> {
    let (drops, data, length) = (case.drops.clone(), Rc::clone(data), data.len());
    let (report_close, report_error) = (case.reporter(), case.reporter());
    let (closed, failed) = (Rc::clone(seen), Rc::clone(seen));
    SocketContext::<false, (), Session>::builder_with(move || Session::new(&drops))
        .on_open(move |(), socket, session, _| {
            session.output = data.to_vec();
            session.flush(socket);
        })
        .on_writable(|(), socket, session| session.flush(socket))
        .on_data(move |(), socket, session, input| {
            session.input.extend_from_slice(input);
            if session.input.len() >= length {
                socket.shutdown();
            }
        })
        // The end before that: whoever ended it has reported why.
        .on_end(|(), socket, _| socket.close())
        .on_close(move |(), _, session, reason| {
            let before = closed.replace(Some(std::mem::take(&mut session.input)));
            assert!(before.is_none(), "it ends twice");
            if !matches!(reason, CloseReason::End | CloseReason::Local) {
                report_close(format!("client: {reason}"));
            }
        })
        .on_connect_error(move |(), _, _, error| {
            assert!(failed.replace(Some(Vec::new())).is_none(), "it ends twice");
            report_error(format!("client: {error}"));
        })
        .build(event_loop, ())
}

/// Over TCP or, with a path, a Unix socket.
fn echo(case: &Case, path: Option<&PathBuf>) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let data = Rc::new(pattern(300_000));
    let (open, seen) = (Rc::new(Cell::new(0)), Seen::default());
    let server = echo_server(case, &event_loop, &open)?;
    let client = echo_client(case, &event_loop, &data, &seen)?;
    let _listener;
    match path {
        Some(path) => {
            _listener = server.listen_unix(path)?;
            client.connect_unix(path)?;
        }
        None => {
            let listener = server.listen(own_address())?;
            let address = listener.local_addr()?;
            _listener = listener;
            client.connect(address)?;
        }
    }
    case.turn_until(&event_loop, || seen.borrow().is_some() && open.get() == 0);
    if event_loop.metrics().accept_failures > 0 {
        case.report("a connection was not accepted");
    }
    let received = seen.take().expect("it has ended");
    assert!(received.len() <= data.len() && received == data[..received.len()], "other bytes");
    assert!(
        received.len() == data.len() || case.is_reported(),
        "{} of {} bytes, and nobody was told",
        received.len(),
        data.len()
    );
    Ok(())
}

#[test]
fn echo_over_tcp() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("echo over TCP", |case| echo(case, None));
}

#[test]
fn echo_over_unix() {
    let _guard = alone_for(SWEEP_MAX);
    let path = std::env::temp_dir().join(format!("usockets-faults-{}", std::process::id()));
    let left = Cell::new(0);
    sweep("echo over Unix", |case| {
        // What an earlier case has left behind is in nobody's way.
        let result = echo(case, Some(&path));
        left.set(left.get() + u32::from(path.exists()));
        result
    });
    // At the end the listener looks whether the file is its own, and removes it: either may fail.
    let most = 2 * FAULTS.iter().filter(|fault| matches!(fault, Fault::Error(_))).count();
    assert!(left.get() as usize <= most, "the file is left behind {} times", left.get());
    let _gone = std::fs::remove_file(&path);
}
