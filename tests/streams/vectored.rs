//! Several slices in one write.

use std::io::IoSlice;
use std::rc::Rc;

use usockets::UsError;

use super::Record;
use crate::SSL;
use crate::util::{
    Event, Random, accept_one, assert_same, guard, new_loop, pattern, recorded, settle,
};

#[test]
fn slices_arrive_in_order() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let before = event_loop.metrics().sends;
    let slices = ["one ", "", "two ", "three"].map(|text| IoSlice::new(text.as_bytes()));
    assert_eq!(socket.write_vectored(&slices), 13);
    assert_eq!(peer.read(&event_loop, 13), b"one two three");
    assert_eq!(event_loop.metrics().sends - before, 1, "one call of the system");
    Ok(())
}

#[test]
fn nothing_is_all_of_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    let before = event_loop.metrics().sends;
    assert_eq!(socket.write_vectored(&[]), 0);
    assert_eq!(socket.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"")]), 0);
    assert!(!socket.is_write_pending());
    settle(&event_loop);
    assert_eq!(record.take(), [Event::Open]);
    assert_eq!(event_loop.metrics().sends, before);
    Ok(())
}

#[test]
fn more_slices_than_the_system_takes_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    // The limit of one call is 1024 on Linux.
    let data = pattern(5000);
    let slices: Vec<_> = data.chunks(1).map(IoSlice::new).collect();
    assert_eq!(socket.write_vectored(&slices), 5000);
    assert_same(&peer.read(&event_loop, 5000), &data);
    Ok(())
}

/// Slices of random lengths that make up the data.
fn cut<'a>(data: &'a [u8], random: &mut Random) -> Vec<IoSlice<'a>> {
    let mut rest = data;
    let mut slices = Vec::new();
    while !rest.is_empty() {
        let length = random.below(rest.len().min(100_000) + 1);
        let (slice, others) = rest.split_at(length);
        slices.push(IoSlice::new(slice));
        rest = others;
    }
    slices
}

#[test]
fn short_counts_say_where_to_go_on() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    // More than the system has room for.
    let data = Rc::new(pattern(32 << 20));
    let record = Record::<(usize, usize)>::new();
    let mut random = Random::new(8);
    let (bytes, log) = (Rc::clone(&data), record.clone());
    let mut flush = move |socket: &usockets::Socket<SSL, (usize, usize)>,
                          (sent, short): &mut (usize, usize)| {
        let taken = socket.write_vectored(&cut(&bytes[*sent..], &mut random));
        *sent += taken;
        assert_eq!(socket.is_write_pending(), *sent < bytes.len());
        if *sent < bytes.len() {
            *short += 1;
        } else {
            socket.shutdown();
        }
    };
    let context = record
        .builder()
        .on_open(move |(), socket, state, _| {
            log.add_socket(socket, Event::Open);
            // The first write is from here, all others from `on_writable`.
            assert_eq!(socket.write_vectored(&[]), 0);
            state.0 = 0;
        })
        .on_writable(move |(), socket, state| flush(socket, state))
        .build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let first = socket.write(&data);
    assert!(first < data.len());
    socket.with_state(|state| state.0 = first)?;
    assert_same(&peer.read_to_end(&event_loop), &data);
    let (sent, short) = socket.with_state(|state| *state)?;
    assert_eq!(sent, data.len());
    assert!(short > 0, "nothing came up short: this tests nothing");
    Ok(())
}

#[test]
fn sockets_that_take_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let slices = [IoSlice::new(b"a"), IoSlice::new(b"b")];
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    socket.shutdown();
    assert_eq!(socket.write_vectored(&slices), 0);
    socket.close();
    assert_eq!(socket.write_vectored(&slices), 0);
    settle(&event_loop);
    assert_eq!(socket.write_vectored(&slices), 0);
    drop(event_loop);
    assert_eq!(socket.write_vectored(&slices), 0);
    Ok(())
}
