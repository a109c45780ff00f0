//! Client authentication by certificate.
//!
//! Deliberately absent: the verifier itself; this is what it must be built from.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Client authentication.
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
    /// Returns the trust anchors for client certificates; `None` if no certificate is asked for.
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

/// Holders of client certificates: by a name in the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HolderMatch {
    /// A common name, DNS name or URI.
    Exact(String),
    /// All that begin so: `spiffe://cluster.local/ns/acme/*`.
    Prefix(String),
}

impl fmt::Display for HolderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl HolderMatch {
    /// Returns true if the pattern matches a name of a certificate.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(a), Self::Prefix(b)) => {
                a.starts_with(b.as_str()) || b.starts_with(a.as_str())
            }
            (Self::Exact(name), either) | (either, Self::Exact(name)) => either.matches(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.15
    #[test]
    fn names_of_holders_overlap_as_they_match() {
        let exact = |name: &str| HolderMatch::Exact(name.to_owned());
        let prefix = |name: &str| HolderMatch::Prefix(name.to_owned());

        assert!(prefix("spiffe://x/ns/acme/").matches("spiffe://x/ns/acme/sa/web"));
        assert!(!prefix("spiffe://x/ns/acme/").matches("spiffe://x/ns/acme2/sa/web"));
        assert!(prefix("spiffe://x/").overlaps(&prefix("spiffe://x/ns/acme/")));
        assert!(exact("ci").overlaps(&exact("ci")) && !exact("ci").overlaps(&exact("cI")));
        assert!(prefix("a").overlaps(&exact("ab")) && !prefix("ab").overlaps(&exact("a")));
    }
}
