//! Hosted API servers behind trusted networks and load balancers, which speak PROXY.

use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::server_tls::API_PROXY;
use durward_model::{DestinationMode, HostedApi, SourceSet};
use durward_proxy::Proxy;
use durward_proxy::access_log::Sink;
use durward_proxy::proxy::Options;
use durward_testkit::certificates::{Authority, client_config, client_config_insecure};
use durward_testkit::client::{ProxyHeader, RawHttp, tcp_connect};
use durward_testkit::origin::Echo;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::{AUTHORITY, Api, UNIQUE_ID, address, at, hosting_through, of_pod};
use crate::edge::{assert_served, await_lines, options, refused, snapshot};

// S4.67+ S4.72+
#[tokio::test]
async fn from_a_trusted_network_an_authority_names_the_api_server_without_an_outer_connection() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let other = Api::new(&gateway, &clients, "b", "api.b.example");
    let (bind, dialled) = (address(), at("198.51.100.2:443"));
    let only = SourceSet::new(["10.244.0.0/16".parse().unwrap()]);
    let wanted = [
        hosting_through(bind, dialled, &[&api], |_| {}),
        hosting_through(bind, dialled, &[&other], |api| api.allowed_sources = Some(only.clone())),
    ];
    let trusted = SourceSet::new(["127.0.0.1/32".parse().unwrap()]);
    let mode = DestinationMode::ProxyProtocol { trusted, inner: false };
    let (access_log, lines) = Sink::memory().unwrap();
    let proxy = Proxy::start(Options { access_log, ..options() }).unwrap();
    assert_served(&proxy.apply(snapshot(1, &mode, &wanted)));
    let ask = async |source: &str, authority: Option<&str>, inside: &str| {
        let header = ProxyHeader::v2(at(source), dialled);
        let header = authority
            .iter()
            .fold(header, |header, authority| header.tlv(AUTHORITY, authority.as_bytes()));
        let mut stream = tcp_connect(bind, None).await.unwrap();
        stream.write_all(&header.encode()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client_config_insecure(None)));
        let name = inside.to_owned().try_into().unwrap();
        let stream = connector.connect(name, stream).await.ok()?;
        let response = RawHttp::over(stream).get("kubernetes", "/").await.unwrap();
        Some(Echo::parse(&response.body).local)
    };
    let (pod, stranger) = ("10.244.0.9:40000", "192.0.2.9:40000");

    let cases = [
        (pod, Some(api.host), "kubernetes", Some(&api)),
        (pod, Some(api.host), other.host, Some(&api)),
        (pod, Some(other.host), "kubernetes", Some(&other)),
        (stranger, Some(api.host), "kubernetes", Some(&api)),
        (stranger, Some(other.host), "kubernetes", None),
        (stranger, Some(other.host), api.host, None),
        (pod, None, "kubernetes", None),
        (pod, Some("api.c.example"), "kubernetes", None),
        (pod, Some("api.c.example"), api.host, Some(&api)),
        (stranger, None, other.host, None),
    ];
    for (source, authority, inside, expected) in cases {
        let found = ask(source, authority, inside).await;
        let expected = expected.map(|api| api.server.address());
        assert_eq!(found, expected, "{source} {authority:?} {inside}");
    }
    assert_eq!(refused(&proxy, Some("b"), "source_not_allowed"), 3);
    let lines = await_lines(proxy, &lines, cases.len()).await;
    assert!(lines.iter().any(|line| line["authority"] == "api.c.example"));
}

// S4.72+
#[tokio::test]
async fn behind_a_balancer_an_api_proxys_own_address_is_judged_and_its_header_kept_apart() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let (bind, dialled) = (address(), at("198.51.100.2:443"));
    let only = SourceSet::new(["192.0.2.0/24".parse().unwrap()]);
    let admitting = |api: &mut HostedApi| api.allowed_sources = Some(only.clone());
    let wanted = [hosting_through(bind, dialled, &[&api], admitting)];
    let trusted = SourceSet::new(["127.0.0.1/32".parse().unwrap()]);
    let mode = DestinationMode::ProxyProtocol { trusted, inner: false };
    let (access_log, lines) = Sink::memory().unwrap();
    let proxy = Proxy::start(Options { access_log, ..options() }).unwrap();
    assert_served(&proxy.apply(snapshot(1, &mode, &wanted)));
    let mut config = client_config(&gateway, Some(&api.credential));
    config.alpn_protocols = vec![API_PROXY.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let ask = async |node: &str| {
        let mut stream = tcp_connect(bind, None).await.unwrap();
        let of_balancer = ProxyHeader::v2(at(node), dialled).tlv(UNIQUE_ID, b"balancer-1");
        stream.write_all(&of_balancer.encode()).await.unwrap();
        let mut stream = connector.connect(api.host.try_into().unwrap(), stream).await.ok()?;
        stream.write_all(&of_pod(api.host).encode()).await.ok()?;
        let inside = TlsConnector::from(Arc::new(client_config_insecure(None)));
        let stream = inside.connect("kubernetes".try_into().unwrap(), stream).await.ok()?;
        Some(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    };
    let (node, stranger) = ("192.0.2.7:40000", "203.0.113.7:40000");

    assert_eq!(ask(node).await, Some(api.identity.chain_der[0].to_vec()));
    assert_eq!(ask(stranger).await, None);

    let lines = await_lines(proxy, &lines, 2).await;
    let of = |client: &str| lines.iter().find(|line| line["client"] == client).unwrap();
    assert_eq!(of(stranger)["reason"], "source_not_allowed");
    assert_eq!(
        (&of(node)["kind"], &of(node)["destination"]),
        (&"api_proxy".into(), &"198.51.100.2:443".into())
    );
    assert_eq!(of(node)["inner_source"], "10.244.0.9:40000");
    assert_eq!(of(node)["connection_id"], "pod-1");
}

/// Sends these headers and begins TLS inside; returns the upstream that answers.
async fn asked_after(
    bind: SocketAddr,
    headers: &[ProxyHeader],
    inside: &'static str,
) -> Option<SocketAddr> {
    let mut stream = tcp_connect(bind, None).await.unwrap();
    let bytes: Vec<u8> = headers.iter().flat_map(ProxyHeader::encode).collect();
    stream.write_all(&bytes).await.unwrap();
    let connector = TlsConnector::from(Arc::new(client_config_insecure(None)));
    let stream = connector.connect(inside.try_into().unwrap(), stream).await.ok()?;
    let response = RawHttp::over(stream).get("kubernetes", "/").await.unwrap();
    Some(Echo::parse(&response.body).local)
}

// S4.67+
#[tokio::test]
async fn what_a_pod_dialled_is_no_address_here_and_the_authority_finds_the_api_server() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = |tenant, host| Api::new(&gateway, &clients, tenant, host);
    let (a, b, alone) =
        (api("a", "api.a.example"), api("b", "api.b.example"), api("c", "api.c.example"));
    let bind = address();
    let (shared, own) = (at("198.51.100.2:443"), at("198.51.100.3:443"));
    let mut unnamed = hosting_through(bind, own, &[&alone], |_| {});
    unnamed.unname();
    let wanted = [
        hosting_through(bind, shared, &[&a], |_| {}),
        hosting_through(bind, shared, &[&b], |_| {}),
        unnamed,
    ];
    let trusted = SourceSet::new(["127.0.0.1/32".parse().unwrap()]);
    let mode = DestinationMode::ProxyProtocol { trusted, inner: false };
    let (access_log, lines) = Sink::memory().unwrap();
    let proxy = Proxy::start(Options { access_log, ..options() }).unwrap();
    assert_served(&proxy.apply(snapshot(1, &mode, &wanted)));
    let server = |api: &Api| Some(api.server.address());

    for (authority, expected) in [
        (a.host, server(&a)),
        (b.host, server(&b)),
        (alone.host, server(&alone)),
        ("api.d.example", None),
        ("kubernetes", None),
    ] {
        assert_eq!(asked_after(bind, &[of_pod(authority)], "kubernetes").await, expected);
    }
    let without = ProxyHeader::v2(at("10.244.0.9:40000"), at("10.96.0.1:443"));
    assert_eq!(asked_after(bind, &[without], a.host).await, None, "without an authority");

    assert_eq!(refused(&proxy, None, "tenant_not_found"), 3);
    let lines = await_lines(proxy, &lines, 6).await;
    let of_a = lines.iter().find(|line| line["authority"] == a.host).unwrap();
    assert_eq!(of_a["destination"], shared.to_string());
    assert_eq!(of_a["inner_destination"], "10.96.0.1:443");
    assert_eq!(of_a["client"], "10.244.0.9:40000");
}

// S4.67+
#[tokio::test]
async fn an_api_proxys_header_behind_a_balancers_does_not_lose_the_balancers_destination() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let twin = Api::new(&gateway, &clients, "b", "api.a.example");
    let bind = address();
    let (first, second) = (at("198.51.100.2:443"), at("198.51.100.3:443"));
    // One name at two addresses is two tenants': only the address that the balancer names tells which is meant.
    let wanted = [
        hosting_through(bind, first, &[&api], |_| {}),
        hosting_through(bind, second, &[&twin], |_| {}),
    ];
    let trusted = SourceSet::new(["127.0.0.1/32".parse().unwrap()]);
    let mode = DestinationMode::ProxyProtocol { trusted, inner: true };
    let (access_log, lines) = Sink::memory().unwrap();
    let proxy = Proxy::start(Options { access_log, ..options() }).unwrap();
    assert_served(&proxy.apply(snapshot(1, &mode, &wanted)));
    let of_balancer = |destination| ProxyHeader::v2(at("192.0.2.7:40000"), destination);

    for (destination, expected) in [(first, &api), (second, &twin)] {
        let headers = [of_balancer(destination), of_pod(api.host)];
        let found = asked_after(bind, &headers, "kubernetes").await;
        assert_eq!(found, Some(expected.server.address()), "{destination}");
    }
    let elsewhere = of_balancer(at("198.51.100.9:443"));
    assert_eq!(asked_after(bind, &[elsewhere, of_pod(api.host)], "kubernetes").await, None);

    let lines = await_lines(proxy, &lines, 3).await;
    let of_first = lines.iter().find(|line| line["destination"] == first.to_string()).unwrap();
    assert_eq!(of_first["client"], "192.0.2.7:40000");
    assert_eq!(of_first["inner_source"], "10.244.0.9:40000");
}

/// Begins an outer connection after the balancer's header; returns the API server whose certificate is shown inside.
async fn asked_inside(
    bind: SocketAddr,
    of_balancer: &ProxyHeader,
    (gateway, api): (&Authority, &Api),
) -> Option<SocketAddr> {
    let mut config = client_config(gateway, Some(&api.credential));
    config.alpn_protocols = vec![API_PROXY.to_vec()];
    let mut stream = tcp_connect(bind, None).await.unwrap();
    stream.write_all(&of_balancer.encode()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(api.host.try_into().unwrap(), stream).await.ok()?;
    stream.write_all(&of_pod(api.host).encode()).await.ok()?;
    let inside = TlsConnector::from(Arc::new(client_config_insecure(None)));
    let stream = inside.connect("kubernetes".try_into().unwrap(), stream).await.ok()?;
    let shown = &stream.get_ref().1.peer_certificates()?[0];
    (**shown == *api.identity.chain_der[0]).then(|| api.server.address())
}

// S4.67+ S4.72+
#[tokio::test]
async fn source_ranges_judge_the_real_client_on_every_way_in() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let (client, shared, own) =
        (at("192.0.2.7:40000"), at("198.51.100.2:443"), at("198.51.100.3:443"));
    // The client's network; the balancer's, whose socket it is; that of the pods, which headers inside name; that of what was dialled.
    let ranges = [
        ("192.0.2.0/24", true),
        ("127.0.0.0/8", false),
        ("10.244.0.0/16", false),
        ("198.51.100.0/24", false),
    ];
    let mut seen = 0;
    for (range, is_admitted) in ranges {
        let only = SourceSet::new([range.parse().unwrap()]);
        let admitting = |api: &mut HostedApi| api.allowed_sources = Some(only.clone());
        let api = Api::new(&gateway, &clients, "a", "api.a.example");
        let alone = Api::new(&gateway, &clients, "b", "api.b.example");
        let bind = address();
        let mut unnamed = hosting_through(bind, own, &[&alone], admitting);
        unnamed.unname();
        let wanted = [hosting_through(bind, shared, &[&api], admitting), unnamed];
        let trusted = SourceSet::new(["127.0.0.1/32".parse().unwrap()]);
        let mode = DestinationMode::ProxyProtocol { trusted, inner: true };
        let proxy = Proxy::start(options()).unwrap();
        assert_served(&proxy.apply(snapshot(1, &mode, &wanted)));
        let (to_shared, to_own) = (ProxyHeader::v2(client, shared), ProxyHeader::v2(client, own));
        let old = ProxyHeader::v1(client, shared);
        let of_proxy = to_shared.clone().tlv(AUTHORITY, api.host.as_bytes());
        let inner = of_pod(api.host);

        let ways = [
            ("by name", asked_after(bind, std::slice::from_ref(&to_shared), api.host).await, &api),
            ("by name, version 1", asked_after(bind, &[old], api.host).await, &api),
            (
                "at its own address",
                asked_after(bind, std::slice::from_ref(&to_own), alone.host).await,
                &alone,
            ),
            ("trusted network", asked_after(bind, &[of_proxy], "kubernetes").await, &api),
            (
                "two headers",
                asked_after(bind, &[to_shared.clone(), inner], "kubernetes").await,
                &api,
            ),
            ("outer", asked_inside(bind, &to_shared, (&gateway, &api)).await, &api),
            ("outer, own address", asked_inside(bind, &to_own, (&gateway, &alone)).await, &alone),
        ];

        for (way, found, api) in &ways {
            let expected = is_admitted.then(|| api.server.address());
            assert_eq!(*found, expected, "{way}, admitted are {range}");
            seen += 1;
        }
        let refused = ["a", "b"].map(|tenant| refused(&proxy, Some(tenant), "source_not_allowed"));
        assert_eq!(refused, if is_admitted { [0, 0] } else { [5, 2] }, "{range}");
    }
    assert_eq!(seen, 7 * ranges.len());
}
