//! Merges several listeners at one address and port, as long as no request could match two of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use durward_model::listener::HttpService;
use durward_model::route::table::RouteTable;
use durward_model::route::{HostPattern, RouteMatch};
use durward_model::server_tls::ServerTls;
use durward_model::sni::SniRoute;
use durward_model::sni::SniTable;
use durward_model::{Listener, Origin, Route, ServerNames, Service};

/// Reason why a listener cannot be one with others.
#[derive(Debug, PartialEq)]
pub(crate) struct Unfitting {
    pub(crate) reason: &'static str,
    /// Phrase that says what is taken, or in what they differ.
    pub(crate) what: String,
    /// The place where the other one is written.
    pub(crate) holder: Origin,
}

/// A listener that is put together.
#[derive(Debug)]
pub(crate) struct Joined {
    base: Arc<Listener>,
    added: Vec<Arc<Listener>>,
    /// Hosts that are taken; `None` for all others. Of HTTP with the routes for each, of TLS without.
    taken: HashMap<Option<HostPattern>, Vec<Taken>>,
}

#[derive(Debug)]
struct Taken {
    origin: Origin,
    /// Conditions on a request besides the host.
    rest: Option<RouteMatch>,
}

impl Joined {
    /// Begins with one listener.
    pub(crate) fn new(base: &Arc<Listener>) -> Self {
        let mut joined = Self { base: Arc::clone(base), added: Vec::new(), taken: HashMap::new() };
        joined.take(base);
        joined
    }

    fn take(&mut self, listener: &Listener) {
        match &listener.service {
            Service::PassThrough(routes) => {
                for route in routes {
                    let taken = || Taken { origin: route.origin.clone(), rest: None };
                    hosts(&route.hosts)
                        .for_each(|host| self.taken.entry(host).or_default().push(taken()));
                }
            }
            Service::Http(service) => {
                for route in &*service.routes {
                    let rest = RouteMatch { hosts: Vec::new(), ..route.matches.clone() };
                    let taken = || Taken { origin: route.origin.clone(), rest: Some(rest.clone()) };
                    hosts(&route.matches.hosts)
                        .for_each(|host| self.taken.entry(host).or_default().push(taken()));
                }
            }
            Service::Tcp(_) | Service::Udp(_) | Service::Forward(_) | Service::Link(_) => {}
        }
    }

    /// Returns what keeps a listener from being one with those that are here.
    pub(crate) fn objection(&self, added: &Listener) -> Option<Unfitting> {
        let base = &*self.base;
        let unfitting = |reason, what: &str, holder: &Origin| {
            Some(Unfitting { reason, what: what.to_owned(), holder: holder.clone() })
        };
        let differ = [
            ("is accepted elsewhere than", base.bind != added.bind),
            (
                "has names where there are none, or none where there are names, unlike",
                base.names.is_some() != added.names.is_some(),
            ),
            ("has other allowedSources than", base.allowed_sources != added.allowed_sources),
            ("orders certificates by ACME beside", !added.acme.is_empty()),
        ];
        if let Some((what, _)) = differ.into_iter().find(|(_, differs)| *differs) {
            return unfitting("ListenerUnfitting", what, &base.origin);
        }
        match (&base.service, &added.service) {
            (Service::PassThrough(_), Service::PassThrough(more)) => {
                let mut names = more.iter().flat_map(|route| hosts(&route.hosts));
                names.find_map(|host| {
                    let holder = &self.taken.get(&host)?.first()?.origin;
                    let host =
                        host.map_or_else(|| "every other SNI".to_owned(), |it| format!("SNI {it}"));
                    unfitting("SniTaken", &format!("takes {host}, which is taken by"), holder)
                })
            }
            (Service::Http(own), Service::Http(more)) if !serves_alike(own, more) => unfitting(
                "ListenerUnfitting",
                "asks for another TLS or other proxies than",
                &base.origin,
            ),
            (Service::Http(_), Service::Http(more)) => {
                let holder = more.routes.iter().find_map(|route| self.holder(route))?;
                unfitting("RouteTaken", "takes a host and path that are taken by", holder)
            }
            _ => {
                unfitting("AddressTaken", "has an address and port that are taken by", &base.origin)
            }
        }
    }

    /// Returns the listener that it began with.
    pub(crate) fn base(&self) -> &Arc<Listener> {
        &self.base
    }

    /// Returns where the route for a name is written whose TLS is carried through.
    pub(crate) fn holder_of_sni(&self, host: &HostPattern) -> Option<&Origin> {
        Some(&self.taken.get(&Some(host.clone()))?.first()?.origin)
    }

    /// Returns where a route for the same requests is written.
    pub(crate) fn holder(&self, route: &Route) -> Option<&Origin> {
        let rest = RouteMatch { hosts: Vec::new(), ..route.matches.clone() };
        hosts(&route.matches.hosts).find_map(|host| {
            let mut there = self.taken.get(&host)?.iter();
            let same = there.find(|taken| taken.rest.as_ref() == Some(&rest))?;
            Some(&same.origin)
        })
    }

    /// Takes a listener in that nothing keeps out.
    pub(crate) fn add(&mut self, listener: Arc<Listener>) {
        self.take(&listener);
        self.added.push(listener);
    }

    /// Returns the listener that serves what all do.
    pub(crate) fn finish(self) -> Arc<Listener> {
        let Self { base, added, .. } = self;
        if added.is_empty() {
            return base;
        }
        let all = || [&base].into_iter().chain(&added);
        let service = match &base.service {
            Service::PassThrough(_) => {
                let routes = all().flat_map(|one| match &one.service {
                    Service::PassThrough(routes) => routes.to_vec(),
                    _ => Vec::<SniRoute>::new(),
                });
                Service::PassThrough(SniTable::new(routes.collect()))
            }
            Service::Http(own) => {
                let services = || {
                    all().filter_map(|one| match &one.service {
                        Service::Http(service) => Some(service),
                        _ => None,
                    })
                };
                let routes = services().flat_map(|one| one.routes.to_vec()).collect();
                let tls = own.tls.as_ref().map(|tls| with_certificates(tls, services()));
                Service::Http(HttpService { tls, routes: RouteTable::new(routes), ..own.clone() })
            }
            other => other.clone(),
        };
        let names = all().filter_map(|one| one.names.as_ref()).flatten().cloned();
        let names = base.names.is_some().then(|| ServerNames::new(names.collect()));
        Arc::new(Listener { service, names, ..Listener::clone(&base) })
    }
}

fn hosts(hosts: &[HostPattern]) -> impl Iterator<Item = Option<HostPattern>> {
    let every = hosts.is_empty().then_some(None);
    every.into_iter().chain(hosts.iter().cloned().map(Some))
}

/// Returns whether both treat clients alike, so that one listener can serve the routes of both. Routes alone ask for nothing.
fn serves_alike(own: &HttpService, more: &HttpService) -> bool {
    let tls = match (&own.tls, &more.tls) {
        (_, None) => true,
        (Some(own), Some(more)) => (&own.client_auth, &own.alpn) == (&more.client_auth, &more.alpn),
        (None, Some(_)) => false,
    };
    tls && own.trusted_proxies == more.trusted_proxies
        && own.identity_headers == more.identity_headers
}

fn with_certificates<'s>(
    own: &ServerTls,
    services: impl Iterator<Item = &'s HttpService>,
) -> ServerTls {
    let mut known = BTreeSet::new();
    let all = services.filter_map(|service| service.tls.as_ref());
    let all = all.flat_map(|tls| &tls.certificates);
    let certificates = all.filter(|one| known.insert(Arc::clone(&one.fingerprint)));
    ServerTls { certificates: certificates.map(Arc::clone).collect(), ..own.clone() }
}
