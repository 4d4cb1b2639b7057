//! A server and a client in one loop, which exchange a megabyte in both directions at once.

use std::time::Duration;

use socket2::SockRef;
use usockets::{CloseReason, Loop, Socket, SocketContext, Timer, UsError};

use crate::SSL;
use crate::util::Secured;

const LENGTH: usize = 1 << 20;

/// Output that waits for room, and what has come in.
#[derive(Default)]
struct Session {
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

impl Session {
    fn flush(&mut self, socket: &Socket<SSL, Self>) {
        self.sent += socket.write(&self.output[self.sent..]);
    }
}

/// Lets the system take little at once, so that writes come up short.
fn keep_short(socket: &Socket<SSL, Session>) {
    let set = socket.with_fd(|fd| SockRef::from(&fd).set_send_buffer_size(16 * 1024));
    set.expect("the socket is open").expect("the size is legal");
}

/// A megabyte whose period, a prime number, fits into no buffer: a piece that is lost or repeated shows.
fn message() -> Vec<u8> {
    (0..=250).cycle().take(LENGTH).collect()
}

#[test]
fn a_megabyte_each_way_arrives_whole_and_in_order() -> Result<(), UsError> {
    let event_loop = Loop::<()>::new()?;

    // Echoes with back-pressure: what does not fit is kept, and reading pauses.
    let server = SocketContext::<SSL, Vec<CloseReason>, Session>::builder()
        .secured()
        .on_open(|_, socket, _, _| keep_short(socket))
        .on_data(|_, socket, session, data| {
            session.output.extend_from_slice(data);
            session.flush(socket);
            if session.sent < session.output.len() {
                socket.pause();
            }
        })
        .on_writable(|_, socket, session| {
            session.flush(socket);
            if session.sent == session.output.len() {
                socket.resume();
            }
        })
        .on_end(|_, socket, _| socket.shutdown())
        .on_close(|reasons, _, _, reason| reasons.push(*reason))
        .build(&event_loop, Vec::new())?;

    let client = SocketContext::<SSL, Vec<CloseReason>, Session>::builder()
        .secured()
        .on_open(|_, socket, session, info| {
            assert!(info.is_client());
            keep_short(socket);
            session.output = message();
            session.flush(socket);
            assert!(session.sent < LENGTH, "a megabyte at once does not test anything");
        })
        .on_writable(|_, socket, session| session.flush(socket))
        .on_data(|_, socket, session, data| {
            session.input.extend_from_slice(data);
            if session.input.len() == LENGTH {
                assert!(session.input == message(), "the echo differs");
                socket.shutdown();
            }
        })
        .on_close(|reasons, _, session, reason| {
            assert_eq!(session.input.len(), LENGTH);
            reasons.push(*reason);
        })
        .build(&event_loop, Vec::new())?;

    let listener = server.listen("127.0.0.1:0")?;
    let socket = client.connect(listener.local_addr()?)?;
    listener.detach();

    // The listener is what is left to keep the loop running when both ends have closed.
    let (watched, server_side) = (socket.clone(), server.clone());
    let watch = Timer::new(&event_loop, 0)?;
    watch.set(Duration::from_millis(1), Some(Duration::from_millis(1)), move |timer, ticks| {
        *ticks += 1;
        assert!(*ticks < 10_000, "the exchange hangs");
        if watched.is_closed() {
            let closed = server_side.with_state(|reasons| reasons.len()).expect("not lent");
            if closed == 1 {
                timer.event_loop().stop();
            }
        }
    })?;
    event_loop.run()?;

    assert_eq!(server.with_state(|reasons| reasons.clone())?, [CloseReason::End]);
    assert_eq!(client.with_state(|reasons| reasons.clone())?, [CloseReason::End]);
    assert!(matches!(socket.with_state(|_| ()), Err(UsError::Stale)));
    assert_eq!(socket.write(b"too late"), 0);
    assert_eq!(event_loop.metrics().accepted, 1);
    Ok(())
}
