//! What an attack on the forward proxy once found, each by the behaviour that keeps it out.
//!
//! Deliberately absent: what is reached by spelling alone; that is `guard`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::client_hello::ClientHello;
use durward_testkit::client::{RawHttp, tls_connect};
use durward_testkit::dns::DnsServer;
use durward_testkit::origin::{Origin, RawOrigin, TcpEcho};
use durward_testkit::process::unique_loopback;
use serde_json::Value;

use super::{Out, document, get};
use crate::gateway::Gateway;

fn open_to(ports: &[u16], more: &str) -> Out {
    Out::open(&format!("allow: [{{cidr: 127.0.0.1, ports: {ports:?}}}]\n{more}"))
}

// S2.53
#[tokio::test]
async fn no_name_of_a_family_tells_the_far_side_of_a_client_not_even_behind_the_body() {
    let echo = RawOrigin::replying("127.0.0.1:0", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let out = open_to(&[echo.port()], "");
    let (to, mut client) = (echo.address(), out.connect().await);

    let request = format!(
        "POST http://{to}/ HTTP/1.1\r\nHost: {to}\r\nX-Forwarded-User: canary\r\nX-Forwarded-Prefix: canary\r\nX_Forwarded_Server: canary\r\n\
         Proxy-Foo: canary\r\nProxy-Features: canary\r\nProxy-Authenticate: canary\r\nproxy_bar: canary\r\nX-End: kept\r\n\
         Transfer-Encoding: chunked\r\nTE: trailers\r\n\r\n2\r\nhi\r\n0\r\nX-Forwarded-User: canary\r\nProxy-Foo: canary\r\nX-After: kept\r\n\r\n"
    );
    assert_eq!(client.exchange(request).await.unwrap().status, 200);

    let seen = echo.received_text().join("");
    assert!(!seen.contains("canary"), "{seen}");
    assert!(seen.contains("X-End: kept") && seen.contains("X-After: kept"), "{seen}");
}

#[tokio::test]
async fn only_the_proxy_speaks_to_its_client_as_one() {
    let forger = RawOrigin::replying(
        "127.0.0.1:0",
        "HTTP/1.1 407 Come on\r\nProxy-Authenticate: Basic realm=\"forged\"\r\nProxy-Status: durward; error=forged\r\nX-End: kept\r\nContent-Length: 0\r\n\r\n",
    );
    let out = open_to(&[forger.port()], "");

    let answer = out.connect().await.exchange(get(&format!("http://{}/", forger.address()))).await;

    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("x-end")), (407, Some("kept")));
    assert_eq!((answer.header("proxy-authenticate"), answer.header("proxy-status")), (None, None));
}

// S2.54
#[tokio::test]
async fn what_follows_a_refused_connect_is_no_request() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = open_to(&[origin.port()], "");
    let mut client = out.connect().await;

    let hidden = get(&format!("http://{}/hidden", origin.address()));
    client
        .send(format!("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n{hidden}"))
        .await
        .unwrap();
    let refused = client.read_response_to("CONNECT").await.unwrap();

    assert_eq!((refused.status, refused.header("connection")), (403, Some("close")));
    let rest = client.read_until_close().await;
    assert!(rest.as_ref().map_or(true, Vec::is_empty), "{rest:?}");
    assert_eq!(origin.requests(), 0);
}

// S2.49 S2.54
#[tokio::test]
async fn a_tunnel_that_begins_wrong_is_recorded_and_counted_as_denied() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let dns = DnsServer::start("127.0.0.1:0");
    dns.set("bank.example", &[Ipv4Addr::LOCALHOST.into()]);
    let resolvers = format!("resolvers: [\"{}\"]\nsniMustMatch: true", dns.address());
    let out = open_to(&[echo.port()], &resolvers);

    let mut tunnel = out.tunnel(&format!("bank.example:{}", echo.port())).await.unwrap();
    tunnel.send(ClientHello::new().server_name("evil.example").encode()).await.unwrap();
    let _ = tunnel.read_until_close().await;
    let upgraded = format!(
        "GET http://127.0.0.1:{0}/ HTTP/1.1\r\nHost: 127.0.0.1:{0}\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n",
        echo.port()
    );
    let refused = out.connect().await.exchange(upgraded).await.unwrap();

    assert_eq!((refused.status, refused.json()["rule"].as_str()), (403, Some("sni")));
    let lines = out.decisions(3);
    let closed = lines.iter().find(|line| line["kind"] == "egress-close").unwrap();
    assert_eq!((&closed["rule"], &closed["verdict"]), (&"sni".into(), &"denied".into()));
    let refused = lines.iter().find(|line| line["method"] == "GET").unwrap();
    assert_eq!((&refused["rule"], &refused["verdict"]), (&"sni".into(), &"denied".into()));
    assert!(!lines.iter().any(|line| line["method"] == "GET" && line["dialled"].is_string()));
    let metrics = out.gateway.metrics_text();
    let denied = metrics
        .lines()
        .find(|line| line.starts_with("durward_egress_decisions") && line.contains("\"denied\""));
    assert!(denied.is_some_and(|line| line.ends_with(" 2")), "{denied:?}");
}

// S2.15 S2.47
#[tokio::test]
async fn a_certificate_that_names_two_tenants_is_nobodys_by_socks_either() {
    let door = SocketAddr::from((unique_loopback(), 3128));
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let prepared = Gateway::prepare();
    servers.issue(&CertSpec::new().ip(door.ip()).server()).write(prepared.dir(), "proxy");
    std::fs::write(prepared.dir().join("clients.crt"), clients.pem()).unwrap();
    let entry = |name: &str| {
        format!(
            "address: {}, shared: true, certificate: {{file: proxy}}, clientCertificates: {{caFile: clients.crt}}, certificateNames: [web.{name}]",
            door.ip()
        )
    };
    let documents: String = ["a", "b"]
        .map(|name| document(name, unique_loopback(), &entry(name), "mode: Open"))
        .concat();
    let _gateway = prepared.start(&documents);
    let greet = async |names: CertSpec| {
        let identity = clients.issue(&names.client());
        let config = client_config(&servers, Some(&identity));
        let mut client = RawHttp::over(tls_connect(door, None, config, None).await.unwrap());
        client.send([5, 1, 0]).await.unwrap();
        client.read_exactly(2).await.unwrap()
    };

    let one = greet(CertSpec::new().common_name("web.a")).await;
    let both = greet(CertSpec::new().common_name("web.a").dns("web.b")).await;

    assert_eq!((one, both), (vec![5, 0], vec![5, 255]));
}

// S2.49
#[tokio::test]
async fn what_takes_the_place_of_a_stale_connection_has_a_record_of_its_own() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection| async move {
        // The first connection is taken away between two requests.
        if let Ok(Some(_)) = connection.read_request().await {
            let _ = connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
        if connection.number() == 0 && matches!(connection.read_request().await, Ok(Some(_))) {
            connection.reset();
        } else {
            connection.hold().await;
        }
    });
    let out = open_to(&[origin.port()], "");
    let url = format!("http://{}/", origin.address());
    let mut client = out.connect().await;

    for _ in 0..2 {
        assert_eq!(client.exchange(get(&url)).await.unwrap().status, 200);
    }

    let lines = out.decisions(6);
    let second: Vec<&Value> = {
        let id = &lines.last().unwrap()["id"];
        lines.iter().filter(|line| line["id"] == *id).collect()
    };
    let kinds: Vec<&str> = second.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["egress-open", "egress-close", "egress-open", "egress-close"]);
    assert_eq!(second[0]["egress"], second[1]["egress"]);
    assert_eq!(second[2]["egress"], second[3]["egress"]);
    assert_ne!(second[0]["egress"], second[2]["egress"]);
    assert_eq!(second[1]["reason"], "upstream_closed");
    assert_eq!(origin.connections(), 2);
}

// S2.49
#[tokio::test]
async fn a_parent_is_asked_only_after_the_record_says_so() {
    let parent = RawOrigin::replying("127.0.0.1:0", "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    let prepared = Gateway::prepare();
    std::fs::write(prepared.dir().join("parent"), "ci:secret\n").unwrap();
    let out = Out::with(
        prepared,
        "allowedSources: [127.0.0.0/8]",
        &format!(
            "parents: [{{address: \"{}\", credentialFile: parent}}]\nallow: [{{host: far.example}}]",
            parent.address()
        ),
    );

    assert_eq!(out.tunnel("far.example:443").await.err(), Some(502));

    let lines = out.decisions(2);
    let from: IpAddr = out.egress.into();
    for (line, kind) in lines.iter().zip(["egress-open", "egress-close"]) {
        assert_eq!(line["kind"], kind);
        assert_eq!(line["dialled"], parent.address().to_string(), "{line}");
        let egress: SocketAddr = line["egress"].as_str().unwrap().parse().unwrap();
        assert_eq!(egress.ip(), from);
    }
    assert_eq!(lines[1]["reason"], "parent_refused");
    parent.wait_for(Duration::from_secs(5), |seen| !seen.is_empty()).await;
}
