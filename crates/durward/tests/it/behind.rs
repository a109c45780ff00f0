//! Behind a trusted proxy: what it says of scheme, host, port and client counts alike over HTTP/1 and HTTP/2, with and without a PROXY
//! header, and nobody else's word counts.

use std::net::{IpAddr, SocketAddr};

use durward_testkit::client::{H2Client, ProxyHeader, RawHttp, tcp_connect};
use durward_testkit::origin::Origin;
use durward_testkit::process::{eventually, unique_loopback};
use http::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::gateway::Gateway;
use crate::support::DEADLINE;

const TRUSTED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 200, 1, 1));
const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 200, 1, 2));
/// Its PROXY header is believed, and nothing that it would say in fields.
const BALANCER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 200, 1, 3));
const PORT: u16 = 8080;

/// What a request says, and what becomes of it when its peer is trusted.
struct Case {
    scheme: &'static str,
    fields: &'static [(&'static str, &'static str)],
    /// The status of `/`, with the redirect to https that takes it if it came by http.
    status: u16,
    /// The target of the redirect of `/old`.
    location: &'static str,
    /// The client in the log; empty where it is the connection's.
    client: &'static str,
}

const CASES: &[Case] = &[
    Case {
        scheme: "http",
        fields: &[],
        status: 308,
        location: "http://inner.example:8080/new",
        client: "",
    },
    Case {
        scheme: "https",
        fields: &[],
        status: 200,
        location: "https://inner.example:8080/new",
        client: "",
    },
    Case {
        scheme: "http",
        fields: &[("x-forwarded-proto", "https")],
        status: 200,
        location: "https://inner.example:8080/new",
        client: "",
    },
    Case {
        scheme: "https",
        fields: &[("x-forwarded-proto", "http")],
        status: 308,
        location: "http://inner.example:8080/new",
        client: "",
    },
    Case {
        scheme: "http",
        fields: &[("x-forwarded-proto", "https"), ("x-forwarded-host", "Pub.example")],
        status: 200,
        location: "https://pub.example/new",
        client: "",
    },
    Case {
        scheme: "https",
        fields: &[("x-forwarded-host", "pub.example"), ("x-forwarded-port", "8443")],
        status: 200,
        location: "https://pub.example:8443/new",
        client: "",
    },
    Case {
        scheme: "http",
        fields: &[("x-forwarded-proto", "https"), ("x-forwarded-port", "443")],
        status: 200,
        location: "https://inner.example/new",
        client: "",
    },
    Case {
        scheme: "http",
        fields: &[("x-forwarded-for", "198.51.100.9, 203.0.113.7"), ("x-forwarded-proto", "https")],
        status: 200,
        location: "https://inner.example:8080/new",
        client: "203.0.113.7",
    },
    Case {
        scheme: "http",
        fields: &[("forwarded", "for=203.0.113.7;proto=https;host=\"pub.example\"")],
        status: 200,
        location: "https://pub.example/new",
        client: "203.0.113.7",
    },
    Case {
        scheme: "http",
        fields: &[
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "a/../b"),
            ("x-forwarded-port", "x"),
        ],
        status: 308,
        location: "http://inner.example:8080/new",
        client: "",
    },
];

/// How a request comes.
#[derive(Clone, Copy, Debug)]
struct Way {
    http2: bool,
    /// A balancer passes the peer's connection on, and says so in a PROXY header.
    balanced: bool,
    /// Who speaks HTTP.
    peer: IpAddr,
}

async fn connect(way: Way, door: SocketAddr, served: SocketAddr) -> TcpStream {
    let from = if way.balanced { BALANCER } else { way.peer };
    let mut stream = tcp_connect(door, Some(from)).await.unwrap();
    if way.balanced {
        let header = ProxyHeader::v2(SocketAddr::new(way.peer, 4711), served);
        stream.write_all(&header.encode()).await.unwrap();
    }
    stream
}

/// A request for a path: the status, and where it is redirected to.
async fn ask(stream: TcpStream, way: Way, case: &Case, path: &str) -> (u16, Option<String>) {
    let Case { scheme, fields, .. } = case;
    if way.http2 {
        let builder = h2::client::Builder::new();
        let client = H2Client::over(stream, &builder, "inner.example:8080").await.unwrap();
        let mut request = client.request(Method::GET, path);
        *request.uri_mut() = format!("{scheme}://inner.example:8080{path}").parse().unwrap();
        for (name, value) in *fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let answer = client.send(request, "".into(), None).await.unwrap();
        return (answer.status, answer.header("location").map(str::to_owned));
    }
    let fields: String =
        fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    // The target of a request to a server names a scheme only in its absolute form.
    let target = if *scheme == "https" { "https://inner.example:8080" } else { "" };
    let request = format!(
        "GET {target}{path} HTTP/1.1\r\nHost: inner.example:8080\r\n{fields}Connection: close\r\n\r\n"
    );
    let mut client = RawHttp::over(stream);
    let answer = client.exchange(request).await.unwrap();
    (answer.status, answer.header("location").map(str::to_owned))
}

/// What becomes of a case whose peer is not trusted.
fn distrusted(case: &Case) -> (u16, Option<&'static str>) {
    match case.scheme {
        "https" => (421, None),
        _ => (308, Some("http://inner.example:8080/new")),
    }
}

// S1.38+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxys_word_counts_alike_over_both_versions_and_nobody_elses_does() {
    let origin = Origin::http1("127.0.0.1:0");
    let (direct, behind, balancer, egress) =
        (unique_loopback(), unique_loopback(), unique_loopback(), unique_loopback());
    let entry = |address: std::net::Ipv4Addr, listen: &str| {
        format!(
            "    - address: {address}\n      port: {PORT}\n      protocol: HTTP\n{listen}      trustedProxies: [{TRUSTED}/32]\n      redirectToHttps: true\n      routes: [{{path: /old, redirect: {{path: /new}}}}]\n      upstream: app\n"
        )
    };
    let listen = format!(
        "      listen: {{address: {balancer}, port: {PORT}, destination: ProxyProtocol, trustedProxies: [{BALANCER}/32]}}\n"
    );
    let gateway = Gateway::prepare().start(&format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  ingress:\n{}{}  upstreams:\n    app: {{endpoints: [\"{}\"]}}\n  egress: {{addresses: [{egress}]}}\n",
        entry(direct, ""), entry(behind, &listen), origin.address(),
    ));
    assert_eq!(gateway.findings(), Vec::<String>::new());

    let mut clients = Vec::new();
    for case in CASES {
        for way in ways() {
            let served = SocketAddr::from((if way.balanced { behind } else { direct }, PORT));
            let door = if way.balanced { SocketAddr::from((balancer, PORT)) } else { served };
            let shown = format!("{way:?} {} {:?}", case.scheme, case.fields);
            let path = format!("/{}", clients.len());

            let root = ask(connect(way, door, served).await, way, case, &path).await;
            let old = ask(connect(way, door, served).await, way, case, "/old").await;

            let (status, location) = match way.peer == TRUSTED {
                true => (case.status, Some(case.location)),
                false => distrusted(case),
            };
            assert_eq!(root.0, status, "{shown}: {root:?}");
            assert_eq!(old.1.as_deref(), location, "{shown}: {old:?}");
            clients.push((path, expected(way, case), shown));
        }
    }
    let lines = 2 * clients.len();
    assert!(eventually(DEADLINE, async || gateway.log().len() >= lines).await);
    for (path, client, shown) in clients {
        assert_eq!(logged(&gateway, &path), client, "{shown}");
    }
    gateway.stop();
}

fn ways() -> impl Iterator<Item = Way> {
    [false, true].into_iter().flat_map(|http2| {
        [false, true].into_iter().flat_map(move |balanced| {
            [TRUSTED, STRANGER].into_iter().map(move |peer| Way { http2, balanced, peer })
        })
    })
}

/// The client that the log is to name.
fn expected(way: Way, case: &Case) -> String {
    match way.peer == TRUSTED && !case.client.is_empty() {
        true => case.client.to_owned(),
        false => way.peer.to_string(),
    }
}

/// The client of the request for a path, in the log.
fn logged(gateway: &Gateway, path: &str) -> String {
    let lines = gateway.log();
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.into_iter().find(|line| line["path"] == path).unwrap();
    let client = line["client"].as_str().unwrap();
    client.parse::<SocketAddr>().map_or_else(|_| client.to_owned(), |at| at.ip().to_string())
}
