//! The closure of `adopt` is called later.

use usockets::{Socket, SocketContext};

fn upgrade(socket: &Socket<false>, target: &SocketContext<false, (), usize>) {
    let name = String::new();
    socket.adopt(target, 0, |()| name.len()).unwrap();
}

fn main() {
    let _function = upgrade;
}
