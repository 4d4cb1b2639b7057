//! Configurations: what they are made of, and what is wrong with it.
#![cfg(usockets_tls)]

mod util;

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::symm::Cipher;
use openssl::x509::X509;
use usockets::{
    ClientCertificates, ConnectOptions, Handshake, SocketContext, TicketKeys, TlsClientOptions,
    TlsErrorKind, TlsIdentity, TlsServerOptions, TlsVersion, TrustAnchors, UsError,
};
use util::{Authority, Issued, Log, TlsPeer, guard, new_loop, own_address, pump};

/// A folder that is removed.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("usockets-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn kind_of<T: std::fmt::Debug>(result: Result<T, UsError>) -> TlsErrorKind {
    match result {
        Err(UsError::Tls(error)) => error.kind(),
        other => panic!("it should be an error of TLS: {other:?}"),
    }
}

/// The file that an error names.
#[track_caller]
fn file_of<T: std::fmt::Debug>(result: Result<T, UsError>) -> Option<PathBuf> {
    match result {
        Err(UsError::Tls(error)) => error.file().map(Path::to_owned),
        other => panic!("it should be an error of TLS: {other:?}"),
    }
}

fn encrypted(issued: &Issued, passphrase: &str) -> Vec<u8> {
    let key = PKey::private_key_from_pem(issued.key.as_bytes()).expect("a key");
    let cipher = Cipher::aes_256_cbc();
    key.private_key_to_pem_pkcs8_passphrase(cipher, passphrase.as_bytes()).expect("it encrypts")
}

fn archive(issued: &Issued, passphrase: &str) -> Vec<u8> {
    let key = PKey::private_key_from_pem(issued.key.as_bytes()).expect("a key");
    let certificate = X509::from_pem(issued.certificate.as_bytes()).expect("a certificate");
    let builder = Pkcs12::builder().name("us").pkey(&key).cert(&certificate).build2(passphrase);
    builder.expect("an archive").to_der().expect("it encodes")
}

#[test]
fn identities_of_all_forms() {
    let _guard = guard();
    let issued = Authority::new().issue(&["localhost"]);
    let folder = Folder::new("identities");
    let chain = folder.write("chain.pem", &issued.certificate);
    let key = folder.write("key.pem", &issued.key);
    let both = folder.write("both.pem", format!("{}{}", issued.key, issued.certificate));
    let p12 = folder.write("all.p12", archive(&issued, "hunter2"));
    let identities = [
        issued.identity(),
        TlsIdentity::from_pem_files(&chain, &key).expect("both are there"),
        TlsIdentity::from_pem_files(&both, &both).expect("it is there"),
        TlsIdentity::from_der([&issued.certificate_der], &issued.key_der),
        TlsIdentity::from_pem(&issued.certificate, encrypted(&issued, "hunter2"))
            .passphrase("hunter2"),
        TlsIdentity::from_pkcs12(archive(&issued, ""), ""),
        TlsIdentity::from_pkcs12_file(&p12, "hunter2").expect("it is there"),
    ];
    for identity in identities {
        TlsServerOptions::new(identity.clone()).build().expect("a server");
        TlsClientOptions::new().identity(identity).build().expect("a client");
    }
}

#[test]
fn identities_that_are_no_good() {
    let _guard = guard();
    let authority = Authority::new();
    let (issued, other) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let folder = Folder::new("bad-identities");
    let chain = folder.write("chain.pem", &issued.certificate);
    let key = folder.write("key.pem", &issued.key);
    let other_key = folder.write("other.pem", &other.key);
    let locked = folder.write("locked.pem", encrypted(&issued, "hunter2"));
    let garbage = folder.write("garbage.pem", "garbage");
    let p12 = folder.write("all.p12", archive(&issued, "hunter2"));
    let files = |chain: &PathBuf, key: &PathBuf| {
        TlsServerOptions::new(TlsIdentity::from_pem_files(chain, key).expect("both are there"))
            .build()
    };

    assert_eq!(kind_of(files(&garbage, &key)), TlsErrorKind::Certificate);
    assert_eq!(file_of(files(&garbage, &key)), Some(garbage.clone()));
    assert_eq!(kind_of(files(&chain, &garbage)), TlsErrorKind::Key);
    assert_eq!(file_of(files(&chain, &garbage)), Some(garbage));
    assert_eq!(kind_of(files(&chain, &other_key)), TlsErrorKind::Mismatch);
    assert_eq!(file_of(files(&chain, &other_key)), Some(other_key));
    assert_eq!(kind_of(files(&chain, &locked)), TlsErrorKind::Passphrase);
    assert_eq!(file_of(files(&chain, &locked)), Some(locked.clone()));
    for wrong in ["", "hunter3", "hunter2\0x", &"a".repeat(1025)] {
        let locked = TlsIdentity::from_pem_files(&chain, &locked).expect("both are there");
        let server = TlsServerOptions::new(locked.passphrase(wrong)).build();
        assert_eq!(kind_of(server), TlsErrorKind::Passphrase, "{wrong:?}");
        let archive = TlsIdentity::from_pkcs12_file(&p12, wrong).expect("it is there");
        let server = TlsServerOptions::new(archive).build();
        assert_eq!(kind_of(server), TlsErrorKind::Passphrase, "{wrong:?}");
    }
    let wrong = TlsIdentity::from_pkcs12_file(&p12, "hunter3").expect("it is there");
    let error = TlsServerOptions::new(wrong).build();
    assert_eq!(file_of(error), Some(p12));
    let mut keyless = Pkcs12::builder();
    let certificate = X509::from_pem(issued.certificate.as_bytes()).expect("a certificate");
    let keyless = keyless.cert(&certificate).build2("").expect("an archive");
    let keyless = TlsIdentity::from_pkcs12(keyless.to_der().expect("it encodes"), "");
    assert_eq!(kind_of(TlsServerOptions::new(keyless).build()), TlsErrorKind::Key);
    let nothing = [
        TlsIdentity::from_pem("", ""),
        TlsIdentity::from_pem("", &issued.key),
        TlsIdentity::from_der(Vec::<Vec<u8>>::new(), ""),
        TlsIdentity::from_pkcs12("", ""),
    ];
    for nothing in nothing {
        let server = TlsServerOptions::new(nothing.clone()).build();
        assert_eq!(kind_of(server), TlsErrorKind::Certificate);
        let client = TlsClientOptions::new().identity(nothing.clone()).build();
        assert_eq!(kind_of(client), TlsErrorKind::Certificate);
        let config = TlsServerOptions::new(issued.identity()).build().expect("a configuration");
        assert_eq!(kind_of(config.with_identity(&nothing)), TlsErrorKind::Certificate);
    }
    let empty = TlsIdentity::from_der(Vec::<Vec<u8>>::new(), &issued.key_der);
    assert_eq!(kind_of(TlsServerOptions::new(empty).build()), TlsErrorKind::Certificate);

    let stapled = issued.identity().ocsp_response("no response");
    assert_eq!(kind_of(TlsServerOptions::new(stapled).build()), TlsErrorKind::OcspResponse);

    let expired = authority.issue_expired(&["localhost"]).identity();
    let server = TlsServerOptions::new(expired.clone());
    assert_eq!(kind_of(server.clone().build()), TlsErrorKind::Expired);
    server.danger_accept_expired_identity(true).build().expect("for tests");
    let client = TlsClientOptions::new().identity(expired);
    assert_eq!(kind_of(client.build()), TlsErrorKind::Expired);

    for (result, missing) in [
        (TlsIdentity::from_pem_files("no such file", &key), "no such file"),
        (TlsIdentity::from_pem_files(&chain, "no such key"), "no such key"),
        (TlsIdentity::from_pkcs12_file("no such archive", ""), "no such archive"),
    ] {
        let error = result.expect_err("it is not there");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[test]
fn options_that_are_no_good() {
    let _guard = guard();
    let options = || TlsServerOptions::without_identity();
    assert_eq!(kind_of(options().ciphers("NO-SUCH-CIPHER").build()), TlsErrorKind::Ciphers);
    assert_eq!(kind_of(options().cipher_suites("TLS_NO_SUCH").build()), TlsErrorKind::Suites);
    assert_eq!(kind_of(options().groups("no-such-group").build()), TlsErrorKind::Groups);
    assert_eq!(
        kind_of(options().signature_algorithms("no+such").build()),
        TlsErrorKind::Signatures
    );
    assert_eq!(kind_of(options().alpn([""]).build()), TlsErrorKind::Protocols);
    assert_eq!(kind_of(options().alpn(["a".repeat(256)]).build()), TlsErrorKind::Protocols);
    let empty = TlsVersion::V1_3..TlsVersion::V1_3;
    assert_eq!(kind_of(options().versions(empty).build()), TlsErrorKind::Versions);
    let no_file = options().key_log_file("/no/such/folder/keys").build();
    assert_eq!(file_of(no_file), Some("/no/such/folder/keys".into()));
    assert!(matches!(
        options().tickets(17).build(),
        Err(UsError::InvalidOption { option: "tickets", .. })
    ));
    let client = || TlsClientOptions::new();
    assert_eq!(kind_of(client().trust(TrustAnchors::pem("garbage")).build()), TlsErrorKind::Trust);
    let trust = TrustAnchors::der(b"garbage");
    assert_eq!(kind_of(client().trust(trust).build()), TlsErrorKind::Trust);
    let folder = Folder::new("bad-trust");
    let garbage = folder.write("garbage.pem", "garbage");
    let trust = TrustAnchors::pem_file(&garbage).expect("it is there");
    assert_eq!(file_of(client().trust(trust).build()), Some(garbage.clone()));
    // Of several, the one that cannot be read is named.
    let good = folder.write("good.pem", Authority::new().pem());
    let files = |files: [&PathBuf; 2]| {
        let [first, second] = files.map(|file| TrustAnchors::pem_file(file).expect("it is there"));
        client().trust(TrustAnchors::system().and(first).and(second)).build()
    };
    files([&good, &good]).expect("a configuration");
    assert_eq!(file_of(files([&garbage, &good])), Some(garbage.clone()));
    assert_eq!(file_of(files([&good, &garbage])), Some(garbage));
    let good = TrustAnchors::pem_file(&good).expect("it is there");
    assert_eq!(file_of(client().trust(good.and(TrustAnchors::pem("garbage"))).build()), None);
    let server = options().client_certificates(ClientCertificates::Optional);
    assert!(matches!(server.build(), Err(UsError::InvalidOption { option: "client trust", .. })));
}

#[test]
fn no_list_of_ciphers_does_without_certificates_or_encryption() {
    let _guard = guard();
    let kind_of_lists = |list: &str| {
        let client = TlsClientOptions::new().trust(TrustAnchors::none()).ciphers(list);
        let server = TlsServerOptions::without_identity().ciphers(list).build();
        [client.build().err(), server.err()].map(|error| match error {
            Some(UsError::Tls(error)) => Some(error.kind()),
            Some(error) => panic!("{error}"),
            None => None,
        })
    };
    for bad in
        ["aNULL", "eNULL", "aNULL:@SECLEVEL=0", "ALL:@SECLEVEL=0", "@SECLEVEL=0:ECDHE+AESGCM"]
    {
        assert_eq!(kind_of_lists(bad), [Some(TlsErrorKind::Ciphers); 2], "{bad}");
    }
    for good in ["ALL", "ALL:COMPLEMENTOFALL", "ECDHE+AESGCM:@STRENGTH", "ECDHE+AESGCM:@SECLEVEL=3"]
    {
        assert_eq!(kind_of_lists(good), [None; 2], "{good}");
    }
}

#[test]
fn everything_that_can_be_chosen() {
    let _guard = guard();
    let authority = Authority::new();
    let folder = Folder::new("chosen");
    let log = folder.0.join("keys.log");
    let server = TlsServerOptions::new(authority.issue(&["localhost"]).identity())
        .versions(TlsVersion::V1_2..=TlsVersion::V1_2)
        .ciphers("ECDHE+CHACHA20")
        .groups("P-256")
        .signature_algorithms("ECDSA+SHA256")
        .release_buffers(true)
        .kernel_tls(true)
        .key_log_file(&log)
        .tickets(0)
        .ticket_keys(&TicketKeys::from_bytes(&[[7; 80]]).expect("a key"))
        .build()
        .expect("a configuration");
    let event_loop = new_loop();
    let server = SocketContext::<true>::builder()
        .tls_server(&server)
        .build(&event_loop, ())
        .expect("a context");
    let listener = server.listen(own_address()).expect("a listener");
    let client = SocketContext::<true>::builder()
        .tls_client(&authority.client())
        .build(&event_loop, ())
        .expect("a context");
    let options = ConnectOptions::new().server_name("localhost");
    let address = listener.local_addr().expect("it is bound");
    let socket = client.connect_with(address, &options, ()).expect("it begins");
    pump(&event_loop, || socket.tls().is_ok());
    let handshake = socket.tls().expect("it is done");
    assert_eq!(handshake.version, TlsVersion::V1_2);
    assert_eq!(handshake.cipher, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256");
    pump(&event_loop, || {
        fs::read_to_string(&log).is_ok_and(|text| text.starts_with("CLIENT_RANDOM "))
    });
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(&log).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "nobody else may read it");
}

/// A log of keys that others can read, or that nobody does, is refused; without waiting for a reader.
#[test]
fn logs_of_keys_are_for_nobody_else() {
    let _guard = guard();
    let folder = Folder::new("logs");
    let build = |path: &Path| TlsClientOptions::new().key_log_file(path).build();
    let kind = |path: &Path| match build(path) {
        Err(UsError::Tls(error)) => error.io_kind(),
        other => panic!("{other:?}"),
    };
    let log = folder.0.join("keys.log");
    build(&log).expect("a new one");
    build(&log).expect("the same");
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    fs::set_permissions(&log, mode(0o640)).expect("it is ours");
    assert_eq!(kind(&log), ErrorKind::PermissionDenied);
    let link = folder.0.join("link");
    std::os::unix::fs::symlink(&log, &link).expect("a link");
    assert_eq!(kind(&link), ErrorKind::PermissionDenied);
    fs::set_permissions(&log, mode(0o600)).expect("it is ours");
    build(&link).expect("what it leads to is private");
    let pipe = folder.0.join("pipe");
    let rights = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rights, 0)
        .expect("a pipe");
    assert!(matches!(build(&pipe), Err(UsError::Tls(_))), "nobody reads it");
    build(Path::new("/dev/null")).expect("no file to be read");
}

/// An answer of a responder that has no time (RFC 6960, 4.2.1): the shortest there is.
const TRY_LATER: [u8; 5] = [0x30, 0x03, 0x0a, 0x01, 0x03];

#[test]
fn a_peer_sees_what_was_chosen_for_tls_1_3() {
    let _guard = guard();
    let identity = Authority::new().issue(&["localhost"]).identity();
    let server = TlsServerOptions::new(identity.ocsp_response(TRY_LATER))
        .versions(TlsVersion::V1_3..)
        .cipher_suites("TLS_CHACHA20_POLY1305_SHA256")
        .groups("P-384")
        .signature_algorithms("ECDSA+SHA256")
        .alpn(["unused"])
        .build()
        .expect("a configuration");
    let event_loop = new_loop();
    let handshakes = Log::<Option<Handshake>>::new();
    let log = handshakes.clone();
    let server = SocketContext::<true>::builder()
        .tls_server(&server)
        .on_handshake(move |(), socket, (), result| {
            log.push(result.ok().cloned());
            socket.send(b"after the ticket").expect("it is open");
        })
        .build(&event_loop, ())
        .expect("a context");
    let listener = server.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let mut peer = TlsPeer::client_asking_for(address, "localhost");
    pump(&event_loop, || peer.handshake().is_ok());
    pump(&event_loop, || !handshakes.is_empty());
    assert_eq!(peer.ssl().ocsp_status(), Some(&TRY_LATER[..]));
    let handshake = handshakes.take().swap_remove(0).expect("it is done");
    assert_eq!(handshake.version, TlsVersion::V1_3);
    assert_eq!(handshake.cipher, "TLS_CHACHA20_POLY1305_SHA256");
    assert_eq!(handshake.group.as_deref(), Some("secp384r1"));
    assert_eq!(handshake.alpn, None, "the client has not offered any");
    // A ticket, by which no early data may be sent.
    pump(&event_loop, || peer.read(&mut [0]).is_ok());
    assert_eq!(peer.ssl().session().map(|session| session.max_early_data()), Some(0));
}

#[test]
fn the_library_is_named_and_the_kernel_asked() {
    let library = usockets::tls_library().expect("there is one");
    assert!(library.starts_with("OpenSSL 3"), "{library}");
    let error = usockets::kernel_tls_support().expect_err("the engine does not use it");
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported), "{error}");
}
