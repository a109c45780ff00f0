//! Facts of certificates, read from DER: names, key, dates, and the chain.
//!
//! Deliberately absent: trust, which is the configuration's decision.

use std::net::IpAddr;

use durward_model::certificate::{Certificate, KeyEncoding};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry as oid;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Facts of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// Distinguished name of the subject.
    pub(crate) subject: String,
    /// Distinguished name of the issuer.
    pub(crate) issuer: String,
    /// Subject alternative names, `IP:…` and `DNS:…`.
    pub(crate) names: Vec<String>,
    /// `RSA-2048`, `ECDSA-P256`, `Ed25519` …
    pub(crate) key: String,
    /// Seconds since the Unix epoch.
    pub(crate) not_before: i64,
    /// Seconds since the Unix epoch.
    pub(crate) not_after: i64,
    /// True for a certificate authority.
    pub(crate) authority: bool,
    /// True if subject and issuer are equal and the signature is by its own key.
    pub(crate) self_signed: bool,
}

impl Facts {
    /// Returns the whole days until it expires; negative once it has.
    pub(crate) fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(86_400)
    }
}

/// Parses a certificate.
///
/// # Errors
/// Fails if the DER is not an X.509 certificate.
pub(crate) fn facts(der: &[u8]) -> Result<Facts, String> {
    let certificate = parse(der)?;
    Ok(Facts {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names: names(&certificate),
        key: key_type(certificate.public_key()),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        authority: certificate.is_ca(),
        self_signed: certificate.subject() == certificate.issuer()
            && certificate.verify_signature(None).is_ok(),
    })
}

/// State of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Each certificate is signed by the next, the last by itself or by one of the roots.
    Complete,
    /// Each certificate is signed by the next; the issuer of the last is missing.
    Open,
    /// A certificate is not signed by the one after it.
    Broken {
        /// Certificate and fault.
        reason: String,
    },
}

impl Chain {
    /// Returns a short description.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Complete => "ok".to_owned(),
            Self::Open => "ok, root not included".to_owned(),
            Self::Broken { reason } => format!("broken: {reason}"),
        }
    }
}

/// Follows a chain, leaf first, to one of `roots` (DER) if one of them signed its end.
pub(crate) fn chain(chain: &[&[u8]], roots: &[&[u8]]) -> Chain {
    match follow(chain, roots) {
        Ok(chain) => chain,
        Err(reason) => Chain::Broken { reason },
    }
}

fn follow(chain: &[&[u8]], roots: &[&[u8]]) -> Result<Chain, String> {
    let chain = chain.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    for (at, pair) in chain.windows(2).enumerate() {
        let [child, parent] = pair else { continue };
        if !issued(child, parent) {
            return Err(format!("certificate {} is not signed by certificate {}", at + 1, at + 2));
        }
        if !parent.is_ca() {
            return Err(format!("certificate {} may not issue others", at + 2));
        }
    }
    let Some(last) = chain.last() else { return Err("it is empty".to_owned()) };
    let rooted = roots.iter().filter_map(|root| parse(root).ok()).any(|root| issued(last, &root));
    if rooted || issued(last, last) {
        return Ok(Chain::Complete);
    }
    Ok(Chain::Open)
}

fn issued(child: &X509Certificate<'_>, parent: &X509Certificate<'_>) -> bool {
    child.issuer() == parent.subject() && child.verify_signature(Some(parent.public_key())).is_ok()
}

/// Returns true if the private key belongs to the leaf; `None` if that cannot be decided.
pub(crate) fn key_matches(certificate: &Certificate) -> Option<bool> {
    let key = private_key(certificate);
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).ok()?;
    match rustls::sign::CertifiedKey::new(certificates(certificate), key).keys_match() {
        Ok(()) => Some(true),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => Some(false),
        Err(_) => None,
    }
}

/// Converts the chain for rustls.
pub(crate) fn certificates(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

/// Converts the private key for rustls.
pub(crate) fn private_key(certificate: &Certificate) -> PrivateKeyDer<'static> {
    let der = certificate.key.der.expose().to_vec();
    match certificate.key.encoding {
        KeyEncoding::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
        KeyEncoding::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
        KeyEncoding::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    x509_parser::parse_x509_certificate(der)
        .map(|(_, certificate)| certificate)
        .map_err(|error| format!("not an X.509 certificate ({error})"))
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::URI(uri) => Some(format!("URI:{uri}")),
        GeneralName::RFC822Name(address) => Some(format!("email:{address}")),
        GeneralName::IPAddress(bytes) => ip(bytes).map(|ip| format!("IP:{ip}")),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn key_type(key: &SubjectPublicKeyInfo<'_>) -> String {
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA-{}", rsa.key_size()),
        Ok(PublicKey::EC(_)) if curve == Some(oid::OID_EC_P256) => "ECDSA-P256".to_owned(),
        Ok(PublicKey::EC(_)) if curve == Some(oid::OID_NIST_EC_P384) => "ECDSA-P384".to_owned(),
        Ok(PublicKey::EC(_)) if curve == Some(oid::OID_NIST_EC_P521) => "ECDSA-P521".to_owned(),
        _ if key.algorithm.algorithm == oid::OID_SIG_ED25519 => "Ed25519".to_owned(),
        _ => key.algorithm.algorithm.to_string(),
    }
}

/// Formats seconds since the Unix epoch as a date, `2027-01-31`.
pub(crate) fn date(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds);
    let text = time.map_or_else(|_| format!("{seconds} s"), |time| time.to_string());
    text.split('T').next().unwrap_or_default().to_owned()
}

/// Formats seconds since the Unix epoch as RFC 3339, `2027-01-31T12:00:00Z`.
pub(crate) fn moment(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds);
    time.map_or_else(|_| format!("{seconds} s"), |time| time.to_string())
}

/// Returns the present time in seconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
