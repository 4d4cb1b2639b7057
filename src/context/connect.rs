//! Connections that a context begins.

use std::ffi::{CString, c_int, c_uint};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::SocketContext;
use crate::address::{self, ConnectTarget, Where};
use crate::error::UsError;
use crate::event_loop::nanoseconds;
use crate::ext;
use crate::ffi::{Address, ClientSettings, ConnectSettings, RawContext, RawSocket};
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyHeader;
use crate::shell::Frame;
use crate::socket::Socket;
use crate::tls::{self, TlsSession};

impl<const SSL: bool, T: 'static, S: 'static> SocketContext<SSL, T, S> {
    /// Begins to connect, with a state from the context's factory. Beneath: `usx_context_connect`,
    /// `usx_context_connect_any`, `usx_context_connect_name`.
    ///
    /// Never blocks and never calls back; it may be called from anywhere on the loop's thread. The
    /// result comes as [`on_open`](crate::ContextBuilder::on_open) or
    /// [`on_connect_error`](crate::ContextBuilder::on_connect_error), once. Closing the socket
    /// before that cancels everything, which is [`Cancelled`](UsError::Cancelled).
    ///
    /// **Names** are looked up on helper threads (`getaddrinfo`), at most 64 at once for a loop, so
    /// that look-ups that hang hold up neither the loop nor each other; 1024 more may wait. Answers
    /// are kept for 30 seconds, for 1 second if there is no address, and connections that begin
    /// meanwhile share one look-up; see [`no_cache`](ConnectOptions::no_cache). Neither closing the
    /// socket nor dropping the loop waits for a look-up.
    ///
    /// **Several addresses**, of a name or given by [`Target::addresses`](crate::Target::addresses),
    /// are raced
    /// ([RFC 8305](https://www.rfc-editor.org/rfc/rfc8305)): IPv6 and IPv4 take turns, in the order
    /// of the resolver; the next attempt begins when
    /// [`attempt_delay`](ConnectOptions::attempt_delay) has passed, or at once when the latest one
    /// has failed; the first to be connected wins, and the others are given up. If all fail,
    /// [`UsError::Connect`] has the error of each. At most 64 addresses are tried.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if the attempt cannot even begin, of kind
    /// [`WouldBlock`](std::io::ErrorKind::WouldBlock) if too many look-ups wait;
    /// [`InvalidAddress`](UsError::InvalidAddress), [`Draining`](UsError::Draining),
    /// [`LoopClosed`](UsError::LoopClosed). Contexts with TLS that have no configuration for clients: those of
    /// [`TlsClientConfig::shared_default`](crate::TlsClientConfig::shared_default).
    ///
    /// # Panics
    ///
    /// If the state factory does.
    pub fn connect(&self, target: impl ConnectTarget) -> Result<Socket<SSL, S>, UsError> {
        let state = self.new_socket_state()?;
        self.connect_with(target, &ConnectOptions::default(), state)
    }

    /// As [`connect`](Self::connect), with a state of its own for the socket.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect).
    pub fn connect_with_state(
        &self,
        target: impl ConnectTarget,
        state: S,
    ) -> Result<Socket<SSL, S>, UsError> {
        self.connect_with(target, &ConnectOptions::default(), state)
    }

    /// As [`connect_with_state`](Self::connect_with_state), with options.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect); [`InvalidOption`](UsError::InvalidOption);
    /// [`QueueFull`](UsError::QueueFull) if there is no room for what the connection is to begin with.
    pub fn connect_with(
        &self,
        target: impl ConnectTarget,
        options: &ConnectOptions,
        state: S,
    ) -> Result<Socket<SSL, S>, UsError> {
        // Code of the program, which must not run while we hold a pointer of the engine.
        let target = target.into_target()?;
        let local = options.local.map(Address::from);
        let device = options.device_name()?;
        let settings = ConnectSettings {
            local: local.as_ref(),
            device: device.as_deref(),
            attempt_delay: options.delay_nanoseconds()?,
            no_cache: options.no_cache,
        };
        self.begin(options, state, |context, size| match target.0 {
            Where::Address(address) => context.connect(&address.into(), settings, size),
            Where::Addresses(addresses) => {
                context.connect_any(addresses.into_iter().map(Address::from), settings, size)
            }
            Where::Name(name, port) => context.connect_name(&name, port, settings, size),
        })
    }

    /// Begins to connect to a Unix socket: a path or, on Linux, an abstract name, which is a path
    /// that begins with a NUL. The state comes from the context's factory.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if the attempt cannot even begin,
    /// [`UnixPathTooLong`](UsError::UnixPathTooLong), [`InvalidAddress`](UsError::InvalidAddress),
    /// [`LoopClosed`](UsError::LoopClosed).
    ///
    /// # Panics
    ///
    /// If the state factory does.
    pub fn connect_unix(&self, path: impl AsRef<Path>) -> Result<Socket<SSL, S>, UsError> {
        let state = self.new_socket_state()?;
        self.connect_unix_with_state(path, state)
    }

    /// As [`connect_unix`](Self::connect_unix), with a state of its own for the socket.
    ///
    /// # Errors
    ///
    /// Those of [`connect_unix`](Self::connect_unix).
    pub fn connect_unix_with_state(
        &self,
        path: impl AsRef<Path>,
        state: S,
    ) -> Result<Socket<SSL, S>, UsError> {
        self.connect_unix_with(path, &ConnectOptions::default(), state)
    }

    /// As [`connect_unix_with_state`](Self::connect_unix_with_state), with options. A client of TLS needs them for the
    /// [name](ConnectOptions::server_name) that the server's certificate must be for, because a path is none.
    ///
    /// # Errors
    ///
    /// Those of [`connect_unix`](Self::connect_unix); [`InvalidOption`](UsError::InvalidOption), also for a local
    /// address or a device; [`QueueFull`](UsError::QueueFull) if there is no room for what the connection is to begin
    /// with.
    pub fn connect_unix_with(
        &self,
        path: impl AsRef<Path>,
        options: &ConnectOptions,
        state: S,
    ) -> Result<Socket<SSL, S>, UsError> {
        let address = address::unix(path.as_ref())?;
        if options.local.is_some() || options.device.is_some() {
            let reason = "local addresses and devices are for connections over TCP";
            return Err(UsError::invalid("connect options", reason));
        }
        self.begin(options, state, |context, size| {
            context.connect(&address, ConnectSettings::default(), size)
        })
    }

    /// Makes the socket by `call`, with what it is to begin with, and gives it its state.
    fn begin(
        &self,
        options: &ConnectOptions,
        state: S,
        call: impl for<'a> FnOnce(RawContext<'a>, c_uint) -> Result<RawSocket<'a>, c_int>,
    ) -> Result<Socket<SSL, S>, UsError> {
        let server_name = tls::checked_name(options.server_name.as_deref())?;
        let client = tls::client_settings(server_name.as_deref(), options.tls_session.as_ref());
        let context = self.open_for_connect(client)?;
        let socket = call(context, ext::ext_size::<S>());
        let socket = socket.map_err(|error| UsError::engine("connect", error))?;
        if let Some(client) = client {
            begin_tls(socket, client)?;
        }
        options.begin(socket)?;
        self.fill(socket, state)
    }

    /// The engine's context, to make a client in it that says this besides.
    fn open_for_connect(
        &self,
        client: Option<ClientSettings<'_>>,
    ) -> Result<RawContext<'_>, UsError> {
        let context = self.open()?;
        if SSL {
            tls::prepare_client(self.tls_state()?, context)?;
        } else if client.is_some() {
            let reason = "server names and sessions are for contexts with TLS";
            return Err(UsError::invalid("connect options", reason));
        }
        Ok(context)
    }

    /// Calls the factory, on the program's own stack: a panic goes to the caller.
    pub(super) fn new_socket_state(&self) -> Result<S, UsError> {
        self.open()?;
        let view = self.view()?;
        let _frame = Frame::enter(self.shell());
        view.make_socket_state().ok_or(UsError::Stale)
    }

    /// Gives a new socket its state.
    pub(super) fn fill(&self, socket: RawSocket<'_>, state: S) -> Result<Socket<SSL, S>, UsError> {
        let filled = ext::socket_slot::<SSL, S>(socket)?.fill(state);
        debug_assert!(filled.is_ok(), "a new socket has a state: bug in usockets");
        Ok(Socket::new(Rc::clone(self.shell()), socket.id()))
    }
}

/// Tells a socket that connects what to say in its handshake; it is gone if that fails.
fn begin_tls(socket: RawSocket<'_>, client: ClientSettings<'_>) -> Result<(), UsError> {
    socket.set_tls_connect(client).map_err(|error| {
        socket.discard();
        match error.raw_os_error() {
            Some(libc::EINVAL) => UsError::invalid("server name", "it cannot be one"),
            _ => UsError::io("connect", error),
        }
    })
}

/// Options of a connection.
///
/// ```
/// use std::time::Duration;
/// use usockets::{ConnectOptions, Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// let options = ConnectOptions::new()
///     .local_addr("127.0.0.1:0".parse().expect("an address"))
///     .attempt_delay(Duration::from_millis(100));
/// let socket = context.connect_with("127.0.0.1:1", &options, ())?;
/// socket.close();
/// event_loop.run()?; // calls `on_connect_error`, if there is one
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing by themselves"]
pub struct ConnectOptions {
    local: Option<SocketAddr>,
    device: Option<String>,
    attempt_delay: Option<Duration>,
    no_cache: bool,
    server_name: Option<String>,
    tls_session: Option<TlsSession>,
    #[cfg(feature = "proxy-protocol")]
    proxy_header: Option<ProxyHeader>,
}

/// The longest name of a network device, in bytes.
const DEVICE_NAME_MAX: usize = 15;

impl ConnectOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects from this local address; port 0 lets the system choose one. Default: the system
    /// chooses both.
    ///
    /// Addresses of the other family are left out: their error is `EAFNOSUPPORT`. A port other than
    /// 0 is bound with `SO_REUSEADDR`, so that several attempts, and connections to several peers,
    /// can share it.
    pub fn local_addr(mut self, address: SocketAddr) -> Self {
        self.local = Some(address);
        self
    }

    /// Uses this network device only, such as `"eth0"` (`SO_BINDTODEVICE`). Linux only; elsewhere
    /// the connection fails with [`Unsupported`](std::io::ErrorKind::Unsupported). 1 to 15 bytes.
    /// Default: any.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// How long one of several addresses may be without an answer before the next one is tried as
    /// well: from 10 milliseconds to 2 seconds. Default: 250 milliseconds.
    pub fn attempt_delay(mut self, delay: Duration) -> Self {
        self.attempt_delay = Some(delay);
        self
    }

    /// Looks the name up for this connection alone, and anew, instead of taking what the loop has
    /// learned in the last seconds. Default: off.
    pub fn no_cache(mut self) -> Self {
        self.no_cache = true;
        self
    }

    /// The name or IP address that the server's certificate must be for and, if it is a name, that the server
    /// is asked for (SNI, [RFC 6066, 3](https://www.rfc-editor.org/rfc/rfc6066#section-3)), instead of
    /// what is connected to. At most 255 bytes of ASCII letters, digits, `-`, `_` and dots, without a port;
    /// international names as they are in certificates (`xn--`). Other ones, and any on contexts without TLS, are
    /// an [`InvalidOption`](UsError::InvalidOption) of `connect`. Beneath: `usx_socket_set_tls_connect`.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Resumes a session that this server has offered before, if it still likes it. TLS only: on other
    /// contexts it is an [`InvalidOption`](UsError::InvalidOption) of `connect`. Beneath:
    /// `usx_socket_set_tls_connect`.
    ///
    /// ```
    /// use usockets::{ConnectOptions, Loop, SocketContext, TlsSession};
    ///
    /// # #[cfg(feature = "tls")] {
    /// let event_loop = Loop::<()>::new()?;
    /// let client = SocketContext::<true, Option<TlsSession>>::builder()
    ///     .on_session(|latest, _, _, session| *latest = Some(session))
    ///     .build(&event_loop, None)?;
    /// let mut options = ConnectOptions::new().server_name("example.org");
    /// if let Some(session) = client.with_state(Option::take)? {
    ///     options = options.tls_session(&session); // used once
    /// }
    /// # drop(options);
    /// # }
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn tls_session(mut self, session: &TlsSession) -> Self {
        self.tls_session = Some(session.clone());
        self
    }

    fn device_name(&self) -> Result<Option<CString>, UsError> {
        let Some(name) = &self.device else { return Ok(None) };
        if name.is_empty() || name.len() > DEVICE_NAME_MAX {
            return Err(UsError::invalid("device", "the name has 1 to 15 bytes"));
        }
        let name = CString::new(name.as_str())
            .map_err(|_| UsError::invalid("device", "the name contains a NUL"))?;
        Ok(Some(name))
    }

    fn delay_nanoseconds(&self) -> Result<u64, UsError> {
        let Some(delay) = self.attempt_delay else { return Ok(0) };
        if !(Duration::from_millis(10)..=Duration::from_secs(2)).contains(&delay) {
            let reason = "it is from 10 milliseconds to 2 seconds";
            return Err(UsError::invalid("attempt delay", reason));
        }
        Ok(nanoseconds(delay))
    }

    /// Begins the connection with a header of the PROXY protocol, which tells the server on whose behalf
    /// it is made. It is sent as soon as the connection is made, before anything else, in one piece.
    /// Default: none. Beneath: `usx_socket_send`.
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_header(mut self, header: ProxyHeader) -> Self {
        self.proxy_header = Some(header);
        self
    }

    /// Gives a socket that connects what it is to begin with; it is gone if that fails.
    fn begin(&self, socket: RawSocket<'_>) -> Result<(), UsError> {
        #[cfg(feature = "proxy-protocol")]
        if let Some(header) = &self.proxy_header {
            return socket.send(&[std::io::IoSlice::new(&header.encode())]).map_err(|error| {
                socket.discard();
                crate::output::send_error(error)
            });
        }
        let _has_no_beginning = socket;
        Ok(())
    }
}
