//! What belongs to a loop stays on its thread. (`tests/auto_traits.rs` has the whole list.)

use usockets::{ListenSocket, Loop, LoopRef, Poll, Socket, SocketContext, Timer};

fn send<V: Send>(_: V) {}

fn all(
    event_loop: Loop,
    loop_ref: LoopRef,
    context: SocketContext<false>,
    socket: Socket<false>,
    listener: ListenSocket,
    timer: Timer,
    poll: Poll<std::fs::File>,
) {
    send(event_loop);
    send(loop_ref);
    send(context);
    send(socket);
    send(listener);
    send(timer);
    send(poll);
}

fn main() {
    let _function = all;
}
