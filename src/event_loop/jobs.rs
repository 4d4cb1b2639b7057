//! The stage of an iteration in which deferred work runs.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::LoopRef;
use crate::defer::JOBS_PER_TURN;
use crate::shell::Shell;

/// A job of the loop's own thread.
type LocalJob = Box<dyn FnOnce(&LoopRef)>;

/// Jobs that were deferred on the loop's own thread.
#[derive(Default)]
pub(crate) struct LocalJobs(RefCell<VecDeque<LocalJob>>);

impl LocalJobs {
    pub(crate) fn push(&self, job: LocalJob) {
        self.0.borrow_mut().push_back(job);
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    fn pop(&self) -> Option<LocalJob> {
        self.0.borrow_mut().pop_front()
    }

    /// Drops all jobs as code of the program that C called us for.
    pub(crate) fn clear(&self, shell: &Shell) {
        while let Some(job) = self.pop() {
            shell.destructor(|| drop(job));
        }
    }
}

/// Whether there is something for [`run_jobs`] to do. With `park`, and if there is not, other
/// threads wake the loop from now on.
pub(crate) fn has_jobs(shell: &Shell, park: bool) -> bool {
    let keep_alive = |delta| {
        if let Ok(engine) = shell.engine() {
            engine.keep_alive(delta);
        }
    };
    let queued = shell.inbox.has_work(park, keep_alive);
    queued || !shell.local_jobs.is_empty() || shell.remote.has_request()
}

/// Answers requests of other threads, runs their jobs and then those of this thread, up to the
/// budget.
///
/// What is left after a panic or when the budget is used up stays where it is for the next turn.
#[inline]
pub(crate) fn run_jobs(shell: &Shell) {
    if !(shell.inbox.is_calm() && shell.local_jobs.is_empty() && !shell.remote.has_request()) {
        run_queued_jobs(shell);
    }
}

fn run_queued_jobs(shell: &Shell) {
    if shell.remote.take_stop() {
        if let Ok(engine) = shell.engine() {
            engine.stop();
        }
    }
    if shell.remote.take_wake() {
        shell.hooks.wakeup.call(shell);
    }
    if shell.panics.is_pending() {
        return;
    }
    for job in shell.inbox.batch(JOBS_PER_TURN) {
        let ran = shell.callback(|| shell.with_loop_ref(|event_loop| job.run(event_loop)));
        if ran.is_none() {
            return;
        }
    }
    // Jobs that these defer are for the next turn.
    let count = shell.local_jobs.0.borrow().len().min(JOBS_PER_TURN);
    for _ in 0..count {
        let Some(job) = shell.local_jobs.pop() else { return };
        if shell.callback(|| shell.with_loop_ref(|event_loop| job(event_loop))).is_none() {
            return;
        }
    }
}
