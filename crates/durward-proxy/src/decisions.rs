//! Decision lines of the forward proxy: one when a request or tunnel is decided, one when an allowed one ends. Connections to hosted API servers have lines of
//! the same form, because an API server knows its clients by our address and port only.
//!
//! Deliberately absent: credentials, paths, header values and bodies.

mod ledger;
mod passage;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use durward_model::{ClientAddr, TenantId};

use crate::access_log::{Buffer, Sink};
use crate::json_line::{Clock, Fields};
use crate::refusal::NotRecorded;
use crate::refusal::Refusal;
pub(crate) use ledger::Ledger;
pub(crate) use passage::Passage;

/// Kind of a decision line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request was decided; if it was allowed, it is connected.
    Open,
    /// An allowed request or tunnel has ended.
    Close,
    /// A connection to a hosted API server was made.
    ApiOpen,
    /// A connection to a hosted API server has ended.
    ApiClose,
}

impl Kind {
    /// Returns the word in the line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Open => "egress-open",
            Self::Close => "egress-close",
            Self::ApiOpen => "api-open",
            Self::ApiClose => "api-close",
        }
    }
}

/// Outcome of a decision. The rule is in [`Decision::rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Allowed and connected.
    Allowed,
    /// Allowed and connected only because the tenant's mode is `Report`: the rules would deny the request.
    Reported,
    /// Denied.
    Denied,
    /// Allowed, but failed: no address, or no connection.
    Failed,
}

impl Verdict {
    /// Returns the word in the line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Reported => "reported",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// One decision; borrowed, because the line is made at once.
#[derive(Debug)]
pub(crate) struct Decision<'a> {
    /// Kind of the line.
    pub(crate) kind: Kind,
    /// Time of the line: the beginning for `Open`, the end for `Close`.
    pub(crate) at: SystemTime,
    /// Id of both lines; also the request's id in the access log and on the deny page.
    pub(crate) id: &'a str,
    /// Tenant of the client.
    pub(crate) tenant: &'a TenantId,
    /// Client identity, from a credential or certificate: `user:NAME`, `token:NAME`, `certificate:SUBJECT`.
    pub(crate) identity: Option<&'a str>,
    /// Client address.
    pub(crate) client: ClientAddr,
    /// `CONNECT`, `SOCKS5`, `TLS` of a client that was handed over or whose TLS is carried to an API server, `API-PROXY`, or the method of a plain request.
    pub(crate) method: &'a str,
    /// Original destination, for a transparent connection.
    pub(crate) transparent: Option<SocketAddr>,
    /// Source and destination that an inner PROXY header names.
    pub(crate) inner: Option<(SocketAddr, SocketAddr)>,
    /// Requested host, without port: a name, or an address without brackets.
    pub(crate) host: &'a str,
    /// Requested port.
    pub(crate) port: u16,
    /// Server name of the tunnel's ClientHello, where that is inspected.
    pub(crate) sni: Option<&'a str>,
    /// Addresses the name resolved to; each was checked.
    pub(crate) resolved: &'a [IpAddr],
    /// Address that was dialled.
    pub(crate) dialled: Option<SocketAddr>,
    /// Local address of the connection as `getsockname` returns it: the tenant's egress address and a port.
    pub(crate) egress: Option<SocketAddr>,
    /// The rule that decided: `allow[0]`, `deny[2]`, or a built-in one like `default` or `guard:metadata`.
    pub(crate) rule: &'a str,
    /// Outcome.
    pub(crate) verdict: Verdict,
    /// Reason of a denial, failure or abort.
    pub(crate) refusal: Option<&'a Refusal>,
    /// Bytes from the client; 0 in `Open`.
    pub(crate) bytes_up: u64,
    /// Bytes to the client; 0 in `Open`.
    pub(crate) bytes_down: u64,
    /// Time since the request.
    pub(crate) duration: Duration,
}

/// One core's decisions that are not yet with the writer.
pub(crate) struct Decisions {
    lines: Buffer,
    ledger: Option<Ledger>,
}

impl Decisions {
    /// Creates decisions that are not counted.
    pub(crate) fn new(sink: &Sink) -> Self {
        Self { lines: sink.buffer(), ledger: None }
    }

    /// Adds the counters of a ledger.
    pub(crate) fn counted(mut self, ledger: Ledger) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Counts a decision and adds its line.
    pub(crate) fn write(&self, decision: &Decision<'_>) {
        if let Some(ledger) = &self.ledger {
            ledger.count(decision);
        }
        self.lines.add(|out, clock| encode(out, clock, decision));
    }

    /// Hands the lines over.
    pub(crate) fn flush(&self) {
        self.lines.flush();
    }

    /// Waits until every decision written so far is in the audit file, so that what they allow may begin. Returns at once without an audit file.
    ///
    /// # Errors
    /// Fails if the records cannot be written: then nothing may begin.
    pub(crate) async fn committed(&self) -> Result<(), NotRecorded> {
        self.lines.committed().await
    }
}

fn encode(out: &mut Vec<u8>, clock: &mut Clock, decision: &Decision<'_>) {
    let mut line = Fields::begin(out, clock, decision.at);
    line.text("kind", decision.kind.word());
    line.text("id", decision.id);
    line.text("tenant", decision.tenant.as_str());
    line.maybe_text("identity", decision.identity);
    line.display("client", &decision.client);
    line.text("method", decision.method);
    if let Some(destination) = &decision.transparent {
        line.display("transparent", destination);
    }
    if let Some((source, destination)) = &decision.inner {
        line.display("inner_source", source);
        line.display("inner_destination", destination);
    }
    line.text("host", decision.host);
    line.number("port", u64::from(decision.port));
    line.maybe_text("sni", decision.sni);
    line.list("resolved", decision.resolved);
    if let Some(dialled) = &decision.dialled {
        line.display("dialled", dialled);
    }
    if let Some(egress) = &decision.egress {
        line.display("egress", egress);
    }
    line.text("rule", decision.rule);
    line.text("verdict", decision.verdict.word());
    line.number("bytes_up", decision.bytes_up);
    line.number("bytes_down", decision.bytes_down);
    line.milliseconds("total_ms", decision.duration);
    line.refusal(decision.refusal);
    line.end();
}

#[cfg(test)]
mod tests {
    use durward_model::TenantId;
    use serde_json::Value;

    use super::*;

    // S2.49
    #[test]
    fn a_decision_is_one_line_with_every_field() {
        let (sink, lines) = Sink::memory().unwrap();
        let decisions = Decisions::new(&sink);
        let tenant = TenantId::new("acme").unwrap();
        let peer: SocketAddr = "198.51.100.7:443".parse().unwrap();
        let refusal = Refusal::UpstreamClosed { peer };

        decisions.write(&Decision {
            kind: Kind::Close,
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_222_800_000_042),
            id: "01-ab",
            tenant: &tenant,
            identity: Some("user:ci"),
            client: ClientAddr("172.16.28.9:4711".parse().unwrap()),
            method: "CONNECT",
            transparent: Some("198.51.100.8:443".parse().unwrap()),
            inner: Some(("10.244.0.9:40000".parse().unwrap(), "10.96.0.1:443".parse().unwrap())),
            host: "bank.example\"\n",
            port: 443,
            sni: Some("bank.example"),
            resolved: &[peer.ip()],
            dialled: Some(peer),
            egress: Some("203.0.113.2:40000".parse().unwrap()),
            rule: "allow[0]",
            verdict: Verdict::Allowed,
            refusal: Some(&refusal),
            bytes_up: 10,
            bytes_down: 20,
            duration: Duration::from_micros(5_678),
        });
        drop(decisions);
        sink.close();

        let lines = lines.read();
        assert_eq!(lines.len(), 1);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        let wanted = serde_json::json!({
            "ts": "2026-11-21T01:00:00.000042Z", "kind": "egress-close", "id": "01-ab", "tenant": "acme",
            "identity": "user:ci", "client": "172.16.28.9:4711", "method": "CONNECT",
            "transparent": "198.51.100.8:443",
            "inner_source": "10.244.0.9:40000", "inner_destination": "10.96.0.1:443",
            "host": "bank.example\"\n", "port": 443, "sni": "bank.example",
            "resolved": ["198.51.100.7"], "dialled": "198.51.100.7:443", "egress": "203.0.113.2:40000",
            "rule": "allow[0]", "verdict": "allowed", "bytes_up": 10, "bytes_down": 20, "total_ms": 5.678,
            "reason": "upstream_closed",
            "detail": "198.51.100.7:443 closed the connection before it answered",
        });
        assert_eq!(line, wanted);
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/decisions.md");
        let page = std::fs::read_to_string(page).unwrap();
        for field in line.as_object().unwrap().keys() {
            assert!(page.contains(&format!("| `{field}` |")), "{field} is not described");
        }
    }
}
