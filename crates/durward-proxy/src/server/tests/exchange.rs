//! Interim, early and broken responses, upgrades, cancellation and deadlines.

use std::time::Duration;

use durward_testkit::origin::{Origin, RawConnection, RawOrigin};

use super::support::{Setup, ask};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SECONDS: Duration = Duration::from_secs(5);

// S1.38
#[tokio::test]
async fn an_expectation_is_met_by_the_upstream_itself() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        let head = connection.read_until(b"\r\n\r\n").await.unwrap().unwrap();
        assert!(String::from_utf8(head).unwrap().contains("Expect: 100-continue\r\n"));
        connection
            .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(connection.read_exactly(5).await.unwrap(), b"hello");
        connection.send(OK).await.unwrap();
    });
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await.unwrap();

            let expected = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
            let interim = client.read_exactly(expected.len()).await.unwrap();
            client.send("hello").await.unwrap();
            let answer = client.read_response().await.unwrap();

            assert_eq!(String::from_utf8(interim).unwrap(), expected);
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        })
        .await;
}

// S1.38
#[tokio::test]
async fn an_early_refusal_arrives_although_the_body_is_still_on_its_way() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        connection.read_until(b"\r\n\r\n").await.unwrap();
        connection.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await.unwrap();
        connection.hold().await;
    });
    Setup::to(origin.address())
        .run(|rig| async move {
            for expect in ["", "Expect: 100-continue\r\n"] {
                let mut client = rig.client().await;
                client
                    .send(format!(
                        "POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 100000000\r\n\r\n"
                    ))
                    .await
                    .unwrap();
                if expect.is_empty() {
                    client.send(vec![b'x'; 100_000]).await.unwrap();
                }

                let answer = client.read_response().await.unwrap();

                assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
                assert_eq!(answer.header("connection"), Some("close"));
                assert!(client.is_closed().await);
            }
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_websocket_is_relayed_and_bytes_before_the_101_wait_for_it() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        let head = connection.read_until(b"\r\n\r\n").await.unwrap().unwrap();
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("Upgrade: websocket\r\nConnection: Upgrade\r\n"), "{head}");
        // Nothing follows until the upgrade is granted.
        let early = tokio::time::timeout(Duration::from_millis(100), connection.read_some()).await;
        assert!(early.is_err());
        connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst").await.unwrap();
        assert_eq!(connection.read_exactly(5).await.unwrap(), b"early");
        connection.send("last").await.unwrap();
    });
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            client.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\nearly").await.unwrap();

            let all = client.read_until_close().await.unwrap();
            let all = String::from_utf8(all).unwrap();

            assert!(all.starts_with("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), "{all}");
            assert!(all.ends_with("\r\n\r\nfirstlast"), "{all}");
            drop(client);
            let log = rig.log(1).await;
            assert_eq!(log[0]["status"], 101);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_refused_upgrade_leaves_an_ordinary_connection() {
    let origin = RawOrigin::replying("127.0.0.1:0", OK);
    Setup::to(origin.address())
        .run(|rig| async move {
            let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;

            assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
            let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(!origin.received_text().concat().contains("h2c"));
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_client_that_goes_away_takes_its_upstream_request_with_it() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            while origin.open_connections() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }

            client.reset();

            while origin.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let log = rig.log(1).await;
            assert_eq!(
                (&log[0]["status"], &log[0]["reason"]),
                (&499.into(), &"client_closed".into())
            );
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_cancelled_stream_takes_its_upstream_request_with_it() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let builder = h2::client::Builder::new();
            let client = durward_testkit::client::H2Client::over(rig.stream().await, &builder, "a")
                .await
                .unwrap();
            let (response, mut stream) =
                client.open(client.request(http::Method::GET, "/sse"), true).await.unwrap();
            let response = response.await.unwrap();
            assert_eq!(origin.open_connections(), 1);

            stream.send_reset(h2::Reason::CANCEL);
            drop(response);

            while origin.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(rig.log(1).await[0]["reason"], "client_closed");
        })
        .await;
}

// S1.38 S1.60
#[tokio::test]
async fn malformed_responses_are_not_passed_on() {
    let cases: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"hello",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"",
    ];
    for case in cases {
        let origin = RawOrigin::once("127.0.0.1:0", *case);
        Setup::to(origin.address())
            .run(|rig| async move {
                let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;

                let shown = case.escape_ascii();
                assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{shown}: {answer}");
                assert!(answer.contains("Proxy-Status: durward; error="), "{answer}");
                assert!(!answer.contains("127.0.0.1"), "{answer}");
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn a_response_that_breaks_off_does_not_look_complete() {
    let cases: [(&[u8], bool); 3] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", false),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz", false),
    ];
    for (case, complete) in cases {
        let origin = RawOrigin::once("127.0.0.1:0", case);
        Setup::to(origin.address())
            .run(|rig| async move {
                let mut client = rig.client().await;
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

                let answer = client.read_response().await;

                assert_eq!(answer.is_ok(), complete, "{answer:?}");
                assert_eq!(rig.log(1).await[0]["status"], 200);
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn waits_have_deadlines() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits.timeouts.header = Duration::from_millis(150);
    setup.limits.timeouts.idle = Duration::from_millis(150);
    setup.limits.timeouts.response = Duration::from_millis(150);
    setup.limits.timeouts.stream_idle = Duration::from_millis(150);
    setup
        .run(|rig| async move {
            let mut silent = rig.client().await;
            let mut slow = rig.client().await;
            slow.send("GET / HTTP/1.1\r\n").await.unwrap();
            let mut stuck = rig.client().await;
            stuck
                .send("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
                .await
                .unwrap();
            let mut waiting = rig.client().await;
            waiting.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

            assert_eq!(silent.read_until_close().await.unwrap(), b"");
            assert_eq!(slow.read_response().await.unwrap().status, 408);
            assert_eq!(stuck.read_response().await.unwrap().status, 408);
            assert_eq!(waiting.read_response().await.unwrap().status, 504);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn framing_without_content_does_not_extend_the_deadline_of_a_body() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        connection.read_until(b"\r\n\r\n").await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;").await.unwrap();
        // A chunk extension of a byte at a time, up to the longest that there may be.
        while connection.send("x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    let mut setup = Setup::to(origin.address());
    setup.limits.timeouts.stream_idle = Duration::from_millis(150);
    setup
        .run(|rig| async move {
            let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;

            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert_eq!(rig.log(1).await[0]["reason"], "response_timeout");
        })
        .await;
}

// S1.58
#[tokio::test]
async fn draining_ends_connections_after_their_exchange() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut idle = rig.client().await;
            idle.get("a", "/").await.unwrap();
            let mut busy = rig.client().await;
            busy.send("GET /slow/200 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let builder = h2::client::Builder::new();
            let streams =
                durward_testkit::client::H2Client::over(rig.stream().await, &builder, "a")
                    .await
                    .unwrap();
            streams.get("/").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;

            rig.core.watchdog.drain();

            assert!(idle.is_closed().await);
            let answer = busy.read_response().await.unwrap();
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
            assert!(busy.is_closed().await);
            tokio::time::timeout(SECONDS, streams.closed()).await.unwrap().unwrap();
        })
        .await;
}

// S1.58+
#[tokio::test]
async fn a_request_that_meets_the_drain_is_answered_and_the_connection_closed() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut clients = Vec::new();
            for _ in 0..20 {
                let mut client = rig.client().await;
                client.get("a", "/").await.unwrap();
                clients.push(client);
            }

            rig.core.watchdog.drain();

            for mut client in clients {
                let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
                client.send(post).await.unwrap();
                let answer = client.read_response().await.unwrap();
                assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
                assert!(client.is_closed().await);
            }
        })
        .await;
}

// S1.38
#[tokio::test]
async fn interim_responses_without_end_are_cut_off() {
    let endless = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
    let origin = RawOrigin::once("127.0.0.1:0", endless);
    Setup::to(origin.address())
        .run(|rig| async move {
            let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;

            assert_eq!(answer.matches("HTTP/1.1 103 ").count(), 32, "{answer}");
            assert!(answer.contains("HTTP/1.1 502 "), "{answer}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_route_bounds_the_whole_of_a_request() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits.timeouts.request = Some(Duration::from_millis(300));
    setup
        .run(|rig| async move {
            let mut late = rig.client().await;
            late.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut long = rig.client().await;
            long.send("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

            assert_eq!(late.read_response().await.unwrap().status, 504);
            assert!(long.read_response().await.is_err());
        })
        .await;
}

// S1.71
#[tokio::test]
async fn the_bandwidth_of_a_tenant_is_held() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits.bandwidth_out = Some(1_000_000);
    setup
        .run(|rig| async move {
            let mut client = rig.client().await;
            let began = std::time::Instant::now();

            for _ in 0..3 {
                let answer = client.get("a", "/bytes/1000000").await.unwrap();
                assert_eq!(answer.body.len(), 1_000_000);
            }

            assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
        })
        .await;
}
