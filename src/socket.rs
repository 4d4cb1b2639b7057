#![forbid(unsafe_code)]
//! Stream sockets.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use crate::context::SocketContext;
use crate::descriptors::PeerCredentials;
use crate::error::UsError;
use crate::event_loop::{LoopRef, nanoseconds};
use crate::ext::{self, ContextView};
use crate::ffi::{Deadline, RawSocket, State};
use crate::ids::SocketId;
use crate::listen::{not_inet, not_unix};
use crate::reason::CloseReason;
use crate::shell::{Frame, Shell};

/// A connection: TCP or Unix; with a state `S` of the program.
///
/// This is a handle. It may be cloned and kept anywhere on the loop's thread, for ever; it does not
/// keep the connection, and dropping it closes nothing. On a socket that is closed every call is
/// harmless and says so: writes take nothing, questions are answered with
/// [`Closed`](UsError::Closed) or, later, [`Stale`](UsError::Stale).
///
/// Handles are equal if they are of the same socket.
///
/// # Writing
///
/// [`send`](Self::send) accepts everything and queues what does not go at once. A producer that can
/// be held back is, while [`needs_drain`](Self::needs_drain):
///
/// ```
/// use usockets::{Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let echo = SocketContext::<false>::builder()
///     .on_data(|_, socket, _, data| {
///         if socket.send(data).is_err() {
///             socket.reset(); // more waits than may
///         } else if socket.needs_drain() {
///             socket.pause(); // no more requests until the answers are gone
///         }
///     })
///     .on_drain(|_, socket, _| socket.resume())
///     .build(&event_loop, ())?;
/// # let listener = echo.listen("127.0.0.1:0")?;
/// # let client = SocketContext::<false>::builder()
/// #     .on_open(|_, socket, _, _| assert_eq!(socket.write(b"ping"), 4))
/// #     .on_data(|_, socket, _, data| { assert_eq!(data, b"ping"); socket.event_loop().stop(); })
/// #     .build(&event_loop, ())?;
/// # client.connect(listener.local_addr()?)?;
/// # event_loop.run()?;
/// # Ok::<(), usockets::UsError>(())
/// ```
///
/// [`write`](Self::write) is for programs that keep what waits themselves: it says how much was
/// accepted, and [`on_writable`](crate::ContextBuilder::on_writable) when to go on.
pub struct Socket<const SSL: bool, S: 'static = ()> {
    /// `Rc`: the handle stays on the thread of its loop.
    shell: Rc<Shell>,
    id: u64,
    _state: PhantomData<S>,
}

impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    #[inline]
    pub(crate) fn new(shell: Rc<Shell>, id: u64) -> Self {
        Self { shell, id, _state: PhantomData }
    }

    pub(crate) fn shell(&self) -> &Rc<Shell> {
        &self.shell
    }

    /// Slot and generation.
    #[inline]
    pub(crate) fn raw_id(&self) -> u64 {
        self.id
    }

    /// The engine's socket, in whatever state.
    #[inline]
    pub(crate) fn raw(&self) -> Result<RawSocket<'_>, UsError> {
        self.shell.live_socket(self.id)
    }

    /// The engine's socket if it is not closed.
    pub(crate) fn live(&self) -> Result<RawSocket<'_>, UsError> {
        let socket = self.raw()?;
        match socket.state() {
            State::Closing | State::Closed => Err(UsError::Closed),
            _ => Ok(socket),
        }
    }

    // -- Reading ------------------------------------------------------------------------------

    /// Stops the delivery of data and of the peer's end, from now on. Timeouts go on. Beneath:
    /// `usx_socket_pause`.
    ///
    /// Nothing is lost: what the peer sends waits in the system, and a hang-up too is only acted upon
    /// after [`resume`](Self::resume), when everything was delivered. The exception is a socket that
    /// [waits for room](Self::is_write_pending) and has not been [shut down](Self::shutdown): a hang-up
    /// closes it at once, because the room for which it would resume will never come.
    pub fn pause(&self) {
        if let Ok(socket) = self.raw() {
            socket.pause();
        }
    }

    /// Goes on after [`pause`](Self::pause). Beneath: `usx_socket_resume`.
    pub fn resume(&self) {
        if let Ok(socket) = self.raw() {
            socket.resume();
        }
    }

    /// Whether the socket is paused.
    pub fn is_paused(&self) -> bool {
        self.raw().is_ok_and(RawSocket::is_paused)
    }

    /// Ends the direction from the peer: what has arrived is delivered, and then its end, as if the
    /// peer had finished. Beneath: `us_socket_shutdown_read`.
    pub fn shutdown_read(&self) {
        if let Ok(socket) = self.raw() {
            socket.shutdown_read();
        }
    }

    // -- Closing ------------------------------------------------------------------------------

    /// Closes the connection. Beneath: `usx_socket_close`.
    ///
    /// It is closed at once for every observer: no data is delivered any more. `on_close` (or,
    /// before the connection was made, `on_connect_error`) follows from the loop. No effect on a
    /// closed socket.
    ///
    /// Bytes that were accepted are still sent: the engine keeps the connection, and the loop
    /// running, until they are gone and the peer has finished too, or the
    /// [drain deadline](crate::Deadlines::drain) has passed. If the system has refused some of them
    /// already, and the program does not know yet, `on_close` tells that failure.
    pub fn close(&self) {
        if let Ok(socket) = self.raw() {
            socket.close(false);
        }
    }

    /// Closes the connection when the system has taken all that was accepted, at once if it has.
    /// Until then the socket is open and receives, but accepts no output. Beneath:
    /// `usx_socket_close_after_flush`.
    ///
    /// Unlike with [`close`](Self::close), `on_close` tells when, and whether, the last byte has
    /// left.
    pub fn close_after_flush(&self) {
        if let Ok(socket) = self.raw() {
            socket.close_after_flush();
        }
    }

    /// As [`close`](Self::close), but discards what was not sent yet, and the peer sees a reset.
    pub fn reset(&self) {
        if let Ok(socket) = self.raw() {
            socket.close(true);
        }
    }

    /// Whether the socket is closed, or the handle is [stale](UsError::Stale).
    pub fn is_closed(&self) -> bool {
        self.live().is_err()
    }

    /// Whether the connection was made: `on_open` has been or is being called.
    pub fn is_established(&self) -> bool {
        self.raw().is_ok_and(RawSocket::is_established)
    }

    /// Why the socket is closed. `None` if it is not, and some time after `on_close`, when the
    /// system's and the engine's resources have been given back.
    pub fn close_reason(&self) -> Option<CloseReason> {
        CloseReason::of(self.raw().ok()?)
    }

    // -- Timeouts -----------------------------------------------------------------------------

    /// Calls [`on_timeout`](crate::ContextBuilder::on_timeout) once after this time, unless it is
    /// set anew before; [`Duration::ZERO`] disarms. Never early, and a few milliseconds late at
    /// most while the loop is not busy. O(1), and free of allocation: meant to be set anew with
    /// every message. Beneath: `usx_socket_set_deadline`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) beyond 50 days; [`Closed`](UsError::Closed),
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed).
    pub fn set_timeout(&self, after: Duration) -> Result<(), UsError> {
        self.arm(Deadline::Short, after)
    }

    /// A second timeout, independent of the first one:
    /// [`on_long_timeout`](crate::ContextBuilder::on_long_timeout).
    ///
    /// # Errors
    ///
    /// Those of [`set_timeout`](Self::set_timeout).
    pub fn set_long_timeout(&self, after: Duration) -> Result<(), UsError> {
        self.arm(Deadline::Long, after)
    }

    fn arm(&self, which: Deadline, after: Duration) -> Result<(), UsError> {
        self.live()?
            .set_deadline(which, nanoseconds(after))
            .map_err(|_| UsError::invalid("timeout", "it is longer than 50 days"))
    }

    // -- State and relatives ------------------------------------------------------------------

    /// Calls `f` with the socket's state.
    ///
    /// # Errors
    ///
    /// [`StateInUse`](UsError::StateInUse) inside a callback of this socket, which is lent the
    /// state, or another such call; [`Closed`](UsError::Closed) or [`Stale`](UsError::Stale) once
    /// the state was dropped after `on_close`; [`LoopClosed`](UsError::LoopClosed).
    pub fn with_state<R>(&self, f: impl FnOnce(&mut S) -> R) -> Result<R, UsError> {
        let slot = ext::socket_slot::<SSL, S>(self.raw()?)?;
        // Before the loan, so that it ends last.
        let _frame = Frame::enter(&self.shell);
        let mut state = slot.lend()?;
        Ok(f(&mut state))
    }

    /// A handle of the context that the socket is in.
    ///
    /// # Errors
    ///
    /// [`WrongType`](UsError::WrongType) if its state is not a `T`; [`Stale`](UsError::Stale) once
    /// the socket is gone; [`LoopClosed`](UsError::LoopClosed).
    pub fn context<T: 'static>(&self) -> Result<SocketContext<SSL, T, S>, UsError> {
        let context = self.raw()?.context();
        ContextView::<SSL, T, S>::of(context)?;
        context.retain();
        Ok(SocketContext::from_counted(Rc::clone(&self.shell), context.id()))
    }

    /// The socket's loop.
    pub fn event_loop(&self) -> LoopRef {
        LoopRef::new(Rc::clone(&self.shell))
    }

    /// The socket's identity, for other threads. Beneath: `usx_socket_id`.
    pub fn id(&self) -> SocketId<SSL, S> {
        SocketId::new(self.shell.id(), self.id)
    }

    // -- Addresses and descriptor -------------------------------------------------------------

    /// Our IP address. Beneath: `usx_socket_local_address`.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed), [`Stale`](UsError::Stale);
    /// [`InvalidAddress`](UsError::InvalidAddress) for a Unix socket;
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn local_addr(&self) -> Result<SocketAddr, UsError> {
        let address = self.live()?.local_address();
        address.map_err(|source| UsError::io("local_addr", source))?.as_inet().ok_or_else(not_inet)
    }

    /// The peer's IP address. Beneath: `usx_socket_remote_address`.
    ///
    /// # Errors
    ///
    /// Those of [`local_addr`](Self::local_addr); [`UsError::Io`] before the connection is made.
    pub fn peer_addr(&self) -> Result<SocketAddr, UsError> {
        let address = self.live()?.peer_address();
        address.map_err(|source| UsError::io("peer_addr", source))?.as_inet().ok_or_else(not_inet)
    }

    /// The peer's address if this is a Unix socket; most peers have none but an unnamed one.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) for an IP socket; otherwise as for
    /// [`peer_addr`](Self::peer_addr).
    pub fn peer_unix_addr(&self) -> Result<std::os::unix::net::SocketAddr, UsError> {
        let address = self.live()?.peer_address();
        address.map_err(|source| UsError::io("peer_addr", source))?.as_unix().ok_or_else(not_unix)
    }

    /// The process at the other end, if this is a Unix socket: the one that connected, listened or
    /// made the pair, with the ids that it had then. It may have passed the socket on since. Beneath:
    /// `usx_descriptor_peer_credentials` (`SO_PEERCRED`, unix(7)).
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    /// let (ours, _theirs) = UnixStream::pair().expect("a pair");
    /// let credentials = context.accept_fd(ours)?.peer_credentials()?;
    /// assert_eq!(credentials.pid.unsigned_abs(), std::process::id());
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) for an IP socket; otherwise as for
    /// [`with_fd`](Self::with_fd).
    pub fn peer_credentials(&self) -> Result<PeerCredentials, UsError> {
        PeerCredentials::of(self.descriptor()?)
    }

    /// Calls `f` with the descriptor, which stays open meanwhile whatever `f` does.
    ///
    /// It remains the engine's: reading or writing through it mixes up the connection.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed), also while a name is being looked up;
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed).
    pub fn with_fd<R>(&self, f: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R, UsError> {
        // Nobody knows whether `f` duplicates it.
        self.live()?.share();
        let fd = self.descriptor()?;
        let _frame = Frame::enter(&self.shell);
        Ok(f(fd))
    }

    /// The descriptor, for a use that does not keep it.
    pub(crate) fn descriptor(&self) -> Result<BorrowedFd<'_>, UsError> {
        self.live()?.descriptor().ok_or(UsError::Closed)
    }

    /// A second descriptor of the same connection, which stays open when the socket is closed.
    ///
    /// # Errors
    ///
    /// Those of [`with_fd`](Self::with_fd); [`UsError::Io`] without descriptors.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, UsError> {
        self.with_fd(|fd| fd.try_clone_to_owned())?
            .map_err(|source| UsError::io("try_clone_fd", source))
    }

    /// The number of the descriptor, for logs and the like; it may be reused once the socket is
    /// closed.
    ///
    /// # Errors
    ///
    /// Those of [`with_fd`](Self::with_fd).
    pub fn as_raw_fd(&self) -> Result<RawFd, UsError> {
        self.descriptor().map(|fd| fd.as_raw_fd())
    }

    // -- Adoption -----------------------------------------------------------------------------

    /// Moves the connection to another context of the same loop: for a change of protocol. Beneath:
    /// `usx_socket_adopt_later`.
    ///
    /// From this call on handles of the old context are [`Stale`](UsError::Stale), and no event is
    /// delivered. When the callback that is running has returned, the loop calls `convert` to make
    /// the new state of the old one, moves the socket, drops the old state, and calls the target's
    /// [`on_adopt`](crate::ContextBuilder::on_adopt) with the new handle. Timeouts are disarmed.
    ///
    /// `unread` is for use in `on_data` of this very socket: so many bytes at the end of the data
    /// belong to the new protocol already, and are delivered first in the new context. Elsewhere it
    /// is 0.
    ///
    /// If `convert` panics nothing moves, and the old handles are good again. If the socket is
    /// closed before its turn comes, it is closed in its old context, and `convert` is dropped.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed) for a socket that is closed or not open yet,
    /// [`Stale`](UsError::Stale) if it was adopted already, [`WrongLoop`](UsError::WrongLoop),
    /// [`InvalidOption`](UsError::InvalidOption) for an `unread` beyond the data, [`UsError::Io`]
    /// when out of memory, [`LoopClosed`](UsError::LoopClosed).
    ///
    /// ```
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let numbers = SocketContext::<false, (), u32>::builder()
    ///     .on_data(|_, socket, sum, data| {
    ///         *sum += data.iter().map(|digit| u32::from(digit - b'0')).sum::<u32>();
    ///         if *sum == 10 {
    ///             socket.close();
    ///         }
    ///     })
    ///     .build(&event_loop, ())?;
    /// let target = numbers.clone();
    /// let greeter = SocketContext::<false>::builder()
    ///     .on_data(move |_, socket, _, data| {
    ///         // The greeting ends with a colon; what follows are numbers.
    ///         let greeting = data.iter().position(|byte| *byte == b':').expect("a greeting");
    ///         let unread = data.len() - greeting - 1;
    ///         socket.adopt(&target, unread, |()| 4).expect("the socket is open");
    ///         assert!(socket.is_closed()); // this handle is stale now
    ///     })
    ///     .build(&event_loop, ())?;
    /// let listener = greeter.listen("127.0.0.1:0")?;
    /// # let client = SocketContext::<false>::builder()
    /// #     .on_open(|_, socket, _, _| assert_eq!(socket.write(b"hello:123"), 9))
    /// #     .on_end(|_, socket, _| socket.event_loop().stop())
    /// #     .build(&event_loop, ())?;
    /// # client.connect(listener.local_addr()?)?;
    /// event_loop.run()?;
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn adopt<T2: 'static, S2: 'static>(
        &self,
        target: &SocketContext<SSL, T2, S2>,
        unread: usize,
        convert: impl FnOnce(&mut S) -> S2 + 'static,
    ) -> Result<(), UsError> {
        crate::trampoline::adopt(self, target, unread, convert)
    }
}

impl<const SSL: bool, S: 'static> Clone for Socket<SSL, S> {
    fn clone(&self) -> Self {
        Self::new(Rc::clone(&self.shell), self.id)
    }
}

impl<const SSL: bool, S: 'static> PartialEq for Socket<SSL, S> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<const SSL: bool, S: 'static> Eq for Socket<SSL, S> {}

impl<const SSL: bool, S: 'static> Hash for Socket<SSL, S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl<const SSL: bool, S: 'static> fmt::Debug for Socket<SSL, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("id", &self.id()).field("closed", &self.is_closed()).finish()
    }
}
