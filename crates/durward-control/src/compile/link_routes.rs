//! Routes that agents have registered, at listeners that name their link in `linkRoutes`.
//!
//! A registered route never costs the document anything: one that the link may not have any more is left out here, and one that an operator has
//! written for the same host and path comes after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::link::LinkRoute;
use durward_model::route::{
    Action, Forward, HeaderRules, HostPattern, PathMatch, RouteMatch, WeightedUpstream,
};
use durward_model::upstream::{Endpoint, Target, UpstreamProtocol};
use durward_model::{EgressAddress, Origin, Route, Upstream};

use super::listener::{Workshop, protocol};
use super::report::Field;
use super::{bounds, upstream};
use crate::place::At;
use crate::spec::ingress::{IngressSpec, ProtocolSpec};
use crate::words;

/// What each link of a tenant may register, and where the tenant's connections leave from.
pub(crate) struct LinkGrants<'s> {
    hosts: BTreeMap<&'s str, Vec<HostPattern>>,
    sources: &'s [EgressAddress],
}

impl<'s> LinkGrants<'s> {
    /// Reads what the entries of `spec.ingress` say. What is wrong with a host is said where its listener is compiled.
    pub(crate) fn of(entries: &'s [At<IngressSpec>], sources: &'s [EgressAddress]) -> Self {
        let mut hosts: BTreeMap<&str, Vec<HostPattern>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| protocol(entry) == ProtocolSpec::Link) {
            for link in &entry.links {
                let granted = hosts.entry(&link.name).or_default();
                granted.extend(link.hosts.iter().filter_map(|host| words::host_pattern(host).ok()));
            }
        }
        Self { hosts, sources }
    }

    fn grants(&self, link: &str, host: &HostPattern) -> bool {
        self.hosts.get(link).is_some_and(|granted| host.is_granted(granted))
    }
}

impl Workshop<'_, '_, '_, '_> {
    /// Returns the registered routes of the links that an entry names.
    pub(super) fn link_routes(&mut self, spec: &IngressSpec, field: &Field<'_>) -> Vec<Route> {
        let list = field.name("linkRoutes");
        let mut routes = Vec::new();
        for (at, link) in spec.link_routes.iter().enumerate() {
            if !self.links.hosts.contains_key(link.as_str()) {
                let sentence = format!(
                    "{:?} is no link of this tenant: no route of it is served until an entry with protocol LINK has it",
                    link.value
                );
                self.report.warning("LinkUnknown", link.place, &list.index(at), &sentence);
                continue;
            }
            let origin = self.report.source().origin(link.place);
            let registered = self.files.link_routes(self.tenant, link);
            for route in registered.into_iter().flat_map(|routes| &**routes) {
                if self.links.grants(link, &route.host) {
                    routes.extend(self.link_route(link, route, &origin));
                }
            }
        }
        routes
    }

    fn link_route(&mut self, link: &str, route: &LinkRoute, origin: &Origin) -> Option<Route> {
        let LinkRoute { host, path, target, port } = route;
        let name = format!("link/{link}/{target}:{port}");
        let upstream = match self.upstreams.use_of(&name) {
            Some(known) => known,
            // The registry holds less; whatever it says, a tenant's upstreams stay bounded.
            None if self.upstreams.len() >= bounds::UPSTREAMS => return None,
            None => self.upstreams.add(Arc::new(self.link_upstream(link, &name, route, origin))),
        };
        let upstreams = vec![WeightedUpstream { upstream, weight: 1 }];
        Some(Route {
            name: Arc::from(format!("linkRoutes[{link}] {host}{path}")),
            matches: RouteMatch {
                hosts: vec![host.clone()],
                path: PathMatch::from(path),
                ..RouteMatch::default()
            },
            action: Action::Forward(Forward {
                upstreams,
                replace_prefix: None,
                host: None,
                timeout: None,
            }),
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            origin: origin.clone(),
        })
    }

    fn link_upstream(
        &self,
        link: &str,
        name: &str,
        route: &LinkRoute,
        origin: &Origin,
    ) -> Upstream {
        let host = &route.target;
        let target = match host.parse() {
            Ok(address) => Target::Address(std::net::SocketAddr::new(address, route.port)),
            Err(_) => Target::Name { host: Arc::clone(host), port: route.port },
        };
        Upstream {
            endpoints: vec![Endpoint { target, weight: 1 }],
            link: Some(Arc::from(link)),
            sources: self.links.sources.to_vec(),
            origin: origin.clone(),
            ..upstream::plain(name, UpstreamProtocol::Http1)
        }
    }
}
