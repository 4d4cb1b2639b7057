//! The ends of sockets, their moves, and what else a loop has.

use std::cell::Cell;
use std::io::{ErrorKind, Write};
use std::rc::Rc;
use std::time::Duration;

use usockets::{CloseReason, Interest, Loop, Poll, Socket, Timer, UsError};

use crate::util::{self, Event, Record, Token, alone_for, unix_pair};
use crate::{Case, Fault, SWEEP_MAX, TICK, set_fault, sweep, test_loop};

#[test]
fn every_way_to_close() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("close", |case| {
        let event_loop = test_loop()?;
        let drops = case.drops.clone();
        let record = Record::<Token>::new();
        let context = record.builder_with(move || drops.token()).build(&event_loop, ())?;
        let mut peers = Vec::new();
        let mut sockets = Vec::new();
        let mut made = 0;
        for _ in 0..6 {
            let (ours, theirs) = unix_pair();
            match context.accept_fd(ours) {
                Ok(socket) => {
                    made += 1;
                    sockets.push(socket);
                    peers.push(theirs);
                }
                Err(error) => case.report(error),
            }
        }
        let ends = || {
            let is_end = |event: &&Event| matches!(event, Event::Close(_) | Event::ConnectError(_));
            record.events().iter().filter(is_end).count()
        };
        case.turn_until(&event_loop, || record.opened() + ends() >= made);
        for (index, socket) in sockets.iter().enumerate() {
            match index {
                0 => socket.close(),
                1 => socket.reset(),
                2 => {
                    assert!(socket.write(b"last words") <= 10);
                    socket.close();
                }
                3 => {
                    // The peer goes.
                    drop(peers.pop());
                }
                4 => {
                    socket.pause();
                    if let Err(error) = socket.set_timeout(Duration::from_secs(1)) {
                        assert!(matches!(error, UsError::Closed | UsError::Stale), "{error}");
                    }
                    socket.resume();
                    socket.shutdown();
                }
                _ => {}
            }
        }
        context.close();
        case.turn_until(&event_loop, || ends() == made);
        assert!(sockets.iter().all(Socket::is_closed));
        for event in record.take() {
            match event {
                Event::Close(CloseReason::System { .. } | CloseReason::Reset) => {
                    case.report(format!("{event:?}"));
                }
                Event::ConnectError(kind) => case.report(kind),
                _ => {}
            }
        }
        Ok(())
    });
}

#[test]
fn the_reason_of_a_close_carries_the_systems_error() {
    let _guard = alone_for(SWEEP_MAX);
    let mut found = false;
    for at in 1..20 {
        let event_loop = test_loop().expect("a loop");
        let record = Record::<()>::new();
        let context = record.builder().build(&event_loop, ()).expect("a context");
        let (ours, mut theirs) = unix_pair();
        context.accept_fd(ours).expect("a socket");
        let case = Case::default();
        case.turn_until(&event_loop, || record.opened() == 1);
        theirs.write_all(b"x").expect("there is room");
        set_fault(at, Fault::Error(libc::EHOSTUNREACH));
        for _ in 0..3 {
            let _turned = event_loop.turn(Some(Duration::ZERO));
        }
        set_fault(0, Fault::Error(0));
        if let Some(reason) = record.closed() {
            assert_eq!(reason, CloseReason::System { errno: libc::EHOSTUNREACH });
            let error = reason.error().expect("the system's error");
            assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
            assert_eq!(error.kind(), ErrorKind::HostUnreachable);
            assert!(!reason.is_local());
            assert_eq!(reason.to_string(), error.to_string());
            found = true;
        }
    }
    assert!(found, "no call of the system failed");
}

#[test]
fn adopt() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("adopt", |case| {
        let event_loop = test_loop()?;
        let (old, new) = (Record::<Token>::new(), Record::<(Token, [u8; 500])>::new());
        let (for_old, for_new, for_move) =
            (case.drops.clone(), case.drops.clone(), case.drops.clone());
        let target =
            new.builder_with(move || (for_new.token(), [0; 500])).build(&event_loop, ())?;
        let (log, goal, report) = (old.clone(), target.clone(), case.reporter());
        let source = old
            .builder_with(move || for_old.token())
            .on_data(move |(), socket, _, data| {
                let own = data.len().min(3);
                let drops = for_move.clone();
                let moved =
                    socket.adopt(&goal, data.len() - own, move |_| (drops.token(), [1; 500]));
                match moved {
                    Ok(()) => log.push_data(&data[..own]),
                    Err(error) => {
                        log.push_data(data);
                        report(error.to_string());
                    }
                }
            })
            .build(&event_loop, ())?;
        let (ours, mut theirs) = unix_pair();
        source.accept_fd(ours)?;
        theirs.write_all(b"onetwo").expect("there is room");
        let mut peer = Some(theirs);
        case.turn_until(&event_loop, || {
            if old.data_length() + new.data_length() == 6 {
                // Not earlier: at a hang-up an EAGAIN would say that everything was read.
                drop(peer.take());
            }
            old.ended() || new.ended()
        });
        assert!(!(old.ended() && new.ended()), "it ends twice");
        for event in old.events().into_iter().chain(new.events()) {
            match event {
                Event::Close(CloseReason::System { .. } | CloseReason::Reset) => {
                    case.report(format!("{event:?}"));
                }
                Event::ConnectError(kind) => case.report(kind),
                _ => {}
            }
        }
        let received = [old.data(), new.data()].concat();
        assert!(b"onetwo".starts_with(&received), "{received:?}");
        assert!(received == b"onetwo" || case.is_reported(), "{received:?}, and nobody was told");
        Ok(())
    });
}

#[test]
fn timers_polls_signals_and_jobs() {
    let _guard = alone_for(SWEEP_MAX);
    // What all watches of a signal share.
    drop(Loop::<()>::new().expect("a loop").on_signal(12, |_, _| ()));
    sweep("timers, polls, signals and jobs", |case| {
        let event_loop = test_loop()?;
        let count = Rc::new(Cell::new(0));
        let bump = || {
            let count = Rc::clone(&count);
            move || count.set(count.get() + 1)
        };
        let timer = Timer::new(&event_loop, case.drops.token())?;
        let (fired, token) = (bump(), case.drops.token());
        timer.set(TICK, None, move |_, state| {
            token.hold();
            state.hold();
            fired();
        })?;
        let (source, mut other) = unix_pair();
        let ready = bump();
        let poll = Poll::new(
            &event_loop,
            source,
            Interest::READABLE,
            case.drops.token(),
            move |poll, state, _| {
                state.hold();
                if util::read_some(&mut poll.source()).is_some_and(|data| !data.is_empty()) {
                    ready();
                }
            },
        )?;
        poll.source().set_nonblocking(true).expect("a socket");
        let raised = bump();
        let _watch = event_loop.on_signal(12, move |_, _| raised())?;
        let local = bump();
        event_loop.defer(move |_| local())?;
        let sent = case.drops.token();
        event_loop.handle().defer(move |_| sent.hold())?;
        other.write_all(b"x").expect("there is room");
        signal_hook::low_level::raise(12).expect("a signal");
        case.turn_until(&event_loop, || count.get() == 4);
        assert_eq!(count.get(), 4);
        Ok(())
    });
}
