//! Type of a cluster, by the Service of its ingress controller: pure, from objects as they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use durward_control::foreign::objects::Service;
use durward_link::Target;
use durward_link::control::{ClusterState, RoutingMode};
use durward_model::egress::{Guarded, guard};

use crate::ingress::{Name, Objects};

/// Ingress controllers that are looked at where the file names none.
const CONTROLLERS: [&str; 7] = [
    "ingress-nginx/ingress-nginx-controller",
    "pipeops-system/traefik",
    "kube-system/traefik",
    "traefik/traefik",
    "kube-system/rke2-ingress-nginx-controller",
    "haproxy-controller/haproxy-kubernetes-ingress",
    "app.kubernetes.io/name=ingress-nginx",
];
/// Time to wait for an address that a load balancer has not given yet.
const WAIT: Duration = Duration::from_secs(120);

/// Service of an ingress controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controller {
    /// The Service with this name.
    Named(Name),
    /// Services with this label.
    Labelled(String, String),
}

impl Controller {
    /// Reads `NAMESPACE/NAME` or `LABEL=VALUE`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if let Some((label, value)) = text.split_once('=') {
            let is_label = !label.is_empty() && !value.is_empty();
            return is_label.then(|| Self::Labelled(label.to_owned(), value.to_owned()));
        }
        let (namespace, name) = text.split_once('/')?;
        let is_name = |part: &str| !part.is_empty() && !part.contains('/');
        (is_name(namespace) && is_name(name)).then(|| Self::Named((namespace.into(), name.into())))
    }

    fn is(&self, name: &Name, service: &Service) -> bool {
        match self {
            Self::Named(own) => own == name,
            Self::Labelled(label, value) => service.metadata.labels.get(label) == Some(value),
        }
    }
}

/// Way of requests that the agent's operator wants where the cluster has a public address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Directly.
    #[default]
    Direct,
    /// Over the link all the same.
    Tunnel,
    /// Both.
    Dual,
}

/// Settings of the detection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// Controllers, the first that is there counts.
    pub controllers: Vec<Controller>,
    /// Time to wait for an address.
    pub wait: Duration,
    /// Way that is wanted.
    pub wanted: Wanted,
    /// True if an address of a private range is offered.
    pub offers_private: bool,
    /// Host by which proofs reach the agent.
    pub proof_host: Option<String>,
}

impl Default for Detection {
    fn default() -> Self {
        Self {
            controllers: CONTROLLERS.iter().filter_map(|text| Controller::read(text)).collect(),
            wait: WAIT,
            wanted: Wanted::Direct,
            offers_private: false,
            proof_host: None,
        }
    }
}

/// Type of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The controller's Service has an address that others reach.
    Public,
    /// No address.
    Private,
    /// No address yet: the load balancer may still give one.
    Waiting,
}

/// Result of the detection, and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// The type.
    pub kind: Kind,
    /// Address and port of the controller, and true if the port takes TLS; for a public cluster.
    pub endpoint: Option<(String, bool)>,
    /// Sentence for people.
    pub reason: String,
}

impl Detection {
    /// Returns the type of the cluster with these objects.
    #[must_use]
    pub fn detect(&self, objects: &Objects) -> Detected {
        let mut found: Option<Detected> = None;
        for controller in &self.controllers {
            for (name, service) in &objects.services {
                if !controller.is(name, service) {
                    continue;
                }
                let detected = self.judge(objects, name, service);
                if detected.kind == Kind::Public {
                    return detected;
                }
                // Of those without an address one that may still get it says more.
                let is_better = found.as_ref().is_none_or(|known| {
                    known.kind == Kind::Private && detected.kind == Kind::Waiting
                });
                if is_better {
                    found = Some(detected);
                }
            }
        }
        found.unwrap_or_else(|| Detected {
            kind: Kind::Private,
            endpoint: None,
            reason: "no Service of an ingress controller is there: name it in ingressControllers if there is one".to_owned(),
        })
    }

    /// Returns where TLS for Ingresses goes within the cluster: the first controller that is there, whatever its type.
    #[must_use]
    pub fn tls_controller(&self, objects: &Objects) -> Option<(Target, SocketAddr)> {
        let of = |controller: &Controller| {
            let fits = |(name, service): &(&Name, &Arc<Service>)| controller.is(name, service);
            let (name, service) = objects.services.iter().find(fits)?;
            let (port, _) = port(service).filter(|(_, tls)| *tls)?;
            let ip = service.spec.cluster_ip.as_deref()?.parse().ok()?;
            let host = format!("{}.{}.svc.cluster.local", name.1, name.0);
            Some((Target::new(&host, port).ok()?, SocketAddr::new(ip, port)))
        };
        self.controllers.iter().find_map(of)
    }

    fn judge(&self, objects: &Objects, name: &Name, service: &Service) -> Detected {
        let shown = format!("Service {}/{}", name.0, name.1);
        let private = |reason: String| Detected { kind: Kind::Private, endpoint: None, reason };
        let kind = service.spec.r#type.as_deref().unwrap_or("ClusterIP");
        if kind != "LoadBalancer" {
            return private(format!("{shown} is of type {kind}, not LoadBalancer"));
        }
        let addresses = objects.balanced.get(name).map_or(&[][..], Vec::as_slice);
        if addresses.is_empty() {
            let reason = format!("{shown} is a LoadBalancer without an external address");
            return Detected { kind: Kind::Waiting, endpoint: None, reason };
        }
        let Some(address) = addresses.iter().find(|address| self.may_offer(address)) else {
            let all = addresses.join(", ");
            return private(format!("{shown} has the external address {all}, which is not public"));
        };
        let Some((port, tls)) = port(service) else {
            return private(format!("{shown} has no port for HTTP or HTTPS"));
        };
        let endpoint = match address.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            _ => format!("{address}:{port}"),
        };
        let reason = format!("{shown} has the external address {address}");
        Detected { kind: Kind::Public, endpoint: Some((endpoint, tls)), reason }
    }

    fn may_offer(&self, address: &str) -> bool {
        let Ok(ip) = address.parse::<IpAddr>() else { return !address.is_empty() };
        match guard::classify(ip.to_canonical()) {
            None => true,
            Some((Guarded::Private | Guarded::Shared | Guarded::Loopback, _)) => {
                self.offers_private
            }
            Some(_) => false,
        }
    }

    /// Returns the way of requests in a cluster of this type.
    #[must_use]
    pub fn mode(&self, kind: Kind) -> RoutingMode {
        match (kind, self.wanted) {
            (Kind::Public, Wanted::Direct) => RoutingMode::Direct,
            (Kind::Public, Wanted::Dual) => RoutingMode::Dual,
            (Kind::Public, Wanted::Tunnel) | (Kind::Private | Kind::Waiting, _) => {
                RoutingMode::Tunnel
            }
        }
    }

    /// Returns what the gateway is told of the cluster.
    #[must_use]
    pub fn state(&self, detected: &Detected, gateway_routes: usize) -> ClusterState {
        let mode = self.mode(detected.kind);
        let endpoint = detected.endpoint.clone().filter(|_| mode != RoutingMode::Tunnel);
        ClusterState {
            is_private: detected.kind != Kind::Public,
            gateway_routes: u32::try_from(gateway_routes).unwrap_or(u32::MAX),
            routing_mode: mode,
            public_tls: endpoint.as_ref().is_some_and(|(_, tls)| *tls),
            proof_host: self.proof_host.clone().filter(|_| endpoint.is_some()),
            public_endpoint: endpoint.map(|(endpoint, _)| endpoint),
        }
    }
}

/// Returns the port for requests from outside, HTTPS before HTTP, and true if it takes TLS.
fn port(service: &Service) -> Option<(u16, bool)> {
    let ports = &service.spec.ports;
    let number = |is: &dyn Fn(&str, i64) -> bool| {
        let found = ports.iter().find(|port| is(&port.name, port.port));
        found.and_then(|port| u16::try_from(port.port).ok())
    };
    // A name says more than a number.
    let https = number(&|name, _| name == "https" || name == "websecure")
        .or_else(|| number(&|_, port| port == 443));
    let http = number(&|name, _| name == "http" || name == "web")
        .or_else(|| number(&|_, port| port == 80));
    https.map(|port| (port, true)).or_else(|| http.map(|port| (port, false)))
}

/// Returns a name that is shared.
#[must_use]
pub fn name(namespace: &str, name: &str) -> Name {
    (Arc::from(namespace), Arc::from(name))
}

#[cfg(test)]
mod tests;
