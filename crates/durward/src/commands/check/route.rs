//! `durward check route`: one listener, its routes, and a dial of every upstream behind it.
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

/// Follows a listener to its upstreams.
pub(crate) async fn follow(snapshot: &Snapshot, at: SocketAddr, timeout: Duration) -> Report {
    let mut mapping = Category::new("mapping");
    let Some((tenant, listener)) = find(snapshot, at) else {
        mapping.error(format!("no tenant has {at}"), "see what there is: durward validate -o json");
        return Report::new(vec![mapping]);
    };
    mapping.ok(format!(
        "{at} belongs to tenant {}, {} ({})",
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
        return Report::new(vec![mapping, outward]);
    }

    let missing = addresses::missing(snapshot);
    let mut dialled = Category::new("upstreams");
    for index in upstreams {
        dial::upstream(&mut dialled, tenant, tenant.upstream(index), &missing, timeout).await;
    }
    Report::new(vec![mapping, dialled])
}

fn find(snapshot: &Snapshot, at: SocketAddr) -> Option<(&Tenant, &Listener)> {
    let tenants = snapshot.tenants.values();
    let mut listeners = tenants
        .flat_map(|tenant| tenant.listeners.iter().map(move |listener| (&**tenant, &**listener)));
    listeners.find(|(_, listener)| listener.key() == (at.ip(), at.port()) || listener.bind == at)
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
        Service::Forward(_) => {}
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
