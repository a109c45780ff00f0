//! What a certificate says, read from its DER: names, key, dates, and whether a chain holds together.
//!
//! Deliberately absent: trust. Whether an authority is to be believed is the configuration's business.

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

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// The subject's distinguished name.
    pub(crate) subject: String,
    /// The issuer's distinguished name.
    pub(crate) issuer: String,
    /// Subject alternative names, `IP:…` and `DNS:…`.
    pub(crate) names: Vec<String>,
    /// `RSA-2048`, `ECDSA-P256`, `Ed25519` …
    pub(crate) key: String,
    /// Seconds since the Unix epoch.
    pub(crate) not_before: i64,
    /// Seconds since the Unix epoch.
    pub(crate) not_after: i64,
    /// Whether it may issue.
    pub(crate) authority: bool,
    /// Whether subject and issuer are one and the signature is its own.
    pub(crate) self_signed: bool,
}

impl Facts {
    /// Whole days until it ends; negative once it has.
    pub(crate) fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(86_400)
    }
}

/// Reads a certificate.
///
/// # Errors
/// When the DER is not an X.509 certificate.
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

/// How a chain holds together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Every certificate is signed by the next, the last by itself or by one of the roots.
    Complete,
    /// Every certificate is signed by the next; the last one's issuer is not here.
    Open,
    /// A certificate is not signed by the one after it.
    Broken {
        /// Which, and why.
        reason: String,
    },
}

impl Chain {
    /// In a few words.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Complete => "ok".to_owned(),
            Self::Open => "ok, root not included".to_owned(),
            Self::Broken { reason } => format!("broken: {reason}"),
        }
    }
}

/// Follows a chain, leaf first, to one of `roots` (DER) if they have its end.
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

/// Whether the private key belongs to the leaf; `None` when that cannot be told.
pub(crate) fn key_matches(certificate: &Certificate) -> Option<bool> {
    let key = private_key(certificate);
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).ok()?;
    match rustls::sign::CertifiedKey::new(certificates(certificate), key).keys_match() {
        Ok(()) => Some(true),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => Some(false),
        Err(_) => None,
    }
}

/// The chain as rustls takes it.
pub(crate) fn certificates(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

/// The private key as rustls takes it.
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

/// Seconds since the Unix epoch as a date, `2027-01-31`.
pub(crate) fn date(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds);
    let text = time.map_or_else(|_| format!("{seconds} s"), |time| time.to_string());
    text.split('T').next().unwrap_or_default().to_owned()
}

/// Seconds since the Unix epoch as a moment of RFC 3339, `2027-01-31T12:00:00Z`.
pub(crate) fn moment(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds);
    time.map_or_else(|_| format!("{seconds} s"), |time| time.to_string())
}

/// Seconds since the Unix epoch, now.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
