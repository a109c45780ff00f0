//! One proxy address and port for several tenants, as long as every client can be told to be one tenant's.
//!
//! Deliberately absent: a tenant for clients that could be anybody's.

use std::fmt;

use serde::Serialize;

use crate::client_auth::ClientAuth;
use crate::egress::ForwardService;
use crate::listener::{Listener, Service};
use crate::source_set::SourceSet;

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
    /// Whether a name of a certificate is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(a), Self::Prefix(b)) => {
                a.starts_with(b.as_str()) || b.starts_with(a.as_str())
            }
            (Self::Exact(name), either) | (either, Self::Exact(name)) => either.matches(name),
        }
    }
}

/// Whether two tenants' listeners at one address and port can stand beside each other: both are proxies and say so, and no client is both
/// tenants'. Sources decide before TLS; certificates and credentials only after, so what comes before must be the same.
#[must_use]
pub fn told_apart_as_proxies(one: &Listener, other: &Listener) -> bool {
    let (Service::Forward(a), Service::Forward(b)) = (&one.service, &other.service) else {
        return false;
    };
    if !(a.shared && b.shared) {
        return false;
    }
    let sources = one.allowed_sources.as_ref().zip(other.allowed_sources.as_ref());
    if sources.is_some_and(|(a, b)| apart(a, b)) {
        return true;
    }
    a.tls == b.tls && (by_certificate(a, b) || by_credential(a, b))
}

fn apart(a: &SourceSet, b: &SourceSet) -> bool {
    let disjoint = |x: &ipnet::IpNet, y: &ipnet::IpNet| !x.contains(y) && !y.contains(x);
    a.blocks().iter().all(|x| b.blocks().iter().all(|y| disjoint(x, y)))
}

fn by_certificate(a: &ForwardService, b: &ForwardService) -> bool {
    let required =
        a.tls.as_ref().is_some_and(|tls| matches!(tls.client_auth, ClientAuth::Required(_)));
    let disjoint = a.holders.iter().all(|x| b.holders.iter().all(|y| !x.overlaps(y)));
    required && !a.holders.is_empty() && !b.holders.is_empty() && disjoint
}

fn by_credential(a: &ForwardService, b: &ForwardService) -> bool {
    let differ = |x: &crate::egress::Credential| b.credentials.iter().all(|y| x.sha256 != y.sha256);
    !a.credentials.is_empty() && !b.credentials.is_empty() && a.credentials.iter().all(differ)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ipnet::IpNet;

    use super::*;
    use crate::address::IngressAddress;
    use crate::egress::{Credential, Policy};
    use crate::origin::Origin;
    use crate::tenant::TenantId;

    fn door(tenant: &str, sources: Option<&[&str]>, secrets: &[u8]) -> Listener {
        let credentials =
            secrets.iter().map(|byte| Credential { name: Arc::from("ci"), sha256: [*byte; 32] });
        let service = ForwardService {
            transparent: None,
            tls: None,
            credentials: credentials.collect(),
            holders: Vec::new(),
            shared: true,
            policy: Arc::new(Policy::default()),
        };
        let blocks =
            |blocks: &[&str]| blocks.iter().map(|block| block.parse::<IpNet>().unwrap()).collect();
        Listener {
            tenant: TenantId::new(tenant).unwrap(),
            address: IngressAddress([172, 16, 28, 8].into()),
            port: 3128,
            bind: ([172, 16, 28, 8], 3128).into(),
            allowed_sources: sources.map(blocks),
            names: None,
            service: Service::Forward(service),
            acme: crate::Acme::default(),
            origin: Origin::default(),
        }
    }

    // S2.15 S2.47
    #[test]
    fn proxies_share_a_door_where_no_client_could_be_both() {
        let by_source = |a: &[&str], b: &[&str]| {
            told_apart_as_proxies(&door("a", Some(a), &[]), &door("b", Some(b), &[]))
        };
        let by_secret =
            |a: &[u8], b: &[u8]| told_apart_as_proxies(&door("a", None, a), &door("b", None, b));

        assert!(by_source(&["172.16.28.0/24"], &["172.16.29.0/24"]));
        assert!(!by_source(&["172.16.28.0/22"], &["172.16.29.0/24"]));
        assert!(!told_apart_as_proxies(
            &door("a", Some(&["172.16.28.0/24"]), &[]),
            &door("b", None, &[])
        ));
        assert!(by_secret(&[1, 2], &[3]));
        assert!(!by_secret(&[1, 2], &[2]));
        assert!(!by_secret(&[1], &[]));
        let mut alone = door("b", Some(&["172.16.29.0/24"]), &[]);
        if let Service::Forward(service) = &mut alone.service {
            service.shared = false;
        }
        assert!(!told_apart_as_proxies(&door("a", Some(&["172.16.28.0/24"]), &[]), &alone));
    }

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
