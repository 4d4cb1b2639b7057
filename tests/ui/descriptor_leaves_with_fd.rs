//! The descriptor of a socket may be closed after `with_fd`.

use std::os::fd::BorrowedFd;

use usockets::Socket;

fn descriptor(socket: &Socket<false>) -> BorrowedFd<'_> {
    socket.with_fd(|fd| fd).unwrap()
}

fn main() {
    let _function = descriptor;
}
