//! Routes of pass-through listeners: by the name a client asks for in its ClientHello.
//!
//! Deliberately absent: everything inside the TLS stream, which stays closed to us.

use std::collections::BTreeMap;

use durward_model::route::HostPattern;
use durward_model::sni::SniRoute;

use super::report::{Field, Report};
use super::route::{self, Carrying, Targets};
use super::upstream_set::UpstreamSet;
use crate::place::{At, Place};
use crate::spec::ingress::IngressSpec;
use crate::spec::route::RouteSpec;

/// The route, or `None` after an error.
pub(crate) fn route(
    report: &mut Report<'_>,
    upstreams: &mut UpstreamSet<'_>,
    spec: &At<RouteSpec>,
    field: &Field<'_>,
) -> Option<SniRoute> {
    let before = report.errors();
    for (name, place) in inside_the_stream(spec) {
        let sentence = "means nothing here: the TLS stream is carried through unopened, only hosts can be told apart";
        report.error("FieldUnfitting", place, &field.name(name), sentence);
    }
    let hosts = route::hosts(report, spec, field);
    if spec.upstream.is_none() && spec.upstreams.is_empty() {
        report.error("BadRoute", spec.place, field, "needs upstream or upstreams");
        return None;
    }
    let targets = Targets { one: spec.upstream.as_ref(), many: &spec.upstreams, place: spec.place };
    let upstreams = route::weighted(report, upstreams, targets, field, Carrying::Bytes);
    if report.errors() > before {
        return None;
    }
    let origin = report.source().origin(spec.place);
    Some(SniRoute { hosts, upstreams: upstreams?, hosted: None, origin })
}

fn inside_the_stream(spec: &At<RouteSpec>) -> impl Iterator<Item = (&'static str, Place)> {
    let header = spec.headers.first().map(|header| header.name.place);
    let rules = |rules: &crate::spec::route::HeaderRulesSpec| {
        let entries = rules.set.keys().chain(rules.add.keys()).chain(&rules.remove);
        entries.map(|name| name.place).next()
    };
    [
        ("path", spec.path.as_ref().map(|at| at.place)),
        ("pathPrefix", spec.path_prefix.as_ref().map(|at| at.place)),
        ("methods", spec.methods.first().map(|at| at.place)),
        ("headers", header),
        ("sources", spec.sources.as_ref().map(|at| at.place)),
        ("redirect", spec.redirect.as_ref().map(|at| at.place)),
        ("respond", spec.respond.as_ref().map(|at| at.place)),
        ("rewrite", spec.rewrite.as_ref().map(|at| at.place)),
        ("requestHeaders", rules(&spec.request_headers)),
        ("responseHeaders", rules(&spec.response_headers)),
        ("timeout", spec.timeout.as_ref().map(|at| at.place)),
    ]
    .into_iter()
    .filter_map(|(name, place)| place.map(|place| (name, place)))
}

/// A name in two routes would make one of them a lie.
pub(crate) fn duplicates(
    report: &mut Report<'_>,
    spec: &IngressSpec,
    routes: &[SniRoute],
    field: &Field<'_>,
) {
    let mut seen: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    for (at, route) in routes.iter().enumerate() {
        let names = route.hosts.iter().map(|host| match host {
            HostPattern::Exact(name) => (true, &**name),
            HostPattern::Wildcard(parent) => (false, &**parent),
        });
        // A route without hosts is the one for every other name; there can be one of those.
        let names: Vec<_> =
            if route.hosts.is_empty() { vec![(false, "")] } else { names.collect() };
        for name in names {
            if let Some(first) = seen.insert(name, at).filter(|first| *first != at) {
                let place = spec.routes.get(at).map_or(spec.address.place, |route| route.place);
                let shown = match name {
                    (_, "") => "every other SNI".to_owned(),
                    (true, name) => format!("SNI {name}"),
                    (false, parent) => format!("SNI *.{parent}"),
                };
                let sentence = format!("takes {shown}, which routes[{first}] takes already");
                report.error("SniTaken", place, &field.index(at), &sentence);
                seen.insert(name, first);
            }
        }
    }
}
