//! Handles and identities of what is gone answer, and never mean something else (invariant I3).

use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

use usockets::{CloseReason, ContextId, Loop, LoopRef, Socket, SocketContext, SocketId, UsError};

use crate::SSL;
use crate::util::{
    self, Log, Peer, Secured, drain, hand_over, new_loop, own_address, pump, settle, unix_pair,
};

type Plain = SocketContext<SSL>;
type Number = SocketContext<SSL, (), u32>;

fn numbers(event_loop: &LoopRef) -> Number {
    Number::builder().secured().build(event_loop, ()).expect("a context")
}

/// An open socket of the context.
fn open_socket<T: 'static, S: 'static>(
    event_loop: &Loop,
    context: &SocketContext<SSL, T, S>,
) -> (Socket<SSL, S>, Peer) {
    hand_over(event_loop, context, unix_pair())
}

#[test]
fn handle_says_closed_then_stale_then_that_the_loop_is_gone() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = numbers(&event_loop);
    let (socket, _peer) = open_socket(&event_loop, &context);
    assert_eq!(socket.close_reason(), None);

    socket.close();
    assert!(socket.is_closed());
    assert_eq!(socket.close_reason(), Some(CloseReason::Local));
    assert_eq!(socket.write(b"late"), 0);
    assert!(matches!(socket.local_addr(), Err(UsError::Closed)));
    assert!(matches!(socket.id().resolve(&event_loop), Err(UsError::Closed)));
    socket.with_state(|number| *number = 5).expect("the state is there until on_close");

    drain(&event_loop);
    settle(&event_loop);
    assert!(socket.is_closed());
    assert_eq!(socket.close_reason(), None);
    assert!(matches!(socket.with_state(|_| ()), Err(UsError::Stale)));
    assert!(matches!(socket.context::<()>(), Err(UsError::Stale)));
    assert!(matches!(socket.id().resolve(&event_loop), Err(UsError::Stale)));
    assert!(matches!(socket.set_timeout(Duration::ZERO), Err(UsError::Stale)));

    drop(event_loop);
    assert!(matches!(socket.with_state(|_| ()), Err(UsError::LoopClosed)));
    assert!(matches!(socket.id().resolve(&socket.event_loop()), Err(UsError::LoopClosed)));
}

#[test]
fn identities_are_not_used_again() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = numbers(&event_loop);
    let mut seen = HashSet::new();
    let mut kept: Vec<Socket<SSL, u32>> = Vec::new();
    for round in 0..2000 {
        let (socket, _peer) = open_socket(&event_loop, &context);
        socket.with_state(|number| *number = round).expect("it is open");
        assert!(seen.insert(socket.id()), "an identity comes a second time");
        // Old handles do not reach the new socket in the old place.
        for old in kept.iter().rev().take(10) {
            old.close();
            assert_eq!(old.write(b"x"), 0);
            assert!(matches!(old.with_state(|_| ()), Err(UsError::Stale)));
        }
        assert!(!socket.is_closed());
        assert_eq!(socket.with_state(|number| *number).expect("it is open"), round);
        socket.close();
        drain(&event_loop);
        kept.push(socket);
    }
    assert!(kept.iter().all(|old| old.id().resolve(&event_loop).is_err()));
}

#[test]
fn socket_closed_earlier_in_the_same_batch_gets_no_event() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<SocketId<SSL>>::new();
    let context = SocketContext::<SSL, Vec<Socket<SSL>>>::builder()
        .secured()
        .on_data({
            let log = log.clone();
            move |all, socket, (), _| {
                log.push(socket.id());
                all.iter().filter(|other| *other != socket).for_each(Socket::close);
            }
        })
        .build(&event_loop, Vec::new())
        .expect("a context");
    let mut pairs: Vec<_> = (0..20).map(|_| open_socket(&event_loop, &context)).collect();
    let sockets = pairs.iter().map(|(socket, _)| socket.clone()).collect();
    context.with_state(|all| *all = sockets).expect("it is not lent");
    for (_, peer) in &mut pairs {
        peer.write_all(b"x").expect("there is room");
    }
    settle(&event_loop);
    assert_eq!(log.len(), 1, "the others were closed in time");
    assert_eq!(event_loop.metrics().live_sockets, 1);
}

#[test]
fn adopted_socket_leaves_a_stale_handle() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let (old, new) = (numbers(&event_loop), Plain::builder().secured().build(&event_loop, ()));
    let new = new.expect("a context");
    let (socket, _peer) = open_socket(&event_loop, &old);
    socket.adopt(&new, 0, |_| ()).expect("it is open");
    for _ in 0..2 {
        assert!(socket.is_closed());
        assert!(!socket.is_established());
        assert_eq!(socket.close_reason(), None);
        assert!(matches!(socket.with_state(|_| ()), Err(UsError::Stale)));
        assert!(matches!(socket.context::<()>(), Err(UsError::Stale)));
        assert!(matches!(socket.with_fd(|_| ()), Err(UsError::Stale)));
        assert!(matches!(socket.adopt(&new, 0, |_| ()), Err(UsError::Stale)));
        assert!(matches!(socket.id().resolve(&event_loop), Err(UsError::Stale)));
        socket.close();
        socket.reset();
        socket.shutdown();
        assert_eq!(event_loop.metrics().live_sockets, 1, "the handle closes nothing any more");
        settle(&event_loop);
    }
}

#[test]
fn identity_of_one_loop_is_an_error_on_another() {
    let _guard = util::guard();
    let (here, there) = (new_loop(), new_loop());
    let (ours, theirs) = (numbers(&here), numbers(&there));
    let (socket, _peer) = open_socket(&here, &ours);
    let (foreign, _foreign_peer) = open_socket(&there, &theirs);
    assert!(matches!(socket.id().resolve(&there), Err(UsError::WrongLoop)));
    assert!(matches!(ours.id().resolve(&there), Err(UsError::WrongLoop)));
    assert!(matches!(socket.adopt(&theirs, 0, |_| 0), Err(UsError::WrongLoop)));
    assert!(socket != foreign, "the same number in two loops is not the same socket");
    assert!(here.id() != there.id());
    assert!(!socket.is_closed());
}

#[test]
fn identity_finds_its_socket_and_its_context() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = numbers(&event_loop);
    let (socket, _peer) = open_socket(&event_loop, &context);
    assert_eq!(socket.id().resolve(&event_loop).expect("it is open"), socket);
    assert_eq!(context.id().resolve(&event_loop).expect("it is there"), context);
    assert_eq!(socket.context::<()>().expect("it has one"), context);
}

#[test]
fn handle_of_an_identity_keeps_the_context() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = numbers(&event_loop);
    let id: ContextId<SSL, (), u32> = context.id();
    let second = id.resolve(&event_loop).expect("it is there");
    drop(context);
    second.with_state(|()| ()).expect("a handle is left");
    drop(second);
    assert!(matches!(id.resolve(&event_loop), Err(UsError::Stale)));
    assert_eq!(event_loop.metrics().live_contexts, 0);
}

#[test]
fn state_of_another_type_is_refused() {
    let _guard = util::guard();
    let event_loop = Loop::from_state(1_u64).expect("a loop");
    let context = SocketContext::<SSL, u16, u32>::builder().secured().build(&event_loop, 1);
    let context = context.expect("a context");
    let (ours, _theirs) = unix_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    assert!(matches!(event_loop.clone().with_state(|_: &mut i64| ()), Err(UsError::WrongType)));
    assert!(matches!(event_loop.handle().typed::<i64>(), Err(UsError::WrongType)));
    assert!(matches!(event_loop.handle_of::<i64>(), Err(UsError::WrongType)));
    assert!(matches!(socket.context::<i16>(), Err(UsError::WrongType)));
    assert_eq!(socket.context::<u16>().expect("the right one"), context);
}

#[test]
fn closed_listener_says_so() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = numbers(&event_loop);
    let listener = context.listen(own_address()).expect("a listener");
    context.close();
    assert!(listener.is_closed());
    assert!(matches!(listener.local_addr(), Err(UsError::Closed)));
    assert!(matches!(listener.with_fd(|_| ()), Err(UsError::Closed)));
    settle(&event_loop);
    assert!(listener.is_closed());
    // Its place may be another listener's by now, which this does not close.
    let second = context.listen(own_address()).expect("a listener");
    drop(listener);
    assert!(!second.is_closed());
}

#[test]
fn handles_compare_and_hash_by_what_they_mean() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = numbers(&event_loop);
    let (a, _peer_a) = open_socket(&event_loop, &context);
    let (b, _peer_b) = open_socket(&event_loop, &context);
    #[expect(clippy::mutable_key_type, reason = "handles are hashed by what they name")]
    let set: HashSet<_> = [a.clone(), a.clone(), b.clone()].into_iter().collect();
    assert_eq!(set.len(), 2);
    a.close();
    drain_closed(&event_loop, &a);
    assert!(set.contains(&a), "also when it is closed");
    assert!(context == context.clone());
    assert!(context != numbers(&event_loop));
}

fn drain_closed(event_loop: &Loop, socket: &Socket<SSL, u32>) {
    pump(event_loop, || matches!(socket.with_state(|_| ()), Err(UsError::Stale)));
}
