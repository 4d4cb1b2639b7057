#![forbid(unsafe_code)]
//! What comes through a Unix socket besides bytes.

use std::os::fd::OwnedFd;

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
    /// Its effective user; 65534 if that has no number here, or is not known.
    pub uid: u32,
    /// Its effective group; as for `uid`.
    pub gid: u32,
}
