//! Endpoints that are out of rotation because their checks fail: an input of the kernel state beside the model.
//!
//! Ejected endpoints get no new connections. Existing ones go on, because an endpoint that accepts no new ones may still serve old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::TenantId;
use durward_model::mapping::{MappedPort, NatModel, PortMapping};
use durward_model::transport::Transport;

use super::mappings::{port_bytes, same_set};
use crate::nftables::ruleset::Value;
use crate::nftables::{Element, Ruleset};
use crate::program::step::{Ip, port_key};

/// Identity of a mapping: its tenant, and its name among the tenant's mappings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingId {
    /// Tenant of the mapping.
    pub tenant: TenantId,
    /// Name of the mapping.
    pub name: Arc<str>,
}

impl MappingId {
    /// Returns the identity of a mapping.
    #[must_use]
    pub fn of(mapping: &PortMapping) -> Self {
        Self { tenant: mapping.tenant.clone(), name: Arc::clone(&mapping.name) }
    }
}

/// Endpoints out of rotation, by mapping and by the address and port that is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejected(BTreeMap<MappingId, BTreeSet<SocketAddr>>);

impl Ejected {
    /// Takes an endpoint of a mapping out of rotation.
    pub fn insert(&mut self, mapping: MappingId, endpoint: SocketAddr) {
        self.0.entry(mapping).or_default().insert(endpoint);
    }

    /// Puts an endpoint back.
    pub fn remove(&mut self, mapping: &MappingId, endpoint: SocketAddr) {
        if let Some(out) = self.0.get_mut(mapping) {
            out.remove(&endpoint);
            if out.is_empty() {
                self.0.remove(mapping);
            }
        }
    }

    /// Returns the number of endpoints out of rotation.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Returns true if every endpoint is in rotation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if an endpoint of a mapping is out.
    #[must_use]
    pub fn has(&self, mapping: &MappingId, endpoint: SocketAddr) -> bool {
        self.0.get(mapping).is_some_and(|out| out.contains(&endpoint))
    }

    /// Returns the endpoints of a mapping that are out.
    #[must_use]
    pub fn endpoints(&self, mapping: &PortMapping) -> BTreeSet<SocketAddr> {
        self.of(mapping).0.cloned().unwrap_or_default()
    }

    /// Returns the ejected endpoints of a mapping: none if it has no checks (any more).
    pub(super) fn of(&self, mapping: &PortMapping) -> Out<'_> {
        if self.0.is_empty() || mapping.health_check.is_none() {
            return Out(None);
        }
        Out(self.0.get(&MappingId::of(mapping)))
    }

    /// Returns the part that concerns endpoints of checked mappings of `model`.
    #[must_use]
    pub fn within(&self, model: &NatModel) -> Self {
        let mut left = Self::default();
        if self.0.is_empty() {
            return left;
        }
        for mapping in &model.mappings {
            let Out(Some(out)) = self.of(mapping) else { continue };
            let own = mapping.tcp_endpoints();
            let out: BTreeSet<SocketAddr> = out.intersection(&own).copied().collect();
            if !out.is_empty() {
                left.0.insert(MappingId::of(mapping), out);
            }
        }
        left
    }

    /// Reads the endpoints that an earlier process ejected from the table it left, so that a restart does not put them back into rotation.
    pub(crate) fn found(ruleset: &Ruleset, model: &NatModel) -> Self {
        let mut found = Self::default();
        for mapping in model.mappings.iter().filter(|one| one.health_check.is_some()) {
            let tcp = mapping.ports.iter().filter(|port| port.protocol == Transport::Tcp);
            let places = tcp.flat_map(|port| mapping.addresses.iter().map(move |at| (port, at.0)));
            for (port, address) in places {
                for endpoint in left_out(ruleset, address, port) {
                    found.insert(MappingId::of(mapping), port.checked_at(endpoint));
                }
            }
        }
        found
    }
}

/// Ejected endpoints of one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Out<'a>(Option<&'a BTreeSet<SocketAddr>>);

impl Out<'_> {
    /// Returns true if an endpoint of a port is out; never for UDP and SCTP.
    pub(super) fn has(self, port: &MappedPort, endpoint: (IpAddr, Option<u16>)) -> bool {
        port.protocol == Transport::Tcp
            && self.0.is_some_and(|out| out.contains(&port.checked_at(endpoint)))
    }
}

type Endpoint = (IpAddr, Option<u16>);

/// Returns the endpoints of a port that are in the table but not in rotation.
fn left_out(ruleset: &Ruleset, address: IpAddr, port: &MappedPort) -> Vec<Endpoint> {
    let ip = Ip::of(address.is_ipv4());
    let elements = |name: &str| ruleset.sets.get(name).map(|set| &set.elements);
    let single = port.ports.first() == port.ports.last();
    let services = format!("svc{}{}", if single { "" } else { "r" }, ip.digit());
    let (Some(services), Some(endpoints), Some(known), Some(bytes)) = (
        elements(&services),
        elements(&format!("ep{}", ip.digit())),
        elements(same_set(ip)),
        ip.bytes(address),
    ) else {
        return Vec::new();
    };
    let key = port_key(&bytes, port.protocol.number(), port.ports.first());
    if !services.contains_key(&key) {
        return Vec::new();
    }
    let of_port = endpoints.range(key.clone()..).take_while(|(one, _)| one.starts_with(&key));
    let mut led_to: Vec<&Element> = of_port.map(|(_, element)| element).collect();
    let leads_to = |element: &&Element, (endpoint, number): Endpoint| {
        let number = number.or_else(|| single.then_some(port.ports.first()));
        let address = ip.bytes(endpoint).unwrap_or_default();
        let place = [&address[..], &port_bytes(number.unwrap_or_default())].concat();
        matches!(&element.value, Value::Bytes(bytes) if bytes.starts_with(&place))
    };
    let mut out = port.endpoints(ip.v4());
    out.retain(|endpoint| {
        let before = led_to.len();
        led_to.retain(|element| !leads_to(element, *endpoint));
        let is_known = ip.bytes(endpoint.0).is_some_and(|at| known.contains_key(&at.repeat(2)));
        led_to.len() == before && is_known
    });
    // A table that leads to other endpoints too was made for another document, so it does not tell which are out.
    if led_to.is_empty() { out } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use durward_model::health::{HealthCheck, Probe};
    use durward_model::mapping::{Affinity, Endpoints, PortRange, SourceMode};
    use durward_model::{IngressAddress, Origin, SourceSet};

    use super::super::{desired, desired_without};
    use super::*;
    use crate::{Interfaces, Options};

    fn mapping(name: &str, ports: Vec<MappedPort>) -> PortMapping {
        let check = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let addresses = ["203.0.113.1", "2001:db8::1"];
        PortMapping {
            tenant: TenantId::new("acme").unwrap(),
            name: name.into(),
            addresses: addresses.map(|address| IngressAddress(address.parse().unwrap())).into(),
            ports,
            allowed_sources: SourceSet::new(["192.0.2.0/24".parse().unwrap()]),
            mode: SourceMode::PreserveSource,
            affinity: Affinity::None,
            drain: Duration::ZERO,
            egress: false,
            health_check: Some(check),
            origin: Origin::default(),
        }
    }

    fn port(protocol: Transport, ends: (u16, u16), endpoints: Endpoints) -> MappedPort {
        MappedPort { protocol, ports: PortRange::new(ends.0, ends.1).unwrap(), endpoints }
    }

    fn at(all: &[&str]) -> Endpoints {
        Endpoints::At(all.iter().map(|at| at.parse().unwrap()).collect())
    }

    fn model(mappings: Vec<PortMapping>) -> NatModel {
        NatModel {
            tenants: [(TenantId::new("acme").unwrap(), 1)].into(),
            mappings: mappings.into_iter().map(Arc::new).collect(),
            ..NatModel::default()
        }
    }

    /// Builds mappings with single ports, ranges to one port and to the same port, both families, and UDP beside them.
    fn all_kinds() -> NatModel {
        let both = ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80", "[fd00::2]:80"];
        let same = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse().unwrap());
        model(vec![
            mapping("single", vec![port(Transport::Tcp, (80, 80), at(&both))]),
            mapping(
                "ranges",
                vec![
                    port(Transport::Tcp, (100, 109), at(&both[..2])),
                    port(Transport::Tcp, (200, 209), Endpoints::SamePort(same.into())),
                    port(Transport::Udp, (100, 109), at(&both[..2])),
                ],
            ),
        ])
    }

    fn out(all: &[(&str, &str)]) -> Ejected {
        let mut ejected = Ejected::default();
        let tenant = TenantId::new("acme").unwrap();
        for (name, endpoint) in all {
            let id = MappingId { tenant: tenant.clone(), name: (*name).into() };
            ejected.insert(id, endpoint.parse().unwrap());
        }
        ejected
    }

    const CASES: [&[(&str, &str)]; 6] = [
        &[],
        &[("single", "10.0.0.2:80")],
        &[("single", "10.0.0.1:80"), ("single", "10.0.0.2:80"), ("single", "[fd00::1]:80")],
        &[("ranges", "10.0.0.1:80"), ("ranges", "10.0.0.2:80")],
        &[("ranges", "10.0.0.2:200"), ("ranges", "[fd00::1]:200")],
        &[("single", "[fd00::2]:80"), ("ranges", "10.0.0.1:200"), ("ranges", "10.0.0.1:80")],
    ];

    #[test]
    fn what_is_out_is_read_back_from_the_table() {
        let (model, options, interfaces) = (all_kinds(), Options::default(), Interfaces::default());

        for case in CASES {
            let ejected = out(case);
            let table = desired_without(&model, &ejected, &options, &interfaces).ruleset;

            assert_eq!(Ejected::found(&table, &model), ejected);
        }
    }

    #[test]
    fn a_table_of_another_document_says_nothing_about_what_is_out() {
        let (options, interfaces) = (Options::default(), Interfaces::default());
        let before = model(vec![
            mapping("single", vec![port(Transport::Tcp, (80, 80), at(&["10.0.0.9:80"]))]),
            mapping("other", vec![port(Transport::Tcp, (81, 81), at(&["10.0.0.1:80"]))]),
        ]);

        let table = desired(&before, &options, &interfaces).ruleset;

        assert_eq!(Ejected::found(&table, &all_kinds()), Ejected::default());
        assert_eq!(Ejected::found(&Ruleset::default(), &all_kinds()), Ejected::default());
    }

    #[test]
    fn an_endpoint_that_is_out_costs_no_connection_and_no_udp() {
        let (model, options, interfaces) = (all_kinds(), Options::default(), Interfaces::default());
        let whole = desired(&model, &options, &interfaces);

        for case in CASES {
            let without = desired_without(&model, &out(case), &options, &interfaces);

            assert_eq!(without.policy, whole.policy, "connections that exist go on: {case:?}");
            let udp = |of: &Ruleset| {
                let elements = of.sets["ep4"].elements.clone().into_iter();
                elements.filter(|(key, _)| key[4] == 17).collect::<Vec<_>>()
            };
            assert_eq!(udp(&without.ruleset), udp(&whole.ruleset));
            for set in ["same4", "same6", "rev4", "rev6", "revs4", "revs6"] {
                assert_eq!(without.ruleset.sets[set], whole.ruleset.sets[set], "{set}");
            }
            let count = |of: &Ruleset| {
                ["ep4", "ep6"].map(|set| of.sets[set].elements.len()).iter().sum::<usize>()
            };
            assert_eq!(count(&without.ruleset), count(&whole.ruleset) - case.len(), "{case:?}");
        }
    }

    #[test]
    fn without_a_check_nothing_is_out() {
        let mut unchecked = all_kinds();
        let ejected =
            out(&[("single", "10.0.0.2:80"), ("single", "10.0.0.7:80"), ("gone", "10.0.0.1:80")]);
        assert_eq!(ejected.within(&unchecked), out(&[("single", "10.0.0.2:80")]));
        for mapping in &mut unchecked.mappings {
            *mapping = Arc::new(PortMapping { health_check: None, ..(**mapping).clone() });
        }
        let (options, interfaces) = (Options::default(), Interfaces::default());

        let without = desired_without(&unchecked, &ejected, &options, &interfaces);

        assert_eq!(without, desired(&unchecked, &options, &interfaces));
        assert!(ejected.within(&unchecked).is_empty());
    }
}
