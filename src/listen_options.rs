#![forbid(unsafe_code)]
//! How a listener listens, and what it takes.

use std::time::Duration;

use usockets_sys::{self as sys, usx_listen_options as ListenSettings};

use crate::error::UsError;
use crate::listen::ListenSocket;
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyProtocol;

/// What a listener does when it has as many connections as
/// [`max_connections`](ListenOptions::max_connections) allows.
///
/// ```
/// use usockets::{ListenOptions, Overload, Refusal};
///
/// // Whoever comes too much waits, or is turned away at once.
/// let _patient = ListenOptions::new().max_connections(1000, Overload::StopAccepting);
/// let _strict = ListenOptions::new().max_connections(1000, Overload::Refuse(Refusal::Reset));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overload {
    /// It stops accepting until one of its sockets is gone. New connections wait in the system, up
    /// to the [backlog](ListenOptions::backlog): to their peers they look open, and slow.
    StopAccepting,
    /// It accepts them and ends them at once; no callback sees them.
    Refuse(Refusal),
}

/// How a connection is ended that is one too many.
///
/// What a peer has beyond its [share](ListenOptions::max_connections_per_address) can only be refused
/// like this, not left waiting: the system has one queue for all peers, and others wait in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// By an orderly close.
    Close,
    /// By a reset, which the peer sees as an error, and which keeps nothing here: connections that
    /// are closed stay in the system's tables for another minute.
    Reset,
}

impl Refusal {
    fn number(self) -> i32 {
        match self {
            Self::Close => sys::USX_OVERLOAD_CLOSE,
            Self::Reset => sys::USX_OVERLOAD_RESET,
        }
    }
}

/// What listeners of all kinds have.
#[derive(Debug, Clone, Copy, Default)]
struct Common {
    backlog: Option<u32>,
    receive_buffer: Option<usize>,
    send_buffer: Option<usize>,
    accept_budget: Option<u32>,
    max_connections: Option<(u32, Overload)>,
}

impl Common {
    fn settings(&self) -> Result<ListenSettings, UsError> {
        let budget = self.accept_budget.map(u64::from);
        let mut settings = ListenSettings {
            backlog: self.backlog.map_or(Ok(0), |backlog| {
                // The system has a limit of its own.
                number("backlog", Some(u64::from(backlog).min(i32::MAX as u64)), i32::MAX)
            })?,
            receive_buffer: bytes("receive_buffer", self.receive_buffer)?,
            send_buffer: bytes("send_buffer", self.send_buffer)?,
            accept_budget: number("accept_budget", budget, sys::USX_ACCEPT_BUDGET_MAX)?,
            ..ListenSettings::default()
        };
        if let Some((connections, overload)) = self.max_connections {
            settings.max_connections = limit("max_connections", connections)?;
            settings.overload = match overload {
                Overload::StopAccepting => sys::USX_OVERLOAD_STOP,
                Overload::Refuse(refusal) => refusal.number(),
            };
        }
        Ok(settings)
    }
}

/// Defines the methods that both kinds of options have.
macro_rules! common_options {
    () => {
        /// The defaults.
        pub fn new() -> Self {
            Self::default()
        }

        /// How many connections the system keeps that are not accepted yet, from 1. Default: 4096;
        /// the system has a limit of its own (`net.core.somaxconn`).
        pub fn backlog(mut self, connections: u32) -> Self {
            self.common.backlog = Some(connections);
            self
        }

        /// The size of the system's receive buffer of accepted sockets in bytes, from 1
        /// (`SO_RCVBUF`). Default: the system's, which for TCP grows with the connection; a size that
        /// was set does not.
        ///
        /// It is set before the socket listens, so that the window that TCP announces when a
        /// connection begins can be as large.
        pub fn receive_buffer(mut self, bytes: usize) -> Self {
            self.common.receive_buffer = Some(bytes);
            self
        }

        /// The size of the system's send buffer of accepted sockets in bytes, from 1 (`SO_SNDBUF`).
        /// Default: as for [`receive_buffer`](Self::receive_buffer).
        pub fn send_buffer(mut self, bytes: usize) -> Self {
            self.common.send_buffer = Some(bytes);
            self
        }

        /// How many connections are accepted in one turn of the loop, from 1 to 1024, which is the
        /// default. Fewer let the sockets that are open wait less when many connect at once.
        pub fn accept_budget(mut self, connections: u32) -> Self {
            self.common.accept_budget = Some(connections);
            self
        }

        /// How many sockets the listener may have at a time, from 1, and what becomes of more.
        /// Default: no limit.
        ///
        /// A socket counts from its acceptance until its connection is gone: until the end of the
        /// iteration in which it closed, or until it has sent what it lingers for, wherever
        /// [adoption](crate::Socket::adopt) has moved it. What an
        /// [accept filter](crate::ContextBuilder::accept_filter) refuses or takes away does not count;
        /// connections beyond the limit do not get as far as the filter.
        /// [`refused_connections`](crate::Metrics::refused_connections) counts those that were refused.
        pub fn max_connections(mut self, connections: u32, overload: Overload) -> Self {
            self.common.max_connections = Some((connections, overload));
            self
        }
    };
}

/// Options of a listener for TCP.
///
/// They are checked by the call that listens: a value out of range is
/// [`InvalidOption`](UsError::InvalidOption), what the system refuses is [`UsError::Io`].
///
/// ```
/// use usockets::{ListenOptions, Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// // Two listeners that share a port, as workers of one server do.
/// let options = ListenOptions::new().reuse_port(true).backlog(1024);
/// let first = context.listen_with("127.0.0.1:0", &options)?;
/// let second = context.listen_with(first.local_addr()?, &options)?;
/// assert_eq!(first.local_addr()?, second.local_addr()?);
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing by themselves"]
pub struct ListenOptions {
    common: Common,
    reuse_port: bool,
    ipv6_only: bool,
    defer_accept: Option<Duration>,
    fast_open: Option<u32>,
    delay: bool,
    keepalive_idle: Option<Duration>,
    keepalive_probes: Option<(Duration, u32)>,
    per_address: Option<(u32, Refusal)>,
    #[cfg(feature = "proxy-protocol")]
    proxy_protocol: Option<ProxyProtocol>,
}

impl ListenOptions {
    common_options!();

    /// Lets other sockets of the same user listen on the port too, among whom the system spreads
    /// the connections. Default: off. Connections that wait when such a listener closes are lost.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Keeps a listener on an IPv6 address from taking IPv4 connections as well. Default: off.
    pub fn ipv6_only(mut self, on: bool) -> Self {
        self.ipv6_only = on;
        self
    }

    /// Keeps connections back until their first data is there, for about this long, from 1 second,
    /// rounded up (`TCP_DEFER_ACCEPT`, tcp(7); Linux). Default: off. For protocols in which the client
    /// speaks first: the loop never sees those that send nothing.
    pub fn defer_accept(mut self, time: Duration) -> Self {
        self.defer_accept = Some(time);
        self
    }

    /// Takes data along with the first packet of clients that were here before, for at most so many
    /// connections at a time whose handshake is not complete, from 1 (`TCP_FASTOPEN`, RFC 7413).
    /// Default: off.
    ///
    /// A network may deliver such a packet twice, so this is for protocols that bear a repeated first
    /// message. Linux also needs it allowed for servers in the sysctl `net.ipv4.tcp_fastopen`.
    pub fn fast_open(mut self, requests: u32) -> Self {
        self.fast_open = Some(requests);
        self
    }

    /// Whether accepted sockets send small segments at once (`TCP_NODELAY`). Default: on.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.delay = !on;
        self
    }

    /// Lets the system probe accepted connections that were idle for this long, from 1 to 32,767
    /// seconds, rounded up (`SO_KEEPALIVE`, `TCP_KEEPIDLE`). Default: off.
    pub fn keepalive(mut self, idle: Duration) -> Self {
        self.keepalive_idle = Some(idle);
        self
    }

    /// How the system probes connections that [`keepalive`](Self::keepalive) is on for: every
    /// `interval`, from 1 to 32,767 seconds, rounded up, until `count` probes, from 1 to 127, had no
    /// answer (`TCP_KEEPINTVL`, `TCP_KEEPCNT`). Default: the system's.
    pub fn keepalive_probes(mut self, interval: Duration, count: u32) -> Self {
        self.keepalive_probes = Some((interval, count));
        self
    }

    /// How many sockets one peer may have at a time, from 1, and how it is refused more. Default: no
    /// limit.
    ///
    /// A peer is an IPv4 address, also where it comes in an IPv6 one, or the first 64 bits of an IPv6
    /// address, because a single customer has so many; of link-local addresses it is the whole. Sockets
    /// count as for [`max_connections`](Self::max_connections).
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::TcpStream;
    /// use usockets::{ListenOptions, Loop, Refusal, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
    /// let options = ListenOptions::new().max_connections_per_address(2, Refusal::Close);
    /// let listener = context.listen_with("127.0.0.1:0", &options)?;
    /// let connect = || TcpStream::connect(listener.local_addr().expect("it listens"));
    /// let (_first, _second, mut third) = (connect()?, connect()?, connect()?);
    /// while event_loop.metrics().refused_connections == 0 {
    ///     event_loop.turn(None)?;
    /// }
    /// assert_eq!(listener.connections(), Some(2));
    /// assert_eq!(third.read(&mut [0])?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_connections_per_address(mut self, connections: u32, refusal: Refusal) -> Self {
        self.per_address = Some((connections, refusal));
        self
    }

    /// Has every connection begin with a header of the PROXY protocol, which is read before `on_open` and
    /// shown there, see [`ProxyProtocol`]. Default: off; such a header is then data as any other. Beneath:
    /// `usx_listen_socket_set_prelude`.
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_protocol(mut self, protocol: ProxyProtocol) -> Self {
        self.proxy_protocol = Some(protocol);
        self
    }

    /// Makes a listener do what the engine has no setting for; it is closed if that fails.
    pub(crate) fn finish(&self, listener: ListenSocket) -> Result<ListenSocket, UsError> {
        #[cfg(feature = "proxy-protocol")]
        if let Some(protocol) = &self.proxy_protocol {
            crate::trampoline::set_proxy_protocol(listener.listener()?, protocol.clone())?;
        }
        Ok(listener)
    }

    /// The same for the engine.
    pub(crate) fn settings(&self) -> Result<ListenSettings, UsError> {
        if self.keepalive_probes.is_some() && self.keepalive_idle.is_none() {
            return Err(UsError::invalid("keepalive_probes", "keepalive is not on"));
        }
        let (interval, count) = self.keepalive_probes.unzip();
        let mut settings = ListenSettings {
            reuse_port: self.reuse_port.into(),
            ipv6_only: self.ipv6_only.into(),
            defer_accept: seconds("defer_accept", self.defer_accept, i32::MAX)?,
            fast_open: number("fast_open", self.fast_open.map(u64::from), i32::MAX)?,
            delay: self.delay.into(),
            keepalive_idle: seconds("keepalive", self.keepalive_idle, KEEPALIVE_SECONDS_MAX)?,
            keepalive_interval: seconds("keepalive_probes", interval, KEEPALIVE_SECONDS_MAX)?,
            keepalive_count: number("keepalive_probes", count.map(u64::from), KEEPALIVE_COUNT_MAX)?,
            ..self.common.settings()?
        };
        if let Some((connections, refusal)) = self.per_address {
            settings.max_connections_per_address =
                limit("max_connections_per_address", connections)?;
            settings.overload_per_address = refusal.number();
        }
        Ok(settings)
    }

    /// The same for a descriptor that is bound already.
    pub(crate) fn settings_of_bound(&self) -> Result<ListenSettings, UsError> {
        if self.reuse_port {
            return Err(UsError::invalid("reuse_port", BOUND));
        }
        if self.ipv6_only {
            return Err(UsError::invalid("ipv6_only", BOUND));
        }
        self.settings()
    }
}

/// Options of a listener on a Unix socket.
///
/// They are checked by the call that listens: a value out of range is
/// [`InvalidOption`](UsError::InvalidOption), what the system refuses is [`UsError::Io`].
///
/// ```
/// use usockets::{Loop, SocketContext, UnixListenOptions};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// # let path = std::env::temp_dir().join(format!("usockets-doc-{}", std::process::id()));
/// // For everybody on this machine.
/// let listener = context.listen_unix_with(&path, &UnixListenOptions::new().mode(0o666))?;
/// # use std::os::unix::fs::PermissionsExt;
/// # let file = std::fs::metadata(&path).expect("the file is there");
/// # assert_eq!(file.permissions().mode() & 0o777, 0o666);
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing by themselves"]
pub struct UnixListenOptions {
    common: Common,
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
}

impl UnixListenOptions {
    common_options!();

    /// The permission bits of the file, up to `0o777`, whatever the umask; who may write to it may
    /// connect (unix(7)). Default: `0o700` less the umask. They are in force before anybody can
    /// connect. Where the umask is in the way, the C library must be able to change the mode of the
    /// file itself rather than of what a link leads to (glibc 2.32).
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// The user id that the file belongs to, before anybody can connect. Default: that of the
    /// process. Others need a privilege (chown(2)).
    pub fn owner(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// The group id that the file belongs to, before anybody can connect. Default: that of the
    /// process. Groups that the process is not in need a privilege.
    pub fn group(mut self, gid: u32) -> Self {
        self.group = Some(gid);
        self
    }

    /// The same for the engine; `is_file`: not an abstract name.
    pub(crate) fn settings(&self, is_file: bool) -> Result<ListenSettings, UsError> {
        let mut settings = self.common.settings()?;
        let mut set = |option, flag, value: Option<u32>, max: u32, field: &mut u32| {
            let Some(value) = value else { return Ok(()) };
            if !is_file {
                return Err(UsError::invalid(option, "an abstract name has no file"));
            }
            if value > max {
                return Err(UsError::invalid(option, "it is out of range"));
            }
            settings.unix_set |= flag;
            *field = value;
            Ok(())
        };
        let (mut mode, mut owner, mut group) = (0, 0, 0);
        set("mode", sys::USX_UNIX_MODE, self.mode, 0o777, &mut mode)?;
        // The largest number means "leave it as it is" to the system.
        set("owner", sys::USX_UNIX_OWNER, self.owner, u32::MAX - 1, &mut owner)?;
        set("group", sys::USX_UNIX_GROUP, self.group, u32::MAX - 1, &mut group)?;
        Ok(ListenSettings { unix_mode: mode, unix_owner: owner, unix_group: group, ..settings })
    }
}

/// What the system takes at most (tcp(7)).
const KEEPALIVE_SECONDS_MAX: i32 = 32_767;
const KEEPALIVE_COUNT_MAX: i32 = 127;

/// Why an option cannot be had any more.
const BOUND: &str = "the descriptor is bound already";

/// From 1 to `max`, or 0 for the default.
fn number(option: &'static str, value: Option<u64>, max: i32) -> Result<i32, UsError> {
    match value.map(i32::try_from) {
        None => Ok(0),
        Some(Ok(0)) => Err(UsError::invalid(option, "it is 0")),
        Some(Ok(value)) if value <= max => Ok(value),
        Some(_) => Err(UsError::invalid(option, "it is too large")),
    }
}

fn bytes(option: &'static str, value: Option<usize>) -> Result<i32, UsError> {
    number(option, value.map(|bytes| bytes as u64), i32::MAX)
}

/// Whole seconds, rounded up.
fn seconds(option: &'static str, time: Option<Duration>, max: i32) -> Result<i32, UsError> {
    let whole = |time: Duration| time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    number(option, time.map(whole), max)
}

fn limit(option: &'static str, connections: u32) -> Result<u32, UsError> {
    if connections == 0 { Err(UsError::invalid(option, "it is 0")) } else { Ok(connections) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_zero() {
        let settings = ListenOptions::new().settings().expect("valid");
        assert_eq!(format!("{settings:?}"), format!("{:?}", ListenSettings::default()));
        let settings = UnixListenOptions::new().settings(true).expect("valid");
        assert_eq!(format!("{settings:?}"), format!("{:?}", ListenSettings::default()));
    }

    #[test]
    fn times_are_whole_seconds_rounded_up() {
        let options = ListenOptions::new()
            .defer_accept(Duration::from_millis(1))
            .keepalive(Duration::from_millis(59_001))
            .keepalive_probes(Duration::from_secs(32_767), 127);
        let settings = options.settings().expect("valid");
        assert_eq!(settings.defer_accept, 1);
        assert_eq!(settings.keepalive_idle, 60);
        assert_eq!(settings.keepalive_interval, 32_767);
        assert_eq!(settings.keepalive_count, 127);
    }

    #[test]
    fn a_large_backlog_is_the_largest() {
        let settings = ListenOptions::new().backlog(u32::MAX).settings().expect("valid");
        assert_eq!(settings.backlog, i32::MAX);
    }

    #[test]
    fn limits_say_what_becomes_of_more() {
        let options = ListenOptions::new()
            .max_connections(3, Overload::Refuse(Refusal::Reset))
            .max_connections_per_address(2, Refusal::Close);
        let settings = options.settings().expect("valid");
        assert_eq!((settings.max_connections, settings.overload), (3, sys::USX_OVERLOAD_RESET));
        assert_eq!(settings.max_connections_per_address, 2);
        assert_eq!(settings.overload_per_address, sys::USX_OVERLOAD_CLOSE);
    }

    #[test]
    fn a_mode_is_of_a_file() {
        let options = UnixListenOptions::new().mode(0).owner(0);
        let settings = options.settings(true).expect("valid");
        assert_eq!(settings.unix_set, sys::USX_UNIX_MODE | sys::USX_UNIX_OWNER);
        let error = options.settings(false).expect_err("no file");
        assert!(matches!(error, UsError::InvalidOption { option: "mode", .. }), "{error}");
    }
}
