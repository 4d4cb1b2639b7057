//! A header, to be read and to be written.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{ProxyHeaderError, wire};
use crate::error::UsError;

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// One line of text, at most 107 bytes.
    V1,
    /// Binary, with additional fields (TLVs), at most 65,551 bytes.
    V2,
}

/// What a proxy says of a connection that it passes on, in the first bytes it sends (the [PROXY
/// protocol]).
///
/// It is a *claim* of the peer. A listener reads it only if [asked](crate::ListenOptions::proxy_protocol)
/// to, from peers that are trusted, and shows it apart from the [real address](crate::OpenInfo::peer_addr).
///
/// Plain data. What is written is [encoded](Self::encode), or given to
/// [`ConnectOptions::proxy_header`](crate::ConnectOptions::proxy_header).
///
/// ```
/// use usockets::{ProxyHeader, ProxyVersion};
///
/// let client = "192.0.2.7:51234".parse().expect("an address");
/// let server = "198.51.100.1:443".parse().expect("an address");
/// let header = ProxyHeader::new(ProxyVersion::V1, client, server)?;
/// assert_eq!(header.encode(), b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n");
///
/// const AUTHORITY: u8 = 0x02;
/// let header = ProxyHeader::new(ProxyVersion::V2, client, server)?
///     .with_tlv(AUTHORITY, b"example.com")?
///     .with_checksum()?;
/// let bytes = header.encode();
/// let (read, length) = ProxyHeader::decode(&bytes)?.expect("it is complete");
/// assert_eq!(length, bytes.len());
/// assert_eq!(read.source(), Some(client));
/// assert_eq!(read.tlv(AUTHORITY), Some(&b"example.com"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [PROXY protocol]: https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProxyHeader {
    version: ProxyVersion,
    local: bool,
    /// Source and destination, of one family.
    addresses: Option<(SocketAddr, SocketAddr)>,
    /// Well-formed, one after the other.
    tlvs: Vec<u8>,
}

/// The type of the field that holds a CRC-32C of the header.
pub(super) const TLV_CHECKSUM: u8 = 0x03;

impl ProxyHeader {
    /// A header for a connection that `source` made to `destination`: as a rule what
    /// [`OpenInfo::peer_addr`](crate::OpenInfo::peer_addr) and
    /// [`Socket::local_addr`](crate::Socket::local_addr) say of the client's.
    ///
    /// IPv4 addresses that are mapped into IPv6 become IPv4 addresses.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) if the families differ.
    pub fn new(
        version: ProxyVersion,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Self, UsError> {
        let (source, destination) = (canonical(source), canonical(destination));
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(UsError::invalid("addresses", "they are of different families"));
        }
        let addresses = Some((source, destination));
        Ok(Self { version, local: false, addresses, tlvs: Vec::new() })
    }

    /// A header without addresses, for a connection that has none to tell: that of a Unix socket.
    /// Version 1 calls it `UNKNOWN`; some servers refuse it.
    pub fn without_addresses(version: ProxyVersion) -> Self {
        Self { version, local: false, addresses: None, tlvs: Vec::new() }
    }

    /// A header of version 2 for a connection of the proxy's own, such as a health check.
    pub fn local() -> Self {
        Self { version: ProxyVersion::V2, local: true, addresses: None, tlvs: Vec::new() }
    }

    /// Adds a field.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) in version 1 and in a [local](Self::local) header, which
    /// have no fields, and if the header became longer than 65,551 bytes.
    pub fn with_tlv(mut self, kind: u8, value: &[u8]) -> Result<Self, UsError> {
        if self.version == ProxyVersion::V1 || self.local {
            return Err(UsError::invalid("field", "this kind of header has no fields"));
        }
        if kind == TLV_CHECKSUM && value.len() != 4 {
            return Err(UsError::invalid("field", "a checksum has four bytes"));
        }
        let payload = wire::addresses_length(self.addresses) + self.tlvs.len() + 3 + value.len();
        if payload > usize::from(u16::MAX) {
            return Err(UsError::invalid("field", "the header became too long"));
        }
        self.tlvs.push(kind);
        self.tlvs.extend_from_slice(&wire::length(value.len()));
        self.tlvs.extend_from_slice(value);
        Ok(self)
    }

    /// Adds a field for a checksum, which [`encode`](Self::encode) fills in.
    ///
    /// # Errors
    ///
    /// Those of [`with_tlv`](Self::with_tlv).
    pub fn with_checksum(self) -> Result<Self, UsError> {
        self.with_tlv(TLV_CHECKSUM, &[0; 4])
    }

    /// The header that `data` begins with, and its length in bytes; `None` if there may be one and more
    /// bytes are needed to say.
    ///
    /// For programs that read it themselves; from all others listeners take this work.
    ///
    /// # Errors
    ///
    /// [`ProxyHeaderError`], as soon as the bytes can no longer become a header.
    pub fn decode(data: &[u8]) -> Result<Option<(Self, usize)>, ProxyHeaderError> {
        match wire::frame(data)? {
            Some((version, length)) if length <= data.len() => {
                Ok(Some((wire::decode(version, &data[..length])?, length)))
            }
            _ => Ok(None),
        }
    }

    /// The bytes to send, before anything else.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// The version.
    pub fn version(&self) -> ProxyVersion {
        self.version
    }

    /// Whether the proxy made the connection on its own behalf (`LOCAL` of version 2): a health check,
    /// say. Such a header has neither addresses nor fields.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// The address of the client, as the proxy claims. `None` for connections that are
    /// [local](Self::is_local), unknown to the proxy, or neither TCP over IPv4 nor over IPv6: for these
    /// the protocol asks to take the real address.
    pub fn source(&self) -> Option<SocketAddr> {
        self.addresses.map(|(source, _)| source)
    }

    /// The address that the client connected to, as the proxy claims.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.addresses.map(|(_, destination)| destination)
    }

    /// The additional fields, in order: type and value. The protocol lists the types.
    pub fn tlvs(&self) -> ProxyTlvs<'_> {
        ProxyTlvs { rest: &self.tlvs }
    }

    /// The value of the first field of this type.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs().find_map(|(other, value)| (other == kind).then_some(value))
    }

    /// All parts of one that was read.
    pub(super) fn from_parts(
        version: ProxyVersion,
        addresses: Option<(SocketAddr, SocketAddr)>,
        tlvs: Vec<u8>,
    ) -> Self {
        Self { version, local: false, addresses, tlvs }
    }

    pub(super) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.addresses
    }
}

impl fmt::Debug for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyHeader")
            .field("version", &self.version)
            .field("local", &self.local)
            .field("source", &self.source())
            .field("destination", &self.destination())
            .field("tlvs", &self.tlvs().collect::<Vec<_>>())
            .finish()
    }
}

/// The additional fields of a [`ProxyHeader`]: type and value, in order.
#[derive(Debug, Clone)]
pub struct ProxyTlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ProxyTlvs<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, high, low], rest) = self.rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        self.rest = rest;
        Some((kind, value))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}
