//! Contexts: their state, their life, and closing all that belongs to them.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use usockets::{CloseReason, Loop, SocketContext, UsError};

use super::{Record, assert_carried, client_of};
use crate::SSL;
use crate::util::{
    self, Drops, Event, Secured, accept_one, assert_nothing_live, drain, guard, listen, new_loop,
    pump, recorded, settle,
};

#[test]
fn the_state_is_lent_to_callbacks_and_closures() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<SSL, Vec<&str>>::builder()
        .secured()
        .on_open(|log, socket, _, _| {
            let context = socket.context::<Vec<&str>>().expect("it is still there");
            assert!(matches!(context.with_state(|_| ()), Err(UsError::StateInUse)));
            log.push("open");
        })
        .on_close(|log, _, _, _| log.push("close"))
        .build(&event_loop, vec!["built"])?;
    context.with_state(|log| {
        log.push("lent");
        assert!(matches!(context.with_state(|_| ()), Err(UsError::StateInUse)));
    })?;
    let listener = listen(&context);
    let peer = client_of(&listener);
    pump(&event_loop, || context.with_state(|log| log.len() == 3).expect("not lent"));
    drop(peer);
    pump(&event_loop, || context.with_state(|log| log.len() == 4).expect("not lent"));
    assert_eq!(context.with_state(|log| log.join(" "))?, "built lent open close");
    Ok(())
}

#[test]
fn handles_of_one_context_are_equal() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let one = SocketContext::<SSL>::builder().secured().build(&event_loop, ())?;
    let other = SocketContext::<SSL>::builder().secured().build(&event_loop, ())?;
    let clone = one.clone();
    assert_eq!(one, clone);
    assert_ne!(one, other);
    assert_eq!(one.id(), clone.id());
    assert_ne!(one.id(), other.id());
    assert_eq!(HashSet::from([one.clone(), clone, other]).len(), 2);
    assert_eq!(one.event_loop(), *event_loop);
    assert!(!format!("{one:?}").is_empty());
    assert_eq!(event_loop.metrics().live_contexts, 1, "the other one is gone");
    Ok(())
}

#[test]
fn a_context_lives_as_long_as_anything_of_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (states, closures) = (Drops::new(), Drops::new());
    let captured = closures.token();
    let opened = Rc::new(Cell::new(false));
    let open = Rc::clone(&opened);
    let context = SocketContext::<SSL, util::Token>::builder()
        .secured()
        .on_open(move |state, _, _, _| {
            state.hold();
            captured.hold();
            open.set(true);
        })
        .build(&event_loop, states.token())?;
    let listener = listen(&context);
    let clone = context.clone();
    drop(context);
    drop(clone);
    settle(&event_loop);
    assert_eq!(states.live(), 1, "its listener is left");

    let peer = client_of(&listener);
    pump(&event_loop, || opened.get());
    drop(listener);
    settle(&event_loop);
    assert_eq!(states.live(), 1, "its socket is left");
    assert_eq!(event_loop.metrics().live_contexts, 1);

    drop(peer);
    drain(&event_loop);
    states.assert_all_dropped();
    closures.assert_all_dropped();
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn a_context_without_anything_goes_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let context = SocketContext::<SSL, _>::builder().secured().build(&event_loop, drops.token())?;
    drop(context);
    drops.assert_all_dropped();
    event_loop.run()?;
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn dropping_a_handle_closes_nothing() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    drop(context);
    peer.write(&event_loop, b"hello");
    pump(&event_loop, || record.data() == b"hello");
    // The socket leads back to it.
    let context = socket.context::<()>()?;
    assert!(matches!(socket.context::<u8>(), Err(UsError::WrongType)));
    let (_, _other) = accept_one(&event_loop, &context, &record);
    Ok(())
}

#[test]
fn closing_a_context_closes_all_of_it_and_it_goes_on() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let record = Record::new();
    let tokens = drops.clone();
    let context = record.builder_with(move || tokens.token()).build(&event_loop, ())?;
    let other_record = Record::<()>::new();
    let other = recorded(&event_loop, &other_record);
    let (bystander, mut bystander_peer) = accept_one(&event_loop, &other, &other_record);
    let mut peers: Vec<_> = (0..5).map(|_| accept_one(&event_loop, &context, &record).1).collect();
    record.take();

    context.close();
    let socket = record.socket();
    assert!(socket.is_closed());
    assert_eq!(socket.close_reason(), Some(CloseReason::ContextClosed));
    assert!(CloseReason::ContextClosed.is_local());
    assert!(record.take().is_empty(), "nothing is called back inside `close`");
    pump(&event_loop, || record.count(&Event::Close(CloseReason::ContextClosed)) == 5);
    drops.assert_all_dropped();
    for peer in &mut peers {
        assert!(peer.read_to_end(&event_loop).is_empty());
    }

    // Others are not concerned, and the context is as good as before.
    bystander_peer.write(&event_loop, b"me?");
    pump(&event_loop, || other_record.data() == b"me?");
    assert!(!bystander.is_closed());
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    assert_eq!(socket.write(b"again"), 5);
    assert_eq!(peer.read(&event_loop, 5), b"again");
    Ok(())
}

#[test]
fn a_context_can_be_closed_from_its_callbacks() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let log = record.clone();
    let context = record
        .builder()
        .on_data(move |(), socket, (), data| {
            log.push_data(data);
            socket.context::<()>().expect("it is still there").close();
            assert!(socket.is_closed());
        })
        .build(&event_loop, ())?;
    let mut peers: Vec<_> = (0..3).map(|_| accept_one(&event_loop, &context, &record).1).collect();
    for peer in &mut peers {
        peer.write(&event_loop, b"x");
    }
    pump(&event_loop, || record.count(&Event::Close(CloseReason::ContextClosed)) == 3);
    assert_eq!(record.data(), b"x", "closed sockets get no data");
    Ok(())
}

#[test]
fn a_later_callback_replaces_an_earlier_one() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let token = drops.token();
    let record = Record::<()>::new();
    let log = record.clone();
    let builder = record
        .builder()
        .on_data(move |(), _, (), _| {
            token.hold();
            panic!("it was replaced");
        })
        .on_data(move |(), _, (), data| log.push_data(data));
    drops.assert_all_dropped();
    assert!(!format!("{builder:?}").is_empty());
    let context = builder.build(&event_loop, ())?;
    let (_, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write(&event_loop, b"new");
    pump(&event_loop, || record.data() == b"new");
    Ok(())
}

#[test]
fn without_callbacks_bytes_are_discarded_and_the_end_closes() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<SSL>::builder().secured().build(&event_loop, ())?;
    let listener = listen(&context);
    let mut peer = client_of(&listener);
    peer.write(&event_loop, &[7; 1 << 20]);
    peer.end_output();
    assert!(peer.read_to_end(&event_loop).is_empty());
    drop(listener);
    drain(&event_loop);
    assert_carried(event_loop.metrics().bytes_received, 1 << 20);
    assert_eq!(event_loop.metrics().live_sockets, 0);
    Ok(())
}

#[test]
fn a_child_goes_on_without_its_parent() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (old, new) = (Record::<u8>::new(), Record::<String>::new());
    let parent = recorded(&event_loop, &old);
    let child = new.builder().build_child(&parent, ())?;
    assert_ne!(child.event_loop().metrics().live_contexts, 0);
    assert_eq!(child.event_loop(), parent.event_loop());
    let (socket, mut peer) = accept_one(&event_loop, &parent, &old);
    socket.adopt(&child, 0, |_| String::from("upgraded"))?;
    pump(&event_loop, || new.has(&Event::Adopt));
    // What becomes of the parent is of no concern.
    parent.close();
    drop(parent);
    settle(&event_loop);
    assert_eq!(event_loop.metrics().live_contexts, 1);
    peer.write(&event_loop, b"hello");
    pump(&event_loop, || new.data() == b"hello");
    assert_eq!(new.socket().with_state(|state| state.clone())?, "upgraded");

    // A child has sockets of its own, and children.
    let grandchild = Record::<()>::new();
    let context = grandchild.builder().build_child(&child, ())?;
    drop(child);
    let (_, _peer) = accept_one(&event_loop, &context, &grandchild);
    drop(event_loop);
    let orphan = Record::<()>::new().builder().build_child(&context, ());
    assert!(matches!(orphan, Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn many_contexts_share_a_loop() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let contexts: Vec<_> = (0..200)
        .map(|number: u32| {
            SocketContext::<SSL, u32>::builder()
                .secured()
                .on_open(|number, socket, _, _| {
                    assert_eq!(socket.write(&number.to_le_bytes()), 4);
                })
                .build(&event_loop, number)
                .expect("a context")
        })
        .collect();
    let listeners: Vec<_> = contexts.iter().map(listen).collect();
    for (number, listener) in (0_u32..).zip(&listeners) {
        let mut peer = client_of(listener);
        assert_eq!(peer.read(&event_loop, 4), number.to_le_bytes());
    }
    drop((contexts, listeners));
    drain(&event_loop);
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn nothing_is_made_on_a_loop_that_is_gone() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop: Loop = Loop::new()?;
    let loop_ref = event_loop.clone();
    let drops = Drops::new();
    let context = SocketContext::<SSL, _>::builder().secured().build(&event_loop, drops.token())?;
    drop(event_loop);
    drops.assert_all_dropped();
    let error =
        SocketContext::<SSL>::builder().secured().build(&loop_ref, ()).expect_err("it is gone");
    assert!(matches!(error, UsError::LoopClosed), "{error}");
    assert!(matches!(context.listen("127.0.0.1:0"), Err(UsError::LoopClosed)));
    assert!(matches!(context.listen_unix("\0unused"), Err(UsError::LoopClosed)));
    assert!(matches!(context.with_state(|_| ()), Err(UsError::LoopClosed)));
    context.close();
    let clone = context.clone();
    assert_eq!(clone, context);
    Ok(())
}
