//! A TLS connection outside the crate, by the crate `openssl`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;

use openssl::pkey::PKey;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslRef, SslStream,
    SslVerifyMode, StatusType,
};
use openssl::x509::X509;

use super::certificates::{Issued, certificates};

/// Reads and writes as a stream does: `Ok(0)` is a close_notify, a bare end is
/// [`UnexpectedEof`](ErrorKind::UnexpectedEof). The handshake happens by the way. Sends a close_notify when it
/// is dropped.
#[derive(Debug)]
pub(crate) struct TlsPeer {
    stream: SslStream<TcpStream>,
    ends_in_order: bool,
}

impl TlsPeer {
    /// A client that trusts the tests' authority, and expects `localhost`.
    pub(crate) fn client(stream: TcpStream) -> Self {
        static CONTEXT: OnceLock<SslContext> = OnceLock::new();
        let context = CONTEXT.get_or_init(|| client_context().build());
        Self::client_of(stream, context)
    }

    /// A client by settings of one's own: those of [`client_context`], changed.
    pub(crate) fn client_of(stream: TcpStream, context: &SslContext) -> Self {
        let mut ssl = Ssl::new(context).expect("a connection");
        ssl.set_hostname("localhost").expect("a name");
        ssl.param_mut().set_host("localhost").expect("a name");
        ssl.set_connect_state();
        Self::of(stream, ssl)
    }

    /// A client that asks for any text as a server name, and for a stapled OCSP response, and takes whatever it gets.
    pub(crate) fn client_asking_for(address: SocketAddr, name: &str) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_nonblocking(true).expect("it is a socket");
        let mut ssl = Ssl::new(&context().build()).expect("a connection");
        ssl.set_hostname(name).expect("a name");
        ssl.set_status_type(StatusType::OCSP).expect("a client");
        ssl.set_connect_state();
        Self::of(stream, ssl)
    }

    /// A server at `localhost`.
    pub(crate) fn server(stream: TcpStream) -> Self {
        static CONTEXT: OnceLock<SslContext> = OnceLock::new();
        let context = CONTEXT.get_or_init(|| server_context(&certificates().server).build());
        Self::server_of(stream, context)
    }

    /// A server by settings of one's own: those of [`server_context`], changed.
    pub(crate) fn server_of(stream: TcpStream, context: &SslContext) -> Self {
        let mut ssl = Ssl::new(context).expect("a connection");
        ssl.set_accept_state();
        Self::of(stream, ssl)
    }

    fn of(stream: TcpStream, ssl: Ssl) -> Self {
        let stream = SslStream::new(ssl, stream).expect("a stream");
        Self { stream, ends_in_order: true }
    }

    /// Goes on with the handshake, until it is done or would have to wait.
    pub(crate) fn handshake(&mut self) -> io::Result<()> {
        self.stream.do_handshake().map_err(io_error)
    }

    /// Takes in what is there and is no data: session tickets.
    pub(crate) fn take_tickets(&mut self) {
        match self.stream.ssl_peek(&mut [0]).map_err(io_error) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("peek failed: {error}"),
            _ => {}
        }
    }

    /// Sends a close_notify, and no FIN.
    pub(crate) fn close_notify(&mut self) -> io::Result<()> {
        self.stream.shutdown().map(drop).map_err(io_error)
    }

    /// Ends its direction as careful programs do: a close_notify, then a FIN.
    pub(crate) fn end_output(&mut self) -> io::Result<()> {
        self.close_notify()?;
        self.tcp().shutdown(Shutdown::Write)
    }

    /// What is dropped now sends no close_notify.
    pub(crate) fn cut(&mut self) {
        self.ends_in_order = false;
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub(crate) fn ssl(&self) -> &SslRef {
        self.stream.ssl()
    }
}

impl Read for TlsPeer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.ssl_read(buffer) {
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
            read => read.map_err(io_error),
        }
    }
}

impl Write for TlsPeer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.stream.ssl_write(data).map_err(io_error)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TlsPeer {
    fn drop(&mut self) {
        if self.ends_in_order && self.ssl().is_init_finished() {
            // The other side may be gone already.
            let _sent = self.close_notify();
            // A close_notify that nobody has read is data that nobody has read: the system would reset the
            // connection, and discard what it has not sent yet.
            let _set = self.tcp().set_nonblocking(true);
            let _peeked = self.stream.ssl_peek(&mut [0]);
        }
    }
}

/// The settings of [`TlsPeer::client`].
pub(crate) fn client_context() -> SslContextBuilder {
    let mut context = context();
    let authority = X509::from_der(certificates().authority.der()).expect("a certificate");
    context.cert_store_mut().add_cert(authority).expect("it is not there yet");
    context.set_verify(SslVerifyMode::PEER);
    context
}

/// The settings of a server with this certificate.
pub(crate) fn server_context(issued: &Issued) -> SslContextBuilder {
    let mut context = context();
    identify(&mut context, issued);
    context
}

/// Gives a client or a server its certificate.
pub(crate) fn identify(context: &mut SslContextBuilder, issued: &Issued) {
    let parse = |der: &[u8]| X509::from_der(der).expect("a certificate");
    context.set_certificate(&parse(&issued.certificate_der)).expect("it is one");
    for between in &issued.between_der {
        context.add_extra_chain_cert(parse(between)).expect("it is one");
    }
    let key = PKey::private_key_from_der(&issued.key_der).expect("a key");
    context.set_private_key(&key).expect("it belongs to the certificate");
}

fn context() -> SslContextBuilder {
    let mut context = SslContextBuilder::new(SslMethod::tls()).expect("a context");
    // As streams do: what is written may be taken in part, and offered again from another place.
    context.set_mode(SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    context
}

fn io_error(error: openssl::ssl::Error) -> io::Error {
    match error.code() {
        ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => ErrorKind::WouldBlock.into(),
        // The peer's FIN, as newer versions of the library tell it.
        _ if error.to_string().contains("unexpected eof") => ErrorKind::UnexpectedEof.into(),
        ErrorCode::SYSCALL if error.io_error().is_none() => ErrorKind::UnexpectedEof.into(),
        _ => error.into_io_error().unwrap_or_else(io::Error::other),
    }
}
