//! Stage of the attack: two tenants with ingress and egress on loopback addresses, and one partner that answers with the client address it sees.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durward_control::{FileSource, RoutingJsonOptions, compile};
use durward_proxy::access_log::Sink;
use durward_proxy::metrics::openmetrics::Text;
use durward_proxy::proxy::{Options, Proxy};
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::getpid;

use crate::failure::Failure;
use crate::inspect::now;

/// One of the two tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) name: &'static str,
    /// Ingress and egress address.
    pub(super) address: Ipv4Addr,
    /// Secret of its credential.
    pub(super) secret: &'static str,
    /// SHA-256 of the secret.
    hash: &'static str,
}

/// Ports of every tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) ingress: u16,
    /// Port of the proxy for clients on loopback.
    pub(super) proxy: u16,
    /// Port of the proxy that requires a credential.
    pub(super) guarded: u16,
}

/// Running partner and gateway.
pub(super) struct Stage {
    pub(super) sides: [Side; 2],
    pub(super) ports: Ports,
    pub(super) partner: SocketAddr,
    proxy: Proxy,
    // Documents and credentials; removed on drop.
    _directory: tempfile::TempDir,
}

impl Stage {
    /// Starts the partner and the gateway, within a runtime.
    pub(super) async fn open() -> Result<Self, Failure> {
        let sides = sides();
        let ports = ports(&sides)?;
        let partner = partner().await?;
        let directory = tempfile::Builder::new()
            .prefix("durward-prove-")
            .tempdir()
            .map_err(|error| Failure::broken("making a temporary directory", error))?;
        for side in &sides {
            let write = |name: String, text: String| {
                let path = directory.path().join(name);
                std::fs::write(&path, text)
                    .map_err(|error| Failure::broken(format!("writing {}", path.display()), error))
            };
            write(format!("{}.keys", side.name), format!("{}:{}\n", side.name, side.hash))?;
            write(format!("{}.yaml", side.name), document(*side, ports, partner))?;
        }
        let source = FileSource::new(RoutingJsonOptions::default());
        let compiled = compile(&source.load(&[directory.path().to_owned()]), None, now());
        let proxy = Proxy::start(Options {
            workers: 2,
            access_log: Sink::none(),
            decisions: Sink::none(),
            inherited: Vec::new(),
            shared: false,
            memory: None,
            drain_grace: Duration::from_secs(1),
            registry: None,
            direct_networks: Vec::new(),
        })
        .map_err(|error| Failure::broken("starting the gateway to attack", error))?;
        let applied = proxy.apply(Arc::clone(&compiled.snapshot));
        let whole = compiled.verdicts.all_accepted() && applied.problems.is_empty();
        if !whole {
            return Err(Failure::broken(
                "starting the gateway to attack",
                "its configuration is refused",
            ));
        }
        Ok(Self { sides, ports, partner, proxy, _directory: directory })
    }

    /// Returns the metrics of the proxy.
    pub(super) fn metrics_text(&self) -> String {
        let mut text = Text::default();
        self.proxy.write_metrics(&mut text);
        text.end()
    }

    /// Ends the gateway.
    pub(super) fn close(self) {
        self.proxy.drain(Duration::from_millis(200));
    }
}

/// Returns addresses that differ from run to run, so that two concurrent runs do not collide.
fn sides() -> [Side; 2] {
    let [.., high, low] = getpid().as_raw_nonzero().get().to_be_bytes();
    let address = |last: u8| Ipv4Addr::new(127, 96 + (high & 31), low, last);
    [
        Side {
            name: "acme",
            address: address(2),
            secret: "acme-secret",
            hash: "307c609f87da43c3d563428a4f7efdf9857f4871fd10465732c4ab11a985a08c",
        },
        Side {
            name: "globex",
            address: address(3),
            secret: "globex-secret",
            hash: "4fe6ae1bd397d68b149f8a86069f5e6806a937d7d0b2f31830c48008b268bda0",
        },
    ]
}

fn ports(sides: &[Side; 2]) -> Result<Ports, Failure> {
    let mut kept = Vec::new();
    let mut free = || {
        let port = free_port(sides, &mut kept);
        port.map_err(|error| Failure::broken("looking for free ports", error))
    };
    Ok(Ports { ingress: free()?, proxy: free()?, guarded: free()? })
}

/// Returns a port that is free at both addresses; `kept` reserves it until all are found.
fn free_port(sides: &[Side; 2], kept: &mut Vec<[TcpListener; 2]>) -> io::Result<u16> {
    loop {
        let first = TcpListener::bind((sides[0].address, 0))?;
        let port = first.local_addr()?.port();
        if let Ok(second) = TcpListener::bind((sides[1].address, port)) {
            kept.push([first, second]);
            return Ok(port);
        }
    }
}

fn document(side: Side, ports: Ports, partner: SocketAddr) -> String {
    let Side { name, address, .. } = side;
    let Ports { ingress, proxy, guarded } = ports;
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    \
         - {{address: {address}, port: {ingress}, protocol: HTTP, upstream: partner}}\n  upstreams:\n    \
         partner: {{endpoints: [\"{partner}\"]}}\n  egress:\n    addresses: [{address}]\n    proxy:\n      \
         - {{address: {address}, port: {proxy}, allowedSources: [127.0.0.0/8]}}\n      \
         - {{address: {address}, port: {guarded}, credentials: {{file: {name}.keys}}}}\n    \
         allow:\n      - {{cidr: {}, ports: [{}]}}\n",
        partner.ip(),
        partner.port()
    )
}

/// Answers every request with its source address.
async fn partner() -> Result<SocketAddr, Failure> {
    let broken = |error| Failure::broken("opening the partner", error);
    let listener = tokio::net::TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).await;
    let listener = listener.map_err(broken)?;
    let address = listener.local_addr().map_err(broken)?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, peer)) = listener.accept().await else { continue };
            let seen = Bytes::from(peer.ip().to_string());
            let service = service_fn(move |_| {
                let body = Full::new(seen.clone());
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            tokio::spawn(async move {
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    Ok(address)
}
