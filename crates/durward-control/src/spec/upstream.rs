//! One entry of `spec.upstreams`: endpoints, how they are verified, chosen, checked and retried.
//!
//! Deliberately absent: a switch that turns verification off.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::place::At;
use crate::spec::ingress::{CertificateSpec, TlsVersionSpec};
use crate::spec::service::ServiceSpec;

/// Endpoints of a tenant's requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamSpec {
    /// The places: `10.0.0.1:8080`, `10.0.0.1`, `pay.internal:8080`, or `{address, weight}`.
    #[serde(default)]
    pub endpoints: Vec<At<EndpointSpec>>,
    /// A port of a Service, in place of `endpoints`: its ready pods, as they come and go.
    #[serde(default)]
    pub service: Option<At<ServiceSpec>>,
    /// Reach the endpoints through this link: its agent looks names up and connects. Default: straight from the gateway.
    #[serde(default)]
    pub link: Option<At<String>>,
    /// For endpoints that name none. Default: 443 with TLS, 80 without; TCP must say.
    #[serde(default)]
    pub port: Option<At<u16>>,
    /// Protocol. Default: HTTP1, or TCP where only TCP and TLS listeners use it.
    #[serde(default)]
    pub protocol: Option<At<UpstreamProtocolSpec>>,
    /// TLS towards it, verified.
    #[serde(default)]
    pub tls: Option<At<UpstreamTlsSpec>>,
    /// Active checks.
    #[serde(default)]
    pub health_check: Option<At<HealthCheckSpec>>,
    /// Passive ejection of endpoints that fail real requests.
    #[serde(default)]
    pub outlier_detection: Option<At<OutlierSpec>>,
    /// Load balancing. Default: PowerOfTwo.
    #[serde(default)]
    pub balance: Option<BalanceSpec>,
    /// Retries of idempotent requests.
    #[serde(default)]
    pub retries: RetriesSpec,
    /// Idle connections.
    #[serde(default)]
    pub pool: PoolSpec,
    /// A PROXY protocol header is sent first. Default: none.
    #[serde(default)]
    pub send_proxy_protocol: Option<At<ProxyProtocolSpec>>,
    /// Which of the tenant's egress addresses connections leave from. Default: all.
    #[serde(default)]
    pub source_addresses: Vec<At<String>>,
}

/// A place to connect to.
#[derive(Clone, Debug, Default)]
pub struct EndpointSpec {
    /// `10.0.0.1:8080`, `[2001:db8::1]:8080`, `pay.internal:8080`, or one of them without the port.
    pub address: At<String>,
    /// Weight. Default: 1; 0 takes it out of rotation.
    pub weight: Option<u32>,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EndpointObject {
    /// `10.0.0.1:8080`, `pay.internal:8080`, or one of them without the port.
    address: At<String>,
    /// Weight. Default: 1; 0 takes it out of rotation.
    #[serde(default)]
    weight: Option<u32>,
}

impl<'de> Deserialize<'de> for EndpointSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EndpointVisitor)
    }
}

impl Serialize for EndpointSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { address, weight } = self;
        match weight {
            None => address.serialize(serializer),
            Some(_) => {
                EndpointObject { address: address.clone(), weight: *weight }.serialize(serializer)
            }
        }
    }
}

struct EndpointVisitor;

impl<'de> Visitor<'de> for EndpointVisitor {
    type Value = EndpointSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an endpoint like 10.0.0.1:8080, or {address, weight}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<EndpointSpec, E> {
        Ok(EndpointSpec { address: At { value: text.to_owned(), ..At::default() }, weight: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointSpec, A::Error> {
        let object = EndpointObject::deserialize(MapAccessDeserializer::new(map))?;
        Ok(EndpointSpec { address: object.address, weight: object.weight })
    }
}

impl JsonSchema for EndpointSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EndpointSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let object = generator.subschema_for::<EndpointObject>();
        json_schema!({ "description": "A place to connect to.", "anyOf": [{ "type": "string" }, object] })
    }
}

/// Protocol of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum UpstreamProtocolSpec {
    /// HTTP/1.1.
    #[serde(rename = "HTTP1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "HTTP2")]
    Http2,
    /// Bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams; needs `link`.
    #[serde(rename = "UDP")]
    Udp,
}

/// TLS towards an upstream. There is no way to turn verification off.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamTlsSpec {
    /// Authorities to trust, PEM. Default: the host's own set.
    #[serde(default)]
    pub ca_file: Option<At<String>>,
    /// The name or IP address the certificate must carry, and the SNI. Default: each endpoint's own.
    #[serde(default)]
    pub verify_name: Option<At<String>>,
    /// Client certificate, shown if the endpoint asks for one.
    #[serde(default)]
    pub client_certificate: Option<At<CertificateSpec>>,
    /// Oldest TLS version. Default: 1.2.
    #[serde(default)]
    pub min_tls_version: Option<At<TlsVersionSpec>>,
}

/// An active check; one of `path`, `tcp` and `tls`. Default: `tcp`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheckSpec {
    /// A GET of this path is answered with a status in `expectedStatus`.
    #[serde(default)]
    pub path: Option<At<String>>,
    /// A TCP connection is accepted.
    #[serde(default)]
    pub tcp: Option<At<bool>>,
    /// A TLS handshake succeeds.
    #[serde(default)]
    pub tls: Option<At<bool>>,
    /// Between two checks of one endpoint. Default: `5s`.
    #[serde(default)]
    pub interval: Option<At<String>>,
    /// For one check, connect included. Default: `2s`.
    #[serde(default)]
    pub timeout: Option<At<String>>,
    /// Failures in a row that eject. Default: 3.
    #[serde(default)]
    pub unhealthy_after: Option<At<u32>>,
    /// Successes in a row that restore. Default: 2.
    #[serde(default)]
    pub healthy_after: Option<At<u32>>,
    /// With `path`: a status or a range of them. Default: `200-299`.
    #[serde(default)]
    pub expected_status: Option<At<String>>,
    /// With `path`: the `Host` sent. Default: the endpoint's address.
    #[serde(default)]
    pub host: Option<At<String>>,
}

/// Passive ejection.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierSpec {
    /// Failures in a row that eject. Default: 5.
    #[serde(default)]
    pub consecutive_failures: Option<At<u32>>,
    /// The first rest; doubles each time. Default: `10s`.
    #[serde(default)]
    pub base_ejection: Option<At<String>>,
    /// Share of endpoints ejected at once, percent, 1 to 100. Default: 50.
    #[serde(default)]
    pub max_ejected_percent: Option<At<u8>>,
}

/// Load balancing among healthy endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum BalanceSpec {
    /// The less loaded of two drawn at random.
    #[default]
    PowerOfTwo,
    /// The least loaded of all.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By client address.
    ClientHash,
}

/// Retries of idempotent requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetriesSpec {
    /// Tries after the first, 0 to 10. Default: 1.
    #[serde(default)]
    pub attempts: Option<At<u32>>,
    /// Share retries may add to the tenant's requests, percent, 0 to 100. Default: 20.
    #[serde(default)]
    pub budget_percent: Option<At<u32>>,
    /// Also retry on these statuses, 500 to 599.
    #[serde(default)]
    pub on_status: Vec<At<u16>>,
}

/// Idle connections kept for reuse.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolSpec {
    /// Kept per core, endpoint and source address, 0 to 10000. Default: 64.
    #[serde(default)]
    pub idle_per_core: Option<At<u32>>,
    /// Longest idle time of a connection in the pool. Default: `60s`.
    #[serde(default)]
    pub idle_timeout: Option<At<String>>,
}

/// Versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ProxyProtocolSpec {
    /// The text form.
    #[serde(rename = "v1")]
    V1,
    /// The binary form.
    #[serde(rename = "v2")]
    V2,
}
