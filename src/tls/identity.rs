#![forbid(unsafe_code)]
//! Who we are: certificate and key.

use std::path::{Path, PathBuf};

use usockets_sys as sys;

use super::error::TlsErrorKind;
use super::secret::{Secret, read_file};
use crate::error::UsError;

/// A certificate chain and its private key: what a server shows, and a client where it is asked to.
///
/// The key, the passphrase and everything that they are read from are overwritten when they are
/// dropped, and do not show in `Debug`. Files are read at once; what is in them is looked at when a
/// configuration is built, whose error names the file.
///
/// ```
/// use usockets::{TlsIdentity, TlsServerOptions};
///
/// # #[cfg(feature = "tls")] {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// let identity = TlsIdentity::from_pem(chain, key);
/// let config = TlsServerOptions::new(identity).build()?;
/// # drop(config);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "an identity does nothing by itself"]
pub struct TlsIdentity {
    /// Of the certificate: PEM, DER or PKCS#12.
    format: i32,
    /// A chain in PEM, a leaf in DER, or everything in PKCS#12.
    certificate: Secret,
    certificate_file: Option<PathBuf>,
    /// With DER: what is between the leaf and the root.
    chain: Vec<Vec<u8>>,
    key: Secret,
    key_file: Option<PathBuf>,
    passphrase: Option<Secret>,
    ocsp_response: Vec<u8>,
}

impl TlsIdentity {
    /// A certificate, followed by those between it and the root, and its key, in PEM. The key may be of
    /// PKCS#8, PKCS#1 or SEC 1, and [encrypted](Self::passphrase).
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        let key = Secret::new(key.as_ref().to_vec());
        Self::new(sys::USX_TLS_PEM, Secret::new(chain.as_ref().to_vec()), key)
    }

    /// The same from files. Both may be one file.
    ///
    /// # Errors
    ///
    /// [`UsError::Tls`] of the kind [`System`](TlsErrorKind::System) that names the file which cannot be
    /// read.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, UsError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let mut identity = Self::new(sys::USX_TLS_PEM, read_file(chain)?, read_file(key)?);
        identity.certificate_file = Some(chain.to_owned());
        identity.key_file = Some(key.to_owned());
        Ok(identity)
    }

    /// A certificate, followed by those between it and the root, and its key, in DER. The key may be of
    /// PKCS#8, PKCS#1 or SEC 1.
    pub fn from_der<C: AsRef<[u8]>>(
        certificates: impl IntoIterator<Item = C>,
        key: impl AsRef<[u8]>,
    ) -> Self {
        let mut certificates = certificates.into_iter().map(|der| der.as_ref().to_vec());
        let leaf = Secret::new(certificates.next().unwrap_or_default());
        let chain = certificates.collect();
        let key = Secret::new(key.as_ref().to_vec());
        Self { chain, ..Self::new(sys::USX_TLS_DER, leaf, key) }
    }

    /// Everything from a PKCS#12 archive (`.p12`, `.pfx`) with this passphrase, which may be empty, and has at most
    /// 1024 bytes. Archives that are encrypted as was usual before 2010 or so (RC2, "unsupported") cannot be read
    /// by OpenSSL 3, and have to be converted: `openssl pkcs12 -legacy`.
    pub fn from_pkcs12(archive: impl AsRef<[u8]>, passphrase: impl AsRef<str>) -> Self {
        Self::new(sys::USX_TLS_PKCS12, Secret::new(archive.as_ref().to_vec()), Secret::default())
            .passphrase(passphrase)
    }

    /// The same from a file.
    ///
    /// # Errors
    ///
    /// Those of [`from_pem_files`](Self::from_pem_files).
    pub fn from_pkcs12_file(
        path: impl AsRef<Path>,
        passphrase: impl AsRef<str>,
    ) -> Result<Self, UsError> {
        let path = path.as_ref();
        let mut identity = Self::new(sys::USX_TLS_PKCS12, read_file(path)?, Secret::default());
        identity.certificate_file = Some(path.to_owned());
        Ok(identity.passphrase(passphrase))
    }

    fn new(format: i32, certificate: Secret, key: Secret) -> Self {
        Self {
            format,
            certificate,
            certificate_file: None,
            chain: Vec::new(),
            key,
            key_file: None,
            passphrase: None,
            ocsp_response: Vec::new(),
        }
    }

    /// The passphrase of an encrypted key, at most 1024 bytes, in UTF-8. Without one an encrypted key is an error;
    /// nobody is asked on a terminal. A key that is not encrypted needs none, and does not mind one.
    pub fn passphrase(mut self, passphrase: impl AsRef<str>) -> Self {
        self.passphrase = Some(Secret::new(passphrase.as_ref().into()));
        self
    }

    /// What the certificate's issuer says about it: an OCSP response in DER, which clients are given that
    /// ask for it (stapling, [RFC 6066, 8](https://www.rfc-editor.org/rfc/rfc6066#section-8)). Servers
    /// only. It is good for some days: [renew](crate::SocketContext::set_certificate) it with the rest. One that is
    /// not DER of a response is an error of `build`; whether it is about this certificate, and still good, is not
    /// looked at. Default: none.
    pub fn ocsp_response(mut self, der: impl Into<Vec<u8>>) -> Self {
        self.ocsp_response = der.into();
        self
    }

    pub(super) fn certificate(&self) -> (i32, &[u8]) {
        (self.format, self.certificate.as_bytes())
    }

    pub(super) fn chain(&self) -> Vec<&[u8]> {
        self.chain.iter().map(Vec::as_slice).collect()
    }

    /// Format and bytes; none with PKCS#12.
    pub(super) fn key(&self) -> (i32, &[u8]) {
        let is_pem = self.format == sys::USX_TLS_PEM;
        (if is_pem { sys::USX_TLS_PEM } else { sys::USX_TLS_DER }, self.key.as_bytes())
    }

    pub(super) fn passphrase_bytes(&self) -> Option<&[u8]> {
        self.passphrase.as_ref().map(Secret::as_bytes)
    }

    pub(super) fn stapled(&self) -> &[u8] {
        &self.ocsp_response
    }

    /// The file that an error of a kind is about.
    pub(super) fn file(&self, kind: TlsErrorKind) -> Option<&Path> {
        match kind {
            TlsErrorKind::Certificate | TlsErrorKind::Expired => self.certificate_file.as_deref(),
            TlsErrorKind::Key | TlsErrorKind::Passphrase | TlsErrorKind::Mismatch => {
                self.key_file.as_deref().or(self.certificate_file.as_deref())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_shows_no_secrets() {
        let identity = TlsIdentity::from_pem("chain", "the key").passphrase("hunter2");
        let shown = format!("{identity:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("the key"), "{shown}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = TlsIdentity::from_pem_files("no such chain", "no such key");
        let UsError::Tls(error) = error.expect_err("it is not there") else { panic!("of TLS") };
        assert_eq!(error.kind(), TlsErrorKind::System);
        assert_eq!(error.file(), Some(Path::new("no such chain")));
        assert!(TlsIdentity::from_pkcs12_file("no such archive", "").is_err());
    }
}
