//! Routes of an agent from the Ingresses of its cluster: pure, from objects as they are.
//!
//! What a link cannot carry as an Ingress asks for it is not registered, with a reason; nothing is served in a weaker way than was asked for.

mod hosts;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use durward_control::foreign::asked::{
    Action, Asked, Backend, BackendProtocol, Host, PathRule, Rule, Settings, ToHttps,
};
use durward_control::foreign::objects::{Ingress, Service};
use durward_control::foreign::{Surroundings, extract};
use durward_link::control::fit::fitting;
use durward_link::route::ROUTES;
use durward_link::{Kind, Route, Target};

use crate::Services;

pub use hosts::{HostTls, IngressHosts, hosts};

/// Namespace and name of an object.
pub type Name = (Arc<str>, Arc<str>);

/// Objects of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Ingresses, of any class.
    pub ingresses: Vec<Arc<Ingress>>,
    /// Services.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// Addresses at which Services of type `LoadBalancer` are reached from outside.
    pub balanced: BTreeMap<Name, Vec<String>>,
}

/// Routes of a cluster's Ingresses that are registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Routes; of several for one host and path that of the oldest Ingress.
    pub routes: Vec<Route>,
    /// TCP and UDP ports of the Services that say so.
    pub services: Services,
    /// Address to which a target is connected, if not the one that its name resolves to.
    pub addresses: BTreeMap<Target, SocketAddr>,
    /// Number of routes of each Ingress that has any, as `NAMESPACE/NAME`.
    pub ingresses: BTreeMap<String, usize>,
    /// Ingresses that are not registered as a whole, each with the reason.
    pub left_out: Vec<(String, String)>,
}

/// Returns what is registered of these objects. TLS of hosts in `spec.tls` is carried through to the ingress controller, if there is one that takes it.
#[must_use]
pub fn found(objects: &Objects, controller: Option<&(Target, SocketAddr)>) -> Found {
    let service = |namespace: &str, name: &str| {
        let name = (Arc::from(namespace), Arc::from(name));
        objects.services.get(&name).map(|service| &**service)
    };
    let middleware = |_: &str, _: &str| None;
    let around = Surroundings { classes: &[], service: &service, middleware: &middleware };
    let meant = objects.ingresses.iter().filter(|ingress| is_registered(ingress));
    let mut asked: Vec<Asked> = meant.map(|ingress| extract(ingress, around)).collect();
    asked.sort_by(|one, other| age(one).cmp(&age(other)));
    let tunnelled = objects.ingresses.iter().filter(|ingress| is_tunnelled(ingress));
    let tunnelled = tunnelled
        .map(|ingress| format!("{}/{}", ingress.metadata.namespace, ingress.metadata.name));
    let tunnelled = tunnelled.collect();
    let (found, claimed) = (Found::default(), BTreeSet::new());
    let mut reading = Reading { objects, found, claimed, tunnelled };
    for asked in &asked {
        reading.ingress(asked);
    }
    if let Some(controller) = controller {
        reading.carried_through(&asked, controller);
    }
    reading.services();
    let refused: Vec<(&Host, &PathRule)> = asked
        .iter()
        .flat_map(|asked| &asked.rules)
        .filter(|rule| rule.action == Action::Refuse)
        .map(|rule| (&rule.host, &rule.path))
        .collect();
    reading.without_broader_than(&refused);
    reading.finish()
}

/// Annotations by which one Ingress keeps its requests to the link: ours, and that of PipeOps' agent.
const ROUTING_MODE: [&str; 2] = ["durward.dev/routing-mode", "pipeops.io/routing-mode"];

/// Annotation by which one Ingress is no route of the link, and by which the ports of one Service are reached over it.
const REGISTER: &str = "durward.dev/register";

fn is_registered(ingress: &Ingress) -> bool {
    let written = ingress.metadata.annotations.get(REGISTER);
    written.is_none_or(|written| !written.eq_ignore_ascii_case("false"))
}

/// Returns true if the ports of a Service are reached over the link. A Service says so in so many words: none is reached otherwise.
fn is_service(service: &Service) -> bool {
    let written = service.metadata.annotations.get(REGISTER);
    written.is_some_and(|written| written.eq_ignore_ascii_case("true"))
}

fn is_tunnelled(ingress: &Ingress) -> bool {
    let annotations = &ingress.metadata.annotations;
    let mode = ROUTING_MODE.iter().find_map(|name| annotations.get(*name));
    mode.is_some_and(|mode| mode.eq_ignore_ascii_case("tunnel"))
}

fn age(asked: &Asked) -> impl Ord + '_ {
    (asked.created.is_none(), asked.created.as_deref(), &asked.id)
}

struct Reading<'o> {
    objects: &'o Objects,
    found: Found,
    claimed: BTreeSet<(String, String, bool)>,
    /// Ingresses whose annotation keeps their requests to the link.
    tunnelled: BTreeSet<String>,
}

impl Reading<'_> {
    fn ingress(&mut self, asked: &Asked) {
        let id = asked.id.to_string();
        for finding in asked.findings.iter().filter(|finding| is_loss(finding.effect)) {
            self.found.left_out.push((id.clone(), finding.to_string()));
        }
        if matches!(asked.settings.to_https, ToHttps::WithTls | ToHttps::Always) {
            let sentence = "its redirect to https is not registered: write redirectToHttps in the tenant's HTTP entry";
            self.found.left_out.push((id.clone(), sentence.to_owned()));
        }
        if let Some(what) = uncarried(&asked.settings) {
            let sentence = format!(
                "{what} is not carried by a link: route its hosts in the tenant's document instead"
            );
            self.found.left_out.push((id, sentence));
            return;
        }
        for rule in &asked.rules {
            if let Err(sentence) = self.rule(&id, &asked.settings, rule) {
                self.found.left_out.push((id.clone(), format!("{} {sentence}", rule.field)));
            }
        }
    }

    fn rule(&mut self, id: &str, settings: &Settings, rule: &Rule) -> Result<(), String> {
        let host = match &rule.host {
            Host::Any => {
                return Err("has no host: a link carries requests for named hosts".to_owned());
            }
            host => host.to_string(),
        };
        let backend = match &rule.action {
            Action::Forward(backend) => backend,
            Action::Redirect(_) => {
                return Err("is a redirect, which a link does not carry".to_owned());
            }
            // A finding says why.
            Action::Refuse => return Ok(()),
        };
        let target = self.target(backend)?;
        let (path, exact) = match &rule.path {
            PathRule::Exact(path) => (path.to_string(), true),
            PathRule::Prefix(path) if path.is_empty() => ("/".to_owned(), false),
            PathRule::Prefix(path) => (path.to_string(), false),
        };
        if !self.claimed.insert((host.clone(), path.clone(), exact)) {
            return Err(format!("is for {host}{path}, which an older Ingress has"));
        }
        if self.found.routes.len() == ROUTES {
            return Err(format!("is one route more than the {ROUTES} that a link carries"));
        }
        let tunnel_only = self.tunnelled.contains(id);
        let ingress = id.to_owned();
        let protocol = settings.protocol.or(backend.protocol);
        let is_tls = protocol == Some(BackendProtocol::Https);
        let named = settings.backend_tls.name.as_deref().unwrap_or_else(|| target.host());
        let backend_tls = is_tls.then(|| named.to_owned());
        let passthrough = false;
        let route =
            Route { host, path, exact, target, tunnel_only, passthrough, backend_tls, ingress };
        self.found.routes.push(route);
        Ok(())
    }

    /// Returns the target of a backend, and notes where it is connected to.
    fn target(&mut self, backend: &Backend) -> Result<Target, String> {
        let shown = format!("{}/{}", backend.namespace, backend.service);
        let name = (Arc::clone(&backend.namespace), Arc::clone(&backend.service));
        let service = self.objects.services.get(&name);
        let service =
            service.ok_or_else(|| format!("names Service {shown}, which is not there"))?;
        if service.spec.r#type.as_deref() == Some("ExternalName") {
            return Err(format!("names Service {shown}, which stands for a host elsewhere"));
        }
        let carried = [BackendProtocol::Http, BackendProtocol::Https];
        if backend.protocol.is_some_and(|protocol| !carried.contains(&protocol)) {
            return Err(format!(
                "names Service {shown}, whose appProtocol is neither http nor https"
            ));
        }
        let port = backend.number.ok_or_else(|| format!("names no port of Service {shown}"))?;
        let host = format!("{}.{}.svc.cluster.local", backend.service, backend.namespace);
        let target = Target::new(&host, port).map_err(|error| error.to_string())?;
        // Without an address of its own (a headless Service) its name is looked up.
        if let Some(ip) = service.spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) {
            self.found.addresses.insert(target.clone(), SocketAddr::new(ip, port));
        }
        Ok(target)
    }

    /// Adds a route to the ingress controller for each host in `spec.tls` that requests are registered for.
    fn carried_through(&mut self, asked: &[Asked], (target, address): &(Target, SocketAddr)) {
        let mut known = BTreeSet::new();
        let registered = self.found.routes.iter();
        let registered: HashSet<(String, String)> =
            registered.map(|route| (route.host.clone(), route.ingress.clone())).collect();
        for one in asked {
            let id = one.id.to_string();
            for rule in one.rules.iter().filter(|rule| one.is_tls(&rule.host)) {
                let host = rule.host.to_string();
                let has_route = registered.contains(&(host.clone(), id.clone()));
                if rule.host == Host::Any || !has_route || !known.insert(host.clone()) {
                    continue;
                }
                if self.found.routes.len() == ROUTES {
                    return;
                }
                self.found.routes.push(Route {
                    host,
                    path: "/".to_owned(),
                    exact: false,
                    target: target.clone(),
                    tunnel_only: self.tunnelled.contains(&id),
                    passthrough: true,
                    backend_tls: None,
                    ingress: id.clone(),
                });
                self.found.addresses.insert(target.clone(), *address);
            }
        }
    }

    /// Takes routes back that would get requests which a rule refuses.
    fn without_broader_than(&mut self, refused: &[(&Host, &PathRule)]) {
        let Found { routes, left_out, .. } = &mut self.found;
        routes.retain(|route| {
            let covers = |(host, path): &(&Host, &PathRule)| {
                !route.passthrough && host.to_string() == route.host && is_broader(route, path)
            };
            let Some((_, path)) = refused.iter().find(|one| covers(one)) else { return true };
            let sentence = format!(
                "{}{} would get requests for {path}, which an Ingress asks for in a way that a link does not carry",
                route.host, route.path
            );
            left_out.push((route.ingress.clone(), sentence));
            false
        });
    }

    /// Adds the TCP and UDP ports of Services whose annotation asks for that.
    fn services(&mut self) {
        for ((namespace, name), service) in &self.objects.services {
            if !is_service(service) {
                continue;
            }
            let id = format!("Service {namespace}/{name}");
            if service.spec.r#type.as_deref() == Some("ExternalName") {
                let sentence = "stands for a host elsewhere, which a link does not lead to";
                self.found.left_out.push((id, sentence.to_owned()));
                continue;
            }
            let host = format!("{name}.{namespace}.svc.cluster.local");
            let address = service.spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
            for port in &service.spec.ports {
                let kind = match port.protocol.as_deref() {
                    None | Some("TCP") => Kind::Tcp,
                    Some("UDP") => Kind::Udp,
                    Some(other) => {
                        let sentence = format!("has a port of {other}: a link carries TCP and UDP");
                        self.found.left_out.push((id.clone(), sentence));
                        continue;
                    }
                };
                let number = u16::try_from(port.port).unwrap_or_default();
                let Ok(target) = Target::new(&host, number) else { continue };
                if self.found.services.len() == ROUTES {
                    let sentence = format!("has more ports than the {ROUTES} that an agent takes");
                    self.found.left_out.push((id, sentence));
                    return;
                }
                // Without an address of its own (a headless Service) its name is looked up.
                if let Some(ip) = address {
                    self.found.addresses.insert(target.clone(), SocketAddr::new(ip, number));
                }
                self.found.services.insert((kind, target));
            }
        }
    }

    fn finish(mut self) -> Found {
        let (routes, rest) = fitting(std::mem::take(&mut self.found.routes));
        self.found.routes = routes;
        let rest = rest.into_iter().map(|(route, why)| (route.ingress, why));
        self.found.left_out.extend(rest);
        for route in &self.found.routes {
            *self.found.ingresses.entry(route.ingress.clone()).or_default() += 1;
        }
        let services = self.found.services.iter().map(|(_, target)| target);
        let used: BTreeSet<&Target> =
            self.found.routes.iter().map(|route| &route.target).chain(services).collect();
        self.found.addresses.retain(|target, _| used.contains(target));
        self.found
    }
}

/// Returns true if a route gets requests for a path, or for some below it.
fn is_broader(route: &Route, refused: &PathRule) -> bool {
    let (PathRule::Exact(path) | PathRule::Prefix(path)) = refused;
    match (route.exact, route.path.as_str()) {
        (true, own) => refused.matches(own),
        (false, own) => PathRule::Prefix(own.strip_suffix('/').unwrap_or(own).into()).matches(path),
    }
}

fn is_loss(effect: durward_control::foreign::Effect) -> bool {
    use durward_control::foreign::Effect;
    matches!(effect, Effect::Refused | Effect::Weaker)
}

/// Returns what of an Ingress' settings a link does not carry. Limits and redirects to https are the gateway's.
fn uncarried(settings: &Settings) -> Option<&'static str> {
    let Settings {
        is_refused,
        passthrough,
        regex,
        to_https: _,
        sources,
        denied_sources,
        rewrite_path,
        rewrite_host,
        redirect,
        app_root,
        protocol,
        backend_tls,
        client_certificates,
        canary,
        cors,
        by_client: _,
        limits: _,
    } = settings;
    let is_http2 = !matches!(protocol, None | Some(BackendProtocol::Http | BackendProtocol::Https));
    let all = [
        (*is_refused, "an annotation that the Ingress depends on"),
        (*passthrough, "TLS that is passed through"),
        (*regex, "a regular expression"),
        (sources.is_some() || !denied_sources.is_empty(), "a list of client networks"),
        (rewrite_path.is_some() || rewrite_host.is_some(), "a rewrite"),
        (redirect.is_some() || app_root.is_some(), "a redirect"),
        (is_http2, "a backend protocol other than HTTP and HTTPS"),
        (backend_tls.client_certificate.is_some(), "a client certificate for backends"),
        (client_certificates.is_some(), "a check of client certificates"),
        (canary.is_some(), "a canary"),
        (cors.is_some(), "CORS"),
    ];
    all.into_iter().find_map(|(is_there, what)| is_there.then_some(what))
}

#[cfg(test)]
mod tests;
