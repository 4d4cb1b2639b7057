//! Sockets that are piped to others.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

use usockets::{
    CloseReason, DeadlineKind, Deadlines, ListenSocket, Loop, PipeEnd, Socket, SocketContext,
    UsError,
};

use super::{Record, client_at};
use crate::SSL;
use crate::util::{
    self, Descriptors, Echo, Event, Log, Peer, Secured, accept_one, alone, assert_same, guard,
    hand_over, new_loop, own_address, panic_of, pattern, pump, recorded, unix_pair,
};

/// The client of a connection to the server behind a proxy.
type Client = Option<Socket<SSL>>;

/// A proxy in front of a server; says why its connections closed.
fn proxy(
    event_loop: &Loop,
    server: SocketAddr,
) -> Result<(ListenSocket, Log<CloseReason>), UsError> {
    let log = Log::new();
    let (of_servers, of_clients) = (log.clone(), log.clone());
    let servers = SocketContext::<SSL, (), Client>::builder()
        .secured()
        .on_open(|(), server, client, _| {
            let client = client.take().expect("each has one");
            client.pipe_to(server).expect("both are open");
            server.pipe_to(&client).expect("both are open");
            client.resume();
        })
        .on_data(|(), _, _, _| panic!("it goes to the client"))
        .on_close(move |(), _, _, reason| of_servers.push(*reason))
        .build(event_loop, ())?;
    let clients = SocketContext::<SSL>::builder()
        .secured()
        .on_open(move |(), client, (), _| {
            client.pause();
            let socket = servers.connect(server).expect("there is a server");
            socket.with_state(|state| *state = Some(client.clone())).expect("it is not lent");
        })
        .on_data(|(), _, (), _| panic!("it goes to the server"))
        .on_close(move |(), _, (), reason| of_clients.push(*reason))
        .build(event_loop, ())?;
    Ok((clients.listen(own_address())?, log))
}

#[test]
fn proxy_passes_everything_on_and_ends_in_order() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let echo = Echo::<SSL>::over(&event_loop);
    let (listener, log) = proxy(&event_loop, echo.address())?;
    let mut peer = client_at(listener.local_addr()?);
    let data = pattern(8 << 20);
    // More than fits anywhere goes out while it comes back.
    let (mut sent, mut received) = (0, Vec::new());
    let mut buffer = vec![0; 1 << 16];
    pump(&event_loop, || {
        sent += Write::write(&mut peer, &data[sent..]).unwrap_or(0);
        if let Ok(length) = Read::read(&mut peer, &mut buffer) {
            received.extend_from_slice(&buffer[..length]);
        }
        received.len() == data.len()
    });
    assert_same(&received, &data);
    peer.end_output();
    assert_eq!(peer.read_to_end(&event_loop), b"");
    pump(&event_loop, || log.len() == 2);
    assert_eq!(log.take(), [CloseReason::End; 2]);
    Ok(())
}

#[test]
fn reset_of_one_side_resets_the_other() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (source, mut source_peer) = accept_one(&event_loop, &context, &record);
    let (target, mut target_peer) = accept_one(&event_loop, &context, &record);
    source.pipe_to(&target)?;
    source_peer.write(&event_loop, b"half");
    pump(&event_loop, || source.piped_bytes() == 4);
    source_peer.reset();
    pump(&event_loop, || source.is_closed() && target.is_closed());
    let mut buffer = [0; 16];
    let mut error = None;
    pump(&event_loop, || match Read::read(&mut target_peer, &mut buffer) {
        Ok(length) => length == 0,
        Err(failed) if failed.kind() == ErrorKind::WouldBlock => false,
        Err(failed) => {
            error = Some(failed.kind());
            true
        }
    });
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn sockets_of_different_kinds_are_piped_and_kept() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let ends = Log::<(PipeEnd, u64)>::new();
    let (log, data_log) = (ends.clone(), Log::<Vec<u8>>::new());
    let after = data_log.clone();
    let unix = SocketContext::<SSL, u8, String>::builder()
        .secured()
        .on_pipe_end(move |_, socket, _, end| log.push((end, socket.piped_bytes())))
        .on_data(move |_, _, _, data| after.push(data.to_vec()))
        .build(&event_loop, 0)?;
    let (source, mut peer) = hand_over(&event_loop, &unix, unix_pair());
    let record = Record::<()>::new();
    let tcp = recorded(&event_loop, &record);
    let (target, mut target_peer) = accept_one(&event_loop, &tcp, &record);
    source.pipe_to_and_keep(&target)?;
    assert!(source.is_piped());
    assert!(!target.is_piped());
    peer.write_all(b"through").expect("there is room");
    assert_eq!(target_peer.read(&event_loop, 7), b"through");
    // The target goes: data comes here again.
    target.reset();
    assert!(ends.is_empty(), "not from inside a call");
    pump(&event_loop, || !ends.is_empty());
    assert_eq!(ends.take(), [(PipeEnd::TargetClosed, 7)]);
    assert!(!source.is_piped());
    peer.write_all(b"back").expect("there is room");
    pump(&event_loop, || !data_log.is_empty());
    assert_eq!(data_log.take(), [b"back"]);
    // The source ends: the target stays.
    let (target, mut target_peer) = accept_one(&event_loop, &tcp, &record);
    source.pipe_to_and_keep(&target)?;
    peer.end_output();
    pump(&event_loop, || !ends.is_empty());
    assert_eq!(ends.take(), [(PipeEnd::SourceEnded, 7)]);
    target.send(b"still here")?;
    assert_eq!(target_peer.read(&event_loop, 10), b"still here");
    Ok(())
}

#[test]
fn pipes_that_make_no_sense_are_refused() -> Result<(), UsError> {
    let _guard = guard();
    let (event_loop, other_loop) = (new_loop(), new_loop());
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (one, _peer_one) = accept_one(&event_loop, &context, &record);
    let (two, _peer_two) = accept_one(&event_loop, &context, &record);
    let (three, _peer_three) = accept_one(&event_loop, &context, &record);
    let other_record = Record::<()>::new();
    let other_context = recorded(&other_loop, &other_record);
    let (foreign, _peer) = accept_one(&other_loop, &other_context, &other_record);
    assert!(matches!(one.pipe_to(&foreign), Err(UsError::WrongLoop)));
    assert!(matches!(one.pipe_to(&one), Err(UsError::InvalidOption { option: "target", .. })));
    let connecting = context.connect(util::Nobody::new().address())?;
    assert!(matches!(one.pipe_to(&connecting), Err(UsError::Closed)));
    connecting.close();
    one.pipe_to(&two)?;
    assert!(matches!(one.pipe_to(&three), Err(UsError::Piped)));
    assert!(matches!(three.pipe_to(&two), Err(UsError::Piped)));
    assert!(matches!(one.adopt(&context, 0, |()| ()), Err(UsError::Piped)));
    assert!(matches!(two.adopt(&context, 0, |()| ()), Err(UsError::Piped)));
    three.shutdown();
    assert!(matches!(two.pipe_to(&three), Err(UsError::Closed)));
    three.close();
    assert!(matches!(two.pipe_to(&three), Err(UsError::Closed)));
    assert!(matches!(three.pipe_to(&one), Err(UsError::Closed)));
    pump(&event_loop, || matches!(three.pipe_to(&one), Err(UsError::Stale)));
    drop(event_loop);
    assert!(matches!(one.pipe_to(&two), Err(UsError::LoopClosed)));
    assert!(!one.is_piped());
    assert_eq!(one.piped_bytes(), 0);
    Ok(())
}

#[test]
fn callback_of_the_end_may_do_anything_and_may_panic() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let target = Rc::new(RefCell::new(None::<Socket<SSL>>));
    let calls = Rc::new(Cell::new(0));
    let (next, count) = (Rc::clone(&target), Rc::clone(&calls));
    let context = SocketContext::<SSL>::builder()
        .secured()
        .on_pipe_end(move |(), socket, (), end| {
            count.set(count.get() + 1);
            assert_eq!(end, PipeEnd::TargetClosed);
            match next.take() {
                Some(target) => socket.pipe_to_and_keep(&target).expect("both are open"),
                None => {
                    socket.close();
                    panic!("no more targets");
                }
            }
        })
        .build(&event_loop, ())?;
    let record = Record::<()>::new();
    let targets = recorded(&event_loop, &record);
    let (first, _peer_one) = accept_one(&event_loop, &targets, &record);
    let (second, mut peer) = accept_one(&event_loop, &targets, &record);
    let (source, mut source_peer) = hand_over(&event_loop, &context, unix_pair());
    target.replace(Some(second.clone()));
    source.pipe_to_and_keep(&first)?;
    first.close();
    pump(&event_loop, || calls.get() == 1);
    source_peer.write_all(b"to the second").expect("there is room");
    assert_eq!(peer.read(&event_loop, 13), b"to the second");
    second.close();
    assert_eq!(panic_of(|| pump(&event_loop, || false)), "no more targets");
    pump(&event_loop, || source.close_reason().is_none());
    assert_eq!(calls.get(), 2);
    Ok(())
}

/// Writes until there has been no room for a while.
fn fill(event_loop: &Loop, peer: &mut Peer) {
    let chunk = vec![1; 1 << 16];
    let mut idle = 0;
    pump(event_loop, || {
        idle += 1;
        while Write::write(peer, &chunk).is_ok() {
            idle = 0;
        }
        idle > 20
    });
}

#[test]
fn stalled_target_ends_both_by_its_deadline() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = util::test_clock_loop();
    let record = Record::<()>::new();
    let stall = std::time::Duration::from_secs(7);
    let context =
        record.builder().deadlines(Deadlines::none().write_stall(stall)).build(&event_loop, ())?;
    let (source, mut source_peer) = accept_one(&event_loop, &context, &record);
    let (target, _target_peer) = accept_one(&event_loop, &context, &record);
    source.pipe_to(&target)?;
    fill(&event_loop, &mut source_peer);
    // Some may still move on the way.
    pump(&event_loop, || {
        event_loop.advance_clock(stall * 2).expect("a test clock");
        source.is_closed() && target.is_closed()
    });
    let late = CloseReason::Deadline(DeadlineKind::WriteStall);
    pump(&event_loop, || record.has(&Event::Close(CloseReason::Pipe)));
    assert!(record.has(&Event::Close(late)));
    assert_eq!(
        CloseReason::Pipe.to_string(),
        "closed with the socket to or from which it was piped"
    );
    Ok(())
}

#[test]
fn loop_that_is_dropped_gives_all_descriptors_back() -> Result<(), UsError> {
    let _guard = alone();
    let descriptors = Descriptors::now();
    {
        let event_loop = new_loop();
        let silent = TcpListener::bind(own_address()).expect("a port");
        let server = silent.local_addr().expect("it is bound");
        let (listener, _log) = proxy(&event_loop, server)?;
        let mut peers = Vec::new();
        for _ in 0..5 {
            let mut peer = client_at(listener.local_addr()?);
            fill(&event_loop, &mut peer);
            peers.push(peer);
        }
        drop(event_loop);
    }
    descriptors.assert_unchanged();
    Ok(())
}

#[test]
fn drain_that_forces_one_side_ends_the_pipe() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let (forced, kept) = (Record::<()>::new(), Record::<()>::new());
    let draining = recorded(&event_loop, &forced);
    let staying = recorded(&event_loop, &kept);
    let (one, _one_peer) = accept_one(&event_loop, &draining, &forced);
    let (two, _two_peer) = accept_one(&event_loop, &staying, &kept);
    one.pipe_to(&two)?;
    two.pipe_to(&one)?;
    draining.drain(std::time::Duration::ZERO, |report| assert_eq!(report.forced, 1))?;
    pump(&event_loop, || forced.ended());
    assert_eq!(forced.closed(), Some(CloseReason::Deadline(DeadlineKind::Drain)));
    pump(&event_loop, || kept.ended());
    assert_eq!(kept.closed(), Some(CloseReason::Pipe));
    Ok(())
}
