//! Built-in kinds: what the server fills in, and what it refuses.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::built_in_rules as rules;
use super::failure::{Cause, Failure};
use super::policy;
use super::state::{Place, State};

/// Fills in what the server knows and a writer leaves out.
pub(crate) fn fill_in(state: &State, place: &Place, old: Option<&Value>, object: &mut Value) {
    if place.kind.custom {
        return;
    }
    match place.kind.kind.as_str() {
        "ConfigMap" => drop_empty(object, &["data", "binaryData"]),
        "Namespace" => fill_in_namespace(state, old, object),
        "Secret" => fill_in_secret(object),
        "Service" => fill_in_service(state, old, object),
        "EndpointSlice" => {
            for port in items_mut(object, "ports") {
                default(port, "name", "");
                default(port, "protocol", "TCP");
            }
        }
        "Pod" => {
            default(&mut object["spec"], "restartPolicy", "Always");
            default(&mut object["status"], "phase", "Pending");
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            default(&mut object["roleRef"], "apiGroup", "rbac.authorization.k8s.io");
            for subject in items_mut(object, "subjects") {
                if subject["kind"] != "ServiceAccount" {
                    default(subject, "apiGroup", "rbac.authorization.k8s.io");
                }
            }
        }
        "Deployment" | "ReplicaSet" | "StatefulSet" => {
            default(&mut object["spec"], "replicas", 1);
        }
        "ValidatingAdmissionPolicy" => {
            default(&mut object["spec"], "failurePolicy", "Fail");
            if let Some(constraints) = object["spec"].get_mut("matchConstraints") {
                default(constraints, "matchPolicy", "Equivalent");
                default(constraints, "namespaceSelector", json!({}));
                default(constraints, "objectSelector", json!({}));
            }
        }
        _ => {}
    }
}

fn items_mut<'v>(
    object: &'v mut Value,
    key: &str,
) -> impl Iterator<Item = &'v mut Value> + use<'v> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field that is missing.
fn default(object: &mut Value, key: &str, value: impl Into<Value>) {
    let has_fields = object.is_null() || object.is_object();
    if has_fields && object[key].is_null() {
        object[key] = value.into();
    }
}

/// Drops maps without entries, which typed kinds do not keep.
fn drop_empty(object: &mut Value, keys: &[&str]) {
    let Some(map) = object.as_object_mut() else { return };
    map.retain(|key, value| {
        let is_empty = value.is_null() || value.as_object().is_some_and(|map| map.is_empty());
        !(is_empty && keys.contains(&key.as_str()))
    });
}

fn fill_in_namespace(state: &State, old: Option<&Value>, object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    if old.is_none() && state.controllers {
        object["spec"]["finalizers"] = json!(["kubernetes"]);
    }
    if let Some(old) = old {
        object["spec"] = old["spec"].clone();
    }
    default(&mut object["status"], "phase", "Active");
}

fn fill_in_secret(object: &mut Value) {
    default(object, "type", "Opaque");
    let texts = object.as_object_mut().and_then(|map| map.remove("stringData"));
    for (key, text) in texts.unwrap_or_default().as_object().into_iter().flatten() {
        let text = text.as_str().unwrap_or_default();
        object["data"][key] = BASE64_STANDARD.encode(text).into();
    }
    drop_empty(object, &["data"]);
}

fn fill_in_service(state: &State, old: Option<&Value>, object: &mut Value) {
    let spec = &mut object["spec"];
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    for port in items_mut(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port["port"].clone();
        default(port, "targetPort", number);
    }
    if spec["type"] == "ExternalName" {
        return;
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    default(spec, "ipFamilyPolicy", "SingleStack");
    default(spec, "ipFamilies", json!(["IPv4"]));
    fill_in_cluster_ip(state, old, spec);
    let is_external = matches!(spec["type"].as_str(), Some("LoadBalancer" | "NodePort"));
    let is_balanced = spec["type"] == "LoadBalancer";
    let was_balanced = old.is_some_and(|old| old["spec"]["type"] == "LoadBalancer");
    if is_balanced {
        default(spec, "allocateLoadBalancerNodePorts", true);
    } else if was_balanced {
        remove(spec, &["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerIP"]);
        object["status"]["loadBalancer"] = json!({});
    }
    let spec = &mut object["spec"];
    if is_external {
        default(spec, "externalTrafficPolicy", "Cluster");
    } else {
        remove(spec, &["externalTrafficPolicy", "healthCheckNodePort"]);
        items_mut(spec, "ports").for_each(|port| remove(port, &["nodePort"]));
    }
    if is_external && spec["allocateLoadBalancerNodePorts"] != false {
        fill_in_node_ports(state, old, spec);
    }
    let status = &mut object["status"];
    default(status, "loadBalancer", json!({}));
    for address in items_mut(&mut status["loadBalancer"], "ingress") {
        if address["ip"].is_string() {
            default(address, "ipMode", "VIP");
        }
    }
}

fn remove(object: &mut Value, keys: &[&str]) {
    if let Some(map) = object.as_object_mut() {
        map.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

/// Gives a Service an address of the cluster, or keeps the one that it has.
fn fill_in_cluster_ip(state: &State, old: Option<&Value>, spec: &mut Value) {
    if spec["clusterIP"] == "" {
        remove(spec, &["clusterIP", "clusterIPs"]);
    }
    let kept = old.map(|old| old["spec"]["clusterIP"].clone()).filter(Value::is_string);
    // Unique enough: one address for each of the last 65,536 services.
    let number = state.store.revision() + 10;
    let fresh = format!("10.96.{}.{}", number >> 8 & 0xff, number & 0xff);
    default(spec, "clusterIP", kept.unwrap_or_else(|| fresh.into()));
    let cluster_ip = spec["clusterIP"].clone();
    default(spec, "clusterIPs", json!([cluster_ip]));
}

fn fill_in_node_ports(state: &State, old: Option<&Value>, spec: &mut Value) {
    let known = old.and_then(|old| old["spec"]["ports"].as_array()).cloned().unwrap_or_default();
    let first = 30_000 + state.store.revision() % 2_700;
    for (index, port) in items_mut(spec, "ports").enumerate() {
        let same = known.iter().find(|known| known["port"] == port["port"]);
        let kept = same.map(|same| same["nodePort"].clone()).filter(Value::is_number);
        default(port, "nodePort", kept.unwrap_or_else(|| (first + index as u64).into()));
    }
}

/// Refuses an object that a typed server cannot read.
///
/// # Errors
/// If data of a ConfigMap is no text, or data of a Secret is not base64.
pub(crate) fn check_types(place: &Place, object: &Value) -> Result<(), Failure> {
    if place.kind.custom {
        return Ok(());
    }
    let kind = place.kind.kind.as_str();
    let unreadable = |detail: &str| {
        let version = &place.version.name;
        Failure::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {detail}"
        ))
    };
    for value in object["data"].as_object().into_iter().flatten().map(|(_, value)| value) {
        match kind {
            "ConfigMap" if !value.is_string() => {
                let detail =
                    "json: cannot unmarshal into Go struct field ConfigMap.data of type string";
                return Err(unreadable(detail));
            }
            "Secret" if BASE64_STANDARD.decode(value.as_str().unwrap_or("%")).is_err() => {
                return Err(unreadable("illegal base64 data at input byte 0"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns what the server refuses of an object of a built-in kind.
pub(crate) fn causes(place: &Place, old: Option<&Value>, object: &Value) -> Vec<Cause> {
    if place.kind.custom {
        return Vec::new();
    }
    match place.kind.kind.as_str() {
        "ConfigMap" => rules::config_map(old, object),
        "Secret" => rules::secret(old, object),
        "Service" => rules::service(old, object),
        "EndpointSlice" => rules::endpoint_slice(old, object),
        "Endpoints" => rules::endpoints(object),
        "Ingress" => rules::ingress(object),
        "IngressClass" => rules::ingress_class(old, object),
        "Lease" => rules::lease(object),
        "ControllerRevision" => rules::controller_revision(old, object),
        "RoleBinding" | "ClusterRoleBinding" => rules::role_binding(old, object),
        "Role" | "ClusterRole" => rules::role(object),
        "ValidatingAdmissionPolicy" => policy::causes(object),
        "Event" => rules::event(place, object),
        "Pod" if old.is_none() => rules::pod(object),
        _ => Vec::new(),
    }
}
