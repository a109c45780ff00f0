//! HTTP/1.1 through the proxy: plain requests and tunnels, and what is not told to the far side.

use std::time::Duration;

use durward_testkit::client::H2Client;
use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::process::eventually_blocking;
use http::Request;
use serde_json::Value;

use super::{Out, get, pattern_of};

fn open_to(origin: &Origin) -> Out {
    let address = origin.address();
    Out::open(&format!("allow: [{{cidr: {}, ports: [{}]}}]", address.ip(), address.port()))
}

// S2.9 S2.11
#[tokio::test]
async fn requests_of_every_kind_go_out_from_the_tenants_address() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let url = format!("http://{}", origin.address());
    let host = origin.address().to_string();
    let mut client = out.connect().await;

    let first = client.exchange(get(&format!("{url}/a?b=c"))).await.unwrap();
    assert_eq!((first.status, first.echo().path.as_str()), (200, "/a?b=c"));
    assert_eq!(first.echo().peer.ip(), out.egress);
    for (method, body) in
        [("PUT", "x".repeat(100_000)), ("POST", "abc".to_owned()), ("DELETE", String::new())]
    {
        let head = format!(
            "{method} {url}/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = client.exchange(format!("{head}{body}")).await.unwrap();
        assert_eq!(answer.json()["bytes"], body.len(), "{method}");
    }
    let chunked = format!(
        "POST {url}/upload HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    );
    assert_eq!(client.exchange(chunked).await.unwrap().json()["bytes"], 7);
    let big = client.exchange(get(&format!("{url}/bytes/3000000"))).await.unwrap();
    assert_eq!(big.body, pattern_of(3_000_000));

    assert_eq!(origin.connections(), 1, "a connection is used again");
    let decisions = out.decisions(12);
    assert!(decisions.iter().all(|line| line["verdict"] == "allowed" && line["tenant"] == "acme"));
    assert_eq!(
        decisions[0]["egress"].as_str().unwrap().split(':').next().unwrap(),
        out.egress.to_string()
    );
    assert_eq!(
        (decisions[0]["rule"].as_str(), decisions[0]["method"].as_str()),
        (Some("allow[0]"), Some("GET"))
    );
}

// S2.9
#[tokio::test]
async fn the_target_says_where_to_whatever_host_says() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let far = origin.address();
    let mut client = out.connect().await;

    for host in [format!("Host: {}\r\n", out.proxy), "Host: evil.example\r\n".to_owned()] {
        let plain =
            client.exchange(format!("GET http://{far}/ HTTP/1.1\r\n{host}\r\n")).await.unwrap();
        assert_eq!(plain.echo().header("host"), Some(far.to_string().as_str()));
        let mut tunnel = out.connect().await;
        tunnel.send(format!("CONNECT {far} HTTP/1.1\r\n{host}\r\n")).await.unwrap();
        assert_eq!(tunnel.read_response_to("CONNECT").await.unwrap().status, 200);
    }
}

// S2.9
#[tokio::test]
async fn without_one_valid_host_a_request_is_refused_as_the_rfc_says() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let far = origin.address();

    for hosts in ["", "Host: a b@@\"\r\n", "Host:\r\n", "Host: a\r\nHost: b\r\n"] {
        for line in [format!("GET http://{far}/"), format!("CONNECT {far}")] {
            let mut client = out.connect().await;
            client.send(format!("{line} HTTP/1.1\r\n{hosts}\r\n")).await.unwrap();
            assert_eq!(client.read_response().await.unwrap().status, 400, "{line} {hosts:?}");
        }
    }

    let mut old = out.connect().await;
    old.send(format!("GET http://{far}/ HTTP/1.0\r\n\r\n")).await.unwrap();
    assert_eq!(old.read_response().await.unwrap().status, 200);
    assert_eq!(origin.requests(), 1);
}

// S2.9
#[tokio::test]
async fn a_target_without_a_path_is_asked_for_its_root() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let far = origin.address();
    let mut client = out.connect().await;

    for (line, path) in [
        (format!("GET http://{far}"), "/"),
        (format!("GET http://{far}?q=1"), "/?q=1"),
        (format!("OPTIONS http://{far}"), "*"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: {far}\r\n\r\n");
        let answer = client.exchange(head).await.unwrap();
        assert_eq!((answer.status, answer.echo().path.as_str()), (200, path), "{line}");
    }
}

// S2.9
#[tokio::test]
async fn a_large_upload_waits_for_100_and_arrives_whole() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let url = format!("http://{}", origin.address());
    let body = pattern_of(8_000_000);
    let mut client = out.connect().await;

    let head = format!(
        "POST {url}/upload HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        origin.address(),
        body.len()
    );
    client.send(head).await.unwrap();
    let interim = client.read_some().await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{}", interim.escape_ascii());
    client.send(&body).await.unwrap();
    let answer = client.read_response_to("POST").await.unwrap();

    assert_eq!(
        (answer.json()["bytes"].clone(), answer.json()["complete"].clone()),
        (8_000_000.into(), true.into())
    );
}

// S2.9
#[tokio::test]
async fn an_upgrade_works_plainly_and_inside_a_tunnel() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let address = origin.address();
    let upgrade = |target: String| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };

    let mut plain = out.connect().await;
    let mut inside = out.tunnel(&address.to_string()).await.unwrap();
    for (client, target) in
        [(&mut plain, format!("http://{address}/ws")), (&mut inside, "/ws".to_owned())]
    {
        let answer = client.exchange(upgrade(target)).await.unwrap();
        assert_eq!(answer.status, 101);
        client.send(b"hello").await.unwrap();
        assert_eq!(client.read_exactly(5).await.unwrap(), b"hello");
    }
}

// S2.53
#[tokio::test]
async fn the_far_side_learns_nothing_of_the_client_or_the_proxy() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let url = format!("http://{}/", origin.address());
    let mut client = out.connect().await;

    let answer = client
        .exchange(format!(
            "GET {url} HTTP/1.1\r\nHost: {}\r\nVia: 1.1 inner\r\nForwarded: for=10.0.0.9\r\nX-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Host: inner\r\n\
             X-Real-IP: 10.0.0.9\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic Y2FuYXJ5OmNhbmFyeQ==\r\nConnection: keep-alive, X-Hop\r\n\
             X-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nX-End: kept\r\n\r\n",
            origin.address()
        ))
        .await
        .unwrap();

    assert_eq!(answer.status, 200);
    let seen = answer.echo();
    let names: Vec<String> =
        seen.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    for name in &names {
        assert!(
            ["host", "x-end", "te", "connection"].contains(&name.as_str()),
            "{name} in {:?}",
            seen.headers
        );
    }
    assert_eq!(seen.header("x-end"), Some("kept"));
    assert_eq!(seen.header("host"), Some(origin.address().to_string().as_str()));
    assert_eq!(
        (answer.header("via"), answer.header("x-cache"), answer.header("age")),
        (None, None, None)
    );
    client.exchange(get(&url)).await.unwrap();
    assert_eq!(origin.requests(), 2, "nothing is cached");
}

// S2.9 S2.54
#[tokio::test]
async fn bytes_of_any_protocol_go_through_a_tunnel_both_ways_and_half_closed() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let address = echo.address();
    let out =
        Out::open(&format!("allow: [{{cidr: {}, ports: [{}]}}]", address.ip(), address.port()));
    let mut client = out.tunnel(&address.to_string()).await.unwrap();

    let sent = pattern_of(1_000_000);
    for part in sent.chunks(50_000) {
        client.send(part).await.unwrap();
        assert!(client.read_exactly(part.len()).await.unwrap() == part);
    }
    assert_eq!(echo.peers()[0].ip(), out.egress);
    client.half_close().await.unwrap();
    assert_eq!(client.read_until_close().await.unwrap(), b"");
    let lines = out.decisions(2);
    assert_eq!(
        (lines[0]["kind"].as_str(), lines[1]["kind"].as_str()),
        (Some("egress-open"), Some("egress-close"))
    );
    assert_eq!(lines[0]["id"], lines[1]["id"]);
    assert!(lines[1]["bytes_up"].as_u64() >= Some(1_000_000));
    assert!(lines[1]["bytes_down"].as_u64() >= Some(1_000_000));
}

// S2.54
#[tokio::test]
async fn a_scan_of_all_ports_reaches_only_those_allowed() {
    let origin = Origin::http1("127.0.0.1:0");
    let port = origin.port();
    let out = Out::open(&format!("allow: [{{cidr: 127.0.0.1, ports: [{port}, 9-10]}}]"));
    let client = H2Client::h2c(out.proxy, None).await.unwrap();

    let ports: Vec<u16> = (1..=u16::MAX).collect();
    let mut reached = Vec::new();
    for some in ports.chunks(64) {
        let mut asked = Vec::new();
        for port in some {
            let tunnel = Request::connect(format!("127.0.0.1:{port}")).body(()).unwrap();
            asked.push((*port, client.open(tunnel, true).await.unwrap().0));
        }
        for (port, answer) in asked {
            let answer = (port, answer.await.unwrap().status().as_u16());
            reached.extend((answer.1 != 403).then_some(answer));
        }
    }

    assert_eq!(reached, [(9, 502), (10, 502), (port, 200)]);
    assert_eq!(origin.connections(), 1);
}

// S2.49+ S2.45+
#[tokio::test]
async fn what_was_carried_is_told_in_the_access_log_too() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&origin);
    let mut client = out.connect().await;

    client.exchange(get(&format!("http://{}/x?secret=canary", origin.address()))).await.unwrap();
    out.decisions(2);
    // Each log has a writer of its own.
    assert!(eventually_blocking(Duration::from_secs(5), || !out.gateway.log().is_empty()));
    let log = out.gateway.log();

    let line: Value = serde_json::from_str(&log[0]).unwrap();
    assert_eq!(
        (line["upstream"].as_str(), line["status"].as_u64()),
        (Some("outside"), Some(200)),
        "{line}"
    );
    assert!(!out.gateway.decisions().join("").contains("canary"), "no queries in decisions");
}
