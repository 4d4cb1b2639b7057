//! Certificates that are made for one run of one test program, and good for nothing else.

use std::net::IpAddr;
use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::net::own_addresses;

/// All that there is. Made when the first test asks.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The authority that tests trust, in PEM and DER.
    pub authority: String,
    pub authority_der: Vec<u8>,
    /// A server at `localhost` and at every address that tests listen on.
    pub server: Leaf,
    /// The same, of another key and with a certificate between it and the authority.
    pub chained: Leaf,
    /// A server that was fit until 2001.
    pub expired: Leaf,
    /// A server at `elsewhere.example` only.
    pub elsewhere: Leaf,
    /// A server of which nobody has heard: it has signed its certificate itself.
    pub stranger: Leaf,
    /// A client, whose name is `client`.
    pub client: Leaf,
}

/// A certificate with its key.
#[derive(Debug)]
pub(crate) struct Leaf {
    /// In PEM, with what is between it and the authority, the leaf first.
    pub chain: String,
    /// The same in DER.
    pub chain_der: Vec<Vec<u8>>,
    /// PKCS#8.
    pub key: String,
    pub key_der: Vec<u8>,
}

pub(crate) fn certificates() -> &'static Certificates {
    static CERTIFICATES: OnceLock<Certificates> = OnceLock::new();
    CERTIFICATES.get_or_init(Certificates::make)
}

impl Certificates {
    fn make() -> Self {
        let root = Authority::root("usockets test authority");
        let between = root.authority("usockets test authority, second line");
        let server = || params("localhost", Some(ExtendedKeyUsagePurpose::ServerAuth), &here());
        let mut expired = server();
        expired.not_before = date_time_ymd(2000, 1, 1);
        expired.not_after = date_time_ymd(2001, 1, 1);
        let elsewhere = ["elsewhere.example".to_owned()];
        let elsewhere = params("elsewhere", Some(ExtendedKeyUsagePurpose::ServerAuth), &elsewhere);
        let client = params("client", Some(ExtendedKeyUsagePurpose::ClientAuth), &[]);
        Self {
            authority: root.pem.clone(),
            authority_der: root.der.clone(),
            server: root.leaf(&server()),
            chained: between.leaf(&server()),
            expired: root.leaf(&expired),
            elsewhere: root.leaf(&elsewhere),
            stranger: Leaf::self_signed(&server()),
            client: root.leaf(&client),
        }
    }
}

/// The names and addresses of this machine that tests connect to.
fn here() -> Vec<String> {
    let addresses = own_addresses().map(|address| IpAddr::from(address).to_string());
    ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().chain(addresses).collect()
}

fn params(
    name: &str,
    usage: Option<ExtendedKeyUsagePurpose>,
    names: &[String],
) -> CertificateParams {
    let mut params = CertificateParams::new(names).expect("names are legal");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    params.extended_key_usages.extend(usage);
    params.use_authority_key_identifier_extension = true;
    params
}

/// What signs, and the certificates that belong behind those that it has signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Vec<u8>,
    /// Not for the one that is trusted.
    is_sent: bool,
}

impl Authority {
    fn params(name: &str) -> CertificateParams {
        let mut params = params(name, None, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn root(name: &str) -> Self {
        let (params, key) = (Self::params(name), new_key());
        let certificate = params.self_signed(&key).expect("it can be signed");
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Self { issuer: Issuer::new(params, key), pem, der, is_sent: false }
    }

    fn authority(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), new_key());
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed");
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Self { issuer: Issuer::new(params, key), pem, der, is_sent: true }
    }

    fn leaf(&self, params: &CertificateParams) -> Leaf {
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed");
        let mut leaf = Leaf::new(&certificate, &key);
        if self.is_sent {
            leaf.chain.push_str(&self.pem);
            leaf.chain_der.push(self.der.clone());
        }
        leaf
    }
}

impl Leaf {
    fn self_signed(params: &CertificateParams) -> Self {
        let key = new_key();
        Self::new(&params.self_signed(&key).expect("it can be signed"), &key)
    }

    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            chain: certificate.pem(),
            chain_der: vec![certificate.der().to_vec()],
            key: key.serialize_pem(),
            key_der: key.serialize_der(),
        }
    }
}

/// ECDSA on P-256: made in no time.
fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
