#![forbid(unsafe_code)]
//! Deadlines that end connections.

use std::fmt;
use std::time::Duration;

use usockets_sys as sys;

use crate::error::UsError;
use crate::event_loop::nanoseconds;
use crate::socket::Socket;

/// The longest deadline that the engine takes.
pub(crate) const LONGEST: Duration = Duration::from_secs(50 * 86_400);

/// What a connection did not do in time.
///
/// In a [`CloseReason::Deadline`](crate::CloseReason::Deadline), and for
/// [`Socket::set_deadline`](crate::Socket::set_deadline).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadlineKind {
    /// To be made: from the call of `connect`, with everything that it needs, until `on_open`.
    Connect,
    /// To agree on what comes first: a PROXY header, which is before `on_open`; and TLS, which is after it.
    Handshake,
    /// To send something: from `on_open` of an accepted socket, or the end of its TLS handshake, until its
    /// first byte.
    FirstByte,
    /// To do anything: since bytes were last received or taken by the system.
    Idle,
    /// To take output: since the system last took some of what waits.
    WriteStall,
    /// To take what was accepted before [`close`](crate::Socket::close), or to finish when the
    /// program asked for it.
    Drain,
}

impl DeadlineKind {
    pub(crate) fn to_raw(self) -> i32 {
        match self {
            Self::Connect => sys::USX_DEADLINE_CONNECT,
            Self::Handshake => sys::USX_DEADLINE_HANDSHAKE,
            Self::FirstByte => sys::USX_DEADLINE_FIRST_BYTE,
            Self::Idle => sys::USX_DEADLINE_IDLE,
            Self::WriteStall => sys::USX_DEADLINE_WRITE_STALL,
            Self::Drain => sys::USX_DEADLINE_DRAIN,
        }
    }

    pub(crate) fn from_raw(raw: i32) -> Self {
        match raw {
            sys::USX_DEADLINE_CONNECT => Self::Connect,
            sys::USX_DEADLINE_HANDSHAKE => Self::Handshake,
            sys::USX_DEADLINE_FIRST_BYTE => Self::FirstByte,
            sys::USX_DEADLINE_IDLE => Self::Idle,
            sys::USX_DEADLINE_WRITE_STALL => Self::WriteStall,
            _ => Self::Drain,
        }
    }
}

impl fmt::Display for DeadlineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "the connection was not made in time",
            Self::Handshake => "the handshake took too long",
            Self::FirstByte => "the peer sent nothing",
            Self::Idle => "nothing happened for too long",
            Self::WriteStall => "the peer does not read",
            Self::Drain => "it did not finish in time",
        })
    }
}

/// How long the connections of a context may take for what they have to do.
///
/// Given to [`ContextBuilder::deadlines`](crate::ContextBuilder::deadlines). They are precise to a
/// few milliseconds, never early, and cost no memory and no system call. Each is at most 50 days;
/// `None` is none.
///
/// | deadline | default | ends with |
/// |---|---|---|
/// | [`connect`](Self::connect) | 30 s | `on_connect_error`, of the kind `TimedOut` |
/// | [`handshake`](Self::handshake) | 10 s | `on_connect_error`, of the kind `TimedOut`; for TLS, `CloseReason::Deadline` |
/// | [`first_byte`](Self::first_byte) | 60 s | [`CloseReason::Deadline`](crate::CloseReason::Deadline) |
/// | [`idle`](Self::idle) | none | `on_timeout`; without one, `CloseReason::Deadline` |
/// | [`write_stall`](Self::write_stall) | 60 s | `CloseReason::Deadline` and a reset |
/// | [`drain`](Self::drain) | 8 s | after `on_close`, a reset |
///
/// ```
/// use std::time::Duration;
/// use usockets::{Deadlines, Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let deadlines = Deadlines::default()
///     .idle(Duration::from_secs(120))
///     .first_byte(None); // peers may just listen
/// let context = SocketContext::<false>::builder().deadlines(deadlines).build(&event_loop, ())?;
/// # drop(context);
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "deadlines do nothing by themselves"]
pub struct Deadlines {
    connect: Option<Duration>,
    handshake: Option<Duration>,
    first_byte: Option<Duration>,
    idle: Option<Duration>,
    write_stall: Option<Duration>,
    drain: Option<Duration>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Some(Duration::from_secs(30)),
            handshake: Some(Duration::from_secs(10)),
            first_byte: Some(Duration::from_secs(60)),
            idle: None,
            write_stall: Some(Duration::from_secs(60)),
            drain: Some(Duration::from_secs(8)),
        }
    }
}

impl Deadlines {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// No deadline at all. A server with such connections can be kept busy by anybody.
    pub fn none() -> Self {
        Self {
            connect: None,
            handshake: None,
            first_byte: None,
            idle: None,
            write_stall: None,
            drain: None,
        }
    }

    /// [`DeadlineKind::Connect`]: look-ups, all addresses and what comes before `on_open` included.
    pub fn connect(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.connect = time.into();
        self
    }

    /// [`DeadlineKind::Handshake`].
    pub fn handshake(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.handshake = time.into();
        self
    }

    /// [`DeadlineKind::FirstByte`].
    pub fn first_byte(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.first_byte = time.into();
        self
    }

    /// [`DeadlineKind::Idle`]. It uses the timeout of
    /// [`set_timeout`](crate::Socket::set_timeout), which ends it for its socket.
    pub fn idle(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.idle = time.into();
        self
    }

    /// [`DeadlineKind::WriteStall`].
    pub fn write_stall(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.write_stall = time.into();
        self
    }

    /// [`DeadlineKind::Drain`]: how long a closed socket lingers for its output. `None`: not at all,
    /// what the system has not taken at [`close`](crate::Socket::close) is lost, and the peer sees
    /// a reset.
    pub fn drain(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.drain = time.into();
        self
    }

    /// As the engine takes them.
    pub(crate) fn to_raw(self) -> Result<sys::usx_deadlines, UsError> {
        Ok(sys::usx_deadlines {
            connect: raw("connect deadline", self.connect)?,
            handshake: raw("handshake deadline", self.handshake)?,
            first_byte: raw("first-byte deadline", self.first_byte)?,
            idle: raw("idle deadline", self.idle)?,
            write_stall: raw("write-stall deadline", self.write_stall)?,
            drain: raw("drain deadline", self.drain)?,
        })
    }
}

/// A deadline in nanoseconds, 0 for none. One of no time at all is over at once, not none.
pub(crate) fn raw(option: &'static str, time: Option<Duration>) -> Result<u64, UsError> {
    match time {
        None => Ok(0),
        Some(time) if time > LONGEST => Err(UsError::invalid(option, "it is longer than 50 days")),
        Some(time) => Ok(nanoseconds(time).max(1)),
    }
}

impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// Sets a deadline of this socket, from now on; `None` is none. Those of the context are
    /// [`ContextBuilder::deadlines`](crate::ContextBuilder::deadlines). Beneath:
    /// `usx_socket_set_policy_deadline`.
    ///
    /// One that is over, such as that of the first byte when something has come, is left alone.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) beyond 50 days; [`Closed`](UsError::Closed),
    /// [`Stale`](UsError::Stale), [`LoopClosed`](UsError::LoopClosed); [`UsError::Io`] without
    /// memory.
    pub fn set_deadline(
        &self,
        kind: DeadlineKind,
        time: impl Into<Option<Duration>>,
    ) -> Result<(), UsError> {
        let nanoseconds = raw("deadline", time.into())?;
        self.live()?
            .set_policy_deadline(kind.to_raw(), nanoseconds)
            .map_err(|source| UsError::io("set_deadline", source))
    }
}
