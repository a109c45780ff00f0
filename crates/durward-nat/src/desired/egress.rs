//! Egress rules as map elements: a pod's address leads to its tenant, and to the addresses that its traffic leaves from.
//!
//! A source without a rule does not leave.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::TenantId;
use durward_model::blocks::Blocks;
use durward_model::egress::{Others, Transparent};
use durward_model::mapping::{AddressRange, KernelEgress, NatModel};
use durward_model::transport::Transport;

use super::Elements;
use super::policy::{Leaving, Policy};
use crate::interface::Interfaces;
use crate::mark::{self, ASKED, EGRESS, WITHHELD};
use crate::nftables::Value;
use crate::options::Options;
use crate::program::step::{Ip, interval, port_key};
use crate::program::{Digest, Shapes, leads_to, pool_chain, transparent as chains};
use crate::report::{MappingReport, Rejection};

type Outputs<'a> = (&'a mut Elements, &'a mut Shapes, &'a mut Policy);

/// Adds every valid egress rule to the outputs.
pub(super) fn compile(
    model: &NatModel,
    (options, interfaces): (&Options, &Interfaces),
    (elements, shapes, policy): Outputs<'_>,
) -> Vec<MappingReport> {
    let mut taken = Blocks::default();
    let mut asked = BTreeMap::new();
    let mut reports = Vec::with_capacity(model.egress.len());
    for rule in &model.egress {
        let judged = judge(rule, model, (options, interfaces), &taken)
            .and_then(|sound| one_way(rule, &mut asked).map(|()| sound));
        let mut ends: Vec<IpAddr> =
            rule.addresses.iter().flat_map(|range| [range.first(), range.last()]).collect();
        ends.dedup();
        ends.retain(|address| !interfaces.has(*address));
        reports.push(MappingReport {
            tenant: rule.tenant.clone(),
            name: rule.name.clone(),
            rejected: judged.clone().err(),
            foreign_addresses: ends,
        });
        let Ok(sound) = judged else { continue };
        rule.sources.iter().for_each(|source| taken.insert(*source, rule));
        let flags = EGRESS | rule.transparent.as_deref().map_or(0, flags);
        for (ip, slot) in [(Ip::V4, sound.slot_v4), (Ip::V6, sound.slot_v6)] {
            if let Some(slot) = slot {
                put(rule, ip, mark::mark(sound.tenant, slot, flags), (elements, shapes));
            }
        }
        if let Some(transparent) = &rule.transparent {
            shapes.transparent = true;
            hand_over(transparent, sound.tenant, elements);
        }
        policy.leave(Leaving::of(rule, sound.tenant, [sound.slot_v4, sound.slot_v6]));
    }
    reports
}

#[derive(Clone)]
struct Sound {
    tenant: u16,
    slot_v4: Option<u8>,
    slot_v6: Option<u8>,
}

fn judge(
    rule: &KernelEgress,
    model: &NatModel,
    (options, interfaces): (&Options, &Interfaces),
    taken: &Blocks<&Arc<KernelEgress>>,
) -> Result<Sound, Rejection> {
    let tenant = model.tenants.get(&rule.tenant).filter(|number| **number > 0);
    let tenant = *tenant.ok_or(Rejection::UnknownTenant)?;
    let missing = [("sources", rule.sources.is_empty()), ("addresses", rule.addresses.is_empty())];
    if let Some((field, _)) = missing.into_iter().find(|(_, missing)| *missing) {
        return Err(Rejection::Incomplete { field });
    }
    let mut others = rule.sources.iter().filter_map(|own| taken.meeting(own, |_| true));
    if let Some((_, other)) = others.next() {
        let by = format!("{}/{}", other.tenant, other.name);
        return Err(Rejection::SourcesTaken { by });
    }
    if !rule.enrolled {
        return Err(Rejection::NotEnrolled);
    }
    if rule.transparent.is_some() && !options.hand_over {
        return Err(Rejection::NoHandOver);
    }
    let slot_v4 = slot(rule, interfaces, true)?;
    let slot_v6 = slot(rule, interfaces, false)?;
    Ok(Sound { tenant, slot_v4, slot_v6 })
}

/// Checks that all rules of a tenant hand the same traffic over: the kernel looks it up by the tenant's number.
fn one_way<'a>(
    rule: &'a KernelEgress,
    asked: &mut BTreeMap<&'a TenantId, &'a Transparent>,
) -> Result<(), Rejection> {
    let Some(transparent) = rule.transparent.as_deref() else { return Ok(()) };
    let known = *asked.entry(&rule.tenant).or_insert(transparent);
    if known == transparent { Ok(()) } else { Err(Rejection::SeveralWays) }
}

fn flags(transparent: &Transparent) -> u32 {
    ASKED | if transparent.others == Others::Deny { WITHHELD } else { 0 }
}

/// Returns the slot of the one interface that all addresses of a family are on.
fn slot(rule: &KernelEgress, interfaces: &Interfaces, v4: bool) -> Result<Option<u8>, Rejection> {
    let mut found = None;
    for range in rule.addresses.iter().filter(|range| range.first().is_ipv4() == v4) {
        for address in [range.first(), range.last()] {
            let slot = interfaces.slot_of(address).ok_or(Rejection::NoInterface { address })?;
            if *found.get_or_insert(slot) != slot {
                return Err(Rejection::SeveralInterfaces { address });
            }
        }
    }
    Ok(found)
}

/// Adds the elements of a rule: its sources lead to its mark and digest, and those two to its addresses. The digest is that of the rule's content, so
/// a packet that sees two generations finds the addresses of one of them, or none.
fn put(rule: &KernelEgress, ip: Ip, mark: u32, (elements, shapes): (&mut Elements, &mut Shapes)) {
    let digit = ip.digit();
    let ends = |range: &AddressRange| {
        let [first, last]: [IpAddr; 2] = [range.first(), range.last()];
        Some([ip.bytes(first)?, ip.bytes(last)?].concat())
    };
    let ranges: Vec<_> = rule.addresses.iter().filter_map(ends).collect();
    let digest = Digest::of(&format!("{mark:x} {ranges:x?}")).bytes();
    for (first, range) in interval(ip, &rule.sources) {
        let value = [&mark.to_ne_bytes()[..], &digest].concat();
        elements.put_range(&format!("eg{digit}"), first, range.end, Value::Bytes(value));
    }
    let of = |bits: u32| [&(mark & bits).to_ne_bytes()[..], &digest].concat();
    elements.put(&format!("egt{digit}"), of(mark::TENANT_MASK), Value::Nothing);
    let key = of(mark::TENANT_MASK | mark::SLOT_MASK);
    if let [range] = &ranges[..] {
        elements.put(&format!("egs{digit}"), key, Value::Bytes(range.clone()));
        return;
    }
    let count = ranges.len() as u32;
    shapes.pools.insert((ip.v4(), count));
    elements.put(&format!("egn{digit}"), key.clone(), leads_to(pool_chain(ip.v4(), count)));
    for (index, range) in (0u32..).zip(ranges) {
        let key = [&key[..], &index.to_ne_bytes()].concat();
        elements.put(&format!("egp{digit}"), key, Value::Bytes(range));
    }
}

/// Adds the ports of a tenant's traffic that the proxy takes, and the verdict on all other ports, which is always present.
fn hand_over(transparent: &Transparent, tenant: u16, elements: &mut Elements) {
    let asked = mark::mark(tenant, 0, ASKED).to_ne_bytes();
    let mut put = |protocol: Transport, port: u16, chain: &str| {
        let key = port_key(&asked, protocol.number(), port);
        elements.put("taken", key, leads_to(chain.to_owned()));
    };
    for port in transparent.http.iter().chain(&transparent.tls) {
        put(Transport::Tcp, *port, chains::TAKE);
    }
    for port in &transparent.tls {
        put(Transport::Udp, *port, chains::QUIC);
    }
    let others = match transparent.others {
        Others::Deny => chains::WITHHOLD,
        Others::Translate => chains::LEAVE,
    };
    elements.put("others", asked.to_vec(), leads_to(others.to_owned()));
}
