//! Listeners of an agent: liveness, readiness, metrics and status for loopback, and proofs for the gateway.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router};
use durward_agent::Settings;
use durward_agent::ingress::IngressHosts;
use durward_agent::status::{Report, Status};
use durward_agent::way::{Piece, way};
use durward_link::RouteSet;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::connections;

/// Agent that is shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) status: Arc<Status>,
    pub(super) settings: Arc<Settings>,
    pub(super) routes: watch::Receiver<Arc<RouteSet>>,
}

/// Request whose way is asked for.
#[derive(Deserialize)]
struct Asked {
    host: String,
    path: String,
}

/// Serves until `stopped`.
pub(super) async fn serve(listener: TcpListener, shown: Shown, stopped: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(report))
        .route("/way", get(pieces))
        .route("/ingresses", get(ingresses))
        .with_state(shown);
    connections::accept(listener, router, stopped.cancelled()).await;
}

/// Answers the gateway's proofs until `stopped`, and nothing else.
pub(super) async fn prove(listener: TcpListener, shown: Shown, stopped: CancellationToken) {
    let router = Router::new().fallback(answer).with_state(shown);
    connections::accept(listener, router, stopped.cancelled()).await;
}

async fn answer(State(shown): State<Shown>, uri: Uri) -> Result<String, StatusCode> {
    let cluster = shown.settings.cluster.borrow().clone();
    let endpoint = cluster.and_then(|cluster| cluster.public_endpoint);
    let answer = endpoint.and_then(|at| shown.settings.proofs.answer(uri.path(), &at));
    answer.ok_or(StatusCode::NOT_FOUND)
}

async fn ready(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    match shown.status.report().ready {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no carrier to the gateway is up\n"),
    }
}

async fn metrics(State(shown): State<Shown>) -> String {
    shown.status.metrics()
}

async fn report(State(shown): State<Shown>) -> Json<Report> {
    Json(shown.status.report())
}

async fn ingresses(State(shown): State<Shown>) -> Json<Arc<Vec<IngressHosts>>> {
    Json(shown.status.ingresses())
}

async fn pieces(State(shown): State<Shown>, Query(asked): Query<Asked>) -> Json<Vec<Piece>> {
    let routes = Arc::clone(&shown.routes.borrow());
    let request = (asked.host.as_str(), asked.path.as_str());
    Json(way(&shown.settings, &routes, &shown.status.report(), request).await)
}
