//! HTTP/2 towards clients and upstreams.

use durward_model::upstream::UpstreamProtocol;
use durward_testkit::client::H2Client;
use durward_testkit::client::h2_frames::{self, frame, kind};
use durward_testkit::origin::Origin;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Rig, Setup};
use crate::metrics::Counter;

async fn client(rig: &Rig) -> H2Client {
    let builder = h2::client::Builder::new();
    H2Client::over(rig.stream().await, &builder, "a.example").await.unwrap()
}

// S1.38
#[tokio::test]
async fn many_streams_share_few_upstream_connections() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let client = client(&rig).await;

            let answers = futures_util::future::join_all(
                (0..20).map(|_| client.post("/slow/50?x=1", vec![b'x'; 100_000])),
            )
            .await;

            for answer in answers {
                let answer = answer.unwrap();
                assert_eq!((answer.status, answer.echo().path.as_str()), (200, "/slow/50?x=1"));
            }
            assert_eq!(rig.metrics().total(Counter::Requests2xx), 20);
            assert_eq!(rig.log(20).await[0]["http_version"], "HTTP/2");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn bodies_and_trailers_pass_over_both_kinds_of_upstream() {
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let origin = match protocol {
            UpstreamProtocol::Http2 => Origin::h2c("127.0.0.1:0"),
            _ => Origin::http1("127.0.0.1:0"),
        };
        let mut setup = Setup::to(origin.address());
        setup.upstream.protocol = protocol;
        setup
            .run(|rig| async move {
                let client = client(&rig).await;
                let body = vec![b'x'; 500_000];

                let echoed = client.post("/echo-body", body.clone()).await.unwrap();
                let mut request = client.request(Method::GET, "/trailers");
                request.headers_mut().insert("te", "trailers".parse().unwrap());
                let trailed = client.send(request, "".into(), None).await.unwrap();
                let mut request = client.request(Method::POST, "/pkg.Service/Call");
                request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                request.headers_mut().insert("te", "trailers".parse().unwrap());
                let called =
                    client.send(request, vec![0, 0, 0, 0, 1, 7].into(), None).await.unwrap();

                assert_eq!(echoed.body.len(), body.len());
                assert_eq!(trailed.trailer("x-checksum"), Some("1234"), "{protocol:?}");
                assert_eq!(called.body, [0, 0, 0, 0, 1, 7]);
                // The origin's HTTP/1 server sends no trailers that were not announced.
                let expected = (protocol == UpstreamProtocol::Http2).then_some("0");
                assert_eq!(called.trailer("grpc-status"), expected);
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn http1_clients_are_served_by_http2_upstreams() {
    let origin = Origin::h2c("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            let mut client = rig.client().await;

            let first = client.get("a.example", "/x?y=z").await.unwrap();
            let large = client.get("a.example", "/bytes/300000").await.unwrap();

            assert_eq!((first.status, first.echo().path.as_str()), (200, "/x?y=z"));
            assert_eq!(first.echo().header("x-forwarded-for"), Some("127.0.0.1"));
            assert_eq!(large.body.len(), 300_000);
            assert_eq!(origin.connections(), 1);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_refused_grpc_call_is_told_in_grpcs_own_way() {
    let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
    setup.service.routes = Vec::new().into();
    setup
        .run(|rig| async move {
            let client = client(&rig).await;
            let request = client.request(Method::POST, "/pkg.Service/Call");
            let (mut parts, ()) = request.into_parts();
            parts.headers.insert("content-type", "application/grpc+proto".parse().unwrap());

            let answer =
                client.send(Request::from_parts(parts, ()), vec![0; 5].into(), None).await.unwrap();

            assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("12")));
            assert_eq!(answer.header("grpc-message"), Some("no_route"));
            assert!(answer.body.is_empty());
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_websocket_over_http2_reaches_an_http1_upstream() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let (mut send, connection) = h2::client::handshake(rig.stream().await).await.unwrap();
            tokio::task::spawn_local(connection);
            let mut request = Request::connect("http://a.example/ws").body(()).unwrap();
            request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
            request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
            // The server's SETTINGS must have arrived.
            while !send.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }

            let (response, mut out) = send.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            out.send_data("hello".into(), false).unwrap();
            let mut body = response.into_body();
            let echoed = body.data().await.unwrap().unwrap();
            out.send_data("".into(), true).unwrap();

            assert_eq!(&echoed[..], b"hello");
        })
        .await;
}

/// The fields of one HEADERS frame.
const MALFORMED: &[&[(&str, &str)]] = &[
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("host", "b")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "u@a")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/../x"), (":authority", "a")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("content-length", "+1"),
    ],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("x", " y")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("transfer_encoding", "chunked"),
    ],
    &[(":method", "CONNECT"), (":authority", "a:443")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("transfer-encoding", "chunked"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("connection", "close"),
    ],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/a b"), (":authority", "a")],
    &[(":method", "GE T"), (":scheme", "http"), (":path", "/"), (":authority", "a")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("x", "a\r\nb: c"),
    ],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("x:y", "z")],
    &[(":method", "GET"), (":path", "/"), (":authority", "a")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/x#frag"), (":authority", "a")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "?a=b"), (":authority", "a")],
    &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "x"), (":authority", "a")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "*"), (":authority", "a")],
    &[(":method", "GET"), (":scheme", ""), (":path", "/"), (":authority", "a")],
    &[(":method", "GET"), (":scheme", ""), (":path", "/"), ("host", "a")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "")],
    &[(":method", "GET"), (":scheme", "http"), (":authority", "a")],
    &[(":method", ""), (":scheme", "http"), (":path", "/"), (":authority", "a")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        (":path", "/b"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("x", "y"),
        (":scheme", "http"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        (":status", "200"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        (":unknown", "x"),
    ],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("a\"b", "c")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("a b", "c")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("a(b", "c")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("aB", "c")],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("", "c")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("x\u{e9}", "c"),
    ],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("te", "gzip")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("keep-alive", "5"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("proxy-connection", "close"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("upgrade", "websocket"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("host", "a"),
        ("host", "a"),
    ],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("x", "a\0b")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("content-length", "5"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
        ("content-length", "0"),
        ("content-length", "0"),
    ],
];

/// The word and number of the counter of malformed requests.
const BAD_REQUEST: usize = 9;

/// Sends frames on a connection of their own and waits until the stream, or the connection, is turned away.
async fn refused(rig: &Rig, frames: &[u8]) -> u8 {
    let mut stream = rig.stream().await;
    stream.write_all(&[h2_frames::opening(), frames.to_vec()].concat()).await.unwrap();
    loop {
        let Ok(frame) = h2_frames::read_frame(&mut stream).await else { return kind::GOAWAY };
        match frame.kind {
            kind::HEADERS | kind::RST_STREAM | kind::GOAWAY => return frame.kind,
            _ => {}
        }
    }
}

// S1.38
#[tokio::test]
async fn malformed_requests_are_refused_on_their_stream_and_recorded() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            for (at, fields) in MALFORMED.iter().enumerate() {
                let block = h2_frames::header_block(fields);

                refused(&rig, &frame(kind::HEADERS, 5, 1, &block)).await;

                let log = rig.log(at + 1).await;
                assert_eq!(log.len(), at + 1, "{fields:?}: {:?}", log.last());
                let counted: u64 = rig.metrics().refusals().iter().sum();
                assert_eq!(counted, at as u64 + 1, "{fields:?}");
            }

            assert_eq!(origin.connections(), 0);
            // One is CONNECT, which is not served here.
            assert_eq!(rig.metrics().refusals()[BAD_REQUEST], MALFORMED.len() as u64 - 1);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn malformed_trailers_are_refused() {
    let origin = durward_testkit::origin::RawOrigin::replying(
        "127.0.0.1:0",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let request = |trailers: &[(&str, &str)]| {
        [
            frame(kind::HEADERS, 4, 1, &h2_frames::header_block(&fields)),
            frame(kind::DATA, 0, 1, b"hi"),
            frame(kind::HEADERS, 5, 1, &h2_frames::header_block(trailers)),
        ]
        .concat()
    };
    Setup::to(origin.address())
        .run(|rig| async move {
            let cases: [&[(&str, &str)]; 9] = [
                &[(":path", "/evil")],
                &[(":method", "GET")],
                &[(":status", "200")],
                &[(":scheme", "http")],
                &[(":authority", "b")],
                &[("x", "y"), (":path", "/evil")],
                &[("a\"b", "c")],
                &[("connection", "close")],
                &[("x", " y")],
            ];
            for (at, trailers) in cases.into_iter().enumerate() {
                refused(&rig, &request(trailers)).await;

                let log = rig.log(at + 1).await;
                assert_eq!(log[at]["reason"], "bad_request", "{trailers:?}: {log:?}");
                assert_eq!(log.len(), at + 1, "{trailers:?}: {log:?}");
            }
            assert!(!origin.received_text().concat().contains("0\r\n\r\n"), "a request was ended");

            assert_eq!(refused(&rig, &request(&[("x-sum", "1")])).await, kind::HEADERS);
            assert!(origin.received_text().concat().ends_with("0\r\nx-sum: 1\r\n\r\n"));
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_list_of_fields_beyond_every_limit_is_recorded() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits.header_bytes = 2000;
    setup
        .run(|rig| async move {
            let long = "x".repeat(3000);
            let fields = [
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                ("a", &long),
                ("b", &long),
            ];
            let block = h2_frames::header_block(&fields);

            refused(&rig, &frame(kind::HEADERS, 5, 1, &block)).await;

            assert_eq!(rig.log(1).await[0]["reason"], "head_too_large");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn floods_end_the_connection() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let resets: Vec<u8> = (0..400)
                .flat_map(|at| {
                    let stream = at * 2 + 1;
                    [h2_frames::get(stream, "http", "a", "/hang"), h2_frames::reset(stream)]
                        .concat()
                })
                .collect();
            let cases = [
                frame(kind::PING, 0, 0, &[0; 8]).repeat(2000),
                frame(kind::SETTINGS, 0, 0, &[]).repeat(200),
                frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1]).repeat(2000),
                resets,
                [
                    frame(kind::HEADERS, 0, 1, &h2_frames::header_block(&[(":method", "GET")])),
                    frame(kind::CONTINUATION, 0, 1, &[]).repeat(5000),
                ]
                .concat(),
                [
                    frame(
                        kind::HEADERS,
                        4,
                        1,
                        &h2_frames::header_block(&[
                            (":method", "POST"),
                            (":scheme", "http"),
                            (":path", "/hang"),
                            (":authority", "a"),
                        ]),
                    ),
                    frame(kind::DATA, 0, 1, &[]).repeat(5000),
                ]
                .concat(),
            ];

            for flood in cases {
                let mut stream = rig.stream().await;
                let wire = [h2_frames::opening(), flood].concat();
                // The other side may close while we still write.
                let (mut read, mut write) = stream.split();
                let all = async {
                    let _ = write.write_all(&wire).await;
                };
                let ended = async {
                    let mut bytes = [0; 4096];
                    while read.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
                };
                tokio::join!(all, ended);
            }

            let floods = rig.metrics().refusals()[25];
            assert!(floods >= 5, "{floods}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn limits_hold_for_streams_too() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits.body_bytes = Some(1000);
    setup.limits.header_bytes = 2000;
    setup.limits.timeouts.response = std::time::Duration::from_millis(150);
    setup
        .run(|rig| async move {
            let client = client(&rig).await;
            let mut long = client.request(Method::GET, "/");
            long.headers_mut().insert("x-long", "x".repeat(2500).parse().unwrap());

            let statuses = [
                client.post("/upload", vec![0; 1001]).await.unwrap().status,
                client.send(long, "".into(), None).await.unwrap().status,
                client.get("/hang").await.unwrap().status,
                client.get("/a/../b").await.unwrap().status,
                client.get("/status/404").await.unwrap().status,
            ];

            assert_eq!(statuses, [413, 431, 504, 400, 404]);
        })
        .await;
}
