//! Upstreams that fail requests, and requests that no upstream is at fault for.

use std::time::Duration;

use durward_model::health::OutlierDetection;
use durward_model::upstream::{Retry, UpstreamProtocol};
use durward_testkit::client::H2Client;
use durward_testkit::client::h2_frames::{flag, frame, header_block, kind};
use durward_testkit::origin::{Origin, RawConnection, RawOrigin};

use super::framing::{answer, http2_origin, http2_origin_with};
use super::support::{Rig, Setup, ask};
use crate::metrics::Counter;
use crate::upstream::report::EndpointHealth;

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NO_RETRY: Retry = Retry { attempts: 0, budget_percent: 0, on_status: Vec::new() };

fn ok(stream: u32) -> Vec<u8> {
    answer(stream, &[(":status", "200"), ("content-length", "2")], b"ok")
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// Sets up a good and a bad upstream, in turn, without retries.
fn setup(good: &RawOrigin, bad: &RawOrigin, protocol: UpstreamProtocol) -> Setup {
    let mut setup = Setup::to_all(&[good.address(), bad.address()]);
    setup.upstream.protocol = protocol;
    setup.upstream.retry = NO_RETRY;
    setup.upstream.outlier = Some(OutlierDetection {
        consecutive_failures: 3,
        base_ejection: Duration::from_secs(600),
        max_ejected_percent: 50,
    });
    setup
}

fn health(rig: &Rig, at: usize) -> EndpointHealth {
    rig.listener.tenant.upstreams[0].report().endpoints[at].state
}

/// Frames of an HTTP/2 upstream instead of a response.
type Reply = fn(u32) -> Vec<u8>;

// S1.42
#[tokio::test]
async fn an_http2_upstream_that_fails_every_stream_is_ejected() {
    let cases: [(&str, Reply); 8] = [
        ("RST_STREAM INTERNAL_ERROR", |stream| reset(stream, 2)),
        ("RST_STREAM CANCEL", |stream| reset(stream, 8)),
        ("RST_STREAM NO_ERROR", |stream| reset(stream, 0)),
        ("RST_STREAM ENHANCE_YOUR_CALM", |stream| reset(stream, 11)),
        ("GOAWAY INTERNAL_ERROR", |_| frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2])),
        ("DATA before HEADERS", |stream| frame(kind::DATA, 1, stream, b"hello")),
        ("a header block that cannot be decoded", |stream| {
            frame(kind::HEADERS, flag::END_HEADERS | 1, stream, &[0x80])
        }),
        ("RST_STREAM after the head", |stream| {
            let block = header_block(&[(":status", "200")]);
            let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
            [head, reset(stream, 2)].concat()
        }),
    ];
    for (name, reply) in cases {
        let (good, bad) = (http2_origin(ok), http2_origin(reply));
        setup(&good, &bad, UpstreamProtocol::Http2)
            .run(|rig| async move {
                for _ in 0..12 {
                    ask(&rig, POST).await;
                }

                assert_eq!(health(&rig, 1), EndpointHealth::Ejected, "{name}");
                assert_eq!(health(&rig, 0), EndpointHealth::Healthy, "{name}");
                assert!(ask(&rig, POST).await.starts_with("HTTP/1.1 200"), "{name}");
                assert_eq!(rig.metrics().total(Counter::Retries), 0, "{name}");
            })
            .await;
    }
}

// S1.42
#[tokio::test]
async fn an_http1_upstream_that_breaks_every_response_off_is_ejected() {
    let good = RawOrigin::replying("127.0.0.1:0", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let bad = RawOrigin::once("127.0.0.1:0", "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nok");
    setup(&good, &bad, UpstreamProtocol::Http1)
        .run(|rig| async move {
            for _ in 0..12 {
                let mut client = rig.client().await;
                client.send(POST).await.unwrap();
                let _ = client.read_response().await;
            }

            assert_eq!(health(&rig, 1), EndpointHealth::Ejected);
        })
        .await;
}

// S1.42 S1.44
#[tokio::test]
async fn a_stream_refused_unseen_goes_elsewhere_with_any_method() {
    let (good, bad) = (http2_origin(ok), http2_origin(|stream| reset(stream, 7)));
    let mut setup = setup(&good, &bad, UpstreamProtocol::Http2);
    setup.upstream.retry = Retry { attempts: 1, budget_percent: 100, on_status: Vec::new() };
    setup
        .run(|rig| async move {
            for _ in 0..12 {
                assert!(ask(&rig, POST).await.starts_with("HTTP/1.1 200"));
            }

            assert_eq!(health(&rig, 1), EndpointHealth::Healthy);
        })
        .await;
}

// S1.42
#[tokio::test]
async fn an_upstream_that_refuses_every_stream_for_good_is_ejected() {
    let (good, bad) = (http2_origin(ok), http2_origin(|stream| reset(stream, 7)));
    let mut setup = setup(&good, &bad, UpstreamProtocol::Http2);
    // One endpoint is the first choice and there is no second one.
    setup.upstream.endpoints[0].weight = 1;
    setup
        .run(|rig| async move {
            let mut failed = 0;
            for _ in 0..40 {
                failed += u32::from(!ask(&rig, POST).await.starts_with("HTTP/1.1 200"));
            }

            assert!(failed <= 3, "{failed}");
        })
        .await;
}

// S1.42
#[tokio::test]
async fn what_the_client_cancels_is_not_held_against_the_upstream() {
    let origin = Origin::h2c("127.0.0.1:0");
    let other = Origin::h2c("127.0.0.1:0");
    let mut setup = Setup::to_all(&[origin.address(), other.address()]);
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup.upstream.outlier = Some(OutlierDetection {
        consecutive_failures: 1,
        base_ejection: Duration::from_secs(600),
        max_ejected_percent: 50,
    });
    setup
        .run(|rig| async move {
            let builder = h2::client::Builder::new();
            let client = H2Client::over(rig.stream().await, &builder, "a").await.unwrap();

            for path in ["/hang", "/sse"] {
                let request = client.request(http::Method::GET, path);
                let (response, mut stream) = client.open(request, true).await.unwrap();
                if path == "/sse" {
                    assert_eq!(response.await.unwrap().status(), 200);
                }
                stream.send_reset(h2::Reason::CANCEL);
            }
            rig.log(2).await;

            assert_eq!(health(&rig, 0), EndpointHealth::Healthy);
            assert_eq!(health(&rig, 1), EndpointHealth::Healthy);
        })
        .await;
}

// S1.44
#[tokio::test]
async fn what_http2_cannot_carry_is_refused_before_anybody_is_asked() {
    let origin = http2_origin(ok);
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            for target in ["/a<b>", "/a`b", "/x?q=\"", "/x?<", "/>"] {
                let answer = ask(&rig, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
            }
            assert_eq!(origin.connections(), 0);
            assert_eq!(rig.metrics().total(Counter::Retries), 0);
            let log = rig.log(5).await;
            assert!(log.iter().all(|line| line["reason"] == "bad_request"), "{log:?}");

            let target = "/x|{\"}^?`{|}^[]\\~!$&'()*+,;=:@%20";
            let answer = ask(&rig, format!("GET {target} HTTP/1.1\r\nHost: a:\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_websocket_that_the_upstream_cannot_take_is_nobodys_failure() {
    let origin = http2_origin(ok);
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            let (mut send, connection) = h2::client::handshake(rig.stream().await).await.unwrap();
            tokio::task::spawn_local(connection);
            while !send.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut request = http::Request::connect("http://a/ws").body(()).unwrap();
            request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));

            let (response, _out) = send.send_request(request, false).unwrap();

            assert_eq!(response.await.unwrap().status(), 501);
            assert_eq!(rig.listener.tenant.upstreams[0].report().endpoints[0].failures, 0);
            assert_eq!(rig.metrics().total(Counter::Retries), 0);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn the_first_websocket_of_a_new_connection_waits_for_the_upstreams_settings() {
    // SETTINGS_ENABLE_CONNECT_PROTOCOL: 1 (RFC 8441 section 3).
    let settings = &[0, 8, 0, 0, 0, 1];
    let grant = |stream| {
        frame(kind::HEADERS, flag::END_HEADERS, stream, &header_block(&[(":status", "200")]))
    };
    let origin = http2_origin_with(settings, Duration::from_millis(200), grant);
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            let (mut send, connection) = h2::client::handshake(rig.stream().await).await.unwrap();
            tokio::task::spawn_local(connection);
            while !send.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for _ in 0..2 {
                let mut request = http::Request::connect("http://a/ws").body(()).unwrap();
                request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
                send = send.ready().await.unwrap();
                let (response, _out) = send.send_request(request, false).unwrap();
                assert_eq!(response.await.unwrap().status(), 200);
            }
            assert_eq!(origin.connections(), 1);
        })
        .await;
}

#[tokio::test]
async fn a_websocket_to_an_upstream_that_ends_before_its_settings_is_answered() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        connection.read_exactly(24).await.unwrap();
    });
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            let (mut send, connection) = h2::client::handshake(rig.stream().await).await.unwrap();
            tokio::task::spawn_local(connection);
            while !send.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut request = http::Request::connect("http://a/ws").body(()).unwrap();
            request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
            let (response, _out) = send.send_request(request, false).unwrap();
            let status = response.await.unwrap().status().as_u16();
            assert!([501, 502].contains(&status), "{status}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_response_is_whole_although_its_upstream_wants_no_more_of_the_request() {
    let origin = http2_origin(|stream| [ok(stream), reset(stream, 0)].concat());
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            let mut client = rig.client().await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n").await.unwrap();

            let read = client.read_response().await.unwrap();

            assert_eq!((read.status, read.text().as_str()), (200, "ok"));
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_2xx_to_an_upgrade_that_was_not_granted_opens_no_tunnel() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection: RawConnection| async move {
        connection.read_until(b"\r\n\r\n").await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        connection.hold().await;
    });
    Setup::to(origin.address())
        .run(|rig| async move {
            let (mut send, connection) = h2::client::handshake(rig.stream().await).await.unwrap();
            tokio::task::spawn_local(connection);
            while !send.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut request = http::Request::connect("http://a/ws").body(()).unwrap();
            request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));

            let (response, _out) = send.send_request(request, false).unwrap();

            assert_eq!(response.await.unwrap().status(), 502);
        })
        .await;
}

/// Builds a response with a body and trailers.
fn with_trailers(stream: u32, trailers: &[(&str, &str)]) -> Vec<u8> {
    let head = header_block(&[(":status", "200")]);
    [
        frame(kind::HEADERS, flag::END_HEADERS, stream, &head),
        frame(kind::DATA, 0, stream, b"hello"),
        frame(kind::HEADERS, flag::END_HEADERS | 1, stream, &header_block(trailers)),
    ]
    .concat()
}

// Issue 10, point 16.
#[tokio::test]
async fn pseudo_fields_in_trailers_or_heads_of_an_upstream_make_its_response_malformed() {
    let cases: [(&str, Reply, bool); 8] = [
        ("sound", |stream| with_trailers(stream, &[("x-sum", "1")]), true),
        (
            "sound after 103",
            |stream| {
                let early = header_block(&[(":status", "103")]);
                [
                    frame(kind::HEADERS, flag::END_HEADERS, stream, &early),
                    with_trailers(stream, &[("x-sum", "1")]),
                ]
                .concat()
            },
            true,
        ),
        (
            ":status in trailers",
            |stream| with_trailers(stream, &[("x", "y"), (":status", "500")]),
            false,
        ),
        (":path in trailers", |stream| with_trailers(stream, &[(":path", "/evil")]), false),
        ("unknown in trailers", |stream| with_trailers(stream, &[(":x", "y")]), false),
        ("field name in trailers", |stream| with_trailers(stream, &[("a\"b", "c")]), false),
        (
            ":path in the head",
            |stream| answer(stream, &[(":status", "200"), (":path", "/")], b"hello"),
            false,
        ),
        ("no :status", |stream| answer(stream, &[("x", "y")], b"hello"), false),
    ];
    for (name, reply, sound) in cases {
        let origin = http2_origin(reply);
        let mut setup = Setup::to(origin.address());
        setup.upstream.protocol = UpstreamProtocol::Http2;
        setup.upstream.retry = NO_RETRY;
        setup
            .run(|rig| async move {
                let mut client = rig.client().await;
                client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await.unwrap();
                let whole = client.read_response().await;
                let served =
                    whole.is_ok_and(|answer| answer.status == 200 && answer.body == b"hello"[..]);
                assert_eq!(served, sound, "{name}");

                let log = rig.log(1).await;
                assert_eq!(log[0]["reason"].is_null(), sound, "{name}: {log:?}");
                let upstream = rig.listener.tenant.upstreams[0].report();
                assert_eq!(upstream.endpoints[0].state, EndpointHealth::Healthy, "{name}");
            })
            .await;
    }
}

// RFC 9113 section 8.1: NO_ERROR is an end in good order only after END_STREAM.
#[tokio::test]
async fn a_body_that_is_reset_without_an_error_before_its_end_is_cut_off() {
    let begun = |stream| {
        let head =
            frame(kind::HEADERS, flag::END_HEADERS, stream, &header_block(&[(":status", "200")]));
        [head, frame(kind::DATA, 0, stream, b"abc")].concat()
    };
    let origin = http2_origin(move |stream| [begun(stream), reset(stream, 0)].concat());
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup.upstream.retry = NO_RETRY;
    setup
        .run(|rig| async move {
            let mut client = rig.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

            assert!(client.read_response().await.is_err());

            let log = rig.log(1).await;
            assert!(!log[0]["reason"].is_null(), "{log:?}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn an_upstream_that_floods_frames_loses_its_connection() {
    let floods: [(&str, Reply); 3] = [
        ("PING", |_| frame(kind::PING, 0, 0, &[0; 8]).repeat(5_000)),
        ("SETTINGS", |_| frame(kind::SETTINGS, 0, 0, &[]).repeat(200)),
        ("unknown frames", |_| frame(0x77, 0, 0, &[]).repeat(5_000)),
    ];
    for (name, flood) in floods {
        let origin = http2_origin(flood);
        let mut setup = Setup::to(origin.address());
        setup.upstream.protocol = UpstreamProtocol::Http2;
        setup.upstream.retry = NO_RETRY;
        setup
            .run(|rig| async move {
                let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()).await;

                assert!(answer.starts_with("HTTP/1.1 502 "), "{name}: {answer}");
            })
            .await;
    }
}
