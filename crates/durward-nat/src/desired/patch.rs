//! Computes a change of a few mappings from those alone: equal to computing everything, in a hundredth of the time.
//!
//! Returns `None` whenever other mappings could be concerned; then everything is computed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use durward_model::mapping::{NatModel, PortMapping};

use super::mappings::{Answer, answering, answers_of, endpoint_addresses, same_set};
use super::{Desired, Ejected, Policy, desired_without};
use crate::interface::Interfaces;
use crate::nftables::changes::difference;
use crate::nftables::ruleset::Value;
use crate::nftables::{Chain, Changes, Element, Ruleset, Verdict};
use crate::options::Options;
use crate::program::step::Ip;

/// Changed mappings above which everything is computed.
const FEW: usize = 64;
/// Maps each of whose elements belongs to one mapping.
const OWN: [&str; 4] = ["ep4", "ep6", "svc4", "svc6"];
/// Maps that lead to chains.
const LEADING: [&str; 4] = ["svc4", "svc6", "svcr4", "svcr6"];

/// Last computed state, of a model without rejected mappings.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Model of that state.
    pub model: &'a NatModel,
    /// Ejected endpoints of the model.
    pub ejected: &'a Ejected,
    /// nftables table of the model.
    pub ruleset: &'a Ruleset,
    /// Connections that the model lets go on.
    pub policy: &'a Policy,
    /// Options of the host.
    pub options: &'a Options,
    /// Interfaces of the host.
    pub interfaces: &'a Interfaces,
}

/// Effect of a change of a few mappings.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Changes of the table's elements.
    pub changes: Changes,
    /// State of the mappings that were changed or removed.
    pub before: Desired,
    /// State of the mappings that take their place.
    pub after: Desired,
    /// Positions of the former among all mappings.
    pub place: Range<usize>,
}

/// Computes the change to `model` without `ejected`; `None` if everything must be computed.
#[must_use]
pub fn patch(known: &Known<'_>, model: &NatModel, ejected: &Ejected) -> Option<Patch> {
    if !differ_in_mappings_only(known.model, model) {
        return None;
    }
    let same = |old: &Arc<PortMapping>, new: &Arc<PortMapping>| {
        old == new && known.ejected.of(old) == ejected.of(new)
    };
    let (old, new) = middle(&known.model.mappings, &model.mappings, same);
    let (gone, come) = (&known.model.mappings[old.clone()], &model.mappings[new]);
    // Mappings with port ranges have elements in other maps than `OWN`.
    if gone.len().max(come.len()) > FEW || gone.iter().chain(come).any(|one| has_range(one)) {
        return None;
    }
    let alone = |mappings, ejected| {
        desired_without(&part(model, mappings), ejected, known.options, known.interfaces)
    };
    let (before, after) = (alone(gone, known.ejected), alone(come, ejected));
    let rejected = after.report.mappings.iter().any(|one| one.rejected.is_some());
    if rejected
        || !are_free(come, known.policy, &before.policy)
        || !keeps_program(known.ruleset, &before.ruleset, &after.ruleset)
        || !known.policy.keeps_addresses(&before.policy, &after.policy)
    {
        return None;
    }
    let mut changes = Changes::default();
    for set in OWN {
        let elements = |of: &Desired| of.ruleset.sets.get(set).map(|set| set.elements.clone());
        let (these, those) = (elements(&before)?, elements(&after)?);
        note(&mut changes.removed, set, difference(&these, &those));
        note(&mut changes.added, set, difference(&those, &these));
    }
    // These two depend on other mappings with the same endpoint, so they look at the whole model.
    place_answers(known, model, [gone, come], &mut changes)?;
    place_endpoints(known, model, [gone, come], &mut changes)?;
    Some(Patch { changes, before, after, place: old })
}

/// Compares all other fields. Every field is named, so that the compiler rejects a new one that is not handled here.
fn differ_in_mappings_only(old: &NatModel, new: &NatModel) -> bool {
    let NatModel { tenants, mappings: _, egress, local, local_udp, slots } = old;
    *tenants == new.tenants
        && *egress == new.egress
        && *local == new.local
        && *local_udp == new.local_udp
        && *slots == new.slots
}

/// Returns the ranges of both lists without their common beginning and end.
fn middle(
    old: &[Arc<PortMapping>],
    new: &[Arc<PortMapping>],
    same: impl Fn(&Arc<PortMapping>, &Arc<PortMapping>) -> bool,
) -> (Range<usize>, Range<usize>) {
    let start = old.iter().zip(new).take_while(|(old, new)| same(old, new)).count();
    let ends = old[start..].iter().rev().zip(new[start..].iter().rev());
    let end = ends.take_while(|(old, new)| same(old, new)).count();
    (start..old.len() - end, start..new.len() - end)
}

fn has_range(mapping: &PortMapping) -> bool {
    mapping.ports.iter().any(|port| port.ports.first() != port.ports.last())
}

/// Returns a model of these mappings only.
fn part(model: &NatModel, mappings: &[Arc<PortMapping>]) -> NatModel {
    let tenants =
        mappings.iter().filter_map(|mapping| model.tenants.get_key_value(&mapping.tenant));
    NatModel {
        tenants: tenants.map(|(tenant, number)| (tenant.clone(), *number)).collect(),
        mappings: mappings.to_vec(),
        slots: model.slots.clone(),
        ..NatModel::default()
    }
}

/// Returns true if no other mapping has the ports of these mappings.
fn are_free(mappings: &[Arc<PortMapping>], all: &Policy, before: &Policy) -> bool {
    mappings.iter().all(|mapping| {
        let mut services = mapping.addresses.iter().flat_map(|address| {
            mapping.ports.iter().map(|port| (address.0, port.protocol.number(), port.ports.first()))
        });
        services.all(|(address, protocol, port)| {
            all.mapped(address, protocol, port).is_none()
                || before.mapped(address, protocol, port).is_some()
        })
    })
}

/// Returns true if all needed chains and lists exist, and none loses its last use.
fn keeps_program(all: &Ruleset, before: &Ruleset, after: &Ruleset) -> bool {
    let lists = after.sets.iter().filter(|(name, _)| name.starts_with("src"));
    of_mappings(after).all(|(name, chain)| all.chains.get(name) == Some(chain))
        && lists.clone().all(|(name, list)| all.sets.get(name) == Some(list))
        && of_mappings(before)
            .filter(|(name, _)| !after.chains.contains_key(*name))
            .all(|(name, _)| is_led_to(name, all, before))
}

/// Returns the chains that mappings lead to; the others depend on the host and on egress.
fn of_mappings(ruleset: &Ruleset) -> impl Iterator<Item = (&String, &Chain)> {
    let leads = |name: &str| ["acl", "lb"].iter().any(|kind| name.starts_with(kind));
    ruleset.chains.iter().filter(move |(name, _)| leads(name))
}

/// Returns true if an element of another mapping leads to the chain.
fn is_led_to(chain: &str, all: &Ruleset, before: &Ruleset) -> bool {
    LEADING.iter().any(|name| {
        let own = before.sets.get(*name);
        let is_own = |key: &Vec<u8>| own.is_some_and(|set| set.elements.contains_key(key));
        let elements = all.sets.get(*name).into_iter().flat_map(|set| &set.elements);
        elements.into_iter().any(|(key, element)| leads(element, chain) && !is_own(key))
    })
}

fn leads(element: &Element, chain: &str) -> bool {
    matches!(&element.value, Value::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) if to == chain)
}

/// Adds the changes of answers, which depend on all mappings of an endpoint.
fn place_answers(
    known: &Known<'_>,
    model: &NatModel,
    [gone, come]: [&[Arc<PortMapping>]; 2],
    changes: &mut Changes,
) -> Option<()> {
    let mut endpoints = answering(gone);
    endpoints.extend(answering(come));
    let before = answers_of(known.model, known.interfaces, &endpoints);
    let after = answers_of(model, known.interfaces, &endpoints);
    let (mut removed, mut added) = (Elements::new(), Elements::new());
    for (endpoint, port) in endpoints {
        let of = |answers: &BTreeMap<(IpAddr, u16), Option<Answer>>| {
            let answer = answers.get(&(endpoint, port)).and_then(Option::as_ref);
            answer.map(|answer| answer.elements(endpoint, port)).unwrap_or_default()
        };
        let (held, wanted) = (of(&before), of(&after));
        for (to, elements, others) in [(&mut removed, &held, &wanted), (&mut added, &wanted, &held)]
        {
            for (set, key, value) in elements.iter().filter(|one| !others.contains(one)) {
                let element = Element { end: None, value: value.clone() };
                to.entry(set).or_default().push((key.clone(), element));
            }
        }
    }
    settle(removed, added, changes)
}

/// Adds the changes of the set of endpoint addresses, which depends on all mappings as well.
fn place_endpoints(
    known: &Known<'_>,
    model: &NatModel,
    [gone, come]: [&[Arc<PortMapping>]; 2],
    changes: &mut Changes,
) -> Option<()> {
    let of = |mappings: &[Arc<PortMapping>]| -> BTreeSet<IpAddr> {
        mappings.iter().flat_map(|mapping| endpoint_addresses(mapping)).collect()
    };
    let mut concerned = of(gone);
    concerned.extend(of(come));
    let all = model.mappings.iter().flat_map(|mapping| endpoint_addresses(mapping));
    let wanted: BTreeSet<IpAddr> = all.filter(|address| concerned.contains(address)).collect();
    let (mut removed, mut added) = (Elements::new(), Elements::new());
    for address in concerned {
        let ip = Ip::of(address.is_ipv4());
        let set = same_set(ip);
        let key = ip.bytes(address)?.repeat(2);
        let held = known.ruleset.sets.get(set)?.elements.contains_key(&key);
        let to = match (held, wanted.contains(&address)) {
            (true, false) => &mut removed,
            (false, true) => &mut added,
            _ => continue,
        };
        let element = Element { end: None, value: Value::Nothing };
        to.entry(set).or_default().push((key, element));
    }
    settle(removed, added, changes)
}

fn settle(removed: Elements, added: Elements, changes: &mut Changes) -> Option<()> {
    let sorted = |mut elements: Vec<(Vec<u8>, Element)>| {
        elements.sort_by(|(a, _), (b, _)| a.cmp(b));
        elements
    };
    removed.into_iter().for_each(|(set, all)| note(&mut changes.removed, set, sorted(all)));
    added.into_iter().for_each(|(set, all)| note(&mut changes.added, set, sorted(all)));
    Some(())
}

type Elements = BTreeMap<&'static str, Vec<(Vec<u8>, Element)>>;

fn note(
    to: &mut BTreeMap<String, Vec<(Vec<u8>, Element)>>,
    set: &str,
    elements: Vec<(Vec<u8>, Element)>,
) {
    if !elements.is_empty() {
        to.insert(set.to_owned(), elements);
    }
}
