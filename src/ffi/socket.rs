//! Sockets of the engine.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use usockets_sys as sys;

use super::{Address, RawContext, check};

super::live! {
    /// A stream socket, in any state.
    RawSocket, us_socket_t
}

/// Where a socket is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Opening,
    Open,
    /// Closed for the program; the descriptor is still there.
    Closing,
    Closed,
}

/// Which of a socket's two timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    Short,
    Long,
}

/// The functions of a move to another context.
pub(crate) type Adoption = sys::usx_adoption;

/// What a callback needs to know of its socket.
pub(crate) struct SocketView<'a> {
    pub(crate) id: u64,
    pub(crate) context_ext: NonNull<c_void>,
    pub(crate) ext: NonNull<c_void>,
    pub(crate) flags: &'a Cell<u8>,
}

impl<'a> RawSocket<'a> {
    #[inline]
    pub(crate) fn id(self) -> u64 {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_id(self.as_ptr()) }
    }

    #[inline]
    pub(crate) fn context(self) -> RawContext<'a> {
        // SAFETY: the socket is alive (see `live`).
        let raw = unsafe { sys::us_socket_context(0, self.as_ptr()) };
        // SAFETY: a socket is always in a context.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: a socket holds a reference to its context until it is released.
        unsafe { RawContext::new(raw) }
    }

    /// What a callback needs, by one call.
    #[inline]
    pub(crate) fn view(self) -> SocketView<'a> {
        let mut view = MaybeUninit::uninit();
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_view(self.as_ptr(), view.as_mut_ptr()) };
        // SAFETY: the call has filled it in.
        let view: sys::usx_socket_view = unsafe { view.assume_init() };
        // SAFETY: the areas lie inside the socket's context and the socket.
        let context_ext = unsafe { NonNull::new_unchecked(view.context_ext) };
        // SAFETY: as above.
        let ext = unsafe { NonNull::new_unchecked(view.ext) };
        // SAFETY: as in `flags`.
        let flags = unsafe { &*view.binding_flags.cast::<Cell<u8>>() };
        SocketView { id: view.id, context_ext, ext, flags }
    }

    /// The area that was asked for.
    #[inline]
    pub(crate) fn ext(self) -> NonNull<c_void> {
        // SAFETY: the socket is alive (see `live`).
        let ext = unsafe { sys::us_socket_ext(0, self.as_ptr()) };
        // SAFETY: the area lies inside the socket's own memory.
        unsafe { NonNull::new_unchecked(ext) }
    }

    /// The byte that the engine leaves to us.
    #[inline]
    pub(crate) fn flags(self) -> &'a Cell<u8> {
        // SAFETY: the socket is alive (see `live`).
        let flags = unsafe { sys::usx_socket_binding_flags(self.as_ptr()) };
        // SAFETY: the byte lies inside the socket and only we touch it, on this thread, as a
        // `Cell`, which has the layout of what is in it.
        unsafe { &*flags.cast::<Cell<u8>>() }
    }

    pub(crate) fn state(self) -> State {
        // SAFETY: the socket is alive (see `live`).
        match unsafe { sys::usx_socket_state(self.as_ptr()) } {
            sys::USX_STATE_CONNECTING => State::Connecting,
            sys::USX_STATE_OPENING => State::Opening,
            sys::USX_STATE_OPEN => State::Open,
            sys::USX_STATE_CLOSING => State::Closing,
            _ => State::Closed,
        }
    }

    /// Whether it is about to be moved to another context.
    #[inline]
    pub(crate) fn is_moving(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_is_moving(self.as_ptr()) != 0 }
    }

    pub(crate) fn close_reason(self) -> sys::usx_close_reason {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_close_reason(self.as_ptr()) }
    }

    // -- Output -------------------------------------------------------------------------------

    /// Bytes accepted of all slices together, in order.
    pub(crate) fn write_vectored(self, slices: &[IoSlice<'_>]) -> usize {
        let mut written = 0;
        // Calls of as many slices as the system takes at once.
        for batch in slices.chunks(MAX_SLICES) {
            let length: usize = batch.iter().map(|slice| slice.len()).sum();
            let count = c_int::try_from(batch.len()).unwrap_or(c_int::MAX);
            // SAFETY: the socket is alive (see `live`); std promises that `IoSlice` has the layout
            // of `iovec`; the bytes are read, during the call only.
            let taken =
                unsafe { sys::usx_socket_write(self.as_ptr(), batch.as_ptr().cast(), count, 0) };
            written += taken;
            if taken < length {
                break;
            }
        }
        written
    }

    /// Accepts all slices, in order, or nothing.
    pub(crate) fn send(self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let count = c_int::try_from(slices.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the socket is alive (see `live`); std promises that `IoSlice` has the layout of
        // `iovec`; the bytes are read, during the call only.
        check(unsafe { sys::usx_socket_send(self.as_ptr(), slices.as_ptr().cast(), count) })
    }

    /// Accepts all of it, without a copy if it is large, or nothing. `release` is called once with
    /// `argument` if this returns `Ok`, perhaps before that.
    ///
    /// # Safety
    ///
    /// The bytes stay where they are until `release` is called, which takes that argument and does
    /// not call the engine.
    #[cfg(feature = "bytes")]
    pub(crate) unsafe fn send_owned(
        self,
        data: *const [u8],
        release: unsafe extern "C" fn(*mut c_void),
        argument: *mut c_void,
    ) -> io::Result<()> {
        let (bytes, length) = (data.cast(), data.len());
        // SAFETY: the socket is alive (see `live`); the caller vouches for the rest.
        check(unsafe {
            sys::usx_socket_send_owned(self.as_ptr(), bytes, length, Some(release), argument)
        })
    }

    /// Accepts a stretch of a file, or nothing; the file is closed then.
    pub(crate) fn send_file(self, file: OwnedFd, offset: u64, length: u64) -> io::Result<()> {
        // SAFETY: the socket is alive (see `live`); the descriptor is open.
        let result =
            unsafe { sys::usx_socket_send_file(self.as_ptr(), file.as_raw_fd(), offset, length) };
        check(result)?;
        // The engine's from now on.
        let _number = file.into_raw_fd();
        Ok(())
    }

    /// Has its input go to another socket of the loop.
    pub(crate) fn pipe(self, target: RawSocket<'_>, leave_open: bool) -> io::Result<()> {
        let flags = if leave_open { sys::USX_PIPE_LEAVE_OPEN } else { 0 };
        // SAFETY: both sockets are alive (see `live`); the engine checks their loops and states.
        check(unsafe { sys::usx_socket_pipe(self.as_ptr(), target.as_ptr(), flags) })
    }

    pub(crate) fn is_piped(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_is_piped(self.as_ptr()) != 0 }
    }

    pub(crate) fn piped_bytes(self) -> u64 {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_piped_bytes(self.as_ptr()) }
    }

    /// Bytes accepted that the system has not taken yet.
    pub(crate) fn buffered(self) -> usize {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_buffered(self.as_ptr()) }
    }

    pub(crate) fn needs_drain(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_needs_drain(self.as_ptr()) != 0 }
    }

    pub(crate) fn flush(self) {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_flush(self.as_ptr()) };
    }

    /// Ends the direction to the peer after what was accepted.
    pub(crate) fn shutdown(self) {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::us_socket_shutdown(0, self.as_ptr()) };
    }

    /// Ends the direction from the peer after what has arrived.
    pub(crate) fn shutdown_read(self) {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::us_socket_shutdown_read(0, self.as_ptr()) };
    }

    pub(crate) fn is_shut_down(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::us_socket_is_shut_down(0, self.as_ptr()) != 0 }
    }

    pub(crate) fn is_established(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::us_socket_is_established(0, self.as_ptr()) != 0 }
    }

    pub(crate) fn is_write_pending(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_is_writable_pending(self.as_ptr()) != 0 }
    }

    // -- Control ------------------------------------------------------------------------------

    /// Has `on_close` called once more by the next run, in whose midst it is now.
    pub(crate) fn close_again(self) {
        // SAFETY: the socket is alive (see `live`); nothing is called back now.
        unsafe { sys::usx_socket_close_again(self.as_ptr()) };
    }

    /// Closes as a pending effect.
    pub(crate) fn close(self, reset: bool) {
        // SAFETY: the socket is alive (see `live`) and its context defers: nothing is called back.
        unsafe { sys::usx_socket_close(self.as_ptr(), c_int::from(reset)) };
    }

    /// Closes as a pending effect once everything was sent.
    pub(crate) fn close_after_flush(self) {
        // SAFETY: the socket is alive (see `live`) and its context defers: nothing is called back.
        unsafe { sys::usx_socket_close_after_flush(self.as_ptr()) };
    }

    /// Closes without callbacks, inside its `on_open` or before that.
    pub(crate) fn discard(self) {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_discard(self.as_ptr()) };
    }

    pub(crate) fn pause(self) {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_pause(self.as_ptr()) };
    }

    pub(crate) fn resume(self) {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_resume(self.as_ptr()) };
    }

    pub(crate) fn is_paused(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        unsafe { sys::usx_socket_is_paused(self.as_ptr()) != 0 }
    }

    /// Arms a timeout; 0 disarms.
    pub(crate) fn set_deadline(self, which: Deadline, nanoseconds: u64) -> io::Result<()> {
        let which = match which {
            Deadline::Short => 0,
            Deadline::Long => 1,
        };
        // SAFETY: the socket is alive (see `live`).
        check(unsafe { sys::usx_socket_set_deadline(self.as_ptr(), which, nanoseconds) })
    }

    /// Sets a policy deadline, one of `USX_DEADLINE_*`; 0 for none.
    pub(crate) fn set_policy_deadline(self, kind: c_int, nanoseconds: u64) -> io::Result<()> {
        // SAFETY: the socket is alive (see `live`).
        check(unsafe { sys::usx_socket_set_policy_deadline(self.as_ptr(), kind, nanoseconds) })
    }

    pub(crate) fn local_address(self) -> io::Result<Address> {
        // SAFETY: the socket is alive (see `live`); on success an address has been written.
        unsafe { Address::ask(sys::usx_socket_local_address, self.as_ptr()) }
    }

    pub(crate) fn peer_address(self) -> io::Result<Address> {
        // SAFETY: the socket is alive (see `live`); on success an address has been written.
        unsafe { Address::ask(sys::usx_socket_remote_address, self.as_ptr()) }
    }

    /// The descriptor: none while a name is being resolved, and when closed.
    pub(crate) fn descriptor(self) -> Option<BorrowedFd<'a>> {
        // SAFETY: the socket is alive (see `live`), and may be taken for a poll here.
        let fd: RawFd = unsafe { sys::us_poll_fd(self.as_ptr().cast()) };
        // SAFETY: the engine shows a descriptor only while it keeps it open, and closes it only at
        // a point of its own, for which everybody who has a `RawSocket` must be back.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// The descriptor may get a twin, so that closing it will not end it in the kernel.
    pub(crate) fn share(self) {
        // SAFETY: the socket is alive (see `live`), and may be taken for a poll here.
        unsafe { sys::usx_poll_share(self.as_ptr().cast()) };
    }

    /// Moves it to another context as a pending effect.
    ///
    /// # Safety
    ///
    /// The functions may be called with `argument` as `usx_adoption` says, after this returns `Ok`.
    pub(crate) unsafe fn adopt_later(
        self,
        target: RawContext<'_>,
        ext_size: c_uint,
        unread: usize,
        functions: &Adoption,
        argument: *mut c_void,
    ) -> io::Result<()> {
        // SAFETY: both objects are alive (see `live`); the caller vouches for the rest.
        check(unsafe {
            sys::usx_socket_adopt_later(
                self.as_ptr(),
                target.as_ptr(),
                ext_size,
                unread,
                functions,
                argument,
            )
        })
    }
}

/// Slices given to the system at once: what Linux allows (`UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;
