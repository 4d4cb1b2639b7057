//! The handle of a loop on its own thread.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::{Backend, DeferError, KeepAlive, LoopHandle, Metrics, SignalWatch, signal};
use crate::error::UsError;
use crate::ext;
use crate::ids::LoopId;
use crate::shell::{Frame, Shell};

/// A handle of a loop, on the loop's own thread.
///
/// Every object gives the handle of its loop (`event_loop()`), and a [`Loop`](crate::Loop)
/// dereferences to its own. It may be cloned and kept for ever; it does not keep the loop, and
/// answers [`LoopClosed`](UsError::LoopClosed) when that is gone. It does not know the type of the
/// loop's state, so that [`with_state`](Self::with_state) is told and checks it.
///
/// ```
/// use usockets::{Loop, LoopRef, UsError};
///
/// fn greet(event_loop: &LoopRef) -> Result<(), UsError> {
///     event_loop.with_state(|names: &mut Vec<&str>| names.push("world"))
/// }
///
/// let event_loop = Loop::from_state(vec!["hello"])?;
/// greet(&event_loop)?;
/// assert_eq!(event_loop.with_state(|names| names.join(" "))?, "hello world");
///
/// let kept = event_loop.clone();
/// drop(event_loop);
/// assert!(matches!(greet(&kept), Err(UsError::LoopClosed)));
/// # Ok::<(), UsError>(())
/// ```
#[derive(Clone)]
pub struct LoopRef {
    /// `Rc`: the handle stays on the thread of its loop.
    shell: Rc<Shell>,
}

impl LoopRef {
    pub(crate) fn new(shell: Rc<Shell>) -> Self {
        Self { shell }
    }

    pub(crate) fn shell(&self) -> &Rc<Shell> {
        &self.shell
    }

    // -- State --------------------------------------------------------------------------------

    /// Calls `f` with the state of the loop, which must be a `T`.
    ///
    /// # Errors
    ///
    /// [`WrongType`](UsError::WrongType) if it is none, [`StateInUse`](UsError::StateInUse) inside
    /// another such closure of this loop, [`LoopClosed`](UsError::LoopClosed).
    pub fn with_state<T: 'static, R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, UsError> {
        let slot = ext::loop_slot::<T>(self.shell.engine()?)?;
        // Before the loan, so that it ends last.
        let _frame = Frame::enter(&self.shell);
        let mut state = slot.lend().map_err(|error| match error {
            UsError::Closed => UsError::LoopClosed,
            other => other,
        })?;
        Ok(f(&mut state))
    }

    /// The loop's identity.
    pub fn id(&self) -> LoopId {
        self.shell.id()
    }

    /// Whether the loop was dropped, which it counts as from the beginning of its end.
    pub fn is_closed(&self) -> bool {
        self.shell.is_closed()
    }

    // -- Handles ------------------------------------------------------------------------------

    /// A handle for other threads.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle::new(&self.shell.remote)
    }

    /// A handle for other threads that knows the type of the state.
    ///
    /// # Errors
    ///
    /// [`WrongType`](UsError::WrongType) if the state is not a `T`.
    pub fn handle_of<T: 'static>(&self) -> Result<LoopHandle<T>, UsError> {
        self.handle().typed()
    }

    /// Gives the loop a reason to run until the guard is dropped. Beneath: `usx_loop_keep_alive`.
    ///
    /// # Errors
    ///
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn keep_alive(&self) -> Result<KeepAlive, UsError> {
        self.shell.open_engine()?.keep_alive(1);
        Ok(KeepAlive::new(Rc::clone(&self.shell)))
    }

    // -- Work and control ---------------------------------------------------------------------

    /// Lets the loop call `job` in the job stage of an iteration: of this one if that is yet to
    /// come, else of the next one.
    ///
    /// First in, first out; after the jobs that other threads have sent. Jobs that a job defers
    /// come in the next iteration, and count as work that keeps the loop running and from sleeping.
    ///
    /// # Errors
    ///
    /// The job, with [`LoopClosed`](UsError::LoopClosed).
    pub fn defer<F: FnOnce(&Self) + 'static>(&self, job: F) -> Result<(), DeferError<F>> {
        if self.shell.is_closed() {
            return Err(DeferError::closed(job));
        }
        self.shell.local_jobs.push(Box::new(job));
        Ok(())
    }

    /// Makes [`run`](crate::Loop::run) return at the end of the current iteration or, if the loop
    /// does not run, the next `run` before its first one. Beneath: `usx_loop_stop`.
    pub fn stop(&self) {
        if let Ok(engine) = self.shell.engine() {
            engine.stop();
        }
    }

    /// Whether the loop has a reason to run: live objects, pending effects or jobs. Beneath:
    /// `usx_loop_is_alive`.
    pub fn is_alive(&self) -> bool {
        self.shell.engine().is_ok_and(|engine| engine.is_alive())
    }

    /// Whether the loop is running, that is whether this is code that it called.
    pub fn is_running(&self) -> bool {
        self.shell.engine().is_ok_and(|engine| engine.is_running())
    }

    // -- Hooks --------------------------------------------------------------------------------

    /// Sets what is called at the beginning of every iteration, in place of what was set before.
    ///
    /// # Errors
    ///
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn on_pre(&self, hook: impl FnMut(&Self) + 'static) -> Result<(), UsError> {
        self.watch_iterations()?;
        let old = self.shell.hooks.pre.replace(Some(Box::new(hook)));
        self.drop_in_frame(old)
    }

    /// Sets what is called at the end of every iteration, in place of what was set before.
    ///
    /// # Errors
    ///
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn on_post(&self, hook: impl FnMut(&Self) + 'static) -> Result<(), UsError> {
        self.watch_iterations()?;
        let old = self.shell.hooks.post.replace(Some(Box::new(hook)));
        self.drop_in_frame(old)
    }

    /// Sets what is called after [`LoopHandle::wake`], in place of what was set before.
    ///
    /// Wakes that come before the loop gets to it are answered by one call. Wakes of the loop's
    /// own, such as for a deferred job, do not call it.
    ///
    /// # Errors
    ///
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn on_wakeup(&self, hook: impl FnMut(&Self) + 'static) -> Result<(), UsError> {
        self.shell.open_engine()?;
        let old = self.shell.hooks.wakeup.replace(Some(Box::new(hook)));
        self.drop_in_frame(old)
    }

    /// Removes the hooks of [`on_pre`](Self::on_pre), [`on_post`](Self::on_post) and
    /// [`on_wakeup`](Self::on_wakeup). A hook may remove itself.
    pub fn clear_hooks(&self) {
        let hooks = &self.shell.hooks;
        let old = [&hooks.pre, &hooks.post, &hooks.wakeup].map(|hook| hook.replace(None));
        let _frame = Frame::enter(&self.shell);
        drop(old);
    }

    fn watch_iterations(&self) -> Result<(), UsError> {
        let engine = self.shell.open_engine()?;
        if !self.shell.hooks.around_iterations.replace(true) {
            crate::trampoline::set_iteration_hooks(engine);
        }
        Ok(())
    }

    fn drop_in_frame<V>(&self, value: V) -> Result<(), UsError> {
        let _frame = Frame::enter(&self.shell);
        drop(value);
        Ok(())
    }

    /// Calls `handler` on the loop whenever the process gets the signal, until the guard is
    /// dropped.
    ///
    /// Signals that arrive in a burst may be answered by one call. The guard does not keep the loop
    /// running. Several loops and several handlers may watch one signal. The default action of the
    /// signal, such as ending the process, no longer takes place, not even after the guard is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] for signals that cannot be caught, or without descriptors;
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn on_signal(
        &self,
        signal: i32,
        handler: impl FnMut(&Self, i32) + 'static,
    ) -> Result<SignalWatch, UsError> {
        signal::watch(self, signal, handler)
    }

    // -- Facts --------------------------------------------------------------------------------

    /// How the loop waits for events: never [`Auto`](Backend::Auto), unless the loop is gone.
    /// Beneath: `usx_loop_backend`.
    pub fn backend(&self) -> Backend {
        self.shell.engine().map_or(Backend::Auto, |engine| Backend::from_raw(engine.backend()))
    }

    /// The loop's time since an arbitrary moment: read once per iteration, after the wait. Beneath:
    /// `usx_loop_now`.
    pub fn now(&self) -> Duration {
        self.shell.engine().map_or(Duration::ZERO, |engine| Duration::from_nanos(engine.now()))
    }

    /// What the loop has done and what there is. All zero if the loop is gone. Beneath:
    /// `usx_loop_statistics`.
    pub fn metrics(&self) -> Metrics {
        self.shell.engine().map_or_else(
            |_| Metrics::default(),
            |engine| Metrics::new(&engine.statistics(), self.shell.remote.queue.len()),
        )
    }
}

impl PartialEq for LoopRef {
    /// Whether both are handles of the same loop.
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for LoopRef {}

impl fmt::Debug for LoopRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopRef")
            .field("id", &self.id())
            .field("backend", &self.backend())
            .field("closed", &self.is_closed())
            .finish()
    }
}
