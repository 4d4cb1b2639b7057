#![forbid(unsafe_code)]
//! The queue by which other threads hand jobs to a loop.
//!
//! A mutex guards a vector that the loop swaps out whole. These rules are what the tests, loom's
//! among them, hold it to:
//!
//! - Jobs run in the order of their `push`, hence first in, first out for every sender. What a turn
//!   took and did not run goes back in front of what arrived meanwhile.
//! - Every job is in one place: in the queue, in the loop's [`Batch`], or back in somebody's hands
//!   through [`Rejected`] or [`Inbox::close`].
//! - The phase changes only under the mutex. Whoever ends [`PARKED`] by queueing something wakes the
//!   loop, hence once per sleep, however much is pushed.
//! - Under the mutex no job is run or dropped and nobody is woken.
//! - The loop reads the phase without the mutex. A turn that has no jobs takes no lock.
//!
//! An [`Expected`] stands for a job that somebody will push later, the answer of a worker thread for
//! instance. It keeps the loop running but lets it sleep.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::hint;
use std::mem;
use std::num::NonZeroUsize;
use std::sync::PoisonError;

use crate::sync::{Arc, AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering};

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

/// Jobs that a loop runs in one turn, so that jobs that push jobs cannot keep it from its sockets:
/// some milliseconds' worth of small ones.
pub(crate) const JOBS_PER_TURN: usize = 65_536;

/// A vector with room for more jobs is released once it is four times too large for the jobs that
/// come; smaller ones are kept for ever.
const RETAINED_JOBS: usize = 4096;

/// Turns without a job after which the loop no longer ends its parking in every turn.
const CALM_TURNS: u32 = if cfg!(loom) { 1 } else { 64 };

/// How often the loop tries to get the lock of a busy queue before it waits for it.
const TAKE_ATTEMPTS: u32 = if cfg!(loom) { 1 } else { 8 };

/// Spin hints between two attempts: a few microseconds, long enough for a batch that is worth it.
const TAKE_PAUSE: u32 = 128;

/// How a loop is woken. A wake ends the loop's sleep, or prevents the next one, and what happened
/// before the wake has happened for the loop when its wait has returned.
pub(crate) trait Wake: Send + Sync {
    /// Wakes the loop. Does nothing if it is gone.
    fn wake(&self);
}

/// A job that the queue did not take.
pub(crate) enum Rejected<J> {
    /// The loop is gone, or going.
    Closed(J),
    /// The queue holds as many jobs as it may.
    Full(J),
}

impl<J> Rejected<J> {
    /// The job.
    pub(crate) fn into_job(self) -> J {
        match self {
            Self::Closed(job) | Self::Full(job) => job,
        }
    }
}

impl<J> fmt::Debug for Rejected<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => "Closed(..)",
            Self::Full(_) => "Full(..)",
        })
    }
}

/// Nothing to take. The loop is awake and will look here before it sleeps.
const IDLE: u8 = 0;
/// Nothing to take. The loop sleeps or may do so at any time, and must be woken.
const PARKED: u8 = 1;
/// Something to take: jobs, or the news that no job is expected any more.
const WAITING: u8 = 2;

/// The senders' side of a loop's queue. Shared by an `Arc`.
pub(crate) struct Queue<J, W> {
    state: Mutex<State<J>>,
    /// `state.phase`, for the loop to read without the mutex. Only the loop makes it `PARKED`: if it
    /// then reads an old `PARKED`, a wake is on its way.
    phase: AtomicU8,
    /// `state.expected`, for the loop to read without the mutex. It falls after the phase has changed
    /// for the job that came of it: whoever sees none expected sees that job.
    expected: AtomicUsize,
    /// Most jobs that `try_push` lets in.
    capacity: usize,
    waker: W,
}

struct State<J> {
    /// Jobs of an earlier batch that were not run. They come before `jobs`.
    unrun: VecDeque<J>,
    /// Jobs in the order of their arrival.
    jobs: Vec<J>,
    /// [`IDLE`], [`PARKED`] or [`WAITING`].
    phase: u8,
    /// Living [`Expected`]s.
    expected: usize,
    /// No job is taken in any more.
    closed: bool,
}

impl<J, W: Wake> Queue<J, W> {
    /// A queue that `try_push` fills up to `capacity`; without one there is no limit.
    pub(crate) fn new(waker: W, capacity: Option<NonZeroUsize>) -> Self {
        let state = State {
            unrun: VecDeque::new(),
            jobs: Vec::new(),
            phase: IDLE,
            expected: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            phase: AtomicU8::new(IDLE),
            expected: AtomicUsize::new(0),
            capacity: capacity.map_or(usize::MAX, NonZeroUsize::get),
            waker,
        }
    }

    /// Queues a job, and wakes the loop if it sleeps.
    pub(crate) fn push(&self, job: J) -> Result<(), Rejected<J>> {
        self.push_within(usize::MAX, job)
    }

    /// The same, unless as many jobs wait as the capacity says.
    pub(crate) fn try_push(&self, job: J) -> Result<(), Rejected<J>> {
        self.push_within(self.capacity, job)
    }

    #[inline]
    fn push_within(&self, capacity: usize, job: J) -> Result<(), Rejected<J>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Rejected::Closed(job));
        }
        if state.len() >= capacity {
            return Err(Rejected::Full(job));
        }
        state.jobs.push(job);
        let parked = self.set_waiting(&mut state);
        drop(state);
        self.wake_if(parked);
        Ok(())
    }

    /// What wakes the loop.
    pub(crate) fn waker(&self) -> &W {
        &self.waker
    }

    /// Jobs that wait here; those in a [`Batch`] are not among them.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Ends an expectation, by a job or without one.
    fn settle(&self, job: Option<J>) -> Result<(), Rejected<J>> {
        let mut state = self.lock();
        state.expected -= 1;
        let parked = match job {
            Some(job) if state.closed => {
                self.expected.store(state.expected, Ordering::Release);
                return Err(Rejected::Closed(job));
            }
            Some(job) => {
                // The capacity does not count here: it bounds what comes unexpectedly.
                state.jobs.push(job);
                self.set_waiting(&mut state)
            }
            None if state.expected > 0 || state.closed => false,
            None => self.set_waiting(&mut state),
        };
        self.expected.store(state.expected, Ordering::Release);
        drop(state);
        self.wake_if(parked);
        Ok(())
    }

    /// Says that there is something to take. Returns whether the loop must be woken.
    fn set_waiting(&self, state: &mut State<J>) -> bool {
        let phase = state.phase;
        if phase != WAITING {
            self.set_phase(state, WAITING);
        }
        phase == PARKED
    }

    fn set_phase(&self, state: &mut State<J>, phase: u8) {
        state.phase = phase;
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// To be called without the lock.
    fn wake_if(&self, parked: bool) {
        if parked {
            self.waker.wake();
        }
    }

    /// The lock for the loop, which stands aside while senders are at it. A loop that waited in the
    /// lock would take away a handful of jobs each time and make the senders pay for its waiting:
    /// that costs them nine tenths of their speed.
    fn lock_patiently(&self) -> MutexGuard<'_, State<J>> {
        for _ in 0..TAKE_ATTEMPTS {
            if let Ok(state) = self.state.try_lock() {
                return state;
            }
            for _ in 0..TAKE_PAUSE {
                hint::spin_loop();
            }
        }
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // No code of the program runs under the lock, so no panic can have left anything half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J, W> fmt::Debug for Queue<J, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl<J> State<J> {
    fn len(&self) -> usize {
        self.unrun.len() + self.jobs.len()
    }
}

/// The loop's side of its queue, which stays on the loop thread.
pub(crate) struct Inbox<J, W> {
    queue: Arc<Queue<J, W>>,
    /// An empty vector, whose memory the queue gets for what the loop takes.
    spare: Cell<Vec<J>>,
    /// Turns since there was a job, up to [`CALM_TURNS`].
    calm_turns: Cell<u32>,
    /// Whether the loop counts the expected jobs as a reason to run.
    holds: Cell<bool>,
}

impl<J, W: Wake> Inbox<J, W> {
    /// The loop's side of `queue`, of which there must be one only.
    pub(crate) fn new(queue: Arc<Queue<J, W>>) -> Self {
        Self { queue, spare: Cell::default(), calm_turns: Cell::new(0), holds: Cell::new(false) }
    }

    /// Whether there is work for the loop; to be asked before it sleeps (`park`, after which it may
    /// sleep if the answer is no) and when it has to know whether to go on.
    ///
    /// `keep_alive` is called with 1 when jobs are expected that the loop must stay for, and with -1
    /// when they no longer are.
    pub(crate) fn has_work(&self, park: bool, keep_alive: impl FnOnce(i32)) -> bool {
        let expecting = self.queue.expected.load(Ordering::Acquire) > 0;
        let news = expecting != self.holds.get();
        if news {
            self.holds.set(expecting);
            keep_alive(if expecting { 1 } else { -1 });
        }
        let queued = if park { !self.park() } else { !self.is_empty() };
        // Who found the loop alive before this call must look again before it sleeps; who found it
        // without anything to do before this call must not end.
        queued || (news && expecting != park)
    }

    /// Asks to be woken for the next job. False: there is one already, do not sleep.
    pub(crate) fn park(&self) -> bool {
        match self.queue.phase.load(Ordering::Relaxed) {
            IDLE => {}
            phase => return phase == PARKED,
        }
        let mut state = self.queue.lock();
        let idle = state.phase == IDLE;
        if idle {
            self.queue.set_phase(&mut state, PARKED);
        }
        idle
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.phase.load(Ordering::Relaxed) != WAITING
    }

    /// Whether a batch would be empty and nothing changes by taking it: jobs are rare, and there is none.
    #[inline]
    pub(crate) fn is_calm(&self) -> bool {
        self.calm_turns.get() == CALM_TURNS && self.queue.phase.load(Ordering::Relaxed) == PARKED
    }

    /// Takes the jobs of one turn, at most `budget`; what is left when the batch is dropped goes back
    /// to the front. Ends the parking, except where jobs are rare: there the turn leaves it, which
    /// costs a push during the turn a wake, but spares every turn the lock.
    pub(crate) fn batch(&self, budget: usize) -> Batch<'_, J, W> {
        let calm_turns = self.calm_turns.get();
        let jobs = match self.queue.phase.load(Ordering::Relaxed) {
            IDLE => VecDeque::new(),
            PARKED if calm_turns == CALM_TURNS => VecDeque::new(),
            _ => self.take(),
        };
        let calm_turns = if jobs.is_empty() { CALM_TURNS.min(calm_turns + 1) } else { 0 };
        self.calm_turns.set(calm_turns);
        Batch { inbox: self, taken: jobs.len(), jobs, budget }
    }

    /// Takes no more jobs from now on, and hands out those that are left, for the caller to drop.
    pub(crate) fn close(&self) -> Vec<J> {
        let mut state = self.queue.lock();
        state.closed = true;
        self.queue.set_phase(&mut state, IDLE);
        let mut left = Vec::from(mem::take(&mut state.unrun));
        left.append(&mut state.jobs);
        left
    }

    /// Takes the rest of an earlier batch, or else everything that was pushed since.
    fn take(&self) -> VecDeque<J> {
        let mut spare = self.spare.take();
        let mut state = self.queue.lock_patiently();
        let jobs = if state.unrun.is_empty() {
            mem::replace(&mut state.jobs, mem::take(&mut spare)).into()
        } else {
            mem::take(&mut state.unrun)
        };
        let phase = if state.len() == 0 { IDLE } else { WAITING };
        self.queue.set_phase(&mut state, phase);
        drop(state);
        self.spare.set(spare);
        jobs
    }

    /// Puts the rest of a batch back, or returns it if the queue was closed meanwhile.
    fn put_back(&self, mut jobs: VecDeque<J>) -> VecDeque<J> {
        let mut state = self.queue.lock();
        if state.closed {
            return jobs;
        }
        jobs.append(&mut state.unrun);
        // The loop put it back itself, and does not need to be woken for it.
        let _ = self.queue.set_waiting(&mut state);
        mem::replace(&mut state.unrun, jobs)
    }
}

impl<J, W> fmt::Debug for Inbox<J, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// The jobs of one turn, in order. Dropping it puts back what was not taken out of it: because the
/// budget ended, because a job panicked, or because the loop was told to stop at once.
pub(crate) struct Batch<'a, J, W: Wake> {
    inbox: &'a Inbox<J, W>,
    jobs: VecDeque<J>,
    /// How many there were, which says how much memory is worth keeping.
    taken: usize,
    /// How many may still be taken out.
    budget: usize,
}

impl<J, W: Wake> Iterator for Batch<'_, J, W> {
    type Item = J;

    fn next(&mut self) -> Option<J> {
        self.budget = self.budget.checked_sub(1)?;
        self.jobs.pop_front()
    }
}

impl<J, W: Wake> Drop for Batch<'_, J, W> {
    fn drop(&mut self) {
        let jobs = mem::take(&mut self.jobs);
        if !jobs.is_empty() {
            drop(self.inbox.put_back(jobs));
        } else if jobs.capacity() <= RETAINED_JOBS.max(self.taken.saturating_mul(4)) {
            // Does not move anything: a deque without elements becomes a vector as it is.
            self.inbox.spare.set(jobs.into());
        }
    }
}

impl<J, W: Wake> fmt::Debug for Batch<'_, J, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("left", &self.jobs.len()).finish_non_exhaustive()
    }
}

/// A job that will be pushed later, or will turn out not to come. While there is one, the loop stays.
pub(crate) struct Expected<J, W: Wake> {
    queue: Arc<Queue<J, W>>,
    /// Cleared by `push`; otherwise `drop` has to tell the queue.
    outstanding: bool,
}

impl<J, W: Wake> Expected<J, W> {
    /// Announces a job to `queue`; `None` if that is closed. From any thread.
    pub(crate) fn new(queue: &Arc<Queue<J, W>>) -> Option<Self> {
        let mut state = queue.lock();
        if state.closed {
            return None;
        }
        state.expected += 1;
        queue.expected.store(state.expected, Ordering::Release);
        drop(state);
        Some(Self { queue: Arc::clone(queue), outstanding: true })
    }

    /// Queues the job, whatever the queue's capacity: it fails only if the queue is closed.
    pub(crate) fn push(mut self, job: J) -> Result<(), Rejected<J>> {
        self.outstanding = false;
        self.queue.settle(Some(job))
    }
}

impl<J, W: Wake> Drop for Expected<J, W> {
    fn drop(&mut self) {
        if self.outstanding {
            // Without a job there is none to be handed back.
            let _ = self.queue.settle(None);
        }
    }
}

impl<J, W: Wake> fmt::Debug for Expected<J, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected").finish_non_exhaustive()
    }
}
