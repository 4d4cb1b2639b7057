//! A reason to run that is no object.

use std::fmt;
use std::rc::Rc;

use crate::shell::Shell;

/// A reason for the loop to keep running, until it is dropped.
///
/// For loops that live by what their [`LoopHandle`](crate::LoopHandle)s send. Made by
/// [`LoopRef::keep_alive`](crate::LoopRef::keep_alive). Dropping it does not wake or stop the loop:
/// it looks for reasons at the end of every iteration.
///
/// ```
/// use usockets::Loop;
///
/// let event_loop = Loop::<()>::new()?;
/// let keep_alive = event_loop.keep_alive()?;
/// let handle = event_loop.handle();
/// let worker = std::thread::spawn(move || {
///     // Without the guard the loop might have returned from `run` before this.
///     handle.defer(move |event_loop| event_loop.stop())
/// });
/// event_loop.run()?;
/// drop(keep_alive);
/// worker.join().expect("the worker does not panic")?;
/// # Ok::<(), usockets::UsError>(())
/// ```
#[must_use = "the loop stops having a reason to run when this is dropped"]
pub struct KeepAlive {
    shell: Rc<Shell>,
}

impl KeepAlive {
    /// For one reason, which the caller has counted.
    pub(super) fn new(shell: Rc<Shell>) -> Self {
        Self { shell }
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        if let Ok(engine) = self.shell.engine() {
            engine.keep_alive(-1);
        }
    }
}

impl fmt::Debug for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").field("loop", &self.shell.id()).finish()
    }
}
