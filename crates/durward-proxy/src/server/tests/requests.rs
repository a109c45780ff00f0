//! Requests on their way to an upstream, and responses on their way back.

use durward_testkit::origin::{Origin, RawOrigin};

use super::support::{Setup, ask};
use crate::http::FirstRequest;
use crate::metrics::Counter;

// S1.38 S1.40
#[tokio::test]
async fn requests_of_one_connection_share_one_upstream_connection() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;

            for turn in 0..5 {
                let response = client.get("a.example", &format!("/p{turn}?q=1")).await.unwrap();
                assert_eq!(response.status, 200);
                assert_eq!(response.echo().path, format!("/p{turn}?q=1"));
            }

            assert_eq!(origin.connections(), 1);
            assert_eq!(rig.metrics().total(Counter::UpstreamConnectionsReused), 4);
            assert_eq!(rig.metrics().total(Counter::Requests2xx), 5);
            let log = rig.log(5).await;
            assert_eq!(log.len(), 5);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            let wire = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /slow/50 HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n";

            client.send(wire).await.unwrap();
            let mut paths = Vec::new();
            for _ in 0..3 {
                paths.push(client.read_response().await.unwrap().echo().path);
            }

            assert_eq!(paths, ["/a", "/slow/50", "/c"]);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_client_that_closed_its_direction_still_gets_its_response() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let answer = ask(&rig, "GET /slow/100 HTTP/1.1\r\nHost: a\r\n\r\n").await;

            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn what_is_sent_upstream_is_written_anew() {
    let origin = RawOrigin::replying("127.0.0.1:0", "HTTP/1.1 204 No Content\r\n\r\n");
    Setup::to(origin.address())
        .run(|rig| async move {
            let answer = ask(
                &rig,
                "GET http://A.example/%61?x=%0a HTTP/1.1\r\nHOST:  a.example \r\nconnection: X-Gone, close\r\nX-Gone: 1\r\naCCept: */*\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nClient-Cert: :AAAA:\r\nKeep-Alive: 5\r\nTE: gzip, trailers\r\n\r\n",
            )
            .await;

            assert!(answer.starts_with("HTTP/1.1 204 No Content\r\nConnection: close\r\n"), "{answer}");
            let sent = &origin.received_text()[0];
            assert!(sent.starts_with("GET /a?x=%0a HTTP/1.1\r\nHost: a.example\r\naCCept: */*\r\nX-Forwarded-For: 127.0.0.1\r\n"), "{sent}");
            for gone in ["X-Gone", "6.6.6.6", "Keep-Alive", "gzip", "Client-Cert"] {
                assert!(!sent.contains(gone), "{gone} in {sent}");
            }
            for there in ["TE: trailers\r\nConnection: TE\r\n", "X-Request-Id: ", "Via: 1.1 durward\r\n", "Forwarded: for=127.0.0.1;host=\"a.example\";proto=http\r\n"] {
                assert!(sent.contains(there), "{there} not in {sent}");
            }
        })
        .await;
}

// S1.63
#[tokio::test]
async fn the_task_of_an_idle_connection_is_small() {
    Setup::to("127.0.0.1:9".parse().unwrap())
        .run(|rig| async move {
            let (_client, admitted) = rig.admitted().await;

            let size = size_of_val(&crate::server::serve(admitted));

            assert!(size <= 1200, "{size}");
        })
        .await;
}

// S2.15
#[test]
fn whose_a_first_request_is_is_known_with_its_last_byte_however_it_comes() {
    let head = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nProxy-Authorization: Basic eDp5\r\n\r\n";
    let mut request = FirstRequest::new();

    for end in 1..head.len() {
        assert_eq!(request.authorization(&head[..end]).unwrap(), None, "{end}");
    }

    assert_eq!(request.authorization(head).unwrap(), Some(b"Basic eDp5".to_vec()));
}
