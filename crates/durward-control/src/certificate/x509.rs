//! One X.509 certificate: what checks and people need to know of it.
//!
//! Deliberately absent: the signature; who trusts a certificate checks that.

use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;

use super::sha256;

/// Facts about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The certificate in DER.
    pub der: Arc<[u8]>,
    /// Subject alternative names of type iPAddress.
    pub ip_names: Vec<IpAddr>,
    /// Subject alternative names of type dNSName, lower case.
    pub dns_names: Vec<Arc<str>>,
    /// The subject.
    pub subject: Arc<str>,
    /// The issuer.
    pub issuer: Arc<str>,
    /// The subject in DER, for finding whom this certificate issued.
    pub raw_subject: Vec<u8>,
    /// The issuer in DER.
    pub raw_issuer: Vec<u8>,
    /// The kind of public key.
    pub key_kind: KeyKind,
    /// The public key's bits.
    pub public_key: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256, lower-case hexadecimal.
    pub fingerprint: Arc<str>,
    /// X.509 version 3, the only one with extensions.
    pub is_v3: bool,
    /// True if it may issue certificates.
    pub is_authority: bool,
    /// Extended key usage; `None` if the certificate names none.
    pub usage: Option<Usage>,
}

/// Extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// True if servers may present it.
    pub server: bool,
    /// True if clients may present it.
    pub client: bool,
}

/// Kinds of public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with so many bits.
    Rsa(usize),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// Anything else, by name or object identifier.
    Other(String),
}

impl KeyKind {
    /// As printed: `RSA-2048`, `ECDSA-P256`, `Ed25519`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Rsa(bits) => format!("RSA-{bits}"),
            Self::P256 => "ECDSA-P256".to_owned(),
            Self::P384 => "ECDSA-P384".to_owned(),
            Self::P521 => "ECDSA-P521".to_owned(),
            Self::Ed25519 => "Ed25519".to_owned(),
            Self::Other(name) => name.clone(),
        }
    }

    /// Returns true if TLS can be served with such a key.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        match self {
            Self::Rsa(bits) => (2048..=8192).contains(bits),
            Self::Other(_) => false,
            _ => true,
        }
    }
}

/// Reason why bytes are not a certificate we can read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("is not a certificate: {reason}")]
pub struct NotCertificate {
    /// Message of the parser.
    pub reason: String,
}

/// Reads one certificate.
///
/// # Errors
/// When the bytes are not one certificate in DER.
pub fn read(der: &[u8]) -> Result<Facts, NotCertificate> {
    let fault = |reason: String| NotCertificate { reason };
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| fault(error.to_string().to_lowercase()))?;
    if !rest.is_empty() {
        return Err(fault("there are bytes after its end".to_owned()));
    }
    let (ip_names, dns_names) = names(&certificate);
    let usage = certificate.extended_key_usage().ok().flatten().map(|usage| Usage {
        server: usage.value.any || usage.value.server_auth,
        client: usage.value.any || usage.value.client_auth,
    });
    Ok(Facts {
        der: Arc::from(der),
        ip_names,
        dns_names,
        subject: Arc::from(certificate.subject().to_string()),
        issuer: Arc::from(certificate.issuer().to_string()),
        raw_subject: certificate.subject().as_raw().to_vec(),
        raw_issuer: certificate.issuer().as_raw().to_vec(),
        key_kind: key_kind(&certificate),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        fingerprint: Arc::from(sha256([der])),
        is_v3: certificate.version() == X509Version::V3,
        is_authority: certificate.is_ca(),
        usage,
    })
}

fn names(certificate: &X509Certificate<'_>) -> (Vec<IpAddr>, Vec<Arc<str>>) {
    let (mut ip_names, mut dns_names) = (Vec::new(), Vec::new());
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return (ip_names, dns_names);
    };
    for name in &names.value.general_names {
        match name {
            GeneralName::IPAddress(bytes) => ip_names.extend(ip(bytes)),
            GeneralName::DNSName(name) => dns_names.push(Arc::from(name.to_ascii_lowercase())),
            _ => {}
        }
    }
    (ip_names, dns_names)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok().map(|address| address.to_canonical())
}

fn key_kind(certificate: &X509Certificate<'_>) -> KeyKind {
    let key = certificate.public_key();
    if let Ok(PublicKey::RSA(rsa)) = key.parsed() {
        let modulus = rsa.modulus.iter().skip_while(|byte| **byte == 0);
        let bits = modulus.clone().count() * 8;
        let unused = modulus.clone().next().map_or(0, |first| first.leading_zeros() as usize);
        return KeyKind::Rsa(bits - unused);
    }
    let algorithm = key.algorithm.algorithm.to_id_string();
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match (algorithm.as_str(), curve.map(|curve| curve.to_id_string()).as_deref()) {
        ("1.3.101.112", _) => KeyKind::Ed25519,
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => KeyKind::P256,
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => KeyKind::P384,
        ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => KeyKind::P521,
        ("1.2.840.10045.2.1", Some("1.3.132.0.10")) => KeyKind::Other("ECDSA-secp256k1".to_owned()),
        ("1.2.840.10045.2.1", Some("1.3.132.0.33")) => KeyKind::Other("ECDSA-P224".to_owned()),
        ("1.2.840.10045.2.1", _) => KeyKind::Other("ECDSA on an unnamed curve".to_owned()),
        ("1.3.101.113", _) => KeyKind::Other("Ed448".to_owned()),
        ("1.2.840.113549.1.1.10", _) => KeyKind::Other("RSASSA-PSS".to_owned()),
        ("1.2.840.10040.4.1", _) => KeyKind::Other("DSA".to_owned()),
        (other, _) => KeyKind::Other(other.to_owned()),
    }
}
