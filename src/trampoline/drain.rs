//! What is called when a drain is over.

use std::ffi::c_void;
use std::ptr::NonNull;

use usockets_sys::{us_loop_t, usx_drain_report};

use super::event_loop::living;
use crate::drain::DrainReport;
use crate::error::UsError;
use crate::event_loop::LoopRef;
use crate::ext;
use crate::ffi::{RawContext, RawLoop};

/// Code of the program that is told of the end.
pub(crate) type Drained = Box<dyn FnOnce(&LoopRef, DrainReport)>;

/// Drains a context.
pub(crate) fn drain_context(
    context: RawContext<'_>,
    nanoseconds: u64,
    drained: Drained,
) -> Result<(), UsError> {
    // SAFETY: `begin` gives what the function takes.
    begin(drained, |argument| unsafe { context.drain(nanoseconds, on_drained, argument) })
}

/// Drains a loop.
pub(crate) fn drain_loop(
    engine: RawLoop<'_>,
    nanoseconds: u64,
    drained: Drained,
) -> Result<(), UsError> {
    // SAFETY: `begin` gives what the function takes.
    begin(drained, |argument| unsafe { engine.drain(nanoseconds, on_drained, argument) })
}

/// Calls with the closure as `on_drained` expects it.
fn begin(
    drained: Drained,
    call: impl FnOnce(*mut c_void) -> std::io::Result<()>,
) -> Result<(), UsError> {
    let argument = Box::into_raw(Box::new(drained));
    call(argument.cast()).map_err(|source| {
        // SAFETY: it was just made, and the engine has not taken it.
        drop(unsafe { Box::from_raw(argument) });
        UsError::io("drain", source)
    })
}

/// The drain is over, or the loop: then there is no report.
unsafe extern "C" fn on_drained(
    raw: *mut us_loop_t,
    report: *const usx_drain_report,
    argument: *mut c_void,
) {
    // SAFETY: C calls with a living loop.
    let shell = ext::shell_of(unsafe { living(raw) });
    // SAFETY: it is what `begin` boxed, and this is called once.
    let drained = unsafe { Box::from_raw(argument.cast::<Drained>()) };
    // SAFETY: a report is valid during this call.
    match NonNull::new(report.cast_mut()).map(|report| unsafe { report.read() }) {
        // No panic waits: the engine does not call after a halt.
        Some(report) => {
            shell.callback(|| shell.with_loop_ref(|l| drained(l, DrainReport::from_raw(report))));
        }
        None => shell.destructor(|| drop(drained)),
    }
}
