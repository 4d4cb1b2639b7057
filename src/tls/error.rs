#![forbid(unsafe_code)]
//! Why there is no configuration.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use usockets_sys as sys;

use crate::error::UsError;
use crate::ffi::{ConfigError, LibraryError};

/// Why a [`TlsServerConfig`](crate::TlsServerConfig), a [`TlsClientConfig`](crate::TlsClientConfig) or
/// something that they need could not be made: in [`UsError::Tls`].
///
/// ```
/// use usockets::{TlsErrorKind, TlsIdentity, TlsServerOptions, UsError};
///
/// # #[cfg(feature = "tls")] {
/// let identity = TlsIdentity::from_pem("not a certificate", "nor a key");
/// match TlsServerOptions::new(identity).build() {
///     Err(UsError::Tls(error)) => assert_eq!(error.kind(), TlsErrorKind::Certificate),
///     other => panic!("{other:?}"),
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct TlsError {
    kind: TlsErrorKind,
    about: Option<PathBuf>,
    said: LibraryError,
    source: Option<io::Error>,
}

/// What is wrong, as [`TlsError::kind`] says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsErrorKind {
    /// The library is out of memory.
    Memory,
    /// A file cannot be opened, read or written: see [`TlsError::io_kind`].
    System,
    /// The certificate or a certificate of its chain cannot be read, or is not fit for use: its key is
    /// too short for instance.
    Certificate,
    /// The private key cannot be read.
    Key,
    /// The key or PKCS#12 file is encrypted, and the passphrase is wrong or missing.
    Passphrase,
    /// The key and the certificate do not belong together.
    Mismatch,
    /// The certificate has expired, or is not valid yet.
    Expired,
    /// The trusted certificates cannot be read, or there are none in the file.
    Trust,
    /// The list of ciphers has none for TLS 1.2, or lowers the level of security.
    Ciphers,
    /// The list of cipher suites has none for TLS 1.3, or one that is unknown.
    Suites,
    /// A group for the key exchange is unknown, or in the list twice.
    Groups,
    /// No version of TLS is left.
    Versions,
    /// A protocol name for ALPN is empty or longer than 255 bytes, or all together are too long.
    Protocols,
    /// A signature algorithm is unknown.
    Signatures,
    /// The OCSP response cannot be read.
    OcspResponse,
    /// Something else is out of its range.
    OutOfRange,
}

impl TlsError {
    /// What is wrong.
    pub fn kind(&self) -> TlsErrorKind {
        self.kind
    }

    /// The kind of I/O error that this is or comes closest to: that of the system for a file, else
    /// [`InvalidData`](io::ErrorKind::InvalidData) or [`InvalidInput`](io::ErrorKind::InvalidInput).
    pub fn io_kind(&self) -> io::ErrorKind {
        match (&self.source, self.kind) {
            (Some(error), _) => error.kind(),
            (None, TlsErrorKind::Memory) => io::ErrorKind::OutOfMemory,
            (None, TlsErrorKind::Passphrase) => io::ErrorKind::PermissionDenied,
            (
                None,
                TlsErrorKind::Certificate
                | TlsErrorKind::Key
                | TlsErrorKind::Mismatch
                | TlsErrorKind::Expired
                | TlsErrorKind::Trust
                | TlsErrorKind::OcspResponse,
            ) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::InvalidInput,
        }
    }

    /// The file that it is about, if what is wrong came from one.
    pub fn file(&self) -> Option<&Path> {
        self.about.as_deref()
    }

    /// The part of the library that complained, such as `"PEM routines"`.
    pub fn library(&self) -> Option<&'static str> {
        self.said.library
    }

    /// What the library complained about, such as `"bad decrypt"`.
    pub fn reason(&self) -> Option<&'static str> {
        self.said.reason
    }

    /// The library's number for that (`ERR_get_error(3)`), for its documentation and for `openssl errstr`;
    /// 0 if it has said nothing.
    pub fn code(&self) -> u64 {
        self.said.code
    }

    /// A file that cannot be used.
    pub(crate) fn system(source: io::Error, path: &Path) -> Self {
        Self {
            kind: TlsErrorKind::System,
            about: Some(path.to_owned()),
            said: LibraryError::default(),
            source: Some(source),
        }
    }

    /// What we find by ourselves.
    pub(crate) fn of_kind(kind: TlsErrorKind) -> Self {
        Self { kind, about: None, said: LibraryError::default(), source: None }
    }

    /// The same about a file.
    pub(crate) fn about(mut self, file: Option<&Path>) -> Self {
        self.about = file.map(Path::to_owned);
        self
    }

    fn what(&self) -> &'static str {
        match self.kind {
            TlsErrorKind::Memory => "the TLS library is out of memory",
            TlsErrorKind::System => "a file for TLS cannot be used",
            TlsErrorKind::Certificate => "the certificate cannot be used",
            TlsErrorKind::Key => "the private key cannot be read",
            TlsErrorKind::Passphrase => "the passphrase of the private key is wrong or missing",
            TlsErrorKind::Mismatch => "the private key does not belong to the certificate",
            TlsErrorKind::Expired => "the certificate is not valid at this time",
            TlsErrorKind::Trust => "the trusted certificates cannot be read",
            TlsErrorKind::Ciphers => {
                "no cipher for TLS 1.2 in the list, or a security level that is too low"
            }
            TlsErrorKind::Suites => "an unknown cipher suite for TLS 1.3, or none, in the list",
            TlsErrorKind::Groups => "an unknown group for the key exchange, or one twice",
            TlsErrorKind::Versions => "no version of TLS is left",
            TlsErrorKind::Protocols => {
                "a protocol name for ALPN has 1 to 255 bytes, and all together at most 65535"
            }
            TlsErrorKind::Signatures => "an unknown signature algorithm",
            TlsErrorKind::OcspResponse => "the OCSP response cannot be read",
            TlsErrorKind::OutOfRange => "an option of TLS is out of its range",
        }
    }
}

/// What the engine said; `file` tells which file an error of a kind is about.
pub(crate) fn config_error<'a>(
    error: ConfigError,
    file: impl FnOnce(TlsErrorKind) -> Option<&'a Path>,
) -> UsError {
    let kind = match error.kind {
        sys::USX_TLS_ERROR_UNAVAILABLE => return UsError::TlsUnavailable,
        sys::USX_TLS_ERROR_MEMORY => TlsErrorKind::Memory,
        sys::USX_TLS_ERROR_SYSTEM => TlsErrorKind::System,
        sys::USX_TLS_ERROR_CERTIFICATE => TlsErrorKind::Certificate,
        sys::USX_TLS_ERROR_KEY => TlsErrorKind::Key,
        sys::USX_TLS_ERROR_PASSPHRASE => TlsErrorKind::Passphrase,
        sys::USX_TLS_ERROR_MISMATCH => TlsErrorKind::Mismatch,
        sys::USX_TLS_ERROR_EXPIRED => TlsErrorKind::Expired,
        sys::USX_TLS_ERROR_TRUST => TlsErrorKind::Trust,
        sys::USX_TLS_ERROR_CIPHERS => TlsErrorKind::Ciphers,
        sys::USX_TLS_ERROR_SUITES => TlsErrorKind::Suites,
        sys::USX_TLS_ERROR_GROUPS => TlsErrorKind::Groups,
        sys::USX_TLS_ERROR_VERSIONS => TlsErrorKind::Versions,
        sys::USX_TLS_ERROR_PROTOCOLS => TlsErrorKind::Protocols,
        sys::USX_TLS_ERROR_SIGNATURES => TlsErrorKind::Signatures,
        sys::USX_TLS_ERROR_OCSP => TlsErrorKind::OcspResponse,
        _ => TlsErrorKind::OutOfRange,
    };
    let source = (error.errno != 0).then(|| io::Error::from_raw_os_error(error.errno));
    TlsError { kind, about: file(kind).map(Path::to_owned), said: error.said, source }.into()
}

impl From<TlsError> for UsError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())?;
        if let Some(file) = &self.about {
            write!(f, " ({})", file.display())?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        match (self.said.reason, self.said.library) {
            (Some(reason), Some(library)) => write!(f, ": {reason} ({library})"),
            (Some(reason), None) => write!(f, ": {reason}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> ConfigError {
        ConfigError {
            kind: sys::USX_TLS_ERROR_PASSPHRASE,
            errno: 0,
            index: 0,
            said: LibraryError {
                code: 7,
                library: Some("PEM routines"),
                reason: Some("bad decrypt"),
            },
        }
    }

    #[test]
    fn errors_say_what_where_and_why() {
        let error = config_error(said(), |kind| {
            (kind == TlsErrorKind::Passphrase).then(|| Path::new("/etc/key.pem"))
        });
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "the passphrase of the private key is wrong or missing (/etc/key.pem): bad decrypt (PEM routines)"
        );
        let UsError::Tls(error) = error else { panic!("{error:?}") };
        assert_eq!(error.file(), Some(Path::new("/etc/key.pem")));
        assert_eq!((error.code(), error.reason()), (7, Some("bad decrypt")));
    }

    #[test]
    fn a_build_without_tls_says_so() {
        let error = ConfigError { kind: sys::USX_TLS_ERROR_UNAVAILABLE, ..said() };
        assert!(matches!(config_error(error, |_| None), UsError::TlsUnavailable));
    }

    #[test]
    fn errors_of_the_system_keep_their_kind() {
        let error = ConfigError {
            kind: sys::USX_TLS_ERROR_SYSTEM,
            errno: libc::EACCES,
            index: 0,
            said: LibraryError::default(),
        };
        let error = config_error(error, |_| None);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with("a file for TLS cannot be used: "), "{error}");
    }
}
