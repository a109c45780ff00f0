//! One request of each kind that Squid's lists tell apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::egress::Host;

use super::acl::{Acl, Acls};
use super::ports::Ports;

/// Requests of each kind: one of each is asked.
pub(super) struct Kinds {
    pub(super) methods: Vec<String>,
    pub(super) ports: Vec<u16>,
    pub(super) names: Arc<Vec<Host>>,
    pub(super) addresses: Vec<IpAddr>,
    /// Addresses in guarded ranges, asked for as such.
    pub(super) near: Vec<IpAddr>,
}

/// The kinds of names for each choice of lists.
pub(super) type NameKinds = HashMap<Vec<usize>, Arc<Vec<Host>>>;

/// A port of each kind.
pub(super) fn port_kinds(edges: &BTreeSet<u16>, sets: &[&Ports]) -> Vec<u16> {
    let mut kinds: BTreeMap<Vec<bool>, u16> = BTreeMap::new();
    // Well-known ports first: they make notes that can be read.
    for port in [443, 80].iter().chain(edges) {
        let member = sets.iter().map(|set| set.has(*port)).collect();
        kinds.entry(member).or_insert(*port);
    }
    kinds.into_values().collect()
}

/// A name of each kind, and addresses that are among names.
pub(super) fn name_kinds(lists: &[usize], acls: &Acls) -> Vec<Host> {
    let sets: Vec<_> = lists
        .iter()
        .filter_map(|list| match &acls.at(*list).acl {
            Acl::Names(names) => Some(names),
            _ => None,
        })
        .collect();
    let mut kinds: BTreeMap<Vec<bool>, Host> = BTreeMap::new();
    let mut add = |name: &str| {
        let member: Vec<bool> = sets.iter().map(|set| set.has(name)).collect();
        if !kinds.contains_key(&member)
            && let Ok(host) = Host::parse(name)
        {
            kinds.insert(member, host);
        }
        kinds.len()
    };
    add("unlisted.durward-migrate");
    let most = 1_usize.checked_shl(u32::try_from(sets.len()).unwrap_or(u32::MAX));
    for entry in sets.iter().flat_map(|set| set.entries()) {
        let mut found = add(&entry.name);
        if entry.below {
            found = add(&format!("unlisted.{}", entry.name));
        }
        if Some(found) == most {
            break;
        }
    }
    let mut literals: BTreeMap<Vec<bool>, Host> = BTreeMap::new();
    for address in sets.iter().flat_map(|set| &set.literals) {
        let member = sets.iter().map(|set| set.literals.contains(address)).collect();
        literals.entry(member).or_insert(Host::Address(*address));
    }
    kinds.into_values().chain(literals.into_values()).collect()
}
