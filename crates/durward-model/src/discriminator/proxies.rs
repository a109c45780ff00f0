//! One proxy address and port for several tenants, as long as every client can be attributed to one tenant.
//!
//! Deliberately absent: a tenant for clients that could be anybody's.

use crate::client_auth::ClientAuth;
use crate::egress::{Credential, ForwardService};
use crate::listener::{Listener, Service};

/// Returns true if two tenants' listeners at one address and port can stand beside each other: both are proxies and say so, and no client is both
/// tenants'. Sources decide before TLS; certificates and credentials only after, so what comes before must be the same.
pub(super) fn told_apart(one: &Listener, other: &Listener) -> bool {
    let (Service::Forward(a), Service::Forward(b)) = (&one.service, &other.service) else {
        return false;
    };
    if !(a.shared && b.shared) {
        return false;
    }
    let sources = one.allowed_sources.as_ref().zip(other.allowed_sources.as_ref());
    if sources.is_some_and(|(a, b)| !a.overlaps(b)) {
        return true;
    }
    a.tls == b.tls && (by_certificate(a, b) || by_credential(a, b))
}

fn by_certificate(a: &ForwardService, b: &ForwardService) -> bool {
    let required =
        a.tls.as_ref().is_some_and(|tls| matches!(tls.client_auth, ClientAuth::Required(_)));
    let disjoint = a.holders.iter().all(|x| b.holders.iter().all(|y| !x.overlaps(y)));
    required && !a.holders.is_empty() && !b.holders.is_empty() && disjoint
}

fn by_credential(a: &ForwardService, b: &ForwardService) -> bool {
    let differ = |x: &Credential| b.credentials.iter().all(|y| x.sha256 != y.sha256);
    !a.credentials.is_empty() && !b.credentials.is_empty() && a.credentials.iter().all(differ)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ipnet::IpNet;

    use super::*;
    use crate::address::IngressAddress;
    use crate::egress::Policy;
    use crate::origin::Origin;
    use crate::tenant_id::TenantId;

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
            hosts_apis: false,
            acme: crate::Acme::default(),
            takes_ingresses: false,
            origin: Origin::default(),
        }
    }

    // S2.15 S2.47
    #[test]
    fn proxies_share_a_door_where_no_client_could_be_both() {
        let by_source =
            |a: &[&str], b: &[&str]| told_apart(&door("a", Some(a), &[]), &door("b", Some(b), &[]));
        let by_secret = |a: &[u8], b: &[u8]| told_apart(&door("a", None, a), &door("b", None, b));

        assert!(by_source(&["172.16.28.0/24"], &["172.16.29.0/24"]));
        assert!(!by_source(&["172.16.28.0/22"], &["172.16.29.0/24"]));
        assert!(!told_apart(&door("a", Some(&["172.16.28.0/24"]), &[]), &door("b", None, &[])));
        assert!(by_secret(&[1, 2], &[3]));
        assert!(!by_secret(&[1, 2], &[2]));
        assert!(!by_secret(&[1], &[]));
        let mut alone = door("b", Some(&["172.16.29.0/24"]), &[]);
        if let Service::Forward(service) = &mut alone.service {
            service.shared = false;
        }
        assert!(!told_apart(&door("a", Some(&["172.16.28.0/24"]), &[]), &alone));
    }
}
