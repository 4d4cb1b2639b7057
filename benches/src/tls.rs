//! TLS: what both sides agree upon, and a stream of the client's.
//!
//! TLS 1.3, `TLS_AES_128_GCM_SHA256`, X25519, a self-signed certificate with a key on P-256 that every server
//! makes when it starts. Nobody checks it: that would be the client's work, not the server's.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslSession,
    SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509NameBuilder};

use crate::{Result, load};

pub(crate) const SUITE: &str = "TLS_AES_128_GCM_SHA256";
pub(crate) const GROUP: &str = "X25519";
const NAME: &str = "localhost";

/// How a server over TLS works.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tls {
    /// Session tickets for each client; the library's own number if `None`.
    pub(crate) tickets: Option<u8>,
    /// Whether idle connections give their buffers back.
    pub(crate) release: bool,
}

impl Tls {
    /// The arguments by which a child is told.
    pub(crate) fn arguments(self) -> [String; 2] {
        let tickets = self.tickets.map_or_else(|| "own".to_owned(), |count| count.to_string());
        [tickets, if self.release { "release" } else { "keep" }.to_owned()]
    }

    pub(crate) fn parse(tickets: &str, release: &str) -> Result<Self> {
        let tickets = if tickets == "own" { None } else { Some(tickets.parse()?) };
        Ok(Self { tickets, release: release == "release" })
    }
}

pub(crate) struct Identity {
    pub(crate) certificate: X509,
    pub(crate) key: PKey<Private>,
}

impl Identity {
    pub(crate) fn make() -> Result<Self> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
        let mut name = X509NameBuilder::new()?;
        name.append_entry_by_nid(Nid::COMMONNAME, NAME)?;
        let name = name.build();
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        let serial = BigNum::from_u32(1)?.to_asn1_integer()?;
        builder.set_serial_number(&serial)?;
        builder.set_subject_name(&name)?;
        builder.set_issuer_name(&name)?;
        let begin = Asn1Time::days_from_now(0)?;
        builder.set_not_before(&begin)?;
        let end = Asn1Time::days_from_now(2)?;
        builder.set_not_after(&end)?;
        builder.set_pubkey(&key)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self { certificate: builder.build(), key })
    }
}

fn builder(method: SslMethod) -> Result<SslContextBuilder> {
    let mut builder = SslContext::builder(method)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_ciphersuites(SUITE)?;
    builder.set_groups_list(GROUP)?;
    Ok(builder)
}

/// For the peers that use OpenSSL by themselves.
pub(crate) fn server_context(tls: Tls) -> Result<SslContext> {
    let identity = Identity::make()?;
    let mut builder = builder(SslMethod::tls_server())?;
    builder.set_certificate(&identity.certificate)?;
    builder.set_private_key(&identity.key)?;
    if let Some(tickets) = tls.tickets {
        builder.set_num_tickets(tickets.into())?;
    }
    if tls.release {
        builder.set_mode(SslMode::RELEASE_BUFFERS);
    }
    Ok(builder.build())
}

pub(crate) fn client_builder() -> Result<SslContextBuilder> {
    let mut builder = builder(SslMethod::tls_client())?;
    builder.set_verify(SslVerifyMode::NONE);
    Ok(builder)
}

/// What the streams of a client share.
#[derive(Clone)]
pub(crate) struct Client {
    context: SslContext,
    /// The latest session that a server gave.
    session: Arc<Mutex<Option<SslSession>>>,
    memory: Rc<RefCell<Memory>>,
}

/// Most bytes of one receive, and of ciphertext that is collected for one send.
const BUFFER: usize = 128 * 1024;

/// Ciphertext that was received, of one stream at a time: each is read until nothing is left here.
struct Memory {
    input: Box<[u8]>,
    begin: usize,
    end: usize,
    /// Records that have come, of all streams.
    records: u64,
}

impl Client {
    pub(crate) fn new() -> Result<Self> {
        let session: Arc<Mutex<Option<SslSession>>> = Arc::default();
        let latest = Arc::clone(&session);
        let mut builder = client_builder()?;
        builder
            .set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        builder.set_new_session_callback(move |_, session| {
            *latest.lock().expect("one thread") = Some(session);
        });
        let context = builder.build();
        let memory = Memory { input: vec![0; BUFFER].into(), begin: 0, end: 0, records: 0 };
        Ok(Self { context, session, memory: Rc::new(RefCell::new(memory)) })
    }

    /// Begins a connection; the handshake is still to be made. `resume`: with the latest session, if
    /// there is one.
    pub(crate) fn open(&self, tcp: TcpStream, resume: bool) -> Result<Stream> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_hostname(NAME)?;
        if let Some(session) = self.session.lock().expect("one thread").as_ref().filter(|_| resume)
        {
            // SAFETY: the session was made with this very context.
            unsafe { ssl.set_session(session)? };
        }
        ssl.set_connect_state();
        let wire = Wire {
            tcp,
            memory: Rc::clone(&self.memory),
            output: Vec::new(),
            header: [0; HEADER],
            header_length: 0,
            body: 0,
        };
        Ok(Stream(SslStream::new(ssl, wire)?))
    }

    /// A connection whose handshake is done. It blocks.
    pub(crate) fn connect(&self, tcp: TcpStream) -> Result<Stream> {
        let mut stream = self.open(tcp, false)?;
        stream.shake_hands()?;
        Ok(stream)
    }

    /// Records that have come until now, over all streams.
    pub(crate) fn records(&self) -> u64 {
        self.memory.borrow().records
    }
}

/// A connection over TLS.
pub(crate) struct Stream(SslStream<Wire>);

impl Stream {
    /// Goes on with the handshake. Returns whether it is done.
    pub(crate) fn shake_hands(&mut self) -> Result<bool> {
        match self.0.do_handshake() {
            Ok(()) => Ok(true),
            Err(error) if error.code() == ErrorCode::WANT_READ => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn was_resumed(&self) -> bool {
        self.0.ssl().session_reused()
    }

    /// Tells the server that this is the end.
    pub(crate) fn close(mut self) -> Result<()> {
        self.0.shutdown()?;
        Ok(self.0.get_mut().send()?)
    }
}

impl load::Stream for Stream {
    fn tcp(&self) -> &TcpStream {
        &self.0.get_ref().tcp
    }

    /// One send for several records.
    fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < data.len() && self.0.get_ref().output.len() < BUFFER {
            let room = BUFFER - self.0.get_ref().output.len();
            let piece = (data.len() - taken).min(room);
            taken += self.0.ssl_write(&data[taken..taken + piece]).map_err(io::Error::other)?;
        }
        self.0.get_mut().send()?;
        Ok(taken)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut length = 0;
        while length < buffer.len() {
            match self.0.ssl_read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(got) => length += got,
                Err(error) if error.code() == ErrorCode::WANT_READ => {
                    return Ok((length > 0).then_some(length));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(Some(length))
    }

    fn is_blocked(&self) -> bool {
        !self.0.get_ref().output.is_empty()
    }

    fn has_more(&self) -> bool {
        let memory = self.0.get_ref().memory.borrow();
        memory.begin < memory.end || self.0.ssl().pending() > 0
    }
}

const HEADER: usize = 5;

/// What is beneath: large receives, large sends, and a count of records.
struct Wire {
    tcp: TcpStream,
    memory: Rc<RefCell<Memory>>,
    output: Vec<u8>,
    /// Of the record that begins, as far as it has come.
    header: [u8; HEADER],
    header_length: usize,
    /// What is still to come of the record's body.
    body: usize,
}

impl Wire {
    /// As much as the system takes.
    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.tcp.write(&self.output) {
                Ok(taken) => drop(self.output.drain(..taken)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The number of records that begin in `data`.
    fn count(&mut self, mut data: &[u8]) -> u64 {
        let mut records = 0;
        while !data.is_empty() {
            if self.body > 0 {
                let length = self.body.min(data.len());
                self.body -= length;
                data = &data[length..];
                continue;
            }
            self.header[self.header_length] = data[0];
            self.header_length += 1;
            data = &data[1..];
            if self.header_length == HEADER {
                self.header_length = 0;
                self.body = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                records += 1;
            }
        }
        records
    }
}

impl Read for Wire {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let memory = Rc::clone(&self.memory);
        let mut memory = memory.borrow_mut();
        if memory.begin == memory.end {
            let length = self.tcp.read(&mut memory.input)?;
            memory.begin = 0;
            memory.end = length;
            memory.records += self.count(&memory.input[..length]);
        }
        let length = target.len().min(memory.end - memory.begin);
        let begin = memory.begin;
        target[..length].copy_from_slice(&memory.input[begin..begin + length]);
        memory.begin += length;
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(data);
        Ok(data.len())
    }

    /// The library asks for it at the end of each flight of a handshake.
    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
