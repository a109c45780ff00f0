//! Adds the routes and certificates of Ingresses to the listeners of their tenant's document that take them.
//!
//! The oldest Ingress that asks for a host and path gets it, and the document before all of them. Nothing stands in for what an Ingress said before: the same
//! objects make the same routes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use durward_model::listener::HttpService;
use durward_model::route::table::RouteTable;
use durward_model::route::{Action, HeaderRules, HostPattern, RouteMatch};
use durward_model::server_tls::ServerTls;
use durward_model::sni::{SniRoute, SniTable};
use durward_model::upstream::Target;
use durward_model::{
    Certificate, EgressAddress, Kind, Listener, ListenerKey, Origin, ResourceId, Route,
    ServerNames, Service, Upstream,
};

use super::ingress::IngressPart;
use super::merge::{AddedPart, Together};
use super::{Applicant, Contribution, Written};
use crate::compile::bounds;
use crate::compile::report::{Field, Report};
use crate::compile::upstream_set::UpstreamSet;
use crate::compile::{route, sni};
use crate::document::Source;
use crate::foreign::asked::{Asked, Backend, Host, IngressId};
use crate::foreign::{self, Attachment, Backends, Effect, Finding, Protocol, Taker};
use crate::place::{At, Place};
use crate::spec::route::RouteSpec;

type Key = ListenerKey;

/// An Ingress that asks.
struct Asking {
    /// Its position among the contributions.
    at: usize,
    contribution: Arc<Contribution>,
    part: Arc<IngressPart>,
}

/// Adds what the Ingresses among `parts` ask for.
pub(super) fn attach(
    tenant: &mut Together<'_, '_>,
    parts: &[usize],
    applicants: &mut [Applicant<'_>],
) {
    let asking = asking(parts, applicants);
    if asking.is_empty() {
        return;
    }
    let takers = takers(tenant);
    if takers.is_empty() {
        let sentence = "is not served: no listener of the tenant takes routes of Ingresses, let the operator write allowedRoutes: {kinds: [Ingress]} at one in the Tenant";
        let finding = finding("ListenerMissing", "spec", sentence);
        asking.iter().for_each(|one| applicants[one.at].say(&finding));
        return;
    }
    let by_id: HashMap<&IngressId, &Asking> =
        asking.iter().map(|one| (&one.part.asked.id, one)).collect();
    let mut reaching = Reaching {
        upstreams: &mut *tenant.upstreams,
        egress: tenant.egress,
        by_id: &by_id,
        findings: BTreeSet::new(),
    };
    let asked: Vec<&Asked> = asking.iter().map(|one| &one.part.asked).collect();
    let holds: Vec<_> = takers.iter().map(|(_, listener)| holds(listener)).collect();
    let of_takers = takers.iter().zip(&holds);
    let of_takers: Vec<Taker<'_>> = of_takers
        .map(|((_, listener), holds)| Taker { protocol: protocol(listener), holds })
        .collect();
    let attached = foreign::attach(&asked, &of_takers, (&mut reaching, bounds::ROUTES));
    let mut findings: Vec<_> = reaching.findings.into_iter().collect();
    findings.extend(attached.findings);
    let mut served = BTreeSet::new();
    for ((key, listener), attachments) in takers.iter().zip(attached.routes) {
        let mut adding = Adding::new(tenant, *key, listener, &mut findings);
        attachments.into_iter().for_each(|one| adding.routes(&one, by_id[&one.asked.id].at));
        adding.certificates(&asking);
        served.extend(adding.finish());
    }
    for (id, finding) in findings {
        applicants[by_id[&id].at].say(&finding);
    }
    for one in asking.iter().filter(|one| served.contains(&one.at)) {
        applicants[one.at].served = Some(Arc::clone(&one.contribution));
    }
}

fn asking(parts: &[usize], applicants: &[Applicant<'_>]) -> Vec<Asking> {
    let asking = parts.iter().filter_map(|at| {
        let contribution = Arc::clone(applicants[*at].wanted()?);
        let part = Arc::clone(contribution.ingress.as_ref()?);
        Some(Asking { at: *at, contribution, part })
    });
    asking.collect()
}

/// Returns the listeners that take routes of Ingresses, in order of address and port.
fn takers(tenant: &Together<'_, '_>) -> Vec<(Key, Arc<Listener>)> {
    let listeners = tenant.listeners.iter().map(|(key, shared)| (*key, shared.joined.base()));
    let takers = listeners.filter(|(_, listener)| listener.takes_ingresses);
    let mut takers: Vec<_> = takers.map(|(key, listener)| (key, Arc::clone(listener))).collect();
    takers.sort_by_key(|(key, _)| *key);
    takers
}

fn protocol(listener: &Listener) -> Protocol {
    match &listener.service {
        Service::PassThrough(_) => Protocol::Tls,
        Service::Http(HttpService { tls: Some(_), .. }) => Protocol::Https,
        Service::Http(_)
        | Service::Tcp(_)
        | Service::Udp(_)
        | Service::Forward(_)
        | Service::Link(_) => Protocol::Http,
    }
}

/// Returns what tells which hosts may be the tenant's at a listener: those that its names cover, where it has names.
fn holds(listener: &Arc<Listener>) -> impl Fn(&Host) -> bool + use<> {
    let listener = Arc::clone(listener);
    move |host| match (&listener.names, host) {
        // Requests for other names never come to the tenant.
        (None, _) | (Some(_), Host::Any) => true,
        (Some(names), Host::Exact(name)) => names.match_name(name),
        (Some(names), Host::Wildcard(parent)) => covers(names, parent),
    }
}

/// Returns whether one of the names is a wildcard for all names below `parent`.
fn covers(names: &ServerNames, parent: &str) -> bool {
    let is_below = |of: &str| parent.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    names.iter().any(|name| match name {
        HostPattern::Wildcard(of) => **of == *parent || is_below(of),
        HostPattern::Exact(_) => false,
    })
}

fn finding(reason: &'static str, field: &str, sentence: impl Into<String>) -> Finding {
    Finding { effect: Effect::Refused, reason, field: field.to_owned(), sentence: sentence.into() }
}

/// Upstreams of backends, which come to the tenant's as they are asked for.
struct Reaching<'x, 'u> {
    upstreams: &'x mut UpstreamSet<'u>,
    egress: &'x [EgressAddress],
    by_id: &'x HashMap<&'x IngressId, &'x Asking>,
    findings: BTreeSet<(IngressId, Finding)>,
}

impl Reaching<'_, '_> {
    fn of(&mut self, asked: &Asked, backend: &Backend) -> Result<String, String> {
        if self.egress.is_empty() {
            return Err("the tenant has no address that connections leave from, let the operator name one in egress.addresses".to_owned());
        }
        let part = self.by_id.get(&asked.id).map(|one| &one.part);
        let made = part.and_then(|part| part.upstreams.get(backend));
        let Some(made) = made else { return Err("see what is said about the Service".to_owned()) };
        let upstream = self.reached(asked, made);
        let name = upstream.name.to_string();
        match self.upstreams.get(&name) {
            // Facts and settings are the same, or it would have another name.
            Some(_) => {}
            None if self.upstreams.len() >= bounds::UPSTREAMS => {
                return Err(format!("the tenant has {} upstreams already", bounds::UPSTREAMS));
            }
            None => {
                self.upstreams.add_of_object(Arc::new(upstream));
            }
        }
        Ok(name)
    }

    /// Returns the upstream with the endpoints that an egress address reaches.
    fn reached(&mut self, asked: &Asked, made: &Upstream) -> Upstream {
        let is_reached = |target: &Target| match target {
            Target::Address(at) => self.egress.iter().any(|source| source.reaches(at.ip())),
            Target::Name { .. } => true,
        };
        let endpoints = made.endpoints.iter().filter(|endpoint| is_reached(&endpoint.target));
        let endpoints: Vec<_> = endpoints.cloned().collect();
        if endpoints.len() < made.endpoints.len() {
            let sentence = format!(
                "leads to {} of a family that no egress address of the tenant has: some endpoints get no requests",
                made.name
            );
            let finding =
                Finding { effect: Effect::Otherwise, ..finding("EgressFamily", "spec", sentence) };
            self.findings.insert((asked.id.clone(), finding));
        }
        Upstream { endpoints, sources: self.egress.to_vec(), ..made.clone() }
    }
}

impl Backends for Reaching<'_, '_> {
    fn of_requests(&mut self, asked: &Asked, backend: &Backend) -> Result<String, String> {
        self.of(asked, backend)
    }

    fn of_bytes(&mut self, asked: &Asked, backend: &Backend) -> Result<String, String> {
        self.of(asked, backend)
    }
}

/// What is added to one listener, by contribution.
struct Adding<'x, 'r, 'u> {
    tenant: &'x mut Together<'r, 'u>,
    key: Key,
    listener: &'x Arc<Listener>,
    findings: &'x mut Vec<(IngressId, Finding)>,
    parts: BTreeMap<usize, Added>,
}

#[derive(Default)]
struct Added {
    routes: Vec<Route>,
    passed: Vec<SniRoute>,
    certificates: Vec<Arc<Certificate>>,
}

impl<'x, 'r, 'u> Adding<'x, 'r, 'u> {
    fn new(
        tenant: &'x mut Together<'r, 'u>,
        key: Key,
        listener: &'x Arc<Listener>,
        findings: &'x mut Vec<(IngressId, Finding)>,
    ) -> Self {
        Self { tenant, key, listener, findings, parts: BTreeMap::new() }
    }

    fn say(&mut self, asked: &Asked, finding: Finding) {
        self.findings.push((asked.id.clone(), finding));
    }

    /// Adds the routes of one rule, unless the document has its host and path.
    fn routes(&mut self, attachment: &Attachment<'_>, at: usize) {
        if let Service::PassThrough(_) = &self.listener.service {
            return self.passed(attachment, at);
        }
        let made = attachment.routes.iter().map(|spec| self.route(attachment, spec));
        let made: Vec<Route> = made.collect::<Vec<_>>();
        let Some(shared) = self.tenant.listeners.get(&self.key) else { return };
        if let Some(holder) = made.iter().find_map(|route| shared.joined.holder(route)) {
            let sentence = format!("is for a host and path that {holder} has, which comes first");
            return self.say(attachment.asked, finding("PathTaken", attachment.field, sentence));
        }
        self.parts.entry(at).or_default().routes.extend(made);
    }

    fn passed(&mut self, attachment: &Attachment<'_>, at: usize) {
        for spec in &attachment.routes {
            let source = Source::default();
            let (mut report, field) = (Report::new(&source), Field::root(attachment.field));
            let made = sni::route(&mut report, self.tenant.upstreams, spec, &field);
            let Some(made) = made else { continue };
            let made = SniRoute { origin: origin(attachment), ..made };
            let Some(shared) = self.tenant.listeners.get(&self.key) else { return };
            if let Some(holder) =
                made.hosts.iter().find_map(|host| shared.joined.holder_of_sni(host))
            {
                let sentence = format!("is for a host that {holder} has, which comes first");
                self.say(attachment.asked, finding("PathTaken", attachment.field, sentence));
                continue;
            }
            self.parts.entry(at).or_default().passed.push(made);
        }
    }

    /// Compiles a route. One that cannot be compiled is answered 503, so that no broader one gets its requests.
    fn route(&mut self, attachment: &Attachment<'_>, spec: &At<RouteSpec>) -> Route {
        let source = Source::default();
        let (mut report, field) = (Report::new(&source), Field::root(attachment.field));
        let compiled = route::route(&mut report, self.tenant.upstreams, spec, (&field, 0));
        let name = Arc::from(format!("ingress/{}", attachment.asked.id));
        let origin = origin(attachment);
        if let Some(compiled) = compiled {
            return Route { name, origin, ..compiled };
        }
        let why = report.into_findings();
        let why = why.first().map(ToString::to_string).unwrap_or_default();
        let sentence = format!("is answered 503: {why}");
        self.say(attachment.asked, finding("RouteUnusable", attachment.field, sentence));
        let hosts = route::hosts(&mut Report::new(&source), spec, &field);
        Route {
            name,
            matches: RouteMatch { hosts, ..RouteMatch::default() },
            action: Action::Respond { status: 503, body: Arc::from("") },
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            origin,
        }
    }

    /// Adds the certificates of all Ingresses, the oldest one's first.
    fn certificates(&mut self, asking: &[Asking]) {
        let Some(own) = self.listener.tls() else { return };
        let own = own.certificates.iter().map(|one| Arc::clone(&one.fingerprint));
        let mut known: BTreeSet<Arc<_>> = own.collect();
        for one in asking {
            for certificate in &one.part.certificates {
                if !known.insert(Arc::clone(&certificate.fingerprint)) {
                    continue;
                }
                if known.len() > bounds::CHOICES {
                    let sentence = format!(
                        "names more than {} certificates of all Ingresses of the listener together: put several names into one",
                        bounds::CHOICES
                    );
                    self.say(&one.part.asked, finding("TooMany", "spec.tls", sentence));
                    return;
                }
                let part = self.parts.entry(one.at).or_default();
                part.certificates.push(Arc::clone(certificate));
            }
        }
    }

    /// Adds everything to the listener, and returns whose it is.
    fn finish(self) -> Vec<usize> {
        let Some(shared) = self.tenant.listeners.get_mut(&self.key) else { return Vec::new() };
        let written = Written { field: Arc::from("rules"), place: Place::default() };
        let mut from = Vec::with_capacity(self.parts.len());
        for (contribution, added) in self.parts {
            let service = match &self.listener.service {
                Service::Http(http) => {
                    let tls = http.tls.clone();
                    let tls = tls.map(|tls| ServerTls { certificates: added.certificates, ..tls });
                    let routes = RouteTable::new(added.routes);
                    Service::Http(HttpService { tls, routes, ..http.clone() })
                }
                Service::PassThrough(_) => Service::PassThrough(SniTable::new(added.passed)),
                other => other.clone(),
            };
            let listener = Arc::new(Listener { service, ..Listener::clone(self.listener) });
            shared.joined.add(Arc::clone(&listener));
            shared.parts.push(AddedPart::of_ingress(contribution, listener, written.clone()));
            from.push(contribution);
        }
        from
    }
}

fn origin(attachment: &Attachment<'_>) -> Origin {
    let IngressId { namespace, name } = &attachment.asked.id;
    let id = ResourceId::namespaced(Kind::Ingress, namespace, name);
    Origin::Object { id, field: Arc::from(attachment.field) }
}
