//! Types of the crate `openssl`, in and out.
#![cfg(all(usockets_tls, feature = "openssl"))]

mod util;

use openssl::nid::Nid;
use openssl::ssl::{SslContext, SslFiletype, SslMethod, SslVerifyMode};
use usockets::{
    CertificateError, CloseReason, ConnectOptions, SocketContext, TlsClientConfig, TlsFailure,
    TlsServerConfig, TlsVersion, UsError,
};
use util::{Authority, Log, guard, new_loop, own_address, pump};

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
