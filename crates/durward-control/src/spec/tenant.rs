//! The `Tenant` document: one tenant, its doors in and out, and what it may use.
//!
//! Deliberately absent: secret values; certificates and keys are named, never written here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::place::At;
use crate::spec::egress::EgressSpec;
use crate::spec::ingress::IngressSpec;
use crate::spec::upstream::UpstreamSpec;

/// The version of the documents read here.
pub const API_VERSION: &str = "durward.dev/v1alpha1";
/// The kind of the documents read here.
pub const KIND: &str = "Tenant";

/// One tenant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Tenant")]
pub struct TenantDocument {
    /// `durward.dev/v1alpha1`
    pub api_version: At<String>,
    /// `Tenant`
    pub kind: At<String>,
    /// Name and labels.
    pub metadata: Metadata,
    /// Configuration of the tenant.
    pub spec: TenantSpec,
}

/// Name, creation time and labels of an object.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// 1 to 63 letters, digits, `-`, `_` or `.`, beginning and ending with a letter or digit.
    pub name: At<String>,
    /// When it was created (RFC 3339, UTC): of two tenants that claim one thing which neither has yet, the older gets it.
    #[serde(default)]
    pub creation_timestamp: Option<At<String>>,
    /// Free for your tools; not read.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Free for your tools; not read.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Configuration of a tenant.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantSpec {
    /// The namespace in which names of Secrets, `ConfigMap`s and Services are looked up; it must be the tenant's. Default: the one of the tenant's name.
    #[serde(default)]
    pub namespace: Option<At<String>>,
    /// The addresses its clients connect to, and what is served there.
    #[serde(default)]
    pub ingress: Vec<At<IngressSpec>>,
    /// Upstreams, by name.
    #[serde(default)]
    pub upstreams: BTreeMap<At<String>, At<UpstreamSpec>>,
    /// The addresses its traffic leaves from, and where it may go.
    #[serde(default)]
    pub egress: EgressSpec,
    /// Limits.
    #[serde(default)]
    pub limits: LimitsSpec,
}

/// Limits of a tenant. Without an entry there is no limit of that kind, except where a default is named.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsSpec {
    /// Open client connections at once.
    #[serde(default)]
    pub connections: Option<At<u32>>,
    /// Open client connections at once from one client address.
    #[serde(default)]
    pub connections_per_client: Option<At<u32>>,
    /// UDP sessions at once, 1 to 100,000. Default: 1000.
    #[serde(default)]
    pub udp_sessions: Option<At<u32>>,
    /// UDP sessions at once of one client address, or of one /64 of IPv6. Default: 100.
    #[serde(default)]
    pub udp_sessions_per_client: Option<At<u32>>,
    /// Requests per second, sustained.
    #[serde(default)]
    pub requests_per_second: Option<At<u32>>,
    /// Requests admitted at once above the sustained rate. Needs `requestsPerSecond`.
    #[serde(default)]
    pub burst: Option<At<u32>>,
    /// Towards clients, like `10MiB/s` or `100Mbit/s`.
    #[serde(default)]
    pub bandwidth_out: Option<At<String>>,
    /// From clients, like `10MiB/s` or `100Mbit/s`.
    #[serde(default)]
    pub bandwidth_in: Option<At<String>>,
    /// Connections to upstreams at once.
    #[serde(default)]
    pub upstream_connections: Option<At<u32>>,
    /// Requests waiting for or using upstreams at once.
    #[serde(default)]
    pub pending_requests: Option<At<u32>>,
    /// Size of a request's head, `1KiB` to `1MiB`. Default: `64KiB`.
    #[serde(default)]
    pub header_bytes: Option<At<String>>,
    /// Fields of a request's head, 1 to 1000. Default: 128.
    #[serde(default)]
    pub header_fields: Option<At<u32>>,
    /// Size of a request's body, like `10MiB`.
    #[serde(default)]
    pub body_bytes: Option<At<String>>,
    /// HTTP/2 streams of one connection at once, 1 to 10000. Default: 128.
    #[serde(default)]
    pub http2_streams: Option<At<u32>>,
    /// Timeouts: the longest time of each wait for a peer.
    #[serde(default)]
    pub timeouts: TimeoutsSpec,
}

/// Timeouts: the longest time of each wait for a peer, like `10s`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeoutsSpec {
    /// From accept to a finished TLS handshake. Default: `10s`.
    #[serde(default)]
    pub handshake: Option<At<String>>,
    /// From a request's first byte to the end of its head. Default: `10s`.
    #[serde(default)]
    pub header: Option<At<String>>,
    /// Between requests of a connection. Default: `75s`.
    #[serde(default)]
    pub idle: Option<At<String>>,
    /// Between two bytes of a body or tunnel. Default: `5m`.
    #[serde(default)]
    pub stream_idle: Option<At<String>>,
    /// Between two datagrams of a UDP session, `1s` to `1h`. Default: `5m`.
    #[serde(default)]
    pub udp_idle: Option<At<String>>,
    /// To connect to an upstream, TLS included. Default: `5s`.
    #[serde(default)]
    pub connect: Option<At<String>>,
    /// From a request's end to the response's head. Default: `60s`.
    #[serde(default)]
    pub response: Option<At<String>>,
    /// Of a whole request. Default: none.
    #[serde(default)]
    pub request: Option<At<String>>,
}
