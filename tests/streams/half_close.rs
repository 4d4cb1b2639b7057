//! Ends of one direction, of both, and what is delivered before them.

use std::io::Write;
use std::rc::Rc;
use std::thread;

use usockets::{CloseReason, Loop, SocketContext, UsError};

use super::{Record, assert_carried, client_of};
use crate::SSL;
use crate::util::{
    Drops, Event, Ready, Secured, accept_one, assert_same, drain, guard, listen, new_loop, pattern,
    pump, recorded, settle,
};

#[test]
fn the_end_of_the_peer_comes_once_and_after_the_data() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write(&event_loop, b"goodbye");
    peer.end_output();
    pump(&event_loop, || record.has(&Event::End));
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open, Event::Data(b"goodbye".to_vec()), Event::End]);
    assert!(!socket.is_closed());
    assert!(!socket.is_shut_down());

    // The other direction is still good.
    assert_eq!(socket.write(b"farewell"), 8);
    assert_eq!(peer.read(&event_loop, 8), b"farewell");
    socket.shutdown();
    assert!(peer.read_to_end(&event_loop).is_empty());
    pump(&event_loop, || record.ended());
    assert_eq!(record.take(), [Event::Close(CloseReason::End)]);
    Ok(())
}

#[test]
fn without_a_callback_the_end_of_the_peer_closes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let tokens = drops.clone();
    let received = Rc::new(std::cell::RefCell::new(Vec::new()));
    let (data_log, close_log) = (Rc::clone(&received), Record::<()>::new());
    let reasons = close_log.clone();
    let context = SocketContext::<SSL, (), _>::builder_with(move || tokens.token())
        .secured()
        .on_data(move |(), _, _, data| data_log.borrow_mut().extend_from_slice(data))
        .on_close(move |(), _, _, reason| reasons.push(Event::Close(*reason)))
        .build(&event_loop, ())?;
    let listener = listen(&context);
    let mut peer = client_of(&listener);
    peer.write(&event_loop, b"last words");
    peer.end_output();
    assert!(peer.read_to_end(&event_loop).is_empty());
    drop(listener);
    drain(&event_loop);
    assert_eq!(*received.borrow(), b"last words");
    assert_eq!(close_log.take(), [Event::Close(CloseReason::End)]);
    drops.assert_all_dropped();
    Ok(())
}

#[test]
fn our_end_leaves_the_other_direction_open() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(socket.write(b"that was all"), 12);
    socket.shutdown();
    assert!(socket.is_shut_down());
    assert!(!socket.is_closed());
    assert_eq!(socket.write(b"more"), 0);
    assert!(!socket.is_write_pending(), "nobody waits for room that will not come");
    socket.shutdown();
    assert_eq!(peer.read_to_end(&event_loop), b"that was all");

    peer.write(&event_loop, b"still talking");
    pump(&event_loop, || record.data() == b"still talking");
    peer.end_output();
    pump(&event_loop, || record.ended());
    // No `on_end`: the socket closes instead.
    assert_eq!(
        record.take(),
        [Event::Open, Event::Data(b"still talking".to_vec()), Event::Close(CloseReason::End)]
    );
    Ok(())
}

#[test]
fn the_end_follows_what_the_system_took() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let data = pattern(8 << 20);
    let sent = socket.write(&data);
    assert!(sent < data.len(), "it all fits, which tests nothing");
    // Gives up the rest, and with it the wait for room.
    socket.shutdown();
    assert!(!socket.is_write_pending());
    let received = peer.read_to_end(&event_loop);
    assert_same(&received, &data[..sent]);
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    Ok(())
}

#[test]
fn giving_up_output_does_not_give_up_input() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let data = pattern(8 << 20);
    let sent = socket.write(&data);
    assert!(sent < data.len(), "it all fits, which tests nothing");
    socket.shutdown();
    socket.pause();
    assert_same(&peer.read_to_end(&event_loop), &data[..sent]);
    peer.write(&event_loop, b"last words");
    drop(peer);
    settle(&event_loop);
    assert!(!socket.is_closed());
    record.take();
    socket.resume();
    pump(&event_loop, || record.ended());
    assert_eq!(
        record.take(),
        [Event::Data(b"last words".to_vec()), Event::Close(CloseReason::End)]
    );
    Ok(())
}

#[test]
fn ending_inside_callbacks() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_open(move |(), socket, (), _| {
            log.add_socket(socket, Event::Open);
            assert_eq!(socket.write(b"welcome"), 7);
            socket.shutdown();
            assert!(socket.is_shut_down());
        })
        .build(&event_loop, ())?;
    let (_, mut peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(peer.read_to_end(&event_loop), b"welcome");
    peer.write(&event_loop, b"thanks");
    drop(peer);
    pump(&event_loop, || record.ended());
    assert_eq!(
        record.take(),
        [Event::Open, Event::Data(b"thanks".to_vec()), Event::Close(CloseReason::End)]
    );

    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_end(move |(), socket, ()| {
            log.push(Event::End);
            socket.shutdown();
            assert_eq!(socket.write(b"late"), 0);
        })
        .build(&event_loop, ())?;
    let (_, mut peer) = accept_one(&event_loop, &context, &record);
    peer.end_output();
    assert!(peer.read_to_end(&event_loop).is_empty());
    pump(&event_loop, || record.ended());
    assert_eq!(record.take(), [Event::Open, Event::End, Event::Close(CloseReason::End)]);
    Ok(())
}

#[test]
fn both_sides_end_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = listen(&recorded(&event_loop, &server));
    let socket = recorded(&event_loop, &client).connect(listener.local_addr()?)?;
    pump(&event_loop, || server.opened() == 1 && client.opened() == 1);
    pump(&event_loop, || server.socket().is_ready() && socket.is_ready());
    drop(listener);
    assert_eq!(socket.write(b"one"), 3);
    assert_eq!(server.socket().write(b"other"), 5);
    socket.shutdown();
    server.socket().shutdown();
    drain(&event_loop);
    assert_eq!(
        server.take(),
        [Event::Open, Event::Data(b"one".to_vec()), Event::Close(CloseReason::End)]
    );
    assert_eq!(
        client.take(),
        [Event::Open, Event::Data(b"other".to_vec()), Event::Close(CloseReason::End)]
    );
    Ok(())
}

/// A peer of its own that sends `data` and ends.
fn send_and_go(event_loop: &Loop, record: &Record<()>, data: &[u8]) -> thread::JoinHandle<()> {
    let context = recorded(event_loop, record);
    let (_, peer) = accept_one(event_loop, &context, record);
    let data = data.to_vec();
    thread::spawn(move || {
        peer.into_blocking().write_all(&data).expect("somebody reads");
    })
}

#[test]
fn sixteen_megabytes_come_before_the_end() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let data = pattern(16 << 20);
    let record = Record::new();
    let sender = send_and_go(&event_loop, &record, &data);
    pump(&event_loop, || record.has(&Event::End));
    sender.join().expect("no panic");
    let events = record.take();
    assert_eq!(events.len(), 3, "open, data, end");
    let Event::Data(received) = &events[1] else { panic!("no data") };
    assert_same(received, &data);
    assert_carried(event_loop.metrics().bytes_received, data.len());
    Ok(())
}

#[test]
fn a_reader_that_was_paused_gets_it_all_before_the_end() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    // As much as the system keeps without a reader, so that the peer can be gone already.
    let data = pattern(60_000);
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    peer.write(&event_loop, &data);
    drop(peer);
    settle(&event_loop);
    assert_eq!(record.events(), [Event::Open]);
    assert!(!socket.is_closed());
    socket.resume();
    pump(&event_loop, || record.has(&Event::End));
    assert_same(&record.data(), &data);
    assert_eq!(record.events().len(), 3);

    // And more than that.
    let data = pattern(16 << 20);
    let record = Record::new();
    let sender = send_and_go(&event_loop, &record, &data);
    let socket = record.socket();
    let mut rounds = 0;
    pump(&event_loop, || {
        // Pauses and resumes all the way.
        rounds += 1;
        if rounds % 2 == 0 {
            socket.pause()
        } else {
            socket.resume()
        }
        record.has(&Event::End)
    });
    sender.join().expect("no panic");
    assert_same(&record.data(), &data);
    Ok(())
}

#[test]
fn shutting_down_is_harmless_in_every_state() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (server, client) = (Record::<()>::new(), Record::<()>::new());
    let listener = listen(&recorded(&event_loop, &server));
    let context = recorded(&event_loop, &client);
    let socket = context.connect(listener.local_addr()?)?;
    // Still connecting.
    socket.shutdown();
    socket.shutdown_read();
    pump(&event_loop, || server.opened() == 1);
    socket.close();
    socket.shutdown();
    socket.shutdown_read();
    settle(&event_loop);
    socket.shutdown();
    socket.shutdown_read();
    assert!(socket.is_closed());
    Ok(())
}
