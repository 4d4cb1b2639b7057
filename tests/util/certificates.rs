//! Certificates that are made for one run of one test program, and good for nothing else.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use usockets::{
    TlsClientConfig, TlsClientOptions, TlsIdentity, TlsServerConfig, TlsServerOptions, TrustAnchors,
};

use super::net::own_addresses;

// -- The common ones --------------------------------------------------------------------------

/// Those that peers and contexts have when a test is not about certificates, and some that are refused.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The authority that is trusted.
    pub(crate) authority: Authority,
    /// A server at `localhost` and at every address that tests listen on.
    pub(crate) server: Issued,
    /// The same, with a certificate between it and the authority.
    pub(crate) chained: Issued,
    /// A server whose time was over in 2002.
    pub(crate) expired: Issued,
    /// A server at `elsewhere.example` only.
    pub(crate) elsewhere: Issued,
    /// A server that another authority of the same name vouches for.
    pub(crate) stranger: Issued,
    /// A client, which is no server.
    pub(crate) client: Issued,
}

/// Makes them when the first test asks.
pub(crate) fn certificates() -> &'static Certificates {
    static CERTIFICATES: OnceLock<Certificates> = OnceLock::new();
    CERTIFICATES.get_or_init(|| {
        let authority = Authority::named("the authority of the tests");
        let addresses = own_addresses().map(|address| IpAddr::from(address).to_string());
        let here = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter();
        let here: Vec<_> = here.chain(addresses).collect();
        let here: Vec<_> = here.iter().map(String::as_str).collect();
        Certificates {
            server: authority.issue(&here),
            chained: authority.subordinate().issue(&here),
            expired: authority.issue_expired(&here),
            elsewhere: authority.issue(&["elsewhere.example"]),
            stranger: Authority::named("the authority of the tests").issue(&here),
            client: authority.issue_with(&["localhost"], |params| {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            }),
            authority,
        }
    })
}

// -- Making them ------------------------------------------------------------------------------

/// Somebody who issues certificates.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Vec<u8>,
    /// Nobody trusts it by itself: its certificate goes with those that it issues.
    is_subordinate: bool,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// In PEM, with what is between it and the authority.
    pub(crate) certificate: String,
    pub(crate) certificate_der: Vec<u8>,
    pub(crate) between_der: Vec<Vec<u8>>,
    pub(crate) key: String,
    /// PKCS#8.
    pub(crate) key_der: Vec<u8>,
}

impl Authority {
    /// With a name of its own: the issuer of a certificate is looked up by name.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self::named(&format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    fn named(name: &str) -> Self {
        let (params, key) = (Self::params(name), new_key());
        let certificate = params.self_signed(&key).expect("a root");
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Self { issuer: Issuer::new(params, key), pem, der, is_subordinate: false }
    }

    /// One that this one vouches for.
    fn subordinate(&self) -> Self {
        let (params, key) = (Self::params("a subordinate authority"), new_key());
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Self { issuer: Issuer::new(params, key), pem, der, is_subordinate: true }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    pub(crate) fn trust(&self) -> TrustAnchors {
        TrustAnchors::pem(&self.pem)
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Names and IP addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| ())
    }

    /// One that has expired long ago.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut issued = Issued {
            certificate: certificate.pem(),
            certificate_der: certificate.der().to_vec(),
            between_der: Vec::new(),
            key: key.serialize_pem(),
            key_der: key.serialize_der(),
        };
        if self.is_subordinate {
            issued.certificate.push_str(&self.pem);
            issued.between_der.push(self.der.clone());
        }
        issued
    }

    /// A server of these names.
    pub(crate) fn server(&self, names: &[&str]) -> TlsServerConfig {
        TlsServerOptions::new(self.issue(names).identity()).build().expect("a configuration")
    }

    /// A client that trusts this authority and nobody else.
    pub(crate) fn client(&self) -> TlsClientConfig {
        TlsClientOptions::new().trust(self.trust()).build().expect("a configuration")
    }
}

impl Issued {
    pub(crate) fn identity(&self) -> TlsIdentity {
        TlsIdentity::from_pem(&self.certificate, &self.key)
    }
}

/// ECDSA on P-256: made in no time.
fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
