//! Identities that other threads hold.

mod util;

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use usockets::{CloseReason, ContextId, SocketContext, SocketId, UsError};
use util::{Event, Record, accept_one, drain, guard, new_loop, pump, recorded, settle, tcp_pair};

#[test]
fn an_identity_comes_back_as_a_handle() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<u32>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    let (socket_id, context_id) = (socket.id(), context.id());
    assert_eq!(socket_id.loop_id(), event_loop.id());
    assert_eq!(context_id.loop_id(), event_loop.id());
    assert_eq!(socket_id.resolve(&event_loop)?, socket);
    assert_eq!(context_id.resolve(&event_loop)?, context);

    // By way of another thread.
    let handle = event_loop.handle();
    let worker = thread::spawn(move || {
        handle.run_on_loop(move |event_loop| {
            let socket = socket_id.resolve(event_loop).expect("it is open");
            assert_eq!(socket.write(b"from afar"), 9);
            context_id.resolve(event_loop).expect("it is there");
        })
    });
    assert_eq!(peer.read(&event_loop, 9), b"from afar");
    worker.join().expect("no panic")?;
    Ok(())
}

#[test]
fn identities_are_plain_values_whatever_the_state() -> Result<(), UsError> {
    let _guard = guard();
    fn plain<I: Copy + Eq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static>(id: I) -> I {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(id).expect("it waits")).join().expect("no panic");
        receiver.recv().expect("it was sent")
    }
    let event_loop = new_loop();
    // States that neither leave the thread nor can be compared.
    let context =
        SocketContext::<false, Rc<()>, Rc<()>>::builder().build(&event_loop, Rc::new(()))?;
    let (one, _far_one) = tcp_pair();
    let (two, _far_two) = tcp_pair();
    let (one, two) = (context.accept_fd(one)?, context.accept_fd(two)?);
    let id: SocketId<false, Rc<()>> = plain(one.id());
    assert_eq!(id, one.id());
    assert_ne!(one.id(), two.id());
    assert_eq!(HashSet::from([one.id(), one.id(), two.id()]).len(), 2);
    assert_ne!(format!("{:?}", one.id()), format!("{:?}", two.id()));
    let id: ContextId<false, Rc<()>, Rc<()>> = plain(context.id());
    assert_eq!(id, context.id());
    let id = plain(event_loop.id());
    assert_eq!(id, event_loop.id());
    assert!(new_loop().id() > id, "identities of loops are never used twice");
    Ok(())
}

#[test]
fn handles_of_one_socket_are_equal() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (one, _far_one) = accept_one(&event_loop, &context, &record);
    let (two, _far_two) = accept_one(&event_loop, &context, &record);
    assert_eq!(one, one.clone());
    assert_ne!(one, two);
    assert_eq!(HashSet::from([one.clone(), one.clone(), two.clone()]).len(), 2);
    assert!(format!("{one:?}").contains("closed: false"));
    one.close();
    assert!(format!("{one:?}").contains("closed: true"));
    assert_eq!(one, one.clone(), "also when it is closed");
    assert_eq!(two.event_loop(), *event_loop);
    Ok(())
}

#[test]
fn an_identity_ends_with_its_socket() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    let id = socket.id();
    socket.close();
    assert!(matches!(id.resolve(&event_loop), Err(UsError::Closed)));
    drain(&event_loop);
    assert!(matches!(id.resolve(&event_loop), Err(UsError::Stale)));
    assert_eq!(record.closed(), Some(CloseReason::Local));
    Ok(())
}

#[test]
fn an_identity_ends_with_its_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<false, u32>::builder().build(&event_loop, 4)?;
    let id = context.id();
    let kept = id.resolve(&event_loop)?;
    drop(context);
    assert_eq!(id.resolve(&event_loop)?.with_state(|four| *four)?, 4);
    drop(kept);
    settle(&event_loop);
    assert!(matches!(id.resolve(&event_loop), Err(UsError::Stale)));
    Ok(())
}

#[test]
fn identities_are_not_used_again() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let mut old = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..2000 {
        let (ours, _theirs) = tcp_pair();
        let socket = context.accept_fd(ours)?;
        assert!(seen.insert(socket.id()), "{:?} was used before", socket.id());
        old.push(socket);
        let socket = old.last().expect("it was just put there");
        event_loop.turn(None)?;
        socket.close();
        event_loop.turn(None)?;
    }
    settle(&event_loop);
    // A new one has most likely the place of an old one.
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    assert!(old.iter().all(|old| *old != socket));
    for old in &old {
        assert!(matches!(old.id().resolve(&event_loop), Err(UsError::Stale)));
        assert_eq!(old.write(b"misdelivered"), 0);
        old.close();
        old.reset();
        old.pause();
        old.shutdown();
    }
    settle(&event_loop);
    assert!(!socket.is_closed());
    assert!(!socket.is_paused());
    assert!(!socket.is_shut_down());
    let mut contexts = HashSet::new();
    for _ in 0..1000 {
        let context = SocketContext::<false>::builder().build(&event_loop, ())?;
        assert!(contexts.insert(context.id()), "{:?} was used before", context.id());
    }
    Ok(())
}

#[test]
fn an_identity_of_one_loop_is_nobody_on_another() -> Result<(), UsError> {
    let _guard = guard();
    let (one, other) = (new_loop(), new_loop());
    let (record, other_record) = (Record::<()>::new(), Record::<()>::new());
    let context = recorded(&one, &record);
    let twin = recorded(&other, &other_record);
    let (socket, _peer) = accept_one(&one, &context, &record);
    // Made in the same way, and so of the same number.
    let (_, _other_peer) = accept_one(&other, &twin, &other_record);
    assert!(matches!(socket.id().resolve(&other), Err(UsError::WrongLoop)));
    assert!(matches!(context.id().resolve(&other), Err(UsError::WrongLoop)));
    let (socket_id, context_id) = (socket.id(), context.id());
    let loop_ref = one.clone();
    drop(one);
    assert!(matches!(socket_id.resolve(&loop_ref), Err(UsError::LoopClosed)));
    assert!(matches!(context_id.resolve(&loop_ref), Err(UsError::LoopClosed)));
    assert!(matches!(socket_id.resolve(&other), Err(UsError::WrongLoop)));
    Ok(())
}

#[test]
fn an_identity_ends_with_adoption() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<()>::new(), Record::<()>::new());
    let source = recorded(&event_loop, &old);
    let target = recorded(&event_loop, &new);
    let (socket, _peer) = accept_one(&event_loop, &source, &old);
    let id = socket.id();
    socket.adopt(&target, 0, |()| ())?;
    assert!(matches!(id.resolve(&event_loop), Err(UsError::Stale)));
    pump(&event_loop, || new.has(&Event::Adopt));
    assert!(matches!(id.resolve(&event_loop), Err(UsError::Stale)));
    assert_ne!(new.socket().id(), id);
    assert_eq!(new.socket().id().resolve(&event_loop)?, new.socket());
    Ok(())
}
