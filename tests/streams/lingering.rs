//! What a socket accepted before it was closed still arrives.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use usockets::{CloseReason, Deadlines, Loop, Socket, SocketContext, UsError};

use super::{Record, client_of};
use crate::SSL;
use crate::util::{
    Descriptors, Event, Peer, Random, Secured, accept_one, alone, alone_for, assert_same, drain,
    guard, hand_over, new_loop, own_address, pattern, pump, recorded, settle, tcp_pair,
    test_clock_loop, unix_pair,
};

/// A context with the default deadlines, of which sockets linger.
fn lingering(event_loop: &Loop, record: &Record<()>) -> SocketContext<SSL, (), ()> {
    record.builder().build(event_loop, ()).expect("a context")
}

fn keep_short(socket: &Socket<SSL>) {
    let set = socket.with_fd(|fd| SockRef::from(&fd).set_send_buffer_size(16 * 1024));
    set.expect("the socket is open").expect("the size is legal");
}

/// Sends pieces of random sizes by random means, about `length` bytes, and returns them.
fn send_pieces(socket: &Socket<SSL>, random: &mut Random, length: usize) -> Vec<u8> {
    let all = pattern(length);
    let mut rest = all.as_slice();
    let mut short = false;
    while !rest.is_empty() && !short {
        let most = 1 << random.below(18);
        let size = 1 + random.below(rest.len().min(most));
        let piece = &rest[..size];
        let accepted = match random.below(4) {
            0 => socket.write(piece),
            1 => {
                socket.send_bytes(Bytes::copy_from_slice(piece)).expect("it is open");
                size
            }
            2 => socket.cork(|socket| socket.write(piece)),
            _ => {
                socket.send(piece).expect("it is open");
                size
            }
        };
        rest = &rest[accepted..];
        short = accepted < size;
    }
    all[..all.len() - rest.len()].to_vec()
}

/// Reads a bit at a time, with turns between.
fn read_slowly(event_loop: &Loop, stream: &mut impl Read, random: &mut Random) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = 1 + random.below(buffer.len());
        match stream.read(&mut buffer[..length]) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                event_loop.turn(Some(Duration::from_millis(5))).expect("a turn");
            }
            Err(error) => panic!("after {} bytes: {error}", all.len()),
        }
    }
}

/// One connection: random output, a close in one of several ways, a slow reader.
fn one_round(event_loop: &Loop, socket: &Socket<SSL>, peer: &mut Peer, random: &mut Random) {
    keep_short(socket);
    let most = 2 << random.below(18);
    let length = 1 + random.below(most);
    // Some peers have sent what nobody is going to read.
    if random.below(3) == 0 {
        peer.write_all(b"unread").expect("there is room");
    }
    let accepted = send_pieces(socket, random, length);
    match random.below(3) {
        0 => socket.close(),
        1 => socket.close_after_flush(),
        _ => {
            socket.shutdown();
            socket.close();
        }
    }
    assert_same(&read_slowly(event_loop, peer, random), &accepted);
}

/// A thousand of them. Only one in ten under instrumentation.
const ROUNDS: usize = if cfg!(usockets_fault_injection) { 100 } else { 1000 };

#[test]
fn a_thousand_times_over_tcp() -> Result<(), UsError> {
    let _guard = alone_for(Duration::from_secs(90));
    let event_loop = new_loop();
    let descriptors = Descriptors::now();
    let record = Record::<()>::new();
    let context = lingering(&event_loop, &record);
    let mut random = Random::new(20);
    for _ in 0..ROUNDS {
        let (socket, mut peer) = hand_over(&event_loop, &context, tcp_pair());
        one_round(&event_loop, &socket, &mut peer, &mut random);
    }
    drain(&event_loop);
    assert_eq!(event_loop.metrics().queued_bytes, 0);
    drop(context);
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn a_thousand_times_over_unix() -> Result<(), UsError> {
    let _guard = alone_for(Duration::from_secs(90));
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = lingering(&event_loop, &record);
    let mut random = Random::new(21);
    for _ in 0..ROUNDS {
        let (socket, mut peer) = hand_over(&event_loop, &context, unix_pair());
        one_round(&event_loop, &socket, &mut peer, &mut random);
    }
    drain(&event_loop);
    Ok(())
}

/// A socket that has accepted more than the system takes, and what that is.
fn clogged(event_loop: &Loop, record: &Record<()>) -> (Socket<SSL>, Peer, Vec<u8>) {
    let context = lingering(event_loop, record);
    let (socket, peer) = accept_one(event_loop, &context, record);
    keep_short(&socket);
    let block = pattern(1 << 18);
    let mut all = Vec::new();
    while socket.buffered() < block.len() {
        socket.send(&block).expect("there is room in the queue");
        all.extend_from_slice(&block);
    }
    (socket, peer, all)
}

#[test]
fn the_program_is_done_with_it_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (socket, mut peer, expected) = clogged(&event_loop, &record);
    socket.close();
    assert!(socket.is_closed());
    settle(&event_loop);
    assert_eq!(record.closed(), Some(CloseReason::Local));
    assert!(matches!(socket.send(b"x"), Err(UsError::Stale)));
    let metrics = event_loop.metrics();
    assert_eq!((metrics.live_lingering, metrics.live_sockets), (1, 1));
    assert!(metrics.queued_bytes > 0);
    // What the peer sends is of no interest any more, and does not get in the way.
    peer.write(&event_loop, &pattern(1 << 20));
    assert_same(&peer.read_to_end(&event_loop), &expected);
    // It waits for the peer's end, so that the system has no reason to reset the connection.
    assert_eq!(event_loop.metrics().live_lingering, 1);
    drop(peer);
    drain(&event_loop);
    assert_eq!(event_loop.metrics().live_sockets, 0);
    Ok(())
}

#[test]
fn closing_the_context_lets_its_sockets_linger() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (socket, mut peer, expected) = clogged(&event_loop, &record);
    socket.context::<()>()?.close();
    assert_same(&peer.read_to_end(&event_loop), &expected);
    assert_eq!(record.closed(), Some(CloseReason::ContextClosed));
    drop(peer);
    drain(&event_loop);
    Ok(())
}

#[test]
fn the_end_of_the_peer_does_not_cut_the_answer() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    // Without `on_end` a socket closes at the peer's end.
    let context = SocketContext::<SSL>::builder()
        .secured()
        .on_data(|(), socket, (), data| socket.send(data).expect("there is room"))
        .build(&event_loop, ())?;
    let listener = context.listen(own_address())?;
    let mut peer = client_of(&listener);
    let data = pattern(8 << 20);
    let mut sent = 0;
    // The answers wait for us: we read when all is sent and our end is told.
    pump(&event_loop, || {
        match Write::write(&mut peer, &data[sent..]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        sent == data.len()
    });
    peer.end_output();
    pump(&event_loop, || event_loop.metrics().sockets_closed == 1);
    assert_same(&peer.read_to_end(&event_loop), &data);
    Ok(())
}

#[test]
fn a_close_before_the_failure_was_told_says_what_was_lost() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = lingering(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    // A reset, of which the loop does not know yet.
    peer.reset();
    socket.send(b"accepted")?;
    socket.close();
    settle(&event_loop);
    assert_eq!(record.closed(), Some(CloseReason::Reset));
    Ok(())
}

#[test]
fn reset_discards() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (socket, mut peer, expected) = clogged(&event_loop, &record);
    socket.reset();
    settle(&event_loop);
    assert_eq!(event_loop.metrics().live_sockets, 0);
    assert_eq!(event_loop.metrics().queued_bytes, 0);
    let received = peer.read_to_end(&event_loop);
    assert!(received.len() < expected.len());
    Ok(())
}

#[test]
fn the_drain_deadline_ends_it_with_a_reset() -> Result<(), UsError> {
    let _guard = alone();
    let descriptors = Descriptors::now();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let (socket, peer, _) = clogged(&event_loop, &record);
    socket.close();
    settle(&event_loop);
    event_loop.advance_clock(Duration::from_millis(7990))?;
    settle(&event_loop);
    assert_eq!(event_loop.metrics().live_lingering, 1);
    event_loop.advance_clock(Duration::from_millis(20))?;
    drain(&event_loop);
    let metrics = event_loop.metrics();
    assert_eq!((metrics.live_lingering, metrics.deadlines_missed, metrics.queued_bytes), (0, 1, 0));
    // The peer can tell that it has not got all.
    let mut peer = peer.into_blocking();
    let error = Read::read_to_end(&mut peer, &mut Vec::new()).expect_err("the stream is cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    drop((peer, socket, record, event_loop));
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn without_a_drain_deadline_nothing_lingers() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context =
        record.builder().deadlines(Deadlines::default().drain(None)).build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    keep_short(&socket);
    while socket.buffered() == 0 {
        socket.send(&pattern(1 << 18))?;
    }
    socket.close();
    settle(&event_loop);
    assert_eq!(event_loop.metrics().live_sockets, 0);
    // Not an end that looks like that of the whole.
    let mut cut = false;
    pump(&event_loop, || match Read::read(&mut peer, &mut [0; 4096]) {
        Ok(0) => panic!("the stream looks complete"),
        Ok(_) => false,
        Err(error) => {
            cut = error.kind() == ErrorKind::ConnectionReset;
            error.kind() != ErrorKind::WouldBlock
        }
    });
    assert!(cut);
    Ok(())
}

#[test]
fn dropping_the_loop_cuts_what_lingers() -> Result<(), UsError> {
    let _guard = alone();
    let descriptors = Descriptors::now();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (socket, peer, _) = clogged(&event_loop, &record);
    socket.close();
    settle(&event_loop);
    drop(event_loop);
    drop((peer, record, socket));
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn a_peer_that_goes_ends_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let (socket, peer, _) = clogged(&event_loop, &record);
    socket.close();
    settle(&event_loop);
    drop(peer);
    drain(&event_loop);
    assert_eq!(event_loop.metrics().deadlines_missed, 0);
    Ok(())
}

#[test]
fn pause_half_close_a_megabyte_end_resume() -> Result<(), UsError> {
    let _guard = guard();
    let (tcp, unix) = (tcp_pair(), unix_pair());
    let pairs: [(OwnedFd, OwnedFd); 2] =
        [(tcp.0.into(), tcp.1.into()), (unix.0.into(), unix.1.into())];
    for pair in pairs {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = recorded(&event_loop, &record);
        let data = pattern(1 << 20);
        let (socket, peer) = hand_over(&event_loop, &context, pair);
        socket.pause();
        socket.shutdown();
        let sender = send_and_go(peer, data.clone());
        settle(&event_loop);
        assert_eq!(record.data_length(), 0);
        socket.resume();
        pump(&event_loop, || record.ended());
        assert_same(&record.data(), &data);
        assert_eq!(record.closed(), Some(CloseReason::End));
        assert_eq!(record.count(&Event::End), 0, "our direction had ended before");
        sender.join().expect("it has sent everything");
    }
    Ok(())
}

/// On a thread of its own, because not all of it may fit into the system.
fn send_and_go(peer: Peer, data: Vec<u8>) -> JoinHandle<()> {
    let mut peer = peer.into_blocking();
    thread::spawn(move || {
        peer.write_all(&data).expect("the connection stands");
        peer.end_output();
    })
}
