//! Traffic that leaves a cluster by its link: through the agent's proxy, by the tenant's egress rules, from the tenant's egress address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use rustix::process::Signal;
use serde_json::Value;

use super::world::{Tenant, World, agent};
use crate::gateway::Gateway;
use crate::support::{DEADLINE, admin_address, durward, nowhere, request};

/// A tenant's document with the rules of its egress; the link lets traffic out.
fn document(tenant: &Tenant, egress: &str) -> String {
    let document = tenant.document(nowhere(), nowhere());
    let address = tenant.address;
    document
        .replace("{name: onprem, certificateNames", "{name: onprem, egress: true, certificateNames")
        .replace(
            &format!("egress: {{addresses: [{address}]}}"),
            &format!("egress: {{addresses: [{address}], {egress}}}"),
        )
}

/// An agent as a program, with a proxy for its cluster.
struct Cluster {
    child: Child,
    proxy: SocketAddr,
    dir: TempDir,
}

impl Cluster {
    fn start(
        tenant: &Tenant,
        servers: &durward_testkit::certificates::Authority,
        more: &str,
    ) -> Self {
        let dir = TempDir::new();
        let name = format!("agent.{}.example", tenant.name);
        let path = agent(tenant, &name, &[]).write(&dir, servers);
        let proxy = SocketAddr::new(unique_loopback().into(), 3128);
        let text = std::fs::read_to_string(&path).unwrap();
        dir.replace("agent.yaml", format!("egressProxy: {{listen: '{proxy}'{more}}}\n{text}"));
        let child = run(&path);
        Self { child, proxy, dir }
    }

    /// Asks for a URL through the proxy.
    fn get(&self, url: &str) -> Option<(u16, String)> {
        let authority = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let text = format!("GET {url} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        request(self.proxy, &text)
    }

    /// Opens a tunnel; returns the status and the connection.
    fn tunnel(&self, to: SocketAddr) -> (u16, TcpStream) {
        let mut stream = TcpStream::connect(self.proxy).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
            .write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())
            .unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), stream)
    }

    fn becomes(&self, url: &str, status: u16) {
        let is = || self.get(url).is_some_and(|(now, _)| now == status);
        assert!(
            eventually_blocking(DEADLINE * 2, is),
            "{:?}\n{}",
            self.get(url),
            self.child.output()
        );
    }
}

fn run(config: &std::path::Path) -> Child {
    let admin = admin_address().to_string();
    let config = config.to_str().unwrap();
    let mut command =
        durward(&["--log-format", "json", "agent", "run", "-c", config, "--admin", &admin]);
    command.env_remove("HTTPS_PROXY");
    Child::spawn(command)
}

fn decided(gateway: &Gateway, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
    let mut found = None;
    let is_there = eventually_blocking(DEADLINE, || {
        let lines = gateway.decisions();
        let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        found = lines.into_iter().find(|line: &Value| wanted(line));
        found.is_some()
    });
    found.filter(|_| is_there)
}

// S3.89
#[test]
fn a_clusters_own_traffic_leaves_from_its_tenants_address_under_its_rules_with_the_same_records() {
    let world = World::new();
    let (a, b) = (world.tenant("acme"), world.tenant("bolt"));
    let (allowed, echo, denied) = (
        Origin::http1(crate::support::HERE),
        TcpEcho::start(crate::support::HERE),
        Origin::http1(crate::support::HERE),
    );
    let rules = format!(
        "allow: [{{name: partner, cidr: 127.0.0.1, ports: [{}, {}]}}]",
        allowed.port(),
        echo.port()
    );
    // The other tenant may go elsewhere, and has an agent, too.
    let of_b = format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", denied.port());
    let (mut gateway, servers) = world.start(&(document(&a, &rules) + &document(&b, &of_b)));
    let (of_a, of_b) = (Cluster::start(&a, &servers, ""), Cluster::start(&b, &servers, ""));
    let url = |origin: &Origin| format!("http://{}/x", origin.address());

    of_a.becomes(&url(&allowed), 200);
    of_b.becomes(&url(&denied), 200);
    assert_eq!(of_a.get(&url(&denied)).unwrap().0, 403);
    assert_eq!(of_b.get(&url(&allowed)).unwrap().0, 403);
    assert!(allowed.seen().iter().all(|seen| seen.peer.ip() == a.address));
    assert!(denied.seen().iter().all(|seen| seen.peer.ip() == b.address));

    let (status, mut tunnel) = of_a.tunnel(echo.address());
    assert_eq!(status, 200);
    tunnel.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    tunnel.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    assert!(echo.peers().iter().all(|peer| peer.ip() == a.address));
    assert_eq!(of_a.tunnel(denied.address()).0, 403);
    // Neither the gateway nor another tenant is reached by way of it.
    assert_eq!(of_a.tunnel(b.http()).0, 403);
    assert_eq!(of_a.tunnel("169.254.169.254:80".parse().unwrap()).0, 403);

    let is_of_a = |line: &Value| line["tenant"] == "acme" && line["identity"] == "link:onprem";
    let line = decided(&gateway, |line| is_of_a(line) && line["rule"] == "partner").unwrap();
    assert!(line["verdict"] == "allowed", "{line}");
    let line = decided(&gateway, |line| is_of_a(line) && line["verdict"] == "denied").unwrap();
    assert!(line["rule"].is_string(), "{line}");

    // The rules are those of the moment.
    let tighter = rules.replace("partner, cidr: 127.0.0.1", "partner, cidr: 127.0.0.9");
    gateway.reload(
        &(document(&a, &tighter)
            + &document(&b, &format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", denied.port()))),
    );
    of_a.becomes(&url(&allowed), 403);
    assert_eq!(of_b.get(&url(&denied)).unwrap().0, 200);
    gateway.stop();
}

// S3.89+
#[test]
fn nothing_leaves_where_the_document_does_not_say_so_and_many_connections_at_once_do() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let origin = Origin::http1(crate::support::HERE);
    let rules = format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", origin.port());
    let granted = document(&tenant, &rules);
    let withdrawn = granted.replace("egress: true, ", "");
    let (mut gateway, servers) = world.start(&granted);
    let mut cluster = Cluster::start(&tenant, &servers, "");
    let url = format!("http://{}/slow/50", origin.address());
    cluster.becomes(&url, 200);

    let asking: Vec<_> = (0..60)
        .map(|_| {
            let (proxy, text) = (
                cluster.proxy,
                format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            );
            std::thread::spawn(move || request(proxy, &text).map(|(status, _)| status))
        })
        .collect();
    let statuses: Vec<_> = asking.into_iter().map(|one| one.join().unwrap()).collect();
    assert_eq!(statuses, [Some(200); 60]);

    std::fs::write(gateway.dir().join("gateway.yaml"), &withdrawn).unwrap();
    gateway.reload(&withdrawn);
    cluster.becomes(&url, 503);
    gateway.reload(&granted);
    cluster.becomes(&url, 200);

    // Streams that wait keep no agent from ending.
    cluster.child.signal(Signal::TERM);
    assert!(cluster.child.wait_blocking(DEADLINE).success(), "{}", cluster.child.output());
    drop(cluster.dir);
    gateway.stop();
}
