//! Descriptors and credentials that came through a socket.

use std::os::fd::{FromRawFd, OwnedFd};

use usockets_sys::{usx_descriptors, usx_peer_credentials};

use crate::descriptors::{PeerCredentials, ReceivedDescriptors};

/// Makes the descriptors Rust's.
///
/// # Safety
///
/// What is given came from the engine, in a call that is still running, and is taken once.
pub(crate) unsafe fn take_descriptors(descriptors: &usx_descriptors) -> ReceivedDescriptors {
    let count = usize::try_from(descriptors.count).unwrap_or(0);
    let fds = (0..count).map(|i| {
        // SAFETY: the array has so many numbers.
        let fd = unsafe { *descriptors.fds.add(i) };
        // SAFETY: each is an open descriptor that is the handler's, and is taken once.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    // SAFETY: it is NULL or points to credentials.
    let credentials = unsafe { descriptors.credentials.as_ref() };
    ReceivedDescriptors {
        fds: fds.collect(),
        is_truncated: descriptors.truncated != 0,
        credentials: credentials.map(from_raw),
    }
}

fn from_raw(raw: &usx_peer_credentials) -> PeerCredentials {
    PeerCredentials { pid: raw.pid, uid: raw.uid, gid: raw.gid }
}
