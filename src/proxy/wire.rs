//! Bytes: where a header ends, and what the crate `proxy-header` leaves to its users.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader as Parsed, Tlv};

use super::header::TLV_CHECKSUM;
use super::{ProxyHeader, ProxyHeaderError as Error, ProxyVersion as Version};

const V1_BEGIN: &[u8] = b"PROXY ";
/// Longest line, its end included.
const V1_MAX: usize = 107;

const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Where they are, and what follows them.
const V2_COMMAND: usize = 12;
const V2_FAMILY: usize = 13;
const V2_LENGTH: usize = 14;
const V2_FIXED: usize = 16;

const COMMAND_LOCAL: u8 = 0x20;
const COMMAND_PROXY: u8 = 0x21;

/// Bytes of two addresses with their ports, and of two Unix socket addresses.
const INET: usize = 12;
const INET6: usize = 36;
const UNIX: usize = 216;

/// The version and the length of the header that `data` begins with, as soon as they can be told;
/// the bytes may be fewer. An error as soon as the bytes cannot become a header.
pub(super) fn frame(data: &[u8]) -> Result<Option<(Version, usize)>, Error> {
    match data.first() {
        None => Ok(None),
        Some(b'P') => frame_v1(data),
        Some(_) => frame_v2(data),
    }
}

/// The version, as soon as it is sure that this is a header.
pub(super) fn version(data: &[u8]) -> Option<Version> {
    match data {
        _ if data.starts_with(V1_BEGIN) => Some(Version::V1),
        _ if data.starts_with(V2_BEGIN) => Some(Version::V2),
        _ => None,
    }
}

/// Whether `data` begins with `begin`, as far as it goes.
fn agrees(data: &[u8], begin: &[u8]) -> bool {
    data.iter().zip(begin).all(|(byte, expected)| byte == expected)
}

fn frame_v1(data: &[u8]) -> Result<Option<(Version, usize)>, Error> {
    if !agrees(data, V1_BEGIN) {
        return Err(Error::NotAHeader);
    }
    let line = &data[..data.len().min(V1_MAX)];
    match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((Version::V1, end + 1))),
        None if line.len() == V1_MAX => Err(Error::Malformed),
        None => Ok(None),
    }
}

fn frame_v2(data: &[u8]) -> Result<Option<(Version, usize)>, Error> {
    if !agrees(data, V2_BEGIN) {
        return Err(Error::NotAHeader);
    }
    let local = match data.get(V2_COMMAND) {
        Some(&COMMAND_LOCAL) => true,
        None | Some(&COMMAND_PROXY) => false,
        Some(_) => return Err(Error::Malformed),
    };
    let Some(&family) = data.get(V2_FAMILY) else { return Ok(None) };
    // That of a local header is to be ignored.
    let least = if local { 0 } else { v2_addresses_length(family).ok_or(Error::Malformed)? };
    let Some(&[high, low]) = data.get(V2_LENGTH..V2_FIXED).and_then(<[u8]>::first_chunk) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < least { Err(Error::Malformed) } else { Ok(Some((Version::V2, V2_FIXED + length))) }
}

/// Bytes of the addresses that go before the fields, by the byte that names family and protocol.
fn v2_addresses_length(family: u8) -> Option<usize> {
    match family {
        0x00 => Some(0),
        0x11 | 0x12 => Some(INET),
        0x21 | 0x22 => Some(INET6),
        0x31 | 0x32 => Some(UNIX),
        _ => None,
    }
}

pub(super) fn addresses_length(addresses: Option<(SocketAddr, SocketAddr)>) -> usize {
    match addresses {
        None => 0,
        Some((SocketAddr::V4(_), _)) => INET,
        Some((SocketAddr::V6(_), _)) => INET6,
    }
}

/// A length as the protocol has it; it was checked to fit.
pub(super) fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

// -- Reading ----------------------------------------------------------------------------------

/// Reads a whole header.
pub(super) fn decode(version: Version, data: &[u8]) -> Result<ProxyHeader, Error> {
    match version {
        Version::V1 => decode_v1(data),
        Version::V2 => decode_v2(data),
    }
}

fn parse(data: &[u8]) -> Result<Parsed<'_>, Error> {
    match Parsed::parse(data, ParseConfig::default()) {
        Ok((header, length)) if length == data.len() => Ok(header),
        _ => Err(Error::Malformed),
    }
}

/// Addresses of TCP; for others the protocol allows to do as if there were none.
fn addresses_of(header: &Parsed<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let address = header.proxied_address()?;
    (address.protocol == Protocol::Stream).then_some((address.source, address.destination))
}

fn decode_v1(data: &[u8]) -> Result<ProxyHeader, Error> {
    let line = data.strip_suffix(b"\r\n").ok_or(Error::Malformed)?;
    let mut words = line[V1_BEGIN.len()..].split(|byte| *byte == b' ');
    let addresses = if words.next() == Some(b"UNKNOWN") {
        // What follows is to be ignored.
        None
    } else {
        // The parser takes a sign or a zero in front of a number, which are not permitted.
        let ports = words.skip(2);
        if !ports.into_iter().all(is_port) {
            return Err(Error::Malformed);
        }
        Some(addresses_of(&parse(data)?).ok_or(Error::Malformed)?)
    };
    Ok(ProxyHeader::from_parts(Version::V1, addresses, Vec::new()))
}

fn is_port(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_digit) && (word == b"0" || !word.starts_with(b"0"))
}

fn decode_v2(data: &[u8]) -> Result<ProxyHeader, Error> {
    // All of it is to be discarded.
    if data[V2_COMMAND] == COMMAND_LOCAL {
        return Ok(ProxyHeader::local());
    }
    let header = parse(data)?;
    if header.tlvs().any(|field| field.is_err()) {
        return Err(Error::Malformed);
    }
    let fields = V2_FIXED + v2_addresses_length(data[V2_FAMILY]).ok_or(Error::Malformed)?;
    let tlvs = data[fields..].to_vec();
    let header = ProxyHeader::from_parts(Version::V2, addresses_of(&header), tlvs);
    if header.tlv(TLV_CHECKSUM).is_some() && with_checksum(data.to_vec(), fields) != data {
        return Err(Error::WrongChecksum);
    }
    Ok(header)
}

// -- Writing ----------------------------------------------------------------------------------

pub(super) fn encode(header: &ProxyHeader) -> Vec<u8> {
    let addresses = header.addresses();
    let address = addresses.map(|(from, to)| ProxiedAddress::stream(from, to));
    let fields = header.tlvs().map(|(kind, value)| Tlv::Custom(kind, value.into()));
    let raw = Parsed::with_tlvs(address, fields);
    let mut bytes = Vec::with_capacity(V1_MAX);
    let written = match header.version() {
        Version::V1 => raw.encode_v1(&mut bytes),
        Version::V2 => raw.encode_v2(&mut bytes),
    };
    debug_assert!(written.is_ok(), "a header was made that cannot be written: bug in usockets");
    if header.version() == Version::V1 {
        return bytes;
    }
    // The encoder takes a header without addresses for a local one.
    bytes[V2_COMMAND] = if header.is_local() { COMMAND_LOCAL } else { COMMAND_PROXY };
    with_checksum(bytes, V2_FIXED + addresses_length(addresses))
}

/// Fills in the checksum, if there is a place for it; the fields begin at `at`.
fn with_checksum(mut header: Vec<u8>, mut at: usize) -> Vec<u8> {
    while let Some(&[kind, high, low]) = header.get(at..).and_then(<[u8]>::first_chunk) {
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes([high, low]));
        if kind == TLV_CHECKSUM && at - value == 4 && at <= header.len() {
            header[value..at].fill(0);
            let checksum = crc32c(&header);
            header[value..at].copy_from_slice(&checksum.to_be_bytes());
            break;
        }
    }
    header
}

/// CRC-32C (RFC 4960, appendix B). A header is short, and few have one: no table.
fn crc32c(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_the_standard() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }
}
