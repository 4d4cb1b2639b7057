#![forbid(unsafe_code)]
//! The slot that keeps a panic until it is safe to go on with it.

use std::any::Any;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::panic;

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// The first panic that user code of a loop raised since the last [`resume`](Self::resume).
#[derive(Default)]
pub(crate) struct PanicSlot {
    payload: Cell<Option<Payload>>,
    /// Says without taking whether there is a payload.
    pending: Cell<bool>,
}

impl PanicSlot {
    /// Whether a panic is waiting.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.get()
    }

    /// Keeps a payload if it is the first.
    pub(crate) fn store(&self, payload: Payload) {
        if self.pending.replace(true) {
            forget(payload);
        } else {
            self.payload.set(Some(payload));
        }
    }

    /// Goes on with the panic that is waiting, if any. On a thread that is unwinding already, where
    /// that would abort the process, forgets it.
    pub(crate) fn resume(&self) {
        let Some(payload) = self.payload.take() else { return };
        self.pending.set(false);
        if std::thread::panicking() {
            forget(payload);
        } else {
            panic::resume_unwind(payload);
        }
    }
}

/// Gets rid of a payload that nobody will see. Dropping it could panic anew, so it is leaked,
/// unless it is one of the two that `panic!` makes.
fn forget(payload: Payload) {
    if !payload.is::<&'static str>() && !payload.is::<String>() {
        let _leaked = ManuallyDrop::new(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn the_first_panic_wins_and_the_slot_can_be_used_again() {
        let slot = PanicSlot::default();
        slot.resume();
        for round in ["first", "second"] {
            slot.store(Box::new(round));
            slot.store(Box::new("late"));
            slot.store(Box::new(String::from("late")));
            assert!(slot.is_pending());
            let payload = catch_unwind(AssertUnwindSafe(|| slot.resume())).expect_err("it resumes");
            assert_eq!(payload.downcast_ref(), Some(&round));
            assert!(!slot.is_pending());
        }
    }
}
