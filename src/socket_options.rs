#![forbid(unsafe_code)]
//! Options that the system has for a connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::error::UsError;
use crate::socket::Socket;

/// How the system probes a connection on which nothing happens: see
/// [`Socket::set_keepalive`](Socket::set_keepalive).
///
/// ```
/// use std::time::Duration;
/// use usockets::TcpKeepAlive;
///
/// // A peer that is gone is noticed after 60 + 3 * 10 seconds.
/// let probes = TcpKeepAlive::after(Duration::from_secs(60))
///     .with_interval(Duration::from_secs(10))
///     .with_retries(3);
/// assert_eq!(probes.idle, Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TcpKeepAlive {
    /// After how long without a byte the first probe is sent (`TCP_KEEPIDLE`).
    pub idle: Duration,
    /// The time from one unanswered probe to the next (`TCP_KEEPINTVL`); `None` leaves it as it is,
    /// which is 75 seconds unless the system is set otherwise.
    pub interval: Option<Duration>,
    /// After how many unanswered probes the connection is given up, 1 to 127 (`TCP_KEEPCNT`); `None`
    /// leaves it as it is, which is 9 unless the system is set otherwise.
    pub retries: Option<u32>,
}

impl TcpKeepAlive {
    /// The first probe after `idle`; the rest as it is.
    #[must_use]
    pub fn after(idle: Duration) -> Self {
        Self { idle, interval: None, retries: None }
    }

    /// With another time between probes.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// With another number of probes.
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }
}

/// Options of the system. They take effect at once, and may be set from inside callbacks: from
/// `on_open` on. Before that they are those of the present attempt to connect, and go with it.
///
/// All of them fail with [`Closed`](UsError::Closed) on a socket that is closed and while a name is
/// being looked up, with [`Stale`](UsError::Stale) or [`LoopClosed`](UsError::LoopClosed) later, and
/// with [`UsError::Io`] if the system refuses: of kind
/// [`Unsupported`](io::ErrorKind::Unsupported) for an option of TCP or IP on a Unix socket.
///
/// ```
/// use std::time::Duration;
/// use usockets::{Loop, SocketContext, TcpKeepAlive};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder()
///     .on_open(|_, socket, _, _| {
///         let set = || {
///             socket.set_keepalive(Some(TcpKeepAlive::after(Duration::from_secs(60))))?;
///             socket.set_send_buffer_size(256 * 1024)?;
///             socket.set_traffic_class(0xb8) // expedited forwarding
///         };
///         if let Err(error) = set() {
///             println!("going on without: {error}");
///         }
///     })
///     .build(&event_loop, ())?;
/// # drop(context);
/// # Ok::<(), usockets::UsError>(())
/// ```
impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// Calls an accessor of `socket2`.
    fn option<R>(
        &self,
        operation: &'static str,
        access: impl FnOnce(&SockRef<'_>) -> io::Result<R>,
    ) -> Result<R, UsError> {
        let fd = self.descriptor()?;
        access(&SockRef::from(&fd)).map_err(|source| UsError::io(operation, source))
    }

    /// Sends small segments at once (`TCP_NODELAY` of tcp(7)), or lets the system hold one back until
    /// what was sent is acknowledged. On from the beginning.
    ///
    /// # Errors
    ///
    /// [`Closed`](UsError::Closed), also while a name is being looked up; [`Stale`](UsError::Stale),
    /// [`LoopClosed`](UsError::LoopClosed); [`UsError::Io`] if the system refuses, of kind
    /// [`Unsupported`](io::ErrorKind::Unsupported) for an option of TCP or IP on a Unix socket.
    pub fn set_nodelay(&self, on: bool) -> Result<(), UsError> {
        self.option("set_nodelay", |socket| socket.set_tcp_nodelay(on))
    }

    /// Whether small segments are sent at once.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn nodelay(&self) -> Result<bool, UsError> {
        self.option("nodelay", |socket| socket.tcp_nodelay())
    }

    /// Has the system probe the connection when nothing comes from the peer (`SO_KEEPALIVE` of
    /// socket(7)), or, with `None`, not. Off from the beginning. A peer that does not answer shows as
    /// [`CloseReason::System`](crate::CloseReason::System) with `ETIMEDOUT`.
    ///
    /// Times are rounded up to whole seconds, from 1.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay);
    /// [`InvalidOption`](UsError::InvalidOption) for times beyond 32767 seconds, and retries that are
    /// not 1 to 127.
    pub fn set_keepalive(&self, probes: Option<TcpKeepAlive>) -> Result<(), UsError> {
        let Some(probes) = probes else {
            return self.option("set_keepalive", |socket| socket.set_keepalive(false));
        };
        let mut all = TcpKeepalive::new().with_time(keepalive_time(probes.idle)?);
        if let Some(interval) = probes.interval {
            all = all.with_interval(keepalive_time(interval)?);
        }
        if let Some(retries) = probes.retries {
            if !(1..=KEEPALIVE_RETRIES_MAX).contains(&retries) {
                return Err(UsError::invalid("keep-alive retries", "they are not 1 to 127"));
            }
            all = all.with_retries(retries);
        }
        self.option("set_keepalive", |socket| socket.set_tcp_keepalive(&all))
    }

    /// How the connection is probed; `None`: not at all.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn keepalive(&self) -> Result<Option<TcpKeepAlive>, UsError> {
        self.option("keepalive", |socket| {
            if !socket.keepalive()? {
                return Ok(None);
            }
            Ok(Some(TcpKeepAlive {
                idle: socket.tcp_keepalive_time()?,
                interval: Some(socket.tcp_keepalive_interval()?),
                retries: Some(socket.tcp_keepalive_retries()?),
            }))
        })
    }

    /// Says what closing the descriptor does with bytes that the system has taken and not sent
    /// (`SO_LINGER` of socket(7)): `None`, as from the beginning, sends them in the background; zero
    /// discards them and resets the connection, however it is closed. That leaves no `TIME_WAIT`
    /// behind.
    ///
    /// No other time is allowed: the system would block the whole loop for it, in `close`. Accepted
    /// bytes need none; they are sent after [`close`](Self::close) anyway. To reset a connection
    /// once, use [`reset`](Self::reset).
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay);
    /// [`InvalidOption`](UsError::InvalidOption) for a time that is not zero.
    pub fn set_linger(&self, time: Option<Duration>) -> Result<(), UsError> {
        if time.is_some_and(|time| !time.is_zero()) {
            return Err(UsError::invalid("linger time", "closing would block the loop for it"));
        }
        self.option("set_linger", |socket| socket.set_linger(time))
    }

    /// What [`set_linger`](Self::set_linger) was given.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn linger(&self) -> Result<Option<Duration>, UsError> {
        self.option("linger", |socket| socket.linger())
    }

    /// Asks for room for so many bytes that are sent and not acknowledged (`SO_SNDBUF` of
    /// socket(7)), and ends its being adapted to the connection.
    ///
    /// The system has limits of its own, which are not an error, and Linux doubles the number for its
    /// bookkeeping: [`send_buffer_size`](Self::send_buffer_size) tells what has become of it.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay);
    /// [`InvalidOption`](UsError::InvalidOption) beyond 2 GiB.
    pub fn set_send_buffer_size(&self, bytes: usize) -> Result<(), UsError> {
        check_buffer_size(bytes)?;
        self.option("set_send_buffer_size", |socket| socket.set_send_buffer_size(bytes))
    }

    /// The room for bytes that are sent and not acknowledged, in bytes.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn send_buffer_size(&self) -> Result<usize, UsError> {
        self.option("send_buffer_size", |socket| socket.send_buffer_size())
    }

    /// Asks for room for so many bytes that have arrived and are not delivered (`SO_RCVBUF` of
    /// socket(7)). What [`set_send_buffer_size`](Self::set_send_buffer_size) says holds here too.
    ///
    /// # Errors
    ///
    /// Those of [`set_send_buffer_size`](Self::set_send_buffer_size).
    pub fn set_receive_buffer_size(&self, bytes: usize) -> Result<(), UsError> {
        check_buffer_size(bytes)?;
        self.option("set_receive_buffer_size", |socket| socket.set_recv_buffer_size(bytes))
    }

    /// The room for bytes that have arrived and are not delivered, in bytes.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn receive_buffer_size(&self) -> Result<usize, UsError> {
        self.option("receive_buffer_size", |socket| socket.recv_buffer_size())
    }

    /// Sets what routers are told about the kind of traffic: the second byte of the IP header
    /// (`IP_TOS` of ip(7), `IPV6_TCLASS`). The upper six bits are the differentiated services code
    /// point; the lower two belong to congestion notification, and stay the system's.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn set_traffic_class(&self, class: u8) -> Result<(), UsError> {
        let class = u32::from(class);
        if self.speaks_ipv6("set_traffic_class")? {
            self.option("set_traffic_class", |socket| socket.set_tclass_v6(class))
        } else {
            self.option("set_traffic_class", |socket| socket.set_tos_v4(class))
        }
    }

    /// What [`set_traffic_class`](Self::set_traffic_class) was given. 0 from the beginning.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn traffic_class(&self) -> Result<u8, UsError> {
        let class = if self.speaks_ipv6("traffic_class")? {
            self.option("traffic_class", |socket| socket.tclass_v6())?
        } else {
            self.option("traffic_class", |socket| socket.tos_v4())?
        };
        Ok(u8::try_from(class).unwrap_or(u8::MAX))
    }

    /// Whether packets have IPv6 headers. On a socket that listens to both, those of a peer with an
    /// IPv4 address have not.
    fn speaks_ipv6(&self, operation: &'static str) -> Result<bool, UsError> {
        let address = self.live()?.local_address();
        match address.map_err(|source| UsError::io(operation, source))?.as_inet() {
            Some(SocketAddr::V6(address)) => Ok(address.ip().to_ipv4_mapped().is_none()),
            Some(SocketAddr::V4(_)) => Ok(false),
            None => Err(UsError::os(operation, libc::EOPNOTSUPP)),
        }
    }
}

/// Options that Linux has.
#[cfg(target_os = "linux")]
impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// Acknowledges at once, or lets the system wait for something to send (`TCP_QUICKACK` of
    /// tcp(7)). The system changes it back on its own account: set it again after each message for
    /// which it matters.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn set_quickack(&self, on: bool) -> Result<(), UsError> {
        self.option("set_quickack", |socket| socket.set_tcp_quickack(on))
    }

    /// Whether acknowledgements are sent at once at present.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn quickack(&self) -> Result<bool, UsError> {
        self.option("quickack", |socket| socket.tcp_quickack())
    }

    /// Gives the connection up when what was sent is not acknowledged for this long
    /// (`TCP_USER_TIMEOUT` of tcp(7), RFC 5482), or, with `None`, when the system does so by itself,
    /// after some 15 minutes. It closes with [`CloseReason::System`](crate::CloseReason::System),
    /// `ETIMEDOUT`.
    ///
    /// With [keep-alive](Self::set_keepalive) it also says when a peer that answers no probe is given
    /// up. Rounded up to whole milliseconds, from 1.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay);
    /// [`InvalidOption`](UsError::InvalidOption) beyond 24 days.
    pub fn set_user_timeout(&self, time: Option<Duration>) -> Result<(), UsError> {
        let time = time.map(|time| round_up(time, Duration::from_millis(1)));
        if time.is_some_and(|time| i32::try_from(time.as_millis()).is_err()) {
            return Err(UsError::invalid("user timeout", "it is longer than 24 days"));
        }
        self.option("set_user_timeout", |socket| socket.set_tcp_user_timeout(time))
    }

    /// What [`set_user_timeout`](Self::set_user_timeout) was given.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn user_timeout(&self) -> Result<Option<Duration>, UsError> {
        self.option("user_timeout", |socket| socket.tcp_user_timeout())
    }

    /// Marks all packets of the connection, for routing and filters (`SO_MARK` of socket(7)).
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay), of kind
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) without `CAP_NET_ADMIN`.
    pub fn set_mark(&self, mark: u32) -> Result<(), UsError> {
        self.option("set_mark", |socket| socket.set_mark(mark))
    }

    /// The mark of the connection's packets; 0 from the beginning.
    ///
    /// # Errors
    ///
    /// Those of [`set_nodelay`](Self::set_nodelay).
    pub fn mark(&self) -> Result<u32, UsError> {
        self.option("mark", |socket| socket.mark())
    }
}

/// Limits of Linux, `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL` and `MAX_TCP_KEEPCNT`. Other systems have
/// wider ones.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
const KEEPALIVE_RETRIES_MAX: u32 = 127;

/// The time in whole seconds, as the system takes it.
fn keepalive_time(time: Duration) -> Result<Duration, UsError> {
    let time = round_up(time, Duration::from_secs(1));
    if time.as_secs() > KEEPALIVE_SECONDS_MAX {
        return Err(UsError::invalid("keep-alive time", "it is longer than 32767 seconds"));
    }
    Ok(time)
}

/// The next multiple of a millisecond or second, from one on: the system would take less for "not at
/// all", or refuse it.
fn round_up(time: Duration, unit: Duration) -> Duration {
    let part = time.subsec_nanos() % u32::try_from(unit.as_nanos()).unwrap_or(u32::MAX);
    let rest = if part > 0 { unit - Duration::from_nanos(part.into()) } else { Duration::ZERO };
    time.saturating_add(rest).max(unit)
}

/// What the system takes as a number of bytes.
fn check_buffer_size(bytes: usize) -> Result<(), UsError> {
    match i32::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(UsError::invalid("buffer size", "it is beyond 2 GiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up() {
        let second = Duration::from_secs(1);
        for (given, rounded) in [(0, 1), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
            assert_eq!(round_up(Duration::from_nanos(given), second).as_secs(), rounded, "{given}");
        }
        let milli = Duration::from_millis(1);
        for (given, rounded) in [(0, 1), (999_999, 1), (1_000_000, 1), (5_000_001, 6)] {
            assert_eq!(round_up(Duration::from_nanos(given), milli).as_millis(), rounded);
        }
        assert_eq!(round_up(Duration::MAX, second), Duration::MAX);
    }
}
