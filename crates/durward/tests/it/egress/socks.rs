//! SOCKS 5 on the proxy's port.

use std::net::{Ipv4Addr, SocketAddr};

use durward_testkit::client::RawHttp;
use durward_testkit::dns::DnsServer;
use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::secrets;

use super::Out;
use crate::gateway::Gateway;

fn to_name(name: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    [&[5, 1, 0, 3, length][..], name.as_bytes(), &port.to_be_bytes()].concat()
}

fn to_address(address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(v4) = address else { panic!("IPv4 here") };
    [&[5, 1, 0, 1][..], &v4.ip().octets(), &v4.port().to_be_bytes()].concat()
}

/// Greets without a credential and asks; the code it is answered with.
async fn ask(out: &Out, wish: &[u8]) -> (RawHttp, u8) {
    let mut client = out.connect().await;
    client.send([5, 1, 0]).await.unwrap();
    assert_eq!(client.read_exactly(2).await.unwrap(), [5, 0]);
    client.send(wish).await.unwrap();
    let answer = client.read_exactly(10).await.unwrap();
    (client, answer[1])
}

// S2.9 S2.54
#[tokio::test]
async fn socks_goes_by_the_same_rules_and_addresses() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let dns = DnsServer::start("127.0.0.1:0");
    dns.set("bank.example", &[Ipv4Addr::LOCALHOST.into()]);
    dns.set("inside.example", &[Ipv4Addr::new(127, 0, 0, 9).into()]);
    let out = Out::open(&format!(
        "resolvers: [\"{}\"]\nallow: [{{cidr: 127.0.0.1, ports: [{}, 9]}}]",
        dns.address(),
        echo.port()
    ));

    for wish in [to_name("bank.example", echo.port()), to_address(echo.address())] {
        let (mut client, code) = ask(&out, &wish).await;
        assert_eq!(code, 0);
        client.send("hello").await.unwrap();
        assert_eq!(client.read_exactly(5).await.unwrap(), b"hello");
    }
    assert!(echo.peers().iter().all(|peer| peer.ip() == out.egress));
    for (wish, wanted) in [
        (to_name("inside.example", echo.port()), 2),
        (to_name("0x7f.1", echo.port()), 2),
        (to_name("2130706433", echo.port()), 2),
        (to_name("nowhere.example", 9), 4),
        (to_name("127.0.0.1", 9), 5),
        (to_name("127.0.0.1", 10), 2),
        (vec![5, 2, 0, 1, 127, 0, 0, 1, 0, 80], 7),
        (vec![5, 3, 0, 1, 127, 0, 0, 1, 0, 80], 7),
        (vec![5, 1, 0, 9], 8),
    ] {
        assert_eq!(ask(&out, &wish).await.1, wanted, "{}", wish.escape_ascii());
    }
    let lines = out.decisions(4);
    assert!(lines.iter().all(|line| line["method"] == "SOCKS5" && line["tenant"] == "acme"));
    assert!(out.gateway.log().iter().any(|line| line.contains("\"kind\":\"socks5\"")));
}

// S2.15 S2.9
#[tokio::test]
async fn socks_asks_for_a_name_and_secret_where_the_proxy_has_credentials() {
    let origin = Origin::http1("127.0.0.1:0");
    let prepared = Gateway::prepare();
    std::fs::write(prepared.dir().join("users"), format!("ci:{}\n", secrets::sha256_hex("right")))
        .unwrap();
    let allow = format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", origin.port());
    let out = Out::with(prepared, "credentials: {file: users}", &allow);

    let mut nameless = out.connect().await;
    nameless.send([5, 1, 0]).await.unwrap();
    assert_eq!(nameless.read_exactly(2).await.unwrap(), [5, 0xff]);
    for (pair, ok) in
        [(&b"\x01\x02ci\x05wrong"[..], 1), (b"\x01\x02ci\x05right", 0), (b"\x01\x02no\x05right", 1)]
    {
        let mut client = out.connect().await;
        client.send([5, 2, 0, 2]).await.unwrap();
        assert_eq!(client.read_exactly(2).await.unwrap(), [5, 2]);
        client.send(pair).await.unwrap();
        assert_eq!(client.read_exactly(2).await.unwrap(), [1, ok]);
        if ok == 0 {
            client.send(to_address(origin.address())).await.unwrap();
            assert_eq!(client.read_exactly(10).await.unwrap()[1], 0);
            let answer = client.get("x", "/").await.unwrap();
            assert_eq!(answer.echo().peer.ip(), out.egress);
        }
    }
    assert!(out.decides(|line| line["identity"] == "user:ci"));
}
