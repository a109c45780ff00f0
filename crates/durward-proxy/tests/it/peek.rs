//! Where the client connected, however many machines are in between.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use durward_model::{DestinationMode, SourceSet};
use durward_proxy::Proxy;
use durward_proxy::access_log::Sink;
use durward_proxy::proxy::Options;
use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::{ProxyHeader, RawHttp, tcp_connect};
use durward_testkit::netns;
use durward_testkit::process::{free_port, unique_loopback};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::edge::{
    SOON, assert_served, await_lines, await_refusals, http, https, identity_for, options, pass,
    refused, serve, serve_in, snapshot, tenant,
};

fn trusting(block: &str) -> DestinationMode {
    DestinationMode::ProxyProtocol {
        trusted: SourceSet::new([block.parse().unwrap()]),
        inner: false,
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two tenants behind one bind, known by addresses this host does not have; B admits one client.
fn behind_a_balancer(bind: SocketAddr) -> Proxy {
    serve_in(
        &trusting("127.0.0.1/32"),
        &[
            tenant("a").listen_through(bind, at("198.51.100.2:443"), http("A", None)),
            tenant("b")
                .listen_through(bind, at("198.51.100.3:443"), http("B", None))
                .only_from("192.0.2.7/32"),
            tenant("six").listen_through(bind, at("[2001:db8::2]:443"), http("6", None)),
            tenant("self").listen_through(bind, bind, http("self", None)),
        ],
    )
}

async fn after(bind: SocketAddr, header: &[u8]) -> Option<String> {
    let mut client = RawHttp::connect(bind).await.unwrap();
    client.send(header).await.ok()?;
    client.get("a", "/").await.ok().map(|response| response.text())
}

// S4.72+
#[tokio::test]
async fn of_several_headers_the_first_names_the_client_and_the_last_the_destination() {
    let bind = SocketAddr::from((unique_loopback(), 8443));
    let tenants = [
        tenant("a").listen_through(bind, at("198.51.100.2:443"), http("A", None)),
        tenant("b")
            .listen_through(bind, at("198.51.100.3:443"), http("B", None))
            .only_from("192.0.2.7/32"),
    ];
    let trusted = SourceSet::new(["127.0.0.1/32".parse().unwrap()]);
    let inner = DestinationMode::ProxyProtocol { trusted, inner: true };
    let (a, b) = (at("198.51.100.2:443"), at("198.51.100.3:443"));
    let (partner, stranger) = (at("192.0.2.7:40000"), at("192.0.2.8:40000"));
    let join = |headers: &[ProxyHeader]| {
        headers.iter().map(ProxyHeader::encode).collect::<Vec<_>>().concat()
    };
    let proxy = serve_in(&inner, &tenants);

    for (headers, expected) in [
        (join(&[ProxyHeader::v2(partner, a)]), Some("A")),
        (join(&[ProxyHeader::v2(partner, a), ProxyHeader::v2(stranger, b)]), Some("B")),
        (join(&[ProxyHeader::v1(stranger, a), ProxyHeader::v2(partner, b)]), None),
        (
            join(&[
                ProxyHeader::v2(partner, a),
                ProxyHeader::v1(partner, b),
                ProxyHeader::v2(partner, a),
            ]),
            Some("A"),
        ),
        (join(&[ProxyHeader::v2(partner, b), ProxyHeader::v2_local()]), Some("B")),
        (join(&vec![ProxyHeader::v2(partner, a); 5]), None),
    ] {
        assert_eq!(after(bind, &headers).await.as_deref(), expected, "{headers:?}");
    }
    // Its first bytes come one by one, and look like a method at first.
    let mut client = RawHttp::connect(bind).await.unwrap();
    client.send(ProxyHeader::v2(partner, a).encode()).await.unwrap();
    let split = ProxyHeader::v1(partner, b).encode();
    client.send_slowly(&split, 1, Duration::from_millis(2)).await.unwrap();
    assert_eq!(client.get("a", "/").await.unwrap().text(), "B");
    let mut client = RawHttp::connect(bind).await.unwrap();
    client.send(ProxyHeader::v2(partner, a).encode()).await.unwrap();
    let post = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(post.unwrap().text(), "A");
    drop(proxy);

    let bind = SocketAddr::from((unique_loopback(), 8443));
    let proxy = behind_a_balancer(bind);
    let two = join(&[ProxyHeader::v2(partner, a), ProxyHeader::v2(partner, b)]);
    let answer = after(bind, &two).await.unwrap_or_default();
    assert!(
        answer.contains("bad_request"),
        "inner headers are read where that is asked for: {answer}"
    );
    drop(proxy);
}

// S4.72
#[tokio::test]
async fn behind_a_balancer_the_clients_own_address_is_judged_and_logged() {
    let authority = Authority::new("root");
    let (bind, inner) =
        (SocketAddr::from((unique_loopback(), 8443)), SocketAddr::from((unique_loopback(), 8443)));
    let (a, b) = (at("198.51.100.2:443"), at("198.51.100.3:443"));
    let (partner, stranger) = (at("192.0.2.7:40000"), at("192.0.2.8:40001"));
    let identity = authority.issue(&CertSpec::new().dns("api.example"));
    let _behind = serve(&[tenant("behind").listen(inner, http("API", Some(https(&identity))))]);
    // The API server's name is served at both addresses; only at the second one by the tenant that admits the partner alone.
    let carried = |name| tenant(name).upstream(inner);
    let wanted = [
        carried("a").listen_through(bind, a, pass(&[("*", 0)])).named(&["other.example"]),
        carried("b")
            .listen_through(bind, b, pass(&[("*", 0)]))
            .named(&["api.example"])
            .only_from("192.0.2.7/32"),
    ];
    let trusted = SourceSet::new(["127.0.0.1/32".parse().unwrap()]);
    let mode = DestinationMode::ProxyProtocol { trusted, inner: true };
    let (access_log, lines) = Sink::memory().unwrap();
    let proxy = Proxy::start(Options { access_log, ..options() }).unwrap();
    assert_served(&proxy.apply(snapshot(1, &mode, &wanted)));
    let ask = async |headers: &[ProxyHeader]| {
        let mut stream = tcp_connect(bind, None).await.unwrap();
        for header in headers {
            stream.write_all(&header.encode()).await.ok()?;
        }
        let connector = TlsConnector::from(std::sync::Arc::new(client_config(&authority, None)));
        let stream = connector.connect("api.example".try_into().unwrap(), stream).await.ok()?;
        RawHttp::over(stream).get("api.example", "/").await.ok().map(|response| response.text())
    };

    let outer = ProxyHeader::v2(partner, b).tlv(0x02, b"api.example").tlv(0x05, b"7f-01");
    let served = ask(&[outer]).await;
    let of_pod = ProxyHeader::v2(stranger, b).tlv(0x02, b"API.example.").tlv(0x05, b"pod-1");
    let through = ask(&[ProxyHeader::v2(partner, a).tlv(0x05, b"7f-02"), of_pod]).await;
    let pretending = ask(&[ProxyHeader::v2(stranger, a), ProxyHeader::v2(partner, b)]).await;

    assert_eq!((served.as_deref(), through.as_deref()), (Some("API"), Some("API")));
    assert_eq!(pretending, None);
    let lines = await_lines(proxy, &lines, 3).await;
    let of = |client: SocketAddr| {
        let client = client.to_string();
        lines.iter().filter(move |line| line["client"] == *client).collect::<Vec<_>>()
    };
    assert_eq!((of(partner).len(), of(stranger).len()), (2, 1), "{lines:#?}");
    assert!(of(partner).iter().all(|line| line["destination"] == b.to_string()), "{lines:#?}");
    assert_eq!(of(stranger)[0]["reason"], "source_not_allowed");
    let by_id = |id: &str| of(partner).into_iter().find(|line| line["connection_id"] == id);
    let (outer, through) = (by_id("7f-01").unwrap(), by_id("pod-1").unwrap());
    assert_eq!(
        (&outer["authority"], &outer["inner_source"]),
        (&"api.example".into(), &serde_json::Value::Null)
    );
    assert_eq!(through["authority"], "API.example.");
    assert_eq!(through["inner_source"], stranger.to_string());
    assert_eq!(through["inner_destination"], b.to_string());
}

// S1.25
#[tokio::test]
async fn a_proxy_header_says_who_connects_and_to_where() {
    let bind = SocketAddr::from((unique_loopback(), 8443));
    let proxy = behind_a_balancer(bind);
    let (a, b) = (at("198.51.100.2:443"), at("198.51.100.3:443"));
    let (partner, stranger) = (at("192.0.2.7:40000"), at("192.0.2.8:40000"));
    let full = |header: ProxyHeader| {
        header.tlv(0x01, b"h2").tlv(0x02, b"bank.example").tlv(0x05, b"id-1").tlv(0xe0, b"x")
    };

    let cases = [
        (ProxyHeader::v1(stranger, a), Some("A")),
        (ProxyHeader::v1(partner, b), Some("B")),
        (ProxyHeader::v2(stranger, a), Some("A")),
        (full(ProxyHeader::v2(partner, b)).checksum(), Some("B")),
        (ProxyHeader::v1(at("[2001:db8::9]:1"), at("[2001:db8::2]:443")), Some("6")),
        (ProxyHeader::v2(at("[2001:db8::9]:1"), at("[2001:db8::2]:443")), Some("6")),
        (ProxyHeader::v2(partner, at("[::ffff:198.51.100.3]:443")), None),
        // The balancer's port is another than the tenant's: the address decides.
        (ProxyHeader::v2(partner, at("198.51.100.3:8443")), Some("B")),
        (ProxyHeader::v2(stranger, b), None),
        (ProxyHeader::v2(partner, at("198.51.100.4:443")), None),
        (ProxyHeader::v1_unknown(), Some("self")),
        (ProxyHeader::v2_local(), Some("self")),
        (ProxyHeader::v2_unspec(), Some("self")),
    ];

    for (header, expected) in cases {
        assert_eq!(after(bind, &header.encode()).await.as_deref(), expected, "{header:?}");
    }
    await_refusals(&proxy, Some("b"), "source_not_allowed", 1).await;
    await_refusals(&proxy, None, "tenant_not_found", 1).await;
}

// S1.25
#[tokio::test]
async fn a_header_split_at_every_byte_is_the_same_header() {
    let bind = SocketAddr::from((unique_loopback(), 8443));
    let _proxy = behind_a_balancer(bind);
    let (from, to) = (at("192.0.2.7:40000"), at("198.51.100.3:443"));

    for header in [ProxyHeader::v1(from, to), ProxyHeader::v2(from, to).tlv(2, b"b").checksum()] {
        let bytes = [header.encode(), b"GET / HTTP/1.1\r\nHost: b\r\n\r\n".to_vec()].concat();
        for cut in 1..bytes.len() {
            let mut client = RawHttp::connect(bind).await.unwrap();
            client.send(&bytes[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            client.send(&bytes[cut..]).await.unwrap();
            let response = client.read_response().await.unwrap();
            assert_eq!(response.text(), "B", "{header:?} cut at {cut}");
        }
        let mut slow = RawHttp::connect(bind).await.unwrap();
        slow.send_slowly(&bytes, 1, Duration::from_millis(1)).await.unwrap();
        assert_eq!(slow.read_response().await.unwrap().text(), "B");
    }
}

// S1.25
#[tokio::test]
async fn tls_follows_a_header_without_a_byte_lost() {
    let bind = SocketAddr::from((unique_loopback(), 8443));
    let authority = Authority::new("root");
    let listed = at("198.51.100.2:443");
    let identity = identity_for(&authority, listed.ip());
    let _proxy = serve_in(
        &trusting("127.0.0.0/8"),
        &[tenant("a").listen_through(bind, listed, http("A", Some(https(&identity))))],
    );

    let from = at("192.0.2.7:40000");
    for header in [ProxyHeader::v1(from, listed), ProxyHeader::v2(from, listed)] {
        let mut stream = tcp_connect(bind, None).await.unwrap();
        stream.write_all(&header.encode()).await.unwrap();
        let connector = TlsConnector::from(std::sync::Arc::new(client_config(&authority, None)));
        let stream = connector.connect(listed.ip().into(), stream).await.unwrap();
        let mut client = RawHttp::over(stream);
        assert_eq!(client.get("a", "/").await.unwrap().text(), "A");
    }
}

async fn is_reset_without_a_byte(connected: io::Result<TcpStream>, bytes: &[u8]) -> bool {
    // A reset may be as quick as the connect.
    let Ok(mut stream) = connected else { return true };
    let _ = stream.write_all(bytes).await;
    let mut reply = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut reply)).await;
    reply.is_empty() && matches!(read, Ok(Err(_) | Ok(0)))
}

// S1.25
#[tokio::test]
async fn a_bad_header_or_one_from_a_stranger_is_cut_off() {
    let bind = SocketAddr::from((unique_loopback(), 8443));
    let proxy = behind_a_balancer(bind);
    let good = ProxyHeader::v2(at("192.0.2.7:40000"), at("198.51.100.2:443")).encode();
    let mut wrong_sum =
        ProxyHeader::v2(at("192.0.2.7:1"), at("198.51.100.2:443")).checksum().encode();
    *wrong_sum.last_mut().unwrap() ^= 1;
    let bad: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        durward_testkit::client::client_hello::ClientHello::new().encode(),
        b"PROXY TCP4 192.0.2.7 198.51.100.2 1\r\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 300]].concat(),
        [&good[..12], &[0x21, 0x11, 0xff, 0xff]].concat(),
        wrong_sum,
    ];

    let count = bad.len() as u64;
    for bytes in bad {
        let stream = tcp_connect(bind, None).await;
        assert!(is_reset_without_a_byte(stream, &bytes).await, "{bytes:?}");
    }
    await_refusals(&proxy, None, "proxy_header", count).await;
    let stranger = tcp_connect(bind, Some(IpAddr::V4(unique_loopback()))).await;
    assert!(is_reset_without_a_byte(stranger, &good).await);
    await_refusals(&proxy, None, "proxy_header", count + 1).await;
}

#[tokio::test]
async fn a_header_is_not_believed_where_none_is_expected() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let proxy = serve(&[tenant("a").listen(address, http("A", None))]);
    let header = ProxyHeader::v1(at("192.0.2.7:1"), at("198.51.100.2:443")).encode();

    let mut client = RawHttp::connect(address).await.unwrap();
    client.send(&header).await.unwrap();
    let answer = client.get("a", "/").await;

    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    assert_eq!(refused(&proxy, None, "proxy_header"), 0);
}

// S1.25
#[tokio::test]
async fn a_port_of_its_own_names_the_tenant_whatever_address_was_dialled() {
    let (first, second) = (free_port([0, 0, 0, 0]), free_port([0, 0, 0, 0]));
    let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let _proxy = serve_in(
        &DestinationMode::Port,
        &[
            tenant("a").listen_through(everywhere(first), at("198.51.100.2:443"), http("A", None)),
            tenant("b").listen_through(everywhere(second), at("198.51.100.3:443"), http("B", None)),
        ],
    );

    for ip in [unique_loopback(), unique_loopback()] {
        for (port, expected) in [(first, "A"), (second, "B")] {
            let mut client = RawHttp::connect(SocketAddr::from((ip, port))).await.unwrap();
            assert_eq!(client.get("a", "/").await.unwrap().text(), expected);
        }
    }
}

fn program(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Says so past the test runner, which keeps what tests print to itself.
fn skip(name: &str, why: &str) {
    let _ = io::Write::write_all(&mut io::stderr(), format!("SKIPPED {name} ({why})\n").as_bytes());
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
}

/// Redirects what goes to 198.51.100.2 and .3, port 443, to 8443 here.
fn redirect() -> Result<(), String> {
    if program("nft") {
        run("nft", "add table ip t")?;
        run("nft", "add chain ip t out { type nat hook output priority -100 ; }")?;
        return run(
            "nft",
            "add rule ip t out ip daddr 198.51.100.0/24 tcp dport 443 redirect to :8443",
        );
    }
    if program("iptables") {
        return run(
            "iptables",
            "-t nat -A OUTPUT -d 198.51.100.0/24 -p tcp --dport 443 -j REDIRECT --to-ports 8443",
        );
    }
    Err("neither nft nor iptables is installed".to_owned())
}

// S1.25
#[test]
fn the_original_destination_survives_a_redirect() {
    let name = "peek::the_original_destination_survives_a_redirect";
    if !program("nft") && !program("iptables") {
        return skip(name, "nft is not installed");
    }
    netns::in_namespace_async(name, || async {
        netns::add_address("lo", "198.51.100.2/32");
        netns::add_address("lo", "198.51.100.3/32");
        netns::add_address("lo", "198.51.100.4/32");
        if let Err(why) = redirect() {
            skip(name, &why);
            return;
        }
        let bind = at("0.0.0.0:8443");
        let proxy = serve_in(
            &DestinationMode::OriginalDestination,
            &[
                tenant("a").listen_through(bind, at("198.51.100.2:443"), http("A", None)),
                tenant("b").listen_through(bind, at("198.51.100.3:443"), http("B", None)),
            ],
        );

        for (address, expected) in [("198.51.100.2:443", "A"), ("198.51.100.3:443", "B")] {
            let mut client = RawHttp::connect(at(address)).await.unwrap();
            assert_eq!(client.get("a", "/").await.unwrap().text(), expected);
        }
        for direct in ["198.51.100.4:443", "127.0.0.1:8443"] {
            let stream = tcp_connect(at(direct), None).await;
            assert!(is_reset_without_a_byte(stream, b"GET / HTTP/1.1\r\n\r\n").await, "{direct}");
        }
        await_refusals(&proxy, None, "tenant_not_found", 2).await;
    });
}

/// Delivers what passes through to 198.51.100.0/24, port 443, to the socket on 8443, addresses unchanged.
fn deliver() -> Result<(), String> {
    run("nft", "add table ip t")?;
    run("nft", "add chain ip t in { type filter hook prerouting priority -150 ; }")?;
    let rule = "ip daddr 198.51.100.0/24 tcp dport 443 tproxy to :8443 meta mark set 1 accept";
    run("nft", &format!("add rule ip t in {rule}"))?;
    netns::ip("rule add fwmark 1 lookup 100");
    netns::ip("route add local default dev lo table 100");
    Ok(())
}

// S1.25
#[test]
fn a_transparent_socket_knows_where_the_client_meant_to_go() {
    let name = "peek::a_transparent_socket_knows_where_the_client_meant_to_go";
    if !program("nft") {
        return skip(name, "nft is not installed");
    }
    netns::in_namespace(name, || {
        let client = netns::Namespace::new();
        netns::veth("d0", "c0", &client);
        netns::add_address("d0", "192.0.2.1/24");
        netns::link_up("d0");
        client.add_address("c0", "192.0.2.7/24");
        client.link_up("c0");
        client.add_route("198.51.100.0/24", "192.0.2.1");
        if let Err(why) = deliver() {
            skip(name, &why);
            return;
        }
        let bind = at("0.0.0.0:8443");
        let proxy = serve_in(
            &DestinationMode::Transparent,
            &[
                tenant("a").listen_through(bind, at("198.51.100.2:443"), http("A", None)),
                tenant("b")
                    .listen_through(bind, at("198.51.100.3:443"), http("B", None))
                    .only_from("192.0.2.7/32"),
            ],
        );

        client.block_on(|| async {
            for (address, expected) in [("198.51.100.2:443", "A"), ("198.51.100.3:443", "B")] {
                let mut client = RawHttp::connect(at(address)).await.unwrap();
                assert_eq!(client.get("a", "/").await.unwrap().text(), expected);
            }
            let stream = tcp_connect(at("198.51.100.4:443"), None).await;
            assert!(is_reset_without_a_byte(stream, b"GET / HTTP/1.1\r\n\r\n").await);
        });
        netns::block_on(await_refusals(&proxy, None, "tenant_not_found", 1));
    });
}
