//! `durward check route`: one listener, or those that share its address and port by names; their routes, and a dial of every upstream behind them.
//!
//! Deliberately absent: sending a request; the application's answers are its own affair.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use durward_model::certificate::span_text;
use durward_model::egress::Neighbours;
use durward_model::listener::Service;
use durward_model::route::{Action, PathMatch, Route, WeightedUpstream};
use durward_model::upstream::UpstreamIndex;
use durward_model::{Listener, Snapshot, Tenant};

use crate::commands::check::{Category, Report, addresses, dial, egress};
use crate::inspect;

/// Listeners at one address and port that are followed; a port by names may have thousands.
const FOLLOWED: usize = 20;

/// Follows a listener, or each of those that share its address and port, to its upstreams.
pub(crate) async fn follow(snapshot: &Snapshot, at: SocketAddr, timeout: Duration) -> Report {
    let found = find(snapshot, at);
    if found.is_empty() {
        let mut mapping = Category::new("mapping");
        mapping.error(format!("no tenant has {at}"), "see what there is: durward validate -o json");
        return Report::new(vec![mapping]);
    }
    let mut categories = Vec::new();
    for (tenant, listener) in found.iter().take(FOLLOWED) {
        categories.extend(follow_one(snapshot, (tenant, listener), at, timeout).await);
    }
    if let (Some(more), Some(first)) = (found.len().checked_sub(FOLLOWED), categories.first_mut())
        && more > 0
    {
        let sentence = format!("{more} more listeners share {at} and are not followed");
        first.warn(sentence, "ask for a name: durward explain AT --sni NAME");
    }
    Report::new(categories)
}

async fn follow_one(
    snapshot: &Snapshot,
    (tenant, listener): (&Tenant, &Listener),
    at: SocketAddr,
    timeout: Duration,
) -> Vec<Category> {
    let mut mapping = Category::new("mapping");
    let names: Vec<_> = listener.names.iter().flatten().map(ToString::to_string).collect();
    let by =
        if names.is_empty() { String::new() } else { format!(" by name ({})", names.join(", ")) };
    mapping.ok(format!(
        "{at} belongs to tenant {}{by}, {} ({})",
        tenant.id,
        listener.protocol(),
        listener.origin
    ));
    if let Some(tls) = listener.tls() {
        let mode = tls.client_auth.mode();
        match tls.certificates.get(tls.certificate_for(None)) {
            Some(certificate) => {
                let left = span_text(certificate.not_after - inspect::now());
                let name = &certificate.name;
                mapping.ok(format!("certificate {name} ({left} left), client certificates {mode}"));
            }
            None => mapping.warn(
                "the certificate has not been issued yet: handshakes are refused".to_owned(),
                "see /readyz?verbose of the gateway, which says what is missing",
            ),
        }
    }
    let upstreams = describe(&mut mapping, listener);

    if let Service::Forward(service) = &listener.service {
        let mut outward = Category::new("egress");
        egress::one(&mut outward, tenant, listener, service, &Neighbours::of(snapshot));
        return vec![mapping, outward];
    }

    let missing = addresses::missing(snapshot);
    let mut dialled = Category::new("upstreams");
    for index in upstreams {
        dial::upstream(&mut dialled, tenant, tenant.upstream(index), &missing, timeout).await;
    }
    vec![mapping, dialled]
}

fn find(snapshot: &Snapshot, at: SocketAddr) -> Vec<(&Tenant, &Listener)> {
    let listeners = || {
        let tenants = snapshot.tenants.values();
        tenants.flat_map(|tenant| {
            tenant.listeners.iter().map(move |listener| (&**tenant, &**listener))
        })
    };
    let key = (at.ip(), at.port());
    let known: Vec<_> = listeners().filter(|(_, listener)| listener.key() == key).collect();
    if !known.is_empty() {
        return known;
    }
    listeners().find(|(_, listener)| listener.bind == at).into_iter().collect()
}

/// Adds a check for each route and returns the upstreams they lead to.
fn describe(category: &mut Category, listener: &Listener) -> BTreeSet<UpstreamIndex> {
    let mut upstreams = BTreeSet::new();
    let mut lead = |choices: &[WeightedUpstream]| {
        upstreams.extend(choices.iter().map(|choice| choice.upstream))
    };
    match &listener.service {
        Service::Http(service) => {
            for route in &service.routes {
                category.ok(format!("route {} ({})", summary(route), route.origin));
                if let Action::Forward(forward) = &route.action {
                    lead(&forward.upstreams);
                }
            }
            if service.routes.is_empty() {
                category.error(
                    "it has no route: every request is answered 404",
                    "add spec.ingress[].routes",
                );
            }
        }
        Service::PassThrough(routes) => routes.iter().for_each(|route| lead(&route.upstreams)),
        Service::Tcp(service) => lead(&service.upstreams),
        Service::Udp(service) => lead(&service.upstreams),
        Service::Forward(_) | Service::Link(_) => {}
    }
    upstreams
}

fn summary(route: &Route) -> String {
    let path = match &route.matches.path {
        PathMatch::Exact(path) => format!("path {path}"),
        PathMatch::Prefix(prefix) if prefix.is_empty() => "every path".to_owned(),
        PathMatch::Prefix(prefix) => format!("paths below {prefix}"),
    };
    let action = match &route.action {
        Action::Forward(_) => "forwarded".to_owned(),
        Action::Redirect(redirect) => format!("redirected with {}", redirect.status),
        Action::Respond { status, .. } => format!("answered with {status}"),
    };
    format!("{}: {path}, {action}", route.name)
}
