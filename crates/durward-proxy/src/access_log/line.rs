//! A record as one line of JSON.

use super::{Record, RequestRecord, UpstreamRecord};
use crate::connection::{ConnectionFacts, ProxyFacts, TlsFacts};
use crate::json_line::{Clock, Fields};

/// Adds the line for `record` to `out`.
pub(super) fn encode(out: &mut Vec<u8>, clock: &mut Clock, record: &Record<'_>) {
    let mut line = Fields::begin(out, clock, record.began);
    line.text("kind", record.kind);
    line.maybe_text("tenant", record.tenant);
    match record.request.as_ref().and_then(|request| request.client) {
        Some(client) => line.display("client", &client),
        None => line.display("client", &record.facts.client),
    }
    connection(&mut line, record.facts);
    if let Some(request) = &record.request {
        http(&mut line, request);
    }
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    if let Some(upstream) = &record.upstream {
        upstream_fields(&mut line, upstream);
    }
    line.milliseconds("total_ms", record.duration);
    line.refusal(record.refusal);
    line.end();
}

fn connection(line: &mut Fields<'_>, facts: &ConnectionFacts) {
    line.display("peer", &facts.peer);
    line.display("destination", &facts.destination);
    if let Some(proxied) = &facts.proxied {
        proxy_headers(line, proxied);
    }
    if let Some(tls) = &facts.tls {
        session(line, tls);
    }
}

fn proxy_headers(line: &mut Fields<'_>, proxied: &ProxyFacts) {
    if let Some((source, destination)) = &proxied.inner {
        line.display("inner_source", source);
        line.display("inner_destination", destination);
    }
    line.maybe_text("authority", proxied.authority.as_deref());
    line.maybe_text("connection_id", proxied.connection_id.as_deref());
}

fn session(line: &mut Fields<'_>, tls: &TlsFacts) {
    line.maybe_text("sni", tls.sni.as_deref());
    if tls.version.is_empty() {
        return;
    }
    line.text("tls_version", tls.version);
    line.text("tls_cipher", &tls.cipher);
    line.flag("tls_resumed", tls.resumed);
    line.milliseconds("handshake_ms", tls.handshake);
    if let Some(certificate) = &tls.client_certificate {
        line.text("client_subject", &certificate.subject);
        line.text("client_spki_sha256", &certificate.spki_sha256);
    }
}

fn http(line: &mut Fields<'_>, request: &RequestRecord<'_>) {
    line.text("request_id", request.id);
    line.text("http_version", request.version);
    line.text("method", request.method);
    line.text("host", request.host);
    line.text("path", request.path);
    line.number("status", u64::from(request.status));
    line.maybe_text("route", request.route);
}

fn upstream_fields(line: &mut Fields<'_>, upstream: &UpstreamRecord<'_>) {
    line.text("upstream", upstream.name);
    line.display("upstream_peer", &upstream.peer);
    line.display("egress", &upstream.source);
    line.flag("reused", upstream.reused);
    line.number("retries", u64::from(upstream.retries));
    line.milliseconds("connect_ms", upstream.connect);
    if let Some(first_byte) = upstream.first_byte {
        line.milliseconds("first_byte_ms", first_byte);
    }
}
