//! Sockets that stop reading for a while.

use std::io::Write;
use std::time::Duration;

use usockets::{CloseReason, Timer, UsError};

use super::{GONE, Record};
use crate::SSL;
use crate::util::{
    Event, Peer, accept_one, assert_same, drain, guard, hand_over, new_loop, pattern, pump,
    recorded, settle, tcp_pair, test_clock_loop, unix_pair,
};

#[test]
fn a_paused_socket_gets_nothing_until_it_resumes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    assert!(!socket.is_paused());
    socket.pause();
    assert!(socket.is_paused());
    socket.pause();
    peer.write(&event_loop, b"one ");
    peer.write(&event_loop, b"two");
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    socket.resume();
    assert!(!socket.is_paused());
    socket.resume();
    assert_eq!(record.take(), [], "nothing is called back inside `resume`");
    pump(&event_loop, || record.data() == b"one two");
    Ok(())
}

#[test]
fn pausing_inside_on_data_takes_effect_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_data(move |(), socket, (), data| {
            assert!(!socket.is_paused());
            log.push_data(data);
            socket.pause();
        })
        .build(&event_loop, ())?;
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    // More than one chunk.
    let data = pattern(1 << 20);
    let sender = {
        let (mut peer, data) = (peer.into_blocking(), data.clone());
        std::thread::spawn(move || {
            peer.write_all(&data).expect("room");
            peer
        })
    };
    let mut chunks = 0;
    while record.data_length() < data.len() {
        let before = record.data_length();
        pump(&event_loop, || record.data_length() > before);
        let chunk = record.data_length();
        settle(&event_loop);
        assert_eq!(record.data_length(), chunk, "delivered while paused");
        assert!(socket.is_paused());
        chunks += 1;
        socket.resume();
    }
    assert!(chunks > 1);
    let mut peer = sender.join().expect("no panic");
    assert_same(&record.data(), &data);
    peer.write_all(b"!").expect("room");
    Ok(())
}

#[test]
fn the_end_waits_too_and_comes_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    peer.write(&event_loop, b"bye");
    peer.end_output();
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    socket.resume();
    pump(&event_loop, || record.has(&Event::End));
    // After the end, pausing and resuming change nothing.
    socket.pause();
    socket.resume();
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Data(b"bye".to_vec()), Event::End]);
    socket.shutdown();
    pump(&event_loop, || record.ended());
    assert_eq!(record.take(), [Event::Close(CloseReason::End)]);
    Ok(())
}

#[test]
fn a_hang_up_is_not_spun_upon_while_paused() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = hand_over(&event_loop, &context, unix_pair());
    socket.pause();
    peer.write_all(b"remember me").expect("there is room");
    drop(peer);
    // The hang-up is reported for ever by level-triggered polling.
    settle(&event_loop);
    let before = event_loop.metrics().events;
    settle(&event_loop);
    assert_eq!(event_loop.metrics().events, before, "the loop spins");
    assert!(!socket.is_closed());
    socket.resume();
    pump(&event_loop, || record.ended());
    assert_eq!(
        record.take(),
        [Event::Open, Event::Data(b"remember me".to_vec()), Event::Close(GONE)]
    );
    Ok(())
}

#[test]
fn pausing_again_in_the_middle_of_a_remembered_end() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_data(move |(), socket, (), data| {
            log.push_data(data);
            socket.pause();
        })
        .build(&event_loop, ())?;
    let (socket, mut peer) = hand_over(&event_loop, &context, unix_pair());
    socket.pause();
    let data = pattern(100_000);
    peer.write_all(&data).expect("there is room");
    drop(peer);
    while record.data_length() < data.len() {
        settle(&event_loop);
        assert!(!socket.is_closed(), "after {} bytes", record.data_length());
        socket.resume();
        let before = record.data_length();
        pump(&event_loop, || record.data_length() > before);
    }
    socket.resume();
    pump(&event_loop, || record.ended());
    assert_same(&record.data(), &data);
    assert_eq!(record.closed(), Some(GONE));
    Ok(())
}

#[test]
fn a_paused_socket_can_write_and_close() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    assert_eq!(socket.write(b"hello"), 5);
    assert_eq!(peer.read(&event_loop, 5), b"hello");
    socket.close();
    assert!(peer.read_to_end(&event_loop).is_empty());
    drain(&event_loop);
    assert_eq!(record.take(), [Event::Open, Event::Close(CloseReason::Local)]);
    Ok(())
}

#[test]
fn timeouts_go_on_while_paused() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    socket.set_timeout(Duration::from_secs(1))?;
    event_loop.advance_clock(Duration::from_millis(1010))?;
    pump(&event_loop, || record.has(&Event::Timeout));
    Ok(())
}

#[test]
fn resuming_from_a_timer() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    peer.write(&event_loop, b"later");
    let timer = Timer::new(&event_loop, ())?;
    let paused = socket.clone();
    timer.set(Duration::from_millis(5), None, move |_, ()| paused.resume())?;
    pump(&event_loop, || record.data() == b"later");
    Ok(())
}

#[test]
fn a_socket_can_be_paused_before_it_opens() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (ours, theirs) = tcp_pair();
    let socket = context.accept_fd(ours)?;
    socket.pause();
    let mut peer = Peer::client_of(SSL, theirs);
    peer.write(&event_loop, b"early");
    pump(&event_loop, || record.opened() == 1);
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    assert!(socket.is_paused());
    socket.resume();
    pump(&event_loop, || record.data() == b"early");
    Ok(())
}

#[test]
fn pausing_and_resuming_are_harmless_on_closed_sockets() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.close();
    socket.pause();
    socket.resume();
    pump(&event_loop, || record.ended());
    settle(&event_loop);
    socket.pause();
    socket.resume();
    assert!(!socket.is_paused());
    Ok(())
}

#[test]
fn a_hundred_sockets_pause_and_resume_side_by_side() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let mut pairs: Vec<_> = (0..100).map(|_| accept_one(&event_loop, &context, &record)).collect();
    for (index, (socket, peer)) in pairs.iter_mut().enumerate() {
        if index % 2 == 0 {
            socket.pause();
        }
        peer.write_all(b"x").expect("there is room");
    }
    pump(&event_loop, || record.data_length() >= 50);
    settle(&event_loop);
    assert_eq!(record.data_length(), 50);
    pairs.iter().for_each(|(socket, _)| socket.resume());
    pump(&event_loop, || record.data_length() == 100);
    Ok(())
}
