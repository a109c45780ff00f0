//! Contents of log lines; and no input of a peer starts another line.

use std::net::SocketAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use durward_model::{ClientAddr, Destination, UpstreamAddr};
use proptest::prelude::*;
use serde_json::Value;

use super::{Record, RequestRecord, Sink, UpstreamRecord};
use crate::connection::{ClientCertificate, ConnectionFacts, ProxyFacts, TlsFacts};
use crate::json_line::escape;
use crate::refusal::Refusal;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn facts() -> ConnectionFacts {
    let client_certificate = ClientCertificate {
        subject: "CN=npci".to_owned(),
        common_name: None,
        spki_sha256: "ab".repeat(32),
        fingerprint: "cd".repeat(32),
        uris: Vec::new(),
        dns: Vec::new(),
        client_cert: ":ZGVy:".to_owned(),
        client_cert_chain: String::new(),
    };
    let tls = TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
        sni: Some("pay.acme.example".to_owned()),
        resumed: false,
        handshake: Duration::from_micros(1_234),
        client_certificate: Some(client_certificate),
        shown: None,
    };
    ConnectionFacts {
        accepted: Instant::now(),
        client: ClientAddr(address("192.0.2.7:4711")),
        peer: address("10.0.0.1:5000"),
        destination: Destination(address("198.51.100.2:443")),
        tls: Some(tls),
        link: None,
        proxied: ProxyFacts {
            authority: Some("api.acme.example".to_owned()),
            connection_id: Some("7f-01".to_owned()),
            inner: Some((address("10.244.0.9:40000"), address("10.96.0.1:443"))),
        }
        .boxed(),
    }
}

fn request<'a>(host: &'a str, path: &'a str) -> RequestRecord<'a> {
    RequestRecord {
        id: "01-ab",
        client: None,
        version: "HTTP/1.1",
        method: "GET",
        host,
        path,
        status: 200,
        route: Some("pay"),
    }
}

fn record<'a>(facts: &'a ConnectionFacts, request: Option<RequestRecord<'a>>) -> Record<'a> {
    Record {
        began: UNIX_EPOCH + Duration::from_micros(1_795_222_800_000_042),
        kind: "http",
        tenant: Some("acme"),
        facts,
        request,
        upstream: None,
        bytes_in: 10,
        bytes_out: 2_000,
        duration: Duration::from_micros(5_678),
        refusal: None,
    }
}

fn written(records: &[Record<'_>]) -> Vec<String> {
    let (sink, lines) = Sink::memory().unwrap();
    let buffer = sink.buffer();
    records.iter().for_each(|record| buffer.write(record));
    drop(buffer);
    sink.close();
    lines.read()
}

// S1.53
#[test]
fn a_line_has_every_field_of_the_schema() {
    let facts = facts();
    let mut record = record(&facts, Some(request("pay.acme.example", "/v1/pay")));
    record.upstream = Some(UpstreamRecord {
        name: "pay",
        link: None,
        peer: UpstreamAddr(address("10.244.1.5:8080")),
        source: address("203.0.113.2:40000"),
        reused: true,
        connect: Duration::ZERO,
        first_byte: Some(Duration::from_micros(900)),
        retries: 1,
    });
    let refusal = Refusal::ConnectFailed {
        peer: address("10.244.1.5:8080"),
        source: std::io::ErrorKind::ConnectionRefused.into(),
    };
    record.refusal = Some(&refusal);

    let lines = written(&[record]);

    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    let wanted = serde_json::json!({
        "ts": "2026-11-21T01:00:00.000042Z", "kind": "http", "tenant": "acme",
        "client": "192.0.2.7:4711", "peer": "10.0.0.1:5000", "destination": "198.51.100.2:443",
        "inner_source": "10.244.0.9:40000", "inner_destination": "10.96.0.1:443",
        "authority": "api.acme.example", "connection_id": "7f-01",
        "sni": "pay.acme.example", "tls_version": "TLSv1.3",
        "tls_cipher": "TLS13_AES_256_GCM_SHA384", "tls_resumed": false, "handshake_ms": 1.234,
        "client_subject": "CN=npci", "client_spki_sha256": "ab".repeat(32),
        "request_id": "01-ab", "http_version": "HTTP/1.1", "method": "GET",
        "host": "pay.acme.example", "path": "/v1/pay", "status": 200, "route": "pay",
        "bytes_in": 10, "bytes_out": 2000,
        "upstream": "pay", "upstream_peer": "10.244.1.5:8080", "egress": "203.0.113.2:40000",
        "reused": true, "retries": 1, "connect_ms": 0.0, "first_byte_ms": 0.9, "total_ms": 5.678,
        "reason": "connect_failed", "detail": "cannot connect to 10.244.1.5:8080: connection refused",
    });
    assert_eq!(line, wanted);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/access-log.md");
    let page = std::fs::read_to_string(page).unwrap();
    for field in line.as_object().unwrap().keys() {
        assert!(page.contains(&format!("| `{field}` |")), "{field} is not described");
    }
}

// S1.53
#[test]
fn what_a_client_sends_cannot_forge_a_line_or_a_field() {
    let mut facts = facts();
    facts.tls.as_mut().unwrap().sni = Some("a\"}\r\n{\"tenant\":\"other".to_owned());
    let evil = "x\",\"tenant\":\"other\n\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}\\";

    let lines = written(&[record(&facts, Some(request(evil, evil)))]);

    assert_eq!(lines.len(), 1);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["tenant"], "acme");
    assert_eq!(line["host"], evil);
    assert!(lines[0].bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", lines[0]);
}

// S1.53
#[test]
fn bytes_that_are_not_utf8_are_escaped() {
    let mut out = b"\"".to_vec();
    escape(&mut out, b"a\xff\xc3\"\xe2\x82\xac");
    out.push(b'"');

    assert_eq!(out, "\"a\\u00ff\\u00c3\\\"€\"".as_bytes());
    assert!(serde_json::from_slice::<String>(&out).is_ok());
}

proptest! {
    // S1.53
    #[test]
    fn any_text_comes_back_as_it_was(text in any::<String>()) {
        let mut out = b"\"".to_vec();
        escape(&mut out, text.as_bytes());
        out.push(b'"');

        prop_assert!(!out.iter().any(|byte| *byte < b' ' || *byte == 0x7f));
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}

// S1.53
#[test]
fn nothing_handed_over_is_lost_at_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let facts = facts();
    let sink = Sink::file(&path).unwrap();
    let buffer = sink.buffer();

    for _ in 0..1_000 {
        buffer.write(&record(&facts, Some(request("h", "/"))));
    }
    drop(buffer);
    sink.close();

    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1_000);
    assert_eq!(sink.lost(), 0);
}

// S1.53
#[test]
fn a_rotated_file_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let facts = facts();
    let sink = Sink::file(&path).unwrap();
    let buffer = sink.buffer();

    buffer.write(&record(&facts, None));
    buffer.flush();
    std::fs::rename(&path, &rotated).unwrap();
    sink.reopen();
    buffer.write(&record(&facts, None));
    drop(buffer);
    sink.close();

    let count = |path| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((count(&rotated), count(&path)), (1, 1));
}

// S1.53
#[test]
fn a_stuck_writer_costs_lines_not_time() {
    let (sink, lines) = Sink::memory().unwrap();
    let buffer = sink.buffer();
    let stuck = lines.hold();
    let facts = facts();
    let began = Instant::now();

    for _ in 0..200_000 {
        buffer.write(&record(&facts, Some(request("pay.acme.example", "/v1/pay"))));
        if sink.lost() > 0 {
            break;
        }
    }

    assert!(sink.lost() > 0);
    assert!(began.elapsed() < Duration::from_secs(20));
    drop(stuck);
    drop(buffer);
    sink.close();
    assert!(!lines.read().is_empty());
}
