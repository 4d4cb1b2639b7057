//! Server names: certificates and policies of their own, names that come on demand.
#![cfg(usockets_tls)]

mod util;

use std::rc::Rc;

use usockets::{
    ClientCertificates, CloseReason, ConnectOptions, ListenSocket, Loop, ServerNameAnswer, Socket,
    SocketContext, SocketId, TicketKeys, TlsAlert, TlsFailure, TlsServerOptions, TlsSession,
    UsError,
};
use util::{Authority, Drops, Log, TlsPeer, Token, guard, new_loop, own_address, pump, settle};

/// A client that tells the certificate that it got, or why it got none.
struct Client {
    context: SocketContext<true>,
    got: Log<Result<Vec<u8>, CloseReason>>,
    sessions: Log<TlsSession>,
}

impl Client {
    fn new(event_loop: &Loop, authority: &Authority) -> Self {
        let (got, sessions) = (Log::new(), Log::new());
        let (log, kept) = (got.clone(), sessions.clone());
        let context = SocketContext::<true>::builder()
            .tls_client(&authority.client())
            .on_handshake(move |(), socket, (), result| {
                let leaf = |socket: &Socket<true>| {
                    socket.peer_certificates().expect("it is done").swap_remove(0)
                };
                log.push(result.map(|_| leaf(socket)).map_err(|reason| *reason));
            })
            .on_session(move |(), _, (), session| kept.push(session))
            .build(event_loop, ())
            .expect("a context");
        Self { context, got, sessions }
    }

    fn connect(&self, to: &ListenSocket, name: &str) -> Socket<true> {
        let options = ConnectOptions::new().server_name(name);
        let address = to.local_addr().expect("it is bound");
        self.context.connect_with(address, &options, ()).expect("it begins")
    }

    /// Connects, and waits for what comes of it.
    fn ask(
        &self,
        event_loop: &Loop,
        to: &ListenSocket,
        name: &str,
    ) -> Result<Vec<u8>, CloseReason> {
        let socket = self.connect(to, name);
        pump(event_loop, || !self.got.is_empty());
        socket.close();
        self.got.take().swap_remove(0)
    }
}

fn unrecognized() -> CloseReason {
    CloseReason::Tls(TlsFailure::AlertReceived(TlsAlert::UNRECOGNIZED_NAME))
}

#[test]
fn names_have_certificates_of_their_own() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let general = authority.issue(&["localhost", "other.example"]);
    let (org, any) = (authority.issue(&["example.org"]), authority.issue(&["*.example.org"]));
    let server = SocketContext::<true>::builder()
        .tls_server(&TlsServerOptions::new(general.identity()).build()?)
        .build(&event_loop, ())?;
    server.add_server_name("example.org", &TlsServerOptions::new(org.identity()).build()?)?;
    server.add_server_name("*.example.org", &TlsServerOptions::new(any.identity()).build()?)?;
    let again = server.add_server_name("example.org", &authority.server(&["example.org"]));
    assert!(matches!(again, Err(UsError::InvalidOption { option: "server name", .. })));
    for bad in ["", "a\0b", "example.org:443", "w*.example.org", ".org", "a b", &"a".repeat(256)] {
        let error = server.add_server_name(bad, &authority.server(&["example.org"]));
        assert!(matches!(error, Err(UsError::InvalidOption { option: "server name", .. })));
    }

    let listener = server.listen(own_address())?;
    let client = Client::new(&event_loop, &authority);
    let ask = |name| client.ask(&event_loop, &listener, name);
    assert_eq!(ask("example.org"), Ok(org.certificate_der));
    assert_eq!(ask("www.Example.Org"), Ok(any.certificate_der));
    assert_eq!(ask("other.example"), Ok(general.certificate_der.clone()));

    // Renewed, and removed.
    let renewed = authority.issue(&["example.org"]);
    let config = TlsServerOptions::new(renewed.identity()).build()?;
    server.replace_server_name("example.org", &config, None)?;
    assert_eq!(ask("example.org"), Ok(renewed.certificate_der));
    assert!(server.remove_server_name("example.org")?);
    assert!(!server.remove_server_name("example.org")?);
    assert!(ask("example.org").is_err(), "the general certificate is for others");
    Ok(())
}

#[test]
fn a_context_that_accepts_nothing_has_no_names() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = SocketContext::<true>::builder().build(&event_loop, ())?;
    let error = context.add_server_name("example.org", &Authority::new().server(&["example.org"]));
    let wanted = "TLS server configuration";
    assert!(matches!(error, Err(UsError::InvalidOption { option, .. }) if option == wanted));
    assert!(!context.remove_server_name("example.org")?);
    Ok(())
}

#[test]
fn what_is_no_name_is_not_asked_about() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let (asked, reasons) = (Log::<String>::new(), Log::<CloseReason>::new());
    let (asked_log, reason_log) = (asked.clone(), reasons.clone());
    let config = authority.server(&["*.example.org"]);
    let server = SocketContext::<true>::builder()
        .tls_server(&authority.server(&["localhost"]))
        .on_server_name(move |(), socket, (), name| {
            asked_log.push(name.to_owned());
            let server = socket.context::<()>().expect("it is open");
            server.add_server_name(name, &config).expect("it is a name");
            ServerNameAnswer::LookUp
        })
        .on_close(move |(), _, (), reason| reason_log.push(*reason))
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    for odd in ["../../etc/passwd", "www.example.org:443", "a b", ".org"] {
        let mut client = TlsPeer::client_asking_for(listener.local_addr()?, odd);
        pump(&event_loop, || {
            let _under_way = client.handshake();
            !reasons.is_empty()
        });
        assert_eq!(reasons.take(), [CloseReason::Tls(TlsFailure::UnknownName)], "{odd}");
    }
    // It would become an entry for all names of the kind: no name, to which the general certificate belongs.
    let mut client = TlsPeer::client_asking_for(listener.local_addr()?, "*.example.org");
    pump(&event_loop, || client.handshake().is_ok());
    assert!(asked.is_empty());
    let mut client = TlsPeer::client_asking_for(listener.local_addr()?, "www.example.org.");
    pump(&event_loop, || client.handshake().is_ok());
    assert_eq!(asked.take(), ["www.example.org."]);
    Ok(())
}

#[test]
fn unknown_names_are_refused_if_the_program_says_so() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let reasons = Log::<CloseReason>::new();
    let log = reasons.clone();
    let server = SocketContext::<true>::builder()
        .tls_server(&authority.server(&["localhost"]))
        .refuse_unknown_names(true)
        .on_close(move |(), _, (), reason| log.push(*reason))
        .build(&event_loop, ())?;
    server.add_server_name("example.org", &authority.server(&["example.org"]))?;
    let listener = server.listen(own_address())?;
    let client = Client::new(&event_loop, &authority);
    assert_eq!(client.ask(&event_loop, &listener, "localhost"), Err(unrecognized()));
    pump(&event_loop, || !reasons.is_empty());
    assert_eq!(reasons.take(), [CloseReason::Tls(TlsFailure::UnknownName)]);
    assert!(client.ask(&event_loop, &listener, "example.org").is_ok());
    Ok(())
}

#[test]
fn names_may_be_added_on_demand_at_once_or_later() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Rc::new(Authority::new());
    let event_loop = new_loop();
    let waiting = Log::<SocketId<true>>::new();
    let (log, issuer) = (waiting.clone(), Rc::clone(&authority));
    let server = SocketContext::<true>::builder()
        .tls_server(&TlsServerOptions::without_identity().build()?)
        .on_server_name(move |(), socket, (), name| {
            assert!(socket.is_handshaking());
            match name {
                "now.example" => {
                    let context = socket.context::<()>().expect("it is in one");
                    context.add_server_name(name, &issuer.server(&[name])).expect("it is new");
                    ServerNameAnswer::LookUp
                }
                "later.example" | "never.example" => {
                    log.push(socket.id());
                    ServerNameAnswer::Wait
                }
                "unknown.example" => ServerNameAnswer::LookUp,
                _ => ServerNameAnswer::Refuse,
            }
        })
        .build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    let client = Client::new(&event_loop, &authority);
    assert!(client.ask(&event_loop, &listener, "now.example").is_ok());
    assert_eq!(client.ask(&event_loop, &listener, "refused.example"), Err(unrecognized()));
    assert!(client.ask(&event_loop, &listener, "unknown.example").is_err());

    let socket = client.connect(&listener, "later.example");
    pump(&event_loop, || !waiting.is_empty());
    settle(&event_loop);
    assert!(client.got.is_empty() && !socket.is_closed());
    let id = waiting.take()[0];
    // Another thread has the certificate.
    let (handle, config) = (event_loop.handle(), authority.server(&["later.example"]));
    let context = server.id();
    std::thread::spawn(move || {
        handle
            .defer(move |event_loop| {
                let server = context.resolve(event_loop).expect("it lives");
                server.add_server_name("later.example", &config).expect("it is new");
                let socket = id.resolve(event_loop).expect("it waits");
                socket.continue_handshake().expect("it waits");
                assert!(matches!(
                    socket.continue_handshake(),
                    Err(UsError::InvalidOption { option: "handshake", .. })
                ));
            })
            .expect("the loop lives");
    });
    pump(&event_loop, || !client.got.is_empty());
    assert!(client.got.take()[0].is_ok());

    client.connect(&listener, "never.example");
    pump(&event_loop, || !waiting.is_empty());
    waiting.take()[0].resolve(&event_loop)?.refuse_handshake()?;
    pump(&event_loop, || !client.got.is_empty());
    assert_eq!(client.got.take(), [Err(unrecognized())]);
    Ok(())
}

#[test]
fn data_of_a_name_lives_as_long_as_the_name_and_its_connections() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let drops = Drops::new();
    let sockets = Log::<Socket<true>>::new();
    let log = sockets.clone();
    let server = SocketContext::<true>::builder()
        .tls_server(&authority.server(&["localhost"]))
        .on_handshake(move |(), socket, (), _| log.push(socket.clone()))
        .build(&event_loop, ())?;
    let config = authority.server(&["example.org"]);
    server.add_server_name_with("example.org", &config, Rc::new((7_u32, drops.token())))?;
    let error = server.add_server_name_with("example.org", &config, Rc::new(drops.token()));
    assert!(error.is_err());
    settle(&event_loop);
    assert_eq!(drops.dropped(), 1, "what was not added is dropped");

    let listener = server.listen(own_address())?;
    let client = Client::new(&event_loop, &authority);
    let first = client.connect(&listener, "example.org");
    pump(&event_loop, || sockets.len() == 1);
    let socket = sockets.take().swap_remove(0);
    let data = socket.server_name_data::<(u32, Token)>().expect("it was given");
    assert_eq!(data.0, 7);
    drop(data);
    assert!(socket.server_name_data::<String>().is_none(), "it is of another type");

    // In the engine, whose names are being changed, no code of the program runs.
    server.replace_server_name("example.org", &config, Some(Rc::new(drops.token())))?;
    settle(&event_loop);
    assert!(socket.server_name_data::<(u32, Token)>().is_none() || drops.dropped() == 1);
    assert!(server.remove_server_name("example.org")?);
    settle(&event_loop);
    assert!(socket.server_name_data::<(u32, Token)>().is_none());
    first.close();
    pump(&event_loop, || socket.is_closed());
    drop(socket);
    client.context.close();
    pump(&event_loop, || event_loop.metrics().live_sockets == 0);
    settle(&event_loop);
    assert_eq!(drops.dropped(), 3, "nothing is left of the name");

    // Names of a loop that goes.
    server.add_server_name_with("example.org", &config, Rc::new(drops.token()))?;
    drop(event_loop);
    drops.assert_all_dropped();
    assert!(matches!(server.remove_server_name("example.org"), Err(UsError::LoopClosed)));
    Ok(())
}

#[test]
fn resumption_does_not_get_around_the_policy_of_a_name() -> Result<(), UsError> {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let keys = TicketKeys::random()?;
    let open = TlsServerOptions::new(authority.issue(&["open.example"]).identity());
    let closed = TlsServerOptions::new(authority.issue(&["closed.example"]).identity())
        .client_certificates(ClientCertificates::Required)
        .client_trust(authority.trust());
    let server = SocketContext::<true>::builder()
        .tls_server(&TlsServerOptions::without_identity().build()?)
        .build(&event_loop, ())?;
    server.add_server_name("open.example", &open.ticket_keys(&keys).build()?)?;
    server.add_server_name("closed.example", &closed.ticket_keys(&keys).build()?)?;
    let listener = server.listen(own_address())?;
    let client = Client::new(&event_loop, &authority);
    client.connect(&listener, "open.example");
    pump(&event_loop, || !client.sessions.is_empty());
    assert!(client.got.take()[0].is_ok());
    let session = client.sessions.take().swap_remove(0);

    let options = ConnectOptions::new().server_name("closed.example").tls_session(&session);
    let socket = client.context.connect_with(listener.local_addr()?, &options, ())?;
    pump(&event_loop, || socket.is_closed());
    Ok(())
}
