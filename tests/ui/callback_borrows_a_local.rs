//! Callbacks live as long as their context, which may be longer than any stack frame.

use usockets::{Loop, SocketContext};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let mut received = 0;
    let context = SocketContext::<false>::builder()
        .on_data(|_, _, _, data| received += data.len())
        .build(&event_loop, ());
    drop(context);
}
