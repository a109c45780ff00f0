//! Every form of traffic through a link, and that it passes or is refused as it is without one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use durward_testkit::client::H2Client;
use durward_testkit::origin::{Origin, RawOrigin, TcpEcho};
use durward_testkit::process::eventually_blocking;
use http::{HeaderValue, Method};

use super::world::{AgentOf, Tenant, World, agent};
use crate::support::{DEADLINE, HERE, nowhere};

/// A connection to a listener on which texts are waited for.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    fn send(address: SocketAddr, text: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// Reads until a text has come; what follows is kept.
    fn until(&mut self, text: &str) -> String {
        loop {
            let found = String::from_utf8_lossy(&self.read).find(text);
            if let Some(at) = found {
                let rest = self.read.split_off(at + text.len());
                let read = std::mem::replace(&mut self.read, rest);
                return String::from_utf8_lossy(&read).into_owned();
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => {
                    panic!("{text:?} does not come: {:?}", String::from_utf8_lossy(&self.read))
                }
                Ok(count) => self.read.extend_from_slice(&piece[..count]),
            }
        }
    }
}

// S3.78 S3.21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_traffic_passes_over_both_carriers() {
    for (scheme, http2) in [("wss", false), ("tls", true)] {
        let world = World::new();
        let tenant = world.tenant("acme");
        let (origin, echo) =
            (if http2 { Origin::h2c(HERE) } else { Origin::http1(HERE) }, TcpEcho::start(HERE));
        let spoken = if http2 { "HTTP2" } else { "HTTP1" };
        let document = tenant.document(origin.address(), echo.address());
        let document = document
            .replace("app: {link: onprem,", &format!("app: {{link: onprem, protocol: {spoken},"));
        let (gateway, servers) = world.start(&document);
        let backends = [origin.address(), echo.address()];
        let of = agent(&tenant, "agent.acme.example", &backends);
        let agent = AgentOf { scheme, ..of }.start(&servers);
        agent.wait_ready();

        if http2 {
            by_http2(&tenant).await;
        } else {
            by_http1(&tenant, &origin);
        }
        by_tcp(&tenant);
        // A client that leaves cancels its request.
        let mut client =
            Client::send(tenant.http(), "GET /sse HTTP/1.1\r\nHost: a.example\r\n\r\n");
        client.until("data: 1");
        drop(client);
        let aborted = || origin.aborted() >= 1;
        assert!(eventually_blocking(DEADLINE, aborted), "{spoken}");
        gateway.stop();
    }
}

fn by_http1(tenant: &Tenant, origin: &Origin) {
    let ask = |path: &str, fields: &str| {
        Client::send(
            tenant.http(),
            &format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"),
        )
    };
    let mut hinted = ask("/early-hints", "");
    assert!(hinted.until("\r\n\r\n").starts_with("HTTP/1.1 103"));
    assert!(hinted.until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    hinted.until("hinted\n");

    let mut sent = Client::send(
        tenant.http(),
        "POST /upload HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert!(sent.until("\r\n\r\n").starts_with("HTTP/1.1 100"));
    sent.stream.write_all(b"hello").unwrap();
    assert!(sent.until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!(origin.uploads()[0].bytes, 5);

    // Events arrive while there are more to come.
    let mut events = ask("/sse", "Accept: text/event-stream\r\n");
    events.until("data: 0");
    events.until("data: 3");

    let mut trailed = ask("/trailers", "TE: trailers\r\nConnection: TE\r\n");
    trailed.until("\r\n0\r\n");
    let trailers = trailed.until("\r\n\r\n");
    assert!(trailers.contains(':'), "{trailers:?}");

    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut socket = ask("/ws", upgrade);
    assert!(socket.until("\r\n\r\n").starts_with("HTTP/1.1 101"));
    socket.stream.write_all(b"over the socket").unwrap();
    socket.until("over the socket");

    let chunked = "POST /echo-body HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n";
    Client::send(tenant.http(), chunked).until("four");
}

async fn by_http2(tenant: &Tenant) {
    let client = H2Client::h2c(tenant.http(), None).await.unwrap().deadline(DEADLINE);
    let bytes = client.get("/bytes/300000").await.unwrap();
    assert_eq!((bytes.status, bytes.body.len()), (200, 300_000));
    let mut call = client.request(Method::POST, "/package.Service/Call");
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    call.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let call = client.send(call, Bytes::from_static(b"\0\0\0\0\x01a"), None).await.unwrap();
    assert_eq!(call.trailer("grpc-status"), Some("0"));
    let mut many = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let client = client.clone();
        many.spawn(async move { client.get("/slow/50").await.unwrap().status });
    }
    assert_eq!(many.join_all().await, [200; 40]);
}

/// Bytes both ways, and each direction ends by itself.
fn by_tcp(tenant: &Tenant) {
    let mut stream = TcpStream::connect(tenant.tcp()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"first").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!((&back[..], &rest[..]), (&b"first"[..], &b"last"[..]));
}

/// Sends so many bytes by each of 200 streams at once and reads them back; each is another pattern.
fn two_hundred(each: usize) {
    let world = World::new();
    let (tenant, echo) = (world.tenant("acme"), TcpEcho::start(HERE));
    let (gateway, servers) = world.start(&tenant.document(nowhere(), echo.address()));
    let backends = [echo.address()];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();

    let opened: Vec<_> = (0..200u64)
        .map(|number| {
            let mut stream = TcpStream::connect(tenant.tcp()).unwrap();
            stream.set_read_timeout(Some(DEADLINE * 20)).unwrap();
            // Opened before there is much to carry: on a busy machine that may take longer than a connection may.
            stream.write_all(b"!").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            (number, stream)
        })
        .collect();
    let clients: Vec<_> = opened
        .into_iter()
        .map(|(number, mut stream)| {
            let mut back = stream.try_clone().unwrap();
            let byte = move |at: usize| (((at as u64).wrapping_mul(number * 2 + 7)) >> 3) as u8;
            let sending = std::thread::spawn(move || {
                let mut at = 0;
                while at < each {
                    let piece: Vec<u8> = (at..each.min(at + 65_536)).map(byte).collect();
                    stream.write_all(&piece).unwrap();
                    at += piece.len();
                }
                stream.shutdown(Shutdown::Write).unwrap();
            });
            let receiving = std::thread::spawn(move || {
                let (mut at, mut piece) = (0, vec![0; 65_536]);
                loop {
                    let count = back.read(&mut piece).unwrap();
                    if count == 0 {
                        return at;
                    }
                    assert!(
                        piece[..count].iter().enumerate().all(|(by, got)| *got == byte(at + by)),
                        "stream {number} at {at}"
                    );
                    at += count;
                }
            });
            (sending, receiving)
        })
        .collect();

    let carried: Vec<_> = clients
        .into_iter()
        .map(|(sending, receiving)| (sending.join().is_ok(), receiving.join().ok()))
        .collect();
    let broken = carried.iter().filter(|one| **one != (true, Some(each))).count();
    let log = gateway.log();
    let last = &log[log.len().saturating_sub(3)..];
    assert_eq!(broken, 0, "{last:#?}\n{:?}", agent.status.report());
    gateway.stop();
}

// S3.75+
#[test]
fn two_hundred_streams_at_once_carry_each_its_own_bytes() {
    two_hundred(128 * 1024);
}

// S3.75
#[test]
#[ignore = "moves 2 GiB"]
fn a_gibibyte_on_two_hundred_streams_goes_each_way_byte_for_byte() {
    two_hundred((1 << 30) / 200 + 1);
}

/// Requests that lead proxies and servers apart, and what stands at the edge of the rules.
const ODD: &[&str] = &[
    "GET /plain?a=b HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /a/../b HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /a/./b//c HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /%2e%2e/b HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /a%2fb HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /a%00b HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /a;/b HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET http://a.example/absolute HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n",
    "POST /cl-te HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "POST /te-te HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "POST /te-odd HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /te-space HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST /cl-cl HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "POST /cl-sign HTTP/1.1\r\nHost: a.example\r\nContent-Length: +1\r\n\r\na",
    "POST /chunk-odd HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1;x=\"y\"\r\na\r\n0\r\n\r\n",
    "POST /chunk-bad HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "GET /fold HTTP/1.1\r\nHost: a.example\r\nX-A: b\r\n c\r\n\r\n",
    "GET /bare HTTP/1.1\nHost: a.example\n\n",
    "GET /null HTTP/1.1\r\nHost: a.example\r\nX-A: b\0c\r\n\r\n",
    "GET /hop HTTP/1.1\r\nHost: a.example\r\nConnection: X-Secret, X-Forwarded-For\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\r\n",
    "GET /spoof HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-Host: b.example\r\n\r\n",
    "GET /upgrade HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "GET /under HTTP/1.1\r\nHost: a.example\r\nX_Tenant: b\r\n\r\n",
    "BAD METHOD /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "GET /pipelined HTTP/1.1\r\nHost: a.example\r\n\r\nGET /second HTTP/1.1\r\nHost: a.example\r\n\r\n",
];

/// What became of a request: the statuses that came back, and what the origin received.
#[derive(Debug, PartialEq)]
struct Fate {
    statuses: Vec<String>,
    received: Vec<String>,
}

fn fate(address: SocketAddr, origin: &RawOrigin, request: &[u8]) -> Fate {
    let before = origin.received_text().len();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The listener may close in the middle.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let statuses = answer
        .split("\r\n")
        .filter(|line| line.starts_with("HTTP/1."))
        .map(str::to_owned)
        .collect();
    let received = origin.received_text();
    // Each request has an identifier and a client's port of its own, and the listeners differ in their ports.
    let differs = ["x-request-id", "x-forwarded-port", "forwarded:", "traceparent"];
    let kept = |text: &String| {
        let lines = text.lines().filter(|line| {
            let line = line.to_ascii_lowercase();
            !differs.iter().any(|name| line.starts_with(name))
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    Fate {
        statuses,
        received: received[before..].iter().map(kept).filter(|text| !text.is_empty()).collect(),
    }
}

// S3.86
#[test]
fn odd_requests_pass_unchanged_or_are_refused_as_they_are_without_a_link() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let origin = RawOrigin::start(HERE, |mut connection| async move {
        if let Ok(Some(_)) = connection.read_request().await {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = connection.send(answer).await;
        }
    });
    let address = tenant.address;
    let document = tenant
        .document(origin.address(), nowhere())
        .replace("  ingress:\n", &format!("  ingress:\n  - {{address: {address}, port: 8081, protocol: HTTP, upstream: straight}}\n"))
        .replace("  upstreams:\n", &format!("  upstreams:\n    straight: {{endpoints: ['{}']}}\n", origin.address()));
    let (gateway, servers) = world.start(&document);
    let backends = [origin.address()];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();
    let straight = SocketAddr::new(address, 8081);
    let long =
        format!("GET /long HTTP/1.1\r\nHost: a.example\r\nX-Long: {}\r\n\r\n", "a".repeat(200_000));
    let wide =
        format!("GET /wide HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "X-A: b\r\n".repeat(2_000));
    let big =
        format!("GET /big HTTP/1.1\r\nHost: a.example\r\nX-Big: {}\r\n\r\n", "a".repeat(7_000));
    let all: Vec<&str> = ODD.iter().copied().chain([long.as_str(), &wide, &big]).collect();

    let mut passed = 0;
    for request in all {
        let direct = fate(straight, &origin, request.as_bytes());
        let linked = fate(tenant.http(), &origin, request.as_bytes());

        let shown: String = request.chars().take(120).collect();
        assert_eq!(linked, direct, "{shown:?}");
        assert!(!direct.statuses.is_empty() || direct.received.is_empty(), "{shown:?}: {direct:?}");
        passed += usize::from(!direct.received.is_empty());
    }
    assert!((5..ODD.len()).contains(&passed), "some pass and some do not: {passed}");
    gateway.stop();
}
