//! Connects to a name whose addresses race each other, and prints how the race went.
//!
//! ```text
//! cargo run --example tcp_echo &
//! cargo run --example happy_eyeballs -- localhost:3000
//! ```
//!
//! Takes a name or an address with a port, or several addresses separated by commas, which are tried
//! in that order. The exit code is 1 if none of them can be connected to.

mod common;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use usockets::{
    AttemptOutcome, ConnectAttempt, ConnectOptions, ConnectTarget, Deadlines, Loop, SocketContext,
    Target,
};

/// When to try the next address as well.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    common::run("localhost:3000", connect)
}

fn connect(argument: &str) -> io::Result<()> {
    let event_loop = Loop::<()>::new()?;
    let start = Instant::now();

    // The state is the error of a connection that was not made.
    let context = SocketContext::<false, Option<io::Error>>::builder()
        .on_open(move |_failure, socket, (), _info| {
            print_attempts(&socket.connect_attempts());
            match (socket.local_addr(), socket.peer_addr()) {
                (Ok(from), Ok(to)) => {
                    println!("connected from {from} to {to} after {:?}", start.elapsed());
                }
                (Err(error), _) | (_, Err(error)) => println!("connected, but: {error}"),
            }
            socket.close();
        })
        .on_connect_error(|failure, socket, (), error| {
            print_attempts(&socket.connect_attempts());
            *failure = Some(io::Error::new(error.kind(), error.to_string()));
        })
        // A race ends by itself only when all have failed, which may take minutes.
        .deadlines(Deadlines::new().connect(Duration::from_secs(10)))
        .build(&event_loop, None)?;

    let options = ConnectOptions::new().attempt_delay(ATTEMPT_DELAY);
    context.connect_with(target(argument)?, &options, ())?;
    event_loop.run()?;
    context.with_state(Option::take)?.map_or(Ok(()), Err)
}

fn target(argument: &str) -> io::Result<Target> {
    let addresses: Result<Vec<SocketAddr>, _> = argument.split(',').map(str::parse).collect();
    Ok(addresses.map_or_else(|_| argument.into_target(), Target::addresses)?)
}

/// One line for each address.
fn print_attempts(attempts: &[ConnectAttempt]) {
    for attempt in attempts {
        let family = if attempt.address().is_ipv6() { "IPv6" } else { "IPv4" };
        let began = attempt.began().map_or_else(|| "-".into(), |began| format!("{began:.1?}"));
        let outcome = match attempt.outcome() {
            AttemptOutcome::Connected => "won".to_owned(),
            AttemptOutcome::NotBegun => "not begun".to_owned(),
            AttemptOutcome::GivenUp => "given up".to_owned(),
            _ => attempt.error().map_or_else(|| "?".into(), |error| error.to_string()),
        };
        let took = attempt.took().map_or_else(String::new, |took| format!(" after {took:.1?}"));
        println!("{family} {} began {began}: {outcome}{took}", attempt.address());
    }
}
