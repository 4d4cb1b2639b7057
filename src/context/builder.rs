//! How a context is made.

use std::fmt;
use std::rc::Rc;

use super::SocketContext;
use crate::deadline::Deadlines;
use crate::descriptors::ReceivedDescriptors;
use crate::error::UsError;
use crate::event_loop::LoopRef;
use crate::ext::{Callbacks, Factory};
use crate::incoming::{Incoming, OpenInfo};
use crate::reason::CloseReason;
use crate::socket::Socket;
use crate::trampoline::ContextSettings;
use crate::transfer::PipeEnd;

/// Collects the callbacks of a [`SocketContext`].
///
/// Every callback of a socket is given, in this order: the state of the context, the socket, the
/// state of the socket, and what happened. Callbacks run from the loop only and never inside one
/// another, so they may change what they have captured. Setting one again replaces it; all are
/// optional.
///
/// Every connection ends in exactly one of: [`on_open`](Self::on_open), and later
/// [`on_close`](Self::on_close); or [`on_connect_error`](Self::on_connect_error).
///
/// From inside a callback everything may be called, except that the loop cannot be run again. What
/// a call sets in motion, such as the `on_close` of a socket that it closes, follows when the
/// callback has returned.
///
/// ```
/// use usockets::{Loop, SocketContext};
///
/// #[derive(Default)]
/// struct Session { received: usize }
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false, usize, Session>::builder()
///     .on_open(|open_count, _socket, _session, _info| *open_count += 1)
///     .on_data(|_, _socket, session, data| session.received += data.len())
///     .on_close(|open_count, _socket, _session, _reason| *open_count -= 1)
///     .build(&event_loop, 0)?;
/// assert_eq!(context.with_state(|open_count| *open_count)?, 0);
/// # Ok::<(), usockets::UsError>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct ContextBuilder<const SSL: bool, T: 'static = (), S: 'static = ()> {
    pub(crate) callbacks: Callbacks<SSL, T, S>,
    factory: Factory<S>,
    pub(crate) settings: ContextSettings,
}

impl<const SSL: bool, T: 'static, S: 'static> ContextBuilder<SSL, T, S> {
    pub(super) fn new(factory: Factory<S>) -> Self {
        Self { callbacks: Callbacks::default(), factory, settings: ContextSettings::default() }
    }

    /// How long connections may take for what they have to do: see [`Deadlines`], also for the
    /// defaults, which are finite. Beneath: `usx_context_set_deadlines`.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.settings.deadlines = deadlines;
        self
    }

    /// Whether small writes are collected and leave by one system call: see
    /// [`Socket::write`]. Default: yes. Beneath: `usx_context_set_output`.
    pub fn gather(mut self, on: bool) -> Self {
        self.settings.output.gather = on;
        self
    }

    /// When [`on_drain`](Self::on_drain) comes: once more than `high` bytes of a socket have waited
    /// and no more than `low` are left. Defaults: 1 MiB and 256 KiB; a high mark of 0 is none.
    /// Beneath: `usx_context_set_output`.
    pub fn water_marks(mut self, high: usize, low: usize) -> Self {
        self.settings.output.high_water = high;
        self.settings.output.low_water = low;
        self
    }

    /// Most bytes that may wait in one socket, beyond which [`send`](Socket::send) is
    /// [`QueueFull`](UsError::QueueFull). Default: 64 MiB; 0 is no limit. Beneath:
    /// `usx_context_set_output`.
    pub fn send_limit(mut self, bytes: usize) -> Self {
        self.settings.output.limit = bytes;
        self
    }

    /// Has the system read buffers of so many bytes and more, given to [`send_bytes`](Socket::send_bytes), where they
    /// are, instead of copying them ([`MSG_ZEROCOPY`]). Default: 0, which is never. Beneath:
    /// `usx_context_set_output`.
    ///
    /// A buffer is then dropped when the system has told that it is done with it, for TCP when the peer has
    /// acknowledged it; a socket that is closed stays open to the system until then, within its
    /// [drain deadline](Deadlines::drain). Without such a deadline, on Unix sockets, and where the system has no room to
    /// tell, buffers are copied. Each send costs the system more than a copy of a few pages, and connections within
    /// one machine are copied in the end: measure with the network that it is for, from 10 KiB upwards.
    ///
    /// If a connection is cut off, and the system does not let go of a buffer even then, the buffer is leaked rather
    /// than dropped too early.
    ///
    /// [`MSG_ZEROCOPY`]: https://docs.kernel.org/networking/msg_zerocopy.html
    #[cfg(feature = "bytes")]
    pub fn zerocopy_threshold(mut self, bytes: usize) -> Self {
        self.settings.output.zerocopy_threshold = bytes;
        self
    }

    /// Decides about accepted connections before there is a socket: see [`Incoming`]. Unset: all
    /// proceed. Beneath: `us_socket_context_on_pre_open`.
    pub fn accept_filter(mut self, f: impl FnMut(&mut T, Incoming<'_>) + 'static) -> Self {
        self.callbacks.accept_filter = Some(Box::new(f));
        self
    }

    /// A connection is open: accepted, connected, or handed over. Beneath:
    /// `us_socket_context_on_open`.
    pub fn on_open(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S, &OpenInfo) + 'static,
    ) -> Self {
        self.callbacks.on_open = Some(Box::new(f));
        self
    }

    /// Bytes have arrived, from 1 byte to 512 KiB. They are lent, and may be overwritten. Unset:
    /// bytes are discarded. Beneath: `us_socket_context_on_data`.
    pub fn on_data(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S, &mut [u8]) + 'static,
    ) -> Self {
        self.callbacks.on_data = Some(Box::new(f));
        self
    }

    /// Descriptors have come with bytes of a Unix socket (`SCM_RIGHTS` of unix(7)). Unset: the system
    /// drops them.
    ///
    /// It is called just before the [`on_data`](Self::on_data) whose bytes end with those that they
    /// were sent with. Bytes that were sent before may be in front of these in the same chunk, bytes
    /// that were sent later are not. If the socket is paused or [adopted](Socket::adopt) here, the
    /// bytes follow later; if it is closed, not at all. Beneath: `usx_context_on_descriptors`.
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io::Read;
    /// use std::os::fd::AsFd;
    /// use std::os::unix::net::UnixStream;
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<false>::builder()
    ///     .on_descriptors(|_, socket, _, mut received| {
    ///         let mut text = String::new();
    ///         let mut file = File::from(received.fds.pop().expect("one"));
    ///         file.read_to_string(&mut text).expect("it is text");
    ///         assert!(text.contains("usockets"));
    ///         socket.event_loop().stop();
    ///     })
    ///     .build(&event_loop, ())?;
    /// let (ours, theirs) = UnixStream::pair()?;
    /// context.accept_fd(ours)?;
    /// let sender = context.accept_fd(theirs)?;
    /// # let _context = context.clone();
    /// event_loop.turn(None)?;
    /// sender.send_with_descriptors(b"a file", &[File::open("Cargo.toml")?.as_fd()], false)?;
    /// event_loop.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_descriptors(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S, ReceivedDescriptors) + 'static,
    ) -> Self {
        self.callbacks.on_descriptors = Some(Box::new(f));
        self
    }

    /// Has [`on_descriptors`](Self::on_descriptors) called before *every* chunk that comes through a
    /// Unix socket, with the credentials of the process that sent it (`SO_PASSCRED` of unix(7)).
    pub fn receive_credentials(mut self) -> Self {
        self.callbacks.receives_credentials = true;
        self
    }

    /// Nothing waits any more and there is room again, after a [`write`](Socket::write) that took
    /// less than it was given. Beneath: `us_socket_context_on_writable`.
    pub fn on_writable(mut self, f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S) + 'static) -> Self {
        self.callbacks.on_writable = Some(Box::new(f));
        self
    }

    /// The queue of a socket that was above the high [water mark](Self::water_marks) has come down to
    /// the low one. Beneath: `usx_context_on_drain`.
    pub fn on_drain(mut self, f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S) + 'static) -> Self {
        self.callbacks.on_drain = Some(Box::new(f));
        self
    }

    /// The context is [draining](SocketContext::drain): the socket should come to its end, now or
    /// when its peer has got what is still owed to it, and before the deadline. Once for each socket
    /// that is open; for one that opens meanwhile right after its `on_open`, for one that was adopted
    /// after its `on_adopt`. Beneath: `usx_context_on_drain_requested`.
    ///
    /// Unset: sockets are left alone until the deadline, because only the program knows whether
    /// they are in the middle of something. Where they never are,
    /// `|_, socket, _| socket.close_after_flush()` is all that is needed.
    pub fn on_drain_requested(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S) + 'static,
    ) -> Self {
        self.callbacks.on_drain_requested = Some(Box::new(f));
        self
    }

    /// A [pipe](Socket::pipe_to) from this socket has ended while it is open. When the peer has finished
    /// ([`SourceEnded`](PipeEnd::SourceEnded)) this takes the place of [`on_end`](Self::on_end);
    /// [`piped_bytes`](Socket::piped_bytes) says how many bytes it were. Unset: `on_end`, or nothing while another
    /// socket is piped to this one. Beneath: `usx_context_on_pipe_end`.
    pub fn on_pipe_end(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S, PipeEnd) + 'static,
    ) -> Self {
        self.callbacks.on_pipe_end = Some(Box::new(f));
        self
    }

    /// The peer has finished sending, and everything was delivered; once at most, and not after our
    /// own [`shutdown`](Socket::shutdown), when the socket closes instead. The socket stays half
    /// open, and may send, until it is shut down or closed. Unset: the socket is closed. Beneath:
    /// `us_socket_context_on_end`.
    pub fn on_end(mut self, f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S) + 'static) -> Self {
        self.callbacks.on_end = Some(Box::new(f));
        self
    }

    /// The socket is closed, for the given reason; once, and the last that is heard of it. The
    /// socket's state is dropped when this has returned. Beneath: `us_socket_context_on_close`.
    pub fn on_close(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S, &CloseReason) + 'static,
    ) -> Self {
        self.callbacks.on_close = Some(Box::new(f));
        self
    }

    /// The time of [`set_timeout`](Socket::set_timeout) or the [idle deadline](Deadlines::idle) has
    /// passed. The timeout is disarmed; it may
    /// be armed anew. Beneath: `us_socket_context_on_timeout`.
    pub fn on_timeout(mut self, f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S) + 'static) -> Self {
        self.callbacks.on_timeout = Some(Box::new(f));
        self
    }

    /// The time of [`set_long_timeout`](Socket::set_long_timeout) has passed. Beneath:
    /// `us_socket_context_on_long_timeout`.
    pub fn on_long_timeout(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S) + 'static,
    ) -> Self {
        self.callbacks.on_long_timeout = Some(Box::new(f));
        self
    }

    /// A connection could not be made: [`UsError::Io`], [`UsError::Connect`] if there were several
    /// addresses, [`UsError::Resolve`], or [`UsError::Cancelled`] if the program closed it before; also for
    /// a socket of [`accept_fd`](SocketContext::accept_fd) that was closed before its `on_open`. And an
    /// accepted connection did not begin with the PROXY protocol header that its listener asks for:
    /// `UsError::ProxyHeader`, which has the peer's address. The socket's state is dropped when this
    /// has returned. Beneath: `us_socket_context_on_connect_error`.
    pub fn on_connect_error(
        mut self,
        f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S, &UsError) + 'static,
    ) -> Self {
        self.callbacks.on_connect_error = Some(Box::new(f));
        self
    }

    /// [`adopt`](Socket::adopt) has moved a socket into this context. It is open, has its new
    /// state, and the handle given here is the one to use from now on. Beneath:
    /// `usx_socket_adopt_later`.
    pub fn on_adopt(mut self, f: impl FnMut(&mut T, &Socket<SSL, S>, &mut S) + 'static) -> Self {
        self.callbacks.on_adopt = Some(Box::new(f));
        self
    }

    /// Makes the context, with its state. Beneath: `usx_create_socket_context`.
    ///
    /// # Errors
    ///
    /// [`TlsUnavailable`](UsError::TlsUnavailable) for `SSL = true` in a build without TLS;
    /// [`InvalidOption`](UsError::InvalidOption) for a deadline of more than 50 days, or a low-water
    /// mark above the high one; [`LoopClosed`](UsError::LoopClosed), [`UsError::Io`] when out of
    /// memory.
    pub fn build(
        self,
        event_loop: &LoopRef,
        state: T,
    ) -> Result<SocketContext<SSL, T, S>, UsError> {
        if SSL && !cfg!(usockets_tls) {
            return Err(UsError::TlsUnavailable);
        }
        let shell = event_loop.shell();
        let id = crate::trampoline::create_context(
            shell,
            &self.settings,
            self.callbacks,
            self.factory,
            state,
        )?;
        Ok(SocketContext::from_counted(Rc::clone(shell), id))
    }

    /// Makes a context of the same loop as `parent`, with callbacks and states of its own, for sockets that
    /// `parent` will hand over by [`adopt`](Socket::adopt): what an upgraded connection goes on in.
    ///
    /// It does not depend on `parent` afterwards; either may go first. Beneath: what
    /// `us_create_child_socket_context` is for programs in C.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_child<T2: 'static, S2: 'static>(
        self,
        parent: &SocketContext<SSL, T2, S2>,
        state: T,
    ) -> Result<SocketContext<SSL, T, S>, UsError> {
        self.build(&parent.event_loop(), state)
    }
}

impl<const SSL: bool, T: 'static, S: 'static> fmt::Debug for ContextBuilder<SSL, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextBuilder").finish_non_exhaustive()
    }
}
