//! Ingress, `IngressClass`, Service and `EndpointSlice`, as far as an Ingress needs them.
//!
//! Unknown fields are ignored and `null` counts as absent, as an API server and its clients hold it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer};

/// Label of a slice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation of the class that Ingresses without a class belong to.
pub const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Metadata of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// The namespace; empty for kinds that have none.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// When it was created, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
}

/// An `Ingress` of `networking.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ingress {
    /// Metadata.
    pub metadata: Metadata,
    /// Spec of the Ingress.
    #[serde(deserialize_with = "nullable")]
    pub spec: IngressSpec,
}

/// Spec of an Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSpec {
    /// The class.
    pub ingress_class_name: Option<String>,
    /// Backend for requests that match no rule.
    pub default_backend: Option<IngressBackend>,
    /// Hosts and paths.
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<IngressRule>,
    /// Hosts that are served by TLS.
    #[serde(deserialize_with = "nullable")]
    pub tls: Vec<IngressTls>,
}

/// Paths of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressRule {
    /// The host; every host where it is absent or empty.
    pub host: Option<String>,
    /// The paths.
    pub http: Option<HttpRule>,
}

/// Paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HttpRule {
    /// The paths.
    #[serde(deserialize_with = "nullable")]
    pub paths: Vec<HttpPath>,
}

/// A path and where its requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPath {
    /// The path.
    pub path: Option<String>,
    /// `Exact`, `Prefix` or `ImplementationSpecific`.
    pub path_type: Option<String>,
    /// Backend for requests.
    #[serde(deserialize_with = "nullable")]
    pub backend: IngressBackend,
}

/// Backend for requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressBackend {
    /// A Service of the same namespace.
    pub service: Option<ServiceBackend>,
    /// Another object of the same namespace.
    pub resource: Option<ResourceBackend>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceBackend {
    /// The Service.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Port.
    #[serde(deserialize_with = "nullable")]
    pub port: BackendPort,
}

/// A port of a Service by name or number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BackendPort {
    /// Name.
    pub name: Option<String>,
    /// Number.
    pub number: Option<i64>,
}

/// An object that is no Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ResourceBackend {
    /// Kind.
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// Hosts that are served by TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressTls {
    /// The hosts; all of the Ingress where there is none.
    #[serde(deserialize_with = "nullable")]
    pub hosts: Vec<String>,
    /// The Secret with certificate and key.
    pub secret_name: Option<String>,
}

/// An `IngressClass` of `networking.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressClass {
    /// Metadata.
    pub metadata: Metadata,
}

impl IngressClass {
    /// Returns whether Ingresses without a class belong to it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.metadata.annotations.get(DEFAULT_CLASS).is_some_and(|value| value == "true")
    }
}

/// A `Service` of `v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Metadata,
    /// Spec of the Service.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceSpec,
}

/// Spec of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `ExternalName` and others.
    pub r#type: Option<String>,
    /// The host that a Service of type `ExternalName` stands for.
    pub external_name: Option<String>,
    /// Its address in the cluster; `None` in words for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// The ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name; slices use the same one.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Number.
    #[serde(deserialize_with = "nullable")]
    pub port: i64,
    /// `TCP` where nothing is said.
    pub protocol: Option<String>,
    /// Application protocol.
    pub app_protocol: Option<String>,
}

impl Service {
    /// Returns the host that stands for a Service without endpoints of its own.
    #[must_use]
    pub fn external_name(&self) -> Option<&str> {
        let external = self.spec.r#type.as_deref() == Some("ExternalName");
        self.spec.external_name.as_deref().filter(|_| external)
    }

    /// Returns the TCP port of this name or number.
    #[must_use]
    pub fn port(&self, wanted: &BackendPort) -> Option<&ServicePort> {
        let mut ports = self.spec.ports.iter().filter(|port| is_tcp(port.protocol.as_deref()));
        match wanted.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => ports.find(|port| port.name == name),
            None => ports.find(|port| Some(port.port) == wanted.number),
        }
    }
}

/// An `EndpointSlice` of `discovery.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "nullable")]
    pub address_type: String,
    /// The endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports of all endpoints.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<SlicePort>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SliceEndpoint {
    /// Addresses; only the first is used.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// State.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Conditions,
}

/// State of an endpoint; what is not said counts as the API defines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// True where it is absent.
    pub ready: Option<bool>,
    /// As `ready` where it is absent.
    pub serving: Option<bool>,
    /// False where it is absent.
    pub terminating: Option<bool>,
}

/// A port of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// The name that the Service has for it.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Number.
    pub port: Option<u16>,
    /// `TCP` where nothing is said.
    pub protocol: Option<String>,
}

impl EndpointSlice {
    /// Returns whether the slice is of this Service.
    #[must_use]
    pub fn is_of(&self, namespace: &str, service: &str) -> bool {
        let label = self.metadata.labels.get(SERVICE_NAME);
        self.metadata.namespace == namespace && label.is_some_and(|name| name == service)
    }
}

/// Returns the endpoints of a port of a Service, in order: those that are ready, or where there is none those that end but still serve.
pub fn endpoints<'a>(
    slices: &(impl Iterator<Item = &'a EndpointSlice> + Clone),
    port: &str,
) -> Vec<SocketAddr> {
    let of = |wanted: fn(Conditions) -> bool| {
        let mut found: Vec<SocketAddr> = slices
            .clone()
            .filter(|slice| slice.address_type != "FQDN")
            .flat_map(|slice| {
                let ports = slice.ports.iter().filter(move |one| one.name == port);
                let ports = ports.filter(|one| is_tcp(one.protocol.as_deref()));
                let numbers = ports.filter_map(|one| one.port);
                let ready = move || slice.endpoints.iter().filter(move |at| wanted(at.conditions));
                let addresses = move || ready().filter_map(address);
                numbers.flat_map(move |number| addresses().map(move |ip| (ip, number)))
            })
            .map(SocketAddr::from)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let ready = of(|state| state.ready.unwrap_or(true));
    if !ready.is_empty() {
        return ready;
    }
    of(|state| state.serving.unwrap_or(false) && state.terminating.unwrap_or(false))
}

/// The first address stands for the endpoint; the API gives further ones no meaning.
fn address(endpoint: &SliceEndpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// A value, or its default where `null` is written.
fn nullable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: &serde_json::Value) -> EndpointSlice {
        let slice = json!({
            "metadata": {"name": "app-1", "namespace": "shop", "labels": {SERVICE_NAME: "app"}},
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": endpoints,
        });
        serde_json::from_value(slice).unwrap()
    }

    #[test]
    fn ready_endpoints_are_used_and_those_that_end_only_where_no_other_is_there() {
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let both = slice(&json!([
            {"addresses": ["10.0.0.2"], "conditions": {}},
            {"addresses": ["10.0.0.1", "10.0.0.9"], "conditions": null},
            {"addresses": ["10.0.0.3"], "conditions": ending},
            {"addresses": ["no address"]},
        ]));
        let only = slice(&json!([
            {"addresses": ["10.0.0.3"], "conditions": ending},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": false}},
        ]));
        let text = |slice: &EndpointSlice, port: &str| {
            let found = endpoints(&[slice].into_iter(), port);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };

        assert_eq!(text(&both, "web"), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!(text(&only, "web"), ["10.0.0.3:8080"]);
        assert!(text(&both, "dns").is_empty(), "UDP carries no requests");
        assert!(text(&both, "").is_empty(), "a port is known by its name");
    }

    #[test]
    fn null_counts_as_absent_and_unknown_fields_are_ignored() {
        let ingress: Ingress = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "a", "annotations": null, "managedFields": [{"x": 1}]},
            "spec": {"rules": [{"host": null, "http": {"paths": null}}], "tls": null, "new": true},
            "status": {"loadBalancer": {}},
        }))
        .unwrap();

        assert_eq!(ingress.spec.rules.len(), 1);
        assert!(ingress.spec.tls.is_empty() && ingress.metadata.annotations.is_empty());
    }
}
