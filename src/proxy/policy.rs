//! From whom a listener takes headers, and which.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::{ProxyHeader, ProxyHeaderError, ProxyVersion, wire};
use crate::error::UsError;

/// Longest header by default, in bytes: what the protocol promises to be enough in practice, and what
/// fits into one segment of any network.
const DEFAULT_MAX_LEN: usize = 536;
/// Limits of it: a header of version 1 must fit; one of version 2 cannot be longer.
const MAX_LEN_MIN: usize = 107;
const MAX_LEN_MAX: usize = usockets_sys::USX_PRELUDE_MAX as usize;

/// Time for it by default. The protocol asks for 3 seconds at least, in case a segment is lost.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
const DEADLINE_MAX: Duration = Duration::from_secs(50 * 86_400);

/// What a listener is to do about PROXY protocol headers, for
/// [`ListenOptions::proxy_protocol`](crate::ListenOptions::proxy_protocol).
///
/// Every connection to such a listener *must* begin with a [header](ProxyHeader): whether there is one is
/// never guessed, because then any client could claim to be somebody else. `on_open` comes once it has
/// been read; bytes that follow it go to `on_data`. A connection without a valid header in time is
/// closed: [`on_connect_error`](crate::ContextBuilder::on_connect_error) is called, with
/// [`UsError::ProxyHeader`].
///
/// ```
/// use usockets::{IpPrefix, ListenOptions, Loop, ProxyHeader, ProxyProtocol, ProxyVersion, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let server = SocketContext::<false>::builder()
///     .on_open(|_, socket, _, info| {
///         // Who is really there, and on whose behalf it says to be.
///         assert!(info.peer_addr().expect("TCP").ip().is_loopback());
///         let header = info.proxy_header().expect("the listener asks for one");
///         assert_eq!(header.source(), "192.0.2.7:51234".parse().ok());
///         socket.event_loop().stop();
///     })
///     .build(&event_loop, ())?;
/// let balancers = ProxyProtocol::from_peers(["127.0.0.0/8".parse::<IpPrefix>()?]);
/// let listener = server.listen_with("127.0.0.1:0", &ListenOptions::new().proxy_protocol(balancers))?;
///
/// // A proxy.
/// let [client, service] = ["192.0.2.7:51234", "192.0.2.1:80"].map(|it| it.parse().expect("an address"));
/// let header = ProxyHeader::new(ProxyVersion::V2, client, service)?;
/// let proxy = SocketContext::<false>::builder()
///     .on_open(move |_, socket, _, _| {
///         let header = header.encode();
///         assert_eq!(socket.write(&header), header.len());
///     })
///     .build(&event_loop, ())?;
/// proxy.connect(listener.local_addr()?)?;
/// event_loop.run()?;
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "it does nothing until a listener is made with it"]
pub struct ProxyProtocol {
    /// `None`: from everybody.
    peers: Option<Vec<IpPrefix>>,
    others_are_served: bool,
    /// `None`: both.
    version: Option<ProxyVersion>,
    max_len: usize,
    deadline: Duration,
}

/// What is known after some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No header is to be read.
    Skip,
    More,
    /// The header has this length.
    Complete(usize),
}

impl ProxyProtocol {
    /// Takes headers from peers whose *real* address has one of these prefixes: the load balancers. Others
    /// are refused, unless [`serve_others`](Self::serve_others) says otherwise.
    ///
    /// Peers of Unix sockets have no such address; who may connect there is a matter of the file's mode.
    /// They are all taken.
    pub fn from_peers(prefixes: impl IntoIterator<Item = impl Into<IpPrefix>>) -> Self {
        Self::new(Some(prefixes.into_iter().map(Into::into).collect()))
    }

    /// Takes headers from everybody. Right only where nobody but proxies can connect: whoever can may
    /// claim any address.
    pub fn from_everybody() -> Self {
        Self::new(None)
    }

    fn new(peers: Option<Vec<IpPrefix>>) -> Self {
        let (max_len, deadline) = (DEFAULT_MAX_LEN, DEFAULT_DEADLINE);
        Self { peers, others_are_served: false, version: None, max_len, deadline }
    }

    /// Serves peers from whom no header is taken, without reading one: what they send goes to `on_data`.
    /// Default: off, they are refused.
    pub fn serve_others(mut self, on: bool) -> Self {
        self.others_are_served = on;
        self
    }

    /// Takes headers of this version only. Default: both.
    pub fn version(mut self, version: ProxyVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Longest header that is taken, in bytes: from 107 to 65,551. Default: 536. A peer that sends it slowly
    /// makes the engine keep that much, and no more.
    pub fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Time from the accept until the header must be complete, up to 50 days. Default: 5 seconds. It is never
    /// cut short, and bytes that come do not put it off.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Length in bytes and time in nanoseconds, checked.
    pub(crate) fn limits(&self) -> Result<(u32, u64), UsError> {
        if !(MAX_LEN_MIN..=MAX_LEN_MAX).contains(&self.max_len) {
            return Err(UsError::invalid("max_len", "it is not from 107 to 65,551 bytes"));
        }
        if self.deadline.is_zero() || self.deadline > DEADLINE_MAX {
            return Err(UsError::invalid("deadline", "it is 0 or more than 50 days"));
        }
        let max_len = u32::try_from(self.max_len).unwrap_or(u32::MAX);
        Ok((max_len, u64::try_from(self.deadline.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Whether a header is to be read from this peer; `None` for a Unix socket.
    pub(crate) fn judge_peer(&self, peer: Option<SocketAddr>) -> Result<Verdict, ProxyHeaderError> {
        let (Some(prefixes), Some(peer)) = (&self.peers, peer) else { return Ok(Verdict::More) };
        if prefixes.iter().any(|prefix| prefix.contains(peer.ip())) {
            Ok(Verdict::More)
        } else if self.others_are_served {
            Ok(Verdict::Skip)
        } else {
            Err(ProxyHeaderError::PeerNotAllowed)
        }
    }

    /// What is known after all these bytes. Takes no longer for more of them, until the header is
    /// complete: peers may send them one by one.
    pub(crate) fn judge(&self, data: &[u8]) -> Result<Verdict, ProxyHeaderError> {
        let frame = wire::frame(data)?;
        let version = wire::version(data);
        if version.is_some() && self.version.is_some() && version != self.version {
            return Err(ProxyHeaderError::VersionNotAccepted);
        }
        match frame {
            Some((_, length)) if length > self.max_len => Err(ProxyHeaderError::TooLong),
            Some((_, length)) if length <= data.len() => {
                ProxyHeader::decode(data)?;
                Ok(Verdict::Complete(length))
            }
            _ => Ok(Verdict::More),
        }
    }
}

/// IP addresses that begin with the same bits.
///
/// Made from an address, which is then the only one, or from text such as `"10.0.0.0/8"` or
/// `"2001:db8::/32"`. IPv4 addresses that are mapped into IPv6, as dual-stack listeners see them, are
/// IPv4 addresses.
///
/// ```
/// use usockets::IpPrefix;
///
/// let prefix: IpPrefix = "10.20.0.0/16".parse()?;
/// assert!(prefix.contains("10.20.30.40".parse().expect("an address")));
/// assert!(prefix.contains("::ffff:10.20.30.40".parse().expect("an address")));
/// assert!(!prefix.contains("10.21.0.1".parse().expect("an address")));
/// assert!("10.20.0.0/33".parse::<IpPrefix>().is_err());
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// The first `length` bits of an address. The others do not matter.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) if the address has fewer bits: 32, or 128 of IPv6.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, UsError> {
        if u32::from(length) > bits(address).1 {
            return Err(UsError::invalid("prefix", "it is longer than the address"));
        }
        Ok(Self { address, length })
    }

    /// Whether an address begins with it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (prefix, width) = bits(self.address);
        let (address, other_width) = bits(address.to_canonical());
        // A shift by the whole width is none of the language's.
        let differing = (prefix ^ address).checked_shr(width - u32::from(self.length));
        width == other_width && differing.is_none_or(|bits| bits == 0)
    }
}

/// An address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl From<IpAddr> for IpPrefix {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }
}

impl FromStr for IpPrefix {
    type Err = UsError;

    fn from_str(text: &str) -> Result<Self, UsError> {
        let invalid = || UsError::address(text, "it is neither an IP address nor a prefix of one");
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(IpAddr::into).map_err(|_| invalid());
        };
        let address = address.parse().map_err(|_| invalid())?;
        Self::new(address, length.parse().map_err(|_| invalid())?).map_err(|_| invalid())
    }
}
