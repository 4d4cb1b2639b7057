#![forbid(unsafe_code)]
//! Bytes that the system moves by itself.

use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::fd::OwnedFd;

use usockets_sys as sys;

use crate::error::UsError;
use crate::socket::Socket;

/// Files.
impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// Sends a stretch of a file, in order with all other output and, where the system can do that, without
    /// copying it into this process ([sendfile(2)]). Otherwise it is read and sent piece by piece. Beneath:
    /// `usx_socket_send_file`.
    ///
    /// The range counts bytes of the file; without an end it is all that a regular file has now. The file's
    /// own position does not matter and stays. What was written before leaves in the same segments.
    ///
    /// The bytes count for [`buffered`](Self::buffered) and the
    /// [water marks](crate::ContextBuilder::water_marks), but not for the limits, which are about memory. The
    /// write-stall deadline applies. What the system does not have in its cache is waited for: files on slow
    /// disks hold up the loop.
    ///
    /// If the file gets shorter while it is sent, or cannot be read, the connection ends with a reset, so that the
    /// peer does not take what it has for all, and with [`CloseReason::File`](crate::CloseReason::File).
    ///
    /// May be called inside callbacks. The file is closed when it was sent. To send one file to many, give each
    /// call a [`try_clone`](File::try_clone): of the position, which clones share, no use is made.
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let server = SocketContext::<false>::builder()
    ///     .on_data(|_, socket, _, _request| {
    ///         let Ok(file) = File::open("Cargo.toml") else { return socket.reset() };
    ///         if socket.send(b"here it is: ").and_then(|()| socket.send_file(file, ..9)).is_err() {
    ///             return socket.reset();
    ///         }
    ///         socket.close(); // what was accepted is sent nevertheless
    ///     })
    ///     .build(&event_loop, ())?;
    /// let listener = server.listen("127.0.0.1:0")?;
    ///
    /// let client = SocketContext::<false, Vec<u8>>::builder()
    ///     .on_open(|_, socket, _, _| assert_eq!(socket.write(b"please"), 6))
    ///     .on_data(|received, _, _, data| received.extend_from_slice(data))
    ///     .on_close(|_, socket, _, _| socket.event_loop().stop())
    ///     .build(&event_loop, Vec::new())?;
    /// client.connect(listener.local_addr()?)?;
    /// event_loop.run()?;
    /// assert!(client.with_state(|received| received.starts_with(b"here it is: "))?);
    /// # client.with_state(|received| assert_eq!(received.len(), 21))?;
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Nothing was accepted, and the file is closed: [`InvalidOption`](UsError::InvalidOption) if a regular file has
    /// less than that; [`UsError::Io`] if it is a directory, a pipe or the like (`EISDIR`, `ESPIPE`), is not open for
    /// reading (`EBADF`), or without memory; [`Closed`](UsError::Closed), also after [`shutdown`](Self::shutdown),
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed).
    ///
    /// [sendfile(2)]: https://man7.org/linux/man-pages/man2/sendfile.2.html
    pub fn send_file(
        &self,
        file: impl Into<OwnedFd>,
        range: impl RangeBounds<u64>,
    ) -> Result<(), UsError> {
        let socket = self.raw()?;
        let file = File::from(file.into());
        let (offset, length) = stretch(&file, &range)?;
        socket.send_file(file.into(), offset, length).map_err(file_error)
    }
}

/// Pipes to other sockets.
impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// From now on, what the peer sends goes to `target`, and not to `on_data`: without a copy in this process
    /// where the system can do that ([splice(2)]), else received and sent. Beneath: `usx_socket_pipe`.
    ///
    /// The two may be of different contexts of one loop, with different states. A second pipe the other way
    /// makes a proxy:
    ///
    /// ```
    /// use usockets::{Loop, Socket, SocketContext, UsError};
    ///
    /// # fn start(event_loop: &Loop) -> Result<(), UsError> {
    /// # let echo = SocketContext::<false>::builder()
    /// #     .on_data(|_, socket, _, data| socket.send(data).expect("a short queue"))
    /// #     .build(event_loop, ())?;
    /// # let upstream = echo.listen("127.0.0.1:0")?;
    /// # let upstream_address = upstream.local_addr()?;
    /// /// Connections to the server behind us; each knows its client.
    /// type Client = Option<Socket<false>>;
    /// let servers = SocketContext::<false, (), Client>::builder()
    ///     .on_open(|_, server, client, _| {
    ///         let Some(client) = client.take() else { return };
    ///         if client.pipe_to(server).and_then(|()| server.pipe_to(&client)).is_err() {
    ///             server.close(); // the client has gone meanwhile
    ///         }
    ///         client.resume();
    ///     })
    ///     .on_connect_error(|_, _, client, _| {
    ///         client.take().inspect(Socket::close);
    ///     })
    ///     .build(event_loop, ())?;
    /// let clients = SocketContext::<false>::builder()
    ///     .on_open(move |_, client, _, _| {
    ///         client.pause(); // until there is somebody to talk to
    ///         match servers.connect(upstream_address) {
    ///             Ok(server) => {
    ///                 let known = server.with_state(|state| *state = Some(client.clone()));
    ///                 known.expect("it is not lent");
    ///             }
    ///             Err(_) => client.close(),
    ///         }
    ///     })
    ///     .build(event_loop, ())?;
    /// let listener = clients.listen("127.0.0.1:0")?;
    /// # let user = SocketContext::<false>::builder()
    /// #     .on_open(|_, socket, _, _| socket.send(b"ping").expect("a short queue"))
    /// #     .on_data(|_, socket, _, data| { assert_eq!(data, b"ping"); socket.event_loop().stop(); })
    /// #     .build(event_loop, ())?;
    /// # user.connect(listener.local_addr()?)?;
    /// # event_loop.run()
    /// # }
    /// # let event_loop = Loop::new()?;
    /// # start(&event_loop)?;
    /// # Ok::<(), UsError>(())
    /// ```
    ///
    /// # What goes through
    ///
    /// Bytes that the program did not take yet, those that [`adopt`](Self::adopt) left over for instance, come first.
    /// Nothing more is received while the target has no room, so what waits is bounded; nothing at all while the source is [paused](Self::pause). The target may be
    /// written to meanwhile: it goes between two chunks. Deadlines are those of the two sockets: idle,
    /// and write stall of the target. A source that waits for a slow target counts as idle meanwhile.
    /// Descriptors that come with the bytes of a Unix socket are dropped.
    ///
    /// # How it ends
    ///
    /// When the peer of the source has finished, `target` is [shut down](Self::shutdown) after all that it was
    /// given, and [`on_pipe_end`](crate::ContextBuilder::on_pipe_end) comes in place of `on_end`. When one
    /// of the two sockets closes, so does the other one, as [`CloseReason::Pipe`](crate::CloseReason::Pipe), and with a
    /// reset unless the end was in order. So the proxy above needs no further callbacks. For a target that is to
    /// outlive its source see [`pipe_to_and_keep`](Self::pipe_to_and_keep).
    ///
    /// A target that the program shuts down or [closes after a flush](Self::close_after_flush) ends the pipe:
    /// `on_pipe_end` comes, and data goes to `on_data` again.
    ///
    /// May be called inside callbacks. Sockets that are piped can't be adopted.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed) if one of the two is not open, or the target is shut down;
    /// [`Piped`](UsError::Piped) if this socket is the source of a pipe already, or the target the target of one;
    /// [`InvalidOption`](UsError::InvalidOption) if they are the same; [`WrongLoop`](UsError::WrongLoop),
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed); [`UsError::Io`] without memory.
    ///
    /// [splice(2)]: https://man7.org/linux/man-pages/man2/splice.2.html
    pub fn pipe_to<const SSL2: bool, S2: 'static>(
        &self,
        target: &Socket<SSL2, S2>,
    ) -> Result<(), UsError> {
        self.pipe(target, false)
    }

    /// As [`pipe_to`](Self::pipe_to), but the two stay independent: `target` is neither shut down nor closed when
    /// this socket ends or closes; and when `target` closes, `on_pipe_end` comes here, and then `on_data`.
    ///
    /// # Errors
    ///
    /// Those of [`pipe_to`](Self::pipe_to).
    pub fn pipe_to_and_keep<const SSL2: bool, S2: 'static>(
        &self,
        target: &Socket<SSL2, S2>,
    ) -> Result<(), UsError> {
        self.pipe(target, true)
    }

    fn pipe<const SSL2: bool, S2: 'static>(
        &self,
        target: &Socket<SSL2, S2>,
        leave_open: bool,
    ) -> Result<(), UsError> {
        if self.shell().id() != target.shell().id() {
            return Err(UsError::WrongLoop);
        }
        self.raw()?.pipe(target.raw()?, leave_open).map_err(pipe_error)
    }

    /// Whether what the peer sends goes to another socket at present. Beneath: `usx_socket_is_piped`.
    pub fn is_piped(&self) -> bool {
        self.raw().is_ok_and(|socket| socket.is_piped())
    }

    /// Bytes that have gone from this socket through pipes, in all; also in `on_close`. 0 once the handle is
    /// [stale](UsError::Stale). Beneath: `usx_socket_piped_bytes`.
    pub fn piped_bytes(&self) -> u64 {
        self.raw().map_or(0, |socket| socket.piped_bytes())
    }
}

/// Why a pipe has ended while its source is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PipeEnd {
    /// The peer of the source has finished, and all that it sent was passed on.
    SourceEnded,
    /// The target takes no more.
    TargetClosed,
}

impl PipeEnd {
    pub(crate) fn from_raw(raw: i32) -> Self {
        if raw == sys::USX_PIPE_END_SOURCE { Self::SourceEnded } else { Self::TargetClosed }
    }
}

fn pipe_error(error: io::Error) -> UsError {
    match error.raw_os_error() {
        Some(libc::ENOTCONN | libc::EPIPE) => UsError::Closed,
        Some(libc::EALREADY | libc::EBUSY) => UsError::Piped,
        Some(libc::EINVAL) => UsError::invalid("target", "it is the source itself"),
        Some(libc::EXDEV) => UsError::WrongLoop,
        _ => UsError::io("pipe_to", error),
    }
}

/// The offset and length of a range of a file.
fn stretch(file: &File, range: &impl RangeBounds<u64>) -> Result<(u64, u64), UsError> {
    let offset = match range.start_bound() {
        Bound::Unbounded => Some(0),
        Bound::Included(&start) => Some(start),
        Bound::Excluded(&start) => start.checked_add(1),
    };
    let end = match range.end_bound() {
        Bound::Unbounded => Some(file.metadata().map_err(file_error)?.len()),
        Bound::Included(&end) => end.checked_add(1),
        Bound::Excluded(&end) => Some(end),
    };
    let length = |offset: u64| Some((offset, end?.checked_sub(offset)?));
    offset.and_then(length).ok_or_else(|| UsError::invalid("range", "it ends before it begins"))
}

fn file_error(error: io::Error) -> UsError {
    match error.raw_os_error() {
        Some(libc::ERANGE) => UsError::invalid("range", "the file has not that much"),
        Some(libc::EPIPE) => UsError::Closed,
        _ => UsError::io("send_file", error),
    }
}
