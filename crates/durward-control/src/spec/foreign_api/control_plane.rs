//! `TenantControlPlane` of Kamaji (`kamaji.clastix.io`) and of its fork Steward (`steward.butlerlabs.dev`).
//!
//! Both put the API server and the konnectivity server behind one Service of the object's name.

use durward_model::Kind;
use serde::Deserialize;

use super::{ForeignApi, ForeignBackend, ForeignFault, ForeignRoute, ForeignSources};
use crate::place::{At, Place};
use crate::spec::service::{ServicePortSpec, ServiceSpec};
use crate::spec::tenant::Metadata;

/// Fields of `controlPlane` that name the host.
pub(super) const HOSTS: [&str; 2] = ["ingress", "gateway"];
/// Port of the API server in its Service, unless the object says another.
const API: u16 = 6443;
/// Port of the konnectivity server in the Service, unless the object says another.
const KONNECTIVITY: u16 = 8132;
/// Label in the host of an API server that the konnectivity server's host has another one for.
const API_LABEL: &str = ".k8s.";
const KONNECTIVITY_LABEL: &str = ".konnectivity.";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    control_plane: ControlPlane,
    #[serde(default)]
    network_profile: NetworkProfile,
    #[serde(default)]
    addons: Addons,
}

#[derive(Deserialize)]
struct ControlPlane {
    #[serde(default)]
    ingress: Option<Host>,
    #[serde(default)]
    gateway: Option<Host>,
}

#[derive(Deserialize)]
struct Host {
    #[serde(default)]
    hostname: Option<At<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetworkProfile {
    #[serde(default)]
    address: Option<At<String>>,
    #[serde(default)]
    port: Option<At<u16>>,
    #[serde(default)]
    load_balancer_source_ranges: Option<Vec<At<String>>>,
}

#[derive(Default, Deserialize)]
struct Addons {
    #[serde(default)]
    konnectivity: Option<Konnectivity>,
}

#[derive(Default, Deserialize)]
struct Konnectivity {
    #[serde(default)]
    server: Option<KonnectivityServer>,
}

#[derive(Default, Deserialize)]
struct KonnectivityServer {
    #[serde(default)]
    port: Option<At<u16>>,
}

/// Returns the API server and the konnectivity server of a control plane.
pub(super) fn api(metadata: Metadata, spec: Spec, kind: Kind) -> ForeignApi {
    let Spec { control_plane, network_profile, addons } = spec;
    let mut faults = address(&network_profile).into_iter().collect::<Vec<_>>();
    let hosts = [("ingress", control_plane.ingress), ("gateway", control_plane.gateway)];
    let mut routes = Vec::new();
    for (name, host) in hosts {
        let Some(written) = host.and_then(|host| host.hostname) else { continue };
        let field = format!("controlPlane.{name}.hostname");
        let host = At::new(without_port(&written).to_owned(), written.place);
        let at = |port: Option<At<u16>>, usual, field: &str| {
            let port = port.unwrap_or_else(|| At::new(usual, written.place));
            vec![backend(&metadata.name, port, field)]
        };
        let konnectivity = addons.konnectivity.as_ref().map(|addon| {
            let port = addon.server.as_ref().and_then(|server| server.port);
            at(port, KONNECTIVITY, "addons.konnectivity.server.port")
        });
        if let Some(backends) = konnectivity {
            match of_konnectivity(&host) {
                Some(name) => {
                    let names = vec![At::new(name, written.place)];
                    routes.push(ForeignRoute { field: field.clone(), names, backends });
                }
                // Kamaji's agents come by the API server's name at a port of its own; Steward's need a name.
                None if kind == Kind::StewardControlPlane => faults.push(unnamed(&field, &written)),
                None => {}
            }
        }
        let backends = at(network_profile.port, API, "networkProfile.port");
        routes.insert(0, ForeignRoute { field, names: vec![host], backends });
    }
    // An IngressRoute and a TLSRoute of one host are one route here.
    let mut known = std::collections::BTreeSet::new();
    routes.retain(|route| known.insert(route.names[0].value.to_ascii_lowercase()));
    let sources = ForeignSources {
        field: "networkProfile.loadBalancerSourceRanges",
        networks: network_profile.load_balancer_source_ranges.unwrap_or_default(),
    };
    ForeignApi { metadata, routes, sources, faults }
}

fn backend(service: &At<String>, port: At<u16>, field: &str) -> ForeignBackend {
    let port = At::new(ServicePortSpec(port.value.to_string()), port.place);
    let spec = ServiceSpec { name: service.clone(), port, namespace: None };
    ForeignBackend { field: field.to_owned(), service: At::new(spec, service.place), weight: 1 }
}

/// Returns a host without the port that may stand behind it.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    }
}

fn of_konnectivity(host: &str) -> Option<String> {
    host.contains(API_LABEL).then(|| host.replacen(API_LABEL, KONNECTIVITY_LABEL, 1))
}

fn unnamed(field: &str, host: &At<String>) -> ForeignFault {
    let sentence = format!(
        "{:?} has no label k8s, so the konnectivity server has no name of its own and its agents reach nothing: name the host like t1.k8s.example.com",
        host.value
    );
    ForeignFault::warning(field.to_owned(), host.place, sentence)
}

/// Returns a warning about an address that is a name: it is given to `--advertise-address`, with which kube-apiserver does not start.
fn address(profile: &NetworkProfile) -> Option<ForeignFault> {
    let written = profile.address.as_ref().filter(|written| !written.is_empty())?;
    let is_address = written.parse::<std::net::IpAddr>().is_ok();
    let place: Place = written.place;
    (!is_address).then(|| {
        let sentence = format!(
            "{:?} is no IP address, and kube-apiserver takes no other for --advertise-address: write an IP address here, and the name in certSANs and the hostname",
            written.value
        );
        ForeignFault::warning("networkProfile.address".to_owned(), place, sentence)
    })
}
