//! All counters as OpenMetrics text.
//!
//! A tenant has no row before its first client has come to this gateway, so that many idle tenants cost nothing. From then on it has all rows with a fixed
//! label, most of them zero, so that rates begin at zero; histograms and reasons appear when they are first observed.

mod hosted;
mod links;
mod records;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::{HostedApiCounts, Tenant, TenantId};

use crate::audit::{self, Audit};
use crate::core::Shared;
use crate::memory;
use crate::metrics::openmetrics::{Family, Kind, Text};
use crate::metrics::{BUCKETS, Cells, Counter, Histogram, Metrics, TenantMetrics};
use crate::prepared::Prepared;
use crate::refusal::{HandshakeFailure, Refusal};
use crate::status::SinkStatus;
use crate::upstream::LinkReport;
use crate::upstream::PortReport;
use crate::upstream::TenantRuntime;
use crate::upstream::report::UpstreamReport;

/// `tenant` label of events before a tenant is known; no tenant can have this name.
pub const UNKNOWN: &str = "";

/// Kind of the open files that are clients' connections.
const CLIENTS: &str = "clients";

/// Values to expose beside the counters.
#[derive(Clone, Debug, Default)]
pub struct ExpositionState {
    /// Generation of the configuration served.
    pub generation: u64,
    /// Tenant, name, and first and last moment of validity in Unix seconds of each certificate served.
    pub certificates: Vec<(TenantId, Arc<str>, (i64, i64))>,
    /// State of the upstreams to show: those of tenants with traffic, and of idle tenants with an endpoint that is out of order.
    pub upstreams: Vec<UpstreamReport>,
    /// Access-log lines lost.
    pub log_lost: u64,
    /// Decision lines lost, by kind of sink.
    pub decisions_lost: BTreeMap<&'static str, u64>,
    /// State of every log sink.
    pub sinks: Vec<SinkStatus>,
    /// State of the audit file, if there is one.
    pub audit: Option<audit::Status>,
    /// State of every link.
    pub links: Vec<LinkReport>,
    /// Hosted API servers, in numbers.
    pub hosted_apis: HostedApiCounts,
    /// Ports in use of each egress address.
    pub ports: Vec<PortReport>,
    /// Kind, number and limit of open file descriptors.
    pub files: Vec<(&'static str, usize, usize)>,
    /// Memory held.
    pub memory: MemoryState,
}

/// Memory budget and its use.
#[derive(Clone, Debug, Default)]
pub struct MemoryState {
    /// Bytes of the budget.
    pub budget: usize,
    /// Bytes held, by kind.
    pub kinds: Vec<(&'static str, usize)>,
    /// Bytes held, by tenant.
    pub tenants: Vec<(TenantId, usize)>,
}

impl MemoryState {
    fn of(shared: &Shared, prepared: &Prepared) -> Self {
        let memory = &shared.memory;
        let held =
            |runtime: &Arc<TenantRuntime>| (runtime.tenant.id.clone(), runtime.usage.memory());
        Self {
            budget: memory.budget(),
            kinds: memory::Kind::ALL.map(|(kind, word)| (word, memory.used_for(kind))).to_vec(),
            tenants: prepared.tenants.values().map(held).collect(),
        }
    }
}

impl ExpositionState {
    /// Collects the state of `shared`.
    pub(crate) fn of(shared: &Shared) -> Self {
        let prepared = shared.prepared.load();
        let tenants = prepared.tenants.values();
        Self {
            generation: prepared.snapshot.generation,
            certificates: tenants.clone().flat_map(|runtime| validities(&runtime.tenant)).collect(),
            links: tenants.clone().flat_map(|runtime| runtime.link_reports()).collect(),
            hosted_apis: HostedApiCounts::of(
                tenants.clone().flat_map(|runtime| &runtime.tenant.listeners),
            ),
            ports: tenants.clone().flat_map(|runtime| runtime.ports()).collect(),
            upstreams: tenants.filter(|one| is_shown(one)).flat_map(|one| one.reports()).collect(),
            log_lost: shared.log.lost(),
            decisions_lost: shared.decisions.lost_by_kind().into_iter().fold(
                BTreeMap::new(),
                |mut sums, (kind, lost)| {
                    *sums.entry(kind).or_default() += lost;
                    sums
                },
            ),
            sinks: shared.sinks(),
            audit: shared.decisions.audit().map(Audit::status),
            files: [(CLIENTS, &shared.files.clients), ("outward", &shared.files.outward)]
                .map(|(kind, share)| (kind, share.used(), share.most()))
                .to_vec(),
            memory: MemoryState::of(shared, &prepared),
        }
    }
}

/// Returns true if the endpoints of a tenant have rows: an idle tenant's only while one of them is out of order.
fn is_shown(tenant: &TenantRuntime) -> bool {
    tenant.metrics.has_traffic() || !tenant.upstreams.iter().all(|one| one.is_in_order())
}

/// Returns the validity of each certificate that a tenant shows to clients and upstreams.
fn validities(tenant: &Tenant) -> Vec<(TenantId, Arc<str>, (i64, i64))> {
    let to_clients = tenant.listeners.iter().filter_map(|l| l.tls()).flat_map(|t| &t.certificates);
    let upstreams = tenant.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
    let to_upstreams = upstreams.filter_map(|tls| tls.client_certificate.as_ref());
    to_clients
        .chain(to_upstreams)
        .map(|certificate| {
            let validity = (certificate.not_before, certificate.not_after);
            (tenant.id.clone(), Arc::clone(&certificate.name), validity)
        })
        .collect()
}

/// Writes the metric families of the proxy.
pub fn write(text: &mut Text, metrics: &Metrics, state: &ExpositionState) {
    let tenants = metrics.with_traffic();
    let rows = std::iter::once((UNKNOWN, &metrics.unknown))
        .chain(tenants.iter().map(|(id, metrics)| (id.as_str(), metrics)))
        .map(|(tenant, metrics)| Row { tenant, metrics })
        .collect::<Vec<_>>();
    process(text, state);
    connections(text, &rows, state);
    datagrams(text, &rows);
    requests(text, &rows);
    handshakes(text, &rows);
    upstreams(text, &rows, state);
    records::decisions(text, &rows);
    certificates(text, state);
    links::write(text, &state.links);
    hosted::write(text, state.hosted_apis);
    ports(text, state);
}

fn ports(text: &mut Text, state: &ExpositionState) {
    let help =
        "Ports in use from an egress address to the one destination that takes most of them.";
    let mut used = text.family("durward_egress_ports_used", Kind::Gauge, help);
    for report in state.ports.iter().filter(|report| report.used > 0) {
        let address = report.address.to_string();
        let labels = [("tenant", report.tenant.as_str()), ("address", address.as_str())];
        used.row(&labels, u64::from(report.used));
    }
    let help = "Ports that may be in use from an egress address to one destination.";
    let mut budget = text.family("durward_egress_ports_budget", Kind::Gauge, help);
    if let Some(report) = state.ports.first() {
        budget.row(&[], u64::from(report.budget));
    }
}

struct Row<'a> {
    tenant: &'a str,
    metrics: &'a TenantMetrics,
}

impl Row<'_> {
    fn total(&self, counter: Counter) -> u64 {
        self.metrics.total(counter)
    }

    fn difference(&self, begun: Counter, ended: Counter) -> u64 {
        // Ends are read first: one that comes between the two reads would be subtracted without its beginning.
        let ended = self.total(ended);
        self.total(begun).saturating_sub(ended)
    }

    fn known(&self) -> bool {
        self.tenant != UNKNOWN
    }
}

fn process(text: &mut Text, state: &ExpositionState) {
    let version = env!("CARGO_PKG_VERSION");
    text.family("durward_build", Kind::Info, "The version that runs.")
        .row(&[("version", version)], 1);
    text.family(
        "durward_config_generation",
        Kind::Gauge,
        "Configurations taken up since the start.",
    )
    .row(&[], state.generation);
    text.family(
        "durward_access_log_lines_lost",
        Kind::Counter,
        "Access-log lines lost because the writer did not keep up.",
    )
    .row(&[], state.log_lost);
    let mut lost = text.family(
        "durward_decision_lines_lost",
        Kind::Counter,
        "Decision lines lost because a sink did not keep up, by kind of sink.",
    );
    for (sink, count) in &state.decisions_lost {
        lost.row(&[("sink", sink)], *count);
    }
    records::sinks(text, &state.sinks);
    records::audit_file(text, state.audit);
    let help = "Files open for clients' connections, and for what is dialled and looked up.";
    let mut used = text.family("durward_files_open", Kind::Gauge, help);
    for (kind, open, _) in &state.files {
        used.row(&[("kind", kind)], *open as u64);
    }
    let help = "Files that may be open for it, of all tenants together.";
    let mut budget = text.family("durward_files_budget", Kind::Gauge, help);
    for (kind, _, most) in &state.files {
        budget.row(&[("kind", kind)], *most as u64);
    }
    memory_budget(text, &state.memory);
}

fn memory_budget(text: &mut Text, state: &MemoryState) {
    let help = "Bytes that heads, bodies and DNS answers of all tenants may take together.";
    text.family("durward_memory_budget_bytes", Kind::Gauge, help).row(&[], state.budget as u64);
    let help = "Bytes of the budget that are held, by what they are held for.";
    let mut used = text.family("durward_memory_used_bytes", Kind::Gauge, help);
    for (kind, bytes) in &state.kinds {
        used.row(&[("kind", kind)], *bytes as u64);
    }
    let help = "Bytes of the budget that a tenant holds.";
    let mut held = text.family("durward_memory_tenant_bytes", Kind::Gauge, help);
    for (tenant, bytes) in state.tenants.iter().filter(|(_, bytes)| *bytes > 0) {
        held.row(&[("tenant", tenant.as_str())], *bytes as u64);
    }
}

fn connections(text: &mut Text, rows: &[Row<'_>], state: &ExpositionState) {
    active(text, rows, state);
    counters(
        text,
        "durward_connections",
        "Client connections admitted.",
        rows,
        Counter::ConnectionsOpened,
    );
    words(
        text,
        ("durward_refusals", "Connections and requests turned away, by reason."),
        rows,
        Refusal::WORDS,
        TenantMetrics::refusals,
    );
    let mut bytes = text.family("durward_bytes", Kind::Counter, "Bytes carried, TLS excluded.");
    for row in rows.iter().filter(|row| row.known()) {
        for (counter, direction) in [
            (Counter::ClientBytesIn, "client_in"),
            (Counter::ClientBytesOut, "client_out"),
            (Counter::UpstreamBytesIn, "upstream_in"),
            (Counter::UpstreamBytesOut, "upstream_out"),
        ] {
            let labels = [("tenant", row.tenant), ("direction", direction)];
            bytes.row(&labels, row.total(counter));
        }
    }
}

/// Writes the open connections by tenant, and those that have no tenant. The latter row is always there, so that an autoscaler finds the metric on an
/// idle gateway.
fn active(text: &mut Text, rows: &[Row<'_>], state: &ExpositionState) {
    let mut family =
        text.family("durward_connections_active", Kind::Gauge, "Client connections open.");
    let mut identified = 0;
    for row in rows.iter().filter(|row| row.known()) {
        let open = row.difference(Counter::ConnectionsOpened, Counter::ConnectionsClosed);
        family.row(&[("tenant", row.tenant)], open);
        identified += open;
    }
    let clients = state.files.iter().find(|(kind, ..)| *kind == CLIENTS);
    let all = clients.map_or(0, |(_, open, _)| *open as u64);
    family.row(&[("tenant", UNKNOWN)], all.saturating_sub(identified));
}

fn datagrams(text: &mut Text, rows: &[Row<'_>]) {
    differences(
        text,
        ("durward_udp_sessions_active", "UDP sessions open."),
        rows,
        (Counter::UdpSessionsOpened, Counter::UdpSessionsClosed),
    );
    counters(text, "durward_udp_sessions", "UDP sessions begun.", rows, Counter::UdpSessionsOpened);
    let mut family =
        text.family("durward_udp_datagrams", Kind::Counter, "Datagrams of UDP sessions.");
    for row in rows.iter().filter(|row| row.known()) {
        for (counter, outcome) in [
            (Counter::UdpDatagramsIn, "in"),
            (Counter::UdpDatagramsOut, "out"),
            (Counter::UdpDatagramsDropped, "dropped"),
        ] {
            family.row(&[("tenant", row.tenant), ("direction", outcome)], row.total(counter));
        }
    }
}

fn requests(text: &mut Text, rows: &[Row<'_>]) {
    let mut requests = text.family("durward_requests", Kind::Counter, "HTTP requests answered.");
    for row in rows.iter().filter(|row| row.known()) {
        for (counter, class) in [
            (Counter::Requests1xx, "1xx"),
            (Counter::Requests2xx, "2xx"),
            (Counter::Requests3xx, "3xx"),
            (Counter::Requests4xx, "4xx"),
            (Counter::Requests5xx, "5xx"),
        ] {
            requests.row(&[("tenant", row.tenant), ("code_class", class)], row.total(counter));
        }
    }
    histogram(
        text,
        ("durward_request_duration_seconds", "From a request's first byte to its response's last."),
        rows,
        |cells| &cells.request_duration,
    );
}

fn handshakes(text: &mut Text, rows: &[Row<'_>]) {
    let mut total = text.family(
        "durward_tls_handshakes",
        Kind::Counter,
        "TLS handshakes completed with clients.",
    );
    for row in rows.iter().filter(|row| row.known()) {
        for (counter, version) in
            [(Counter::HandshakesTls12, "TLSv1.2"), (Counter::HandshakesTls13, "TLSv1.3")]
        {
            total.row(&[("tenant", row.tenant), ("version", version)], row.total(counter));
        }
    }
    counters(
        text,
        "durward_tls_handshakes_resumed",
        "Those of them that resumed a session.",
        rows,
        Counter::HandshakesResumed,
    );
    words(
        text,
        ("durward_tls_handshake_failures", "TLS handshakes with clients that failed, by reason."),
        rows,
        HandshakeFailure::WORDS,
        TenantMetrics::handshake_failures,
    );
    histogram(
        text,
        ("durward_tls_handshake_duration_seconds", "From accept to the end of the TLS handshake."),
        rows,
        |cells| &cells.handshake_duration,
    );
}

fn upstreams(text: &mut Text, rows: &[Row<'_>], state: &ExpositionState) {
    let mut total = text.family(
        "durward_upstream_connections",
        Kind::Counter,
        "Requests by how they got their upstream connection.",
    );
    for row in rows.iter().filter(|row| row.known()) {
        for (counter, state) in [
            (Counter::UpstreamConnectionsNew, "new"),
            (Counter::UpstreamConnectionsReused, "reused"),
        ] {
            total.row(&[("tenant", row.tenant), ("state", state)], row.total(counter));
        }
    }
    differences(
        text,
        ("durward_upstream_connections_open", "Upstream connections open, idle ones included."),
        rows,
        (Counter::UpstreamConnectionsNew, Counter::UpstreamConnectionsClosed),
    );
    differences(
        text,
        ("durward_upstream_connections_idle", "Those kept for the next request."),
        rows,
        (Counter::UpstreamConnectionsIdled, Counter::UpstreamConnectionsTaken),
    );
    histogram(
        text,
        ("durward_upstream_connect_duration_seconds", "To connect to an upstream, TLS included."),
        rows,
        |cells| &cells.connect_duration,
    );
    for (name, help, counter) in [
        (
            "durward_upstream_connect_failures",
            "Connects that failed.",
            Counter::UpstreamConnectFailures,
        ),
        ("durward_upstream_retries", "Requests sent again.", Counter::Retries),
        (
            "durward_upstream_ejections",
            "Endpoints taken out of rotation by checks or failures.",
            Counter::Ejections,
        ),
        (
            "durward_isolation_checks",
            "Source addresses checked before the first byte.",
            Counter::IsolationChecks,
        ),
        (
            "durward_isolation_violations",
            "Checks that found a foreign address; the connection was refused.",
            Counter::IsolationViolations,
        ),
    ] {
        counters(text, name, help, rows, counter);
    }
    endpoints(text, state);
}

fn endpoints(text: &mut Text, state: &ExpositionState) {
    let mut counts: BTreeMap<(&TenantId, &'static str), u64> = BTreeMap::new();
    for upstream in &state.upstreams {
        for endpoint in &upstream.endpoints {
            *counts.entry((&upstream.tenant, endpoint.state.word())).or_default() += 1;
        }
    }
    let mut family =
        text.family("durward_upstream_endpoints", Kind::Gauge, "Upstream endpoints by health.");
    for ((tenant, state), count) in counts {
        family.row(&[("tenant", tenant.as_str()), ("state", state)], count);
    }
}

fn certificates(text: &mut Text, state: &ExpositionState) {
    // Of certificates with one name, the first to end.
    let mut validities: BTreeMap<(&TenantId, &str), (i64, i64)> = BTreeMap::new();
    for (tenant, name, validity) in &state.certificates {
        let first = validities.entry((tenant, name)).or_insert(*validity);
        if validity.1 < first.1 {
            *first = *validity;
        }
    }
    let mut family = text.family(
        "durward_certificate_not_after_seconds",
        Kind::Gauge,
        "When a served certificate ends, Unix time.",
    );
    for ((tenant, certificate), (_, end)) in &validities {
        family.row(&[("tenant", tenant.as_str()), ("name", certificate)], *end);
    }
    let mut family = text.family(
        "durward_certificate_not_before_seconds",
        Kind::Gauge,
        "When a served certificate begins, Unix time.",
    );
    for ((tenant, certificate), (begin, _)) in &validities {
        family.row(&[("tenant", tenant.as_str()), ("name", certificate)], *begin);
    }
}

/// Writes one counter per tenant.
fn counters(text: &mut Text, name: &str, help: &str, rows: &[Row<'_>], counter: Counter) {
    let mut family = text.family(name, Kind::Counter, help);
    for row in rows.iter().filter(|row| row.known()) {
        family.row(&[("tenant", row.tenant)], row.total(counter));
    }
}

/// Writes one gauge per tenant: things begun less things ended.
fn differences(
    text: &mut Text,
    (name, help): (&str, &str),
    rows: &[Row<'_>],
    (begun, ended): (Counter, Counter),
) {
    let mut family = text.family(name, Kind::Gauge, help);
    for row in rows.iter().filter(|row| row.known()) {
        family.row(&[("tenant", row.tenant)], row.difference(begun, ended));
    }
}

/// Writes one counter per tenant and reason that happened.
fn words(
    text: &mut Text,
    (name, help): (&str, &str),
    rows: &[Row<'_>],
    words: &[&str],
    counts: impl Fn(&TenantMetrics) -> Vec<u64>,
) {
    let mut family = text.family(name, Kind::Counter, help);
    for row in rows {
        let counts = counts(row.metrics);
        for (word, count) in words.iter().zip(counts).filter(|(_, count)| *count > 0) {
            family.row(&[("tenant", row.tenant), ("reason", word)], count);
        }
    }
}

/// Writes one histogram per tenant that has observations.
fn histogram(
    text: &mut Text,
    (name, help): (&str, &str),
    rows: &[Row<'_>],
    of: impl Fn(&Cells) -> &Histogram + Copy,
) {
    let mut family: Family<'_> = text.family(name, Kind::Histogram, help);
    for row in rows {
        let (buckets, sum) = row.metrics.histogram(of);
        if buckets.iter().any(|count| *count > 0) {
            family.histogram(&[("tenant", row.tenant)], &BUCKETS, &buckets, sum);
        }
    }
}
