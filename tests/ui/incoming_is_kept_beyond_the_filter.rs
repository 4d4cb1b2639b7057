//! A connection that is being accepted waits for the filter's decision.

use usockets::{Incoming, Loop, SocketContext};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let context = SocketContext::<false, Vec<Incoming<'static>>>::builder()
        .accept_filter(|kept, incoming| kept.push(incoming))
        .build(&event_loop, Vec::new());
    drop(context);
}
