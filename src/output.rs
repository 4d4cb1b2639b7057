#![forbid(unsafe_code)]
//! What sockets send.

use std::io::{self, IoSlice};

use usockets_sys as sys;

use crate::error::UsError;
use crate::shell::Frame;
use crate::socket::Socket;

/// How a context treats the output of its sockets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputOptions {
    pub(crate) gather: bool,
    pub(crate) high_water: usize,
    pub(crate) low_water: usize,
    pub(crate) limit: usize,
    pub(crate) zerocopy_threshold: usize,
}

impl Default for OutputOptions {
    fn default() -> Self {
        Self {
            gather: true,
            high_water: 1 << 20,
            low_water: 1 << 18,
            limit: 1 << 26,
            zerocopy_threshold: 0,
        }
    }
}

impl OutputOptions {
    /// As the engine takes them.
    pub(crate) fn to_raw(self) -> Result<sys::usx_output_options, UsError> {
        if self.low_water > self.high_water {
            return Err(UsError::invalid("water marks", "the low one is above the high one"));
        }
        Ok(sys::usx_output_options {
            gather: i32::from(self.gather),
            high_water: self.high_water,
            low_water: self.low_water,
            limit: self.limit,
            zerocopy_threshold: self.zerocopy_threshold,
        })
    }
}

/// Writing.
impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// Accepts bytes and returns how many: from 0 to all of them. Beneath: `usx_loop_write`.
    ///
    /// Small writes are *collected*, up to 16 KiB, and leave together: when the callback has
    /// returned, at the latest at the end of the turn, or by [`flush`](Self::flush). Outside of callbacks and
    /// [`cork`](Self::cork) they go to the system at once. So do writes of 4 KiB and more, with what was collected
    /// before them.
    ///
    /// After a short count, 0 included, [`on_writable`](crate::ContextBuilder::on_writable) tells when
    /// there is room again, and until then nothing is accepted. Sockets that are closed, not open
    /// yet, or shut down take nothing. An error of the system shows as a short count at most, and
    /// `on_close` follows.
    #[must_use = "what was not accepted must be written again in `on_writable`"]
    #[inline]
    pub fn write(&self, data: &[u8]) -> usize {
        self.shell().write(self.raw_id(), data)
    }

    /// As [`write`](Self::write), for several slices in order. Returns the number of bytes accepted
    /// of all together. Beneath: `usx_socket_write`.
    #[must_use = "what was not accepted must be written again in `on_writable`"]
    pub fn write_vectored(&self, slices: &[IoSlice<'_>]) -> usize {
        self.raw().map_or(0, |socket| socket.write_vectored(slices))
    }

    /// Accepts all of the bytes. What the system does not take is queued in the socket and sent
    /// when there is room. Beneath: `usx_socket_send`.
    ///
    /// A socket that is still connecting queues everything, and sends it once it is open.
    ///
    /// To hold back while the peer is slow, see [`needs_drain`](Self::needs_drain).
    ///
    /// # Errors
    ///
    /// Nothing was accepted: [`QueueFull`](UsError::QueueFull) if more would wait than the
    /// [limit of the context](crate::ContextBuilder::send_limit) or
    /// [that of the loop](crate::LoopBuilder::send_limit) allows;
    /// [`Closed`](UsError::Closed), also after [`shutdown`](Self::shutdown),
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed); [`UsError::Io`] without
    /// memory.
    #[inline]
    pub fn send(&self, data: &[u8]) -> Result<(), UsError> {
        if self.shell().collect(self.raw_id(), data) {
            return Ok(());
        }
        self.send_vectored(&[IoSlice::new(data)])
    }

    /// As [`send`](Self::send), for several slices in order: all or none of them.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub fn send_vectored(&self, slices: &[IoSlice<'_>]) -> Result<(), UsError> {
        self.raw()?.send(slices).map_err(send_error)
    }

    /// As [`send`](Self::send), without copying: what is queued is the buffer itself. Beneath:
    /// `usx_socket_send_owned`.
    ///
    /// The system copies it when it is sent, unless
    /// [`zerocopy_threshold`](crate::ContextBuilder::zerocopy_threshold) says otherwise.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let page = Bytes::from(vec![b'x'; 1 << 20]); // shared by all answers
    /// let server = SocketContext::<false>::builder()
    ///     .on_data(move |_, socket, _, _request| {
    ///         if socket.send_bytes(page.clone()).is_err() {
    ///             socket.reset();
    ///         }
    ///         socket.close(); // what was accepted is sent nevertheless
    ///     })
    ///     .build(&event_loop, ())?;
    /// let listener = server.listen("127.0.0.1:0")?;
    ///
    /// let client = SocketContext::<false, usize>::builder()
    ///     .on_open(|_, socket, _, _| assert_eq!(socket.write(b"page, please"), 12))
    ///     .on_data(|received, _, _, data| *received += data.len())
    ///     .on_close(|received, socket, _, _| {
    ///         assert_eq!(*received, 1 << 20);
    ///         socket.event_loop().stop();
    ///     })
    ///     .build(&event_loop, 0)?;
    /// client.connect(listener.local_addr()?)?;
    /// event_loop.run()?;
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send); the buffer is dropped then.
    #[cfg(feature = "bytes")]
    pub fn send_bytes(&self, data: bytes::Bytes) -> Result<(), UsError> {
        if self.shell().collect(self.raw_id(), &data) {
            return Ok(());
        }
        match self.raw() {
            Ok(socket) => {
                crate::trampoline::send_bytes(self.shell(), socket, data).map_err(send_error)
            }
            Err(error) => {
                // A loop that the buffer's destructor drops ends after it, not inside of it.
                let _frame = Frame::enter(self.shell());
                drop(data);
                Err(error)
            }
        }
    }

    /// Sends what is collected, as far as the system takes it. Beneath: `usx_socket_flush`.
    ///
    /// Rarely needed: before something that takes long, for instance.
    pub fn flush(&self) {
        if let Ok(socket) = self.raw() {
            socket.flush();
        }
    }

    /// Collects what `f` writes and sends it when `f` has returned: for code outside of callbacks.
    /// Inside of one, what is written is collected anyway, until the callback's end.
    ///
    /// ```
    /// # use usockets::{Loop, SocketContext};
    /// # let event_loop = Loop::<()>::new()?;
    /// # let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    /// # let listener = context.listen("127.0.0.1:0")?;
    /// # let socket = context.connect(listener.local_addr()?)?;
    /// # while !socket.is_established() { event_loop.turn(None)?; }
    /// socket.cork(|socket| {
    ///     socket.send(b"HTTP/1.1 200 OK\r\n")?;
    ///     socket.send(b"Content-Length: 0\r\n\r\n") // one segment
    /// })?;
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn cork<R>(&self, f: impl FnOnce(&Self) -> R) -> R {
        let _frame = Frame::enter(self.shell());
        f(self)
    }

    /// Bytes that were accepted and that the system has not taken yet, those of
    /// [files](Self::send_file) included. Beneath: `usx_socket_buffered`.
    pub fn buffered(&self) -> usize {
        self.raw().map_or(0, |socket| socket.buffered())
    }

    /// Whether more waits than the [high-water mark](crate::ContextBuilder::water_marks). It is a
    /// good time to [pause](Self::pause) whatever the output comes from;
    /// [`on_drain`](crate::ContextBuilder::on_drain) tells when the queue has come down. Beneath:
    /// `usx_socket_needs_drain`.
    pub fn needs_drain(&self) -> bool {
        self.raw().is_ok_and(|socket| socket.needs_drain())
    }

    /// Whether a write came up short and `on_writable` is to come. Beneath:
    /// `usx_socket_is_writable_pending`.
    pub fn is_write_pending(&self) -> bool {
        self.raw().is_ok_and(|socket| socket.is_write_pending())
    }

    /// Ends our direction: the peer sees the end after all that was accepted. Receiving goes on
    /// until the peer ends too, when the socket closes. Beneath: `us_socket_shutdown`.
    pub fn shutdown(&self) {
        if let Ok(socket) = self.raw() {
            socket.shutdown();
        }
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    pub fn is_shut_down(&self) -> bool {
        self.raw().is_ok_and(|socket| socket.is_shut_down())
    }
}

pub(crate) fn send_error(error: io::Error) -> UsError {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => UsError::QueueFull,
        Some(libc::EPIPE) => UsError::Closed,
        _ => UsError::io("send", error),
    }
}
