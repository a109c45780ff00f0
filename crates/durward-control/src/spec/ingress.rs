//! One entry of `spec.ingress`: an address and port, how connections reach it, and what is served there.
//!
//! Deliberately absent: anything another tenant's entry could refer to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::place::At;
use crate::spec::route::{RouteSpec, WeightedUpstreamSpec};

/// An address clients connect to, and what is served there.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressSpec {
    /// The IP address clients know.
    pub address: At<String>,
    /// The port clients know. Default: 443 for HTTPS, TLS and LINK, 80 for HTTP; TCP must say.
    #[serde(default)]
    pub port: Option<At<u16>>,
    /// Protocol. Default: HTTPS.
    #[serde(default)]
    pub protocol: Option<At<ProtocolSpec>>,
    /// Allows other tenants that also set it to use the same address: at other ports, or at the same port by other `names`. Default: false.
    #[serde(default)]
    pub shared: bool,
    /// The names that clients ask for, by SNI or (HTTP) by `Host`: `api.example.com`, or `*.example.com` for all names below. The entry's own address
    /// stands for clients that name nothing. Default: the address and port are this tenant's alone.
    #[serde(default)]
    pub names: Vec<At<String>>,
    /// Socket that accepts the connections. Default: bound on the address and port themselves.
    #[serde(default)]
    pub listen: Option<At<ListenSpec>>,
    /// The certificate shown to clients (HTTPS; TCP with TLS).
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
    /// Offered by ALPN, most wanted first. Default: h2, http/1.1.
    #[serde(default)]
    pub alpn: Option<At<Vec<At<AlpnSpec>>>>,
    /// Client certificates that are required. Default: none.
    #[serde(default)]
    pub client_certificates: Option<At<ClientCertificatesSpec>>,
    /// Networks clients may connect from. Default: all.
    #[serde(default)]
    pub allowed_sources: Option<At<Vec<At<String>>>>,
    /// Networks of proxies whose `X-Forwarded-*` headers are trusted. Default: none.
    #[serde(default)]
    pub trusted_proxies: Vec<At<String>>,
    /// Headers that carry the client certificate to upstreams.
    #[serde(default)]
    pub identity_headers: Option<IdentityHeadersSpec>,
    /// HTTP only: whatever no route takes is sent to https with 308. Default: false.
    #[serde(default)]
    pub redirect_to_https: Option<At<bool>>,
    /// Which request goes where; for protocol TLS, which SNI.
    #[serde(default)]
    pub routes: Vec<At<RouteSpec>>,
    /// Upstream of all requests or connections, in place of `routes`.
    #[serde(default)]
    pub upstream: Option<At<String>>,
    /// Upstreams of all requests or connections, by weight, in place of `upstream`.
    #[serde(default)]
    pub upstreams: Vec<At<WeightedUpstreamSpec>>,
    /// Which objects of the tenant's namespaces add routes to the entry (HTTP, HTTPS, TLS). Default: none.
    #[serde(default)]
    pub allowed_routes: Option<At<AllowedRoutesSpec>>,
    /// TLS only: whether hosted API servers that name no address are served here, for those of their names that the entry holds: `HostedApi`
    /// documents of the tenant, and, where the gateway reads them, objects of other controllers in its namespaces. Default: false.
    #[serde(default)]
    pub accept_hosted_apis: Option<At<bool>>,
    /// LINK only: authority that issues a certificate to an agent that joins with one of `joinTokens`; `clientCertificates` must trust it. Default: none.
    #[serde(default)]
    pub agent_authority: Option<At<CertificateSpec>>,
    /// LINK only: the links whose agents may connect.
    #[serde(default)]
    pub links: Vec<At<LinkSpec>>,
    /// HTTP, HTTPS and TLS only: links of this tenant whose registered routes are served here, after `routes` of the same host and path. With TLS those of hosts
    /// that an Ingress names in `spec.tls`: their TLS is carried through to the cluster. Default: none.
    #[serde(default)]
    pub link_routes: Vec<At<String>>,
    /// Beside `linkRoutes`: requests for registered hosts go to the public endpoint of the link's cluster, once the gateway has proven that it gives what
    /// the link gives, and over the link otherwise. Default: over the link.
    #[serde(default)]
    pub direct_routes: Option<At<DirectRoutesSpec>>,
    /// Beside `linkRoutes`: verification of backends that an Ingress or a Service says to take TLS. Default: such routes are not served.
    #[serde(default)]
    pub backend_tls: Option<At<BackendTlsSpec>>,
    /// Set by adapters: client certificates from these authorities are required if the file is there.
    #[serde(skip)]
    pub client_authority_if_present: Option<At<String>>,
}

/// Protocol of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProtocolSpec {
    /// HTTP/1.1 and HTTP/2 without TLS.
    Http,
    /// HTTP/1.1 and HTTP/2 over TLS.
    #[default]
    Https,
    /// TLS carried through untouched, by SNI.
    Tls,
    /// Bytes; over TLS when there is a certificate.
    Tcp,
    /// Datagrams, to upstreams that name a link.
    Udp,
    /// Agents in private clusters, over TLS. They carry requests to upstreams that name their link.
    Link,
    /// An entry of `spec.egress.proxy`; never written.
    #[serde(skip)]
    Proxy,
}

/// Which objects add routes to an entry, beside its own `routes`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedRoutesSpec {
    /// Kinds of these objects. `Ingress`: hosts and paths of Ingresses of the gateway's class; their TLS Secrets are shown by SNI.
    pub kinds: Vec<At<RouteKindSpec>>,
}

/// A kind of object that adds routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RouteKindSpec {
    /// `networking.k8s.io/v1`
    Ingress,
}

/// A link: an agent in a private cluster that serves this tenant.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkSpec {
    /// Name, which the agent sends and upstreams refer to.
    pub name: At<String>,
    /// Names of which the agent's certificate must carry one: a common name, DNS name or URI; with `*` at its end, all that begin so. Needed unless there are tokens.
    #[serde(default)]
    pub certificate_names: Vec<At<String>>,
    /// Tokens that stand for a certificate, each as `sha256:` and the SHA-256 of the token in hexadecimal; `durward agent token` makes one. A token that is taken out is refused at once, and its carriers are closed.
    #[serde(default)]
    pub tokens: Vec<At<String>>,
    /// Tokens that are each good for one client certificate (`durward agent join`), written as `tokens` are. The certificate carries the first of `certificateNames`.
    #[serde(default)]
    pub join_tokens: Vec<At<String>>,
    /// Identifier of the cluster that registrations over REST must name (`cluster_uuid`). Default: any.
    #[serde(default)]
    pub cluster: Option<At<String>>,
    /// Host names that the agent may register routes for, in lower case: `app.example.com`, or `*.example.com` for all names below. Default: none.
    #[serde(default)]
    pub hosts: Vec<At<String>>,
    /// Routes that may be registered, 1 to 10000. Default: 500.
    #[serde(default)]
    pub max_routes: Option<At<u32>>,
    /// Whether programs in the cluster may reach the outside through the agent's proxy, under the rules of `spec.egress` and from its addresses. Default: false.
    #[serde(default)]
    pub egress: Option<At<bool>>,
}

/// Verification of backends of registered routes that take TLS, each by the name of its Service or the one that its Ingress names.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsSpec {
    /// Authorities to trust, PEM. Default: the host's own set.
    #[serde(default)]
    pub ca_file: Option<At<String>>,
}

/// Direct routes to the public endpoint of a link's cluster.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectRoutesSpec {
    /// Authorities to trust for the certificate that the endpoint shows for the route's host, PEM. Default: the host's own set.
    #[serde(default)]
    pub ca_file: Option<At<String>>,
    /// True to use an endpoint without TLS too: requests and answers can be read on the way. Default: false.
    #[serde(default)]
    pub plaintext: Option<At<bool>>,
}

/// Socket that accepts connections for a listener.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenSpec {
    /// The local address. Default: the ingress address; `0.0.0.0` and `::` are allowed.
    #[serde(default)]
    pub address: Option<At<String>>,
    /// The local port. Default: the ingress port.
    #[serde(default)]
    pub port: Option<At<u16>>,
    /// Source of the address that a client connected to. Default: Bound.
    #[serde(default)]
    pub destination: Option<At<DestinationSpec>>,
    /// Networks that may send a PROXY protocol header; needed for ProxyProtocol, refused otherwise.
    #[serde(default)]
    pub trusted_proxies: Vec<At<String>>,
    /// ProxyProtocol only: whether what the proxy passes on may begin with more PROXY headers. The first names the client; the last names the destination,
    /// which every client of the proxy can then choose. Default: false.
    #[serde(default)]
    pub inner_headers: Option<At<bool>>,
}

/// Source of the address that a client connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum DestinationSpec {
    /// The accepted connection's local address.
    #[default]
    Bound,
    /// A PROXY protocol header (v1 or v2) says it.
    ProxyProtocol,
    /// The address before DNAT or REDIRECT on this host.
    OriginalDestination,
    /// The local address on a TPROXY socket.
    Transparent,
    /// The local port belongs to this listener alone.
    Port,
}

/// A certificate chain and its private key, in PEM or DER.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateSpec {
    /// `certs/acme` means `certs/acme.crt` and `certs/acme.key`; with `.crt` or `.pem` the key is the same name with `.key`. Relative to the document.
    #[serde(default)]
    pub file: Option<At<String>>,
    /// The chain, leaf first; with `keyFile`.
    #[serde(default)]
    pub certificate_file: Option<At<String>>,
    /// The private key (PKCS#8, PKCS#1 or SEC1); with `certificateFile`.
    #[serde(default)]
    pub key_file: Option<At<String>>,
    /// A Secret of the type `kubernetes.io/tls` with both, in place of files: `NAME`, or `NAMESPACE/NAME` for another namespace.
    #[serde(default)]
    pub secret_name: Option<At<String>>,
    /// An authority issues and renews the certificate, in place of files. Needs a state directory (`--state-dir`).
    #[serde(default)]
    pub acme: Option<At<AcmeSpec>>,
}

/// A certificate that an ACME authority issues and renews.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcmeSpec {
    /// Host names and IP addresses of the certificate, at most 100; needed where the entry has names. Default: the address of the entry.
    #[serde(default)]
    pub names: Vec<At<String>>,
    /// Agreement to the authority's terms of service; must be true.
    #[serde(default)]
    pub terms_of_service_agreed: Option<At<bool>>,
    /// Mail addresses for the authority's notices.
    #[serde(default)]
    pub contacts: Vec<At<String>>,
    /// The authority's directory, an https URL that the operator allows with `--acme-directory`. Default: the first of those, else Let's Encrypt.
    #[serde(default)]
    pub directory: Option<At<String>>,
    /// Challenge by which the authority validates the names. Default: TLS-ALPN-01 on port 443, HTTP-01 on others.
    #[serde(default)]
    pub challenge: Option<At<ChallengeSpec>>,
    /// A profile of the authority. Default: shortlived for IP addresses from Let's Encrypt, else the authority's default.
    #[serde(default)]
    pub profile: Option<At<String>>,
    /// An existing account's key, ECDSA P-256 in PKCS#8. Default: an account of the tenant's own is made.
    #[serde(default)]
    pub account_key_file: Option<At<String>>,
}

/// Challenge by which an authority validates names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ChallengeSpec {
    /// The authority requests a text at port 80, where the tenant must have an entry with protocol HTTP.
    #[serde(rename = "HTTP-01")]
    Http01,
    /// The authority connects by TLS to port 443.
    #[serde(rename = "TLS-ALPN-01")]
    TlsAlpn01,
}

/// Action if a certificate does not name the ingress address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum IpSanSpec {
    /// The listener is left out.
    #[default]
    Refuse,
    /// Serves it, with a warning.
    Warn,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersionSpec {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// An application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AlpnSpec {
    /// HTTP/2.
    #[serde(rename = "h2")]
    H2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http11,
}

/// Requirements on client certificates.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificatesSpec {
    /// Default: Required.
    #[serde(default)]
    pub mode: Option<At<ClientModeSpec>>,
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

/// Mode of client authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ClientModeSpec {
    /// None is asked for.
    Off,
    /// One that is shown must be valid.
    Optional,
    /// No valid certificate, no handshake.
    #[default]
    Required,
}

/// Which headers tell an upstream about a client's certificate; inbound copies are always dropped.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityHeadersSpec {
    /// `Client-Cert` and `Client-Cert-Chain` (RFC 9440). Default: true.
    #[serde(default)]
    pub client_cert: Option<bool>,
    /// `X-Forwarded-Client-Cert`. Default: false.
    #[serde(default)]
    pub xfcc: Option<bool>,
}

impl IngressSpec {
    /// Returns whether Ingresses add routes.
    #[must_use]
    pub fn takes_ingresses(&self) -> bool {
        let allowed = self.allowed_routes.as_ref();
        allowed.is_some_and(|it| it.kinds.iter().any(|kind| kind.value == RouteKindSpec::Ingress))
    }
}

impl CertificateSpec {
    /// The chain's file and the key's, as written; `None` when they are not both named, or both ways.
    #[must_use]
    pub fn files(&self) -> Option<(String, String)> {
        if let Some(secret) = &self.secret_name {
            let others = [&self.file, &self.certificate_file, &self.key_file];
            let entry = |key| format!("secret:{}/{key}", secret.value);
            return others
                .iter()
                .all(|other| other.is_none())
                .then(|| (entry("tls.crt"), entry("tls.key")));
        }
        match (&self.file, &self.certificate_file, &self.key_file) {
            (Some(file), None, None) => {
                let stem = [".crt", ".pem"].iter().find_map(|end| file.strip_suffix(end));
                let certificate =
                    stem.map_or_else(|| format!("{}.crt", file.value), |_| file.value.clone());
                Some((certificate, format!("{}.key", stem.unwrap_or(file))))
            }
            (None, Some(certificate), Some(key)) => {
                Some((certificate.value.clone(), key.value.clone()))
            }
            _ => None,
        }
    }

    /// Returns the field that names the chain.
    #[must_use]
    pub fn named(&self) -> Option<&At<String>> {
        self.file.as_ref().or(self.certificate_file.as_ref()).or(self.secret_name.as_ref())
    }
}
