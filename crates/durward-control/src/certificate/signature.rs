//! Checks the signature of a revocation list.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::alg_id;
use x509_parser::prelude::{CertificateRevocationList, FromDer};
use x509_parser::x509::AlgorithmIdentifier;

use super::x509::KeyKind;
use super::{Authority, Revocations};

/// Judgement of a signature by one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// The key has made the signature.
    Fits,
    /// Another key has.
    Foreign,
    /// The algorithm is none that the TLS library checks: a list with it is ignored.
    Unsupported,
}

/// Algorithms of signatures that the TLS library checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rsa(Hash),
    RsaPss(Hash),
    Ecdsa(Hash),
    Ed25519,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    fn read(written: &AlgorithmIdentifier<'_>) -> Option<Self> {
        Some(match written.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.10" => Self::RsaPss(pss_hash(written)?),
            "1.2.840.113549.1.1.11" => Self::Rsa(Hash::Sha256),
            "1.2.840.113549.1.1.12" => Self::Rsa(Hash::Sha384),
            "1.2.840.113549.1.1.13" => Self::Rsa(Hash::Sha512),
            "1.2.840.10045.4.3.2" => Self::Ecdsa(Hash::Sha256),
            "1.2.840.10045.4.3.3" => Self::Ecdsa(Hash::Sha384),
            "1.2.840.10045.4.3.4" => Self::Ecdsa(Hash::Sha512),
            "1.3.101.112" => Self::Ed25519,
            _ => return None,
        })
    }

    /// Returns the algorithm by which a key of this kind makes such signatures; `None` where it cannot.
    fn of_key(self, kind: &KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
        use Hash::{Sha256, Sha384, Sha512};
        Some(match (kind, self) {
            (KeyKind::Rsa(_), Self::Rsa(Sha256)) => &RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa(_), Self::Rsa(Sha384)) => &RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa(_), Self::Rsa(Sha512)) => &RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa(_), Self::RsaPss(Sha256)) => &RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa(_), Self::RsaPss(Sha384)) => &RSA_PSS_2048_8192_SHA384,
            (KeyKind::Rsa(_), Self::RsaPss(Sha512)) => &RSA_PSS_2048_8192_SHA512,
            (KeyKind::P256, Self::Ecdsa(Sha256)) => &ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, Self::Ecdsa(Sha384)) => &ECDSA_P256_SHA384_ASN1,
            (KeyKind::P256, Self::Ecdsa(Sha512)) => &ECDSA_P256_SHA512_ASN1,
            (KeyKind::P384, Self::Ecdsa(Sha256)) => &ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, Self::Ecdsa(Sha384)) => &ECDSA_P384_SHA384_ASN1,
            (KeyKind::P384, Self::Ecdsa(Sha512)) => &ECDSA_P384_SHA512_ASN1,
            (KeyKind::P521, Self::Ecdsa(Sha256)) => &ECDSA_P521_SHA256_ASN1,
            (KeyKind::P521, Self::Ecdsa(Sha384)) => &ECDSA_P521_SHA384_ASN1,
            (KeyKind::P521, Self::Ecdsa(Sha512)) => &ECDSA_P521_SHA512_ASN1,
            (KeyKind::Ed25519, Self::Ed25519) => &ED25519,
            _ => return None,
        })
    }
}

/// The hash of RSA-PSS, whose parameters the TLS library takes in one form only: one hash for both purposes and a salt of its length.
fn pss_hash(written: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    /// Bytes before the content of the parameters: the object identifier, and the tag and length of the sequence.
    const BEFORE: usize = 11 + 2;
    let parameters = written.parameters.as_ref()?;
    let known = [
        (alg_id::RSA_PSS_SHA256, Hash::Sha256),
        (alg_id::RSA_PSS_SHA384, Hash::Sha384),
        (alg_id::RSA_PSS_SHA512, Hash::Sha512),
    ];
    let same = |form: &rustls_pki_types::AlgorithmIdentifier| {
        form.as_ref().get(BEFORE..) == Some(parameters.data)
    };
    known.into_iter().find(|(form, _)| same(form)).map(|(_, hash)| hash)
}

impl Revocations {
    /// Returns what the list's signature says of `authority`'s key.
    #[must_use]
    pub fn signature_of(&self, authority: &Authority) -> Signature {
        let Ok((_, list)) = CertificateRevocationList::from_der(&self.der) else {
            return Signature::Unsupported;
        };
        let Some(algorithm) = Algorithm::read(&list.signature_algorithm) else {
            return Signature::Unsupported;
        };
        // A key of another kind has not signed it.
        let Some(algorithm) = algorithm.of_key(&authority.key_kind) else {
            return Signature::Foreign;
        };
        let key = UnparsedPublicKey::new(algorithm, &authority.public_key);
        match key.verify(list.tbs_cert_list.as_ref(), &list.signature_value.data) {
            Ok(()) => Signature::Fits,
            Err(_) => Signature::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use durward_testkit::certificates::Authority as Issuer;

    use super::super::authority::{read, read_revocations};
    use super::*;

    #[test]
    fn a_list_is_signed_by_the_key_of_its_issuer_and_not_by_anothers_of_its_name() {
        let (one, other) = (Issuer::new("partners"), Issuer::new("partners"));
        let authority = |issuer: &Issuer| read(issuer.pem().as_bytes()).unwrap().remove(0);
        let list = read_revocations(one.revoke(&[]).pem.as_bytes()).unwrap().remove(0);

        assert_eq!(list.signature_of(&authority(&one)), Signature::Fits);
        assert_eq!(list.signature_of(&authority(&other)), Signature::Foreign);
    }

    /// The files `name.crt` and `name.crl` of an authority that OpenSSL makes with a key and a way to sign.
    fn made_by_openssl(dir: &std::path::Path, name: &str, key: &[&str], sign: &[&str]) -> bool {
        let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\ncrlnumber=number\ndefault_crl_days=1\ndefault_md=default\n";
        std::fs::write(dir.join("ca.cnf"), config).unwrap();
        std::fs::write(dir.join("index"), "").unwrap();
        std::fs::write(dir.join("number"), "01\n").unwrap();
        let run = |arguments: &[&str]| {
            let output = Command::new("openssl").args(arguments).current_dir(dir).output();
            output.is_ok_and(|output| output.status.success())
        };
        let [key_file, crt, crl] = ["key", "crt", "crl"].map(|end| format!("{name}.{end}"));
        let request =
            ["req", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", &key_file, "-out", &crt];
        let list = [
            "ca", "-gencrl", "-config", "ca.cnf", "-keyfile", &key_file, "-cert", &crt, "-out",
            &crl,
        ];
        run(&[&request[..], key].concat()) && run(&[&list[..], sign].concat())
    }

    // Issue 10, point 21.
    #[test]
    fn lists_of_every_algorithm_that_openssl_signs_with_are_judged_as_the_tls_library_does() {
        let dir = tempfile::tempdir().unwrap();
        if Command::new("openssl").arg("version").output().is_err() {
            let text = "SKIPPED lists_of_every_algorithm_that_openssl_signs_with (openssl is not installed)\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            return;
        }
        let (rsa, p256) =
            (["-newkey", "rsa:2048"], ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let (p384, ed25519) =
            (["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"], ["-newkey", "ed25519"]);
        let pss = |hash: &'static str, salt: &'static str| {
            ["-md", hash, "-sigopt", "rsa_padding_mode:pss", "-sigopt", salt]
        };
        let digest = "rsa_pss_saltlen:digest";
        let cases: [(&[&str], &[&str], Signature); 14] = [
            (&rsa, &["-md", "sha256"], Signature::Fits),
            (&rsa, &["-md", "sha512"], Signature::Fits),
            (&rsa, &["-md", "sha1"], Signature::Unsupported),
            (&rsa, &pss("sha256", digest), Signature::Fits),
            (&rsa, &pss("sha384", digest), Signature::Fits),
            (&rsa, &pss("sha512", digest), Signature::Fits),
            (&rsa, &pss("sha256", "rsa_pss_saltlen:20"), Signature::Unsupported),
            (&rsa, &pss("sha256", "rsa_pss_saltlen:max"), Signature::Unsupported),
            (&p256, &["-md", "sha256"], Signature::Fits),
            (&p256, &["-md", "sha512"], Signature::Fits),
            (&p256, &["-md", "sha1"], Signature::Unsupported),
            (&p384, &["-md", "sha384"], Signature::Fits),
            (&p384, &["-md", "sha512"], Signature::Fits),
            (&ed25519, &[], Signature::Fits),
        ];
        let other = read(Issuer::new("x").pem().as_bytes()).unwrap().remove(0);
        for (at, (key, sign, expected)) in cases.into_iter().enumerate() {
            let name = format!("a{at}");
            assert!(made_by_openssl(dir.path(), &name, key, sign), "{key:?} {sign:?}");
            let file = |end: &str| std::fs::read(dir.path().join(format!("{name}.{end}"))).unwrap();
            let authority = read(&file("crt")).unwrap().remove(0);
            let list = read_revocations(&file("crl")).unwrap().remove(0);

            assert_eq!(list.signature_of(&authority), expected, "{key:?} {sign:?}");
            if expected == Signature::Fits {
                assert_eq!(list.signature_of(&other), Signature::Foreign, "{key:?} {sign:?}");
            }
        }
    }
}
