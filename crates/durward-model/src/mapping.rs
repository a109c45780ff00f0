//! Data model of the kernel plane: external address:port to endpoints, and pods' traffic out of a tenant's address.
//!
//! Deliberately absent: programming the kernel. Claims of one port by two mappings are settled before, by age.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use crate::address::IngressAddress;
use crate::egress::Transparent;
use crate::health::HealthCheck;
use crate::origin::Origin;
use crate::shared_map::SharedMap;
use crate::source_set::SourceSet;
use crate::tenant_id::TenantId;
use crate::transport::Transport;

/// Everything the kernel plane serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NatModel {
    /// The number each tenant has in connection marks, from 1; it never changes while the tenant exists. A kernel plane
    /// that adopts an earlier one's connections goes on with the earlier one's numbers.
    pub tenants: SharedMap<TenantId, u16>,
    /// The mappings, the oldest first: of two that claim one port the first keeps it.
    pub mappings: Vec<Arc<PortMapping>>,
    /// Egress rules, by tenant: its own rule before those of its mappings, the oldest of those first.
    pub egress: Vec<Arc<KernelEgress>>,
    /// Sockets of this host's own TCP listeners; `0.0.0.0` stands for all of IPv4, `::` for all.
    pub local: BTreeSet<SocketAddr>,
    /// Sockets of this host's own UDP listeners.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub local_udp: BTreeSet<SocketAddr>,
    /// The number each external interface has in marks and routing tables, from 1; others get a free one.
    pub slots: BTreeMap<Arc<str>, u8>,
}

/// External ports that reach endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortMapping {
    /// Owning tenant.
    pub tenant: TenantId,
    /// Name, unique among the tenant's mappings.
    pub name: Arc<str>,
    /// The external addresses.
    pub addresses: Vec<IngressAddress>,
    /// The ports; each is open on every address.
    pub ports: Vec<MappedPort>,
    /// Allowed sources. An empty set admits no client.
    pub allowed_sources: SourceSet,
    /// Source mode: the address that the endpoint sees as its peer.
    pub mode: SourceMode,
    /// Client affinity.
    pub affinity: Affinity,
    /// Drain time of established connections to an endpoint that was removed.
    pub drain: Duration,
    /// True if the traffic of its endpoints leaves from its addresses.
    pub egress: bool,
    /// Connect checks of its TCP endpoints; their probe is [`Probe::Tcp`](crate::health::Probe::Tcp).
    pub health_check: Option<HealthCheck>,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// A port or a range of ports, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappedPort {
    /// The transport protocol.
    pub protocol: Transport,
    /// The external ports.
    pub ports: PortRange,
    /// Endpoints. Without any, connections are refused.
    pub endpoints: Endpoints,
}

/// The endpoints of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Endpoints {
    /// Each at its own port.
    At(Vec<SocketAddr>),
    /// At the port the client asked for.
    SamePort(Vec<IpAddr>),
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Source mode: the address that the endpoint sees as its peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum SourceMode {
    /// The client; its replies must come back through this gateway.
    #[default]
    PreserveSource,
    /// The gateway.
    Snat,
}

/// Client affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Affinity {
    /// Each connection is placed on its own.
    #[default]
    None,
    /// All connections of one client address go to one endpoint, while the endpoints stay the same.
    ClientIp,
}

/// Pods whose traffic leaves from a tenant's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelEgress {
    /// Owning tenant.
    pub tenant: TenantId,
    /// The name, unique among the tenant's: `egress` for the tenant's own rule, `mapping/NAME` for that of a mapping.
    pub name: Arc<str>,
    /// The pods.
    pub sources: Vec<IpNet>,
    /// The addresses to leave from, of either family; all of one family are on one interface.
    pub addresses: Vec<AddressRange>,
    /// Traffic that is handed to this host's forward proxy instead, and traffic that is refused.
    pub transparent: Option<Arc<Transparent>>,
    /// True if traffic may leave. Until then it is rejected, never sent from another address.
    pub enrolled: bool,
    /// Drain time of established connections after their address was removed.
    pub drain: Duration,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// Addresses from `first` to `last`, both included, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl KernelEgress {
    /// Begins the names of mappings' rules; it has a slash, so that none is called like the tenant's own rule.
    const OF_MAPPING: &str = "mapping/";

    /// Returns the name of the rule of mapping `mapping`.
    #[must_use]
    pub fn name_of_mapping(mapping: &str) -> Arc<str> {
        Arc::from(format!("{}{mapping}", Self::OF_MAPPING))
    }

    /// Returns the mapping whose rule this is; `None` for a tenant's own rule.
    #[must_use]
    pub fn mapping(&self) -> Option<&str> {
        self.name.strip_prefix(Self::OF_MAPPING)
    }
}

impl PortMapping {
    /// Returns its name with its tenant's, as reports show it.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.tenant, self.name)
    }

    /// Returns where a check of its TCP ports connects to: the endpoints of the families that its addresses have.
    #[must_use]
    pub fn tcp_endpoints(&self) -> BTreeSet<SocketAddr> {
        let serves = |ipv4: bool| self.addresses.iter().any(|one| one.0.is_ipv4() == ipv4);
        let families = [serves(true), serves(false)];
        let tcp = self.ports.iter().filter(|port| port.protocol == Transport::Tcp);
        let all = tcp.flat_map(|port| {
            let of_family = |ipv4| port.endpoints(ipv4).into_iter();
            let both = of_family(true).chain(of_family(false));
            both.map(|endpoint| port.checked_at(endpoint))
        });
        all.filter(|at| families[usize::from(at.is_ipv6())]).collect()
    }
}

impl MappedPort {
    /// The endpoints' addresses of one family, sorted, with their port unless the client's is kept.
    #[must_use]
    pub fn endpoints(&self, ipv4: bool) -> Vec<(IpAddr, Option<u16>)> {
        let mut all: Vec<_> = match &self.endpoints {
            Endpoints::At(at) => at.iter().map(|at| (at.ip(), Some(at.port()))).collect(),
            Endpoints::SamePort(at) => at.iter().map(|at| (*at, None)).collect(),
        };
        all.retain(|(address, _)| address.is_ipv4() == ipv4);
        all.sort();
        all.dedup();
        all
    }

    /// Returns where a check of an endpoint connects to: its own port, or the first of those that a client may ask for.
    #[must_use]
    pub fn checked_at(&self, (address, port): (IpAddr, Option<u16>)) -> SocketAddr {
        SocketAddr::new(address, port.unwrap_or_else(|| self.ports.first()))
    }
}

impl PortRange {
    /// The range, unless it is empty or begins at 0.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self { first, last }) }
    }

    /// The range of one port, unless it is 0.
    #[must_use]
    pub const fn one(port: u16) -> Option<Self> {
        Self::new(port, port)
    }

    /// The first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Returns true if a port is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Returns true if the port is in it.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl AddressRange {
    /// The range, unless it is empty or of two families.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first <= last && first.is_ipv4() == last.is_ipv4()).then_some(Self { first, last })
    }

    /// The first address.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// The last address.
    #[must_use]
    pub const fn last(self) -> IpAddr {
        self.last
    }

    /// Returns true if the address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_refuse_what_they_cannot_mean() {
        assert!(PortRange::new(0, 5).is_none());
        assert!(PortRange::new(6, 5).is_none());
        assert!(
            AddressRange::new("10.0.0.1".parse().unwrap(), "::1".parse().unwrap()).is_none(),
            "two families"
        );
    }

    #[test]
    fn checks_connect_to_tcp_endpoints_of_the_families_that_are_served() {
        let port = |protocol, first, last, endpoints| MappedPort {
            protocol,
            ports: PortRange::new(first, last).unwrap(),
            endpoints,
        };
        let at = |all: &[&str]| Endpoints::At(all.iter().map(|at| at.parse().unwrap()).collect());
        let same = Endpoints::SamePort(vec!["10.0.0.3".parse().unwrap()]);
        let mapping = PortMapping {
            tenant: TenantId::new("acme").unwrap(),
            name: "web".into(),
            addresses: vec![IngressAddress("203.0.113.1".parse().unwrap())],
            ports: vec![
                port(Transport::Tcp, 80, 80, at(&["10.0.0.1:8080", "[fd00::1]:8080"])),
                port(Transport::Tcp, 7000, 7009, same),
                port(Transport::Udp, 53, 53, at(&["10.0.0.9:53"])),
            ],
            allowed_sources: SourceSet::default(),
            mode: SourceMode::default(),
            affinity: Affinity::default(),
            drain: Duration::ZERO,
            egress: false,
            health_check: None,
            origin: Origin::default(),
        };

        let checked: Vec<String> =
            mapping.tcp_endpoints().iter().map(ToString::to_string).collect();

        assert_eq!(checked, ["10.0.0.1:8080", "10.0.0.3:7000"]);
    }

    #[test]
    fn ranges_overlap_at_their_edges() {
        let low = PortRange::new(10, 20).unwrap();

        assert!(low.overlaps(PortRange::one(20).unwrap()));
        assert!(!low.overlaps(PortRange::one(21).unwrap()));
        assert!(low.contains(10));
    }
}
