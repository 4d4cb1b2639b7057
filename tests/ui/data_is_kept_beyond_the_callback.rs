//! The data of `on_data` is the engine's buffer.

use usockets::{Loop, SocketContext};

fn main() {
    let event_loop = Loop::<()>::new().unwrap();
    let context = SocketContext::<false, Vec<&'static mut [u8]>>::builder()
        .on_data(|kept, _, _, data| kept.push(data))
        .build(&event_loop, Vec::new());
    drop(context);
}
