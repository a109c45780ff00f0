//! The `HostedApi` document: a Kubernetes API server that is hosted for a tenant, its names, and how its tenant cluster's pods reach it.
//!
//! Deliberately absent: what is served inside its TLS sessions, which end in the API server.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::place::{At, Place};
use crate::spec::api_proxy::ApiProxySpec;
use crate::spec::ingress::{CertificateSpec, ListenSpec};
use crate::spec::publish::PublishSpec;
use crate::spec::service::ServiceSpec;
use crate::spec::tenant::Metadata;
use crate::spec::upstream::{EndpointSpec, HealthCheckSpec};

/// The kind of the documents read here.
pub const KIND: &str = "HostedApi";

/// A hosted Kubernetes API server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "HostedApi")]
pub struct HostedApiDocument {
    /// `durward.dev/v1alpha1`
    pub api_version: At<String>,
    /// `HostedApi`
    pub kind: At<String>,
    /// Name, unique among its tenant's hosted API servers.
    pub metadata: Metadata,
    /// Server names and endpoints.
    pub spec: HostedApiSpec,
}

/// Names of a hosted API server, and what is behind them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostedApiSpec {
    /// The tenant it belongs to, as its `Tenant` document calls it. An object of a cluster belongs to the tenant of its namespace, and need not say.
    #[serde(default)]
    pub tenant: Option<At<String>>,
    /// The host names that clients ask for by SNI, `t1.api.example.com`. A tenant cluster's API proxy asks for the first of them.
    #[serde(default)]
    pub names: Vec<At<String>>,
    /// The IP address that clients know. Default: that of the entry in `spec.ingress` of the Tenant that has `acceptHostedApis` and these names.
    #[serde(default)]
    pub address: Option<At<String>>,
    /// The port that clients know; with `address`. Default: 443.
    #[serde(default)]
    pub port: Option<At<u16>>,
    /// Whether other API servers and tenants have other names at the same address and port. Default: true. With false the address and port are this API
    /// server's alone, and clients need not send a name.
    #[serde(default)]
    pub shared: Option<At<bool>>,
    /// Socket that accepts the connections. Default: bound on the address and port themselves.
    #[serde(default)]
    pub listen: Option<At<ListenSpec>>,
    /// The API server's endpoints.
    pub upstream: At<ApiUpstreamSpec>,
    /// The konnectivity server, if it has one.
    #[serde(default)]
    pub konnectivity: Option<At<KonnectivitySpec>>,
    /// Networks that may connect, clients and API proxies alike. Default: all.
    #[serde(default)]
    pub allowed_sources: Option<At<Vec<At<String>>>>,
    /// Admission of the tenant cluster's API proxies. Default: none are admitted.
    #[serde(default)]
    pub relay: Option<At<RelaySpec>>,
    /// How the tenant cluster's pods reach it, with `apiProxy`. Default: Advertised.
    #[serde(default)]
    pub mode: Option<At<ModeSpec>>,
    /// What `durward api-addons` installs in the tenant cluster. Default: nothing.
    #[serde(default)]
    pub api_proxy: Option<At<ApiProxySpec>>,
    /// The Secret with a kubeconfig of the tenant cluster, in its key `kubeconfig`, `admin.conf`, `admin.svc` or `value`, by which its API proxies are installed.
    #[serde(default)]
    pub kubeconfig_secret_name: Option<At<String>>,
    /// Routes that are written for an ingress controller of others, by `durward api-addons` or `durward api routes`. Default: none.
    #[serde(default)]
    pub publish: Option<At<PublishSpec>>,
    /// Longest time without a byte on a connection. Default: `24h`; dead peers are detected earlier, by TCP keep-alive.
    #[serde(default)]
    pub idle_timeout: Option<At<String>>,
}

/// Endpoints of an API server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiUpstreamSpec {
    /// The places: `10.0.0.1:6443`, `api-0.internal`, or `{address, weight}`; without a port it is 6443.
    #[serde(default)]
    pub endpoints: Vec<At<EndpointSpec>>,
    /// A port of a Service, in place of `endpoints`: its ready pods, as they come and go.
    #[serde(default)]
    pub service: Option<At<ServiceSpec>>,
    /// Authorities of the API server's certificate, PEM. With them checks ask for `/readyz` over verified TLS; without, whether a TLS server answers.
    #[serde(default)]
    pub ca_file: Option<At<String>>,
    /// The name that its certificate must carry for the checks. Default: `kubernetes`.
    #[serde(default)]
    pub verify_name: Option<At<String>>,
    /// Health checks of endpoints: `interval`, `timeout`, `unhealthyAfter`, `healthyAfter`.
    #[serde(default)]
    pub health_check: Option<At<HealthCheckSpec>>,
}

/// A konnectivity server, which its agents reach by a name of its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KonnectivitySpec {
    /// The host name that agents ask for by SNI.
    pub name: At<String>,
    /// Endpoints: `10.0.0.1:8132`, `konnectivity.internal`, or `{address, weight}`; without a port it is 8132.
    #[serde(default)]
    pub endpoints: Vec<At<EndpointSpec>>,
    /// A port of a Service, in place of `endpoints`.
    #[serde(default)]
    pub service: Option<At<ServiceSpec>>,
}

/// Admission of the tenant cluster's API proxies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelaySpec {
    /// The certificate that they are shown, for the first of the names. It is the gateway's, not the API server's.
    pub certificate: At<CertificateSpec>,
    /// The authorities of their certificates; use an authority for this API server alone.
    pub client_authorities: At<ClientAuthoritiesSpec>,
}

/// Authorities of client certificates.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientAuthoritiesSpec {
    /// The authorities, PEM. Relative to the document.
    #[serde(default)]
    pub ca_file: Option<At<String>>,
    /// Several files, for an overlap while an authority is replaced.
    #[serde(default)]
    pub ca_files: Vec<At<String>>,
    /// A certificate revocation list, PEM or DER.
    #[serde(default)]
    pub crl_file: Option<At<String>>,
    /// Several revocation lists.
    #[serde(default)]
    pub crl_files: Vec<At<String>>,
}

/// Way in which the tenant cluster's pods reach the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ModeSpec {
    /// By an address on a device of every node, which the API server advertises.
    #[default]
    Advertised,
    /// By the nodes' addresses, which the API proxies keep in the slice of the Service `kubernetes`.
    Slice,
    /// By API proxies that end TLS with the API server's own certificate, for gateways of others. Client certificates are lost.
    Reoriginate,
}

impl HostedApiSpec {
    /// Returns where the tenant is written, or else where the document begins to say something.
    #[must_use]
    pub fn place(&self) -> Place {
        let written = self.tenant.as_ref().or_else(|| self.names.first());
        written.or(self.address.as_ref()).map_or(self.upstream.place, |written| written.place)
    }
}

/// Returns whether pods of every cluster ask for the name.
#[must_use]
pub fn is_in_every_cluster(name: &str) -> bool {
    let mut labels = name.split('.');
    labels.next() == Some("kubernetes")
        && labels.next().is_none_or(|second| second == "default")
        && labels.next().is_none_or(|third| third == "svc")
}
