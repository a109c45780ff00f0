//! An issued chain with its key, checked before anybody serves it.

use std::fmt;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fault::Fault;
use crate::order::Name;

/// Issued certificate: a PEM file of its private key and its chain, leaf first.
#[derive(Clone)]
pub struct Issued {
    /// The PEM.
    pub pem: String,
    /// Lifetime of the leaf.
    pub validity: Validity,
}

/// Lifetime of a certificate, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: i64,
    /// Last moment.
    pub to: i64,
}

impl fmt::Debug for Issued {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Issued {
    /// Joins a chain with the key it was ordered for.
    ///
    /// # Errors
    /// If the leaf does not name all that was ordered, or is no certificate.
    pub(crate) fn new(chain: &str, key: &str, names: &[Name]) -> Result<Self, Fault> {
        let refused = |what: &str| Fault::Refused(format!("the certificate it issued {what}"));
        let leaf =
            CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|_| refused("is not PEM"))?;
        let (_, leaf) = X509Certificate::from_der(&leaf).map_err(|_| refused("is not X.509"))?;
        let found = leaf.subject_alternative_name().ok().flatten();
        let found = found.map(|found| &*found.value.general_names).unwrap_or_default();
        for name in names {
            if !found.iter().any(|found| is_same(name, found)) {
                return Err(refused(&format!("does not name {name}")));
            }
        }
        let validity = leaf.validity();
        let validity =
            Validity { from: validity.not_before.timestamp(), to: validity.not_after.timestamp() };
        Ok(Self { pem: format!("{}\n{}", key.trim_end(), chain), validity })
    }
}

fn is_same(name: &Name, found: &GeneralName<'_>) -> bool {
    match (name, found) {
        (Name::Dns(name), GeneralName::DNSName(found)) => found.eq_ignore_ascii_case(name),
        (Name::Ip(std::net::IpAddr::V4(address)), GeneralName::IPAddress(found)) => {
            **found == address.octets()
        }
        (Name::Ip(std::net::IpAddr::V6(address)), GeneralName::IPAddress(found)) => {
            **found == address.octets()
        }
        _ => false,
    }
}
