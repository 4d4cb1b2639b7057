//! A TCP echo server: sends back every byte, in order, however slowly the client reads.
//!
//! ```text
//! cargo run --release --example tcp_echo -- 127.0.0.1:3000
//! ```
//!
//! The address is optional, and 127.0.0.1:3000 without it. Try it with `nc 127.0.0.1 3000`. Ctrl-C or
//! SIGTERM sends what is left, closes all connections, and ends with a line that says what was done.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use usockets::{Loop, SignalWatch, Socket, SocketContext, UsError};

/// How long connections may take to come to their end.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What the server has done: the state of the context.
#[derive(Default)]
struct Totals {
    connections: u64,
    messages: u64,
    bytes: u64,
}

/// What a connection still has to send: the state of each socket.
///
/// While something is left here, the socket is paused. So this never holds more than one chunk of data,
/// and the client, which is not read from, feels that it has to read.
#[derive(Default)]
struct Session {
    rest: Vec<u8>,
    /// How much of `rest` was sent already.
    sent: usize,
}

type EchoSocket = Socket<false, Session>;

fn main() -> ExitCode {
    let address = env::args().nth(1).unwrap_or_else(|| String::from("127.0.0.1:3000"));
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tcp_echo: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;

    let echo = SocketContext::<false, Totals, Session>::builder()
        .on_open(|totals, _socket, _session, _info| totals.connections += 1)
        .on_data(|totals, socket, session, data| {
            totals.messages += 1;
            totals.bytes += data.len() as u64;
            send(socket, session, data);
        })
        .on_writable(|_totals, socket, session| flush(socket, session))
        // A client that has finished gets to see that we have too. Nothing is left to be sent: while
        // there is, the socket is paused, and the end is not reported.
        .on_end(|_totals, socket, _session| socket.close())
        // The server is to end. What was read goes back first.
        .on_drain_requested(|_totals, socket, session| {
            if session.rest.is_empty() {
                socket.close();
            }
        })
        .build(&event_loop, Totals::default())?;

    let listener = echo.listen(address)?;
    println!("listening on {}", listener.local_addr()?);

    let interrupt = drain_on_signal(&event_loop, libc::SIGINT)?;
    let terminate = drain_on_signal(&event_loop, libc::SIGTERM)?;

    event_loop.run()?;

    drop((interrupt, terminate));
    echo.with_state(|totals| {
        println!(
            "{} connections, {} bytes, {} messages",
            totals.connections, totals.bytes, totals.messages
        );
    })
}

/// Sends what the system takes, and keeps the rest.
fn send(socket: &EchoSocket, session: &mut Session, data: &[u8]) {
    let taken = socket.write(data);
    if taken < data.len() {
        session.rest.extend_from_slice(&data[taken..]);
        socket.pause();
    }
}

/// Goes on with the rest, and reads on when it is gone.
fn flush(socket: &EchoSocket, session: &mut Session) {
    session.sent += socket.write(&session.rest[session.sent..]);
    if session.sent == session.rest.len() {
        session.rest.clear();
        session.sent = 0;
        if socket.is_draining() {
            socket.close();
        } else {
            socket.resume();
        }
    }
}

/// Closes the listener, lets the connections come to their end, and then ends `run`. Clients that do not
/// read are cut off after a while.
fn drain_on_signal(event_loop: &Loop, signal: i32) -> Result<SignalWatch, UsError> {
    event_loop.on_signal(signal, |event_loop, _signal| {
        let drained = event_loop.drain(DRAIN_TIME, |report| {
            if report.forced > 0 {
                println!("{} connections did not finish in time", report.forced);
            }
        });
        drained.expect("the time is in range");
    })
}
