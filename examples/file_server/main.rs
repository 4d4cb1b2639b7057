//! A file server: a subset of HTTP/1.1, and files that the system sends by itself.
//!
//! ```text
//! cargo run --release --example file_server -- 127.0.0.1:3000 .
//! curl -v http://127.0.0.1:3000/README.md
//! curl -r 0-99 http://127.0.0.1:3000/README.md
//! ```
//!
//! The second argument is the folder, the current one without it. Files below it are sent by
//! [`Socket::send_file`], so one of a gigabyte needs no memory; what their head says leaves in the
//! same segments. GET and HEAD, keep-alive and pipelining, single ranges and `If-None-Match`; no
//! lists of folders, and nothing outside of the folder: `files.rs` tells how that is made sure.
//!
//! Each connection has one answer under way. Until that has left, requests behind it wait, and
//! beyond a chunk of them in the system, so that a client that does not read costs one open file.
//! Who does not send, sends a head too slowly, is idle or does not read is cut off after a while.
//! On Ctrl-C or SIGTERM the server sends what it has begun, for some seconds, and prints its totals.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod request;

use std::fmt::Write;
use std::io;
use std::mem;
use std::process::ExitCode;
use std::time::Duration;

use files::{Folder, Found};
use request::{Request, Selection, Status};
use usockets::{Deadlines, Loop, LoopRef, Socket, SocketContext, UsError};

/// How long a client may say nothing at first, and how long in between.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long the head of a request may take from its first byte to its last one.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// How long a client may take nothing of what is sent to it.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Requests of one connection that are answered in a row, before others have their turn.
const REQUESTS_MAX: usize = 64;

/// State of the context.
struct Service {
    folder: Folder,
    connections: u64,
    requests: u64,
}

/// State of each socket.
#[derive(Default)]
struct Connection {
    /// Requests that were not looked at yet, or the beginning of one.
    input: Vec<u8>,
    /// The head of a request has begun, and its time runs.
    in_head: bool,
    /// The last answer was given.
    over: bool,
}

type Server = SocketContext<false, Service, Connection>;
type Client = Socket<false, Connection>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> io::Result<()> {
    let path = common::argument(2, ".");
    let folder = Folder::open(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;

    let event_loop = Loop::<()>::new()?;
    let server = server(&event_loop, folder)?;
    let listener = server.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    server.with_state(|service| {
        println!("served {} requests of {} connections", service.requests, service.connections);
    })?;
    Ok(())
}

fn server(event_loop: &LoopRef, folder: Folder) -> Result<Server, UsError> {
    Server::builder()
        .deadlines(
            Deadlines::new().first_byte(SILENCE_MAX).idle(SILENCE_MAX).write_stall(STALL_MAX),
        )
        // Whatever waits at all is reason not to answer more; `on_drain` comes when it has left.
        .water_marks(1, 0)
        .on_open(|service, _client, _connection, _info| service.connections += 1)
        .on_data(|service, client, connection, data| {
            if !connection.over {
                connection.input.extend_from_slice(data);
                connection.go_on(service, client);
            }
        })
        .on_drain(|service, client, connection| connection.go_on(service, client))
        // The head takes too long.
        .on_long_timeout(|_service, client, connection| {
            connection.refuse(client, request::REQUEST_TIMEOUT, false);
        })
        // The rest of the answers is still sent.
        .on_end(|_service, client, _connection| client.shutdown())
        // What has begun is answered, as the last one.
        .on_drain_requested(|_service, client, connection| {
            if connection.input.is_empty() {
                connection.finish(client);
            }
        })
        .build(event_loop, Service { folder, connections: 0, requests: 0 })
}

impl Connection {
    /// Answers what has come, in order, as long as the answers leave.
    fn go_on(&mut self, service: &mut Service, client: &Client) {
        let mut input = mem::take(&mut self.input);
        let (mut used, mut answered) = (0, 0);
        while !self.over && !client.needs_drain() && answered < REQUESTS_MAX {
            match Request::parse(&input[used..]) {
                Ok(Some((request, length))) => {
                    service.requests += 1;
                    answered += 1;
                    used += length;
                    self.answer(&service.folder, client, &request);
                }
                Ok(None) => break,
                Err(status) => self.refuse(client, status, false),
            }
        }
        input.drain(..used);
        // An idle connection does not keep the memory of a busy one.
        if !self.over && !input.is_empty() {
            self.input = input;
        }

        if answered == REQUESTS_MAX && !self.input.is_empty() && !client.needs_drain() {
            client.pause();
            go_on_later(client);
        } else if client.needs_drain() && !self.over {
            client.pause();
        } else {
            client.resume();
        }
        self.watch_head(client, answered > 0);
    }

    /// The time for a head runs while there is a part of one. `anew`: this is another one.
    fn watch_head(&mut self, client: &Client, anew: bool) {
        let in_head = !self.input.is_empty() && !client.is_paused();
        if in_head != self.in_head || (in_head && anew) {
            self.in_head = in_head;
            let time = if in_head { HEAD_TIME } else { Duration::ZERO };
            // An error means that it is closed.
            let _closed = client.set_long_timeout(time);
        }
    }

    fn answer(&mut self, folder: &Folder, client: &Client, request: &Request<'_>) {
        let keep = request.keeps() && !client.is_draining();
        match folder.find(&request.path) {
            Err(status) => self.refuse(client, status, keep),
            Ok(found) => {
                if send_found(client, request, found, keep).is_err() {
                    client.reset();
                    self.over = true;
                } else if !keep {
                    self.finish(client);
                }
            }
        }
    }

    /// Answers with nothing but a status.
    fn refuse(&mut self, client: &Client, status: Status, keep: bool) {
        let mut head = head(status, keep);
        if status == request::METHOD_NOT_ALLOWED {
            head.push_str("Allow: GET, HEAD\r\n");
        }
        head.push_str("Content-Length: 0\r\n\r\n");
        if client.send(head.as_bytes()).is_err() {
            client.reset();
            self.over = true;
        } else if !keep {
            self.finish(client);
        }
    }

    /// There are no more answers; those that were given are sent.
    fn finish(&mut self, client: &Client) {
        self.over = true;
        client.close_after_flush();
    }
}

/// Goes on with the connection when others have had their turn.
fn go_on_later(client: &Client) {
    let socket = client.clone();
    let deferred = client.event_loop().defer(move |_event_loop| {
        // An error means that it was closed meanwhile.
        let _closed = socket.context::<Service>().and_then(|server| {
            server.with_state(|service| {
                socket.with_state(|connection| connection.go_on(service, &socket))
            })?
        });
    });
    if deferred.is_err() {
        client.reset(); // the loop ends
    }
}

/// The beginning of an answer, to which fields can be added.
fn head(status: Status, keep: bool) -> String {
    let connection = if keep { "keep-alive" } else { "close" };
    format!("HTTP/1.1 {status}\r\nConnection: {connection}\r\n")
}

/// Answers with the file, a part of it, or that the client has it already.
fn send_found(
    client: &Client,
    request: &Request<'_>,
    found: Found,
    keep: bool,
) -> Result<(), UsError> {
    let size = found.size;
    let tag = found.tag();
    let (status, range) = if request.has(&tag) {
        (request::NOT_MODIFIED, 0..size)
    } else {
        match request.select(&tag, size) {
            Selection::Whole => (request::OK, 0..size),
            Selection::Part(range) => (request::PARTIAL_CONTENT, range),
            Selection::Unsatisfiable => (request::RANGE_NOT_SATISFIABLE, 0..0),
        }
    };

    let mut text = head(status, keep);
    if status == request::PARTIAL_CONTENT {
        let (first, last) = (range.start, range.end - 1);
        let _infallible = write!(text, "Content-Range: bytes {first}-{last}/{size}\r\n");
    } else if status == request::RANGE_NOT_SATISFIABLE {
        let _infallible = write!(text, "Content-Range: bytes */{size}\r\n");
    }
    let length = range.end - range.start;
    let _infallible = write!(
        text,
        "Content-Length: {length}\r\nContent-Type: {}\r\nETag: {tag}\r\nAccept-Ranges: bytes\r\n\r\n",
        found.kind
    );
    client.send(text.as_bytes())?;
    if request.is_head || status == request::NOT_MODIFIED {
        return Ok(());
    }
    client.send_file(found.file, range) // after the head, and together with it
}
