//! Counters of the proxy, in the OpenMetrics text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::gateways::GatewayReport;

/// How a connection of an API client ended. The label values are a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Both sides ended it.
    Closed,
    /// One side failed.
    Broken,
    /// It was silent for too long.
    Idle,
    /// It was open when the proxy stopped.
    Drained,
    /// No gateway could be reached.
    Unreachable,
    /// The client did not begin TLS in time, or in re-originate mode its TLS failed.
    Handshake,
    /// Too many connections were open.
    Limit,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::Broken,
        Self::Idle,
        Self::Drained,
        Self::Unreachable,
        Self::Handshake,
        Self::Limit,
    ];

    /// Returns the outcome as a label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::Unreachable => "unreachable",
            Self::Handshake => "handshake",
            Self::Limit => "limit",
        }
    }
}

/// Counters of one proxy.
#[derive(Debug, Default)]
pub struct Metrics {
    ended: [AtomicU64; Outcome::ALL.len()],
    open: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    dials: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, outcome: Outcome, (up, down): (u64, u64)) {
        self.ended[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.up.fetch_add(up, Ordering::Relaxed);
        self.down.fetch_add(down, Ordering::Relaxed);
    }

    /// Counts an attempt to reach a gateway, with the reason if it failed.
    pub(crate) fn dialled(&self, failure: Option<&'static str>) {
        let mut dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        *dials.entry(failure.unwrap_or("ok")).or_default() += 1;
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that ended in this way.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize].load(Ordering::Relaxed)
    }

    /// Returns the families as text, without the line that ends an exposition. `expires` is when the certificate that we show ends, in seconds since 1970.
    #[must_use]
    pub fn text(&self, gateways: &[GatewayReport], expires: Option<i64>) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, gateways, expires);
        text
    }

    fn write(
        &self,
        to: &mut String,
        gateways: &[GatewayReport],
        expires: Option<i64>,
    ) -> std::fmt::Result {
        family(
            to,
            "connections",
            "counter",
            "Connections of API clients that have ended, by how.",
        )?;
        for outcome in Outcome::ALL {
            let count = self.count(outcome);
            writeln!(to, "{PREFIX}connections_total{{outcome=\"{}\"}} {count}", outcome.label())?;
        }
        family(to, "open_connections", "gauge", "Connections of API clients that are open.")?;
        writeln!(to, "{PREFIX}open_connections {}", self.open())?;
        family(
            to,
            "bytes",
            "counter",
            "Bytes of ended connections: up from the client, down to it.",
        )?;
        for (direction, count) in [("up", &self.up), ("down", &self.down)] {
            let count = count.load(Ordering::Relaxed);
            writeln!(to, "{PREFIX}bytes_total{{direction=\"{direction}\"}} {count}")?;
        }
        family(to, "dials", "counter", "Attempts to reach a gateway for a client, by result.")?;
        for (result, count) in self.dials.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(to, "{PREFIX}dials_total{{result=\"{result}\"}} {count}")?;
        }
        family(to, "gateway_healthy", "gauge", "1 if the gateway answers, else 0.")?;
        for gateway in gateways {
            let healthy = u8::from(gateway.is_healthy());
            writeln!(to, "{PREFIX}gateway_healthy{{gateway=\"{}\"}} {healthy}", gateway.target)?;
        }
        if let Some(expires) = expires {
            let help =
                "Time at which the certificate that the proxy shows ends, in seconds since 1970.";
            family(to, "certificate_not_after_seconds", "gauge", help)?;
            writeln!(to, "{PREFIX}certificate_not_after_seconds {expires}")?;
        }
        Ok(())
    }
}

/// Begin of the name of each family.
const PREFIX: &str = "durward_api_proxy_";

fn family(to: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(to, "# TYPE {PREFIX}{name} {kind}\n# HELP {PREFIX}{name} {help}")
}
