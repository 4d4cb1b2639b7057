//! A poll owns its source, so that the descriptor cannot be closed under it.

use std::net::TcpStream;

use usockets::{Interest, Loop, Poll};

fn watch(event_loop: &Loop, stream: TcpStream) {
    let _ = Poll::new(event_loop, &stream, Interest::READABLE, (), |_, (), _| ());
}

fn main() {
    let _function = watch;
}
