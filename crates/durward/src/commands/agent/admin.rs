//! Admin listener of an agent: liveness, readiness, metrics and status. For loopback.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use durward_agent::status::{Report, Status};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::connections;

/// Serves until `stopped`.
pub(super) async fn serve(listener: TcpListener, status: Arc<Status>, stopped: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(report))
        .with_state(status);
    connections::accept(listener, router, stopped.cancelled()).await;
}

async fn ready(State(status): State<Arc<Status>>) -> (StatusCode, &'static str) {
    match status.report().ready {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no carrier to the gateway is up\n"),
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> String {
    status.metrics()
}

async fn report(State(status): State<Arc<Status>>) -> Json<Report> {
    Json(status.report())
}
