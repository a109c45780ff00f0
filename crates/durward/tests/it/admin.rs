//! The admin interface: liveness, readiness, metrics, what is served, and who may not ask.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually_blocking, unique_loopback};
use serde_json::Value;

use crate::support::{
    DEADLINE, Gateway, HERE, admin_address, get, nowhere, request, spawn, status, tenant,
};

// S1.43 S1.47 S1.52
#[test]
fn ready_when_it_serves_and_not_while_it_drains() {
    let origin = Origin::http1(HERE);
    let mut gateway = Gateway::start(origin.address(), &["--drain-grace", "20s"]);
    let (admin, listener) = (gateway.admin, gateway.listener);
    assert_eq!(status(admin, "/livez"), Some(200));
    let (_, verbose) = get(admin, "/readyz?verbose").unwrap();
    for line in
        ["[+]configuration ok", "[+]listeners ok: 1 of 1 bound", "[+]draining ok", "[+]files ok"]
    {
        assert!(verbose.contains(line), "{verbose}");
    }

    // A slow answer keeps the process draining.
    let slow = std::thread::spawn(move || get(listener, "/slow/3000"));
    assert!(eventually_blocking(DEADLINE, || origin.requests() == 1));
    gateway.child.terminate();

    assert!(eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(503)));
    assert_eq!(status(admin, "/livez"), Some(200));
    assert!(get(admin, "/readyz").unwrap().1.contains("[-]draining failed"));
    assert_eq!(slow.join().unwrap().map(|(status, _)| status), Some(200));
    assert!(gateway.child.wait_blocking(DEADLINE).success());
}

// S1.43
#[test]
fn not_ready_while_no_listener_can_be_bound() {
    let taken = std::net::TcpListener::bind((unique_loopback(), 8080)).unwrap();
    let (dir, admin) = (TempDir::new(), admin_address());
    let at = taken.local_addr().unwrap();
    dir.write("acme.yaml", tenant("acme", at.ip(), at.port(), nowhere()));

    let _child = spawn(dir.path(), admin, &[]);

    assert!(eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(503)));
    assert!(get(admin, "/readyz").unwrap().1.contains("[-]listeners failed"));
    drop(taken);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "it is bound once it is free"
    );
}

// S1.51
#[test]
fn metrics_are_openmetrics_with_closed_labels() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &[]);
    for path in ["/", "/status/404", "/a-path-nobody-else-asks-for"] {
        gateway.get(path).unwrap();
    }

    let (status, text) = get(gateway.admin, "/metrics").unwrap();

    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    assert!(text.contains("durward_requests_total{tenant=\"acme\",code_class=\"2xx\"}"), "{text}");
    assert!(text.contains("durward_config_last_reload_success 1\n"), "{text}");
    // Of addresses only those that documents name as egress are told.
    let told = text.lines().filter(|line| !line.starts_with("durward_egress_ports_used{"));
    let told: String = told.collect();
    assert!(!told.contains("nobody-else") && !told.contains(&gateway.listener.ip().to_string()));
    let families: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(families.len() > 15);
    assert_eq!(
        families.iter().collect::<BTreeSet<_>>().len(),
        families.len(),
        "a family is declared once"
    );
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let name = sample.split(['{', ' ']).next().unwrap();
        assert!(families.iter().any(|family| name.starts_with(family)), "{sample}");
        assert!(sample.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{sample}");
    }
}

// S1.21 S1.61 S1.63
#[test]
fn a_bad_edit_keeps_what_was_served_and_is_shown() {
    let origin = Origin::http1(HERE);
    let mut gateway = Gateway::start(origin.address(), &["--no-watch"]);
    gateway.dir.write("acme.yaml", "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {ingres: []}\n");

    let post = format!(
        "POST /config/reload HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        gateway.admin
    );
    let (status, answer) = request(gateway.admin, &post).unwrap();

    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["accepted"], false);
    assert!(
        answer["findings"][0].as_str().unwrap().contains("acme.yaml:4: spec.ingres is not known"),
        "{answer}"
    );
    assert_eq!(gateway.get("/").unwrap().0, 200, "the last good configuration is served");
    assert!(
        get(gateway.admin, "/metrics")
            .unwrap()
            .1
            .contains("durward_config_last_reload_success 0\n")
    );
    let snapshot = get(gateway.admin, "/snapshot").unwrap().1;
    let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
    assert_eq!(snapshot["rejected"][0]["outcome"], "KeptLastGood");
    assert_eq!(snapshot["binds"][gateway.listener.to_string()], "bound");
    assert!(gateway.child.is_running());
    gateway.child.wait_for_line_blocking("is not known", DEADLINE);
}

// S1.52
#[test]
fn the_snapshot_has_no_secrets() {
    let authority = durward_testkit::certificates::Authority::new("root");
    let identity =
        authority.issue(&durward_testkit::certificates::CertSpec::new().ip([127, 0, 0, 1]));
    let (dir, admin) = (TempDir::new(), admin_address());
    let files = identity.write(dir.path(), "acme");
    let key = std::fs::read_to_string(&files.key).unwrap();
    let listener = SocketAddr::new(unique_loopback().into(), 8443);
    dir.write(
        "acme.yaml",
        tenant("acme", listener.ip(), listener.port(), nowhere())
            .replace("protocol: HTTP,", "protocol: HTTPS, ipSan: Warn, certificate: {file: acme},"),
    );
    let child = spawn(dir.path(), admin, &[]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );

    let (_, snapshot) = get(admin, "/snapshot").unwrap();

    assert!(snapshot.contains("\"fingerprint\""), "{snapshot}");
    let secret = key.lines().nth(1).unwrap();
    assert!(
        !snapshot.contains("PRIVATE")
            && !snapshot.contains(secret)
            && !snapshot.contains("\"der\"")
    );
    assert!(!child.output().contains(secret));
}

#[test]
fn web_pages_and_tenants_are_turned_away() {
    let admin = admin_address();
    let listener = SocketAddr::new(unique_loopback().into(), 8080);
    let dir = TempDir::new();
    // A tenant that points its upstream at our own admin interface.
    dir.write("evil.yaml", tenant("evil", listener.ip(), listener.port(), admin));
    let child = spawn(dir.path(), admin, &[]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );

    let asked = |host: &str, more: &str, method: &str, path: &str| {
        let text =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
        request(admin, &text).map(|(status, _)| status)
    };
    let own = admin.to_string();

    assert_eq!(asked(&own, "", "GET", "/snapshot"), Some(200));
    assert_eq!(asked("localhost:9440", "", "GET", "/snapshot"), Some(200));
    assert_eq!(asked("rebound.example:9440", "", "GET", "/snapshot"), Some(403));
    assert_eq!(
        asked(&own, "Origin: https://evil.example\r\n", "POST", "/config/reload"),
        Some(403)
    );
    assert_eq!(asked(&own, "X-Forwarded-For: 192.0.2.1\r\n", "GET", "/metrics"), Some(403));
    assert_eq!(status(listener, "/snapshot"), Some(403), "through the tenant");
}

// S1.53
#[test]
fn the_access_log_is_one_json_object_per_request() {
    let origin = Origin::http1(HERE);
    let log = TempDir::new();
    let path = log.join("access.log");
    let gateway = Gateway::start(origin.address(), &[]);
    drop(gateway);
    let mut gateway = Gateway::start(origin.address(), &["--access-log", path.to_str().unwrap()]);

    gateway.get("/hello").unwrap();
    gateway.child.terminate();
    assert!(gateway.child.wait_blocking(DEADLINE).success());

    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let flat = line.to_string();
    for wanted in
        ["\"acme\"", "/hello", &gateway.listener.ip().to_string(), &origin.address().to_string()]
    {
        assert!(flat.contains(wanted), "{wanted} in {flat}");
    }
}

// S1.43
#[test]
fn a_drain_delay_keeps_accepting_while_not_ready() {
    let origin = Origin::http1(HERE);
    let mut gateway = Gateway::start(origin.address(), &["--drain-delay", "2s"]);

    gateway.child.terminate();

    assert!(eventually_blocking(DEADLINE, || status(gateway.admin, "/readyz") == Some(503)));
    assert_eq!(gateway.get("/").map(|(status, _)| status), Some(200));
    assert!(gateway.child.wait_blocking(Duration::from_secs(20)).success());
}

#[test]
fn a_flood_of_connections_keeps_neither_descriptors_nor_the_operator_out() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &[]);
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", gateway.child.id())).unwrap().count();
    let before = descriptors();

    let silent: Vec<_> =
        (0..400).filter_map(|_| std::net::TcpStream::connect(gateway.admin).ok()).collect();

    assert!(silent.len() > 300, "{} are open here", silent.len());
    for _ in 0..20 {
        assert_eq!(status(gateway.admin, "/livez"), Some(200));
        assert_eq!(gateway.get("/").map(|(status, _)| status), Some(200));
    }
    let few = || descriptors() <= before + 100;
    assert!(eventually_blocking(DEADLINE, few), "{before}, then {}", descriptors());
    // Those that say nothing are closed in the end, so that none is left even without a flood.
    let none = || descriptors() <= before + 10;
    assert!(eventually_blocking(DEADLINE, none), "{before}, then {}", descriptors());
}

#[test]
fn without_documents_the_gateway_waits_for_the_first() {
    let (dir, admin, address) = (TempDir::new(), admin_address(), unique_loopback());
    let mut child = spawn(dir.path(), admin, &[]);

    assert!(eventually_blocking(DEADLINE, || status(admin, "/livez") == Some(200)));
    let (code, said) = get(admin, "/readyz?verbose").unwrap();
    assert_eq!(code, 503);
    assert!(said.contains("no tenant is served"), "{said}");
    dir.write("acme.yaml", tenant("acme", address.into(), 8080, nowhere()));

    let is_ready = || status(admin, "/readyz") == Some(200);
    assert!(eventually_blocking(DEADLINE, is_ready), "{}", child.output());
    assert!(status((address, 8080).into(), "/").is_some());
    child.terminate();
}

#[test]
fn on_all_addresses_the_admin_listener_refuses_at_tenants_addresses() {
    let (dir, address, other) = (TempDir::new(), unique_loopback(), unique_loopback());
    let port = durward_testkit::process::free_port([0, 0, 0, 0]);
    dir.write("acme.yaml", tenant("acme", address.into(), 8080, nowhere()));
    let mut child = spawn(dir.path(), ([0, 0, 0, 0], port).into(), &[]);
    let ask = |at: std::net::Ipv4Addr, path| status((at, port).into(), path);
    let is_ready = || ask(other, "/readyz") == Some(200);

    assert!(eventually_blocking(DEADLINE, is_ready), "{}", child.output());
    for path in ["/", "/livez", "/readyz", "/metrics", "/snapshot"] {
        assert_eq!(ask(address, path), Some(403), "{path}");
    }
    child.terminate();
}
