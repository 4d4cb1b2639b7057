//! A TCP proxy: the system moves what goes through, without a copy in the process.
//!
//! ```text
//! cargo run --release --example proxy -- 127.0.0.1:3000 localhost:8080
//! cargo run --release --example proxy -- 127.0.0.1:3000 localhost:8080 --proxy-header
//! ```
//!
//! The second argument is the upstream server, by name or address; the name is looked up for each
//! connection, off the loop. With `--proxy-header` the server is told who the client is, by a header
//! of the PROXY protocol, version 2.
//!
//! Two pipes do all the work ([`Socket::pipe_to`]): one that is full holds back its sender; the end
//! of one direction passes through, and the other goes on; what breaks on one side breaks on the
//! other. A connection is cut off when its upstream does not answer, when nothing goes through for
//! long, or when one side does not take what waits for it. On Ctrl-C or SIGTERM connections have some
//! seconds to come to their end, then the totals are printed.

mod common;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use usockets::{
    ConnectOptions, ConnectTarget, Deadlines, Loop, LoopRef, OpenInfo, ProxyHeader, ProxyVersion,
    Socket, SocketContext, Target, UsError,
};

/// How long a connection to the upstream server may take to be made, its name looked up included.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How long nothing may go through.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// State of each of the two contexts: what has come from that side.
#[derive(Default)]
struct Side {
    connections: u64,
    failed: u64,
    bytes: u64,
}

type Client = Socket<false>;
type Clients = SocketContext<false, Side>;

/// The state of a connection to the upstream server is the client that it is for.
type Servers = SocketContext<false, Side, Option<Client>>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> io::Result<()> {
    let upstream = common::argument(2, "127.0.0.1:8080");
    let upstream_target = upstream
        .as_str()
        .into_target()
        .map_err(|error| io::Error::new(error.kind(), format!("{upstream}: {error}")))?;
    let with_header = match common::argument(3, "").as_str() {
        "" => false,
        "--proxy-header" => true,
        other => return Err(io::Error::other(format!("what is {other}?"))),
    };

    let event_loop = Loop::<()>::new()?;
    let servers = servers(&event_loop)?;
    let clients = clients(&event_loop, &servers, upstream_target, with_header)?;
    let listener = clients.listen(address)?;
    println!("listening on {}, for {upstream}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    let (connections, up) = clients.with_state(|side| (side.connections, side.bytes))?;
    let (failed, down) = servers.with_state(|side| (side.failed, side.bytes))?;
    println!("served {connections} connections, {failed} failed, {up} bytes up, {down} bytes down");
    Ok(())
}

fn deadlines() -> Deadlines {
    // It is not known here which of the two sides has to speak first.
    Deadlines::new().first_byte(None).connect(CONNECT_TIME).idle(IDLE_MAX)
}

fn servers(event_loop: &LoopRef) -> Result<Servers, UsError> {
    Servers::builder()
        .deadlines(deadlines())
        .on_open(|side, server, client, _info| {
            side.connections += 1;
            let Some(client) = client else { return server.close() };
            // An error means that the client has gone meanwhile.
            if client.pipe_to(server).and_then(|()| server.pipe_to(client)).is_err() {
                server.close();
            }
            client.resume();
        })
        .on_connect_error(|side, _server, client, error| {
            side.failed += 1;
            eprintln!("upstream: {error}");
            if let Some(client) = client {
                client.reset();
            }
        })
        .on_close(|side, server, _client, _reason| side.bytes += server.piped_bytes())
        .build(event_loop, Side::default())
}

fn clients(
    event_loop: &LoopRef,
    servers: &Servers,
    upstream: Target,
    with_header: bool,
) -> Result<Clients, UsError> {
    let servers = servers.clone();
    Clients::builder()
        .deadlines(deadlines())
        .on_open(move |side, client, (), info| {
            side.connections += 1;
            client.pause(); // until there is somebody to pass it on to
            let connecting = options(client, info, with_header).and_then(|options| {
                servers.connect_with(upstream.clone(), &options, Some(client.clone()))
            });
            if let Err(error) = connecting {
                eprintln!("upstream: {error}");
                client.reset();
            }
        })
        .on_close(|side, client, (), _reason| side.bytes += client.piped_bytes())
        .build(event_loop, Side::default())
}

/// How to connect to the upstream server for this client.
fn options(client: &Client, info: &OpenInfo, with_header: bool) -> Result<ConnectOptions, UsError> {
    let options = ConnectOptions::new();
    match info.peer_addr() {
        Some(peer) if with_header => {
            let header = ProxyHeader::new(ProxyVersion::V2, peer, client.local_addr()?)?;
            Ok(options.proxy_header(header))
        }
        _ => Ok(options),
    }
}
