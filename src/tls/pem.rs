#![forbid(unsafe_code)]
//! PEM of DER (RFC 7468), because the engine takes trusted certificates in one of the two.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Characters in a line.
const LINE: usize = 64;

/// A certificate.
pub(super) fn certificate(der: &[u8]) -> Vec<u8> {
    let mut pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    // A line is 16 groups of 3 bytes.
    for line in der.chunks(LINE / 4 * 3) {
        for group in line.chunks(3) {
            pem.extend_from_slice(&encode(group));
        }
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END CERTIFICATE-----\n");
    pem
}

/// Base64 of 1 to 3 bytes (RFC 4648).
fn encode(group: &[u8]) -> [u8; 4] {
    let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or_default());
    let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
    std::array::from_fn(|i| {
        if i > group.len() {
            return b'=';
        }
        ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_vectors_of_rfc_4648() {
        for (bytes, expected) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("bar", "YmFy")] {
            assert_eq!(encode(bytes.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn lines_have_64_characters() {
        let pem = String::from_utf8(certificate(&[0xff; 50])).expect("it is text");
        let lines: Vec<_> = pem.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[1].len(), lines[2]), (64, "//8="));
    }
}
