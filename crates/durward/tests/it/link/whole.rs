//! Gateway and agent as programs of their own, as their operators run them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::dns::DnsServer;
use durward_testkit::netns::{Namespace, in_namespace};
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use rustix::process::Signal;

use super::registry::{ACME, Registering, digest};
use super::world::{HTTP, LINK};
use crate::support::{DEADLINE, HERE, admin_address, durward, get, request, spawn, status};

/// Variables that an agent reads.
const VARIABLES: [&str; 7] = [
    "ENABLE_INGRESS_SYNC",
    "PIPEOPS_TOKEN",
    "PIPEOPS_API_URL",
    "DURWARD_AGENT_TOKEN",
    "KUBERNETES_SERVICE_HOST",
    "HTTPS_PROXY",
    "https_proxy",
];

/// An agent as a program, with one route.
struct Agent {
    child: Child,
    admin: SocketAddr,
    dir: TempDir,
}

impl Agent {
    /// Writes its file and starts it.
    fn start(
        servers: &Authority,
        gateways: &str,
        route: (&str, SocketAddr),
        more: &[(&str, &str)],
    ) -> Self {
        let dir = TempDir::new();
        servers.write(dir.path(), "servers");
        std::fs::write(dir.join("token"), format!("{}\n", ACME.token)).unwrap();
        let (host, target) = route;
        let text = format!(
            "link: onprem\n{gateways}\ncaFile: servers.crt\ntokenFile: token\nallow: [127.0.0.0/8]\ndrainGraceSeconds: 5\n\
             routes: [{{host: {host}, target: '{target}'}}]\n"
        );
        let config = dir.write("agent.yaml", text);
        let admin = admin_address();
        let child = run(&config, admin, more);
        Self { child, admin, dir }
    }

    /// Adds a route to its file, which it reads again.
    fn add_route(&self, host: &str, target: SocketAddr) {
        let text = std::fs::read_to_string(self.dir.join("agent.yaml")).unwrap();
        let added = format!("routes: [{{host: {host}, target: '{target}'}}, ");
        self.dir.replace("agent.yaml", text.replace("routes: [", &added));
    }

    fn wait_ready(&self) {
        let ready = || status(self.admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE * 2, ready), "{}", self.child.output());
    }
}

fn run(config: &Path, admin: SocketAddr, more: &[(&str, &str)]) -> Child {
    let admin = admin.to_string();
    let mut command = durward(&[
        "--log-format",
        "json",
        "agent",
        "run",
        "-c",
        config.to_str().unwrap(),
        "--admin",
        &admin,
    ]);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.envs(more.iter().copied());
    Child::spawn(command)
}

fn ask(address: SocketAddr, host: &str) -> Option<(u16, String)> {
    request(address, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

fn becomes(address: SocketAddr, host: &str, status: u16, child: &Child) {
    let is = || ask(address, host).is_some_and(|(now, _)| now == status);
    assert!(
        eventually_blocking(DEADLINE * 2, is),
        "{host}: {:?}\n{}",
        ask(address, host),
        child.output()
    );
}

/// Writes the document of a tenant with these entries, and the certificate of its agents' listener.
fn write_document(dir: &TempDir, servers: &Authority, address: IpAddr, entries: &str) {
    servers.issue(&CertSpec::new().ip(address).server()).write(dir.path(), "link");
    let digest = digest(ACME.token);
    dir.write(
        "acme.yaml",
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  ingress:\n{entries}  \
             - {{address: {address}, port: {LINK}, protocol: LINK, certificate: {{file: link}}, \
             links: [{{name: onprem, tokens: ['sha256:{digest}'], hosts: ['*.example.com', app.yourdomain.com]}}]}}\n  \
             egress: {{addresses: [{address}]}}\n"
        ),
    );
}

/// Asks by HTTPS; the certificate must be for the host.
fn fetch(servers: &Authority, at: SocketAddr, host: &str, path: &str) -> Option<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = client_config(servers, None);
        let mut client = RawHttp::connect_tls(at, None, config, Some(host)).await.ok()?;
        client.get(host, path).await.ok().map(|answer| answer.status)
    })
}

/// Hosts of the seed.
const HOSTS: [&str; 2] = ["app.yourdomain.com", "secure.example.com"];

// S3.5 S3.6 S3.47 S3.48
#[test]
fn custom_domains_are_served_by_https_each_with_its_certificate_and_plain_http_is_redirected() {
    let (dir, servers) = (TempDir::new(), Authority::new("servers"));
    let address = IpAddr::from(unique_loopback());
    for (host, name) in HOSTS.iter().zip(["one", "two"]) {
        servers.issue(&CertSpec::new().dns(host).ip(address).server()).write(dir.path(), name);
    }
    let entries = format!(
        "  - {{address: {address}, port: 8443, certificates: [{{file: one}}, {{file: two}}], linkRoutes: [onprem]}}\n  \
         - {{address: {address}, port: {HTTP}, protocol: HTTP, redirectToHttps: true}}\n"
    );
    write_document(&dir, &servers, address, &entries);
    let admin = admin_address();
    let gateway = spawn(dir.path(), admin, &[]);
    let ready = || status(admin, "/readyz") == Some(200);
    assert!(eventually_blocking(DEADLINE, ready), "{}", gateway.output());
    let origins = [Origin::http1(HERE), Origin::http1(HERE)];
    let gateways = format!("gateways: ['wss://{address}:{LINK}']");
    let agent = Agent::start(&servers, &gateways, (HOSTS[0], origins[0].address()), &[]);
    agent.wait_ready();
    agent.add_route(HOSTS[1], origins[1].address());

    let secure = SocketAddr::new(address, 8443);
    for (host, origin) in HOSTS.iter().zip(&origins) {
        let served = || fetch(&servers, secure, host, "/x") == Some(200);
        assert!(eventually_blocking(DEADLINE, served), "{host}\n{}", gateway.output());
        let seen = origin.seen();
        assert_eq!(seen[0].header("host"), Some(*host));
        assert_eq!(seen[0].header("x-forwarded-proto"), Some("https"));
    }
    // Clients find the address by a name of the gateway, which makes no difference.
    let dns = DnsServer::start(HERE);
    dns.set_alias(HOSTS[0], "cluster-id.gateway.example", &[address]);
    let found = looked_up(dns.address(), HOSTS[0]);
    assert_eq!(found, address);
    assert_eq!(fetch(&servers, (found, 8443).into(), HOSTS[0], "/by-alias"), Some(200));

    let text = format!("GET /a?b HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", HOSTS[0]);
    let mut client = TcpStream::connect((address, HTTP)).unwrap();
    client.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 308"), "{answer}");
    let location = format!("location: https://{}/a?b\r\n", HOSTS[0]);
    assert!(answer.contains(&location), "{answer}");
}

/// Asks a name server for the address of a name, which it gives at the end of its answer.
fn looked_up(server: SocketAddr, name: &str) -> IpAddr {
    let socket = UdpSocket::bind(HERE).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&query, server).unwrap();
    let mut answer = [0; 1024];
    let length = socket.recv(&mut answer).unwrap();
    assert!(answer[..length].windows(10).any(|bytes| bytes == b"cluster-id"), "an alias");
    let address: [u8; 4] = answer[length - 4..length].try_into().unwrap();
    address.into()
}

// S3.55
#[test]
fn no_log_line_of_either_side_holds_a_secret() {
    let gateway = Registering::start(&[ACME]);
    let origin = Origin::http1(HERE);
    let proxy = connect_proxy();
    let through = format!("http://me:proxy-secret@{}", proxy.address);
    let gateways = format!("gateways: ['wss://{}']", gateway.link(0));
    let more = [("RUST_LOG", "trace"), ("HTTPS_PROXY", through.as_str())];
    let agent =
        Agent::start(&gateway.servers, &gateways, ("a.example.com", origin.address()), &more);
    becomes(gateway.address(0), "a.example.com", 200, &agent.child);
    // A wrong one, too.
    std::fs::write(agent.dir.join("token"), "another-secret-token").unwrap();
    gateway.write(&ACME, 0, &["the-next"]);
    agent.child.wait_for_line_blocking("API request failed", DEADLINE * 2);

    let logs = agent.child.output() + &gateway.child.output();
    let metrics = get(agent.admin, "/metrics").unwrap().1 + &get(agent.admin, "/status").unwrap().1;
    for secret in
        [ACME.token, "another-secret-token", "proxy-secret", "bWU6cHJveHktc2VjcmV0", "the-next"]
    {
        assert!(!logs.contains(secret) && !metrics.contains(secret), "{secret}");
    }
    assert!(logs.contains("TRACE"), "much was logged");
    assert!(proxy.connected.load(Relaxed) > 0);
}

/// A proxy that knows CONNECT alone.
struct ConnectProxy {
    address: SocketAddr,
    connected: Arc<AtomicUsize>,
}

fn connect_proxy() -> ConnectProxy {
    connect_proxy_at("127.0.0.1:0")
}

fn tunnel(mut client: TcpStream, counted: &AtomicUsize) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let Some(to) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        return;
    };
    let Ok(mut server) = TcpStream::connect(to) else { return };
    counted.fetch_add(1, Relaxed);
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut down, &mut up);
        let _ = up.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(std::net::Shutdown::Write);
    let _ = back.join();
}

// S3.59 S3.53
#[test]
fn a_gateway_or_an_agent_that_is_away_is_said_and_made_up_for_without_a_restart_of_the_other() {
    let mut gateway = Registering::start(&[ACME]);
    let origin = Origin::http1(HERE);
    let (address, host) = (gateway.address(0), "a.example.com");
    let gateways = format!("gateways: ['wss://{}']", gateway.link(0));
    gateway.child.kill();
    let mut agent = Agent::start(&gateway.servers, &gateways, (host, origin.address()), &[]);
    let failed = || {
        let lines = agent.child.lines();
        lines
            .iter()
            .filter(|line| line.contains("API request failed: cannot dial the gateway"))
            .count()
            >= 3
    };
    assert!(eventually_blocking(DEADLINE * 2, failed), "{}", agent.child.output());

    gateway.start_again();
    becomes(address, host, 200, &agent.child);
    gateway.child.kill();
    gateway.start_again();
    becomes(address, host, 200, &agent.child);

    // An agent that does not move any more: its routes are answered at once, and are back with it.
    agent.child.signal(Signal::STOP);
    let is_absent = || {
        ask(address, host)
            .is_some_and(|(status, body)| status == 503 && body.contains("link_absent"))
    };
    assert!(eventually_blocking(DEADLINE * 3, is_absent), "{:?}", ask(address, host));
    assert_eq!(gateway.served(0, host), Some(503));
    agent.child.signal(Signal::CONT);
    becomes(address, host, 200, &agent.child);
}

// S3.24
#[test]
fn an_agent_needs_an_address_a_token_and_the_switch_and_nothing_else() {
    let gateway = Registering::start(&[ACME]);
    let dir = TempDir::new();
    gateway.servers.write(dir.path(), "servers");
    let admin = admin_address();
    let mut command =
        durward(&["--log-format", "json", "agent", "run", "--admin", &admin.to_string()]);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.current_dir(dir.path());
    command.env("SSL_CERT_FILE", dir.join("servers.crt"));
    command.env("PIPEOPS_API_URL", format!("https://{}", gateway.link(0)));
    command.env("PIPEOPS_TOKEN", ACME.token);
    command.env("ENABLE_INGRESS_SYNC", "true");
    // No API server answers there; that what is read of one needs no configuration is shown elsewhere.
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: a, cluster: {{server: 'http://{}'}}}}]\n\
         users: [{{name: a, user: {{}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n",
        crate::support::nowhere()
    );
    command.env("KUBECONFIG", dir.write("kubeconfig", kubeconfig));
    let child = Child::spawn(command);
    child.wait_for_line_blocking("Initializing gateway proxy detection", DEADLINE);
    assert_eq!(status(admin, "/readyz"), Some(503), "the cluster is not read yet");
    drop(child);

    // Routes come from a file here: the link is that of the token.
    let origin = Origin::http1(HERE);
    let dir = TempDir::new();
    gateway.servers.write(dir.path(), "servers");
    let text = format!(
        "routes: [{{host: a.example.com, target: '{}'}}]\nallow: [127.0.0.0/8]\ncaFile: servers.crt\n",
        origin.address()
    );
    let config = dir.write("agent.yaml", text);
    let url = format!("https://{}", gateway.link(0));
    let child =
        run(&config, admin_address(), &[("PIPEOPS_API_URL", &url), ("PIPEOPS_TOKEN", ACME.token)]);
    becomes(gateway.address(0), "a.example.com", 200, &child);
}

// S3.84
#[test]
fn with_two_agents_and_two_gateways_requests_survive_the_loss_of_either() {
    let mut gateways = [Registering::start(&[ACME]), Registering::start(&[ACME])];
    let origin = Origin::http1(HERE);
    let host = "a.example.com";
    let (one, two) = (gateways[0].link(0), gateways[1].link(0));
    // Each gateway has a certificate of an authority of its own here.
    let authorities = gateways[0].servers.pem() + &gateways[1].servers.pem();
    let fields = format!("everyGateway: true\ngateways: ['wss://{one}', 'tls://{two}']");
    let start = |gateways: &[Registering; 2]| {
        let agent = Agent::start(&gateways[0].servers, &fields, (host, origin.address()), &[]);
        agent.dir.replace("servers.crt", &authorities);
        agent
    };
    // The file of authorities is read at the start.
    let first = restart(start(&gateways));
    let second = restart(start(&gateways));
    let at = [gateways[0].address(0), gateways[1].address(0)];
    for address in at {
        becomes(address, host, 200, &first.child);
    }
    let each = |status: u16, at: &[SocketAddr]| {
        for address in at {
            for _ in 0..20 {
                assert_eq!(
                    ask(*address, host).map(|(status, _)| status),
                    Some(status),
                    "{address}"
                );
            }
        }
    };
    each(200, &at);
    let both = |admin: SocketAddr| get(admin, "/status").unwrap().1.matches("\"up\"").count() >= 4;
    assert!(eventually_blocking(DEADLINE, || both(first.admin) && both(second.admin)));

    // Without one agent; what was under way with it may be lost, nothing after it.
    let mut first = first;
    first.child.kill();
    let served =
        || at.iter().all(|address| ask(*address, host).is_some_and(|(status, _)| status == 200));
    assert!(eventually_blocking(DEADLINE, served));
    each(200, &at);
    // Without one gateway.
    gateways[0].child.kill();
    each(200, &at[1..]);
    // It comes back, and is served again.
    gateways[0].start_again();
    becomes(at[0], host, 200, &second.child);
}

/// Starts the program of an agent anew.
fn restart(mut agent: Agent) -> Agent {
    agent.child.kill();
    agent.child = run(&agent.dir.join("agent.yaml"), agent.admin, &[]);
    agent
}

/// Runs commands of nft in a namespace.
fn nft(namespace: &Namespace, commands: &str) {
    let status = namespace.run(|| std::process::Command::new("nft").arg(commands).status());
    assert!(status.unwrap().success(), "{commands}");
}

/// A namespace into which no connection leads, joined to this one, which is 192.0.2.1.
fn closed_cluster() -> Namespace {
    let (outside, cluster) = (Namespace::current(), Namespace::new());
    outside.veth("out0", "in0", &cluster);
    outside.add_address("out0", "192.0.2.1/24");
    cluster.add_address("in0", "192.0.2.2/24");
    outside.link_up("out0");
    cluster.link_up("in0");
    nft(
        &cluster,
        "table inet t { chain c { type filter hook input priority 0; policy drop; iif lo accept; ct state established,related accept; }; }",
    );
    cluster
}

// S3.2 S3.22 S3.72+
#[test]
fn a_cluster_that_takes_no_connection_from_outside_is_served_also_through_an_http_proxy() {
    let name = "link::whole::a_cluster_that_takes_no_connection_from_outside_is_served_also_through_an_http_proxy";
    if std::process::Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED {name}: nft is not in PATH (apt-get install nftables)");
        return;
    }
    in_namespace(name, || {
        let cluster = closed_cluster();
        let (dir, servers) = (TempDir::new(), Authority::new("servers"));
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let entry = format!(
            "  - {{address: {address}, port: {HTTP}, protocol: HTTP, linkRoutes: [onprem]}}\n"
        );
        write_document(&dir, &servers, address, &entry);
        let _gateway = spawn(dir.path(), "127.0.0.1:9440".parse().unwrap(), &[]);
        let app = cluster.run(|| Origin::http1("192.0.2.2:8080"));
        let straight = TcpStream::connect_timeout(&app.address(), Duration::from_secs(1));
        assert!(straight.is_err(), "the app is not reached from outside");
        let gateways = format!("gateways: ['wss://{address}:{LINK}']");
        let route = ("a.example.com", app.address());
        let start =
            |more: &[(&str, &str)]| cluster.run(|| Agent::start(&servers, &gateways, route, more));
        let agent = start(&[]);
        let at = SocketAddr::new(address, HTTP);
        becomes(at, "a.example.com", 200, &agent.child);
        drop(agent);

        // The only way out is a proxy now.
        let proxy = connect_proxy_at("192.0.2.1:3128");
        let chain = "add chain inet t o { type filter hook output priority 0; }";
        let rule = format!("add rule inet t o ip daddr {address} tcp dport != 3128 reject");
        nft(&cluster, &format!("{chain}; {rule}"));
        let through = format!("http://me:secret@{}", proxy.address);
        let agent = start(&[("HTTPS_PROXY", &through)]);
        becomes(at, "a.example.com", 200, &agent.child);
        assert!(proxy.connected.load(Relaxed) >= 2, "control and data");

        dials_when_its_network_changes(&cluster, agent, &[("HTTPS_PROXY", &through)]);
    });
}

/// An agent that was refused waits for half a minute, unless its network is another.
fn dials_when_its_network_changes(cluster: &Namespace, mut agent: Agent, more: &[(&str, &str)]) {
    std::fs::write(agent.dir.join("token"), "wrong").unwrap();
    agent.child.kill();
    agent.child = cluster.run(|| run(&agent.dir.join("agent.yaml"), agent.admin, more));
    let refused = |count: usize| {
        let lines = agent.child.lines();
        let lines = lines.iter().filter(|line| line.contains("the gateway refused the agent"));
        lines.count() >= count
    };
    assert!(eventually_blocking(DEADLINE, || refused(1)), "{}", agent.child.output());

    let mut number = 9;
    let dialled = eventually_blocking(DEADLINE * 2 / 3, || {
        number += 1;
        cluster.add_address("in0", &format!("192.0.2.{number}/24"));
        std::thread::sleep(Duration::from_millis(500));
        refused(2)
    });
    assert!(dialled, "{}", agent.child.output());
}

fn connect_proxy_at(at: &str) -> ConnectProxy {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    let connected = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&connected);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || tunnel(client, &counted));
        }
    });
    ConnectProxy { address, connected }
}
