#![forbid(unsafe_code)]
//! Why a TLS connection failed.

use std::fmt;

use usockets_sys as sys;

use crate::ffi::{self, ConnectionFailure, LibraryError};

/// What went wrong with a TLS connection: in [`CloseReason::Tls`](crate::CloseReason::Tls).
///
/// ```
/// use usockets::{CertificateError, CloseReason, TlsFailure};
///
/// /// Whether it is of use to try again later.
/// fn may_pass(reason: &CloseReason) -> bool {
///     match reason {
///         CloseReason::Tls(TlsFailure::Verification(CertificateError::NOT_YET_VALID)) => true,
///         CloseReason::Tls(_) => false,
///         _ => true,
///     }
/// }
/// let failure = TlsFailure::Verification(CertificateError::NAME_MISMATCH);
/// assert!(!may_pass(&CloseReason::Tls(failure)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The peer has sent a fatal alert: it does not accept us, or what we sent.
    AlertReceived(TlsAlert),
    /// The peer's certificate was not accepted, by the library or by
    /// [`on_verify`](crate::ContextBuilder::on_verify).
    Verification(CertificateError),
    /// What the peer sent is not TLS, or nothing that we accept.
    Protocol(TlsProtocolError),
    /// A client asked for a server name that there is not, and was
    /// [refused](crate::ContextBuilder::refuse_unknown_names).
    UnknownName,
}

impl TlsFailure {
    /// What the engine says.
    pub(crate) fn from_raw(failure: ConnectionFailure) -> Self {
        match failure.kind {
            sys::USX_TLS_FAILURE_ALERT => {
                Self::AlertReceived(TlsAlert(failure.alert.unwrap_or_default()))
            }
            sys::USX_TLS_FAILURE_VERIFY => {
                Self::Verification(CertificateError::from_result(failure.verify_result))
            }
            sys::USX_TLS_FAILURE_NAME => Self::UnknownName,
            _ => Self::Protocol(TlsProtocolError {
                alert: failure.alert.map(TlsAlert),
                said: failure.said,
            }),
        }
    }

    /// Where the engine says that TLS failed, and not how.
    pub(crate) fn unknown() -> Self {
        Self::Protocol(TlsProtocolError { alert: None, said: LibraryError::default() })
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlertReceived(alert) => write!(f, "the peer has sent the TLS alert {alert}"),
            Self::Verification(error) => {
                write!(f, "the peer's certificate was not accepted: {error}")
            }
            Self::Protocol(error) => error.fmt(f),
            Self::UnknownName => f.write_str("the client asked for an unknown server name"),
        }
    }
}

/// What is wrong with what the peer sent: in [`TlsFailure::Protocol`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TlsProtocolError {
    alert: Option<TlsAlert>,
    said: LibraryError,
}

impl TlsProtocolError {
    /// The alert that the peer was sent, if one was.
    pub fn alert_sent(&self) -> Option<TlsAlert> {
        self.alert
    }

    /// What the library complained about, such as `"http request"` or `"no shared cipher"`.
    pub fn reason(&self) -> Option<&'static str> {
        self.said.reason
    }

    /// The part of the library that complained.
    pub fn library(&self) -> Option<&'static str> {
        self.said.library
    }

    /// The library's number for that (`ERR_get_error(3)`); 0 if it has said nothing.
    pub fn code(&self) -> u64 {
        self.said.code
    }
}

impl fmt::Display for TlsProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS failed")?;
        if let Some(reason) = self.said.reason {
            write!(f, ": {reason}")?;
        }
        match self.alert {
            Some(alert) => write!(f, " (alert sent: {alert})"),
            None => Ok(()),
        }
    }
}

/// A TLS alert ([RFC 8446, 6](https://www.rfc-editor.org/rfc/rfc8446#section-6)).
///
/// Shows as its name: `certificate_expired`; as its number if it has none, and in builds without TLS.
///
/// ```
/// use usockets::TlsAlert;
///
/// assert_eq!(TlsAlert::UNKNOWN_CA.code(), 48);
/// assert_eq!(TlsAlert::from(48), TlsAlert::UNKNOWN_CA);
/// # #[cfg(feature = "tls")] {
/// assert_eq!(TlsAlert::UNKNOWN_CA.to_string(), "unknown_ca");
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlsAlert(u8);

/// Defines the alerts that programs are likely to ask for.
macro_rules! alerts {
    ($($name:ident = $code:literal, $doc:literal;)*) => {
        impl TlsAlert {
            $(#[doc = $doc] pub const $name: Self = Self($code);)*
        }
    };
}
alerts! {
    CLOSE_NOTIFY = 0, "The end. As a failure: in the midst of a handshake, which the peer has given up.";
    UNEXPECTED_MESSAGE = 10, "A message that does not belong there.";
    BAD_RECORD_MAC = 20, "A record that was changed on its way, or encrypted with other keys.";
    RECORD_OVERFLOW = 22, "A record that is too long.";
    HANDSHAKE_FAILURE = 40, "Nothing that both sides accept, such as a cipher.";
    BAD_CERTIFICATE = 42, "A certificate that is damaged.";
    UNSUPPORTED_CERTIFICATE = 43, "A certificate of a kind that is not accepted.";
    CERTIFICATE_REVOKED = 44, "A certificate that was revoked.";
    CERTIFICATE_EXPIRED = 45, "A certificate that is not valid at this time.";
    CERTIFICATE_UNKNOWN = 46, "A certificate that is not accepted for another reason.";
    ILLEGAL_PARAMETER = 47, "A value that is not allowed.";
    UNKNOWN_CA = 48, "A certificate of an issuer who is not trusted.";
    ACCESS_DENIED = 49, "A certificate that is good, but not allowed in.";
    DECODE_ERROR = 50, "A message that cannot be read.";
    DECRYPT_ERROR = 51, "A signature that is wrong.";
    PROTOCOL_VERSION = 70, "A version of TLS that is not accepted.";
    INSUFFICIENT_SECURITY = 71, "Ciphers that are too weak.";
    INTERNAL_ERROR = 80, "Something that has nothing to do with the peer.";
    INAPPROPRIATE_FALLBACK = 86, "An older version than both sides could use.";
    USER_CANCELED = 90, "The program does not want to go on.";
    MISSING_EXTENSION = 109, "An extension that is needed.";
    UNSUPPORTED_EXTENSION = 110, "An extension that nobody asked for.";
    UNRECOGNIZED_NAME = 112, "A server name that there is not.";
    BAD_CERTIFICATE_STATUS_RESPONSE = 113, "A stapled OCSP response that is not good.";
    UNKNOWN_PSK_IDENTITY = 115, "A pre-shared key that is not known.";
    CERTIFICATE_REQUIRED = 116, "A client certificate is needed, and there was none.";
    NO_APPLICATION_PROTOCOL = 120, "No protocol of ALPN that both sides speak.";
}

impl TlsAlert {
    /// The number of the alert.
    pub fn code(self) -> u8 {
        self.0
    }

    /// The name in RFCs; `None` if it is not known, and in builds without TLS. Beneath: `usx_tls_alert_name`.
    pub fn name(self) -> Option<&'static str> {
        ffi::alert_name(self.0)
    }
}

impl From<u8> for TlsAlert {
    fn from(code: u8) -> Self {
        Self(code)
    }
}

impl fmt::Display for TlsAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// Why a certificate is not accepted: one of the codes `X509_V_ERR_*` of
/// [X509_STORE_CTX_get_error(3)](https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/).
///
/// ```
/// use usockets::CertificateError;
///
/// fn advice(error: CertificateError) -> &'static str {
///     match error {
///         CertificateError::EXPIRED => "renew it",
///         CertificateError::NAME_MISMATCH => "connect by the name that is in it",
///         CertificateError::SELF_SIGNED | CertificateError::UNKNOWN_ISSUER => "trust its issuer",
///         _ => "look it up",
///     }
/// }
/// assert_eq!(advice(CertificateError::EXPIRED), "renew it");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateError(i32);

/// Defines the codes that programs are likely to ask for.
macro_rules! codes {
    ($($name:ident = $code:literal, $doc:literal;)*) => {
        impl CertificateError {
            $(#[doc = $doc] pub const $name: Self = Self($code);)*
        }
    };
}
codes! {
    UNSPECIFIED = 1, "No reason is known.";
    BAD_SIGNATURE = 7, "A signature in the chain is wrong.";
    NOT_YET_VALID = 9, "It is not valid yet.";
    EXPIRED = 10, "It has expired.";
    SELF_SIGNED = 18, "It is signed by itself, and not trusted.";
    SELF_SIGNED_IN_CHAIN = 19, "The chain ends with a root that is not trusted.";
    UNKNOWN_ISSUER = 20, "No certificate of its issuer is there or trusted.";
    UNVERIFIED_LEAF = 21, "It came alone, and its issuer is not trusted.";
    CHAIN_TOO_LONG = 22, "There are too many certificates between it and the root.";
    REVOKED = 23, "It was revoked.";
    WRONG_PURPOSE = 26, "It is for another purpose, such as that of a client.";
    UNTRUSTED = 27, "Its root is not trusted for this purpose.";
    REJECTED = 28, "The program does not accept it: the one to answer by in `on_verify`.";
    NAME_MISMATCH = 62, "It is for another name than the one connected to.";
    ADDRESS_MISMATCH = 64, "It is for another IP address than the one connected to.";
    KEY_TOO_SMALL = 66, "Its key is too short to be safe.";
    ISSUER_KEY_TOO_SMALL = 67, "The key of an issuer is too short to be safe.";
    WEAK_DIGEST = 68, "A signature in the chain uses a digest that is not safe.";
}

impl CertificateError {
    /// A code `X509_V_ERR_*`; `None` for 0, which is success.
    pub fn from_code(code: i32) -> Option<Self> {
        (code != 0).then_some(Self(code))
    }

    /// The code: `X509_V_ERR_*`.
    pub fn code(self) -> i32 {
        self.0
    }

    /// What is known to be an error.
    fn from_result(result: i32) -> Self {
        Self::from_code(result).unwrap_or(Self::UNSPECIFIED)
    }

    /// The answer of the library, for us.
    pub(crate) fn check(result: i32) -> Result<(), Self> {
        Self::from_code(result).map_or(Ok(()), Err)
    }
}

impl fmt::Display for CertificateError {
    /// The text of the library: "certificate has expired". Beneath: `usx_tls_verify_text`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ffi::verify_text(self.0) {
            Some(text) => f.write_str(text),
            None => write!(f, "verification error {}", self.0),
        }
    }
}

impl std::error::Error for CertificateError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: i32) -> ConnectionFailure {
        ConnectionFailure {
            kind,
            alert: Some(48),
            verify_result: 62,
            said: LibraryError {
                code: 1,
                library: Some("SSL routines"),
                reason: Some("http request"),
            },
        }
    }

    #[test]
    fn failures_say_what_happened() {
        let received = TlsFailure::from_raw(raw(sys::USX_TLS_FAILURE_ALERT));
        assert_eq!(received, TlsFailure::AlertReceived(TlsAlert::UNKNOWN_CA));
        let refused = TlsFailure::from_raw(raw(sys::USX_TLS_FAILURE_VERIFY));
        assert_eq!(refused, TlsFailure::Verification(CertificateError::NAME_MISMATCH));
        assert_eq!(TlsFailure::from_raw(raw(sys::USX_TLS_FAILURE_NAME)), TlsFailure::UnknownName);
        let TlsFailure::Protocol(error) = TlsFailure::from_raw(raw(sys::USX_TLS_FAILURE_PROTOCOL))
        else {
            panic!("it is about the protocol");
        };
        assert_eq!(error.reason(), Some("http request"));
        assert_eq!(error.alert_sent(), Some(TlsAlert::UNKNOWN_CA));
        assert!(error.to_string().starts_with("TLS failed: http request (alert sent: "), "{error}");
    }

    #[test]
    fn success_is_no_error() {
        assert_eq!(CertificateError::check(0), Ok(()));
        assert_eq!(CertificateError::check(10), Err(CertificateError::EXPIRED));
        assert_eq!(CertificateError::from_code(0), None);
    }
}
