//! `TLSRoute` of the Gateway API (`gateway.networking.k8s.io`).
//!
//! The parents of a route are not looked at: the tenant's own listener is what it is served at, and TLS is always passed through.

use serde::Deserialize;

use super::{ForeignApi, ForeignBackend, ForeignFault, ForeignRoute, ForeignSources, excess};
use crate::place::At;
use crate::spec::service::{ServicePortSpec, ServiceSpec};
use crate::spec::tenant::Metadata;

#[derive(Deserialize)]
pub(super) struct Spec {
    #[serde(default)]
    hostnames: Vec<At<String>>,
    #[serde(default)]
    rules: Vec<At<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    backend_refs: Vec<At<BackendRef>>,
}

#[derive(Deserialize)]
struct BackendRef {
    #[serde(default)]
    group: Option<At<String>>,
    #[serde(default)]
    kind: Option<At<String>>,
    name: At<String>,
    #[serde(default)]
    namespace: Option<At<String>>,
    #[serde(default)]
    port: Option<At<u16>>,
    #[serde(default)]
    weight: Option<At<u32>>,
}

/// Returns the route of a `TLSRoute`: its only rule is for all of its names.
pub(super) fn api(metadata: Metadata, spec: Spec) -> ForeignApi {
    let mut faults = Vec::new();
    if let Some(second) = spec.rules.get(1) {
        let sentence = "is for the same names as rules[0]: keep one rule";
        faults.push(ForeignFault::error("rules[1]".to_owned(), second.place, sentence));
    }
    let mut backends = Vec::new();
    let written = spec.rules.into_iter().next().map(|rule| rule.value.backend_refs);
    for (at, reference) in written.unwrap_or_default().into_iter().enumerate() {
        let field = format!("rules[0].backendRefs[{at}]");
        match backend(reference, &field) {
            Ok(backend) => backends.push(backend),
            Err(fault) => faults.push(fault),
        }
    }
    let field = "hostnames".to_owned();
    let routes = vec![ForeignRoute { field, names: spec.hostnames, backends }];
    faults.extend(excess(&routes, "hostnames", metadata.name.place));
    ForeignApi { metadata, routes, sources: ForeignSources::default(), faults }
}

fn backend(reference: At<BackendRef>, field: &str) -> Result<ForeignBackend, ForeignFault> {
    let At { value: BackendRef { group, kind, name, namespace, port, weight }, place } = reference;
    let is_other = |written: &Option<At<String>>, usual: &str| {
        written.as_ref().is_some_and(|written| written.value != usual)
    };
    if is_other(&group, "") || is_other(&kind, "Service") {
        let sentence = "is no Service: name a Service and its port";
        return Err(ForeignFault::error(field.to_owned(), place, sentence));
    }
    let Some(port) = port else {
        let sentence = "is missing: name the port of the Service";
        return Err(ForeignFault::error(format!("{field}.port"), place, sentence));
    };
    let port = At::new(ServicePortSpec(port.value.to_string()), port.place);
    let weight = weight.map_or(1, |weight| weight.value);
    let spec = ServiceSpec { name, port, namespace };
    Ok(ForeignBackend { field: field.to_owned(), service: At::new(spec, place), weight })
}
