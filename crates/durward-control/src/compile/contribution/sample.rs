//! A listener in an object, for tests of how objects are put together: the label `listener` says what it is.

use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::listener::HttpService;
use durward_model::route::table::RouteTable;
use durward_model::route::{Action, Forward, HeaderRules, RouteMatch, WeightedUpstream};
use durward_model::sni::SniRoute;
use durward_model::upstream::{Endpoint, Target, UpstreamIndex, UpstreamProtocol};
use durward_model::{
    Acme, DestinationMode, IngressAddress, Listener, Route, ServerNames, Service, SourceSet,
    TenantId, Upstream,
};

use super::{AddedListener, Contribution, Written};
use crate::compile::report::Report;
use crate::compile::{upstream, words};
use crate::document::Document;
use crate::place::Place;

/// Adds the listener that the label asks for: `PROTOCOL ADDRESS HOST named|alone UPSTREAM ENDPOINT`.
pub(super) fn with_listener(
    mut contribution: Contribution,
    report: &Report<'_>,
    document: &Document,
) -> Contribution {
    let label = document.content.part().and_then(|part| part.metadata.labels.get("listener"));
    let words: Vec<&str> = label.map(|label| label.split(' ').collect()).unwrap_or_default();
    let [protocol, address, host, names, name, endpoint] = words[..] else { return contribution };
    let (Ok(address), Some(tenant)) = (words::address(address), document.tenant()) else {
        return contribution;
    };
    let origin = report.source().origin(Place { line: 1, ..Place::default() });
    let host = words::host_pattern(host).unwrap();
    let target = Target::Address(SocketAddr::new(endpoint.parse().unwrap(), 443));
    let protocol_of =
        if protocol == "tls" { UpstreamProtocol::Tcp } else { UpstreamProtocol::Http1 };
    contribution.upstreams.push(Arc::new(Upstream {
        endpoints: vec![Endpoint { target, weight: 1 }],
        origin: origin.clone(),
        ..upstream::plain(name, protocol_of)
    }));
    let upstreams = vec![WeightedUpstream { upstream: UpstreamIndex(0), weight: 1 }];
    let port = if protocol == "tls" { 443 } else { 80 };
    let service = if protocol == "tls" {
        let route =
            SniRoute { hosts: vec![host.clone()], upstreams, hosted: None, origin: origin.clone() };
        Service::PassThrough(vec![route].into())
    } else {
        Service::Http(http(host.clone(), upstreams, &origin))
    };
    let names = (names == "named").then(|| ServerNames::new(vec![host]));
    contribution.listeners.push(AddedListener {
        shared: names.is_some(),
        listener: Arc::new(listener(tenant, (address, port), names, service, &origin)),
        mode: DestinationMode::Bound,
        follows: false,
        by_names: false,
        written: Written { field: Arc::from("listener"), place: Place::default() },
    });
    contribution
}

fn http(
    host: durward_model::route::HostPattern,
    upstreams: Vec<WeightedUpstream>,
    origin: &durward_model::Origin,
) -> HttpService {
    let forward = Forward { upstreams, replace_prefix: None, host: None, timeout: None };
    let route = Route {
        name: Arc::from("added"),
        matches: RouteMatch { hosts: vec![host], ..RouteMatch::default() },
        action: Action::Forward(forward),
        request_headers: HeaderRules::default(),
        response_headers: HeaderRules::default(),
        origin: origin.clone(),
    };
    HttpService {
        tls: None,
        routes: RouteTable::new(vec![route]),
        trusted_proxies: SourceSet::new([]),
        identity_headers: durward_model::listener::IdentityHeaders::default(),
    }
}

fn listener(
    tenant: TenantId,
    (address, port): (std::net::IpAddr, u16),
    names: Option<ServerNames>,
    service: Service,
    origin: &durward_model::Origin,
) -> Listener {
    Listener {
        tenant,
        address: IngressAddress(address),
        port,
        bind: SocketAddr::new(address, port),
        names,
        allowed_sources: None,
        service,
        hosts_apis: false,
        acme: Acme::default(),
        takes_ingresses: false,
        origin: origin.clone(),
    }
}
