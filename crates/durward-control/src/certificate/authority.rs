//! Certificate authorities to trust, and what they have revoked.
//!
//! Deliberately absent: path building; the TLS library does that with the DER held here.

use std::sync::Arc;

use rustls_pki_types::pem::SectionKind;
use thiserror::Error;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Version};

use super::pem::{self, PemFault};
use super::x509::{self, Facts, NotCertificate};

/// One authority.
pub type Authority = Facts;

/// Reason why a file of authorities or revocations cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorityFault {
    /// The file is not readable.
    #[error("{0}")]
    Pem(#[from] PemFault),
    /// No certificate in it.
    #[error("the file has no certificate in it (CERTIFICATE)")]
    Missing,
    /// A certificate is damaged.
    #[error("certificate {position} in the file {fault}")]
    Damaged {
        /// Position, from 1.
        position: usize,
        /// Reason.
        fault: NotCertificate,
    },
    /// No list in it.
    #[error("the file has no revocation list in it (X509 CRL)")]
    NoList,
    /// A list is damaged.
    #[error("revocation list {position} in the file cannot be read: {reason}")]
    DamagedList {
        /// Position, from 1.
        position: usize,
        /// Reason.
        reason: String,
    },
    /// A list of version 1.
    #[error(
        "revocation list {position} in the file is of version 1, which TLS libraries refuse: issue it with a CRL number (`crl_extensions`)"
    )]
    OldList {
        /// Position, from 1.
        position: usize,
    },
}

/// One revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    /// The list in DER.
    pub der: Arc<[u8]>,
    /// Issuer.
    pub issuer: Arc<str>,
    /// The issuer in DER.
    pub raw_issuer: Vec<u8>,
    /// When the next one is due, seconds since the Unix epoch.
    pub next_update: Option<i64>,
}

/// The authorities in `bytes`, PEM or DER; at least one.
///
/// # Errors
/// When there is none, or one cannot be used.
pub fn read(bytes: &[u8]) -> Result<Vec<Authority>, AuthorityFault> {
    let sections = pem::sections(bytes, SectionKind::Certificate)?;
    let certificates = sections.into_iter().filter(|(kind, _)| *kind == SectionKind::Certificate);
    let authorities = certificates.zip(1..).map(|((_, der), position)| {
        x509::read(&der).map_err(|fault| AuthorityFault::Damaged { position, fault })
    });
    let authorities = authorities.collect::<Result<Vec<_>, _>>()?;
    if authorities.is_empty() { Err(AuthorityFault::Missing) } else { Ok(authorities) }
}

/// The revocation lists in `bytes`, PEM or DER; at least one.
///
/// # Errors
/// When there is none, or one cannot be used.
pub fn read_revocations(bytes: &[u8]) -> Result<Vec<Revocations>, AuthorityFault> {
    let sections = pem::sections(bytes, SectionKind::Crl)?;
    let lists = sections.into_iter().filter(|(kind, _)| *kind == SectionKind::Crl);
    let lists = lists.zip(1..).map(|((_, der), position)| revocations(&der, position));
    let lists = lists.collect::<Result<Vec<_>, _>>()?;
    if lists.is_empty() { Err(AuthorityFault::NoList) } else { Ok(lists) }
}

fn revocations(der: &[u8], position: usize) -> Result<Revocations, AuthorityFault> {
    let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| {
        AuthorityFault::DamagedList { position, reason: error.to_string().to_lowercase() }
    })?;
    if list.version() != Some(X509Version::V2) {
        return Err(AuthorityFault::OldList { position });
    }
    Ok(Revocations {
        der: Arc::from(der),
        issuer: Arc::from(list.issuer().to_string()),
        raw_issuer: list.issuer().as_raw().to_vec(),
        next_update: list.next_update().map(|time| time.timestamp()),
    })
}
