//! Failures that other engines and bindings of this kind have had, where the safe layer could bring them back.
//! What the engine alone answers for is in its own tests (`vendor/usockets-sys/test`).

mod util;

use std::cell::RefCell;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use usockets::{
    CloseReason, Interest, ListenSocket, Loop, Poll, Socket, SocketContext, Timer, UsError,
};
use util::{
    Drops, Log, Nobody, Token, drain, new_loop, own_address, pump, settle, tcp_pair, unix_pair,
};

type Plain = SocketContext<false>;

// -- Contexts that go while they are used -----------------------------------------------------

/// Runs with a context to which nothing but its listener holds, and a client that connects.
fn lose_listener_in(place: &'static str) {
    let (event_loop, drops, log) = (new_loop(), Drops::new(), Log::<&str>::new());
    let listener: Rc<RefCell<Option<ListenSocket>>> = Rc::default();
    let lose = {
        let (listener, log) = (Rc::clone(&listener), log.clone());
        move |here| {
            if here == place {
                log.push(here);
                let taken = listener.take();
                drop(taken);
            }
        }
    };
    let (in_filter, in_open, in_close, in_factory) =
        (lose.clone(), lose.clone(), lose.clone(), lose);
    let (made, captured) = (drops.clone(), drops.token());
    let context = SocketContext::<false, Token, Token>::builder_with(move || {
        in_factory("factory");
        captured.hold();
        made.token()
    })
    .accept_filter(move |state, incoming| {
        in_filter("filter");
        state.hold();
        assert!(incoming.peer_addr().is_some());
    })
    .on_open(move |state, socket, token, _| {
        in_open("open");
        state.hold();
        token.hold();
        socket.close();
    })
    .on_close(move |state, _, token, _| {
        in_close("close");
        state.hold();
        token.hold();
    })
    .build(&event_loop, drops.token())
    .expect("a context");
    listener.replace(Some(context.listen(own_address()).expect("a listener")));
    drop(context);
    let address = listener.borrow().as_ref().expect("it is there").local_addr();
    let _peer = util::Peer::connect(address.expect("it is bound"));

    pump(&event_loop, || log.contains(&place));
    settle(&event_loop);
    drops.assert_all_dropped();
    assert_eq!(event_loop.metrics().live_contexts, 0, "in {place}");
    assert_eq!(event_loop.metrics().live_sockets, 0, "in {place}");
}

#[test]
fn context_loses_its_last_listener_inside_its_own_callbacks() {
    let _guard = util::guard();
    ["filter", "factory", "open", "close"].into_iter().for_each(lose_listener_in);
}

#[test]
fn context_loses_its_last_handle_in_the_callbacks_of_its_last_socket() {
    let _guard = util::guard();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let handle: Rc<RefCell<Option<SocketContext<false, Token, Token>>>> = Rc::default();
    let (inside, made) = (Rc::clone(&handle), drops.clone());
    let context = SocketContext::<false, Token, Token>::builder_with(move || made.token())
        .on_data(move |state, socket, token, _| {
            let taken = inside.take();
            drop(taken);
            socket.reset();
            state.hold();
            token.hold();
        })
        .on_close(|state, _, token, _| {
            state.hold();
            token.hold();
        })
        .build(&event_loop, drops.token())
        .expect("a context");
    let (ours, mut theirs) = unix_pair();
    context.accept_fd(ours).expect("a socket");
    handle.replace(Some(context));
    theirs.write_all(b"x").expect("there is room");
    drain(&event_loop);
    settle(&event_loop);
    drops.assert_all_dropped();
    assert_eq!(event_loop.metrics().live_contexts, 0);
}

#[test]
fn contexts_go_while_a_socket_moves_between_them() {
    let _guard = util::guard();
    let (event_loop, drops, log) = (new_loop(), Drops::new(), Log::<&str>::new());
    let (made, adopted) = (drops.clone(), log.clone());
    let new = SocketContext::<false, Token, (Token, [u8; 4000])>::builder_with(|| unreachable!())
        .on_adopt(move |state, socket, value| {
            state.hold();
            value.0.hold();
            adopted.push("adopted");
            socket.close();
        })
        .build(&event_loop, drops.token())
        .expect("a context");
    let old = SocketContext::<false, Token, Token>::builder_with(move || made.token())
        .build(&event_loop, drops.token())
        .expect("a context");
    let (ours, _theirs) = unix_pair();
    let socket = old.accept_fd(ours).expect("a socket");
    settle(&event_loop);
    let (token, old) = (drops.token(), RefCell::new(Some(old)));
    let convert = move |state: &mut Token| {
        // The last handle of the context that this state is in.
        drop(old.take());
        state.hold();
        (token, [7; 4000])
    };
    socket.adopt(&new, 0, convert).expect("it is open");
    // The last handle of the context that it is going to.
    drop(new);
    drain(&event_loop);
    settle(&event_loop);
    assert_eq!(log.take(), ["adopted"]);
    drops.assert_all_dropped();
    assert_eq!(event_loop.metrics().live_contexts, 0);
}

#[test]
fn context_goes_while_its_connection_is_pending() {
    let _guard = util::guard();
    let nobody = Nobody::new();
    for target in [nobody.address().to_string(), "name.invalid:1".to_owned()] {
        let (event_loop, drops, log) = (new_loop(), Drops::new(), Log::<&str>::new());
        let (made, failed) = (drops.clone(), log.clone());
        let context = SocketContext::<false, Token, Token>::builder_with(move || made.token())
            .on_connect_error(move |state, _, token, _| {
                state.hold();
                token.hold();
                failed.push("failed");
            })
            .build(&event_loop, drops.token())
            .expect("a context");
        context.connect(target.as_str()).expect("the answer comes later");
        drop(context);
        pump(&event_loop, || log.len() == 1);
        settle(&event_loop);
        drops.assert_all_dropped();
    }
}

#[test]
fn context_is_closed_while_it_connects_and_from_the_error() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<&str>::new();
    let itself: Rc<RefCell<Option<Plain>>> = Rc::default();
    let (inside, errors) = (Rc::clone(&itself), log.clone());
    let context = Plain::builder()
        .on_open(|(), _, (), _| unreachable!("it was closed before"))
        .on_close(|(), _, (), _| unreachable!("it never opened"))
        .on_connect_error(move |(), socket, (), error| {
            assert!(matches!(error, UsError::Cancelled), "{error}");
            assert!(socket.is_closed());
            errors.push("cancelled");
            inside.borrow().iter().for_each(Plain::close);
        })
        .build(&event_loop, ())
        .expect("a context");
    itself.replace(Some(context.clone()));
    let listener = context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    for _ in 0..5 {
        context.connect(address).expect("it begins");
    }
    context.connect("name.invalid:1").expect("it begins");
    context.close();
    settle(&event_loop);
    assert_eq!(log.len(), 6);
    itself.take();
}

#[test]
fn sockets_close_each_other_while_their_context_closes() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<CloseReason>::new();
    let closed = log.clone();
    let context = SocketContext::<false, Vec<Socket<false>>>::builder()
        .on_close(move |all, socket, (), reason| {
            closed.push(*reason);
            // All of them, the one that is closing included.
            all.iter().for_each(Socket::close);
            all.retain(|other| other != socket);
            if let Ok(context) = socket.context::<Vec<Socket<false>>>() {
                context.close();
            }
        })
        .build(&event_loop, Vec::new())
        .expect("a context");
    let peers: Vec<_> = (0..50)
        .map(|_| {
            let (ours, theirs) = unix_pair();
            let socket = context.accept_fd(ours).expect("a socket");
            context.with_state(|all| all.push(socket)).expect("it is not lent");
            theirs
        })
        .collect();
    settle(&event_loop);
    context.close();
    drain(&event_loop);
    let reasons = log.take();
    assert_eq!(reasons.len(), peers.len(), "each once");
    assert!(reasons.iter().all(|reason| matches!(reason, CloseReason::ContextClosed)));
    assert!(context.with_state(|all| all.is_empty()).expect("it is not lent"));
}

// -- Events that belong to nobody any more ----------------------------------------------------

#[test]
fn descriptor_number_that_is_used_again_gets_no_old_event() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let fresh = Log::<Vec<u8>>::new();
    let received = fresh.clone();
    let new = Plain::builder()
        .on_data(move |(), _, (), data| received.push(&*data))
        .on_end(|(), _, ()| unreachable!("its peer is there"))
        .on_close(|(), _, (), reason| assert_eq!(*reason, CloseReason::LoopClosed))
        .build(&event_loop, ())
        .expect("a context");
    let peers: Rc<RefCell<Vec<std::os::unix::net::UnixStream>>> = Rc::default();
    let (keep, target) = (Rc::clone(&peers), new.clone());
    let context = SocketContext::<false, Vec<Socket<false>>>::builder()
        .on_data(move |all, socket, (), _| {
            // The others have events in this very batch.
            all.iter().filter(|other| *other != socket).for_each(Socket::reset);
            for _ in 0..all.len() {
                let (ours, mut theirs) = unix_pair();
                target.accept_fd(ours).expect("a socket");
                theirs.write_all(b"new").expect("there is room");
                keep.borrow_mut().push(theirs);
            }
            all.clear();
        })
        .build(&event_loop, Vec::new())
        .expect("a context");
    let pairs: Vec<_> = (0..20)
        .map(|_| {
            let (ours, theirs) = tcp_pair();
            let socket = context.accept_fd(ours).expect("a socket");
            context.with_state(|all| all.push(socket)).expect("it is not lent");
            theirs
        })
        .collect();
    settle(&event_loop);
    for mut peer in pairs {
        peer.write_all(b"old").expect("there is room");
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket");
    }
    pump(&event_loop, || fresh.len() == 20);
    settle(&event_loop);
    assert!(fresh.take().iter().all(|data| data == b"new"));
}

#[test]
fn poll_on_a_reused_descriptor_number_is_its_own() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let (mut number, log) = (None, Log::<&str>::new());
    for round in 0..20 {
        let (ours, mut theirs) = unix_pair();
        // Mostly the number of the round before.
        let reused = number.replace(ours.as_raw_fd()) == Some(ours.as_raw_fd());
        assert!(reused || round == 0 || number.is_some());
        let ready = log.clone();
        let poll = Poll::new(&event_loop, ours, Interest::READABLE, (), move |_, (), _| {
            ready.push("ready");
        });
        settle(&event_loop);
        assert!(log.is_empty(), "an event of an earlier poll");
        theirs.write_all(b"x").expect("there is room");
        drop(poll.expect("a poll"));
        settle(&event_loop);
        assert!(log.is_empty(), "an event after the drop");
    }
}

// -- Ends -------------------------------------------------------------------------------------

#[test]
fn peer_that_goes_behind_our_shutdown_makes_no_spin() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<CloseReason>::new();
    let closed = log.clone();
    let context = Plain::builder()
        .on_open(|(), socket, (), _| socket.shutdown())
        .on_end(|(), _, ()| ())
        .on_close(move |(), _, (), reason| closed.push(*reason))
        .build(&event_loop, ())
        .expect("a context");
    let (ours, theirs) = unix_pair();
    context.accept_fd(ours).expect("a socket");
    settle(&event_loop);
    let before = event_loop.metrics().iterations;
    drop(theirs);
    pump(&event_loop, || log.len() == 1);
    assert!(event_loop.metrics().iterations - before < 5);
    assert!(matches!(log.take()[..], [CloseReason::End | CloseReason::HangUp]));
}

#[test]
fn peer_that_has_ended_is_told_once_however_much_is_written() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<&str>::new();
    let (ended, room) = (log.clone(), log.clone());
    let context = Plain::builder()
        .on_end(move |(), _, ()| ended.push("end"))
        .on_writable(move |(), _, ()| room.push("room"))
        .build(&event_loop, ())
        .expect("a context");
    let (ours, mut theirs) = unix_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    theirs.shutdown(Shutdown::Write).expect("a socket");
    pump(&event_loop, || log.len() == 1);
    let chunk = [7; 1 << 16];
    let mut buffer = vec![0; 1 << 20];
    for round in 1..=3 {
        while socket.write(&chunk) == chunk.len() {}
        assert!(socket.is_write_pending());
        settle(&event_loop);
        assert_eq!(log.count(&"end"), 1);
        while log.count(&"room") < round {
            let _length = theirs.read(&mut buffer).expect("there is plenty");
            settle(&event_loop);
        }
    }
    assert_eq!(log.count(&"end"), 1);
}

#[test]
fn write_to_a_dead_peer_ends_in_on_close_and_not_in_on_writable() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<String>::new();
    let (room, closed) = (log.clone(), log.clone());
    let context = Plain::builder()
        .on_writable(move |(), _, ()| room.push("room"))
        .on_close(move |(), _, (), reason| {
            let lost = matches!(reason, CloseReason::Reset | CloseReason::System { .. });
            closed.push(if lost { "lost".to_owned() } else { format!("{reason:?}") });
        })
        .build(&event_loop, ())
        .expect("a context");
    let (ours, theirs) = tcp_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    pump(&event_loop, || socket.is_established());
    SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(theirs);
    let mut writes = 0;
    while socket.write(b"anybody there?") > 0 {
        writes += 1;
        assert!(writes < 1000, "a dead peer takes everything");
    }
    drain(&event_loop);
    assert_eq!(log.take(), ["lost"]);
}

#[test]
fn short_vectored_write_inside_on_writable_gets_another_one() {
    let _guard = util::guard();
    let event_loop = new_loop();
    const ALL: usize = 1 << 21;
    let context = SocketContext::<false, (), usize>::builder()
        .on_writable(|(), socket, sent| {
            while *sent < ALL {
                let chunk = vec![7; (ALL - *sent).min(1 << 16)];
                let (a, b) = chunk.split_at(chunk.len() / 2);
                let taken = socket.write_vectored(&[IoSlice::new(a), IoSlice::new(b)]);
                *sent += taken;
                if taken < chunk.len() {
                    return;
                }
            }
            socket.close();
        })
        .build(&event_loop, ())
        .expect("a context");
    let (ours, mut theirs) = unix_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    pump(&event_loop, || socket.is_established());
    while socket.write(&[7; 1 << 16]) == 1 << 16 {}
    theirs.set_nonblocking(true).expect("a socket");
    let mut received = 0;
    pump(&event_loop, || match util::read_some(&mut theirs) {
        Some(data) => {
            received += data.len();
            false
        }
        None => true,
    });
    assert!(received > ALL);
}

// -- What keeps a loop running, and awake -----------------------------------------------------

#[test]
fn objects_that_do_not_count_change_nothing_when_they_go() {
    let _guard = util::guard();
    let event_loop = new_loop();
    for _ in 0..10 {
        let timer = Timer::new_unref(&event_loop, ()).expect("a timer");
        timer.set(Duration::from_secs(100), None, |_, ()| ()).expect("it is open");
        let (source, _peer) = unix_pair();
        let poll = Poll::new_unref(&event_loop, source, Interest::READABLE, (), |_, (), _| ());
        let unarmed = Timer::new(&event_loop, ()).expect("a timer");
        assert!(!event_loop.is_alive());
        event_loop.run().expect("nothing counts");
        drop((timer, poll.expect("a poll"), unarmed));
    }
    let counts = Timer::new(&event_loop, false).expect("a timer");
    counts.set(Duration::from_millis(1), None, |_, fired| *fired = true).expect("it is open");
    assert!(event_loop.is_alive(), "what went has taken nothing along");
    event_loop.run().expect("until it fires");
    assert!(counts.with_state(|fired| *fired).expect("it is not lent"));
    assert!(!event_loop.is_alive());
}

#[test]
fn idle_loop_sleeps() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = Plain::builder().build(&event_loop, ()).expect("a context");
    let _listener = context.listen(own_address()).expect("a listener");
    let (ours, _theirs) = unix_pair();
    context.accept_fd(ours).expect("a socket");
    settle(&event_loop);
    let before = event_loop.metrics().iterations;
    event_loop.run_for(Duration::from_millis(100)).expect("no error");
    let turns = event_loop.metrics().iterations - before;
    assert!(turns <= 3, "{turns} iterations without anything to do");
}

#[test]
fn loop_that_is_run_again_has_forgotten_nothing() {
    let _guard = util::guard();
    let event_loop = Loop::from_state(Vec::<i32>::new()).expect("a loop");
    let timer = Timer::new(&event_loop, 0).expect("a timer");
    let every = Some(Duration::from_millis(1));
    let count = |timer: &usockets::TimerRef<i32>, count: &mut i32| {
        *count += 1;
        let event_loop = timer.event_loop();
        let number = *count;
        event_loop.with_state(|all: &mut Vec<i32>| all.push(number)).expect("it is not lent");
        event_loop.stop();
    };
    timer.set(Duration::from_millis(1), every, count).expect("it is open");
    for _ in 0..5 {
        event_loop.run().expect("until it is stopped");
    }
    assert_eq!(event_loop.with_state(|all| all.clone()).expect("it is not lent"), [1, 2, 3, 4, 5]);
}
