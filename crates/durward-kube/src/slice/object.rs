//! `EndpointSlice` and Endpoints as JSON: what is read of them, and what is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::step::WITHDRAWN;
use super::{Family, Seen, Target};
use crate::object::Labels;
use crate::resource_type::{ENDPOINT_SLICES, ENDPOINTS, ResourceType};

/// Label that makes a slice one of the Service `kubernetes`.
const SERVICE: (&str, &str) = ("kubernetes.io/service-name", "kubernetes");
/// Label that says who keeps a slice, so that the controllers of Kubernetes leave it alone.
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "durward-api-proxy");
/// Label of Endpoints of which Kubernetes makes no slices: `kubernetes` has no selector, so it would otherwise.
const SKIP_MIRROR: (&str, &str) = ("endpointslice.kubernetes.io/skip-mirror", "true");
/// Annotation with the endpoints from before the first keeper.
const BEFORE: &str = "api-proxy.durward.dev/before";
const PORT_NAME: &str = "https";

/// Returns the type of an object.
pub(super) fn resource(target: Target) -> &'static ResourceType {
    match target {
        Target::Endpoints => &ENDPOINTS,
        Target::Primary | Target::Secondary(_) => &ENDPOINT_SLICES,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
struct Endpoints {
    metadata: Metadata,
    #[serde(default)]
    subsets: Option<Vec<Subset>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    resource_version: Arc<str>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Labels,
    #[serde(default)]
    managed_fields: Option<Vec<Managed>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    #[serde(default)]
    manager: Arc<str>,
    #[serde(default)]
    time: Option<String>,
    /// Read when it is asked for only: as a value it is ten times as long.
    #[serde(default)]
    fields_v1: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subset {
    #[serde(default)]
    addresses: Option<Vec<Address>>,
    #[serde(default)]
    not_ready_addresses: Option<Vec<Address>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
struct Address {
    ip: String,
}

/// Reads an object. `port` is that of the proxies.
pub(super) fn decode(target: Target, port: u16, json: &str) -> serde_json::Result<Seen> {
    match target {
        Target::Endpoints => Ok(decode_endpoints(serde_json::from_str(json)?, port)),
        Target::Primary | Target::Secondary(_) => {
            Ok(decode_slice(serde_json::from_str(json)?, port))
        }
    }
}

/// Returns the addresses of a slice whose endpoints are ready at the proxies' port; none of a slice without that port, which is not the proxies'.
pub(super) fn ready_addresses(json: &str, port: u16) -> serde_json::Result<BTreeSet<IpAddr>> {
    let slice: Slice = serde_json::from_str(json)?;
    let is_ours = |one: &Port| {
        one.port == Some(port) && one.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
    };
    let has_port = slice.ports.iter().flatten().any(is_ours);
    let endpoints = slice.endpoints.filter(|_| has_port).into_iter().flatten();
    // No condition means ready, as the API has it.
    let ready = endpoints.filter(|endpoint| endpoint.conditions.ready != Some(false));
    Ok(ready.flat_map(|endpoint| endpoint.addresses).filter_map(|ip| ip.parse().ok()).collect())
}

fn decode_slice(slice: Slice, port: u16) -> Seen {
    let endpoints = slice.endpoints.unwrap_or_default();
    let ports = slice.ports.unwrap_or_default();
    let in_order = |endpoint: &Endpoint| {
        endpoint.addresses.len() == 1 && endpoint.conditions.ready != Some(false)
    };
    let addresses: BTreeSet<IpAddr> =
        endpoints.iter().flat_map(|it| &it.addresses).filter_map(|ip| ip.parse().ok()).collect();
    let in_form = endpoints.iter().all(in_order)
        && endpoints.len() == addresses.len()
        && is_form_of(&ports, port)
        && slice.metadata.has(SERVICE)
        && slice.metadata.has(MANAGED_BY);
    let family = match &*slice.address_type {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    };
    let rest = Seen { family, addresses, in_form, ports: numbers(&ports), ..Seen::default() };
    slice.metadata.complete(rest, "f:endpoints")
}

fn decode_endpoints(object: Endpoints, port: u16) -> Seen {
    let subsets = object.subsets.unwrap_or_default();
    let ips = |list: &Option<Vec<Address>>| {
        let list = list.iter().flatten();
        list.filter_map(|address| address.ip.parse().ok()).collect::<Vec<IpAddr>>()
    };
    let addresses: BTreeSet<IpAddr> =
        subsets.iter().flat_map(|subset| ips(&subset.addresses)).collect();
    let is_in_order = |subset: &Subset| {
        ips(&subset.not_ready_addresses).is_empty()
            && is_form_of(subset.ports.as_deref().unwrap_or_default(), port)
    };
    let in_form =
        subsets.len() <= 1 && subsets.iter().all(is_in_order) && object.metadata.has(SKIP_MIRROR);
    let ports = subsets.iter().flat_map(|subset| subset.ports.iter().flatten());
    let ports = ports.filter_map(|port| port.port).collect();
    let rest = Seen { addresses, in_form, ports, ..Seen::default() };
    object.metadata.complete(rest, "f:subsets")
}

fn is_form_of(ports: &[Port], port: u16) -> bool {
    let [only] = ports else { return false };
    let is_tcp = only.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    only.port == Some(port) && only.name.as_deref() == Some(PORT_NAME) && is_tcp
}

fn numbers(ports: &[Port]) -> BTreeSet<u16> {
    ports.iter().filter_map(|port| port.port).collect()
}

impl Metadata {
    fn has(&self, (key, value): (&str, &str)) -> bool {
        self.labels.iter().any(|(name, held)| &**name == key && &**held == value)
    }

    fn complete(self, seen: Seen, field: &str) -> Seen {
        let withdrawn = self.annotations.iter().filter(|(key, _)| key.starts_with(WITHDRAWN));
        let withdrawn = withdrawn.map(|(key, value)| {
            let addresses = value.split(',').filter_map(|ip| ip.parse().ok()).collect();
            (key.to_string(), addresses)
        });
        let before = self.annotations.iter().find(|(key, _)| &***key == BEFORE);
        Seen {
            kept: self.has(MANAGED_BY),
            version: Arc::clone(&self.resource_version),
            withdrawn: withdrawn.collect::<BTreeMap<_, _>>(),
            before: before.map(|(_, value)| Arc::clone(value)),
            writer: last_writer(self.managed_fields.unwrap_or_default(), field),
            ..seen
        }
    }
}

/// Returns the manager that owns `field`; of several the one that wrote last.
fn last_writer(managed: Vec<Managed>, field: &str) -> Option<Arc<str>> {
    let owns = |fields: &RawValue| {
        let fields = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(fields.get());
        fields.is_ok_and(|fields| fields.contains_key(field))
    };
    let owners = managed.into_iter().filter(|entry| entry.fields_v1.as_deref().is_some_and(owns));
    // Times are RFC 3339 in UTC, whose order is that of their texts.
    owners.max_by(|one, other| one.time.cmp(&other.time)).map(|entry| entry.manager)
}

/// Returns the object to apply. With a version, the server refuses it if the object has changed since.
pub(super) fn content(
    (target, family): (Target, Family),
    (addresses, port): (&BTreeSet<IpAddr>, u16),
    version: Option<&str>,
    before: Option<&str>,
) -> Value {
    let mut object = match target {
        Target::Endpoints => json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"labels": {(SKIP_MIRROR.0): SKIP_MIRROR.1, (MANAGED_BY.0): MANAGED_BY.1}},
            "subsets": subsets(addresses, port),
        }),
        Target::Primary | Target::Secondary(_) => json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"labels": {(SERVICE.0): SERVICE.1, (MANAGED_BY.0): MANAGED_BY.1}},
            "addressType": family.address_type(),
            "endpoints": addresses.iter().map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}})).collect::<Vec<_>>(),
            "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
        }),
    };
    object["metadata"]["name"] = target.name().into();
    object["metadata"]["namespace"] = "default".into();
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version.into();
    }
    if let Some(before) = before {
        object["metadata"]["annotations"] = json!({(BEFORE): before});
    }
    object
}

/// Returns the object to apply with endpoints from before the first keeper, without the label of keepers.
pub(super) fn given_back(
    (target, family): (Target, Family),
    (addresses, port): (&BTreeSet<IpAddr>, u16),
    version: Option<&str>,
) -> Value {
    let mut object = content((target, family), (addresses, port), version, None);
    if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
        labels.remove(MANAGED_BY.0);
    }
    object
}

fn subsets(addresses: &BTreeSet<IpAddr>, port: u16) -> Value {
    if addresses.is_empty() {
        return json!([]);
    }
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    json!([{"addresses": addresses, "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}]}])
}

/// Returns the change by which one proxy withdraws its addresses, or with none takes that back.
pub(super) fn mark_change(key: &str, addresses: &BTreeSet<IpAddr>) -> Value {
    let text: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let value = if text.is_empty() { Value::Null } else { text.join(",").into() };
    json!({"metadata": {"annotations": { (key): value }}})
}

/// Returns the change that removes marks. With a version, the server refuses it where the object is another by now.
pub(super) fn unmark<'a>(
    marks: impl IntoIterator<Item = &'a String>,
    version: Option<&str>,
) -> Value {
    let marks = marks.into_iter().map(|mark| (mark.clone(), Value::Null));
    let mut change = json!({"metadata": {"annotations": Value::Object(marks.collect())}});
    if let Some(version) = version {
        change["metadata"]["resourceVersion"] = version.into();
    }
    change
}

/// Returns the object by which one proxy withdraws its addresses where there is no slice yet.
pub(super) fn mark(key: &str, family: Family, addresses: &BTreeSet<IpAddr>) -> Value {
    // The address type is required of every object that is applied.
    let mut object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": Target::Primary.name(), "namespace": "default"},
        "addressType": family.address_type(),
    });
    object["metadata"]["annotations"] =
        mark_change(key, addresses)["metadata"]["annotations"].take();
    object
}

/// Returns the endpoints that an annotation keeps from before the first keeper.
pub(super) fn parse_before(text: &str) -> Option<(BTreeSet<IpAddr>, u16)> {
    let (addresses, port) = text.split_once(' ')?;
    let addresses = addresses.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((addresses, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_another_port_are_no_proxies() {
        let slice = |port: u16, protocol: &str| {
            json!({
                "metadata": {}, "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.244.0.7"], "conditions": {"ready": true}}],
                "ports": [{"name": "metrics", "port": 9153}, {"name": "dns", "port": port, "protocol": protocol}],
            })
            .to_string()
        };
        let found = |json: String| ready_addresses(&json, 6443).unwrap().len();

        assert_eq!(found(slice(6443, "TCP")), 1);
        assert_eq!(found(slice(53, "TCP")), 0);
        assert_eq!(found(slice(6443, "UDP")), 0);
        assert_eq!(found(json!({"metadata": {}, "endpoints": null}).to_string()), 0);
    }
}
