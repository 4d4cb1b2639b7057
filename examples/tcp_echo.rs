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

use usockets::{Loop, SignalWatch, SocketContext, UsError};

/// How long connections may take to come to their end.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What the server has done: the state of the context.
#[derive(Default)]
struct Totals {
    connections: u64,
    messages: u64,
    bytes: u64,
}

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

    let echo = SocketContext::<false, Totals>::builder()
        .on_open(|totals, _socket, (), _info| totals.connections += 1)
        .on_data(|totals, socket, (), data| {
            totals.messages += 1;
            totals.bytes += data.len() as u64;
            // What the system does not take at once is queued and follows by itself.
            if socket.send(data).is_err() {
                socket.reset();
            } else if socket.needs_drain() {
                socket.pause(); // who does not read is not read from
            }
        })
        .on_drain(|_totals, socket, ()| socket.resume())
        // A client that has finished gets the rest, and sees that we have finished too.
        .on_end(|_totals, socket, ()| socket.shutdown())
        // The server is to end. What was read goes back first: a close loses nothing.
        .on_drain_requested(|_totals, socket, ()| socket.close())
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
