//! Polls of the engine.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use usockets_sys as sys;

use super::{RawLoop, check};

super::live! {
    /// A poll that was made by [`RawLoop::create_poll`].
    RawPoll, us_poll_t
}

/// What C calls when the descriptor is ready.
pub(crate) type PollFunction = unsafe extern "C" fn(*mut sys::us_poll_t, c_int);

/// What C calls when teardown frees the poll.
pub(crate) type PollRelease = unsafe extern "C" fn(*mut sys::us_poll_t);

impl RawPoll<'_> {
    /// The zeroed area that was asked for.
    pub(crate) fn ext(self) -> NonNull<c_void> {
        // SAFETY: the poll is alive (see `live`).
        let ext = unsafe { sys::us_poll_ext(self.as_ptr()) };
        // SAFETY: the area lies inside the poll's own memory.
        unsafe { NonNull::new_unchecked(ext) }
    }

    /// Sets the descriptor and what is called for it.
    pub(crate) fn init(self, fd: RawFd, handler: PollFunction, on_release: PollRelease) {
        // SAFETY: the poll is alive (see `live`).
        unsafe { sys::us_poll_init(self.as_ptr(), fd, 0) };
        // SAFETY: as above.
        unsafe { sys::usx_poll_set_handler(self.as_ptr(), Some(handler)) };
        // SAFETY: as above.
        unsafe { sys::usx_poll_on_release(self.as_ptr(), Some(on_release)) };
    }

    /// Registers it with the poller.
    pub(crate) fn start(self, engine: RawLoop<'_>, events: c_int) -> io::Result<()> {
        // SAFETY: poll and loop are alive (see `live`).
        check(unsafe { sys::usx_poll_start(self.as_ptr(), engine.as_ptr(), events) })
    }

    /// Changes the interest of a started poll.
    pub(crate) fn change(self, engine: RawLoop<'_>, events: c_int) -> io::Result<()> {
        // SAFETY: poll and loop are alive (see `live`).
        check(unsafe { sys::usx_poll_change(self.as_ptr(), engine.as_ptr(), events) })
    }

    /// The interest.
    pub(crate) fn events(self) -> c_int {
        // SAFETY: the poll is alive (see `live`).
        unsafe { sys::us_poll_events(self.as_ptr()) }
    }

    /// Takes the descriptor out of the poller.
    pub(crate) fn stop(self, engine: RawLoop<'_>) {
        // SAFETY: poll and loop are alive (see `live`).
        unsafe { sys::us_poll_stop(self.as_ptr(), engine.as_ptr()) };
    }

    /// Frees a poll that is stopped or was never started.
    ///
    /// # Safety
    ///
    /// Neither the poll nor its area is used afterwards.
    pub(crate) unsafe fn free(self, engine: RawLoop<'_>) {
        // SAFETY: poll and loop are alive (see `live`); the caller vouches for the rest.
        unsafe { sys::us_poll_free(self.as_ptr(), engine.as_ptr()) };
    }
}
