//! What the kernel says of mappings: whether it carries them, how many connections began, how many leave.
//!
//! Deliberately absent: changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use durward_model::mapping::{NatModel, PortMapping};

use super::NatError;
use super::state::{State, kernel};
use crate::mark::EGRESS;
use crate::program::step::{Ip, port_key};

impl State {
    pub(super) fn begun(&self, model: &NatModel) -> Result<Vec<u64>, NatError> {
        let mut packets: BTreeMap<String, BTreeMap<Vec<u8>, u64>> = BTreeMap::new();
        for set in ["svc4", "svc6", "svcr4", "svcr6"] {
            packets.insert(set.to_owned(), self.table.element_packets(set).unwrap_or_default());
        }
        let begun = |mapping: &PortMapping| {
            let counts = keys(mapping).filter_map(|(set, key)| packets.get(&set)?.get(&key));
            counts.sum()
        };
        Ok(model.mappings.iter().map(|mapping| begun(mapping)).collect())
    }

    pub(super) fn leaving(&self) -> Result<BTreeMap<IpAddr, u64>, NatError> {
        let flows = self.conntrack.flows(EGRESS, EGRESS).map_err(kernel("connections"))?;
        let mut leaving = BTreeMap::new();
        for flow in flows {
            *leaving.entry(flow.reply_destination.ip()).or_default() += 1;
        }
        Ok(leaving)
    }

    pub(super) fn carried(&self, model: &NatModel) -> Result<Vec<bool>, NatError> {
        let sets = self.table.read()?.ruleset.sets;
        let has =
            |set: &str, key: &[u8]| sets.get(set).is_some_and(|set| set.elements.contains_key(key));
        let carried = |mapping: &PortMapping| keys(mapping).all(|(set, key)| has(&set, &key));
        Ok(model.mappings.iter().map(|mapping| carried(mapping)).collect())
    }
}

/// The elements that lead to a mapping: set and key.
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
