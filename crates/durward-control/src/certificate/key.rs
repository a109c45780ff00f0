//! Private keys: the container they come in, and whether they belong to a certificate.
//!
//! Deliberately absent: signing, and any way to print one.

use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use durward_model::Secret;
use durward_model::certificate::{KeyEncoding, PrivateKey};
use rustls_pki_types::pem::SectionKind;
use thiserror::Error;

use super::pem::{self, PemFault};
use super::x509::KeyKind;

/// Reason why bytes are not a private key we can use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// The file is not readable as PEM.
    #[error(transparent)]
    Pem(#[from] PemFault),
    /// There is no key in it.
    #[error("the file has no private key in it (PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY)")]
    Missing,
    /// The key needs a password.
    #[error(
        "the key is encrypted with a password: store it decrypted, for instance with `openssl pkey`"
    )]
    Encrypted,
}

/// The private key in `bytes`, PEM or DER.
///
/// # Errors
/// When there is none, or it is encrypted.
pub fn read(bytes: &[u8]) -> Result<PrivateKey, KeyFault> {
    let sections = pem::sections(bytes, SectionKind::PrivateKey)?;
    let key = sections.into_iter().find_map(|(kind, der)| encoding(kind).map(|found| (found, der)));
    let encrypted = || contains(bytes, b"ENCRYPTED");
    match key {
        Some((KeyEncoding::Pkcs8, der)) if !pem::is_pem(bytes) => Ok(unlabelled(der)),
        Some(_) if encrypted() => Err(KeyFault::Encrypted),
        Some((encoding, der)) => Ok(PrivateKey { encoding, der: Secret::new(der) }),
        None if encrypted() => Err(KeyFault::Encrypted),
        None => Err(KeyFault::Missing),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn encoding(kind: SectionKind) -> Option<KeyEncoding> {
    match kind {
        SectionKind::PrivateKey => Some(KeyEncoding::Pkcs8),
        SectionKind::RsaPrivateKey => Some(KeyEncoding::Pkcs1),
        SectionKind::EcPrivateKey => Some(KeyEncoding::Sec1),
        _ => None,
    }
}

/// DER says by its shape what PEM says by its label: PKCS#8 has a SEQUENCE second, SEC1 an OCTET STRING, PKCS#1 an INTEGER.
fn unlabelled(der: Vec<u8>) -> PrivateKey {
    let header = match der.get(1) {
        Some(0x82) => 4,
        Some(0x81) => 3,
        _ => 2,
    };
    let encoding = match der.get(header + 3) {
        Some(0x04) => KeyEncoding::Sec1,
        Some(0x02) => KeyEncoding::Pkcs1,
        _ => KeyEncoding::Pkcs8,
    };
    PrivateKey { encoding, der: Secret::new(der) }
}

/// Returns whether it is an ECDSA P-256 key in PKCS#8, as accounts at certificate authorities have them.
#[must_use]
pub fn is_p256_pkcs8(key: &PrivateKey) -> bool {
    key.encoding == KeyEncoding::Pkcs8
        && EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.der.expose()).is_ok()
}

/// The public key's bits of `key`, if it is a key of `kind`.
#[must_use]
pub fn public_key(key: &PrivateKey, kind: &KeyKind) -> Option<Vec<u8>> {
    let der = key.der.expose();
    match kind {
        KeyKind::Rsa(_) => {
            let pair = match key.encoding {
                KeyEncoding::Pkcs1 => RsaKeyPair::from_der(der),
                _ => RsaKeyPair::from_pkcs8(der),
            };
            pair.ok().map(|pair| pair.public_key().as_ref().to_vec())
        }
        KeyKind::P256 => ecdsa(der, &ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyKind::P384 => ecdsa(der, &ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyKind::P521 => ecdsa(der, &ECDSA_P521_SHA512_ASN1_SIGNING),
        KeyKind::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .ok()
            .map(|pair| pair.public_key().as_ref().to_vec()),
        KeyKind::Other(_) => None,
    }
}

fn ecdsa(der: &[u8], algorithm: &'static EcdsaSigningAlgorithm) -> Option<Vec<u8>> {
    let pair = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
    Some(pair.public_key().as_ref().to_vec())
}
