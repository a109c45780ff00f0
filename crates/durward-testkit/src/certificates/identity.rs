//! A certificate chain with its private key, in the encodings files come in.
//! It does not know who issued it; `Authority` does.

use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{KeyKind, keys, pem};

/// The file encoding of a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    /// `PRIVATE KEY`, every kind of key.
    Pkcs8,
    /// `EC PRIVATE KEY`, ECDSA keys only.
    Sec1,
    /// `RSA PRIVATE KEY`, RSA keys only.
    Pkcs1,
}

/// A certificate chain, leaf first and without the root, and the key of its leaf.
pub struct Identity {
    /// The chain as `CERTIFICATE` blocks.
    pub chain_pem: String,
    /// The key as a PKCS#8 `PRIVATE KEY` block.
    pub key_pem: String,
    /// The chain, leaf first.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// The key in PKCS#8.
    pub key_der: PrivateKeyDer<'static>,
    pub(super) serial: Vec<u8>,
    kind: KeyKind,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain_pem: self.chain_pem.clone(),
            key_pem: self.key_pem.clone(),
            chain_der: self.chain_der.clone(),
            key_der: self.key_der.clone_key(),
            serial: self.serial.clone(),
            kind: self.kind,
        }
    }
}

/// Where `Identity::write` put its two files.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Identity {
    pub(super) fn new(
        chain_der: Vec<CertificateDer<'static>>,
        key: &KeyPair,
        kind: KeyKind,
        serial: Vec<u8>,
    ) -> Self {
        let pkcs8 = keys::pkcs8(kind, key);
        Self {
            chain_pem: chain_der.iter().map(|der| pem("CERTIFICATE", der)).collect(),
            key_pem: pem("PRIVATE KEY", &pkcs8),
            chain_der,
            key_der: PrivateKeyDer::Pkcs8(pkcs8.into()),
            serial,
            kind,
        }
    }

    /// The leaf certificate.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain_der[0]
    }

    /// The serial number, big-endian.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The key as one PEM block in the given encoding.
    ///
    /// # Panics
    /// When this kind of key has no such encoding.
    #[must_use]
    pub fn key_pem_as(&self, encoding: KeyEncoding) -> String {
        let pkcs8 = self.key_der.secret_der();
        let (label, der) = match encoding {
            KeyEncoding::Pkcs8 => ("PRIVATE KEY", Some(pkcs8.to_vec())),
            KeyEncoding::Sec1 => ("EC PRIVATE KEY", keys::sec1(self.kind, pkcs8)),
            KeyEncoding::Pkcs1 => ("RSA PRIVATE KEY", keys::pkcs1(self.kind, pkcs8)),
        };
        let Some(der) = der else { panic!("a {:?} key has no {encoding:?} encoding", self.kind) };
        pem(label, &der)
    }

    /// Writes `stem.crt` (the chain) and `stem.key` (PKCS#8).
    pub fn write(&self, dir: impl AsRef<Path>, stem: &str) -> IdentityFiles {
        self.write_as(dir, stem, KeyEncoding::Pkcs8)
    }

    /// Writes `stem.crt` (the chain) and `stem.key` in the given encoding.
    pub fn write_as(
        &self,
        dir: impl AsRef<Path>,
        stem: &str,
        encoding: KeyEncoding,
    ) -> IdentityFiles {
        let certificate = dir.as_ref().join(format!("{stem}.crt"));
        let key = dir.as_ref().join(format!("{stem}.key"));
        std::fs::write(&certificate, &self.chain_pem).expect("the directory of a test is writable");
        std::fs::write(&key, self.key_pem_as(encoding))
            .expect("the directory of a test is writable");
        IdentityFiles { certificate, key }
    }
}
