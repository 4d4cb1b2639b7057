//! Connections that a context begins.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use super::SocketContext;
use crate::address::{self, ConnectTarget, Where};
use crate::error::UsError;
use crate::ext;
use crate::ffi::{Address, RawSocket};
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyHeader;
use crate::shell::Frame;
use crate::socket::Socket;

impl<const SSL: bool, T: 'static, S: 'static> SocketContext<SSL, T, S> {
    /// Begins to connect, with a state from the context's factory. Beneath: `usx_context_connect`,
    /// `usx_context_connect_name`.
    ///
    /// Never blocks and never calls back: a name is looked up on a helper thread, its addresses are
    /// tried one after the other, and the result comes as
    /// [`on_open`](crate::ContextBuilder::on_open) or
    /// [`on_connect_error`](crate::ContextBuilder::on_connect_error). There is no time limit but
    /// the system's: [`set_timeout`](Socket::set_timeout) works on the socket that is returned.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if the attempt cannot even begin,
    /// [`InvalidAddress`](UsError::InvalidAddress), [`Draining`](UsError::Draining),
    /// [`LoopClosed`](UsError::LoopClosed).
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
    /// Those of [`connect`](Self::connect); [`QueueFull`](UsError::QueueFull) if there is no room for
    /// what the connection is to begin with.
    pub fn connect_with(
        &self,
        target: impl ConnectTarget,
        options: &ConnectOptions,
        state: S,
    ) -> Result<Socket<SSL, S>, UsError> {
        // Code of the program, which must not run while we hold a pointer of the engine.
        let target = target.into_target()?;
        let local = options.local.map(Address::from);
        let context = self.open()?;
        let size = ext::ext_size::<S>();
        let socket = match target.0 {
            Where::Address(address) => context.connect(&address.into(), local.as_ref(), size),
            Where::Name(name, port) => context.connect_name(&name, port, local.as_ref(), size),
        };
        let socket = socket.map_err(|error| UsError::engine("connect", error))?;
        options.begin(socket)?;
        self.fill(socket, state)
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
        let address = address::unix(path.as_ref())?;
        let socket = self.open()?.connect(&address, None, ext::ext_size::<S>());
        self.fill(socket.map_err(|error| UsError::engine("connect", error))?, state)
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

/// Options of a connection.
///
/// ```
/// use usockets::{ConnectOptions, Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// let options = ConnectOptions::new().local_addr("127.0.0.1:0".parse().expect("an address"));
/// let socket = context.connect_with("127.0.0.1:1", &options, ())?;
/// socket.close();
/// event_loop.run()?; // calls `on_connect_error`, if there is one
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing by themselves"]
pub struct ConnectOptions {
    local: Option<SocketAddr>,
    #[cfg(feature = "proxy-protocol")]
    proxy_header: Option<ProxyHeader>,
}

impl ConnectOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects from this local address; port 0 lets the system choose one. Default: the system
    /// chooses both.
    pub fn local_addr(mut self, address: SocketAddr) -> Self {
        self.local = Some(address);
        self
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
