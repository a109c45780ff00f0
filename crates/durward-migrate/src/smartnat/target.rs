//! The endpoints behind a mapping: a Service with its EndpointSlices, or the Endpoints object of older clusters.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::objects::Object;

/// A Service with its endpoints.
pub(super) struct Target<'a> {
    pub(super) service: Option<&'a Object>,
    slices: Vec<&'a Object>,
    endpoints: Option<&'a Object>,
    pub(super) affinity: bool,
}

impl<'a> Target<'a> {
    pub(super) fn find(objects: &'a [Object], in_namespace: &str, name: &str) -> Self {
        let here = |object: &&Object| object.namespace() == in_namespace;
        let named = |kind: &str| {
            let mut found = objects.iter().filter(here);
            found.find(|object| object.kind() == kind && object.name() == name)
        };
        let of_service = |object: &&Object| {
            let label = &object.value["metadata"]["labels"]["kubernetes.io/service-name"];
            object.kind() == "EndpointSlice" && label.as_str() == Some(name)
        };
        let service = named("Service");
        let affinity = service
            .is_some_and(|one| one.value["spec"]["sessionAffinity"].as_str() == Some("ClientIP"));
        let slices = objects.iter().filter(here).filter(of_service).collect();
        Self { service, slices, endpoints: named("Endpoints"), affinity }
    }

    /// Ready endpoints of a Service's port; slices name their ports as the Service does.
    pub(super) fn endpoints(&self, port: u16, protocol: &str) -> Vec<String> {
        let ports = self.service.and_then(|service| service.value["spec"]["ports"].as_array());
        let wanted = ports.into_iter().flatten().find(|one| {
            one["port"].as_u64() == Some(u64::from(port)) && is_protocol(one, protocol)
        });
        let Some(wanted) = wanted else { return Vec::new() };
        let name = wanted["name"].as_str().unwrap_or_default();
        let mut found = BTreeSet::new();
        for slice in &self.slices {
            let Some(number) = number(&slice.value["ports"], name, protocol) else { continue };
            for endpoint in items(&slice.value["endpoints"]) {
                if endpoint["conditions"]["ready"].as_bool() == Some(false) {
                    continue;
                }
                let addresses = items(&endpoint["addresses"]).filter_map(Value::as_str);
                found.extend(addresses.map(|address| at(address, number)));
            }
        }
        if self.slices.is_empty() {
            let subsets = self.endpoints.map(|endpoints| items(&endpoints.value["subsets"]));
            for subset in subsets.into_iter().flatten() {
                let Some(number) = number(&subset["ports"], name, protocol) else { continue };
                let addresses = items(&subset["addresses"]).filter_map(|one| one["ip"].as_str());
                found.extend(addresses.map(|address| at(address, number)));
            }
        }
        found.into_iter().collect()
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn is_protocol(port: &Value, protocol: &str) -> bool {
    port["protocol"].as_str().unwrap_or("TCP").eq_ignore_ascii_case(protocol)
}

fn number(ports: &Value, name: &str, protocol: &str) -> Option<u64> {
    let port = items(ports)
        .find(|one| one["name"].as_str().unwrap_or_default() == name && is_protocol(one, protocol));
    port.and_then(|one| one["port"].as_u64())
}

fn at(address: &str, port: u64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
