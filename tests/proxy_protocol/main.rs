//! The PROXY protocol: headers as bytes, on listeners that ask for them, and between this crate and haproxy.
#![cfg(feature = "proxy-protocol")]

#[path = "../util/mod.rs"]
mod util;

mod bytes;
mod connecting;
mod haproxy;
mod listeners;

use std::net::SocketAddr;

use usockets::{ProxyHeader, ProxyVersion};

const V1_TCP4: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n";
const V1_TCP6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn client() -> SocketAddr {
    address("192.0.2.7:51234")
}

fn service() -> SocketAddr {
    address("198.51.100.1:443")
}

/// A header of version 2 with this byte for version and command, this one for family and protocol, and
/// what follows.
fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(payload.len()).expect("a payload").to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Addresses and ports of IPv4, as they are in a header of version 2.
const INET: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xc8, 0x22, 0x01, 0xbb];

/// A header of every kind.
fn valid_headers() -> Vec<Vec<u8>> {
    let header = |version, source: &str, destination: &str| {
        ProxyHeader::new(version, address(source), address(destination)).expect("one family")
    };
    let tcp4 = || header(ProxyVersion::V2, "192.0.2.7:51234", "198.51.100.1:443");
    let tcp6 = || header(ProxyVersion::V2, "[2001:db8::7]:51234", "[2001:db8::1]:443");
    let with_fields = |header: ProxyHeader| {
        let header = header.with_tlv(0x02, b"example.com").and_then(|it| it.with_tlv(0x04, b""));
        header.and_then(|it| it.with_tlv(0xe0, &[0; 200])).expect("fields fit")
    };
    vec![
        V1_TCP4.to_vec(),
        V1_TCP6.to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN a b c d e f g h\r\n".to_vec(),
        tcp4().encode(),
        tcp6().encode(),
        with_fields(tcp4()).encode(),
        with_fields(tcp6()).with_checksum().expect("it fits").encode(),
        ProxyHeader::local().encode(),
        ProxyHeader::without_addresses(ProxyVersion::V2).encode(),
        // UDP and Unix sockets, and what is to be ignored in a local header.
        v2(0x21, 0x12, INET),
        v2(0x21, 0x32, &[7; 216]),
        v2(0x20, 0x99, b"whatever"),
    ]
}
