//! Policy for existing connections: the same facts as in the maps, looked up by connection-tracking entry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_model::SourceSet;
use durward_model::blocks::Blocks;
use durward_model::egress::{Taken, Transparent};
use durward_model::mapping::{
    AddressRange, Affinity, KernelEgress, MappedPort, PortMapping, PortRange,
};
use durward_model::transport::Transport;
use ipnet::IpNet;

/// Connections that may go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Mapped ports by address and protocol, then by first port; ranges do not overlap.
    mapped: BTreeMap<(IpAddr, u8), BTreeMap<u16, Mapped>>,
    leaving: Vec<Leaving>,
    /// Positions of the egress rules by their sources, which do not overlap.
    by_source: Blocks<usize>,
}

/// Mapped port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Number of the tenant.
    pub tenant: u16,
    /// External ports.
    pub ports: PortRange,
    /// Allowed clients.
    pub sources: SourceSet,
    /// Endpoints, with their port unless it is the client's.
    pub endpoints: BTreeSet<(IpAddr, Option<u16>)>,
    /// Affinity of a client to its endpoint.
    pub affinity: Affinity,
    /// Grace of connections to a removed endpoint.
    pub drain: Duration,
}

/// Egress rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Number of the tenant.
    pub tenant: u16,
    /// Networks of the pods.
    pub sources: Vec<IpNet>,
    /// Egress addresses.
    pub addresses: Vec<AddressRange>,
    /// Slots of their interfaces, for IPv4 and for IPv6.
    pub slots: [Option<u8>; 2],
    /// Traffic that is handed to the forward proxy instead.
    pub transparent: Option<Arc<Transparent>>,
    /// Grace of connections from a removed address.
    pub drain: Duration,
}

impl Mapped {
    pub(super) fn of(mapping: &PortMapping, port: &MappedPort, tenant: u16) -> Self {
        let endpoints = port.endpoints(true).into_iter().chain(port.endpoints(false));
        Self {
            tenant,
            ports: port.ports,
            sources: mapping.allowed_sources.clone(),
            endpoints: endpoints.collect(),
            affinity: mapping.affinity,
            drain: mapping.drain,
        }
    }

    /// Returns true if connections to the external port may reach this endpoint.
    #[must_use]
    pub fn reaches(&self, endpoint: IpAddr, port: u16, external: u16) -> bool {
        let single = self.ports.first() == self.ports.last();
        self.endpoints.contains(&(endpoint, Some(port)))
            || (self.endpoints.contains(&(endpoint, None)) && (single || port == external))
    }
}

impl Leaving {
    pub(super) fn of(rule: &KernelEgress, tenant: u16, slots: [Option<u8>; 2]) -> Self {
        Self {
            tenant,
            slots,
            sources: rule.sources.clone(),
            addresses: rule.addresses.clone(),
            transparent: rule.transparent.clone(),
            drain: rule.drain,
        }
    }
}

impl Leaving {
    /// Returns the fate of a pod's packet, by IP protocol number and destination port.
    #[must_use]
    pub fn take(&self, protocol: u8, port: u16) -> Taken {
        let transparent = self.transparent.as_ref();
        transparent.map_or(Taken::Translated, |transparent| transparent.take(protocol, port))
    }
}

impl Policy {
    pub(super) fn map(&mut self, address: IpAddr, protocol: Transport, mapped: Mapped) {
        let of = self.mapped.entry((address, protocol.number())).or_default();
        of.insert(mapped.ports.first(), mapped);
    }

    pub(super) fn leave(&mut self, leaving: Leaving) {
        let at = self.leaving.len();
        leaving.sources.iter().for_each(|source| self.by_source.insert(*source, at));
        self.leaving.push(leaving);
    }

    /// Returns the mapping of an external port.
    #[must_use]
    pub fn mapped(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&Mapped> {
        let of = self.mapped.get(&(address, protocol))?;
        let (_, mapped) = of.range(..=port).next_back()?;
        mapped.ports.contains(port).then_some(mapped)
    }

    /// Returns the egress rule of a pod.
    #[must_use]
    pub fn leaving(&self, source: IpAddr) -> Option<&Leaving> {
        let (_, at) = self.by_source.meeting(&IpNet::from(source), |_| true)?;
        self.leaving.get(*at)
    }

    /// Replaces the ports of `before`, which are of this policy, by those of `after`.
    pub(crate) fn exchange(&mut self, before: &Self, after: &Self) {
        for (key, ports) in &before.mapped {
            if let Some(of) = self.mapped.get_mut(key) {
                of.retain(|first, _| !ports.contains_key(first));
                if of.is_empty() {
                    self.mapped.remove(key);
                }
            }
        }
        for (key, ports) in &after.mapped {
            self.mapped.entry(*key).or_default().extend(ports.clone());
        }
    }

    /// Returns true if the external addresses stay the same when the ports of `after` replace those of `before`.
    pub(crate) fn keeps_addresses(&self, before: &Self, after: &Self) -> bool {
        let count = |policy: &Self, address: IpAddr| -> usize {
            let of = policy.mapped.range((address, 0)..=(address, u8::MAX));
            of.map(|(_, ports)| ports.len()).sum()
        };
        let leaves = |address: IpAddr| {
            let mut all = self.leaving.iter().flat_map(|rule| &rule.addresses);
            all.any(|range| range.first() == address && range.last() == address)
        };
        let stays = |address: IpAddr| {
            let (now, gone) = (count(self, address), count(before, address));
            leaves(address) || (now > 0) == (now - gone + count(after, address) > 0)
        };
        let mut all = before.mapped.keys().chain(after.mapped.keys()).map(|(address, _)| *address);
        all.all(stays)
    }

    /// Returns all external addresses.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let leaving = self.leaving.iter().flat_map(|rule| &rule.addresses);
        let single =
            leaving.filter(|range| range.first() == range.last()).map(|range| range.first());
        self.mapped.keys().map(|(address, _)| *address).chain(single).collect()
    }

    /// Returns the tenants of which `self` allows something that `next` does not: only their connections need be judged.
    #[must_use]
    pub fn tightened_in(&self, next: &Self) -> BTreeSet<u16> {
        let mapped = self.mapped.iter().flat_map(|(key, these)| {
            let those = next.mapped.get(key);
            let lost = move |(first, this): &(&u16, &Mapped)| {
                let that = those.and_then(|those| those.get(first));
                that.is_none_or(|that| !this.is_within(that))
            };
            these.iter().filter(lost).map(|(_, this)| this.tenant)
        });
        let is_same = |this: &&Leaving| {
            let source = this.sources.first().map(IpNet::network);
            source.and_then(|source| next.leaving(source)) == Some(*this)
        };
        let leaving = self.leaving.iter().filter(|this| !is_same(this));
        mapped.chain(leaving.map(|leaving| leaving.tenant)).collect()
    }
}

impl Mapped {
    fn is_within(&self, next: &Self) -> bool {
        self.tenant == next.tenant
            && self.ports == next.ports
            && self.sources == next.sources
            && self.endpoints == next.endpoints
            && self.affinity == next.affinity
    }
}
