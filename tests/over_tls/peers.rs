//! The peers and certificates of the tests themselves, without the crate: who does not verify, or does not
//! notice a stream that is cut, would find no mistake of others.

use std::io::{ErrorKind, Read, Write};
use std::thread;

use openssl::ssl::SslVerifyMode;

use crate::util::{
    Issued, TlsPeer, certificates, client_context, guard, identify, server_context, tcp_pair,
};

/// A client and a server with this certificate, each on a thread.
fn meet<A: Send + 'static, B>(
    issued: &Issued,
    server: impl FnOnce(TlsPeer) -> A + Send + 'static,
    client: impl FnOnce(TlsPeer) -> B,
) -> (A, B) {
    let (ours, theirs) = tcp_pair();
    let context = server_context(issued).build();
    let server = thread::spawn(move || server(TlsPeer::server_of(theirs, &context)));
    let told = client(TlsPeer::client(ours));
    (server.join().expect("no panic"), told)
}

#[test]
fn peers_exchange_and_end_in_order() {
    let _guard = guard();
    for issued in [&certificates().server, &certificates().chained] {
        let (request, answer) = meet(
            issued,
            |mut peer| {
                let mut request = Vec::new();
                peer.read_to_end(&mut request).expect("a close_notify");
                peer.write_all(b"answer").expect("it is open");
                request
            },
            |mut peer| {
                peer.write_all(b"request").expect("it is open");
                peer.end_output().expect("it is open");
                let mut answer = Vec::new();
                peer.read_to_end(&mut answer).expect("a close_notify");
                answer
            },
        );
        assert_eq!((&*request, &*answer), (&b"request"[..], &b"answer"[..]));
    }
}

#[test]
fn peers_refuse_what_they_cannot_trust() {
    let _guard = guard();
    let all = certificates();
    for (issued, why) in [
        (&all.expired, "expired"),
        (&all.elsewhere, "mismatch"),
        (&all.stranger, "signature failure"),
        (&all.client, "unsuitable certificate purpose"),
    ] {
        let (_, refused) = meet(
            issued,
            |mut peer| peer.read(&mut [0]).expect_err("it was refused").to_string(),
            |mut peer| {
                let error = peer.handshake().expect_err("it is not to be trusted");
                format!("{error} {}", peer.ssl().verify_result())
            },
        );
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn peers_notice_a_stream_that_is_cut() {
    let _guard = guard();
    let (_, error) = meet(
        &certificates().server,
        |mut peer| {
            peer.write_all(b"half").expect("it is open");
            peer.cut();
        },
        |mut peer| {
            peer.read_exact(&mut [0; 4]).expect("it was sent");
            peer.read(&mut [0]).expect_err("there was no close_notify").kind()
        },
    );
    assert_eq!(error, ErrorKind::UnexpectedEof);
}

#[test]
fn peers_have_certificates_on_both_sides() {
    let _guard = guard();
    let (ours, theirs) = tcp_pair();
    let mut server = server_context(&certificates().server);
    let authority = openssl::x509::X509::from_der(certificates().authority.der());
    server.cert_store_mut().add_cert(authority.expect("a certificate")).expect("it is new");
    server.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let server = server.build();
    let server = thread::spawn(move || {
        let mut peer = TlsPeer::server_of(theirs, &server);
        peer.read_exact(&mut [0]).expect("it is open");
        peer.ssl().peer_certificate().expect("it is required").to_der().expect("it is one")
    });
    let mut client = client_context();
    identify(&mut client, &certificates().client);
    let mut client = TlsPeer::client_of(ours, &client.build());
    client.write_all(b"x").expect("it is open");
    assert_eq!(server.join().expect("no panic"), certificates().client.certificate_der);
}
