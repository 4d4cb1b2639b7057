//! No one keeps the loop from the others. What has to do with great numbers is in `tests/fairness.rs`.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use usockets::{SocketContext, UsError};

use super::client_of;
use crate::SSL;
use crate::util::{Echo, Secured, guard, listen, new_loop, pump};

#[test]
fn a_flood_does_not_drown_the_others() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let echo = Echo::<SSL>::over(&event_loop);
    let received = Rc::new(Cell::new(0_u64));
    let count = Rc::clone(&received);
    let sink = SocketContext::<SSL>::builder()
        .secured()
        .on_data(move |(), _, (), data| count.set(count.get() + data.len() as u64))
        .build(&event_loop, ())?;
    let listener = listen(&sink);
    let mut peer = client_of(&listener).into_blocking();
    let going = Arc::new(AtomicBool::new(true));
    let flooding = Arc::clone(&going);
    let flood = thread::spawn(move || {
        let block = vec![0x55; 1 << 20];
        while flooding.load(Ordering::Relaxed) {
            peer.write_all(&block).expect("somebody reads");
        }
        peer.end_output();
        // Until the other side has read it all.
        let _end = Read::read(&mut peer, &mut [0]);
    });
    pump(&event_loop, || received.get() > 1 << 20);
    let before = received.get();
    for _ in 0..20 {
        echo.assert_echoes(&event_loop);
    }
    pump(&event_loop, || received.get() > before);
    going.store(false, Ordering::Relaxed);
    drop(listener);
    pump(&event_loop, || event_loop.metrics().live_listeners == 1 && flood.is_finished());
    flood.join().expect("no panic");
    Ok(())
}
