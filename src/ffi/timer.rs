//! Timers of the engine.

use std::ffi::c_void;
use std::ptr::NonNull;

use usockets_sys as sys;

super::live! {
    /// A timer.
    RawTimer, us_timer_t
}

/// What C calls when a timer expires, and when teardown frees it.
pub(crate) type TimerFunction = unsafe extern "C" fn(*mut sys::us_timer_t);

impl RawTimer<'_> {
    /// The zeroed area that was asked for.
    pub(crate) fn ext(self) -> NonNull<c_void> {
        // SAFETY: the timer is alive (see `live`).
        let ext = unsafe { sys::us_timer_ext(self.as_ptr()) };
        // SAFETY: the area lies inside the timer's own memory.
        unsafe { NonNull::new_unchecked(ext) }
    }

    /// Arms it; `after` 0 disarms.
    pub(crate) fn set(self, function: TimerFunction, after: u64, every: u64) {
        // SAFETY: the timer is alive (see `live`).
        unsafe { sys::usx_timer_set(self.as_ptr(), Some(function), after, every) };
    }

    pub(crate) fn disarm(self) {
        // SAFETY: the timer is alive (see `live`).
        unsafe { sys::usx_timer_set(self.as_ptr(), None, 0, 0) };
    }

    pub(crate) fn is_armed(self) -> bool {
        // SAFETY: the timer is alive (see `live`).
        unsafe { sys::usx_timer_is_armed(self.as_ptr()) != 0 }
    }

    /// Sets what teardown calls before it frees the timer.
    pub(crate) fn on_release(self, function: TimerFunction) {
        // SAFETY: the timer is alive (see `live`).
        unsafe { sys::usx_timer_on_release(self.as_ptr(), Some(function)) };
    }

    /// Disarms and frees it.
    ///
    /// # Safety
    ///
    /// Neither the timer nor its area is used afterwards.
    pub(crate) unsafe fn close(self) {
        // SAFETY: the timer is alive (see `live`); the caller vouches for the rest.
        unsafe { sys::us_timer_close(self.as_ptr()) };
    }
}
