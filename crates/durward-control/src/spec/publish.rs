//! `spec.publish` of a `HostedApi`: routes for the ingress controller of others, written from the names and Services of the API server.
//!
//! The gateway reads nothing of it: whoever keeps another controller has the same names there.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::field::Field;
use crate::place::{At, Place};
use crate::spec::api_proxy::{PlanFault, is_host};
use crate::spec::hosted_api::{HostedApiSpec, is_in_every_cluster};
use crate::spec::object_name::is_object_name;
use crate::spec::service::ServiceSpec;

/// Entry point of Traefik for port 443, as its chart calls it.
const ENTRY_POINT: &str = "websecure";
/// Most entries of a list or map.
const MOST: usize = 32;
/// End of the name of a konnectivity server's own object.
const KONNECTIVITY: &str = "-konnectivity";

/// Routes for another ingress controller.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishSpec {
    /// The controller that the routes are for.
    pub controller: At<ControllerSpec>,
    /// The class: `ingressClassName` of an Ingress, the annotation `kubernetes.io/ingress.class` for Traefik. Default: none.
    #[serde(default)]
    pub ingress_class_name: Option<At<String>>,
    /// Traefik: the entry points. Default: `websecure`.
    #[serde(default)]
    pub entry_points: Vec<At<String>>,
    /// `TLSRoute`: the Gateways that serve it; at least one.
    #[serde(default)]
    pub parent_refs: Vec<At<ParentSpec>>,
    /// Further annotations of the objects. Those that pass TLS through are written anyway, unless the controller is Generic.
    #[serde(default)]
    pub annotations: Option<At<BTreeMap<String, String>>>,
    /// Further labels of the objects.
    #[serde(default)]
    pub labels: Option<At<BTreeMap<String, String>>>,
}

/// Kind of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ControllerSpec {
    /// An `IngressRouteTCP`.
    Traefik,
    /// An Ingress with the annotations of both controllers of HAProxy.
    #[serde(rename = "HAProxy")]
    HaProxy,
    /// An Ingress with the annotations of ingress-nginx.
    #[serde(rename = "NGINX")]
    Nginx,
    /// An Ingress with `annotations` and no others.
    Generic,
    /// `TLSRoute` objects of the Gateway API.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentSpec {
    /// The Gateway.
    pub name: At<String>,
    /// Its namespace. Default: that of the object.
    #[serde(default)]
    pub namespace: Option<At<String>>,
    /// Its listener. Default: all that pass TLS through.
    #[serde(default)]
    pub section_name: Option<At<String>>,
    /// The port of its listeners.
    #[serde(default)]
    pub port: Option<At<u16>>,
}

/// Names, and the port of a Service behind them.
struct Route {
    /// End of the name of an object that has this route alone.
    suffix: &'static str,
    names: Vec<String>,
    service: String,
    port: String,
}

/// Returns the routes of a hosted API server without namespace and owner; none if it asks for none.
///
/// # Errors
/// Fails with each field that does not fit.
pub fn objects(name: &str, spec: &HostedApiSpec) -> Result<Vec<Value>, Vec<PlanFault>> {
    let Some(publish) = &spec.publish else { return Ok(Vec::new()) };
    let mut reading = Reading { faults: Vec::new() };
    let routes = reading.routes(spec, publish);
    reading.fields(spec, publish);
    if !reading.faults.is_empty() {
        return Err(reading.faults);
    }
    Ok(match publish.controller.value {
        ControllerSpec::Traefik => vec![ingress_route_tcp(name, publish, &routes)],
        ControllerSpec::TlsRoute => {
            routes.iter().map(|route| tls_route(name, publish, route)).collect()
        }
        _ => vec![ingress(name, publish, &routes)],
    })
}

/// Returns kind and name of every object that may be written for a hosted API server, whatever its controller.
#[must_use]
pub fn known(name: &str) -> Vec<Value> {
    let konnectivity = format!("{name}{KONNECTIVITY}");
    [
        ("networking.k8s.io/v1", "Ingress", name),
        ("traefik.io/v1alpha1", "IngressRouteTCP", name),
        (TLS_ROUTE, "TLSRoute", name),
        (TLS_ROUTE, "TLSRoute", &konnectivity),
    ]
    .into_iter()
    .map(|(version, kind, name)| json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}}))
    .collect()
}

/// Version of `TLSRoute`; what is served in a cluster may be an older one.
const TLS_ROUTE: &str = "gateway.networking.k8s.io/v1";

struct Reading {
    faults: Vec<PlanFault>,
}

impl Reading {
    fn fault(&mut self, field: &Field<'_>, place: Place, sentence: impl Into<String>) {
        let (field, sentence) = (field.to_string(), sentence.into());
        self.faults.push(PlanFault { field, place, sentence });
    }

    /// Returns the routes of API server and konnectivity server.
    fn routes(&mut self, spec: &HostedApiSpec, publish: &At<PublishSpec>) -> Vec<Route> {
        let field = Field::SPEC.name("names");
        let names: Vec<String> = spec
            .names
            .iter()
            .enumerate()
            .filter_map(|(at, name)| self.name(name, &field.index(at)))
            .collect();
        if spec.names.is_empty() {
            self.fault(&field, publish.place, "is missing: a route needs a name");
        }
        let api = &spec.upstream;
        let field = Field::SPEC.name("upstream");
        let mut routes = Vec::new();
        let is_tls_route = publish.controller.value == ControllerSpec::TlsRoute;
        if let Some((service, port)) =
            self.service(api.service.as_ref(), api.place, &field, is_tls_route)
        {
            routes.push(Route { suffix: "", names: names.clone(), service, port });
        }
        let Some(konnectivity) = &spec.konnectivity else { return routes };
        let field = Field::SPEC.name("konnectivity");
        let name = self.name(&konnectivity.name, &field.name("name"));
        if name.as_ref().is_some_and(|name| names.contains(name)) {
            let sentence = "is a name of the API server, too: agents would reach the API server";
            self.fault(&field.name("name"), konnectivity.name.place, sentence);
        }
        let service = konnectivity.service.as_ref();
        let to = self.service(service, konnectivity.place, &field, is_tls_route);
        if let (Some(name), Some((service, port))) = (name, to) {
            routes.push(Route { suffix: KONNECTIVITY, names: vec![name], service, port });
        }
        routes
    }

    /// Reads a name, without the dot that may end it.
    fn name(&mut self, written: &At<String>, field: &Field<'_>) -> Option<String> {
        let name = written.trim_end_matches('.').to_ascii_lowercase();
        if !is_host(&name) || name.contains('*') {
            self.fault(field, written.place, format!("{:?} is no host name", written.value));
            return None;
        }
        if is_in_every_cluster(&name) {
            let sentence = "is a name of the API server in every cluster: a route for it would take the clients of other tenants";
            self.fault(field, written.place, sentence);
            return None;
        }
        Some(name)
    }

    /// Reads the Service that a route leads to.
    fn service(
        &mut self,
        service: Option<&At<ServiceSpec>>,
        place: Place,
        field: &Field<'_>,
        by_number: bool,
    ) -> Option<(String, String)> {
        let field = &field.name("service");
        let Some(service) = service else {
            let sentence = "is missing: a route of another controller leads to a Service";
            self.fault(field, place, sentence);
            return None;
        };
        if let Some(namespace) = &service.namespace {
            let sentence = "is not written into routes: they lead to Services of the object's own namespace, remove it";
            self.fault(&field.name("namespace"), namespace.place, sentence);
        }
        if !is_object_name(&service.name) {
            let sentence = format!("{:?} is no name of a Service", service.name.value);
            self.fault(&field.name("name"), service.name.place, sentence);
        }
        let port = &service.port.value.0;
        let is_number = port.parse::<u16>().is_ok_and(|port| port > 0);
        if by_number && !is_number {
            let sentence = format!("{port:?} is no number, and a TLSRoute has no other ports");
            self.fault(&field.name("port"), service.port.place, sentence);
        } else if !is_number && !is_object_name(port) {
            let sentence = format!("{port:?} is no port of a Service for TCP");
            self.fault(&field.name("port"), service.port.place, sentence);
        }
        Some((service.name.value.clone(), port.clone()))
    }

    /// Checks that nothing is written that the controller would leave out.
    fn fields(&mut self, spec: &HostedApiSpec, publish: &At<PublishSpec>) {
        let (field, controller) = (&Field::SPEC.name("publish"), publish.controller.value);
        if let Some(sources) = &spec.allowed_sources {
            let sentence = "is not applied by other controllers, and everybody could connect there: leave publish out, or remove it and restrict the sources at the controller";
            self.fault(&Field::SPEC.name("allowedSources"), sources.place, sentence);
        }
        if let (Some(first), true) =
            (publish.entry_points.first(), controller != ControllerSpec::Traefik)
        {
            self.fault(&field.name("entryPoints"), first.place, "is for Traefik: remove it");
        }
        let refs = &field.name("parentRefs");
        match (publish.parent_refs.first(), controller) {
            (None, ControllerSpec::TlsRoute) => {
                let sentence = "is missing: name the Gateway that serves the routes";
                self.fault(refs, publish.place, sentence);
            }
            (Some(first), other) if other != ControllerSpec::TlsRoute => {
                self.fault(refs, first.place, "is for TLSRoute: remove it");
            }
            _ => {}
        }
        if let (Some(class), ControllerSpec::TlsRoute) = (&publish.ingress_class_name, controller) {
            let sentence = "is not for TLSRoute, which names its Gateways in parentRefs: remove it";
            self.fault(&field.name("ingressClassName"), class.place, sentence);
        }
        let lists = [
            ("entryPoints", publish.entry_points.len()),
            ("parentRefs", publish.parent_refs.len()),
            ("annotations", publish.annotations.as_ref().map_or(0, |map| map.len())),
            ("labels", publish.labels.as_ref().map_or(0, |map| map.len())),
        ];
        for (name, count) in lists.into_iter().filter(|(_, count)| *count > MOST) {
            let sentence = format!("has {count} entries, and at most {MOST} are written");
            self.fault(&field.name(name), publish.place, sentence);
        }
    }
}

fn metadata(name: &str, publish: &PublishSpec, ours: &[(&str, &str)]) -> Value {
    let mut annotations =
        publish.annotations.as_ref().map(|map| map.value.clone()).unwrap_or_default();
    annotations.extend(ours.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let mut metadata = json!({"name": name});
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    if let Some(labels) = &publish.labels {
        metadata["labels"] = json!(labels.value);
    }
    metadata
}

fn ingress_route_tcp(name: &str, publish: &PublishSpec, routes: &[Route]) -> Value {
    let class = publish.ingress_class_name.as_ref().map(|class| class.value.as_str());
    let class: Vec<_> =
        class.map(|class| ("kubernetes.io/ingress.class", class)).into_iter().collect();
    let entry_points: Vec<&str> = match publish.entry_points.is_empty() {
        true => vec![ENTRY_POINT],
        false => publish.entry_points.iter().map(|point| point.value.as_str()).collect(),
    };
    let routes = routes.iter().map(|route| {
        let hosts = route.names.iter().map(|name| format!("HostSNI(`{name}`)"));
        let rule = hosts.collect::<Vec<_>>().join(" || ");
        json!({"match": rule, "services": [{"name": route.service, "port": port(&route.port)}]})
    });
    json!({
        "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRouteTCP",
        "metadata": metadata(name, publish, &class),
        "spec": {
            "entryPoints": entry_points, "routes": routes.collect::<Vec<_>>(),
            "tls": {"passthrough": true},
        },
    })
}

fn ingress(name: &str, publish: &PublishSpec, routes: &[Route]) -> Value {
    let ours: &[(&str, &str)] = match publish.controller.value {
        ControllerSpec::HaProxy => &[
            ("haproxy.org/ssl-passthrough", "true"),
            ("haproxy-ingress.github.io/ssl-passthrough", "true"),
        ],
        ControllerSpec::Nginx => &[
            ("nginx.ingress.kubernetes.io/ssl-passthrough", "true"),
            ("nginx.ingress.kubernetes.io/backend-protocol", "HTTPS"),
        ],
        _ => &[],
    };
    let rules = routes.iter().flat_map(|route| {
        let kind = if route.port.parse::<u16>().is_ok() { "number" } else { "name" };
        let backend =
            json!({"service": {"name": route.service, "port": {kind: port(&route.port)}}});
        let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
        route.names.iter().map(move |name| json!({"host": name, "http": {"paths": [path.clone()]}}))
    });
    let mut spec = json!({"rules": rules.collect::<Vec<_>>()});
    if let Some(class) = &publish.ingress_class_name {
        spec["ingressClassName"] = json!(class.value);
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": metadata(name, publish, ours), "spec": spec,
    })
}

/// A `TLSRoute` has one list of names for all its backends, so each Service needs one.
fn tls_route(name: &str, publish: &PublishSpec, route: &Route) -> Value {
    let parents = publish.parent_refs.iter().map(|parent| {
        let mut written = json!({"name": parent.name.value});
        if let Some(namespace) = &parent.namespace {
            written["namespace"] = json!(namespace.value);
        }
        if let Some(section) = &parent.section_name {
            written["sectionName"] = json!(section.value);
        }
        if let Some(port) = parent.port {
            written["port"] = json!(port.value);
        }
        written
    });
    let name = format!("{name}{}", route.suffix);
    json!({
        "apiVersion": TLS_ROUTE, "kind": "TLSRoute",
        "metadata": metadata(&name, publish, &[]),
        "spec": {
            "parentRefs": parents.collect::<Vec<_>>(), "hostnames": route.names,
            "rules": [{"backendRefs": [{"name": route.service, "port": port(&route.port)}]}],
        },
    })
}

/// Returns a port as its number or name.
fn port(written: &str) -> Value {
    written.parse::<u16>().map_or_else(|_| json!(written), |number| json!(number))
}

#[cfg(test)]
mod tests;
