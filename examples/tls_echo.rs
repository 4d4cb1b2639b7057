//! A TLS echo server: `tcp_echo` with a certificate.
//!
//! ```text
//! cargo run --release --example tls_echo -- 127.0.0.1:3443 --ca /tmp/echo.pem
//! openssl s_client -connect 127.0.0.1:3443 -CAfile /tmp/echo.pem -verify_return_error    # elsewhere
//! cargo run --example tls_client -- localhost:3443 --ca /tmp/echo.pem
//! ```
//!
//! The address comes first, and is 127.0.0.1:3443 without one. `--cert FILE --key FILE` says who the server is,
//! in PEM. Without these it makes a certificate for this computer that signs itself, prints its fingerprint, and
//! writes nothing to disk, but the certificate if `--ca FILE` asks for it: clients can trust that. Connections
//! that fail get a line that says why. Ctrl-C or SIGTERM sends what is left and prints totals.

mod common;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use common::{Options, certificates};
use usockets::{Loop, SocketContext, TlsServerOptions};

/// What the server has done: the state of the context.
#[derive(Default)]
struct Totals {
    connections: u64,
    resumed: u64,
    failed: u64,
    bytes: u64,
}

/// State of each socket: who it is.
type Peer = Option<SocketAddr>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3443", serve)
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let options = Options::parse(&["--cert", "--key", "--ca"])?;
    let config = TlsServerOptions::new(certificates::server_identity(&options)?).build()?;
    let event_loop = Loop::<()>::new()?;

    let echo = SocketContext::<true, Totals, Peer>::builder()
        .tls_server(&config)
        .on_open(|_totals, socket, peer, _info| *peer = socket.peer_addr().ok())
        .on_handshake(|totals, _socket, _peer, result| match result {
            Ok(handshake) => {
                totals.connections += 1;
                totals.resumed += u64::from(handshake.is_resumed);
            }
            Err(_reason) => totals.failed += 1, // `on_close` says it
        })
        // From here on it is as over TCP.
        .on_data(|totals, socket, _peer, data| {
            totals.bytes += data.len() as u64;
            if socket.send(data).is_err() {
                socket.reset();
            } else if socket.needs_drain() {
                socket.pause(); // who does not read is not read from
            }
        })
        .on_drain(|_totals, socket, _peer| socket.resume())
        // The client has sent its `close_notify`: it gets the rest, and then ours.
        .on_end(|_totals, socket, _peer| socket.shutdown())
        .on_drain_requested(|_totals, socket, _peer| socket.close())
        .on_close(|_totals, _socket, peer, reason| {
            if let (Some(peer), Some(error)) = (peer, reason.error()) {
                println!("{peer}: {error}");
            }
        })
        .build(&event_loop, Totals::default())?;

    let listener = echo.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    echo.with_state(|totals| {
        println!(
            "{} connections, {} of them resumed, {} failed handshakes, {} bytes",
            totals.connections, totals.resumed, totals.failed, totals.bytes
        );
    })?;
    Ok(())
}
