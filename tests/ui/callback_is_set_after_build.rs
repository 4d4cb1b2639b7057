//! Callbacks are frozen when the context is built.

use usockets::{Loop, SocketContext};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let context = SocketContext::<false>::builder().build(&event_loop, ()).unwrap();
    context.on_data(|_, _, _, _| ());
}
