//! Egress rules as map elements: whose traffic a pod's is, and which addresses it leaves from.
//!
//! Deliberately absent: a rule for everybody else; who is not known does not leave.

use std::net::IpAddr;
use std::sync::Arc;

use durward_model::blocks::Blocks;
use durward_model::egress::{Others, Transparent};
use durward_model::mapping::{AddressRange, KernelEgress, NatModel, Transport};

use super::Elements;
use super::policy::{Leaving, Policy};
use crate::interface::Interfaces;
use crate::mark::{self, EGRESS};
use crate::nftables::Value;
use crate::options::Options;
use crate::program::step::{Ip, interval, port_key};
use crate::program::{Shapes, leads_to, pool_chain, transparent as chains};
use crate::report::{MappingReport, Rejection};

type Outputs<'a> = (&'a mut Elements, &'a mut Shapes, &'a mut Policy);

/// Puts every sound egress rule into the outputs.
pub(super) fn compile(
    model: &NatModel,
    (options, interfaces): (&Options, &Interfaces),
    (elements, shapes, policy): Outputs<'_>,
) -> Vec<MappingReport> {
    let mut taken = Blocks::default();
    let mut reports = Vec::with_capacity(model.egress.len());
    for (pool, rule) in (1u32..).zip(&model.egress) {
        let judged = judge(rule, model, (options, interfaces), &taken);
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
        for (ip, slot) in [(Ip::V4, sound.slot_v4), (Ip::V6, sound.slot_v6)] {
            if let Some(slot) = slot {
                put(rule, (ip, pool), mark::mark(sound.tenant, slot, EGRESS), (elements, shapes));
            }
        }
        if let Some(transparent) = &rule.transparent {
            shapes.transparent = true;
            hand_over(transparent, pool, elements);
        }
        policy.leave(Leaving::of(rule, sound.tenant));
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

/// The one interface all addresses of a family are on.
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

fn put(
    rule: &KernelEgress,
    (ip, pool): (Ip, u32),
    mark: u32,
    (elements, shapes): (&mut Elements, &mut Shapes),
) {
    let digit = ip.digit();
    let ends = |range: &AddressRange| {
        let [first, last]: [IpAddr; 2] = [range.first(), range.last()];
        Some([ip.bytes(first)?, ip.bytes(last)?].concat())
    };
    let ranges: Vec<_> = rule.addresses.iter().filter_map(ends).collect();
    let count = ranges.len() as u32;
    shapes.pools.insert((ip.v4(), count));
    for (first, range) in interval(ip, &rule.sources) {
        let mut put = |set: &str, value| {
            elements.put_range(&format!("{set}{digit}"), first.clone(), range.end.clone(), value);
        };
        put("egm", Value::Bytes(mark.to_ne_bytes().to_vec()));
        put("eg", leads_to(pool_chain(ip.v4(), count)));
        put("egid", Value::Bytes(pool.to_ne_bytes().to_vec()));
    }
    for (index, range) in (0u32..).zip(ranges) {
        let key = [pool.to_ne_bytes(), index.to_ne_bytes()].concat();
        elements.put(&format!("egp{digit}"), key, Value::Bytes(range));
    }
}

/// Which ports of a rule's traffic are the proxy's, and what becomes of the others.
fn hand_over(transparent: &Transparent, pool: u32, elements: &mut Elements) {
    let pool = pool.to_ne_bytes();
    let mut put = |protocol: Transport, port: u16, chain: &str| {
        let key = port_key(&pool, protocol.number(), port);
        elements.put("taken", key, leads_to(chain.to_owned()));
    };
    for port in transparent.http.iter().chain(&transparent.tls) {
        put(Transport::Tcp, *port, chains::TAKE);
    }
    for port in &transparent.tls {
        put(Transport::Udp, *port, chains::QUIC);
    }
    if transparent.others == Others::Deny {
        elements.put("others", pool.to_vec(), leads_to(chains::WITHHOLD.to_owned()));
    }
}
