//! Reads the kernel's state of mappings and egress rules: presence, connections begun, connections open.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use durward_model::TenantId;
use durward_model::mapping::{KernelEgress, NatModel, PortMapping};

use super::state::{State, kernel};
use super::{Carried, Leaving};
use crate::desired::Ejected;
use crate::error::NatError;
use crate::mark::{self, EGRESS};
use crate::program::step::{Ip, interval, port_key};

/// IP protocols with ports: TCP, UDP and SCTP.
const PORTS: [u8; 3] = [6, 17, 132];

impl State {
    pub(super) fn begun(&self, model: &NatModel) -> Result<Vec<u64>, NatError> {
        // Each endpoint of a port has a counter of its own.
        let [v4, v6] =
            ["ep4", "ep6"].map(|set| self.table.element_packets(set).unwrap_or_default());
        let begun = |mapping: &PortMapping| {
            let counts = keys(mapping).flat_map(|(set, key)| {
                let packets = if set.ends_with('4') { &v4 } else { &v6 };
                let of = packets.range(key.clone()..);
                of.take_while(move |(one, _)| one.starts_with(&key)).map(|(_, count)| *count)
            });
            counts.sum()
        };
        Ok(model.mappings.iter().map(|mapping| begun(mapping)).collect())
    }

    pub(super) fn leaving(&self) -> Result<BTreeMap<IpAddr, Leaving>, NatError> {
        let flows = self.conntrack.flows(EGRESS, EGRESS).map_err(kernel("connections"))?;
        let tenants: BTreeMap<u16, &TenantId> =
            self.numbers.iter().map(|(tenant, number)| (*number, tenant)).collect();
        let mut leaving: BTreeMap<IpAddr, Leaving> = BTreeMap::new();
        let mut ports: HashMap<(IpAddr, u8, SocketAddr), u32> = HashMap::new();
        for flow in flows {
            let address = flow.reply_destination.ip();
            let of = leaving.entry(address).or_default();
            of.connections += 1;
            if of.tenant.is_none() {
                of.tenant = tenants.get(&mark::tenant(flow.mark)).map(|tenant| (*tenant).clone());
            }
            if PORTS.contains(&flow.protocol) {
                let used = ports.entry((address, flow.protocol, flow.reply_source)).or_default();
                *used += 1;
                of.ports = of.ports.max(*used);
            }
        }
        Ok(leaving)
    }

    pub(super) fn carried(&self, model: &NatModel) -> Result<Carried, NatError> {
        let ruleset = self.table.read()?.ruleset;
        let ejected = Ejected::found(&ruleset, model);
        let sets = ruleset.sets;
        let has = |(set, key): (String, Vec<u8>)| {
            sets.get(&set).is_some_and(|set| set.elements.contains_key(&key))
        };
        Ok(Carried {
            mappings: model.mappings.iter().map(|one| keys(one).all(has)).collect(),
            egress: model.egress.iter().map(|one| source_keys(one).all(has)).collect(),
            out: model.mappings.iter().map(|one| ejected.endpoints(one)).collect(),
        })
    }
}

/// Returns the elements that mark the packets of an egress rule's pods: set and key.
fn source_keys(rule: &KernelEgress) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    let families = [Ip::V4, Ip::V6]
        .into_iter()
        .filter(|ip| rule.addresses.iter().any(|range| range.first().is_ipv4() == ip.v4()));
    families.flat_map(|ip| {
        interval(ip, &rule.sources)
            .into_keys()
            .map(move |first| (format!("eg{}", ip.digit()), first))
    })
}

/// Returns the elements that lead to a mapping: set and key.
fn keys(mapping: &PortMapping) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    mapping.addresses.iter().flat_map(move |address| {
        let ip = Ip::of(address.0.is_ipv4());
        let bytes = ip.bytes(address.0).unwrap_or_default();
        mapping.ports.iter().map(move |port| {
            let range = if port.ports.first() == port.ports.last() { "" } else { "r" };
            let set = format!("svc{range}{}", ip.digit());
            (set, port_key(&bytes, port.protocol.number(), port.ports.first()))
        })
    })
}
