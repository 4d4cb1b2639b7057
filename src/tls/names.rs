#![forbid(unsafe_code)]
//! Names of servers, as clients ask for them and servers have them.

use std::ffi::CString;
use std::net::IpAddr;

use crate::error::UsError;

/// Longest name, in bytes (RFC 1035, 2.3.4).
const NAME_MAX: usize = 255;

/// Whether it is the name or address of a server: what else clients send, no program is to see.
pub(crate) fn is_server_name(name: &str) -> bool {
    check(name, is_label).is_ok()
}

/// A name or address for C, that a certificate can be for.
pub(super) fn server_name(name: &str) -> Result<CString, UsError> {
    for_c(name, is_label)
}

/// A pattern for C, that names fit.
pub(super) fn pattern(pattern: &str) -> Result<CString, UsError> {
    for_c(pattern, |label| label == "*" || is_label(label))
}

fn for_c(name: &str, is_label: impl Fn(&str) -> bool) -> Result<CString, UsError> {
    let name = check(name, is_label).map(|()| CString::new(name).unwrap_or_default());
    name.map_err(|reason| UsError::invalid("server name", reason))
}

fn check(name: &str, is_label: impl Fn(&str) -> bool) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > NAME_MAX {
        return Err("it is longer than 255 bytes");
    }
    // The dot at the end is the root of all names.
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.split('.').all(is_label) || name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err("it is not a name or address, without port and the like")
}

/// Letters, digits and hyphens, and underscores, which are no good but in use.
fn is_label(label: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !label.is_empty() && label.bytes().all(is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_or_addresses() {
        let long = format!("{}.example.org", "a".repeat(244));
        for good in [
            "example.org",
            "EXAMPLE.org.",
            "localhost",
            "xn--bcher-kva.example",
            "a_b",
            "127.0.0.1",
            "::1",
        ] {
            assert!(
                server_name(good).is_ok() && pattern(good).is_ok() && is_server_name(good),
                "{good}"
            );
        }
        let bad = [
            "",
            ".",
            "..",
            ".example.org",
            "a..b",
            "a\0b",
            "a b",
            "example.org:443",
            "[::1]",
            "a/b",
            "bücher.example",
            &long,
        ];
        for bad in bad {
            for result in [server_name(bad), pattern(bad)] {
                assert!(
                    matches!(result, Err(UsError::InvalidOption { option: "server name", .. })),
                    "{bad}"
                );
            }
            assert!(!is_server_name(bad), "{bad}");
        }
    }

    #[test]
    fn patterns_have_stars_for_labels() {
        for good in ["*", "*.example.org", "a.*.org"] {
            assert!(pattern(good).is_ok(), "{good}");
            assert!(server_name(good).is_err() && !is_server_name(good), "{good}");
        }
        for bad in ["a*.example.org", "**", "*:443"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
