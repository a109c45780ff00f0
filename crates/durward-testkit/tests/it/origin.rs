//! HTTP origins answer as their list of paths says, over HTTP/1.1, HTTP/2 and TLS.
//! Addresses are of 127/8; ports come from the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::{H2Client, RawHttp, RawResponse, tcp_connect};
use durward_testkit::origin::{Origin, TcpEcho, Uploaded, pattern};
use http::{HeaderMap, HeaderValue, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

#[tokio::test]
async fn the_root_says_what_arrived_and_from_where() {
    let origin = Origin::http1("127.0.0.2:0");
    let mut client = RawHttp::connect_from(SOURCE, origin.address()).await.unwrap();

    let first = client.exchange(
        "POST /a?b HTTP/1.1\r\nHost: acme\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 3\r\n\r\nxyz",
    );
    let first = first.await.unwrap().echo();
    let second = client.get("acme", "/").await.unwrap().echo();

    assert_eq!(
        (first.method.as_str(), first.path.as_str(), first.version.as_str()),
        ("POST", "/a?b", "HTTP/1.1")
    );
    assert_eq!(first.header_values("x-a"), ["1", "2"]);
    assert_eq!(first.header("HOST"), Some("acme"));
    assert_eq!((first.peer, first.local), (client.local_addr().unwrap(), origin.address()));
    assert_eq!(first.peer.ip(), SOURCE);
    assert_eq!((first.body_len, second.body_len), (3, 0));
    assert_eq!((first.request_number_on_connection, second.request_number_on_connection), (1, 2));
    assert_eq!(first.tls_version, None);
    assert_eq!(origin.peers(), [client.local_addr().unwrap()]);
    assert_eq!((origin.connections(), origin.requests()), (1, 2));
    assert_eq!(origin.seen()[0].header("x-a"), Some("1"));
}

#[tokio::test]
async fn tls_origins_speak_what_was_negotiated_and_name_the_client() {
    let authority = Authority::new("root");
    let server = authority.issue(&CertSpec::new().dns("origin.example"));
    let partner = authority.issue(&CertSpec::new().common_name("partner").client());
    let origin = Origin::tls("127.0.0.2:0", &server, Some(&authority), &["h2", "http/1.1"]);

    let config = client_config(&authority, Some(&partner));
    let h2 = H2Client::tls(origin.address(), Some(SOURCE), config.clone(), Some("origin.example"))
        .await
        .unwrap();
    let h2 = h2.get("/").await.unwrap().echo();
    let h1 = RawHttp::connect_tls(origin.address(), None, config, Some("origin.example")).await;
    let h1 = h1.unwrap().get("origin.example", "/").await.unwrap().echo();
    let anonymous = client_config(&authority, None);
    let refused =
        RawHttp::connect_tls(origin.address(), None, anonymous, Some("origin.example")).await;
    let refused = refused.unwrap().get("origin.example", "/").await;

    assert_eq!((h2.version.as_str(), h2.tls_alpn.as_deref()), ("HTTP/2.0", Some("h2")));
    assert_eq!(h2.authority.as_deref(), Some("origin.example"));
    assert_eq!(h2.peer.ip(), SOURCE);
    assert_eq!((h1.version.as_str(), h1.tls_alpn.as_deref()), ("HTTP/1.1", None));
    for echo in [h1, h2] {
        assert_eq!(echo.tls_version.as_deref(), Some("TLSv1_3"));
        assert_eq!(echo.tls_server_name.as_deref(), Some("origin.example"));
        assert_eq!(echo.tls_client_subject.as_deref(), Some("CN=partner"));
    }
    assert!(refused.is_err());
    // The client hears of it before the server has counted it.
    until(|| (origin.failed_handshakes() == 1).then_some(())).await;
}

#[tokio::test]
async fn bodies_have_the_promised_bytes_and_framing() {
    let origin = Origin::http1("127.0.0.2:0");

    let bytes = get(&origin, "/bytes/100000").await;
    let drip = get(&origin, "/drip/3/1").await;
    let head = get(&origin, "/head/5000").await;
    let none = get(&origin, "/status/204").await;
    let busy = get(&origin, "/status/503").await;

    assert_eq!(bytes.header("content-length"), Some("100000"));
    assert!(bytes.body.iter().zip(0..).all(|(&byte, index)| byte == pattern(index)));
    assert_eq!(
        (drip.text().as_str(), drip.chunks),
        ("chunk 0\nchunk 1\nchunk 2\n", Some(vec![8, 8, 8]))
    );
    assert_eq!(head.header("x-fill").map(str::len), Some(5000));
    assert_eq!((none.status, none.body.len()), (204, 0));
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")));
}

#[tokio::test]
async fn interim_responses_and_trailers_are_sent() {
    let origin = Origin::http1("127.0.0.2:0");
    let mut client = RawHttp::connect(origin.address()).await.unwrap();

    let hinted = client.get("o", "/early-hints").await.unwrap();
    let trailed =
        client.exchange("GET /trailers HTTP/1.1\r\nHost: o\r\nTE: trailers\r\n\r\n").await.unwrap();
    client
        .send("POST / HTTP/1.1\r\nHost: o\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await
        .unwrap();
    let go_on = client.read_exactly("HTTP/1.1 100 Continue\r\n\r\n".len()).await.unwrap();
    let continued = client.exchange("ok").await.unwrap();

    assert_eq!(hinted.interim.iter().map(|interim| interim.status).collect::<Vec<_>>(), [103]);
    assert_eq!(
        hinted.interim[0].headers,
        [("link".to_owned(), "</style.css>; rel=preload".to_owned())]
    );
    assert_eq!((hinted.status, hinted.text().as_str()), (200, "hinted\n"));
    assert_eq!(
        (trailed.trailer("x-checksum"), trailed.trailer("x-end")),
        (Some("1234"), Some("yes"))
    );
    assert_eq!(go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(continued.echo().body_len, 2);
}

#[tokio::test]
async fn uploads_are_counted_and_hashed_even_when_broken_off() {
    let origin = Origin::http1("127.0.0.2:0");
    let mut client = RawHttp::connect(origin.address()).await.unwrap();
    let chunked = "POST /upload HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n\
                   3\r\nabc\r\n0\r\nX-T: 7\r\n\r\n";

    let whole = client.exchange(chunked).await.unwrap();
    client.send("POST /upload HTTP/1.1\r\nHost: o\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
    client.reset();
    let uploads = until(|| Some(origin.uploads()).filter(|uploads| uploads.len() == 2)).await;

    let whole: Uploaded = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!(whole, uploads[0]);
    assert_eq!((whole.bytes, whole.complete), (3, true));
    assert_eq!(whole.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(whole.trailers, [("x-t".to_owned(), "7".to_owned())]);
    assert!(!uploads[1].complete);
}

#[tokio::test]
async fn a_response_given_up_is_counted_and_a_finished_one_is_not() {
    let origin = Origin::http1("127.0.0.2:0");
    get(&origin, "/bytes/1000").await;
    get(&origin, "/drip/2/1").await;

    let mut client = RawHttp::connect(origin.address()).await.unwrap();
    client.send("GET /sse HTTP/1.1\r\nHost: o\r\n\r\n").await.unwrap();
    let begun = client.read_some().await.unwrap();
    let before = origin.aborted();
    drop(client);
    until(|| (origin.aborted() == 1).then_some(())).await;

    assert!(begun.starts_with(b"HTTP/1.1 200 OK"));
    assert_eq!(before, 0);
}

#[tokio::test]
async fn upgrades_echo_bytes_after_the_handshake_of_rfc_6455() {
    let origin = Origin::http1("127.0.0.2:0");
    let mut client = RawHttp::connect(origin.address()).await.unwrap();
    let ask = "GET /ws HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    let switched = client.exchange(ask).await.unwrap();
    client.send("any bytes").await.unwrap();
    let echoed = client.read_exactly(9).await.unwrap();
    client.half_close().await.unwrap();

    assert_eq!(switched.status, 101);
    assert_eq!(switched.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(echoed, b"any bytes");
    assert_eq!(client.read_until_close().await.unwrap(), b"");
}

#[tokio::test]
async fn http2_carries_grpc_streams_and_trailers() {
    let origin = Origin::h2c("127.0.0.2:0");
    let client = H2Client::h2c(origin.address(), Some(SOURCE)).await.unwrap();

    let mut call = client.request(Method::POST, "/bank.Pay/Transfer");
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    let grpc = client.send(call, Bytes::from_static(b"\0\0\0\0\x01x"), None).await.unwrap();
    let trailers = HeaderMap::from_iter([("x-t".parse().unwrap(), HeaderValue::from_static("9"))]);
    let upload = client.send(
        client.request(Method::POST, "/upload"),
        Bytes::from(vec![7; 300_000]),
        Some(trailers),
    );
    let upload: Uploaded = serde_json::from_slice(&upload.await.unwrap().body).unwrap();
    let back = client.post("/echo-body", vec![5; 1_000_000]).await.unwrap();
    let closed = client.get("/close").await;

    assert_eq!((grpc.status, grpc.trailer("grpc-status"), grpc.body.len()), (200, Some("0"), 6));
    assert_eq!((upload.bytes, upload.complete), (300_000, true));
    assert_eq!(upload.trailers, [("x-t".to_owned(), "9".to_owned())]);
    assert_eq!(back.body, vec![5; 1_000_000]);
    assert!(closed.is_err());
    assert_eq!(client.get("/trailers").await.unwrap().trailer("x-checksum"), Some("1234"));
    assert_eq!(origin.peers().len(), 1);
}

#[tokio::test]
async fn many_streams_share_one_connection() {
    let origin = Origin::h2c("127.0.0.2:0");
    let client = H2Client::h2c(origin.address(), None).await.unwrap();

    let calls = (0..200).map(|_| client.get("/slow/20"));
    let echoes = futures_util::future::join_all(calls).await;

    assert_eq!(echoes.len(), 200);
    assert!(echoes.iter().all(|response| response.as_ref().unwrap().echo().connection_id == 0));
    assert_eq!((origin.connections(), origin.requests()), (1, 200));
}

#[tokio::test]
async fn an_origin_fails_stalls_and_heals() {
    let origin = Origin::http1("127.0.0.2:0");

    origin.fail_path("/healthz", 500);
    let only_health = (get(&origin, "/healthz").await.status, get(&origin, "/").await.status);
    origin.fail_with(502);
    let all = get(&origin, "/").await.status;
    origin.heal();
    let healed = get(&origin, "/healthz").await.status;
    origin.stall();
    let client = RawHttp::connect(origin.address()).await.unwrap();
    let mut client = client.deadline(Duration::from_millis(100));
    let stalled = client.get("o", "/").await;
    origin.heal();
    let late = client.deadline(Duration::from_secs(10)).read_response().await.unwrap().status;

    assert_eq!(only_health, (500, 200));
    assert_eq!((all, healed, late), (502, 200, 200));
    assert!(stalled.unwrap_err().to_string().starts_with("nothing within 100ms"));
}

#[tokio::test]
async fn an_origin_refuses_dies_and_comes_back_on_its_port() {
    let origin = Origin::http1("127.0.0.2:0");
    let mut kept = RawHttp::connect(origin.address()).await.unwrap();
    kept.get("o", "/").await.unwrap();

    origin.refuse();
    let refused = RawHttp::connect(origin.address()).await.is_err();
    let kept_serves = kept.get("o", "/").await.unwrap().status;
    origin.restart();
    let again = get(&origin, "/").await.status;
    origin.stop();
    let kept_ends = kept.is_closed().await;
    let dead = RawHttp::connect(origin.address()).await.is_err();
    let open = origin.open_connections();
    origin.restart();
    let alive = get(&origin, "/").await.status;

    assert!(refused && kept_ends && dead);
    assert_eq!((kept_serves, again, alive, open), (200, 200, 200, 0));
}

#[tokio::test]
async fn close_and_last_end_the_connection() {
    let origin = Origin::http1("127.0.0.2:0");

    let mut client = RawHttp::connect(origin.address()).await.unwrap();
    let closed = client.get("o", "/close").await.unwrap_err();
    let mut client = RawHttp::connect(origin.address()).await.unwrap();
    let last = client.get("o", "/last").await.unwrap();

    assert!(closed.is_end(), "{closed}");
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_tcp_echo_returns_all_bytes_and_keeps_half_close() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 2]));
    let plain = TcpEcho::start("127.0.0.2:0");
    let secured = TcpEcho::tls("127.0.0.2:0", &identity, None);

    let mut stream = tcp_connect(plain.address(), Some(SOURCE)).await.unwrap();
    stream.write_all(&[7; 100]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    let config = client_config(&authority, None);
    let mut tls = RawHttp::connect_tls(secured.address(), None, config, None).await.unwrap();
    tls.send("over tls").await.unwrap();

    assert_eq!(echoed, [7; 100]);
    assert_eq!(plain.peers()[0].ip(), SOURCE);
    assert_eq!(tls.read_exactly(8).await.unwrap(), b"over tls");
}

async fn get(origin: &Origin, path: &str) -> RawResponse {
    RawHttp::connect(origin.address()).await.unwrap().get("o", path).await.unwrap()
}

async fn until<T>(condition: impl Fn() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(value) = condition() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the condition came true")
}
