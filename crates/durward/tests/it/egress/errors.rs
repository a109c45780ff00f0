//! What clients are told that cannot be served, and that secrets are told nobody.

use std::net::SocketAddr;
use std::time::Duration;

use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::process::{eventually, unique_loopback};
use durward_testkit::secrets;

use super::{Out, get, tunnel_over};
use crate::gateway::Gateway;

const SOON: Duration = Duration::from_secs(5);
const CANARIES: [&str; 4] =
    ["canary-right-secret", "canary-wrong-secret", "canary-user", "canary-query"];

// S2.10
#[tokio::test]
async fn every_refusal_has_its_status_reason_and_contact() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hang = Origin::http1("127.0.0.1:0");
    let mut allow = String::new();
    for address in
        [silent.local_addr().unwrap(), hang.address(), SocketAddr::from(([127, 0, 0, 1], 9))]
    {
        allow.push_str(&format!("  - {{cidr: {}, ports: [{}]}}\n", address.ip(), address.port()));
    }
    allow.push_str("  - {host: nowhere.invalid, ports: [1-65535]}\n");
    let out = Out::open(&format!(
        "contact: net@acme.example\nallow:\n{allow}deny: [{{name: no-mail, ports: [25]}}]"
    ));

    for (request, status, reason, rule) in [
        (
            "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            403,
            "policy_denied",
            Some("default"),
        ),
        (
            "CONNECT mail.example:25 HTTP/1.1\r\nHost: mail.example:25\r\n\r\n",
            403,
            "policy_denied",
            Some("no-mail"),
        ),
        ("CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n", 502, "connect_failed", None),
        (
            "CONNECT nowhere.invalid:443 HTTP/1.1\r\nHost: nowhere.invalid:443\r\n\r\n",
            502,
            "unresolvable",
            None,
        ),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400, "bad_request", None),
        (
            "GET https://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            400,
            "bad_request",
            None,
        ),
        ("CONNECT evil.example HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400, "bad_request", None),
        ("CONNECT 0x7f.1:443 HTTP/1.1\r\nHost: 0x7f.1:443\r\n\r\n", 400, "bad_request", None),
    ] {
        let mut client = out.connect().await;
        client.send(request).await.unwrap();
        let answer = client.read_response().await.unwrap();
        let body = answer.json();
        assert_eq!((answer.status, body["reason"].as_str()), (status, Some(reason)), "{request}");
        assert_eq!(body["rule"].as_str(), rule, "{request}");
        assert_eq!(body["contact"].as_str(), rule.map(|_| "net@acme.example"), "{request}");
        let told = answer.header("proxy-status").unwrap();
        assert!(told.starts_with("durward; ") && told.contains(reason), "{told}");
        assert!(rule.is_none_or(|rule| told.contains(rule)), "{told}");
    }
    assert!(out.decides(|line| line["verdict"] == "denied"
        && line["rule"] == "no-mail"
        && line["host"] == "mail.example"));
    assert!(out.decides(|line| line["verdict"] == "failed" && line["reason"] == "unresolvable"));
}

// S2.10 S2.60
#[tokio::test]
async fn a_far_side_that_keeps_silent_is_504_and_too_many_is_503() {
    let origin = Origin::http1("127.0.0.1:0");
    let (address, egress, far) = (unique_loopback(), unique_loopback(), origin.address());
    let document = super::document(
        "acme",
        egress,
        &format!("address: {address}, allowedSources: [127.0.0.0/8]"),
        &format!("allow: [{{cidr: {}, ports: [{}]}}]", far.ip(), far.port()),
    ) + "  limits: {upstreamConnections: 1, connectionsPerClient: 2, headerBytes: 2KiB, timeouts: {response: 300ms, header: 300ms}}\n";
    let gateway = Gateway::prepare().start(&document);
    let proxy = SocketAddr::from((address, 3128));

    // Each from an address of its own: who has gone leaves its place free only a moment later.
    let from = async || RawHttp::connect_from(unique_loopback().into(), proxy).await.unwrap();
    let answer = from().await.exchange(get(&format!("http://{far}/hang"))).await.unwrap();
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (504, Some("response_timeout")));

    let client = unique_loopback();
    let first = RawHttp::connect_from(client.into(), proxy).await.unwrap();
    let held = tunnel_over(first, &far.to_string(), "").await.unwrap();
    assert_eq!(tunnel_over(from().await, &far.to_string(), "").await.err(), Some(503));
    let second = RawHttp::connect_from(client.into(), proxy).await.unwrap();
    let over = |line: &String| line.contains("connection_limit");
    let third = async || {
        let Ok(mut third) = RawHttp::connect_from(client.into(), proxy).await else { return };
        let _ = third.exchange(get(&format!("http://{far}/"))).await;
    };
    let told = eventually(SOON, async || {
        third().await;
        gateway.log().iter().any(over)
    });
    assert!(told.await, "{:#?}", gateway.log());
    drop((held, second));

    let large = format!("GET http://{far}/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(4096));
    for (begun, status) in [("CONNECT ", 408), (large.as_str(), 431)] {
        let mut client = from().await;
        client.send(begun).await.unwrap();
        assert_eq!(client.read_response().await.unwrap().status, status);
    }
    gateway.stop();
}

// S2.10 S2.15
#[tokio::test]
async fn secrets_appear_in_no_log_error_or_metric() {
    let origin = Origin::http1("127.0.0.1:0");
    let far = origin.address();
    let prepared = Gateway::prepare();
    std::fs::write(
        prepared.dir().join("users"),
        format!("ci:{}\n", secrets::sha256_hex(CANARIES[0])),
    )
    .unwrap();
    let out = Out::with(
        prepared,
        "credentials: {file: users}",
        &format!("allow: [{{cidr: {}, ports: [{}]}}]", far.ip(), far.port()),
    );
    let mut told = shown(&out, far).await;
    out.decisions(8);

    told.push_str(&out.gateway.decisions().join("\n"));
    told.push_str(&out.gateway.metrics_text());
    told.push_str(&out.gateway.findings().join("\n"));
    let log = out.gateway.log().join("\n").replace(CANARIES[3], "");
    for canary in CANARIES {
        assert!(!told.contains(canary), "{canary} in {told}");
        assert!(!log.contains(canary), "{canary} in {log}");
    }
    let encoded = secrets::basic("ci", CANARIES[0]);
    assert!(!log.contains(&encoded[6..]) && !told.contains(&encoded[6..]));
    assert!(out.gateway.decisions().join("").contains("\"identity\":\"user:ci\""));
    assert!(out.gateway.decisions().join("").contains("\"identity\":\"token:ci\""));
}

/// What a client shows, and how it is answered; all that it is told when it is refused.
async fn shown(out: &Out, far: SocketAddr) -> String {
    let basic = |user: &str, secret: &str| {
        format!("Proxy-Authorization: {}\r\n", secrets::basic(user, secret))
    };
    let mut told = String::new();
    for (fields, status) in [
        (basic("ci", CANARIES[0]), 200),
        (basic("ci", CANARIES[1]), 407),
        (basic(CANARIES[2], CANARIES[0]), 407),
        (format!("Proxy-Authorization: Bearer {}\r\n", CANARIES[0]), 200),
        (format!("Proxy-Authorization: Bearer {}\r\n", CANARIES[1]), 407),
        (String::new(), 407),
    ] {
        let mut client = out.connect().await;
        client
            .send(format!(
                "GET http://{far}/?{} HTTP/1.1\r\nHost: {far}\r\n{fields}\r\n",
                CANARIES[3]
            ))
            .await
            .unwrap();
        let answer = client.read_response().await.unwrap();
        assert_eq!(answer.status, status, "{fields}");
        if status != 200 {
            assert!(
                answer
                    .header_values("proxy-authenticate")
                    .iter()
                    .any(|value| value.starts_with("Basic "))
            );
            told.push_str(&format!("{:?}{}", answer.headers, answer.text()));
        } else {
            assert!(!answer.text().contains("canary-right"), "it went further: {}", answer.text());
        }
    }
    told
}
