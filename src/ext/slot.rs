//! A place for one value, which knows whether there is one and whether it is lent.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use crate::error::UsError;
use crate::shell::Shell;

/// A value is in the place.
const PRESENT: u8 = 1;
/// The value is lent.
const LENT: u8 = 2;
/// In the flags of a socket: the program was told that the handshake of TLS is done.
pub(super) const HANDSHAKE_TOLD: u8 = 4;

/// A place for a `V` in an ext.
pub(crate) struct Slot<'a, V> {
    /// `PRESENT` and `LENT`; further bits are left alone.
    flags: &'a Cell<u8>,
    place: *mut V,
}

impl<V> Clone for Slot<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Slot<'_, V> {}

impl<'a, V> Slot<'a, V> {
    /// Vouches for a place.
    ///
    /// # Safety
    ///
    /// For `'a`, `place` is valid to be written and read as a `V`, holds one if `flags` says so,
    /// and is used only through slots with these flags.
    #[inline]
    pub(crate) unsafe fn new(flags: &'a Cell<u8>, place: *mut V) -> Self {
        Self { flags, place }
    }

    #[inline]
    pub(crate) fn is_present(self) -> bool {
        self.flags.get() & PRESENT != 0
    }

    /// Puts a value into the place; gives it back if there is one already.
    pub(crate) fn fill(self, value: V) -> Result<(), V> {
        if self.is_present() {
            return Err(value);
        }
        // SAFETY: I4: the place is ours to write (see `new`) and nothing in it is overwritten.
        unsafe { self.place.write(value) };
        self.flags.set(self.flags.get() | PRESENT);
        Ok(())
    }

    /// Takes the value out, unless it is lent.
    pub(crate) fn take(self) -> Option<V> {
        if self.flags.get() & (PRESENT | LENT) != PRESENT {
            return None;
        }
        self.flags.set(self.flags.get() & !PRESENT);
        // SAFETY: I4: the value was there, nobody has a reference to it, and it now counts as gone.
        Some(unsafe { self.place.read() })
    }

    /// Drops the value in its place, as code of the program that C called us for.
    pub(crate) fn dispose(self, shell: &Shell) {
        if self.flags.get() & (PRESENT | LENT) != PRESENT {
            return;
        }
        self.flags.set(self.flags.get() & !PRESENT);
        if std::mem::needs_drop::<V>() {
            // SAFETY: I4: the value was there, nobody has a reference to it, and it counts as gone
            // already, so that its destructor finds nothing here.
            shell.destructor(|| unsafe { self.place.drop_in_place() });
        }
    }

    /// Lends the value until the guard is dropped.
    ///
    /// `Err` is [`StateInUse`](UsError::StateInUse) or, if there is no value,
    /// [`Closed`](UsError::Closed).
    pub(crate) fn lend(self) -> Result<Lent<'a, V>, UsError> {
        let is_lent = self.flags.get() & LENT != 0;
        self.try_lend().ok_or(if is_lent { UsError::StateInUse } else { UsError::Closed })
    }

    /// The same without the reason.
    #[inline]
    pub(crate) fn try_lend(self) -> Option<Lent<'a, V>> {
        let flags = self.flags.get();
        if flags & (PRESENT | LENT) != PRESENT {
            return None;
        }
        self.flags.set(flags | LENT);
        Some(Lent { slot: self })
    }
}

/// The exclusive use of the value in a [`Slot`].
pub(crate) struct Lent<'a, V> {
    slot: Slot<'a, V>,
}

impl<V> Deref for Lent<'_, V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        // SAFETY: I4: present and lent to this guard alone, which the reference borrows.
        unsafe { &*self.slot.place }
    }
}

impl<V> DerefMut for Lent<'_, V> {
    #[inline]
    fn deref_mut(&mut self) -> &mut V {
        // SAFETY: I4: present and lent to this guard alone, which the reference borrows.
        unsafe { &mut *self.slot.place }
    }
}

impl<V> Drop for Lent<'_, V> {
    #[inline]
    fn drop(&mut self) {
        let flags = self.slot.flags;
        flags.set(flags.get() & !LENT);
    }
}
