//! Bytes for those that do not speak HTTP, and TLS carried through.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::ClientAuth;
use durward_model::server_tls::ServerTls;
use durward_proxy::metrics::Counter;
use durward_testkit::certificates::{
    Authority, CertSpec, RevocationList, client_config, client_config_insecure,
};
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe, reaction};
use durward_testkit::client::{tcp_connect, tls_connect};
use durward_testkit::origin::{RawOrigin, TcpEcho};
use durward_testkit::process::{eventually, unique_loopback};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::edge::{
    SOON, assert_served, await_refusals, bound, identity_for, pass, serve, tcp, tenant, tls, total,
    trust,
};

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((unique_loopback(), port))
}

/// ISO 8583 frames: two bytes of length, then the message.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), message: &[u8]) -> Vec<u8> {
    let frame = [&(message.len() as u16).to_be_bytes()[..], message].concat();
    stream.write_all(&frame).await.unwrap();
    stream.flush().await.unwrap();
    let mut echoed = vec![0; frame.len()];
    tokio::time::timeout(SOON, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, frame);
    echoed
}

// S1.39 S1.3
#[tokio::test]
async fn messages_of_any_protocol_reach_the_upstream_from_the_tenants_address() {
    let authority = Authority::new("root");
    let echo = TcpEcho::start("127.0.0.1:0");
    let (plain, secure) = (any(9000), any(9001));
    let (egress_a, egress_b) = (unique_loopback(), unique_loopback());
    let policy = tls(&identity_for(&authority, secure.ip()));
    let proxy = serve(&[
        tenant("a").egress(egress_a).upstream(echo.address()).listen(plain, tcp(None)),
        tenant("b").egress(egress_b).upstream(echo.address()).listen(secure, tcp(Some(policy))),
    ]);

    let mut a = tcp_connect(plain, None).await.unwrap();
    let mut b = tls_connect(secure, None, client_config(&authority, None), None).await.unwrap();
    for message in [&b"0800"[..], &[7; 60_000], b"0810"] {
        exchange(&mut a, message).await;
        exchange(&mut b, message).await;
    }

    let mut seen: Vec<IpAddr> = echo.peers().iter().map(SocketAddr::ip).collect();
    seen.sort();
    assert_eq!(seen, [IpAddr::V4(egress_a), IpAddr::V4(egress_b)]);
    let sent = 3 * 2 + 4 + 60_000 + 4;
    for name in ["a", "b"] {
        // Counted while the connection is open.
        for counter in [
            Counter::ClientBytesIn,
            Counter::ClientBytesOut,
            Counter::UpstreamBytesIn,
            Counter::UpstreamBytesOut,
        ] {
            let counted = eventually(SOON, async || total(&proxy, name, counter) == sent);
            assert!(counted.await, "{name} {counter:?}: {}", total(&proxy, name, counter));
        }
        assert_eq!(total(&proxy, name, Counter::ConnectionsClosed), 0);
    }
}

// S1.39+ S1.56+
#[tokio::test]
async fn a_certificate_that_is_verified_no_longer_ends_its_stream_and_no_other() {
    let (servers, partners, next) =
        (Authority::new("servers"), Authority::new("partners"), Authority::new("next"));
    let (echo, address) = (TcpEcho::start("127.0.0.1:0"), any(9001));
    let server = identity_for(&servers, address.ip());
    let wanted = |authorities: &[&Authority], lists: &[&RevocationList]| {
        let client_auth = ClientAuth::Required(trust(authorities, lists));
        let policy = ServerTls { client_auth, ..tls(&server) };
        tenant("a").upstream(echo.address()).listen(address, tcp(Some(policy)))
    };
    let proxy = serve(&[wanted(&[&partners, &next], &[])]);
    let revoked = partners.issue(&CertSpec::new().client());
    let identities = [
        &revoked,
        &partners.issue(&CertSpec::new().client()),
        &next.issue(&CertSpec::new().client()),
    ];
    let mut streams = Vec::new();
    for identity in identities {
        let config = client_config(&servers, Some(identity));
        let mut stream = tls_connect(address, None, config, None).await.unwrap();
        exchange(&mut stream, b"0800").await;
        streams.push(stream);
    }
    let [of_revoked, of_partner, of_next] = &mut streams[..] else { unreachable!() };

    let list = partners.revoke(&[&revoked]);
    assert_served(&proxy.apply(bound(2, &[wanted(&[&partners, &next], &[&list])])));
    assert!(has_ended(of_revoked).await);
    exchange(of_partner, b"0800").await;
    exchange(of_next, b"0800").await;

    assert_served(&proxy.apply(bound(3, &[wanted(&[&next], &[])])));
    assert!(has_ended(of_partner).await);
    exchange(of_next, b"0800").await;
}

/// Waits for the end of a stream that is silent.
async fn has_ended(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let read = tokio::time::timeout(SOON, stream.read(&mut [0])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

/// Sends, says its last, and reads the rest: works only if half-closing does.
async fn pump(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let send = async {
        writing.write_all(bytes).await?;
        writing.shutdown().await
    };
    let mut received = Vec::new();
    let (sent, read) = tokio::join!(send, reading.read_to_end(&mut received));
    sent.and(read).map(|_| received)
}

// S1.39
#[tokio::test]
async fn large_streams_pass_both_ways_at_once_and_half_closing_is_told() {
    let authority = Authority::new("root");
    let echo = TcpEcho::start("127.0.0.1:0");
    let (plain, secure) = (any(9000), any(9001));
    let policy = tls(&identity_for(&authority, secure.ip()));
    let _proxy = serve(&[tenant("a")
        .upstream(echo.address())
        .listen(plain, tcp(None))
        .listen(secure, tcp(Some(policy)))]);
    let bytes = pattern(8 * 1024 * 1024 + 13);

    let a = tcp_connect(plain, None).await.unwrap();
    let b = tls_connect(secure, None, client_config(&authority, None), None).await.unwrap();
    let both = async { tokio::join!(pump(a, &bytes), pump(b, &bytes)) };
    let (a, b) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();

    assert!(a.unwrap() == bytes, "plain");
    assert!(b.unwrap() == bytes, "TLS");
}

// S1.39
#[tokio::test]
async fn many_streams_at_once_exceed_the_pipes_and_lose_nothing() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let address = any(9000);
    let _proxy = serve(&[tenant("a").upstream(echo.address()).listen(address, tcp(None))]);
    let bytes: Arc<[u8]> = pattern(256 * 1024).into();

    let streams: Vec<_> = (0..300)
        .map(|_| {
            let bytes = Arc::clone(&bytes);
            tokio::spawn(async move {
                let stream = tcp_connect(address, None).await.unwrap();
                pump(stream, &bytes).await.unwrap() == *bytes
            })
        })
        .collect();

    for stream in streams {
        assert!(tokio::time::timeout(Duration::from_secs(60), stream).await.unwrap().unwrap());
    }
}

// S1.39
#[tokio::test]
async fn little_and_much_in_turn_arrive_in_order() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let address = any(9000);
    let _proxy = serve(&[tenant("a").upstream(echo.address()).listen(address, tcp(None))]);
    let bytes = pattern(300_000);
    let mut stream = tcp_connect(address, None).await.unwrap();

    // Around the sizes at which a direction begins and ends to go through a pipe.
    for size in [1, 16_383, 300_000, 1, 1_023, 16_384, 1_024, 65_536, 2, 16_385, 100].repeat(10) {
        stream.write_all(&bytes[..size]).await.unwrap();
        let mut back = vec![0; size];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back == bytes[..size], "{size}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection| async move {
        let _ = connection.send("220 ready\r\n").await;
        connection.hold().await;
    });
    let address = any(9000);
    let _proxy = serve(&[tenant("a").upstream(origin.address()).listen(address, tcp(None))]);

    let mut client = tcp_connect(address, None).await.unwrap();
    let mut greeting = [0; 11];
    tokio::time::timeout(SOON, client.read_exact(&mut greeting)).await.unwrap().unwrap();

    assert_eq!(&greeting, b"220 ready\r\n");
}

// S1.39+
#[tokio::test]
async fn last_words_arrive_with_the_end_behind_them_and_the_other_direction_goes_on() {
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let ending = RawOrigin::start("127.0.0.1:0", move |mut connection| {
        let told = told.clone();
        async move {
            let _ = connection.read_exactly(1).await;
            let _ = connection.send(pattern(5_000)).await;
            let _ = connection.half_close().await;
            let _ = told.send(connection.read_to_end().await.unwrap());
        }
    });
    let resetting = RawOrigin::start("127.0.0.1:0", |mut connection| async move {
        let _ = connection.read_exactly(1).await;
        let _ = connection.send(pattern(5_000)).await;
        connection.reset();
    });
    let (ends, breaks) = (any(9000), any(9000));
    let _proxy = serve(&[
        tenant("ends").upstream(ending.address()).listen(ends, tcp(None)),
        tenant("breaks").upstream(resetting.address()).listen(breaks, tcp(None)),
    ]);

    for _ in 0..50 {
        let mut client = tcp_connect(ends, None).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let mut heard = Vec::new();
        tokio::time::timeout(SOON, client.read_to_end(&mut heard)).await.unwrap().unwrap();
        assert!(heard == pattern(5_000), "{}", heard.len());
        client.write_all(b"still here").await.unwrap();
        client.shutdown().await.unwrap();
        let late = tokio::time::timeout(SOON, hears.recv()).await.unwrap().unwrap();
        assert_eq!(late, b"still here");

        let mut client = tcp_connect(breaks, None).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let end = tokio::time::timeout(SOON, client.read_to_end(&mut Vec::new())).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_in_both_directions() {
    let authority = Authority::new("root");
    let resetting = RawOrigin::start("127.0.0.1:0", |mut connection| async move {
        let _ = connection.read_some().await;
        connection.reset();
    });
    let (told, hears) = tokio::sync::oneshot::channel();
    let told = Arc::new(std::sync::Mutex::new(Some(told)));
    let listening = RawOrigin::start("127.0.0.1:0", move |mut connection| {
        let told = told.clone();
        async move {
            let _ = connection.read_some().await;
            let end = connection.read_some().await;
            if let Some(told) = told.lock().unwrap().take() {
                let _ = told.send(end.map_err(|error| error.kind()));
            }
        }
    });
    let (from_upstream, to_upstream, secure) = (any(9000), any(9000), any(9001));
    let policy = tls(&identity_for(&authority, secure.ip()));
    let proxy = serve(&[
        tenant("up").upstream(resetting.address()).listen(from_upstream, tcp(None)),
        tenant("down").upstream(listening.address()).listen(to_upstream, tcp(None)),
        tenant("tls").upstream(resetting.address()).listen(secure, tcp(Some(policy))),
    ]);

    let mut client = tcp_connect(from_upstream, None).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let end = tokio::time::timeout(SOON, client.read(&mut [0; 9])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    await_refusals(&proxy, Some("up"), "upstream_closed", 1).await;

    let mut client =
        tls_connect(secure, None, client_config(&authority, None), None).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let end = tokio::time::timeout(SOON, client.read(&mut [0; 9])).await.unwrap();
    assert!(end.is_err(), "{end:?}");

    let mut client = tcp_connect(to_upstream, None).await.unwrap();
    client.write_all(b"x").await.unwrap();
    assert!(eventually(SOON, async || listening.received().concat() == b"x").await);
    client.set_zero_linger().unwrap();
    drop(client);
    let end = tokio::time::timeout(SOON, hears).await.unwrap().unwrap();
    assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
    await_refusals(&proxy, Some("down"), "client_closed", 1).await;
}

// S1.39
#[tokio::test]
async fn a_client_that_closes_without_tls_last_word_loses_nothing_it_sent() {
    let authority = Authority::new("root");
    let origin = RawOrigin::start("127.0.0.1:0", |mut connection| async move {
        let _ = connection.read_to_end().await;
    });
    let address = any(9001);
    let policy = tls(&identity_for(&authority, address.ip()));
    let _proxy =
        serve(&[tenant("a").upstream(origin.address()).listen(address, tcp(Some(policy)))]);
    let bytes = pattern(300_000);

    let config = client_config(&authority, None);
    let mut client = tls_connect(address, None, config, None).await.unwrap();
    client.write_all(&bytes).await.unwrap();
    client.flush().await.unwrap();
    let (mut socket, _) = client.into_inner();
    socket.shutdown().await.unwrap();

    let received = origin.wait_for(SOON, |all| all.concat().len() == bytes.len()).await;
    assert!(received.concat() == bytes);
    assert!(eventually(SOON, async || origin.open_connections() == 0).await);
}

// S1.60
#[tokio::test]
async fn an_upstream_that_cannot_be_had_is_a_reset_and_an_alert_and_a_reason() {
    let (nowhere, plain, passed) = (any(9), any(9000), any(9443));
    let proxy = serve(&[
        tenant("plain").upstream(nowhere).listen(plain, tcp(None)),
        tenant("passed").upstream(nowhere).listen(passed, pass(&[("*", 0)])),
    ]);

    // The reset may be quicker than the test.
    let end = async { tcp_connect(plain, None).await?.read(&mut [0; 9]).await };
    let end = tokio::time::timeout(SOON, end).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let reaction = probe(passed, None, &ClientHello::new()).await.unwrap();
    assert_eq!(reaction, Reaction::Alert(80));

    await_refusals(&proxy, Some("plain"), "connect_failed", 1).await;
    await_refusals(&proxy, Some("passed"), "connect_failed", 1).await;
}

// S1.39 S4.2
#[tokio::test]
async fn tls_is_carried_through_untouched_to_the_upstream_that_is_named() {
    let authority = Authority::new("root");
    let issue = |name: &str| authority.issue(&CertSpec::new().dns(name));
    let (one, two, rest) = (issue("one.example"), issue("two.example"), issue("rest.example"));
    let echo = |identity| TcpEcho::tls("127.0.0.1:0", identity, None);
    let (at_one, at_two, at_rest) = (echo(&one), echo(&two), echo(&rest));
    let (open, closed) = (any(9443), any(9443));
    let proxy = serve(&[
        tenant("open")
            .upstream(at_one.address())
            .upstream(at_two.address())
            .upstream(at_rest.address())
            .listen(open, pass(&[("one.example", 0), ("two.example", 1), ("*", 2)])),
        tenant("closed").upstream(at_one.address()).listen(closed, pass(&[("one.example", 0)])),
    ]);

    for (name, shown) in
        [("one.example", &one), ("two.example", &two), ("other.example", &rest), ("", &rest)]
    {
        let name = Some(name).filter(|name| !name.is_empty());
        let mut client = tls_connect(open, None, client_config_insecure(None), name).await.unwrap();
        let certificates = client.get_ref().1.peer_certificates().unwrap();
        assert_eq!(certificates[0], *shown.leaf(), "{name:?}");
        exchange(&mut client, b"0800").await;
    }
    for hello in [ClientHello::new(), ClientHello::new().server_name("other.example")] {
        let reaction = probe(closed, None, &hello).await.unwrap();
        assert_eq!(reaction, Reaction::Alert(112));
    }
    await_refusals(&proxy, Some("closed"), "no_route", 2).await;
}

// S4.64+
#[tokio::test]
async fn a_hello_that_is_carried_through_may_come_in_pieces() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().dns("one.example"));
    let echo = TcpEcho::tls("127.0.0.1:0", &identity, None);
    let address = any(9443);
    let _proxy =
        serve(&[tenant("a").upstream(echo.address()).listen(address, pass(&[("one.example", 0)]))]);
    let hello = ClientHello::new().server_name("one.example");

    for size in [1, 5, 64] {
        let bytes = hello.encode_split(size);
        let mut stream = tcp_connect(address, None).await.unwrap();
        for piece in bytes.chunks(11) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let reaction = tokio::time::timeout(SOON, reaction(&mut stream)).await.unwrap().unwrap();
        assert_eq!(reaction, Reaction::Chain(identity.chain_der.clone()), "records of {size}");
    }
}

// S4.64+
#[tokio::test]
async fn junk_on_a_pass_through_listener_reaches_no_upstream() {
    let origin = RawOrigin::start("127.0.0.1:0", |connection| connection.hold());
    let address = any(9443);
    let proxy = serve(&[tenant("a").upstream(origin.address()).listen(address, pass(&[("*", 0)]))]);

    for junk in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"SSH-2.0-x\r\n", &[22, 3, 1, 0, 0]] {
        let mut stream = tcp_connect(address, None).await.unwrap();
        stream.write_all(junk).await.unwrap();
        let reaction = tokio::time::timeout(SOON, reaction(&mut stream)).await.unwrap();
        assert_eq!(reaction.unwrap(), Reaction::Alert(50));
    }

    await_refusals(&proxy, Some("a"), "client_hello", 3).await;
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_silent_stream_ends_and_a_busy_one_goes_on() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let address = any(9000);
    let proxy = serve(&[tenant("a")
        .upstream(echo.address())
        .listen(address, tcp(None))
        .limits(|limits| limits.timeouts.stream_idle = Duration::from_millis(600))]);
    let mut silent = tcp_connect(address, None).await.unwrap();
    let mut busy = tcp_connect(address, None).await.unwrap();
    exchange(&mut silent, b"x").await;

    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        exchange(&mut busy, b"x").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    await_refusals(&proxy, Some("a"), "client_timeout", 1).await;
    let end = tokio::time::timeout(SOON, silent.read(&mut [0; 9])).await.unwrap();
    assert!(end.is_err(), "{end:?}");
    exchange(&mut busy, b"x").await;
}

// S1.71
#[tokio::test]
async fn bandwidth_is_limited_per_tenant() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let (slow, fast) = (any(9000), any(9000));
    let _proxy = serve(&[
        tenant("slow")
            .upstream(echo.address())
            .listen(slow, tcp(None))
            .limits(|limits| limits.bandwidth_out = Some(200_000)),
        tenant("fast").upstream(echo.address()).listen(fast, tcp(None)),
    ]);
    let bytes = pattern(200_000);
    let time = async |address| {
        let began = Instant::now();
        let stream = tcp_connect(address, None).await.unwrap();
        assert!(pump(stream, &bytes).await.unwrap() == bytes);
        began.elapsed()
    };

    let (slow, fast) = (time(slow).await, time(fast).await);

    assert!(slow > Duration::from_millis(600) && slow < Duration::from_secs(4), "{slow:?}");
    assert!(fast < Duration::from_millis(500), "{fast:?}");
}
