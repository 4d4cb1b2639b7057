//! What belongs to a loop stays on its thread.

use usockets::{
    KeepAlive, ListenSocket, Loop, LoopRef, Poll, SignalWatch, Socket, SocketContext, Timer,
};

fn send<V: Send>(_: V) {}

fn all(
    event_loop: Loop,
    loop_ref: LoopRef,
    context: SocketContext<false>,
    socket: Socket<false>,
    listener: ListenSocket,
    timer: Timer,
    poll: Poll<std::fs::File>,
    guards: (KeepAlive, SignalWatch),
) {
    send(event_loop);
    send(loop_ref);
    send(context);
    send(socket);
    send(listener);
    send(timer);
    send(poll);
    send(guards.0);
    send(guards.1);
}

fn main() {
    let _function = all;
}
