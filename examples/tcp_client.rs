//! A TCP client: sends what standard input says, prints what comes back.
//!
//! ```text
//! cargo run --example tcp_echo &
//! cargo run --example tcp_client -- localhost:3000
//! ```
//!
//! Takes an address or a name, and 127.0.0.1:3000 without either. At the end of the input it
//! finishes sending, and ends when the server has finished too. Standard input is read no faster
//! than the server takes it. Messages go to standard error, and the exit code is 1 if the
//! connection fails.

mod common;

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use usockets::{Backend, CloseReason, Interest, Loop, Poll, SocketContext};

/// State of the context.
#[derive(Default)]
struct Client {
    input: Option<Poll<File>>,
    /// What went wrong.
    failure: Option<io::Error>,
}

impl Client {
    fn watch(&self, interest: Interest) {
        if let Some(input) = &self.input {
            input.set_interest(interest).expect("it is watched already");
        }
    }
}

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", talk)
}

fn talk(address: &str) -> io::Result<()> {
    // poll(2) can watch plain files as well, unlike epoll, and is as good for two descriptors.
    let event_loop = Loop::<()>::builder().backend(Backend::Poll).build(())?;

    let context = SocketContext::<false, Client>::builder()
        .on_open(|client, socket, (), _info| {
            if let Ok(peer) = socket.peer_addr() {
                eprintln!("connected to {peer}");
            }
            match common::stdin::send(socket) {
                Ok(input) => client.input = Some(input),
                Err(error) => {
                    client.failure = Some(error);
                    socket.close();
                }
            }
        })
        .on_data(|client, socket, (), data| {
            // May block, which holds up nobody but this one connection.
            let mut stdout = io::stdout().lock();
            if let Err(error) = stdout.write_all(data).and_then(|()| stdout.flush()) {
                client.failure = Some(error);
                socket.close();
            }
        })
        .on_drain(|client, socket, ()| {
            if !socket.is_shut_down() {
                client.watch(Interest::READABLE);
            }
        })
        .on_close(|client, _socket, (), reason| {
            client.input = None; // nothing keeps the loop running any more
            if !matches!(reason, CloseReason::End | CloseReason::Local) {
                client.failure =
                    Some(reason.error().unwrap_or_else(|| io::Error::other(reason.to_string())));
            }
        })
        .on_connect_error(|client, _socket, (), error| {
            client.failure = Some(io::Error::new(error.kind(), error.to_string()));
        })
        .build(&event_loop, Client::default())?;

    context.connect(address)?; // returns at once, also when a name is to be looked up
    event_loop.run()?;
    context.with_state(|client| client.failure.take())?.map_or(Ok(()), Err)
}
