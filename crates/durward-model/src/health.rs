//! Checks of the endpoints of upstreams and port mappings.
//!
//! Deliberately absent: the state of any endpoint; the proxy and the kernel plane hold it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// Probe.
    pub probe: Probe,
    /// Between two checks of one endpoint; jittered by a tenth.
    pub interval: Duration,
    /// For one check, connect included.
    pub timeout: Duration,
    /// Consecutive failures that eject.
    pub unhealthy_after: u32,
    /// Consecutive successes that restore.
    pub healthy_after: u32,
}

/// Probe of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Probe {
    /// A TCP connection is accepted.
    Tcp,
    /// A TLS handshake succeeds, verified as for requests.
    Tls,
    /// A ClientHello is answered with a ServerHello. Nothing is verified, and nothing else is sent.
    ServerHello,
    /// A GET is answered with a status in the range.
    Http {
        /// Origin-form path.
        path: Arc<str>,
        /// The `Host` sent; the endpoint's address by default.
        host: Option<Arc<str>>,
        /// Lowest good status.
        from: u16,
        /// Highest good status.
        to: u16,
    },
}

/// Passive ejection: an endpoint that fails real requests rests for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// Consecutive connect failures, resets or 502/503/504 answers that eject.
    pub consecutive_failures: u32,
    /// The first rest; it doubles with each ejection in a row, ten times at the most.
    pub base_ejection: Duration,
    /// At most this share of endpoints is ejected, percent; the last healthy one never is.
    pub max_ejected_percent: u8,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(10),
            max_ejected_percent: 50,
        }
    }
}
