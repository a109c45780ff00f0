//! What arrives at gateway and API server of what a client sends.

use durward_apiproxy::metrics::Outcome;
use durward_apiproxy::settings::Carrier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{
    Gateway, NAME, Pki, Stage, api_server, connect, eventually, greeting, read_header, settings,
    start,
};

// S4.12
#[tokio::test]
async fn client_certificate_and_http2_reach_the_api_server_unchanged() {
    let stage = Stage::start().await;

    let mut node =
        connect(&stage.pki, stage.running.address, Some("system:node:w1")).await.unwrap();
    let mut pod = connect(&stage.pki, stage.running.address, None).await.unwrap();

    assert_eq!(
        greeting(&mut node).await,
        "user=system:node:w1 protocol=h2 sni=kubernetes.default.svc\n"
    );
    assert_eq!(greeting(&mut pod).await, "user=anonymous protocol=h2 sni=kubernetes.default.svc\n");
}

// S4.48+
#[tokio::test]
async fn the_gateway_learns_the_client_what_it_dialled_the_name_and_an_identifier() {
    let stage = Stage::start().await;

    let mut one = connect(&stage.pki, stage.running.address, None).await.unwrap();
    greeting(&mut one).await;
    let mut two = connect(&stage.pki, stage.running.address, None).await.unwrap();
    greeting(&mut two).await;

    let seen = stage.gateway.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].source, one.get_ref().0.local_addr().unwrap());
    assert_eq!(seen[0].destination, stage.running.address);
    assert_eq!((seen[0].sni.as_deref(), &*seen[0].authority), (Some(NAME), NAME));
    assert_eq!(seen[0].proxy, "proxy-1");
    assert_ne!(seen[0].unique_id, seen[1].unique_id);
}

// S4.65+
#[tokio::test]
async fn megabytes_come_back_whole_after_the_client_has_ended_its_direction() {
    let stage = Stage::start().await;
    let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();

    let mut client = connect(&stage.pki, stage.running.address, None).await.unwrap();
    greeting(&mut client).await;
    let (mut reader, mut writer) = tokio::io::split(client);
    let writing = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let reading = async { reader.read_to_end(&mut got).await.unwrap() };
    tokio::join!(writing, reading);

    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    let metrics = stage.running.proxy.metrics();
    eventually("the connection is recorded", async || metrics.count(Outcome::Closed) == 1).await;
    assert_eq!(metrics.open(), 0);
}

#[tokio::test]
async fn on_a_trusted_network_the_header_goes_without_outer_tls() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = listener.local_addr().unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            // A check connects and sends nothing.
            let Ok(seen) = read_header(&mut socket).await else { continue };
            drop(sender.send(seen));
            let mut inner = TcpStream::connect(api).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut socket, &mut inner).await });
        }
    });
    let running = start(settings(Carrier::ProxyHeader, &[gateway]));

    let mut client = connect(&pki, running.address, Some("admin")).await.unwrap();

    assert!(greeting(&mut client).await.starts_with("user=admin "));
    assert_eq!(receiver.recv().await.unwrap().authority, NAME);
}

#[tokio::test]
async fn a_peer_that_does_not_know_the_outer_connection_gets_none_of_the_clients_bytes() {
    let pki = Pki::new();
    let identity = pki.gateways.issue(&durward_testkit::certificates::CertSpec::new().dns(NAME));
    let api = api_server(&pki).await;
    // One peer speaks no ALPN at all, the other one only HTTP.
    for alpn in [&[][..], &[&b"h2"[..]][..]] {
        let gateway = Gateway::with(&identity, &pki.proxies, alpn, api).await;
        let running = start(settings(pki.outer(), &[gateway.address]));

        let refused = connect(&pki, running.address, None).await;

        assert!(refused.is_err());
        assert!(gateway.seen().is_empty());
        let text = running.proxy.metrics_text();
        assert!(text.contains("dials_total{result=\"not_a_gateway\"} 1"), "{text}");
        assert!(!running.proxy.gateways().is_ready());
    }
}
