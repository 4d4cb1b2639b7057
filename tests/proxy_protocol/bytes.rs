//! Headers as bytes.

use usockets::{ProxyHeader, ProxyHeaderError as Error, ProxyVersion, UsError};

use crate::util::{Random, guard};
use crate::{INET, V1_TCP4, V1_TCP6, address, client, service, v2, valid_headers};

fn decoded(data: &[u8]) -> ProxyHeader {
    let (header, length) = ProxyHeader::decode(data).expect("a header").expect("all of it");
    assert_eq!(length, data.len());
    header
}

#[track_caller]
fn assert_refused(data: &[u8], expected: Error) {
    assert_eq!(ProxyHeader::decode(data), Err(expected), "{}", data.escape_ascii());
}

fn header(version: ProxyVersion) -> ProxyHeader {
    ProxyHeader::new(version, client(), service()).expect("one family")
}

// -- What is right ----------------------------------------------------------------------------

#[test]
fn text_is_read() {
    let header = decoded(V1_TCP4);
    assert_eq!(header.version(), ProxyVersion::V1);
    assert_eq!((header.source(), header.destination()), (Some(client()), Some(service())));
    assert!(!header.is_local());
    assert_eq!(header.tlvs().count(), 0);
    let header = decoded(V1_TCP6);
    assert_eq!(header.source(), Some(address("[2001:db8::7]:51234")));
    assert_eq!(header.destination(), Some(address("[2001:db8::1]:443")));
    for unknown in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN who knows\r\n"] {
        assert_eq!(decoded(unknown), ProxyHeader::without_addresses(ProxyVersion::V1));
    }
    for edge in ["0.0.0.0 255.255.255.255 0 65535", "1.2.3.4 1.2.3.4 10 1"] {
        assert!(decoded(format!("PROXY TCP4 {edge}\r\n").as_bytes()).source().is_some());
    }
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert!(
        decoded(format!("PROXY TCP6 {full} {full} 65535 65535\r\n").as_bytes()).source().is_some()
    );
}

#[test]
fn binary_is_read() {
    let header = decoded(&v2(0x21, 0x11, INET));
    assert_eq!(header, self::header(ProxyVersion::V2));
    assert_eq!(header.version(), ProxyVersion::V2);
    let fields = [INET, &[1, 0, 2, b'h', b'2', 0xee, 0, 0, 1, 0, 1, b'x']].concat();
    let header = decoded(&v2(0x21, 0x11, &fields));
    let expected: [(u8, &[u8]); 3] = [(1, b"h2"), (0xee, b""), (1, b"x")];
    assert_eq!(header.tlvs().collect::<Vec<_>>(), expected);
    assert_eq!(header.tlv(1), Some(&b"h2"[..]));
    assert_eq!(header.tlv(2), None);
}

#[test]
fn headers_without_usable_addresses_have_none() {
    let local = decoded(&v2(0x20, 0x00, &[]));
    assert_eq!(local, ProxyHeader::local());
    // All of a local header is ignored, whatever it is.
    assert_eq!(decoded(&v2(0x20, 0x11, INET)), local);
    assert_eq!(decoded(&v2(0x20, 0xff, b"?")), local);
    let unknown = ProxyHeader::without_addresses(ProxyVersion::V2);
    assert_eq!(decoded(&v2(0x21, 0x00, &[])), unknown);
    assert_eq!(decoded(&v2(0x21, 0x12, INET)), unknown);
    assert_eq!(decoded(&v2(0x21, 0x31, &[0; 216])), unknown);
    // Their fields are there all the same.
    let fields = [&[0; 216][..], &[2, 0, 1, b'a']].concat();
    assert_eq!(decoded(&v2(0x21, 0x31, &fields)).tlv(2), Some(&b"a"[..]));
    assert_eq!(decoded(&v2(0x21, 0x00, &[2, 0, 1, b'a'])).tlv(2), Some(&b"a"[..]));
}

#[test]
fn what_is_written_is_read_again() -> Result<(), UsError> {
    for bytes in valid_headers() {
        let header = decoded(&bytes);
        assert_eq!(decoded(&header.encode()), header);
    }
    assert_eq!(header(ProxyVersion::V1).encode(), V1_TCP4);
    assert_eq!(header(ProxyVersion::V2).encode(), v2(0x21, 0x11, INET));
    assert_eq!(ProxyHeader::local().encode(), v2(0x20, 0, &[]));
    assert_eq!(ProxyHeader::without_addresses(ProxyVersion::V2).encode(), v2(0x21, 0, &[]));
    assert_eq!(ProxyHeader::without_addresses(ProxyVersion::V1).encode(), b"PROXY UNKNOWN\r\n");
    let checked = ProxyHeader::without_addresses(ProxyVersion::V2).with_checksum()?.encode();
    // Computed apart.
    assert_eq!(checked[16..], [3, 0, 4, 0x3e, 0xc9, 0x89, 0x4e][..]);
    // A dual-stack listener sees the one address mapped, and connects from the other.
    let mapped =
        ProxyHeader::new(ProxyVersion::V1, address("[::ffff:192.0.2.7]:51234"), service())?;
    assert_eq!(mapped.encode(), V1_TCP4);
    Ok(())
}

#[test]
fn headers_that_cannot_be_written_cannot_be_made() {
    let v6 = address("[2001:db8::7]:1");
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let error = ProxyHeader::new(version, client(), v6).expect_err("two families");
        assert!(matches!(error, UsError::InvalidOption { option: "addresses", .. }), "{error}");
    }
    let refused = [
        header(ProxyVersion::V1).with_tlv(1, b""),
        ProxyHeader::local().with_checksum(),
        header(ProxyVersion::V2).with_tlv(3, b"12345"),
        header(ProxyVersion::V2).with_tlv(1, &vec![0; 65_535 - 12 - 3 + 1]),
        header(ProxyVersion::V2).with_tlv(1, &vec![0; 1 << 20]),
    ];
    for result in refused {
        let error = result.expect_err("no such field");
        assert!(matches!(error, UsError::InvalidOption { option: "field", .. }), "{error}");
    }
    let longest = header(ProxyVersion::V2).with_tlv(1, &vec![0; 65_535 - 12 - 3]).expect("it fits");
    assert_eq!(longest.encode().len(), 65_551);
    assert_eq!(decoded(&longest.encode()), longest);
    longest.with_tlv(1, b"").expect_err("it is full");
}

// -- Bytes that come in pieces, and bytes that are wrong --------------------------------------

#[test]
fn every_beginning_of_a_header_asks_for_more() {
    let _guard = guard();
    for header in valid_headers() {
        for length in 0..header.len() {
            assert_eq!(ProxyHeader::decode(&header[..length]), Ok(None), "{length} bytes");
        }
        // What follows does not matter, and is not taken.
        let followed = [&header[..], b"PROXY \r\n\r\n\0"].concat();
        let (_, length) = ProxyHeader::decode(&followed).expect("a header").expect("all of it");
        assert_eq!(length, header.len());
    }
}

#[test]
fn every_wrong_byte_is_survived() {
    let _guard = guard();
    for header in valid_headers() {
        for position in 0..header.len() {
            let mut bytes = header.clone();
            for byte in 0..=255 {
                bytes[position] = byte;
                for length in [position + 1, bytes.len()] {
                    if let Ok(Some((header, taken))) = ProxyHeader::decode(&bytes[..length]) {
                        assert!(taken <= length);
                        assert_eq!(decoded(&header.encode()), header);
                    }
                }
            }
        }
    }
}

#[test]
fn a_wrong_bit_anywhere_behind_the_command_breaks_the_checksum() {
    let _guard = guard();
    let header =
        header(ProxyVersion::V2).with_tlv(0xe0, b"some text").and_then(ProxyHeader::with_checksum);
    let header = header.expect("it fits").encode();
    let fields = 16 + INET.len();
    for position in
        (16..fields).chain(fields + 3..fields + 12).chain(header.len() - 4..header.len())
    {
        for bit in 0..8 {
            let mut bytes = header.clone();
            bytes[position] ^= 1 << bit;
            assert_refused(&bytes, Error::WrongChecksum);
        }
    }
}

#[test]
fn garbage_is_survived() {
    let _guard = guard();
    let mut random = Random::new(20);
    let headers = valid_headers();
    for _ in 0..20_000 {
        // Some true beginning, then anything.
        let header = &headers[random.below(headers.len())];
        let mut bytes = header[..random.below(header.len())].to_vec();
        for _ in 0..random.below(300) {
            bytes.push(random.next().to_le_bytes()[0]);
        }
        if let Ok(Some((_, length))) = ProxyHeader::decode(&bytes) {
            assert!(length <= bytes.len());
        }
    }
}

#[test]
fn text_that_breaks_a_rule_is_refused() {
    let _guard = guard();
    for line in [
        // Words that are missing, too many, or apart by more than a space.
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 443 1\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 443 \r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 51234 443\r\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 51234 443\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 \r\n",
        "PROXY \r\n",
        // Protocols.
        "PROXY TCP5 192.0.2.7 198.51.100.1 51234 443\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 51234 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 51234 443\r\n",
        // Addresses.
        "PROXY TCP6 192.0.2.7 198.51.100.1 51234 443\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 51234 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 51234 443\r\n",
        "PROXY TCP4 192.0.02.7 198.51.100.1 51234 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.1 51234 443\r\n",
        "PROXY TCP4 localhost localhost 51234 443\r\n",
        "PROXY TCP6 fe80::1%lo 2001:db8::1 51234 443\r\n",
        // Ports.
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 051234 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 -1\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 0x1\r\n",
        // Ends of the line.
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\n",
        "PROXY UNKNOWN\n",
        "PROXY TCP4 192.0.2.7\r198.51.100.1 51234 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234\t443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\0\r\n",
    ] {
        assert_refused(line.as_bytes(), Error::Malformed);
    }
    // No end within the 107 bytes, whatever comes.
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_refused(long.as_bytes(), Error::Malformed);
    assert_refused(&long.as_bytes()[..107], Error::Malformed);
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(decoded(longest.as_bytes()).source(), None);
    assert_refused(b"PROXY UNKNOWN \xff\xfe\n", Error::Malformed);
}

#[test]
fn binary_that_breaks_a_rule_is_refused() {
    let _guard = guard();
    for command in (0..=255).filter(|command| ![0x20, 0x21].contains(command)) {
        assert_refused(&v2(command, 0x11, INET), Error::Malformed);
        assert_refused(&v2(command, 0x11, INET)[..13], Error::Malformed);
    }
    let families = [0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32];
    for family in (0..=255).filter(|family| !families.contains(family)) {
        assert_refused(&v2(0x21, family, &[0; 300]), Error::Malformed);
    }
    // Too short for the addresses: known before they come.
    for (family, length) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x22, 12), (0x31, 215), (0x32, 0)]
    {
        assert_refused(&v2(0x21, family, &vec![0; length])[..16], Error::Malformed);
    }
    // Fields that go beyond the header, or are cut.
    for fields in
        [&[1][..], &[1, 0], &[1, 0, 1], &[1, 0, 0, 2], &[1, 0xff, 0xff, 0], &[1, 0, 1, 5, 6]]
    {
        assert_refused(&v2(0x21, 0x11, &[INET, fields].concat()), Error::Malformed);
    }
    // A checksum has four bytes.
    assert_refused(&v2(0x21, 0x11, &[INET, &[3, 0, 2, 0, 0]].concat()), Error::Malformed);
}

#[test]
fn what_is_no_header_is_refused_at_the_first_wrong_byte() {
    let _guard = guard();
    for text in [
        "GET / HTTP/1.1\r\n",
        "\x16\x03\x01",
        "proxy",
        "PROXy",
        "PROXYT",
        "PRI * HTTP/2.0",
        "\r\nP",
        "\0",
    ] {
        let wrong = (1..=text.len())
            .find(|length| ProxyHeader::decode(&text.as_bytes()[..*length]).is_err())
            .expect("it is no header");
        assert_refused(&text.as_bytes()[..wrong], Error::NotAHeader);
        assert_eq!(ProxyHeader::decode(&text.as_bytes()[..wrong - 1]), Ok(None));
    }
}
