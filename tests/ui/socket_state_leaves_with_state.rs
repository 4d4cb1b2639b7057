//! What `with_state` of a socket lends ends with its closure.

use usockets::Socket;

fn longer(socket: &Socket<false, String>) -> &mut String {
    socket.with_state(|state| state).unwrap()
}

fn main() {
    let _function = longer;
}
