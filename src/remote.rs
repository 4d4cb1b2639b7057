#![forbid(unsafe_code)]
//! What other threads share with a loop.

use std::any::TypeId;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use crate::defer::{Queue, Wake};
use crate::event_loop::LoopRef;
use crate::ffi::Waker;
use crate::ids::LoopId;
use crate::job::Job;
use crate::sync::Arc;

/// The jobs of a loop.
pub(crate) type JobQueue = Queue<Job<LoopRef>, Waker>;

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self);
    }
}

/// The part of a loop that is `Send + Sync` and outlives it.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) id: LoopId,
    /// The thread that made the loop and is the only one to touch it.
    pub(crate) thread: ThreadId,
    /// The type of the loop's state, which the typed handle checks.
    pub(crate) state_type: TypeId,
    pub(crate) queue: Arc<JobQueue>,
    /// Somebody wants the loop to stop.
    stop: AtomicBool,
    /// Somebody wants the wakeup hook to run.
    wake: AtomicBool,
}

impl Remote {
    /// For a new loop of this thread.
    pub(crate) fn new(state_type: TypeId, waker: Waker, capacity: Option<NonZeroUsize>) -> Self {
        Self {
            id: LoopId::next(),
            thread: thread::current().id(),
            state_type,
            queue: Arc::new(Queue::new(waker, capacity)),
            stop: AtomicBool::new(false),
            wake: AtomicBool::new(false),
        }
    }

    /// Whether this is the thread of the loop.
    pub(crate) fn is_here(&self) -> bool {
        self.thread == thread::current().id()
    }

    /// Asks the loop to stop, and wakes it for that.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.queue.waker().wake();
    }

    /// Asks the loop to run its wakeup hook, and wakes it for that.
    pub(crate) fn ask_to_wake(&self) {
        // Calls that arrive before the loop has consumed an earlier one merge with it.
        if !self.wake.swap(true, Ordering::AcqRel) {
            self.queue.waker().wake();
        }
    }

    /// Whether somebody asked for a stop, which is answered by this.
    pub(crate) fn take_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) && self.stop.swap(false, Ordering::AcqRel)
    }

    /// Whether somebody asked for the wakeup hook, which is answered by this.
    pub(crate) fn take_wake(&self) -> bool {
        self.wake.load(Ordering::Relaxed) && self.wake.swap(false, Ordering::AcqRel)
    }

    /// Whether a request waits that keeps the loop from sleeping.
    pub(crate) fn has_request(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.wake.load(Ordering::Relaxed)
    }
}
