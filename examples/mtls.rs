//! Mutual TLS: a server that lets in who has a certificate of the right issuer, and greets by name.
//!
//! ```text
//! cargo run --release --example mtls -- 127.0.0.1:3443 --write /tmp/mtls
//! cargo run --example tls_client -- localhost:3443 --ca /tmp/mtls/ca.pem \
//!     --cert /tmp/mtls/alice.pem --key /tmp/mtls/alice.key                  # elsewhere
//! ```
//!
//! The issuer, its certificate for the server and those for two clients, alice and bob, are made on the fly; `--write
//! FOLDER` says where to put them. Bob's is good, and the server knows it better: it turns bob away, as one would
//! do with those who have left. Clients without a certificate, and with one of another issuer, do not get
//! past the handshake. Each line that is sent comes back with the name of who said it.

mod common;

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use common::certificates::{Authority, Certified, fingerprint, subject};
use common::{DRAIN_TIME, Options};
use usockets::{
    CertificateError, ClientCertificates, Deadlines, Loop, Socket, SocketContext, TlsServerOptions,
};

/// Who has a good certificate, and is not let in nevertheless.
const LOCKED_OUT: &str = "CN=bob";

/// The longest line, in bytes.
const LINE_MAX: usize = 1024;

/// State of the context.
#[derive(Default)]
struct Totals {
    guests: u64,
    refused: u64,
}

/// State of each socket.
#[derive(Default)]
struct Guest {
    name: String,
    /// The beginning of a line.
    input: Vec<u8>,
}

fn main() -> ExitCode {
    common::run("127.0.0.1:3443", serve)
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let options = Options::parse(&["--write"])?;
    let authority = Authority::new("usockets example authority")?;
    if let Some(folder) = options.get("--write") {
        write_clients(&authority, Path::new(folder))
            .map_err(|error| format!("{folder}: {error}"))?;
    }
    let identity = authority.server(&["localhost", "127.0.0.1", "::1"])?.identity();
    let config = TlsServerOptions::new(identity)
        .client_certificates(ClientCertificates::Required)
        .client_trust(authority.trust())
        .build()?;

    let event_loop = Loop::<()>::new()?;
    let club = SocketContext::<true, Totals, Guest>::builder()
        .tls_server(&config)
        .deadlines(Deadlines::new().drain(DRAIN_TIME))
        .on_verify(|_totals, _socket, _guest, certificates| {
            certificates.verified()?; // what the library has found wrong is wrong
            match subject(certificates.leaf()).as_str() {
                LOCKED_OUT => Err(CertificateError::REJECTED),
                _ => Ok(()),
            }
        })
        .on_handshake(|totals, socket, guest, result| match result {
            Ok(_handshake) => {
                totals.guests += 1;
                welcome(socket, guest);
            }
            Err(reason) => {
                totals.refused += 1;
                println!("refused: {reason}");
            }
        })
        .on_data(|_totals, socket, guest, data| {
            guest.input.extend_from_slice(data);
            guest.answer_lines(socket);
        })
        .on_end(|_totals, socket, _guest| socket.close_after_flush())
        .on_drain_requested(|_totals, socket, _guest| socket.close())
        .build(&event_loop, Totals::default())?;

    let listener = club.listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let _signals = common::drain_on_signals(&event_loop)?;
    event_loop.run()?;

    club.with_state(|totals| {
        println!("{} guests, {} refused", totals.guests, totals.refused);
    })?;
    Ok(())
}

/// Says who came: there is nobody without a certificate.
fn welcome(socket: &Socket<true, Guest>, guest: &mut Guest) {
    let chain = socket.peer_certificates().unwrap_or_default();
    let leaf = chain.first().map_or(&[][..], Vec::as_slice);
    guest.name = subject(leaf);
    println!("{} has come, SHA-256 {}", guest.name, fingerprint(leaf));
    guest.say(socket, "welcome");
}

impl Guest {
    fn say(&self, socket: &Socket<true, Self>, line: &str) {
        if socket.send(format!("{}: {line}\n", self.name).as_bytes()).is_err() {
            socket.reset(); // it does not read
        }
    }

    fn answer_lines(&mut self, socket: &Socket<true, Self>) {
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            self.say(socket, String::from_utf8_lossy(&line[..end]).trim_end());
        }
        if self.input.len() > LINE_MAX {
            socket.close();
        }
    }
}

/// What clients need: whom to trust, and who they are.
fn write_clients(authority: &Authority, folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("ca.pem"), authority.certificate())?;
    for name in ["alice", "bob"] {
        let Certified { certificate, key, .. } = authority.client(name)?;
        fs::write(folder.join(format!("{name}.pem")), certificate)?;
        write_secret(&folder.join(format!("{name}.key")), &key)?;
    }
    Ok(())
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new();
    file.write(true).create(true).truncate(true).mode(0o600);
    file.open(path)?.write_all(text.as_bytes())
}
