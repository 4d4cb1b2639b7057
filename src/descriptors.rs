#![forbid(unsafe_code)]
//! What comes through a Unix socket besides bytes.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::UsError;
use crate::ffi;
use crate::listen::not_unix;
use crate::socket::Socket;

/// What came with bytes of a Unix socket: see
/// [`on_descriptors`](crate::ContextBuilder::on_descriptors).
#[derive(Debug)]
#[non_exhaustive]
pub struct ReceivedDescriptors {
    /// The descriptors in the order in which they were sent, at most 253. They are close-on-exec, and
    /// closed when dropped. They may be of anything: check what they are before they are used.
    pub fds: Vec<OwnedFd>,
    /// Whether some were lost because this process has no room for descriptors. Then none is given.
    pub is_truncated: bool,
    /// Who sent the bytes, if the builder was told to
    /// [receive credentials](crate::ContextBuilder::receive_credentials).
    pub credentials: Option<PeerCredentials>,
}

/// Who is at the other end of a Unix socket. The system vouches for it: a process cannot claim to be
/// another one, unless it is privileged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process; 0 if it has no number here, or is not known. It may have ended since, and its
    /// number be another one's.
    pub pid: i32,
    /// Its user: the real one with [bytes that it sent](crate::ContextBuilder::receive_credentials),
    /// the effective one where a [socket](crate::Socket::peer_credentials) is asked who connected.
    /// 65534 if that has no number here, or is not known.
    pub uid: u32,
    /// Its group; as for `uid`.
    pub gid: u32,
}

impl PeerCredentials {
    /// Asks a socket.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<Self, UsError> {
        ffi::peer_credentials(fd).map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => not_unix(),
            _ => UsError::io("peer_credentials", error),
        })
    }
}

/// Most descriptors of one message: `SCM_MAX_FD` of Linux.
const DESCRIPTORS_MAX: usize = usockets_sys::USX_DESCRIPTORS_MAX as usize;

impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// Sends all the bytes, and with the first of them descriptors and, if asked for, the credentials
    /// of this process (`SCM_RIGHTS` and `SCM_CREDENTIALS` of unix(7)).
    ///
    /// Bytes written before go first. What cannot go at once is queued, with duplicates of the
    /// descriptors, which are closed when they have gone; so the caller may close its own in any case.
    /// The receiver gets them with the first byte, and no byte that is sent later in the same
    /// [`on_data`](crate::ContextBuilder::on_data). Beneath: `usx_socket_send_descriptors`.
    ///
    /// # Errors
    ///
    /// Nothing was sent then. [`InvalidOption`](UsError::InvalidOption) without a byte, and for more
    /// than 253 descriptors; [`UsError::Io`] of kind
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) if it is no Unix socket, with `ETOOMANYREFS` if
    /// too many descriptors of this user are on their way already, or when duplicating fails;
    /// [`QueueFull`](UsError::QueueFull) at a limit of the socket or the loop;
    /// [`Closed`](UsError::Closed) on a socket that is closed, shut down, or left by its peer;
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed).
    ///
    /// For an example, see [`on_descriptors`](crate::ContextBuilder::on_descriptors).
    pub fn send_with_descriptors(
        &self,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
        credentials: bool,
    ) -> Result<(), UsError> {
        if data.is_empty() {
            return Err(UsError::invalid("data", "descriptors need a byte to go with"));
        }
        if fds.len() > DESCRIPTORS_MAX {
            return Err(UsError::invalid("descriptors", "there are more than 253"));
        }
        self.live()?.send_descriptors(data, fds, credentials).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::ENOBUFS) => UsError::QueueFull,
                Some(libc::EPIPE) => UsError::Closed,
                _ => UsError::io("send_with_descriptors", source),
            }
        })
    }
}
