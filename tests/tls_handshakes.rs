//! Handshakes: what the program is told and asked, and what it can ask.
#![cfg(usockets_tls)]

mod util;

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use usockets::{
    CertificateError, ClientCertificates, CloseReason, ConnectOptions, ContextBuilder,
    ListenSocket, Loop, Socket, SocketContext, TicketKeys, TlsAlert, TlsClientConfig,
    TlsClientOptions, TlsFailure, TlsServerConfig, TlsServerOptions, TlsSession, TlsVersion,
    TrustAnchors, UsError,
};
use util::{
    Authority, Drops, Log, Peer, TlsPeer, assert_nothing_live, certificates, drain, guard,
    new_loop, own_address, panic_of, pump, settle,
};

/// What a context is told, in short words.
type Told = Log<String>;

fn builder(told: &Told, name: &'static str) -> ContextBuilder<true> {
    let log = |what: &'static str| {
        let told = told.clone();
        move |more: String| told.push(format!("{name} {what}{more}"))
    };
    let (open, shaken, data, close) = (log("open"), log("handshake"), log("data"), log("close"));
    let error = log("error");
    SocketContext::<true>::builder()
        .on_open(move |(), _, (), _| open(String::new()))
        .on_handshake(move |(), socket, (), result| {
            shaken(match result {
                Ok(handshake) => {
                    assert_eq!(socket.tls().ok().as_ref(), Some(handshake));
                    assert!(!socket.is_handshaking());
                    String::new()
                }
                Err(reason) => {
                    assert!(socket.tls().is_err());
                    format!(": {reason:?}")
                }
            });
        })
        .on_data(move |(), _, (), bytes| data(format!(": {}", String::from_utf8_lossy(bytes))))
        .on_close(move |(), _, (), reason| close(format!(": {reason:?}")))
        .on_connect_error(move |(), _, (), cause| error(format!(": {cause}")))
}

/// A server and a client that tell one log.
struct World {
    told: Told,
    event_loop: Loop,
    server: SocketContext<true>,
    client: SocketContext<true>,
    listener: ListenSocket,
}

impl World {
    fn new(server: &TlsServerConfig, client: &TlsClientConfig) -> Self {
        Self::with(server, client, |builder| builder, |builder| builder)
    }

    fn with(
        server: &TlsServerConfig,
        client: &TlsClientConfig,
        server_more: impl FnOnce(ContextBuilder<true>) -> ContextBuilder<true>,
        client_more: impl FnOnce(ContextBuilder<true>) -> ContextBuilder<true>,
    ) -> Self {
        let (event_loop, told) = (new_loop(), Told::new());
        let builder_of = |name| builder(&told, name);
        let server = server_more(builder_of("server").tls_server(server));
        let server = server.build(&event_loop, ()).expect("a context");
        let client = client_more(builder_of("client").tls_client(client));
        let client = client.build(&event_loop, ()).expect("a context");
        let listener = server.listen(own_address()).expect("a listener");
        Self { told, event_loop, server, client, listener }
    }

    /// Connects as to `localhost`.
    fn connect(&self) -> Socket<true> {
        self.connect_with(&ConnectOptions::new().server_name("localhost"))
    }

    fn connect_with(&self, options: &ConnectOptions) -> Socket<true> {
        let address = self.listener.local_addr().expect("it is bound");
        self.client.connect_with(address, options, ()).expect("it begins")
    }

    /// Waits until somebody was told this.
    #[track_caller]
    fn wait(&self, what: &str) {
        self.wait_for(what, 1);
    }

    #[track_caller]
    fn wait_for(&self, what: &str, count: usize) {
        let what = what.to_owned();
        pump(&self.event_loop, || self.told.count(&what) >= count);
    }

    fn count(&self, start: &str) -> usize {
        let told = self.told.take();
        let count = told.iter().filter(|one| one.starts_with(start)).count();
        told.into_iter().for_each(|one| self.told.push(one));
        count
    }

    /// Ends everything in order; nothing is left.
    fn end(self) {
        self.client.close();
        let Self { event_loop, server, client, listener, .. } = self;
        drop(listener);
        drain(&event_loop);
        drop((server, client));
        settle(&event_loop);
        assert_nothing_live(&event_loop);
    }
}

#[test]
fn both_sides_are_told_what_was_agreed_on() {
    let _guard = guard();
    let authority = Authority::new();
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let issued = authority.issue(&["localhost"]);
        let server = TlsServerOptions::new(issued.identity())
            .versions(version..=version)
            .alpn(["h2", "http/1.1"])
            .build()
            .expect("a configuration");
        let client = TlsClientOptions::new()
            .trust(authority.trust())
            .alpn(["http/1.1", "h2"])
            .build()
            .expect("a configuration");
        let world = World::new(&server, &client);
        let socket = world.connect();
        assert!(matches!(socket.tls(), Err(UsError::Closed)));
        world.wait("client handshake");
        world.wait("server handshake");
        let handshake = socket.tls().expect("it is done");
        assert_eq!(handshake.version, version);
        assert!(handshake.cipher.starts_with("TLS_"), "{handshake:?}");
        assert!(handshake.group.is_some());
        assert_eq!(handshake.alpn.as_deref(), Some(&b"h2"[..]), "the server's order decides");
        assert_eq!(handshake.verification, Ok(()));
        assert!(handshake.has_peer_certificate && !handshake.is_resumed);
        assert_eq!(handshake.kernel_tls, (false, false));
        assert_eq!(socket.peer_certificates().expect("it is done"), [issued.certificate_der]);
        world.end();
    }
}

#[test]
fn what_is_written_before_the_end_of_the_handshake_leaves_after_it() {
    let _guard = guard();
    let authority = Authority::new();
    let world = World::with(
        &authority.server(&["localhost"]),
        &authority.client(),
        |server| server,
        |client| {
            client.on_open(|(), socket, (), _| {
                assert!(socket.is_handshaking());
                assert_eq!(socket.write(b"hello, "), 7);
                socket.send(b"server").expect("it is queued");
            })
        },
    );
    let socket = world.connect();
    world.wait("server data: hello, server");
    assert!(!socket.is_handshaking());
    socket.close();
    // The end of the client is one in order, which the server answers by closing.
    world.wait("server close: End");
    world.wait("client close: Local");
    assert_eq!(world.count("client handshake"), 1);
    world.end();
}

#[test]
fn a_certificate_of_nobody_one_trusts_is_refused_and_both_are_told() {
    let _guard = guard();
    let (authority, other) = (Authority::new(), Authority::new());
    let world = World::new(&authority.server(&["localhost"]), &other.client());
    let socket = world.connect();
    pump(&world.event_loop, || {
        world.count("client close") == 1 && world.count("server close") == 1
    });
    let Some(CloseReason::Tls(TlsFailure::Verification(error))) = told_reason(&world, "client")
    else {
        panic!("{:?}", world.told.take());
    };
    assert_eq!(error, CertificateError::UNKNOWN_ISSUER);
    assert_eq!(error.to_string(), "unable to get local issuer certificate");
    let received = TlsFailure::AlertReceived(TlsAlert::UNKNOWN_CA);
    assert_eq!(told_reason(&world, "server"), Some(CloseReason::Tls(received)));
    assert_eq!(TlsAlert::UNKNOWN_CA.to_string(), "unknown_ca");
    assert!(socket.is_closed());
    world.end();
}

/// Why the side was closed: the same for `on_handshake`, once, and `on_close` right after it.
#[track_caller]
fn told_reason(world: &World, side: &str) -> Option<CloseReason> {
    let told = world.told.take();
    let of_side: Vec<_> = told.iter().filter(|one| one.starts_with(side)).collect();
    let [.., shaken, closed] = of_side.as_slice() else { panic!("{told:?}") };
    let reason = closed.strip_prefix(&format!("{side} close: ")).expect("a close");
    assert_eq!(**shaken, format!("{side} handshake: {reason}"));
    told.iter().for_each(|one| world.told.push(one.clone()));
    [
        CloseReason::Tls(TlsFailure::Verification(CertificateError::UNKNOWN_ISSUER)),
        CloseReason::Tls(TlsFailure::Verification(CertificateError::BAD_SIGNATURE)),
        CloseReason::Tls(TlsFailure::Verification(CertificateError::NAME_MISMATCH)),
        CloseReason::Tls(TlsFailure::Verification(CertificateError::ADDRESS_MISMATCH)),
        CloseReason::Tls(TlsFailure::Verification(CertificateError::REJECTED)),
        CloseReason::Tls(TlsFailure::AlertReceived(TlsAlert::UNKNOWN_CA)),
        CloseReason::Tls(TlsFailure::AlertReceived(TlsAlert::CERTIFICATE_REQUIRED)),
        CloseReason::Tls(TlsFailure::AlertReceived(TlsAlert::NO_APPLICATION_PROTOCOL)),
        CloseReason::Tls(TlsFailure::AlertReceived(TlsAlert::UNRECOGNIZED_NAME)),
        CloseReason::Local,
        CloseReason::Truncated,
    ]
    .into_iter()
    .find(|one| format!("{one:?}") == reason)
}

#[test]
fn the_name_or_address_connected_to_must_be_in_the_certificate() {
    let _guard = guard();
    let authority = Authority::new();
    let address = own_address().ip().to_string();
    let world = World::new(&authority.server(&["example.org", &address]), &authority.client());
    let other = ConnectOptions::new().server_name("example.net");
    world.connect_with(&other);
    pump(&world.event_loop, || world.count("client close") == 1);
    let mismatch = TlsFailure::Verification(CertificateError::NAME_MISMATCH);
    assert_eq!(told_reason(&world, "client"), Some(CloseReason::Tls(mismatch)));
    world.told.take();
    world.connect_with(&ConnectOptions::new().server_name("EXAMPLE.org"));
    world.wait("client handshake");
    world.told.take();
    world.connect_with(&ConnectOptions::new().server_name(address));
    world.wait("client handshake");
    world.told.take();
    // To the library a dot at the beginning is any name that ends so.
    for bad in [".org", "example.org:443", "[::1]"] {
        let options = ConnectOptions::new().server_name(bad);
        let address = world.listener.local_addr().expect("it is bound");
        let error = world.client.connect_with(address, &options, ()).expect_err("it is no name");
        assert!(matches!(error, UsError::InvalidOption { option: "server name", .. }), "{error}");
    }
    // Nothing but the address connected to, which is another one.
    world.connect_with(&ConnectOptions::new());
    pump(&world.event_loop, || world.count("client close") == 1);
    let mismatch = TlsFailure::Verification(CertificateError::ADDRESS_MISMATCH);
    assert_eq!(told_reason(&world, "client"), Some(CloseReason::Tls(mismatch)));
    world.end();
}

#[test]
fn dangerous_options_do_what_they_say() {
    let _guard = guard();
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.server(&["example.org"]);
    for (client, is_fine) in [
        (TlsClientOptions::new().trust(authority.trust()).danger_accept_any_name(true), true),
        (TlsClientOptions::new().trust(other.trust()).danger_accept_any_name(true), false),
        (
            TlsClientOptions::new()
                .trust(TrustAnchors::none())
                .danger_accept_invalid_certificates(true),
            true,
        ),
    ] {
        let world = World::new(&server, &client.build().expect("a configuration"));
        world.connect();
        pump(&world.event_loop, || world.count("client handshake") == 1);
        assert_eq!(world.count("client close"), usize::from(!is_fine));
        world.end();
    }
}

/// The signature is what tells the two apart, and that is found out by an error of another kind.
#[test]
fn an_authority_that_only_has_the_name_of_a_trusted_one_is_refused() {
    let _guard = guard();
    let stranger = TlsServerOptions::new(certificates().stranger.identity());
    let stranger = stranger.build().expect("a configuration");
    let world = World::new(&stranger, &certificates().authority.client());
    world.connect();
    pump(&world.event_loop, || world.count("client close") == 1);
    let bad_signature = TlsFailure::Verification(CertificateError::BAD_SIGNATURE);
    assert_eq!(told_reason(&world, "client"), Some(CloseReason::Tls(bad_signature)));
    world.end();
}

#[test]
fn clients_must_have_a_certificate_where_one_is_required() {
    let _guard = guard();
    let authority = Authority::new();
    let server = |policy| {
        TlsServerOptions::new(authority.issue(&["localhost"]).identity())
            .client_certificates(policy)
            .client_trust(TrustAnchors::der(authority.der()))
            .build()
            .expect("a configuration")
    };
    let alone = authority.client();
    let known = authority.issue(&["client"]);
    let known_client = alone.with_identity(&known.identity()).expect("a configuration");
    let stranger = Authority::new().issue(&["client"]).identity();
    let stranger = alone.with_identity(&stranger).expect("a configuration");

    let world = World::new(&server(ClientCertificates::Required), &alone);
    world.connect();
    pump(&world.event_loop, || {
        world.count("client close") == 1 && world.count("server close") == 1
    });
    world.end();

    for policy in [ClientCertificates::Required, ClientCertificates::Optional] {
        let world = World::new(&server(policy), &known_client);
        world.connect();
        world.wait("server handshake");
        world.end();
        let world = World::new(&server(policy), &stranger);
        world.connect();
        pump(&world.event_loop, || world.count("server close") == 1);
        let unknown = TlsFailure::Verification(CertificateError::UNKNOWN_ISSUER);
        assert_eq!(told_reason(&world, "server"), Some(CloseReason::Tls(unknown)));
        world.end();
    }

    let certificates = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&certificates);
    let world = World::with(
        &server(ClientCertificates::Optional),
        &alone,
        |server| {
            server.on_handshake(move |(), socket, (), result| {
                let handshake = result.expect("clients without one are fine");
                assert!(!handshake.has_peer_certificate);
                seen.borrow_mut().push(socket.peer_certificates().expect("none"));
            })
        },
        |client| client,
    );
    world.connect();
    pump(&world.event_loop, || *certificates.borrow() == [Vec::<Vec<u8>>::new()]);
    world.end();
}

#[test]
fn on_verify_may_refuse_and_decides_alone_where_anything_is_accepted() {
    let _guard = guard();
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["localhost"]);
    let server = TlsServerOptions::new(issued.identity()).build().expect("a configuration");
    let alone = TlsClientOptions::new()
        .trust(TrustAnchors::none())
        .danger_accept_invalid_certificates(true)
        .build()
        .expect("a configuration");
    // Client, whether the certificate is the one that is pinned, and what comes of it.
    let unknown = CertificateError::UNKNOWN_ISSUER;
    for (client, is_pinned, thinks, expected) in [
        (authority.client(), true, Ok(()), Ok(())),
        (authority.client(), false, Ok(()), Err(CertificateError::REJECTED)),
        (other.client(), true, Err(unknown), Err(unknown)),
        (other.client(), false, Err(unknown), Err(CertificateError::REJECTED)),
        (alone.clone(), true, Err(unknown), Ok(())),
        (alone.clone(), false, Err(unknown), Err(CertificateError::REJECTED)),
    ] {
        let pin = if is_pinned { issued.certificate_der.clone() } else { Vec::new() };
        let world = World::with(
            &server,
            &client,
            |server| server,
            |client| {
                client.on_verify(move |(), socket, (), certificates| {
                    assert_eq!(certificates.verified(), thinks);
                    let chain = socket.peer_certificates().expect("in here, too");
                    assert_eq!(chain, certificates.chain());
                    if certificates.leaf() == pin {
                        Ok(())
                    } else {
                        Err(CertificateError::REJECTED)
                    }
                })
            },
        );
        let socket = world.connect();
        pump(&world.event_loop, || world.count("client handshake") == 1);
        match expected {
            Ok(()) => assert_eq!(socket.tls().expect("it is done").verification, thinks),
            Err(error) => {
                let failure = TlsFailure::Verification(error);
                assert_eq!(told_reason(&world, "client"), Some(CloseReason::Tls(failure)));
            }
        }
        world.end();
    }
}

#[test]
fn a_panic_in_a_question_refuses_and_comes_out_of_run() {
    let _guard = guard();
    let authority = Authority::new();
    let (server, client) = (authority.server(&["localhost"]), authority.client());
    let client_with_alpn = TlsClientOptions::new().trust(authority.trust()).alpn(["h2"]);
    let client_with_alpn = client_with_alpn.build().expect("a configuration");
    let worlds = [
        World::with(
            &server,
            &client,
            |server| server,
            |client| client.on_verify(|(), _, (), _| panic!("in on_verify")),
        ),
        World::with(
            &server,
            &client_with_alpn,
            |server| server.on_alpn(|(), _, (), _| panic!("in on_alpn")),
            |client| client,
        ),
        World::with(
            &server,
            &client,
            |server| server.on_server_name(|(), _, (), _| panic!("in on_server_name")),
            |client| client,
        ),
    ];
    for world in worlds {
        let socket = world.connect();
        let message = panic_of(|| pump(&world.event_loop, || false));
        assert!(message.starts_with("in on_"), "{message}");
        // The loop goes on, and nobody was let in.
        pump(&world.event_loop, || socket.is_closed());
        assert_eq!(world.told.count(&"client handshake".to_owned()), 0);
        assert_eq!(world.told.count(&"server handshake".to_owned()), 0);
        world.end();
    }
}

#[test]
fn on_alpn_chooses_by_position() {
    let _guard = guard();
    let authority = Authority::new();
    let client = TlsClientOptions::new().trust(authority.trust()).alpn(["one", "two"]);
    let client = client.build().expect("a configuration");
    for (answer, expected) in
        [(Some(0), Some("one")), (Some(1), Some("two")), (Some(2), None), (None, None)]
    {
        let world = World::with(
            &authority.server(&["localhost"]),
            &client,
            |server| {
                server.on_alpn(move |(), _, (), offer| {
                    assert_eq!(offer.iter().collect::<Vec<_>>(), [b"one", b"two"]);
                    answer
                })
            },
            |client| client,
        );
        let socket = world.connect();
        pump(&world.event_loop, || world.count("client handshake") == 1);
        match expected {
            Some(name) => {
                let handshake = socket.tls().expect("it is done");
                assert_eq!(handshake.alpn.as_deref(), Some(name.as_bytes()));
            }
            None => {
                let refused = TlsFailure::AlertReceived(TlsAlert::NO_APPLICATION_PROTOCOL);
                assert_eq!(told_reason(&world, "client"), Some(CloseReason::Tls(refused)));
            }
        }
        world.end();
    }
}

#[test]
fn sessions_are_resumed_with_the_same_ticket_keys_only() {
    let _guard = guard();
    let authority = Authority::new();
    let keys = TicketKeys::random().expect("keys");
    let server = |keys: Option<&TicketKeys>| {
        let options = TlsServerOptions::new(authority.issue(&["localhost"]).identity());
        let options = match keys {
            Some(keys) => options.ticket_keys(keys),
            None => options,
        };
        options.build().expect("a configuration")
    };
    let sessions = Log::<TlsSession>::new();
    let log = sessions.clone();
    let world = World::with(
        &server(Some(&keys)),
        &authority.client(),
        |server| server,
        |client| client.on_session(move |(), _, (), session| log.push(session)),
    );
    let resume = |session: &TlsSession| {
        world.told.take();
        // As it would come from a file.
        let kept = TlsSession::from_bytes(session.as_bytes());
        let options = ConnectOptions::new().server_name("localhost").tls_session(&kept);
        let socket = world.connect_with(&options);
        world.wait("client handshake");
        world.wait("server handshake");
        socket.tls().expect("it is done").is_resumed
    };
    let latest = || {
        pump(&world.event_loop, || !sessions.is_empty());
        sessions.take().pop().expect("a session")
    };
    assert!(!world.connect().is_closed());
    assert!(resume(&latest()), "the same server");
    // Another configuration that shares the keys, and one with a renewed certificate.
    world.server.set_tls_server(&server(Some(&keys))).expect("it is set");
    assert!(resume(&latest()), "the same keys");
    let renewed = authority.issue(&["localhost"]).identity();
    world.server.set_certificate(&renewed).expect("it is set");
    assert!(resume(&latest()), "a renewed certificate");
    // The program's own keys instead of random ones, and their rotation.
    keys.rotate(&[[1; 80]]).expect("a key");
    assert!(!resume(&latest()), "a key that is there no more");
    keys.rotate(&[[2; 80], [1; 80]]).expect("keys");
    assert!(resume(&latest()), "the key before");
    keys.rotate(&[[2; 80]]).expect("a key");
    assert!(resume(&latest()), "a ticket that was renewed");
    world.server.set_tls_server(&server(None)).expect("it is set");
    assert!(!resume(&latest()), "other keys");
    // What is no session does no harm.
    assert!(!resume(&TlsSession::from_bytes(b"nonsense".to_vec())));
    world.end();
}

#[test]
fn a_renewed_certificate_is_for_new_connections() {
    let _guard = guard();
    let authority = Authority::new();
    let world = World::new(&authority.server(&["localhost"]), &authority.client());
    let first = world.connect();
    world.wait("client handshake");
    let renewed = authority.issue(&["localhost"]);
    world.server.set_certificate(&renewed.identity()).expect("it is set");
    let second = world.connect();
    world.wait_for("client handshake", 2);
    let renewed = [renewed.certificate_der];
    assert_ne!(first.peer_certificates().expect("done"), renewed);
    assert_eq!(second.peer_certificates().expect("done"), renewed);
    first.send(b"still here").expect("it is open");
    world.wait("server data: still here");
    // One that is no good changes nothing.
    let error = world.server.set_certificate(&authority.issue_expired(&["localhost"]).identity());
    assert!(matches!(error, Err(UsError::Tls(_))), "{error:?}");
    world.connect();
    world.wait_for("client handshake", 3);
    world.end();
}

#[test]
fn a_connection_that_is_closed_before_is_told_so_once() {
    let _guard = guard();
    let authority = Authority::new();
    let world = World::with(
        &authority.server(&["localhost"]),
        &authority.client(),
        |server| server,
        |client| client.on_open(|(), socket, (), _| socket.close()),
    );
    world.connect();
    pump(&world.event_loop, || world.count("client close") == 1);
    assert_eq!(told_reason(&world, "client"), Some(CloseReason::Local));
    world.end();
}

#[test]
fn a_stream_that_is_cut_off_is_no_end() {
    let _guard = guard();
    let authority = Authority::new();
    let world = World::new(&authority.server(&["localhost"]), &authority.client());
    let mut peer = Peer::connect(world.listener.local_addr().expect("it is bound"));
    world.wait("server open");
    peer.write(&world.event_loop, b"\x16\x03\x01");
    drop(peer);
    pump(&world.event_loop, || world.count("server close") == 1);
    assert_eq!(told_reason(&world, "server"), Some(CloseReason::Truncated));
    world.end();
}

#[test]
fn a_stream_that_ends_without_a_word_is_an_end_where_that_is_tolerated() {
    let _guard = guard();
    let authority = Authority::new();
    for (tolerated, expected) in [(false, CloseReason::Truncated), (true, CloseReason::End)] {
        let server = TlsServerOptions::new(authority.issue(&["localhost"]).identity());
        let server = server.danger_tolerate_truncation(tolerated).build();
        let world = World::new(&server.expect("a configuration"), &authority.client());
        let address = world.listener.local_addr().expect("it is bound");
        let mut peer = TlsPeer::client_asking_for(address, "localhost");
        pump(&world.event_loop, || peer.handshake().is_ok());
        assert_eq!(peer.write(b"the last").expect("there is room"), 8);
        world.wait("server data: the last");
        peer.take_tickets(); // or the system would reset the connection
        peer.cut();
        drop(peer);
        world.wait(&format!("server close: {expected:?}"));
        world.end();
    }
}

#[test]
fn what_is_not_tls_is_a_protocol_error() {
    let _guard = guard();
    let authority = Authority::new();
    let reasons = Log::<CloseReason>::new();
    let log = reasons.clone();
    let world = World::with(
        &authority.server(&["localhost"]),
        &authority.client(),
        |server| server.on_close(move |(), _, (), reason| log.push(*reason)),
        |client| client,
    );
    let mut peer = Peer::connect(world.listener.local_addr().expect("it is bound"));
    peer.write(&world.event_loop, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    pump(&world.event_loop, || !reasons.is_empty());
    let reason = reasons.take()[0];
    let CloseReason::Tls(TlsFailure::Protocol(error)) = reason else { panic!("{reason:?}") };
    assert_eq!(error.reason(), Some("http request"));
    assert_ne!(error.code(), 0);
    assert!(reason.to_string().contains("http request"), "{reason}");
    let error = reason.error().expect("it is one");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    world.end();
}

#[test]
fn unix_sockets_need_a_name_to_check() {
    let _guard = guard();
    let authority = Authority::new();
    let world = World::new(&authority.server(&["localhost"]), &authority.client());
    let path = format!("\0usockets-tls-{}", std::process::id());
    let listener = world.server.listen_unix(&path).expect("a listener");
    world.client.connect_unix(&path).expect("it begins");
    pump(&world.event_loop, || world.count("client error: connect failed") == 1);
    let options = ConnectOptions::new().server_name("localhost");
    world.client.connect_unix_with(&path, &options, ()).expect("it begins");
    world.wait("client handshake");
    for bad in [options.clone().local_addr(own_address()), options.device("lo")] {
        let error = world.client.connect_unix_with(&path, &bad, ()).expect_err("only for TCP");
        assert!(matches!(error, UsError::InvalidOption { option: "connect options", .. }));
    }
    drop(listener);
    world.end();
}

#[test]
fn contexts_without_configurations_say_so_or_use_the_default() {
    let _guard = guard();
    let authority = Authority::new();
    let event_loop = new_loop();
    let context = SocketContext::<true>::builder().build(&event_loop, ()).expect("a context");
    let errors = [
        context.listen(own_address()).map(drop),
        context.accept_fd(util::unix_pair().0).map(drop),
        context.set_certificate(&authority.issue(&["localhost"]).identity()),
    ];
    for error in errors {
        let error = error.expect_err("there is no certificate");
        assert!(
            matches!(error, UsError::InvalidOption { option: "TLS server configuration", .. }),
            "{error}"
        );
    }
    assert_eq!(context.tls_server().expect("the loop lives"), None);

    // The system does not trust this authority.
    let told = Told::new();
    let server = builder(&told, "server").tls_server(&authority.server(&["localhost"]));
    let server = server.build(&event_loop, ()).expect("a context");
    let listener = server.listen(own_address()).expect("a listener");
    let client = builder(&told, "client").build(&event_loop, ()).expect("a context");
    let address = listener.local_addr().expect("it is bound");
    let options = ConnectOptions::new().server_name("localhost");
    client.connect_with(address, &options, ()).expect("it begins");
    let closed = |one: &String| one.starts_with("client close: Tls(Verification(");
    pump(&event_loop, || {
        let all = told.take();
        all.iter().for_each(|one| told.push(one.clone()));
        all.iter().any(closed)
    });
    assert_eq!(
        TlsClientConfig::shared_default().expect("it was made"),
        TlsClientConfig::shared_default().expect("it was made")
    );
    let plain = SocketContext::<false>::builder().build(&event_loop, ()).expect("a context");
    let error = plain.connect_with(address, &options, ()).expect_err("it has no TLS");
    assert!(matches!(error, UsError::InvalidOption { option: "connect options", .. }), "{error}");
    for bad in ["", "a\0b"] {
        let options = ConnectOptions::new().server_name(bad);
        let error = client.connect_with(address, &options, ()).expect_err("no name");
        assert!(matches!(error, UsError::InvalidOption { option: "server name", .. }), "{error}");
    }
}

#[test]
fn states_are_dropped_once_also_with_the_loop() {
    let _guard = guard();
    let authority = Authority::new();
    let (event_loop, drops) = (new_loop(), Drops::new());
    let (token, of_sockets) = (drops.token(), drops.clone());
    let server = SocketContext::<true, _, _>::builder_with(move || of_sockets.token())
        .tls_server(&authority.server(&["localhost"]))
        .on_verify(move |_, _, _, _| {
            token.hold();
            Ok(())
        })
        .build(&event_loop, drops.token())
        .expect("a context");
    let listener = server.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let told = Told::new();
    let client = builder(&told, "client").tls_client(&authority.client());
    let client = client.build(&event_loop, ()).expect("a context");
    client
        .connect_with(address, &ConnectOptions::new().server_name("localhost"), ())
        .expect("it begins");
    let _half_open = Peer::connect(address);
    pump(&event_loop, || told.contains(&"client handshake".to_owned()));
    drop(event_loop);
    drops.assert_all_dropped();
    drop((server, client, listener));
}
