#![forbid(unsafe_code)]
//! Why a connection ended.

use std::net::SocketAddr;
use std::{fmt, io};

use usockets_sys as sys;

use crate::attempt::ConnectAttempt;
use crate::deadline::DeadlineKind;
use crate::error::UsError;
use crate::ffi::RawSocket;
use crate::tls::TlsFailure;

/// Why a socket is closed, as [`on_close`](crate::ContextBuilder::on_close) is told.
///
/// Plain data: it may be kept, compared and sent to other threads.
///
/// ```
/// use usockets::CloseReason;
///
/// fn log_line(reason: &CloseReason) -> String {
///     match reason {
///         CloseReason::End => "finished".into(),
///         reason if reason.is_local() => "we closed it".into(),
///         reason => format!("lost: {reason}"),
///     }
/// }
/// assert_eq!(log_line(&CloseReason::Local), "we closed it");
/// assert_eq!(log_line(&CloseReason::Reset), "lost: the peer reset the connection");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The program called [`close`](crate::Socket::close).
    Local,
    /// The program called [`reset`](crate::Socket::reset).
    LocalReset,
    /// Both directions ended in order. Over TLS the peer has said so, by a `close_notify`: nothing was cut
    /// off.
    End,
    /// The peer has ended the connection without the `close_notify` of TLS: somebody on the way may have cut
    /// off the end of what it had to say. What arrived was delivered. See
    /// [`danger_tolerate_truncation`](crate::TlsClientOptions::danger_tolerate_truncation).
    Truncated,
    /// TLS failed, in the handshake or later. A handshake that takes too long is a
    /// [`Deadline`](Self::Deadline).
    Tls(TlsFailure),
    /// The peer reset the connection.
    Reset,
    /// The peer is gone in both directions, as Unix sockets report it.
    HangUp,
    /// The operating system reported an error: see [`error`](Self::error).
    System {
        /// The system's number of the error (`errno`).
        errno: i32,
    },
    /// A file that was being [sent](crate::Socket::send_file) got shorter (`ENODATA`) or cannot be read.
    File {
        /// The system's number of the error (`errno`).
        errno: i32,
    },
    /// The socket to or from which it was [piped](crate::Socket::pipe_to) has closed.
    Pipe,
    /// A deadline has passed: see [`Deadlines`](crate::Deadlines).
    Deadline(DeadlineKind),
    /// The program closed the [context](crate::SocketContext::close).
    ContextClosed,
    /// The loop was dropped.
    LoopClosed,
}

impl CloseReason {
    /// Whether it was this program that closed the socket, in whatever way.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local | Self::LocalReset | Self::ContextClosed | Self::LoopClosed)
    }

    /// The error behind the close: of the system, or a
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset) for [`Reset`](Self::Reset), or a
    /// [`TimedOut`](io::ErrorKind::TimedOut) for [`Deadline`](Self::Deadline), or an
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) for [`Truncated`](Self::Truncated), or an
    /// [`InvalidData`](io::ErrorKind::InvalidData) that says what is wrong for [`Tls`](Self::Tls).
    pub fn error(&self) -> Option<io::Error> {
        match *self {
            Self::System { errno } | Self::File { errno } => {
                Some(io::Error::from_raw_os_error(errno))
            }
            Self::Reset => Some(io::Error::from_raw_os_error(libc::ECONNRESET)),
            Self::Deadline(_) => Some(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            Self::Truncated => Some(io::Error::new(io::ErrorKind::UnexpectedEof, self.to_string())),
            Self::Tls(failure) => {
                Some(io::Error::new(io::ErrorKind::InvalidData, failure.to_string()))
            }
            _ => None,
        }
    }

    /// What the engine says of a socket; `None` if it is not closed.
    pub(crate) fn of(socket: RawSocket<'_>) -> Option<Self> {
        Self::from_raw(socket.close_reason(), || {
            socket.tls_failure().map_or_else(TlsFailure::unknown, TlsFailure::from_raw)
        })
    }

    fn from_raw(raw: sys::usx_close_reason, tls: impl FnOnce() -> TlsFailure) -> Option<Self> {
        Some(match raw.kind {
            sys::USX_REASON_NONE => return None,
            sys::USX_REASON_LOCAL => Self::Local,
            sys::USX_REASON_LOCAL_RESET => Self::LocalReset,
            sys::USX_REASON_END => Self::End,
            sys::USX_REASON_TRUNCATED => Self::Truncated,
            sys::USX_REASON_TLS => Self::Tls(tls()),
            sys::USX_REASON_RESET => Self::Reset,
            sys::USX_REASON_HANGUP => Self::HangUp,
            sys::USX_REASON_FILE => Self::File { errno: raw.error },
            sys::USX_REASON_PIPE => Self::Pipe,
            sys::USX_REASON_DEADLINE => Self::Deadline(DeadlineKind::from_raw(raw.error)),
            sys::USX_REASON_CONTEXT_CLOSED => Self::ContextClosed,
            sys::USX_REASON_LOOP_CLOSED => Self::LoopClosed,
            _ => Self::System { errno: raw.error },
        })
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "closed by the program",
            Self::LocalReset => "reset by the program",
            Self::End => "both directions ended",
            Self::Truncated => "the peer ended the connection without ending TLS",
            Self::Tls(failure) => return failure.fmt(f),
            Self::Reset => "the peer reset the connection",
            Self::HangUp => "the peer hung up",
            Self::System { errno } => {
                return io::Error::from_raw_os_error(*errno).fmt(f);
            }
            Self::File { errno: libc::ENODATA } => "a file got shorter while it was sent",
            Self::File { errno } => {
                let error = io::Error::from_raw_os_error(*errno);
                return write!(f, "a file that was sent cannot be read: {error}");
            }
            Self::Pipe => "closed with the socket to or from which it was piped",
            Self::Deadline(kind) => return kind.fmt(f),
            Self::ContextClosed => "closed with its context",
            Self::LoopClosed => "closed with the loop",
        })
    }
}

/// Why a connection could not be made, from what the engine says of a socket that never opened;
/// `peer` is the address of the peer if it was accepted, `attempts` tells what became of the addresses
/// to which it was to be connected.
pub(crate) fn connect_error(
    raw: sys::usx_close_reason,
    peer: Option<SocketAddr>,
    attempts: impl FnOnce() -> Vec<ConnectAttempt>,
) -> UsError {
    match raw.kind {
        sys::USX_REASON_PRELUDE => prelude_error(raw.error, peer),
        sys::USX_REASON_CONNECT | sys::USX_REASON_ERROR => UsError::connect(raw.error, attempts()),
        sys::USX_REASON_DEADLINE => UsError::connect(libc::ETIMEDOUT, attempts()),
        sys::USX_REASON_RESOLVE => UsError::resolve(raw.error),
        sys::USX_REASON_RESET => UsError::os("connect", libc::ECONNRESET),
        _ => UsError::Cancelled,
    }
}

/// Why an accepted connection did not begin as it was to.
fn prelude_error(code: i32, peer: Option<SocketAddr>) -> UsError {
    #[cfg(feature = "proxy-protocol")]
    if let Some(reason) = crate::proxy::ProxyHeaderError::from_code(code) {
        return UsError::ProxyHeader { reason, peer };
    }
    let _unknown_to_the_system = peer;
    UsError::os("accept", code)
}
