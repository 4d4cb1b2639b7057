//! Buffers that the system reads where they are. Within one machine it copies them in the end; what is shown is that
//! nothing else changes, and that they are dropped once and not too early.
#![cfg(feature = "bytes")]

mod util;

use std::time::Duration;

use bytes::Bytes;
use usockets::{Deadlines, Loop, Socket, SocketContext, UsError};
use util::{
    Descriptors, Drops, Peer, Record, Token, accept_one, alone, assert_same, guard, new_loop,
    pattern, pump,
};

/// A buffer whose end is counted.
struct Counted {
    data: Vec<u8>,
    _token: Token,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

fn context(event_loop: &Loop, record: &Record<()>) -> Result<SocketContext<false>, UsError> {
    let drain = Deadlines::none().drain(Duration::from_secs(30));
    record.builder().deadlines(drain).zerocopy_threshold(50_000).build(event_loop, ())
}

/// Sends buffers above and below the threshold, and other output between them.
fn send_all(socket: &Socket<false>, data: &[u8], drops: &Drops) -> Result<usize, UsError> {
    let mut buffers = 0;
    for (index, piece) in data.chunks(100_000).enumerate() {
        let (lent, copied) = piece.split_at(if index % 3 == 0 { 20_000 } else { piece.len() });
        let buffer = Counted { data: lent.to_vec(), _token: drops.token() };
        socket.send_bytes(Bytes::from_owner(buffer))?;
        socket.send(copied)?;
        buffers += 1;
    }
    Ok(buffers)
}

#[test]
fn buffers_are_dropped_once_and_after_they_were_sent() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = context(&event_loop, &record)?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let (drops, data) = (Drops::new(), pattern(16_000_000));
    let buffers = send_all(&socket, &data, &drops)?;
    assert!(drops.live() > 0, "not all of it fits into the system");
    assert_same(&peer.read(&event_loop, data.len()), &data);
    pump(&event_loop, || drops.dropped() == buffers);
    assert_eq!(socket.buffered(), 0);
    // It goes on as before.
    socket.send(b"more")?;
    assert_eq!(peer.read(&event_loop, 4), b"more");
    Ok(())
}

#[test]
fn close_keeps_buffers_until_they_were_sent() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = context(&event_loop, &record)?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let (drops, data) = (Drops::new(), pattern(16_000_000));
    let buffers = send_all(&socket, &data, &drops)?;
    socket.close();
    pump(&event_loop, || record.ended());
    assert!(drops.live() > 0);
    assert_same(&peer.read_to_end(&event_loop), &data);
    drop(peer);
    pump(&event_loop, || drops.dropped() == buffers);
    pump(&event_loop, || event_loop.metrics().live_lingering == 0);
    Ok(())
}

/// What becomes of buffers under way when the connection ends otherwise.
fn cut_by(cut: impl FnOnce(&Socket<false>, Peer)) -> Result<(), UsError> {
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = context(&event_loop, &record)?;
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    let drops = Drops::new();
    let buffers = send_all(&socket, &pattern(16_000_000), &drops)?;
    cut(&socket, peer);
    pump(&event_loop, || record.ended() && drops.dropped() == buffers);
    Ok(())
}

#[test]
fn reset_drops_what_was_not_sent() -> Result<(), UsError> {
    let _guard = guard();
    cut_by(|socket, _peer| socket.reset())?;
    cut_by(|_socket, peer| {
        let stream = peer.into_stream();
        let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("a TCP socket");
    })
}

#[test]
fn end_of_the_loop_drops_all_buffers() -> Result<(), UsError> {
    let _guard = alone();
    let descriptors = Descriptors::now();
    let drops = Drops::new();
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = context(&event_loop, &record)?;
        let (open, _peer_of_open) = accept_one(&event_loop, &context, &record);
        let (closed, _peer_of_closed) = accept_one(&event_loop, &context, &record);
        send_all(&open, &pattern(16_000_000), &drops)?;
        send_all(&closed, &pattern(16_000_000), &drops)?;
        closed.close();
        util::settle(&event_loop);
    }
    drops.assert_all_dropped();
    descriptors.assert_unchanged();
    Ok(())
}
