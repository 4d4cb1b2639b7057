//! Signals of the process as events of a loop.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::FORBIDDEN;
use signal_hook::low_level::{pipe, unregister};

use super::LoopRef;
use crate::error::UsError;
use crate::poll::{Interest, Poll};

/// A signal that the loop watches, until this is dropped.
///
/// Made by [`LoopRef::on_signal`](crate::LoopRef::on_signal).
///
/// ```no_run
/// use usockets::Loop;
///
/// let event_loop = Loop::<()>::new()?;
/// let keep_alive = event_loop.keep_alive()?;
/// let _interrupt = event_loop.on_signal(libc::SIGINT, |event_loop, _signal| event_loop.stop())?;
/// event_loop.run()?; // until Ctrl-C
/// # Ok::<(), usockets::UsError>(())
/// ```
#[must_use = "the signal is no longer watched when this is dropped"]
pub struct SignalWatch {
    signal: i32,
    id: SigId,
    /// The end at which the signal handler's bytes arrive.
    _poll: Poll<UnixStream>,
}

/// Has a signal reported to the loop.
pub(super) fn watch(
    event_loop: &LoopRef,
    signal: i32,
    mut handler: impl FnMut(&LoopRef, i32) + 'static,
) -> Result<SignalWatch, UsError> {
    let error = |source| UsError::io("on_signal", source);
    if FORBIDDEN.contains(&signal) {
        // Asked for these, signal-hook would panic.
        return Err(error(ErrorKind::InvalidInput.into()));
    }
    let (receiver, sender) = UnixStream::pair().map_err(error)?;
    receiver.set_nonblocking(true).map_err(error)?;
    let poll =
        Poll::new_unref(event_loop, receiver, Interest::READABLE, (), move |poll, (), _| {
            if drain(poll.source()) {
                handler(&poll.event_loop(), signal);
            }
        })?;
    let id = pipe::register(signal, sender).map_err(error)?;
    Ok(SignalWatch { signal, id, _poll: poll })
}

/// Reads everything; says whether there was anything.
fn drain(mut source: &UnixStream) -> bool {
    let mut any = false;
    let mut bytes = [0; 64];
    loop {
        match source.read(&mut bytes) {
            Ok(0) => return any,
            Ok(_) => any = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return any,
        }
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        unregister(self.id);
    }
}

impl fmt::Debug for SignalWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalWatch").field("signal", &self.signal).finish_non_exhaustive()
    }
}
