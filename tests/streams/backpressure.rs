//! Writes that the system does not take at once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use usockets::{CloseReason, Loop, Socket, SocketContext, UsError};

use super::{Record, assert_carried};
use crate::SSL;
use crate::util::{
    Event, Peer, accept_one, assert_same, drain, guard, new_loop, pattern, pump, recorded, settle,
};

/// Output that is on its way.
#[derive(Debug, Default)]
struct Output {
    data: Rc<Vec<u8>>,
    sent: usize,
    /// Writes that came up short, and calls of `on_writable`.
    short: usize,
    writable: usize,
}

impl Output {
    fn flush(&mut self, socket: &Socket<SSL, Self>) {
        let rest = &self.data[self.sent..];
        let taken = socket.write(rest);
        assert!(taken <= rest.len());
        self.sent += taken;
        assert_eq!(socket.is_write_pending(), taken < rest.len());
        if taken < rest.len() {
            self.short += 1;
        }
    }
}

/// Has the system take little at once.
fn keep_short<S: 'static>(socket: &Socket<SSL, S>) {
    let set = socket.with_fd(|fd| SockRef::from(&fd).set_send_buffer_size(128 * 1024));
    set.expect("the socket is open").expect("the size is legal");
}

/// A context that sends `data` as soon as it is connected, and closes when all is gone.
fn sender(
    event_loop: &Loop,
    data: &Rc<Vec<u8>>,
    record: &Record<Output>,
) -> Result<SocketContext<SSL, (), Output>, UsError> {
    let data = Rc::clone(data);
    let log = record.clone();
    record
        .builder()
        .on_open(move |(), socket, output, _| {
            log.add_socket(socket, Event::Open);
            keep_short(socket);
            output.data = Rc::clone(&data);
            output.flush(socket);
        })
        .on_writable(|(), socket, output| {
            assert!(!socket.is_write_pending());
            output.writable += 1;
            assert_eq!(output.writable, output.short, "one call for each short write");
            output.flush(socket);
            if output.sent == output.data.len() {
                socket.shutdown();
            }
        })
        .build(event_loop, ())
}

#[test]
fn sixteen_megabytes_get_through_a_small_buffer() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let data = Rc::new(pattern(16 << 20));
    let record = Record::new();
    let context = sender(&event_loop, &data, &record)?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let received = peer.read_to_end(&event_loop);
    assert_same(&received, &data);
    let (short, writable) = socket.with_state(|output| (output.short, output.writable))?;
    assert!(short > 1, "nothing came up short: this tests nothing");
    assert_eq!(short, writable);
    drop(peer);
    drain(&event_loop);
    assert_eq!(record.closed(), Some(CloseReason::End));
    assert_carried(event_loop.metrics().bytes_sent, data.len());
    Ok(())
}

#[test]
fn nobody_is_told_of_room_who_did_not_lack_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(socket.write(b"hello"), 5);
    assert!(!socket.is_write_pending());
    // Nothing is all of nothing.
    assert_eq!(socket.write(b""), 0);
    assert!(!socket.is_write_pending());
    assert_eq!(peer.read(&event_loop, 5), b"hello");
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    Ok(())
}

/// Writes until the system takes no more, for the time being; returns how much it took.
fn write_all<S: 'static>(socket: &Socket<SSL, S>) -> usize {
    let block = pattern(1 << 20);
    let mut sent = 0;
    loop {
        let taken = socket.write(&block);
        sent += taken;
        if taken < block.len() {
            assert!(socket.is_write_pending());
            return sent;
        }
    }
}

/// As [`write_all`], until there is no room even when the peer's side of the system is full.
fn fill(event_loop: &Loop, record: &Record<()>) -> usize {
    let socket = record.socket();
    let mut sent = write_all(&socket);
    let mut quiet = 0;
    while quiet < 10 {
        event_loop.turn(Some(Duration::from_millis(1))).expect("a turn");
        quiet = if record.take().contains(&Event::Writable) {
            sent += write_all(&socket);
            0
        } else {
            quiet + 1
        };
    }
    assert!(socket.is_write_pending());
    sent
}

/// Reads exactly so many bytes, whatever they are.
fn swallow(event_loop: &Loop, peer: &mut Peer, mut length: usize) {
    while length > 0 {
        length -= peer.read(event_loop, length.min(1 << 16)).len();
    }
}

#[test]
fn room_is_told_once_and_only_when_there_is_some() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    keep_short(&socket);
    // Several short writes are one reason, not several.
    let sent = fill(&event_loop, &record) + write_all(&socket) + write_all(&socket);
    swallow(&event_loop, &mut peer, sent);
    pump(&event_loop, || record.has(&Event::Writable));
    assert!(!socket.is_write_pending());
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Writable]);
    Ok(())
}

#[test]
fn a_paused_socket_is_told_of_room() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    keep_short(&socket);
    let sent = fill(&event_loop, &record);
    socket.pause();
    peer.write(&event_loop, b"not yet");
    swallow(&event_loop, &mut peer, sent);
    pump(&event_loop, || record.has(&Event::Writable));
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Writable]);
    socket.resume();
    pump(&event_loop, || record.data() == b"not yet");
    Ok(())
}

#[test]
fn data_arrives_while_room_is_awaited() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    keep_short(&socket);
    let sent = fill(&event_loop, &record);
    peer.write(&event_loop, b"a request");
    pump(&event_loop, || record.data() == b"a request");
    swallow(&event_loop, &mut peer, sent);
    pump(&event_loop, || record.has(&Event::Writable));
    assert!(!socket.is_write_pending());
    Ok(())
}

#[test]
fn a_close_in_on_writable_is_the_last_of_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_writable(move |(), socket, ()| {
            log.push(Event::Writable);
            socket.close();
            assert_eq!(socket.write(b"too late"), 0);
            assert!(!socket.is_write_pending());
        })
        .build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    keep_short(&socket);
    let sent = write_all(&socket);
    // What was taken is still sent.
    swallow(&event_loop, &mut peer, sent);
    assert_eq!(peer.read_to_end(&event_loop), b"");
    pump(&event_loop, || record.ended());
    assert_eq!(record.take(), [Event::Open, Event::Writable, Event::Close(CloseReason::Local)]);
    Ok(())
}

#[test]
fn what_was_taken_is_sent_after_a_close() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let data = pattern(3 << 20);
    let sent = socket.write(&data);
    assert!(sent > 0);
    socket.close();
    let received = peer.read_to_end(&event_loop);
    assert_same(&received, &data[..sent]);
    Ok(())
}

#[test]
fn a_peer_that_goes_ends_the_wait_for_room() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    for paused in [false, true] {
        let (socket, peer) = accept_one(&event_loop, &context, &record);
        keep_short(&socket);
        fill(&event_loop, &record);
        if paused {
            socket.pause();
        }
        record.take();
        // With unread bytes in its buffer this is a reset.
        drop(peer);
        pump(&event_loop, || record.ended());
        let events = record.take();
        assert_eq!(events.last(), Some(&Event::Close(CloseReason::Reset)), "{events:?}");
        assert_eq!(socket.write(b"gone"), 0);
    }
    Ok(())
}

#[test]
fn many_sockets_wait_for_room_side_by_side() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let data = Rc::new(pattern(1 << 20));
    let record = Record::new();
    let context = sender(&event_loop, &data, &record)?;
    let mut peers: Vec<_> = (0..20).map(|_| accept_one(&event_loop, &context, &record).1).collect();
    let finished = Cell::new(0);
    // The last one first, so that the others have to wait.
    for peer in peers.iter_mut().rev() {
        assert_same(&peer.read_to_end(&event_loop), &data);
        finished.set(finished.get() + 1);
    }
    assert_eq!(finished.get(), 20);
    Ok(())
}
