//! Loops of the engine.

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::NonNull;

use usockets_sys as sys;

use super::context::function;
use super::{Address, RawContext, RawListener, RawPoll, RawSocket, RawTimer, Waker, check};

super::live! {
    /// A loop.
    RawLoop, us_loop_t
}

/// What C calls around an iteration.
pub(crate) type LoopFunction = unsafe extern "C" fn(*mut sys::us_loop_t);

impl<'a> RawLoop<'a> {
    /// Makes a loop with `ext_size` bytes of zeroed area, for the caller to free.
    pub(crate) fn create(
        backend: c_int,
        test_clock: bool,
        ext_size: c_uint,
    ) -> io::Result<NonNull<sys::us_loop_t>> {
        let options = sys::usx_loop_options { backend, test_clock: c_int::from(test_clock) };
        let mut error = 0;
        // SAFETY: both pointers are valid for the call.
        let raw = unsafe { sys::usx_create_loop(&raw const options, ext_size, &raw mut error) };
        NonNull::new(raw).ok_or_else(|| io::Error::from_raw_os_error(error))
    }

    /// The zeroed area that was asked for.
    #[inline]
    pub(crate) fn ext(self) -> NonNull<c_void> {
        // SAFETY: the loop is alive (see `live`).
        let ext = unsafe { sys::us_loop_ext(self.as_ptr()) };
        // SAFETY: the area lies inside the loop's own memory.
        unsafe { NonNull::new_unchecked(ext) }
    }

    pub(crate) fn backend(self) -> c_int {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_backend(self.as_ptr()) }
    }

    // -- Running ------------------------------------------------------------------------------

    /// Runs until nothing is live or the loop is stopped. `Err` in a frame or while running.
    ///
    /// # Safety
    ///
    /// No other pointer to an object of this loop is used afterwards.
    pub(crate) unsafe fn run(self) -> io::Result<()> {
        // SAFETY: the loop is alive (see `live`); the caller vouches for the rest.
        check(unsafe { sys::usx_loop_run(self.as_ptr()) })
    }

    /// One iteration; says whether the loop is still alive. `Err` in a frame or while running.
    ///
    /// # Safety
    ///
    /// As for [`Self::run`].
    pub(crate) unsafe fn turn(self, timeout_ns: i64) -> io::Result<bool> {
        // SAFETY: the loop is alive (see `live`); the caller vouches for the rest.
        let alive = unsafe { sys::usx_loop_turn(self.as_ptr(), timeout_ns) };
        check(alive).map(|()| alive != 0)
    }

    /// Closes all that the loop holds.
    ///
    /// # Safety
    ///
    /// As for [`Self::run`].
    pub(crate) unsafe fn teardown(self) {
        // SAFETY: the loop is alive (see `live`); the caller vouches for the rest.
        let code = unsafe { sys::usx_loop_teardown(self.as_ptr()) };
        debug_assert_eq!(code, 0, "teardown inside a frame: bug in usockets");
    }

    /// Frees the loop.
    ///
    /// # Safety
    ///
    /// It was torn down, and nothing of it is used afterwards.
    pub(crate) unsafe fn free(self) {
        // SAFETY: the loop is alive (see `live`); the caller vouches for the rest.
        unsafe { sys::us_loop_free(self.as_ptr()) };
    }

    pub(crate) fn is_running(self) -> bool {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_is_running(self.as_ptr()) != 0 }
    }

    pub(crate) fn is_alive(self) -> bool {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_is_alive(self.as_ptr()) != 0 }
    }

    pub(crate) fn stop(self) {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_stop(self.as_ptr()) };
    }

    /// No callback from now on until the next run.
    pub(crate) fn halt(self) {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_halt(self.as_ptr()) };
    }

    pub(crate) fn keep_alive(self, delta: c_int) {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_keep_alive(self.as_ptr(), delta) };
    }

    pub(crate) fn native_descriptor(self) -> Option<BorrowedFd<'a>> {
        // SAFETY: the loop is alive (see `live`).
        let fd: RawFd = unsafe { sys::usx_loop_native_descriptor(self.as_ptr()) };
        // SAFETY: the descriptor is the loop's, which keeps it open for its life, that is for `'a`.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Nanoseconds until a turn is needed; `USX_NO_TIMEOUT` for never.
    pub(crate) fn next_timeout(self) -> i64 {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_next_timeout(self.as_ptr()) }
    }

    /// Errno, or `USX_ERROR_RESOLVE` and more, of the call that failed last.
    pub(crate) fn last_error(self) -> c_int {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_last_error(self.as_ptr()) }
    }

    pub(crate) fn now(self) -> u64 {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_now(self.as_ptr()) }
    }

    pub(crate) fn advance_clock(self, nanoseconds: u64) -> io::Result<()> {
        // SAFETY: the loop is alive (see `live`).
        check(unsafe { sys::usx_loop_advance_clock(self.as_ptr(), nanoseconds) })
    }

    pub(crate) fn statistics(self) -> sys::usx_loop_statistics {
        let mut statistics = sys::usx_loop_statistics::default();
        // SAFETY: the loop is alive (see `live`) and the pointer is valid for the call.
        unsafe { sys::usx_loop_statistics(self.as_ptr(), &raw mut statistics) };
        statistics
    }

    // -- Hooks and frames ---------------------------------------------------------------------

    pub(crate) fn set_job_hooks(
        self,
        has_jobs: unsafe extern "C" fn(*mut sys::us_loop_t, c_int) -> c_int,
        run_jobs: LoopFunction,
    ) {
        let hooks = sys::usx_job_hooks { has_jobs: Some(has_jobs), run_jobs: Some(run_jobs) };
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_set_job_hooks(self.as_ptr(), hooks) };
    }

    pub(crate) fn set_iteration_hooks(self, pre: LoopFunction, post: LoopFunction) {
        // The wakeup handler is for us_wakeup_loop(), which nobody here calls: a loop that is gone
        // could not take it.
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_set_callbacks(self.as_ptr(), None, Some(pre), Some(post)) };
    }

    #[inline]
    pub(crate) fn frame_enter(self) {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_frame_enter(self.as_ptr()) };
    }

    /// Returns the depth that is left.
    #[inline]
    pub(crate) fn frame_leave(self) -> c_uint {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_frame_leave(self.as_ptr()) }
    }

    pub(crate) fn frame_depth(self) -> c_uint {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_frame_depth(self.as_ptr()) }
    }

    pub(crate) fn waker(self) -> Waker {
        // SAFETY: the loop is alive (see `live`).
        let waker = unsafe { sys::usx_loop_waker(self.as_ptr()) };
        // SAFETY: the engine promises that it is not null.
        let waker = unsafe { NonNull::new_unchecked(waker) };
        // SAFETY: the call returned a reference of our own.
        unsafe { Waker::from_raw(waker) }
    }

    // -- Objects ------------------------------------------------------------------------------

    /// Bytes accepted by the socket of this identity; 0 if there is none.
    #[inline]
    pub(crate) fn write(self, id: u64, data: &[u8]) -> usize {
        // SAFETY: the loop is alive (see `live`); the bytes are read, during the call only.
        unsafe { sys::usx_loop_write(self.as_ptr(), id, data.as_ptr().cast(), data.len()) }
    }

    /// Most bytes of output that wait in all sockets together; 0 for no limit.
    pub(crate) fn set_queue_limit(self, bytes: usize) {
        // SAFETY: the loop is alive (see `live`).
        unsafe { sys::usx_loop_set_queue_limit(self.as_ptr(), bytes) };
    }

    /// Drains all its contexts for some nanoseconds at most. On success `function` is called with
    /// `argument`, once and later.
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
        // SAFETY: the loop is alive (see `live`); the caller vouches for the rest.
        check(unsafe { sys::usx_loop_drain(self.as_ptr(), nanoseconds, Some(function), argument) })
    }

    #[inline]
    pub(crate) fn find_socket(self, id: u64) -> Option<RawSocket<'a>> {
        // SAFETY: the loop is alive (see `live`).
        let found = unsafe { sys::usx_find_socket(self.as_ptr(), id) };
        // SAFETY: I3: the table knows live sockets only. Their memory stays until the loop runs on,
        // for which everybody who has a `RawSocket` must be back (see `run`).
        NonNull::new(found).map(|found| unsafe { RawSocket::new(found) })
    }

    #[inline]
    pub(crate) fn find_listener(self, id: u64) -> Option<RawListener<'a>> {
        // SAFETY: the loop is alive (see `live`).
        let found = unsafe { sys::usx_find_listen_socket(self.as_ptr(), id) };
        // SAFETY: I3: as in `find_socket`.
        NonNull::new(found).map(|found| unsafe { RawListener::new(found) })
    }

    #[inline]
    pub(crate) fn find_context(self, id: u64) -> Option<RawContext<'a>> {
        // SAFETY: the loop is alive (see `live`).
        let found = unsafe { sys::usx_find_context(self.as_ptr(), id) };
        // SAFETY: I3: as in `find_socket`; besides, whoever looks for a context has a reference.
        NonNull::new(found).map(|found| unsafe { RawContext::new(found) })
    }

    pub(crate) fn create_context(self, ext_size: c_uint) -> Option<RawContext<'a>> {
        // SAFETY: the loop is alive (see `live`).
        let made = unsafe { sys::usx_create_socket_context(self.as_ptr(), ext_size) };
        // SAFETY: it was just made, and lives until its last reference, the caller's, is given
        // back.
        NonNull::new(made).map(|made| unsafe { RawContext::new(made) })
    }

    /// Makes a timer that does not keep the loop alive by itself.
    pub(crate) fn create_timer(self, ext_size: c_uint) -> Option<RawTimer<'a>> {
        // SAFETY: the loop is alive (see `live`).
        let made = unsafe { sys::us_create_timer(self.as_ptr(), 1, ext_size) };
        // SAFETY: it was just made, and lives until it is closed.
        NonNull::new(made).map(|made| unsafe { RawTimer::new(made) })
    }

    pub(crate) fn create_poll(self, keeps_alive: bool, ext_size: c_uint) -> Option<RawPoll<'a>> {
        let fallthrough = c_int::from(!keeps_alive);
        // SAFETY: the loop is alive (see `live`).
        let made = unsafe { sys::us_create_poll(self.as_ptr(), fallthrough, ext_size) };
        // SAFETY: it was just made, and lives until it is freed.
        NonNull::new(made).map(|made| unsafe { RawPoll::new(made) })
    }

    /// The address of the peer whose connection is being accepted.
    pub(crate) fn accepted_address(self) -> Option<Address> {
        let mut length = 0;
        // SAFETY: the loop is alive (see `live`) and the pointer is valid for the call.
        let address = unsafe { sys::usx_loop_accepted_address(self.as_ptr(), &raw mut length) };
        // SAFETY: the engine returned an address of that length; it is copied at once.
        (!address.is_null()).then(|| unsafe { Address::copy(address, length) })
    }

    /// What the socket began with whose `on_open` runs; nothing if there is no such thing.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn prelude(self) -> &'a [u8] {
        let mut length = 0;
        // SAFETY: the loop is alive (see `live`) and the pointer is valid for the call.
        let data = unsafe { sys::usx_loop_prelude(self.as_ptr(), &raw mut length) };
        // SAFETY: the engine lends these bytes while `on_open` runs, and its callers are called from
        // there.
        unsafe { super::bytes(data, length) }
    }
}
