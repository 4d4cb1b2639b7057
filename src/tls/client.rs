#![forbid(unsafe_code)]
//! Clients: options and configurations.

use std::fmt;
use std::sync::{Arc, OnceLock};

use usockets_sys as sys;

#[cfg(feature = "openssl")]
use super::error::config_error;
use super::identity::TlsIdentity;
use super::policy::{Policy, policy_methods};
use super::server::Parts;
use super::trust::TrustAnchors;
use crate::error::UsError;
use crate::ffi::{RawConfig, TlsRole};

/// How a client speaks TLS; [`build`](Self::build) makes a [`TlsClientConfig`] of it.
///
/// The defaults are what a context has anyway: the trusted certificates of the system, a certificate
/// that is good and for the name or address connected to, TLS 1.2 and 1.3, ciphers with forward secrecy
/// and AEAD only, no renegotiation, no compression, no early data.
///
/// ```
/// use usockets::{TlsClientOptions, TlsVersion, TrustAnchors};
///
/// # #[cfg(feature = "tls")] {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let company_root = made.cert.pem();
/// let config = TlsClientOptions::new()
///     .trust(TrustAnchors::pem(company_root)) // and nobody else
///     .versions(TlsVersion::V1_3..)
///     .build()?;
/// # drop(config);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `build`"]
pub struct TlsClientOptions {
    identity: Option<TlsIdentity>,
    trust: TrustAnchors,
    accept_invalid_certificates: bool,
    accept_any_name: bool,
    policy: Policy,
}

policy_methods!(TlsClientOptions);

impl Default for TlsClientOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsClientOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            identity: None,
            trust: TrustAnchors::system(),
            accept_invalid_certificates: false,
            accept_any_name: false,
            policy: Policy::default(),
        }
    }

    /// Whom to trust, instead of the system's. Add [`TrustAnchors::system`] for both.
    pub fn trust(mut self, trust: TrustAnchors) -> Self {
        self.trust = trust;
        self
    }

    /// What to show to servers that ask for a certificate (mutual TLS). Default: nothing.
    pub fn identity(mut self, identity: TlsIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Takes every certificate, whoever has made it and for whatever name: anybody on the way can read and
    /// change everything. For tests; and to know servers by other means, such as fingerprints, in
    /// [`on_verify`](crate::ContextBuilder::on_verify), which decides alone then. Default: no.
    pub fn danger_accept_invalid_certificates(mut self, accept: bool) -> Self {
        self.accept_invalid_certificates = accept;
        self
    }

    /// Takes good certificates of whatever name: whoever has one for any name can read and change
    /// everything. To connect by another name than that in the certificate, see
    /// [`ConnectOptions::server_name`](crate::ConnectOptions::server_name). Default: no.
    pub fn danger_accept_any_name(mut self, accept: bool) -> Self {
        self.accept_any_name = accept;
        self
    }

    /// Makes the configuration. With the trusted certificates of the system it reads these, which takes
    /// some milliseconds: make it once. Beneath: `usx_tls_config_create`.
    ///
    /// # Errors
    ///
    /// [`UsError::Tls`] says which part cannot be used, and why;
    /// [`InvalidOption`](UsError::InvalidOption) for a list with a NUL;
    /// [`TlsUnavailable`](UsError::TlsUnavailable).
    pub fn build(mut self) -> Result<TlsClientConfig, UsError> {
        if !cfg!(usockets_tls) {
            return Err(UsError::TlsUnavailable);
        }
        let raw = self.create()?;
        // Nobody needs the key but the library, from now on.
        self.identity = None;
        Ok(TlsClientConfig(Arc::new(Inner { raw, options: Some(self) })))
    }

    fn create(&self) -> Result<RawConfig, UsError> {
        let parts = Parts {
            role: TlsRole::Client,
            identity: self.identity.as_ref(),
            trust: &self.trust,
            policy: &self.policy,
        };
        parts.create(|settings| {
            settings.verify = if self.accept_invalid_certificates {
                sys::USX_TLS_VERIFY_NONE
            } else {
                sys::USX_TLS_VERIFY_REQUIRED
            };
            settings.check_name = !self.accept_any_name && !self.accept_invalid_certificates;
        })
    }
}

/// A client's trust, policy and perhaps certificate, ready for use by any number of contexts, loops and
/// threads.
///
/// Made by [`TlsClientOptions`], given to
/// [`ContextBuilder::tls_client`](crate::ContextBuilder::tls_client). Clones are the same configuration,
/// which does not change. See the example of [`TlsClientOptions`].
#[derive(Clone)]
pub struct TlsClientConfig(Arc<Inner>);

struct Inner {
    raw: RawConfig,
    /// Without the identity; `None`: of an `SSL_CTX` of the program's.
    options: Option<TlsClientOptions>,
}

impl TlsClientConfig {
    /// What contexts use that were given none: [`TlsClientOptions::new`], built when it is first needed, once
    /// for the process.
    ///
    /// # Errors
    ///
    /// Those of [`TlsClientOptions::build`]. The next call tries again.
    pub fn shared_default() -> Result<Self, UsError> {
        static DEFAULT: OnceLock<TlsClientConfig> = OnceLock::new();
        if let Some(config) = DEFAULT.get() {
            return Ok(config.clone());
        }
        let config = TlsClientOptions::new().build()?;
        // Should another thread have been faster, its one is as good.
        Ok(DEFAULT.get_or_init(|| config).clone())
    }

    /// The same with another identity, for a certificate that was renewed.
    ///
    /// # Errors
    ///
    /// Those of [`TlsClientOptions::build`]; [`InvalidOption`](UsError::InvalidOption) for one that was made
    /// of an `SslContext`.
    pub fn with_identity(&self, identity: &TlsIdentity) -> Result<Self, UsError> {
        let Some(options) = self.0.options.clone() else {
            let reason = "it was made of an SslContext, which has its certificate itself";
            return Err(UsError::invalid("TLS client configuration", reason));
        };
        options.identity(identity.clone()).build()
    }

    /// A configuration of an `SslContext` that the program has set up by itself, for what is not an option
    /// here. If it verifies certificates ([`SslVerifyMode::PEER`](openssl::ssl::SslVerifyMode::PEER)), the name
    /// or address connected to is checked as well. Its callbacks for the verification of certificates and new
    /// sessions become ours where these have a use, and nothing else of it is changed.
    /// Beneath: `usx_tls_config_from_native`.
    ///
    /// ```
    /// use openssl::ssl::{SslContext, SslMethod, SslVerifyMode};
    /// use usockets::TlsClientConfig;
    ///
    /// let mut context = SslContext::builder(SslMethod::tls_client())?;
    /// context.set_default_verify_paths()?;
    /// context.set_verify(SslVerifyMode::PEER); // or nobody is verified
    /// let config = TlsClientConfig::from_ssl_context(&context.build())?;
    /// # drop(config);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`UsError::Tls`], [`TlsUnavailable`](UsError::TlsUnavailable).
    #[cfg(feature = "openssl")]
    pub fn from_ssl_context(context: &openssl::ssl::SslContextRef) -> Result<Self, UsError> {
        let raw = RawConfig::from_ssl_context(context, TlsRole::Client);
        let raw = raw.map_err(|error| config_error(error, |_| None))?;
        Ok(Self(Arc::new(Inner { raw, options: None })))
    }

    pub(crate) fn raw(&self) -> &RawConfig {
        &self.0.raw
    }
}

impl PartialEq for TlsClientConfig {
    /// Whether both are the same configuration.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsClientConfig {}

impl fmt::Debug for TlsClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClientConfig").field("options", &self.0.options).finish_non_exhaustive()
    }
}
