//! A tiny HTTP server that ends, or is replaced by another process, without losing a request.
//!
//! ```text
//! cargo run --release --example graceful -- 127.0.0.1:3000 --control /tmp/graceful.sock
//! curl -v http://127.0.0.1:3000/
//! cargo run --release --example graceful -- --take-over /tmp/graceful.sock    # elsewhere
//! ```
//!
//! Every request is answered by the number of the process. On Ctrl-C or SIGTERM the server *drains*:
//! it does not listen any more; the requests that have come, in part or whole, are answered, with
//! `Connection: close`; so is one that is on its way on a connection that is idle, for a second. Then
//! the connections close. What is stuck after five seconds is cut off.
//!
//! With `--control PATH` it can be replaced while it serves, by a new version for example. The successor
//! is given the listening socket itself, over the Unix socket at PATH, so that at no time nobody
//! listens, and no connection that waits to be accepted is lost. When it says that it accepts, the
//! predecessor drains, and the successor listens at PATH for one of its own.

mod common;

use std::env;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use usockets::{Deadlines, ListenSocket, Loop, LoopRef, Socket, SocketContext, UsError};

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
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["--take-over", path] => run(|event_loop, server| take_over(event_loop, server, path)),
        [address, "--control", path] => run(|event_loop, server| {
            let mut listener = Some(listen(server, address)?);
            await_successor(event_loop, server, &mut listener, path)
        }),
        [] | [_] => run(|_event_loop, server| {
            // Open until the server drains.
            listen(server, arguments.first().unwrap_or(&"127.0.0.1:3000")).map(ListenSocket::detach)
        }),
        _ => {
            eprintln!("graceful [ADDRESS] | ADDRESS --control PATH | --take-over PATH");
            return ExitCode::FAILURE;
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("graceful: {error}");
        ExitCode::FAILURE
    })
}

/// The life of the server, which gets its listener by `begin`. The state of the loop is the exit code.
fn run(begin: impl FnOnce(&LoopRef, &Server) -> Result<(), UsError>) -> Result<ExitCode, UsError> {
    let event_loop = Loop::from_state(ExitCode::SUCCESS)?;
    let server = server(&event_loop)?;
    begin(&event_loop, &server)?;
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    server.with_state(|totals| {
        println!("served {} requests of {} connections", totals.requests, totals.connections);
    })?;
    event_loop.with_state(|code| *code)
}

/// Ends the program as failed.
fn give_up(event_loop: &LoopRef, message: &str) {
    eprintln!("graceful: {message}");
    event_loop.with_state(|code| *code = ExitCode::FAILURE).expect("nobody else uses it now");
    event_loop.stop();
}

fn listen(server: &Server, address: &str) -> Result<ListenSocket, UsError> {
    let listener = server.listen(address)?;
    announce(&listener)?;
    Ok(listener)
}

fn announce(listener: &ListenSocket) -> Result<(), UsError> {
    println!("process {} is listening on {}", std::process::id(), listener.local_addr()?);
    Ok(())
}

// -- Handing over -----------------------------------------------------------------------------

/// What the successor says when it accepts.
const READY: &[u8] = b"r";

/// Gives the listener to whoever connects to the Unix socket at `path`, which only this user can.
fn await_successor(
    event_loop: &LoopRef,
    server: &Server,
    listener: &mut Option<ListenSocket>,
    path: &str,
) -> Result<(), UsError> {
    let server = server.clone();
    let control = SocketContext::<false, Option<ListenSocket>>::builder()
        .on_open(|listener, successor, (), _info| {
            let fd = listener.as_ref().ok_or(UsError::Closed).and_then(ListenSocket::try_clone_fd);
            let sent = fd.and_then(|fd| {
                successor.send_with_descriptors(b"listener", &[fd.as_fd()], false)
            });
            if let Err(error) = sent {
                eprintln!("the listener cannot be handed over: {error}");
                successor.close();
            }
        })
        // Not before: should the successor fail, this server goes on.
        .on_data(move |_listener, successor, (), data| {
            if data == READY && !server.is_draining() {
                println!("process {} is relieved", std::process::id());
                common::drain(&successor.event_loop(), common::DRAIN_TIME);
            }
        })
        .on_drain_requested(|_listener, successor, ()| successor.close())
        .build(event_loop, None)?;
    control.listen_unix(path)?.detach();
    control.with_state(|state| *state = listener.take())
}

/// Gets the listener from the server that has its control socket at `path`.
fn take_over(event_loop: &LoopRef, server: &Server, path: &str) -> Result<(), UsError> {
    let (accepting, server, own_path) = (server.clone(), server.clone(), path.to_owned());
    let inheritance = SocketContext::<false, Option<ListenSocket>>::builder()
        .on_descriptors(move |listener, predecessor, (), mut received| {
            let Some(fd) = received.fds.pop() else { return };
            match accepting.listen_fd(fd) {
                Ok(taken) => {
                    announce(&taken).expect("it is open");
                    *listener = Some(taken);
                    predecessor.send(READY).expect("there is room for a byte");
                }
                Err(error) => eprintln!("this is no listener: {error}"),
            }
        })
        // Whatever it was that came.
        .on_data(|listener, predecessor, (), _data| {
            if listener.is_none() {
                predecessor.close();
            }
        })
        .on_drain_requested(|_listener, predecessor, ()| predecessor.close())
        // The predecessor drains, so its control socket is closed.
        .on_close(move |listener, predecessor, (), _reason| {
            let event_loop = predecessor.event_loop();
            if listener.is_none() {
                return give_up(&event_loop, "nothing was handed over");
            }
            if let Err(error) = await_successor(&event_loop, &server, listener, &own_path) {
                eprintln!("nobody can take over: {own_path}: {error}");
            }
            // It stays open in any case.
            if let Some(listener) = listener.take() {
                listener.detach();
            }
        })
        .on_connect_error(|_listener, socket, (), error| {
            give_up(&socket.event_loop(), &error.to_string());
        })
        .build(event_loop, None)?;
    inheritance.connect_unix(path)?;
    Ok(())
}

// -- Serving ----------------------------------------------------------------------------------

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
