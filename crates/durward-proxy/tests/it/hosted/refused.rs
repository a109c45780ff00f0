//! API proxies that are not admitted: how they are told, and how they are counted.

use std::sync::Arc;

use durward_model::server_tls::API_PROXY;
use durward_testkit::certificates::client_config_insecure;
use durward_testkit::certificates::{Authority, CertSpec, Identity, client_config};
use durward_testkit::client::ProxyHeader;
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe};
use durward_testkit::client::tcp_connect;
use durward_testkit::process::eventually;
use rustls::client::Resumption;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::{Api, UNRECOGNIZED_NAME, address, answer_to, at, hosting, of_pod, outer};
use crate::edge::{
    SOON, await_lines, await_refusals, handshakes_failed, refused, serve, serve_with_log,
};

use crate::tls::resumption::Tickets;

const NO_APPLICATION_PROTOCOL: u8 = 120;

// S4.6+ S4.62+
#[tokio::test]
async fn a_proxy_that_is_not_admitted_is_told_by_an_alert_and_counted() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let closed = Api::new(&gateway, &clients, "b", "api.b.example");
    let address = address();
    let without_relay = hosting(address, &[&closed], |api| api.relay = None);
    let (proxy, lines) = serve_with_log(&[hosting(address, &[&api], |_| {}), without_relay]);
    let stranger = Authority::new("stranger").issue(&CertSpec::new().common_name("x").client());
    let expired = api.proxies.issue(&CertSpec::new().common_name("x").client().expired());
    let alert_of = async |credential: Option<&Identity>| {
        let mut stream = outer(address, &gateway, credential, api.host).await.unwrap();
        let mut answer = Vec::new();
        let error = stream.read_to_end(&mut answer).await.unwrap_err();
        assert_eq!(answer, b"");
        error.to_string()
    };
    let hello = |name: &str| ClientHello::new().server_name(name).alpn("durward-api/1").tls13();

    for (credential, alert, word) in [
        (None, "CertificateRequired", "client_certificate_missing"),
        (Some(&stranger), "", "client_certificate_unknown_issuer"),
        (Some(&expired), "", "client_certificate_expired"),
    ] {
        let told = alert_of(credential).await;
        assert!(told.contains("alert") && told.contains(alert), "{word}: {told}");
        let counted = async || handshakes_failed(&proxy, "a", word) == 1;
        assert!(eventually(SOON, counted).await, "{word}");
    }
    for (name, alert) in [(closed.host, NO_APPLICATION_PROTOCOL), ("api.c.example", 112)] {
        let reaction = probe(address, None, &hello(name)).await.unwrap();
        assert_eq!(reaction, Reaction::Alert(alert), "{name}");
    }
    await_refusals(&proxy, Some("b"), "no_api_proxy", 1).await;
    await_refusals(&proxy, None, "unknown_name", 1).await;
    let lines = await_lines(proxy, &lines, 5).await;
    assert!(lines.iter().all(|line| line["kind"] == "refused" && line["sni"].is_string()));
    assert_eq!(api.server.connections() + closed.server.connections(), 0);
}

// S4.6+ S4.48+
#[tokio::test]
async fn an_admitted_proxy_must_begin_with_a_header_that_names_its_api_server() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let address = address();
    let (proxy, lines) = serve_with_log(&[hosting(address, &[&api], |_| {})]);
    let (pod, service) = (at("10.244.0.9:40000"), at("10.96.0.1:443"));
    let begin = async || outer(address, &gateway, Some(&api.credential), api.host).await.unwrap();
    let forged = of_pod("api.b.example").encode();

    for (bytes, answer, word) in [
        (forged.clone(), &UNRECOGNIZED_NAME[..], "foreign_authority"),
        (ProxyHeader::v2(pod, service).encode(), &UNRECOGNIZED_NAME[..], "foreign_authority"),
        (ProxyHeader::v1(pod, service).encode(), &UNRECOGNIZED_NAME[..], "foreign_authority"),
        (ProxyHeader::v2_local().encode(), b"", "proxy_header"),
        (b"\x16\x03\x01\x00\x05hello-hello".to_vec(), b"", "proxy_header"),
    ] {
        let before = refused(&proxy, Some("a"), word);
        assert_eq!(answer_to(begin().await, &bytes).await, answer, "{bytes:?}");
        await_refusals(&proxy, Some("a"), word, before + 1).await;
    }
    let mut midway = begin().await;
    midway.write_all(&forged[..20]).await.unwrap();
    midway.shutdown().await.unwrap();
    await_refusals(&proxy, Some("a"), "proxy_header", 3).await;
    let mut asking = begin().await;
    asking.shutdown().await.unwrap();
    await_refusals(&proxy, Some("a"), "client_closed", 1).await;

    let lines = await_lines(proxy, &lines, 7).await;
    let line = lines.iter().find(|line| line["authority"] == "api.b.example").unwrap();
    assert_eq!(line["reason"], "foreign_authority");
    assert_eq!(line["client_subject"], "CN=api.a.example");
    assert_eq!(line["inner_source"], pod.to_string());
    assert_eq!(api.server.connections(), 0);
}

// S4.64+
#[tokio::test]
async fn an_outer_connection_that_stays_silent_ends_at_the_deadline_of_a_handshake() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let address = address();
    let soon = SOON / 2;
    let wanted =
        hosting(address, &[&api], |_| {}).limits(|limits| limits.timeouts.handshake = soon);
    let proxy = serve(&[wanted]);

    let mut after_tls = outer(address, &gateway, Some(&api.credential), api.host).await.unwrap();
    after_tls.write_all(&of_pod(api.host).encode()[..30]).await.unwrap();
    let mut before_tls = tcp_connect(address, None).await.unwrap();
    let hello = ClientHello::new().server_name(api.host).alpn("durward-api/1").tls13();
    before_tls.write_all(&hello.encode()).await.unwrap();

    await_refusals(&proxy, Some("a"), "client_timeout", 2).await;
    let mut rest = Vec::new();
    let _ = after_tls.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

// S4.10+
#[tokio::test]
async fn a_session_of_one_tenants_api_proxy_opens_no_other_tenants_api_server() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = |tenant, host| Api::new(&gateway, &clients, tenant, host);
    let (a, b) = (api("a", "api.a.example"), api("b", "api.b.example"));
    let address = address();
    let _proxy = serve(&[hosting(address, &[&a], |_| {}), hosting(address, &[&b], |_| {})]);
    // Whatever session there is, is offered to whomever is met.
    let tickets = Arc::new(Tickets::default());
    let mut config = client_config(&gateway, Some(&a.credential));
    config.alpn_protocols = vec![API_PROXY.to_vec()];
    config.resumption = Resumption::store(tickets.clone());
    let config = Arc::new(config);
    let shown = async |api: &Api| {
        let stream = tcp_connect(address, None).await.ok()?;
        let connector = TlsConnector::from(Arc::clone(&config));
        let mut stream = connector.connect(api.host.try_into().unwrap(), stream).await.ok()?;
        stream.write_all(&of_pod(api.host).encode()).await.ok()?;
        let inside = TlsConnector::from(Arc::new(client_config_insecure(None)));
        let stream = inside.connect("kubernetes".try_into().unwrap(), stream).await.ok()?;
        Some(stream.get_ref().1.peer_certificates()?[0].to_vec())
    };

    for _ in 0..3 {
        assert_eq!(shown(&a).await, Some(a.identity.chain_der[0].to_vec()));
        assert!(tickets.any(), "the gateway gives sessions");
        assert_eq!(shown(&b).await, None);
    }

    assert_eq!(b.server.connections(), 0);
}
