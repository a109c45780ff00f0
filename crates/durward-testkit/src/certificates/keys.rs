//! Private keys by kind, and their three file encodings.
//! RSA keys are generated once per process, because one costs as much time as a whole test.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};

use super::der::{element, elements};

/// The algorithm of a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on NIST P-256.
    EcdsaP256,
    /// ECDSA on NIST P-384.
    EcdsaP384,
    /// RSA with 2048 bits; every RSA identity of a process shares one key.
    Rsa2048,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// A key of this kind.
    pub(super) fn generate(self) -> KeyPair {
        let fresh = |algorithm| KeyPair::generate_for(algorithm).expect("a key is generated");
        match self {
            Self::EcdsaP256 => fresh(&PKCS_ECDSA_P256_SHA256),
            Self::EcdsaP384 => fresh(&PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => fresh(&PKCS_ED25519),
            Self::Rsa2048 => KeyPair::try_from(shared_rsa_key())
                .expect("the shared RSA key was encoded by the same library"),
        }
    }
}

/// The PKCS#8 form in version 1, which every reader knows; Ed25519 keys come out of the library in version 2.
pub(super) fn pkcs8(kind: KeyKind, key: &KeyPair) -> Vec<u8> {
    let der = key.serialize_der();
    if kind != KeyKind::Ed25519 {
        return der;
    }
    let pair = Ed25519KeyPair::from_pkcs8(&der).expect("an Ed25519 key reads back");
    pair.to_pkcs8v1().expect("an Ed25519 key has a PKCS#8 form").as_ref().to_vec()
}

/// The `EC PRIVATE KEY` form of RFC 5915; only ECDSA keys have one.
pub(super) fn sec1(kind: KeyKind, pkcs8: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match kind {
        KeyKind::EcdsaP256 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        KeyKind::EcdsaP384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        KeyKind::Rsa2048 | KeyKind::Ed25519 => return None,
    };
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).ok()?;
    let der = pair.private_key().as_der().ok()?;
    Some(der.as_ref().to_vec())
}

/// The `RSA PRIVATE KEY` form of RFC 8017: the octet string inside PKCS#8; only RSA keys have one.
pub(super) fn pkcs1(kind: KeyKind, pkcs8: &[u8]) -> Option<Vec<u8>> {
    if kind != KeyKind::Rsa2048 {
        return None;
    }
    let (outer, _) = element(pkcs8)?;
    let inner = elements(outer.content)?;
    // Version and algorithm come before it.
    Some(inner.get(2)?.content.to_vec())
}

fn shared_rsa_key() -> &'static [u8] {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    KEY.get_or_init(|| {
        KeyPair::generate_for(&PKCS_RSA_SHA256).expect("an RSA key is generated").serialize_der()
    })
}
