//! Asks a durward that runs on this host which sockets it serves, so that its ports are not taken for a stranger's.
//!
//! Deliberately absent: a real HTTP client; the admin interface answers HTTP/1.0 with a length.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use durward_model::Snapshot;
use serde::Deserialize;

use crate::cli::Admin;
use crate::commands::check::Category;

/// What a running process says of itself.
#[derive(Debug, Default)]
pub(crate) struct Running {
    answer: Option<Answer>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    generation: u64,
    #[serde(default)]
    binds: BTreeMap<SocketAddr, String>,
    #[serde(default)]
    upstreams: Vec<Upstream>,
}

#[derive(Debug, Deserialize)]
struct Upstream {
    tenant: String,
    upstream: String,
    endpoint: String,
    state: String,
}

impl Running {
    /// Whether it accepts connections at `address`.
    pub(crate) fn serves(&self, address: SocketAddr) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.binds.contains_key(&address))
    }
}

/// Asks; nobody answering is an answer too.
pub(crate) fn ask(admin: Admin, timeout: Duration) -> Running {
    let Admin::At(address) = admin else { return Running::default() };
    let answer = get(address, "/snapshot", timeout);
    Running { answer: answer.and_then(|body| serde_json::from_slice(&body).ok()) }
}

/// What the running process says about its listeners and upstreams.
pub(crate) fn check(admin: Admin, running: &Running, snapshot: &Snapshot) -> Category {
    let mut category = Category::new("running gateway");
    let Admin::At(address) = admin else { return category };
    let Some(answer) = &running.answer else {
        category.ok(format!("none answers at {address}"));
        return category;
    };
    category.ok(format!("generation {} is served, says {address}", answer.generation));
    for (bind, state) in answer.binds.iter().filter(|(bind, _)| snapshot.binds.contains_key(bind)) {
        if state != "bound" {
            category.error(format!("{bind}: {state}"), "");
        }
    }
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

/// The body of a 200 answer.
pub(crate) fn get(address: SocketAddr, path: &str, timeout: Duration) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    stream.set_write_timeout(Some(timeout)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.take(256 << 20).read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let ok = answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200");
    ok.then(|| answer.split_off(head + 4))
}
