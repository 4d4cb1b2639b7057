#![forbid(unsafe_code)]
//! What contexts with TLS are told, and call.

use super::client::TlsClientConfig;
use super::events::{AlpnOffer, PeerCertificates, ServerNameAnswer};
use super::failure::CertificateError;
use super::handshake::Handshake;
use super::server::TlsServerConfig;
use super::session::TlsSession;
use crate::context::ContextBuilder;
use crate::reason::CloseReason;
use crate::socket::Socket;

/// TLS.
///
/// A connection opens, and [`on_open`](Self::on_open) is called, when it is made; the handshake follows
/// by itself, and what is written meanwhile leaves when it is done. [`on_data`](Self::on_data) has what
/// was decrypted. A handshake that does not come to its end in
/// [time](crate::Deadlines::handshake), 10 seconds by default, closes with
/// [`CloseReason::Deadline`].
///
/// In all of these callbacks, as in any other, everything of this crate may be called, also on the socket at hand.
/// [`on_verify`](Self::on_verify) and [`on_alpn`](Self::on_alpn) are called in the middle of the handshake, and what
/// they set in motion, a close for instance, waits until the library has done its step. A panic in any of them comes
/// out of [`run`](crate::Loop::run).
///
/// ```
/// use usockets::{Loop, SocketContext, TlsClientOptions, TlsIdentity, TlsServerOptions, TrustAnchors};
///
/// # #[cfg(feature = "tls")] {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// let event_loop = Loop::<()>::new()?;
/// let identity = TlsIdentity::from_pem(&chain, key);
/// let echo = SocketContext::<true>::builder()
///     .tls_server(&TlsServerOptions::new(identity).build()?)
///     .on_data(|_, socket, _, data| {
///         if socket.send(data).is_err() {
///             socket.reset();
///         }
///     })
///     .build(&event_loop, ())?;
/// let listener = echo.listen("127.0.0.1:0")?;
///
/// let trust = TrustAnchors::pem(chain); // without this, those of the system
/// let client = SocketContext::<true>::builder()
///     .tls_client(&TlsClientOptions::new().trust(trust).build()?)
///     .on_open(|_, socket, _, _| assert_eq!(socket.write(b"hello"), 5))
///     .on_data(|_, socket, _, data| {
///         assert_eq!(data, b"hello");
///         socket.event_loop().stop();
///     })
///     .build(&event_loop, ())?;
/// client.connect(("localhost", listener.local_addr()?.port()))?;
/// event_loop.run()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<T: 'static, S: 'static> ContextBuilder<true, T, S> {
    /// The certificate and policy for connections that are accepted. Without one, listening is an error.
    /// Beneath: `usx_context_set_tls`.
    pub fn tls_server(mut self, config: &TlsServerConfig) -> Self {
        self.settings.tls.server = Some(config.clone());
        self
    }

    /// The trust and policy for connections that are made. Default:
    /// [`TlsClientConfig::shared_default`], which is made when the first connection is. Beneath:
    /// `usx_context_set_tls`.
    pub fn tls_client(mut self, config: &TlsClientConfig) -> Self {
        self.settings.tls.client = Some(config.clone());
        self
    }

    /// Whether a client that asks for a server name without an entry is refused, by the alert
    /// `unrecognized_name`, instead of getting the certificate of the context. One that sends no name gets that
    /// in any case. Default: no. Beneath: `usx_context_refuse_unknown_names`.
    pub fn refuse_unknown_names(mut self, refuse: bool) -> Self {
        self.settings.tls.refuse_unknown_names = refuse;
        self
    }

    /// The handshake is done, or will never be: once for each connection that opened. `Err` is what
    /// [`on_close`](Self::on_close) will be told, which follows at once; so also for a connection that the program
    /// itself closes before. Beneath: `usx_context_on_handshake`.
    ///
    /// With TLS 1.3 a client is done before the server has looked at the client's certificate: where that is refused,
    /// the client is told `Ok` here, and [`on_close`](Self::on_close) has the alert, such as
    /// [`CERTIFICATE_REQUIRED`](crate::TlsAlert::CERTIFICATE_REQUIRED). The first byte of the server shows that it has
    /// agreed.
    ///
    /// ```
    /// use usockets::{Loop, SocketContext};
    ///
    /// # #[cfg(feature = "tls")] {
    /// let event_loop = Loop::<()>::new()?;
    /// let client = SocketContext::<true>::builder()
    ///     .on_handshake(|_, socket, _, result| match result {
    ///         Ok(handshake) => {
    ///             println!("{} with {}", handshake.version, handshake.cipher);
    ///             if handshake.alpn.as_deref() != Some(b"h2") {
    ///                 socket.close();
    ///             }
    ///         }
    ///         Err(reason) => eprintln!("no connection: {reason}"),
    ///     })
    ///     .build(&event_loop, ())?;
    /// # drop(client);
    /// # }
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn on_handshake(
        mut self,
        f: impl FnMut(&mut T, &Socket<true, S>, &mut S, Result<&Handshake, &CloseReason>) + 'static,
    ) -> Self {
        self.callbacks.tls.on_handshake = Some(Box::new(f));
        self
    }

    /// Has a word about the peer's certificate after the library: for pins, lists of those who were let in,
    /// and the like. An error ends the handshake with the alert that belongs to it;
    /// [`CertificateError::REJECTED`] is the one for reasons of the program's own. `Ok` leaves it at what
    /// [the library thinks](PeerCertificates::verified): what that refuses stays refused, unless the options
    /// [accept invalid
    /// certificates](crate::TlsClientOptions::danger_accept_invalid_certificates), where the program decides
    /// alone. If it panics, the peer is refused. Beneath: `usx_context_on_verify`.
    ///
    /// It is called if the peer sends a certificate, and a server is sent one only if it asks. It is not called for
    /// sessions that are resumed: only those are that were made for the same server name and where there was such a
    /// handler, for 24 hours at most. Somebody who is no longer to be let in at once needs other ticket keys
    /// ([`TicketKeys::rotate`](crate::TicketKeys::rotate)). Which handler it was is not known: contexts whose handlers
    /// let in different peers must not share a configuration
    /// or [ticket keys](crate::TicketKeys), nor sessions of clients.
    ///
    /// ```
    /// use usockets::{CertificateError, Loop, SocketContext};
    ///
    /// # #[cfg(feature = "tls")] {
    /// # let pinned = Vec::<u8>::new();
    /// let event_loop = Loop::<()>::new()?;
    /// let client = SocketContext::<true>::builder()
    ///     .on_verify(move |_, _socket, _, certificates| {
    ///         if certificates.leaf() == pinned { Ok(()) } else { Err(CertificateError::REJECTED) }
    ///     })
    ///     .build(&event_loop, ())?;
    /// # drop(client);
    /// # }
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn on_verify(
        mut self,
        f: impl FnMut(
            &mut T,
            &Socket<true, S>,
            &mut S,
            &PeerCertificates,
        ) -> Result<(), CertificateError>
        + 'static,
    ) -> Self {
        self.callbacks.tls.on_verify = Some(Box::new(f));
        self
    }

    /// Chooses among the protocols that a client offers, instead of the list of
    /// [`TlsServerOptions::alpn`](crate::TlsServerOptions::alpn). Returns the position of one of them; `None`, a
    /// position that there is not, and a panic refuse the client by the alert `no_application_protocol`. Not
    /// called for clients that offer none. Beneath: `usx_context_on_protocol`.
    ///
    /// ```
    /// use usockets::{Loop, SocketContext};
    ///
    /// # #[cfg(feature = "tls")] {
    /// let event_loop = Loop::<()>::new()?;
    /// let server = SocketContext::<true>::builder()
    ///     .on_alpn(|_, _socket, _, offer| offer.select(["h2", "http/1.1"]))
    ///     .build(&event_loop, ())?;
    /// # drop(server);
    /// # }
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn on_alpn(
        mut self,
        f: impl FnMut(&mut T, &Socket<true, S>, &mut S, &AlpnOffer<'_>) -> Option<usize> + 'static,
    ) -> Self {
        self.callbacks.tls.on_alpn = Some(Box::new(f));
        self
    }

    /// A client asks for a server name that has no entry. The name may be
    /// [added](crate::SocketContext::add_server_name) here, or later while the handshake
    /// [waits](ServerNameAnswer::Wait). If it panics, the client is refused. Beneath:
    /// `usx_context_on_server_name`.
    ///
    /// Anybody can send any name: certificates are not to be ordered for whatever comes. It is a name that
    /// [`add_server_name`](crate::SocketContext::add_server_name) takes, of labels without `*`, or an IP address: who
    /// sends what has other characters is refused, and a `*` finds no entry.
    ///
    /// ```
    /// use usockets::{Loop, ServerNameAnswer, SocketContext, TlsServerOptions};
    ///
    /// # #[cfg(feature = "tls")] {
    /// let event_loop = Loop::<()>::new()?;
    /// let server = SocketContext::<true>::builder()
    ///     .tls_server(&TlsServerOptions::without_identity().build()?)
    ///     .on_server_name(|_, socket, _, name| {
    ///         if !name.ends_with(".example.org") {
    ///             return ServerNameAnswer::Refuse;
    ///         }
    ///         // Somebody looks for the certificate, adds it, and goes on with this socket.
    ///         let (_name, _id) = (name.to_owned(), socket.id());
    ///         ServerNameAnswer::Wait
    ///     })
    ///     .build(&event_loop, ())?;
    /// # drop(server);
    /// # }
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn on_server_name(
        mut self,
        f: impl FnMut(&mut T, &Socket<true, S>, &mut S, &str) -> ServerNameAnswer + 'static,
    ) -> Self {
        self.callbacks.tls.on_server_name = Some(Box::new(f));
        self
    }

    /// The server has offered a session that a later connection can
    /// [resume](crate::ConnectOptions::tls_session): after the handshake, perhaps several times, perhaps never.
    /// Beneath: `usx_context_on_session`.
    ///
    /// ```
    /// use usockets::{ConnectOptions, Loop, SocketContext, TlsSession};
    ///
    /// # #[cfg(feature = "tls")] {
    /// let event_loop = Loop::<()>::new()?;
    /// let client = SocketContext::<true, Option<TlsSession>>::builder()
    ///     .on_session(|latest, _socket, _, session| *latest = Some(session))
    ///     .build(&event_loop, None)?;
    /// // The next time:
    /// let mut options = ConnectOptions::new();
    /// if let Some(session) = client.with_state(Option::take)? {
    ///     options = options.tls_session(&session);
    /// }
    /// # drop((client, options));
    /// # }
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn on_session(
        mut self,
        f: impl FnMut(&mut T, &Socket<true, S>, &mut S, TlsSession) + 'static,
    ) -> Self {
        self.callbacks.tls.on_session = Some(Box::new(f));
        self
    }
}
