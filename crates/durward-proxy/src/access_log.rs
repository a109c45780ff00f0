//! One line per request or connection, as JSON, written off the hot thread.
//!
//! Deliberately absent: bodies, header values and anything secret.

use std::time::{Duration, SystemTime};

use durward_model::UpstreamAddr;
use std::net::SocketAddr;

use crate::refusal::Refusal;
use crate::session::ConnectionFacts;

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

/// Where finished lines go: a writer thread behind a bounded channel. Full means lost and counted, never waited for.
#[derive(Clone, Default)]
pub struct Sink {}

impl Sink {
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer {}
    }
}

/// One core's lines that are not yet with the writer.
pub(crate) struct Buffer {}
