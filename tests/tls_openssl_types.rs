//! Types of the crate `openssl`, in and out.
#![cfg(all(usockets_tls, feature = "openssl"))]

mod util;

use std::cell::Cell;
use std::rc::Rc;

use openssl::nid::Nid;
use openssl::ssl::{SslContext, SslContextRef, SslFiletype, SslMethod, SslVerifyMode};
use usockets::{
    CertificateError, CloseReason, ConnectOptions, SocketContext, TlsClientConfig, TlsFailure,
    TlsServerConfig, TlsVersion, UsError,
};
use util::{
    Authority, Log, TlsPeer, certificates, client_context, guard, new_loop, own_address, pump,
    server_context, tcp_pair,
};

#[test]
fn contexts_in_and_certificates_out() -> Result<(), Box<dyn std::error::Error>> {
    let _guard = guard();
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let folder = std::env::temp_dir();
    let name = |what: &str| folder.join(format!("usockets-{what}-{}.pem", std::process::id()));
    let (chain, key, root) = (name("chain"), name("key"), name("root"));
    std::fs::write(&chain, &issued.certificate)?;
    std::fs::write(&key, &issued.key)?;
    std::fs::write(&root, authority.pem())?;

    let mut server = SslContext::builder(SslMethod::tls_server())?;
    server.set_certificate_chain_file(&chain)?;
    server.set_private_key_file(&key, SslFiletype::PEM)?;
    let server = TlsServerConfig::from_ssl_context(&server.build())?;
    let mut client = SslContext::builder(SslMethod::tls_client())?;
    client.set_ca_file(&root)?;
    client.set_verify(SslVerifyMode::PEER);
    let client = TlsClientConfig::from_ssl_context(&client.build())?;
    for path in [chain, key, root] {
        std::fs::remove_file(path)?;
    }
    let renewed = server.with_identity(&issued.identity());
    assert!(matches!(renewed, Err(UsError::InvalidOption { .. })));

    let event_loop = new_loop();
    let server = SocketContext::<true>::builder().tls_server(&server).build(&event_loop, ())?;
    let listener = server.listen(own_address())?;
    let reasons = Log::<CloseReason>::new();
    let log = reasons.clone();
    let client = SocketContext::<true>::builder()
        .tls_client(&client)
        .on_close(move |(), _, (), reason| log.push(*reason))
        .build(&event_loop, ())?;
    let options = ConnectOptions::new().server_name("localhost");
    let socket = client.connect_with(listener.local_addr()?, &options, ())?;
    assert!(matches!(socket.peer_certificate_x509(), Err(UsError::Closed)));
    pump(&event_loop, || socket.tls().is_ok());
    assert_eq!(socket.tls()?.version, TlsVersion::V1_3);
    // An SslContext cannot say which name; it is checked nevertheless.
    let other = ConnectOptions::new().server_name("example.org");
    client.connect_with(listener.local_addr()?, &other, ())?;
    pump(&event_loop, || !reasons.is_empty());
    let mismatch = TlsFailure::Verification(CertificateError::NAME_MISMATCH);
    assert_eq!(reasons.take(), [CloseReason::Tls(mismatch)]);
    let certificate = socket.peer_certificate_x509()?.expect("servers have one");
    assert_eq!(certificate.to_der()?, issued.certificate_der);
    let issuer = certificate.issuer_name().entries_by_nid(Nid::COMMONNAME).next();
    let issuer = issuer.expect("it has a name").data().to_string()?;
    assert!(issuer.starts_with("authority "), "{issuer}");
    Ok(())
}

/// One that the program goes on to use, on two threads, with connections one after the other and at a time.
#[test]
fn a_context_of_the_program_serves_loops_of_two_threads() {
    let _guard = guard();
    let issued = certificates().authority.issue(&["localhost"]);
    let (server, client) = (server_context(&issued).build(), client_context().build());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3 {
                    serve(&server, &client);
                }
            });
        }
    });
    // It is as it was: without a loop it still serves.
    let (near, far) = tcp_pair();
    let peer = std::thread::spawn(move || TlsPeer::server_of(far, &server).handshake());
    TlsPeer::client_of(near, &client).handshake().expect("it is done");
    peer.join().expect("it ends").expect("it is done");
}

/// A loop, and connections of which each has one echo.
fn serve(server: &SslContextRef, client: &SslContextRef) {
    const CONNECTIONS: usize = 50;
    let event_loop = new_loop();
    let server = TlsServerConfig::from_ssl_context(server).expect("a configuration");
    let client = TlsClientConfig::from_ssl_context(client).expect("a configuration");
    let server = SocketContext::<true>::builder()
        .tls_server(&server)
        .on_data(|(), socket, (), data| socket.send(data).expect("it is open"))
        .build(&event_loop, ())
        .expect("a context");
    let listener = server.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let closed = Rc::new(Cell::new(0));
    let count = closed.clone();
    let client = SocketContext::<true>::builder()
        .tls_client(&client)
        .on_open(|(), socket, (), _| socket.send(b"hello").expect("it is open"))
        .on_data(|(), socket, (), data| {
            assert_eq!(data, b"hello");
            socket.close();
        })
        .on_close(move |(), _, (), reason| {
            assert!(matches!(reason, CloseReason::Local), "{reason:?}");
            count.set(count.get() + 1);
        })
        .build(&event_loop, ())
        .expect("a context");
    let options = ConnectOptions::new().server_name("localhost");
    for _ in 0..CONNECTIONS {
        client.connect_with(address, &options, ()).expect("it begins");
    }
    pump(&event_loop, || closed.get() == CONNECTIONS);
}
