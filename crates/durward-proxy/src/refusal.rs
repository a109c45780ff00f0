//! Reasons to refuse a connection or request: one variant per reaction, one stable reason word each.
//!
//! The reason word goes to the access log, the metrics and the problem document; the message goes to the log only.

mod certificate;

use std::net::SocketAddr;

use thiserror::Error;

use crate::watch::Watch;

pub(crate) use certificate::{Presented, Refused};

/// Error: the record is not in the audit file, so the recorded thing must not begin.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the audit file cannot be written")]
pub struct NotRecorded;

/// Reason of a refused connection or request.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No listener has this destination.
    #[error("no tenant has {destination}")]
    UnknownAddress {
        /// Address and port the client connected to.
        destination: SocketAddr,
    },
    /// No tenant has the name at an address and port that tenants share by names.
    #[error("no tenant has {name} there")]
    UnknownName {
        /// Name that the client asked for; the address where it named nothing.
        name: String,
    },
    /// The client's address is not in the listener's `allowedSources`.
    #[error("{client} is not an allowed source")]
    SourceNotAllowed {
        /// Client address.
        client: SocketAddr,
    },
    /// The PROXY header is missing, malformed or from a peer that is not trusted.
    #[error("PROXY header refused: {detail}")]
    ProxyHeader {
        /// Fault of the header.
        detail: &'static str,
    },
    /// The first bytes are not a TLS ClientHello, or one we do not accept.
    #[error("not an acceptable ClientHello: {detail}")]
    ClientHello {
        /// Fault of the bytes.
        detail: &'static str,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {}", reason.word())]
    Handshake {
        /// Reason word from a closed set; a metric label.
        reason: HandshakeFailure,
        /// Error of the TLS library.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The client took too long over a handshake, a head or a body.
    #[error("the client took too long over its {phase}")]
    ClientTimeout {
        /// `handshake`, `head`, `body`.
        phase: &'static str,
    },
    /// The tenant's connection limit is reached.
    #[error("the tenant has its limit of connections open")]
    ConnectionLimit,
    /// The tenant's limit of UDP sessions, or that of one client, is reached.
    #[error("the tenant, or this client of it, has its limit of UDP sessions open")]
    SessionLimit,
    /// The tenant's request rate is reached.
    #[error("the tenant's request rate is reached")]
    RateLimit {
        /// Milliseconds until a request would be admitted again.
        retry_after_ms: u64,
    },
    /// The tenant's circuit towards upstreams is full.
    #[error("the tenant has its limit of upstream work open")]
    CircuitOpen,
    /// The request is not HTTP as RFC 9112 or RFC 9113 has it.
    #[error("malformed request: {detail}")]
    BadRequest {
        /// Broken rule; from a closed set of phrases.
        detail: &'static str,
    },
    /// The request's head is larger than the tenant allows.
    #[error("the request's head is too large")]
    HeadTooLarge,
    /// The request's body is larger than the tenant allows.
    #[error("the request's body is too large")]
    BodyTooLarge,
    /// An expectation or version we do not serve.
    #[error("not supported: {detail}")]
    NotSupported {
        /// Unsupported feature; from a closed set of phrases.
        detail: &'static str,
    },
    /// The requested host is not one the TLS session was made for (RFC 9110 §15.5.20).
    #[error("the host is not the one asked for by SNI")]
    Misdirected,
    /// No route matches the request.
    #[error("no route takes the request")]
    NoRoute,
    /// No endpoint of the upstream is healthy or resolvable.
    #[error("upstream {upstream} has no usable endpoint: {detail}")]
    NoEndpoint {
        /// Upstream's name.
        upstream: String,
        /// `all ejected`, `name does not resolve` …
        detail: String,
    },
    /// None of the tenant's egress addresses can be used towards the endpoint.
    #[error("no egress address of the tenant can be used towards {peer}: {detail}")]
    EgressAddress {
        /// Address of the endpoint.
        peer: SocketAddr,
        /// `not on this host`, `ports exhausted`, `wrong family` …
        detail: String,
    },
    /// The connection would have left from an address that is not the tenant's. Never happens; counted if it does.
    #[error("the connection to {peer} would leave from {actual}, not from {wanted}")]
    IsolationViolation {
        /// Address of the endpoint.
        peer: SocketAddr,
        /// Local address that `getsockname` returned.
        actual: SocketAddr,
        /// Address of the tenant.
        wanted: std::net::IpAddr,
    },
    /// No agent of the upstream's link is connected.
    #[error("no agent of the link {link} is connected")]
    LinkAbsent {
        /// Name of the link.
        link: String,
    },
    /// The agent of a link did not connect to the backend.
    #[error("the link {link} gives no connection to {target}: {detail}")]
    LinkFailed {
        /// Name of the link.
        link: String,
        /// Backend, as the agent was asked for it.
        target: String,
        /// The agent's reason.
        detail: String,
    },
    /// An agent's certificate is not for the link that it says.
    #[error("the agent is refused for the link {link}: {detail}")]
    LinkDenied {
        /// Name of the link, as the agent says it.
        link: String,
        /// Reason.
        detail: &'static str,
    },
    /// The upstream cannot be connected to.
    #[error("cannot connect to {peer}")]
    ConnectFailed {
        /// Address of the endpoint.
        peer: SocketAddr,
        /// Error of the connect.
        #[source]
        source: std::io::Error,
    },
    /// The upstream did not accept a connection in time.
    #[error("{peer} did not accept a connection in time")]
    ConnectTimeout {
        /// Address of the endpoint.
        peer: SocketAddr,
    },
    /// The upstream's certificate cannot be verified, or TLS with it fails otherwise.
    #[error("TLS with {peer} failed")]
    UpstreamTls {
        /// Address of the endpoint.
        peer: SocketAddr,
        /// Error of the handshake.
        #[source]
        source: std::io::Error,
    },
    /// The upstream closed or reset before it answered.
    #[error("{peer} closed the connection before it answered")]
    UpstreamClosed {
        /// Address of the endpoint.
        peer: SocketAddr,
    },
    /// The upstream's response is not HTTP as RFC 9112 or RFC 9113 has it.
    #[error("malformed response: {detail}")]
    BadResponse {
        /// Broken rule.
        detail: &'static str,
    },
    /// The upstream did not answer in time.
    #[error("the upstream did not answer in time")]
    ResponseTimeout,
    /// The client went away.
    #[error("the client closed the connection")]
    ClientClosed,
    /// The client exceeded a frame budget (rapid reset, PING, SETTINGS or CONTINUATION flood).
    #[error("the client broke a protocol budget: {detail}")]
    Flood {
        /// Exceeded budget.
        detail: &'static str,
    },
    /// The tenant's policy, or the guard, denies the destination to the forward proxy.
    #[error("{rule} does not allow it")]
    PolicyDenied {
        /// Name of the rule.
        rule: std::sync::Arc<str>,
        /// Contact to show to the client.
        contact: Option<std::sync::Arc<str>>,
    },
    /// The forward proxy requires a credential, and none or a wrong one was shown; the answer does not say which.
    #[error("no credential of this listener was shown")]
    ProxyAuthentication,
    /// The requested host does not resolve.
    #[error("the host asked for does not resolve: {detail}")]
    Unresolvable {
        /// Error of the resolver.
        detail: String,
    },
    /// The parent proxy did not open the tunnel.
    #[error("the parent proxy did not open a tunnel: {}", status.map_or_else(|| "it did not answer".to_owned(), |status| format!("it answered {status}")))]
    ParentRefused {
        /// Status of its response, if there was one.
        status: Option<u16>,
    },
    /// All ports of each of the tenant's egress addresses are in use towards one destination.
    #[error("no port is left from any egress address to {peer}")]
    PortsExhausted {
        /// Destination.
        peer: SocketAddr,
    },
    /// The tenant has used up its share of a resource that all tenants share.
    #[error("the tenant has as many {of} open as its share of the gateway's files allows")]
    FairShare {
        /// `connections` or `lookups`.
        of: &'static str,
    },
    /// The connection was closed before its tenant was known, to make room for newer ones.
    #[error("closed to make room: too many connections had not shown which tenant they are for")]
    Crowded,
    /// The tenant holds as much memory as its share of the gateway's budget allows.
    #[error("the tenant holds as much memory as its share of the gateway's budget allows")]
    Memory,
    /// The record of the request is not in the audit file.
    #[error("not let out without a record")]
    NotRecorded(#[source] NotRecorded),
    /// The gateway is draining, or the configuration no longer permits the connection.
    #[error("this gateway is shutting down")]
    Draining,
    /// The connection was open when its source, name, certificate, address or tenant was taken out of the configuration.
    #[error("the configuration no longer admits the connection")]
    NoLongerAdmitted,
    /// The connection validated a name for a certificate authority; nothing else is served on it.
    #[error("validated by a certificate authority")]
    Challenge,
    /// A tenant cluster's API proxy asked for a name whose API server admits no proxies.
    #[error("API proxies are not admitted there")]
    NoApiProxy,
    /// A tenant cluster's API proxy asked for another API server than the one that admitted it.
    #[error("the API proxy asked for {}, which is no name of the hosted API server it was admitted to", authority.as_deref().unwrap_or("nothing"))]
    ForeignAuthority {
        /// Authority of its PROXY header.
        authority: Option<String>,
    },
    /// A socket call failed through no fault of a peer.
    #[error("socket failure")]
    Socket(#[source] std::io::Error),
}

/// Reason of a failed TLS handshake; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// A client certificate is required and none was shown.
    ClientCertificateMissing,
    /// The client certificate's issuer is not trusted here.
    ClientCertificateUnknownIssuer,
    /// The client certificate has expired.
    ClientCertificateExpired,
    /// The client certificate is not valid yet.
    ClientCertificateNotYetValid,
    /// The client certificate is on a revocation list.
    ClientCertificateRevoked,
    /// The client certificate is not for client authentication, or malformed, or not version 3.
    ClientCertificateUnacceptable,
    /// Client and listener have no version, cipher suite or group in common.
    NothingInCommon,
    /// The client refused our certificate.
    RefusedByClient,
    /// The bytes are not TLS or break its rules.
    Protocol,
    /// The client closed midway.
    Closed,
    /// The listener's certificate has not been issued yet.
    CertificatePending,
}

macro_rules! words {
    ($type:ident { $($variant:pat => $index:literal $word:literal,)+ }) => {
        impl $type {
            /// All words, in the order of [`index`](Self::index).
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Returns the stable word for logs, metrics and problem documents.
            #[must_use]
            pub fn word(&self) -> &'static str {
                Self::WORDS[self.index()]
            }

            /// Returns the position of the word in [`WORDS`](Self::WORDS).
            #[must_use]
            pub fn index(&self) -> usize {
                match self { $($variant => $index,)+ }
            }
        }
    };
}

words!(HandshakeFailure {
    Self::ClientCertificateMissing => 0 "client_certificate_missing",
    Self::ClientCertificateUnknownIssuer => 1 "client_certificate_unknown_issuer",
    Self::ClientCertificateExpired => 2 "client_certificate_expired",
    Self::ClientCertificateNotYetValid => 3 "client_certificate_not_yet_valid",
    Self::ClientCertificateRevoked => 4 "client_certificate_revoked",
    Self::ClientCertificateUnacceptable => 5 "client_certificate_unacceptable",
    Self::NothingInCommon => 6 "nothing_in_common",
    Self::RefusedByClient => 7 "refused_by_client",
    Self::Protocol => 8 "protocol",
    Self::Closed => 9 "closed",
    Self::CertificatePending => 10 "certificate_pending",
});

words!(Refusal {
    Self::UnknownAddress { .. } => 0 "tenant_not_found",
    Self::SourceNotAllowed { .. } => 1 "source_not_allowed",
    Self::ProxyHeader { .. } => 2 "proxy_header",
    Self::ClientHello { .. } => 3 "client_hello",
    Self::Handshake { .. } => 4 "tls_handshake",
    Self::ClientTimeout { .. } => 5 "client_timeout",
    Self::ConnectionLimit => 6 "connection_limit",
    Self::RateLimit { .. } => 7 "rate_limit",
    Self::CircuitOpen => 8 "circuit_open",
    Self::BadRequest { .. } => 9 "bad_request",
    Self::HeadTooLarge => 10 "head_too_large",
    Self::BodyTooLarge => 11 "body_too_large",
    Self::NotSupported { .. } => 12 "not_supported",
    Self::Misdirected => 13 "misdirected",
    Self::NoRoute => 14 "no_route",
    Self::NoEndpoint { .. } => 15 "no_endpoint",
    Self::EgressAddress { .. } => 16 "egress_address",
    Self::IsolationViolation { .. } => 17 "isolation_violation",
    Self::ConnectFailed { .. } => 18 "connect_failed",
    Self::ConnectTimeout { .. } => 19 "connect_timeout",
    Self::UpstreamTls { .. } => 20 "upstream_tls",
    Self::UpstreamClosed { .. } => 21 "upstream_closed",
    Self::BadResponse { .. } => 22 "bad_response",
    Self::ResponseTimeout => 23 "response_timeout",
    Self::ClientClosed => 24 "client_closed",
    Self::Flood { .. } => 25 "flood",
    Self::Draining => 26 "draining",
    Self::PolicyDenied { .. } => 27 "policy_denied",
    Self::ProxyAuthentication => 28 "proxy_authentication",
    Self::Unresolvable { .. } => 29 "unresolvable",
    Self::ParentRefused { .. } => 30 "parent_refused",
    Self::PortsExhausted { .. } => 31 "ports_exhausted",
    Self::NotRecorded(_) => 32 "not_recorded",
    Self::FairShare { .. } => 33 "fair_share",
    Self::Memory => 34 "memory",
    Self::Crowded => 35 "crowded",
    Self::UnknownName { .. } => 36 "unknown_name",
    Self::Challenge => 37 "acme_challenge",
    Self::NoApiProxy => 38 "no_api_proxy",
    Self::ForeignAuthority { .. } => 39 "foreign_authority",
    Self::LinkAbsent { .. } => 40 "link_absent",
    Self::LinkFailed { .. } => 41 "link_failed",
    Self::LinkDenied { .. } => 42 "link_denied",
    Self::NoLongerAdmitted => 43 "no_longer_admitted",
    Self::Socket(_) => 44 "socket",
    Self::SessionLimit => 45 "session_limit",
});

impl Refusal {
    /// Returns the HTTP status for the client, and the `Proxy-Status` error type beside it (RFC 9209).
    #[must_use]
    pub fn status(&self) -> (u16, Option<&'static str>) {
        match self {
            Self::UnknownAddress { .. }
            | Self::UnknownName { .. }
            | Self::Misdirected
            | Self::NoApiProxy
            | Self::ForeignAuthority { .. }
            | Self::Challenge => (421, None),
            Self::LinkDenied { .. } | Self::SourceNotAllowed { .. } | Self::NoLongerAdmitted => {
                (403, Some("http_request_denied"))
            }
            Self::PolicyDenied { .. } => (403, Some("http_request_denied")),
            Self::ProxyAuthentication => (407, Some("http_request_denied")),
            Self::Unresolvable { .. } => (502, Some("dns_error")),
            Self::ProxyHeader { .. } | Self::ClientHello { .. } | Self::Handshake { .. } => {
                (400, Some("http_request_error"))
            }
            Self::BadRequest { .. } | Self::Flood { .. } | Self::ClientClosed => {
                (400, Some("http_request_error"))
            }
            Self::ClientTimeout { .. } => (408, Some("http_request_error")),
            Self::RateLimit { .. } => (429, Some("http_request_denied")),
            Self::HeadTooLarge => (431, Some("http_request_error")),
            Self::BodyTooLarge => (413, Some("http_request_error")),
            Self::NotSupported { .. } => (501, Some("http_request_error")),
            Self::NoRoute => (404, Some("destination_not_found")),
            Self::ParentRefused { .. } => (502, Some("destination_unavailable")),
            Self::PortsExhausted { .. }
            | Self::FairShare { .. }
            | Self::Memory
            | Self::Crowded
            | Self::ConnectionLimit
            | Self::SessionLimit
            | Self::CircuitOpen => (503, Some("connection_limit_reached")),
            Self::NoEndpoint { .. } | Self::LinkAbsent { .. } => {
                (503, Some("destination_unavailable"))
            }
            Self::LinkFailed { .. } => (502, Some("destination_unavailable")),
            Self::EgressAddress { .. }
            | Self::Socket(_)
            | Self::NotRecorded(_)
            | Self::IsolationViolation { .. } => (503, Some("proxy_internal_error")),
            Self::ConnectFailed { .. } => (502, Some("connection_refused")),
            Self::ConnectTimeout { .. } => (504, Some("connection_timeout")),
            Self::UpstreamTls { .. } => (502, Some("tls_certificate_error")),
            Self::UpstreamClosed { .. } => (502, Some("connection_terminated")),
            Self::BadResponse { .. } => (502, Some("http_protocol_error")),
            Self::ResponseTimeout => (504, Some("http_response_timeout")),
            Self::Draining => (503, Some("proxy_configuration_error")),
        }
    }

    /// Returns why the watch has ended a wait before its deadline.
    pub(crate) fn closing(watch: &Watch) -> Self {
        if watch.is_excluded() { Self::NoLongerAdmitted } else { Self::Draining }
    }

    /// Returns the client certificate for which the handshake was refused.
    pub(crate) fn client_certificate(&self) -> Option<&Presented> {
        let Self::Handshake { source: Some(source), .. } = self else { return None };
        Some(&source.get_ref()?.downcast_ref::<Refused>()?.certificate)
    }

    /// Returns the seconds for `Retry-After`, where waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::RateLimit { retry_after_ms } => Some(retry_after_ms.div_ceil(1000).max(1)),
            Self::ConnectionLimit
            | Self::SessionLimit
            | Self::PortsExhausted { .. }
            | Self::FairShare { .. }
            | Self::Memory
            | Self::CircuitOpen
            | Self::NoEndpoint { .. }
            | Self::LinkAbsent { .. }
            | Self::NotRecorded(_)
            | Self::Draining => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_one_distinct_word() {
        let mut words: Vec<_> = Refusal::WORDS.iter().chain(HandshakeFailure::WORDS).collect();

        words.sort();
        words.dedup();

        assert_eq!(words.len(), Refusal::WORDS.len() + HandshakeFailure::WORDS.len());
        assert_eq!(Refusal::SessionLimit.index(), Refusal::WORDS.len() - 1);
    }
}
