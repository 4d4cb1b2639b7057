//! What a loop calls: for jobs and around iterations.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::rc::Rc;

use usockets_sys::us_loop_t;

use crate::error::UsError;
use crate::event_loop::{has_jobs, run_jobs};
use crate::ext;
use crate::ffi::{RawLoop, Waker};
use crate::remote::Remote;
use crate::shell::Shell;
use crate::sync::Arc;

/// Makes a loop that asks its shell for jobs.
pub(crate) fn create_loop<T: 'static>(
    backend: c_int,
    test_clock: bool,
    make_remote: impl FnOnce(Waker) -> Remote,
    state: T,
) -> Result<Rc<Shell>, UsError> {
    let make_shell = |raw, engine: RawLoop<'_>| {
        engine.set_job_hooks(on_has_jobs, on_run_jobs);
        let remote = Arc::new(make_remote(engine.waker()));
        // SAFETY: I9: the loop was just made, and the shell is its only owner.
        unsafe { Shell::new(raw, remote) }
    };
    ext::create_loop(backend, test_clock, make_shell, state)
}

/// Has the engine call the hooks around iterations.
pub(crate) fn set_iteration_hooks(engine: RawLoop<'_>) {
    engine.set_iteration_hooks(on_pre, on_post);
}

/// The loop for which C calls.
///
/// # Safety
///
/// A living loop of this crate, which stays so for `'a`.
pub(super) unsafe fn living<'a>(raw: *mut us_loop_t) -> RawLoop<'a> {
    // SAFETY: C calls with a loop.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: the caller vouches for it.
    unsafe { RawLoop::new(raw) }
}

unsafe extern "C" fn on_has_jobs(raw: *mut us_loop_t, park: c_int) -> c_int {
    // SAFETY: C calls with a living loop.
    let shell = ext::shell_of(unsafe { living(raw) });
    c_int::from(has_jobs(shell, park != 0))
}

unsafe extern "C" fn on_run_jobs(raw: *mut us_loop_t) {
    // SAFETY: C calls with a living loop.
    run_jobs(ext::shell_of(unsafe { living(raw) }));
}

unsafe extern "C" fn on_pre(raw: *mut us_loop_t) {
    // SAFETY: C calls with a living loop.
    let shell = ext::shell_of(unsafe { living(raw) });
    shell.hooks.pre.call(shell);
}

unsafe extern "C" fn on_post(raw: *mut us_loop_t) {
    // SAFETY: C calls with a living loop.
    let shell = ext::shell_of(unsafe { living(raw) });
    shell.hooks.post.call(shell);
}
