//! The admin listener: liveness, readiness, metrics, and the configuration being served.
//!
//! For the operator's machines; on loopback by default. Deliberately absent: secrets, and anything a tenant could reach.

pub(crate) mod connections;
mod kube;
mod scrape;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use durward_model::TenantId;
use durward_model::explain::Question;
use durward_proxy::metrics::openmetrics;
use std::collections::BTreeMap;
use tokio::net::TcpListener;

use crate::app::Gateway;
use crate::app::health::{self, Health};
use crate::app::report::{Selection, Unanswerable};
pub(crate) use connections::accept as serve_router;
pub(crate) use kube::serve_kube;
use scrape::Scrapes;
use stream::Turn;

const INDEX: &str = "\
durward admin
  GET  /livez           the process runs
  GET  /readyz          it serves; ?verbose says why or why not; ?tenant=NAME asks for one tenant
  GET  /healthcheck     SmartNat's: OK and when, or why not
  GET  /metrics         OpenMetrics
  GET  /snapshot        what is served, what was rejected and why, what does not work; ?tenant=NAME and ?kind=PART,PART ask for less
  GET  /nat             mappings and egress rules, and what the kernel does with them
  POST /explain         what happens to a connection or request; durward explain --running asks it
  POST /config/reload   read the configuration again now
";

/// Largest question to `/explain` in bytes.
const QUESTION_BYTES: usize = 64 * 1024;

/// Addresses of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// Address of the client.
    pub(crate) peer: IpAddr,
    /// Address the client connected to; `None` if the socket no longer knows it.
    local: Option<IpAddr>,
}

#[derive(Clone)]
struct Admin {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    /// Taken to compute `/metrics` and `/snapshot`.
    turn: Turn,
    scrapes: Arc<Scrapes>,
}

/// Serves requests until `stopped`.
pub(crate) async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    connections::accept(listener, router(gateway, address), stopped).await;
    Ok(())
}

fn router(gateway: Arc<Gateway>, address: SocketAddr) -> Router {
    let (turn, scrapes) = (Turn::default(), Arc::default());
    let admin = Admin { gateway, address, turn, scrapes };
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/healthcheck", get(healthcheck))
        .route("/metrics", get(metrics))
        .route("/snapshot", get(snapshot))
        .route("/nat", get(nat))
        .route("/explain", post(explain).layer(DefaultBodyLimit::max(QUESTION_BYTES)))
        .route("/config/reload", post(reload))
        .layer(middleware::from_fn_with_state(admin.clone(), guard))
        .with_state(admin)
}

/// Rejects requests of web pages (DNS rebinding, cross-site posts) and of tenants (through a proxy, or connections from or to a tenant's address).
async fn guard(
    State(admin): State<Admin>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    request: Request,
    next: Next,
) -> Response {
    let local = admin.address.ip().is_loopback();
    let page = local.then(|| stranger(request.headers(), request.method(), request.uri().host()));
    let from_tenant = ends.peer != admin.address.ip() && admin.gateway.is_egress(ends.peer);
    let tenant = from_tenant.then_some("connections from a tenant's address are refused");
    // A wildcard listener is reachable at tenants' addresses too, and their clients can connect to those.
    let is_tenants = |local| admin.gateway.is_tenants(local);
    let at_tenant = admin.address.ip().is_unspecified() && ends.local.is_none_or(is_tenants);
    let at_tenant = at_tenant.then_some("connections to a tenant's address are refused");
    let refusal = page.flatten().or(tenant).or(at_tenant);
    match refusal {
        Some(reason) => (StatusCode::FORBIDDEN, format!("{reason}\n")).into_response(),
        None => next.run(request).await,
    }
}

fn stranger(headers: &HeaderMap, method: &Method, authority: Option<&str>) -> Option<&'static str> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(authority);
    if !host.is_some_and(is_this_host) {
        return Some("the Host must be an IP address or localhost");
    }
    if ["x-forwarded-for", "forwarded", "via"].iter().any(|name| headers.contains_key(*name)) {
        return Some("requests that came through a proxy are refused");
    }
    let cross = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    (method != Method::GET && method != Method::HEAD && cross)
        .then_some("requests of web pages are refused")
}

/// Returns true for an address literal or `localhost`: any other name could be made to resolve to this host (DNS rebinding).
fn is_this_host(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Reads health on a blocking thread: with many addresses that takes a moment.
async fn health(admin: &Admin) -> Result<Health, String> {
    let gateway = Arc::clone(&admin.gateway);
    let looked = tokio::task::spawn_blocking(move || gateway.health()).await;
    looked.map_err(|error| error.to_string())
}

async fn ready(
    State(admin): State<Admin>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let health = match health(&admin).await {
        Ok(health) => health,
        Err(error) => return broken(&error),
    };
    if let (Some(name), None) = (query.get("tenant"), health.fault()) {
        return ready_for(&admin, &health, name);
    }
    match (health.fault().is_none(), query.contains_key("verbose")) {
        (true, false) => "ok\n".into_response(),
        (true, true) => health.text().into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, health.text()).into_response(),
    }
}

/// Answers whether this replica serves one tenant: replicas on nodes with different addresses serve different ones.
fn ready_for(admin: &Admin, health: &Health, name: &str) -> Response {
    let snapshot = Arc::clone(&admin.gateway.view().snapshot);
    let tenant = TenantId::new(name).ok().and_then(|id| snapshot.tenants.get(&id));
    let Some(tenant) = tenant else {
        return (StatusCode::NOT_FOUND, "this tenant is not served\n").into_response();
    };
    let keeping = health.keeps_from(tenant);
    if keeping.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, health::lines(&keeping)).into_response()
}

fn broken(error: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

/// Answers SmartNat's health check: `OK` and the time when the kernel last matched the configuration; 503 if it does not match now.
async fn healthcheck(State(admin): State<Admin>) -> Response {
    let health = match health(&admin).await {
        Ok(health) => health,
        Err(error) => return broken(&error),
    };
    match health.fault() {
        None => format!("OK {}", admin.gateway.last_applied()).into_response(),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let make = move || admin.scrapes.text(&admin.turn, || admin.gateway.metrics_text());
    match tokio::task::spawn_blocking(make).await {
        Ok(text) => ([(header::CONTENT_TYPE, openmetrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => broken(&error.to_string()),
    }
}

async fn snapshot(
    State(admin): State<Admin>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let turn = admin.turn.clone();
    let collect = move || {
        let selection = Selection::read(&pairs)?;
        let _turn = admin.turn.wait();
        admin.gateway.report(selection)
    };
    let report = match tokio::task::spawn_blocking(collect).await {
        Ok(Ok(report)) => report,
        Ok(Err(Unanswerable::Query(sentence))) => {
            return (StatusCode::BAD_REQUEST, format!("{sentence}\n")).into_response();
        }
        Ok(Err(Unanswerable::Tenant)) => {
            let sentence = "no tenant of this name is served, and no document defines it\n";
            return (StatusCode::NOT_FOUND, sentence).into_response();
        }
        Err(error) => return broken(&error.to_string()),
    };
    let body = stream::body(turn, move |pieces| report.write(pieces).map_err(Into::into));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn nat(State(admin): State<Admin>) -> Response {
    match tokio::task::spawn_blocking(move || admin.gateway.kernel_lines()).await {
        Ok(Ok(lines)) => Json(lines).into_response(),
        Ok(Err(error)) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
        Err(error) => broken(&error.to_string()),
    }
}

/// Answers from the configuration being served; changes nothing.
async fn explain(State(admin): State<Admin>, Json(question): Json<Question>) -> Response {
    match tokio::task::spawn_blocking(move || admin.gateway.explain(&question)).await {
        Ok(explained) => Json(explained).into_response(),
        Err(error) => broken(&error.to_string()),
    }
}

async fn reload(State(admin): State<Admin>) -> Response {
    let gateway = Arc::clone(&admin.gateway);
    match tokio::task::spawn_blocking(move || gateway.reload("the admin interface")).await {
        Ok(report) => Json(report).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_this_host() {
        for good in ["127.0.0.1:9440", "127.0.0.1", "localhost:9440", "[::1]:9440", "[::1]"] {
            assert!(is_this_host(good), "{good}");
        }
        for bad in
            ["evil.example:9440", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", ""]
        {
            assert!(!is_this_host(bad), "{bad}");
        }
    }

    #[test]
    fn a_web_page_cannot_post_and_a_proxied_request_cannot_read() {
        let headers = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert("host", "127.0.0.1:9440".parse().unwrap());
            fields.iter().for_each(|(name, value)| {
                headers.insert(*name, value.parse().unwrap());
            });
            headers
        };

        assert_eq!(stranger(&headers(&[]), &Method::GET, None), None);
        assert_eq!(stranger(&headers(&[]), &Method::POST, None), None);
        assert!(
            stranger(&headers(&[("origin", "https://evil.example")]), &Method::POST, None)
                .is_some()
        );
        assert!(
            stranger(&headers(&[("x-forwarded-for", "192.0.2.1")]), &Method::GET, None).is_some()
        );
        assert!(stranger(&HeaderMap::new(), &Method::GET, None).is_some());
    }
}
