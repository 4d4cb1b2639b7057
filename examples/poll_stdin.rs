//! A foreign descriptor on the loop: lines from standard input go to every TCP client.
//!
//! ```text
//! cargo run --example poll_stdin -- 127.0.0.1:3000
//! nc 127.0.0.1 3000      # in other shells
//! ```
//!
//! Each line typed into the server appears in every `nc`. No client misses a byte: while one of
//! them is behind, standard input is not read, and whoever writes it has to wait (try `yes | cargo
//! run --example poll_stdin`). A client that takes nothing for 10 seconds is dropped. At the end of
//! the input, or with Ctrl-C or SIGTERM, the server prints its totals.

mod common;

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use usockets::{Deadlines, Interest, ListenSocket, Loop, LoopRef, Poll, Socket, SocketContext};

/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// State of the context. Closures of the poll reach it too.
#[derive(Default)]
struct Audience {
    clients: HashSet<Socket<false>>,
    /// Those for which so much waits that nothing more is to come.
    behind: HashSet<Socket<false>>,
    input: Option<Poll<File, Vec<u8>>>,
    listener: Option<ListenSocket>,
    served: u64,
    bytes: u64,
}

type Broadcast = SocketContext<false, Audience>;

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let event_loop = Loop::<()>::new()?;

    let broadcast = Broadcast::builder()
        // Clients just listen, and those that take nothing are dropped.
        .deadlines(Deadlines::new().first_byte(None).write_stall(PATIENCE))
        .on_open(|audience, socket, (), _info| {
            audience.served += 1;
            audience.clients.insert(socket.clone());
        })
        .on_drain(|audience, socket, ()| {
            audience.behind.remove(socket);
            audience.read_if_all_can_take_it();
        })
        .on_end(|_audience, socket, ()| socket.shutdown())
        .on_drain_requested(|_audience, socket, ()| socket.close())
        .on_close(|audience, socket, (), _reason| {
            audience.clients.remove(socket);
            audience.behind.remove(socket);
            audience.read_if_all_can_take_it();
        })
        .build(&event_loop, Audience::default())?;

    let input = watch_stdin(&event_loop, &broadcast)
        .map_err(|error| format!("standard input must be a terminal or a pipe: {error}"))?;
    let listener = broadcast.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    broadcast.with_state(|audience| {
        audience.input = Some(input);
        audience.listener = Some(listener);
    })?;
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    broadcast.with_state(|audience| {
        println!("served {} clients, {} bytes of input", audience.served, audience.bytes);
    })?;
    Ok(())
}

/// Reads standard input whenever there is something. The state is the beginning of a line.
fn watch_stdin(
    event_loop: &LoopRef,
    broadcast: &Broadcast,
) -> Result<Poll<File, Vec<u8>>, Box<dyn Error>> {
    // Not `Stdin`, which buffers: what waits in a buffer makes no descriptor readable.
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let broadcast = broadcast.clone();
    let mut chunk = vec![0; 64 * 1024];
    let poll =
        Poll::new(event_loop, stdin, Interest::READABLE, Vec::new(), move |poll, line, _ready| {
            // Once per call: it may block the next time. An error of the terminal is an end as
            // well.
            let count = poll.source().read(&mut chunk).unwrap_or(0);
            line.extend_from_slice(&chunk[..count]);
            // A client that comes now shall begin with a whole line.
            let whole = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            let text: Vec<u8> =
                if count == 0 { line.drain(..) } else { line.drain(..whole) }.collect();
            let sent = broadcast.with_state(|audience| {
                audience.send(&text);
                if count == 0 {
                    audience.finish();
                }
            });
            sent.expect("no callback of a socket is running");
        })?;
    Ok(poll)
}

impl Audience {
    fn send(&mut self, text: &[u8]) {
        self.bytes += text.len() as u64;
        for socket in &self.clients {
            if socket.send(text).is_err() {
                socket.reset(); // if it is not closed already; `on_close` follows
            } else if socket.needs_drain() {
                self.behind.insert(socket.clone());
            }
        }
        self.read_if_all_can_take_it();
    }

    fn read_if_all_can_take_it(&self) {
        let Some(input) = &self.input else { return };
        let interest = if self.behind.is_empty() { Interest::READABLE } else { Interest::NONE };
        if input.interest() != interest {
            input.set_interest(interest).expect("a descriptor that is watched can be");
        }
    }

    /// Nothing more comes: the loop is to run until everything has been sent.
    fn finish(&mut self) {
        self.input = None;
        self.listener = None;
        for socket in &self.clients {
            socket.shutdown();
        }
    }
}
