#![forbid(unsafe_code)]
//! Whom we trust.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::pem;
use super::secret::read_file;
use crate::error::UsError;

/// Certificates that peers' certificates must lead to: roots, or any certificate on the way.
///
/// ```
/// use usockets::{TlsClientOptions, TrustAnchors};
///
/// # #[cfg(feature = "tls")] {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let company_root = made.cert.pem();
/// // The servers of everybody, and those of the company.
/// let trust = TrustAnchors::system().and(TrustAnchors::pem(company_root));
/// let config = TlsClientOptions::new().trust(trust).build()?;
/// # drop(config);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "trust anchors do nothing by themselves"]
pub struct TrustAnchors {
    system: bool,
    certificates: Vec<Anchors>,
}

/// Certificates in PEM, and where they are from.
#[derive(Debug, Clone)]
struct Anchors {
    pem: Vec<u8>,
    file: Option<PathBuf>,
}

impl TrustAnchors {
    /// Those of the system, where its TLS library keeps them, or where `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` say. What is not there, or cannot be read, is left out without an error: then nobody is trusted.
    /// With the feature `vendored-openssl`, whose library knows no place, the usual
    /// ones are looked at.
    pub fn system() -> Self {
        Self { system: true, certificates: Vec::new() }
    }

    /// Nobody: everything is refused. The beginning of a list that is collected by [`and`](Self::and), and for
    /// clients whose [`on_verify`](crate::ContextBuilder::on_verify) decides alone.
    pub fn none() -> Self {
        Self::default()
    }

    /// Certificates in PEM, any number of them.
    pub fn pem(certificates: impl AsRef<[u8]>) -> Self {
        Self::of(certificates.as_ref().to_vec(), None)
    }

    /// The same from a file.
    ///
    /// # Errors
    ///
    /// [`UsError::Tls`] of the kind [`System`](crate::TlsErrorKind::System) that names the file.
    pub fn pem_file(path: impl AsRef<Path>) -> Result<Self, UsError> {
        let path = path.as_ref();
        let pem = read_file(path)?.as_bytes().to_vec();
        Ok(Self::of(pem, Some(path.to_owned())))
    }

    /// A certificate in DER.
    pub fn der(certificate: impl AsRef<[u8]>) -> Self {
        Self::of(pem::certificate(certificate.as_ref()), None)
    }

    fn of(pem: Vec<u8>, file: Option<PathBuf>) -> Self {
        Self { system: false, certificates: vec![Anchors { pem, file }] }
    }

    /// These and others.
    pub fn and(mut self, others: Self) -> Self {
        self.system |= others.system;
        self.certificates.extend(others.certificates);
        self
    }

    pub(super) fn has_system(&self) -> bool {
        self.system
    }

    pub(super) fn certificates(&self) -> Vec<&[u8]> {
        self.certificates.iter().map(|anchors| anchors.pem.as_slice()).collect()
    }

    /// The file, if they are from one, that the [certificates](Self::certificates) with this index are from.
    pub(super) fn file(&self, index: usize) -> Option<&Path> {
        self.certificates.get(index)?.file.as_deref()
    }
}

/// Where the trusted certificates of the system are, if not where the library looks: a file, and a
/// folder.
#[derive(Debug, Default)]
pub(super) struct SystemPlaces {
    pub(super) file: Option<CString>,
    pub(super) folder: Option<CString>,
}

impl SystemPlaces {
    /// The library is the system's, and knows.
    #[cfg(not(feature = "vendored-openssl"))]
    pub(super) fn find() -> Self {
        Self::default()
    }

    #[cfg(feature = "vendored-openssl")]
    pub(super) fn find() -> Self {
        use std::os::unix::ffi::OsStrExt;
        let found = openssl_probe::probe();
        let text = |path: PathBuf| CString::new(path.as_os_str().as_bytes()).ok();
        Self {
            file: found.cert_file.and_then(text),
            // The others are those of other systems, or the same by another name.
            folder: found.cert_dir.into_iter().find(|path| path.is_dir()).and_then(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_add_up() {
        let all =
            TrustAnchors::pem("one").and(TrustAnchors::der(b"two")).and(TrustAnchors::system());
        assert!(all.has_system());
        assert_eq!(all.certificates().len(), 2);
        assert_eq!(all.certificates()[0], b"one");
        assert!(all.certificates()[1].starts_with(b"-----BEGIN CERTIFICATE-----\n"));
        assert!(!TrustAnchors::none().has_system());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = TrustAnchors::pem_file("no such root").expect_err("it is not there");
        assert!(error.to_string().contains("no such root"), "{error}");
    }
}
