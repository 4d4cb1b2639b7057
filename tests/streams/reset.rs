//! Connections that end by a reset.

use std::io::{ErrorKind, Read, Write};

use usockets::{CloseReason, UsError};

use super::Record;
use crate::util::{
    Drops, Event, accept_one, drain, guard, new_loop, pattern, pump, recorded, settle,
};

#[test]
fn a_reset_of_the_peer_is_the_reason() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let record = Record::new();
    let tokens = drops.clone();
    let context = record.builder_with(move || tokens.token()).build(&event_loop, ())?;
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    peer.reset();
    drain(&event_loop);
    assert_eq!(record.take(), [Event::Open, Event::Close(CloseReason::Reset)]);
    assert!(socket.is_closed());
    drops.assert_all_dropped();
    let error = CloseReason::Reset.error().expect("it has an error");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(!CloseReason::Reset.is_local());
    Ok(())
}

#[test]
fn the_reason_can_be_asked_for_in_on_close() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_close(move |(), socket, (), reason| {
            assert_eq!(socket.close_reason(), Some(*reason));
            assert!(matches!(socket.id().resolve(&socket.event_loop()), Err(UsError::Closed)));
            log.push(Event::Close(*reason));
        })
        .build(&event_loop, ())?;
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(socket.close_reason(), None);
    peer.reset();
    pump(&event_loop, || record.ended());
    assert_eq!(record.closed(), Some(CloseReason::Reset));
    settle(&event_loop);
    assert_eq!(socket.close_reason(), None, "the socket is forgotten");
    Ok(())
}

#[test]
fn our_reset_is_seen_by_the_peer() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    socket.reset();
    assert!(socket.is_closed());
    assert_eq!(socket.close_reason(), Some(CloseReason::LocalReset));
    assert!(CloseReason::LocalReset.is_local());
    assert_eq!(CloseReason::LocalReset.error().map(|error| error.kind()), None);
    assert_eq!(record.take(), [Event::Open], "nothing is called back inside `reset`");
    drain(&event_loop);
    assert_eq!(record.take(), [Event::Close(CloseReason::LocalReset)]);
    let error = Read::read(&mut peer.into_blocking(), &mut [0; 16]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    Ok(())
}

#[test]
fn a_reset_discards_what_was_not_sent() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    let data = pattern(16 << 20);
    let sent = socket.write(&data);
    assert!(sent < data.len());
    socket.reset();
    drain(&event_loop);
    let mut received = Vec::new();
    let error = Read::read_to_end(&mut peer.into_blocking(), &mut received).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(received.len() < sent, "all {sent} bytes arrived");
    assert_eq!(record.take(), [Event::Open, Event::Close(CloseReason::LocalReset)]);
    Ok(())
}

#[test]
fn the_first_of_close_and_reset_counts() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.close();
    socket.reset();
    context.close();
    pump(&event_loop, || record.ended());
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.reset();
    socket.close();
    pump(&event_loop, || record.count(&Event::Close(CloseReason::LocalReset)) == 1);
    assert_eq!(
        record.take(),
        [
            Event::Open,
            Event::Close(CloseReason::Local),
            Event::Open,
            Event::Close(CloseReason::LocalReset)
        ]
    );
    Ok(())
}

#[test]
fn a_reset_inside_on_data_is_the_last_of_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_data(move |(), socket, (), data| {
            log.push_data(&data[..1]);
            socket.reset();
            assert_eq!(socket.write(b"no"), 0);
        })
        .build(&event_loop, ())?;
    let (_, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write_all(&pattern(200_000)).expect("there is room");
    pump(&event_loop, || record.ended());
    let events = record.take();
    assert_eq!(events.len(), 3, "{events:?}");
    let Event::Data(data) = &events[1] else { panic!("{events:?}") };
    assert_eq!(data.len(), 1, "data was delivered after the reset");
    assert_eq!(events[2], Event::Close(CloseReason::LocalReset));
    Ok(())
}

#[test]
fn a_paused_socket_learns_of_a_reset_when_it_resumes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    peer.reset();
    let before = event_loop.metrics().iterations;
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    assert!(!socket.is_closed());
    assert!(event_loop.metrics().iterations > before);
    socket.resume();
    pump(&event_loop, || record.ended());
    assert_eq!(record.take(), [Event::Close(CloseReason::Reset)]);
    Ok(())
}

#[test]
fn writing_to_a_peer_that_is_gone_is_no_signal() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &context, &record);
    socket.pause();
    drop(peer);
    // The first write draws a reset, the later ones fail; SIGPIPE would end the process.
    pump(&event_loop, || {
        let taken = socket.write(b"anybody?");
        taken < 8
    });
    socket.resume();
    pump(&event_loop, || record.ended());
    let events = record.take();
    let Some(Event::Close(reason)) = events.last() else { panic!("{events:?}") };
    assert!(!reason.is_local(), "{reason}");
    assert!(reason.error().is_some(), "{reason}");
    assert_eq!(socket.write(b"anybody?"), 0);
    Ok(())
}

#[test]
fn every_reason_can_be_printed() {
    let _guard = guard();
    let reasons = [
        CloseReason::Local,
        CloseReason::LocalReset,
        CloseReason::End,
        CloseReason::Reset,
        CloseReason::HangUp,
        CloseReason::ContextClosed,
        CloseReason::LoopClosed,
    ];
    let texts: std::collections::HashSet<_> = reasons.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), reasons.len());
    assert!(texts.iter().all(|text| !text.is_empty()));
}
