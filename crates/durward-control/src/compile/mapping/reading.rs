//! Reads one mapping's document by itself.
//!
//! Deliberately absent: claims of others; those are decided among all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use durward_model::mapping::{Affinity, PortMapping, SourceMode};
use durward_model::{IngressAddress, SourceSet, TenantId};
use ipnet::IpNet;

use super::ports::Services;
use super::{health, ports};
use crate::cluster::Owner;
use crate::compile::report::{Field, Report};
use crate::compile::roster::Roster;
use crate::compile::{bounds, route, times, upstream, words};
use crate::document::Document;
use crate::place::At;
use crate::spec::port_mapping::{AffinitySpec, PortMappingDocument, SourceSpec};
use crate::store::{Asker, Store};

/// A document while it is read.
pub(super) struct Reading<'r, 's, 'o> {
    pub(super) report: &'r mut Report<'s>,
    pub(super) roster: &'r Roster<'o>,
    pub(super) tenants: &'r BTreeSet<TenantId>,
    pub(super) store: &'r Store,
    pub(super) entry: &'r Document,
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
        let tenant_asking = self.entry.tenant();
        let asker = tenant_asking.map(|tenant| Asker { tenant, viewpoint: self.entry.viewpoint() });
        let services = Services::new(self.store, asker, spec);
        let (ports, services) = ports::ports(self.report, spec, services);
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
        // Its port is served without endpoints: what it had may be another's by now.
        for (position, fault) in services.gone {
            let Some(service) = &spec.ports[position].service else { continue };
            let list = Field::SPEC.name("ports");
            let field = list.index(position);
            upstream::no_service(self.report, service, &field.name("service"), &fault);
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
        let field = Field::SPEC.name("tenant");
        let written = document.spec.tenant.as_ref();
        match (&self.entry.owner, written) {
            (Owner::OfNamespace(owner), Some(written)) if written.value != owner.as_str() => {
                let sentence = format!(
                    "{:?} is not the tenant of this namespace, which is {owner}'s: remove it",
                    written.value
                );
                self.report.error("TenantMismatch", written.place, &field, &sentence);
                None
            }
            (Owner::OfNamespace(owner), _) => {
                let place = written.map_or(document.metadata.name.place, |written| written.place);
                self.known(&At::new(owner.to_string(), place), &field)
            }
            (_, Some(written)) => self.known(written, &field),
            (_, None) => {
                let sentence = "is missing: name the tenant that the mapping belongs to";
                self.report.error("TenantMissing", document.spec.place(), &field, sentence);
                None
            }
        }
    }

    /// Returns the tenant of this name, if it is served.
    fn known(&mut self, written: &At<String>, field: &Field<'_>) -> Option<TenantId> {
        let (roster, tenants) = (self.roster, self.tenants);
        self.report.check("TenantUnknown", written, field, |text| {
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
            let place = document.spec.place();
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
