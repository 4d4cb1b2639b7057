//! Files that are sent.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::Bound;
use std::os::fd::AsFd;
use std::rc::Rc;

use usockets::{CloseReason, Loop, SocketContext, UsError};

use super::Record;
use crate::SSL;
use crate::util::{
    Descriptors, Event, Secured, accept_one, alone, assert_same, drain, guard, hand_over, new_loop,
    own_address, pattern, pump, recorded, unix_pair,
};

/// A file that only this process knows.
fn file_of(content: &[u8]) -> File {
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    let number = NEXT.replace(NEXT.get() + 1);
    let name =
        format!("usockets-file-{}-{:?}-{number}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = file.as_mut().expect("a file");
    std::fs::remove_file(&path).expect("it was made");
    file.write_all(content).expect("there is room");
    file.try_clone().expect("a descriptor")
}

#[test]
fn stretches_and_other_output_arrive_in_order() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let content = pattern(3 << 20);
    let file = file_of(&content);
    let mut expected = Vec::new();
    let clone = || file.try_clone().expect("a descriptor");
    for round in 0..4 {
        socket.send(b"head")?;
        socket.send_file(clone(), round..)?;
        socket.send_file(clone(), 10..=20)?;
        socket.send_file(clone(), 5..5)?;
        socket.send(b"tail")?;
        expected.extend_from_slice(b"head");
        expected.extend_from_slice(&content[usize::try_from(round).expect("small")..]);
        expected.extend_from_slice(&content[10..=20]);
        expected.extend_from_slice(b"tail");
    }
    assert!(socket.buffered() > 0);
    assert!(socket.needs_drain());
    socket.close_after_flush();
    assert_same(&peer.read_to_end(&event_loop), &expected);
    drain(&event_loop);
    Ok(())
}

#[test]
fn file_goes_through_a_unix_socket() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<SSL>::builder().secured().build(&event_loop, ())?;
    let (socket, mut peer) = hand_over(&event_loop, &context, unix_pair());
    let content = pattern(1 << 20);
    socket.send_file(file_of(&content), ..)?;
    socket.close();
    assert_same(&peer.read_to_end(&event_loop), &content);
    Ok(())
}

#[test]
fn file_that_gets_shorter_ends_in_a_reset() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let file = file_of(b"");
    file.set_len(1 << 30).expect("a sparse file");
    socket.send_file(file.try_clone().expect("a descriptor"), ..)?;
    assert!(socket.buffered() > 0);
    file.set_len(1 << 20).expect("our file");
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0_u64;
    pump(&event_loop, || match Read::read(&mut peer, &mut buffer) {
        Ok(0) => panic!("the stream must not look complete"),
        Ok(length) => {
            received += length as u64;
            false
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    });
    assert!(received < 1 << 30);
    pump(&event_loop, || record.ended());
    let reason = record.closed().expect("it is closed");
    assert_eq!(reason, CloseReason::File { errno: libc_enodata() });
    assert_eq!(reason.to_string(), "a file got shorter while it was sent");
    assert!(!reason.is_local());
    Ok(())
}

/// `ENODATA` on Linux.
fn libc_enodata() -> i32 {
    61
}

#[test]
fn files_that_cannot_be_sent_are_refused_at_once() -> Result<(), UsError> {
    let _guard = alone();
    let descriptors = Descriptors::now();
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = recorded(&event_loop, &record);
        let (socket, mut peer) = accept_one(&event_loop, &context, &record);
        let file = file_of(b"0123456789");
        let clone = || file.try_clone().expect("a descriptor");
        let range = |result: Result<(), UsError>| {
            assert!(
                matches!(result, Err(UsError::InvalidOption { option: "range", .. })),
                "{result:?}"
            );
        };
        range(socket.send_file(clone(), ..11));
        range(socket.send_file(clone(), (Bound::Included(3), Bound::Excluded(2))));
        range(socket.send_file(clone(), 11..));
        range(socket.send_file(clone(), ..=u64::MAX));
        range(socket.send_file(clone(), u64::MAX..));
        let system = |result: Result<(), UsError>, kind: ErrorKind| match result {
            Err(UsError::Io { operation: "send_file", source, .. }) => {
                assert_eq!(source.kind(), kind)
            }
            other => panic!("{other:?}"),
        };
        system(socket.send_file(File::open("/").expect("a folder"), ..1), ErrorKind::IsADirectory);
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        system(socket.send_file(reader, ..1), ErrorKind::NotSeekable);
        socket.send_file(clone(), 2..4)?;
        assert_eq!(peer.read(&event_loop, 2), b"23");
        socket.shutdown();
        assert!(matches!(socket.send_file(clone(), ..), Err(UsError::Closed)));
        socket.close();
        drain_closed(&event_loop, &record);
        assert!(matches!(socket.send_file(clone(), ..), Err(UsError::Closed | UsError::Stale)));
    }
    descriptors.assert_unchanged();
    Ok(())
}

fn drain_closed(event_loop: &Loop, record: &Record<()>) {
    pump(event_loop, || record.ended());
}

#[test]
fn connection_that_is_being_made_sends_the_file_once_it_is_open() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let received = Rc::new(Cell::new(0));
    let count = Rc::clone(&received);
    let server = SocketContext::<SSL>::builder()
        .secured()
        .on_data(move |_, _, _, data| count.set(count.get() + data.len()))
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    let client = SocketContext::<SSL>::builder().secured().build(&event_loop, ())?;
    let socket = client.connect(listener.local_addr()?)?;
    socket.send_file(file_of(&pattern(100_000)), ..)?;
    assert_eq!(socket.buffered(), 100_000);
    pump(&event_loop, || received.get() == 100_000);
    assert_eq!(socket.buffered(), 0);
    Ok(())
}

#[test]
fn files_that_were_not_sent_are_closed_with_the_loop() -> Result<(), UsError> {
    let _guard = alone();
    let file = file_of(b"");
    file.set_len(1 << 30).expect("a sparse file");
    let descriptors = Descriptors::now();
    {
        let event_loop = new_loop();
        let record = Record::<()>::new();
        let context = recorded(&event_loop, &record);
        let (socket, _peer) = accept_one(&event_loop, &context, &record);
        for _ in 0..3 {
            socket.send_file(file.as_fd().try_clone_to_owned().expect("a descriptor"), ..)?;
        }
        assert!(!record.has(&Event::End));
    }
    descriptors.assert_unchanged();
    Ok(())
}
