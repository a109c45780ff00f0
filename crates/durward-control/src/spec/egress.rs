//! `spec.egress`: the addresses a tenant's traffic leaves from, the proxy it goes through, and where it may go.
//!
//! Deliberately absent: secrets; of clients' credentials only hashes are read, from files.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::place::At;
use crate::spec::ingress::{
    AlpnSpec, CertificateSpec, ClientCertificatesSpec, IngressSpec, IpSanSpec, ListenSpec,
    ProtocolSpec, TlsVersionSpec,
};

/// The addresses a tenant's traffic leaves from, and where it may go.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressSpec {
    /// IP addresses. They need not be on the host yet.
    #[serde(default)]
    pub addresses: Vec<At<String>>,
    /// Allows other tenants that also set it to use the same addresses. Default: false.
    #[serde(default)]
    pub shared: bool,
    /// Networks of the tenant's pods or machines: what they send through this host leaves from the addresses. Who is in no
    /// tenant's list does not leave.
    #[serde(default)]
    pub sources: Vec<At<String>>,
    /// Traffic of `sources` that is handed to the tenant's forward proxy, for programs that know no proxy. Default: none.
    #[serde(default)]
    pub transparent: Option<At<TransparentSpec>>,
    /// Addresses and ports of the tenant's forward proxy. Default: none.
    #[serde(default)]
    pub proxy: Vec<At<ProxySpec>>,
    /// Enforcement mode of the rules. Default: Enforce.
    #[serde(default)]
    pub mode: Option<At<ModeSpec>>,
    /// Rules for what the tenant may reach through the forward proxy. A destination that no rule names is denied.
    #[serde(default)]
    pub allow: Option<At<Vec<At<RuleSpec>>>>,
    /// Rules for what the tenant may not reach, whatever `allow` says.
    #[serde(default)]
    pub deny: Option<At<Vec<At<RuleSpec>>>>,
    /// Contact that is shown to clients that are denied.
    #[serde(default)]
    pub contact: Option<At<String>>,
    /// Requires that a tunnel begins with a ClientHello for the host that was asked for. Default: false.
    #[serde(default)]
    pub sni_must_match: Option<At<bool>>,
    /// DNS servers, like `10.0.0.53`, `10.0.0.53:5353` or `tls://10.0.0.53#dns.example`, asked in this order. Default: those of the host.
    #[serde(default)]
    pub resolvers: Vec<At<String>>,
    /// The authorities of DNS servers that are asked by TLS, PEM. Default: the host's own set. Relative to the document.
    #[serde(default)]
    pub resolver_ca_file: Option<At<String>>,
    /// Other proxies to go through; the first that is for the host.
    #[serde(default)]
    pub parents: Vec<At<ParentSpec>>,
}

/// Traffic of `sources` that the kernel hands to the forward proxy, and treatment of the rest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransparentSpec {
    /// TCP ports at which HTTP is expected; each request is judged by its `Host`. Default: 80.
    #[serde(default)]
    pub http: Option<At<Vec<At<u16>>>>,
    /// TCP ports at which TLS is expected, judged by the name its ClientHello asks for; UDP to them is refused. Default: 443.
    #[serde(default)]
    pub tls: Option<At<Vec<At<u16>>>>,
    /// Treatment of all other traffic: other ports, other protocols. Default: Deny.
    #[serde(default)]
    pub others: OthersSpec,
}

/// Treatment of traffic that is not handed to the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum OthersSpec {
    /// Refused.
    #[default]
    Deny,
    /// Leaves from the tenant's addresses; no rule is evaluated.
    Translate,
}

/// Address and port of a tenant's forward proxy, and how its clients authenticate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxySpec {
    /// The IP address clients know.
    pub address: At<String>,
    /// The port clients know. Default: 3128.
    #[serde(default)]
    pub port: Option<At<u16>>,
    /// Allows other tenants that also set it to use the same address; proxies also at the same port, if clients can be distinguished.
    /// Default: false.
    #[serde(default)]
    pub shared: bool,
    /// Socket that accepts the connections. Default: bound on the address and port themselves.
    #[serde(default)]
    pub listen: Option<At<ListenSpec>>,
    /// Networks clients may connect from. Default: all.
    #[serde(default)]
    pub allowed_sources: Option<At<Vec<At<String>>>>,
    /// Names and hashes of secrets, shown in `Proxy-Authorization` or to SOCKS. Default: none is asked for.
    #[serde(default)]
    pub credentials: Option<At<CredentialsSpec>>,
    /// The certificate shown to clients: the proxy then speaks TLS.
    #[serde(default)]
    pub certificate: Option<At<CertificateSpec>>,
    /// Several certificates, chosen by SNI; the first answers clients that name none of them.
    #[serde(default)]
    pub certificates: Vec<At<CertificateSpec>>,
    /// Action if the certificate does not name the address. Default: Refuse.
    #[serde(default)]
    pub ip_san: Option<IpSanSpec>,
    /// Oldest TLS version accepted. Default: 1.2.
    #[serde(default)]
    pub min_tls_version: Option<At<TlsVersionSpec>>,
    /// Offered by ALPN, most wanted first. Default: h2, http/1.1; http/1.1 alone where credentials tell tenants apart.
    #[serde(default)]
    pub alpn: Option<At<Vec<At<AlpnSpec>>>>,
    /// Client certificates that are required. Default: none.
    #[serde(default)]
    pub client_certificates: Option<At<ClientCertificatesSpec>>,
    /// Names of which a client certificate must have one: common name, DNS name or URI; a `*` at the end stands for any rest.
    #[serde(default)]
    pub certificate_names: Vec<At<String>>,
}

/// Clients' credentials.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialsSpec {
    /// Lines of `NAME:HASH`, the hash being the secret's SHA-256 in hexadecimal. Relative to the document.
    pub file: At<String>,
}

/// Enforcement mode of the rules. Guarded addresses stay guarded in each mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ModeSpec {
    /// Denies what the rules do not allow.
    #[default]
    Enforce,
    /// Lets it through, and records it as what would be denied.
    Report,
    /// The rules are not asked.
    Open,
}

/// A rule of the forward proxy. Of each kind that is written, one entry must match.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// Name in records and on the error page. Default: its position, like `allow[0]`.
    #[serde(default)]
    pub name: Option<At<String>>,
    /// A host name, `*.example.com` for all below it, `.example.com` for both, `*` for every name.
    #[serde(default)]
    pub host: Option<At<String>>,
    /// Several of them.
    #[serde(default)]
    pub hosts: Vec<At<String>>,
    /// A file of names as in `hosts`, one a line; `#` begins a comment. A list without a name matches nothing. Relative to the document.
    #[serde(default)]
    pub hosts_file: Option<At<String>>,
    /// A block of addresses, or one: all that a name stands for must be in it.
    #[serde(default)]
    pub cidr: Option<At<String>>,
    /// Several of them.
    #[serde(default)]
    pub cidrs: Vec<At<String>>,
    /// Ports and ranges like `8000-8100`. Default: in `allow` 443 for tunnels and 80 for plain requests, in `deny` all.
    #[serde(default)]
    pub ports: Vec<At<PortsSpec>>,
    /// Methods of plain requests; `CONNECT` stands for tunnels. Default: all.
    #[serde(default)]
    pub methods: Vec<At<String>>,
}

/// A port or a range of ports, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortsSpec(pub String);

impl<'de> Deserialize<'de> for PortsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortsVisitor)
    }
}

struct PortsVisitor;

impl Visitor<'_> for PortsVisitor {
    type Value = PortsSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port like 443, or a range like 8000-8100")
    }

    fn visit_u64<E: Error>(self, port: u64) -> Result<PortsSpec, E> {
        Ok(PortsSpec(port.to_string()))
    }

    fn visit_i64<E: Error>(self, port: i64) -> Result<PortsSpec, E> {
        Ok(PortsSpec(port.to_string()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PortsSpec, E> {
        Ok(PortsSpec(text.to_owned()))
    }
}

impl JsonSchema for PortsSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortsSpec".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A port, or a range of ports like 8000-8100.",
            "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "type": "string" }]
        })
    }
}

/// Another proxy to go through, by CONNECT. It looks names up itself, so rules about addresses do not see them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentSpec {
    /// `proxy.example:3128` or `192.0.2.1:3128`.
    pub address: At<String>,
    /// Which names go through it, written as in rules. Default: all, and addresses too.
    #[serde(default)]
    pub hosts: Vec<At<String>>,
    /// A file that holds `NAME:SECRET`, shown to it as Basic. Default: nothing is shown.
    #[serde(default)]
    pub credential_file: Option<At<String>>,
}

impl At<ProxySpec> {
    /// The entry as a listener like those of `spec.ingress`.
    #[must_use]
    pub fn as_ingress(&self) -> At<IngressSpec> {
        let spec = self.value.clone();
        let ingress = IngressSpec {
            address: spec.address,
            port: spec.port,
            protocol: Some(At::new(ProtocolSpec::Proxy, self.place)),
            shared: spec.shared,
            listen: spec.listen,
            certificate: spec.certificate,
            certificates: spec.certificates,
            ip_san: spec.ip_san,
            min_tls_version: spec.min_tls_version,
            alpn: spec.alpn,
            client_certificates: spec.client_certificates,
            allowed_sources: spec.allowed_sources,
            ..IngressSpec::default()
        };
        At::new(ingress, self.place)
    }
}
