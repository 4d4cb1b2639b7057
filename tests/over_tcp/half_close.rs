//! An end of input that the program itself makes: TLS would take it for a stream that was cut.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use socket2::SockRef;
use usockets::UsError;

use crate::util::{Event, Record, accept_one, guard, new_loop, pump, recorded};

#[test]
fn shutting_down_reading_delivers_what_is_there_and_the_end() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    peer.write(&event_loop, b"in time");
    // Has it arrive before the end.
    let peeked = || {
        let mut buffer = [MaybeUninit::uninit(); 16];
        let peek = |fd: BorrowedFd<'_>| SockRef::from(&fd).peek(&mut buffer);
        socket.with_fd(peek).expect("it is open").unwrap_or(0) == 7
    };
    pump(&event_loop, peeked);
    socket.shutdown_read();
    socket.resume();
    pump(&event_loop, || record.has(&Event::End));
    assert_eq!(record.take(), [Event::Open, Event::Data(b"in time".to_vec()), Event::End]);
    assert!(!socket.is_closed());
    assert_eq!(socket.write(b"answer"), 6);
    assert_eq!(peer.read(&event_loop, 6), b"answer");
    Ok(())
}
