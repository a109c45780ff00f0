//! The most entries that lists of a document may have: what is compared each with each, or asked for each request, stays small.

use std::collections::{BTreeMap, HashMap};

use super::report::{Field, Report};
use crate::place::{At, Place};
use crate::spec::egress::{ParentSpec, ProxySpec, RuleSpec};
use crate::spec::egress_policy::EgressPolicySpec;
use crate::spec::hosted_api::HostedApiSpec;
use crate::spec::ingress::{IngressSpec, ListenSpec};
use crate::spec::port_mapping::PortMappingSpec;
use crate::spec::route::{HeaderRulesSpec, RouteSpec};
use crate::spec::tenant::TenantSpec;
use crate::spec::upstream::UpstreamSpec;

/// Entries of `ingress` and of `egress.proxy`.
pub(crate) const LISTENERS: usize = 1_000;
/// Routes of all entries of `ingress` together, and the hosts that these routes name.
pub(crate) const ROUTES: usize = 50_000;
/// Routes of one entry for one host and path, which are asked one after the other.
const ALIKE: usize = 1_000;
/// Names of an entry that shares its address and port.
const NAMES: usize = 20_000;
/// Upstreams, and endpoints of all of them.
pub(crate) const UPSTREAMS: usize = 10_000;
pub(super) const ENDPOINTS: usize = 20_000;
/// Egress addresses, and addresses of a mapping.
const ADDRESSES: usize = 1_000;
/// Enrolled networks.
const NETWORKS: usize = 10_000;
/// Networks in a list of clients or proxies, which is sorted and searched.
const BLOCKS: usize = 50_000;
/// Rules of `allow` and of `deny`, the names and blocks of all of them together, and other proxies with their names.
pub(crate) const RULES: usize = 10_000;
const TARGETS: usize = 50_000;
/// Ports of a mapping, and its ports with each of its addresses and with each of their endpoints.
const PORTS: usize = 10_000;
pub(super) const ELEMENTS: usize = 100_000;
/// Lists that are searched from their beginning: certificates, hosts of a route, names of clients, upstreams to choose from.
pub(crate) const CHOICES: usize = 1_000;
/// Endpoints of an API server.
const API_ENDPOINTS: usize = 1_024;
/// Lists that are short by nature: files, methods, headers, statuses, ports.
const FEW: usize = 100;

const ANOTHER_TENANT: &str = "give the rest to another tenant";
const WIDER: &str = "write wider networks";
const NAMES_FILE: &str = "write the names to a file and name it in hostsFile";
const ANOTHER_MAPPING: &str = "write another mapping";
const ANOTHER_ROUTE: &str = "write another route";
const FEWER: &str = "write fewer";

/// Adds an error for each list that is too long.
pub(crate) fn check(report: &mut Report<'_>, spec: &TenantSpec) {
    let mut bounds = Bounds { report };
    bounds.ingress(spec);
    bounds.upstreams(spec);
    bounds.egress(spec);
}

/// Adds an error for each list of a mapping that is too long.
pub(crate) fn check_mapping(report: &mut Report<'_>, spec: &PortMappingSpec) {
    let mut bounds = Bounds { report };
    let field = &Field::SPEC;
    bounds.list(&field.name("addresses"), &spec.addresses, ADDRESSES, ANOTHER_MAPPING);
    bounds.list(&field.name("ports"), &spec.ports, PORTS, ANOTHER_MAPPING);
    bounds.optional(&field.name("allowedSources"), spec.allowed_sources.as_ref(), WIDER);
    let of_port = |port: &At<_>| -> usize {
        let port: &crate::spec::port_mapping::MappedPortSpec = port;
        port.endpoints.as_ref().map_or(spec.endpoints.len(), |own| own.len())
    };
    let ports = spec.ports.len();
    let sums = [
        ("ports on all addresses", ports.saturating_mul(spec.addresses.len())),
        ("endpoints of all ports", spec.ports.iter().map(of_port).sum::<usize>()),
    ];
    for (what, count) in sums {
        let place = spec.ports.first().map_or_else(Place::default, |first| first.place);
        bounds.sum(&field.name("ports"), place, (what, count, ELEMENTS), ANOTHER_MAPPING);
    }
}

/// Adds an error for each list of a policy that is too long.
pub(crate) fn check_policy(report: &mut Report<'_>, spec: &EgressPolicySpec) {
    let mut bounds = Bounds { report };
    bounds.list(&Field::SPEC.name("sources"), &spec.sources, NETWORKS, WIDER);
    for (name, rules) in [("allow", &spec.allow), ("deny", &spec.deny)] {
        if let Some(rules) = rules {
            bounds.rules(&Field::SPEC.name(name), rules);
        }
    }
}

/// Adds an error for each list of a hosted API server that is too long.
pub(crate) fn check_hosted_api(report: &mut Report<'_>, spec: &HostedApiSpec) {
    let mut bounds = Bounds { report };
    bounds.list(&Field::SPEC.name("names"), &spec.names, FEW, FEWER);
    let sources = spec.allowed_sources.as_ref();
    bounds.optional(&Field::SPEC.name("allowedSources"), sources, WIDER);
    bounds.listen(&Field::SPEC, spec.listen.as_ref());
    if let Some(relay) = &spec.relay {
        let clients = &relay.client_authorities;
        let (field, cure) = (Field::SPEC.name("relay"), "put several into one file");
        let field = field.name("clientAuthorities");
        bounds.list(&field.name("caFiles"), &clients.ca_files, FEW, cure);
        bounds.list(&field.name("crlFiles"), &clients.crl_files, FEW, cure);
    }
    let konnectivity = spec.konnectivity.iter().map(|one| ("konnectivity", &one.endpoints));
    for (name, endpoints) in
        [("upstream", &spec.upstream.endpoints)].into_iter().chain(konnectivity)
    {
        let field = Field::SPEC.name(name);
        bounds.list(&field.name("endpoints"), endpoints, API_ENDPOINTS, FEWER);
    }
}

struct Bounds<'r, 's> {
    report: &'r mut Report<'s>,
}

impl Bounds<'_, '_> {
    /// Adds an error at the first entry of a list that is one too many.
    fn list<T>(&mut self, field: &Field<'_>, list: &[At<T>], most: usize, cure: &str) {
        if let Some(first) = list.get(most) {
            self.sum(field, first.place, ("entries", list.len(), most), cure);
        }
    }

    /// Adds an error when a list of networks, if there is one, is too long.
    fn optional<T>(&mut self, field: &Field<'_>, list: Option<&At<Vec<At<T>>>>, cure: &str) {
        if let Some(list) = list {
            self.list(field, list, BLOCKS, cure);
        }
    }

    /// Adds an error when there are more than the most of something.
    fn sum(
        &mut self,
        field: &Field<'_>,
        place: Place,
        (what, count, most): (&str, usize, usize),
        cure: &str,
    ) {
        if count > most {
            let sentence = format!("has {count} {what}, at most {most} are served: {cure}");
            self.report.error("TooMany", place, field, &sentence);
        }
    }

    fn ingress(&mut self, spec: &TenantSpec) {
        let field = Field::SPEC.name("ingress");
        let start = spec.ingress.first().map_or_else(Place::default, |first| first.place);
        let routes = || spec.ingress.iter().flat_map(|entry| &entry.routes);
        let hosts = routes().map(|route| route.hosts.len()).sum();
        self.list(&field, &spec.ingress, LISTENERS, ANOTHER_TENANT);
        self.sum(&field, start, ("routes in all", routes().count(), ROUTES), ANOTHER_TENANT);
        self.sum(&field, start, ("hosts of routes in all", hosts, ROUTES), ANOTHER_TENANT);
        for (at, entry) in spec.ingress.iter().enumerate() {
            let field = field.index(at);
            self.listener(&field, entry);
            self.list(&field.name("upstreams"), &entry.upstreams, CHOICES, FEWER);
            if entry.routes.len() > ALIKE {
                alike(self.report, &entry.routes, &field);
            }
            let routes = field.name("routes");
            for (at, route) in entry.routes.iter().enumerate() {
                self.route(&routes.index(at), route);
            }
        }
    }

    /// Lists that entries of `ingress` and of `egress.proxy` have.
    fn listener(&mut self, field: &Field<'_>, entry: &IngressSpec) {
        self.list(&field.name("certificates"), &entry.certificates, CHOICES, FEWER);
        self.list(&field.name("names"), &entry.names, NAMES, ANOTHER_TENANT);
        for acme in
            entry.certificate.iter().chain(&entry.certificates).filter_map(|one| one.acme.as_ref())
        {
            let certificate = field.name("certificate");
            let field = certificate.name("acme");
            self.list(&field.name("names"), &acme.names, FEW, "let another entry have the rest");
            self.list(&field.name("contacts"), &acme.contacts, FEW, FEWER);
        }
        self.optional(&field.name("allowedSources"), entry.allowed_sources.as_ref(), WIDER);
        self.list(&field.name("trustedProxies"), &entry.trusted_proxies, BLOCKS, WIDER);
        if let Some(alpn) = &entry.alpn {
            self.list(&field.name("alpn"), alpn, FEW, FEWER);
        }
        self.listen(field, entry.listen.as_ref());
        if let Some(clients) = &entry.client_certificates {
            let field = field.name("clientCertificates");
            let cure = "put several into one file";
            self.list(&field.name("caFiles"), &clients.ca_files, FEW, cure);
            self.list(&field.name("crlFiles"), &clients.crl_files, FEW, cure);
        }
    }

    fn listen(&mut self, field: &Field<'_>, listen: Option<&At<ListenSpec>>) {
        if let Some(listen) = listen {
            let field = field.name("listen");
            self.list(&field.name("trustedProxies"), &listen.trusted_proxies, BLOCKS, WIDER);
        }
    }

    fn route(&mut self, field: &Field<'_>, route: &RouteSpec) {
        self.list(&field.name("hosts"), &route.hosts, CHOICES, ANOTHER_ROUTE);
        self.list(&field.name("methods"), &route.methods, FEW, FEWER);
        let headers = ("entries", route.headers.len(), FEW);
        // The entry has no place of its own.
        self.sum(&field.name("headers"), Place::default(), headers, FEWER);
        self.optional(&field.name("sources"), route.sources.as_ref(), WIDER);
        self.list(&field.name("upstreams"), &route.upstreams, CHOICES, FEWER);
        self.header_rules(&field.name("requestHeaders"), &route.request_headers);
        self.header_rules(&field.name("responseHeaders"), &route.response_headers);
    }

    fn header_rules(&mut self, field: &Field<'_>, rules: &HeaderRulesSpec) {
        self.list(&field.name("remove"), &rules.remove, FEW, FEWER);
        self.map(&field.name("set"), &rules.set);
        self.map(&field.name("add"), &rules.add);
    }

    fn map<T>(&mut self, field: &Field<'_>, map: &BTreeMap<At<String>, At<T>>) {
        if let Some((name, _)) = map.iter().nth(FEW) {
            self.sum(field, name.place, ("entries", map.len(), FEW), FEWER);
        }
    }

    fn upstreams(&mut self, spec: &TenantSpec) {
        let field = Field::SPEC.name("upstreams");
        let start = spec.upstreams.keys().next().map_or_else(Place::default, |name| name.place);
        let endpoints = spec.upstreams.values().map(|upstream| upstream.endpoints.len()).sum();
        let upstreams = ("entries", spec.upstreams.len(), UPSTREAMS);
        self.sum(&field, start, upstreams, ANOTHER_TENANT);
        self.sum(&field, start, ("endpoints in all", endpoints, ENDPOINTS), ANOTHER_TENANT);
        for (name, upstream) in &spec.upstreams {
            self.upstream(&field.name(name), upstream);
        }
    }

    fn upstream(&mut self, field: &Field<'_>, upstream: &UpstreamSpec) {
        let sources = field.name("sourceAddresses");
        self.list(&sources, &upstream.source_addresses, ADDRESSES, FEWER);
        let statuses = &upstream.retries.on_status;
        self.list(&field.name("retries").name("onStatus"), statuses, FEW, FEWER);
    }

    fn egress(&mut self, spec: &TenantSpec) {
        let (egress, field) = (&spec.egress, Field::SPEC.name("egress"));
        self.list(&field.name("addresses"), &egress.addresses, ADDRESSES, ANOTHER_TENANT);
        self.list(&field.name("sources"), &egress.sources, NETWORKS, WIDER);
        self.list(&field.name("resolvers"), &egress.resolvers, FEW, FEWER);
        self.list(&field.name("proxy"), &egress.proxy, LISTENERS, ANOTHER_TENANT);
        let proxies = field.name("proxy");
        for (at, entry) in egress.proxy.iter().enumerate() {
            self.proxy(&proxies.index(at), entry);
        }
        self.parents(&field.name("parents"), &egress.parents);
        for (name, rules) in [("allow", &egress.allow), ("deny", &egress.deny)] {
            if let Some(rules) = rules {
                self.rules(&field.name(name), rules);
            }
        }
        if let Some(transparent) = &egress.transparent {
            let field = field.name("transparent");
            for (name, ports) in [("http", &transparent.http), ("tls", &transparent.tls)] {
                if let Some(ports) = ports {
                    self.list(&field.name(name), ports, FEW, FEWER);
                }
            }
        }
    }

    fn proxy(&mut self, field: &Field<'_>, entry: &At<ProxySpec>) {
        self.listener(field, &entry.as_ingress());
        let names = field.name("certificateNames");
        self.list(&names, &entry.certificate_names, CHOICES, "write a prefix with `*`");
    }

    fn parents(&mut self, field: &Field<'_>, parents: &[At<ParentSpec>]) {
        self.list(field, parents, CHOICES, FEWER);
        let start = parents.first().map_or_else(Place::default, |first| first.place);
        let hosts = parents.iter().map(|parent| parent.hosts.len()).sum();
        self.sum(
            field,
            start,
            ("hosts in all", hosts, RULES),
            "write `.example.com` for all below",
        );
    }

    fn rules(&mut self, field: &Field<'_>, rules: &At<Vec<At<RuleSpec>>>) {
        self.list(field, rules, RULES, NAMES_FILE);
        let targets = rules.iter().map(|rule| rule.hosts.len() + rule.cidrs.len()).sum();
        self.sum(field, rules.place, ("hosts and blocks in all", targets, TARGETS), NAMES_FILE);
        for (at, rule) in rules.iter().enumerate() {
            let field = field.index(at);
            self.list(&field.name("hosts"), &rule.hosts, RULES, NAMES_FILE);
            self.list(&field.name("cidrs"), &rule.cidrs, RULES, WIDER);
            self.list(&field.name("ports"), &rule.ports, FEW, "write ranges like 8000-8100");
            self.list(&field.name("methods"), &rule.methods, FEW, FEWER);
        }
    }
}

/// Adds an error when too many routes are for one host and path.
fn alike(report: &mut Report<'_>, routes: &[At<RouteSpec>], field: &Field<'_>) {
    let mut counts: HashMap<_, usize> = HashMap::new();
    for route in routes {
        let text = |written: &'_ Option<At<String>>| written.as_ref().map(|at| at.value.clone());
        let path = (text(&route.path_prefix), text(&route.path));
        let hosts = route.host.iter().chain(&route.hosts).map(|host| Some(host.value.clone()));
        let everywhere = (route.host.is_none() && route.hosts.is_empty()).then_some(None);
        for host in hosts.chain(everywhere) {
            let count = counts.entry((host, path.clone())).or_default();
            *count += 1;
            if *count > ALIKE {
                let sentence = format!(
                    "has more than {ALIKE} routes for one host and path, which would be asked one after the other: tell them apart by host or path"
                );
                report.error("TooMany", route.place, field, &sentence);
                return;
            }
        }
    }
}
