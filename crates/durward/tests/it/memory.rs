//! Attacks on the memory of a process that may have little: it lives on, other tenants are served, and it gives the memory back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::client::h2_frames::{flag, frame, header_block, kind, opening};
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use socket2::{Domain, Socket, Type};

use crate::support::{DEADLINE, admin_address, get, spawn, status};

/// What the process is told it may have; half of it is the budget.
const MEMORY: &str = "64MiB";
const BUDGET: u64 = 32 << 20;
/// What a process may have beyond that: it is not optimised, and its allocator is not exact.
const BESIDES: u64 = 48 << 20;

/// Two tenants: alice, who is answered at once, and mallory, whose upstream is what a test makes of it.
struct Pair {
    child: Child,
    alice: SocketAddr,
    mallory: SocketAddr,
    admin: SocketAddr,
    before: u64,
    _dir: TempDir,
}

impl Pair {
    fn start(upstream: SocketAddr, protocol: &str) -> Self {
        let [alice, mallory] = [(); 2].map(|()| SocketAddr::from((unique_loopback(), 8080)));
        let (dir, admin) = (TempDir::new(), admin_address());
        dir.write(
            "tenants.yaml",
            format!(
                "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: alice}}\nspec:\n  \
                   ingress: [{{address: {0}, port: 8080, protocol: HTTP, routes: [{{respond: {{body: served}}}}]}}]\n\
                 ---\n\
                 apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: mallory}}\nspec:\n  \
                   ingress: [{{address: {1}, port: 8080, protocol: HTTP, routes: [{{upstream: app}}]}}]\n  \
                   upstreams: {{app: {{endpoints: [\"{upstream}\"], protocol: {protocol}, retries: {{attempts: 0}}}}}}\n  \
                   egress: {{addresses: [{1}]}}\n",
                alice.ip(),
                mallory.ip(),
            ),
        );
        let child = spawn(dir.path(), admin, &["--memory", MEMORY]);
        let mut pair = Self { child, alice, mallory, admin, before: 0, _dir: dir };
        let ready = eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200));
        assert!(ready, "{}", pair.child.output());
        (0..20).for_each(|_| pair.alice_is_served());
        pair.before = pair.resident();
        pair
    }

    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    fn alice_is_served(&self) {
        assert_eq!(
            get(self.alice, "/"),
            Some((200, "served".to_owned())),
            "{}",
            self.child.output()
        );
    }

    fn metric(&self, row: &str) -> u64 {
        let text = get(self.admin, "/metrics").unwrap().1;
        let value = text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    fn held(&self) -> u64 {
        let held =
            |kind: &str| self.metric(&format!("durward_memory_used_bytes{{kind=\"{kind}\"}}"));
        held("clients") + held("upstreams") + held("names")
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("durward_refusals_total{{tenant=\"mallory\",reason=\"{reason}\"}}"))
    }

    /// While the attack lasts.
    fn holds_out(&self) {
        (0..20).for_each(|_| self.alice_is_served());
        assert_eq!(self.metric("durward_memory_budget_bytes"), BUDGET);
        assert!(self.held() <= BUDGET, "{} held", self.held());
        let grown = self.resident().saturating_sub(self.before);
        assert!(grown <= BUDGET + BESIDES, "{} MiB more than before", grown >> 20);
    }

    /// Once it is over.
    fn recovers(&self) {
        let given_back = || self.held() < 1 << 20;
        assert!(eventually_blocking(DEADLINE, given_back), "{} still held", self.held());
        // Half as much again as before; a debug build and its allocator need a little room.
        let most = self.before / 2 * 3;
        let small = || self.resident() <= most;
        let shown = || format!("{} MiB of {}", self.resident() >> 20, self.before >> 20);
        assert!(eventually_blocking(DEADLINE, small), "{}", shown());
    }
}

/// A server that accepts, reads, and answers each connection with the same bytes once something has come.
fn server(answer: Vec<u8>) -> SocketAddr {
    let answer: Arc<[u8]> = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut bytes = [0; 65_536];
                let mut answered = false;
                while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                    if !std::mem::replace(&mut answered, true) && stream.write_all(&answer).is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// `streams` requests of 75 bytes or so, each of which stands for a head of 40 KiB.
fn expanding_requests(streams: u32) -> Vec<u8> {
    let plain = header_block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "mallory.example"),
        (":path", "/"),
    ]);
    let mut entry = header_block(&[("x-a", &"a".repeat(4_000))]);
    entry[0] = 0x40;
    let mut wire = opening();
    for at in 0..streams {
        let entry = if at == 0 { &entry[..] } else { &[] };
        let block = [&plain[..], entry, &[0x80 | 62; 10]].concat();
        let flags = flag::END_HEADERS | flag::END_STREAM_OR_ACK;
        wire.extend(frame(kind::HEADERS, flags, 2 * at + 1, &block));
    }
    wire
}

fn send(to: SocketAddr, wire: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
    stream.write_all(wire).ok()?;
    Some(stream)
}

#[test]
fn heads_that_grow_while_they_are_decoded_are_refused_before_they_fill_the_process() {
    let pair = Pair::start(server(Vec::new()), "HTTP1");

    // 40 connections with 128 streams: 400 KB sent, 200 MB if all were kept.
    let wire = expanding_requests(128);
    let open: Vec<_> = (0..40).filter_map(|_| send(pair.mallory, &wire)).collect();

    assert!(eventually_blocking(DEADLINE, || pair.refused("memory") > 0), "{}", pair.held());
    pair.holds_out();
    drop(open);
    pair.recovers();
}

/// A connection whose receive buffer is as small as the system allows, so that little waits in the kernel.
fn send_and_read_nothing(to: SocketAddr, wire: &[u8]) -> Option<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.set_recv_buffer_size(1024).ok()?;
    socket.connect(&to.into()).ok()?;
    (&socket).write_all(wire).ok()?;
    Some(socket)
}

#[test]
fn clients_that_do_not_read_are_refused_before_their_answers_fill_the_process() {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
    answer.resize(4 << 20, b'x');
    let pair = Pair::start(server(answer), "HTTP1");

    let request = b"GET / HTTP/1.1\r\nHost: mallory.example\r\n\r\n";
    let open: Vec<_> =
        (0..600).filter_map(|_| send_and_read_nothing(pair.mallory, request)).collect();

    assert!(eventually_blocking(DEADLINE, || pair.refused("memory") > 0), "{}", pair.held());
    pair.holds_out();
    drop(open);
    pair.recovers();
}

#[test]
fn heads_of_upstreams_do_not_fill_the_process() {
    let status = header_block(&[(":status", "200")]);
    let part = header_block(&[("x-b", &"b".repeat(15_000))]);
    let mut answer = frame(kind::SETTINGS, 0, 0, &[]);
    answer.extend(frame(kind::HEADERS, flag::END_STREAM_OR_ACK, 1, &status));
    answer.extend(frame(kind::CONTINUATION, 0, 1, &part).repeat(1000));
    answer.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 1, &part));
    let pair = Pair::start(server(answer), "HTTP2");

    let request = b"GET / HTTP/1.1\r\nHost: mallory.example\r\n\r\n";
    let open: Vec<_> = (0..40).filter_map(|_| send(pair.mallory, request)).collect();

    assert!(eventually_blocking(DEADLINE, || pair.refused("bad_response") > 0));
    pair.holds_out();
    drop(open);
    pair.recovers();
}
