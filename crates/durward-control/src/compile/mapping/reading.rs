//! Reads one mapping's document by itself.
//!
//! Deliberately absent: claims of others; those are decided among all.

use std::time::Duration;

use durward_model::mapping::{Affinity, PortMapping, SourceMode};
use durward_model::{IngressAddress, SourceSet};
use ipnet::IpNet;

use super::ports::Services;
use super::{health, ports};
use crate::compile::part::{PartId, Reader};
use crate::compile::report::{Field, Report};
use crate::compile::{bounds, route, times, upstream, words};
use crate::document::{Content, Document};
use crate::place::At;
use crate::spec::port_mapping::{
    AffinitySpec, MappedPortSpec, PortMappingDocument, PortMappingSpec, SourceSpec,
};
use crate::store::{Asker, Store};

/// Reader of mappings.
pub(super) struct Reading<'s> {
    pub(super) store: &'s Store,
}

impl Reader<PortMapping> for Reading<'_> {
    fn read(&mut self, report: &mut Report<'_>, entry: &Document) -> Option<PortMapping> {
        let Content::Mapping(document) = &entry.content else { return None };
        let spec = &document.spec;
        let before = report.errors();
        bounds::check_mapping(report, spec);
        if report.errors() > before {
            return None;
        }
        let addresses = addresses(report, document);
        let services = Services::new(self.store, Asker::of(entry), spec);
        let (ports, services) = ports::ports(report, spec, services);
        let field = Field::SPEC.name("allowedSources");
        let allowed = route::networks(report, spec.allowed_sources.as_ref(), &field);
        if entry.is_in_namespace_of_tenant() {
            check_pods(report, spec);
        }
        let field = Field::SPEC.name("drain");
        let read = |text: &str| times::DRAIN.read(text);
        let drain = report.check_optional("BadDuration", spec.drain.as_ref(), &field, read);
        // One wrong port hides what is mapped, so that nothing is concluded from the others.
        let sound = if ports.len() == spec.ports.len() { &ports[..] } else { &[] };
        let check = spec.health_check.as_ref();
        let check = check.and_then(|check| health::check(report, check, sound));
        if report.errors() > before {
            return None;
        }
        // The port is served without endpoints: its former endpoints may belong to another Service now.
        for (position, fault) in services.gone {
            let Some(service) = &spec.ports[position].service else { continue };
            let list = Field::SPEC.name("ports");
            let field = list.index(position);
            upstream::no_service(report, service, &field.name("service"), &fault);
        }
        let id = PartId::of(entry)?;
        Some(PortMapping {
            name: id.qualified(),
            tenant: id.tenant,
            addresses,
            ports,
            allowed_sources: allowed.unwrap_or_else(everybody),
            mode: match spec.source.map(|at| at.value).unwrap_or_default() {
                SourceSpec::Preserve => SourceMode::PreserveSource,
                SourceSpec::Gateway => SourceMode::Snat,
            },
            affinity: match spec.affinity.map(|at| at.value) {
                Some(AffinitySpec::ClientIp) => Affinity::ClientIp,
                // What the Service says counts where the mapping says nothing.
                None if services.by_client => Affinity::ClientIp,
                Some(AffinitySpec::None) | None => Affinity::None,
            },
            drain: drain?.unwrap_or(Duration::ZERO),
            egress: spec.egress.value,
            health_check: check,
            origin: report.source().origin(document.metadata.name.place),
        })
    }
}

/// Refuses endpoints that are written, not selected by a Service, where their traffic would leave by this mapping. Whoever may write objects in a
/// namespace could name any tenant's pods.
fn check_pods(report: &mut Report<'_>, spec: &PortMappingSpec) {
    let written = |port: &At<MappedPortSpec>| port.value.service.is_none();
    if spec.egress.value && spec.ports.iter().any(written) {
        let sentence = "lets out pods of Services only, in a namespace of a tenant: give each port a service, or let the operator write the mapping in the gateway's namespace";
        report.error("EgressUnproven", spec.egress.place, &Field::SPEC.name("egress"), sentence);
    }
}

fn addresses(report: &mut Report<'_>, document: &PortMappingDocument) -> Vec<IngressAddress> {
    let field = Field::SPEC.name("addresses");
    let written = &document.spec.addresses;
    if written.is_empty() {
        let place = document.spec.place();
        report.error("AddressMissing", place, &field, "is empty: name an external address");
    }
    let mut addresses = Vec::with_capacity(written.len());
    for (at, written) in written.iter().enumerate() {
        let Some(address) = report.check("BadAddress", written, &field.index(at), words::address)
        else {
            continue;
        };
        let address = IngressAddress(address);
        if addresses.contains(&address) {
            let sentence = format!("{:?} is written twice", written.value);
            report.warning("AddressTwice", written.place, &field.index(at), &sentence);
        } else {
            addresses.push(address);
        }
    }
    addresses
}

fn everybody() -> SourceSet {
    SourceSet::new([IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())])
}
