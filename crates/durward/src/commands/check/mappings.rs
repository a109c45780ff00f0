//! Dials the TCP endpoints of port mappings from this host, whose kernel leads clients there.
//!
//! UDP and SCTP endpoints are not dialled: only an answer of their own protocol would prove anything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_model::Snapshot;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::commands::check::Category;
use crate::commands::check::report::Mark;

/// Concurrent connections at most.
const AT_ONCE: usize = 64;

/// Dials all endpoints of all mappings, each once per mapping.
pub(crate) async fn check(snapshot: &Snapshot, timeout: Duration) -> Category {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut dials = JoinSet::new();
    let all = snapshot.nat.mappings.iter();
    let all =
        all.flat_map(|mapping| mapping.tcp_endpoints().into_iter().map(move |at| (mapping, at)));
    for (order, (mapping, endpoint)) in all.enumerate() {
        let (permits, name) = (Arc::clone(&permits), mapping.full_name());
        dials.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire().await;
            (order, dial(&name, endpoint, timeout).await)
        });
    }
    let mut results = BTreeMap::new();
    while let Some(done) = dials.join_next().await {
        results.extend(done);
    }
    let mut category = Category::new("mappings");
    for (mark, sentence, hint) in results.into_values() {
        category.add(mark, sentence, hint.to_owned());
    }
    category
}

async fn dial(name: &str, endpoint: SocketAddr, timeout: Duration) -> (Mark, String, &'static str) {
    let name = format!("mapping {name} at {endpoint}");
    match tokio::time::timeout(timeout, TcpStream::connect(endpoint)).await {
        Ok(Ok(_)) => (Mark::Ok, format!("{name}: reached"), ""),
        Ok(Err(error)) => (
            Mark::Error,
            format!("{name}: cannot be reached: {error}"),
            "does it listen there? The kernel sends it its share of clients all the same",
        ),
        Err(_) => (
            Mark::Error,
            format!("{name}: no answer within {timeout:?}"),
            "a firewall that drops, or no route from this host to the endpoint",
        ),
    }
}
