//! The buffer in which output is collected.

use std::ptr::NonNull;

use usockets_sys as sys;

use super::RawLoop;

/// Writes of at least this many bytes are left to the engine.
const BYPASS: usize = sys::USX_GATHER_BYPASS as usize;

/// The engine's buffer, to which a socket that owns it may add without a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gather(NonNull<sys::usx_gather>);

impl Gather {
    /// The buffer of a loop.
    ///
    /// # Safety
    ///
    /// It is used no more when the loop is freed.
    pub(crate) unsafe fn of(engine: RawLoop<'_>) -> Self {
        // SAFETY: the loop is alive (see `live`).
        let gather = unsafe { sys::usx_loop_gather(engine.as_ptr()) };
        // SAFETY: it is a part of the loop.
        Self(unsafe { NonNull::new_unchecked(gather) })
    }

    /// Adds the bytes if the socket of this identity owns the buffer and there is room.
    #[inline]
    pub(crate) fn append(self, id: u64, data: &[u8]) -> bool {
        let gather = self.0.as_ptr();
        // SAFETY: the loop is alive (see `of`), and only this thread touches it.
        let owner = unsafe { (*gather).id };
        if owner != id || data.len() >= BYPASS {
            return false;
        }
        // SAFETY: as above.
        let position = unsafe { (*gather).position };
        // SAFETY: as above.
        let end = unsafe { (*gather).end };
        if end.addr() - position.addr() < data.len() {
            return false;
        }
        // SAFETY: there is room, and nobody has a reference to that memory.
        unsafe { position.copy_from_nonoverlapping(data.as_ptr().cast(), data.len()) };
        // SAFETY: still inside the buffer or at its end.
        let position = unsafe { position.add(data.len()) };
        // SAFETY: as in the beginning.
        unsafe { (*gather).position = position };
        true
    }
}
