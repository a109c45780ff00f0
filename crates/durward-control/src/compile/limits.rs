//! `spec.limits`: what a tenant may use.
//!
//! A bad limit rejects the tenant: serving it without the limit its operator wrote would be worse. Deliberately absent: counters.

use std::time::Duration;

use durward_model::limits::{Limits, Timeouts};

use super::report::{Field, Report};
use super::times::{self, Range};
use super::words;
use crate::place::At;
use crate::spec::tenant::{LimitsSpec, TimeoutsSpec};

/// The limits, or `None` after an error.
pub(crate) fn limits(report: &mut Report<'_>, spec: &LimitsSpec) -> Option<Limits> {
    let field = &Field::SPEC.name("limits");
    let defaults = Limits::default();
    let before = report.errors();
    let timeouts = timeouts(report, &field.name("timeouts"), &spec.timeouts);
    let fields = report.number(
        spec.header_fields,
        &field.name("headerFields"),
        (1, 1000),
        defaults.header_fields,
    );
    let streams = report.number(
        spec.http2_streams,
        &field.name("http2Streams"),
        (1, 10_000),
        defaults.http2_streams,
    );
    let bandwidth_out = rate(report, spec.bandwidth_out.as_ref(), &field.name("bandwidthOut"));
    let bandwidth_in = rate(report, spec.bandwidth_in.as_ref(), &field.name("bandwidthIn"));
    let body = report.check_optional(
        "BadLimit",
        spec.body_bytes.as_ref(),
        &field.name("bodyBytes"),
        words::size,
    );
    let sessions = sessions(report, field, spec);
    let header = header_bytes(report, spec.header_bytes.as_ref(), &field.name("headerBytes"));
    if let (Some(burst), None) = (spec.burst, spec.requests_per_second) {
        report.error(
            "BadLimit",
            burst.place,
            &field.name("burst"),
            "needs requestsPerSecond beside it",
        );
    }
    let mut count = |written: Option<At<u32>>, name: &str| {
        written.and_then(|_| report.number(written, &field.name(name), (1, u32::MAX), 1))
    };
    let limits = Limits {
        connections: count(spec.connections, "connections"),
        connections_per_client: count(spec.connections_per_client, "connectionsPerClient"),
        requests_per_second: count(spec.requests_per_second, "requestsPerSecond"),
        burst: count(spec.burst, "burst"),
        udp_sessions: sessions?.0,
        udp_sessions_per_client: sessions?.1,
        upstream_connections: count(spec.upstream_connections, "upstreamConnections"),
        pending_requests: count(spec.pending_requests, "pendingRequests"),
        bandwidth_out: bandwidth_out?,
        bandwidth_in: bandwidth_in?,
        header_bytes: header?.unwrap_or(defaults.header_bytes),
        header_fields: fields?,
        body_bytes: body?,
        http2_streams: streams?,
        timeouts: timeouts?,
    };
    (report.errors() == before).then_some(limits)
}

/// The UDP sessions of the tenant and of one client.
fn sessions(report: &mut Report<'_>, field: &Field<'_>, spec: &LimitsSpec) -> Option<(u32, u32)> {
    let defaults = Limits::default();
    let mut number = |written, name: &str, default| {
        report.number(written, &field.name(name), (1, 100_000), default)
    };
    let all = number(spec.udp_sessions, "udpSessions", defaults.udp_sessions);
    let one = number(
        spec.udp_sessions_per_client,
        "udpSessionsPerClient",
        defaults.udp_sessions_per_client,
    );
    all.zip(one)
}

fn rate(
    report: &mut Report<'_>,
    written: Option<&At<String>>,
    field: &Field<'_>,
) -> Option<Option<u64>> {
    report.check_optional("BadLimit", written, field, words::rate)
}

fn header_bytes(
    report: &mut Report<'_>,
    written: Option<&At<String>>,
    field: &Field<'_>,
) -> Option<Option<u32>> {
    report.check_optional("BadLimit", written, field, |text| {
        let size = words::size(text)?;
        match u32::try_from(size) {
            Ok(size) if (1024..=1024 * 1024).contains(&size) => Ok(size),
            _ => Err("is out of range: 1KiB to 1MiB".to_owned()),
        }
    })
}

fn timeouts(report: &mut Report<'_>, field: &Field<'_>, spec: &TimeoutsSpec) -> Option<Timeouts> {
    let defaults = Timeouts::default();
    let before = report.errors();
    let mut time = |written: &Option<At<String>>, name: &str, range: Range| -> Option<Duration> {
        let read = |text: &str| range.read(text);
        report.check_optional("BadLimit", written.as_ref(), &field.name(name), read).flatten()
    };
    let timeouts = Timeouts {
        handshake: time(&spec.handshake, "handshake", times::HANDSHAKE)
            .unwrap_or(defaults.handshake),
        header: time(&spec.header, "header", times::HEADER).unwrap_or(defaults.header),
        idle: time(&spec.idle, "idle", times::IDLE).unwrap_or(defaults.idle),
        stream_idle: time(&spec.stream_idle, "streamIdle", times::IDLE)
            .unwrap_or(defaults.stream_idle),
        udp_idle: time(&spec.udp_idle, "udpIdle", times::UDP_IDLE).unwrap_or(defaults.udp_idle),
        connect: time(&spec.connect, "connect", times::CONNECT).unwrap_or(defaults.connect),
        response: time(&spec.response, "response", times::RESPONSE).unwrap_or(defaults.response),
        request: time(&spec.request, "request", times::REQUEST),
    };
    (report.errors() == before).then_some(timeouts)
}
