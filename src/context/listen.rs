//! Where a context's sockets come from: listeners and descriptors.

use std::net::ToSocketAddrs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use usockets_sys::usx_listen_options;

use super::SocketContext;
use crate::address;
use crate::error::UsError;
use crate::ext;
use crate::ffi::Address;
use crate::listen::ListenSocket;
use crate::listen_options::{ListenOptions, UnixListenOptions};
use crate::socket::Socket;

impl<const SSL: bool, T: 'static, S: 'static> SocketContext<SSL, T, S> {
    /// Listens on an address, with the default options. Beneath: `usx_context_listen`.
    ///
    /// Takes what [`std::net::TcpListener::bind`] takes. A host name is looked up *at once*, which
    /// may block for seconds: resolve names at start-up. Where there are several addresses, the
    /// first one that works is taken. Port 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if no address can be listened on, with the last one and its error;
    /// [`InvalidAddress`](UsError::InvalidAddress), [`Draining`](UsError::Draining),
    /// [`LoopClosed`](UsError::LoopClosed). With TLS, [`InvalidOption`](UsError::InvalidOption) if the
    /// context has no [configuration for servers](crate::ContextBuilder::tls_server); so for all calls
    /// that accept.
    pub fn listen(&self, address: impl ToSocketAddrs) -> Result<ListenSocket, UsError> {
        self.listen_with(address, &ListenOptions::default())
    }

    /// Listens on an address, with options.
    ///
    /// # Errors
    ///
    /// Those of [`listen`](Self::listen), and [`InvalidOption`](UsError::InvalidOption).
    pub fn listen_with(
        &self,
        address: impl ToSocketAddrs,
        options: &ListenOptions,
    ) -> Result<ListenSocket, UsError> {
        let settings = options.settings()?;
        let addresses =
            address.to_socket_addrs().map_err(|source| UsError::io("listen", source))?;
        let mut last_error = UsError::address("", "the name has no address");
        for address in addresses {
            match self.listen_on(&address.into(), &settings) {
                Ok(listener) => return options.finish(listener),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    /// Listens on a Unix socket: a path or, on Linux, an abstract name, which is a path that begins
    /// with a NUL.
    ///
    /// A socket file that nobody listens on any more is replaced; any other file is not. The file is created
    /// with mode 0700 less the umask ([`listen_unix_with`](Self::listen_unix_with) has others), and removed
    /// when the listener closes, if it is still the listener's. Two processes that begin to listen on the
    /// same path in the same moment may replace each other's file; the last one has the name.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`], [`UnixPathTooLong`](UsError::UnixPathTooLong),
    /// [`InvalidAddress`](UsError::InvalidAddress), [`Draining`](UsError::Draining),
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn listen_unix(&self, path: impl AsRef<Path>) -> Result<ListenSocket, UsError> {
        self.listen_unix_with(path, &UnixListenOptions::default())
    }

    /// Listens on a Unix socket, with options.
    ///
    /// # Errors
    ///
    /// Those of [`listen_unix`](Self::listen_unix), and [`InvalidOption`](UsError::InvalidOption), also
    /// for a mode or an owner of an abstract name.
    pub fn listen_unix_with(
        &self,
        path: impl AsRef<Path>,
        options: &UnixListenOptions,
    ) -> Result<ListenSocket, UsError> {
        let path = path.as_ref();
        let address = address::unix(path)?;
        self.listen_on(&address, &options.settings(!address::is_abstract(path))?)
    }

    /// Listens on a socket that is bound and listening already: a [`std::net::TcpListener`], a
    /// [`std::os::unix::net::UnixListener`], one that [the process was started
    /// with](crate::inherited_listeners), or one that another process has passed on. Beneath:
    /// `usx_context_listen_descriptor`.
    ///
    /// The file of a Unix socket stays when such a listener closes: whoever made it may go on.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if it is no such socket, [`Draining`](UsError::Draining),
    /// [`LoopClosed`](UsError::LoopClosed). The descriptor is closed then.
    pub fn listen_fd(&self, fd: impl Into<OwnedFd>) -> Result<ListenSocket, UsError> {
        self.listen_fd_with(fd, &ListenOptions::default())
    }

    /// Listens on a socket that is bound and listening already, with options.
    ///
    /// Without a [`backlog`](ListenOptions::backlog) that of the socket stays. For a Unix socket only
    /// what [`UnixListenOptions`] has, too, makes sense.
    ///
    /// # Errors
    ///
    /// Those of [`listen_fd`](Self::listen_fd), and [`InvalidOption`](UsError::InvalidOption), also for
    /// [`reuse_port`](ListenOptions::reuse_port) and [`ipv6_only`](ListenOptions::ipv6_only), for which
    /// it is too late.
    pub fn listen_fd_with(
        &self,
        fd: impl Into<OwnedFd>,
        options: &ListenOptions,
    ) -> Result<ListenSocket, UsError> {
        let fd = fd.into();
        let settings = options.settings_of_bound()?;
        let listener = self
            .open_for_accept()?
            .listen_descriptor(fd, &settings, ext::ext_size::<S>())
            .map_err(|error| UsError::engine("listen", error))?;
        options.finish(ListenSocket::new(Rc::clone(self.shell()), listener.id()))
    }

    fn listen_on(
        &self,
        address: &Address,
        settings: &usx_listen_options,
    ) -> Result<ListenSocket, UsError> {
        let listener = self
            .open_for_accept()?
            .listen(address, settings, ext::ext_size::<S>())
            .map_err(|error| UsError::engine("listen", error).about(address.to_string()))?;
        Ok(ListenSocket::new(Rc::clone(self.shell()), listener.id()))
    }

    /// Takes over a connected stream socket: one of std, or one that
    /// [`Incoming::into_fd`](crate::Incoming::into_fd) has taken from another loop. Beneath:
    /// `usx_adopt_accepted_later`.
    ///
    /// The result exists at once; its `on_open` follows from the loop.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if it is no stream socket or without memory,
    /// [`Draining`](UsError::Draining), [`LoopClosed`](UsError::LoopClosed). The descriptor is closed then.
    ///
    /// # Panics
    ///
    /// If the state factory does.
    pub fn accept_fd(&self, fd: impl Into<OwnedFd>) -> Result<Socket<SSL, S>, UsError> {
        let fd = fd.into();
        let state = self.new_socket_state()?;
        let socket = self
            .open_for_accept()?
            .accept(fd, ext::ext_size::<S>())
            .map_err(|error| UsError::engine("accept_fd", error))?;
        self.fill(socket, state)
    }
}
