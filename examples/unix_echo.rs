//! An echo server on a Unix socket.
//!
//! ```text
//! cargo run --example unix_echo -- /tmp/echo.sock
//! nc -U /tmp/echo.sock
//! ```
//!
//! Every line typed into `nc` comes back. Without an argument the path is /tmp/usockets.sock. A
//! name with an `@` before it is an abstract one of Linux, which needs no file; its client is
//! `socat - ABSTRACT:name`. A socket that an earlier server has left at the path is replaced, any
//! other file is an error. Ctrl-C or SIGTERM removes the socket, sends what is left,
//! and prints the totals.

mod common;

use std::process::ExitCode;

use usockets::{Loop, SocketContext, UsError};

#[derive(Default)]
struct Totals {
    connections: u64,
    bytes: u64,
}

fn main() -> ExitCode {
    common::run("/tmp/usockets.sock", serve)
}

fn serve(address: &str) -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;

    let echo = SocketContext::<false, Totals>::builder()
        .on_open(|totals, _socket, (), _info| totals.connections += 1)
        .on_data(|totals, socket, (), data| {
            totals.bytes += data.len() as u64;
            if socket.send(data).is_err() {
                socket.reset();
            } else if socket.needs_drain() {
                socket.pause(); // who does not read is not read from
            }
        })
        .on_drain(|_totals, socket, ()| socket.resume())
        .on_end(|_totals, socket, ()| socket.shutdown())
        .on_drain_requested(|_totals, socket, ()| socket.close())
        .build(&event_loop, Totals::default())?;

    // An abstract name is a path that begins with a NUL.
    let path = match address.strip_prefix('@') {
        Some(name) => format!("\0{name}"),
        None => address.to_owned(),
    };
    let _listener = echo.listen_unix(path)?; // removes the file when it closes
    println!("listening on {address}");
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    echo.with_state(|totals| {
        println!("served {} connections, {} bytes", totals.connections, totals.bytes);
    })
}
