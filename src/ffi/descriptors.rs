//! Descriptors and credentials that come and go through a socket.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use usockets_sys as sys;
use usockets_sys::{usx_descriptors, usx_peer_credentials};

use super::{RawSocket, check};
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
        let place = unsafe { descriptors.fds.add(i) };
        // SAFETY: as above.
        let fd = unsafe { *place };
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

/// Who is at the other end of a Unix socket; [`Unsupported`](io::ErrorKind::Unsupported) for others.
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut credentials = usx_peer_credentials::default();
    // SAFETY: there is room for the answer.
    let code =
        unsafe { sys::usx_descriptor_peer_credentials(fd.as_raw_fd(), &raw mut credentials) };
    check(code)?;
    Ok(from_raw(&credentials))
}

fn from_raw(raw: &usx_peer_credentials) -> PeerCredentials {
    PeerCredentials { pid: raw.pid, uid: raw.uid, gid: raw.gid }
}

impl RawSocket<'_> {
    /// Sends bytes with descriptors and credentials, or queues them with duplicates.
    pub(crate) fn send_descriptors(
        self,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
        credentials: bool,
    ) -> io::Result<()> {
        let count = c_int::try_from(fds.len()).unwrap_or(c_int::MAX);
        // SAFETY: the socket is alive (see `live`); bytes and descriptors are used during the call
        // only; std promises that a `BorrowedFd` has the layout of a descriptor.
        check(unsafe {
            sys::usx_socket_send_descriptors(
                self.as_ptr(),
                data.as_ptr().cast(),
                data.len(),
                fds.as_ptr().cast(),
                count,
                c_int::from(credentials),
            )
        })
    }
}
