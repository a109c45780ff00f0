//! Reads one mapping's document by itself.
//!
//! Deliberately absent: claims of others; those are decided among all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use durward_model::mapping::{Affinity, PortMapping, SourceMode};
use durward_model::{IngressAddress, SourceSet, TenantId};
use ipnet::IpNet;

use super::{health, ports};
use crate::compile::report::{Field, Report};
use crate::compile::roster::Roster;
use crate::compile::{bounds, route, times, words};
use crate::spec::port_mapping::{AffinitySpec, PortMappingDocument, SourceSpec};

/// A document while it is read.
pub(super) struct Reading<'r, 's, 'o> {
    pub(super) report: &'r mut Report<'s>,
    pub(super) roster: &'r Roster<'o>,
    pub(super) tenants: &'r BTreeSet<TenantId>,
}

impl Reading<'_, '_, '_> {
    pub(super) fn mapping(
        &mut self,
        name: &Arc<str>,
        document: &PortMappingDocument,
    ) -> Option<PortMapping> {
        let spec = &document.spec;
        let before = self.report.errors();
        bounds::check_mapping(self.report, spec);
        if self.report.errors() > before {
            return None;
        }
        let tenant = self.tenant(document);
        let addresses = self.addresses(document);
        let ports = ports::ports(self.report, spec);
        let field = Field::SPEC.name("allowedSources");
        let allowed = route::networks(self.report, spec.allowed_sources.as_ref(), &field);
        let field = Field::SPEC.name("drain");
        let read = |text: &str| times::DRAIN.read(text);
        let drain = self.report.check_optional("BadDuration", spec.drain.as_ref(), &field, read);
        // One wrong port hides what is mapped, so that nothing is concluded from the others.
        let sound = if ports.len() == spec.ports.len() { &ports[..] } else { &[] };
        let check = spec.health_check.as_ref();
        let check = check.and_then(|check| health::check(self.report, check, sound));
        if self.report.errors() > before {
            return None;
        }
        Some(PortMapping {
            tenant: tenant?,
            name: Arc::clone(name),
            addresses,
            ports,
            allowed_sources: allowed.unwrap_or_else(everybody),
            mode: match spec.source.map(|at| at.value).unwrap_or_default() {
                SourceSpec::Preserve => SourceMode::PreserveSource,
                SourceSpec::Gateway => SourceMode::Snat,
            },
            affinity: match spec.affinity.map(|at| at.value).unwrap_or_default() {
                AffinitySpec::None => Affinity::None,
                AffinitySpec::ClientIp => Affinity::ClientIp,
            },
            drain: drain?.unwrap_or(Duration::ZERO),
            egress: spec.egress.value,
            health_check: check,
            origin: self.report.source().origin(document.metadata.name.place),
        })
    }

    fn tenant(&mut self, document: &PortMappingDocument) -> Option<TenantId> {
        let (roster, tenants) = (self.roster, self.tenants);
        let field = Field::SPEC.name("tenant");
        let written = &document.spec.tenant;
        self.report.check("TenantUnknown", written, &field, |text| {
            if let Some(tenant) = TenantId::new(text).ok().and_then(|id| tenants.get(&id)) {
                return Ok(tenant.clone());
            }
            let mut names = roster.entrants.iter().map(|entrant| entrant.id.as_str());
            if names.any(|name| name == text) {
                return Err("is not served, see what is said about it".to_owned());
            }
            let served = roster.served();
            let hint = crate::suggest::hint(text, served.iter().map(|tenant| tenant.as_str()));
            Err(format!("is no tenant here{hint}: write a Tenant document of this name"))
        })
    }

    fn addresses(&mut self, document: &PortMappingDocument) -> Vec<IngressAddress> {
        let field = Field::SPEC.name("addresses");
        let written = &document.spec.addresses;
        if written.is_empty() {
            let place = document.spec.tenant.place;
            self.report.error(
                "AddressMissing",
                place,
                &field,
                "is empty: name an external address",
            );
        }
        let mut addresses = Vec::with_capacity(written.len());
        for (at, written) in written.iter().enumerate() {
            let Some(address) =
                self.report.check("BadAddress", written, &field.index(at), words::address)
            else {
                continue;
            };
            let address = IngressAddress(address);
            if addresses.contains(&address) {
                let sentence = format!("{:?} is written twice", written.value);
                self.report.warning("AddressTwice", written.place, &field.index(at), &sentence);
            } else {
                addresses.push(address);
            }
        }
        addresses
    }
}

fn everybody() -> SourceSet {
    SourceSet::new([IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())])
}
