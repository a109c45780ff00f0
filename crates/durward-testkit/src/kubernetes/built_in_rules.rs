//! What the server refuses of objects of built-in kinds.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::failure::Cause;
use super::kind::NameRule;
use super::metadata::name_error;
use super::state::Place;

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Refuses a change of a field that may not change.
fn immutable(causes: &mut Vec<Cause>, old: Option<&Value>, new: &Value, field: &str) {
    let part = |object: &Value| {
        let found = field.split('.').try_fold(object, |value, key| value.get(key));
        found.cloned().unwrap_or_default()
    };
    if old.is_some_and(|old| part(old) != part(new)) {
        causes.push(Cause::invalid(field, &part(new), "field is immutable"));
    }
}

fn keys(causes: &mut Vec<Cause>, object: &Value, part: &str) {
    for (key, _) in object[part].as_object().into_iter().flatten() {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        if key.is_empty() || key.len() > 253 || !key.chars().all(is_letter) {
            let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
            causes.push(Cause::invalid(format!("{part}[{key}]"), &key.as_str().into(), detail));
        }
    }
}

/// Refuses a change of data that was declared immutable.
fn sealed(causes: &mut Vec<Cause>, old: Option<&Value>, object: &Value) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    if object["immutable"] != true {
        let detail = "field is immutable when `immutable` is set";
        causes.push(Cause::forbidden("immutable", detail));
    }
    for part in ["data", "binaryData"] {
        if old[part] != object[part] {
            let detail = "field is immutable when `immutable` is set";
            causes.push(Cause::forbidden(part, detail));
        }
    }
}

pub(crate) fn config_map(old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    keys(&mut causes, object, "data");
    keys(&mut causes, object, "binaryData");
    sealed(&mut causes, old, object);
    causes
}

pub(crate) fn secret(old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    keys(&mut causes, object, "data");
    if object["type"] == "kubernetes.io/tls" {
        for key in ["tls.crt", "tls.key"] {
            if object["data"][key].is_null() {
                causes.push(Cause::required(format!("data[{key}]"), ""));
            }
        }
    }
    immutable(&mut causes, old, object, "type");
    sealed(&mut causes, old, object);
    causes
}

fn port_number(causes: &mut Vec<Cause>, port: &Value, path: &str) {
    let is_port = port.as_u64().is_some_and(|port| (1..=65_535).contains(&port));
    if !is_port {
        causes.push(Cause::invalid(path, port, "must be between 1 and 65535, inclusive"));
    }
}

pub(crate) fn service(old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    let is_headless = spec["clusterIP"] == "None";
    if spec["type"] == "ExternalName" {
        if text(&spec["externalName"]).is_empty() {
            causes.push(Cause::required("spec.externalName", ""));
        }
        return causes;
    }
    if items(&spec["ports"]).next().is_none() && !is_headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    let several = items(&spec["ports"]).count() > 1;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in items(&spec["ports"]).enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(&port["name"]);
        if several && name.is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
        if !numbers.insert((port["port"].as_u64(), text(&port["protocol"]))) {
            // The server shows its own form of a port, without most of what it holds.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                port["protocol"], port["port"]
            );
            let message = format!("Duplicate value: {shown}");
            causes.push(Cause::new("FieldValueDuplicate", path.as_str(), message));
        }
        port_number(&mut causes, &port["port"], &format!("{path}.port"));
        if port["targetPort"].is_number() {
            port_number(&mut causes, &port["targetPort"], &format!("{path}.targetPort"));
        }
    }
    balancer(&mut causes, old, object);
    causes
}

/// Checks what a Service says of its addresses.
fn balancer(causes: &mut Vec<Cause>, old: Option<&Value>, object: &Value) {
    let (spec, before) = (&object["spec"], old.map(|old| &old["spec"]));
    let is_changed =
        |key: &str| before.is_some_and(|before| !before[key].is_null() && before[key] != spec[key]);
    if is_changed("clusterIPs") || is_changed("clusterIP") {
        let detail = "may not change once set";
        causes.push(Cause::invalid("spec.clusterIPs[0]", &spec["clusterIPs"], detail));
    }
    let is_balanced = spec["type"] == "LoadBalancer";
    if is_balanced && is_changed("loadBalancerClass") {
        let (field, detail) = ("spec.loadBalancerClass", "may not change once set");
        causes.push(Cause::invalid(field, &spec["loadBalancerClass"], detail));
    }
    let field = "status.loadBalancer.ingress";
    let addresses = items(&object["status"]["loadBalancer"]["ingress"]);
    for (index, address) in addresses.enumerate() {
        if !is_balanced {
            let detail = "may only be used when `spec.type` is 'LoadBalancer'";
            causes.push(Cause::forbidden(field, detail));
            return;
        }
        let ip = &address["ip"];
        if ip.is_string() && text(ip).parse::<IpAddr>().is_err() {
            let field = format!("{field}[{index}].ip");
            causes.push(Cause::invalid(field, ip, NO_ADDRESS));
        }
    }
}

/// What the server says of a text that is no address.
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Refuses addresses that no other node can reach.
fn endpoint_address(causes: &mut Vec<Cause>, address: &Value, path: &str) {
    let Ok(parsed) = text(address).parse::<IpAddr>() else {
        causes.push(Cause::invalid(path, address, NO_ADDRESS));
        return;
    };
    let is_link_local = match parsed {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    };
    let is_local_multicast = match parsed {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    };
    let detail = match parsed {
        IpAddr::V4(_) if parsed.is_unspecified() => "may not be unspecified (0.0.0.0)",
        IpAddr::V6(_) if parsed.is_unspecified() => "may not be unspecified (::)",
        _ if parsed.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        _ if is_link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        _ if is_local_multicast => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        _ => return,
    };
    causes.push(Cause::invalid(path, address, detail));
}

pub(crate) fn endpoint_slice(old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let family = text(&object["addressType"]);
    match family {
        "" => causes.push(Cause::required("addressType", "")),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => {
            let message = format!(
                "Unsupported value: {other:?}: supported values: \"FQDN\", \"IPv4\", \"IPv6\""
            );
            causes.push(Cause::new("FieldValueNotSupported", "addressType", message));
        }
    }
    immutable(&mut causes, old, object, "addressType");
    let count = items(&object["endpoints"]).count();
    if count > 1_000 {
        causes.push(Cause::too_many("endpoints", count as u64, 1_000));
    }
    for (index, endpoint) in items(&object["endpoints"]).enumerate() {
        let path = format!("endpoints[{index}].addresses");
        if items(&endpoint["addresses"]).next().is_none() {
            causes.push(Cause::required(path.as_str(), "must contain at least 1 address"));
        }
        for (at, address) in items(&endpoint["addresses"]).enumerate() {
            if family == "FQDN" {
                continue;
            }
            let parsed = text(address).parse::<IpAddr>();
            let other = match (family, parsed) {
                ("IPv4", Ok(IpAddr::V6(_))) => Some("must be an IPv4 address"),
                ("IPv6", Ok(IpAddr::V4(_))) => Some("must be an IPv6 address"),
                _ => None,
            };
            if let Some(detail) = other {
                causes.push(Cause::invalid(path.as_str(), address, detail));
            }
            endpoint_address(&mut causes, address, &format!("{path}[{at}]"));
        }
    }
    let mut names = BTreeSet::new();
    for (index, port) in items(&object["ports"]).enumerate() {
        if !names.insert(text(&port["name"])) {
            causes.push(Cause::duplicate(format!("ports[{index}].name"), &port["name"]));
        }
    }
    causes
}

pub(crate) fn endpoints(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (index, subset) in items(&object["subsets"]).enumerate() {
        for (at, address) in items(&subset["addresses"]).enumerate() {
            let path = format!("subsets[{index}].addresses[{at}].ip");
            endpoint_address(&mut causes, &address["ip"], &path);
        }
    }
    causes
}

pub(crate) fn ingress(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    if spec["defaultBackend"].is_null() && items(&spec["rules"]).next().is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        causes.push(Cause::invalid("spec", &Value::Null, detail));
    }
    for (index, rule) in items(&spec["rules"]).enumerate() {
        let place = format!("spec.rules[{index}]");
        host(&mut causes, &rule["host"], &format!("{place}.host"));
        if rule["http"].is_object() && items(&rule["http"]["paths"]).next().is_none() {
            causes.push(Cause::required(format!("{place}.http.paths"), ""));
        }
        for (at, path) in items(&rule["http"]["paths"]).enumerate() {
            ingress_path(&mut causes, path, &format!("{place}.http.paths[{at}]"));
        }
    }
    for (index, tls) in items(&spec["tls"]).enumerate() {
        for (at, name) in items(&tls["hosts"]).enumerate() {
            host(&mut causes, name, &format!("spec.tls[{index}].hosts[{at}]"));
        }
    }
    causes
}

/// Checks a host name, which may begin with a wildcard.
fn host(causes: &mut Vec<Cause>, name: &Value, place: &str) {
    let host = text(name);
    let plain = host.strip_prefix("*.").unwrap_or(host);
    let detail = match () {
        () if host.is_empty() => None,
        () if host.parse::<IpAddr>().is_ok() => Some("must be a DNS name, not an IP address"),
        () => name_error(NameRule::Subdomain, plain),
    };
    if let Some(detail) = detail {
        causes.push(Cause::invalid(place, name, detail));
    }
}

fn ingress_path(causes: &mut Vec<Cause>, path: &Value, place: &str) {
    match path["pathType"].as_str() {
        None => {
            let detail = "pathType must be specified";
            causes.push(Cause::required(format!("{place}.pathType"), detail));
        }
        Some("Exact" | "Prefix") if !text(&path["path"]).starts_with('/') => {
            let detail = "must be an absolute path";
            causes.push(Cause::invalid(format!("{place}.path"), &path["path"], detail));
        }
        Some("Exact" | "Prefix" | "ImplementationSpecific") => {}
        Some(other) => {
            let message = format!(
                "Unsupported value: {other:?}: supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
            );
            let place = format!("{place}.pathType");
            causes.push(Cause::new("FieldValueNotSupported", place, message));
        }
    }
    let (backend, place) = (&path["backend"], format!("{place}.backend"));
    let service = &backend["service"];
    if !service.is_object() && !backend["resource"].is_object() {
        let detail = "resource or service backend is required";
        causes.push(Cause::invalid(place.as_str(), &"".into(), detail));
    }
    if service.is_object() {
        if text(&service["name"]).is_empty() {
            causes.push(Cause::required(format!("{place}.service.name"), ""));
        }
        if service["port"]["name"].is_null() && service["port"]["number"].is_null() {
            causes.push(Cause::required(place, "port name or number is required"));
        }
    }
}

pub(crate) fn ingress_class(old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if text(&object["spec"]["controller"]).is_empty() {
        causes.push(Cause::required("spec.controller", ""));
    }
    immutable(&mut causes, old, object, "spec.controller");
    causes
}

pub(crate) fn lease(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
        let path = "spec.leaseDurationSeconds";
        causes.push(Cause::invalid(path, &spec["leaseDurationSeconds"], "must be greater than 0"));
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|count| count < 0) {
        let path = "spec.leaseTransitions";
        let detail = "must be greater than or equal to 0";
        causes.push(Cause::invalid(path, &spec["leaseTransitions"], detail));
    }
    causes
}

pub(crate) fn controller_revision(old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if object["revision"].as_i64().is_none_or(|revision| revision < 0) {
        let detail = "must be greater than or equal to 0";
        causes.push(Cause::invalid("revision", &object["revision"], detail));
    }
    if object["data"].is_null() {
        causes.push(Cause::required("data", "data is mandatory"));
    }
    immutable(&mut causes, old, object, "data");
    causes
}

pub(crate) fn role_binding(old: Option<&Value>, object: &Value) -> Vec<Cause> {
    match old {
        Some(old) if old["roleRef"] != object["roleRef"] => {
            vec![Cause::invalid("roleRef", &object["roleRef"], "cannot change roleRef")]
        }
        _ => Vec::new(),
    }
}

pub(crate) fn event(place: &Place, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let is_new_api = place.resource().group == "events.k8s.io";
    let subject = if is_new_api { &object["regarding"] } else { &object["involvedObject"] };
    let namespace = text(&object["metadata"]["namespace"]);
    // Events of cluster-scoped objects live in `default`; the new API asks no more than that.
    let fits = match text(&subject["namespace"]) {
        "" => namespace == "default",
        other => is_new_api || namespace == other,
    };
    if !fits {
        let (field, detail) = ("involvedObject.namespace", "does not match event.namespace");
        causes.push(Cause::invalid(field, &text(&subject["namespace"]).into(), detail));
    }
    if is_new_api {
        new_event(&mut causes, object);
    }
    causes
}

fn new_event(causes: &mut Vec<Cause>, object: &Value) {
    if object["eventTime"].is_null() {
        causes.push(Cause::required("eventTime", ""));
    } else {
        for field in ["reportingController", "reportingInstance", "action", "reason"] {
            if text(&object[field]).is_empty() {
                causes.push(Cause::required(field, ""));
            }
        }
    }
    if text(&object["note"]).len() > 1_024 {
        causes.push(Cause::invalid("message", &"".into(), "can have at most 1024 characters"));
    }
    let kind = text(&object["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        let detail = format!("has invalid value: {kind}");
        causes.push(Cause::invalid("type", &"".into(), &detail));
    }
}

pub(crate) fn pod(object: &Value) -> Vec<Cause> {
    match items(&object["spec"]["containers"]).next() {
        Some(_) => Vec::new(),
        None => vec![Cause::required("spec.containers", "")],
    }
}

pub(crate) fn role(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (index, rule) in items(&object["rules"]).enumerate() {
        let place = format!("rules[{index}]");
        let is_empty = |key: &str| items(&rule[key]).next().is_none();
        if is_empty("verbs") {
            let detail = "verbs must contain at least one value";
            causes.push(Cause::required(format!("{place}.verbs"), detail));
        }
        if !is_empty("nonResourceURLs") {
            continue;
        }
        for (key, what) in [("apiGroups", "api group"), ("resources", "resource")] {
            if is_empty(key) {
                let detail = format!("resource rules must supply at least one {what}");
                causes.push(Cause::required(format!("{place}.{key}"), &detail));
            }
        }
    }
    causes
}
