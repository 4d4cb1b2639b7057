//! Slow hashing behind a TCP protocol, on threads of a pool, while the loop stays responsive.
//!
//! ```text
//! cargo run --release --example worker_pool -- 127.0.0.1:3000
//! printf 'hash 20000000 slow\nhash 1 quick\nping\n' | nc -N 127.0.0.1 3000
//! ```
//!
//! A line `hash ROUNDS TEXT` is answered by a number, `ping` by `pong`. Each client gets its
//! answers in the order of its requests, although the jobs finish in any order: above, `pong` comes
//! last. A `ping` from another shell is answered at once meanwhile. When Ctrl-C or SIGTERM stops
//! it, the server prints its totals, and by how much a timer of 10 ms was late at most: a loop that
//! did the hashing itself would be late by as long as that takes.

mod common;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use usockets::{Loop, LoopHandle, Socket, SocketContext, Timer, UsError, WorkerPool};

/// Requests of one client that are under way; beyond that it is not read from.
const REQUESTS_MAX: usize = 64;

/// The longest line, in bytes.
const LINE_MAX: usize = 1024;

/// The most work for one request, rounds times bytes: about a second.
const WORK_MAX: u64 = 1_000_000_000;

/// State of the context.
struct Service {
    pool: WorkerPool,
    handle: LoopHandle,
    clients: u64,
    answers: u64,
}

/// State of each socket.
#[derive(Default)]
struct Client {
    /// Lines that were not looked at yet.
    input: VecDeque<u8>,
    /// A place for each request under way, in order, to be filled when its answer is there.
    answers: VecDeque<Option<String>>,
    /// Requests that were answered: the number of the first place.
    answered: u64,
    ended: bool,
    /// The server drains: requests under way are answered, and no others.
    leaving: bool,
}

type ClientSocket = Socket<false, Client>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;
    let service = Service {
        pool: WorkerPool::builder().name("hash").build()?,
        handle: event_loop.handle(),
        clients: 0,
        answers: 0,
    };

    let hashing = SocketContext::<false, Service, Client>::builder()
        .on_open(|service, _socket, _client, _info| service.clients += 1)
        .on_data(|service, socket, client, data| {
            client.input.extend(&*data);
            client.go_on(service, socket);
        })
        .on_drain(|service, socket, client| client.go_on(service, socket))
        .on_end(|service, socket, client| {
            client.ended = true;
            client.go_on(service, socket);
        })
        .on_drain_requested(|service, socket, client| {
            client.leaving = true;
            client.go_on(service, socket);
        })
        .build(&event_loop, service)?;

    let listener = hashing.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    let heartbeat = watch_lateness(&event_loop)?;
    event_loop.run()?;

    let late = heartbeat.with_state(|beat| beat.latest)?;
    hashing.with_state(|service| {
        println!(
            "served {} clients, {} answers; the loop was late by {} ms at most",
            service.clients,
            service.answers,
            late.as_millis()
        );
    })
}

impl Client {
    /// Sends the answers that are due and begins with the requests there is room for.
    fn go_on(&mut self, service: &mut Service, socket: &ClientSocket) {
        self.send_answers(service, socket);
        while self.begin_requests(service, socket) {
            self.send_answers(service, socket);
        }
        if self.has_room(socket) && self.input.len() > LINE_MAX {
            send(socket, "error: that line is too long\n");
            socket.close();
        }
        if self.has_room(socket) {
            socket.resume();
        } else {
            socket.pause();
        }
        if self.leaving && self.answers.is_empty() {
            socket.close(); // what was sent arrives nevertheless
        } else if self.ended && self.answers.is_empty() && self.has_room(socket) {
            socket.shutdown(); // no line is left
        }
    }

    fn has_room(&self, socket: &ClientSocket) -> bool {
        self.answers.len() < REQUESTS_MAX && !socket.needs_drain() && !self.leaving
    }

    /// Takes lines while there is room for more requests, and says whether there were any.
    fn begin_requests(&mut self, service: &Service, socket: &ClientSocket) -> bool {
        let mut any = false;
        while self.has_room(socket) {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else { break };
            let line: Vec<u8> = self.input.drain(..=end).collect();
            self.begin(service, socket, &String::from_utf8_lossy(&line));
            any = true;
        }
        any
    }

    /// Takes a place and fills it, or has it filled later.
    fn begin(&mut self, service: &Service, socket: &ClientSocket, line: &str) {
        let number = self.answered + self.answers.len() as u64;
        self.answers.push_back(None);
        let (rounds, text) = match parse(line) {
            Ok(Request::Ping) => return self.fill(number, "pong".into()),
            Ok(Request::Hash(rounds, text)) => (rounds, text.to_owned()),
            Err(complaint) => return self.fill(number, format!("error: {complaint}")),
        };
        let accepted = service.pool.run_for(
            &service.handle,
            socket.id(),
            move || format!("{:016x}", hash(rounds, text.as_bytes())),
            // Back on the loop, and only if the socket is still there.
            move |socket, result| {
                let answer = result.unwrap_or_else(|error| format!("error: {error}"));
                finish_request(socket, number, answer).expect("no callback is lent the states");
            },
        );
        if let Err(refused) = accepted {
            self.fill(number, format!("error: {}", refused.error()));
        }
    }

    fn fill(&mut self, number: u64, answer: String) {
        // No more places than `REQUESTS_MAX`.
        let place = usize::try_from(number - self.answered).expect("the place is there");
        self.answers[place] = Some(answer);
    }

    /// Sends the answers up to the first one that is not there yet.
    fn send_answers(&mut self, service: &mut Service, socket: &ClientSocket) {
        let mut text = String::new();
        while let Some(Some(answer)) = self.answers.front_mut() {
            text.push_str(answer);
            text.push('\n');
            self.answers.pop_front();
            self.answered += 1;
            service.answers += 1;
        }
        send(socket, &text);
    }
}

fn send(socket: &ClientSocket, text: &str) {
    if !text.is_empty() && socket.send(text.as_bytes()).is_err() {
        socket.reset();
    }
}

/// The answer has come back to the loop. The states are reached by way of the socket here, since
/// this is no callback of it.
fn finish_request(socket: &ClientSocket, number: u64, answer: String) -> Result<(), UsError> {
    socket.context::<Service>()?.with_state(|service| {
        socket.with_state(|client| {
            client.fill(number, answer);
            client.go_on(service, socket);
        })
    })?
}

enum Request<'a> {
    Ping,
    Hash(u64, &'a str),
}

fn parse(line: &str) -> Result<Request<'_>, &'static str> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line == "ping" {
        return Ok(Request::Ping);
    }
    let usage = "it takes `ping` or `hash ROUNDS TEXT`";
    let (rounds, text) =
        line.strip_prefix("hash ").and_then(|arguments| arguments.split_once(' ')).ok_or(usage)?;
    let rounds = rounds.parse().map_err(|_| usage)?;
    match u64::checked_mul(rounds, text.len() as u64) {
        Some(work) if work <= WORK_MAX => Ok(Request::Hash(rounds, text)),
        _ => Err("that is too much work"),
    }
}

/// FNV-1a over so many repetitions of the text.
fn hash(rounds: u64, text: &[u8]) -> u64 {
    (0..rounds).fold(0xcbf2_9ce4_8422_2325, |hash, _| {
        text.iter()
            .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    })
}

/// What the heartbeat has seen.
struct Beat {
    last: Duration,
    latest: Duration,
}

/// A timer that finds out how long the loop leaves others waiting.
fn watch_lateness(event_loop: &Loop) -> Result<Timer<Beat>, UsError> {
    const PERIOD: Duration = Duration::from_millis(10);
    let beat = Beat { last: event_loop.now(), latest: Duration::ZERO };
    let heartbeat = Timer::new_unref(event_loop, beat)?;
    heartbeat.set(PERIOD, Some(PERIOD), |timer, beat| {
        let now = timer.event_loop().now();
        beat.latest = beat.latest.max((now - beat.last).saturating_sub(PERIOD));
        beat.last = now;
    })?;
    Ok(heartbeat)
}
