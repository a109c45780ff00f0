//! Requests that are refused, each with its reason, and none of them forwarded.

use durward_testkit::origin::RawOrigin;

use super::support::{Setup, ask};

/// A head, the status, and the reason.
const HEADS: &[(&str, u16, &str)] = &[
    // Line ends and white space.
    ("GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 400, "bad_request"),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\n\r \n\n", 400, "bad_request"),
    // Names and values.
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX(1): b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n", 400, "bad_request"),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a:port\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a:70000\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\u{e9}\r\n\r\n", 400, "bad_request"),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "bad_request"),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    // Length and coding.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        400,
        "bad_request",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello", 400, "bad_request"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400, "bad_request"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400, "bad_request"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, a b\r\n\r\n", 400, "bad_request"),
    // Request line.
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "not_supported"),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "not_supported"),
    ("GET / HTTP/0.9\r\n\r\n", 505, "not_supported"),
    ("GET /\r\n\r\n", 400, "bad_request"),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /?\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGH / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "not_supported"),
    ("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nExpect: something\r\n\r\n", 501, "not_supported"),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\r\n\r\n", 400, "bad_request"),
];

/// Bodies after `Transfer-Encoding: chunked`.
const CHUNKS: &[&str] = &[
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "\r\n",
    "g\r\n",
    "-1\r\n\r\n",
    "fffffffffffffffff\r\nx",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\n\r\n",
    "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
];

fn origin() -> RawOrigin {
    RawOrigin::replying("127.0.0.1:0", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

// S1.38
#[tokio::test]
async fn malformed_heads_are_refused_and_never_forwarded() {
    let origin = origin();
    Setup::to(origin.address())
        .run(|rig| async move {
            assert!(HEADS.len() >= 80, "{}", HEADS.len());

            for (head, status, reason) in HEADS {
                // A well-formed request behind it must not be served either.
                let wire = format!("{head}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
                let answer = ask(&rig, wire).await;

                let shown = head.escape_debug();
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
                assert!(answer.contains(&format!("\"reason\":\"{reason}\"")), "{shown}: {answer}");
                assert!(answer.contains("Connection: close\r\n"), "{shown}: {answer}");
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown}: {answer}");
            }

            assert_eq!(origin.connections(), 0);
            let log = rig.log(HEADS.len()).await;
            assert!(log.iter().all(|line| line["reason"].is_string()), "{}", log[0]);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn malformed_chunks_are_refused_and_no_request_completed() {
    let origin = origin();
    Setup::to(origin.address())
        .run(|rig| async move {
            for chunks in CHUNKS {
                let wire = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
                let answer = ask(&rig, wire).await;

                let shown = chunks.escape_debug();
                assert!(answer.starts_with("HTTP/1.1 400 "), "{shown}: {answer}");
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown}: {answer}");
            }

            for sent in origin.received_text() {
                assert!(!sent.contains("0\r\n\r\n") && !sent.contains("smuggled"), "{sent}");
            }
        })
        .await;
}

// S1.38+
#[tokio::test]
async fn a_head_as_large_as_the_tenant_allows_is_served_and_a_larger_one_is_not() {
    let origin = origin();
    let mut setup = Setup::to(origin.address());
    setup.limits.header_bytes = 256 * 1024;
    setup
        .run(|rig| async move {
            for (kib, status) in [(60, 200), (70, 200), (100, 200), (250, 200), (260, 431)] {
                let fields = format!("X: {}\r\n", "x".repeat(4090)).repeat(kib / 4);
                let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
                let answer = ask(&rig, request).await;

                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{kib} KiB: {answer}");
            }
        })
        .await;
}

// S1.38
#[tokio::test]
async fn heads_and_bodies_have_limits() {
    let origin = origin();
    let mut setup = Setup::to(origin.address());
    setup.limits.header_bytes = 4096;
    setup.limits.header_fields = 10;
    setup.limits.body_bytes = Some(100);
    setup
        .run(|rig| async move {
            let long = "x".repeat(5000);
            let many = "X: y\r\n".repeat(10);
            let chunk = format!("c8\r\n{}\r\n0\r\n\r\n", "x".repeat(200));
            let cases = [
                (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431, "head_too_large"),
                (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), 431, "head_too_large"),
                (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431, "head_too_large"),
                (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "head_too_large"),
                (format!("GET /{long}"), 414, "head_too_large"),
                (
                    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n".to_owned(),
                    413,
                    "body_too_large",
                ),
                (
                    format!(
                        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
                    ),
                    413,
                    "body_too_large",
                ),
            ];

            for (wire, status, reason) in cases {
                let answer = ask(&rig, &wire).await;

                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{wire}: {answer}");
                assert!(answer.contains(&format!("\"reason\":\"{reason}\"")), "{wire}: {answer}");
            }
        })
        .await;
}

// S1.38 S2.27
#[test]
fn a_request_to_a_forward_proxy_needs_one_valid_host() {
    use crate::http::message::Request;
    use crate::http::parse::{HeadLimits, Parsed, Progress, parse_request};

    let limits = HeadLimits { outward: true, ..HeadLimits::RESPONSE };
    let read = |head: &str| {
        let mut request = Request::default();
        let read = parse_request(head.as_bytes(), &mut Progress::default(), limits, &mut request);
        matches!(read, Ok(Parsed::Head(_)))
    };
    for target in ["GET http://a/ HTTP/1.1", "CONNECT a:443 HTTP/1.1", "OPTIONS http://a HTTP/1.1"]
    {
        for hosts in [
            "",
            "Host: a b@@\"\r\n",
            "Host: a\r\nHost: b\r\n",
            "Host: a\r\nHost: a\r\n",
            "Host:\r\n",
            "Host: u@a\r\n",
        ] {
            assert!(!read(&format!("{target}\r\n{hosts}\r\n")), "{target} {hosts:?}");
        }
        for hosts in ["Host: a\r\n", "Host: proxy.example:3128\r\n", "Host: a:\r\n"] {
            assert!(read(&format!("{target}\r\n{hosts}\r\n")), "{target} {hosts:?}");
        }
    }
    for target in ["GET http://a/ HTTP/1.0", "CONNECT a:443 HTTP/1.0"] {
        assert!(read(&format!("{target}\r\n\r\n")), "{target}");
        assert!(!read(&format!("{target}\r\nHost: a b\r\n\r\n")), "{target}");
    }
}
