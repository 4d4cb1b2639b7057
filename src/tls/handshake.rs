#![forbid(unsafe_code)]
//! What a handshake has agreed on.

use super::failure::CertificateError;
use super::policy::TlsVersion;
use crate::ffi::RawHandshake;

/// What both sides have agreed on: from
/// [`on_handshake`](crate::ContextBuilder::on_handshake) and [`Socket::tls`](crate::Socket::tls).
///
/// Plain data, which may be kept.
///
/// ```
/// use usockets::{Handshake, TlsVersion};
///
/// fn describe(handshake: &Handshake) -> String {
///     let resumed = if handshake.is_resumed { ", resumed" } else { "" };
///     format!("{} with {}{resumed}", handshake.version, handshake.cipher)
/// }
/// # let _used = describe;
/// assert_eq!(TlsVersion::V1_3.to_string(), "TLS 1.3");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handshake {
    /// The version of TLS.
    pub version: TlsVersion,
    /// The cipher suite, by the name that RFCs use: `"TLS_AES_256_GCM_SHA384"`.
    pub cipher: String,
    /// The group of the key exchange, such as `"x25519"`; `None` if it is not known, as after the
    /// resumption of a TLS 1.2 session.
    pub group: Option<String>,
    /// The protocol that ALPN has chosen.
    pub alpn: Option<Vec<u8>>,
    /// The server name that the client has sent (SNI). On a server it is whatever text the client likes.
    pub server_name: Option<String>,
    /// Whether an earlier session was resumed.
    pub is_resumed: bool,
    /// Whether the peer has sent a certificate, now or when the session that is resumed was made. See
    /// [`Socket::peer_certificates`](crate::Socket::peer_certificates).
    pub has_peer_certificate: bool,
    /// What the library thinks of the peer's certificate. An error here was accepted by an option that is
    /// called `danger_`; `Ok` also if there was nothing to verify.
    pub verification: Result<(), CertificateError>,
    /// Whether the kernel encrypts, and decrypts.
    pub kernel_tls: (bool, bool),
}

impl Handshake {
    pub(crate) fn from_raw(raw: RawHandshake) -> Self {
        Self {
            version: TlsVersion::from_raw(raw.version),
            cipher: raw.cipher,
            group: raw.group,
            alpn: raw.protocol,
            server_name: raw.server_name,
            is_resumed: raw.resumed,
            has_peer_certificate: raw.has_peer_certificate,
            verification: CertificateError::check(raw.verify_result),
            kernel_tls: (raw.kernel_send, raw.kernel_receive),
        }
    }
}
