//! The owner of a loop, who runs it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use super::{LoopBuilder, LoopHandle, LoopRef, clock};
use crate::error::UsError;
use crate::registry;
use crate::shell::Shell;
use crate::timer::Timer;

/// An event loop, with a state `T` of the program.
///
/// This is the owner: dropping it closes everything that belongs to the loop, and drops all state.
/// It stays on the thread that made it. What else one needs of a loop is in [`LoopRef`], a handle
/// that can be cloned, which a `Loop` dereferences to: `&Loop<T>` is accepted wherever a `&LoopRef`
/// is.
///
/// # Running
///
/// [`run`](Self::run) calls back until nothing is live: no socket, listener, poll, armed timer,
/// [`KeepAlive`](crate::KeepAlive), deferred job or effect that is pending. One iteration consists
/// of, in this order: the [pre](LoopRef::on_pre) hook; the wait; jobs; events of sockets, listeners
/// and polls; timers and timeouts; pending effects, such as the `on_close` of sockets that were
/// closed meanwhile; the [post](LoopRef::on_post) hook. Callbacks are never nested in one another,
/// nor in a call of this crate other than `run`, [`run_for`](Self::run_for), [`turn`](Self::turn)
/// and the drop of the loop.
///
/// # Panics in callbacks
///
/// A panic in a callback, hook, job or destructor that the loop calls is caught; no other callback
/// is called, `run` returns from the engine and there resumes the panic. What was not delivered is
/// kept, and the loop can be run again.
///
/// # Dropping
///
/// The end comes in this order: jobs, listeners, sockets (each gets its `on_close` or
/// `on_connect_error` and then its state is dropped), timers, polls, contexts with their state and
/// callbacks, the loop's state. While it does, nothing new can be made; all handles that are left
/// answer [`LoopClosed`](UsError::LoopClosed) from then on. Inside a closure of `with_state` and
/// the like the end follows when the outermost such closure has returned.
///
/// ```
/// use std::time::Duration;
/// use usockets::{Loop, Timer};
///
/// let event_loop = Loop::from_state(0_u32)?;
/// let timer = Timer::new(&event_loop, ())?;
/// timer.set(Duration::from_millis(1), Some(Duration::from_millis(1)), |timer, ()| {
///     let event_loop = timer.event_loop();
///     let ticks = event_loop.with_state(|ticks: &mut u32| {
///         *ticks += 1;
///         *ticks
///     });
///     if ticks.expect("nobody else uses the state") == 3 {
///         timer.cancel();
///     }
/// })?;
/// event_loop.run()?;
/// assert_eq!(event_loop.with_state(|ticks| *ticks)?, 3);
/// # Ok::<(), usockets::UsError>(())
/// ```
pub struct Loop<T: 'static = ()> {
    loop_ref: LoopRef,
    _state: PhantomData<T>,
}

impl<T: Default + 'static> Loop<T> {
    /// A loop with the default state and options.
    ///
    /// # Errors
    ///
    /// Those of [`LoopBuilder::build`].
    pub fn new() -> Result<Self, UsError> {
        Self::from_state(T::default())
    }
}

impl Loop {
    /// Options for a new loop, whose state is given to [`build`](LoopBuilder::build).
    pub fn builder() -> LoopBuilder {
        LoopBuilder::default()
    }
}

impl<T: 'static> Loop<T> {
    /// A loop with this state and the default options.
    ///
    /// # Errors
    ///
    /// Those of [`LoopBuilder::build`].
    pub fn from_state(state: T) -> Result<Self, UsError> {
        LoopBuilder::default().build(state)
    }

    pub(super) fn new_owner(shell: Rc<Shell>) -> Self {
        Self { loop_ref: LoopRef::new(shell), _state: PhantomData }
    }

    /// Calls back until nothing is live or [`stop`](LoopRef::stop) was called. Beneath:
    /// `usx_loop_run`.
    ///
    /// Returns at once if nothing is live. May be called again afterwards.
    ///
    /// # Errors
    ///
    /// [`LoopAlreadyRunning`](UsError::LoopAlreadyRunning) from inside a callback or a closure
    /// given to `with_state` and the like.
    ///
    /// # Panics
    ///
    /// Resumes the panic of a callback.
    pub fn run(&self) -> Result<(), UsError> {
        self.shell().run()
    }

    /// As [`run`](Self::run), but stops after `duration` of the loop's time at the latest, and then
    /// as soon as the callback that is running has returned.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run), and [`UsError::Io`] without memory for a timer.
    ///
    /// # Panics
    ///
    /// Resumes the panic of a callback.
    pub fn run_for(&self, duration: Duration) -> Result<(), UsError> {
        let deadline = Timer::new_unref(self, ())?;
        deadline.set(duration, None, |timer, ()| timer.event_loop().stop())?;
        self.run()
    }

    /// One iteration, and says whether the loop is still alive. Beneath: `usx_loop_turn`.
    ///
    /// Waits for events at most as long as given, `None` for without limit, and not at all while
    /// work is queued. Runs also when nothing is live, and does not care for
    /// [`stop`](LoopRef::stop).
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// Resumes the panic of a callback.
    pub fn turn(&self, timeout: Option<Duration>) -> Result<bool, UsError> {
        self.shell().turn(clock::timeout(timeout))
    }

    /// A descriptor that becomes readable when [`turn`](Self::turn) has something to do, for a
    /// foreign loop to wait for. `None`: the back end has none. Beneath:
    /// `usx_loop_native_descriptor`.
    ///
    /// Together with [`next_timeout`](Self::next_timeout), after which a turn is needed in any
    /// case.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.shell().engine().ok()?.native_descriptor()
    }

    /// The time after which [`turn`](Self::turn) is needed even without an event; `None`: never.
    /// Beneath: `usx_loop_next_timeout`.
    pub fn next_timeout(&self) -> Option<Duration> {
        let nanoseconds = self.shell().engine().ok()?.next_timeout();
        u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
    }

    /// Moves the clock of a loop with a [test clock](LoopBuilder::test_clock) on. What is due then
    /// happens in the next iteration. Beneath: `usx_loop_advance_clock`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) for a loop with a real clock.
    pub fn advance_clock(&self, duration: Duration) -> Result<(), UsError> {
        self.shell()
            .engine()?
            .advance_clock(clock::nanoseconds(duration))
            .map_err(|_| UsError::invalid("clock", "the loop was not made with a test clock"))
    }

    /// Calls `f` with the loop's state.
    ///
    /// # Errors
    ///
    /// [`StateInUse`](UsError::StateInUse) inside another such closure of this loop.
    pub fn with_state<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, UsError> {
        self.loop_ref.with_state(f)
    }

    /// A handle for other threads that knows the type of the state.
    pub fn typed_handle(&self) -> LoopHandle<T> {
        LoopHandle::new(&self.shell().remote)
    }
}

impl<T: 'static> Deref for Loop<T> {
    type Target = LoopRef;

    fn deref(&self) -> &LoopRef {
        &self.loop_ref
    }
}

impl<T: 'static> Drop for Loop<T> {
    fn drop(&mut self) {
        registry::remove(self.shell().id());
        self.shell().close();
    }
}

impl<T: 'static> fmt::Debug for Loop<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Loop").field(&self.loop_ref).finish()
    }
}
