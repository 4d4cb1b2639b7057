#![forbid(unsafe_code)]
//! Servers: options and configurations.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use usockets_sys as sys;

use super::error::{TlsError, TlsErrorKind, config_error};
use super::identity::TlsIdentity;
use super::policy::{Policy, policy_methods};
use super::tickets::TicketKeys;
use super::trust::{SystemPlaces, TrustAnchors};
use crate::error::UsError;
use crate::ffi::{ConfigSettings, RawConfig, TlsRole};

/// Whether a server asks its clients for certificates. See the example of [`TlsServerOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// It does not.
    #[default]
    None,
    /// It does, and takes clients that have none; a certificate that comes must be good.
    /// [`Handshake::has_peer_certificate`](crate::Handshake::has_peer_certificate) says whether one came.
    Optional,
    /// It does, and clients without a good one are refused: mutual TLS.
    Required,
}

/// How a server speaks TLS; [`build`](Self::build) makes a [`TlsServerConfig`] of it.
///
/// The defaults are those of a careful author: TLS 1.2 and 1.3, ciphers with forward secrecy and AEAD
/// only, no renegotiation, no compression, no early data, one session ticket for each full handshake.
///
/// ```
/// use usockets::{ClientCertificates, TlsIdentity, TlsServerOptions, TrustAnchors};
///
/// # #[cfg(feature = "tls")] {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// # let company_root = made.cert.pem();
/// let config = TlsServerOptions::new(TlsIdentity::from_pem(chain, key))
///     .alpn(["h2", "http/1.1"])
///     .client_certificates(ClientCertificates::Required)
///     .client_trust(TrustAnchors::pem(company_root))
///     .build()?;
/// # drop(config);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `build`"]
pub struct TlsServerOptions {
    identity: Option<TlsIdentity>,
    client_certificates: ClientCertificates,
    client_trust: Option<TrustAnchors>,
    tickets: u8,
    ticket_keys: Option<TicketKeys>,
    policy: Policy,
}

policy_methods!(TlsServerOptions);

/// Most session tickets for a handshake: more are of no use to anybody.
const TICKETS_MAX: u8 = 16;

impl TlsServerOptions {
    /// A server with this identity, and the defaults.
    pub fn new(identity: TlsIdentity) -> Self {
        Self { identity: Some(identity), ..Self::without_identity() }
    }

    /// A server that has no certificate but those of its
    /// [server names](crate::SocketContext::add_server_name): clients that ask for none of them are
    /// refused.
    pub fn without_identity() -> Self {
        Self {
            identity: None,
            client_certificates: ClientCertificates::None,
            client_trust: None,
            tickets: 1,
            ticket_keys: None,
            policy: Policy::default(),
        }
    }

    /// Whether clients are asked for certificates. Default: they are not.
    pub fn client_certificates(mut self, policy: ClientCertificates) -> Self {
        self.client_certificates = policy;
        self
    }

    /// Whose certificates clients may have. There is no default: a server that asks for certificates
    /// must say so.
    pub fn client_trust(mut self, trust: TrustAnchors) -> Self {
        self.client_trust = Some(trust);
        self
    }

    /// How many session tickets a client gets after a full handshake, from 0 to 16; with 0 no session
    /// is ever resumed. Default: 1; browsers ask for some more. A session is not resumed once the certificate that
    /// the client has proved itself by has expired.
    pub fn tickets(mut self, count: u8) -> Self {
        self.tickets = count;
        self
    }

    /// What tickets are encrypted with. Default: random keys of the configuration.
    pub fn ticket_keys(mut self, keys: &TicketKeys) -> Self {
        self.ticket_keys = Some(keys.clone());
        self
    }

    /// Makes the configuration. Beneath: `usx_tls_config_create`.
    ///
    /// # Errors
    ///
    /// [`UsError::Tls`] says which part cannot be used, and why;
    /// [`InvalidOption`](UsError::InvalidOption) if clients are asked for certificates and nobody is
    /// trusted, for more than 16 tickets, and for a list with a NUL;
    /// [`TlsUnavailable`](UsError::TlsUnavailable).
    pub fn build(mut self) -> Result<TlsServerConfig, UsError> {
        if !cfg!(usockets_tls) {
            return Err(UsError::TlsUnavailable);
        }
        self.check()?;
        let keys = match self.ticket_keys.take() {
            Some(keys) => keys,
            None => TicketKeys::random()?,
        };
        let raw = self.create(&keys)?;
        // Nobody needs the key but the library, from now on.
        self.identity = None;
        self.ticket_keys = Some(keys);
        Ok(TlsServerConfig(Arc::new(Inner { raw, options: Some(self) })))
    }

    fn check(&self) -> Result<(), UsError> {
        if self.tickets > TICKETS_MAX {
            return Err(UsError::invalid("tickets", "there are 0 to 16 of them"));
        }
        if self.client_certificates != ClientCertificates::None && self.client_trust.is_none() {
            let reason = "clients are asked for certificates, and nobody's are trusted";
            return Err(UsError::invalid("client trust", reason));
        }
        Ok(())
    }

    fn create(&self, keys: &TicketKeys) -> Result<RawConfig, UsError> {
        let verify = match self.client_certificates {
            ClientCertificates::None => sys::USX_TLS_VERIFY_NONE,
            ClientCertificates::Optional => sys::USX_TLS_VERIFY_OPTIONAL,
            ClientCertificates::Required => sys::USX_TLS_VERIFY_REQUIRED,
        };
        let nobody = TrustAnchors::none();
        let parts = Parts {
            role: TlsRole::Server,
            identity: self.identity.as_ref(),
            trust: self.client_trust.as_ref().unwrap_or(&nobody),
            policy: &self.policy,
        };
        parts.create(|settings| {
            settings.verify = verify;
            settings.tickets = i32::from(self.tickets);
            settings.ticket_keys = Some(keys.raw());
        })
    }
}

/// What configurations of both roles are made of.
pub(super) struct Parts<'a> {
    pub(super) role: TlsRole,
    pub(super) identity: Option<&'a TlsIdentity>,
    pub(super) trust: &'a TrustAnchors,
    pub(super) policy: &'a Policy,
}

impl<'a> Parts<'a> {
    /// Makes the configuration, with what `more` adds.
    pub(super) fn create(
        &self,
        more: impl FnOnce(&mut ConfigSettings<'a>),
    ) -> Result<RawConfig, UsError> {
        // To the engine a certificate without bytes is none, and that would do.
        if let Some(empty) = self.identity.filter(|identity| identity.certificate().1.is_empty()) {
            let kind = TlsErrorKind::Certificate;
            return Err(TlsError::of_kind(kind).about(empty.file(kind)).into());
        }
        let policy = self.policy.to_raw()?;
        let places =
            if self.trust.has_system() { SystemPlaces::find() } else { SystemPlaces::default() };
        let (certificate_format, certificate) =
            self.identity.map_or((sys::USX_TLS_PEM, &[][..]), TlsIdentity::certificate);
        let (key_format, key) = self.identity.map_or((sys::USX_TLS_PEM, &[][..]), TlsIdentity::key);
        let mut settings = ConfigSettings {
            role: self.role,
            certificate,
            certificate_format,
            chain: self.identity.map(TlsIdentity::chain).unwrap_or_default(),
            key,
            key_format,
            passphrase: self.identity.and_then(TlsIdentity::passphrase_bytes),
            check_validity: !self.policy.accept_expired_identity,
            ocsp_response: self.identity.map_or(&[], TlsIdentity::stapled),
            trusted: self.trust.certificates(),
            system_trust: self.trust.has_system(),
            trust_file: None,
            trust_directory: None,
            verify: sys::USX_TLS_VERIFY_NONE,
            check_name: false,
            min_version: policy.min_version,
            max_version: policy.max_version,
            ciphers: None,
            cipher_suites: None,
            groups: None,
            signature_algorithms: None,
            protocols: &[],
            tickets: 0,
            ticket_keys: None,
            key_log: None,
            release_buffers: self.policy.release_buffers,
            tolerate_truncation: self.policy.tolerate_truncation,
            kernel: self.policy.kernel,
        };
        more(&mut settings);
        // What lives in this function only.
        let settings = ConfigSettings {
            trust_file: places.file.as_deref(),
            trust_directory: places.folder.as_deref(),
            ciphers: policy.ciphers.as_deref(),
            cipher_suites: policy.cipher_suites.as_deref(),
            groups: policy.groups.as_deref(),
            signature_algorithms: policy.signature_algorithms.as_deref(),
            protocols: &policy.protocols,
            key_log: policy.key_log.as_ref().map(AsFd::as_fd),
            ..settings
        };
        RawConfig::create(&settings).map_err(|error| {
            config_error(error, |kind| match kind {
                TlsErrorKind::Trust => self.trust.file(error.index),
                kind => self.identity.and_then(|identity| identity.file(kind)),
            })
        })
    }
}

/// A server's certificate, trust and policy, ready for use by any number of contexts, loops and threads.
///
/// Made by [`TlsServerOptions`], given to
/// [`ContextBuilder::tls_server`](crate::ContextBuilder::tls_server) and
/// [`SocketContext::add_server_name`](crate::SocketContext::add_server_name). Clones are the same
/// configuration. It does not change, but for its ticket keys;
/// [`with_identity`](Self::with_identity) makes another one for a certificate that was renewed.
///
/// ```
/// use usockets::{Loop, SocketContext, TlsIdentity, TlsServerConfig, TlsServerOptions, UsError};
///
/// # #[cfg(feature = "tls")] {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let identity = TlsIdentity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
/// let config = TlsServerOptions::new(identity).build()?;
/// let serve = |config: TlsServerConfig| -> Result<(), UsError> {
///     let event_loop = Loop::<()>::new()?;
///     let context = SocketContext::<true>::builder().tls_server(&config).build(&event_loop, ())?;
///     let listener = context.listen("127.0.0.1:0")?;
///     // ...
///     # drop(listener);
///     event_loop.run()
/// };
/// // Each thread has a loop, and a clone.
/// let threads = [config.clone(), config].map(|config| std::thread::spawn(move || serve(config)));
/// for thread in threads {
///     thread.join().expect("no panic")?;
/// }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TlsServerConfig(Arc<Inner>);

struct Inner {
    raw: RawConfig,
    /// Without the identity, and with the ticket keys; `None`: of an `SSL_CTX` of the program's.
    options: Option<TlsServerOptions>,
}

impl TlsServerConfig {
    /// The same with another identity, and the same ticket keys: sessions from before can be resumed.
    ///
    /// # Errors
    ///
    /// Those of [`TlsServerOptions::build`]; [`InvalidOption`](UsError::InvalidOption) for one that was made
    /// of an `SslContext`.
    pub fn with_identity(&self, identity: &TlsIdentity) -> Result<Self, UsError> {
        let Some(options) = self.0.options.clone() else {
            let reason = "it was made of an SslContext, which has its certificate itself";
            return Err(UsError::invalid("TLS server configuration", reason));
        };
        TlsServerOptions { identity: Some(identity.clone()), ..options }.build()
    }

    /// A configuration of an `SslContext` that the program has set up by itself, for what is not an option
    /// here. Its callbacks for the client hello, the verification of certificates, ALPN and new sessions
    /// become ours where these have a use, and nothing else of it is changed. Beneath:
    /// `usx_tls_config_from_native`.
    ///
    /// ```
    /// use openssl::ssl::{SslContext, SslMethod};
    /// use usockets::TlsServerConfig;
    ///
    /// let mut context = SslContext::builder(SslMethod::tls_server())?;
    /// context.set_cipher_list("ECDHE+AESGCM")?; // and certificate, key and all the rest
    /// let config = TlsServerConfig::from_ssl_context(&context.build())?;
    /// # drop(config);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`UsError::Tls`], [`TlsUnavailable`](UsError::TlsUnavailable).
    #[cfg(feature = "openssl")]
    pub fn from_ssl_context(context: &openssl::ssl::SslContextRef) -> Result<Self, UsError> {
        let raw = RawConfig::from_ssl_context(context, TlsRole::Server);
        let raw = raw.map_err(|error| config_error(error, |_| None))?;
        Ok(Self(Arc::new(Inner { raw, options: None })))
    }

    pub(crate) fn raw(&self) -> &RawConfig {
        &self.0.raw
    }
}

impl PartialEq for TlsServerConfig {
    /// Whether both are the same configuration.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsServerConfig {}

impl fmt::Debug for TlsServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServerConfig").field("options", &self.0.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(usockets_tls)]
    #[test]
    fn whoever_asks_for_certificates_says_whom_it_trusts() {
        let options = TlsServerOptions::without_identity();
        let error = options.client_certificates(ClientCertificates::Required).build();
        assert!(matches!(error, Err(UsError::InvalidOption { option: "client trust", .. })));
    }

    #[cfg(not(usockets_tls))]
    #[test]
    fn without_tls_there_is_no_configuration() {
        let built = TlsServerOptions::without_identity().build();
        assert!(matches!(built, Err(UsError::TlsUnavailable)));
    }
}
