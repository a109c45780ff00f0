//! Whose key has signed a revocation list.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::x509::KeyKind;
use super::{Authority, Revocations};

const RSA_SHA256: &str = "1.2.840.113549.1.1.11";
const RSA_SHA384: &str = "1.2.840.113549.1.1.12";
const RSA_SHA512: &str = "1.2.840.113549.1.1.13";
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
const ECDSA_SHA512: &str = "1.2.840.10045.4.3.4";
const PURE_ED25519: &str = "1.3.101.112";

impl Revocations {
    /// Returns whether `authority`'s key has signed the list; `None` when the algorithm is none we can check.
    #[must_use]
    pub fn is_signed_by(&self, authority: &Authority) -> Option<bool> {
        let (_, list) = CertificateRevocationList::from_der(&self.der).ok()?;
        let named = list.signature_algorithm.algorithm.to_id_string();
        if !is_known(&named) {
            return None;
        }
        // A key of another kind has not signed it.
        let Some(algorithm) = algorithm(&authority.key_kind, &named) else { return Some(false) };
        let key = UnparsedPublicKey::new(algorithm, &authority.public_key);
        Some(key.verify(list.tbs_cert_list.as_ref(), &list.signature_value.data).is_ok())
    }
}

fn is_known(named: &str) -> bool {
    [RSA_SHA256, RSA_SHA384, RSA_SHA512, ECDSA_SHA256, ECDSA_SHA384, ECDSA_SHA512, PURE_ED25519]
        .contains(&named)
}

fn algorithm(kind: &KeyKind, named: &str) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (kind, named) {
        (KeyKind::Rsa(_), RSA_SHA256) => &RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa(_), RSA_SHA384) => &RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa(_), RSA_SHA512) => &RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::P256, ECDSA_SHA256) => &ECDSA_P256_SHA256_ASN1,
        (KeyKind::P256, ECDSA_SHA384) => &ECDSA_P256_SHA384_ASN1,
        (KeyKind::P384, ECDSA_SHA256) => &ECDSA_P384_SHA256_ASN1,
        (KeyKind::P384, ECDSA_SHA384) => &ECDSA_P384_SHA384_ASN1,
        (KeyKind::P521, ECDSA_SHA256) => &ECDSA_P521_SHA256_ASN1,
        (KeyKind::P521, ECDSA_SHA384) => &ECDSA_P521_SHA384_ASN1,
        (KeyKind::P521, ECDSA_SHA512) => &ECDSA_P521_SHA512_ASN1,
        (KeyKind::Ed25519, PURE_ED25519) => &ED25519,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use durward_testkit::certificates::Authority as Issuer;

    use super::super::authority::{read, read_revocations};

    #[test]
    fn a_list_is_signed_by_the_key_of_its_issuer_and_not_by_anothers_of_its_name() {
        let (one, other) = (Issuer::new("partners"), Issuer::new("partners"));
        let authority = |issuer: &Issuer| read(issuer.pem().as_bytes()).unwrap().remove(0);
        let list = read_revocations(one.revoke(&[]).pem.as_bytes()).unwrap().remove(0);

        assert_eq!(list.is_signed_by(&authority(&one)), Some(true));
        assert_eq!(list.is_signed_by(&authority(&other)), Some(false));
    }
}
