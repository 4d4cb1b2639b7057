//! Output to a slow reader, and the ends of sockets that still have some.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::rc::Rc;

use bytes::Bytes;
use usockets::{CloseReason, Socket, SocketContext, UsError};

use crate::peer::{End, Reader, narrow_pair, patient};
use crate::util::{Token, alone_for, pattern};
use crate::{Case, SWEEP_MAX, has_struck, sweep, test_loop};

/// How the program ends a socket that has output.
#[derive(Debug, Clone, Copy)]
enum Finish {
    Close,
    AfterFlush,
    /// Ends our direction, and closes when the peer has ended too.
    Shutdown,
}

/// What was accepted of a socket, in order.
#[derive(Debug, Clone, Default)]
struct Accepted(Rc<RefCell<Vec<u8>>>, Rc<RefCell<Vec<Vec<u8>>>>);

impl Accepted {
    fn add(&self, report: &Rc<dyn Fn(String)>, data: &[u8], result: Result<(), UsError>) {
        let mut accepted = self.0.borrow_mut();
        match result {
            Ok(()) => accepted.extend_from_slice(data),
            Err(error) => {
                self.1.borrow_mut().push([&accepted, data].concat());
                report(error.to_string());
            }
        }
    }

    /// Whether these came of it: none that was not accepted, unless the connection `broke` in the midst of them.
    fn begins_with(&self, received: &[u8], broke: bool) -> bool {
        self.0.borrow().starts_with(received)
            || (broke && self.1.borrow().iter().any(|refused| refused.starts_with(received)))
    }
}

type Output = dyn Fn(&Socket<false, Token>, &Accepted, &Rc<dyn Fn(String)>);

/// A socket gives its output, and ends. Either all that was accepted arrives, or the end shows that it did not:
/// to the program while `on_close` is still to come, afterwards by a reset to the peer.
fn output(case: &Case, finish: Finish, give: &Rc<Output>) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let accepted = Accepted::default();
    let closed = Rc::new(RefCell::new(None));
    let report: Rc<dyn Fn(String)> = Rc::new(case.reporter());
    let (drops, give, out) = (case.drops.clone(), Rc::clone(give), accepted.clone());
    let (told, failed) = (Rc::clone(&closed), Rc::clone(&closed));
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .on_open(move |(), socket, _, _| {
            give(socket, &out, &report);
            match finish {
                Finish::Close => socket.close(),
                Finish::AfterFlush => socket.close_after_flush(),
                Finish::Shutdown => socket.shutdown(),
            }
        })
        .deadlines(patient())
        .on_close(move |(), _, _, reason| {
            assert!(told.replace(Some(reason.to_string())).is_none(), "it ends twice");
        })
        .on_connect_error(move |(), _, _, error| {
            assert!(failed.replace(Some(error.to_string())).is_none(), "it ends twice");
        })
        .build(&event_loop, ())?;
    let (ours, theirs) = narrow_pair();
    let mut reader = Reader::new(theirs, 24 * 1024);
    let socket = context.accept_fd(ours)?;
    case.turn_until(&event_loop, || {
        reader.step();
        reader.end().is_some()
            && closed.borrow().is_some()
            && event_loop.metrics().live_sockets == 0
    });
    assert!(socket.is_closed());
    let reason = closed.take().expect("it has closed");
    let orderly = match finish {
        Finish::Close | Finish::AfterFlush => CloseReason::Local,
        Finish::Shutdown => CloseReason::End,
    };
    let orderly = orderly.to_string();
    if reason != orderly {
        case.report(&reason);
    }
    let received = reader.data();
    let is_told = reader.end() == Some(End::Reset) || reason != orderly;
    assert!(
        accepted.begins_with(received, is_told),
        "other bytes: {}, {:?}, {reason}, {:?}",
        received.len(),
        reader.end(),
        case.reports
    );
    let length = accepted.0.borrow().len();
    assert!(received.len() >= length || is_told, "{} of {length} bytes", received.len());
    assert!(received.len() >= length || has_struck(), "{} of {length} bytes", received.len());
    if reader.end() == Some(End::Reset) {
        case.report("the peer was reset");
    }
    Ok(())
}

fn sweep_output(
    name: &str,
    give: impl Fn(&Socket<false, Token>, &Accepted, &Rc<dyn Fn(String)>) + 'static,
) {
    let give: Rc<Output> = Rc::new(give);
    for finish in [Finish::Close, Finish::AfterFlush, Finish::Shutdown] {
        sweep(&format!("{name}, {finish:?}"), |case| output(case, finish, &give));
    }
}

/// Small writes are gathered, slices and owned buffers queued.
#[test]
fn queued_output_arrives_or_its_loss_is_seen() {
    let _guard = alone_for(SWEEP_MAX);
    let all = pattern(240_000);
    let large = Bytes::from(pattern(120_000));
    sweep_output("queue", move |socket, accepted, report| {
        for piece in all[..900].chunks(300) {
            let count = socket.write(piece);
            accepted.0.borrow_mut().extend_from_slice(&piece[..count]);
        }
        let slices = [IoSlice::new(&all[..5000]), IoSlice::new(&all[5000..60_000])];
        accepted.add(report, &all[..60_000], socket.send_vectored(&slices));
        accepted.add(report, &large, socket.send_bytes(large.clone()));
        accepted.add(report, b"between", socket.send(b"between"));
        accepted.add(report, &large[7..], socket.send_bytes(large.slice(7..)));
        accepted.add(report, b"last words", socket.send(b"last words"));
    });
}

/// A file without a name.
fn file_of(content: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!("usockets-fault-file-{}", std::process::id()));
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file");
    std::fs::remove_file(&path).expect("it was made");
    file.write_all(content).expect("there is room");
    file
}

#[test]
fn file_arrives_or_its_loss_is_seen() {
    let _guard = alone_for(SWEEP_MAX);
    let content = pattern(200_000);
    let file = file_of(&content);
    sweep_output("file", move |socket, accepted, report| {
        let clone = || file.try_clone().expect("a descriptor");
        accepted.add(report, b"header", socket.send(b"header"));
        accepted.add(report, &content[5..150_000], socket.send_file(clone(), 5..150_000));
        accepted.add(report, b"next", socket.send(b"next"));
        accepted.add(report, &content[100_000..], socket.send_file(clone(), 100_000..));
    });
}
