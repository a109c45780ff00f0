//! The clients read strictly, say what they were told to say, and notice how connections end.
//! The peers are scripted origins and rustls servers.

use durward_testkit::certificates::{
    Authority, CertSpec, client_config, client_config_expecting, client_config_insecure, provider,
};
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe};
use durward_testkit::client::h2_frames::{self, flag, kind};
use durward_testkit::client::{RawHttp, ReadError, tcp_connect, tls_connect};
use durward_testkit::origin::{Origin, RawOrigin, TcpEcho};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn well_formed_responses_are_read_in_full() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nX-B: 1\r\nx-a:2 \r\nContent-Length: 2\r\n\r\nhi", "hi"),
        (
            "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\nT: 1\r\n\r\n",
            "hi",
        ),
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end"),
        ("HTTP/1.1 103 Hint\r\nLink: x\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 204 No\r\n\r\n", ""),
    ];

    for (bytes, body) in cases {
        let response = read(bytes).await.unwrap();
        assert_eq!(response.text(), body, "{bytes}");
    }
    let first = read(cases[0].0).await.unwrap();
    assert_eq!(
        first.headers[..2],
        [("X-B".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())]
    );
    assert_eq!(read(cases[1].0).await.unwrap().trailer("t"), Some("1"));
    let last: Vec<u16> =
        read(cases[3].0).await.unwrap().interim.iter().map(|interim| interim.status).collect();
    assert_eq!(last, [103, 100]);
}

#[tokio::test]
async fn malformed_responses_are_errors() {
    let cases = [
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ];

    for bytes in cases {
        let outcome = read(bytes).await;
        assert!(matches!(outcome, Err(ReadError::Malformed { .. })), "{bytes:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_cut_body_and_a_silent_end_are_told_apart() {
    let cut = read("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi").await;
    let silent = read("").await;

    assert!(matches!(cut, Err(ReadError::Truncated { within: "a body", .. })), "{cut:?}");
    assert!(matches!(silent, Err(ReadError::Closed)), "{silent:?}");
}

#[tokio::test]
async fn names_are_sent_and_checked_as_told() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 2]).dns("acme.example"));
    let origin = Origin::tls("127.0.0.2:0", &identity, None, &[]);
    let trusting = client_config(&authority, None);
    let expecting = client_config_expecting(&authority, None, "127.0.0.2");
    let wrong = client_config_expecting(&authority, None, "127.0.0.3");
    let cases = [
        (&trusting, None, Ok(None)),
        (&trusting, Some("127.0.0.2"), Ok(None)),
        (&trusting, Some("acme.example"), Ok(Some("acme.example"))),
        (&trusting, Some("other.example"), Err(())),
        (&expecting, Some("other.example"), Ok(Some("other.example"))),
        (&wrong, Some("acme.example"), Err(())),
        (&client_config_insecure(None), Some("other.example"), Ok(Some("other.example"))),
    ];

    for (config, name, expected) in cases {
        let sent = match RawHttp::connect_tls(origin.address(), None, config.clone(), name).await {
            Ok(mut client) => Ok(client.get("x", "/").await.unwrap().echo().tls_server_name),
            Err(_) => Err(()),
        };
        assert_eq!(sent, expected.map(|name| name.map(str::to_owned)), "{name:?}");
    }
}

#[tokio::test]
async fn a_second_connection_resumes_the_session() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 2]));
    let origin = Origin::tls("127.0.0.2:0", &identity, None, &[]);
    let config = std::sync::Arc::new(client_config(&authority, None));

    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut client =
            RawHttp::connect_tls(origin.address(), None, config.clone(), None).await.unwrap();
        client.get("x", "/").await.unwrap();
        kinds.push(client.transport().tls().unwrap().handshake_kind().unwrap());
    }

    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

#[tokio::test]
async fn any_server_name_can_be_put_into_a_hello() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 2]));
    let echo = TcpEcho::tls("127.0.0.2:0", &identity, None);
    let only13 = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain_der.clone(), identity.key_der.clone_key())
        .unwrap();
    let modern = Origin::tls_with("127.0.0.2:0", only13);
    let chain = Reaction::Chain(identity.chain_der.clone());
    let hello = ClientHello::new;
    let ask = async |address, hello: ClientHello| probe(address, None, &hello).await.unwrap();

    assert_eq!(ask(echo.address(), hello()).await, chain);
    assert_eq!(ask(echo.address(), hello().server_name("127.0.0.2")).await, chain);
    assert_eq!(
        ask(echo.address(), hello().server_name("other.example").alpn("h2").padding(3000)).await,
        chain
    );
    assert_eq!(ask(echo.address(), hello().tls13()).await, Reaction::Encrypted);
    assert_eq!(ask(modern.address(), hello()).await, Reaction::Alert(70));
    assert!(matches!(ask(echo.address(), hello().server_name("a\0b")).await, Reaction::Alert(_)));
}

#[tokio::test]
async fn a_hello_may_be_split_over_records_and_packets() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 2]));
    let echo = TcpEcho::tls("127.0.0.2:0", &identity, None);
    let mut stream = tcp_connect(echo.address(), None).await.unwrap();

    for part in ClientHello::new().server_name("acme.example").encode_split(40).chunks(7) {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
    }
    let reaction = durward_testkit::client::client_hello::reaction(&mut stream).await.unwrap();

    assert_eq!(reaction, Reaction::Chain(identity.chain_der));
}

#[tokio::test]
async fn frames_by_hand_make_an_exchange_and_an_error() {
    let origin = Origin::h2c("127.0.0.2:0");
    let mut stream = tcp_connect(origin.address(), None).await.unwrap();
    let opening = [h2_frames::opening(), h2_frames::get(1, "http", "o", "/status/204")].concat();

    stream.write_all(&opening).await.unwrap();
    let answer = read_frame(&mut stream, kind::HEADERS).await;
    let orphan = h2_frames::frame(kind::CONTINUATION, flag::END_HEADERS, 3, b"");
    stream.write_all(&orphan).await.unwrap();
    let goaway = read_frame(&mut stream, kind::GOAWAY).await;

    assert_eq!((answer.stream, answer.flags & flag::END_HEADERS), (1, flag::END_HEADERS));
    assert_eq!(goaway.error_code(), Some(1));
}

#[tokio::test]
async fn a_wrong_client_authority_is_seen_at_the_first_read() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 2]));
    let stranger = Authority::new("other").issue(&CertSpec::new().client());
    let echo = TcpEcho::tls("127.0.0.2:0", &identity, Some(&authority));

    let stream =
        tls_connect(echo.address(), None, client_config(&authority, Some(&stranger)), None).await;
    let outcome = match stream {
        Ok(stream) => RawHttp::over(stream).read_some().await.map(|_| ()),
        Err(source) => Err(ReadError::Broken { source }),
    };

    assert!(matches!(outcome, Err(ReadError::Broken { .. })), "{outcome:?}");
}

/// Reads the response a server makes of these bytes, after which it closes.
async fn read(bytes: &str) -> Result<durward_testkit::client::RawResponse, ReadError> {
    let origin = RawOrigin::once("127.0.0.2:0", bytes);
    RawHttp::connect(origin.address()).await.unwrap().get("x", "/").await
}

async fn read_frame(stream: &mut tokio::net::TcpStream, kind: u8) -> h2_frames::Frame {
    let reading = async {
        loop {
            let frame = h2_frames::read_frame(stream).await.unwrap();
            if frame.kind == kind {
                return frame;
            }
        }
    };
    tokio::time::timeout(durward_testkit::client::DEADLINE, reading).await.unwrap()
}
