//! `/snapshot`: its parameters, readers that take their time, and configurations that change while it is read.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::{
    Answer, DEADLINE, admin_address, get, nowhere, request, spawn, status, tenant,
};

/// Routes of the large tenant: several megabytes of answer.
const ROUTES: usize = 15_000;

struct World {
    dir: TempDir,
    admin: SocketAddr,
    child: Child,
}

impl World {
    /// A gateway with these documents that reads them again only when it is asked to.
    fn start(documents: &[(&str, String)]) -> Self {
        let (dir, admin) = (TempDir::new(), admin_address());
        for (name, text) in documents {
            dir.write(format!("{name}.yaml"), text);
        }
        let child = spawn(dir.path(), admin, &["--no-watch"]);
        let ready = eventually_blocking(DEADLINE * 4, || status(admin, "/readyz") == Some(200));
        assert!(ready, "{}", child.output());
        Self { dir, admin, child }
    }

    fn reload(&self) {
        let host = self.admin;
        let post =
            format!("POST /config/reload HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(request(host, &post).map(|(status, _)| status), Some(200));
    }

    fn ask(&self, query: &str) -> (u16, String) {
        get(self.admin, &format!("/snapshot{query}")).unwrap()
    }

    fn json(&self, query: &str) -> Value {
        let (status, text) = self.ask(query);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A client with a small window that has asked for everything, and reads only the head.
    fn slow_reader(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.admin.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let host = self.admin;
        write!(stream, "GET /snapshot HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        stream
    }

    fn of_process(&self, file: &str, key: &str) -> u64 {
        let status = format!("/proc/{}/{file}", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// A tenant on an address of its own.
fn small(name: &str) -> (&str, String) {
    (name, tenant(name, unique_loopback().into(), 8080, nowhere()))
}

fn large(name: &str) -> (&str, String) {
    let address = unique_loopback();
    let mut text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  \
           upstreams:\n    app: {{endpoints: [\"{}\"]}}\n  egress: {{addresses: [{address}]}}\n  \
           ingress:\n    - address: {address}\n      port: 8080\n      protocol: HTTP\n      routes:\n",
        nowhere()
    );
    for number in 0..ROUTES {
        text +=
            &format!("        - {{pathPrefix: /a-rather-long-prefix/{number}, upstream: app}}\n");
    }
    (name, text)
}

/// Sets a flag when it is dropped.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_tenant_and_kinds_narrow_the_snapshot() {
    let broken = ("broken", small("broken").1.replace("ingress", "ingres"));
    let world = World::start(&[small("acme"), small("globex"), broken]);
    let all = world.json("");
    let whole = [
        "version",
        "generation",
        "ready",
        "draining",
        "binds",
        "connections",
        "upstreams",
        "accepted",
        "rejected",
        "tenants",
        "tenantConditions",
        "conditions",
        "digests",
        "logs",
    ];
    assert_eq!(keys(&all), whole.into());
    assert_eq!(keys(&all["tenants"]), ["acme", "globex"].into());

    let one = world.json("?tenant=acme");

    let its = [
        "version",
        "generation",
        "binds",
        "connections",
        "upstreams",
        "accepted",
        "rejected",
        "tenants",
        "tenantConditions",
        "digests",
    ];
    assert_eq!(keys(&one), its.into());
    assert_eq!(one["tenants"], serde_json::json!({"acme": all["tenants"]["acme"]}));
    assert_eq!(keys(&one["connections"]), ["acme"].into());
    assert_eq!(
        one["digests"]["tenants"],
        serde_json::json!({"acme": all["digests"]["tenants"]["acme"]})
    );
    assert_eq!(one["binds"].as_object().unwrap().len(), 1);
    assert_eq!(one["upstreams"].as_array().unwrap().len(), 1);
    assert_eq!(one["accepted"].as_array().unwrap().len(), 1);
    assert_eq!(one["accepted"][0]["name"], "acme");
    assert!(one["rejected"].as_array().unwrap().is_empty());

    assert_eq!(keys(&world.json("?kind=binds")), ["version", "generation", "binds"].into());
    assert_eq!(world.json("?kind=binds")["binds"], all["binds"]);
    let two = world.json("?kind=rejected,tenants&tenant=broken");
    assert_eq!(keys(&two), ["version", "generation", "rejected", "tenants"].into());
    assert_eq!(two["rejected"][0]["name"], "broken", "a tenant that is not served has a verdict");
    assert!(keys(&two["tenants"]).is_empty());
}

#[test]
fn a_rejected_mapping_is_shown_with_its_own_tenant_and_no_other() {
    let text = "apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {name: web}\nspec: {tenant: acme, addresses: [nowhere], endpoints: [10.0.0.1], ports: [{port: 80}]}\n";
    let world = World::start(&[small("acme"), small("globex"), ("web", text.to_owned())]);

    let rejected = |tenant: &str| {
        let part = world.json(&format!("?kind=rejected&tenant={tenant}"));
        let names = part["rejected"].as_array().unwrap().iter();
        names.map(|verdict| verdict["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rejected("acme"), ["web"]);
    assert!(rejected("globex").is_empty());
}

#[test]
fn unknown_tenants_kinds_and_parameters_are_refused_with_a_sentence() {
    let world = World::start(&[small("acme"), small("globex")]);

    let (status, sentence) = world.ask("?kind=tenant");
    assert_eq!(status, 400);
    assert!(sentence.contains("tenants, tenantConditions, conditions, digests"), "{sentence}");
    for (query, code) in [
        ("?tenant=nobody", 404),
        ("?tenant=nobody&kind=binds", 404),
        ("?tenant=%2e%2e%2f", 404),
        ("?tenant=acme&tenant=globex", 400),
        ("?tenat=acme", 400),
        ("?kind=", 400),
    ] {
        let (status, sentence) = world.ask(query);
        assert_eq!(status, code, "{query}");
        assert!(sentence.trim_end().len() > 20 && sentence.ends_with('\n'), "{sentence}");
    }
}

#[test]
fn slow_readers_cost_neither_memory_nor_anybody_elses_answer() {
    let world = World::start(&[large("acme"), small("globex")]);
    let answer = world.ask("").1.len() as u64;
    assert!(answer > 5_000_000, "{answer} bytes");
    let threads = world.of_process("status", "Threads");
    let before = world.of_process("status", "VmRSS");

    let readers: Vec<_> = (0..24).map(|_| world.slow_reader()).collect();
    for _ in 0..3 {
        assert_eq!(status(world.admin, "/livez"), Some(200));
        assert_eq!(status(world.admin, "/metrics"), Some(200));
        assert_eq!(keys(&world.json("?tenant=globex")["tenants"]), ["globex"].into());
    }
    assert_eq!(world.ask("").1.len() as u64, answer, "and a reader that reads gets all");

    let grown = world.of_process("status", "VmRSS").saturating_sub(before) * 1024;
    assert!(grown < 8 * answer, "{grown} bytes more for 24 readers of {answer} each");
    drop(readers);
    let gone = || world.of_process("status", "Threads") <= threads + 2;
    assert!(eventually_blocking(DEADLINE, gone), "{threads} threads before");
}

#[test]
fn a_snapshot_that_is_read_during_a_change_is_of_one_configuration() {
    let world = World::start(&[large("acme"), small("globex")]);
    let generation = world.json("?kind=binds")["generation"].clone();
    let mut reader = world.slow_reader();

    std::fs::remove_file(world.dir.join("acme.yaml")).unwrap();
    let (name, text) = small("initech");
    world.dir.write(format!("{name}.yaml"), text);
    world.reload();
    assert_eq!(keys(&world.json("?kind=tenants")["tenants"]), ["globex", "initech"].into());
    let mut rest = b"HTTP/1.1 200 OK".to_vec();
    reader.read_to_end(&mut rest).unwrap();

    let (answer, _) = Answer::read(&rest, false).expect("a whole answer");
    let old: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(old["generation"], generation);
    for part in [&old["tenants"], &old["connections"], &old["digests"]["tenants"]] {
        assert_eq!(keys(part), ["acme", "globex"].into());
    }
    let routes = &old["tenants"]["acme"]["listeners"][0];
    assert!(routes.to_string().contains(&format!("/a-rather-long-prefix/{}\"", ROUTES - 1)));
}

#[test]
fn snapshots_during_reloads_are_consistent() {
    let names: Vec<String> = (0..12).map(|number| format!("tenant-{number}")).collect();
    let documents: Vec<_> = names.iter().map(|name| small(name)).collect();
    let world = World::start(&documents);
    let (stop, mut seen) = (AtomicBool::new(false), BTreeSet::new());

    std::thread::scope(|scope| {
        // The other thread ends also where this one fails.
        let stops = Stops(&stop);
        let reloading = scope.spawn(|| {
            let mut round = 0;
            while !stop.load(SeqCst) {
                let (name, text) = &documents[round % documents.len()];
                if round / documents.len() % 2 == 0 {
                    std::fs::remove_file(world.dir.join(format!("{name}.yaml"))).unwrap();
                } else {
                    world.dir.write(format!("{name}.yaml"), text);
                }
                // One tenant is always there: a gateway without any is another matter.
                if round % documents.len() == documents.len() - 2 {
                    round += 1;
                }
                world.reload();
                round += 1;
            }
        });
        for _ in 0..200 {
            let snapshot = world.json("");
            seen.insert(snapshot["generation"].as_u64().unwrap());
            let tenants = keys(&snapshot["tenants"]);
            assert_eq!(keys(&snapshot["connections"]), tenants);
            assert_eq!(keys(&snapshot["digests"]["tenants"]), tenants);
            let of = |part: &str, field: &str| -> BTreeSet<String> {
                let rows = snapshot[part].as_array().unwrap().iter();
                rows.map(|row| row[field].as_str().unwrap().to_owned()).collect()
            };
            let tenants: BTreeSet<String> = tenants.into_iter().map(str::to_owned).collect();
            assert_eq!(of("upstreams", "tenant"), tenants);
            assert_eq!(of("accepted", "name"), tenants);
            assert_eq!(snapshot["binds"].as_object().unwrap().len(), tenants.len());
        }
        drop(stops);
        reloading.join().unwrap();
    });

    assert!(seen.len() > 5, "only {} configurations were seen", seen.len());
}

#[test]
fn old_clients_read_the_snapshot_to_the_end_of_the_connection() {
    let world = World::start(&[small("acme")]);

    let mut stream = TcpStream::connect(world.admin).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET /snapshot HTTP/1.0\r\nHost: {}\r\n\r\n", world.admin).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();

    let (answer, rest) = Answer::read(&bytes, false).unwrap();
    assert!(!answer.head.contains("transfer-encoding"), "{}", answer.head);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(keys(&body["tenants"]), ["acme"].into());
    assert!(rest.is_empty());
    // It is sent as it is made to those that can read that.
    let (mut stream, host) = (TcpStream::connect(world.admin).unwrap(), world.admin);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET /snapshot HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    bytes.clear();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(Answer::read(&bytes, false).unwrap().0.head.contains("transfer-encoding: chunked"));
}
