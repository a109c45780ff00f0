//! Asks a durward that runs on this host for its sockets, so that its ports are not taken for another program's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use durward_model::Snapshot;
use durward_model::transport::Transport;
use durward_proxy::proxy::{BindReport, BindState};
use http::Request;
use http_body_util::Full;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::cli::Admin;
use crate::client::{self, Client};
use crate::commands::check::Category;
use crate::digest::Digests;

/// Largest answer in bytes.
const MOST: usize = 256 << 20;

/// Answer of a running process.
#[derive(Debug, Default)]
pub(crate) struct Running {
    answer: Option<Answer>,
    /// Fault of an answer that is not from a durward, or is a refusal.
    other: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    generation: u64,
    #[serde(default)]
    binds: BTreeMap<String, String>,
    #[serde(default)]
    upstreams: Vec<Upstream>,
    /// Digests of the configuration served; older versions do not send any.
    digests: Option<Digests>,
    #[serde(default)]
    rejected: Vec<NotAccepted>,
}

/// Document that the running gateway has not wholly accepted.
#[derive(Debug, Deserialize)]
struct NotAccepted {
    kind: String,
    name: String,
    outcome: String,
}

#[derive(Debug, Deserialize)]
struct Upstream {
    tenant: String,
    upstream: String,
    endpoint: String,
    state: String,
}

impl Running {
    /// Returns true if the process has a socket at `address`.
    pub(crate) fn serves(&self, transport: Transport, address: SocketAddr) -> bool {
        let bind = written(transport, address);
        self.answer.as_ref().is_some_and(|answer| answer.binds.contains_key(&bind))
    }
}

/// Returns a socket as the process writes it.
fn written(transport: Transport, address: SocketAddr) -> String {
    BindReport { transport, address, state: BindState::Bound }.to_string()
}

/// Asks the admin listener; no answer is a result too.
pub(crate) async fn ask(admin: Admin, timeout: Duration) -> Running {
    let Admin::At(address) = admin else { return Running::default() };
    match exchange(address, client::get("/snapshot", &address.to_string()), timeout).await {
        Err(_) => Running::default(),
        Ok((200, body)) => match serde_json::from_slice(&body) {
            Ok(answer) => Running { answer: Some(answer), other: None },
            Err(error) => Running { answer: None, other: Some(error.to_string()) },
        },
        Ok((status, _)) => Running { answer: None, other: Some(format!("status {status}")) },
    }
}

/// Checks the listeners and upstreams of the running process.
pub(crate) fn check(admin: Admin, running: &Running, snapshot: &Snapshot) -> Category {
    let mut category = Category::new("running gateway");
    let Admin::At(address) = admin else { return category };
    if let Some(other) = &running.other {
        let sentence =
            format!("{address} does not answer like the admin listener of a gateway ({other})");
        category.warn(sentence, "name the admin listener: --admin ADDRESS:PORT");
        return category;
    }
    let Some(answer) = &running.answer else {
        category.ok(format!("no gateway answers at {address}"));
        return category;
    };
    category.ok(format!("the gateway at {address} serves generation {}", answer.generation));
    let of_tcp = snapshot.binds.keys().map(|address| written(Transport::Tcp, *address));
    let of_udp = snapshot.udp.keys().map(|address| written(Transport::Udp, *address));
    for bind in of_tcp.chain(of_udp) {
        let Some(state) = answer.binds.get(&bind) else { continue };
        if state != "bound" {
            category.error(format!("{bind}: {state}"), "");
        }
    }
    documents(&mut category, answer, snapshot);
    for upstream in answer.upstreams.iter().filter(|upstream| upstream.state != "healthy") {
        category.warn(
            format!(
                "{} upstream {}: {} is {}",
                upstream.tenant, upstream.upstream, upstream.endpoint, upstream.state
            ),
            "see: durward check route",
        );
    }
    category
}

/// Differences shown at most.
const SHOWN: usize = 10;

/// Compares the configuration served with the files.
fn documents(category: &mut Category, answer: &Answer, snapshot: &Snapshot) {
    let Some(served) = &answer.digests else {
        category.warn("its version sends no digests, so it cannot be compared with the files", "");
        return;
    };
    let differences = served.differences(&Digests::of(snapshot));
    if differences.is_empty() {
        category.ok("it serves the configuration of the files (secrets are not compared)");
    }
    for difference in differences.iter().take(SHOWN) {
        category.warn(
            difference.to_string(),
            "see: durward explain --running; a running gateway that does not watch its files reloads on SIGHUP",
        );
    }
    if differences.len() > SHOWN {
        category.warn(format!("and {} more differences", differences.len() - SHOWN), "");
    }
    for document in answer.rejected.iter().take(SHOWN) {
        let NotAccepted { kind, name, outcome } = document;
        let outcome = match outcome.as_str() {
            "KeptLastGood" => "rejected, last good kept",
            "Partial" => "partly accepted",
            _ => "rejected",
        };
        category.warn(
            format!("it has not wholly accepted {kind} {name}: {outcome}"),
            "see: durward validate, and rejected in /snapshot",
        );
    }
}

/// Returns the body of a 200 answer.
pub(crate) fn get(address: SocketAddr, path: &str, timeout: Duration) -> Option<Bytes> {
    let (status, body) = fetch(address, path, timeout).ok()?;
    (status == 200).then_some(body)
}

/// Sends a GET; returns status and body of the answer.
pub(crate) fn fetch(
    address: SocketAddr,
    path: &str,
    timeout: Duration,
) -> Result<(u16, Bytes), String> {
    client::block_on(exchange(address, client::get(path, &address.to_string()), timeout))
}

/// Sends a POST of JSON; returns status and body of the answer.
pub(crate) fn post(
    address: SocketAddr,
    path: &str,
    json: &str,
    timeout: Duration,
) -> Result<(u16, Bytes), String> {
    client::block_on(exchange(address, client::post(path, &address.to_string(), json), timeout))
}

async fn exchange(
    address: SocketAddr,
    request: Result<Request<Full<Bytes>>, String>,
    timeout: Duration,
) -> Result<(u16, Bytes), String> {
    let request = request?;
    let connecting = tokio::time::timeout(timeout, TcpStream::connect(address)).await;
    let stream = connecting.map_err(|_| format!("no connection within {timeout:?}"))?;
    let stream = stream.map_err(|error| error.to_string())?;
    let answer = Client::on(stream, timeout).await?.send(request, MOST).await?;
    Ok((answer.status.as_u16(), answer.body))
}
