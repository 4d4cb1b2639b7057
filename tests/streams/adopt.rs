//! Sockets that move to another context.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use usockets::{CloseReason, Loop, Socket, SocketContext, Timer, UsError};

use super::{GONE, Record, client_of};
use crate::SSL;
use crate::util::{
    self, Drops, Event, Random, Secured, Token, accept_one, assert_nothing_live, assert_same,
    drain, guard, hand_over, listen, new_loop, panic_of, pattern, pump, recorded, settle,
    test_clock_loop, unix_pair,
};

/// A state that counts its drops.
#[derive(Debug)]
struct State<const SIZE: usize> {
    token: Token,
    bytes: [u8; SIZE],
}

impl<const SIZE: usize> State<SIZE> {
    fn new(drops: &Drops, byte: u8) -> Self {
        Self { token: drops.token(), bytes: [byte; SIZE] }
    }

    #[track_caller]
    fn check(&self, byte: u8) {
        self.token.hold();
        assert!(self.bytes.iter().all(|one| *one == byte), "{:?}", self.bytes);
    }
}

#[test]
fn from_outside_a_callback() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<u32>::new(), Record::<String>::new());
    let source = recorded(&event_loop, &old);
    let target = recorded(&event_loop, &new);
    let (socket, mut peer) = accept_one(&event_loop, &source, &old);
    socket.with_state(|state| *state = 7)?;
    socket.adopt(&target, 0, |state| format!("it was {state}"))?;

    // For every observer it has happened.
    assert!(socket.is_closed());
    assert_eq!(socket.write(b"no"), 0);
    assert!(matches!(socket.with_state(|_| ()), Err(UsError::Stale)));
    assert!(matches!(socket.adopt(&target, 0, |_| String::new()), Err(UsError::Stale)));
    assert!(matches!(socket.id().resolve(&event_loop), Err(UsError::Stale)));
    assert!(new.events().is_empty(), "nothing is called back inside `adopt`");
    socket.close();
    socket.pause();

    peer.write(&event_loop, b"hello");
    pump(&event_loop, || new.data() == b"hello");
    assert_eq!(new.take(), [Event::Adopt, Event::Data(b"hello".to_vec())]);
    let moved = new.socket();
    assert!(!moved.is_paused());
    assert_eq!(moved.with_state(|state| state.clone())?, "it was 7");
    assert_eq!(moved.context::<()>()?, target);
    assert_eq!(moved.write(b"hi"), 2);
    assert_eq!(peer.read(&event_loop, 2), b"hi");
    assert!(matches!(socket.peer_addr(), Err(UsError::Stale)));
    moved.close();
    pump(&event_loop, || new.ended());
    assert_eq!(old.take(), [Event::Open], "the old context has heard the last of it");
    assert_eq!(new.take(), [Event::Close(CloseReason::Local)]);
    Ok(())
}

/// A context that moves its sockets to `target` when data has come; a colon ends what is its own.
fn mover<S2: Default + 'static>(
    event_loop: &Loop,
    record: &Record<()>,
    target: &SocketContext<SSL, (), S2>,
) -> SocketContext<SSL> {
    let (log, target) = (record.clone(), target.clone());
    record
        .builder()
        .on_data(move |(), socket, (), data| {
            let own = data.iter().position(|byte| *byte == b':').expect("a colon") + 1;
            log.push_data(&data[..own]);
            socket.adopt(&target, data.len() - own, |()| S2::default()).expect("it is open");
            assert!(socket.is_closed());
        })
        .build(event_loop, ())
        .expect("a context")
}

#[test]
fn unread_bytes_come_first_in_the_new_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::new(), Record::<[u64; 4]>::new());
    let target = recorded(&event_loop, &new);
    let source = mover(&event_loop, &old, &target);
    for (sent, kept) in
        [("a:bcd", "bcd"), ("a:", ""), (":everything", "everything"), ("x:y:z", "y:z")]
    {
        let (_, mut peer) = accept_one(&event_loop, &source, &old);
        new.take();
        peer.write(&event_loop, sent.as_bytes());
        pump(&event_loop, || new.has(&Event::Adopt));
        settle(&event_loop);
        peer.write(&event_loop, b" and more");
        let all = format!("{kept} and more");
        pump(&event_loop, || new.data() == all.as_bytes());
        let events = new.take();
        assert_eq!(events[0], Event::Adopt);
    }
    Ok(())
}

#[test]
fn unread_bytes_are_kept_while_paused() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::new(), Record::<()>::new());
    let log = new.clone();
    let target = new
        .builder()
        .on_adopt(move |(), socket, ()| {
            log.add_socket(socket, Event::Adopt);
            socket.pause();
        })
        .build(&event_loop, ())?;
    let source = mover(&event_loop, &old, &target);
    let (_, mut peer) = accept_one(&event_loop, &source, &old);
    peer.write(&event_loop, b"mine:theirs");
    pump(&event_loop, || new.opened() == 1);
    peer.write(&event_loop, b" and the rest");
    peer.end_output();
    settle(&event_loop);
    assert_eq!(new.take(), [Event::Adopt]);
    assert!(new.socket().is_paused());
    new.socket().resume();
    assert!(new.take().is_empty(), "nothing is called back inside `resume`");
    pump(&event_loop, || new.has(&Event::End));
    assert_eq!(new.take(), [Event::Data(b"theirs and the rest".to_vec()), Event::End]);
    Ok(())
}

#[test]
fn unread_bytes_survive_a_peer_that_is_gone() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::new(), Record::<()>::new());
    let log = new.clone();
    let target = new
        .builder()
        .on_adopt(move |(), socket, ()| {
            log.add_socket(socket, Event::Adopt);
            socket.pause();
        })
        .build(&event_loop, ())?;
    let source = mover(&event_loop, &old, &target);
    let (_, mut peer) = hand_over(&event_loop, &source, unix_pair());
    peer.write_all(b"mine:theirs").expect("there is room");
    drop(peer);
    pump(&event_loop, || new.opened() == 1);
    settle(&event_loop);
    assert_eq!(new.take(), [Event::Adopt]);
    new.socket().resume();
    pump(&event_loop, || new.ended());
    assert_eq!(new.take(), [Event::Data(b"theirs".to_vec()), Event::Close(GONE)]);
    Ok(())
}

#[test]
fn unread_is_at_most_what_is_there() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let target = recorded(&event_loop, &new);
    let (log, goal) = (old.clone(), target.clone());
    let drops = Drops::new();
    let tokens = drops.clone();
    let source = old
        .builder()
        .on_data(move |(), socket, (), data| {
            let token = tokens.token();
            let error = socket
                .adopt(&goal, data.len() + 1, move |()| token.hold())
                .expect_err("more than there is");
            assert!(matches!(error, UsError::InvalidOption { option: "unread", .. }), "{error}");
            assert!(!socket.is_closed());
            log.push_data(data);
        })
        .build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &source, &old);
    // Outside of `on_data` there is nothing.
    let error = socket.adopt(&target, 1, |()| ()).expect_err("nothing is there");
    assert!(matches!(error, UsError::InvalidOption { option: "unread", .. }), "{error}");
    peer.write(&event_loop, b"hello");
    pump(&event_loop, || old.data() == b"hello");
    drops.assert_all_dropped();
    settle(&event_loop);
    assert!(new.events().is_empty());
    assert!(!socket.is_closed());
    Ok(())
}

/// Moves a socket from a state of one size to one of another, and back.
fn there_and_back<const OLD: usize, const NEW: usize>() -> Result<(), UsError> {
    let event_loop = new_loop();
    let (old_drops, new_drops) = (Drops::new(), Drops::new());
    let (old, new) = (Record::new(), Record::new());
    let (for_old, for_new) = (old_drops.clone(), new_drops.clone());
    let source = old.builder_with(move || State::<OLD>::new(&for_old, 1)).build(&event_loop, ())?;
    let target = new.builder_with(move || State::<NEW>::new(&for_new, 2)).build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &source, &old);
    let drops = new_drops.clone();
    socket.adopt(&target, 0, move |state: &mut State<OLD>| {
        state.check(1);
        State::<NEW>::new(&drops, 3)
    })?;
    pump(&event_loop, || new.opened() == 1);
    assert_eq!((old_drops.made(), old_drops.dropped()), (1, 1));
    assert_eq!((new_drops.made(), new_drops.dropped()), (1, 0));
    new.socket().with_state(|state| state.check(3))?;
    let drops = old_drops.clone();
    new.socket().adopt(&source, 0, move |state: &mut State<NEW>| {
        state.check(3);
        State::<OLD>::new(&drops, 4)
    })?;
    pump(&event_loop, || old.opened() == 2);
    new_drops.assert_all_dropped();
    old.socket().with_state(|state| state.check(4))?;
    peer.write(&event_loop, b"alive");
    pump(&event_loop, || old.data() == b"alive");
    drop(peer);
    pump(&event_loop, || old.has(&Event::End));
    old.socket().close();
    pump(&event_loop, || old.ended());
    old_drops.assert_all_dropped();
    Ok(())
}

#[test]
fn states_of_all_sizes_are_dropped_once() -> Result<(), UsError> {
    let _guard = guard();
    there_and_back::<0, 0>()?;
    there_and_back::<0, 64>()?;
    there_and_back::<64, 0>()?;
    there_and_back::<16, 1000>()?;
    there_and_back::<1000, 100_000>()?;
    there_and_back::<100_000, 8>()?;
    Ok(())
}

#[test]
fn a_panic_of_the_closure_moves_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let tokens = drops.clone();
    let (old, new) = (Record::new(), Record::<u64>::new());
    let source = old.builder_with(move || State::<24>::new(&tokens, 5)).build(&event_loop, ())?;
    let target = recorded(&event_loop, &new);
    let (socket, mut peer) = accept_one(&event_loop, &source, &old);
    let id = socket.id();
    let token = drops.token();
    socket.adopt(&target, 0, move |state| -> u64 {
        state.check(5);
        state.bytes[0] = 6;
        token.hold();
        panic!("no way");
    })?;
    assert!(socket.is_closed());
    assert_eq!(panic_of(|| event_loop.turn(Some(Duration::ZERO))), "no way");

    // It is where it was, as what it was, and can be moved again.
    assert!(!socket.is_closed());
    assert_eq!(socket.id(), id);
    assert_eq!((drops.made(), drops.live()), (2, 1), "the closure is gone, the state is not");
    socket.with_state(|state| {
        assert_eq!(state.bytes[0], 6);
        state.bytes[0] = 5;
        state.check(5);
    })?;
    assert_eq!(socket.write(b"still me"), 8);
    assert_eq!(peer.read(&event_loop, 8), b"still me");
    peer.write(&event_loop, b"good");
    pump(&event_loop, || old.data() == b"good");
    assert!(new.events().is_empty());
    socket.adopt(&target, 0, |_| 1)?;
    pump(&event_loop, || new.opened() == 1);
    drops.assert_all_dropped();
    Ok(())
}

#[test]
fn a_panic_of_the_closure_loses_no_unread_bytes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let target = recorded(&event_loop, &new);
    let log = old.clone();
    let mut first = true;
    let source = old
        .builder()
        .on_data(move |(), socket, (), data| {
            if std::mem::take(&mut first) {
                log.push_data(&data[..2]);
                let unread = data.len() - 2;
                socket.adopt(&target, unread, |()| panic!("no way")).expect("it is open");
            } else {
                log.push_data(data);
            }
        })
        .build(&event_loop, ())?;
    let (_, mut peer) = accept_one(&event_loop, &source, &old);
    peer.write(&event_loop, b"12345");
    let ends = std::time::Instant::now() + Duration::from_secs(10);
    let message = panic_of(|| {
        while std::time::Instant::now() < ends {
            event_loop.turn(Some(Duration::from_millis(5))).expect("a turn");
        }
    });
    assert_eq!(message, "no way");
    // They come again, to whom they belong now.
    pump(&event_loop, || old.data() == b"12345");
    peer.write(&event_loop, b"6");
    pump(&event_loop, || old.data() == b"123456");
    assert!(new.events().is_empty());
    Ok(())
}

#[test]
fn closing_before_its_turn_stays_in_the_old_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let source = recorded(&event_loop, &old);
    let target = recorded(&event_loop, &new);
    let (socket, _peer) = accept_one(&event_loop, &source, &old);
    let token = drops.token();
    socket.adopt(&target, 0, move |()| token.hold())?;
    source.close();
    pump(&event_loop, || old.ended());
    assert_eq!(old.take(), [Event::Open, Event::Close(CloseReason::ContextClosed)]);
    drops.assert_all_dropped();
    settle(&event_loop);
    assert!(new.events().is_empty());
    Ok(())
}

#[test]
fn dropping_the_loop_before_its_turn_drops_all_of_it_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (states, closures) = (Drops::new(), Drops::new());
    let (old, new) = (Record::new(), Record::new());
    let (for_old, for_new) = (states.clone(), states.clone());
    // Whichever of them is looked at first when all is closed.
    let target = new.builder_with(move || State::<40>::new(&for_new, 1)).build(&event_loop, ())?;
    let source = old.builder_with(move || State::<8>::new(&for_old, 2)).build(&event_loop, ())?;
    let late = {
        let drops = states.clone();
        new.builder_with(move || State::<40>::new(&drops, 1)).build(&event_loop, ())?
    };
    let mut peers = Vec::new();
    for goal in [&target, &late] {
        let (socket, peer) = accept_one(&event_loop, &source, &old);
        peers.push(peer);
        let (token, drops) = (closures.token(), states.clone());
        socket.adopt(goal, 0, move |state| {
            state.check(2);
            token.hold();
            State::<40>::new(&drops, 3)
        })?;
    }
    drop(event_loop);
    states.assert_all_dropped();
    closures.assert_all_dropped();
    let closes = |events: Vec<Event>| {
        events.iter().filter(|event| **event == Event::Close(CloseReason::LoopClosed)).count()
    };
    assert_eq!(closes(old.take()) + closes(new.take()), 2, "each socket closes once");
    Ok(())
}

#[test]
fn what_is_not_open_cannot_move() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let listener = listen(&context);
    let connecting = context.connect(listener.local_addr()?)?;
    assert!(matches!(connecting.adopt(&context, 0, |()| ()), Err(UsError::Closed)));
    connecting.close();
    assert!(matches!(connecting.adopt(&context, 0, |()| ()), Err(UsError::Closed)));
    let (opening, _peer) = util::tcp_pair();
    let opening = context.accept_fd(opening)?;
    assert!(matches!(opening.adopt(&context, 0, |()| ()), Err(UsError::Closed)));
    pump(&event_loop, || opening.is_established());
    opening.close();
    settle(&event_loop);
    assert!(matches!(opening.adopt(&context, 0, |()| ()), Err(UsError::Stale)));
    Ok(())
}

#[test]
fn a_socket_stays_in_its_loop() -> Result<(), UsError> {
    let _guard = guard();
    let (one, other) = (new_loop(), new_loop());
    let record = Record::<()>::new();
    let context = recorded(&one, &record);
    let foreign = recorded(&other, &record);
    let (socket, _peer) = accept_one(&one, &context, &record);
    assert!(matches!(socket.adopt(&foreign, 0, |()| ()), Err(UsError::WrongLoop)));
    assert!(!socket.is_closed());
    drop(one);
    assert!(matches!(socket.adopt(&context, 0, |()| ()), Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn from_every_callback() -> Result<(), UsError> {
    let _guard = guard();
    for place in ["open", "data", "writable", "end", "timeout", "timer", "job"] {
        let event_loop = test_clock_loop();
        let (old, new) = (Record::<()>::new(), Record::<u8>::new());
        let target = recorded(&event_loop, &new);
        let adopt = {
            let target = target.clone();
            Rc::new(move |socket: &Socket<SSL>, here: &str| {
                if here == place {
                    socket.adopt(&target, 0, |()| 1).expect("it is open");
                }
            })
        };
        let log = old.clone();
        let acts: Vec<_> = (0..7).map(|_| Rc::clone(&adopt)).collect();
        let [open, data, writable, end, timeout, timer_act, job] =
            <[_; 7]>::try_from(acts).unwrap_or_else(|_| unreachable!());
        let source = old
            .builder()
            .on_open(move |(), socket, (), _| {
                log.add_socket(socket, Event::Open);
                open(socket, "open");
            })
            .on_data(move |(), socket, (), _| data(socket, "data"))
            .on_writable(move |(), socket, ()| writable(socket, "writable"))
            .on_end(move |(), socket, ()| end(socket, "end"))
            .on_timeout(move |(), socket, ()| timeout(socket, "timeout"))
            .build(&event_loop, ())?;
        let (socket, mut peer) = accept_one(&event_loop, &source, &old);
        let timer = Timer::new(&event_loop, ())?;
        match place {
            "data" => peer.write(&event_loop, b"x"),
            "writable" => {
                let block = pattern(16 << 20);
                let sent = socket.write(&block);
                assert!(sent < block.len());
                let mut left = sent;
                while left > 0 {
                    left -= peer.read(&event_loop, left.min(1 << 16)).len();
                }
            }
            "end" => peer.end_output(),
            "timeout" => {
                socket.set_timeout(Duration::from_secs(1))?;
                event_loop.advance_clock(Duration::from_secs(2))?;
            }
            "timer" => {
                let socket = socket.clone();
                timer.set(Duration::ZERO, None, move |_, ()| timer_act(&socket, "timer"))?;
                event_loop.advance_clock(Duration::from_millis(1))?;
            }
            "job" => {
                let socket = socket.clone();
                event_loop.defer(move |_| job(&socket, "job"))?;
            }
            _ => {}
        }
        pump(&event_loop, || new.opened() == 1);
        let moved = new.socket();
        assert_eq!(moved.write(b"moved"), 5, "in {place}");
        assert_eq!(peer.read(&event_loop, 5), b"moved");
        if place == "end" {
            settle(&event_loop);
            assert_eq!(new.take(), [Event::Adopt], "the end is told once");
        } else {
            peer.write(&event_loop, b"answer");
            pump(&event_loop, || new.data() == b"answer");
        }
    }
    Ok(())
}

#[test]
fn from_on_adopt_to_the_next_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (first, last) = (Record::<u32>::new(), Record::<u32>::new());
    let end = recorded(&event_loop, &last);
    // A chain, from the last one to the first.
    let mut next = end;
    for _ in 0..10 {
        let goal = next;
        next = SocketContext::<SSL, (), u32>::builder()
            .secured()
            .on_adopt(move |(), socket, _| {
                socket.adopt(&goal, 0, |hops| *hops + 1).expect("it is open");
                assert!(socket.is_closed());
            })
            .build(&event_loop, ())?;
    }
    let source = recorded(&event_loop, &first);
    let (socket, mut peer) = accept_one(&event_loop, &source, &first);
    socket.adopt(&next, 0, |hops| *hops + 1)?;
    peer.write(&event_loop, b"at last");
    pump(&event_loop, || last.data() == b"at last");
    assert_eq!(last.socket().with_state(|hops| *hops)?, 11);
    Ok(())
}

#[test]
fn into_the_same_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<u32>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.adopt(&context, 0, |state| *state + 1)?;
    pump(&event_loop, || record.has(&Event::Adopt));
    assert_ne!(record.socket(), socket);
    assert!(matches!(socket.peer_addr(), Err(UsError::Stale)));
    assert_eq!(record.socket().with_state(|state| *state)?, 1);
    peer.write(&event_loop, b"hello");
    pump(&event_loop, || record.data() == b"hello");
    Ok(())
}

#[test]
fn timeouts_do_not_move() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let source = recorded(&event_loop, &old);
    let target = recorded(&event_loop, &new);
    let (socket, _peer) = accept_one(&event_loop, &source, &old);
    socket.set_timeout(Duration::from_secs(1))?;
    socket.set_long_timeout(Duration::from_secs(2))?;
    socket.adopt(&target, 0, |()| ())?;
    pump(&event_loop, || new.opened() == 1);
    event_loop.advance_clock(Duration::from_secs(10))?;
    settle(&event_loop);
    assert_eq!((old.take(), new.take()), (vec![Event::Open], vec![Event::Adopt]));
    new.socket().set_timeout(Duration::from_secs(1))?;
    event_loop.advance_clock(Duration::from_secs(2))?;
    pump(&event_loop, || new.has(&Event::Timeout));
    Ok(())
}

#[test]
fn a_wait_for_room_moves_along() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let source = recorded(&event_loop, &old);
    let target = recorded(&event_loop, &new);
    let (socket, mut peer) = accept_one(&event_loop, &source, &old);
    let data = pattern(16 << 20);
    let sent = socket.write(&data);
    assert!(sent < data.len());
    socket.adopt(&target, 0, |()| ())?;
    pump(&event_loop, || new.opened() == 1);
    assert!(new.socket().is_write_pending());
    let mut left = sent;
    while left > 0 {
        left -= peer.read(&event_loop, left.min(1 << 16)).len();
    }
    pump(&event_loop, || new.has(&Event::Writable));
    assert_eq!(old.take(), [Event::Open]);
    Ok(())
}

#[test]
fn the_target_stays_until_its_socket_has_come() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let source = recorded(&event_loop, &old);
    let (log, token) = (new.clone(), drops.token());
    let target = new
        .builder()
        .on_adopt(move |(), socket, ()| {
            token.hold();
            log.add_socket(socket, Event::Adopt);
        })
        .build(&event_loop, ())?;
    let (socket, peer) = accept_one(&event_loop, &source, &old);
    socket.adopt(&target, 0, |()| ())?;
    drop((target, source));
    pump(&event_loop, || new.opened() == 1);
    assert_eq!(drops.live(), 1);
    drop(peer);
    pump(&event_loop, || new.has(&Event::End));
    new.socket().close();
    drain(&event_loop);
    drops.assert_all_dropped();
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn closing_the_target_before_the_move_closes_the_socket_in_the_end() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let source = recorded(&event_loop, &old);
    let target = recorded(&event_loop, &new);
    let (socket, peer) = accept_one(&event_loop, &source, &old);
    socket.adopt(&target, 0, |()| ())?;
    target.close();
    // It was none of the target's sockets yet, so it arrives.
    pump(&event_loop, || new.opened() == 1);
    drop(peer);
    pump(&event_loop, || new.has(&Event::End));
    new.socket().close();
    pump(&event_loop, || new.ended());
    assert_eq!(old.take(), [Event::Open]);
    Ok(())
}

#[test]
fn a_stream_survives_many_moves_in_the_middle() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let data = pattern(4 << 20);
    let received = Rc::new(RefCell::new(Vec::new()));
    let ended = Rc::new(Cell::new(false));
    let moves = Rc::new(Cell::new(0));
    let random = Rc::new(RefCell::new(Random::new(77)));
    type Context = SocketContext<SSL, (), [u8; 3]>;
    let contexts = Rc::new(RefCell::new(Vec::<Context>::new()));
    for _ in 0..3 {
        let (received, ended, moves) = (Rc::clone(&received), Rc::clone(&ended), Rc::clone(&moves));
        let (random, goals) = (Rc::clone(&random), Rc::clone(&contexts));
        let context = Context::builder()
            .secured()
            .on_data(move |(), socket, _, data| {
                let mut random = random.borrow_mut();
                if random.below(2) == 0 {
                    received.borrow_mut().extend_from_slice(data);
                    return;
                }
                let own = random.below(data.len() + 1);
                received.borrow_mut().extend_from_slice(&data[..own]);
                let goal = goals.borrow()[random.below(3)].clone();
                socket.adopt(&goal, data.len() - own, |state| *state).expect("it is open");
                moves.set(moves.get() + 1);
            })
            .on_end(move |(), socket, _| {
                ended.set(true);
                socket.close();
            })
            .build(&event_loop, ())?;
        contexts.borrow_mut().push(context);
    }
    let listener = listen(&contexts.borrow()[0]);
    let peer = client_of(&listener);
    let sender = {
        let data = data.clone();
        std::thread::spawn(move || peer.into_blocking().write_all(&data).expect("somebody reads"))
    };
    pump(&event_loop, || ended.get());
    sender.join().expect("no panic");
    assert!(moves.get() > 10, "only {} moves", moves.get());
    assert_same(&received.borrow(), &data);
    contexts.borrow_mut().clear();
    Ok(())
}
