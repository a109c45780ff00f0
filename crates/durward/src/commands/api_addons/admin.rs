//! The admin listener: liveness, readiness, metrics.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use durward_kube::addon::{Addons, AddonsReport};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Ends};
use crate::failure::Failure;

const INDEX: &str = "\
durward api-addons admin
  GET  /healthz   the process runs
  GET  /readyz    every HostedApi was read; ?verbose says on this host what failed
  GET  /metrics   OpenMetrics
";

/// Serves requests until `stopped`.
pub(super) fn serve(
    listener: TcpListener,
    addons: Arc<Addons>,
    stopped: CancellationToken,
) -> Result<(), Failure> {
    let fault = |error| Failure::broken("opening the admin interface", error);
    listener.set_nonblocking(true).map_err(fault)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(fault)?;
    let router = Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(addons);
    tokio::spawn(async move {
        admin::serve_router(listener, router, stopped.cancelled_owned()).await;
    });
    Ok(())
}

#[derive(Deserialize)]
struct Detail {
    verbose: Option<String>,
}

async fn ready(
    State(addons): State<Arc<Addons>>,
    Query(detail): Query<Detail>,
    ConnectInfo(ends): ConnectInfo<Ends>,
) -> Response {
    if !addons.is_synced() {
        return (StatusCode::SERVICE_UNAVAILABLE, "HostedApis were not read yet\n").into_response();
    }
    // In a pod the listener is open to the cluster's network: who the tenants are and what fails there is for the host alone.
    let is_shown = detail.verbose.is_some() && ends.peer.is_loopback();
    readiness(&addons.report(), is_shown).into_response()
}

/// Returns the text of a readiness that is given. One tenant's fault is no reason to restart what serves the others.
fn readiness(report: &AddonsReport, is_shown: bool) -> String {
    let AddonsReport { installed, progressing, failed, .. } = report;
    let mut text =
        format!("ok: installed {installed}, progressing {progressing}, failed {}\n", failed.len());
    for (name, sentence) in failed.iter().filter(|_| is_shown) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {sentence}");
    }
    text
}

async fn metrics(State(addons): State<Arc<Addons>>) -> Response {
    let report = addons.report();
    let mut text = String::new();
    let name = "durward_api_addons_clusters";
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# TYPE {name} gauge\n# HELP {name} Tenant clusters, by state of the installation."
    );
    let states = [
        ("installed", report.installed),
        ("progressing", report.progressing),
        ("failed", report.failed.len()),
    ];
    for (state, count) in states {
        let _ = writeln!(text, "{name}{{state=\"{state}\"}} {count}");
    }
    let name = "durward_api_addons_attempts";
    let _ = writeln!(
        text,
        "# TYPE {name} counter\n# HELP {name} Attempts to bring a tenant cluster to what its HostedApi says.\n{name}_total {}\n# EOF",
        report.attempts
    );
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_faults_of_tenants_are_shown_to_the_host_alone() {
        let failed = [("acme/t1".to_owned(), "Secret \"x\" does not exist".to_owned())];
        let report = AddonsReport {
            installed: 3,
            progressing: 1,
            failed: failed.into(),
            ..AddonsReport::default()
        };

        let (counts, all) = (readiness(&report, false), readiness(&report, true));

        assert_eq!(counts, "ok: installed 3, progressing 1, failed 1\n");
        assert_eq!(all, format!("{counts}acme/t1: Secret \"x\" does not exist\n"));
    }
}
