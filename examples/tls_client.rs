//! A TLS client: shows what the handshake has agreed on, sends what standard input says, prints what
//! comes back.
//!
//! ```text
//! cargo run --example tls_client -- localhost:3443 --ca /tmp/echo.pem
//! printf 'GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n' |
//!     cargo run --example tls_client -- example.org:443 --alpn http/1.1
//! ```
//!
//! The server must have a certificate that the system trusts, for the name or address connected to.
//! Options, each with a value: `--ca FILE` trusts the certificates in this file instead; `--name NAME` asks for
//! another name than the one connected to; `--cert FILE` and `--key FILE` are our own, for mutual TLS; `--alpn
//! LIST` offers protocols, with commas between them; `--session FILE` resumes the session in this file, if
//! there is one, and writes the next one to it, which only its owner should be able to read.
//!
//! At the end of the input it finishes sending, and ends when the server has finished too. Messages go
//! to standard error, and the exit code is 1 if the connection fails or is cut off.

mod common;

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use common::{Options, certificates};
use usockets::{
    Backend, CloseReason, ConnectOptions, Handshake, Interest, Loop, Poll, Socket, SocketContext,
    TlsClientOptions, TlsIdentity, TlsSession, TrustAnchors,
};

/// State of the context.
#[derive(Default)]
struct Client {
    input: Option<Poll<File>>,
    session: Option<TlsSession>,
    /// What went wrong.
    failure: Option<Box<dyn Error>>,
}

fn main() -> ExitCode {
    common::run("localhost:3443", talk)
}

fn talk(address: &str) -> Result<(), Box<dyn Error>> {
    let options = Options::parse(&["--ca", "--name", "--cert", "--key", "--alpn", "--session"])?;
    // poll(2) can watch plain files as well, unlike epoll, and is as good for two descriptors.
    let event_loop = Loop::<()>::builder().backend(Backend::Poll).build(())?;
    let client = client(&event_loop, tls_options(&options)?)?;

    let mut connect = ConnectOptions::new();
    if let Some(name) = options.get("--name") {
        connect = connect.server_name(name);
    }
    if let Some(session) = options.get("--session").map(read_session).transpose()?.flatten() {
        connect = connect.tls_session(&session);
    }
    client.connect_with(address, &connect, ())?;
    event_loop.run()?;

    let Client { session, failure, .. } = client.with_state(std::mem::take)?;
    if let (Some(path), Some(session)) = (options.get("--session"), session) {
        write_session(path, &session).map_err(|error| format!("{path}: {error}"))?;
    }
    failure.map_or(Ok(()), Err)
}

/// The session of an earlier run, if there was one.
fn read_session(path: &str) -> Result<Option<TlsSession>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(TlsSession::from_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

fn write_session(path: &str, session: &TlsSession) -> io::Result<()> {
    let mut file = OpenOptions::new();
    file.write(true).create(true).truncate(true).mode(0o600);
    file.open(path)?.write_all(session.as_bytes())
}

/// Whom we trust, and who we are.
fn tls_options(options: &Options) -> Result<TlsClientOptions, Box<dyn Error>> {
    let mut tls = TlsClientOptions::new();
    if let Some(path) = options.get("--ca") {
        tls = tls.trust(TrustAnchors::pem_file(path)?);
    }
    match (options.get("--cert"), options.get("--key")) {
        (Some(certificate), Some(key)) => {
            tls = tls.identity(TlsIdentity::from_pem_files(certificate, key)?);
        }
        (None, None) => {}
        _ => return Err("--cert and --key belong together".into()),
    }
    if let Some(protocols) = options.get("--alpn") {
        tls = tls.alpn(protocols.split(','));
    }
    Ok(tls)
}

fn client(
    event_loop: &Loop,
    tls: TlsClientOptions,
) -> Result<SocketContext<true, Client>, Box<dyn Error>> {
    let client = SocketContext::<true, Client>::builder()
        .tls_client(&tls.build()?)
        .on_handshake(|client, socket, (), result| {
            let Ok(handshake) = result else { return }; // `on_close` says it
            show(socket, handshake);
            match common::stdin::send(socket) {
                Ok(input) => client.input = Some(input),
                Err(error) => {
                    client.failure = Some(error.into());
                    socket.close();
                }
            }
        })
        .on_session(|client, _socket, (), session| client.session = Some(session))
        .on_data(|client, socket, (), data| {
            // May block, which holds up nobody but this one connection.
            let mut stdout = io::stdout().lock();
            if let Err(error) = stdout.write_all(data).and_then(|()| stdout.flush()) {
                client.failure = Some(error.into());
                socket.close();
            }
        })
        .on_drain(|client, socket, ()| {
            if let Some(input) = client.input.as_ref().filter(|_| !socket.is_shut_down()) {
                input.set_interest(Interest::READABLE).expect("it is watched already");
            }
        })
        .on_close(|client, _socket, (), reason| {
            client.input = None; // nothing keeps the loop running any more
            if !matches!(reason, CloseReason::End | CloseReason::Local) {
                client.failure = Some(reason.to_string().into());
            }
        })
        .on_connect_error(|client, _socket, (), error| {
            client.failure = Some(error.to_string().into());
        })
        .build(event_loop, Client::default())?;
    Ok(client)
}

/// What a user would like to know about the connection.
fn show(socket: &Socket<true>, handshake: &Handshake) {
    eprintln!(
        "{}, {}, group {}, ALPN {}, {}",
        handshake.version,
        handshake.cipher,
        handshake.group.as_deref().unwrap_or("not known"),
        certificates::text(handshake.alpn.as_deref()),
        if handshake.is_resumed { "resumed" } else { "full handshake" },
    );
    match handshake.verification {
        Ok(()) => eprintln!("the certificate is good"),
        Err(error) => eprintln!("the certificate is not good: {error}"),
    }
    for (number, der) in socket.peer_certificates().unwrap_or_default().iter().enumerate() {
        let (subject, digest) = (certificates::subject(der), certificates::fingerprint(der));
        eprintln!("  {number}: {subject}; SHA-256 {digest}");
    }
}
