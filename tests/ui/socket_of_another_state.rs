//! The type of a socket's state is part of its handle.

use usockets::Socket;

fn reinterpret(socket: Socket<false, u64>) -> Socket<false, [u8; 8]> {
    socket
}

fn main() {
    let _function = reinterpret;
}
