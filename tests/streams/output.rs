//! What is collected, queued, limited and flushed.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use usockets::{Loop, Socket, SocketContext, Timer, UsError};

use super::Record;
use crate::SSL;
use crate::util::{
    self, Event, Secured, accept_one, assert_same, drain, guard, new_loop, panic_of, pattern, pump,
    recorded, settle,
};

/// Sends so far.
fn sends(event_loop: &Loop) -> u64 {
    event_loop.metrics().sends
}

/// Has the system take little at once.
fn keep_short(socket: &Socket<SSL>) {
    let set = socket.with_fd(|fd| SockRef::from(&fd).set_send_buffer_size(64 * 1024));
    set.expect("the socket is open").expect("the size is legal");
}

/// A connection of which the peer has not read anything and the system takes no more. Returns what was
/// queued for it.
fn clog(socket: &Socket<SSL>) -> Vec<u8> {
    keep_short(socket);
    let block = pattern(1 << 16);
    let mut all = Vec::new();
    while socket.buffered() < block.len() {
        socket.send(&block).expect("there is room in the queue");
        all.extend_from_slice(&block);
    }
    all
}

#[test]
fn small_pieces_stay_between_large_ones() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let data = pattern(2 << 20);
    let pieces = data.clone();
    let context = record
        .builder()
        .on_data(move |(), socket, (), _data| {
            keep_short(socket);
            let mut rest = &pieces[..];
            let mut send = |length: usize| {
                let (piece, others) = rest.split_at(length.min(rest.len()));
                socket.send(piece).expect("there is room in the queue");
                rest = others;
                !rest.is_empty()
            };
            // The buffer of the loop is this socket's, and empty, when a large one goes past it.
            while send(576) {
                socket.flush();
                send(128 * 1024);
            }
        })
        .build(&event_loop, ())?;
    let (_socket, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write(&event_loop, b"go");
    assert_same(&peer.read(&event_loop, data.len()), &data);
    Ok(())
}

#[test]
fn many_small_writes_of_a_callback_leave_by_one_call() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record
        .builder()
        .on_data(|(), socket, (), data| {
            for message in data.chunks(64) {
                assert_eq!(socket.write(message), message.len());
            }
        })
        .build(&event_loop, ())?;
    let (_socket, mut peer) = accept_one(&event_loop, &context, &record);
    let data = pattern(64 * 64);
    let before = event_loop.metrics();
    peer.write(&event_loop, &data);
    assert_same(&peer.read(&event_loop, data.len()), &data);
    let metrics = event_loop.metrics();
    let receives = metrics.receives - before.receives;
    assert_eq!(metrics.sends - before.sends, receives, "one send for each receive");
    Ok(())
}

#[test]
fn without_gathering_each_write_is_a_call() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record
        .builder()
        .gather(false)
        .on_data(|(), socket, (), data| {
            for message in data.chunks(64) {
                assert_eq!(socket.write(message), message.len());
            }
        })
        .build(&event_loop, ())?;
    let (_socket, mut peer) = accept_one(&event_loop, &context, &record);
    let data = pattern(64 * 64);
    let before = sends(&event_loop);
    peer.write(&event_loop, &data);
    assert_same(&peer.read(&event_loop, data.len()), &data);
    assert_eq!(sends(&event_loop) - before, 64);
    Ok(())
}

#[test]
fn a_broadcast_keeps_what_is_collected_for_each() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let mut members = Vec::new();
    for _ in 0..20 {
        members.push(accept_one(&event_loop, &context, &record));
    }
    let sockets: Vec<_> = members.iter().map(|(socket, _)| socket.clone()).collect();
    let before = sends(&event_loop);
    let timer = Timer::new(&event_loop, ())?;
    timer.set(Duration::from_millis(1), None, move |_, ()| {
        for round in 0..5_u8 {
            for socket in &sockets {
                socket.send(&[round; 100]).expect("it is open");
            }
        }
    })?;
    let expected: Vec<u8> = (0..5).flat_map(|round| [round; 100]).collect();
    for (_, peer) in &mut members {
        assert_eq!(peer.read(&event_loop, 500), expected);
    }
    assert_eq!(sends(&event_loop) - before, 20, "one for each member");
    Ok(())
}

#[test]
fn more_is_collected_than_fits() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let data = Rc::new(pattern(300_000));
    let output = Rc::clone(&data);
    let context = record
        .builder()
        .on_data(move |(), socket, (), _| {
            // Sizes on both sides of all limits.
            let mut rest = output.as_slice();
            for size in
                [1, 63, 4095, 4096, 4097, 100, 16_383, 16_384, 16_385, 70_000].iter().cycle()
            {
                let (now, later) = rest.split_at(rest.len().min(*size));
                socket.send(now).expect("it is open");
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        })
        .build(&event_loop, ())?;
    let (_socket, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write(&event_loop, b"go");
    assert_same(&peer.read(&event_loop, data.len()), &data);
    Ok(())
}

#[test]
fn nothing_is_held_back_outside_of_callbacks() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let before = sends(&event_loop);
    assert_eq!(socket.write(b"now"), 3);
    assert_eq!(sends(&event_loop) - before, 1);
    let mut buffer = [0; 3];
    peer.read_exact(&mut buffer).expect("it is there");
    assert_eq!(&buffer, b"now");
    Ok(())
}

#[test]
fn cork_collects_outside_of_callbacks() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let before = sends(&event_loop);
    let written = socket.cork(|socket| {
        assert_eq!(socket.write(b"one "), 4);
        socket.cork(|socket| assert_eq!(socket.write(b"two "), 4));
        assert_eq!(sends(&event_loop), before, "the inner one does not end the outer one");
        assert_eq!(socket.buffered(), 8);
        socket.write(b"three")
    });
    assert_eq!((written, sends(&event_loop) - before, socket.buffered()), (5, 1, 0));
    assert_eq!(peer.read(&event_loop, 13), b"one two three");
    Ok(())
}

#[test]
fn a_panic_inside_cork_sends_what_was_collected() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let message = panic_of(|| {
        socket.cork(|socket| {
            assert_eq!(socket.write(b"accepted"), 8);
            panic!("in cork");
        })
    });
    assert_eq!(message, "in cork");
    assert_eq!(peer.read(&event_loop, 8), b"accepted");
    Ok(())
}

#[test]
fn a_panic_in_a_callback_loses_nothing_that_was_accepted() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record
        .builder()
        .on_data(|(), socket, (), _| {
            assert_eq!(socket.write(b"accepted"), 8);
            panic!("in on_data");
        })
        .build(&event_loop, ())?;
    let (_socket, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write_all(b"x").expect("there is room");
    let message = panic_of(|| pump(&event_loop, || false));
    assert_eq!(message, "in on_data");
    assert_eq!(peer.read(&event_loop, 8), b"accepted");
    Ok(())
}

#[test]
fn flush_sends_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let seen = Rc::new(Cell::new(0));
    let count = Rc::clone(&seen);
    let context = record
        .builder()
        .on_data(move |(), socket, (), _| {
            let metrics = || socket.event_loop().metrics().sends;
            assert_eq!(socket.write(b"first"), 5);
            let before = metrics();
            socket.flush();
            count.set(metrics() - before);
            assert_eq!(socket.write(b"second"), 6);
        })
        .build(&event_loop, ())?;
    let (_socket, mut peer) = accept_one(&event_loop, &context, &record);
    let before = sends(&event_loop);
    peer.write(&event_loop, b"x");
    assert_eq!(peer.read(&event_loop, 11), b"firstsecond");
    assert_eq!((seen.get(), sends(&event_loop) - before), (1, 2));
    Ok(())
}

#[test]
fn send_accepts_what_the_system_does_not() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let mut expected = clog(&socket);
    assert_eq!(event_loop.metrics().queued_bytes, socket.buffered() as u64);
    // In order behind the rest, of every kind.
    socket.send(b"small")?;
    socket.send_vectored(&[IoSlice::new(b"sl"), IoSlice::new(b""), IoSlice::new(b"ices")])?;
    let large = pattern(100_000);
    socket.send_bytes(Bytes::from(large.clone()))?;
    socket.send_bytes(Bytes::from_static(b"tiny"))?;
    socket.send(b"")?;
    for part in [b"small".as_slice(), b"slices", &large, b"tiny"] {
        expected.extend_from_slice(part);
    }
    // A write takes nothing while something waits.
    assert_eq!(socket.write(b"not now"), 0);
    assert!(socket.is_write_pending());
    assert_same(&peer.read(&event_loop, expected.len()), &expected);
    pump(&event_loop, || record.has(&Event::Writable));
    assert_eq!((socket.buffered(), event_loop.metrics().queued_bytes), (0, 0));
    assert_eq!(record.count(&Event::Writable), 1);
    Ok(())
}

#[test]
fn a_socket_that_is_still_connecting_queues() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = util::listen(&context);
    let client = SocketContext::<SSL>::builder().secured().build(&event_loop, ())?;
    let socket = client.connect(listener.local_addr()?)?;
    socket.send(b"hello ")?;
    assert_eq!(socket.write(b"not yet"), 0);
    socket.send_bytes(Bytes::from(pattern(50_000)))?;
    assert_eq!(socket.buffered(), 50_006);
    pump(&event_loop, || record.data_length() == 50_006);
    let mut expected = b"hello ".to_vec();
    expected.extend(pattern(50_000));
    assert_same(&record.data(), &expected);
    Ok(())
}

#[test]
fn limits_refuse_all_or_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::builder().send_limit(300_000).build(())?;
    let record = Record::<()>::new();
    let context = record.builder().send_limit(200_000).build(&event_loop, ())?;
    let (first, _one) = accept_one(&event_loop, &context, &record);
    let (second, _other) = accept_one(&event_loop, &context, &record);
    let block = pattern(50_000);
    for (socket, expected) in [(&first, 150_000..=200_000), (&second, 100_000..=150_000)] {
        keep_short(socket);
        let refused = loop {
            let before = socket.buffered();
            if let Err(error) = socket.send(&block) {
                assert_eq!(socket.buffered(), before);
                break error;
            }
        };
        assert!(matches!(refused, UsError::QueueFull), "{refused:?}");
        assert!(expected.contains(&socket.buffered()), "{} wait", socket.buffered());
    }
    assert!(matches!(first.send_bytes(Bytes::from(vec![0; 200_001])), Err(UsError::QueueFull)));
    first.reset();
    settle(&event_loop);
    // Room that one gives back is there for the other.
    second.send(&block)?;
    Ok(())
}

#[test]
fn what_is_only_collected_does_not_use_up_the_limit() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record.builder().send_limit(10_000).build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.cork(|socket| {
        for _ in 0..20 {
            socket.send(&[7; 3000]).expect("the system has room");
        }
    });
    assert_eq!(peer.read(&event_loop, 60_000), vec![7; 60_000]);
    Ok(())
}

#[test]
fn on_drain_comes_once_for_every_crossing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let drained = Rc::new(Cell::new(0));
    let count = Rc::clone(&drained);
    let context = record
        .builder()
        .water_marks(200_000, 50_000)
        .on_drain(move |(), socket, ()| {
            assert!(socket.buffered() <= 50_000);
            assert!(!socket.needs_drain());
            count.set(count.get() + 1);
        })
        .build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    for round in 1..=3 {
        keep_short(&socket);
        let mut sent = 0;
        while !socket.needs_drain() {
            socket.send(&pattern(30_000))?;
            sent += 30_000;
        }
        assert!(socket.buffered() > 200_000);
        settle(&event_loop);
        // Unless the system has found more room meanwhile.
        assert!(drained.get() == round - 1 || socket.buffered() <= 50_000);
        let _received = peer.read(&event_loop, sent);
        pump(&event_loop, || socket.buffered() == 0);
        assert_eq!(drained.get(), round);
    }
    assert_eq!(record.count(&Event::Writable), 0, "no write came up short");
    Ok(())
}

#[test]
fn water_marks_that_make_no_sense_are_refused() {
    let event_loop = new_loop();
    let builder = SocketContext::<SSL>::builder().secured();
    let built = builder.water_marks(10, 20).build(&event_loop, ());
    assert!(matches!(built, Err(UsError::InvalidOption { option: "water marks", .. })));
}

// `Bytes` wants an owner that is `Send`, so what is to happen at its drop is kept beside it.
thread_local! {
    static DROPPED: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

struct Block(Vec<u8>);

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(code) = DROPPED.take() {
            code();
        }
    }
}

#[test]
fn a_buffer_may_use_the_loop_when_it_is_dropped() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    // With a drain deadline: what is closed may have something to send.
    let context = record.builder().build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let expected = clog(&socket);
    let other = socket.clone();
    DROPPED.set(Some(Box::new(move || {
        other.send(b" and the rest").expect("it is open");
        other.close();
    })));
    socket.send_bytes(Bytes::from_owner(Block(pattern(100_000))))?;
    let received = peer.read_to_end(&event_loop);
    assert_eq!(received.len(), expected.len() + 100_000 + 13);
    assert!(received.ends_with(b" and the rest"));
    drop(peer);
    drain(&event_loop);
    Ok(())
}

#[test]
fn a_buffer_is_dropped_when_its_connection_is() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    clog(&socket);
    let dropped = Rc::new(Cell::new(false));
    let mark = Rc::clone(&dropped);
    DROPPED.set(Some(Box::new(move || mark.set(true))));
    socket.send_bytes(Bytes::from_owner(Block(pattern(100_000))))?;
    assert!(!dropped.get());
    drop(peer);
    pump(&event_loop, || dropped.get());
    Ok(())
}

#[test]
fn a_buffer_that_is_not_taken_may_drop_the_loop() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let inside = Rc::new(Cell::new(false));
    let told = Rc::new(Cell::new(0));
    let (is_inside, count) = (Rc::clone(&inside), Rc::clone(&told));
    let record = Record::<()>::new();
    let context = record
        .builder()
        .on_close(move |(), _, (), _| {
            assert!(!is_inside.get(), "a callback inside of a destructor");
            count.set(count.get() + 1);
        })
        .build(&event_loop, ())?;
    let (gone, _one) = accept_one(&event_loop, &context, &record);
    let (_open, _other) = accept_one(&event_loop, &context, &record);
    gone.close();
    pump(&event_loop, || told.get() == 1);
    DROPPED.set(Some(Box::new(move || {
        inside.set(true);
        drop(event_loop);
        inside.set(false);
    })));
    let refused = gone.send_bytes(Bytes::from_owner(Block(pattern(1))));
    assert!(matches!(refused, Err(UsError::Stale)));
    assert_eq!(told.get(), 2);
    assert!(matches!(gone.send(b"x"), Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn closed_sockets_accept_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (shut, _one) = accept_one(&event_loop, &context, &record);
    shut.shutdown();
    let (closed, _other) = accept_one(&event_loop, &context, &record);
    closed.close();
    for socket in [&shut, &closed] {
        assert_eq!(socket.write(b"x"), 0);
        assert!(matches!(socket.send(b"x"), Err(UsError::Closed)));
        assert!(matches!(socket.send_bytes(Bytes::from(pattern(9999))), Err(UsError::Closed)));
        assert_eq!(socket.buffered(), 0);
        socket.flush();
        socket.close_after_flush();
    }
    settle(&event_loop);
    assert!(matches!(closed.send(b"x"), Err(UsError::Stale)));
    drop(event_loop);
    assert!(matches!(closed.send(b"x"), Err(UsError::LoopClosed)));
    assert_eq!(closed.write(b"x"), 0);
    Ok(())
}

#[test]
fn shutdown_comes_behind_the_queue() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let expected = clog(&socket);
    socket.shutdown();
    assert!(socket.is_shut_down());
    // The peer's own end does not get in the way.
    peer.end_output();
    assert_same(&peer.read_to_end(&event_loop), &expected);
    drain(&event_loop);
    assert_eq!(record.closed(), Some(usockets::CloseReason::End));
    Ok(())
}

#[test]
fn close_after_flush_tells_when_the_last_byte_has_left() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let expected = clog(&socket);
    socket.close_after_flush();
    assert!(!socket.is_closed());
    assert!(matches!(socket.send(b"x"), Err(UsError::Closed)));
    // It still receives.
    peer.write(&event_loop, b"still there?");
    pump(&event_loop, || record.data_length() == 12);
    assert!(!record.ended());
    assert_same(&peer.read_to_end(&event_loop), &expected);
    pump(&event_loop, || record.ended());
    assert_eq!(record.closed(), Some(usockets::CloseReason::Local));
    Ok(())
}

#[test]
fn adoption_takes_the_queue_along() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let target_record = Record::<u32>::new();
    let target = recorded(&event_loop, &target_record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let mut expected = clog(&socket);
    let waits = socket.buffered();
    socket.adopt(&target, 0, |()| 7)?;
    pump(&event_loop, || target_record.opened() == 1);
    let moved = target_record.socket();
    assert_eq!(moved.buffered(), waits);
    moved.send(b"from the new place")?;
    expected.extend_from_slice(b"from the new place");
    assert_same(&peer.read(&event_loop, expected.len()), &expected);
    Ok(())
}

#[test]
fn a_callback_that_writes_and_moves_loses_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let target_record = Record::<()>::new();
    let target = recorded(&event_loop, &target_record);
    let context = record
        .builder()
        .on_data(move |(), socket, (), _| {
            assert_eq!(socket.write(b"before "), 7);
            socket.adopt(&target, 0, |()| ()).expect("it is open");
            assert_eq!(socket.write(b"too late"), 0);
        })
        .build(&event_loop, ())?;
    let (_socket, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write(&event_loop, b"go");
    pump(&event_loop, || target_record.opened() == 1);
    assert_eq!(target_record.socket().write(b"after"), 5);
    assert_eq!(peer.read(&event_loop, 12), b"before after");
    Ok(())
}

#[test]
fn the_default_limits_hold_a_stream_that_nobody_reads() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = record.builder().build(&event_loop, ())?;
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    let page = Bytes::from(vec![0; 1 << 20]);
    let mut accepted = 0_usize;
    while socket.send_bytes(page.clone()).is_ok() {
        accepted += 1;
        assert!(accepted < 200, "the limit does not hold");
    }
    assert!(socket.buffered() <= 64 << 20);
    assert!(socket.needs_drain());
    Ok(())
}
