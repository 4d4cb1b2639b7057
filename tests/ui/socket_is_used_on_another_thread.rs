//! A handle of a socket stays on the thread of its loop.

use std::thread;

use usockets::Socket;

fn close_elsewhere(socket: Socket<false>) {
    thread::spawn(move || socket.close());
}

fn main() {
    let _function = close_elsewhere;
}
