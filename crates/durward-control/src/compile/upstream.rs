//! `spec.upstreams`: endpoints, their verification, and the addresses connections leave from.
//!
//! Deliberately absent: name resolution; a name is checked for being one, nothing more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_model::health::{HealthCheck, OutlierDetection, Probe};
use durward_model::upstream::{
    Balance, Endpoint, ProxyVersion, Retry, Target, UpstreamProtocol, UpstreamTls,
};
use durward_model::{EgressAddress, Upstream};

use super::certificates::{Files, Purpose};
use super::report::{Field, Report};
use super::times::{self, Range};
use super::{bounds, service_endpoints, trust, words};
use crate::cluster::ObjectFault;
use crate::place::{At, Place};
use crate::spec::ingress::TlsVersionSpec;
use crate::spec::service::ServiceSpec;
use crate::spec::upstream::{
    BalanceSpec, HealthCheckSpec, OutlierSpec, ProxyProtocolSpec, RetriesSpec,
    UpstreamProtocolSpec, UpstreamSpec, UpstreamTlsSpec,
};

const IDLE_PER_CORE: u32 = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Tenant settings that its upstreams depend on.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// The addresses the tenant may leave from.
    pub(crate) egress: &'a [EgressAddress],
    /// Those it asked for, granted or not.
    pub(crate) wanted: &'a [EgressAddress],
    /// Protocols of upstreams by the listeners that use them, for those whose own is not written.
    pub(crate) implied: &'a BTreeMap<&'a str, UpstreamProtocol>,
    /// Endpoints that each Service may have.
    pub(crate) share: usize,
}

/// Reports that no endpoint has a weight. Where bytes are carried that is a way to let long connections end: no new ones begin.
fn all_drained(report: &mut Report<'_>, spec: &UpstreamSpec, field: &Field<'_>) {
    let place = spec.endpoints[0].place;
    let protocol = spec.protocol.map(|protocol| protocol.value);
    if protocol == Some(UpstreamProtocolSpec::Tcp) {
        let sentence = "have weight 0, all of them: open connections go on and new ones are refused, until one has a weight";
        report.warning("EndpointsDrained", place, field, sentence);
    } else {
        let sentence = "have weight 0, all of them: give one a weight";
        report.error("NoEndpoint", place, field, sentence);
    }
}

/// Returns the number of endpoints that each Service may have that a tenant's upstreams name.
pub(crate) fn share(files: &Files<'_>, specs: &BTreeMap<At<String>, At<UpstreamSpec>>) -> usize {
    let services = specs.values().filter_map(|spec| spec.service.as_ref());
    let sizes = services.filter_map(|service| Some(files.endpoints(service).ok()?.at().len()));
    service_endpoints::share(&sizes.collect::<Vec<_>>(), bounds::ENDPOINTS)
}

/// The upstream, or `None` after an error.
pub(crate) fn upstream(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    named: (&At<String>, &At<UpstreamSpec>),
    around: Surroundings<'_>,
) -> Option<Upstream> {
    let parent = Field::SPEC.name("upstreams");
    at_field(report, files, named, around, &parent.name(named.0))
}

/// Builds the upstream that is written in a field, or returns `None` after an error.
pub(crate) fn at_field(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    (name, spec): (&At<String>, &At<UpstreamSpec>),
    around: Surroundings<'_>,
    field: &Field<'_>,
) -> Option<Upstream> {
    let before = report.errors();
    report.check("BadName", name, field, words::upstream_name);
    let protocol = protocol(spec, around.implied.get(name.as_str()).copied());
    let sources = sources(report, spec, field, around);
    let within = (&sources[..], around.share);
    let (endpoints, gone) = match &spec.service {
        Some(service) => of_service(report, files, (service, spec), field, within),
        None => (endpoints(report, spec, field, protocol), None),
    };
    super::link::behind(report, spec, field);
    datagrams(report, spec, field, protocol);
    if spec.service.is_none() && spec.link.is_none() {
        reachable(report, spec, field, &endpoints, &sources);
    }
    let tls = spec.tls.as_ref().map(|tls| self::tls(report, files, tls, &field.name("tls")));
    let health = spec
        .health_check
        .as_ref()
        .map(|check| health_check(report, check, &field.name("healthCheck")));
    // On by default: without it a dead endpoint would get its share of requests for ever.
    let outlier = match &spec.outlier_detection {
        Some(spec) => outlier(report, spec, &field.name("outlierDetection")),
        None => Some(OutlierDetection::default()),
    };
    let retry = retry(report, &spec.retries, &field.name("retries"));
    let pool = field.name("pool");
    let idle = report.number(
        spec.pool.idle_per_core,
        &pool.name("idlePerCore"),
        (0, 10_000),
        IDLE_PER_CORE,
    );
    let timeout = time(
        report,
        spec.pool.idle_timeout.as_ref(),
        &pool.name("idleTimeout"),
        (times::POOL_IDLE, IDLE_TIMEOUT),
    );
    if report.errors() > before {
        return None;
    }
    // The upstream is served without endpoints: its former addresses may belong to another Service now.
    if let (Some(fault), Some(service)) = (gone, &spec.service) {
        no_service(report, service, &field.name("service"), &fault);
    }
    Some(Upstream {
        name: Arc::from(name.as_str()),
        endpoints,
        link: spec.link.as_ref().map(|link| Arc::from(link.as_str())),
        protocol,
        tls: tls.flatten(),
        sources,
        balance: balance(spec.balance.unwrap_or_default()),
        health_check: health.flatten(),
        outlier: outlier.filter(|outlier| outlier.max_ejected_percent > 0),
        retry: retry?,
        pool_idle: idle?,
        pool_idle_timeout: timeout?,
        send_proxy: spec.send_proxy_protocol.map(|version| proxy_version(version.value)),
        origin: report.source().origin(name.place),
        ..plain(name, protocol)
    })
}

/// Returns an upstream with the defaults of everything that documents need not say, without endpoints and sources.
pub(crate) fn plain(name: &str, protocol: UpstreamProtocol) -> Upstream {
    Upstream {
        name: Arc::from(name),
        endpoints: Vec::new(),
        link: None,
        protocol,
        tls: None,
        sources: Vec::new(),
        balance: Balance::default(),
        health_check: None,
        outlier: Some(OutlierDetection::default()),
        retry: Retry::default(),
        pool_idle: IDLE_PER_CORE,
        pool_idle_timeout: IDLE_TIMEOUT,
        stream_idle: None,
        check_tls: None,
        direct: None,
        send_proxy: None,
        origin: durward_model::Origin::BuiltIn,
    }
}

fn protocol(spec: &UpstreamSpec, implied: Option<UpstreamProtocol>) -> UpstreamProtocol {
    match spec.protocol.map(|protocol| protocol.value) {
        Some(UpstreamProtocolSpec::Http1) => UpstreamProtocol::Http1,
        Some(UpstreamProtocolSpec::Http2) => UpstreamProtocol::Http2,
        Some(UpstreamProtocolSpec::Tcp) => UpstreamProtocol::Tcp,
        Some(UpstreamProtocolSpec::Udp) => UpstreamProtocol::Udp,
        None => implied.unwrap_or_default(),
    }
}

/// Datagrams go over links only, as they are.
fn datagrams(
    report: &mut Report<'_>,
    spec: &At<UpstreamSpec>,
    field: &Field<'_>,
    protocol: UpstreamProtocol,
) {
    if protocol != UpstreamProtocol::Udp {
        return;
    }
    if spec.link.is_none() {
        let sentence = "is missing: UDP is carried over links; write link, or lead the port to its endpoints with a PortMapping";
        report.error("LinkMissing", spec.place, &field.name("link"), sentence);
    }
    let unfitting = [
        ("tls", spec.tls.as_ref().map(|at| at.place)),
        ("healthCheck", spec.health_check.as_ref().map(|at| at.place)),
        ("sendProxyProtocol", spec.send_proxy_protocol.map(|at| at.place)),
    ];
    for (name, place) in unfitting.into_iter().filter_map(|(name, place)| Some((name, place?))) {
        let sentence = "means nothing here: the upstream has protocol UDP";
        report.error("FieldUnfitting", place, &field.name(name), sentence);
    }
}

fn proxy_version(spec: ProxyProtocolSpec) -> ProxyVersion {
    match spec {
        ProxyProtocolSpec::V1 => ProxyVersion::V1,
        ProxyProtocolSpec::V2 => ProxyVersion::V2,
    }
}

fn balance(spec: BalanceSpec) -> Balance {
    match spec {
        BalanceSpec::PowerOfTwo => Balance::PowerOfTwo,
        BalanceSpec::LeastRequest => Balance::LeastRequest,
        BalanceSpec::RoundRobin => Balance::RoundRobin,
        BalanceSpec::ClientHash => Balance::ClientHash,
    }
}

fn sources(
    report: &mut Report<'_>,
    spec: &UpstreamSpec,
    field: &Field<'_>,
    around: Surroundings<'_>,
) -> Vec<EgressAddress> {
    if spec.source_addresses.is_empty() {
        return around.egress.to_vec();
    }
    let field = field.name("sourceAddresses");
    let mut sources = Vec::new();
    for (at, written) in spec.source_addresses.iter().enumerate() {
        let field = field.index(at);
        let Some(address) = report.check("BadAddress", written, &field, words::address) else {
            continue;
        };
        let address = EgressAddress(address);
        let fault = if around.egress.contains(&address) {
            if !sources.contains(&address) {
                sources.push(address);
            }
            continue;
        } else if around.wanted.contains(&address) {
            "is held by another tenant, see spec.egress.addresses"
        } else {
            "is none of the tenant's egress addresses: add it to spec.egress.addresses, or use one of those"
        };
        let sentence = format!("{:?} {fault}", written.value);
        report.error("ForeignSource", written.place, &field, &sentence);
    }
    sources
}

/// Returns the endpoints of a Service, and why there are none if that is not an error that keeps what was before.
fn of_service(
    report: &mut Report<'_>,
    files: &Files<'_>,
    (service, spec): (&At<ServiceSpec>, &UpstreamSpec),
    field: &Field<'_>,
    (sources, share): (&[EgressAddress], usize),
) -> (Vec<Endpoint>, Option<ObjectFault>) {
    if let Some(first) = spec.endpoints.first() {
        let sentence = "are beside service: keep one of them";
        report.error("FieldUnfitting", first.place, &field.name("endpoints"), sentence);
    }
    if let Some(port) = spec.port {
        let sentence = "means nothing beside service, which has a port of its own: remove it";
        report.error("FieldUnfitting", port.place, &field.name("port"), sentence);
    }
    let field = &field.name("service");
    let found = match files.endpoints(service) {
        Ok(found) => found,
        Err(fault) if fault.leaves_no_endpoints() => return (Vec::new(), Some(fault)),
        Err(fault) => {
            no_service(report, service, field, &fault);
            return (Vec::new(), None);
        }
    };
    let found = service_endpoints::served(report, service, field, found, share);
    let reaches = |at: &SocketAddr| {
        sources.is_empty() || sources.iter().any(|source| source.reaches(at.ip()))
    };
    let reached = found.iter().copied().filter(reaches);
    let endpoints: Vec<_> =
        reached.map(|at| Endpoint { target: Target::Address(at), weight: 1 }).collect();
    let quoted = &service.name.value;
    if let Some(out) = found.iter().find(|at| !reaches(at)) {
        let family = if out.is_ipv4() { "IPv4" } else { "IPv6" };
        let sentence = format!(
            "{quoted:?} has {family} endpoints, which no egress address reaches: they get nothing until there is an {family} egress address"
        );
        report.warning("EgressFamily", service.place, field, &sentence);
    }
    if found.is_empty() {
        let sentence = format!(
            "{quoted:?} has no ready endpoint: requests are answered with 503 until it has"
        );
        report.warning("NoEndpoints", service.name.place, &field.name("name"), &sentence);
    }
    (endpoints, None)
}

/// Reports that a Service cannot be had, with the field that names what is wrong.
pub(super) fn no_service(
    report: &mut Report<'_>,
    service: &ServiceSpec,
    field: &Field<'_>,
    fault: &ObjectFault,
) {
    let (name, written, place) = match (fault, &service.namespace) {
        (ObjectFault::PortUnknown(..), _) => ("port", &service.port.0, service.port.place),
        (
            ObjectFault::NamespaceForeign { .. }
            | ObjectFault::NamespaceMissing(_)
            | ObjectFault::NamespaceUnreadable(..)
            | ObjectFault::GrantMissing(..),
            Some(namespace),
        ) => ("namespace", &namespace.value, namespace.place),
        _ => ("name", &service.name.value, service.name.place),
    };
    report.error(fault.reason(), place, &field.name(name), &format!("{written:?} {fault}"));
}

fn endpoints(
    report: &mut Report<'_>,
    spec: &At<UpstreamSpec>,
    field: &Field<'_>,
    protocol: UpstreamProtocol,
) -> Vec<Endpoint> {
    let port = match (spec.port, protocol) {
        (Some(port), _) if port.value == 0 => {
            report.error(
                "OutOfRange",
                port.place,
                &field.name("port"),
                "0 is out of range: 1 to 65535",
            );
            return Vec::new();
        }
        (Some(port), _) => Some(port.value),
        (None, UpstreamProtocol::Tcp | UpstreamProtocol::Udp) => None,
        (None, _) if spec.tls.is_some() => Some(443),
        (None, _) => Some(80),
    };
    let field = field.name("endpoints");
    let mut endpoints = Vec::new();
    for (at, written) in spec.endpoints.iter().enumerate() {
        let mut address = written.address.clone();
        if address.place.line == 0 {
            address.place = written.place;
        }
        let read = |text: &str| words::endpoint(text, port);
        let Some(target) = report.check("BadEndpoint", &address, &field.index(at), read) else {
            continue;
        };
        endpoints.push(Endpoint { target, weight: written.weight.unwrap_or(1) });
    }
    if spec.endpoints.is_empty() {
        report.error("NoEndpoint", spec.place, &field, "is empty: name at least one, or a service");
    } else if endpoints.len() == spec.endpoints.len()
        && endpoints.iter().all(|endpoint| endpoint.weight == 0)
    {
        all_drained(report, spec, &field);
    }
    endpoints
}

/// An address that no source address can reach would fail at the first request.
fn reachable(
    report: &mut Report<'_>,
    spec: &UpstreamSpec,
    field: &Field<'_>,
    endpoints: &[Endpoint],
    sources: &[EgressAddress],
) {
    if endpoints.len() != spec.endpoints.len() || sources.is_empty() {
        return;
    }
    let field = field.name("endpoints");
    for (at, (endpoint, written)) in endpoints.iter().zip(&spec.endpoints).enumerate() {
        let Target::Address(address) = &endpoint.target else { continue };
        if !sources.iter().any(|source| source.reaches(address.ip())) {
            let (family, other) =
                if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            let sentence = format!(
                "{address} is {family}, and the addresses it would be reached from are all {other}: add an {family} egress address"
            );
            report.error("EgressFamily", written.place, &field.index(at), &sentence);
        }
    }
}

fn tls(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &UpstreamTlsSpec,
    field: &Field<'_>,
) -> Option<UpstreamTls> {
    let roots = trust::roots(report, files, spec.ca_file.as_ref(), &field.name("caFile"));
    let verify_name = report.check_optional(
        "BadName",
        spec.verify_name.as_ref(),
        &field.name("verifyName"),
        words::host,
    );
    let certificate = match &spec.client_certificate {
        None => Some(None),
        Some(spec) => files
            .certificate(report, spec, &field.name("clientCertificate"), Purpose::Client)
            .map(Some),
    };
    Some(UpstreamTls {
        roots: roots?,
        verify_name: verify_name?,
        client_certificate: certificate?,
        tls13_only: spec
            .min_tls_version
            .is_some_and(|version| version.value == TlsVersionSpec::Tls13),
    })
}

fn health_check(
    report: &mut Report<'_>,
    spec: &At<HealthCheckSpec>,
    field: &Field<'_>,
) -> Option<HealthCheck> {
    let asked = |flag: Option<At<bool>>| flag.is_some_and(|flag| flag.value);
    let kinds = [spec.path.is_some(), asked(spec.tcp), asked(spec.tls)];
    if kinds.iter().filter(|kind| **kind).count() > 1 {
        report.error(
            "BadHealthCheck",
            spec.place,
            field,
            "has more than one of path, tcp and tls: keep one",
        );
        return None;
    }
    let probe = if asked(spec.tls) { Some(Probe::Tls) } else { http_probe(report, spec, field) };
    paced(report, spec, field, probe)
}

/// Returns the fields that say what is asked of endpoints, where they are written.
pub(super) fn probing(spec: &HealthCheckSpec) -> impl Iterator<Item = (&'static str, Place)> {
    let text = |name, written: &Option<At<String>>| {
        Some((name, written.as_ref().map(|written| written.place)?))
    };
    let all = [
        text("path", &spec.path),
        spec.tcp.map(|tcp| ("tcp", tcp.place)),
        spec.tls.map(|tls| ("tls", tls.place)),
        text("expectedStatus", &spec.expected_status),
        text("host", &spec.host),
    ];
    all.into_iter().flatten()
}

/// Reads how often and how long `probe` is tried, the same for upstreams and port mappings.
pub(super) fn paced(
    report: &mut Report<'_>,
    spec: &HealthCheckSpec,
    field: &Field<'_>,
    probe: Option<Probe>,
) -> Option<HealthCheck> {
    let interval = time(
        report,
        spec.interval.as_ref(),
        &field.name("interval"),
        (times::CHECK_INTERVAL, CHECK_INTERVAL),
    );
    let timeout = time(
        report,
        spec.timeout.as_ref(),
        &field.name("timeout"),
        (times::CHECK_TIMEOUT, CHECK_TIMEOUT),
    );
    let unhealthy = report.number(spec.unhealthy_after, &field.name("unhealthyAfter"), (1, 100), 3);
    let healthy = report.number(spec.healthy_after, &field.name("healthyAfter"), (1, 100), 2);
    Some(HealthCheck {
        probe: probe?,
        interval: interval?,
        timeout: timeout?,
        unhealthy_after: unhealthy?,
        healthy_after: healthy?,
    })
}

fn http_probe(report: &mut Report<'_>, spec: &HealthCheckSpec, field: &Field<'_>) -> Option<Probe> {
    let Some(path) = &spec.path else {
        for (written, name) in [(&spec.expected_status, "expectedStatus"), (&spec.host, "host")] {
            if let Some(written) = written {
                report.error(
                    "BadHealthCheck",
                    written.place,
                    &field.name(name),
                    "needs path beside it",
                );
                return None;
            }
        }
        return Some(Probe::Tcp);
    };
    let path = report.check("BadPath", path, &field.name("path"), words::origin_form);
    let host =
        report.check_optional("BadName", spec.host.as_ref(), &field.name("host"), words::authority);
    let range = report.check_optional(
        "OutOfRange",
        spec.expected_status.as_ref(),
        &field.name("expectedStatus"),
        words::status_range,
    );
    let (from, to) = range?.unwrap_or((200, 299));
    Some(Probe::Http { path: path?, host: host?, from, to })
}

fn outlier(
    report: &mut Report<'_>,
    spec: &OutlierSpec,
    field: &Field<'_>,
) -> Option<OutlierDetection> {
    let defaults = OutlierDetection::default();
    let failures = report.number(
        spec.consecutive_failures,
        &field.name("consecutiveFailures"),
        (1, 1000),
        defaults.consecutive_failures,
    );
    let rest = time(
        report,
        spec.base_ejection.as_ref(),
        &field.name("baseEjection"),
        (times::BASE_EJECTION, defaults.base_ejection),
    );
    let percent = report.number(
        spec.max_ejected_percent,
        &field.name("maxEjectedPercent"),
        (0, 100),
        defaults.max_ejected_percent,
    );
    Some(OutlierDetection {
        consecutive_failures: failures?,
        base_ejection: rest?,
        max_ejected_percent: percent?,
    })
}

fn retry(report: &mut Report<'_>, spec: &RetriesSpec, field: &Field<'_>) -> Option<Retry> {
    let defaults = Retry::default();
    let attempts =
        report.number(spec.attempts, &field.name("attempts"), (0, 10), defaults.attempts);
    let budget = report.number(
        spec.budget_percent,
        &field.name("budgetPercent"),
        (0, 100),
        defaults.budget_percent,
    );
    let field = field.name("onStatus");
    let before = report.errors();
    let on_status =
        spec.on_status.iter().enumerate().filter_map(|(at, status)| {
            report.number(Some(*status), &field.index(at), (500, 599), 503)
        });
    let on_status = on_status.collect();
    if report.errors() > before {
        return None;
    }
    Some(Retry { attempts: attempts?, budget_percent: budget?, on_status })
}

fn time(
    report: &mut Report<'_>,
    written: Option<&At<String>>,
    field: &Field<'_>,
    (range, default): (Range, Duration),
) -> Option<Duration> {
    let read = |text: &str| range.read(text);
    Some(report.check_optional("BadDuration", written, field, read)?.unwrap_or(default))
}
