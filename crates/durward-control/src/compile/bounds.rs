//! The most entries that lists of a document may have: what is compared each with each, or asked for each request, stays small.

use std::collections::HashMap;

use super::report::{Field, Report};
use crate::place::{At, Place};
use crate::spec::route::RouteSpec;
use crate::spec::tenant::TenantSpec;

/// Entries of `ingress` and of `egress.proxy`.
const LISTENERS: usize = 1_000;
/// Routes of all entries of `ingress` together.
const ROUTES: usize = 50_000;
/// Routes of one entry for one host and path, which are asked one after the other.
const ALIKE: usize = 1_000;
/// Upstreams, and endpoints of all of them.
const UPSTREAMS: usize = 10_000;
const ENDPOINTS: usize = 20_000;
/// Egress addresses.
const ADDRESSES: usize = 1_000;
/// Enrolled networks.
const NETWORKS: usize = 10_000;

/// Adds an error for each list that is too long.
pub(crate) fn check(report: &mut Report<'_>, spec: &TenantSpec) {
    let egress = Field::SPEC.name("egress");
    let routes = spec.ingress.iter().map(|entry| entry.routes.len()).sum();
    let endpoints = spec.upstreams.values().map(|upstream| upstream.endpoints.len()).sum();
    let lists = [
        (Field::SPEC.name("ingress"), "entries", spec.ingress.len(), LISTENERS),
        (Field::SPEC.name("ingress"), "routes in all", routes, ROUTES),
        (Field::SPEC.name("upstreams"), "entries", spec.upstreams.len(), UPSTREAMS),
        (Field::SPEC.name("upstreams"), "endpoints in all", endpoints, ENDPOINTS),
        (egress.name("proxy"), "entries", spec.egress.proxy.len(), LISTENERS),
        (egress.name("addresses"), "entries", spec.egress.addresses.len(), ADDRESSES),
        (egress.name("sources"), "entries", spec.egress.sources.len(), NETWORKS),
    ];
    for (field, what, count, most) in lists {
        if count > most {
            let sentence = format!(
                "has {count} {what}, at most {most} are served: give the rest to another tenant"
            );
            report.error("TooMany", Place::default(), &field, &sentence);
        }
    }
    for (at, entry) in spec.ingress.iter().enumerate() {
        if entry.routes.len() > ALIKE {
            let list = Field::SPEC.name("ingress");
            alike(report, &entry.routes, &list.index(at));
        }
    }
}

/// Adds an error when too many routes are for one host and path.
fn alike(report: &mut Report<'_>, routes: &[At<RouteSpec>], field: &Field<'_>) {
    let mut counts: HashMap<_, usize> = HashMap::new();
    for route in routes {
        let text = |written: &'_ Option<At<String>>| written.as_ref().map(|at| at.value.clone());
        let path = (text(&route.path_prefix), text(&route.path));
        let hosts = route.host.iter().chain(&route.hosts).map(|host| Some(host.value.clone()));
        let everywhere = (route.host.is_none() && route.hosts.is_empty()).then_some(None);
        for host in hosts.chain(everywhere) {
            let count = counts.entry((host, path.clone())).or_default();
            *count += 1;
            if *count > ALIKE {
                let sentence = format!(
                    "has more than {ALIKE} routes for one host and path, which would be asked one after the other: tell them apart by host or path"
                );
                report.error("TooMany", route.place, field, &sentence);
                return;
            }
        }
    }
}
