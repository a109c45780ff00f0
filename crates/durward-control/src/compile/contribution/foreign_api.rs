//! An object of another controller that names hosted API servers: pass-through routes for its names, at the tenant's own listener that holds them.
//!
//! It is taken in the namespace of a tenant alone, with Services of that namespace or that are granted to it.

use std::sync::Arc;

use durward_model::health::Probe;
use durward_model::route::{HostPattern, WeightedUpstream};
use durward_model::sni::SniRoute;
use durward_model::upstream::UpstreamIndex;
use durward_model::{HostedApi, ServerNames, SourceSet, Upstream};

use super::{AddedListener, Contribution, Written, hosted_api};
use crate::compile::certificates::Files;
use crate::compile::part::PartId;
use crate::compile::report::{Field, Report};
use crate::compile::{route, upstream};
use crate::document::Document;
use crate::place::At;
use crate::spec::foreign_api::{ForeignApi, ForeignBackend, ForeignRoute};
use crate::spec::hosted_api::is_in_every_cluster;
use crate::spec::upstream::{HealthCheckSpec, UpstreamSpec};

/// Returns what an object of another controller adds, or `None` after an error.
pub(super) fn read(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    document: &Document,
    foreign: &ForeignApi,
) -> Option<Contribution> {
    let before = report.errors();
    for fault in &foreign.faults {
        let field = Field::SPEC.below(&fault.field);
        if fault.is_error {
            report.error(fault.reason, fault.place, &field, &fault.sentence);
        } else {
            report.warning(fault.reason, fault.place, &field, &fault.sentence);
        }
    }
    let id = PartId::of(document)?;
    let name = format!("{}/{}", id.kind, id.qualified());
    let sources = sources(report, foreign);
    let mut reading = Reading { report, files, name, sources, upstreams: Vec::new() };
    let routes: Vec<SniRoute> =
        foreign.routes.iter().enumerate().filter_map(|(at, one)| reading.route(at, one)).collect();
    let upstreams = std::mem::take(&mut reading.upstreams);
    if routes.is_empty() && report.errors() == before {
        let sentence =
            "names no host that is this API server's alone: name one like t1.api.example.com";
        report.error("NameMissing", foreign.place(), &Field::SPEC, sentence);
    }
    if report.errors() > before {
        return None;
    }
    let field = foreign.routes.first().map(|route| route.field.as_str()).unwrap_or_default();
    let written = Written { field: Arc::from(field), place: foreign.place() };
    let origin = report.source().origin(foreign.metadata.name.place);
    let added = AddedListener::by_names(id.tenant, routes, origin.clone(), written);
    Some(Contribution { upstreams, listeners: vec![added], ..Contribution::new(origin) })
}

fn sources(report: &mut Report<'_>, foreign: &ForeignApi) -> Option<SourceSet> {
    let sources = &foreign.sources;
    let first = sources.networks.first()?;
    let networks = At::new(sources.networks.clone(), first.place);
    route::networks(report, Some(&networks), &Field::SPEC.below(sources.field))
}

/// An object while it is read.
struct Reading<'r, 'a, 'f> {
    report: &'r mut Report<'a>,
    files: &'r mut Files<'f>,
    /// Kind, namespace and name of the object.
    name: String,
    sources: Option<SourceSet>,
    upstreams: Vec<Arc<Upstream>>,
}

impl Reading<'_, '_, '_> {
    /// Reads a route; `None` if none of its names can be served, or after an error.
    fn route(&mut self, at: usize, written: &ForeignRoute) -> Option<SniRoute> {
        let hosts = self.hosts(written);
        if hosts.is_empty() {
            return None;
        }
        let upstreams = self.backends(at, written);
        let origin = self.report.source().origin(written.names.first()?.place);
        let name = if at == 0 { self.name.clone() } else { format!("{}/{at}", self.name) };
        let hosted = HostedApi {
            name: Arc::from(name),
            names: ServerNames::new(hosts.clone()),
            allowed_sources: self.sources.clone(),
            relay: None,
            origin: origin.clone(),
        };
        Some(SniRoute { hosts, upstreams: upstreams?, hosted: Some(Arc::new(hosted)), origin })
    }

    fn hosts(&mut self, written: &ForeignRoute) -> Vec<HostPattern> {
        let field = &Field::SPEC.below(&written.field);
        let mut hosts = Vec::with_capacity(written.names.len());
        for name in &written.names {
            if is_in_every_cluster(&name.to_ascii_lowercase()) {
                // Steward writes them beside the host. Which cluster is meant they do not say.
                let sentence = format!(
                    "{:?} is a name of the API server in every cluster: not served here",
                    name.value
                );
                self.report.warning("NameShared", name.place, field, &sentence);
                continue;
            }
            hosts.extend(hosted_api::host(self.report, name, field).map(HostPattern::Exact));
        }
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    fn backends(&mut self, at: usize, route: &ForeignRoute) -> Option<Vec<WeightedUpstream>> {
        let mut choices = Vec::with_capacity(route.backends.len());
        let served = route.backends.iter().filter(|backend| backend.weight > 0);
        for (position, backend) in served.enumerate() {
            let name = format!("hostedApi/{}/{at}/{position}", self.name);
            let upstream = self.backend(backend, Arc::from(name))?;
            let index = UpstreamIndex(self.upstreams.len());
            choices.push(WeightedUpstream { upstream: index, weight: backend.weight });
            self.upstreams.push(Arc::new(upstream));
        }
        if choices.is_empty() {
            let place = route.names.first().map(|name| name.place).unwrap_or_default();
            let sentence = "has no Service behind it with a weight above 0: name one";
            self.report.error("NoRoute", place, &Field::SPEC.below(&route.field), sentence);
            return None;
        }
        Some(choices)
    }

    fn backend(&mut self, backend: &ForeignBackend, name: Arc<str>) -> Option<Upstream> {
        let field = &Field::SPEC.below(&backend.field);
        let place = backend.service.place;
        let spec =
            UpstreamSpec { service: Some(backend.service.clone()), ..UpstreamSpec::default() };
        let spec = At::new(spec, place);
        let made = hosted_api::carried(self.report, self.files, (spec, name), field)?;
        // No object names its authorities: an endpoint that answers a ClientHello is good.
        let check = HealthCheckSpec::default();
        let check = upstream::paced(self.report, &check, field, Some(Probe::ServerHello))?;
        let idle = Some(hosted_api::IDLE);
        Some(Upstream { health_check: Some(check), stream_idle: idle, ..made })
    }
}
