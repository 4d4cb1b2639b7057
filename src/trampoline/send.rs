//! Buffers that the engine gives back.

use std::ffi::c_void;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use crate::ffi::RawSocket;
use crate::shell::Shell;

/// What the engine keeps while it sends a buffer.
struct Kept {
    data: Bytes,
    shell: Rc<Shell>,
}

/// Hands a buffer to the engine.
pub(crate) fn send_bytes(shell: &Rc<Shell>, socket: RawSocket<'_>, data: Bytes) -> io::Result<()> {
    let bytes: *const [u8] = &raw const *data;
    let argument = Box::into_raw(Box::new(Kept { data, shell: Rc::clone(shell) })).cast();
    // SAFETY: the bytes of a `Bytes` stay where they are while it moves; `release` takes what was
    // boxed.
    let sent = unsafe { socket.send_owned(bytes, release, argument) };
    if sent.is_err() {
        // SAFETY: not called on failure.
        unsafe { release(argument) };
    }
    sent
}

/// Dropping a buffer may run code of the program, so the loop does it in its stage of jobs, where
/// that has a frame.
unsafe extern "C" fn release(argument: *mut c_void) {
    // SAFETY: it is what `send_bytes` boxed, and this is called once.
    let kept = unsafe { Box::from_raw(argument.cast::<Kept>()) };
    let Kept { data, shell } = *kept;
    shell.local_jobs.push(Box::new(move |_| drop(data)));
}
