#![forbid(unsafe_code)]
//! The PROXY protocol: what a proxy says of the client whose connection it passes on.
//!
//! The layout of the bytes is the business of the crate `proxy-header`. What is here decides how many
//! bytes are a header, and is stricter than that crate where the protocol is.

mod header;
mod policy;
mod wire;

pub use header::{ProxyHeader, ProxyTlvs, ProxyVersion};
pub use policy::{IpPrefix, ProxyProtocol};

pub(crate) use policy::Verdict;

use std::io;

/// Why a connection did not begin with the PROXY protocol header that its listener asks for.
///
/// ```
/// use usockets::{ProxyHeader, ProxyHeaderError};
///
/// let error = ProxyHeader::decode(b"GET / HTTP/1.1\r\n").expect_err("no header");
/// assert_eq!(error, ProxyHeaderError::NotAHeader);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyHeaderError {
    /// The peer is not among those from whom headers are taken: nothing was read.
    #[error("the peer is not allowed to send a PROXY protocol header")]
    PeerNotAllowed,
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY protocol header")]
    NotAHeader,
    /// It is a header of the other version.
    #[error("the header is of a version of the PROXY protocol that is not accepted")]
    VersionNotAccepted,
    /// It begins as a header and breaks the rules of the protocol later.
    #[error("the PROXY protocol header is malformed")]
    Malformed,
    /// Its checksum is wrong.
    #[error("the checksum of the PROXY protocol header is wrong")]
    WrongChecksum,
    /// It is longer than the listener takes.
    #[error("the PROXY protocol header is too long")]
    TooLong,
    /// The peer ended before it was complete.
    #[error("the connection ended before the PROXY protocol header was complete")]
    Incomplete,
    /// It was not complete in time.
    #[error("the PROXY protocol header was not complete in time")]
    TimedOut,
}

impl ProxyHeaderError {
    /// The kind of I/O error that comes closest.
    pub fn kind(self) -> io::ErrorKind {
        match self {
            Self::PeerNotAllowed => io::ErrorKind::PermissionDenied,
            Self::Incomplete => io::ErrorKind::UnexpectedEof,
            Self::TimedOut => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::InvalidData,
        }
    }

    /// What the engine keeps as the reason of the close: any number that is no other's.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::PeerNotAllowed => libc::EACCES,
            Self::NotAHeader => libc::EPROTO,
            Self::VersionNotAccepted => libc::EPROTONOSUPPORT,
            Self::Malformed => libc::EBADMSG,
            Self::WrongChecksum => libc::EILSEQ,
            Self::TooLong => libc::EMSGSIZE,
            Self::Incomplete => libc::ENODATA,
            Self::TimedOut => libc::ETIMEDOUT,
        }
    }

    /// Its opposite; `None` for an error of the system.
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        const ALL: [ProxyHeaderError; 8] = [
            ProxyHeaderError::PeerNotAllowed,
            ProxyHeaderError::NotAHeader,
            ProxyHeaderError::VersionNotAccepted,
            ProxyHeaderError::Malformed,
            ProxyHeaderError::WrongChecksum,
            ProxyHeaderError::TooLong,
            ProxyHeaderError::Incomplete,
            ProxyHeaderError::TimedOut,
        ];
        ALL.into_iter().find(|error| error.code() == code)
    }
}
