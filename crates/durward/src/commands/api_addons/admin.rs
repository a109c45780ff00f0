//! The admin listener: liveness, readiness, metrics.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use durward_kube::addon::Addons;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::failure::Failure;

const INDEX: &str = "\
durward api-addons admin
  GET  /healthz   the process runs
  GET  /readyz    every HostedApi was read; lists those whose installation failed
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

async fn ready(State(addons): State<Arc<Addons>>) -> Response {
    if !addons.is_synced() {
        return (StatusCode::SERVICE_UNAVAILABLE, "HostedApis were not read yet\n").into_response();
    }
    let mut text = "ok\n".to_owned();
    // One tenant's fault is no reason to restart what serves the others.
    for (name, sentence) in addons.report().failed {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {sentence}");
    }
    text.into_response()
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
