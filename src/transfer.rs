#![forbid(unsafe_code)]
//! Bytes that the system moves by itself.

use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::fd::OwnedFd;

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
