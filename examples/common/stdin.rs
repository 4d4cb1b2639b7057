//! Standard input, sent through a socket.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use usockets::{Interest, Poll, Socket};

/// Sends standard input through the socket, as long as the result is kept, and finishes sending at its
/// end. When more waits in the socket than should, the poll has no interest; `on_drain` gives it back.
pub(crate) fn send<const SSL: bool>(socket: &Socket<SSL>) -> io::Result<Poll<File>> {
    // Not `Stdin`, which buffers: what waits in a buffer makes no descriptor readable.
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let event_loop = socket.event_loop();
    let socket = socket.clone();
    let mut chunk = vec![0; 64 * 1024];
    let input = Poll::new(&event_loop, stdin, Interest::READABLE, (), move |input, (), _ready| {
        // Once per call: it may block the next time. An error of the terminal is an end as well.
        let count = input.source().read(&mut chunk).unwrap_or(0);
        if count == 0 {
            socket.shutdown(); // after all that was sent
        }
        // An error means that the connection has ended, and `on_close` follows.
        let ended = count == 0 || socket.send(&chunk[..count]).is_err();
        if ended || socket.needs_drain() {
            input.set_interest(Interest::NONE).expect("it is watched already");
        }
    })?;
    Ok(input)
}
