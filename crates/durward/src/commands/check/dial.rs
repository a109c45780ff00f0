//! Dials upstreams as the gateway does: from the tenant's own address, verifying TLS as configured.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_model::address::EgressAddress;
use durward_model::upstream::{Endpoint, Target, TrustRoots, UpstreamProtocol, UpstreamTls};
use durward_model::{Snapshot, Tenant, Upstream};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::commands::check::report::Mark;
use crate::commands::check::{Category, Missing};
use crate::inspect;

/// Concurrent connections at most.
const AT_ONCE: usize = 64;

/// Result of one endpoint.
struct Dialled {
    mark: Mark,
    sentence: String,
    hint: String,
}

/// Dials all upstreams of all tenants.
pub(crate) async fn check(snapshot: &Snapshot, missing: &Missing, timeout: Duration) -> Category {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut dials = JoinSet::new();
    let mut order = 0_usize;
    for tenant in snapshot.tenants.values() {
        for upstream in &tenant.upstreams {
            for endpoint in &upstream.endpoints {
                let (permits, missing) = (Arc::clone(&permits), missing.clone());
                let (tenant, upstream, endpoint) =
                    (Arc::clone(tenant), Arc::clone(upstream), endpoint.clone());
                let at = order;
                order += 1;
                dials.spawn(async move {
                    // The semaphore is never closed.
                    let _permit = permits.acquire().await;
                    (at, endpoint_check(&tenant, &upstream, &endpoint, &missing, timeout).await)
                });
            }
        }
    }
    let mut results = BTreeMap::new();
    while let Some(done) = dials.join_next().await {
        if let Ok((at, dialled)) = done {
            results.insert(at, dialled);
        }
    }
    let mut category = Category::new("upstreams");
    for dialled in results.into_values() {
        category.add(dialled.mark, dialled.sentence, dialled.hint);
    }
    category
}

/// Dials the endpoints of one upstream.
pub(crate) async fn upstream(
    category: &mut Category,
    tenant: &Tenant,
    upstream: &Upstream,
    missing: &Missing,
    timeout: Duration,
) {
    for endpoint in &upstream.endpoints {
        let dialled = endpoint_check(tenant, upstream, endpoint, missing, timeout).await;
        category.add(dialled.mark, dialled.sentence, dialled.hint);
    }
}

async fn endpoint_check(
    tenant: &Tenant,
    upstream: &Upstream,
    endpoint: &Endpoint,
    missing: &Missing,
    timeout: Duration,
) -> Dialled {
    let name = format!("{} upstream {} at {}", tenant.id, upstream.name, endpoint.target);
    let verdict =
        |mark, sentence: String, hint: &str| Dialled { mark, sentence, hint: hint.to_owned() };
    if let Some(link) = &upstream.link {
        let sentence =
            format!("{name}: behind the link {link}, so its agent connects, not this host");
        return verdict(Mark::Ok, sentence, "");
    }
    let peers = match resolve(&endpoint.target, timeout).await {
        Ok(peers) => peers,
        Err(error) => {
            return verdict(
                Mark::Error,
                format!("{name}: the name cannot be looked up: {error}"),
                "look at the name and this host's resolver",
            );
        }
    };
    let route = peers.iter().find_map(|peer| Some((*peer, source_for(upstream, *peer, missing)?)));
    let Some((peer, source)) = route else {
        return verdict(
            Mark::Warning,
            format!(
                "{name}: not dialled, because no egress address of its IP family is on this host"
            ),
            "add the egress address first; nothing ever leaves from another one",
        );
    };
    match tokio::time::timeout(timeout, reach(upstream, &endpoint.target, peer, source)).await {
        Ok(Ok(how)) => verdict(Mark::Ok, format!("{name}: reached from {source}{how}"), ""),
        Ok(Err(Unreached::Tcp(error))) => verdict(
            Mark::Error,
            format!("{name}: cannot be reached from {source}: {error}"),
            "does it listen there, and does it admit this source address?",
        ),
        Ok(Err(Unreached::Tls(error))) => verdict(
            Mark::Error,
            format!("{name}: TLS fails: {error}"),
            "check caFile, verifyName and clientCertificate in its tls settings",
        ),
        Err(_) => verdict(
            Mark::Error,
            format!("{name}: no answer to {source} within {timeout:?}"),
            "a firewall that drops, or no route back to this source address",
        ),
    }
}

enum Unreached {
    Tcp(std::io::Error),
    Tls(String),
}

async fn resolve(target: &Target, timeout: Duration) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = match target {
        Target::Address(address) => return Ok(vec![*address]),
        Target::Name { host, port } => (host, *port),
    };
    let found = tokio::time::timeout(timeout, tokio::net::lookup_host((&**host, port))).await;
    match found {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

fn source_for(upstream: &Upstream, peer: SocketAddr, missing: &Missing) -> Option<EgressAddress> {
    let here = |source: &&EgressAddress| source.reaches(peer.ip()) && !missing.contains(&source.0);
    upstream.sources.iter().find(here).copied()
}

/// Connects and describes the TLS session.
async fn reach(
    upstream: &Upstream,
    target: &Target,
    peer: SocketAddr,
    source: EgressAddress,
) -> Result<String, Unreached> {
    let stream = connect(peer, source).await.map_err(Unreached::Tcp)?;
    let Some(tls) = &upstream.tls else { return Ok(String::new()) };
    let name = verify_name(tls, target);
    let server = ServerName::try_from(name.clone())
        .map_err(|_| Unreached::Tls(format!("{name:?} cannot be in a certificate")))?;
    let config = client_config(upstream, tls).map_err(Unreached::Tls)?;
    let session = TlsConnector::from(Arc::new(config))
        .connect(server, stream)
        .await
        .map_err(|error| Unreached::Tls(error.to_string()))?;
    let version = match session.get_ref().1.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS 1.2",
    };
    Ok(format!(", {version} verified as {name}"))
}

async fn connect(peer: SocketAddr, source: EgressAddress) -> std::io::Result<TcpStream> {
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source.0, 0))?;
    socket.connect(peer).await
}

fn verify_name(tls: &UpstreamTls, target: &Target) -> String {
    match (&tls.verify_name, target) {
        (Some(name), _) => name.to_string(),
        (None, Target::Name { host, .. }) => host.to_string(),
        (None, Target::Address(address)) => address.ip().to_string(),
    }
}

fn client_config(upstream: &Upstream, tls: &UpstreamTls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[_] =
        if tls.tls13_only { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(&tls.roots)?);
    let mut config = match &tls.client_certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => builder
            .with_client_auth_cert(
                inspect::certificates(certificate),
                inspect::private_key(certificate),
            )
            .map_err(|error| error.to_string())?,
    };
    if upstream.protocol == UpstreamProtocol::Http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(config)
}

fn roots(trust: &TrustRoots) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match trust {
        TrustRoots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        TrustRoots::Private { roots, .. } => {
            store.add_parsable_certificates(
                roots.iter().map(|der| CertificateDer::from(der.to_vec())),
            );
        }
    }
    if store.is_empty() { Err("no authority is trusted".to_owned()) } else { Ok(store) }
}
