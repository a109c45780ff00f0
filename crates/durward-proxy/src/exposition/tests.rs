//! A strict reader of the format, and the contents of the text.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use durward_model::EgressAddress;

use super::*;
use crate::upstream::PortReport;
use crate::upstream::report::EndpointHealth;
use crate::upstream::report::EndpointReport;

fn encode(metrics: &Metrics, state: &ExpositionState) -> String {
    let mut text = Text::default();
    write(&mut text, metrics, state);
    text.end()
}

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;

/// Reads OpenMetrics 1.0 as strictly as the specification has it, for what we use of it.
fn read(text: &str) -> Result<Samples, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("does not end in # EOF")?;
    let mut samples = Samples::new();
    let mut seen = BTreeSet::new();
    let mut family: Option<(String, String)> = None;
    for line in body.lines() {
        let bad = |why: &str| Err(format!("{why}: {line}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let rest = words.next().unwrap_or("");
            match word {
                "TYPE" => {
                    if !seen.insert(name.to_owned()) {
                        return bad("a family twice");
                    }
                    if name.ends_with("_total") || name.ends_with("_info") {
                        return bad("a reserved suffix in a family's name");
                    }
                    if !["counter", "gauge", "histogram", "info"].contains(&rest) {
                        return bad("no known type");
                    }
                    family = Some((name.to_owned(), rest.to_owned()));
                }
                "UNIT" if !name.ends_with(&format!("_{rest}")) => return bad("unit is no suffix"),
                "HELP" | "UNIT" => {
                    if family.as_ref().is_none_or(|(current, _)| current != name) {
                        return bad("metadata of another family");
                    }
                    if word == "HELP" && rest.is_empty() {
                        return bad("no help");
                    }
                }
                _ => return bad("no known comment"),
            }
            continue;
        }
        let Some((name, kind)) = &family else { return bad("a sample before its family") };
        let (key, value) = line.rsplit_once(' ').ok_or("no value")?;
        let metric = key.split('{').next().unwrap_or("");
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        if !suffixes.iter().any(|suffix| metric == format!("{name}{suffix}")) {
            return bad("a sample of another family");
        }
        if let Some(labels) = key.strip_prefix(metric).filter(|labels| !labels.is_empty()) {
            check_labels(labels).map_err(|why| format!("{why}: {line}"))?;
        }
        let value: f64 = value.parse().map_err(|_| format!("no number: {line}"))?;
        if kind == "counter" && value < 0.0 {
            return bad("a negative counter");
        }
        if samples.insert(key.to_owned(), value).is_some() {
            return bad("a sample twice");
        }
    }
    Ok(samples)
}

fn check_labels(labels: &str) -> Result<(), &'static str> {
    let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).ok_or("no braces")?;
    let mut rest = inner;
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("no label")?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            return Err("no label name");
        }
        let mut escaped = false;
        let end = after.find(|c| {
            let quote = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            quote
        });
        rest = &after[end.ok_or("a label without end")? + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(()),
            None => return Err("something after a label"),
        }
    }
}

fn endpoint(state: EndpointHealth) -> EndpointReport {
    EndpointReport { address: "10.0.0.1:80".to_owned(), state, active: 0, failures: 0 }
}

fn busy() -> (Metrics, ExpositionState) {
    let metrics = Metrics::new(2);
    let acme = TenantId::new("acme").unwrap();
    let tenant = metrics.tenant(&acme);
    for (core, counter, amount) in [
        (0, Counter::ConnectionsOpened, 5),
        (1, Counter::ConnectionsClosed, 2),
        (0, Counter::Requests2xx, 7),
        (1, Counter::UpstreamConnectionsNew, 2),
        (1, Counter::UpstreamConnectionsReused, 6),
        (0, Counter::UpstreamConnectionsClosed, 1),
        (0, Counter::IsolationChecks, 2),
        (0, Counter::HandshakesTls13, 5),
        (0, Counter::EgressAllowed, 5),
        (1, Counter::EgressReported, 2),
        (1, Counter::EgressClosed, 4),
        (1, Counter::EgressBytesUp, 30),
    ] {
        tenant.core(core).add(counter, amount);
    }
    tenant.core(0).request_duration.observe(Duration::from_millis(3));
    tenant.core(1).request_duration.observe(Duration::from_secs(60));
    tenant.core(1).refused(&Refusal::NoRoute);
    let reason = HandshakeFailure::ClientCertificateExpired;
    tenant.core(1).refused(&Refusal::Handshake { reason, source: None });
    let destination = "198.51.100.9:443".parse().unwrap();
    metrics.unknown.core(0).refused(&Refusal::UnknownAddress { destination });
    let state = ExpositionState {
        links: Vec::new(),
        generation: 3,
        certificates: vec![
            (acme.clone(), Arc::from("we\"ird\\na\nme"), (1_700_000_000, 1_800_000_000)),
            (acme.clone(), Arc::from("we\"ird\\na\nme"), (1_600_000_000, 1_900_000_000)),
        ],
        ports: [("203.0.113.2", 7), ("203.0.113.3", 0)]
            .map(|(address, used)| PortReport {
                tenant: acme.clone(),
                address: EgressAddress(address.parse().unwrap()),
                used,
                budget: 27_350,
            })
            .into(),
        upstreams: vec![UpstreamReport {
            tenant: acme.clone(),
            name: Arc::from("pay"),
            endpoints: vec![endpoint(EndpointHealth::Healthy), endpoint(EndpointHealth::Ejected)],
        }],
        log_lost: 4,
        hosted_apis: HostedApiCounts { servers: 9, tenants: 7, addresses: 2 },
        decisions_lost: [("otlp", 6)].into(),
        sinks: Vec::new(),
        audit: Some(audit::Status { written: 8, lost: 1, sequence: 9, failing: true }),
        files: vec![("clients", 2, 900), ("outward", 3, 900)],
        memory: MemoryState {
            budget: 1_000_000,
            kinds: vec![("clients", 4_000), ("upstreams", 0), ("names", 30)],
            tenants: vec![(acme, 4_030)],
        },
    };
    (metrics, state)
}

// S1.51
#[test]
fn the_text_is_strict_openmetrics() {
    let (metrics, state) = busy();

    let samples = read(&encode(&metrics, &state)).unwrap();

    assert!(samples.len() > 40);
    assert!(read(&encode(&Metrics::new(1), &ExpositionState::default())).is_ok());
}

// S1.51
#[test]
fn the_strict_reader_refuses_what_is_wrong() {
    for bad in [
        "",
        "# TYPE a counter\na_total 1\n",
        "# TYPE a counter\na 1\n# EOF\n",
        "# TYPE a_total counter\na_total_total 1\n# EOF\n",
        "# TYPE a gauge\na 1\na 1\n# EOF\n",
        "# TYPE a gauge\n# UNIT a seconds\na 1\n# EOF\n",
        "# TYPE a gauge\na{b=\"c} 1\n# EOF\n",
        "# TYPE a gauge\na{b=\"c\"d=\"e\"} 1\n# EOF\n",
        "# TYPE a gauge\nb 1\n# EOF\n",
        "# TYPE a counter\na_total -1\n# EOF\n",
        "# TYPE a gauge\n# TYPE a gauge\n# EOF\n",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

// S1.40 S1.50 S1.54 S1.62
#[test]
fn pooling_handshakes_and_refusals_are_told_per_tenant() {
    let (metrics, state) = busy();

    let samples = read(&encode(&metrics, &state)).unwrap();

    for (key, value) in [
        ("durward_connections_active{tenant=\"acme\"}", 3.0),
        ("durward_connections_total{tenant=\"acme\"}", 5.0),
        ("durward_requests_total{tenant=\"acme\",code_class=\"2xx\"}", 7.0),
        ("durward_upstream_connections_total{tenant=\"acme\",state=\"new\"}", 2.0),
        ("durward_upstream_connections_total{tenant=\"acme\",state=\"reused\"}", 6.0),
        ("durward_upstream_connections_open{tenant=\"acme\"}", 1.0),
        ("durward_refusals_total{tenant=\"acme\",reason=\"no_route\"}", 1.0),
        ("durward_refusals_total{tenant=\"\",reason=\"tenant_not_found\"}", 1.0),
        (
            "durward_tls_handshake_failures_total{tenant=\"acme\",reason=\"client_certificate_expired\"}",
            1.0,
        ),
        ("durward_tls_handshakes_total{tenant=\"acme\",version=\"TLSv1.3\"}", 5.0),
        ("durward_isolation_violations_total{tenant=\"acme\"}", 0.0),
        ("durward_request_duration_seconds_bucket{tenant=\"acme\",le=\"0.005\"}", 1.0),
        ("durward_request_duration_seconds_bucket{tenant=\"acme\",le=\"10.0\"}", 1.0),
        ("durward_request_duration_seconds_bucket{tenant=\"acme\",le=\"+Inf\"}", 2.0),
        ("durward_request_duration_seconds_count{tenant=\"acme\"}", 2.0),
        ("durward_request_duration_seconds_sum{tenant=\"acme\"}", 60.003),
        ("durward_upstream_endpoints{tenant=\"acme\",state=\"ejected\"}", 1.0),
        ("durward_egress_ports_used{tenant=\"acme\",address=\"203.0.113.2\"}", 7.0),
        ("durward_egress_ports_budget", 27_350.0),
        ("durward_config_generation", 3.0),
        ("durward_hosted_apis", 9.0),
        ("durward_hosted_api_tenants", 7.0),
        ("durward_hosted_api_addresses", 2.0),
        ("durward_egress_decisions_total{tenant=\"acme\",verdict=\"allowed\"}", 5.0),
        ("durward_egress_active{tenant=\"acme\"}", 3.0),
        ("durward_egress_bytes_total{tenant=\"acme\",direction=\"up\"}", 30.0),
        ("durward_access_log_lines_lost_total", 4.0),
        ("durward_decision_lines_lost_total{sink=\"otlp\"}", 6.0),
        ("durward_audit_records_total", 8.0),
        ("durward_audit_records_lost_total", 1.0),
        ("durward_audit_sequence", 9.0),
        ("durward_audit_failing", 1.0),
        (
            "durward_certificate_not_after_seconds{tenant=\"acme\",name=\"we\\\"ird\\\\na\\nme\"}",
            1_800_000_000.0,
        ),
        (
            "durward_certificate_not_before_seconds{tenant=\"acme\",name=\"we\\\"ird\\\\na\\nme\"}",
            1_700_000_000.0,
        ),
    ] {
        assert_eq!(samples.get(key), Some(&value), "{key}");
    }
    assert!(!samples.keys().any(|key| key.contains("203.0.113.3")), "an idle address has no row");
    assert!(samples.keys().any(|key| key.starts_with("durward_build_info{version=")));
}

/// Series of one tenant in a text.
fn series_of(text: &str, tenant: &str) -> Vec<String> {
    let label = format!("tenant=\"{tenant}\"");
    let samples = text.lines().filter(|line| !line.starts_with('#') && line.contains(&label));
    samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[test]
fn idle_tenants_have_no_series_and_a_busy_one_has_all_from_its_first_connection_on() {
    let metrics = Metrics::new(2);
    let idle = encode(&metrics, &ExpositionState::default());
    let tenants: Vec<_> = (0..500)
        .map(|number| metrics.tenant(&TenantId::new(&format!("tenant-{number}")).unwrap()))
        .collect();
    assert_eq!(encode(&metrics, &ExpositionState::default()), idle, "500 tenants cost nothing");

    tenants[7].core(1).add(Counter::ConnectionsOpened, 1);
    let first = encode(&metrics, &ExpositionState::default());

    let busy = series_of(&first, "tenant-7");
    assert_eq!(busy.len(), 28, "{busy:#?}");
    assert_eq!(first.lines().count(), idle.lines().count() + busy.len(), "and no other has any");
    let samples = read(&first).unwrap();
    let above_zero = busy.iter().filter(|key| samples[*key] > 0.0).count();
    assert_eq!(above_zero, 2, "the rest begins at zero: {first}");
    for key in [
        "durward_isolation_violations_total{tenant=\"tenant-7\"}",
        "durward_requests_total{tenant=\"tenant-7\",code_class=\"5xx\"}",
    ] {
        assert_eq!(samples.get(key), Some(&0.0), "{key}");
    }
    tenants[7].core(0).add(Counter::ConnectionsClosed, 1);
    let after = encode(&metrics, &ExpositionState::default());
    assert_eq!(series_of(&after, "tenant-7"), busy, "idle again, it stays");
}

#[test]
fn open_connections_have_a_row_without_a_tenant_even_on_an_idle_gateway() {
    let metrics = Metrics::new(1);
    let acme = metrics.tenant(&TenantId::new("acme").unwrap());
    let files = vec![("clients", 5, 900), ("outward", 3, 900)];
    let state = ExpositionState { files, ..ExpositionState::default() };
    let none = |text: String| read(&text).unwrap()["durward_connections_active{tenant=\"\"}"];

    assert_eq!(none(encode(&metrics, &ExpositionState::default())), 0.0);
    assert_eq!(none(encode(&metrics, &state)), 5.0);
    acme.core(0).add(Counter::ConnectionsOpened, 2);
    assert_eq!(none(encode(&metrics, &state)), 3.0, "two of the five have a tenant");
}

// S1.51
#[test]
fn every_metric_is_in_the_reference() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (metrics, state) = busy();

    let text = encode(&metrics, &state);

    let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.len() > 20);
    for family in families {
        let (name, kind) = family.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(page.contains(&format!("| `{name}{suffix}` |")), "{name}{suffix} is not described");
    }
}
