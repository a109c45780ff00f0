//! Scripted origins send and keep exact bytes.
//! What a gateway makes of such origins is tested where the gateway lives.

use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config, server_config};
use durward_testkit::client::{RawHttp, ReadError};
use durward_testkit::origin::RawOrigin;

const SECONDS: Duration = Duration::from_secs(10);

#[tokio::test]
async fn each_request_is_captured_and_replied_to() {
    let origin =
        RawOrigin::replying("127.0.0.2:0", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let mut client = RawHttp::connect(origin.address()).await.unwrap();
    let requests = [
        "GET / HTTP/1.1\r\nHoSt: x\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    ];

    for request in requests {
        assert_eq!(client.exchange(request).await.unwrap().text(), "hi");
    }

    assert_eq!(origin.received_text(), [requests.concat()]);
    assert_eq!(origin.peers(), [client.local_addr().unwrap()]);
}

#[tokio::test]
async fn scripts_may_hold_reset_and_half_close() {
    let origin = RawOrigin::start("127.0.0.2:0", |mut connection| async move {
        let Ok(Some(_)) = connection.read_head().await else { return };
        match connection.number() {
            0 => connection.reset(),
            1 => {
                connection.send("partial").await.unwrap();
                connection.half_close().await.unwrap();
                connection.read_exactly(5).await.unwrap();
            }
            _ => connection.hold().await,
        }
    });
    let ask = "GET / HTTP/1.1\r\n\r\n";

    let mut first = RawHttp::connect(origin.address()).await.unwrap();
    first.send(ask).await.unwrap();
    let reset = first.read_until_close().await;
    let mut second = RawHttp::connect(origin.address()).await.unwrap();
    second.send(ask).await.unwrap();
    let half = second.read_until_close().await.unwrap();
    second.send("after").await.unwrap();
    let mut third =
        RawHttp::connect(origin.address()).await.unwrap().deadline(Duration::from_millis(100));
    third.send(ask).await.unwrap();
    let held = third.read_some().await;
    let received = origin
        .wait_for(SECONDS, |received| received.len() == 3 && received[1].ends_with(b"after"))
        .await;

    assert!(matches!(reset, Err(ReadError::Broken { .. })), "{reset:?}");
    assert_eq!(half, b"partial");
    assert!(matches!(held, Err(ReadError::Timeout { .. })), "{held:?}");
    assert_eq!(received[2], ask.as_bytes());
}

#[tokio::test]
async fn scripts_run_under_tls() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 2]));
    let origin = RawOrigin::tls(
        "127.0.0.2:0",
        server_config(&identity, None),
        |mut connection| async move {
            let name = connection.transport().tls().is_some();
            let _ = connection.read_until(b"!").await;
            let _ = connection.send(format!("tls {name}")).await;
        },
    );

    let mut client =
        RawHttp::connect_tls(origin.address(), None, client_config(&authority, None), None)
            .await
            .unwrap();
    client.send("hello!").await.unwrap();

    assert_eq!(client.read_exactly(8).await.unwrap(), b"tls true");
    assert_eq!(origin.received_text(), ["hello!"]);
}

#[tokio::test]
#[should_panic(expected = "not within 50ms; received []")]
async fn waiting_for_bytes_that_do_not_come_fails() {
    let origin = RawOrigin::once("127.0.0.2:0", "");

    origin.wait_for(Duration::from_millis(50), |received| !received.is_empty()).await;
}
