//! The object by which any thread wakes a loop.

use std::fmt;
use std::ptr::NonNull;

use usockets_sys as sys;

/// Wakes a loop from any thread, also one that is gone, which does nothing.
///
/// A reference to a counted object of the engine, which owns the wake-up descriptor.
pub(crate) struct Waker(NonNull<sys::usx_waker_t>);

// SAFETY: I6: the object is counted atomically and made to be used from any thread.
unsafe impl Send for Waker {}
// SAFETY: I6: as above; waking takes a shared reference.
unsafe impl Sync for Waker {}

impl Waker {
    /// Takes over one reference.
    ///
    /// # Safety
    ///
    /// The caller owns a reference to the object and gives it away.
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::usx_waker_t>) -> Self {
        Self(raw)
    }

    /// Ends the wait that is going on, or prevents the next one.
    pub(crate) fn wake(&self) {
        // SAFETY: I6: we own a reference, so the object is alive; any thread may call this.
        unsafe { sys::usx_waker_wake(self.0.as_ptr()) };
    }
}

impl Clone for Waker {
    fn clone(&self) -> Self {
        // SAFETY: I6: we own a reference, so the object is alive; any thread may call this.
        unsafe { sys::usx_waker_retain(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: I6: we own the reference that is given back here.
        unsafe { sys::usx_waker_release(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}
