//! Bytes that are no proper handshake: refused with the right word, in bounded time and memory.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use durward_testkit::certificates::{Authority, client_config};
use durward_testkit::client::client_hello::{ClientHello, Reaction, reaction};
use durward_testkit::client::{RawHttp, tcp_connect};
use durward_testkit::process::unique_loopback;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::edge::{
    await_refusals, handshakes_failed, http, https, identity_for, pass, serve, tenant,
};

/// A hello that offers only what its legacy version says.
pub(super) fn with_legacy_version(version: [u8; 2]) -> Vec<u8> {
    let mut bytes = ClientHello::new().encode();
    bytes[1..3].copy_from_slice(&version);
    bytes[9..11].copy_from_slice(&version);
    bytes
}

/// A TLS 1.2 hello that offers one suite.
pub(super) fn with_suite(suite: u16) -> Vec<u8> {
    let mut bytes = ClientHello::new().encode();
    // Record, message, version, random, empty session id, length of the suites.
    let first = 5 + 4 + 2 + 32 + 1 + 2;
    let count = usize::from(bytes[first - 1]) / 2;
    for at in 0..count {
        bytes[first + 2 * at..first + 2 * at + 2].copy_from_slice(&suite.to_be_bytes());
    }
    bytes
}

pub(super) async fn react(address: SocketAddr, bytes: &[u8]) -> Reaction {
    let mut stream = tcp_connect(address, None).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    tokio::time::timeout(crate::edge::SOON, reaction(&mut stream)).await.unwrap().unwrap()
}

fn secure(address: SocketAddr) -> (Authority, durward_proxy::Proxy) {
    let authority = Authority::new("root");
    let identity = identity_for(&authority, address.ip());
    let proxy = serve(&[tenant("a")
        .listen(address, http("A", Some(https(&identity))))
        .limits(|limits| limits.timeouts.handshake = Duration::from_millis(500))]);
    (authority, proxy)
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let (_, proxy) = secure(address);

    let mut client = RawHttp::connect(address).await.unwrap();
    let response = client.get("a", "/secret").await.unwrap();

    assert_eq!(response.status, 400);
    assert!(response.text().contains("HTTPS"), "{}", response.text());
    await_refusals(&proxy, Some("a"), "client_hello", 1).await;
}

// S4.64+
#[tokio::test]
async fn junk_is_refused_with_an_alert_and_counted() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let (authority, proxy) = secure(address);
    let hello = ClientHello::new().encode();
    let mut wrong_message = hello.clone();
    wrong_message[5] = 2;
    let mut torn = hello.clone();
    torn[44] = 0xff;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("zeroes", vec![0; 64]),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]),
        ("ServerHello", wrong_message),
        ("torn ClientHello", torn),
        ("empty record", vec![22, 3, 1, 0, 0]),
        ("oversized record", [vec![22, 3, 1, 0xff, 0xff], vec![1; 200]].concat()),
        ("application data", vec![23, 3, 3, 0, 1, 0]),
    ];

    let count = cases.len() as u64;
    for (name, bytes) in cases {
        let reaction = react(address, &bytes).await;
        assert!(matches!(reaction, Reaction::Alert(_) | Reaction::Closed), "{name}: {reaction:?}");
    }

    let refused = durward_testkit::process::eventually(crate::edge::SOON, async || {
        crate::edge::refused(&proxy, Some("a"), "client_hello")
            + handshakes_failed(&proxy, "a", "protocol")
            + handshakes_failed(&proxy, "a", "nothing_in_common")
            == count
    });
    assert!(refused.await, "{:?}", crate::edge::metrics(&proxy, "a").refusals());
    let config = client_config(&authority, None);
    let mut client = RawHttp::connect_tls(address, None, config, None).await.unwrap();
    assert_eq!(client.get("a", "/").await.unwrap().text(), "A");
}

// S4.64+
#[tokio::test]
async fn a_hello_split_anywhere_or_into_many_records_is_served() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let (_authority, _proxy) = secure(address);
    let hello = ClientHello::new().server_name("pay.example");

    for size in [1, 2, 3, 7, 50] {
        let reaction = react(address, &hello.encode_split(size)).await;
        assert!(matches!(reaction, Reaction::Chain(_)), "records of {size}: {reaction:?}");
    }
    let bytes = hello.encode();
    for cut in 1..bytes.len() {
        let mut stream = tcp_connect(address, None).await.unwrap();
        stream.write_all(&bytes[..cut]).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(&bytes[cut..]).await.unwrap();
        let reaction = reaction(&mut stream).await.unwrap();
        assert!(matches!(reaction, Reaction::Chain(_)), "cut at {cut}: {reaction:?}");
    }
}

// S4.64+
#[tokio::test]
async fn a_hellos_size_counts_alike_however_it_arrives() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let (_authority, _proxy) = secure(address);
    for (padding, served) in [(31_000, true), (33_000, false), (34_000, false), (36_000, false)] {
        let hello = ClientHello::new().server_name("pay.example").padding(padding);
        for record in [16_000, 1_000] {
            let bytes = hello.encode_split(record);
            for piece in [bytes.len(), 8_000, 1_000] {
                let mut stream = tcp_connect(address, None).await.unwrap();
                for piece in bytes.chunks(piece) {
                    // It may have been refused already.
                    let _ = stream.write_all(piece).await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let reaction = reaction(&mut stream).await;
                let shown = matches!(reaction, Ok(Reaction::Chain(_)));
                assert_eq!(shown, served, "{padding} in {record}, {piece}: {reaction:?}");
            }
        }
    }
}

// S4.64+
#[tokio::test]
async fn an_oversized_hello_is_refused_early() {
    let (ended, passed) = (unique_loopback(), unique_loopback());
    let at = |ip| SocketAddr::from((ip, 8443));
    let authority = Authority::new("root");
    let proxy = serve(&[
        tenant("ended").listen(at(ended), http("", Some(https(&identity_for(&authority, ended))))),
        tenant("passed").upstream(at(ended)).listen(at(passed), pass(&[("*", 0)])),
    ]);
    // 60 kB announced; the refusal must come before it is all sent.
    let hello = ClientHello::new().padding(60_000).encode();

    for (ip, name) in [(ended, "ended"), (passed, "passed")] {
        let mut stream = tcp_connect(at(ip), None).await.unwrap();
        stream.write_all(&hello[..20_000]).await.unwrap();
        let mut reply = Vec::new();
        let read = tokio::time::timeout(crate::edge::SOON, stream.read_to_end(&mut reply)).await;
        assert!(read.is_ok(), "{name}");
        await_refusals(&proxy, Some(name), "client_hello", 1).await;
    }
}

// S4.64+
#[tokio::test]
async fn a_slow_hello_is_given_up_at_the_deadline() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let (_, proxy) = secure(address);
    let bytes = ClientHello::new().encode();
    let began = Instant::now();
    let (silent, slow) =
        (tcp_connect(address, None).await.unwrap(), tcp_connect(address, None).await.unwrap());

    let (mut reading, mut writing) = slow.into_split();
    let dribble = tokio::spawn(async move {
        for byte in bytes {
            if writing.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    await_refusals(&proxy, Some("a"), "client_timeout", 2).await;

    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let mut reply = Vec::new();
    let _ = reading.read_to_end(&mut reply).await;
    assert_eq!(reply, b"");
    drop(silent);
    dribble.await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_midway_is_counted_as_closed() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let (_, proxy) = secure(address);

    let mut stream = tcp_connect(address, None).await.unwrap();
    stream.write_all(&ClientHello::new().encode()[..20]).await.unwrap();
    drop(stream);

    await_refusals(&proxy, Some("a"), "tls_handshake", 1).await;
    assert_eq!(handshakes_failed(&proxy, "a", "closed"), 1);
}
