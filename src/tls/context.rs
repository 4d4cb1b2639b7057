#![forbid(unsafe_code)]
//! What contexts with TLS have besides.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::client::TlsClientConfig;
use super::identity::TlsIdentity;
use super::names::pattern as pattern_for_c;
use super::server::TlsServerConfig;
use crate::context::SocketContext;
use crate::error::UsError;
use crate::ffi::RawContext;
use crate::shell::Frame;

/// What a context with TLS begins with.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsSetup {
    pub(crate) server: Option<TlsServerConfig>,
    pub(crate) client: Option<TlsClientConfig>,
    pub(crate) refuse_unknown_names: bool,
}

/// The configurations that a context has at present.
#[derive(Debug, Default)]
pub(crate) struct ContextTls(RefCell<(Option<TlsServerConfig>, Option<TlsClientConfig>)>);

impl ContextTls {
    fn server(&self) -> Option<TlsServerConfig> {
        self.0.borrow().0.clone()
    }

    fn client(&self) -> Option<TlsClientConfig> {
        self.0.borrow().1.clone()
    }

    /// Sets both in the engine, and keeps them.
    pub(crate) fn set(
        &self,
        context: RawContext<'_>,
        server: Option<TlsServerConfig>,
        client: Option<TlsClientConfig>,
    ) -> Result<(), UsError> {
        let raw_server = server.as_ref().map(TlsServerConfig::raw);
        let raw_client = client.as_ref().map(TlsClientConfig::raw);
        context.set_tls(raw_server, raw_client).map_err(tls_error)?;
        // What was there is dropped when nothing is borrowed any more.
        let _before = self.0.replace((server, client));
        Ok(())
    }

    /// Forgets both, with the context.
    pub(crate) fn clear(&self) {
        let _before = self.0.take();
    }
}

fn tls_error(error: io::Error) -> UsError {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => UsError::TlsUnavailable,
        _ => UsError::io("tls", error),
    }
}

/// Before a connect or the like: gives the context what clients have by default, if it has nothing.
pub(crate) fn prepare_client(tls: &ContextTls, context: RawContext<'_>) -> Result<(), UsError> {
    if tls.client().is_some() {
        return Ok(());
    }
    tls.set(context, tls.server(), Some(TlsClientConfig::shared_default()?))
}

/// Before something is accepted: there must be a certificate.
pub(crate) fn require_server(tls: &ContextTls) -> Result<(), UsError> {
    if tls.0.borrow().0.is_some() {
        return Ok(());
    }
    let reason = "the context has no TlsServerConfig to accept connections with";
    Err(UsError::invalid("TLS server configuration", reason))
}

/// TLS.
impl<T: 'static, S: 'static> SocketContext<true, T, S> {
    /// The configuration for accepted connections, if there is one.
    ///
    /// # Errors
    ///
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn tls_server(&self) -> Result<Option<TlsServerConfig>, UsError> {
        Ok(self.tls_state()?.server())
    }

    /// Changes the configuration for accepted connections: handshakes that begin from now on have it,
    /// connections go on with what they have. Beneath: `usx_context_set_tls`.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] without memory, [`LoopClosed`](UsError::LoopClosed).
    pub fn set_tls_server(&self, config: &TlsServerConfig) -> Result<(), UsError> {
        let tls = self.tls_state()?;
        tls.set(self.raw()?, Some(config.clone()), tls.client())
    }

    /// Changes the configuration for connections that are made: those that begin from now on have it.
    /// Beneath: `usx_context_set_tls`.
    ///
    /// # Errors
    ///
    /// Those of [`set_tls_server`](Self::set_tls_server).
    pub fn set_tls_client(&self, config: &TlsClientConfig) -> Result<(), UsError> {
        let tls = self.tls_state()?;
        tls.set(self.raw()?, tls.server(), Some(config.clone()))
    }

    /// Takes a renewed certificate: handshakes that begin from now on have it, connections go on. Everything else
    /// stays as it was, the ticket keys included, so that sessions from before are resumed. Beneath:
    /// `usx_context_set_tls`.
    ///
    /// It is for the certificate of the context; for a server name see
    /// [`replace_server_name`](Self::replace_server_name).
    ///
    /// ```
    /// use usockets::{Loop, SocketContext, TlsIdentity, TlsServerOptions};
    ///
    /// # #[cfg(feature = "tls")] {
    /// # let make = || -> Result<TlsIdentity, rcgen::Error> {
    /// #     let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// #     Ok(TlsIdentity::from_pem(made.cert.pem(), made.signing_key.serialize_pem()))
    /// # };
    /// # let (identity, renewed) = (make()?, make()?);
    /// let event_loop = Loop::<()>::new()?;
    /// let server = SocketContext::<true>::builder()
    ///     .tls_server(&TlsServerOptions::new(identity).build()?)
    ///     .build(&event_loop, ())?;
    /// let listener = server.listen("127.0.0.1:0")?;
    /// // Weeks later:
    /// server.set_certificate(&renewed)?;
    /// # drop(listener);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`TlsServerConfig::with_identity`], and nothing has changed then;
    /// [`InvalidOption`](UsError::InvalidOption) if the context has no configuration for servers;
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn set_certificate(&self, identity: &TlsIdentity) -> Result<(), UsError> {
        let tls = self.tls_state()?;
        require_server(tls)?;
        let Some(config) = tls.server() else { return Ok(()) };
        self.set_tls_server(&config.with_identity(identity)?)
    }

    /// Gives a server name a configuration of its own: its certificate, and what it asks of clients and trusts
    /// them by. Clients that send a name which fits the pattern get it instead of the context's, but for the groups
    /// for the key exchange, which remain those of the context. Beneath: `usx_context_add_server_name`.
    ///
    /// A pattern consists of labels with dots between them, at most 255 bytes: ASCII letters, digits, `-` and `_`, or
    /// `*` for one label, whatever it is: `"example.org"`, `"*.example.org"`. A name is compared label by label from
    /// the left, exact labels before `*`; case does not matter, nor a dot at the end. Sessions are resumed only under
    /// a policy that asks the same of the client.
    ///
    /// ```
    /// use usockets::{Loop, SocketContext, TlsIdentity, TlsServerOptions};
    ///
    /// # #[cfg(feature = "tls")] {
    /// # let make = |name: &str| -> Result<TlsIdentity, rcgen::Error> {
    /// #     let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    /// #     Ok(TlsIdentity::from_pem(made.cert.pem(), made.signing_key.serialize_pem()))
    /// # };
    /// # let (of_org, of_net) = (make("example.org")?, make("*.example.net")?);
    /// let event_loop = Loop::<()>::new()?;
    /// let server = SocketContext::<true>::builder()
    ///     .tls_server(&TlsServerOptions::without_identity().build()?)
    ///     .build(&event_loop, ())?;
    /// server.add_server_name("example.org", &TlsServerOptions::new(of_org).build()?)?;
    /// server.add_server_name("*.example.net", &TlsServerOptions::new(of_net).build()?)?;
    /// assert!(server.remove_server_name("example.org")?);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) for a pattern that is there already, for what is no pattern, and if
    /// the context has no configuration for servers; [`UsError::Io`] without memory,
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn add_server_name(&self, pattern: &str, config: &TlsServerConfig) -> Result<(), UsError> {
        self.put_server_name(pattern, config, None, false)
    }

    /// As [`add_server_name`](Self::add_server_name), with something that belongs to the name, which the sockets
    /// find by [`server_name_data`](crate::Socket::server_name_data): the root folder of a site, for instance.
    /// It is let go of when the name was removed and the last of its connections is gone. Beneath:
    /// `usx_context_add_server_name`.
    ///
    /// ```
    /// use std::rc::Rc;
    /// use usockets::{Loop, SocketContext, TlsIdentity, TlsServerOptions};
    ///
    /// # #[cfg(feature = "tls")] {
    /// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
    /// # let identity = TlsIdentity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    /// struct Site {
    ///     folder: String,
    /// }
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let server = SocketContext::<true>::builder()
    ///     .tls_server(&TlsServerOptions::without_identity().build()?)
    ///     .on_data(|_, socket, _, _request| match socket.server_name_data::<Site>() {
    ///         Some(site) => println!("a file of {}", site.folder),
    ///         None => socket.close(),
    ///     })
    ///     .build(&event_loop, ())?;
    /// let site = Rc::new(Site { folder: "/srv/example.org".to_owned() });
    /// let config = TlsServerOptions::new(identity).build()?;
    /// server.add_server_name_with("example.org", &config, site.clone())?;
    /// // With a certificate that was renewed:
    /// # let renewed = config;
    /// server.replace_server_name("example.org", &renewed, Some(site))?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add_server_name`](Self::add_server_name).
    pub fn add_server_name_with(
        &self,
        pattern: &str,
        config: &TlsServerConfig,
        data: Rc<dyn Any>,
    ) -> Result<(), UsError> {
        self.put_server_name(pattern, config, Some(data), false)
    }

    /// As [`add_server_name_with`](Self::add_server_name_with), also if the pattern is there: its configuration and
    /// data take the place of the old ones for handshakes that begin from now on. For certificates that were
    /// renewed. Beneath: `usx_context_add_server_name`.
    ///
    /// # Errors
    ///
    /// Those of [`add_server_name`](Self::add_server_name), but for a pattern that is there.
    pub fn replace_server_name(
        &self,
        pattern: &str,
        config: &TlsServerConfig,
        data: Option<Rc<dyn Any>>,
    ) -> Result<(), UsError> {
        self.put_server_name(pattern, config, data, true)
    }

    fn put_server_name(
        &self,
        pattern: &str,
        config: &TlsServerConfig,
        data: Option<Rc<dyn Any>>,
        replace: bool,
    ) -> Result<(), UsError> {
        let pattern = pattern_for_c(pattern)?;
        require_server(self.tls_state()?)?;
        let added = crate::trampoline::add_server_name(
            self.shell(),
            self.raw()?,
            &pattern,
            config.raw(),
            data,
            replace,
        );
        added.map_err(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => UsError::invalid("server name", "it is there already"),
            _ => tls_error(error),
        })
    }

    /// Removes a server name, by the pattern that it was added with. Whether it was there. Its connections go on,
    /// without its [data](crate::Socket::server_name_data). Beneath: `usx_context_remove_server_name`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) for what is no pattern; [`LoopClosed`](UsError::LoopClosed).
    pub fn remove_server_name(&self, pattern: &str) -> Result<bool, UsError> {
        let pattern = pattern_for_c(pattern)?;
        let _frame = Frame::enter(self.shell());
        Ok(self.raw()?.remove_server_name(&pattern))
    }
}
