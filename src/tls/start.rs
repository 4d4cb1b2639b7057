#![forbid(unsafe_code)]
//! TLS that begins on a connection without: STARTTLS.

use std::ffi::CString;

use super::names::server_name;
use super::session::{TlsSession, client_settings};
use crate::context::SocketContext;
use crate::error::UsError;
use crate::ffi::ClientSettings;
use crate::socket::Socket;

/// Who one is when TLS [starts](Socket::start_tls).
#[derive(Debug, Clone)]
#[must_use = "it does nothing by itself"]
pub struct StartTls(Option<Client>);

#[derive(Debug, Clone)]
struct Client {
    server_name: String,
    session: Option<TlsSession>,
}

impl StartTls {
    /// The server, whatever side has connected.
    pub fn server() -> Self {
        Self(None)
    }

    /// The client of a server with this name or address, which its certificate must be for.
    pub fn client(server_name: impl Into<String>) -> Self {
        Self(Some(Client { server_name: server_name.into(), session: None }))
    }

    /// Resumes a session, as a client.
    pub fn session(mut self, session: &TlsSession) -> Self {
        if let Some(client) = &mut self.0 {
            client.session = Some(session.clone());
        }
        self
    }

    pub(crate) fn is_client(&self) -> bool {
        self.0.is_some()
    }

    /// The name for C, which [`settings`](Self::settings) borrows.
    pub(crate) fn server_name(&self) -> Result<Option<CString>, UsError> {
        self.0.as_ref().map(|client| server_name(&client.server_name)).transpose()
    }

    /// What a client adds; `None` for a server.
    pub(crate) fn settings<'a>(
        &'a self,
        server_name: &'a Option<CString>,
    ) -> Option<ClientSettings<'a>> {
        let client = self.0.as_ref()?;
        client_settings(server_name.as_deref(), client.session.as_ref())
    }
}

impl<S: 'static> Socket<false, S> {
    /// Begins TLS on this connection, as protocols do by a command such as `STARTTLS`: moves it to a context
    /// with TLS, as [`adopt`](Self::adopt) does, where the handshake follows. Beneath:
    /// `usx_socket_start_tls_later`.
    ///
    /// What was accepted for sending before leaves as it is. The `unread` bytes at the end of the data at hand,
    /// and all that follow, belong to TLS. **A peer that may not yet have begun TLS must have nothing unread:** what
    /// comes in one piece with the command was sent by anybody on the way, in the clear, and has to be refused
    /// rather than read ([RFC 3207, 6](https://www.rfc-editor.org/rfc/rfc3207#section-6)); as TLS it does not
    /// pass for more than a failed handshake.
    ///
    /// If `convert` panics the connection is [reset](crate::CloseReason::LocalReset): it does not go on in the clear.
    ///
    /// The target's [`on_adopt`](crate::ContextBuilder::on_adopt) takes the place of `on_open`, and its
    /// [`on_handshake`](crate::ContextBuilder::on_handshake) follows.
    ///
    /// ```
    /// use usockets::{Loop, SocketContext, StartTls, TlsClientOptions, TlsIdentity};
    /// use usockets::{TlsServerOptions, TrustAnchors};
    ///
    /// # #[cfg(feature = "tls")] {
    /// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    /// let event_loop = Loop::<()>::new()?;
    /// let secure_server = SocketContext::<true>::builder()
    ///     .tls_server(&TlsServerOptions::new(TlsIdentity::from_pem(&chain, key)).build()?)
    ///     .on_handshake(|_, socket, _, result| {
    ///         result.expect("both agree");
    ///         socket.send(b"secret").expect("it is open");
    ///     })
    ///     .build(&event_loop, ())?;
    /// let server = SocketContext::<false>::builder()
    ///     .on_data(move |_, socket, _, data| {
    ///         assert_eq!(data, b"STARTTLS\n");
    ///         socket.send(b"go ahead\n").expect("it is open"); // leaves in the clear
    ///         socket.start_tls(&secure_server, StartTls::server(), 0, |()| ()).expect("it is open");
    ///     })
    ///     .build(&event_loop, ())?;
    /// let listener = server.listen("127.0.0.1:0")?;
    ///
    /// let trust = TrustAnchors::pem(chain);
    /// let secure_client = SocketContext::<true>::builder()
    ///     .tls_client(&TlsClientOptions::new().trust(trust).build()?)
    ///     .on_data(|_, socket, _, data| {
    ///         assert_eq!(data, b"secret");
    ///         socket.event_loop().stop();
    ///     })
    ///     .build(&event_loop, ())?;
    /// let client = SocketContext::<false>::builder()
    ///     .on_open(|_, socket, _, _| socket.send(b"STARTTLS\n").expect("it is open"))
    ///     .on_data(move |_, socket, _, data| {
    ///         assert_eq!(data, b"go ahead\n");
    ///         let role = StartTls::client("localhost");
    ///         socket.start_tls(&secure_client, role, 0, |()| ()).expect("it is open");
    ///     })
    ///     .build(&event_loop, ())?;
    /// client.connect(listener.local_addr()?)?;
    /// event_loop.run()?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`adopt`](Self::adopt); [`Piped`](UsError::Piped) also while a file waits to be sent;
    /// [`InvalidOption`](UsError::InvalidOption) for a server name that is none, and for a server in a context
    /// without a [`TlsServerConfig`](crate::TlsServerConfig); for a client in a
    /// context without a configuration for clients, those of
    /// [`TlsClientConfig::shared_default`](crate::TlsClientConfig::shared_default).
    pub fn start_tls<T2: 'static, S2: 'static>(
        &self,
        target: &SocketContext<true, T2, S2>,
        role: StartTls,
        unread: usize,
        convert: impl FnOnce(&mut S) -> S2 + 'static,
    ) -> Result<(), UsError> {
        crate::trampoline::start_tls(self, target, &role, unread, convert)
    }
}
