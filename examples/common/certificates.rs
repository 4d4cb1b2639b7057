//! Certificates: made on the fly, and described.

use std::error::Error;
use std::time::{Duration, SystemTime};
use std::{fmt, fs};

use openssl::sha::sha256;
use openssl::x509::X509;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use usockets::{TlsIdentity, TrustAnchors};

use super::Options;

/// How long the certificates made here are good.
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

/// Clocks may differ by this much.
const CLOCKS: Duration = Duration::from_secs(3600);

/// A certificate and its key.
pub(crate) struct Certified {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Certified {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }

    pub(crate) fn identity(&self) -> TlsIdentity {
        TlsIdentity::from_pem(&self.certificate, &self.key)
    }
}

/// The certificate that the options `--cert FILE --key FILE` name; without them one for this computer,
/// which nobody trusts but those who are given it. `--ca FILE` says where to write it to for them.
pub(crate) fn server_identity(options: &Options) -> Result<TlsIdentity, Box<dyn Error>> {
    match (options.get("--cert"), options.get("--key")) {
        (Some(certificate), Some(key)) => Ok(TlsIdentity::from_pem_files(certificate, key)?),
        (None, None) => {
            let made = self_signed(&["localhost", "127.0.0.1", "::1"])?;
            println!("self-signed certificate, SHA-256 {}", fingerprint(&made.der));
            if let Some(path) = options.get("--ca") {
                fs::write(path, &made.certificate).map_err(|error| format!("{path}: {error}"))?;
            }
            Ok(made.identity())
        }
        _ => Err("--cert and --key belong together".into()),
    }
}

/// A certificate that is its own issuer. Names and IP addresses.
pub(crate) fn self_signed(names: &[&str]) -> Result<Certified, rcgen::Error> {
    let key = KeyPair::generate()?;
    let params = params(names, names[0], ExtendedKeyUsagePurpose::ServerAuth)?;
    Ok(Certified::new(&params.self_signed(&key)?, &key))
}

/// Somebody who issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = params(&[], name, ExtendedKeyUsagePurpose::Any)?;
        params.extended_key_usages.clear();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    pub(crate) fn trust(&self) -> TrustAnchors {
        TrustAnchors::pem(&self.certificate)
    }

    /// For a server of these names.
    pub(crate) fn server(&self, names: &[&str]) -> Result<Certified, rcgen::Error> {
        self.issue(params(names, names[0], ExtendedKeyUsagePurpose::ServerAuth)?)
    }

    /// For a client who is called like that.
    pub(crate) fn client(&self, name: &str) -> Result<Certified, rcgen::Error> {
        self.issue(params(&[], name, ExtendedKeyUsagePurpose::ClientAuth)?)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Certified, rcgen::Error> {
        let key = KeyPair::generate()?;
        params.use_authority_key_identifier_extension = true;
        Ok(Certified::new(&params.signed_by(&key, &self.issuer)?, &key))
    }
}

fn params(
    names: &[&str],
    common_name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![purpose];
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    (params.not_before, params.not_after) = (now - CLOCKS, now + VALIDITY);
    Ok(params)
}

/// The digest by which people compare certificates, as browsers show it.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    let pairs: Vec<String> = sha256(der).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// Whose certificate it is.
pub(crate) fn subject(der: &[u8]) -> String {
    let Ok(certificate) = X509::from_der(der) else { return "not a certificate".to_owned() };
    let parts = certificate.subject_name().entries().map(|entry| {
        let kind = entry.object().nid().short_name().unwrap_or("?");
        let value = entry.data().to_string().unwrap_or_else(|_| "?".to_owned());
        // What peers send is for nobody's terminal as it is, nor does it pass for another part of the name.
        format!("{kind}={}", value.escape_debug().to_string().replace(',', "\\,"))
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Shows protocols of ALPN and the like, which are bytes that mostly are text.
pub(crate) fn text(bytes: Option<&[u8]>) -> impl fmt::Display {
    bytes.map_or_else(|| "none".to_owned(), |bytes| bytes.escape_ascii().to_string())
}
