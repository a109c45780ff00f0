//! What is taken back is gone with the next request, on connections that were there before as on new ones.
//!
//! Deliberately absent: what ends connections at once; that is tried where it is decided.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use durward_testkit::client::RawHttp;
use durward_testkit::client::h2_frames::{self, Frame, flag, frame, kind};
use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::process::{eventually_blocking, unique_loopback};
use durward_testkit::secrets;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{document, tunnel_over};
use crate::gateway::Gateway;

/// RFC 9113 section 7.
const REFUSED_STREAM: u32 = 7;
const NAMES: [&str; 2] = ["ci", "ops"];

/// Writes who has a credential.
fn users(dir: &Path, file: &str, names: &[&str]) {
    let line = |name: &&str| format!("{name}:{}\n", secrets::sha256_hex(&secret(name)));
    std::fs::write(dir.join(file), names.iter().map(line).collect::<String>()).unwrap();
}

fn secret(name: &str) -> String {
    format!("secret of {name}")
}

fn shown(name: &str) -> String {
    format!("Proxy-Authorization: {}\r\n", secrets::basic(name, &secret(name)))
}

/// A proxy that wants a credential, and what it may reach.
struct Asked {
    gateway: Gateway,
    document: String,
    door: SocketAddr,
}

impl Asked {
    fn start(ports: &[u16]) -> Self {
        let (door, egress) = (unique_loopback(), unique_loopback());
        let prepared = Gateway::prepare();
        users(prepared.dir(), "users", &NAMES);
        let entry = format!("address: {door}, credentials: {{file: users}}");
        let allow = format!("allow: [{{cidr: 127.0.0.1, ports: {ports:?}}}]");
        let document = document("acme", egress, &entry, &allow);
        let gateway = prepared.start(&document);
        assert_eq!(gateway.findings(), Vec::<String>::new());
        Self { gateway, document, door: (door, 3128).into() }
    }

    /// From now on only `ci` has a credential.
    fn revoke(&mut self) {
        users(self.gateway.dir(), "users", &NAMES[..1]);
        self.gateway.reload(&self.document);
    }

    /// Waits until so many connections have been let in.
    fn let_in(&self, count: usize) {
        let wanted = format!("durward_connections_total{{tenant=\"acme\"}} {count}");
        let there = || self.gateway.metrics_text().lines().any(|line| line == wanted);
        assert!(eventually_blocking(Duration::from_secs(5), there), "not {count}");
    }
}

fn plain(far: SocketAddr, name: &str) -> String {
    format!("GET http://{far}/ HTTP/1.1\r\nHost: {far}\r\n{}\r\n", shown(name))
}

/// HTTP/2 by hand: a client that acknowledges nothing.
struct Deaf(TcpStream);

impl Deaf {
    async fn connect(door: SocketAddr) -> Self {
        Self(TcpStream::connect(door).await.unwrap())
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn open(&mut self, stream: u32, far: SocketAddr, name: &str) {
        let (far, credential) = (far.to_string(), secrets::basic(name, &secret(name)));
        let fields =
            [(":method", "CONNECT"), (":authority", &*far), ("proxy-authorization", &*credential)];
        let block = h2_frames::header_block(&fields);
        self.send(&frame(kind::HEADERS, flag::END_HEADERS, stream, &block)).await;
    }

    async fn until(&mut self, mut so: impl FnMut(&Frame) -> bool) -> Frame {
        let reading = async {
            loop {
                let frame = h2_frames::read_frame(&mut self.0).await.unwrap();
                if so(&frame) {
                    return frame;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), reading).await.expect("it never came")
    }

    /// The answer to a stream: the first byte of its header block, or why it was reset.
    async fn answer(&mut self, stream: u32) -> Result<u8, u32> {
        let ends = [kind::HEADERS, kind::RST_STREAM];
        let frame = self.until(|frame| frame.stream == stream && ends.contains(&frame.kind)).await;
        frame.error_code().map_or_else(|| Ok(frame.payload[0]), Err)
    }
}

/// `:status: 200` in HPACK's static table.
const OK: Result<u8, u32> = Ok(0x88);

// S2.33 S2.35 S2.9
#[tokio::test]
async fn a_revoked_credential_opens_no_stream_on_a_connection_that_was_there_before() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let mut out = Asked::start(&[echo.port()]);
    let mut client = Deaf::connect(out.door).await;
    client.send(&h2_frames::opening()).await;
    client.open(1, echo.address(), "ops").await;
    assert_eq!(client.answer(1).await, OK);

    out.revoke();

    // It is told without having asked for anything, though it is busy.
    client.until(|frame| frame.kind == kind::GOAWAY).await;
    for (stream, name) in [(3, "ops"), (5, "ci"), (7, "ops")] {
        client.open(stream, echo.address(), name).await;
        assert_eq!(client.answer(stream).await, Err(REFUSED_STREAM), "{stream}");
    }
    client.send(&frame(kind::DATA, 0, 1, b"still here")).await;
    let echoed = client.until(|frame| frame.kind == kind::DATA && frame.stream == 1).await;
    assert_eq!(echoed.payload, b"still here");
    let fresh = RawHttp::connect(out.door).await.unwrap();
    assert_eq!(
        tunnel_over(fresh, &echo.address().to_string(), &shown("ops")).await.err(),
        Some(407)
    );
}

// S2.33 S2.35
#[tokio::test]
async fn a_connection_that_has_asked_for_nothing_yet_asks_under_the_new_rules() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut out = Asked::start(&[origin.port()]);
    let far = origin.address();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(RawHttp::connect(out.door).await.unwrap());
    }
    let mut second = Deaf::connect(out.door).await;
    let mut begun = RawHttp::connect(out.door).await.unwrap();
    begun.send(&plain(far, "ops")[..20]).await.unwrap();
    out.let_in(6);

    out.revoke();

    let mut next = || waiting.pop().unwrap();
    assert_eq!(next().exchange(plain(far, "ops")).await.unwrap().status, 407);
    assert_eq!(tunnel_over(next(), &far.to_string(), &shown("ops")).await.err(), Some(407));
    assert_eq!(next().exchange(plain(far, "ci")).await.unwrap().status, 200, "nobody else is hurt");
    begun.send(&plain(far, "ops")[20..]).await.unwrap();
    assert_eq!(begun.read_response().await.unwrap().status, 407);
    second.send(&h2_frames::opening()).await;
    second.open(1, far, "ci").await;
    assert_eq!(second.answer(1).await, OK);
    second.open(3, far, "ops").await;
    assert_ne!(second.answer(3).await, OK);
    // Rules as well as credentials.
    let denied = out.document.replace("    allow:", "    deny: [{cidr: 127.0.0.1}]\n    allow:");
    let mut open = next();
    out.gateway.reload(&denied);
    assert_eq!(open.exchange(plain(far, "ci")).await.unwrap().status, 403);
}

// S2.15 S2.33
#[tokio::test]
async fn a_client_that_waits_at_a_shared_door_is_let_in_by_what_counts_then() {
    let origin = Origin::http1("127.0.0.1:0");
    let door = SocketAddr::from((unique_loopback(), 3128));
    let prepared = Gateway::prepare();
    let tenant = |name: &str, file: &str| {
        let entry = format!("address: {}, shared: true, credentials: {{file: {file}}}", door.ip());
        let allow = format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", origin.port());
        document(name, unique_loopback(), &entry, &allow)
    };
    users(prepared.dir(), "users-a", &NAMES);
    users(prepared.dir(), "users-b", &["web"]);
    let documents = tenant("a", "users-a") + &tenant("b", "users-b");
    let mut gateway = prepared.start(&documents);
    let far = origin.address();
    let mut begun = Vec::new();
    for _ in 0..4 {
        let mut client = RawHttp::connect(door).await.unwrap();
        client.send(&plain(far, "ops")[..20]).await.unwrap();
        begun.push(client);
    }
    let mut socks = RawHttp::connect(door).await.unwrap();
    let hello = [&[5, 1, 2, 1, 3][..], b"ops", &[13], secret("ops").as_bytes()].concat();
    socks.send(&hello).await.unwrap();
    assert_eq!(socks.read_exactly(4).await.unwrap(), [5, 2, 1, 0], "it is let in");
    // Whoever came before these has been accepted.
    for _ in 0..8 {
        let mut client = RawHttp::connect(door).await.unwrap();
        assert_eq!(client.exchange(plain(far, "ops")).await.unwrap().status, 200);
    }

    users(gateway.dir(), "users-a", &NAMES[..1]);
    gateway.reload(&documents);

    for mut client in begun {
        client.send(&plain(far, "ops")[20..]).await.unwrap();
        assert_eq!(client.read_response().await.unwrap().status, 407);
    }
    let SocketAddr::V4(far) = far else { panic!("IPv4 here") };
    let wish = [&[5, 1, 0, 1][..], &far.ip().octets(), &far.port().to_be_bytes()].concat();
    socks.send(&wish).await.unwrap();
    let answer = socks.read_exactly(2).await;
    assert!(answer.is_err() || answer.unwrap()[1] != 0, "what it has shown counts no more");
}

/// A SOCKS client in the middle of its handshake: it has offered to show a name and secret.
async fn greeted(door: SocketAddr) -> RawHttp {
    let mut socks = RawHttp::connect(door).await.unwrap();
    socks.send([5, 1, 2]).await.unwrap();
    assert_eq!(socks.read_exactly(2).await.unwrap(), [5, 2]);
    socks
}

async fn prove(socks: &mut RawHttp, name: &str) {
    let length = u8::try_from(name.len()).unwrap();
    let secret = secret(name);
    let pair = [&[1, length][..], name.as_bytes(), &[u8::try_from(secret.len()).unwrap()]].concat();
    socks.send([&pair[..], secret.as_bytes()].concat()).await.unwrap();
    assert_eq!(socks.read_exactly(2).await.unwrap(), [1, 0], "{name}");
}

/// The code that a wish is answered with; `None` when the connection ends instead.
async fn wish(socks: &mut RawHttp, far: SocketAddr) -> Option<u8> {
    let SocketAddr::V4(far) = far else { panic!("IPv4 here") };
    let wish = [&[5, 1, 0, 1][..], &far.ip().octets(), &far.port().to_be_bytes()].concat();
    socks.send(&wish).await.ok()?;
    socks.read_exactly(10).await.ok().map(|answer| answer[1])
}

// Issue 10, point 19.
#[tokio::test]
async fn a_socks_client_in_its_handshake_goes_on_under_an_edit_that_does_not_forbid_it() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let far = echo.address();
    for shared in [false, true] {
        let (door, egress, beside) = (unique_loopback(), unique_loopback(), unique_loopback());
        let prepared = Gateway::prepare();
        users(prepared.dir(), "users", &NAMES);
        users(prepared.dir(), "users-b", &["web"]);
        let entry = |file: &str| {
            format!("address: {door}, shared: {shared}, credentials: {{file: {file}}}")
        };
        let allow = format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", echo.port());
        let mut documents = document("acme", egress, &entry("users"), &allow);
        if shared {
            documents += &document("bank", beside, &entry("users-b"), &allow);
        }
        let mut gateway = prepared.start(&documents);
        assert_eq!(gateway.findings(), Vec::<String>::new());
        let door = SocketAddr::from((door, 3128));
        let (mut early, mut ready) = (greeted(door).await, greeted(door).await);
        prove(&mut ready, "ops").await;
        let (mut kept, mut lost, mut denied) =
            (greeted(door).await, greeted(door).await, greeted(door).await);
        prove(&mut kept, "ci").await;
        prove(&mut lost, "ops").await;
        prove(&mut denied, "ci").await;

        let rule =
            format!("allow: [{{cidr: 127.0.0.2}}, {{cidr: 127.0.0.1, ports: [{}]}}]", echo.port());
        let edited = documents.replacen(&allow, &rule, 1);
        assert_ne!(documents, edited);
        gateway.reload(&edited);
        assert_eq!(wish(&mut ready, far).await, Some(0), "shared: {shared}");
        prove(&mut early, "ops").await;
        assert_eq!(wish(&mut early, far).await, Some(0), "shared: {shared}");

        // What is taken back counts no more, for whoever had it alone.
        users(gateway.dir(), "users", &NAMES[..1]);
        gateway.reload(&edited);
        assert_eq!(wish(&mut kept, far).await, Some(0), "shared: {shared}");
        assert_ne!(wish(&mut lost, far).await, Some(0), "shared: {shared}");
        let port = format!("ports: [{}]", echo.port());
        gateway.reload(&edited.replace(&port, "ports: [1]"));
        assert_eq!(wish(&mut denied, far).await, Some(2), "the rules of now, shared: {shared}");
    }
}
