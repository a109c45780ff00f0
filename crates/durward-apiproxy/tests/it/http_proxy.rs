//! The way to the gateway through the network's HTTP proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use durward_apiproxy::resolve::Resolution;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{
    Gateway, NAME, Pki, api_server, connect, eventually, greeting, settings, start,
};

/// Starts a proxy that connects to `gateway` whatever name it is asked for, and keeps the heads of requests.
async fn proxy(gateway: SocketAddr, answer: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let notes = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let notes = Arc::clone(&notes);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await?);
                }
                notes.lock().unwrap().push(String::from_utf8(head).unwrap());
                socket.write_all(answer.as_bytes()).await?;
                let mut gateway = TcpStream::connect(gateway).await?;
                copy_bidirectional(&mut socket, &mut gateway).await
            });
        }
    });
    (address, heads)
}

#[tokio::test]
async fn the_http_proxy_is_asked_for_the_gateway_by_name() {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, api_server(&pki).await).await;
    let (address, heads) =
        proxy(gateway.address, "HTTP/1.1 200 Connection established\r\n\r\n").await;
    let mut settings = settings(pki.outer(), &[]);
    settings.gateways = vec![durward_apiproxy::settings::Target::parse(NAME, 443).unwrap()];
    settings.resolution = Resolution::default();
    let url = format!("http://me:secret@{address}");
    settings.http_proxy = durward_apiproxy::settings::HttpProxy::parse(&url, "localhost").unwrap();
    let running = start(settings);

    let mut client = connect(&pki, running.address, Some("admin")).await.unwrap();

    assert!(greeting(&mut client).await.starts_with("user=admin "));
    let head = heads.lock().unwrap()[0].clone();
    assert_eq!(
        head,
        format!(
            "CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn a_refusal_of_the_http_proxy_is_told_with_its_status() {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, api_server(&pki).await).await;
    let (address, _) = proxy(gateway.address, "HTTP/1.1 407 Who are you\r\n\r\n").await;
    let mut settings = settings(pki.outer(), &[gateway.address]);
    settings.http_proxy =
        durward_apiproxy::settings::HttpProxy::parse(&format!("http://{address}"), "").unwrap();
    let running = start(settings);

    let gateways = running.proxy.gateways();
    eventually("the status is told", async || {
        let report = gateways.report();
        report[0].endpoints.iter().any(|(_, health)| format!("{health:?}").contains("407"))
    })
    .await;

    assert!(connect(&pki, running.address, None).await.is_err());
    assert!(gateway.seen().is_empty());
}
