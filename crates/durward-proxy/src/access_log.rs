//! One line per request or connection, as JSON, written off the hot thread.
//!
//! Deliberately absent: bodies, header values and anything secret.

mod line;
mod sink;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use durward_model::UpstreamAddr;

pub use sink::{Lines, Sink};

use crate::refusal::Refusal;
use crate::session::ConnectionFacts;

/// A buffer this full goes to the writer.
const FULL: usize = 32 * 1024;

/// What is told of one request or connection; borrowed, because the line is made at once.
pub(crate) struct Record<'a> {
    /// When it began.
    pub(crate) began: SystemTime,
    /// `http`, `tcp`, `passthrough`, or `refused` for a connection nobody served.
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
    /// Why it was refused or broken off.
    pub(crate) refusal: Option<&'a Refusal>,
}

/// The HTTP part of a line.
pub(crate) struct RequestRecord<'a> {
    /// Ours, or the trusted client's: `X-Request-Id`.
    pub(crate) id: &'a str,
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
    /// The upstream's name.
    pub(crate) name: &'a str,
    /// What was dialled.
    pub(crate) peer: UpstreamAddr,
    /// What it was dialled from: egress address and port.
    pub(crate) source: SocketAddr,
    /// Whether the connection came from the pool.
    pub(crate) reused: bool,
    /// Connect and TLS; zero when reused.
    pub(crate) connect: Duration,
    /// From the request's first byte to the response's head.
    pub(crate) first_byte: Option<Duration>,
    /// Tries after the first.
    pub(crate) retries: u32,
}

/// One core's lines that are not yet with the writer.
pub(crate) struct Buffer {
    sink: Sink,
    pending: RefCell<Pending>,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    lines: u64,
    clock: line::Clock,
}

impl Buffer {
    fn new(sink: Sink) -> Self {
        Self { sink, pending: RefCell::default() }
    }

    /// Adds a line; hands the buffer over once it is full.
    pub(crate) fn write(&self, record: &Record<'_>) {
        if !self.sink.wanted() {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        let Pending { bytes, lines, clock } = &mut *pending;
        line::encode(bytes, clock, record);
        *lines += 1;
        if bytes.len() >= FULL {
            let (bytes, lines) = pending.take();
            self.sink.offer(bytes, lines);
        }
    }

    /// Hands the lines over, if the writer has room; otherwise they are lost and counted.
    pub(crate) fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if pending.lines > 0 {
            let (bytes, lines) = pending.take();
            self.sink.offer(bytes, lines);
        }
    }
}

impl Pending {
    fn take(&mut self) -> (Vec<u8>, u64) {
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(FULL + 4096));
        (bytes, std::mem::take(&mut self.lines))
    }
}

/// The end of a core waits for the writer: what was served is told.
impl Drop for Buffer {
    fn drop(&mut self) {
        let (bytes, lines) = self.pending.get_mut().take();
        if lines > 0 {
            self.sink.insist(bytes, lines);
        }
    }
}
