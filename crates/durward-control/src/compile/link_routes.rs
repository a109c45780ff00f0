//! Routes that agents have registered, at listeners that name their link in `linkRoutes`.
//!
//! A registered route never costs the document anything: one that the link may not have any more is left out here, and one that an operator has
//! written for the same host and path comes after it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use durward_model::link::{LinkPath, LinkRoute};
use durward_model::route::{
    Action, Forward, GrantedHosts, HeaderRules, HostPattern, PathMatch, RouteMatch,
    WeightedUpstream,
};
use durward_model::sni::SniRoute;
use durward_model::upstream::{
    DirectRoute, Endpoint, Target, TrustRoots, UpstreamIndex, UpstreamProtocol, UpstreamTls,
};
use durward_model::{EgressAddress, Origin, Route, Upstream};

use super::listener::{Workshop, protocol};
use super::report::Field;
use super::{bounds, trust, upstream};
use crate::place::{At, Place};
use crate::spec::ingress::{IngressSpec, ProtocolSpec};
use crate::words;

/// Verification of direct routes.
struct Direct {
    roots: TrustRoots,
    plaintext: bool,
}

impl Direct {
    fn route(&self, host: &Arc<str>, path: &LinkPath) -> DirectRoute {
        let tls = verified(&self.roots, host);
        let (host, path) = (Arc::clone(host), Arc::from(path.to_string()));
        DirectRoute { host, path, tls, plaintext: self.plaintext }
    }
}

/// Verification of what the registered routes of an entry lead to.
struct Verification {
    direct: Option<Direct>,
    /// Authorities to trust for backends with TLS; `None` where none are served.
    backends: Option<TrustRoots>,
}

/// Registered route, the link it is of, and where the document names that.
struct Registered {
    link: Arc<str>,
    route: LinkRoute,
    origin: Origin,
}

/// Returns what tells upstreams of one name apart that entries verify in different ways.
fn generation(roots: &TrustRoots) -> String {
    match roots {
        TrustRoots::System => String::new(),
        TrustRoots::Private { generation, .. } => {
            format!("@{}", generation.get(..8).unwrap_or(generation))
        }
    }
}

/// What each link of a tenant may register, and where the tenant's connections leave from.
pub(crate) struct LinkGrants<'s> {
    hosts: BTreeMap<&'s str, GrantedHosts>,
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
        let hosts = hosts.into_iter().map(|(link, hosts)| (link, hosts.into_iter().collect()));
        Self { hosts: hosts.collect(), sources }
    }

    fn grants(&self, link: &str, host: &HostPattern) -> bool {
        self.hosts.get(link).is_some_and(|granted| granted.grants(host))
    }
}

impl Workshop<'_, '_, '_, '_> {
    /// Returns the registered routes of the links that an entry names.
    pub(super) fn link_routes(&mut self, spec: &IngressSpec, field: &Field<'_>) -> Vec<Route> {
        let verification = Verification {
            direct: self.direct_routes(spec, &field.name("directRoutes")),
            backends: self.backend_tls(spec, &field.name("backendTls")),
        };
        let registered = self.registered(spec, field);
        let of_requests = registered.iter().filter(|one| one.route.path != LinkPath::Tls);
        of_requests.filter_map(|one| self.link_route(one, &verification)).collect()
    }

    /// Adds the hosts whose TLS is carried through to the clusters of the links that an entry names. Those that are written come first.
    pub(super) fn link_sni_routes(
        &mut self,
        spec: &IngressSpec,
        field: &Field<'_>,
        routes: &mut Vec<SniRoute>,
    ) {
        let mut known: HashSet<HostPattern> =
            routes.iter().flat_map(|route| &route.hosts).cloned().collect();
        for one in self.registered(spec, field) {
            if one.route.path != LinkPath::Tls || known.contains(&one.route.host) {
                continue;
            }
            let name = format!("link/{}/tls/{}:{}", one.link, one.route.target, one.route.port);
            let plain = || upstream::plain(&name, UpstreamProtocol::Tcp);
            let Some(upstream) = self.use_or_add(&name, || one.upstream(plain())) else { continue };
            known.insert(one.route.host.clone());
            routes.push(SniRoute {
                hosts: vec![one.route.host],
                upstreams: vec![WeightedUpstream { upstream, weight: 1 }],
                hosted: None,
                origin: one.origin,
            });
        }
    }

    /// Returns what the links that an entry names have registered and may have.
    fn registered(&mut self, spec: &IngressSpec, field: &Field<'_>) -> Vec<Registered> {
        let list = field.name("linkRoutes");
        let mut all = Vec::new();
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
            let granted = registered.into_iter().flat_map(|routes| &**routes);
            let granted = granted.filter(|route| self.links.grants(link, &route.host));
            all.extend(granted.map(|route| Registered {
                link: Arc::from(link.as_str()),
                route: route.clone(),
                origin: origin.clone(),
            }));
        }
        all
    }

    /// Returns how direct routes of an entry are verified; `None` if it has none, or after an error.
    fn direct_routes(&mut self, spec: &IngressSpec, field: &Field<'_>) -> Option<Direct> {
        let written = spec.direct_routes.as_ref()?;
        self.beside_link_routes(spec, written.place, field)?;
        let (file, of) = (written.ca_file.as_ref(), field.name("caFile"));
        let roots = trust::roots(self.report, self.files, file, &of)?;
        let plaintext = written.plaintext.is_some_and(|plaintext| plaintext.value);
        Some(Direct { roots, plaintext })
    }

    /// Returns whom to trust for backends with TLS; `None` if none are served, or after an error.
    fn backend_tls(&mut self, spec: &IngressSpec, field: &Field<'_>) -> Option<TrustRoots> {
        let written = spec.backend_tls.as_ref()?;
        self.beside_link_routes(spec, written.place, field)?;
        let (file, of) = (written.ca_file.as_ref(), field.name("caFile"));
        trust::roots(self.report, self.files, file, &of)
    }

    fn beside_link_routes(
        &mut self,
        spec: &IngressSpec,
        place: Place,
        field: &Field<'_>,
    ) -> Option<()> {
        if spec.link_routes.is_empty() {
            let sentence = "means nothing without linkRoutes: it is for registered routes";
            self.report.error("FieldUnfitting", place, field, sentence);
            return None;
        }
        Some(())
    }

    fn link_route(&mut self, one: &Registered, verification: &Verification) -> Option<Route> {
        let Registered { link, route, origin } = one;
        let LinkRoute { host, path, target, port, tunnel_only, backend_tls } = route;
        let tls = match (backend_tls, &verification.backends) {
            (None, _) => None,
            (Some(name), Some(roots)) => Some(verified(roots, name)),
            // Without TLS it would be served in a weaker way than the cluster says.
            (Some(_), None) => return None,
        };
        // A wildcard is for many names, of which each would need a proof.
        let direct = match host {
            HostPattern::Exact(host) if !tunnel_only => {
                verification.direct.as_ref().map(|direct| direct.route(host, path))
            }
            HostPattern::Exact(_) | HostPattern::Wildcard(_) => None,
        };
        let mut name = format!("link/{link}/{target}:{port}");
        if let Some(direct) = &direct {
            let plaintext = if direct.plaintext { "+plaintext" } else { "" };
            let generation = generation(&direct.tls.roots);
            name = format!("link/{link}/{}/{target}:{port}{plaintext}{generation}", direct.host);
        }
        if let Some(tls) = &tls {
            let verified = tls.verify_name.as_deref().unwrap_or_default();
            name = format!("{name}+tls:{verified}{}", generation(&tls.roots));
        }
        let plain = || upstream::plain(&name, UpstreamProtocol::Http1);
        let upstream =
            self.use_or_add(&name, || Upstream { direct, tls, ..one.upstream(plain()) })?;
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

    /// Returns the upstream of a name, made at its first use; `None` if the tenant has as many as it may.
    fn use_or_add(&mut self, name: &str, make: impl FnOnce() -> Upstream) -> Option<UpstreamIndex> {
        if let Some(known) = self.upstreams.use_of(name) {
            return Some(known);
        }
        // The registry holds less; whatever it says, a tenant's upstreams stay bounded.
        if self.upstreams.len() >= bounds::UPSTREAMS {
            return None;
        }
        let sources = self.links.sources.to_vec();
        Some(self.upstreams.add(Arc::new(Upstream { sources, ..make() })))
    }
}

impl Registered {
    /// Returns an upstream that leads to the route's backend, with the rest of another.
    fn upstream(&self, rest: Upstream) -> Upstream {
        let (host, port) = (&self.route.target, self.route.port);
        let target = match host.parse() {
            Ok(address) => Target::Address(std::net::SocketAddr::new(address, port)),
            Err(_) => Target::Name { host: Arc::clone(host), port },
        };
        Upstream {
            endpoints: vec![Endpoint { target, weight: 1 }],
            link: Some(Arc::clone(&self.link)),
            origin: self.origin.clone(),
            ..rest
        }
    }
}

fn verified(roots: &TrustRoots, name: &Arc<str>) -> UpstreamTls {
    UpstreamTls {
        roots: roots.clone(),
        verify_name: Some(Arc::clone(name)),
        client_certificate: None,
        tls13_only: false,
    }
}
