//! Contexts and listeners of the engine.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use usockets_sys as sys;

use super::{Address, RawLoop, RawSocket, check};

super::live! {
    /// A deferring context.
    RawContext, us_socket_context_t
}

super::live! {
    /// A listen socket, possibly closed.
    RawListener, us_listen_socket_t
}

/// What connections to a listener begin with.
#[cfg(feature = "proxy-protocol")]
pub(crate) type Prelude = sys::usx_prelude;

/// Functions that C calls for something that happens to a socket.
pub(crate) mod function {
    use super::{c_char, c_int, c_uchar, c_void, sys};

    pub(crate) type Plain = unsafe extern "C" fn(*mut sys::us_socket_t) -> *mut sys::us_socket_t;
    pub(crate) type Open = unsafe extern "C" fn(
        *mut sys::us_socket_t,
        c_int,
        *mut c_char,
        c_int,
    ) -> *mut sys::us_socket_t;
    pub(crate) type Data =
        unsafe extern "C" fn(*mut sys::us_socket_t, *mut c_char, c_int) -> *mut sys::us_socket_t;
    pub(crate) type Close =
        unsafe extern "C" fn(*mut sys::us_socket_t, c_int, *mut c_void) -> *mut sys::us_socket_t;
    pub(crate) type ConnectError =
        unsafe extern "C" fn(*mut sys::us_socket_t, c_int) -> *mut sys::us_socket_t;
    pub(crate) type PreOpen =
        unsafe extern "C" fn(*mut sys::us_socket_context_t, c_int, *mut c_char, c_int) -> c_int;
    pub(crate) type Descriptors =
        unsafe extern "C" fn(*mut sys::us_socket_t, *const sys::usx_descriptors);
    pub(crate) type Release = unsafe extern "C" fn(*mut sys::us_socket_context_t);
    pub(crate) type Drained =
        unsafe extern "C" fn(*mut sys::us_loop_t, *const sys::usx_drain_report, *mut c_void);
    pub(crate) type ReleaseUser = unsafe extern "C" fn(*mut c_void);
    pub(crate) type ServerName =
        unsafe extern "C" fn(*mut sys::us_socket_t, *const c_char) -> c_int;
    pub(crate) type Verify = unsafe extern "C" fn(*mut sys::us_socket_t, c_int) -> c_int;
    pub(crate) type Protocol =
        unsafe extern "C" fn(*mut sys::us_socket_t, *const c_uchar, usize) -> c_int;
    pub(crate) type Session = unsafe extern "C" fn(*mut sys::us_socket_t, *const c_void, usize);
}

/// Defines a setter of one callback.
macro_rules! setter {
    ($name:ident, $function:ident, $c:ident) => {
        pub(crate) fn $name(self, function: function::$function) {
            // SAFETY: the context is alive (see `live`).
            unsafe { sys::$c(0, self.as_ptr(), Some(function)) };
        }
    };
}

impl<'a> RawContext<'a> {
    pub(crate) fn id(self) -> u64 {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_id(self.as_ptr()) }
    }

    /// The zeroed area that was asked for.
    #[inline]
    pub(crate) fn ext(self) -> NonNull<c_void> {
        // SAFETY: the context is alive (see `live`).
        let ext = unsafe { sys::us_socket_context_ext(0, self.as_ptr()) };
        // SAFETY: the area lies inside the context's own memory.
        unsafe { NonNull::new_unchecked(ext) }
    }

    pub(crate) fn engine(self) -> RawLoop<'a> {
        // SAFETY: the context is alive (see `live`).
        let raw = unsafe { sys::us_socket_context_loop(0, self.as_ptr()) };
        // SAFETY: a context always belongs to a loop.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: a loop outlives its contexts.
        unsafe { RawLoop::new(raw) }
    }

    /// Counts one more handle.
    pub(crate) fn retain(self) {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_retain(self.as_ptr()) };
    }

    /// Counts one handle less; the last one may free the context, and runs destructors.
    ///
    /// # Safety
    ///
    /// The caller owns the reference that is given back, and does not use the context through it.
    pub(crate) unsafe fn release(self) {
        // SAFETY: the context is alive (see `live`); the caller vouches for the rest.
        unsafe { sys::usx_context_release(self.as_ptr()) };
    }

    /// How output is treated, and which deadlines end sockets. False if the engine refuses.
    pub(crate) fn configure(
        self,
        output: &sys::usx_output_options,
        deadlines: &sys::usx_deadlines,
    ) -> bool {
        // SAFETY: the context is alive (see `live`).
        let output = unsafe { sys::usx_context_set_output(self.as_ptr(), output) };
        // SAFETY: as above.
        let deadlines = unsafe { sys::usx_context_set_deadlines(self.as_ptr(), deadlines) };
        output == 0 && deadlines == 0
    }

    pub(crate) fn on_pipe_end(self, function: function::ConnectError) {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_on_pipe_end(self.as_ptr(), Some(function)) };
    }

    pub(crate) fn on_drain(self, function: function::Plain) {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_on_drain(self.as_ptr(), Some(function)) };
    }

    pub(crate) fn on_drain_requested(self, function: function::Plain) {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_on_drain_requested(self.as_ptr(), Some(function)) };
    }

    /// Drains it for some nanoseconds at most. On success `function` is called with `argument`,
    /// once and later.
    ///
    /// # Safety
    ///
    /// The function may be called with the argument.
    pub(crate) unsafe fn drain(
        self,
        nanoseconds: u64,
        function: function::Drained,
        argument: *mut c_void,
    ) -> io::Result<()> {
        // SAFETY: the context is alive (see `live`); the caller vouches for the rest.
        check(unsafe {
            sys::usx_context_drain(self.as_ptr(), nanoseconds, Some(function), argument)
        })
    }

    pub(crate) fn is_draining(self) -> bool {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_is_draining(self.as_ptr()) != 0 }
    }

    /// Closes all its listeners and sockets as pending effects.
    pub(crate) fn close_all(self) {
        // SAFETY: the context is alive (see `live`), and deferring: nothing is called back.
        unsafe { sys::usx_context_close(self.as_ptr()) };
    }

    setter!(on_pre_open, PreOpen, us_socket_context_on_pre_open);
    setter!(on_open, Open, us_socket_context_on_open);
    setter!(on_data, Data, us_socket_context_on_data);
    setter!(on_writable, Plain, us_socket_context_on_writable);
    setter!(on_end, Plain, us_socket_context_on_end);
    setter!(on_close, Close, us_socket_context_on_close);
    setter!(on_timeout, Plain, us_socket_context_on_timeout);
    setter!(on_long_timeout, Plain, us_socket_context_on_long_timeout);
    setter!(on_connect_error, ConnectError, us_socket_context_on_connect_error);

    /// Sets what is called for descriptors that come with bytes, and whether also for credentials.
    pub(crate) fn on_descriptors(self, function: function::Descriptors, credentials: bool) {
        let credentials = c_int::from(credentials);
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_on_descriptors(self.as_ptr(), Some(function), credentials) };
    }

    /// Sets what is called when nobody holds the context any more.
    pub(crate) fn on_release(self, function: Option<function::Release>) {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_on_release(self.as_ptr(), function) };
    }

    // -- Listening and accepting; `Err` is what `RawLoop::last_error` says ---------------------

    pub(crate) fn listen(
        self,
        address: &Address,
        settings: &sys::usx_listen_options,
        ext_size: c_uint,
    ) -> Result<RawListener<'a>, c_int> {
        // SAFETY: the context is alive (see `live`); the other pointers are valid for the call.
        let made = unsafe {
            sys::usx_context_listen(
                self.as_ptr(),
                address.as_ptr(),
                address.len(),
                settings,
                ext_size,
            )
        };
        self.listener(made)
    }

    /// Listens on a descriptor; on failure it is closed.
    pub(crate) fn listen_descriptor(
        self,
        fd: OwnedFd,
        settings: &sys::usx_listen_options,
        ext_size: c_uint,
    ) -> Result<RawListener<'a>, c_int> {
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        // SAFETY: the context is alive (see `live`); the options are copied.
        let made =
            unsafe { sys::usx_context_listen_descriptor(self.as_ptr(), raw, settings, ext_size) };
        let listener = self.listener(made)?;
        // Only now has it become the engine's.
        let _raw = fd.into_raw_fd();
        Ok(listener)
    }

    fn listener(self, made: *mut sys::us_listen_socket_t) -> Result<RawListener<'a>, c_int> {
        match NonNull::new(made) {
            // SAFETY: it was just made, and lives at least until the loop runs on.
            Some(made) => Ok(unsafe { RawListener::new(made) }),
            None => Err(self.engine().last_error()),
        }
    }

    /// Takes over a connected descriptor; on failure it is closed.
    pub(crate) fn accept(self, fd: OwnedFd, ext_size: c_uint) -> Result<RawSocket<'a>, c_int> {
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        // SAFETY: the context is alive (see `live`).
        let made = unsafe { sys::usx_adopt_accepted_later(self.as_ptr(), raw, ext_size) };
        let socket = self.socket(made)?;
        // Only now has it become the engine's.
        let _raw = fd.into_raw_fd();
        Ok(socket)
    }

    pub(super) fn socket(self, made: *mut sys::us_socket_t) -> Result<RawSocket<'a>, c_int> {
        match NonNull::new(made) {
            // SAFETY: it was just made, and lives at least until the loop runs on.
            Some(made) => Ok(unsafe { RawSocket::new(made) }),
            None => Err(self.engine().last_error()),
        }
    }
}

impl<'a> RawListener<'a> {
    pub(crate) fn id(self) -> u64 {
        // SAFETY: the listener is alive (see `live`).
        unsafe { sys::usx_listen_socket_id(self.as_ptr()) }
    }

    /// Whether it has been closed and only waits to be freed.
    pub(crate) fn is_closed(self) -> bool {
        // SAFETY: the listener is alive (see `live`), and may be taken for a socket here.
        unsafe { sys::us_socket_is_closed(0, self.as_ptr().cast()) != 0 }
    }

    pub(crate) fn close(self) {
        // SAFETY: the listener is alive (see `live`).
        unsafe { sys::us_listen_socket_close(0, self.as_ptr()) };
    }

    /// Stops accepting; harmless on a closed one, as the next three are.
    pub(crate) fn pause(self) {
        // SAFETY: the listener is alive (see `live`).
        unsafe { sys::usx_listen_socket_pause(self.as_ptr()) };
    }

    pub(crate) fn resume(self) {
        // SAFETY: the listener is alive (see `live`).
        unsafe { sys::usx_listen_socket_resume(self.as_ptr()) };
    }

    pub(crate) fn is_paused(self) -> bool {
        // SAFETY: the listener is alive (see `live`).
        unsafe { sys::usx_listen_socket_is_paused(self.as_ptr()) != 0 }
    }

    /// Its sockets, if it counts them.
    pub(crate) fn connections(self) -> Option<u32> {
        // SAFETY: the listener is alive (see `live`).
        let connections = unsafe { sys::usx_listen_socket_connections(self.as_ptr()) };
        u32::try_from(connections).ok()
    }

    /// Has connections begin with a prelude.
    ///
    /// # Safety
    ///
    /// The functions may be called with the argument as `usx_prelude` says, after this returns `Ok`.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) unsafe fn set_prelude(self, prelude: &Prelude) -> io::Result<()> {
        // SAFETY: the listener is alive (see `live`); the caller vouches for the rest.
        check(unsafe { sys::usx_listen_socket_set_prelude(self.as_ptr(), prelude) })
    }

    pub(crate) fn local_address(self) -> io::Result<Address> {
        // SAFETY: the listener is alive (see `live`); on success an address has been written.
        unsafe { Address::ask(sys::usx_listen_socket_address, self.as_ptr()) }
    }

    /// The descriptor may get a twin, so that closing it will not end it in the kernel.
    pub(crate) fn share(self) {
        // SAFETY: the listener is alive (see `live`), and may be taken for a poll here.
        unsafe { sys::usx_poll_share(self.as_ptr().cast()) };
    }

    /// Somebody else goes on listening on it.
    pub(crate) fn hand_over(self) {
        // SAFETY: the listener is alive (see `live`).
        unsafe { sys::usx_listen_socket_hand_over(self.as_ptr()) };
    }

    /// The descriptor, unless the listener is closed.
    pub(crate) fn descriptor(self) -> Option<BorrowedFd<'a>> {
        if self.is_closed() {
            return None;
        }
        // SAFETY: the listener is alive (see `live`), and may be taken for a poll here.
        let fd: RawFd = unsafe { sys::us_poll_fd(self.as_ptr().cast()) };
        // SAFETY: a listener that is not closed keeps its descriptor open.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }
}
