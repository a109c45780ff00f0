//! Source address of a check of a tenant's endpoint: an address of this host that belongs to no other tenant.
//!
//! A partner or pod that admits an address admits its tenant, so a check must never use another tenant's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use durward_model::TenantId;
use durward_model::mapping::{AddressRange, NatModel, PortRange};
use durward_model::transport::Transport;

use crate::options::Options;

/// Tenants by their addresses, whether or not the kernel plane uses them.
pub type Owners = BTreeMap<IpAddr, BTreeSet<TenantId>>;

/// Addresses and ports that belong to tenants.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    /// Addresses of tenants besides those in the model.
    pub(super) owners: Arc<Owners>,
    addresses: Owners,
    ranges: Vec<(AddressRange, TenantId)>,
    mapped: BTreeMap<IpAddr, Vec<PortRange>>,
}

impl Claims {
    /// Collects the claims of the model.
    pub(super) fn new(model: &NatModel) -> Self {
        let mut claims = Self::default();
        for mapping in &model.mappings {
            let tcp = mapping.ports.iter().filter(|port| port.protocol == Transport::Tcp);
            let ports: Vec<PortRange> = tcp.map(|port| port.ports).collect();
            for address in mapping.addresses.iter().map(|address| address.0) {
                claims.addresses.entry(address).or_default().insert(mapping.tenant.clone());
                claims.mapped.entry(address).or_default().extend(&ports);
            }
        }
        let ranges = model
            .egress
            .iter()
            .flat_map(|rule| rule.addresses.iter().map(move |range| (*range, rule.tenant.clone())));
        claims.ranges = ranges.collect();
        claims
    }

    /// Returns another tenant that has this address, unless `tenant` has it too.
    pub(super) fn foreign(&self, tenant: &TenantId, address: IpAddr) -> Option<TenantId> {
        let lists = [self.owners.get(&address), self.addresses.get(&address)];
        let listed = lists.into_iter().flatten().flatten();
        let in_range = self.ranges.iter().filter(|(range, _)| range.contains(address));
        let mut owners = listed.chain(in_range.map(|(_, owner)| owner)).peekable();
        let first = (*owners.peek()?).clone();
        (!owners.any(|owner| owner == tenant)).then_some(first)
    }

    /// Returns true if the kernel would lead a connection of this host to that address and port elsewhere.
    pub(super) fn is_mapped(&self, at: SocketAddr) -> bool {
        let mapped = self.mapped.get(&at.ip()).into_iter().flatten();
        mapped.into_iter().any(|ports| ports.contains(at.port()))
    }
}

/// Reason a check has no source address.
#[derive(Debug)]
pub(super) enum NoSource {
    /// No route leads to the endpoint.
    Unreachable(io::Error),
    /// The check would use a foreign address, or be led elsewhere.
    Unfit(String),
}

/// Chooses the source address of a check: the host's configured one towards the cluster if it is present, else that of the route.
pub(super) fn source(
    claims: &Claims,
    options: &Options,
    tenant: &TenantId,
    endpoint: SocketAddr,
) -> Result<IpAddr, NoSource> {
    if claims.is_mapped(endpoint) {
        return Err(NoSource::Unfit("it is itself the port of a mapping".to_owned()));
    }
    let source = match towards_cluster(options, endpoint.ip()) {
        Some(own) if is_here(own) => own,
        _ => of_route(endpoint).map_err(NoSource::Unreachable)?,
    };
    match claims.foreign(tenant, source) {
        None => Ok(source),
        Some(owner) => Err(NoSource::Unfit(format!(
            "the check would leave from {source}, which is {owner}'s: give this host one of its own there (--nat-cluster-address)"
        ))),
    }
}

fn towards_cluster(options: &Options, endpoint: IpAddr) -> Option<IpAddr> {
    if !options.cluster.iter().any(|net| net.contains(&endpoint)) {
        return None;
    }
    match endpoint {
        IpAddr::V4(_) => options.cluster_address_v4.map(IpAddr::V4),
        IpAddr::V6(_) => options.cluster_address_v6.map(IpAddr::V6),
    }
}

/// Returns true if the address is on this host now; it may be on another gateway.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Returns the source address of the route to an endpoint, read from a connected datagram socket that sends nothing.
fn of_route(endpoint: SocketAddr) -> io::Result<IpAddr> {
    let any = match endpoint {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(endpoint)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn claims(owned: &[(&str, &str)], egress: &[(&str, &str, &str)]) -> Claims {
        let mut owners = Owners::new();
        for (owner, address) in owned {
            owners.entry(address.parse().unwrap()).or_default().insert(tenant(owner));
        }
        let range = |first: &str, last: &str| {
            AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
        };
        let ranges = egress.iter().map(|(owner, a, b)| (range(a, b), tenant(owner)));
        Claims { owners: Arc::new(owners), ranges: ranges.collect(), ..Claims::default() }
    }

    #[test]
    fn a_check_never_leaves_from_another_tenants_address() {
        let claims = claims(
            &[("bank", "127.0.0.7"), ("bank", "127.0.0.8"), ("acme", "127.0.0.8")],
            &[("globex", "127.0.0.20", "127.0.0.29")],
        );
        let foreign = |who: &str, address: &str| {
            claims.foreign(&tenant(who), address.parse().unwrap()).map(|owner| owner.to_string())
        };

        assert_eq!(foreign("acme", "127.0.0.7").as_deref(), Some("bank"));
        assert_eq!(foreign("bank", "127.0.0.7"), None, "it is its own");
        assert_eq!(foreign("acme", "127.0.0.8"), None, "it is theirs together");
        assert_eq!(foreign("acme", "127.0.0.25").as_deref(), Some("globex"));
        assert_eq!(foreign("acme", "127.0.0.30"), None, "it is nobody's but the host's");
    }

    #[test]
    fn the_source_is_the_hosts_own_towards_the_cluster_or_that_of_the_route() {
        let here = Options {
            cluster: vec!["127.0.1.0/24".parse().unwrap()],
            cluster_address_v4: Some("127.0.1.9".parse().unwrap()),
            ..Options::default()
        };
        let away =
            Options { cluster_address_v4: Some("192.0.2.7".parse().unwrap()), ..here.clone() };
        let claims = claims(&[("bank", "127.0.0.1"), ("bank", "127.0.1.9")], &[]);
        let ask = |who: &str, options: &Options, to: &str| {
            source(&claims, options, &tenant(who), to.parse().unwrap())
        };

        assert_eq!(ask("bank", &here, "127.0.1.5:80").unwrap().to_string(), "127.0.1.9");
        let refused = ask("acme", &here, "127.0.1.5:80");
        assert!(
            matches!(&refused, Err(NoSource::Unfit(why)) if why.contains("127.0.1.9, which is bank's")),
            "{refused:?}"
        );
        // The route to all of 127/8 prefers its first address.
        assert_eq!(ask("bank", &here, "127.0.2.5:80").unwrap().to_string(), "127.0.0.1");
        assert_eq!(ask("bank", &away, "127.0.1.5:80").unwrap().to_string(), "127.0.0.1");
        assert!(matches!(ask("acme", &away, "127.0.1.5:80"), Err(NoSource::Unfit(_))));
    }

    #[test]
    fn what_the_kernel_would_lead_elsewhere_is_not_checked() {
        let mut claims = Claims::default();
        let ports = vec![PortRange::new(80, 89).unwrap()];
        claims.mapped.insert("127.0.0.5".parse().unwrap(), ports);
        let options = Options::default();
        let ask = |to: &str| source(&claims, &options, &tenant("acme"), to.parse().unwrap());

        assert!(matches!(ask("127.0.0.5:85"), Err(NoSource::Unfit(_))));
        assert!(ask("127.0.0.5:90").is_ok());
    }
}
