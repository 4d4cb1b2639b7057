//! A web page over HTTPS, which `curl` and browsers can open.
//!
//! ```text
//! cargo run --release --example https_hello -- 127.0.0.1:3443 --ca /tmp/hello.pem
//! curl -v --cacert /tmp/hello.pem https://localhost:3443/
//! ```
//!
//! Without `--cert FILE --key FILE` the certificate signs itself, and a browser warns of it: compare the
//! fingerprint. The page tells what the handshake has agreed on. HTTP/1.1, which is chosen by ALPN: a client
//! that offers other protocols only is refused. GET and HEAD; connections are kept, and requests may follow each
//! other without waiting. On Ctrl-C or SIGTERM what has come is answered.

mod common;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use common::{Options, certificates};
use usockets::{Deadlines, Loop, LoopRef, Socket, SocketContext, TlsServerOptions, UsError};

/// The longest head of a request, in bytes, and the most fields in it.
const HEAD_MAX: usize = 8 * 1024;
const FIELDS_MAX: usize = 64;

/// How long a client may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// State of the context.
#[derive(Default)]
struct Totals {
    connections: u64,
    requests: u64,
}

/// State of each socket: requests that were not answered yet, or the beginning of one.
type Input = Vec<u8>;

type Server = SocketContext<true, Totals, Input>;
type Client = Socket<true, Input>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3443", serve)
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let options = Options::parse(&["--cert", "--key", "--ca"])?;
    let tls = TlsServerOptions::new(certificates::server_identity(&options)?).alpn(["http/1.1"]);
    let event_loop = Loop::<()>::new()?;
    let server = server(&event_loop, tls)?;
    let listener = server.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    server.with_state(|totals| {
        println!("served {} requests of {} connections", totals.requests, totals.connections);
    })?;
    Ok(())
}

fn server(event_loop: &LoopRef, tls: TlsServerOptions) -> Result<Server, UsError> {
    Server::builder()
        .tls_server(&tls.build()?)
        .deadlines(Deadlines::new().first_byte(SILENCE_MAX).idle(SILENCE_MAX))
        .on_handshake(|totals, _client, _input, result| {
            totals.connections += u64::from(result.is_ok());
        })
        .on_data(|totals, client, input, data| {
            input.extend_from_slice(data);
            answer_all(totals, client, input);
            if client.needs_drain() {
                client.pause(); // who does not read is not read from
            }
        })
        .on_drain(|_totals, client, _input| client.resume())
        .on_end(|_totals, client, _input| client.close_after_flush())
        .on_drain_requested(|_totals, client, input| {
            if input.is_empty() {
                client.close_after_flush();
            }
        })
        .build(event_loop, Totals::default())
}

/// Answers the requests that are there, in order.
fn answer_all(totals: &mut Totals, client: &Client, input: &mut Input) {
    let mut used = 0;
    while !client.is_closed() && !client.is_shut_down() {
        match Request::parse(&input[used..]) {
            Ok(Some(request)) => {
                totals.requests += 1;
                used += request.length;
                let page = if request.is_root { page(client) } else { "not found\n".to_owned() };
                let status = if request.is_root { "200 OK" } else { "404 Not Found" };
                let keep = request.keep && !client.is_draining();
                answer(client, status, &page, request.is_head, keep);
                if !keep {
                    break;
                }
            }
            Ok(None) => break,
            Err(status) => {
                answer(client, status, "", false, false);
                break;
            }
        }
    }
    input.drain(..used);
}

struct Request {
    length: usize,
    is_root: bool,
    is_head: bool,
    keep: bool,
}

impl Request {
    /// What the input begins with; `None` if more has to come, and a status for what has no answer.
    fn parse(input: &[u8]) -> Result<Option<Self>, &'static str> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(input) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() <= HEAD_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err("431 Request Header Fields Too Large");
            }
            Err(_) => return Err("400 Bad Request"),
        };
        if !matches!(request.method, Some("GET" | "HEAD")) {
            return Err("501 Not Implemented");
        }
        let field = |name: &str| {
            let mut fields = request.headers.iter();
            fields.find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
        };
        // A body would be taken for the next request.
        if field("content-length").is_some() || field("transfer-encoding").is_some() {
            return Err("400 Bad Request");
        }
        let connection = field("connection").unwrap_or_default();
        Ok(Some(Self {
            length,
            is_root: request.path == Some("/"),
            is_head: request.method == Some("HEAD"),
            keep: request.version == Some(1) && !connection.eq_ignore_ascii_case(b"close"),
        }))
    }
}

/// What the client sees.
fn page(client: &Client) -> String {
    client.tls().map_or_else(
        |error| format!("{error}\n"),
        |tls| {
            format!(
                "Hello over {}, {}, ALPN {}, server name {}, {}\n",
                tls.version,
                tls.cipher,
                certificates::text(tls.alpn.as_deref()),
                tls.server_name.as_deref().unwrap_or("none"),
                if tls.is_resumed { "resumed" } else { "full handshake" },
            )
        },
    )
}

fn answer(client: &Client, status: &str, body: &str, is_head: bool, keep: bool) {
    let connection = if keep { "keep-alive" } else { "close" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n",
        body.len(),
    );
    let body = if is_head { "" } else { body };
    // Both are collected, and leave as one record.
    let sent = client.send(head.as_bytes()).and_then(|()| client.send(body.as_bytes()));
    if sent.is_err() {
        client.reset(); // too much waits for it
    } else if !keep {
        client.close_after_flush();
    }
}
