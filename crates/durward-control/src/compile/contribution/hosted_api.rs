//! A `HostedApi`: pass-through routes for the names of an API server and its konnectivity server, and the upstreams that they lead to.
//!
//! What `mode`, `apiProxy` and `kubeconfigSecretName` say is checked here, and is for whoever installs API proxies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_model::health::Probe;
use durward_model::route::{HostPattern, WeightedUpstream};
use durward_model::server_tls::{Alpn, ServerTls};
use durward_model::sni::SniRoute;
use durward_model::upstream::{UpstreamIndex, UpstreamProtocol, UpstreamTls};
use durward_model::{
    Acme, Certificate, HostedApi, IngressAddress, Listener, Origin, ServerNames, Service,
    SourceSet, TenantId, Upstream,
};

use super::{AddedListener, Contribution, Written};
use crate::change::ServiceEndpoints;
use crate::cluster::Owner;
use crate::compile::certificates::{Files, Purpose};
use crate::compile::part::PartId;
use crate::compile::report::{Field, Report};
use crate::compile::upstream::Surroundings;
use crate::compile::{bounds, keys, listen, route, times, trust, upstream, words};
use crate::document::Document;
use crate::place::At;
use crate::spec::hosted_api::{HostedApiDocument, HostedApiSpec, RelaySpec, is_in_every_cluster};
use crate::spec::ingress::{ClientCertificatesSpec, IngressSpec};
use crate::spec::upstream::{BalanceSpec, HealthCheckSpec, UpstreamProtocolSpec, UpstreamSpec};
use crate::spec::{api_proxy, publish};

/// Port of the API server's endpoints that name none, and of a konnectivity server's.
const API: u16 = 6443;
const KONNECTIVITY: u16 = 8132;
/// Name in every API server's certificate.
const VERIFIED: &str = "kubernetes";
/// Statuses by which a verified API server shows that it is ready: 401 and 403 come from one that does not say so to everybody; one that is not ready answers 500.
const READY: (u16, u16) = (200, 403);
/// Longest silence of a connection, unless the document says another.
pub(super) const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns what a hosted API server adds, or `None` after an error.
pub(super) fn read(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    document: &Document,
    hosted: &HostedApiDocument,
) -> Option<Contribution> {
    let (spec, before) = (&hosted.spec, report.errors());
    bounds::check_hosted_api(report, spec);
    if report.errors() > before {
        return None;
    }
    let id = PartId::of(document)?;
    let mut reading = Reading { report, files, spec, name: id.qualified() };
    let is_tenants = matches!(document.owner, Owner::OfNamespace(_));
    if is_tenants {
        reading.only_services();
        reading.no_socket();
    }
    reading.of_the_installer();
    let parts = reading.parts();
    let added = match &spec.address {
        Some(address) => reading.at_address(document, address),
        None => reading.by_names(document),
    };
    if report.errors() > before {
        return None;
    }
    let Parts { upstreams, routes } = parts?;
    let added = AddedListener { follows: is_tenants, ..added?.with(routes) };
    let origin = report.source().origin(hosted.metadata.name.place);
    Some(Contribution { upstreams, listeners: vec![added], ..Contribution::new(origin) })
}

/// Returns whether other names may be at the same address and port.
pub(super) fn is_shared(spec: &HostedApiSpec) -> bool {
    spec.shared.is_none_or(|shared| shared.value)
}

/// Upstreams, and routes that refer to them by position.
struct Parts {
    upstreams: Vec<Arc<Upstream>>,
    routes: Vec<SniRoute>,
}

/// A document while it is read.
struct Reading<'r, 'a, 'f, 's> {
    report: &'r mut Report<'a>,
    files: &'r mut Files<'f>,
    spec: &'s HostedApiSpec,
    /// Name that no other hosted API server of the tenant has.
    name: Arc<str>,
}

impl Reading<'_, '_, '_, '_> {
    fn parts(&mut self) -> Option<Parts> {
        let spec = self.spec;
        let names = self.names();
        let sources = self.sources();
        let relay = spec.relay.as_ref().map(|relay| self.relay(relay, names.first()));
        let idle = self.report.check_optional(
            "BadDuration",
            spec.idle_timeout.as_ref(),
            &Field::SPEC.name("idleTimeout"),
            |text| times::IDLE.read(text),
        );
        let idle = idle.map(|idle| idle.unwrap_or(IDLE));
        let api = self.api_upstream(idle.unwrap_or(IDLE));
        let konnectivity = spec.konnectivity.as_ref().map(|konnectivity| {
            let field = &Field::SPEC.name("konnectivity");
            let name = self.host(&konnectivity.name, &field.name("name"));
            if name.as_ref().is_some_and(|name| names.contains(name)) {
                let sentence = "is a name of the API server, whose clients would reach the konnectivity server: give the konnectivity server a name of its own";
                self.report.error("BadHost", konnectivity.name.place, &field.name("name"), sentence);
            }
            let written = UpstreamSpec {
                endpoints: konnectivity.endpoints.clone(),
                service: konnectivity.service.clone(),
                ..UpstreamSpec::default()
            };
            let written = At::new(written, konnectivity.place);
            let upstream = self.upstream(written, KONNECTIVITY, field, "/konnectivity");
            Some((name?, with_idle(upstream?, idle?)))
        });
        let api = Arc::new(api?);
        let relay = relay.map_or(Some(None), |relay| relay.map(Some))?;
        let hosts: Vec<_> = names.iter().cloned().map(HostPattern::Exact).collect();
        let of_names = |hosts: &[HostPattern], relay: Option<ServerTls>| {
            self.hosted("", ServerNames::new(hosts.to_vec()), (&sources, relay))
        };
        let mut routes = vec![self.route(hosts.clone(), 0, of_names(&hosts, relay))];
        let mut upstreams = vec![api];
        if let Some(konnectivity) = konnectivity {
            let (name, upstream) = konnectivity?;
            let host = vec![HostPattern::Exact(name)];
            let names = ServerNames::new(host.clone());
            let hosted = self.hosted(HostedApi::KONNECTIVITY, names, (&sources, None));
            routes.push(self.route(host, 1, hosted));
            upstreams.push(Arc::new(upstream));
        }
        if spec.address.is_some() && !is_shared(spec) {
            // Clients that name the address, or nothing.
            let hosted = self.hosted(HostedApi::UNNAMED, ServerNames::new(hosts), (&sources, None));
            routes.push(self.route(Vec::new(), 0, hosted));
        }
        Some(Parts { upstreams, routes })
    }

    fn hosted(
        &self,
        suffix: &str,
        names: ServerNames,
        (sources, relay): (&Option<SourceSet>, Option<ServerTls>),
    ) -> Arc<HostedApi> {
        Arc::new(HostedApi {
            name: Arc::from(format!("{}{suffix}", self.name)),
            names,
            allowed_sources: sources.clone(),
            relay,
            origin: self.report.source().origin(self.spec.place()),
        })
    }

    fn route(&self, hosts: Vec<HostPattern>, upstream: usize, hosted: Arc<HostedApi>) -> SniRoute {
        let upstream = UpstreamIndex(upstream);
        let origin = hosted.origin.clone();
        let upstreams = vec![WeightedUpstream { upstream, weight: 1 }];
        SniRoute { hosts, upstreams, hosted: Some(hosted), origin }
    }

    /// Reads the names; none of them is a wildcard, which another's name could be below.
    fn names(&mut self) -> Vec<Arc<str>> {
        let field = &Field::SPEC.name("names");
        if self.spec.names.is_empty() {
            let sentence =
                "is missing: name the host that clients ask for, like t1.api.example.com";
            self.report.error("NameMissing", self.spec.place(), field, sentence);
        }
        let written = self.spec.names.iter().enumerate();
        written.filter_map(|(at, name)| self.host(name, &field.index(at))).collect()
    }

    fn host(&mut self, written: &At<String>, field: &Field<'_>) -> Option<Arc<str>> {
        host(self.report, written, field)
    }

    fn sources(&mut self) -> Option<SourceSet> {
        let field = &Field::SPEC.name("allowedSources");
        route::networks(self.report, self.spec.allowed_sources.as_ref(), field)
    }

    /// Reads the address and socket. Names and routes are added by the caller.
    fn at_address(&mut self, document: &Document, written: &At<String>) -> Option<AddedListener> {
        let (spec, field) = (self.spec, &Field::SPEC);
        let address =
            self.report.check("BadAddress", written, &field.name("address"), words::address);
        let port = self.report.number(spec.port, &field.name("port"), (1, u16::MAX), 443);
        let entry = IngressSpec {
            address: written.clone(),
            port: spec.port,
            listen: spec.listen.clone(),
            ..IngressSpec::default()
        };
        let (address, port) = (address?, port?);
        let (bind, mode) = listen::reached(self.report, &entry, (address, port), field)?;
        let origin = self.report.source().origin(written.place);
        let (at, tenant) = ((IngressAddress(address), port, bind), document.tenant()?);
        let listener = Arc::new(pass_through(tenant, at, origin));
        let written = Written { field: Arc::from("address"), place: written.place };
        let shared = is_shared(spec);
        Some(AddedListener { listener, mode, shared, follows: false, by_names: false, written })
    }

    /// Checks that nothing is said of an address that is not there.
    fn by_names(&mut self, document: &Document) -> Option<AddedListener> {
        let spec = self.spec;
        let of_address = [
            ("port", spec.port.map(|port| port.place)),
            ("shared", spec.shared.map(|shared| shared.place)),
            ("listen", spec.listen.as_ref().map(|listen| listen.place)),
        ];
        for (name, place) in of_address {
            let Some(place) = place else { continue };
            let sentence = "needs address beside it: without one the API server is at the entry of the Tenant that has acceptHostedApis and its names";
            self.report.error("FieldUnfitting", place, &Field::SPEC.name(name), sentence);
        }
        let origin = self.report.source().origin(spec.place());
        let written = Written { field: Arc::from("names"), place: spec.place() };
        Some(AddedListener::by_names(document.tenant()?, Vec::new(), origin, written))
    }

    fn api_upstream(&mut self, idle: Duration) -> Option<Upstream> {
        let written = &self.spec.upstream;
        let field = &Field::SPEC.name("upstream");
        let spec = UpstreamSpec {
            endpoints: written.endpoints.clone(),
            service: written.service.clone(),
            ..UpstreamSpec::default()
        };
        let upstream = self.upstream(At::new(spec, written.place), API, field, "");
        let roots = written
            .ca_file
            .as_ref()
            .map(|file| trust::roots(self.report, self.files, Some(file), &field.name("caFile")));
        let verify_name = self.report.check_optional(
            "BadName",
            written.verify_name.as_ref(),
            &field.name("verifyName"),
            words::host,
        );
        if let (Some(name), None) = (&written.verify_name, &written.ca_file) {
            let sentence = "needs caFile beside it: without authorities nothing is verified";
            self.report.error("FieldUnfitting", name.place, &field.name("verifyName"), sentence);
        }
        let probe = match roots {
            Some(_) => {
                let (from, to) = READY;
                Probe::Http { path: Arc::from("/readyz"), host: None, from, to }
            }
            None => Probe::ServerHello,
        };
        let check = written.health_check.clone().unwrap_or_default();
        let check = self.health_check(&check, &field.name("healthCheck"), probe);
        let check_tls = match roots {
            Some(roots) => Some(UpstreamTls {
                roots: roots?,
                verify_name: Some(verify_name?.unwrap_or_else(|| Arc::from(VERIFIED))),
                client_certificate: None,
                tls13_only: false,
            }),
            None => None,
        };
        Some(Upstream { health_check: Some(check?), check_tls, ..with_idle(upstream?, idle) })
    }

    /// Reads how often endpoints are checked. What they are asked is not to be chosen.
    fn health_check(
        &mut self,
        spec: &At<HealthCheckSpec>,
        field: &Field<'_>,
        probe: Probe,
    ) -> Option<durward_model::health::HealthCheck> {
        let before = self.report.errors();
        for (name, place) in upstream::probing(spec) {
            let sentence = "is for other upstreams; an API server is asked for /readyz, or for a TLS handshake: remove it";
            self.report.error("BadHealthCheck", place, &field.name(name), sentence);
        }
        let check = upstream::paced(self.report, spec, field, Some(probe));
        check.filter(|_| self.report.errors() == before)
    }

    fn upstream(
        &mut self,
        mut spec: At<UpstreamSpec>,
        port: u16,
        field: &Field<'_>,
        suffix: &str,
    ) -> Option<Upstream> {
        spec.value.port = spec.service.is_none().then(|| At::new(port, spec.place));
        // No upstream that a Tenant document names has a slash.
        let name = Arc::from(format!("hostedApi/{}{suffix}", self.name));
        carried(self.report, self.files, (spec, name), field)
    }

    fn relay(&mut self, spec: &At<RelaySpec>, first: Option<&Arc<str>>) -> Option<ServerTls> {
        let field = &Field::SPEC.name("relay");
        let of_certificate = &field.name("certificate");
        let certificate = self.relay_certificate(spec, of_certificate);
        let authorities = &spec.client_authorities;
        let clients = ClientCertificatesSpec {
            mode: None,
            ca_file: authorities.ca_file.clone(),
            ca_files: authorities.ca_files.clone(),
            crl_file: authorities.crl_file.clone(),
            crl_files: authorities.crl_files.clone(),
        };
        let clients = At::new(clients, authorities.place);
        let of_clients = &field.name("clientAuthorities");
        let client_auth = trust::asked_for(self.report, self.files, &clients, of_clients);
        self.claim(&clients, of_clients);
        let certificate = certificate?;
        if let Some(first) = first.filter(|first| !certificate.covers_host(first)) {
            let sentence = format!(
                "{:?} is not for {first}, which API proxies ask for: they refuse it",
                certificate.name
            );
            let place = trust::place_of(&spec.certificate);
            self.report.warning("NameWithoutCertificate", place, of_certificate, &sentence);
        }
        Some(ServerTls {
            certificates: vec![certificate],
            client_auth: client_auth?,
            tls13_only: true,
            alpn: vec![Alpn::ApiProxy],
        })
    }

    /// Claims the authorities of API proxies: of two tenants that name one, the proxies of both would be admitted by both.
    fn claim(&mut self, clients: &At<ClientCertificatesSpec>, field: &Field<'_>) {
        // Whatever cannot be read was said before.
        let mark = self.report.mark();
        for authority in trust::authorities(self.report, self.files, clients, field) {
            let origin = self.report.source().origin(clients.place);
            self.files.trust_alone(keys::of_proxies(&authority), origin);
        }
        self.report.rewind(mark);
    }

    fn relay_certificate(
        &mut self,
        spec: &RelaySpec,
        field: &Field<'_>,
    ) -> Option<Arc<Certificate>> {
        if let Some(acme) = &spec.certificate.acme {
            let sentence = "is not issued for relays: name files or a Secret";
            self.report.error("FieldUnfitting", acme.place, &field.name("acme"), sentence);
            return None;
        }
        let purpose = Purpose::Server { shared: false };
        self.files.certificate(self.report, &spec.certificate, field, purpose)
    }

    /// Refuses endpoints in an object of a tenant's namespace: whoever writes one could reach what only the gateway reaches, its own host among it.
    fn only_services(&mut self) {
        let konnectivity =
            self.spec.konnectivity.iter().map(|one| ("konnectivity", &one.endpoints));
        let api = [("upstream", &self.spec.upstream.endpoints)].into_iter();
        for (name, endpoints) in api.chain(konnectivity) {
            let Some(first) = endpoints.first() else { continue };
            let field = Field::SPEC.name(name);
            let sentence = "are given by the operator alone: name a service, or let the operator write it in a file or in the gateway's own namespace";
            self.report.error("EndpointsForeign", first.place, &field.name("endpoints"), sentence);
        }
    }

    /// Refuses `listen` in an object of a tenant's namespace: whoever writes it opens ports of the host, says whose PROXY headers are believed, and keeps
    /// others from the socket.
    fn no_socket(&mut self) {
        if let Some(listen) = &self.spec.listen {
            let sentence = "is given by the operator alone: leave it out, and the socket is that of the Tenant's own entry at the same address and port, or let the operator write the object in a file or in the gateway's own namespace";
            self.report.error("ListenForeign", listen.place, &Field::SPEC.name("listen"), sentence);
        }
    }

    /// Checks what is meant for the installer of API proxies and routes. The gateway uses none of it, so a fault there takes no API server out of service.
    fn of_the_installer(&mut self) {
        let proxies = api_proxy::plan(self.spec).err().unwrap_or_default();
        let routes = publish::objects("", self.spec).err().unwrap_or_default();
        let faults = proxies.into_iter().map(|fault| ("BadApiProxy", fault));
        for (reason, fault) in faults.chain(routes.into_iter().map(|fault| ("BadPublish", fault))) {
            let way = fault.field.strip_prefix("spec.").unwrap_or(&fault.field);
            let field = &Field::SPEC.below(way);
            self.report.warning(reason, fault.place, field, &fault.sentence);
        }
    }
}

/// Reads a host that is one API server's alone, or returns `None` after an error.
pub(super) fn host(
    report: &mut Report<'_>,
    written: &At<String>,
    field: &Field<'_>,
) -> Option<Arc<str>> {
    report.check("BadHost", written, field, |text| match words::host_pattern(text)? {
        HostPattern::Exact(_) if words::address(text).is_ok() => {
            Err("is an address: write a host name".to_owned())
        }
        // In every cluster pods ask for these; which cluster is meant they do not say.
        HostPattern::Exact(name) if is_in_every_cluster(&name) => {
            Err("is a name of the API server in every cluster: write one of this one alone"
                .to_owned())
        }
        HostPattern::Exact(name) => Ok(name),
        HostPattern::Wildcard(_) => Err("is a wildcard: an API server has single names".to_owned()),
    })
}

/// Reads endpoints or a Service; the connections carry bytes, each to the endpoint that has the fewest.
pub(super) fn carried(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    (mut spec, name): (At<UpstreamSpec>, Arc<str>),
    field: &Field<'_>,
) -> Option<Upstream> {
    spec.value.protocol = Some(At::new(UpstreamProtocolSpec::Tcp, spec.place));
    spec.value.balance = Some(BalanceSpec::LeastRequest);
    // The tenant's egress addresses become its sources once it is put beside the tenant's document.
    let (egress, implied) = ([], Default::default());
    // It is as much as it may write.
    let share = ServiceEndpoints::MOST;
    let around = Surroundings { egress: &egress, wanted: &egress, implied: &implied, share };
    let written = At::new("api".to_owned(), spec.place);
    let made = upstream::at_field(report, files, (&written, &spec), around, field)?;
    debug_assert_eq!(made.protocol, UpstreamProtocol::Tcp);
    Some(Upstream { name, ..made })
}

/// Builds a listener that passes TLS through and has no routes yet.
pub(super) fn pass_through(
    tenant: TenantId,
    (address, port, bind): (IngressAddress, u16, SocketAddr),
    origin: Origin,
) -> Listener {
    Listener {
        tenant,
        address,
        port,
        bind,
        names: None,
        allowed_sources: None,
        service: Service::PassThrough(Vec::new().into()),
        hosts_apis: false,
        acme: Acme::default(),
        takes_ingresses: false,
        origin,
    }
}

fn with_idle(upstream: Upstream, idle: Duration) -> Upstream {
    Upstream { stream_idle: Some(idle), ..upstream }
}
