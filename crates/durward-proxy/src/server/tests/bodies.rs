//! Bodies in all framings, in both directions, and what happens when one side ends early.

use durward_testkit::origin::{Origin, RawOrigin};

use super::support::{Setup, ask};

// S1.38
#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            let body = vec![b'x'; 3_000_000];
            let head = format!("POST /echo-body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            client.send(head).await.unwrap();
            let (mut read, mut write) = tokio::io::split(client.into_transport());

            let sent = async {
                tokio::io::AsyncWriteExt::write_all(&mut write, &body).await.unwrap();
            };
            let mut answer = Vec::new();
            let received = async {
                let mut piece = vec![0; 65536];
                loop {
                    match tokio::io::AsyncReadExt::read(&mut read, &mut piece).await.unwrap() {
                        0 => break,
                        count => answer.extend_from_slice(&piece[..count]),
                    }
                }
            };
            tokio::join!(sent, received);

            assert_eq!(answer.iter().filter(|byte| **byte == b'x').count(), body.len());
        })
        .await;
}

/// A request line, the upstream's response, a part of the head the client sees, and how its response ends.
const FRAMINGS: [(&str, &str, &str, &str); 9] = [
    (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "Content-Length: 2\r\n",
        "\r\n\r\nok",
    ),
    (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\no\r\n1\r\nk\r\n0\r\nX-T: 1\r\n\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX-T: 1\r\n\r\n",
    ),
    (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK\r\n\r\nok",
        "Transfer-Encoding: chunked\r\n",
        "\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    (
        "GET / HTTP/1.0",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Connection: close\r\n",
        "\r\n\r\nok",
    ),
    ("GET / HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok", "Connection: close\r\n", "\r\n\r\nok"),
    (
        "HEAD / HTTP/1.1",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "Content-Length: 2\r\n",
        "\r\n\r\n",
    ),
    (
        "GET / HTTP/1.1",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "\r\n\r\n",
    ),
    (
        "GET / HTTP/1.1",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        "Content-Length: 2\r\n",
        "\r\n\r\n",
    ),
    (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 0\r\n",
        "\r\n\r\n",
    ),
];

// S1.38
#[tokio::test]
async fn each_framing_of_a_response_is_passed_on_in_its_own_right() {
    for (line, response, head, tail) in FRAMINGS {
        let origin = RawOrigin::once("127.0.0.1:0", response);
        Setup::to(origin.address())
            .run(|rig| async move {
                let answer = ask(&rig, format!("{line}\r\nHost: a\r\n\r\n")).await;

                assert!(answer.contains(head) && answer.ends_with(tail), "{response}: {answer}");
                assert_eq!(
                    answer.contains("Content-Length"),
                    head.contains("Content-Length"),
                    "{answer}"
                );
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn request_trailers_arrive_and_dangerous_ones_do_not() {
    let origin = RawOrigin::replying("127.0.0.1:0", "HTTP/1.1 204 No Content\r\n\r\n");
    Setup::to(origin.address())
        .run(|rig| async move {
            ask(&rig, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;ext\r\nhi\r\n0\r\nX-Sum: 1\r\nClient-Cert: :A:\r\nContent-Length: 9\r\nx_forwarded_for: y\r\n\r\n").await;

            let sent = origin.received_text().concat();
            assert!(sent.ends_with("\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"), "{sent}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            client
                .send("GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;

            let all = client
                .deadline(std::time::Duration::from_secs(20))
                .read_until_close()
                .await
                .unwrap();

            assert!(all.len() > 50_000_000);
        })
        .await;
}
