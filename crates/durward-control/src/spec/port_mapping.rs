//! The `PortMapping` document: external addresses and ports of a tenant that the kernel leads to endpoints.
//!
//! Deliberately absent: host names; the kernel knows addresses only.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::place::{At, Place};
use crate::spec::service::ServiceSpec;
use crate::spec::tenant::Metadata;
use crate::spec::upstream::HealthCheckSpec;

/// The kind of the documents read here.
pub const KIND: &str = "PortMapping";

/// External ports that reach endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "PortMapping")]
pub struct PortMappingDocument {
    /// `durward.dev/v1alpha1`
    pub api_version: At<String>,
    /// `PortMapping`
    pub kind: At<String>,
    /// Name, unique among its tenant's mappings.
    pub metadata: Metadata,
    /// External addresses and ports, and their endpoints.
    pub spec: PortMappingSpec,
}

/// External addresses and ports, and their endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMappingSpec {
    /// The tenant it belongs to, as its `Tenant` document calls it. An object of a cluster belongs to the tenant of its namespace, and need not say.
    #[serde(default)]
    pub tenant: Option<At<String>>,
    /// The external IP addresses, of either family. Each port is open on every one.
    #[serde(default)]
    pub addresses: Vec<At<String>>,
    /// Allows other tenants that also set it to use the same addresses, at other ports. Default: false.
    #[serde(default)]
    pub shared: bool,
    /// The external ports.
    #[serde(default)]
    pub ports: Vec<At<MappedPortSpec>>,
    /// Endpoints, for ports that name none themselves: `10.0.0.1`, `10.0.0.1:8080`, `[2001:db8::1]:8080`.
    #[serde(default)]
    pub endpoints: Vec<At<String>>,
    /// Networks that may connect; others are dropped without an answer. Default: all.
    #[serde(default)]
    pub allowed_sources: Option<At<Vec<At<String>>>>,
    /// Source address that endpoints see. Default: Preserve.
    #[serde(default)]
    pub source: Option<At<SourceSpec>>,
    /// Client affinity. Default: ClientIP if one of its Services has `sessionAffinity: ClientIP`, else None.
    #[serde(default)]
    pub affinity: Option<At<AffinitySpec>>,
    /// Time for which connections to a removed endpoint continue. Default: they are cut.
    #[serde(default)]
    pub drain: Option<At<String>>,
    /// Lets the endpoints' own outgoing traffic leave from the first address of each family. Default: false.
    #[serde(default)]
    pub egress: At<bool>,
    /// TCP connect checks of the endpoints of TCP ports: `interval`, `timeout`, `unhealthyAfter`, `healthyAfter`. Default: none.
    #[serde(default)]
    pub health_check: Option<At<HealthCheckSpec>>,
}

impl PortMappingSpec {
    /// Returns where the tenant is written, or else where the mapping begins to say something.
    #[must_use]
    pub fn place(&self) -> Place {
        let written = self.tenant.iter().chain(self.addresses.first()).map(|first| first.place);
        let port = self.ports.first().map(|port| port.place);
        written.chain(port).next().unwrap_or_default()
    }
}

/// A port or a range of ports.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MappedPortSpec {
    /// The external port, or the first of a range.
    pub port: At<u16>,
    /// The last port of the range. Default: the first.
    #[serde(default)]
    pub end_port: Option<At<u16>>,
    /// `TCP`, `UDP` or `SCTP`, in any case. Default: TCP.
    #[serde(default)]
    pub protocol: Option<At<String>>,
    /// The port of endpoints that name none. Default: the port the client asked for.
    #[serde(default)]
    pub target_port: Option<At<u16>>,
    /// A port of a Service, in place of `endpoints`: its ready pods, as they come and go.
    #[serde(default)]
    pub service: Option<At<ServiceSpec>>,
    /// Endpoints of this port. Default: the mapping's endpoints.
    #[serde(default)]
    pub endpoints: Option<At<Vec<At<String>>>>,
}

/// Source address that endpoints see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SourceSpec {
    /// The client. Answers must come back through this gateway.
    #[default]
    Preserve,
    /// The gateway's address towards the cluster.
    Gateway,
}

/// Client affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum AffinitySpec {
    /// Each connection is placed by itself.
    #[default]
    None,
    /// All connections of one client address go to one endpoint, while the endpoints stay the same.
    #[serde(rename = "ClientIP")]
    ClientIp,
}
