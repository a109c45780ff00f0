//! Objects of other controllers that name hosted API servers: `TenantControlPlane` of Kamaji and Steward, `IngressRouteTCP` of Traefik, `TLSRoute` of the Gateway API.
//!
//! They are read as they are written and never changed. Fields that say nothing about names and Services are not looked at.

mod control_plane;
mod ingress_route_tcp;
mod tls_route;

use durward_model::Kind;
use serde::Deserialize;
use serde_json::Value;

use crate::place::{At, Place};
use crate::spec::service::ServiceSpec;
use crate::spec::tenant::Metadata;

/// Most routes of an object, most names of all its routes, and most backends of them.
pub const MOST: usize = 100;

/// Names of API servers in an object of another controller, and the Services behind them.
#[derive(Clone, Debug)]
pub struct ForeignApi {
    /// The object's name and age.
    pub metadata: Metadata,
    /// At least one.
    pub routes: Vec<ForeignRoute>,
    /// Networks that may connect; everybody if there is none.
    pub sources: ForeignSources,
    /// What of the object cannot be served as it is written.
    pub faults: Vec<ForeignFault>,
}

/// Networks that may connect, and the field below `spec` that lists them.
#[derive(Clone, Debug, Default)]
pub struct ForeignSources {
    /// The field.
    pub field: &'static str,
    /// The networks.
    pub networks: Vec<At<String>>,
}

/// Names, and what is behind all of them.
#[derive(Clone, Debug)]
pub struct ForeignRoute {
    /// The field below `spec` that has the names.
    pub field: String,
    /// The names, as clients ask for them by SNI.
    pub names: Vec<At<String>>,
    /// The Services.
    pub backends: Vec<ForeignBackend>,
}

/// A Service behind names.
#[derive(Clone, Debug)]
pub struct ForeignBackend {
    /// The field below `spec` that names it.
    pub field: String,
    /// The Service and its port.
    pub service: At<ServiceSpec>,
    /// Share of new connections.
    pub weight: u32,
}

/// A part of an object that cannot be served.
#[derive(Clone, Debug)]
pub struct ForeignFault {
    /// False if the rest is served all the same.
    pub is_error: bool,
    /// The stable word for programs.
    pub reason: &'static str,
    /// The field below `spec`.
    pub field: String,
    /// Where it is written.
    pub place: Place,
    /// What is wrong, and the cure.
    pub sentence: String,
}

impl ForeignFault {
    fn error(field: String, place: Place, sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self { is_error: true, reason: "FieldUnfitting", field, place, sentence }
    }

    fn warning(field: String, place: Place, sentence: impl Into<String>) -> Self {
        Self { is_error: false, ..Self::error(field, place, sentence) }
    }
}

impl ForeignApi {
    /// Returns the Services that it refers to.
    pub fn services(&self) -> impl Iterator<Item = &ServiceSpec> {
        let backends = self.routes.iter().flat_map(|route| &route.backends);
        backends.map(|backend| &backend.service.value)
    }

    /// Returns where it begins to say something.
    #[must_use]
    pub fn place(&self) -> Place {
        let first = self.routes.first().and_then(|route| route.names.first());
        first.map_or(self.metadata.name.place, |name| name.place)
    }
}

/// Returns whether an object of a kind can name hosted API servers at all. Of the others nothing is said: they are for other controllers alone.
#[must_use]
pub fn is_meant(kind: Kind, object: &Value) -> bool {
    let spec = &object["spec"];
    let names_hosts = match kind {
        Kind::KamajiControlPlane | Kind::StewardControlPlane => control_plane::HOSTS
            .iter()
            .any(|host| spec["controlPlane"][host]["hostname"].is_string()),
        Kind::IngressRouteTcp => spec["tls"]["passthrough"] == true,
        // A parent's listener says whether TLS is passed through; the route names hosts at any rate.
        Kind::TlsRoute => spec["hostnames"].as_array().is_some_and(|names| !names.is_empty()),
        _ => false,
    };
    names_hosts && !is_derived(object)
}

/// Returns whether the object was made of a control plane or of a `HostedApi`, which itself says all of it.
fn is_derived(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let is_one =
        |owner: &Value| owner["kind"] == "TenantControlPlane" || owner["kind"] == "HostedApi";
    owners.is_some_and(|owners| owners.iter().any(is_one))
}

/// An object with a `spec` of this form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole<S> {
    metadata: Metadata,
    spec: S,
}

/// Reads an object of another controller.
///
/// # Errors
/// Fails if a field that is looked at has another form.
pub(super) fn read(kind: Kind, text: &str) -> Result<ForeignApi, serde_saphyr::Error> {
    match kind {
        Kind::IngressRouteTcp => serde_saphyr::from_str(text)
            .map(|Whole { metadata, spec }| ingress_route_tcp::api(metadata, spec)),
        Kind::TlsRoute => serde_saphyr::from_str(text)
            .map(|Whole { metadata, spec }| tls_route::api(metadata, spec)),
        _ => serde_saphyr::from_str(text)
            .map(|Whole { metadata, spec }| control_plane::api(metadata, spec, kind)),
    }
}

/// Returns the fault of an object with more routes, names or backends than are read.
fn excess(routes: &[ForeignRoute], field: &'static str, place: Place) -> Option<ForeignFault> {
    let names: usize = routes.iter().map(|route| route.names.len()).sum();
    let backends: usize = routes.iter().map(|route| route.backends.len()).sum();
    let sums = [("routes", routes.len()), ("names", names), ("backends", backends)];
    let (what, count) = sums.into_iter().find(|(_, count)| *count > MOST)?;
    let sentence =
        format!("has {count} {what}, and at most {MOST} are read: write several objects");
    let reason = "TooMany";
    Some(ForeignFault { reason, ..ForeignFault::error(field.to_owned(), place, sentence) })
}

#[cfg(test)]
mod tests;
