#![forbid(unsafe_code)]
//! Timers.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use crate::error::UsError;
use crate::event_loop::{LoopRef, nanoseconds};
use crate::ext::TimerBlock;
use crate::shell::Frame;

/// A timer with a state `T` of the program.
///
/// This is the owner: dropping it disarms the timer and drops closure and state; if its own closure
/// is running, these follow when that has returned. What one does with a timer is in [`TimerRef`],
/// which a `Timer` dereferences to, and which the closure is lent.
///
/// Timers are precise, never early, and cheap enough for a million. An armed timer keeps the loop
/// running, unless it was made by [`new_unref`](Self::new_unref).
///
/// ```
/// use std::time::Duration;
/// use usockets::{Loop, Timer};
///
/// let event_loop = Loop::<()>::new()?;
/// let timer = Timer::new(&event_loop, Vec::new())?;
/// timer.set(Duration::from_millis(2), None, |timer, delays| {
///     delays.push(timer.event_loop().now());
///     if delays.len() < 3 {
///         timer.rearm(Duration::from_millis(1), None).expect("the closure is known");
///     }
/// })?;
/// event_loop.run()?;
/// assert_eq!(timer.with_state(|delays| delays.len())?, 3);
/// # Ok::<(), usockets::UsError>(())
/// ```
#[must_use = "a timer is disarmed when it is dropped"]
pub struct Timer<T: 'static = ()> {
    timer: TimerRef<T>,
}

impl<T: 'static> Timer<T> {
    /// A disarmed timer. Beneath: `us_create_timer`.
    ///
    /// # Errors
    ///
    /// [`LoopClosed`](UsError::LoopClosed); [`UsError::Io`] when out of memory.
    pub fn new(event_loop: &LoopRef, state: T) -> Result<Self, UsError> {
        Self::create(event_loop, true, state)
    }

    /// A disarmed timer that does not keep the loop running when it is armed.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn new_unref(event_loop: &LoopRef, state: T) -> Result<Self, UsError> {
        Self::create(event_loop, false, state)
    }

    fn create(event_loop: &LoopRef, keeps_alive: bool, state: T) -> Result<Self, UsError> {
        let block = TimerBlock::create(event_loop.shell(), keeps_alive, state)?;
        Ok(Self { timer: TimerRef { block } })
    }
}

impl<T: 'static> Deref for Timer<T> {
    type Target = TimerRef<T>;

    fn deref(&self) -> &TimerRef<T> {
        &self.timer
    }
}

impl<T: 'static> Drop for Timer<T> {
    fn drop(&mut self) {
        self.timer.block.close();
    }
}

impl<T: 'static> fmt::Debug for Timer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("armed", &self.is_armed()).finish_non_exhaustive()
    }
}

/// What can be done with a [`Timer`], by its owner and from inside its closure.
///
/// ```
/// use std::time::Duration;
/// use usockets::{Loop, Timer, TimerRef};
///
/// /// Waits twice as long every time, and gives up after three times.
/// fn back_off(timer: &TimerRef<Duration>, delay: &mut Duration) {
///     *delay *= 2;
///     if *delay <= Duration::from_millis(8) {
///         timer.rearm(*delay, None).expect("the loop is open");
///     }
/// }
///
/// let event_loop = Loop::<()>::new()?;
/// let timer = Timer::new(&event_loop, Duration::from_millis(1))?;
/// timer.set(Duration::from_millis(1), None, back_off)?;
/// event_loop.run()?;
/// assert_eq!(timer.with_state(|delay| delay.as_millis())?, 16);
/// # Ok::<(), usockets::UsError>(())
/// ```
pub struct TimerRef<T: 'static = ()> {
    block: TimerBlock<T>,
}

impl<T: 'static> TimerRef<T> {
    pub(crate) fn from_block(block: TimerBlock<T>) -> Self {
        Self { block }
    }

    /// Arms the timer: `closure` is called after the time `after` and then, if given, every
    /// `every`.
    ///
    /// Replaces closure and times of an earlier call, of which no expiry follows any more; the old
    /// closure is dropped, or when it has returned if it is running. `after` counts from now, not
    /// from the loop's time. `after` 0 means as soon as possible, though never inside this call.
    /// Expiries that were missed while the loop was busy come as one. Beneath: `usx_timer_set`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) if `every` is 0,
    /// [`LoopClosed`](UsError::LoopClosed), [`Stale`](UsError::Stale) inside the closure if the
    /// [`Timer`] was dropped.
    pub fn set(
        &self,
        after: Duration,
        every: Option<Duration>,
        closure: impl FnMut(&Self, &mut T) + 'static,
    ) -> Result<(), UsError> {
        let (after, every) = times(after, every)?;
        self.block.set(after, every, Box::new(closure))
    }

    /// As [`set`](Self::set), with the closure that the timer has already; allocates nothing.
    ///
    /// # Errors
    ///
    /// Those of [`set`](Self::set), and [`InvalidOption`](UsError::InvalidOption) if there is no
    /// closure.
    pub fn rearm(&self, after: Duration, every: Option<Duration>) -> Result<(), UsError> {
        let (after, every) = times(after, every)?;
        self.block.rearm(after, every)
    }

    /// Disarms the timer, which keeps its closure. No expiry follows this call.
    pub fn cancel(&self) {
        self.block.disarm();
    }

    /// Whether an expiry is to come. Inside the closure of a timer without `every`, it is not.
    pub fn is_armed(&self) -> bool {
        self.block.is_armed()
    }

    /// Calls `f` with the state.
    ///
    /// # Errors
    ///
    /// [`StateInUse`](UsError::StateInUse) inside the timer's closure, which is lent the state, or
    /// another such call; [`LoopClosed`](UsError::LoopClosed).
    pub fn with_state<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, UsError> {
        let slot = self.block.state()?;
        // Before the loan, so that it ends last.
        let _frame = Frame::enter(self.block.shell());
        let mut state = slot.lend()?;
        Ok(f(&mut state))
    }

    /// The timer's loop.
    pub fn event_loop(&self) -> LoopRef {
        LoopRef::new(Rc::clone(self.block.shell()))
    }
}

impl<T: 'static> fmt::Debug for TimerRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerRef").field("armed", &self.is_armed()).finish_non_exhaustive()
    }
}

/// The times for the engine, where an `after` of 0 would disarm.
fn times(after: Duration, every: Option<Duration>) -> Result<(u64, u64), UsError> {
    if every == Some(Duration::ZERO) {
        return Err(UsError::invalid("every", "a timer cannot expire without pause"));
    }
    Ok((nanoseconds(after).max(1), every.map_or(0, nanoseconds)))
}
