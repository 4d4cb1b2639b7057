//! Descriptors that the process was started with.

use std::ffi::c_int;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// The first descriptor that a process is started with besides the standard ones
/// (`SD_LISTEN_FDS_START`).
const FIRST_INHERITED: RawFd = 3;

/// Whether the descriptors that the process was started with have been handed out.
static TAKEN: Mutex<bool> = Mutex::new(false);

/// Hands out the first `count` descriptors that the process was started with, and has them closed on
/// exec: once, later there are none. If one of them is no stream socket that listens it says which, and
/// hands out none.
///
/// To be called when who started the process says that they are for it.
pub(crate) fn take_inherited_listeners(count: u16) -> Result<Vec<OwnedFd>, (RawFd, io::Error)> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *taken {
        return Ok(Vec::new());
    }
    let descriptors = FIRST_INHERITED..FIRST_INHERITED + RawFd::from(count);
    for fd in descriptors.clone() {
        check_listener(fd).map_err(|error| (fd, error))?;
    }
    for fd in descriptors.clone() {
        // SAFETY: changes a flag of a number that is known to be a descriptor.
        let code = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        if code < 0 {
            return Err((fd, io::Error::last_os_error()));
        }
    }
    *taken = true;
    // SAFETY: they are open, and were made for this process to own by who started it; nobody else was
    // given them here.
    Ok(descriptors.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

fn check_listener(fd: RawFd) -> io::Result<()> {
    let listens = socket_option(fd, libc::SO_ACCEPTCONN)? != 0;
    let is_stream = socket_option(fd, libc::SO_TYPE)? == libc::SOCK_STREAM;
    if listens && is_stream { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

/// An option of any number: what is no socket is an error.
fn socket_option(fd: RawFd, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length: libc::socklen_t = 4;
    // SAFETY: there is room for the answer, whose length was told.
    let code = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
