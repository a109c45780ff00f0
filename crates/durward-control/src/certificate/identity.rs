//! A certificate chain with its key, checked against each other.
//!
//! Deliberately absent: which address or name it is for; that is the listener's question.

use std::fmt;
use std::sync::Arc;

use durward_model::certificate::PrivateKey;
use rustls_pki_types::pem::SectionKind;
use thiserror::Error;

use super::key::{self, KeyFault};
use super::pem::{self, PemFault};
use super::sha256_bytes;
use super::x509::{self, Facts, NotCertificate};

/// A chain and its key that belong together.
#[derive(Clone, Debug)]
pub struct Identity {
    /// DER, leaf first.
    pub chain: Vec<Arc<[u8]>>,
    /// Facts about the leaf.
    pub leaf: Facts,
    /// The leaf's key.
    pub key: PrivateKey,
    /// SHA-256 of the leaf's public key and its kind, by which the private key is recognised in whatever file.
    pub key_id: [u8; 32],
    /// Warnings about the chain.
    pub remarks: Vec<Remark>,
}

/// Something unusual that does not prevent serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// The chain is not in order from here on.
    ChainOrder {
        /// The position whose issuer does not follow, from 1.
        position: usize,
        /// The issuer that should follow.
        issuer: Arc<str>,
        /// Subject of the certificate that follows instead.
        follows: Arc<str>,
    },
    /// The leaf is an authority's certificate.
    IsAuthority,
}

impl Remark {
    /// The stable word for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ChainOrder { .. } => "ChainOrder",
            Self::IsAuthority => "CertificateIsAuthority",
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainOrder { position, issuer, follows } => write!(
                f,
                "has its chain out of order: certificate {position} was issued by {issuer:?}, but {follows:?} follows; \
                 put each issuer after what it issued"
            ),
            Self::IsAuthority => f.write_str(
                "is an authority's certificate (CA:TRUE), which many clients refuse from a server; issue a leaf from it",
            ),
        }
    }
}

/// Reason why a certificate and key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityFault {
    /// The certificate's file is not readable.
    #[error("{0}")]
    Pem(#[from] PemFault),
    /// There is no certificate in the file.
    #[error("the file has no certificate in it (CERTIFICATE)")]
    Missing,
    /// One of the certificates is damaged.
    #[error("certificate {position} in the file {fault}")]
    Damaged {
        /// Position, from 1.
        position: usize,
        /// Reason.
        fault: NotCertificate,
    },
    /// The leaf is of X.509 version 1 or 2.
    #[error(
        "{subject:?} is an X.509 version 1 certificate, which has no alternative names and which TLS libraries refuse: \
         reissue it with extensions (`durward certs issue`, or `openssl x509 -req -extfile …`)"
    )]
    NotVersion3 {
        /// Subject.
        subject: Arc<str>,
    },
    /// The key cannot be used for TLS here.
    #[error(
        "its key is {kind}, which is not supported: use ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits"
    )]
    KeyUnsupported {
        /// The kind of key.
        kind: String,
    },
    /// The key's file is not readable.
    #[error("the key: {0}")]
    Key(#[from] KeyFault),
    /// The key is another certificate's.
    #[error(
        "the key does not belong to the certificate {subject:?}: they were issued apart, or one of the two files is stale"
    )]
    KeyMismatch {
        /// The leaf's subject.
        subject: Arc<str>,
    },
    /// The key is that of a later certificate of the file.
    #[error(
        "the key belongs to certificate {position} in the file ({subject:?}), not to the first: put that one first and its issuers after it"
    )]
    LeafNotFirst {
        /// The leaf's position, from 1.
        position: usize,
        /// Subject.
        subject: Arc<str>,
    },
}

impl IdentityFault {
    /// The stable word for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Pem(_) | Self::Missing | Self::Damaged { .. } => "CertificateUnreadable",
            Self::NotVersion3 { .. } => "CertificateVersion1",
            Self::KeyUnsupported { .. } => "KeyUnsupported",
            Self::Key(_) => "KeyUnreadable",
            Self::KeyMismatch { .. } => "KeyMismatch",
            Self::LeafNotFirst { .. } => "ChainOrder",
        }
    }
}

/// Reads a chain (leaf first) and its key.
///
/// # Errors
/// When either cannot be read or used, or they do not belong together.
pub fn read(certificate: &[u8], key: &[u8]) -> Result<Identity, IdentityFault> {
    let chain = certificates(certificate)?;
    let leaf = chain.first().cloned().ok_or(IdentityFault::Missing)?;
    if !leaf.is_v3 {
        return Err(IdentityFault::NotVersion3 { subject: leaf.subject });
    }
    if !leaf.key_kind.is_supported() {
        return Err(IdentityFault::KeyUnsupported { kind: leaf.key_kind.name() });
    }
    let key = key::read(key)?;
    belongs(&key, &chain)?;
    let remarks = remarks(&chain);
    let key_id = sha256_bytes([leaf.key_kind.name().as_bytes(), &leaf.public_key]);
    let chain = chain.into_iter().map(|facts| facts.der).collect();
    Ok(Identity { chain, leaf, key, key_id, remarks })
}

fn certificates(bytes: &[u8]) -> Result<Vec<Facts>, IdentityFault> {
    let sections = pem::sections(bytes, SectionKind::Certificate)?;
    let certificates = sections.into_iter().filter(|(kind, _)| *kind == SectionKind::Certificate);
    certificates
        .zip(1..)
        .map(|((_, der), position)| {
            x509::read(&der).map_err(|fault| IdentityFault::Damaged { position, fault })
        })
        .collect()
}

fn belongs(key: &PrivateKey, chain: &[Facts]) -> Result<(), IdentityFault> {
    let matches = |facts: &Facts| {
        key::public_key(key, &facts.key_kind).is_some_and(|bits| bits == facts.public_key)
    };
    match chain.iter().position(matches) {
        Some(0) => Ok(()),
        Some(at) => Err(IdentityFault::LeafNotFirst {
            position: at + 1,
            subject: Arc::clone(&chain[at].subject),
        }),
        None => Err(IdentityFault::KeyMismatch { subject: Arc::clone(&chain[0].subject) }),
    }
}

fn remarks(chain: &[Facts]) -> Vec<Remark> {
    let broken = chain.windows(2).position(|pair| pair[0].raw_issuer != pair[1].raw_subject);
    let order = broken.map(|at| Remark::ChainOrder {
        position: at + 1,
        issuer: Arc::clone(&chain[at].issuer),
        follows: Arc::clone(&chain[at + 1].subject),
    });
    let authority = chain.first().filter(|leaf| leaf.is_authority).map(|_| Remark::IsAuthority);
    order.into_iter().chain(authority).collect()
}
