#![forbid(unsafe_code)]
//! Listen sockets.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use crate::error::UsError;
use crate::event_loop::LoopRef;
use crate::ffi::RawListener;
use crate::shell::{Frame, Shell};

/// Accepts connections into a context, until it is dropped.
///
/// Made by [`SocketContext::listen`](crate::SocketContext::listen) and its relatives. It keeps the
/// loop running. Sockets it has accepted live on when it is closed.
///
/// ```
/// use usockets::{Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// let listener = context.listen("127.0.0.1:0")?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// drop(listener);
/// event_loop.run()?; // returns: nothing is live any more
/// # Ok::<(), usockets::UsError>(())
/// ```
///
/// # Handing over
///
/// A program can be replaced by a new version of itself without refusing a connection, because a
/// listening socket, with the connections that wait in it, may be in several processes at a time:
///
/// 1. The predecessor sends a [clone](Self::try_clone_fd) of it to the successor, by
///    [`send_with_descriptors`](crate::Socket::send_with_descriptors) over a Unix socket, or to a
///    child process at a known number.
/// 2. The successor begins to accept: [`listen_fd`](crate::SocketContext::listen_fd). Then it says
///    so. From here on both accept; each connection is taken by one of them.
/// 3. When it has heard that, and not before, the predecessor drops its `ListenSocket`. It serves
///    the connections it has to their end, and goes.
///
/// Should the successor fail before it has said anything, the predecessor just goes on. Whoever gives
/// the socket away *before* it is accepted from elsewhere loses nothing either, as long as somebody
/// has it open: connections wait up to the backlog. What does lose connections is closing the last
/// descriptor, or listening anew on the same port: they would wait in a queue of their own.
///
/// ```
/// use std::cell::RefCell;
/// use std::os::fd::AsFd;
/// use std::os::unix::net::UnixStream;
/// use std::rc::Rc;
/// use usockets::{ListenSocket, Loop, SocketContext};
///
/// // Two loops of one thread stand for two processes here.
/// let (old, new) = (Loop::<()>::new()?, Loop::<()>::new()?);
/// let (old_end, new_end) = UnixStream::pair()?;
///
/// let service = SocketContext::<false>::builder().build(&old, ())?;
/// let listener = service.listen("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// let mut offered = Some(listener.try_clone_fd()?);
/// let mut listener = Some(listener);
/// let predecessor = SocketContext::<false>::builder()
///     .on_open(move |_, channel, _, _| {
///         let fd = offered.take().expect("one successor");
///         channel.send_with_descriptors(b"l", &[fd.as_fd()], false).expect("it is open");
///     })
///     // "r": the successor is ready.
///     .on_data(move |_, _, _, _| drop(listener.take()))
///     .build(&old, ())?;
/// predecessor.accept_fd(old_end)?;
///
/// let service = SocketContext::<false>::builder().build(&new, ())?;
/// let listening = Rc::new(RefCell::new(None::<ListenSocket>));
/// let place = Rc::clone(&listening);
/// let successor = SocketContext::<false>::builder()
///     .on_descriptors(move |_, channel, _, mut received| {
///         let fd = received.fds.pop().expect("the listener");
///         *place.borrow_mut() = Some(service.listen_fd(fd).expect("it listens"));
///         assert_eq!(channel.write(b"r"), 1);
///     })
///     .build(&new, ())?;
/// successor.accept_fd(new_end)?;
///
/// while old.metrics().live_listeners > 0 {
///     old.turn(Some(std::time::Duration::from_millis(1)))?;
///     new.turn(Some(std::time::Duration::from_millis(1)))?;
/// }
/// assert_eq!(listening.borrow().as_ref().expect("it was handed over").local_addr()?, address);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a listener closes when it is dropped; `detach` keeps it open"]
pub struct ListenSocket {
    shell: Rc<Shell>,
    id: u64,
    detached: bool,
}

impl ListenSocket {
    pub(crate) fn new(shell: Rc<Shell>, id: u64) -> Self {
        Self { shell, id, detached: false }
    }

    pub(crate) fn listener(&self) -> Result<RawListener<'_>, UsError> {
        let listener = self.shell.engine()?.find_listener(self.id).ok_or(UsError::Closed)?;
        if listener.is_closed() { Err(UsError::Closed) } else { Ok(listener) }
    }

    /// The IP address it listens on, with the port that the system chose where 0 was given.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed); [`InvalidAddress`](UsError::InvalidAddress) for a Unix socket,
    /// whose address is [`local_unix_addr`](Self::local_unix_addr);
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn local_addr(&self) -> Result<SocketAddr, UsError> {
        let address = self.listener()?.local_address();
        address.map_err(|source| UsError::io("local_addr", source))?.as_inet().ok_or_else(not_inet)
    }

    /// The path or abstract name it listens on.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed); [`InvalidAddress`](UsError::InvalidAddress) for an IP socket;
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn local_unix_addr(&self) -> Result<std::os::unix::net::SocketAddr, UsError> {
        let address = self.listener()?.local_address();
        address.map_err(|source| UsError::io("local_addr", source))?.as_unix().ok_or_else(not_unix)
    }

    /// Calls `f` with the descriptor, which stays open meanwhile whatever `f` does.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed), [`LoopClosed`](UsError::LoopClosed).
    pub fn with_fd<R>(&self, f: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R, UsError> {
        // A listener closes at once, so `f` gets a descriptor of its own.
        let listener = self.listener()?;
        listener.share();
        let fd = listener.descriptor().ok_or(UsError::Closed)?;
        let fd = fd.try_clone_to_owned().map_err(|source| UsError::io("with_fd", source))?;
        let _frame = Frame::enter(&self.shell);
        Ok(f(std::os::fd::AsFd::as_fd(&fd)))
    }

    /// A second descriptor of the same listening socket, for a successor that is to go on listening:
    /// see [handing over](Self#handing-over). Beneath: `usx_listen_socket_hand_over`.
    ///
    /// From now on closing this one leaves the socket file of a Unix listener in its place.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed), [`LoopClosed`](UsError::LoopClosed); [`UsError::Io`] without
    /// descriptors.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, UsError> {
        let listener = self.listener()?;
        let fd = listener.descriptor().ok_or(UsError::Closed)?;
        let fd = fd.try_clone_to_owned().map_err(|source| UsError::io("try_clone_fd", source))?;
        listener.hand_over();
        Ok(fd)
    }

    /// Stops accepting, and gives the listening socket away. Connections wait in it until somebody
    /// accepts them. What [`try_clone_fd`](Self::try_clone_fd) says holds here too.
    ///
    /// # Errors
    ///
    /// Those of [`try_clone_fd`](Self::try_clone_fd); the listener is closed then as well.
    pub fn into_fd(self) -> Result<OwnedFd, UsError> {
        self.try_clone_fd()
    }

    /// Whether it is closed: by [`SocketContext::close`](crate::SocketContext::close), or with the
    /// loop.
    pub fn is_closed(&self) -> bool {
        self.listener().is_err()
    }

    /// Stops accepting. Connections wait in the system, up to the
    /// [backlog](crate::ListenOptions::backlog), and the listener keeps the loop running. May be called
    /// from inside any callback: from now on none is accepted. Nothing happens if it is closed or
    /// paused already. Beneath: `usx_listen_socket_pause`.
    ///
    /// ```
    /// use std::net::TcpStream;
    /// use std::time::Duration;
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    /// let listener = context.listen("127.0.0.1:0")?;
    /// listener.pause();
    /// let _client = TcpStream::connect(listener.local_addr()?)?;
    /// event_loop.turn(Some(Duration::ZERO))?;
    /// assert_eq!(event_loop.metrics().accepted, 0);
    ///
    /// listener.resume();
    /// event_loop.turn(None)?;
    /// assert_eq!(event_loop.metrics().accepted, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause(&self) {
        if let Ok(listener) = self.listener() {
            listener.pause();
        }
    }

    /// Goes on after [`pause`](Self::pause). Beneath: `usx_listen_socket_resume`.
    pub fn resume(&self) {
        if let Ok(listener) = self.listener() {
            listener.resume();
        }
    }

    /// Whether it is paused; false once it is closed. A listener that waits for one of its
    /// [connections](crate::Overload::StopAccepting) to end, or for descriptors or memory, is not
    /// paused. Beneath: `usx_listen_socket_is_paused`.
    pub fn is_paused(&self) -> bool {
        self.listener().is_ok_and(RawListener::is_paused)
    }

    /// How many sockets it has, as [`max_connections`](crate::ListenOptions::max_connections) counts
    /// them. `None` for a listener without a limit, which does not count, and once it is closed.
    /// Beneath: `usx_listen_socket_connections`.
    pub fn connections(&self) -> Option<u32> {
        self.listener().ok()?.connections()
    }

    /// Stops accepting and closes the descriptor. The same as dropping it. Beneath:
    /// `us_listen_socket_close`.
    pub fn close(self) {}

    /// Lets it listen until its [context](crate::SocketContext::close) or the loop is closed.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// The listener's loop.
    pub fn event_loop(&self) -> LoopRef {
        LoopRef::new(Rc::clone(&self.shell))
    }
}

impl Drop for ListenSocket {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        if let Ok(listener) = self.listener() {
            listener.close();
        }
    }
}

impl fmt::Debug for ListenSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.listener().ok().and_then(|listener| listener.local_address().ok());
        f.debug_struct("ListenSocket")
            .field("address", &address.and_then(|address| address.as_inet()))
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// The error for asking a Unix socket for an IP address.
pub(crate) fn not_inet() -> UsError {
    UsError::address("", "it is not an IP address but that of a Unix socket")
}

/// The error for asking an IP socket for a path.
pub(crate) fn not_unix() -> UsError {
    UsError::address("", "it is not the address of a Unix socket")
}
