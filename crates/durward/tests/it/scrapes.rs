//! Series of idle and busy tenants over reloads, and scrapers that mean no good.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually_blocking, unique_loopback};
use serde_json::Value;

use crate::support::{
    Answer, DEADLINE, Gateway, HERE, admin_address, get, nowhere, output, request, spawn, status,
    stdout, tenant,
};

/// Values by series of every tenant whose name begins with `prefix`, without those that are there only while they are above zero.
fn series(admin: SocketAddr, prefix: &str) -> BTreeMap<String, f64> {
    let (_, text) = get(admin, "/metrics").unwrap();
    let label = format!("{{tenant=\"{prefix}");
    let samples = text.lines().filter(|line| !line.starts_with('#') && line.contains(&label));
    let of_use = ["durward_egress_ports_used", "durward_memory_tenant_bytes"];
    let samples = samples.filter(|line| !of_use.iter().any(|name| line.starts_with(name)));
    let parsed = samples.map(|line| line.rsplit_once(' ').unwrap());
    parsed.map(|(key, value)| (key.to_owned(), value.parse().unwrap())).collect()
}

fn reload(admin: SocketAddr) {
    let post =
        format!("POST /config/reload HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    assert_eq!(request(admin, &post).map(|(status, _)| status), Some(200));
}

#[test]
fn only_tenants_with_traffic_have_series_and_keep_them() {
    let (dir, admin, origin) = (TempDir::new(), admin_address(), Origin::http1(HERE));
    let at = SocketAddr::new(unique_loopback().into(), 8080);
    let busy = tenant("busy", at.ip(), at.port(), origin.address());
    dir.write("busy.yaml", &busy);
    for number in 0..40 {
        let text = tenant(&format!("idle-{number}"), unique_loopback().into(), 8080, nowhere());
        dir.write(format!("idle-{number}.yaml"), text);
    }
    let child = spawn(dir.path(), admin, &["--no-watch"]);
    let ready = eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200));
    assert!(ready, "{}", child.output());
    assert_eq!(series(admin, "busy"), BTreeMap::new(), "nobody has asked for it yet");

    assert_eq!(status(at, "/"), Some(200));
    let connections = "durward_connections_total{tenant=\"busy\"}";
    let active = "durward_connections_active{tenant=\"busy\"}";
    assert!(eventually_blocking(DEADLINE, || series(admin, "busy").get(active) == Some(&0.0)));
    let shown = series(admin, "busy");

    assert_eq!(series(admin, "idle"), BTreeMap::new());
    assert_eq!(shown[connections], 1.0);
    assert_eq!(shown["durward_isolation_violations_total{tenant=\"busy\"}"], 0.0);
    assert_eq!(shown["durward_upstream_endpoints{tenant=\"busy\",state=\"healthy\"}"], 1.0);
    assert!(shown.len() >= 24, "{shown:#?}");
    let keys = |series: &BTreeMap<String, f64>| series.keys().cloned().collect::<Vec<_>>();
    let told = || {
        let now = series(admin, "busy");
        (keys(&now), now[connections])
    };

    dir.write("busy.yaml", busy.replace("spec:", "spec:\n  limits: {connections: 50}"));
    reload(admin);
    assert_eq!(told(), (keys(&shown), 1.0), "a change of its document is no traffic");
    std::fs::remove_file(dir.join("busy.yaml")).unwrap();
    reload(admin);
    assert_eq!(status(at, "/"), None, "it is gone");
    let gone = series(admin, "busy");
    assert_eq!(gone[connections], 1.0, "what it did stays counted");
    dir.write("busy.yaml", &busy);
    reload(admin);
    assert_eq!(told(), (keys(&shown), 1.0), "it comes back as it was");
    assert!(eventually_blocking(DEADLINE, || status(at, "/") == Some(200)));
    assert!(eventually_blocking(DEADLINE, || series(admin, "busy").get(active) == Some(&0.0)));
    assert_eq!(told(), (keys(&shown), 2.0), "and counts on");
    assert_eq!(series(admin, "idle"), BTreeMap::new());

    let top = output(&["top", "--admin", &admin.to_string(), "-o", "json"]);
    let top: Value = serde_json::from_str(&stdout(&top)).unwrap();
    let tenants = top["tenants"].as_object().unwrap();
    assert_eq!(tenants.keys().collect::<Vec<_>>(), ["busy"]);
    assert_eq!(tenants["busy"]["connections"], 2);
}

#[test]
fn an_idle_tenant_whose_endpoint_fails_its_checks_is_seen() {
    let (dir, admin) = (TempDir::new(), admin_address());
    let check = "healthCheck: {tcp: true, interval: 200ms, timeout: 100ms, unhealthyAfter: 1}";
    let text = tenant("acme", unique_loopback().into(), 8080, nowhere());
    let text = text.replace("app: {endpoints", &format!("app: {{{check}, endpoints"));
    dir.write("acme.yaml", text);
    let child = spawn(dir.path(), admin, &[]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );

    let unhealthy = "durward_upstream_endpoints{tenant=\"acme\",state=\"unhealthy\"}";
    let is_seen = || series(admin, "acme").get(unhealthy) == Some(&1.0);

    assert!(eventually_blocking(DEADLINE, is_seen), "{:?}", series(admin, "acme"));
    let traffic = "durward_connections_total{tenant=\"acme\"}";
    assert!(!series(admin, "acme").contains_key(traffic), "its checks are no traffic");
}

#[test]
fn sixty_four_scrapers_that_pipeline_are_all_answered_in_order() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &[]);
    let admin = gateway.admin;
    let asked = [
        ("GET", "/metrics"),
        ("HEAD", "/metrics"),
        ("HEAD", "/snapshot"),
        ("GET", "/snapshot?kind=binds"),
        ("GET", "/livez"),
    ];
    let one = |last: bool| -> String {
        let close = if last { "Connection: close\r\n" } else { "" };
        let line = |(at, (method, path)): (usize, &(&str, &str))| {
            let close = if at + 1 == asked.len() { close } else { "" };
            format!("{method} {path} HTTP/1.1\r\nHost: {admin}\r\n{close}\r\n")
        };
        asked.iter().enumerate().map(line).collect()
    };
    let all: String = (0..6).map(|round| one(round == 5)).collect();

    // A connection of the gateway's own test is closed by now: all places are free.
    let mut clients: Vec<_> = (0..64).map(|_| TcpStream::connect(admin).unwrap()).collect();
    for client in &mut clients {
        client.set_read_timeout(Some(DEADLINE * 4)).unwrap();
        client.write_all(all.as_bytes()).unwrap();
    }
    for mut client in clients {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        let mut rest = &bytes[..];
        for (method, path) in (0..6).flat_map(|_| asked) {
            let (answer, after) = Answer::read(rest, method == "HEAD").expect(path);
            assert_eq!(answer.status, 200, "{method} {path}");
            let body = String::from_utf8(answer.body).unwrap();
            match (method, path) {
                ("HEAD", _) => assert!(answer.head.starts_with("http/1.1 200"), "{}", answer.head),
                (_, "/metrics") => assert!(body.ends_with("# EOF\n")),
                (_, "/livez") => assert_eq!(body, "ok\n"),
                _ => assert!(serde_json::from_str::<Value>(&body).unwrap()["binds"].is_object()),
            }
            rest = after;
        }
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(rest));
    }
    assert_eq!(gateway.get("/").map(|(status, _)| status), Some(200));
}

#[test]
fn a_scrape_by_http_1_0_is_whole_and_the_connection_ends() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &[]);

    for method in ["GET", "HEAD"] {
        let mut client = TcpStream::connect(gateway.admin).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(client, "{method} /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", gateway.admin).unwrap();
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();

        let (answer, rest) = Answer::read(&bytes, method == "HEAD").unwrap();
        assert_eq!(answer.status, 200);
        assert!(!answer.head.contains("transfer-encoding"), "{}", answer.head);
        assert_eq!(answer.body.ends_with(b"# EOF\n"), method == "GET");
        assert!(rest.is_empty());
    }
}
