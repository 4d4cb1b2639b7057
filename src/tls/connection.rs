#![forbid(unsafe_code)]
//! What sockets with TLS have besides.

use std::any::Any;
use std::rc::Rc;

use super::handshake::Handshake;
use crate::error::UsError;
use crate::socket::Socket;

/// TLS.
impl<S: 'static> Socket<true, S> {
    /// What the handshake has agreed on. Beneath: `usx_socket_tls_info`.
    ///
    /// ```
    /// use usockets::{Loop, SocketContext};
    ///
    /// # #[cfg(feature = "tls")] {
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<true>::builder()
    ///     .on_data(|_, socket, _, _data| {
    ///         let protocol = socket.tls().expect("data comes after the handshake").alpn;
    ///         let own = socket.peer_certificates().expect("and certificates, too").into_iter().next();
    ///         println!("{protocol:?}, {} bytes of certificate", own.map_or(0, |der| der.len()));
    ///     })
    ///     .build(&event_loop, ())?;
    /// # drop(context);
    /// # }
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed) before the handshake is done; [`Stale`](UsError::Stale),
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn tls(&self) -> Result<Handshake, UsError> {
        self.raw()?.handshake().map(Handshake::from_raw).ok_or(UsError::Closed)
    }

    /// The certificates that the peer has sent, in DER, its own first; none if it has sent none. In
    /// [`on_verify`](crate::ContextBuilder::on_verify), too. Beneath: `usx_socket_tls_peer_chain`.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed) before they have come; [`Stale`](UsError::Stale),
    /// [`LoopClosed`](UsError::LoopClosed), [`UsError::Io`] without memory.
    pub fn peer_certificates(&self) -> Result<Vec<Vec<u8>>, UsError> {
        self.raw()?.peer_chain().map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTCONN) => UsError::Closed,
            _ => UsError::io("peer_certificates", error),
        })
    }

    /// The peer's own certificate as a type of the crate `openssl`, which can be asked for its names, times and
    /// fingerprints; `None` if it has sent none. Beneath: `usx_socket_tls_peer_chain`.
    ///
    /// ```
    /// use openssl::hash::MessageDigest;
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<true>::builder()
    ///     .on_data(|_, socket, _, _data| {
    ///         if let Ok(Some(certificate)) = socket.peer_certificate_x509() {
    ///             println!("{:?}", certificate.digest(MessageDigest::sha256()));
    ///         }
    ///     })
    ///     .build(&event_loop, ())?;
    /// # drop(context);
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`peer_certificates`](Self::peer_certificates).
    #[cfg(feature = "openssl")]
    pub fn peer_certificate_x509(&self) -> Result<Option<openssl::x509::X509>, UsError> {
        let chain = self.peer_certificates()?;
        let leaf = chain.first().map(|der| openssl::x509::X509::from_der(der));
        leaf.transpose().map_err(|error| UsError::io("peer_certificate_x509", error.into()))
    }

    /// What was [added](crate::SocketContext::add_server_name_with) with the server name that the client has
    /// asked for; `None` if there is none, it is no `D`, or the name was removed since. Beneath:
    /// `us_socket_server_name_userdata`.
    pub fn server_name_data<D: 'static>(&self) -> Option<Rc<D>> {
        let data: Rc<dyn Any> = crate::trampoline::server_name_data(self.raw().ok()?)?;
        data.downcast().ok()
    }

    /// Whether the handshake is under way, or [waits](crate::ServerNameAnswer::Wait) for the program. Beneath:
    /// `usx_socket_tls_state`.
    pub fn is_handshaking(&self) -> bool {
        self.live().is_ok_and(|socket| socket.is_handshaking())
    }

    /// Goes on with a handshake that [waits](crate::ServerNameAnswer::Wait): the server name is looked up again,
    /// and [`on_server_name`](crate::ContextBuilder::on_server_name) is not called again. Beneath:
    /// `usx_socket_tls_continue`.
    ///
    /// ```
    /// use usockets::{Loop, ServerNameAnswer, SocketContext, TlsServerConfig, TlsServerOptions, UsError};
    ///
    /// # #[cfg(feature = "tls")] {
    /// # fn look_for_certificate(_name: &str) -> Option<TlsServerConfig> { None }
    /// let event_loop = Loop::<()>::new()?;
    /// let handle = event_loop.handle();
    /// let server = SocketContext::<true>::builder()
    ///     .tls_server(&TlsServerOptions::without_identity().build()?)
    ///     .on_server_name(move |_, socket, _, name| {
    ///         let (name, id, handle) = (name.to_owned(), socket.id(), handle.clone());
    ///         std::thread::spawn(move || {
    ///             let found = look_for_certificate(&name); // takes its time
    ///             handle.defer(move |event_loop| {
    ///                 // An error: the client has gone, or the deadline was over.
    ///                 let answer = || -> Result<(), UsError> {
    ///                     let socket = id.resolve(event_loop)?;
    ///                     let Some(config) = found else { return socket.refuse_handshake() };
    ///                     socket.context::<()>()?.replace_server_name(&name, &config, None)?;
    ///                     socket.continue_handshake()
    ///                 };
    ///                 answer().unwrap_or_else(|error| eprintln!("{name}: {error}"));
    ///             })
    ///         });
    ///         ServerNameAnswer::Wait
    ///     })
    ///     .build(&event_loop, ())?;
    /// # drop(server);
    /// # }
    /// # Ok::<(), UsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) if it does not wait; [`Closed`](UsError::Closed),
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed).
    pub fn continue_handshake(&self) -> Result<(), UsError> {
        self.answer(false)
    }

    /// Refuses a client whose handshake [waits](crate::ServerNameAnswer::Wait), by the alert `unrecognized_name`.
    /// Beneath: `usx_socket_tls_continue`.
    ///
    /// # Errors
    ///
    /// Those of [`continue_handshake`](Self::continue_handshake).
    pub fn refuse_handshake(&self) -> Result<(), UsError> {
        self.answer(true)
    }

    fn answer(&self, refuse: bool) -> Result<(), UsError> {
        self.live()?.continue_handshake(refuse).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => UsError::invalid("handshake", "it does not wait"),
            Some(libc::ENOTCONN) => UsError::Closed,
            _ => UsError::io("continue_handshake", error),
        })
    }
}
