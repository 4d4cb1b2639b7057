//! What the examples share: a queue of outgoing bytes, and how such a program starts and stops.
#![allow(dead_code, reason = "no example uses all of it")]

use std::collections::VecDeque;
use std::env;
use std::fmt::Display;
use std::io::IoSlice;
use std::process::ExitCode;
use std::time::Duration;

use usockets::{LoopRef, SignalWatch, Socket, UsError};

/// Bytes on their way to a peer that the system has not taken yet. Part of a socket's state.
///
/// Every byte that is sent arrives, in order, or the connection is lost. How much may wait is up to
/// the program: it asks [`is_empty`](Self::is_empty) or [`len`](Self::len) after each `send` and
/// then reads less, or drops the peer.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<u8>,
    /// What follows the last byte.
    then: Then,
}

#[derive(Default, Clone, Copy)]
enum Then {
    #[default]
    Nothing,
    /// Our direction ends.
    Shutdown,
    /// The connection ends.
    Close,
}

impl Outbox {
    /// Sends `data`, behind what waits already.
    pub(crate) fn send<S: 'static>(&mut self, socket: &Socket<false, S>, data: &[u8]) {
        let taken = if self.waiting.is_empty() { socket.write(data) } else { 0 };
        self.waiting.extend(&data[taken..]);
    }

    /// Goes on sending: to be called in `on_writable`.
    pub(crate) fn flush<S: 'static>(&mut self, socket: &Socket<false, S>) {
        let (front, back) = self.waiting.as_slices();
        let taken = socket.write_vectored(&[IoSlice::new(front), IoSlice::new(back)]);
        self.waiting.drain(..taken);
        if self.waiting.is_empty() {
            // An idle connection shall not keep the memory of a busy one.
            self.waiting = VecDeque::new();
            self.conclude(socket);
        }
    }

    /// Ends our direction when everything has been sent. If the peer has ended too, that closes the
    /// connection.
    pub(crate) fn finish<S: 'static>(&mut self, socket: &Socket<false, S>) {
        self.end(socket, Then::Shutdown);
    }

    /// Closes the connection when everything has been sent: for a server that drains.
    pub(crate) fn close<S: 'static>(&mut self, socket: &Socket<false, S>) {
        self.end(socket, Then::Close);
    }

    fn end<S: 'static>(&mut self, socket: &Socket<false, S>, then: Then) {
        self.then = then;
        if self.waiting.is_empty() {
            self.conclude(socket);
        }
    }

    fn conclude<S: 'static>(&self, socket: &Socket<false, S>) {
        match self.then {
            Then::Nothing => {}
            Then::Shutdown => socket.shutdown(),
            Then::Close => socket.close(),
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// The whole of `main`: calls `program` with the first argument, or `default` if there is none, and
/// prints its error.
pub(crate) fn run<E: Display>(
    default: &str,
    program: impl FnOnce(&str) -> Result<(), E>,
) -> ExitCode {
    let argument = env::args().nth(1).unwrap_or_else(|| default.to_owned());
    match program(&argument) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{argument}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How long connections may take to come to their end when the program is asked to.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Lets the connections come to their end, and then ends `run`.
pub(crate) fn drain(event_loop: &LoopRef, time: Duration) {
    let drained = event_loop.drain(time, |report| {
        if report.forced > 0 {
            println!("{} connections did not finish in time", report.forced);
        }
    });
    if let Err(error) = drained {
        eprintln!("{error}");
        event_loop.stop();
    }
}

/// Lets Ctrl-C and SIGTERM drain the loop and so end `run`, as long as the result is kept. The same
/// signal once more ends what is left at once.
pub(crate) fn drain_on_signals(event_loop: &LoopRef) -> Result<[SignalWatch; 2], UsError> {
    let watch = |signal| {
        let mut time = DRAIN_TIME;
        event_loop.on_signal(signal, move |event_loop, _signal| {
            drain(event_loop, time);
            time = Duration::ZERO;
        })
    };
    Ok([watch(libc::SIGINT)?, watch(libc::SIGTERM)?])
}

/// Lets Ctrl-C and SIGTERM end `run`, as long as the result is kept.
pub(crate) fn stop_on_signals(event_loop: &LoopRef) -> Result<[SignalWatch; 2], UsError> {
    let stop = |event_loop: &LoopRef, _signal: i32| event_loop.stop();
    Ok([event_loop.on_signal(libc::SIGINT, stop)?, event_loop.on_signal(libc::SIGTERM, stop)?])
}
