//! Tenants that share an address and port by names: whose a connection is, and that it is nobody else's afterwards.

use std::net::SocketAddr;

use durward_proxy::metrics::Counter;
use durward_proxy::metrics::openmetrics::Text;
use durward_testkit::certificates::{Authority, CertSpec, client_config, client_config_insecure};
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe, reaction};
use durward_testkit::client::{H2Client, RawHttp, tcp_connect};
use durward_testkit::origin::RawOrigin;
use durward_testkit::process::{eventually, unique_loopback};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::edge::{
    SOON, await_lines, await_refusals, bound, certificate_named, http, https, metrics, pass,
    refused, serve, serve_with_log, tenant, total,
};

const UNRECOGNIZED_NAME: u8 = 112;

fn address() -> SocketAddr {
    SocketAddr::from((unique_loopback(), 8443))
}

async fn get(client: &mut RawHttp, host: &str) -> (u16, String) {
    let response = client.get(host, "/").await.unwrap();
    (response.status, response.text())
}

// S4.4+ S4.6+ S4.10+ S4.64+
#[tokio::test]
async fn tls_is_terminated_or_passed_through_for_whom_the_name_says() {
    let authority = Authority::new("root");
    let address = address();
    let issued = |name: &str| authority.issue(&CertSpec::new().dns(name));
    let (a, wild, ip) = (
        issued("a.example"),
        issued("*.b.example"),
        authority.issue(&CertSpec::new().ip(address.ip())),
    );
    // What is passed through ends in another gateway, whose certificate shows that nothing was opened on the way.
    let (inner, behind) = (issued("api.c.example"), self::address());
    let _behind = serve(&[tenant("behind").listen(behind, http("C", Some(https(&inner))))]);
    let own = address.ip().to_string();
    let proxy = serve(&[
        tenant("a").listen(address, http("A", Some(https(&a)))).named(&["a.example"]),
        tenant("b").listen(address, http("B", Some(https(&wild)))).named(&["*.b.example"]),
        tenant("c").upstream(behind).listen(address, pass(&[("*", 0)])).named(&["api.c.example"]),
        tenant("d").listen(address, http("D", Some(https(&ip)))).named(&[&own]),
    ]);

    let cases = [
        (ClientHello::new().server_name("A.example"), Some(&a)),
        (ClientHello::new().server_name("a.example."), Some(&a)),
        (ClientHello::new().server_name("x.b.example"), Some(&wild)),
        (ClientHello::new().server_name("API.c.example."), Some(&inner)),
        (ClientHello::new().server_name("api.c.example"), Some(&inner)),
        (ClientHello::new(), Some(&ip)),
        (ClientHello::new().server_name("b.example"), None),
        (ClientHello::new().server_name("c.example"), None),
    ];
    for (hello, shown) in cases {
        for hello in [hello.clone(), hello.clone().padding(9_000)] {
            let expected = shown.map_or(Reaction::Alert(UNRECOGNIZED_NAME), |shown| {
                Reaction::Chain(shown.chain_der.clone())
            });
            assert_eq!(probe(address, None, &hello).await.unwrap(), expected, "{hello:?}");
        }
    }
    let newest = ClientHello::new().server_name("X.b.example").tls13();
    assert_eq!(probe(address, None, &newest).await.unwrap(), Reaction::Encrypted);
    await_refusals(&proxy, None, "unknown_name", 4).await;
    for (name, answer) in [("a.example", "A"), ("q.b.example", "B"), ("api.c.example", "C")] {
        let config = client_config(&authority, None);
        let mut client = RawHttp::connect_tls(address, None, config, Some(name)).await.unwrap();
        assert_eq!(get(&mut client, name).await, (200, answer.to_owned()));
    }
}

// S4.4 S4.1+
#[tokio::test]
async fn ten_thousand_names_of_two_hundred_tenants_lead_each_to_its_own_server() {
    const TENANTS: u16 = 200;
    const NAMES: u16 = 50;
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().dns("any.example"));
    let (address, inner) = (address(), unique_loopback());
    let names: Vec<&str> = (0..TENANTS).map(|number| &*format!("t{number}").leak()).collect();
    let server = |number: u16| SocketAddr::from((inner, 9000 + number));
    let servers = names.iter().zip(0..).map(|(name, number)| {
        tenant(name).listen(server(number), http(name, Some(https(&identity))))
    });
    let _behind = serve(&servers.collect::<Vec<_>>());
    let carried = names.iter().zip(0..).map(|(name, number)| {
        let own: Vec<_> = (0..NAMES).map(|at| format!("n{at}.{name}.example")).collect();
        let own: Vec<_> = own.iter().map(String::as_str).collect();
        tenant(name).upstream(server(number)).listen(address, pass(&[("*", 0)])).named(&own)
    });
    let proxy = serve(&carried.collect::<Vec<_>>());

    for (name, number) in names.iter().zip(0..) {
        let host = format!("n{}.{name}.example", number % NAMES);
        let config = client_config_insecure(None);
        let mut client = RawHttp::connect_tls(address, None, config, Some(&host)).await.unwrap();
        assert_eq!(get(&mut client, &host).await, (200, (*name).to_owned()));
    }
    let stranger = ClientHello::new().server_name("n50.t0.example");
    let reaction = probe(address, None, &stranger).await.unwrap();
    assert_eq!(reaction, Reaction::Alert(UNRECOGNIZED_NAME));
    assert_eq!(refused(&proxy, None, "unknown_name"), 1);
}

// S4.6 S4.62
#[tokio::test]
async fn a_name_that_nobody_has_and_no_name_are_closed_counted_and_nobodys() {
    let authority = Authority::new("root");
    let address = address();
    let issued = authority.issue(&CertSpec::new().dns("a.example"));
    let origin = RawOrigin::start("127.0.0.1:0", |connection| connection.hold());
    let (proxy, lines) = serve_with_log(&[
        tenant("a").listen(address, http("A", Some(https(&issued)))).named(&["a.example"]),
        tenant("b")
            .upstream(origin.address())
            .listen(address, pass(&[("*", 0)]))
            .named(&["*.b.example"]),
    ]);
    let own = address.ip().to_string();
    let asked = [None, Some("127.0.0.1"), Some(&*own), Some("b.example"), Some("www.a.example")];

    for name in asked {
        for hello in [ClientHello::new(), ClientHello::new().tls13()] {
            let hello = match name {
                Some(name) => hello.server_name(name),
                None => hello,
            };
            let mut stream = tcp_connect(address, None).await.unwrap();
            stream.write_all(&hello.encode()).await.unwrap();
            let got = reaction(&mut stream).await.unwrap();
            assert_eq!(got, Reaction::Alert(UNRECOGNIZED_NAME), "{name:?}");
            assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)), "{name:?}");
        }
    }

    await_refusals(&proxy, None, "unknown_name", 10).await;
    let mut text = Text::default();
    proxy.write_metrics(&mut text);
    let text = text.end();
    let counted = r#"durward_refusals_total{tenant="",reason="unknown_name"} 10"#;
    assert!(text.lines().any(|line| line == counted), "{text}");
    for name in ["a", "b"] {
        assert_eq!(total(&proxy, name, Counter::ConnectionsOpened), 0, "{name}");
        assert!(metrics(&proxy, name).refusals().iter().all(|count| *count == 0), "{name}");
    }
    assert_eq!(origin.connections(), 0);
    let lines = await_lines(proxy, &lines, 10).await;
    assert!(lines.iter().all(|line| line["reason"] == "unknown_name" && line["tenant"].is_null()));
    let named = |name: &str| lines.iter().filter(|line| line["sni"] == name).count();
    assert_eq!((named("b.example"), named("www.a.example")), (2, 2), "{lines:#?}");
}

// S4.6+
#[tokio::test]
async fn a_connection_belongs_to_one_tenant_whatever_it_asks_for_later() {
    let authority = Authority::new("root");
    let address = address();
    // A certificate that is good for the neighbour's name, too: browsers send both over one connection (RFC 9113 section 9.1.1).
    let both = authority.issue(&CertSpec::new().dns("a.example").dns("b.example"));
    let mut policy = https(&both);
    policy.certificates = vec![certificate_named(&both, &["a.example", "b.example"])];
    let proxy = serve(&[
        tenant("a")
            .listen(address, http("A", Some(policy.clone())))
            .named(&["a.example", "more.example"]),
        tenant("b").listen(address, http("B", Some(policy))).named(&["b.example"]),
    ]);

    let config = client_config(&authority, None);
    let mut client =
        RawHttp::connect_tls(address, None, config.clone(), Some("a.example")).await.unwrap();
    let own = address.ip().to_string();
    for (host, status) in [
        ("a.example", 200),
        ("A.EXAMPLE.", 200),
        ("b.example", 421),
        ("c.example", 421),
        (&*own, 421),
    ] {
        assert_eq!(get(&mut client, host).await.0, status, "{host}");
    }
    let client = H2Client::tls(address, None, config, Some("a.example")).await.unwrap();
    for (authority, status) in [("a.example", 200), ("b.example", 421), ("a.example", 200)] {
        let client = client.clone().authority(authority);
        assert_eq!(client.get("/").await.unwrap().status, status, "{authority}");
    }
    assert_eq!(refused(&proxy, Some("a"), "misdirected"), 4);
    assert_eq!(total(&proxy, "b", Counter::ConnectionsOpened), 0);
}

// S4.6+
#[tokio::test]
async fn a_plain_request_is_for_whom_its_host_says() {
    let address = address();
    let own = address.ip().to_string();
    let (proxy, lines) = serve_with_log(&[
        tenant("a").listen(address, http("A", None)).named(&["a.example"]),
        tenant("b").listen(address, http("B", None)).named(&["*.b.example", &own]),
    ]);

    for (request, status, answer) in [
        ("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 200, Some("A")),
        ("GET / HTTP/1.1\r\nHost: A.Example.:8443\r\n\r\n", 200, Some("A")),
        ("GET http://x.b.example/ HTTP/1.1\r\nHost: x.b.example\r\n\r\n", 200, Some("B")),
        ("GET / HTTP/1.0\r\n\r\n", 200, Some("B")),
        ("GET / HTTP/1.1\r\nHost: b.example\r\n\r\n", 421, None),
        ("GET / HTTP/1.1\r\n\r\n", 400, None),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, None),
        ("\x16\x03\x01 nonsense\r\n\r\n", 400, None),
    ] {
        let mut client = RawHttp::connect(address).await.unwrap();
        let response = client.exchange(request).await.unwrap();
        assert_eq!(response.status, status, "{request}");
        if let Some(answer) = answer {
            assert_eq!(response.text(), answer, "{request}");
        } else {
            assert!(client.is_closed().await, "{request}");
        }
    }
    let mut client = RawHttp::connect(address).await.unwrap();
    client
        .send_slowly(
            b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            3,
            std::time::Duration::from_millis(1),
        )
        .await
        .unwrap();
    assert_eq!(client.read_response().await.unwrap().text(), "A");
    for (host, status) in [("x.b.example", 421), ("a.example", 200)] {
        assert_eq!(get(&mut client, host).await.0, status, "{host}");
    }
    for (authority, answer) in [("a.example", "A"), ("y.b.example", "B")] {
        let client = H2Client::h2c(address, None).await.unwrap().authority(authority);
        assert_eq!(client.get("/").await.unwrap().text(), answer);
    }
    let stranger = H2Client::h2c(address, None).await.unwrap().authority("c.example");
    assert!(stranger.get("/").await.is_err());
    await_refusals(&proxy, None, "unknown_name", 2).await;
    await_refusals(&proxy, None, "bad_request", 3).await;
    let lines = await_lines(proxy, &lines, 14).await;
    let named = lines.iter().filter(|line| line["reason"] == "unknown_name");
    assert!(named.clone().all(|line| line["tenant"].is_null()), "{lines:#?}");
}

// S4.67+
#[tokio::test]
async fn sources_are_judged_before_any_cryptography() {
    let authority = Authority::new("root");
    let address = address();
    let (a, b) = (
        authority.issue(&CertSpec::new().dns("a.example")),
        authority.issue(&CertSpec::new().dns("b.example")),
    );
    let proxy = serve(&[
        tenant("a")
            .listen(address, http("A", Some(https(&a))))
            .named(&["a.example"])
            .only_from("192.0.2.0/24"),
        tenant("b").listen(address, http("B", Some(https(&b)))).named(&["b.example"]),
    ]);

    let refused = probe(address, None, &ClientHello::new().server_name("a.example")).await;
    let served = probe(address, None, &ClientHello::new().server_name("b.example")).await;

    assert!(!matches!(refused, Ok(Reaction::Chain(_))), "{refused:?}");
    assert_eq!(served.unwrap(), Reaction::Chain(b.chain_der.clone()));
    await_refusals(&proxy, Some("a"), "source_not_allowed", 1).await;
    assert_eq!(total(&proxy, "a", Counter::HandshakesTls12), 0);
}

// S4.70+
#[tokio::test]
async fn names_change_hands_and_open_connections_with_them() {
    let (address, origin) = (address(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let upstream = origin.local_addr().unwrap();
    let behind = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = origin.accept().await {
            open.push(stream);
        }
    });
    let passing = |name, names: &[&str]| {
        tenant(name).upstream(upstream).listen(address, pass(&[("*", 0)])).named(names)
    };
    let plain = SocketAddr::new(address.ip(), 8080);
    let web =
        |name, names: &[&str]| passing(name, names).listen(plain, http(name, None)).named(names);
    let proxy = serve(&[web("a", &["a.example", "x.example"]), web("b", &["b.example"])]);
    let mut kept = RawHttp::connect(plain).await.unwrap();
    assert_eq!(get(&mut kept, "a.example").await, (200, "a".to_owned()));
    let mut lost = RawHttp::connect(plain).await.unwrap();
    assert_eq!(get(&mut lost, "a.example").await.0, 200);
    assert_eq!(get(&mut lost, "x.example").await.0, 200);
    let mut carried = Vec::new();
    for name in ["a.example", "x.example"] {
        let mut stream = tcp_connect(address, None).await.unwrap();
        stream.write_all(&ClientHello::new().server_name(name).encode()).await.unwrap();
        carried.push(stream);
    }
    let open = eventually(SOON, async || total(&proxy, "a", Counter::ConnectionsOpened) == 4).await;
    assert!(open);

    proxy.apply(bound(2, &[web("a", &["a.example"]), web("b", &["b.example", "x.example"])]));

    assert_eq!(get(&mut kept, "a.example").await, (200, "a".to_owned()));
    assert_eq!(get(&mut lost, "x.example").await.0, 421);
    let mut byte = [0];
    assert!(!matches!(carried[1].read(&mut byte).await, Ok(1..)), "the name is another's");
    let waits =
        tokio::time::timeout(std::time::Duration::from_millis(500), carried[0].read(&mut byte));
    assert!(waits.await.is_err(), "this name has not changed hands");
    let mut fresh = RawHttp::connect(plain).await.unwrap();
    assert_eq!(get(&mut fresh, "x.example").await, (200, "b".to_owned()));
    behind.abort();
}
