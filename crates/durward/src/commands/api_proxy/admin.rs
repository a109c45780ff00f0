//! The admin listener of the proxy: liveness, readiness, metrics.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use durward_apiproxy::gateways::Health;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Running;
use crate::admin;
use crate::failure::Failure;

const INDEX: &str = "\
durward api-proxy admin
  GET  /healthz   the process runs
  GET  /readyz    a connection would be served; ?verbose says why or why not
  GET  /metrics   OpenMetrics
";

/// Serves requests until `stopped`.
pub(super) fn serve(
    listener: TcpListener,
    running: Arc<Running>,
    stopped: CancellationToken,
) -> Result<JoinHandle<()>, Failure> {
    let fault = |error| Failure::broken("opening the admin interface", error);
    listener.set_nonblocking(true).map_err(fault)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(fault)?;
    let router = Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(running);
    Ok(tokio::spawn(async move {
        admin::serve_router(listener, router, stopped.cancelled_owned()).await;
    }))
}

async fn ready(State(running): State<Arc<Running>>, RawQuery(query): RawQuery) -> Response {
    let status = match running.can_serve() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let is_verbose =
        query.is_some_and(|query| query.split('&').any(|word| word.starts_with("verbose")));
    let text = match (is_verbose, status) {
        (true, _) => running.explain(),
        (false, StatusCode::OK) => "ok\n".to_owned(),
        (false, _) => "not ready\n".to_owned(),
    };
    (status, text).into_response()
}

async fn metrics(State(running): State<Arc<Running>>) -> Response {
    let mut text = running.proxy.metrics_text();
    if let Some(slice) = &running.slice {
        slice.write_metrics(&mut text);
    }
    text.push_str("# EOF\n");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

impl Running {
    /// Returns a line for each thing that readiness depends on or an operator should know of.
    fn explain(&self) -> String {
        let mut lines = Vec::new();
        let mark = |good: bool| if good { "+" } else { "-" };
        let draining = *self.draining.borrow();
        lines.push(format!(
            "[{}] serving{}",
            mark(!draining),
            if draining { ": draining" } else { "" }
        ));
        for gateway in self.proxy.gateways().report() {
            lines.push(format!("[{}] gateway {}", mark(gateway.is_healthy()), gateway.target));
            lines.extend(gateway.resolve_error.map(|error| format!("    {error}")));
            for (endpoint, health) in gateway.endpoints {
                let state = match health {
                    Health::Unknown => "not checked yet".to_owned(),
                    Health::Healthy => "answers".to_owned(),
                    Health::Unhealthy(reason) => reason,
                };
                lines.push(format!("    {endpoint}: {state}"));
            }
        }
        if let Some(slice) = &self.slice {
            let report = slice.report();
            let state = match (report.synced, report.right) {
                (false, _) => "not read yet",
                (true, false) => "being written",
                (true, true) => "right",
            };
            let line = format!(
                "[{}] endpoints of default/kubernetes: {state}, {} ready",
                mark(report.right),
                report.members
            );
            lines.push(line);
            if report.synced && !report.counted {
                lines.push(format!(
                    "    the Service {} does not count this proxy as ready at its port, so this proxy writes nothing: see --service, the Service's selector and its port",
                    slice.service
                ));
            }
            lines.extend(report.contest.map(|contest| format!("    {contest}")));
            lines.extend(report.last_error.map(|error| format!("    {error}")));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}
