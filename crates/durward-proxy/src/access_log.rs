//! One line per request or connection, as JSON, written off the hot thread.
//!
//! Deliberately absent: bodies, header values and anything secret.

mod line;
mod sink;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use durward_model::UpstreamAddr;

pub use sink::{Carrier, Lines, OtlpTo, Sink, SyslogTo};

use crate::audit::{Audit, Courier};
use crate::connection::ConnectionFacts;
use crate::json_line::Clock;
use crate::refusal::NotRecorded;
use crate::refusal::Refusal;

/// Bytes at which a buffer is handed to the writers.
const FULL: usize = 32 * 1024;

/// Log record of one request or connection; borrowed, because its line is encoded at once.
pub(crate) struct Record<'a> {
    /// Time the request or connection began.
    pub(crate) began: SystemTime,
    /// `http`, `tcp`, `passthrough`, or `refused` for a connection that was not served.
    pub(crate) kind: &'static str,
    /// The tenant's name, if known.
    pub(crate) tenant: Option<&'a str>,
    /// The connection.
    pub(crate) facts: &'a ConnectionFacts,
    /// The request, for `http`.
    pub(crate) request: Option<RequestRecord<'a>>,
    /// The upstream that served, if any.
    pub(crate) upstream: Option<UpstreamRecord<'a>>,
    /// Bytes from the client.
    pub(crate) bytes_in: u64,
    /// Bytes to the client.
    pub(crate) bytes_out: u64,
    /// From beginning to end.
    pub(crate) duration: Duration,
    /// Reason of a refusal or an abort.
    pub(crate) refusal: Option<&'a Refusal>,
}

/// The HTTP part of a line.
pub(crate) struct RequestRecord<'a> {
    /// Ours, or the trusted client's: `X-Request-Id`.
    pub(crate) id: &'a str,
    /// Client that a trusted proxy names; otherwise that of the connection.
    pub(crate) client: Option<IpAddr>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub(crate) version: &'static str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Without query.
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// The route's name.
    pub(crate) route: Option<&'a str>,
}

/// The upstream part of a line.
pub(crate) struct UpstreamRecord<'a> {
    /// Upstream's name.
    pub(crate) name: &'a str,
    /// Link through which it was reached.
    pub(crate) link: Option<&'a str>,
    /// Address that was dialled; through a link the agent's.
    pub(crate) peer: UpstreamAddr,
    /// Local address of the upstream connection: egress address and port.
    pub(crate) source: SocketAddr,
    /// True if the connection came from the pool.
    pub(crate) reused: bool,
    /// Time of connect and TLS handshake; zero when reused.
    pub(crate) connect: Duration,
    /// From the request's first byte to the response's head.
    pub(crate) first_byte: Option<Duration>,
    /// Tries after the first.
    pub(crate) retries: u32,
}

/// One core's lines that are not yet with the writers.
pub(crate) struct Buffer {
    sink: Sink,
    audit: Option<Courier>,
    pending: RefCell<Pending>,
}

#[derive(Default)]
struct Pending {
    /// Lines for writers that may lose some.
    lines: Lot,
    /// Lines for the audit file.
    records: Lot,
    clock: Clock,
}

#[derive(Default)]
struct Lot {
    bytes: Vec<u8>,
    count: u64,
}

impl Buffer {
    fn new(sink: Sink) -> Self {
        let audit = sink.audit().map(Audit::courier);
        Self { sink, audit, pending: RefCell::default() }
    }

    /// Adds a line; hands the buffer over once it is full.
    pub(crate) fn write(&self, record: &Record<'_>) {
        self.add(|out, clock| line::encode(out, clock, record));
    }

    /// Adds a line of another kind, which `encode` ends with a line feed.
    pub(crate) fn add(&self, encode: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
        if !self.sink.wanted() {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        let Pending { lines, records, clock } = &mut *pending;
        let begin = lines.bytes.len();
        encode(&mut lines.bytes, clock);
        lines.count += 1;
        if let Some(audit) = &self.audit {
            records.bytes.extend(&lines.bytes[begin..]);
            records.count += 1;
            if records.bytes.len() >= FULL {
                let Lot { bytes, count } = records.take();
                audit.bring(bytes, count);
            }
        }
        if !self.sink.has_writers() {
            lines.clear();
        } else if lines.bytes.len() >= FULL {
            let Lot { bytes, count } = lines.take();
            self.sink.offer(bytes, count);
        }
    }

    /// Hands the lines over, if the writers have room; otherwise they are lost and counted.
    pub(crate) fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if pending.lines.count > 0 {
            let Lot { bytes, count } = pending.lines.take();
            self.sink.offer(bytes, count);
        }
        if let Some(audit) = self.audit.as_ref().filter(|_| pending.records.count > 0) {
            let Lot { bytes, count } = pending.records.take();
            audit.bring(bytes, count);
        }
    }

    /// Waits until every line added so far is in the audit file; returns at once without an audit file.
    pub(crate) async fn committed(&self) -> Result<(), NotRecorded> {
        let Some(audit) = &self.audit else { return Ok(()) };
        let Lot { bytes, count } = self.pending.borrow_mut().records.take();
        audit.commit(bytes, count).await
    }
}

impl Lot {
    fn take(&mut self) -> Self {
        let room = Vec::with_capacity(self.bytes.len().min(FULL + 4096));
        Self {
            bytes: std::mem::replace(&mut self.bytes, room),
            count: std::mem::take(&mut self.count),
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

/// Flushes when a core ends, waiting for room in the writers' channels, so that no line of a served request is lost.
impl Drop for Buffer {
    fn drop(&mut self) {
        let pending = self.pending.get_mut();
        let Lot { bytes, count } = pending.lines.take();
        if count > 0 {
            self.sink.insist(bytes, count);
        }
        let Lot { bytes, count } = pending.records.take();
        if let Some(audit) = self.audit.as_ref().filter(|_| count > 0) {
            audit.bring(bytes, count);
        }
    }
}
