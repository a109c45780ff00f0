//! The way out, as clients, partners and attackers see it: whole gateways from documents, on loopback and in namespaces.
//!
//! Deliberately absent: the rules one by one; those are tested where they are decided, in `durward-model`.

mod bound;
mod clients;
mod crowding;
mod doors;
mod errors;
mod explained;
mod guard;
mod hardened;
mod http;
mod http2;
mod live;
mod names;
mod parent;
mod revoked;
mod seed;
mod socks;
mod tools;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use durward_testkit::client::RawHttp;
use durward_testkit::process::{eventually_blocking, unique_loopback};
use serde_json::Value;

use crate::gateway::{Gateway, Preparation};

/// A tenant with one proxy on an address of its own.
struct Out {
    gateway: Gateway,
    /// Where clients find the proxy.
    proxy: SocketAddr,
    /// Where the tenant's traffic leaves from.
    egress: Ipv4Addr,
}

/// A tenant's document: its egress address, one entry of `proxy`, and more lines of `egress`, without their indent.
fn document(name: &str, egress: impl Into<IpAddr>, proxy: &str, more: &str) -> String {
    let egress: IpAddr = egress.into();
    let more: String = more.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  egress:\n    addresses: [{egress}]\n    \
         proxy:\n      - {{{proxy}}}\n{more}"
    )
}

impl Out {
    /// A proxy for plain loopback clients, with these lines of `egress`.
    fn open(more: &str) -> Self {
        Self::with(Gateway::prepare(), "allowedSources: [127.0.0.0/8]", more)
    }

    /// A proxy with more fields of its own, from files that are there.
    fn with(prepared: Preparation, fields: &str, more: &str) -> Self {
        let (address, egress) = (unique_loopback(), unique_loopback());
        let entry = format!("address: {address}, {fields}");
        let gateway = prepared.start(&document("acme", egress, &entry, more));
        assert_eq!(gateway.findings(), Vec::<String>::new());
        Self { gateway, proxy: SocketAddr::from((address, 3128)), egress }
    }

    async fn connect(&self) -> RawHttp {
        RawHttp::connect(self.proxy).await.unwrap()
    }

    /// A tunnel, or the status it was refused with.
    async fn tunnel(&self, target: &str) -> Result<RawHttp, u16> {
        tunnel(self.proxy, target, "").await
    }

    /// The decisions so far, at least `count` of them.
    fn decisions(&self, count: usize) -> Vec<Value> {
        decisions(&self.gateway, count)
    }

    /// Whether such a line is written. Cores write by themselves, so where there are others their order says nothing.
    fn decides(&self, wanted: impl Fn(&Value) -> bool) -> bool {
        let is_wanted = |line: &String| wanted(&serde_json::from_str(line).unwrap());
        eventually_blocking(Duration::from_secs(5), || {
            self.gateway.decisions().iter().any(is_wanted)
        })
    }
}

fn decisions(gateway: &Gateway, count: usize) -> Vec<Value> {
    let written = || gateway.decisions().len() >= count;
    assert!(eventually_blocking(Duration::from_secs(5), written), "{:#?}", gateway.decisions());
    gateway.decisions().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn tunnel(proxy: SocketAddr, target: &str, fields: &str) -> Result<RawHttp, u16> {
    tunnel_over(RawHttp::connect(proxy).await.unwrap(), target, fields).await
}

async fn tunnel_over(mut client: RawHttp, target: &str, fields: &str) -> Result<RawHttp, u16> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n");
    client.send(request).await.unwrap();
    let answer = client.read_response_to("CONNECT").await.map_err(|_| 0u16)?;
    if answer.status == 200 { Ok(client) } else { Err(answer.status) }
}

/// A plain request for a URL.
fn get(url: &str) -> String {
    let authority = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    format!("GET {url} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// So many bytes that no two places look alike.
fn pattern_of(count: usize) -> Vec<u8> {
    (0..count as u64).map(durward_testkit::origin::pattern).collect()
}
