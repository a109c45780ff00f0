//! HTTP/2 towards clients: many requests and tunnels in one connection, inside TLS to the proxy.

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::H2Client;
use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::process::unique_loopback;
use http::{Method, Request};

use super::{document, pattern_of};
use crate::gateway::Gateway;

struct Secured {
    gateway: Gateway,
    client: H2Client,
    egress: std::net::Ipv4Addr,
}

async fn secured(ports: &[u16], more: &str) -> Secured {
    let (door, egress) = (unique_loopback(), unique_loopback());
    let authority = Authority::new("servers");
    let prepared = Gateway::prepare();
    authority.issue(&CertSpec::new().ip(door).server()).write(prepared.dir(), "proxy");
    let entry =
        format!("address: {door}, certificate: {{file: proxy}}, allowedSources: [127.0.0.0/8]");
    let allow = format!("allow: [{{cidr: 127.0.0.1, ports: {ports:?}}}]\n{more}");
    let gateway = prepared.start(&document("acme", egress, &entry, &allow));
    assert_eq!(gateway.findings(), Vec::<String>::new());
    let client = H2Client::tls((door, 3128).into(), None, client_config(&authority, None), None)
        .await
        .unwrap();
    Secured { gateway, client, egress }
}

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

// S2.9
#[tokio::test]
async fn tunnels_and_plain_requests_share_a_connection() {
    let (origin, echo) = (Origin::http1("127.0.0.1:0"), TcpEcho::start("127.0.0.1:0"));
    let out = secured(&[origin.port(), echo.port()], "").await;

    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let (answer, stream) =
            out.client.open(connect(&echo.address().to_string()), false).await.unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        tunnels.push((answer.into_body(), stream));
    }
    let plain = Request::get(format!("http://{}/a", origin.address())).body(()).unwrap();
    let plain = out.client.send(plain, bytes::Bytes::new(), None).await.unwrap();
    assert_eq!((plain.status, plain.echo().peer.ip()), (200, out.egress.into()));
    for (mut body, mut stream) in tunnels {
        let sent = pattern_of(300_000);
        let expected = sent.clone();
        let sending = async move {
            let mut rest = bytes::Bytes::from(sent);
            while !rest.is_empty() {
                stream.reserve_capacity(rest.len());
                let room =
                    std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
            }
            stream.send_data(bytes::Bytes::new(), true).unwrap();
        };
        let receiving = async {
            let mut all = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                all.extend_from_slice(&chunk);
            }
            all
        };
        let (received, ()) = tokio::join!(receiving, sending);
        assert!(received == expected, "{} of {}", received.len(), expected.len());
    }
    assert!(echo.peers().iter().all(|peer| peer.ip() == out.egress));
    let lines = super::decisions(&out.gateway, 8);
    assert!(lines.iter().any(|line| line["kind"] == "egress-close" && line["bytes_up"] == 300_000));
}

// S2.9 S2.54
#[tokio::test]
async fn what_may_not_be_is_refused_in_its_own_stream() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = secured(&[origin.port()], "").await;

    for (authority, status) in
        [("127.0.0.1:1", 403), ("127.0.0.2:80", 403), ("evil.example:443", 403), ("0x7f.1:80", 400)]
    {
        let (answer, _stream) = out.client.open(connect(authority), false).await.unwrap();
        assert_eq!(answer.await.unwrap().status(), status, "{authority}");
    }
    let (answer, _stream) =
        out.client.open(connect(&origin.address().to_string()), false).await.unwrap();
    assert_eq!(answer.await.unwrap().status(), 200, "the connection lives on");
}

// S2.9
#[tokio::test]
async fn extended_connect_carries_websockets_to_a_plain_origin() {
    let origin = Origin::http1("127.0.0.1:0");
    let out = secured(&[origin.port()], "").await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://{}/ws", origin.address()))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));

    let (answer, mut stream) = out.client.open(request, false).await.unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    stream.send_data("hello".into(), false).unwrap();
    let echoed = answer.into_body().data().await.unwrap().unwrap();

    assert_eq!(&echoed[..], b"hello");
    assert_eq!(origin.peers()[0].ip(), out.egress);
}

// S2.54
#[tokio::test]
async fn a_tunnel_in_a_stream_must_begin_with_the_name_too() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let out = secured(&[echo.port()], "sniMustMatch: true").await;
    let hello = durward_testkit::client::client_hello::ClientHello::new();

    let open = || async {
        let (answer, stream) =
            out.client.open(connect(&echo.address().to_string()), false).await.unwrap();
        (answer.await.unwrap().into_body(), stream)
    };
    let (mut body, mut stream) = open().await;
    let fits = bytes::Bytes::from(hello.encode());
    stream.send_data(fits.slice(..20), false).unwrap();
    stream.send_data(fits.slice(20..), false).unwrap();
    let mut echoed = Vec::new();
    while echoed.len() < fits.len() {
        echoed.extend_from_slice(&body.data().await.unwrap().unwrap());
    }
    assert_eq!(echoed, fits, "an address is named by nobody");
    let (mut body, mut stream) = open().await;
    stream.send_data(hello.server_name("evil.example").encode().into(), false).unwrap();
    assert!(!matches!(body.data().await, Some(Ok(_))), "nothing comes back");
    let lines = super::decisions(&out.gateway, 3);
    assert!(
        lines.iter().any(|line| line["sni"] == "evil.example" && line["reason"] == "policy_denied")
    );
}
