#![forbid(unsafe_code)]
//! What servers and clients can both be told about their connections.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use usockets_sys as sys;

use super::error::{TlsError, TlsErrorKind};
use crate::error::UsError;

/// A version of TLS. Older ones are not offered: [RFC 8996](https://www.rfc-editor.org/rfc/rfc8996).
///
/// ```
/// use usockets::{TlsClientOptions, TlsVersion};
///
/// let only_the_newest = TlsClientOptions::new().versions(TlsVersion::V1_3..);
/// # drop(only_the_newest);
/// assert!(TlsVersion::V1_2 < TlsVersion::V1_3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// [RFC 5246](https://www.rfc-editor.org/rfc/rfc5246).
    V1_2,
    /// [RFC 8446](https://www.rfc-editor.org/rfc/rfc8446).
    V1_3,
}

impl TlsVersion {
    fn to_raw(self) -> i32 {
        match self {
            Self::V1_2 => sys::USX_TLS_1_2,
            Self::V1_3 => sys::USX_TLS_1_3,
        }
    }

    /// What a handshake has agreed on; what is newer than we know is at least 1.3.
    pub(super) fn from_raw(raw: i32) -> Self {
        if raw == sys::USX_TLS_1_2 { Self::V1_2 } else { Self::V1_3 }
    }
}

impl std::fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "TLS 1.2",
            Self::V1_3 => "TLS 1.3",
        })
    }
}

/// The versions of a range, lowest and highest; `None` if there are none.
pub(super) fn versions(range: &impl RangeBounds<TlsVersion>) -> Option<(TlsVersion, TlsVersion)> {
    let all = [TlsVersion::V1_2, TlsVersion::V1_3];
    let mut inside = all.into_iter().filter(|version| {
        // `contains` of the range, which a trait object of two bounds does as well.
        (match range.start_bound() {
            Bound::Included(start) => version >= start,
            Bound::Excluded(start) => version > start,
            Bound::Unbounded => true,
        }) && (match range.end_bound() {
            Bound::Included(end) => version <= end,
            Bound::Excluded(end) => version < end,
            Bound::Unbounded => true,
        })
    });
    let first = inside.next()?;
    Some((first, inside.last().unwrap_or(first)))
}

/// What both kinds of options have.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    /// `None`: a range without a version in it.
    pub(super) versions: Option<(TlsVersion, TlsVersion)>,
    pub(super) ciphers: Option<String>,
    pub(super) cipher_suites: Option<String>,
    pub(super) groups: Option<String>,
    pub(super) signature_algorithms: Option<String>,
    pub(super) protocols: Vec<Vec<u8>>,
    pub(super) release_buffers: bool,
    pub(super) key_log: Option<PathBuf>,
    pub(super) kernel: bool,
    pub(super) accept_expired_identity: bool,
    pub(super) tolerate_truncation: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            versions: Some((TlsVersion::V1_2, TlsVersion::V1_3)),
            ciphers: None,
            cipher_suites: None,
            groups: None,
            signature_algorithms: None,
            protocols: Vec::new(),
            release_buffers: false,
            key_log: None,
            kernel: false,
            accept_expired_identity: false,
            tolerate_truncation: false,
        }
    }
}

/// A [`Policy`] as C takes it.
pub(super) struct RawPolicy {
    pub(super) min_version: i32,
    pub(super) max_version: i32,
    pub(super) ciphers: Option<CString>,
    pub(super) cipher_suites: Option<CString>,
    pub(super) groups: Option<CString>,
    pub(super) signature_algorithms: Option<CString>,
    pub(super) protocols: Vec<u8>,
    pub(super) key_log: Option<File>,
}

impl Policy {
    pub(super) fn to_raw(&self) -> Result<RawPolicy, UsError> {
        let (min, max) = self.versions.ok_or_else(|| TlsError::of_kind(TlsErrorKind::Versions))?;
        Ok(RawPolicy {
            min_version: min.to_raw(),
            max_version: max.to_raw(),
            ciphers: text("ciphers", self.ciphers.as_deref())?,
            cipher_suites: text("cipher suites", self.cipher_suites.as_deref())?,
            groups: text("groups", self.groups.as_deref())?,
            signature_algorithms: text(
                "signature algorithms",
                self.signature_algorithms.as_deref(),
            )?,
            protocols: wire_format(&self.protocols)?,
            key_log: self.key_log.as_deref().map(open_key_log).transpose()?,
        })
    }
}

fn text(option: &'static str, text: Option<&str>) -> Result<Option<CString>, UsError> {
    let text = text.map(CString::new).transpose();
    text.map_err(|_| UsError::invalid(option, "it contains a NUL"))
}

/// Most bytes of a list of names: its length has two bytes (RFC 7301).
const PROTOCOLS_MAX: usize = u16::MAX as usize;

/// Each name with its length before it.
fn wire_format(protocols: &[Vec<u8>]) -> Result<Vec<u8>, TlsError> {
    let mut list = Vec::new();
    for name in protocols {
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0);
        list.push(length.ok_or_else(|| TlsError::of_kind(TlsErrorKind::Protocols))?);
        list.extend_from_slice(name);
    }
    if list.len() > PROTOCOLS_MAX {
        return Err(TlsError::of_kind(TlsErrorKind::Protocols));
    }
    Ok(list)
}

fn open_key_log(path: &Path) -> Result<File, TlsError> {
    open_private(path).map_err(|error| TlsError::system(error, path))
}

/// Whoever can read it can read everything: only we can, also if it was there before. A pipe without a reader, or
/// with one that does not read, is nothing that a loop waits for.
fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others have access to it"));
    }
    Ok(file)
}

/// Defines the methods that set a [`Policy`].
macro_rules! policy_methods {
    ($options:ident) => {
        impl $options {
            /// Which versions of TLS may be spoken: `TlsVersion::V1_3..` for instance. Default: 1.2 and 1.3.
            pub fn versions(
                mut self,
                versions: impl std::ops::RangeBounds<$crate::TlsVersion>,
            ) -> Self {
                self.policy.versions = $crate::tls::policy::versions(&versions);
                self
            }

            /// The ciphers of TLS 1.2, best first, as [openssl-ciphers(1)] has them:
            /// `"ECDHE+AESGCM:ECDHE+CHACHA20"`. Those without a certificate or without encryption are left out
            /// whatever the list says, and one that lowers the library's level of security (`@SECLEVEL`) is an
            /// error. Default: forward secrecy with AEAD only.
            ///
            /// [openssl-ciphers(1)]: https://docs.openssl.org/3.0/man1/openssl-ciphers/
            pub fn ciphers(mut self, list: impl Into<String>) -> Self {
                self.policy.ciphers = Some(list.into());
                self
            }

            /// The cipher suites of TLS 1.3, best first:
            /// `"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"`. Default: the library's.
            pub fn cipher_suites(mut self, list: impl Into<String>) -> Self {
                self.policy.cipher_suites = Some(list.into());
                self
            }

            /// The groups for the key exchange, best first: `"X25519:P-256"`. Default: the library's.
            pub fn groups(mut self, list: impl Into<String>) -> Self {
                self.policy.groups = Some(list.into());
                self
            }

            /// The algorithms that signatures may use, best first: `"ECDSA+SHA256:RSA-PSS+SHA256"`.
            /// Default: the library's.
            pub fn signature_algorithms(mut self, list: impl Into<String>) -> Self {
                self.policy.signature_algorithms = Some(list.into());
                self
            }

            /// The protocols that are spoken over the connection, best first: `["h2", "http/1.1"]` (ALPN,
            /// [RFC 7301](https://www.rfc-editor.org/rfc/rfc7301)). The server's order decides. A server
            /// that has none in common with a client that offers some refuses it with the alert
            /// `no_application_protocol`; one that does not get an offer goes on without. Default: none.
            ///
            /// [`Handshake::alpn`](crate::Handshake::alpn) says what was agreed on.
            pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
                self.policy.protocols =
                    protocols.into_iter().map(|name| name.as_ref().to_vec()).collect();
                self
            }

            /// Whether idle connections give back the library's buffers, some 16 KiB each way, for a few
            /// instructions per message. For servers with many connections that are mostly idle. Default: no.
            pub fn release_buffers(mut self, on: bool) -> Self {
                self.policy.release_buffers = on;
                self
            }

            /// Appends the secrets of all connections to a file, in the format of NSS, with which Wireshark
            /// can decrypt them. It is created for this user only, and one that others have access to is an error of
            /// [`build`](Self::build). For debugging: whoever reads it can read
            /// everything. Default: none; the variable `SSLKEYLOGFILE` is not looked at.
            pub fn key_log_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
                self.policy.key_log = Some(path.into());
                self
            }

            /// Lets the kernel encrypt (kTLS) where it, the library and the engine can do that; where one of them
            /// cannot, nothing changes. [`kernel_tls_support`](crate::kernel_tls_support) says whether they can
            /// at all, [`Handshake::kernel_tls`](crate::Handshake::kernel_tls) whether a connection does. At
            /// present none does, because connections are fed from memory. Default: no.
            pub fn kernel_tls(mut self, on: bool) -> Self {
                self.policy.kernel = on;
                self
            }

            /// Takes an identity whose certificate has expired, or is not valid yet, for which peers will refuse
            /// us. For tests. Default: no, it is an error of [`build`](Self::build).
            pub fn danger_accept_expired_identity(mut self, accept: bool) -> Self {
                self.policy.accept_expired_identity = accept;
                self
            }

            /// Takes the end of the TCP stream for the end of the message. Anybody on the way can end a stream
            /// early: only for protocols whose messages say how long they are, with peers that do not end
            /// TLS in order. Default: no, it is [`CloseReason::Truncated`](crate::CloseReason::Truncated).
            pub fn danger_tolerate_truncation(mut self, tolerate: bool) -> Self {
                self.policy.tolerate_truncation = tolerate;
                self
            }
        }
    };
}
pub(super) use policy_methods;

#[cfg(test)]
mod tests {
    use super::*;

    use TlsVersion::{V1_2, V1_3};

    #[test]
    fn ranges_of_versions() {
        assert_eq!(versions(&(..)), Some((V1_2, V1_3)));
        assert_eq!(versions(&(V1_3..)), Some((V1_3, V1_3)));
        assert_eq!(versions(&(V1_2..V1_3)), Some((V1_2, V1_2)));
        assert_eq!(versions(&(V1_2..=V1_3)), Some((V1_2, V1_3)));
        assert_eq!(versions(&(V1_2..=V1_2)), Some((V1_2, V1_2)));
        assert_eq!(versions(&(V1_2..V1_2)), None);
    }

    #[test]
    fn protocols_get_their_lengths() {
        let names = [b"h2".to_vec(), b"http/1.1".to_vec()];
        assert_eq!(wire_format(&names).expect("good names"), b"\x02h2\x08http/1.1");
        for bad in [vec![Vec::new()], vec![vec![b'a'; 256]], vec![vec![b'a'; 255]; 257]] {
            let error = wire_format(&bad).expect_err("bad names");
            assert_eq!(error.kind(), TlsErrorKind::Protocols);
        }
    }

    #[test]
    fn texts_without_nul_only() {
        let policy = Policy { ciphers: Some("A\0B".into()), ..Policy::default() };
        assert!(matches!(
            policy.to_raw().err(),
            Some(UsError::InvalidOption { option: "ciphers", .. })
        ));
    }
}
