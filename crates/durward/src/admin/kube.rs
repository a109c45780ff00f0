//! The admin listener of `durward kube`: whether it runs, whether it has read everything, and its metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use durward_proxy::metrics::openmetrics::{self, Text};
use tokio::net::TcpListener;

use super::{connections, stranger};
use crate::app::cluster::{Shared, Status};

const INDEX: &str = "\
durward kube admin
  GET  /livez    the process runs
  GET  /readyz   everything was read once; ?verbose says which watches are down and why
  GET  /metrics  OpenMetrics
";

/// Serves requests until `stopped`.
pub(crate) async fn serve_kube(
    listener: TcpListener,
    shared: Arc<Shared>,
    stopped: impl Future<Output = ()> + Send + 'static,
) {
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let router = Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(is_loopback, guard))
        .with_state(shared);
    connections::accept(listener, router, stopped).await;
}

/// Rejects requests of web pages (DNS rebinding) where the listener is the operator's own.
async fn guard(State(is_loopback): State<bool>, request: Request, next: Next) -> Response {
    let page = is_loopback
        .then(|| stranger(request.headers(), request.method(), request.uri().host()))
        .flatten();
    match page {
        Some(reason) => (StatusCode::FORBIDDEN, format!("{reason}\n")).into_response(),
        None => next.run(request).await,
    }
}

async fn ready(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let status = shared.status();
    match (status.synced, query.contains_key("verbose")) {
        (true, false) => "ok\n".into_response(),
        (true, true) => text(&status).into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, text(&status)).into_response(),
    }
}

/// Says what was read and what does not work, a line each.
fn text(status: &Status) -> String {
    let read =
        if status.synced { "[+]everything was read" } else { "[-]not everything was read yet" };
    let mut text = format!("{read}: {} objects\n", status.objects);
    for (kind, fault) in &status.faults {
        let _ = writeln!(text, "[!]{kind} cannot be watched: {fault}");
    }
    if let Some(fault) = &status.unwritten {
        let _ = writeln!(text, "[!]statuses cannot be written: {fault}");
    }
    text
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = Text::default();
    shared.status().write_metrics(&mut text);
    ([(header::CONTENT_TYPE, openmetrics::CONTENT_TYPE)], text.end()).into_response()
}
