//! STARTTLS: connections that begin in the clear.
#![cfg(usockets_tls)]

mod util;

use std::rc::Rc;

use usockets::{
    CloseReason, DeadlineKind, Deadlines, Loop, SocketContext, StartTls, TlsSession, UsError,
};
use util::{
    Authority, Drops, Log, Peer, Record, Token, accept_one, guard, listen, new_loop, own_address,
    panic_of, pump, recorded, settle,
};

/// A context with TLS that tells what happens, and sends back what it receives.
fn secure(
    event_loop: &Loop,
    authority: &Authority,
    told: &Log<String>,
) -> SocketContext<true, (), u32> {
    let log = |what: &'static str| {
        let told = told.clone();
        move |more: String| told.push(format!("{what}{more}"))
    };
    let (open, adopt, shaken, data) = (log("open"), log("adopt "), log("handshake"), log("data "));
    let close = log("close ");
    SocketContext::<true, (), u32>::builder()
        .tls_server(&authority.server(&["localhost"]))
        .tls_client(&authority.client())
        .on_open(move |(), _, _, _| open(String::new()))
        .on_adopt(move |(), socket, state| {
            assert!(socket.is_handshaking());
            adopt(state.to_string());
        })
        .on_handshake(move |(), _, _, result| {
            shaken(result.err().map(|reason| format!(" {reason:?}")).unwrap_or_default());
        })
        .on_data(move |(), socket, _, bytes| {
            data(String::from_utf8_lossy(bytes).into_owned());
            socket.send(bytes).expect("it is open");
        })
        .on_close(move |(), _, _, reason| close(format!("{reason:?}")))
        .build(event_loop, ())
        .expect("a context")
}

#[test]
fn both_sides_begin_and_their_states_move() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let (of_server, of_client) = (Log::new(), Log::new());
    let target = secure(&event_loop, &authority, &of_server);
    let server = SocketContext::<false, (), u32>::builder_with(|| 7)
        .on_data(move |(), socket, state, data| {
            assert_eq!(data, b"STARTTLS\n");
            *state += 1;
            socket.send(b"go ahead\n").expect("it is open");
            let begun = socket.start_tls(&target, StartTls::server(), 0, |state| *state + 1);
            begun.expect("it is open");
            assert!(socket.is_closed(), "for every observer it has moved");
            let again = socket.start_tls(&target, StartTls::server(), 0, |state| *state);
            assert!(matches!(again, Err(UsError::Stale)));
        })
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;

    let log = of_client.clone();
    let sessions = Log::<TlsSession>::new();
    let kept = sessions.clone();
    let target = SocketContext::<true, (), Rc<str>>::builder_with(|| Rc::from("of the factory"))
        .tls_client(&authority.client())
        .on_adopt(move |(), socket, state| {
            assert_eq!(&**state, "moved");
            socket.send(b"secret").expect("it is queued");
        })
        .on_data(move |(), socket, _, data| {
            log.push(String::from_utf8_lossy(data).into_owned());
            assert!(socket.tls().expect("it is done").server_name.is_some());
        })
        .on_session(move |(), _, _, session| kept.push(session))
        .build(&event_loop, ())?;
    let client = SocketContext::<false>::builder()
        .on_open(|(), socket, (), _| socket.send(b"STARTTLS\n").expect("it is open"))
        .on_data(move |(), socket, (), data| {
            assert_eq!(data, b"go ahead\n");
            let role = StartTls::client("localhost");
            let begun = socket.start_tls(&target, role, 0, |()| Rc::from("moved"));
            begun.expect("it is open");
        })
        .build(&event_loop, ())?;
    client.connect(listener.local_addr()?)?;
    pump(&event_loop, || of_client.contains(&"secret".to_owned()) && !sessions.is_empty());
    assert_eq!(of_server.take(), ["adopt 9", "handshake", "data secret"]);
    Ok(())
}

#[test]
fn what_belongs_to_tls_already_is_unread() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let told = Log::new();
    let target = secure(&event_loop, &authority, &told);
    let server = SocketContext::<false>::builder()
        .on_data(move |(), socket, (), data| {
            let unread = data.len() - b"STARTTLS\n".len();
            assert!(unread > 0, "the garbage came with it");
            let too_many = socket.start_tls(&target, StartTls::server(), data.len() + 1, |()| 0);
            assert!(matches!(too_many, Err(UsError::InvalidOption { option: "unread", .. })));
            socket.start_tls(&target, StartTls::server(), unread, |()| 0).expect("it is open");
        })
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    let mut peer = Peer::connect(listener.local_addr()?);
    peer.write(&event_loop, b"STARTTLS\nRSET\nMAIL FROM:<anybody>\n");
    pump(&event_loop, || told.len() == 3);
    let told = told.take();
    assert_eq!(told[0], "adopt 0");
    assert!(told[1].starts_with("handshake Tls(Protocol("), "{told:?}");
    assert!(told[2].starts_with("close Tls(Protocol("), "{told:?}");
    Ok(())
}

#[test]
fn a_conversion_that_panics_does_not_go_on_in_the_clear() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let (told, drops) = (Log::new(), Drops::new());
    let target = secure(&event_loop, &authority, &told);
    let record = Record::<Option<Token>>::new();
    let source = recorded(&event_loop, &record);
    let (socket, mut peer) = accept_one(&event_loop, &source, &record);
    socket.with_state(|state| *state = Some(drops.token()))?;
    socket.start_tls(&target, StartTls::server(), 0, |_| panic!("in the conversion"))?;
    peer.write(&event_loop, b"in the clear");
    let message = panic_of(|| pump(&event_loop, || false));
    assert_eq!(message, "in the conversion");
    pump(&event_loop, || socket.is_closed() && drops.dropped() == 1);
    assert_eq!(record.closed(), Some(CloseReason::LocalReset));
    assert!(record.data().is_empty() && told.is_empty());
    Ok(())
}

#[test]
fn what_cannot_begin_says_so() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let record = Record::<()>::new();
    let source = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &source, &record);
    let nothing = SocketContext::<true>::builder().build(&event_loop, ())?;
    let error = socket.start_tls(&nothing, StartTls::server(), 0, |()| ());
    assert!(matches!(
        error,
        Err(UsError::InvalidOption { option: "TLS server configuration", .. })
    ));
    for bad in ["", "a\0b"] {
        let error = socket.start_tls(&nothing, StartTls::client(bad), 0, |()| ());
        assert!(matches!(error, Err(UsError::InvalidOption { option: "server name", .. })));
    }
    let elsewhere = new_loop();
    let told = Log::new();
    let target = secure(&elsewhere, &authority, &told);
    let error = socket.start_tls(&target, StartTls::server(), 0, |()| 0);
    assert!(matches!(error, Err(UsError::WrongLoop)));
    let target = secure(&event_loop, &authority, &told);
    socket.close();
    let error = socket.start_tls(&target, StartTls::server(), 0, |()| 0);
    assert!(matches!(error, Err(UsError::Closed)), "{error:?}");
    settle(&event_loop);
    assert!(told.is_empty());
    Ok(())
}

#[test]
fn a_peer_that_never_begins_has_its_deadline() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = util::test_clock_loop();
    let reasons = Log::<Result<(), CloseReason>>::new();
    let (shaken, closed) = (reasons.clone(), reasons.clone());
    let target = SocketContext::<true>::builder()
        .tls_server(&authority.server(&["localhost"]))
        .deadlines(Deadlines::default().handshake(std::time::Duration::from_secs(3)))
        .on_handshake(move |(), _, (), result| {
            shaken.push(result.map(drop).map_err(|reason| *reason));
        })
        .on_close(move |(), _, (), reason| closed.push(Err(*reason)))
        .build(&event_loop, ())?;
    let record = Record::<()>::new();
    let source = recorded(&event_loop, &record);
    let listener = listen(&source);
    let _peer = Peer::connect(listener.local_addr()?);
    pump(&event_loop, || record.opened() == 1);
    record.socket().start_tls(&target, StartTls::server(), 0, |()| ())?;
    settle(&event_loop);
    event_loop.advance_clock(std::time::Duration::from_millis(2900))?;
    settle(&event_loop);
    assert!(reasons.is_empty());
    event_loop.advance_clock(std::time::Duration::from_millis(200))?;
    pump(&event_loop, || reasons.len() == 2);
    let expected = Err(CloseReason::Deadline(DeadlineKind::Handshake));
    assert_eq!(reasons.take(), [expected, expected]);
    Ok(())
}

#[test]
fn a_peer_that_goes_without_a_word_of_tls_was_cut_off() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let told = Log::new();
    let target = secure(&event_loop, &authority, &told);
    let record = Record::<()>::new();
    let source = recorded(&event_loop, &record);
    let (socket, peer) = accept_one(&event_loop, &source, &record);
    socket.start_tls(&target, StartTls::client("localhost"), 0, |()| 0)?;
    pump(&event_loop, || !told.is_empty());
    drop(peer);
    pump(&event_loop, || told.len() == 3);
    let told = told.take();
    assert_eq!(told[0], "adopt 0");
    assert!(told[1].starts_with("handshake "), "{told:?}");
    let reason = told[2].strip_prefix("close ").expect("it is closed");
    // With or without a reset, for the hello of the client was never read.
    let (truncated, reset) = (CloseReason::Truncated, CloseReason::Reset);
    assert!([truncated, reset].map(|one| format!("{one:?}")).contains(&reason.to_owned()));
    Ok(())
}
