//! One entry of `spec.ingress` becomes a listener and the socket it is reached through.
//!
//! Deliberately absent: whether another tenant has the address; claims decide that when all tenants are known.

use std::sync::Arc;

use durward_model::egress::Policy;
use durward_model::listener::{HttpService, IdentityHeaders, TcpService, UdpService};
use durward_model::route::table::RouteTable;
use durward_model::route::{Action, HeaderRules, Redirect, RouteMatch, WeightedUpstream};
use durward_model::server_tls::ServerTls;
use durward_model::sni::SniRoute;
use durward_model::transport::Transport;
use durward_model::{
    Acme, DestinationMode, IngressAddress, Listener, ListenerKey, Route, Service, SourceSet,
    TenantId,
};

use super::acme::Doors;
use super::certificates::Files;
use super::link_routes::LinkGrants;
use super::listen;
use super::report::{Field, Report};
use super::route::{self, Carrying, Targets};
use super::upstream_set::UpstreamSet;
use super::words;
use crate::place::{At, Place};
use crate::spec::egress::ProxySpec;
use crate::spec::ingress::{IngressSpec, ProtocolSpec};

/// Inputs and outputs of compiling a listener.
pub(crate) struct Workshop<'r, 'a, 'f, 'u> {
    pub(crate) report: &'r mut Report<'a>,
    pub(crate) files: &'r mut Files<'f>,
    pub(crate) upstreams: &'r mut UpstreamSet<'u>,
    pub(crate) tenant: &'r TenantId,
    /// Fields that an entry of `spec.egress.proxy` has beyond those of `spec.ingress`.
    pub(crate) outward: Option<Outward<'r>>,
    /// The tenant's egress rules; `None` if it has none, or they have errors.
    pub(crate) policy: Option<&'r Arc<Policy>>,
    /// Listeners at which an ACME authority can validate the tenant's names.
    pub(crate) doors: &'r Doors,
    /// Certificates by ACME of the listener that is compiled.
    pub(crate) acme: Acme,
    /// What links of the tenant may register.
    pub(crate) links: &'r LinkGrants<'r>,
}

/// An entry of `spec.egress.proxy`, and where its tenant may go; `None` if the policy has errors.
#[derive(Clone, Copy)]
pub(crate) struct Outward<'r> {
    pub(crate) spec: &'r At<ProxySpec>,
    pub(crate) policy: Option<&'r Arc<Policy>>,
}

/// Returns the address, port and transport protocol of an entry; `None` if they cannot be read.
pub(crate) fn key(spec: &IngressSpec) -> Option<ListenerKey> {
    let address = words::address(&spec.address).ok()?;
    let port = spec.port.map_or_else(|| default_port(spec), |port| Some(port.value))?;
    let transport = match protocol(spec) {
        ProtocolSpec::Udp => Transport::Udp,
        _ => Transport::Tcp,
    };
    Some((address, port, transport)).filter(|(_, port, _)| *port > 0)
}

/// Returns whether hosted API servers without an address may be served at an entry.
fn hosts_apis(spec: &IngressSpec) -> bool {
    spec.accept_hosted_apis.is_some_and(|accepts| accepts.value)
}

fn default_port(spec: &IngressSpec) -> Option<u16> {
    match protocol(spec) {
        ProtocolSpec::Https | ProtocolSpec::Tls | ProtocolSpec::Link => Some(443),
        ProtocolSpec::Http => Some(80),
        ProtocolSpec::Proxy => Some(3128),
        ProtocolSpec::Tcp | ProtocolSpec::Udp => None,
    }
}

pub(crate) fn protocol(spec: &IngressSpec) -> ProtocolSpec {
    spec.protocol.map_or_else(ProtocolSpec::default, |protocol| protocol.value)
}

impl Workshop<'_, '_, '_, '_> {
    /// The listener and how its socket knows destinations, or `None` after an error.
    pub(crate) fn listener(
        &mut self,
        spec: &At<IngressSpec>,
        field: &Field<'_>,
    ) -> Option<(Listener, DestinationMode)> {
        let before = self.report.errors();
        let address =
            self.report.check("BadAddress", &spec.address, &field.name("address"), words::address);
        let port = self.port(spec, field);
        let reached =
            address.zip(port).and_then(|at| listen::reached(self.report, spec, at, field));
        let sources = route::networks(
            self.report,
            spec.allowed_sources.as_ref(),
            &field.name("allowedSources"),
        );
        self.unfitting(spec, field);
        self.allowed_routes(spec, field);
        self.hosted_apis_unfitting(spec, field);
        let names = self.names(spec, address, field);
        let service = self.service(spec, address, field);
        if self.report.errors() > before {
            return None;
        }
        let (bind, mode) = reached?;
        let listener = Listener {
            tenant: self.tenant.clone(),
            address: IngressAddress(address?),
            port: port?,
            bind,
            names,
            allowed_sources: sources,
            service: service?,
            hosts_apis: hosts_apis(spec),
            acme: std::mem::take(&mut self.acme),
            takes_ingresses: spec.takes_ingresses(),
            origin: self.report.source().origin(spec.place),
        };
        self.check_names(spec, &listener, field);
        (self.report.errors() == before).then_some((listener, mode))
    }

    fn port(&mut self, spec: &IngressSpec, field: &Field<'_>) -> Option<u16> {
        let field = field.name("port");
        if spec.port.is_some() {
            return self.report.number(spec.port, &field, (1, u16::MAX), 0);
        }
        let port = default_port(spec);
        if port.is_none() {
            self.report.error(
                "PortMissing",
                spec.address.place,
                &field,
                "is missing: TCP and UDP have no port of their own",
            );
        }
        port
    }

    /// Fields that mean nothing for the protocol are mistakes, not decoration.
    fn unfitting(&mut self, spec: &IngressSpec, field: &Field<'_>) {
        let protocol = protocol(spec);
        let has_certificate = spec.certificate.is_some() || !spec.certificates.is_empty();
        let terminates = match protocol {
            ProtocolSpec::Https | ProtocolSpec::Link => true,
            ProtocolSpec::Tcp | ProtocolSpec::Proxy => has_certificate,
            ProtocolSpec::Http | ProtocolSpec::Tls | ProtocolSpec::Udp => false,
        };
        let carries_http =
            matches!(protocol, ProtocolSpec::Http | ProtocolSpec::Https | ProtocolSpec::Proxy);
        let first = |at: &[At<String>]| at.first().map(|at| at.place);
        let tls_only = [
            ("certificate", spec.certificate.as_ref().map(|at| at.place)),
            ("certificates", spec.certificates.first().map(|at| at.place)),
            ("clientCertificates", spec.client_certificates.as_ref().map(|at| at.place)),
            ("minTlsVersion", spec.min_tls_version.map(|at| at.place)),
            ("alpn", spec.alpn.as_ref().map(|at| at.place)),
        ];
        let http_only = [
            ("trustedProxies", first(&spec.trusted_proxies)),
            ("redirectToHttps", spec.redirect_to_https.map(|at| at.place)),
            ("linkRoutes", first(&spec.link_routes).filter(|_| protocol != ProtocolSpec::Tls)),
            ("backendTls", spec.backend_tls.as_ref().map(|at| at.place)),
            ("directRoutes", spec.direct_routes.as_ref().map(|at| at.place)),
        ];
        let mut refuse = |name: &str, place: Option<Place>, sentence: &str| {
            if let Some(place) = place {
                self.report.error("FieldUnfitting", place, &field.name(name), sentence);
            }
        };
        for (name, place) in tls_only.into_iter().filter(|_| !terminates) {
            refuse(name, place, "means nothing here: TLS is not terminated by this listener");
        }
        for (name, place) in http_only.into_iter().filter(|_| !carries_http) {
            refuse(name, place, "means nothing here: this listener does not carry HTTP");
        }
        let of_links = [
            ("upstream", spec.upstream.as_ref().map(|at| at.place)),
            ("upstreams", spec.upstreams.first().map(|at| at.place)),
            ("routes", spec.routes.first().map(|at| at.place)),
            ("alpn", spec.alpn.as_ref().map(|at| at.place)),
        ];
        for (name, place) in of_links.into_iter().filter(|_| protocol == ProtocolSpec::Link) {
            refuse(
                name,
                place,
                "means nothing here: agents connect to this listener, and carry requests to it",
            );
        }
        let of_agents = [
            ("links", spec.links.first().map(|at| at.place)),
            ("agentAuthority", spec.agent_authority.as_ref().map(|at| at.place)),
        ];
        for (name, place) in of_agents.into_iter().filter(|_| protocol != ProtocolSpec::Link) {
            refuse(name, place, "means nothing here: only protocol LINK has links");
        }
        if protocol == ProtocolSpec::Https {
            let place = spec.redirect_to_https.filter(|redirect| redirect.value).map(|at| at.place);
            refuse("redirectToHttps", place, "means nothing here: this listener is https already");
        }
    }

    /// Objects add routes where hosts tell requests apart.
    fn allowed_routes(&mut self, spec: &IngressSpec, field: &Field<'_>) {
        let Some(allowed) = &spec.allowed_routes else { return };
        let takes_routes = [ProtocolSpec::Http, ProtocolSpec::Https, ProtocolSpec::Tls];
        let sentence = if !takes_routes.contains(&protocol(spec)) {
            "means nothing here: objects add routes to entries with protocol HTTP, HTTPS or TLS"
        } else if allowed.kinds.is_empty() {
            "names no kind: write {kinds: [Ingress]}, or remove it"
        } else {
            return;
        };
        let field = field.name("allowedRoutes");
        self.report.error("FieldUnfitting", allowed.place, &field, sentence);
    }

    fn hosted_apis_unfitting(&mut self, spec: &IngressSpec, field: &Field<'_>) {
        let Some(accepts) = spec.accept_hosted_apis else { return };
        if protocol(spec) != ProtocolSpec::Tls {
            let sentence =
                "means nothing here: only protocol TLS passes the TLS of API servers through";
            let field = field.name("acceptHostedApis");
            self.report.error("FieldUnfitting", accepts.place, &field, sentence);
        }
    }

    fn service(
        &mut self,
        spec: &At<IngressSpec>,
        address: Option<std::net::IpAddr>,
        field: &Field<'_>,
    ) -> Option<Service> {
        match protocol(spec) {
            ProtocolSpec::Http => self.http(spec, None, field).map(Service::Http),
            ProtocolSpec::Https => {
                let tls = self.tls(spec, address, field);
                let service = self.http(spec, None, field);
                Some(Service::Http(HttpService { tls: Some(tls?), ..service? }))
            }
            ProtocolSpec::Tls => {
                self.pass_through(spec, field).map(|routes| Service::PassThrough(routes.into()))
            }
            ProtocolSpec::Tcp => {
                let secured = spec.certificate.is_some() || !spec.certificates.is_empty();
                let tls = secured.then(|| self.tls(spec, address, field));
                let upstreams = self.direct(spec, field);
                let tls = tls.map_or(Some(None), |tls| tls.map(Some));
                Some(Service::Tcp(TcpService { tls: tls?, upstreams: upstreams? }))
            }
            ProtocolSpec::Udp => {
                let upstreams = self.direct(spec, field)?;
                Some(Service::Udp(UdpService { upstreams }))
            }
            ProtocolSpec::Proxy => self.forward(spec, address, field).map(Service::Forward),
            ProtocolSpec::Link => self.link(spec, address, field).map(Service::Link),
        }
    }

    fn http(
        &mut self,
        spec: &At<IngressSpec>,
        tls: Option<ServerTls>,
        field: &Field<'_>,
    ) -> Option<HttpService> {
        let before = self.report.errors();
        let list = field.name("routes");
        let mut routes = Vec::with_capacity(spec.routes.len());
        for (at, route) in spec.routes.iter().enumerate() {
            let place = (&list.index(at), at);
            routes.extend(route::route(self.report, self.upstreams, route, place));
        }
        routes.extend(self.link_routes(spec, field));
        routes.extend(self.catch_all(spec, field));
        let proxies_field = field.name("trustedProxies");
        let proxies = spec.trusted_proxies.iter().enumerate();
        let proxies: Vec<_> = proxies
            .filter_map(|(at, block)| self.report.network(block, &proxies_field.index(at)))
            .collect();
        if self.report.errors() > before {
            return None;
        }
        if routes.is_empty() && spec.link_routes.is_empty() && !spec.takes_ingresses() {
            self.report.error(
                "NoRoute",
                spec.place,
                field,
                "has no routes: write routes, upstream or linkRoutes",
            );
            return None;
        }
        let defaults = IdentityHeaders::default();
        let identity = spec.identity_headers.as_ref();
        Some(HttpService {
            tls,
            routes: RouteTable::new(routes),
            trusted_proxies: SourceSet::new(proxies),
            identity_headers: IdentityHeaders {
                client_cert: identity
                    .and_then(|spec| spec.client_cert)
                    .unwrap_or(defaults.client_cert),
                xfcc: identity.and_then(|spec| spec.xfcc).unwrap_or(defaults.xfcc),
            },
        })
    }

    /// The routes for what no other takes: the redirect to https, then the entry's own upstream. Both make sense together behind a
    /// proxy that ends TLS and says so: what came by https is not redirected.
    fn catch_all(&mut self, spec: &At<IngressSpec>, field: &Field<'_>) -> Vec<Route> {
        let forwards = spec.upstream.is_some() || !spec.upstreams.is_empty();
        let redirect = spec.redirect_to_https.filter(|redirect| redirect.value);
        if let Some(redirect) = redirect
            && forwards
            && spec.trusted_proxies.is_empty()
        {
            let field = field.name("redirectToHttps");
            let sentence = "has an upstream beside it, which nothing would reach: keep one, or name the proxies that end TLS in trustedProxies";
            self.report.error("BadRoute", redirect.place, &field, sentence);
            return Vec::new();
        }
        let redirect = redirect.map(|_| {
            let scheme = Some(Arc::from("https"));
            let redirect = Redirect { status: 308, scheme, host: None, port: None, path: None };
            ("redirectToHttps", Action::Redirect(redirect))
        });
        let upstreams = if forwards { self.direct(spec, field) } else { None };
        let forward = upstreams.map(|upstreams| {
            let (replace_prefix, host, timeout) = (None, None, None);
            let forward =
                durward_model::route::Forward { upstreams, replace_prefix, host, timeout };
            ("upstream", Action::Forward(forward))
        });
        let origin = self.report.source().origin(spec.place);
        let route = |(name, action): (&str, Action)| Route {
            name: Arc::from(name),
            matches: RouteMatch::default(),
            action,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            origin: origin.clone(),
        };
        redirect.into_iter().chain(forward).map(route).collect()
    }

    /// The entry's own `upstream` or `upstreams`.
    fn direct(
        &mut self,
        spec: &At<IngressSpec>,
        field: &Field<'_>,
    ) -> Option<Vec<WeightedUpstream>> {
        let protocol = protocol(spec);
        if matches!(protocol, ProtocolSpec::Tcp | ProtocolSpec::Udp)
            && let Some(route) = spec.routes.first()
        {
            let sentence = "means nothing here: TCP and UDP have no hosts or paths, write upstream";
            self.report.error("FieldUnfitting", route.place, &field.name("routes"), sentence);
            return None;
        }
        if spec.upstream.is_none() && spec.upstreams.is_empty() {
            self.report.error("NoRoute", spec.place, field, "has no upstream");
            return None;
        }
        let targets =
            Targets { one: spec.upstream.as_ref(), many: &spec.upstreams, place: spec.place };
        let carrying = match protocol {
            ProtocolSpec::Http | ProtocolSpec::Https => Carrying::Requests,
            ProtocolSpec::Udp => Carrying::Datagrams,
            _ => Carrying::Bytes,
        };
        route::weighted(self.report, self.upstreams, targets, field, carrying)
    }

    fn pass_through(&mut self, spec: &At<IngressSpec>, field: &Field<'_>) -> Option<Vec<SniRoute>> {
        let before = self.report.errors();
        let list = field.name("routes");
        let mut routes: Vec<SniRoute> = Vec::with_capacity(spec.routes.len() + 1);
        for (at, route) in spec.routes.iter().enumerate() {
            routes.extend(super::sni::route(self.report, self.upstreams, route, &list.index(at)));
        }
        if spec.upstream.is_some() || !spec.upstreams.is_empty() {
            let upstreams = self.direct(spec, field);
            let origin = self.report.source().origin(spec.place);
            routes.extend(upstreams.map(|upstreams| SniRoute {
                hosts: Vec::new(),
                upstreams,
                hosted: None,
                origin,
            }));
        }
        super::sni::duplicates(self.report, spec, &routes, &list);
        self.link_sni_routes(spec, field, &mut routes);
        if self.report.errors() > before {
            return None;
        }
        // An entry that is there for hosted API servers or Ingresses gets its routes from them.
        let others = hosts_apis(spec) || spec.takes_ingresses() || !spec.link_routes.is_empty();
        if routes.is_empty() && !others {
            self.report.error(
                "NoRoute",
                spec.place,
                field,
                "has no routes: write routes with hosts, or upstream",
            );
            return None;
        }
        Some(routes)
    }
}
