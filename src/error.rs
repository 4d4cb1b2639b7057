#![forbid(unsafe_code)]
//! What can go wrong, grouped by who can do something about it.

use std::io;

use crate::attempt::ConnectAttempt;
use crate::ffi;
use crate::tls::TlsError;

/// Why a call failed, or why a connection could not be made.
///
/// The variants come in groups: *the system* said no; this build *cannot*; material for *TLS* is no good; the program *misuses*
/// something, which is fixed by changing the program; an *input* is not valid; a *limit* of the
/// program's own choosing was reached.
///
/// [`kind`](Self::kind) gives the [`io::ErrorKind`], which the errors of the operating system keep,
/// and there is a conversion to [`io::Error`].
///
/// ```
/// use usockets::{Loop, SocketContext, UsError};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// let listener = context.listen("127.0.0.1:0")?;
///
/// // The port is taken.
/// let error = context.listen(listener.local_addr()?).expect_err("two listeners on one port");
/// assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
/// assert!(matches!(error, UsError::Io { operation: "listen", .. }));
/// assert!(error.to_string().contains(&listener.local_addr()?.to_string()));
/// # Ok::<(), UsError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsError {
    // -- The system ---------------------------------------------------------------------------
    /// The operating system refused.
    #[error("{operation}{} failed: {source}", on(address.as_deref()))]
    #[non_exhaustive]
    Io {
        /// What was tried, in one word: `"listen"`, `"connect"`, ...
        operation: &'static str,
        /// The address, path or descriptor that it was tried on, where one is known.
        address: Option<String>,
        /// The system's answer, with its [`io::ErrorKind`].
        source: io::Error,
    },

    /// None of several addresses could be connected to, in time or at all.
    #[error("connect failed: {source} ({})", list(attempts))]
    #[non_exhaustive]
    Connect {
        /// What became of each address, in the order in which they were tried.
        attempts: Vec<ConnectAttempt>,
        /// The error that says most: an answer of a peer rather than that there is no way to
        /// another one; [`TimedOut`](io::ErrorKind::TimedOut) if a deadline has passed.
        source: io::Error,
    },

    /// A host name has no address, or there was no answer.
    #[error("host name cannot be resolved: {reason}")]
    #[non_exhaustive]
    Resolve {
        /// The resolver's code, one of the `EAI_*` of the system.
        code: i32,
        /// The resolver's explanation.
        reason: String,
    },

    /// A connection was closed by the program before it was made.
    #[error("the connection was closed by the program before it was made")]
    Cancelled,

    /// An accepted connection did not begin with the PROXY protocol header that its
    /// [listener](crate::ListenOptions::proxy_protocol) asks for.
    #[cfg(feature = "proxy-protocol")]
    #[error("{reason}")]
    #[non_exhaustive]
    ProxyHeader {
        /// What is wrong.
        #[source]
        reason: crate::proxy::ProxyHeaderError,
        /// The real address of the peer; `None` for a Unix socket.
        peer: Option<std::net::SocketAddr>,
    },

    // -- This build ---------------------------------------------------------------------------
    /// `SSL = true`, or an option of TLS, in a build without TLS.
    #[error("this build of usockets has no TLS")]
    TlsUnavailable,

    // -- TLS ----------------------------------------------------------------------------------
    /// Certificates, keys or options of TLS that cannot be used. What goes wrong with a connection is a
    /// [`CloseReason`](crate::CloseReason).
    #[error(transparent)]
    Tls(TlsError),

    // -- Misuse -------------------------------------------------------------------------------
    /// The call needs the thread of the loop.
    #[error("called on another thread than the loop's")]
    WrongThread,

    /// An identity of one loop was used on another, or two objects are of different loops.
    #[error("the object belongs to another loop")]
    WrongLoop,

    /// The state, context or loop has other types than those asked for.
    #[error("the object's state has another type")]
    WrongType,

    /// The state is lent already: to the callback that is running, or to an outer `with_state`.
    #[error("the state is lent to a callback or closure that is still running")]
    StateInUse,

    /// The loop runs already, or this is code that it called, or a closure given to `with_state`
    /// and the like.
    #[error("the loop cannot be run from inside its own callbacks")]
    LoopAlreadyRunning,

    /// The loop has been dropped.
    #[error("the loop has been dropped")]
    LoopClosed,

    /// The worker pool has been shut down.
    #[error("the worker pool has been shut down")]
    PoolClosed,

    /// The socket is closed, or not connected yet.
    #[error("the socket is closed or not connected")]
    Closed,

    /// The context [drains](crate::SocketContext::drain): it does not listen, and when its time is
    /// over it takes no new socket either.
    #[error("the context is draining")]
    Draining,
    /// The socket has a pipe already, in that direction; or it cannot be adopted because it has one. See
    /// [`pipe_to`](crate::Socket::pipe_to).
    #[error("the socket is piped already")]
    Piped,

    /// The handle is of something that is no more: a socket or listener that was closed in an
    /// earlier iteration, or a socket that [`adopt`](crate::Socket::adopt) has moved to another
    /// context.
    #[error("the handle is of a socket, listener or context that is no more")]
    Stale,

    // -- Input --------------------------------------------------------------------------------
    /// An address cannot be understood.
    #[error("invalid address `{address}`: {reason}")]
    #[non_exhaustive]
    InvalidAddress {
        /// The address as it was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A value is out of range.
    #[error("invalid {option}: {reason}")]
    #[non_exhaustive]
    InvalidOption {
        /// Which argument or option.
        option: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// The path of a Unix socket does not fit into an address (about 108 bytes).
    #[error(
        "the path of a Unix socket is {length} bytes long, which is more than an address holds"
    )]
    #[non_exhaustive]
    UnixPathTooLong {
        /// The length of the path in bytes.
        length: usize,
    },

    // -- Limits -------------------------------------------------------------------------------
    /// A queue is at its limit: of jobs, or of output that waits.
    #[error("the queue is full")]
    QueueFull,

    /// The closure given to [`run_on_loop`](crate::LoopHandle::run_on_loop) panicked on the loop.
    #[error("the closure panicked on the loop")]
    JobPanicked,
}

impl UsError {
    /// The kind of I/O error that this is or comes closest to.
    ///
    /// For errors of the operating system it is the kind of the original.
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind;
        match self {
            Self::Io { source, .. } | Self::Connect { source, .. } => source.kind(),
            Self::Resolve { .. } => ErrorKind::NotFound,
            Self::Cancelled => ErrorKind::Interrupted,
            #[cfg(feature = "proxy-protocol")]
            Self::ProxyHeader { reason, .. } => reason.kind(),
            Self::TlsUnavailable => ErrorKind::Unsupported,
            Self::Tls(error) => error.io_kind(),
            Self::InvalidAddress { .. }
            | Self::InvalidOption { .. }
            | Self::UnixPathTooLong { .. } => ErrorKind::InvalidInput,
            Self::LoopClosed | Self::PoolClosed | Self::Closed | Self::Draining | Self::Stale => {
                ErrorKind::NotConnected
            }
            Self::QueueFull => ErrorKind::WouldBlock,
            Self::WrongThread
            | Self::WrongLoop
            | Self::WrongType
            | Self::StateInUse
            | Self::LoopAlreadyRunning
            | Self::Piped
            | Self::JobPanicked => ErrorKind::Other,
        }
    }

    /// An error of the system.
    pub(crate) fn io(operation: &'static str, source: io::Error) -> Self {
        Self::Io { operation, address: None, source }
    }

    /// An error of the system, with what it was about.
    pub(crate) fn about(mut self, subject: impl Into<String>) -> Self {
        if let Self::Io { address, .. } = &mut self {
            *address = Some(subject.into());
        }
        self
    }

    /// An errno.
    pub(crate) fn os(operation: &'static str, errno: i32) -> Self {
        Self::io(operation, io::Error::from_raw_os_error(errno))
    }

    /// A connection that was not made: `attempts` are what the engine knows of them.
    pub(crate) fn connect(errno: i32, attempts: Vec<ConnectAttempt>) -> Self {
        let source = io::Error::from_raw_os_error(errno);
        match attempts.len() {
            0 | 1 => Self::io("connect", source),
            _ => Self::Connect { attempts, source },
        }
    }

    /// What the resolver said.
    pub(crate) fn resolve(code: i32) -> Self {
        Self::Resolve { code, reason: ffi::resolver_message(code) }
    }

    /// What `usx_loop_last_error` said after a call that failed.
    pub(crate) fn engine(operation: &'static str, error: i32) -> Self {
        match ffi::resolver_code(error) {
            Some(code) => Self::resolve(code),
            None if error == libc::ESHUTDOWN => Self::LoopClosed,
            None if error == libc::ECANCELED => Self::Draining,
            None => Self::os(operation, error),
        }
    }

    /// Out of memory in the engine.
    pub(crate) fn out_of_memory(operation: &'static str) -> Self {
        Self::os(operation, libc::ENOMEM)
    }

    pub(crate) fn invalid(option: &'static str, reason: &'static str) -> Self {
        Self::InvalidOption { option, reason }
    }

    pub(crate) fn address(address: impl Into<String>, reason: &'static str) -> Self {
        Self::InvalidAddress { address: address.into(), reason }
    }
}

/// The words between what was tried and how it failed.
fn on(address: Option<&str>) -> String {
    address.map(|address| format!(" on {address}")).unwrap_or_default()
}

/// The attempts in one line.
fn list(attempts: &[ConnectAttempt]) -> String {
    let attempts: Vec<_> = attempts.iter().map(ToString::to_string).collect();
    attempts.join("; ")
}

impl From<UsError> for io::Error {
    /// The system's error itself where there is one, else one of the same [`kind`](UsError::kind)
    /// that carries the `UsError`.
    fn from(error: UsError) -> Self {
        match error {
            UsError::Io { source, .. } => source,
            other => Self::new(other.kind(), other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_keep_their_kind_and_number() {
        let error = UsError::os("connect", libc::ECONNREFUSED);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(io::Error::from(error).raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn an_address_that_is_known_is_named() {
        let error = UsError::os("listen", libc::EADDRINUSE);
        assert!(error.to_string().starts_with("listen failed: "), "{error}");
        let error = error.about("127.0.0.1:80");
        assert!(error.to_string().starts_with("listen on 127.0.0.1:80 failed: "), "{error}");
        // Other errors stay what they are.
        assert!(matches!(UsError::LoopClosed.about("127.0.0.1:80"), UsError::LoopClosed));
    }

    #[test]
    fn other_errors_survive_the_conversion() {
        let error = io::Error::from(UsError::QueueFull);
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let inner = error.into_inner().expect("it carries the original");
        assert!(matches!(inner.downcast_ref(), Some(UsError::QueueFull)));
    }

    #[test]
    fn an_engine_that_is_shut_down_is_a_closed_loop() {
        assert!(matches!(UsError::engine("listen", libc::ESHUTDOWN), UsError::LoopClosed));
    }

    #[test]
    fn resolver_errors_carry_code_and_text() {
        let error = UsError::engine("connect", ffi::RESOLVE_ERROR + libc::EAI_NONAME.abs());
        let UsError::Resolve { code, reason } = error else { panic!("{error:?}") };
        assert_eq!(code, libc::EAI_NONAME);
        assert!(!reason.is_empty());
    }
}
