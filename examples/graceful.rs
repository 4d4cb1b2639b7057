//! A tiny HTTP server that ends without losing a request.
//!
//! ```text
//! cargo run --release --example graceful -- 127.0.0.1:3000
//! curl -v http://127.0.0.1:3000/
//! ```
//!
//! Every request is answered by the number of the process. On Ctrl-C or SIGTERM the server *drains*:
//! it does not listen any more; the requests that have come, in part or whole, are answered, with
//! `Connection: close`; so is one that is on its way on a connection that is idle, for a second. Then
//! the connections close. What is stuck after five seconds is cut off.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use usockets::{Deadlines, Loop, LoopRef, Socket, SocketContext, UsError};

/// The longest head of a request, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// The same while the server drains: a client may just be about to use it once more.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// State of the context.
#[derive(Default)]
struct Totals {
    connections: u64,
    requests: u64,
}

/// State of each socket.
#[derive(Default)]
struct Connection {
    /// The beginning of a request.
    input: Vec<u8>,
    /// The last answer was given.
    over: bool,
}

type Server = SocketContext<false, Totals, Connection>;
type Client = Socket<false, Connection>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;
    let server = server(&event_loop)?;
    let listener = server.listen(address)?;
    println!("process {} is listening on {}", std::process::id(), listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    server.with_state(|totals| {
        println!("served {} requests of {} connections", totals.requests, totals.connections);
    })
}

fn server(event_loop: &LoopRef) -> Result<Server, UsError> {
    Server::builder()
        .deadlines(Deadlines::new().idle(IDLE))
        .on_open(|totals, _client, _connection, _info| totals.connections += 1)
        .on_data(|totals, client, connection, data| {
            connection.input.extend_from_slice(data);
            answer_all(totals, client, connection);
            // Who does not read is not read from.
            if client.needs_drain() {
                client.pause();
            }
        })
        .on_drain(|_totals, client, _connection| client.resume())
        .on_drain_requested(|_totals, client, _connection| {
            client.set_timeout(LAST_CHANCE).expect("it is open");
        })
        // Idle for too long. A request of which a part has come is waited for while the server
        // drains: that has a limit of its own.
        .on_timeout(|_totals, client, connection| {
            if connection.input.is_empty() || !client.is_draining() {
                client.close_after_flush();
            }
        })
        .on_end(|_totals, client, _connection| client.close_after_flush())
        .build(event_loop, Totals::default())
}

/// Answers the requests that are there, in order.
fn answer_all(totals: &mut Totals, client: &Client, connection: &mut Connection) {
    while let Some(length) = head_length(&connection.input) {
        if connection.over {
            return;
        }
        let head: Vec<u8> = connection.input.drain(..length).collect();
        totals.requests += 1;
        let (status, keep) = judge(&head);
        answer(client, connection, status, keep && !client.is_draining());
    }
    if connection.input.len() > HEAD_MAX && !connection.over {
        answer(client, connection, "431 Request Header Fields Too Large", false);
    }
}

/// The bytes up to the empty line that ends the head of a request.
fn head_length(input: &[u8]) -> Option<usize> {
    input.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|end| end + 4)
}

/// The status of the answer, and whether the connection may go on.
fn judge(head: &[u8]) -> (&'static str, bool) {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let Some(request) = head.lines().next().filter(|line| line.contains(" http/1.")) else {
        return ("400 Bad Request", false);
    };
    if !request.starts_with("get ") {
        return ("501 Not Implemented", false);
    }
    let field = |text: &str| head.lines().any(|line| line == text);
    let keep = if request.ends_with("http/1.0") {
        field("connection: keep-alive")
    } else {
        !field("connection: close")
    };
    ("200 OK", keep)
}

fn answer(client: &Client, connection: &mut Connection, status: &str, keep: bool) {
    let body = format!("{status}: process {}\n", std::process::id());
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n{body}",
        body.len(),
        if keep { "keep-alive" } else { "close" },
    );
    if client.send(text.as_bytes()).is_err() {
        client.reset(); // too much waits for it
    } else if !keep {
        client.close_after_flush();
    }
    connection.over = !keep || client.is_closed();
}
