//! How the gateway tells what it does: log events, the snapshot report, and metrics only it knows.
//!
//! Deliberately absent: state; everything here is made from what is given.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind::AddrNotAvailable;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use durward_control::Compiled;
use durward_model::verdict::{Outcome, Severity, Verdict};
use durward_model::{EgressAddress, Snapshot, Verdicts};
use durward_proxy::proxy::{Applied, BindState, Drained, Status};
use durward_proxy::{EndpointReport, UpstreamReport};
use serde_json::{Value, json};

/// One event per finding.
pub(crate) fn findings(verdicts: &Verdicts) {
    for (verdict, finding) in verdicts.findings() {
        let (resource, outcome) =
            (format!("{} {}", verdict.kind, verdict.name), verdict.outcome.to_string());
        let (reason, at) = (&*finding.reason, finding.origin.to_string());
        match finding.severity {
            Severity::Error => tracing::error!(resource, outcome, reason, at, "{finding}"),
            Severity::Warning => tracing::warn!(resource, reason, at, "{finding}"),
        }
    }
}

/// Who has read of an error looks for its end.
pub(crate) fn mended(before: &Verdicts, now: &Verdicts) {
    if !before.all_accepted() && now.all_accepted() {
        tracing::info!("every document is accepted again");
    }
}

/// What a new configuration brought about.
pub(crate) fn applied(view: &Compiled, applied: &Applied, cause: &str) {
    for bind in &applied.binds {
        match &bind.state {
            BindState::Bound => tracing::debug!(address = %bind.address, "listening"),
            BindState::AddressNotLocal => {
                tracing::warn!(address = %bind.address, "the address is not on this host yet; it is served as soon as it is");
            }
            BindState::Failed(error) => {
                tracing::error!(address = %bind.address, %error, "cannot listen")
            }
        }
    }
    for problem in &applied.problems {
        let (tenant, listener) = (&problem.tenant, problem.listener.as_deref());
        tracing::error!(%tenant, listener, "cannot be served: {}", problem.sentence);
    }
    let snapshot = &view.snapshot;
    tracing::info!(
        generation = snapshot.generation,
        tenants = snapshot.tenants.len(),
        listeners = snapshot.tenants.values().map(|tenant| tenant.listeners.len()).sum::<usize>(),
        cause,
        "configuration in force"
    );
}

/// New egress addresses that this host does not have.
pub(crate) fn absent_egress(before: &Snapshot, now: &Snapshot) {
    // What did not change is the same value.
    let changed = now.tenants.iter().filter(|(id, tenant)| {
        before.tenants.get(*id).is_none_or(|known| !Arc::ptr_eq(known, tenant))
    });
    let addresses = changed.flat_map(|(id, tenant)| {
        let known = before.tenants.get(id);
        let is_new =
            move |egress: &&EgressAddress| known.is_none_or(|known| !known.egress.contains(egress));
        tenant.egress.iter().filter(is_new).map(|egress| egress.0)
    });
    let is_absent = |address: &IpAddr| {
        UdpSocket::bind((*address, 0)).is_err_and(|error| error.kind() == AddrNotAvailable)
    };
    for address in addresses.collect::<BTreeSet<_>>().into_iter().filter(is_absent) {
        tracing::warn!(%address, "the egress address is not on this host; what would leave from it is refused until it is");
    }
}

/// How the drain ended.
pub(crate) fn drained(drained: Drained) {
    tracing::info!(finished = drained.finished, cut = drained.cut, "drained");
}

/// Why the process does not start: the first line says it all, the excerpts follow.
pub(crate) fn refusal(verdicts: &Verdicts, strict: bool) -> String {
    let errors: Vec<_> =
        verdicts.findings().filter(|(_, finding)| finding.severity == Severity::Error).collect();
    let mut text = match errors.first() {
        Some((_, first)) => format!("{}: {first}", first.origin),
        None => "the configuration has nothing to serve".to_owned(),
    };
    if errors.len() > 1 {
        text.push_str(&format!(" (and {} more)", errors.len() - 1));
    }
    if strict {
        text.push_str("; --strict serves all or nothing");
    }
    for (_, finding) in errors {
        if let Some(excerpt) = &finding.excerpt {
            text.push_str(&format!("\n\n{}: {finding}\n{}", finding.reason, excerpt.trim_end()));
        }
    }
    text
}

/// The answer of `/snapshot`.
pub(crate) fn report(view: &Compiled, status: Option<&Status>, draining: bool) -> Value {
    let state = |state: &BindState| match state {
        BindState::Bound => "bound".to_owned(),
        BindState::AddressNotLocal => "the address is not on this host".to_owned(),
        BindState::Failed(error) => format!("failed: {error}"),
    };
    let binds: BTreeMap<String, String> = status
        .iter()
        .flat_map(|status| &status.binds)
        .map(|bind| (bind.address.to_string(), state(&bind.state)))
        .collect();
    let (accepted, rejected): (Vec<&Verdict>, Vec<&Verdict>) =
        view.verdicts.verdicts.iter().partition(|verdict| verdict.outcome == Outcome::Accepted);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": view.snapshot.generation,
        "draining": draining,
        "binds": binds,
        "connections": connections(status),
        "upstreams": upstreams(status),
        "accepted": accepted,
        "rejected": rejected,
        "tenants": view.snapshot.tenants,
    })
}

/// Open client connections by tenant.
fn connections(status: Option<&Status>) -> BTreeMap<String, u64> {
    let tenants = status.iter().flat_map(|status| &status.tenants);
    tenants.map(|tenant| (tenant.tenant.to_string(), tenant.connections)).collect()
}

/// Every endpoint and how it is.
fn upstreams(status: Option<&Status>) -> Vec<Value> {
    let tenants = status.iter().flat_map(|status| &status.tenants);
    let reports = tenants.flat_map(|tenant| &tenant.upstreams);
    let endpoint = |report: &UpstreamReport| {
        let (tenant, upstream) = (report.tenant.to_string(), report.name.to_string());
        let one = move |endpoint: &EndpointReport| {
            json!({
                "tenant": tenant,
                "upstream": upstream,
                "endpoint": endpoint.address,
                "state": endpoint.state,
                "active": endpoint.active,
                "failures": endpoint.failures,
            })
        };
        report.endpoints.iter().map(one).collect::<Vec<_>>()
    };
    reports.flat_map(endpoint).collect()
}

/// The proxy's exposition with what only we know, and one end.
pub(crate) fn exposition(proxy: &str, view: &Compiled, failures: u64, kernel: &str) -> String {
    let mut text = proxy.trim_end().trim_end_matches("# EOF").to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let rejected = view
        .verdicts
        .verdicts
        .iter()
        .filter(|verdict| verdict.outcome != Outcome::Accepted)
        .count();
    let families = [
        (
            "durward_config_last_reload_success",
            "gauge",
            "Whether every document was accepted when last read.",
            u64::from(view.verdicts.all_accepted()),
        ),
        (
            "durward_config_rejected",
            "gauge",
            "Documents that are not wholly accepted.",
            rejected as u64,
        ),
    ];
    for (name, kind, help, value) in families {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
    }
    let name = "durward_config_reload_failures";
    text.push_str(&format!("# HELP {name} Times documents were read and not wholly accepted.\n# TYPE {name} counter\n{name}_total {failures}\n"));
    text.push_str(kernel);
    text.push_str("# EOF\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_ends_once() {
        let view = Compiled::default();

        let text = exposition("# TYPE a gauge\na 1\n# EOF\n", &view, 2, "");

        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.starts_with("# TYPE a gauge\na 1\n# HELP durward_config"));
        assert!(text.contains("durward_config_last_reload_success 1\n"));
        assert!(text.ends_with("durward_config_reload_failures_total 2\n# EOF\n"));
    }
}
