//! Limits, and the end of the proxy.

use std::time::Duration;

use durward_apiproxy::metrics::Outcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{
    Gateway, PATIENCE, Pki, Stage, api_server, connect, eventually, greeting, settings, start,
};

// S4.67+
#[tokio::test]
async fn connections_beyond_the_limits_are_closed_and_counted_and_a_place_becomes_free() {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, api_server(&pki).await).await;
    let mut settings = settings(pki.outer(), &[gateway.address]);
    settings.limits.per_client = Some(1);
    let running = start(settings);

    let mut first = connect(&pki, running.address, None).await.unwrap();
    greeting(&mut first).await;
    assert!(connect(&pki, running.address, None).await.is_err());
    let metrics = running.proxy.metrics();
    eventually("the refusal is counted", async || metrics.count(Outcome::Limit) == 1).await;

    drop(first);
    eventually("the place is free", async || connect(&pki, running.address, None).await.is_ok())
        .await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_costs_no_connection_to_a_gateway() {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, api_server(&pki).await).await;
    let mut settings = settings(pki.outer(), &[gateway.address]);
    settings.limits.connect = Duration::from_millis(100);
    let running = start(settings);
    let metrics = running.proxy.metrics();

    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let ended = silent.read(&mut [0]).await;
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    drop(TcpStream::connect(running.address).await.unwrap());

    eventually("both are counted", async || {
        metrics.count(Outcome::Handshake) == 1 && metrics.count(Outcome::Closed) == 1
    })
    .await;
    assert!(gateway.seen().is_empty());
    assert!(!running.proxy.metrics_text().contains("dials_total{"), "no gateway was dialled");
}

#[tokio::test]
async fn open_connections_have_time_to_end_when_the_proxy_stops_and_nothing_new_is_accepted() {
    let stage = Stage::start().await;
    let mut client = connect(&stage.pki, stage.running.address, None).await.unwrap();
    greeting(&mut client).await;

    let proxy = std::sync::Arc::clone(&stage.running.proxy);
    let draining = tokio::spawn(async move { proxy.drain(PATIENCE).await });
    eventually("nothing is accepted", async || {
        TcpStream::connect(stage.running.address).await.is_err()
    })
    .await;
    client.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still here");
    assert!(!draining.is_finished());

    client.shutdown().await.unwrap();
    drop(client);
    draining.await.unwrap();
    assert_eq!(stage.running.proxy.metrics().open(), 0);
}

#[tokio::test]
async fn what_has_not_ended_in_time_is_closed() {
    let stage = Stage::start().await;
    let mut client = connect(&stage.pki, stage.running.address, None).await.unwrap();
    greeting(&mut client).await;

    stage.running.proxy.drain(Duration::from_millis(10)).await;

    assert_eq!(stage.running.proxy.metrics().count(Outcome::Drained), 1);
    let ended = client.read(&mut [0; 1]).await;
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
}
