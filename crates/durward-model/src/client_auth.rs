//! What a listener asks of a client's certificate.
//!
//! Deliberately absent: the verifier itself; this is what it must be built from.

use std::sync::Arc;

use serde::Serialize;

/// Whether and how clients prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    Off,
    /// A certificate is asked for; one that is shown must be valid.
    Optional(Arc<ClientTrust>),
    /// No valid certificate, no handshake.
    Required(Arc<ClientTrust>),
}

/// The authorities and revocations a client certificate is checked against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientTrust {
    /// Root certificates in DER; several during a rotation with overlap.
    #[serde(skip)]
    pub roots: Vec<Arc<[u8]>>,
    /// Certificate revocation lists in DER.
    #[serde(skip)]
    pub revocations: Vec<Arc<[u8]>>,
    /// For each revocation list the roots whose key has signed it; none for a list of an intermediate authority. Several roots may have
    /// one subject during a change of keys, and a subject alone does not say whose list it is.
    #[serde(skip)]
    pub signers: Vec<Vec<usize>>,
    /// Subjects of the roots, for people.
    pub subjects: Vec<Arc<str>>,
    /// SHA-256 over roots and revocation lists, hexadecimal: sessions never outlive it.
    pub generation: Arc<str>,
}

impl ClientAuth {
    /// What certificates are checked against, unless none is asked for.
    #[must_use]
    pub fn trust(&self) -> Option<&Arc<ClientTrust>> {
        match self {
            Self::Off => None,
            Self::Optional(trust) | Self::Required(trust) => Some(trust),
        }
    }

    /// `off`, `optional` or `required`.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional(_) => "optional",
            Self::Required(_) => "required",
        }
    }
}
