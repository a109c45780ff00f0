//! Upstreams of a tenant: endpoints, their verification, load balancing and retries.
//!
//! Deliberately absent: connections, resolved names and health; those live in the proxy.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::address::EgressAddress;
use crate::certificate::Certificate;
use crate::health::{HealthCheck, OutlierDetection};
use crate::origin::Origin;

/// Position of an upstream among its tenant's upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UpstreamIndex(pub usize);

/// One upstream of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Name within the tenant.
    pub name: Arc<str>,
    /// Endpoints; empty while their Service has none: requests are then answered with 503.
    pub endpoints: Vec<Endpoint>,
    /// The link through which endpoints are reached; their names mean what the agent takes them for. `None`: straight from the gateway.
    pub link: Option<Arc<str>>,
    /// Way to the endpoints beside the link, once its cluster's public endpoint is proven; `None` for the link alone.
    pub direct: Option<DirectRoute>,
    /// Protocol.
    pub protocol: UpstreamProtocol,
    /// TLS towards it, verified always.
    pub tls: Option<UpstreamTls>,
    /// The addresses connections to it leave from: the tenant's egress addresses or a part of them. Never empty.
    pub sources: Vec<EgressAddress>,
    /// Load balancing.
    pub balance: Balance,
    /// Active checks.
    pub health_check: Option<HealthCheck>,
    /// TLS of active checks, where clients' TLS is carried through to the endpoints and connections to them have none of ours.
    pub check_tls: Option<UpstreamTls>,
    /// Passive ejection.
    pub outlier: Option<OutlierDetection>,
    /// Retries of idempotent requests.
    pub retry: Retry,
    /// Idle connections kept per core, endpoint and source address.
    pub pool_idle: u32,
    /// Longest time for which an idle connection is kept.
    pub pool_idle_timeout: Duration,
    /// Longest pause between two bytes of a connection that is carried through; `None` for the tenant's `streamIdle`.
    pub stream_idle: Option<Duration>,
    /// PROXY protocol header sent at the start of each connection; forbids reuse for HTTP/1 and HTTP/2.
    pub send_proxy: Option<ProxyVersion>,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// Direct way to a registered route: requests go to the public endpoint of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectRoute {
    /// Host of the route: the name that the endpoint's certificate must carry.
    pub host: Arc<str>,
    /// Path that a proof asks for.
    pub path: Arc<str>,
    /// Whom to trust for that certificate.
    pub tls: UpstreamTls,
    /// True if an endpoint without TLS may be used.
    pub plaintext: bool,
}

/// Protocol of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, by ALPN over TLS and with prior knowledge without.
    Http2,
    /// Bytes.
    Tcp,
    /// Datagrams, over a link.
    Udp,
}

/// Versions of the PROXY protocol we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyVersion {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// A place to connect to and its share of the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The place.
    pub target: Target,
    /// Weight, from 1; 0 takes it out of rotation.
    pub weight: u32,
}

/// An address, or a name that is resolved again when its TTL ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Target {
    /// An address and port.
    Address(SocketAddr),
    /// A name and port.
    Name {
        /// Lower case, no trailing dot.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// TLS towards an upstream. There is no way to turn verification off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamTls {
    /// Whom to trust.
    pub roots: TrustRoots,
    /// The name or IP address the certificate must carry, and the SNI sent when it is a name. `None`: each endpoint's own.
    pub verify_name: Option<Arc<str>>,
    /// Client certificate, shown if the upstream asks for one.
    pub client_certificate: Option<Arc<Certificate>>,
    /// Refuse TLS 1.2.
    pub tls13_only: bool,
}

/// Whom an upstream's certificate must come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum TrustRoots {
    /// The host's own set.
    #[default]
    System,
    /// These, in DER, with their SHA-256 in hexadecimal.
    Private {
        /// The certificates.
        #[serde(skip)]
        roots: Vec<Arc<[u8]>>,
        /// SHA-256 over all of them, hexadecimal; part of `PoolKey`.
        generation: Arc<str>,
    },
}

/// Load balancing among healthy endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Balance {
    /// The less loaded of two drawn at random, by weight.
    #[default]
    PowerOfTwo,
    /// The least loaded of all.
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// By client address, so that one client stays with one endpoint.
    ClientHash,
}

/// Retries: idempotent requests only (RFC 9110 §9.2.2), nothing of the body sent twice that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    /// Retries may add at most this share to the tenant's requests, percent.
    pub budget_percent: u32,
    /// Also retry when the upstream answers one of these.
    pub on_status: Vec<u16>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 1, budget_percent: 20, on_status: Vec::new() }
    }
}
