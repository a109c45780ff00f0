//! `IngressRouteTCP` of Traefik (`traefik.io/v1alpha1`), with `tls.passthrough`.
//!
//! Of rules those are read that name hosts: ``HostSNI(`a`) || HostSNI(`b`)``.

use serde::Deserialize;

use super::{ForeignApi, ForeignBackend, ForeignFault, ForeignRoute, ForeignSources, excess};
use crate::place::At;
use crate::spec::service::{ServicePortSpec, ServiceSpec};
use crate::spec::tenant::Metadata;

#[derive(Deserialize)]
pub(super) struct Spec {
    #[serde(default)]
    routes: Vec<Route>,
}

#[derive(Deserialize)]
struct Route {
    r#match: At<String>,
    #[serde(default)]
    services: Vec<At<Service>>,
    #[serde(default)]
    middlewares: Vec<At<Middleware>>,
}

#[derive(Deserialize)]
struct Middleware {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    name: At<String>,
    port: At<ServicePortSpec>,
    #[serde(default)]
    namespace: Option<At<String>>,
    #[serde(default)]
    weight: Option<At<u32>>,
    #[serde(default)]
    tls: Option<At<bool>>,
    #[serde(default)]
    proxy_protocol: Option<At<ProxyProtocol>>,
}

#[derive(Deserialize)]
struct ProxyProtocol {}

/// Returns the routes of an `IngressRouteTCP`.
pub(super) fn api(metadata: Metadata, spec: Spec) -> ForeignApi {
    let (mut routes, mut faults) = (Vec::new(), Vec::new());
    for (at, written) in spec.routes.into_iter().enumerate() {
        let field = format!("routes[{at}]");
        let names = match hosts(&written.r#match) {
            Ok(names) => names.into_iter().map(|name| At::new(name, written.r#match.place)),
            Err(why) => {
                let field = format!("{field}.match");
                faults.push(ForeignFault::error(field, written.r#match.place, why));
                continue;
            }
        };
        if let Some(first) = written.middlewares.first() {
            let sentence = format!(
                "{:?} is not applied here: use allowedSources of a HostedApi, or remove it",
                first.name
            );
            faults.push(ForeignFault::error(format!("{field}.middlewares"), first.place, sentence));
        }
        let mut backends = Vec::new();
        for (at, service) in written.services.into_iter().enumerate() {
            let field = format!("{field}.services[{at}]");
            faults.extend(unfitting(&service, &field));
            backends.push(backend(service, field));
        }
        routes.push(ForeignRoute {
            field: format!("{field}.match"),
            names: names.collect(),
            backends,
        });
    }
    faults.extend(excess(&routes, "routes", metadata.name.place));
    ForeignApi { metadata, routes, sources: ForeignSources::default(), faults }
}

/// Returns the fault of a Service that is to be sent something else than the client's own bytes.
fn unfitting(service: &Service, field: &str) -> Option<ForeignFault> {
    if let Some(header) = &service.proxy_protocol {
        let sentence = "is not sent: an API server reads none, remove it";
        return Some(ForeignFault::error(format!("{field}.proxyProtocol"), header.place, sentence));
    }
    let tls = service.tls.filter(|tls| tls.value)?;
    let sentence = "cannot be true beside tls.passthrough: the client's own TLS goes to the Service, remove it";
    Some(ForeignFault::error(format!("{field}.tls"), tls.place, sentence))
}

fn backend(service: At<Service>, field: String) -> ForeignBackend {
    let At { value: Service { name, port, namespace, weight, .. }, place } = service;
    let weight = weight.map_or(1, |weight| weight.value);
    let spec = ServiceSpec { name, port, namespace };
    ForeignBackend { field, service: At::new(spec, place), weight }
}

/// Returns the hosts of a rule.
///
/// # Errors
/// Fails, with a phrase that says what is read, where a rule asks for anything else.
pub(super) fn hosts(rule: &str) -> Result<Vec<String>, String> {
    let other = || {
        format!("{rule:?} is not understood: a rule here is HostSNI(`NAME`), several joined by ||")
    };
    let mut hosts = Vec::new();
    for term in rule.split("||") {
        let inner = term.trim().strip_prefix("HostSNI(").and_then(|rest| rest.strip_suffix(')'));
        for written in inner.ok_or_else(other)?.split(',') {
            let host = unquoted(written.trim()).ok_or_else(other)?;
            hosts.push(host.to_owned());
        }
    }
    Ok(hosts)
}

/// Returns what stands between two backticks or quotation marks and holds none.
fn unquoted(text: &str) -> Option<&str> {
    ['`', '"'].into_iter().find_map(|mark| {
        let inner = text.strip_prefix(mark)?.strip_suffix(mark)?;
        (!inner.contains(mark)).then_some(inner)
    })
}
