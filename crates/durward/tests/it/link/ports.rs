//! TCP and UDP services of a private cluster, on ports of the tenant's own address.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use durward_model::explain::{Ending, Kind, Question, Shown, explain};
use durward_model::transport::Transport;
use durward_testkit::certificates::Authority;
use durward_testkit::origin::{TcpEcho, UdpEcho};
use durward_testkit::process::{TempDir, eventually_blocking, unique_loopback};
use serde_json::{Value, json};

use super::registry::{Link, Registering};
use super::restart::Generations;
use super::world::{Agent, AgentOf, LINK, Tenant, World, agent};
use crate::gateway::Gateway;
use crate::support::{DEADLINE, HERE};

/// Address of clients.
const HERE_IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Port of both services at the tenant's address.
const PORT: u16 = 9000;

/// Document of a tenant with a TCP and a UDP service at one port. `entry` and `spec` are added to the UDP entry and to the document.
fn document(
    tenant: &Tenant,
    (tcp, udp): (SocketAddr, SocketAddr),
    (entry, spec): (&str, &str),
) -> String {
    let Tenant { name, address, .. } = tenant;
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n  \
         - {{address: {address}, port: {PORT}, protocol: TCP, upstream: stream}}\n  \
         - {{address: {address}, port: {PORT}, protocol: UDP, upstream: datagrams{entry}}}\n  \
         - {{address: {address}, port: {LINK}, protocol: LINK, certificate: {{file: {name}-link}}, clientCertificates: {{caFile: {name}-agents.crt}}, \
         links: [{{name: onprem, certificateNames: [agent.{name}.example]}}]}}\n  upstreams:\n    \
         stream: {{link: onprem, sendProxyProtocol: v1, endpoints: ['{tcp}']}}\n    datagrams: {{link: onprem, endpoints: ['{udp}']}}\n  \
         egress: {{addresses: [{address}]}}\n{spec}---\n"
    )
}

/// Starts the agent of a tenant with these services, and waits until it serves.
fn start_agent(
    tenant: &Tenant,
    certificate: &str,
    services: &[(&str, SocketAddr)],
    servers: &Authority,
) -> Agent {
    let of = AgentOf { services, ..agent(tenant, certificate, &[]) };
    let agent = of.start(servers);
    agent.wait_ready();
    agent
}

fn at(tenant: &Tenant) -> SocketAddr {
    (tenant.address, PORT).into()
}

/// A client with a port of its own, that hears of nobody but the listener.
struct Client(UdpSocket);

impl Client {
    fn of(listener: SocketAddr) -> Self {
        Self::from(Ipv4Addr::LOCALHOST, listener)
    }

    fn from(address: Ipv4Addr, listener: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.connect(listener).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Self(socket)
    }

    fn send(&self, datagram: &[u8]) {
        // Refused while nobody receives there.
        let _ = self.0.send(datagram);
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut datagram = vec![0; 65_535];
        match self.0.recv(&mut datagram) {
            Ok(bytes) => Some(datagram[..bytes].to_vec()),
            Err(error) => {
                let kinds =
                    [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::ConnectionRefused];
                assert!(kinds.contains(&error.kind()), "{error}");
                None
            }
        }
    }

    /// Sends again and again until this answer comes, as clients of UDP do; other answers are older ones.
    fn ask(&self, datagram: &[u8], answer: &[u8]) {
        let until = Instant::now() + DEADLINE * 2;
        while Instant::now() < until {
            self.send(datagram);
            if self.receive().as_deref() == Some(answer) {
                return;
            }
        }
        panic!("no answer to {:?}", String::from_utf8_lossy(datagram));
    }
}

/// Returns the access-log lines of this kind.
fn lines(gateway: &Gateway, kind: &str) -> Vec<Value> {
    let lines = gateway.log().into_iter().map(|line| serde_json::from_str(&line).unwrap());
    lines.filter(|line: &Value| line["kind"] == kind).collect()
}

/// Returns the value of a metric's row, 0 if there is none.
fn metric(gateway: &Gateway, row: &str) -> u64 {
    let text = gateway.metrics_text();
    let of = |line: &str| line.strip_prefix(row)?.trim().parse().ok();
    text.lines().find_map(of).unwrap_or(0)
}

// S3.79
#[test]
fn tcp_and_udp_services_of_the_cluster_are_reached_at_one_port_of_the_tenants_own_address() {
    let world = World::new();
    let (tenant, tcp, udp) =
        (world.tenant("acme"), TcpEcho::start(HERE), UdpEcho::start(HERE, b"acme:"));
    let (gateway, servers) =
        world.start(&document(&tenant, (tcp.address(), udp.address()), ("", "")));
    let services = [("TCP", tcp.address()), ("UDP", udp.address())];
    let _agent = start_agent(&tenant, "agent.acme.example", &services, &servers);

    let mut stream = TcpStream::connect(at(&tenant)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"bytes").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    // Also what comes after the client has ended its direction.
    let back = String::from_utf8(back).unwrap();
    assert!(back.starts_with("PROXY TCP4 127.0.0.1 ") && back.ends_with("\r\nbytes"), "{back}");

    let (one, other) = (Client::of(at(&tenant)), Client::of(at(&tenant)));
    one.ask(b"first", b"acme:first");
    other.ask(b"second", b"acme:second");
    one.ask(b"", b"acme:");
    for length in [1, 1_200, 1_473, 9_000, 40_000, 65_000] {
        let datagram: Vec<u8> = (0..length).map(|at: usize| (at * 31 + length) as u8).collect();
        one.ask(&datagram, &[b"acme:", &datagram[..]].concat());
    }
    assert_eq!(udp.peers().len(), 2, "each client has a session of its own");

    let question = Question {
        client: Some(HERE_IP),
        destination: at(&tenant),
        transport: Transport::Udp,
        sni: None,
        host: None,
        path: "/".to_owned(),
        method: "GET".to_owned(),
        headers: Vec::new(),
        client_certificate: Shown::default(),
        credential: Shown::default(),
        resolved: None,
    };
    let explained = explain(&gateway.snapshot(), &question);
    let served = Ending::Served { upstream: "datagrams".into() };
    assert_eq!((explained.kind, &explained.ending), (Kind::Datagrams, &served), "{explained:?}");
    assert!(explained.steps.iter().any(|step| step.sentence.contains("through the link onprem")));

    let tcp_lines = || lines(&gateway, "tcp");
    assert!(eventually_blocking(DEADLINE, || tcp_lines().len() == 1), "{:?}", gateway.log());
    assert_eq!(tcp_lines()[0]["link"], "onprem");
    assert_eq!(metric(&gateway, "durward_udp_sessions_active{tenant=\"acme\"}"), 2);
    assert!(
        metric(&gateway, "durward_udp_datagrams_total{tenant=\"acme\",direction=\"out\"}") >= 9
    );
    gateway.stop();
}

// S3.79+
#[test]
fn an_idle_session_ends_with_a_record_and_the_next_datagram_begins_another() {
    let world = World::new();
    let (tenant, udp) = (world.tenant("acme"), UdpEcho::start(HERE, b""));
    let limits = "  limits: {timeouts: {udpIdle: 1s}}\n";
    let (gateway, servers) =
        world.start(&document(&tenant, (udp.address(), udp.address()), ("", limits)));
    let services = [("UDP", udp.address())];
    let agent = start_agent(&tenant, "agent.acme.example", &services, &servers);

    let client = Client::of(at(&tenant));
    client.ask(b"first", b"first");
    let ended = || lines(&gateway, "udp").len() == 1;
    assert!(eventually_blocking(DEADLINE, ended), "{:?}", gateway.log());

    let line = &lines(&gateway, "udp")[0];
    let told = (&line["tenant"], &line["link"], &line["upstream"]);
    assert_eq!(told, (&"acme".into(), &"onprem".into(), &"datagrams".into()), "{line}");
    assert!(
        line["bytes_in"].as_u64() >= Some(5) && line["bytes_out"].as_u64() >= Some(5),
        "{line}"
    );
    assert!(line["reason"].is_null(), "a pause is no failure: {line}");
    let no_streams = || agent.status.report().streams == 0;
    assert!(eventually_blocking(DEADLINE, no_streams), "the agent's socket is closed, too");
    let before = udp.peers().len();
    client.ask(b"second", b"second");
    assert_eq!(udp.peers().len(), before + 1, "another session");
    gateway.stop();
}

// S3.79+ S3.81+
#[test]
fn what_the_agents_file_does_not_name_is_not_reached_over_udp() {
    let world = World::new();
    let (tenant, udp) = (world.tenant("acme"), UdpEcho::start(HERE, b""));
    let (gateway, servers) =
        world.start(&document(&tenant, (udp.address(), udp.address()), ("", "")));
    let refused = |detail: &str| {
        let client = Client::of(at(&tenant));
        client.send(b"hello");
        let told = || {
            lines(&gateway, "udp").iter().any(|line| {
                line["reason"] == "link_failed"
                    && line["detail"].as_str().is_some_and(|text| text.contains(detail))
            })
        };
        assert!(eventually_blocking(DEADLINE, told), "{detail}: {:?}", gateway.log());
        assert_eq!(udp.datagrams(), 0, "{detail}");
    };

    // A service of another protocol, and a route, are no UDP service.
    let as_tcp = [("TCP", udp.address())];
    let routes = [udp.address()];
    let of = AgentOf { services: &as_tcp, ..agent(&tenant, "agent.acme.example", &routes) };
    let first = of.start(&servers);
    first.wait_ready();
    refused("is no UDP service of the agent");
    first.stop();

    // Loopback and the API server are denied, though they are named.
    let dir = TempDir::new();
    let named = [("UDP", udp.address())];
    let of = AgentOf { services: &named, ..agent(&tenant, "agent.acme.example", &[]) };
    let path = of.write(&dir, &servers);
    let text = std::fs::read_to_string(&path).unwrap();
    let without = text.lines().filter(|line| !line.starts_with("allow:")).collect::<Vec<_>>();
    dir.write("agent.yaml", without.join("\n"));
    let second = Agent::start_file(dir, &path);
    second.wait_ready();
    refused("is loopback");
    second.stop();
    gateway.stop();
}

// S3.79+
#[test]
fn two_tenants_with_one_port_and_one_target_get_their_own_datagrams_alone() {
    let world = World::new();
    let (a, b) = (world.tenant("acme"), world.tenant("bolt"));
    let udp = UdpEcho::start(HERE, b"acme:");
    let ports = (udp.address(), udp.address());
    let documents = document(&a, ports, ("", "")) + &document(&b, ports, ("", ""));
    let (gateway, servers) = world.start(&documents);
    // Only the agent of the first has the service, and both upstreams name it.
    let services = [("UDP", udp.address())];
    let of_a = start_agent(&a, "agent.acme.example", &services, &servers);
    let of_b = start_agent(&b, "agent.bolt.example", &[], &servers);

    Client::of(at(&a)).ask(b"hello", b"acme:hello");
    let stranger = Client::of(at(&b));
    stranger.send(b"to the other");
    let refused = || of_b.status.report().streams_forbidden > 0;
    assert!(eventually_blocking(DEADLINE, refused), "{:?}", of_b.status.report());
    assert_eq!(stranger.receive(), None);
    assert_eq!(of_a.status.report().streams_opened, 1, "its own client's, and no other's");

    // With an agent that has another service under the same name, each gets its own.
    of_b.stop();
    of_a.stop();
    gateway.stop();
}

// S3.79+
#[test]
fn a_flood_of_sources_is_bounded_and_leaves_other_tenants_alone() {
    let world = World::new();
    let (a, b) = (world.tenant("acme"), world.tenant("bolt"));
    let (of_a, of_b) = (UdpEcho::start(HERE, b"acme:"), UdpEcho::start(HERE, b"bolt:"));
    let limits = "  limits: {udpSessions: 20, udpSessionsPerClient: 4}\n";
    let documents = document(&a, (of_a.address(), of_a.address()), ("", limits))
        + &document(&b, (of_b.address(), of_b.address()), ("", ""));
    let (gateway, servers) = world.start(&documents);
    let _agent_a = start_agent(&a, "agent.acme.example", &[("UDP", of_a.address())], &servers);
    let _agent_b = start_agent(&b, "agent.bolt.example", &[("UDP", of_b.address())], &servers);
    let quiet = Client::of(at(&b));
    quiet.ask(b"before", b"bolt:before");

    // One client has four at most.
    let one = unique_loopback();
    let ports: Vec<_> = (0..12).map(|_| Client::from(one, at(&a))).collect();
    ports.iter().for_each(|client| client.send(b"flood"));
    let refusals = "durward_refusals_total{tenant=\"acme\",reason=\"session_limit\"}";
    assert!(eventually_blocking(DEADLINE, || metric(&gateway, refusals) == 8));
    let active = || metric(&gateway, "durward_udp_sessions_active{tenant=\"acme\"}");
    assert_eq!(active(), 4);

    // And all clients together twenty.
    let many: Vec<_> = (0..200)
        .map(|number| Client::from(Ipv4Addr::from(0x7f64_0000 + number * 7 + 1), at(&a)))
        .collect();
    many.iter().for_each(|client| client.send(b"flood"));
    assert!(eventually_blocking(DEADLINE, || metric(&gateway, refusals) == 8 + 200 - 16));
    assert_eq!(active(), 20);
    assert!(of_a.peers().len() <= 20);
    let logged = || lines(&gateway, "refused").len();
    assert!(eventually_blocking(DEADLINE, || logged() > 0), "{:?}", gateway.log());
    assert!(logged() <= 20, "refusals are counted, and written once in a while: {}", logged());

    quiet.ask(b"after", b"bolt:after");
    gateway.stop();
}

// S3.79+
#[test]
fn datagrams_of_sources_that_are_not_allowed_begin_no_session() {
    let world = World::new();
    let (tenant, udp) = (world.tenant("acme"), UdpEcho::start(HERE, b""));
    let allowed = unique_loopback();
    let sources = format!(", allowedSources: [{allowed}/32]");
    let plain = document(&tenant, (udp.address(), udp.address()), ("", ""));
    let narrowed = document(&tenant, (udp.address(), udp.address()), (&sources, ""));
    let (mut gateway, servers) = world.start(&plain);
    let services = [("UDP", udp.address())];
    let _agent = start_agent(&tenant, "agent.acme.example", &services, &servers);
    let stranger = Client::of(at(&tenant));
    stranger.ask(b"before", b"before");

    // An edit ends the sessions of clients that it leaves out.
    gateway.reload(&narrowed);
    assert_eq!(gateway.findings(), Vec::<String>::new());
    let reached = udp.datagrams();
    let refused = "durward_refusals_total{tenant=\"acme\",reason=\"source_not_allowed\"}";
    let is_refused = || {
        stranger.send(b"after");
        metric(&gateway, refused) > 0
    };
    assert!(eventually_blocking(DEADLINE, is_refused), "{:?}", gateway.log());
    Client::from(allowed, at(&tenant)).ask(b"welcome", b"welcome");
    let is_ended = |line: &Value| line["reason"] == "no_longer_admitted";
    let ended = || lines(&gateway, "udp").iter().any(is_ended);
    assert!(eventually_blocking(DEADLINE, ended), "{:?}", gateway.log());
    assert!(udp.datagrams() > reached);
    gateway.stop();
}

// S3.79+
#[test]
fn a_session_is_made_anew_when_the_link_is_back() {
    let world = World::new();
    let (tenant, udp) = (world.tenant("acme"), UdpEcho::start(HERE, b""));
    let (gateway, servers) =
        world.start(&document(&tenant, (udp.address(), udp.address()), ("", "")));
    let services = [("UDP", udp.address())];
    let first = start_agent(&tenant, "agent.acme.example", &services, &servers);
    let client = Client::of(at(&tenant));
    client.ask(b"first", b"first");

    first.stop();
    let ended = || lines(&gateway, "udp").len() == 1;
    assert!(eventually_blocking(DEADLINE, ended), "{:?}", gateway.log());
    client.send(b"to nobody");
    let _second = start_agent(&tenant, "agent.acme.example", &services, &servers);

    client.ask(b"second", b"second");
    assert_eq!(udp.peers().len(), 2);
    gateway.stop();
}

// S3.79+ S3.85+
#[test]
fn sessions_go_on_at_the_next_process_when_a_gateway_is_handed_over() {
    let (dir, servers) = (TempDir::new(), Authority::new("servers"));
    let (tenant, udp) = (Tenant::new("acme", dir.path(), &servers), UdpEcho::start(HERE, b""));
    dir.write("acme.yaml", document(&tenant, (udp.address(), udp.address()), ("", "")));
    let mut gateway = Generations::start(&dir);
    let services = [("UDP", udp.address())];
    let agent = start_agent(&tenant, "agent.acme.example", &services, &servers);
    let clients: Vec<_> = (0..8).map(|_| Client::of(at(&tenant))).collect();
    clients.iter().for_each(|client| client.ask(b"before", b"before"));

    gateway.hand_over();

    clients.iter().for_each(|client| client.ask(b"after", b"after"));
    assert!(agent.status.report().ready);
    agent.stop();
}

// S3.79+
#[test]
fn programs_are_told_the_ports_that_the_document_has_for_their_services() {
    let link = Link { tenant: "acme", token: "of-acme", hosts: "" };
    let mut gateway = Registering::start(&[link]);
    let ip = gateway.address(0).ip();
    let document = gateway.dir.join("documents/acme.yaml");
    let text = std::fs::read_to_string(&document).unwrap();
    let text = text.replace(
        "  egress:",
        "  upstreams:\n    data: {link: onprem, endpoints: ['db.shop.svc:5432']}\n    names: {link: onprem, endpoints: ['dns.net.svc.cluster.local:53']}\n  egress:",
    );
    let entries = format!(
        "  ingress:\n  - {{address: {ip}, port: 5432, protocol: TCP, upstream: data}}\n  - {{address: {ip}, port: 5300, protocol: UDP, upstream: names}}\n"
    );
    std::fs::write(&document, text.replace("  ingress:\n", &entries)).unwrap();
    gateway.child.signal(rustix::process::Signal::HUP);

    let tunnel = |protocol: &str, name: &str, namespace: &str, port: u16| {
        json!({"cluster_uuid": "abc-123", "protocol": protocol, "tunnel_id": format!("{protocol}-abc-123-gw-{port}"), "gateway_name": "gw",
               "gateway_namespace": "istio", "gateway_port": port, "service_name": name, "service_namespace": namespace, "service_port": port,
               "routing_mode": "tunnel"})
    };
    let call =
        |method: &str, rest: &str, body: &str| gateway.tunnels("of-acme", (method, rest), body);
    let known =
        || call("POST", "abc-123/tunnels", &tunnel("udp", "dns", "net", 53).to_string()).0 == 200;
    assert!(eventually_blocking(DEADLINE, known), "{}", gateway.child.output());

    let (status, answer) =
        call("POST", "abc-123/tunnels", &tunnel("tcp", "db", "shop", 5432).to_string());
    let told =
        (status, &answer["tunnel_port"], &answer["tunnel_endpoint"], &answer["gateway_name"]);
    assert_eq!(told, (200, &json!(5432), &json!(format!("{ip}:5432")), &json!("gw")), "{answer}");
    let (status, answer) =
        call("POST", "abc-123/tunnels", &tunnel("udp", "db", "shop", 5432).to_string());
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("no_port")), "{answer}");

    let all = json!({"cluster_uuid": "abc-123", "tunnels": [tunnel("udp", "dns", "net", 53), tunnel("tcp", "other", "net", 1)]});
    let (status, answer) = call("POST", "abc-123/tunnels/sync", &all.to_string());
    assert_eq!((status, &answer["accepted"][0]["tunnel_port"]), (200, &json!(5300)), "{answer}");
    assert_eq!(answer["rejected"][0]["tunnel_id"], "tcp-abc-123-gw-1", "{answer}");

    let (status, answer) = call("GET", "abc-123/tunnels", "");
    assert_eq!((status, answer.as_array().map(Vec::len)), (200, Some(2)), "{answer}");
    assert_eq!(call("DELETE", "abc-123/tunnels/tcp-abc-123-gw-5432", "").0, 200);
    let failing = [
        (("PUT", "abc-123/tunnels"), "", 405),
        (("GET", "abc-123/other"), "", 404),
        (("GET", "another/tunnels"), "", 403),
        (("POST", "abc-123/tunnels"), "{}", 400),
        (("POST", "abc-123/tunnels"), "[", 400),
    ];
    for (call_of, body, expected) in failing {
        assert_eq!(call(call_of.0, call_of.1, body).0, expected, "{call_of:?} {body}");
    }
    assert_eq!(gateway.tunnels("of-nobody", ("GET", "abc-123/tunnels"), "").0, 401);
}
