#![forbid(unsafe_code)]
//! What a program learns about a connection that begins.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::descriptors::PeerCredentials;
use crate::error::UsError;
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyHeader;

/// How a socket came about, as [`on_open`](crate::ContextBuilder::on_open) is told.
///
/// ```
/// use usockets::{Loop, Origin, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let both_ends = SocketContext::<false, Vec<Origin>>::builder()
///     .on_open(|origins, socket, _, info| {
///         assert_eq!(info.is_client(), info.peer_addr().is_none());
///         origins.push(info.origin());
///         if origins.len() == 2 {
///             socket.event_loop().stop();
///         }
///     })
///     .build(&event_loop, Vec::new())?;
/// let listener = both_ends.listen("127.0.0.1:0")?;
/// both_ends.connect(listener.local_addr()?)?;
/// event_loop.run()?;
/// both_ends.with_state(|origins| {
///     assert!(origins.contains(&Origin::Accepted) && origins.contains(&Origin::Connected));
/// })?;
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenInfo {
    origin: Origin,
    peer: Option<SocketAddr>,
    #[cfg(feature = "proxy-protocol")]
    proxy: Option<Box<ProxyHeader>>,
}

/// Where a socket came from: see [`OpenInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// A listener of the context accepted it.
    Accepted,
    /// A connect call of the context made it.
    Connected,
    /// [`accept_fd`](crate::SocketContext::accept_fd) took it over.
    HandedOver,
}

impl OpenInfo {
    pub(crate) fn new(origin: Origin, peer: Option<SocketAddr>) -> Self {
        Self {
            origin,
            peer,
            #[cfg(feature = "proxy-protocol")]
            proxy: None,
        }
    }

    /// With the header that the connection began with.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn with_proxy_header(mut self, header: Option<ProxyHeader>) -> Self {
        self.proxy = header.map(Box::new);
        self
    }

    /// Where the socket came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether this side began the connection.
    pub fn is_client(&self) -> bool {
        self.origin == Origin::Connected
    }

    /// The peer of an [accepted](Origin::Accepted) connection, at no cost.
    ///
    /// `None` for Unix sockets and other origins; [`Socket::peer_addr`](crate::Socket::peer_addr)
    /// asks the system.
    ///
    /// This is the real address, also where a proxy claims another one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// What the peer, a proxy, says of its client: the header of the PROXY protocol that the connection
    /// began with. `None` unless the [listener](crate::ListenOptions::proxy_protocol) asks for one.
    ///
    /// It is shown here alone: what is needed later goes into the state of the socket. Beneath:
    /// `usx_loop_prelude`.
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.proxy.as_deref()
    }
}

/// A connection that was accepted and has no socket yet, for
/// [`accept_filter`](crate::ContextBuilder::accept_filter) to decide about.
///
/// Dropping it lets the connection proceed, as [`accept`](Self::accept) does.
///
/// ```
/// use std::net::IpAddr;
/// use usockets::{Loop, SocketContext};
///
/// struct Guard { banned: Vec<IpAddr> }
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false, Guard>::builder()
///     .accept_filter(|guard, incoming| {
///         let is_banned = incoming.peer_addr().is_some_and(|peer| guard.banned.contains(&peer.ip()));
///         if is_banned { incoming.refuse() } else { incoming.accept() }
///     })
///     .on_open(|_, _, _, _| unreachable!("this machine is banned"))
///     .build(&event_loop, Guard { banned: vec!["127.0.0.1".parse().expect("an address")] })?;
/// let listener = context.listen("127.0.0.1:0")?;
///
/// let client = SocketContext::<false>::builder()
///     .on_close(|_, socket, _, _| socket.event_loop().stop())
///     .build(&event_loop, ())?;
/// client.connect(listener.local_addr()?)?;
/// event_loop.run()?;
/// # Ok::<(), usockets::UsError>(())
/// ```
pub struct Incoming<'a> {
    fd: &'a Cell<Option<OwnedFd>>,
    borrowed: BorrowedFd<'a>,
    peer: Option<SocketAddr>,
    refused: &'a Cell<bool>,
}

impl<'a> Incoming<'a> {
    /// `fd` is `borrowed`, owned; it is taken out by [`Self::into_fd`] alone.
    pub(crate) fn new(
        fd: &'a Cell<Option<OwnedFd>>,
        borrowed: BorrowedFd<'a>,
        peer: Option<SocketAddr>,
        refused: &'a Cell<bool>,
    ) -> Self {
        Self { fd, borrowed, peer, refused }
    }

    /// The peer's address; `None` for Unix sockets.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The process that connects, for a Unix socket. Beneath: `usx_descriptor_peer_credentials`.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) for an IP socket.
    pub fn peer_credentials(&self) -> Result<PeerCredentials, UsError> {
        PeerCredentials::of(self.borrowed)
    }

    /// Lets the connection proceed to [`on_open`](crate::ContextBuilder::on_open).
    pub fn accept(self) {}

    /// Closes the connection; no callback follows.
    pub fn refuse(self) {
        self.refused.set(true);
    }

    /// Takes the connection away from the loop, to hand it to
    /// [`SocketContext::accept_fd`](crate::SocketContext::accept_fd) of another one, for instance.
    /// No callback follows.
    ///
    /// # Panics
    ///
    /// Never: each `Incoming` has its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd.take().expect("an `Incoming` has its descriptor until this call: bug in usockets")
    }
}

impl AsFd for Incoming<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.borrowed
    }
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("peer", &self.peer).finish_non_exhaustive()
    }
}
