//! Mappings as map elements.
//!
//! A mapping is judged as a whole before any of its elements is added.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::SourceSet;
use durward_model::mapping::{
    Affinity, Endpoints, MappedPort, NatModel, PortMapping, PortRange, SourceMode,
};
use durward_model::transport::Transport;
use ipnet::IpNet;

use super::ejected::Out;
use super::policy::{Mapped, Policy};
use super::{Ejected, Elements};
use crate::interface::Interfaces;
use crate::mark::{self, MAPPED, SNAT};
use crate::nftables::Value;
use crate::program::step::{Ip, after, port_key};
use crate::program::{Balance, Entry, List, Shape, Shapes, leads_to};
use crate::report::{MappingReport, Rejection};

/// Endpoints per port at most: more would enlarge hashes and maps without use.
const ENDPOINTS: usize = 1024;

/// Claimed port ranges by their first port, with their mapping; they do not overlap.
type Claims<'a> = BTreeMap<(IpAddr, Transport), BTreeMap<u16, (PortRange, &'a PortMapping)>>;
type Outputs<'a> = (&'a mut Elements, &'a mut Shapes, &'a mut Policy);

/// Adds every valid mapping to the outputs.
pub(super) fn compile(
    (model, ejected): (&NatModel, &Ejected),
    interfaces: &Interfaces,
    (elements, shapes, policy): Outputs<'_>,
) -> Vec<MappingReport> {
    let mut claims = Claims::new();
    let mut answers = Answers::default();
    let mut reports = Vec::with_capacity(model.mappings.len());
    for mapping in &model.mappings {
        let judged = judge(mapping, model, &claims);
        let foreign = mapping.addresses.iter().map(|address| address.0);
        reports.push(MappingReport {
            tenant: mapping.tenant.clone(),
            name: mapping.name.clone(),
            rejected: judged.clone().err(),
            foreign_addresses: foreign.filter(|address| !interfaces.has(*address)).collect(),
        });
        // Judged before it claims anything: a rejected mapping must not take ports from a later one.
        let Ok(tenant) = judged else { continue };
        let out = ejected.of(mapping);
        for each in services(mapping) {
            claim(&mut claims, mapping, each.address, each.port);
            let list = put(&each, (tenant, out), (elements, shapes));
            answers.take(&each, (tenant, list), interfaces);
            let mapped = Mapped::of(mapping, each.port, tenant);
            policy.map(each.address, each.port.protocol, mapped);
        }
    }
    answers.put(elements);
    reports
}

/// One port of a mapping on one address.
struct Service<'a> {
    mapping: &'a PortMapping,
    address: IpAddr,
    port: &'a MappedPort,
}

impl Service<'_> {
    const fn ip(&self) -> Ip {
        Ip::of(self.address.is_ipv4())
    }

    fn mark(&self, tenant: u16, slot: u8) -> u32 {
        let snat = if self.mapping.mode == SourceMode::Snat { SNAT } else { 0 };
        mark::mark(tenant, slot, MAPPED | snat)
    }

    /// Returns the endpoints of the address's family; for a single external port, each with its own port.
    fn endpoints(&self) -> Vec<(IpAddr, Option<u16>)> {
        let mut endpoints = self.port.endpoints(self.address.is_ipv4());
        let ports = self.port.ports;
        if ports.first() == ports.last() {
            for (_, port) in &mut endpoints {
                port.get_or_insert(ports.first());
            }
        }
        endpoints
    }
}

fn services(mapping: &PortMapping) -> impl Iterator<Item = Service<'_>> {
    mapping.addresses.iter().flat_map(move |address| {
        mapping.ports.iter().map(move |port| Service { mapping, address: address.0, port })
    })
}

/// Returns the tenant's number if all of the mapping can be served.
fn judge(mapping: &PortMapping, model: &NatModel, claims: &Claims<'_>) -> Result<u16, Rejection> {
    let tenant = model.tenants.get(&mapping.tenant).filter(|number| **number > 0);
    let tenant = *tenant.ok_or(Rejection::UnknownTenant)?;
    let missing =
        [("addresses", mapping.addresses.is_empty()), ("ports", mapping.ports.is_empty())];
    if let Some((field, _)) = missing.into_iter().find(|(_, missing)| *missing) {
        return Err(Rejection::Incomplete { field });
    }
    let mut own: Vec<(IpAddr, Transport, PortRange)> = Vec::new();
    for Service { address, port, .. } in services(mapping) {
        let (protocol, ports) = (port.protocol, port.ports);
        let taken = |by: String| Rejection::PortTaken { address, protocol, ports, by };
        let others = claims.get(&(address, protocol));
        // Claimed ranges do not overlap each other: if the last one that begins within reach is free of these ports, all are.
        let near = others.and_then(|others| others.range(..=ports.last()).next_back());
        if let Some((_, (_, by))) = near.filter(|(_, (range, _))| range.overlaps(ports)) {
            return Err(taken(by.full_name()));
        }
        if own.iter().any(|(a, p, range)| (*a, *p) == (address, protocol) && range.overlaps(ports))
        {
            return Err(taken(mapping.full_name()));
        }
        own.push((address, protocol, ports));
        if port.endpoints(address.is_ipv4()).len() > ENDPOINTS {
            return Err(Rejection::TooManyEndpoints { limit: ENDPOINTS });
        }
    }
    Ok(tenant)
}

fn claim<'a>(
    claims: &mut Claims<'a>,
    mapping: &'a PortMapping,
    address: IpAddr,
    port: &MappedPort,
) {
    let of = claims.entry((address, port.protocol)).or_default();
    of.insert(port.ports.first(), (port.ports, mapping));
}

/// Adds a service to the maps; returns the list of its clients.
fn put(
    service: &Service<'_>,
    (tenant, out): (u16, Out<'_>),
    (elements, shapes): (&mut Elements, &mut Shapes),
) -> List {
    let ip = service.ip();
    let list = source_list(shapes, ip, &service.mapping.allowed_sources);
    let Some(address) = ip.bytes(service.address) else { return list };
    let (protocol, ports) = (service.port.protocol.number(), service.port.ports);
    let single = ports.first() == ports.last();
    let maps = Maps::of(ip, single);
    let first = port_key(&address, protocol, ports.first());
    let end = if single { None } else { behind(&address, protocol, ports.last()) };

    let endpoints = service.endpoints();
    for bytes in endpoints.iter().filter_map(|(endpoint, _)| ip.bytes(*endpoint)) {
        elements.put(same_set(ip), bytes.repeat(2), Value::Nothing);
    }
    let endpoints: Vec<_> =
        endpoints.into_iter().filter(|one| !out.has(service.port, *one)).collect();
    let same_port = endpoints.first().is_some_and(|(_, port)| port.is_none());
    let shape = match (single, same_port) {
        (true, _) => Shape::Port,
        (false, true) => Shape::SamePort,
        (false, false) => Shape::Range,
    };
    let sticky = service.mapping.affinity == Affinity::ClientIp && endpoints.len() > 1;
    let balance = Balance { shape, sticky, endpoints: endpoints.len() as u32 };
    let balance = (!endpoints.is_empty()).then_some(balance);
    let entry = Entry { v4: ip.v4(), list, balance };
    shapes.entries.insert(entry);
    elements.put_range(maps.services, first.clone(), end.clone(), leads_to(entry.chain()));
    if !single {
        let canonical = [&ports.first().to_be_bytes()[..], &[0, 0]].concat();
        elements.put_range(maps.ranges, first.clone(), end, Value::Bytes(canonical));
    }
    let mark = service.mark(tenant, 0);
    // The index is compared with what numgen or a hash gives, and the mark becomes a mark: both are numbers in host order. Addresses and ports are
    // bytes as on the wire.
    for (index, (endpoint, port)) in endpoints.iter().enumerate() {
        let key = [&first[..], &(index as u32).to_ne_bytes(), &list.digest().bytes()].concat();
        let Some(bytes) = ip.bytes(*endpoint) else { continue };
        let data = [&bytes[..], &port_bytes(port.unwrap_or_default()), &mark.to_ne_bytes()];
        elements.put(maps.endpoints, key, Value::Bytes(data.concat()));
    }
    list
}

/// Names of the maps for a kind of service.
struct Maps {
    services: &'static str,
    ranges: &'static str,
    endpoints: &'static str,
}

impl Maps {
    const fn of(ip: Ip, single: bool) -> Self {
        let [services, ranges, endpoints] = match (ip.v4(), single) {
            (true, true) => ["svc4", "rng4", "ep4"],
            (true, false) => ["svcr4", "rng4", "ep4"],
            (false, true) => ["svc6", "rng6", "ep6"],
            (false, false) => ["svcr6", "rng6", "ep6"],
        };
        Self { services, ranges, endpoints }
    }
}

/// Encodes a port as it stands beside an address in a key: network order, padded to a register.
pub(super) fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Returns the name of the set of endpoints, each concatenated with itself, so that a lookup of two different addresses fails.
pub(super) const fn same_set(ip: Ip) -> &'static str {
    if ip.v4() { "same4" } else { "same6" }
}

/// Returns the end key of a range of ports, which the interval excludes.
fn behind(address: &[u8], protocol: u8, last: u16) -> Option<Vec<u8>> {
    let mut key = port_key(address, protocol, last);
    let port = key.len() - 4;
    let next = after(&key[..port + 2])?;
    key.truncate(0);
    key.extend(next);
    key.extend([0, 0]);
    Some(key)
}

/// Returns the list of one family's sources.
fn source_list(shapes: &mut Shapes, ip: Ip, sources: &SourceSet) -> List {
    let (mut list, blocks) = own_list(ip, sources);
    // Two lists with one digest must not become one.
    while list != List::EVERYBODY
        && shapes.sources.get(&(ip.v4(), list)).is_some_and(|known| *known != blocks)
    {
        list = list.next();
    }
    if list != List::EVERYBODY {
        shapes.sources.insert((ip.v4(), list), blocks);
    }
    list
}

fn own_list(ip: Ip, sources: &SourceSet) -> (List, Vec<IpNet>) {
    let mut blocks: Vec<IpNet> = sources.blocks().to_vec();
    blocks.retain(|block| block.addr().is_ipv4() == ip.v4());
    let everybody = blocks.iter().any(|block| block.prefix_len() == 0);
    (if everybody { List::EVERYBODY } else { List::of(&blocks) }, blocks)
}

/// Marks and external addresses for answers of endpoints whose connection is unknown here, because another gateway had it. `None` for an endpoint
/// behind several external ports: its answers are ambiguous.
#[derive(Default)]
struct Answers(BTreeMap<(IpAddr, u16), Option<Answer>>);

/// Mark and external address for an endpoint's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Mark of the connections.
    mark: u32,
    /// List of the clients.
    list: List,
    /// External address and port.
    place: Vec<u8>,
}

impl Answers {
    fn take(
        &mut self,
        service: &Service<'_>,
        (tenant, list): (u16, List),
        interfaces: &Interfaces,
    ) {
        if !may_answer(service) {
            return;
        }
        let Some(slot) = interfaces.slot_of(service.address) else { return };
        let mark = service.mark(tenant, slot) | mark::PICKED_UP;
        let external = service.port.ports.first();
        for (endpoint, port) in service.endpoints() {
            let Some(port) = port else { continue };
            let answer = || {
                let address = service.ip().bytes(service.address)?;
                Some(Answer { mark, list, place: [&address[..], &port_bytes(external)].concat() })
            };
            let place = self.0.entry((endpoint, port));
            // A second external port makes the answers ambiguous, so neither is used.
            place.and_modify(|known| *known = None).or_insert_with(answer);
        }
    }

    fn put(self, elements: &mut Elements) {
        for ((endpoint, port), answer) in self.0 {
            for (set, key, value) in answer.iter().flat_map(|one| one.elements(endpoint, port)) {
                elements.put(set, key, value);
            }
        }
    }
}

impl Answer {
    /// Returns the elements: mark and list by the endpoint, and the external address by endpoint and mark; the external address of a picked-up answer
    /// is looked up by its mark again.
    pub(super) fn elements(
        &self,
        endpoint: IpAddr,
        port: u16,
    ) -> Vec<(&'static str, Vec<u8>, Value)> {
        let ip = Ip::of(endpoint.is_ipv4());
        let Some(address) = ip.bytes(endpoint) else { return Vec::new() };
        let key = port_key(&address, 6, port);
        let mark = self.mark.to_ne_bytes();
        let [first, second] = if ip.v4() { ["rev4", "revs4"] } else { ["rev6", "revs6"] };
        let marked = [&key[..], &mark].concat();
        let found = [&mark[..], &self.list.digest().bytes()].concat();
        vec![(first, key, Value::Bytes(found)), (second, marked, Value::Bytes(self.place.clone()))]
    }
}

/// Returns true if the external address of an endpoint's answers can be unambiguous.
fn may_answer(service: &Service<'_>) -> bool {
    let ports = service.port.ports;
    ports.first() == ports.last()
        && service.port.protocol == Transport::Tcp
        && service.mapping.mode == SourceMode::PreserveSource
}

/// Returns the answers of these endpoints over all mappings of a model without rejected ones.
pub(super) fn answers_of(
    model: &NatModel,
    interfaces: &Interfaces,
    endpoints: &BTreeSet<(IpAddr, u16)>,
) -> BTreeMap<(IpAddr, u16), Option<Answer>> {
    let mut answers = Answers::default();
    // Endpoints not yet known to be ambiguous.
    let mut open = endpoints.clone();
    for mapping in &model.mappings {
        let Some(tenant) = model.tenants.get(&mapping.tenant) else { continue };
        let concerned = |port: &MappedPort| match &port.endpoints {
            Endpoints::At(at) => at.iter().any(|at| open.contains(&(at.ip(), at.port()))),
            Endpoints::SamePort(at) => {
                at.iter().any(|ip| open.contains(&(*ip, port.ports.first())))
            }
        };
        if !mapping.ports.iter().any(concerned) {
            continue;
        }
        for each in services(mapping) {
            let list = own_list(each.ip(), &mapping.allowed_sources).0;
            answers.take(&each, (*tenant, list), interfaces);
        }
        open.retain(|one| answers.0.get(one).is_none_or(Option::is_some));
    }
    answers.0.retain(|endpoint, _| endpoints.contains(endpoint));
    answers.0
}

/// Returns the addresses of the endpoints that a mapping's external addresses lead to: those of their families.
pub(super) fn endpoint_addresses(mapping: &PortMapping) -> impl Iterator<Item = IpAddr> + '_ {
    let serves = |ipv4: bool| mapping.addresses.iter().any(|one| one.0.is_ipv4() == ipv4);
    let families = [serves(true), serves(false)];
    let all = mapping.ports.iter().flat_map(|port| {
        let (at, same) = match &port.endpoints {
            Endpoints::At(at) => (&at[..], &[][..]),
            Endpoints::SamePort(at) => (&[][..], &at[..]),
        };
        at.iter().map(SocketAddr::ip).chain(same.iter().copied())
    });
    all.filter(move |address| families[usize::from(address.is_ipv6())])
}

/// Returns the endpoints for whose answers these mappings may have an external address.
pub(super) fn answering(mappings: &[Arc<PortMapping>]) -> BTreeSet<(IpAddr, u16)> {
    let services = mappings.iter().flat_map(|mapping| services(mapping)).filter(may_answer);
    let endpoints = services.flat_map(|service| service.endpoints());
    endpoints.filter_map(|(endpoint, port)| Some((endpoint, port?))).collect()
}
