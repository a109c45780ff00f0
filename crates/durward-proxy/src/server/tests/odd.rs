//! Requests that are rare and right: `OPTIONS *`, targets without a path, upgrades by any method, POST without content.

use durward_testkit::client::H2Client;
use durward_testkit::origin::{RawConnection, RawOrigin};

use super::support::{Setup, ask};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

// S1.38
#[tokio::test]
async fn targets_without_a_path_are_sent_with_the_one_they_stand_for() {
    for (line, sent) in [
        ("OPTIONS *", "OPTIONS * HTTP/1.1"),
        ("OPTIONS http://a", "OPTIONS * HTTP/1.1"),
        ("OPTIONS http://a?q=1", "OPTIONS /?q=1 HTTP/1.1"),
        ("OPTIONS http://a/", "OPTIONS / HTTP/1.1"),
        ("GET http://a", "GET / HTTP/1.1"),
        ("GET HTTP://A?q=1", "GET /?q=1 HTTP/1.1"),
    ] {
        let origin = RawOrigin::replying("127.0.0.1:0", OK);
        Setup::to(origin.address())
            .run(|rig| async move {
                let answer = ask(&rig, format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await;

                assert!(answer.starts_with("HTTP/1.1 200 OK"), "{line}: {answer}");
                let received = origin.received_text().concat();
                assert!(received.starts_with(&format!("{sent}\r\nHost: a\r\n")), "{received}");
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn a_port_may_be_empty() {
    let origin = RawOrigin::replying("127.0.0.1:0", OK);
    Setup::to(origin.address())
        .run(|rig| async move {
            for host in ["a.example:", "[::1]:"] {
                let answer = ask(&rig, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
                assert!(answer.starts_with("HTTP/1.1 200 OK"), "{host}: {answer}");
            }
        })
        .await;
}

/// Method, fields, content, and the protocols that are offered to the upstream.
const UPGRADES: [(&str, &str, &str, &str); 7] = [
    ("GET", "Upgrade: SPDY/3.1\r\n", "", "SPDY/3.1"),
    ("POST", "Upgrade: SPDY/3.1\r\nContent-Length: 0\r\n", "", "SPDY/3.1"),
    ("POST", "Upgrade: tcp\r\n", "", "tcp"),
    ("POST", "Upgrade: tcp\r\nContent-Length: 13\r\n", "{\"Tty\":false}", "tcp"),
    ("GET", "Upgrade: websocket, foo/2\r\n", "", "websocket, foo/2"),
    ("GET", "Upgrade: websocket\r\nUpgrade: foo/2\r\n", "", "websocket, foo/2"),
    ("GET", "Upgrade: h2c, websocket\r\n", "", "websocket"),
];

// S1.38
#[tokio::test]
async fn every_upgrade_reaches_the_upstream_whatever_its_method() {
    for (method, fields, content, offered) in UPGRADES {
        let origin = RawOrigin::start(
            "127.0.0.1:0",
            move |mut connection: RawConnection| async move {
                connection.read_until(b"\r\n\r\n").await.unwrap();
                assert_eq!(
                    connection.read_exactly(content.len()).await.unwrap(),
                    content.as_bytes()
                );
                let first = offered.split(',').next().unwrap();
                connection.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {first}\r\n\r\n")).await.unwrap();
                assert_eq!(connection.read_exactly(5).await.unwrap(), b"after");
                connection.send("last").await.unwrap();
            },
        );
        Setup::to(origin.address())
            .run(|rig| async move {
                let head = format!(
                    "{method} / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n{fields}\r\n"
                );
                let answer = ask(&rig, format!("{head}{content}after")).await;

                let sent = origin.received_text().concat();
                assert!(
                    sent.contains(&format!("\r\nUpgrade: {offered}\r\nConnection: Upgrade\r\n")),
                    "{sent}"
                );
                assert!(
                    answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nlast"),
                    "{answer}"
                );
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn an_upgrade_granted_early_waits_for_the_end_of_the_request() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        connection.read_until(b"\r\n\r\n").await.unwrap();
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(connection.read_exactly(11).await.unwrap(), b"contentGET ");
        connection.send("done").await.unwrap();
    });
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 7\r\n\r\ncon").await.unwrap();
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n";
            let switched = client.read_exactly(head.len()).await.unwrap();
            client.send("tentGET ").await.unwrap();
            client.half_close().await.unwrap();

            let rest = client.read_until_close().await.unwrap();

            assert_eq!(String::from_utf8_lossy(&switched), head);
            assert_eq!(rest, b"done");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_protocol_that_was_not_offered_is_not_switched_to() {
    for granted in ["other", "websocket, other", ""] {
        let reply = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {granted}\r\n\r\n"
        );
        let origin = RawOrigin::once("127.0.0.1:0", reply);
        Setup::to(origin.address())
            .run(|rig| async move {
                let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, foo/2\r\n\r\n").await;

                assert!(answer.starts_with("HTTP/1.1 502 "), "{granted}: {answer}");
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn a_request_without_content_says_so_where_content_has_a_meaning() {
    let origin = RawOrigin::replying("127.0.0.1:0", OK);
    Setup::to(origin.address())
        .run(|rig| async move {
            let builder = h2::client::Builder::new();
            let client = H2Client::over(rig.stream().await, &builder, "a").await.unwrap();

            for method in ["POST", "PUT", "PATCH", "GET", "DELETE"] {
                let request = client.request(method.parse().unwrap(), &format!("/{method}"));
                let (response, _) = client.open(request, true).await.unwrap();
                assert_eq!(response.await.unwrap().status(), 200);
            }

            let sent = origin.received_text().concat();
            for (method, says) in
                [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("DELETE", false)]
            {
                let from = sent.find(&format!("{method} /{method} ")).unwrap();
                let head = sent[from..].split("\r\n\r\n").next().unwrap();
                assert_eq!(head.contains("Content-Length: 0"), says, "{head}");
            }
        })
        .await;
}
