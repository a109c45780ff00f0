//! Retries: the requests that are sent again, and their endpoints.

use durward_model::upstream::Retry;
use durward_testkit::origin::{Origin, RawConnection, RawOrigin};

use super::support::{Setup, ask};
use crate::metrics::Counter;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// S1.44
#[tokio::test]
async fn only_what_is_safe_is_sent_again() {
    let dead = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        let _ = connection.read_until(b"\r\n\r\n").await;
    });
    let alive = RawOrigin::replying("127.0.0.1:0", OK);
    let mut setup = Setup::to_all(&[dead.address(), alive.address()]);
    setup.upstream.retry = Retry { attempts: 1, budget_percent: 100, on_status: Vec::new() };
    setup
        .run(|rig| async move {
            let cases = [
                ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
                ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", true),
                ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false),
                ("PATCH / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", false),
            ];

            for (request, again) in cases {
                let before = rig.metrics().total(Counter::Retries);
                let mut failed = 0;
                for _ in 0..4 {
                    let answer = ask(&rig, request).await;
                    failed += u32::from(!answer.starts_with("HTTP/1.1 200"));
                }
                let retried = rig.metrics().total(Counter::Retries) - before;

                assert_eq!(failed == 0, again, "{request}");
                assert_eq!(retried > 0, again, "{request}");
            }
        })
        .await;
}

// S1.44
#[tokio::test]
async fn an_unlucky_status_is_retried_where_the_tenant_asked_for_it() {
    let busy = RawOrigin::replying("127.0.0.1:0", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let alive = RawOrigin::replying("127.0.0.1:0", OK);
    let mut setup = Setup::to_all(&[busy.address(), alive.address()]);
    setup.upstream.retry = Retry { attempts: 1, budget_percent: 100, on_status: vec![503] };
    setup
        .run(|rig| async move {
            for _ in 0..4 {
                let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            let posts = [(); 4].map(|()| "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            let mut busy = 0;
            for post in posts {
                busy += u32::from(ask(&rig, post).await.starts_with("HTTP/1.1 503"));
            }

            assert!(busy > 0);
        })
        .await;
}

// S1.40 S1.44
#[tokio::test]
async fn a_pooled_connection_that_was_closed_costs_the_client_nothing() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        connection.read_request().await.unwrap();
        connection.send(OK).await.unwrap();
        // The second request on a connection is read and never answered.
        let _ = connection.read_request().await;
    });
    let mut setup = Setup::to(origin.address());
    setup.upstream.retry = Retry { attempts: 0, budget_percent: 0, on_status: Vec::new() };
    setup
        .run(|rig| async move {
            let mut client = rig.client().await;

            for _ in 0..4 {
                assert_eq!(client.get("a", "/").await.unwrap().status, 200);
            }

            assert!(rig.metrics().total(Counter::Retries) > 0);
        })
        .await;
}

// S1.44
#[tokio::test]
async fn half_a_head_is_an_answer_that_is_not_asked_for_again() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        connection.read_request().await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\nContent-").await.unwrap();
    });
    let mut setup = Setup::to(origin.address());
    setup.upstream.retry = Retry { attempts: 3, budget_percent: 100, on_status: Vec::new() };
    setup
        .run(|rig| async move {
            let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;

            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            assert!(answer.contains("\r\nDate: ") && answer.contains(" GMT\r\n"), "{answer}");
            assert_eq!(origin.connections(), 1);
        })
        .await;
}

// S1.44+
#[tokio::test]
async fn endpoints_that_refuse_connections_cost_no_request_and_no_budget() {
    let live = Origin::http1("127.0.0.1:0");
    let refused = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut setup = Setup::to_all(&[refused(), live.address(), refused(), refused()]);
    setup.upstream.retry = Retry { attempts: 1, budget_percent: 0, on_status: Vec::new() };
    setup
        .run(|rig| async move {
            for _ in 0..20 {
                let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
                let answer = ask(&rig, post).await;

                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            }
        })
        .await;
}
