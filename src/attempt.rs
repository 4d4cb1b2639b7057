#![forbid(unsafe_code)]
//! What became of each address of a connection.

use std::net::SocketAddr;
use std::time::Duration;
use std::{fmt, io};

use usockets_sys as sys;

use crate::ffi::{RawAttempt, RawSocket};
use crate::socket::Socket;

/// What became of one address to which a socket was to be connected.
///
/// Told by [`Socket::connect_attempts`] and [`UsError::Connect`](crate::UsError::Connect). Plain
/// data: it may be kept, compared and sent to other threads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectAttempt {
    address: SocketAddr,
    outcome: AttemptOutcome,
    began: Duration,
    ended: Duration,
}

/// How an attempt to connect has ended, if it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The connection was made, or given up, before it was this address's turn.
    NotBegun,
    /// It is under way.
    Running,
    /// It became the connection.
    Connected,
    /// It failed.
    Failed {
        /// The system's number of the error (`errno`).
        errno: i32,
    },
    /// It was neither made nor refused when another one was made, or the socket closed.
    GivenUp,
}

impl ConnectAttempt {
    /// What was connected to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it ended.
    pub fn outcome(&self) -> AttemptOutcome {
        self.outcome
    }

    /// The system's error, if it failed.
    pub fn error(&self) -> Option<io::Error> {
        match self.outcome {
            AttemptOutcome::Failed { errno } => Some(io::Error::from_raw_os_error(errno)),
            _ => None,
        }
    }

    /// When it began, counted from the call of `connect`; a look-up of the name comes before the
    /// first one. `None` if it did not.
    pub fn began(&self) -> Option<Duration> {
        (self.outcome != AttemptOutcome::NotBegun).then_some(self.began)
    }

    /// How long it took. `None` if it did not begin, or is under way.
    pub fn took(&self) -> Option<Duration> {
        match self.outcome {
            AttemptOutcome::NotBegun | AttemptOutcome::Running => None,
            _ => Some(self.ended.saturating_sub(self.began)),
        }
    }

    fn from_raw(raw: &RawAttempt) -> Option<Self> {
        Some(Self {
            address: raw.address.as_inet()?,
            outcome: match raw.state {
                sys::USX_ATTEMPT_NONE => AttemptOutcome::NotBegun,
                sys::USX_ATTEMPT_RUNNING => AttemptOutcome::Running,
                sys::USX_ATTEMPT_CONNECTED => AttemptOutcome::Connected,
                sys::USX_ATTEMPT_FAILED => AttemptOutcome::Failed { errno: raw.errno },
                _ => AttemptOutcome::GivenUp,
            },
            began: Duration::from_nanos(raw.began),
            ended: Duration::from_nanos(raw.ended),
        })
    }
}

impl fmt::Display for ConnectAttempt {
    /// The address, and what came of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.address)?;
        match self.outcome {
            AttemptOutcome::NotBegun => f.write_str("not begun"),
            AttemptOutcome::Running => f.write_str("under way"),
            AttemptOutcome::Connected => f.write_str("connected"),
            AttemptOutcome::Failed { errno } => io::Error::from_raw_os_error(errno).fmt(f),
            AttemptOutcome::GivenUp => f.write_str("no answer yet"),
        }
    }
}

impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// What became of the addresses of a connection, in the order in which they were, or would have
    /// been, tried. Beneath: `usx_socket_connect_attempts`.
    ///
    /// For connections to a name or to several addresses, from the time when the addresses are
    /// known until [`on_open`](crate::ContextBuilder::on_open) or
    /// [`on_connect_error`](crate::ContextBuilder::on_connect_error) has returned; inside these it
    /// tells who won, and what the others met. Otherwise empty.
    ///
    /// ```
    /// use usockets::{AttemptOutcome, Loop, SocketContext, Target};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<false>::builder()
    ///     .on_open(|_, socket, _, info| {
    ///         if info.is_client() {
    ///             let attempts = socket.connect_attempts();
    ///             assert_eq!(attempts.len(), 2);
    ///             assert_eq!(attempts[1].outcome(), AttemptOutcome::Connected);
    ///             socket.event_loop().stop();
    ///         }
    ///     })
    ///     .build(&event_loop, ())?;
    /// let listener = context.listen("127.0.0.1:0")?;
    ///
    /// // Multicast addresses cannot be connected to.
    /// let addresses = ["224.0.0.1:80".parse().expect("an address"), listener.local_addr()?];
    /// context.connect(Target::addresses(addresses)?)?;
    /// event_loop.run()?;
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn connect_attempts(&self) -> Vec<ConnectAttempt> {
        self.raw().map(attempts).unwrap_or_default()
    }
}

/// What became of the addresses of a connection, while the engine knows.
pub(crate) fn attempts(socket: RawSocket<'_>) -> Vec<ConnectAttempt> {
    socket.connect_attempts().iter().filter_map(ConnectAttempt::from_raw).collect()
}
