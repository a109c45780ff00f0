//! Limits of one tenant, so that it never starves another.
//!
//! Deliberately absent: counters; the proxy keeps those.

use std::time::Duration;

use serde::Serialize;

/// A tenant's limits. `None` means no limit of that kind; every size and time has a bounded default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Open client connections at once, over all its listeners.
    pub connections: Option<u32>,
    /// Open client connections at once from one client address.
    pub connections_per_client: Option<u32>,
    /// Requests per second, sustained (GCRA).
    pub requests_per_second: Option<u32>,
    /// Requests admitted at once above the sustained rate.
    pub burst: Option<u32>,
    /// Bytes per second towards clients, over all connections.
    pub bandwidth_out: Option<u64>,
    /// Bytes per second from clients, over all connections.
    pub bandwidth_in: Option<u64>,
    /// UDP sessions at once, over all its listeners.
    pub udp_sessions: u32,
    /// UDP sessions at once of one client address, or of one /64 of IPv6.
    pub udp_sessions_per_client: u32,
    /// Connections to upstreams at once.
    pub upstream_connections: Option<u32>,
    /// Requests waiting for or using upstreams at once.
    pub pending_requests: Option<u32>,
    /// Bytes of a request's head: 431 above.
    pub header_bytes: u32,
    /// Fields of a request's head: 431 above.
    pub header_fields: u32,
    /// Bytes of a request's body: 413 above.
    pub body_bytes: Option<u64>,
    /// HTTP/2 streams of one connection at once.
    pub http2_streams: u32,
    /// Times.
    pub timeouts: Timeouts,
}

/// Timeouts: the longest time of each wait for a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From accept to a complete PROXY header, ClientHello and TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head, and of a header block of an HTTP/2 upstream to its end.
    pub header: Duration,
    /// Between requests of a connection.
    pub idle: Duration,
    /// Between two bytes of a body or a tunnel, in either direction.
    pub stream_idle: Duration,
    /// Between two datagrams of a UDP session, in either direction.
    pub udp_idle: Duration,
    /// To connect to an upstream endpoint, TLS included.
    pub connect: Duration,
    /// From the request's last byte to the response's head.
    pub response: Duration,
    /// Of a whole request; upgraded connections are exempt. `None`: unbounded.
    pub request: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stream_idle: Duration::from_secs(300),
            udp_idle: Duration::from_secs(300),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(60),
            request: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_client: None,
            requests_per_second: None,
            burst: None,
            bandwidth_out: None,
            bandwidth_in: None,
            udp_sessions: 1000,
            udp_sessions_per_client: 100,
            upstream_connections: None,
            pending_requests: None,
            header_bytes: 64 * 1024,
            header_fields: 128,
            body_bytes: None,
            http2_streams: 128,
            timeouts: Timeouts::default(),
        }
    }
}
