//! Descriptors of others as sources of events.

#![cfg(unix)]

mod util;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use usockets::{Interest, Poll, UsError};
use util::{
    Descriptors, Drops, Log, alone, assert_nothing_live, guard, new_loop, panic_of, pump,
    read_some, settle, unix_pair,
};

#[test]
fn what_can_be_read_is_told_until_it_is_read() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (source, mut other) = unix_pair();
    let poll = Poll::new(&event_loop, source, Interest::READABLE, 0, |_, calls, ready| {
        assert!(ready.is_readable());
        assert!(!ready.is_writable());
        assert!(!ready.is_error());
        *calls += 1;
    })?;
    assert_eq!(poll.interest(), Interest::READABLE);
    settle(&event_loop);
    assert_eq!(poll.with_state(|calls| *calls)?, 0);
    other.write_all(b"x").expect("there is room");
    for _ in 0..3 {
        event_loop.turn(Some(Duration::from_secs(5)))?;
    }
    assert_eq!(poll.with_state(|calls| *calls)?, 3, "the watch is level-triggered");
    assert_eq!(read_some(&mut poll.source()).expect("not the end"), b"x");
    settle(&event_loop);
    assert_eq!(poll.with_state(|calls| *calls)?, 3);
    assert_eq!(poll.event_loop(), *event_loop);
    assert!(!format!("{poll:?}").is_empty());
    Ok(())
}

#[test]
fn room_to_write_is_told_while_it_is_of_interest() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (source, _other) = unix_pair();
    let both = Interest::READABLE | Interest::WRITABLE;
    let poll = Poll::new(&event_loop, source, both, 0, |poll, calls, ready| {
        assert!(ready.is_writable());
        assert!(!ready.is_readable());
        *calls += 1;
        if *calls == 3 {
            poll.set_interest(Interest::READABLE).expect("it is watched");
        }
    })?;
    pump(&event_loop, || poll.with_state(|calls| *calls == 3).expect("not lent"));
    settle(&event_loop);
    assert_eq!(poll.with_state(|calls| *calls)?, 3);
    assert_eq!(poll.interest(), Interest::READABLE);
    poll.set_interest(both)?;
    pump(&event_loop, || poll.with_state(|calls| *calls > 3).expect("not lent"));
    Ok(())
}

#[test]
fn without_interest_a_hang_up_is_told_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (source, mut other) = unix_pair();
    let log = Log::<(bool, bool)>::new();
    let events = log.clone();
    let poll = Poll::new(&event_loop, source, Interest::NONE, (), move |_, (), ready| {
        events.push((ready.is_readable(), ready.is_hang_up()));
    })?;
    assert_eq!(poll.interest(), Interest::NONE);
    other.write_all(b"unread").expect("there is room");
    settle(&event_loop);
    assert!(log.is_empty());
    drop(other);
    pump(&event_loop, || !log.is_empty());
    settle(&event_loop);
    assert_eq!(log.take(), [(false, true)]);
    // Of interest again, it is told again, and what is there can be read.
    poll.set_interest(Interest::READABLE)?;
    pump(&event_loop, || !log.is_empty());
    assert!(log.take()[0].0);
    assert_eq!(read_some(&mut poll.source()).expect("not the end"), b"unread");
    assert_eq!(read_some(&mut poll.source()), None);
    Ok(())
}

#[test]
fn the_end_of_the_other_side_is_readable() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (source, other) = unix_pair();
    let ended = Rc::new(Cell::new(false));
    let end = Rc::clone(&ended);
    let _poll = Poll::new(&event_loop, source, Interest::READABLE, (), move |poll, (), ready| {
        assert!(ready.is_readable() || ready.is_hang_up());
        assert_eq!(read_some(&mut poll.source()), None);
        poll.set_interest(Interest::NONE).expect("it is watched");
        end.set(true);
    })?;
    drop(other);
    pump(&event_loop, || ended.get());
    Ok(())
}

#[test]
fn an_error_is_told() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    // A datagram to a port where nobody is comes back as an error.
    let source = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    source.connect(nobody.local_addr().expect("it is bound")).expect("an address");
    drop(nobody);
    let told = Rc::new(Cell::new(false));
    let tell = Rc::clone(&told);
    let poll = Poll::new(&event_loop, source, Interest::READABLE, (), move |poll, (), ready| {
        assert!(ready.is_error() || ready.is_readable());
        tell.set(true);
        let error = poll.source().take_error().expect("a socket").expect("an error");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    })?;
    poll.source().send(b"anybody?").expect("it is sent");
    pump(&event_loop, || told.get());
    Ok(())
}

#[test]
fn the_state_is_lent_to_the_handler() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (source, mut other) = unix_pair();
    let poll = Poll::new(&event_loop, source, Interest::READABLE, vec![1], |poll, list, _| {
        assert!(matches!(poll.with_state(|_| ()), Err(UsError::StateInUse)));
        list.push(2);
        read_some(&mut poll.source()).expect("not the end");
    })?;
    poll.with_state(|_| assert!(matches!(poll.with_state(|_| ()), Err(UsError::StateInUse))))?;
    other.write_all(b"x").expect("there is room");
    pump(&event_loop, || poll.with_state(|list| list.len() == 2).expect("not lent"));
    Ok(())
}

#[test]
fn a_poll_keeps_the_loop_unless_told_not_to() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (source, mut other) = unix_pair();
    let unref = Poll::new_unref(&event_loop, source, Interest::READABLE, (), |_, (), _| ())?;
    assert!(!event_loop.is_alive());
    event_loop.run()?;
    assert_eq!(event_loop.metrics().live_polls, 1);
    drop(unref);
    assert!(other.write_all(b"x").is_err(), "the source went with its poll");

    let (source, mut other) = unix_pair();
    let poll = Poll::new(&event_loop, source, Interest::READABLE, (), |poll, (), _| {
        poll.event_loop().stop();
    })?;
    assert!(event_loop.is_alive());
    other.write_all(b"x").expect("there is room");
    event_loop.run()?;
    drop(poll);
    assert!(!event_loop.is_alive());
    Ok(())
}

#[test]
fn a_plain_file_cannot_be_watched() {
    let _guard = alone();
    let before = Descriptors::now();
    let event_loop = new_loop();
    let drops = Drops::new();
    let open = || File::open(std::env::current_exe().expect("a path")).expect("a file");
    let (state, captured) = (drops.token(), drops.token());
    let made = Poll::try_new(&event_loop, open(), Interest::READABLE, state, move |_, _, _| {
        captured.hold();
    });
    // `poll(2)` takes files, which are always ready.
    if event_loop.backend() == usockets::Backend::Epoll {
        let (error, mut file) = made.expect_err("epoll takes no files");
        assert!(matches!(error, UsError::Io { .. }), "{error}");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        file.read_exact(&mut [0; 4]).expect("the file is as good as before");
        let made = Poll::new(&event_loop, open(), Interest::READABLE, (), |_, (), _| ());
        assert!(made.is_err());
    } else {
        drop(made);
    }
    drops.assert_all_dropped();
    assert_nothing_live(&event_loop);
    drop(event_loop);
    before.assert_unchanged();
}

#[test]
fn the_source_comes_back() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let (source, mut other) = unix_pair();
    let token = drops.token();
    let poll =
        Poll::new(&event_loop, source, Interest::READABLE, drops.token(), move |_, _, _| {
            token.hold()
        })?;
    let mut source: UnixStream = poll.into_inner().expect("the handler does not run");
    drops.assert_all_dropped();
    assert_nothing_live(&event_loop);
    other.write_all(b"hello").expect("it is still open");
    settle(&event_loop);
    let mut text = [0; 5];
    source.read_exact(&mut text).expect("it is still open");
    assert_eq!(&text, b"hello");
    // And may be watched again.
    let again = Poll::new(&event_loop, source, Interest::READABLE, 0, |poll, calls, _| {
        read_some(&mut poll.source()).expect("not the end");
        *calls += 1;
    })?;
    other.write_all(b"again").expect("it is still open");
    pump(&event_loop, || again.with_state(|calls| *calls == 1).expect("not lent"));
    Ok(())
}

/// A slot for a poll that its own handler reaches.
type Slot = Rc<RefCell<Option<Poll<UnixStream, util::Token>>>>;

#[test]
fn a_poll_may_be_dropped_in_its_own_handler() -> Result<(), UsError> {
    let _guard = alone();
    let before = Descriptors::now();
    {
        let event_loop = new_loop();
        let drops = Drops::new();
        let (source, mut other) = unix_pair();
        let slot = Slot::default();
        let (own, token, witness) = (Rc::clone(&slot), drops.token(), drops.clone());
        let called = Rc::new(Cell::new(0));
        let calls = Rc::clone(&called);
        let handler = move |poll: &usockets::PollRef<UnixStream, _>, state: &mut util::Token, _| {
            calls.set(calls.get() + 1);
            // The source does not come out while the handler has it.
            let own_poll = own.take().expect("it is there");
            let own_poll = own_poll.into_inner().expect_err("the handler runs");
            drop(own_poll);
            // All of it is still there.
            state.hold();
            token.hold();
            assert_eq!(witness.live(), 2);
            assert_eq!(read_some(&mut poll.source()).expect("not the end"), b"x");
            assert!(matches!(poll.set_interest(Interest::READABLE), Err(UsError::Stale)));
        };
        *slot.borrow_mut() =
            Some(Poll::new(&event_loop, source, Interest::READABLE, drops.token(), handler)?);
        other.write_all(b"x").expect("there is room");
        pump(&event_loop, || called.get() == 1);
        settle(&event_loop);
        assert_eq!(called.get(), 1);
        drops.assert_all_dropped();
        assert_nothing_live(&event_loop);
        assert_eq!(read_some(&mut other), None, "the source is closed");
    }
    before.assert_unchanged();
    Ok(())
}

#[test]
fn one_handler_drops_another_poll_that_is_ready() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let slots = Rc::new(RefCell::new(Vec::new()));
    let called = Rc::new(Cell::new(0));
    let mut others = Vec::new();
    for _ in 0..3 {
        let (source, other) = unix_pair();
        let (all, calls) = (Rc::clone(&slots), Rc::clone(&called));
        let poll = Poll::new(&event_loop, source, Interest::READABLE, (), move |_, (), _| {
            calls.set(calls.get() + 1);
            all.borrow_mut().clear();
        })?;
        slots.borrow_mut().push(poll);
        others.push(other);
    }
    others.iter_mut().for_each(|other| other.write_all(b"x").expect("there is room"));
    pump(&event_loop, || called.get() > 0);
    settle(&event_loop);
    assert_eq!(called.get(), 1, "a poll that was dropped is called");
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn a_handler_that_panics_stays() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (source, mut other) = unix_pair();
    let poll = Poll::new(&event_loop, source, Interest::READABLE, 0, |_, calls, _| {
        *calls += 1;
        assert_ne!(*calls, 1, "by design");
    })?;
    other.write_all(b"x").expect("there is room");
    let message = panic_of(|| event_loop.turn(Some(Duration::from_secs(5))));
    assert!(message.contains("by design"));
    event_loop.turn(Some(Duration::from_secs(5)))?;
    assert_eq!(poll.with_state(|calls| *calls)?, 2);
    Ok(())
}

#[test]
fn the_loop_ends_its_polls() -> Result<(), UsError> {
    let _guard = guard();
    let drops = Drops::new();
    let event_loop = new_loop();
    let loop_ref = event_loop.clone();
    let (source, mut other) = unix_pair();
    let token = drops.token();
    let poll =
        Poll::new(&event_loop, source, Interest::READABLE, drops.token(), move |_, _, _| {
            token.hold()
        })?;
    drop(event_loop);
    drops.assert_all_dropped();
    assert_eq!(poll.interest(), Interest::NONE);
    assert!(matches!(poll.set_interest(Interest::READABLE), Err(UsError::LoopClosed)));
    assert!(matches!(poll.with_state(|_| ()), Err(UsError::LoopClosed)));
    // The source belongs to the poll.
    let mut source = poll.into_inner().expect("the loop is gone");
    source.write_all(b"alive").expect("it is open");
    assert_eq!(read_some(&mut other).expect("not the end"), b"alive");
    let made = Poll::try_new(&loop_ref, source, Interest::READABLE, (), |_, (), _| ());
    let (error, _source) = made.expect_err("the loop is gone");
    assert!(matches!(error, UsError::LoopClosed), "{error}");
    Ok(())
}

#[test]
fn the_source_stays_while_the_loop_ends() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let (source, _other) = unix_pair();
    let poll = Poll::new(&event_loop, source, Interest::READABLE, drops.token(), |_, _, _| ())?;
    let slot = Rc::new(RefCell::new(Some(poll)));
    let (own, tried) = (Rc::clone(&slot), Rc::new(Cell::new(false)));
    let done = Rc::clone(&tried);
    let context = usockets::SocketContext::<false>::builder()
        .on_close(move |_, _, _, _| {
            let poll = own.take().expect("it was put there");
            let poll = poll.into_inner().expect_err("the loop is being dropped");
            assert!(!format!("{:?}", poll.source()).is_empty());
            *own.borrow_mut() = Some(poll);
            done.set(true);
        })
        .build(&event_loop, ())?;
    let (ours, _theirs) = unix_pair();
    let socket = context.accept_fd(ours)?;
    pump(&event_loop, || socket.is_established());
    drop(event_loop);
    assert!(tried.get());
    drops.assert_all_dropped();
    let poll = slot.take().expect("it was put back");
    assert!(poll.into_inner().is_ok());
    Ok(())
}

#[test]
fn the_descriptor_is_asked_for_once() -> Result<(), UsError> {
    let _guard = guard();
    /// A source that gives another descriptor each time.
    struct Fickle(UnixStream, UnixStream, Cell<bool>);
    impl AsFd for Fickle {
        fn as_fd(&self) -> BorrowedFd<'_> {
            if self.2.replace(true) { self.1.as_fd() } else { self.0.as_fd() }
        }
    }
    let event_loop = new_loop();
    let (one, mut far_one) = unix_pair();
    let (two, mut far_two) = unix_pair();
    let source = Fickle(one, two, Cell::new(false));
    let poll = Poll::new(&event_loop, source, Interest::READABLE, 0, |poll, calls, _| {
        read_some(&mut &poll.source().0).expect("not the end");
        *calls += 1;
    })?;
    far_two.write_all(b"x").expect("there is room");
    settle(&event_loop);
    assert_eq!(poll.with_state(|calls| *calls)?, 0);
    poll.set_interest(Interest::READABLE)?;
    far_one.write_all(b"x").expect("there is room");
    pump(&event_loop, || poll.with_state(|calls| *calls == 1).expect("not lent"));
    Ok(())
}
