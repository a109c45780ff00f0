//! What a gateway says of itself is what holds: readiness, snapshot, metrics, log, `explain`, `check` and `nat list`.

use std::net::SocketAddr;

use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually_blocking, free_port, unique_loopback};
use serde_json::Value;

use crate::support::{
    DEADLINE, Gateway, HERE, admin_address, get, nowhere, output, request, spawn, status, stderr,
    stdout, tenant,
};

/// An address that no host has.
const ABSENT: &str = "192.0.2.77";

fn verbose(admin: SocketAddr) -> String {
    get(admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default()
}

fn snapshot(admin: SocketAddr) -> Value {
    serde_json::from_str(&get(admin, "/snapshot").unwrap().1).unwrap()
}

fn metrics(admin: SocketAddr) -> String {
    get(admin, "/metrics").unwrap().1
}

#[test]
fn trouble_of_one_tenant_is_shown_everywhere_and_leaves_the_others_ready() {
    let origin = Origin::http1(HERE);
    let (dir, admin) = (TempDir::new(), admin_address());
    let (good, bad) = (unique_loopback(), unique_loopback());
    dir.write("acme.yaml", tenant("acme", good.into(), 8080, origin.address()));
    let cut_off = tenant("globex", bad.into(), 8080, origin.address());
    let egress = format!("egress: {{addresses: [{bad}]}}");
    assert!(cut_off.contains(&egress), "{cut_off}");
    dir.write(
        "globex.yaml",
        cut_off.replace(&egress, &format!("egress: {{addresses: [{ABSENT}]}}")),
    );
    dir.write("broken.yaml", "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: broken}\nspec: {ingres: []}\n");

    let child = spawn(dir.path(), admin, &[]);
    let ready = || status(admin, "/readyz") == Some(200);
    assert!(eventually_blocking(DEADLINE, ready), "{}", child.output());

    assert_eq!(get(admin, "/readyz").unwrap().1, "ok\n");
    let text = verbose(admin);
    for line in [
        "[!]egress warning: 1 of 2 addresses on this host\n",
        "    globex: 192.0.2.77 is not on this host: every request and tunnel of the tenant is refused",
        "[!]documents warning: 2 of 3 accepted\n",
        "    broken: Tenant broken is rejected: ",
        "readyz check passed\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let of = |name: &str| get(admin, &format!("/readyz?tenant={name}")).unwrap();
    assert_eq!(of("acme"), (200, "ok\n".to_owned()));
    let (code, why) = of("globex");
    assert!(code == 503 && why.starts_with("globex: 192.0.2.77 is not on this host"), "{why}");
    assert_eq!((of("broken").0, of("%0a").0), (404, 404));
    let told = snapshot(admin);
    assert_eq!(told["ready"], true, "{told}");
    assert_eq!(told["tenantConditions"]["globex"][0]["kind"], "egress_address", "{told}");
    assert_eq!(told["tenantConditions"]["globex"][0]["subject"], ABSENT);
    assert!(told["tenantConditions"]["acme"].is_null(), "{told}");
    let told = metrics(admin);
    for sample in [
        "durward_problems{tenant=\"globex\",kind=\"egress_address\"} 1\n",
        "durward_problems{tenant=\"broken\",kind=\"document\"} 1\n",
        "durward_ready 1\n",
    ] {
        assert!(told.contains(sample), "{sample}: {told}");
    }
    // One error for the broken document; one warning for the absent address.
    let served = child.wait_for_line_blocking("configuration served", DEADLINE);
    assert!(served.contains("\"problems\":1") && served.contains("\"warnings\":1"), "{served}");
    assert_eq!(get(SocketAddr::from((bad, 8080)), "/").unwrap().0, 503);
    assert_eq!(get(SocketAddr::from((good, 8080)), "/").unwrap().0, 200);
}

#[test]
fn warnings_are_counted_as_often_as_they_are_logged() {
    let (dir, admin) = (TempDir::new(), admin_address());
    let open = |name: &str, egress: &str| {
        let at = unique_loopback();
        let egress = if egress.is_empty() { at.to_string() } else { egress.to_owned() };
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  egress:\n    \
             addresses: [{egress}]\n    allow: [{{host: bank.example}}]\n    proxy: [{{address: {at}, port: 3128}}]\n"
        )
    };
    dir.write("acme.yaml", open("acme", ""));
    dir.write("globex.yaml", open("globex", ABSENT));

    let child = spawn(dir.path(), admin, &[]);
    let served = child.wait_for_line_blocking("configuration served", DEADLINE);

    let output = child.output();
    let before = output.split("configuration served").next().unwrap();
    let said = |line: &&str| {
        line.contains("WARN") && (line.contains("ProxyOpen") || line.contains("egress address"))
    };
    assert_eq!(before.lines().filter(said).count(), 3, "{output}");
    assert!(served.contains("\"problems\":0") && served.contains("\"warnings\":3"), "{served}");
    assert!(eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)));
    let text = verbose(admin);
    assert!(text.contains("[+]documents ok: 2 of 2 accepted, 2 warnings\n"), "{text}");
}

#[test]
fn check_shows_each_warning_of_a_certificate_that_validate_shows() {
    let dir = TempDir::new();
    let address = unique_loopback();
    let authority = Authority::new("servers");
    for name in ["first", "second"] {
        let certificate = CertSpec::new().ip(address).server();
        authority.issue(&certificate).write(dir.path(), name);
    }
    let document = tenant("acme", address.into(), 8443, nowhere());
    let certificates =
        "protocol: HTTPS, certificate: {file: first}, certificates: [{file: second}]";
    dir.write("acme.yaml", document.replace("protocol: HTTP", certificates));
    let config = dir.path().to_str().unwrap();

    let validated = output(&["validate", "-c", config]);
    let checked = output(&["check", "-c", config, "--timeout", "1s"]);

    for shown in [stdout(&validated), stdout(&checked)] {
        assert!(shown.contains("names no host, so no SNI ever chooses it"), "{shown}");
    }
}

#[test]
fn a_gateway_that_can_refuse_only_is_not_ready() {
    let (dir, admin) = (TempDir::new(), admin_address());
    let address = unique_loopback();
    let document = tenant("acme", address.into(), 8080, nowhere());
    let egress = format!("egress: {{addresses: [{address}]}}");
    dir.write(
        "acme.yaml",
        document.replace(&egress, &format!("egress: {{addresses: [{ABSENT}]}}")),
    );

    let child = spawn(dir.path(), admin, &[]);

    let refuses = || get(admin, "/readyz").is_some_and(|(status, _)| status == 503);
    assert!(eventually_blocking(DEADLINE, refuses), "{}", child.output());
    assert!(verbose(admin).contains("[-]egress failed: no tenant has an egress address"));
    assert_eq!(status(admin, "/healthcheck"), Some(503));
    assert_eq!(status(admin, "/livez"), Some(200));
}

#[test]
fn an_upstream_that_fails_or_does_not_resolve_is_shown() {
    let (dir, admin) = (TempDir::new(), admin_address());
    let (dead, nameless) = (unique_loopback(), unique_loopback());
    let at = |ip| SocketAddr::from((ip, 8080));
    dir.write("dead.yaml", tenant("dead", dead.into(), 8080, nowhere()));
    let named = tenant("nameless", nameless.into(), 8080, nowhere());
    dir.write("nameless.yaml", named.replace(&nowhere_in(&named), "no-such-name.invalid:80"));
    let child = spawn(dir.path(), admin, &[]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );

    let shown = |line: &str, at: SocketAddr| {
        let told = eventually_blocking(DEADLINE, || {
            get(at, "/");
            verbose(admin).contains(line)
        });
        assert!(told, "{line}: {}", verbose(admin));
    };

    shown("is failing", at(dead));
    shown("no-such-name.invalid:80 is unresolved", at(nameless));
    assert!(verbose(admin).contains("[!]upstreams warning: 0 of 2 with a usable endpoint"));
    assert!(
        metrics(admin)
            .contains("durward_upstream_endpoints{tenant=\"nameless\",state=\"unresolved\"} 1")
    );
    assert_eq!(status(admin, "/readyz"), Some(200));
}

/// The endpoint that a document names.
fn nowhere_in(document: &str) -> String {
    document.split("endpoints: [\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn a_log_that_cannot_be_written_is_shown() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &["--access-log", "/dev/full"]);

    let shown = eventually_blocking(DEADLINE, || {
        gateway.get("/");
        verbose(gateway.admin).contains("    file sink of the access log cannot be written")
    });

    assert!(shown, "{}", verbose(gateway.admin));
    assert!(
        metrics(gateway.admin).contains("durward_log_failing{log=\"access\",sink=\"file\"} 1\n")
    );
    assert_eq!(status(gateway.admin, "/readyz"), Some(200));
}

#[test]
fn explain_names_rejected_documents_and_asks_the_running_gateway() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &["--no-watch"]);
    gateway.dir.write("acme.yaml", "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {ingres: []}\n");
    let admin = gateway.admin;
    let post =
        format!("POST /config/reload HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    assert_eq!(request(admin, &post).unwrap().0, 200);
    let (config, at) = (gateway.dir.path().to_str().unwrap(), gateway.listener.to_string());
    let (running, expected) = (
        format!("--running={admin}"),
        format!("served,tenant=acme,egress={}", gateway.listener.ip()),
    );

    let by_files = output(&["explain", "-c", config, &at, "--expect", "served"]);
    let by_gateway = output(&["explain", &running, &at, "--expect", &expected]);
    let mistaken =
        output(&["explain", &running, &at, "--expect", "refused:no_route,egress=192.0.2.1"]);
    let unanswered = output(&["explain", "--running=127.0.0.1:1", &at]);

    assert_eq!(by_files.status.code(), Some(1), "{}", stdout(&by_files));
    assert!(
        stderr(&by_files).contains("expected served, but it is refused tenant_not_found"),
        "{}",
        stderr(&by_files)
    );
    assert!(stdout(&by_files).contains("Tenant acme: rejected: "), "{}", stdout(&by_files));
    assert!(
        stdout(&by_files).contains("acme.yaml:4: spec.ingres is not known"),
        "{}",
        stdout(&by_files)
    );
    assert_eq!(by_gateway.status.code(), Some(0), "{}{}", stdout(&by_gateway), stderr(&by_gateway));
    assert!(stdout(&by_gateway).contains("SERVED by app"), "{}", stdout(&by_gateway));
    assert!(
        stdout(&by_gateway).contains("by the running gateway, generation "),
        "{}",
        stdout(&by_gateway)
    );
    assert!(stdout(&by_gateway).contains("rejected, last good kept"), "{}", stdout(&by_gateway));
    assert_eq!(mistaken.status.code(), Some(1));
    assert_eq!(stderr(&mistaken).lines().count(), 2, "{}", stderr(&mistaken));
    assert_eq!(unanswered.status.code(), Some(4), "{}", stderr(&unanswered));
}

#[test]
fn a_question_to_the_running_gateway_is_bounded_and_changes_nothing() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &[]);
    let admin = gateway.admin;
    let ask = |body: &str| {
        let head = format!(
            "POST /explain HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        );
        let length = body.len();
        request(admin, &format!("{head}Content-Length: {length}\r\n\r\n{body}"))
            .map(|(status, _)| status)
    };

    assert_eq!(ask("{}"), Some(422));
    assert_eq!(ask("junk"), Some(400));
    assert!(matches!(ask(&format!("{{\"path\":\"{}\"}}", "x".repeat(100_000))), Some(413) | None));
    assert_eq!(status(admin, "/explain"), Some(405), "only POST");
    assert_eq!(snapshot(admin)["generation"], 1);
}

#[test]
fn explain_and_the_proxy_agree_on_the_host() {
    let origin = Origin::http1(HERE);
    let (dir, admin) = (TempDir::new(), admin_address());
    let (plain, secure) = (unique_loopback(), unique_loopback());
    Authority::new("servers")
        .issue(&CertSpec::new().ip(secure).dns("other.example").server())
        .write(dir.path(), "tls");
    let hosts =
        |text: String| text.replace("{pathPrefix: /,", "{pathPrefix: /, hosts: [app.example],");
    dir.write("plain.yaml", hosts(tenant("plain", plain.into(), 8080, origin.address())));
    let https = hosts(tenant("secure", secure.into(), 8443, origin.address()));
    dir.write(
        "secure.yaml",
        https.replace("protocol: HTTP,", "protocol: HTTPS, certificate: {file: tls},"),
    );
    let child = spawn(dir.path(), admin, &[]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );
    let config = dir.path().to_str().unwrap();
    let explain = |address: String, more: &[&str]| {
        let text = stdout(&output(&[&["explain", "-c", config, &address][..], more].concat()));
        text.lines().next().unwrap_or_default().to_owned()
    };

    let at = SocketAddr::from((plain, 8080));
    for (host, code, ending) in [
        ("app.example", 200, "SERVED by app"),
        ("app.example.", 200, "SERVED by app"),
        ("APP.example:8080", 200, "SERVED by app"),
        ("other.example", 404, "REFUSED no_route"),
    ] {
        let asked = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (answered, _) = request(at, &asked).unwrap();
        let told = explain(at.to_string(), &["--host", host]);
        assert_eq!(answered, code, "{host}");
        assert!(told.ends_with(ending), "{host}: {told}");
    }
    let told =
        explain(format!("{secure}:8443"), &["--sni", "other.example", "--host", "app.example"]);
    assert!(told.ends_with("REFUSED misdirected"), "{told}");
}

#[test]
fn check_compares_the_running_gateway_with_the_files() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &["--no-watch"]);
    let (config, admin) = (gateway.dir.path().to_str().unwrap(), gateway.admin.to_string());
    let check = || stdout(&output(&["check", "-c", config, "--admin", &admin, "--timeout", "1s"]));

    let same = check();
    let listener = gateway.listener;
    let other = tenant("acme", listener.ip(), listener.port(), nowhere());
    let new = tenant("globex", unique_loopback().into(), 8080, origin.address());
    gateway.dir.write("acme.yaml", other);
    gateway.dir.write("globex.yaml", new);
    let edited = check();

    assert!(same.contains("√ it serves the configuration of the files"), "{same}");
    for line in [
        "‼ tenant acme is served as something else than the files say",
        "‼ tenant globex is in the files and not served",
    ] {
        assert!(edited.contains(line), "{line}: {edited}");
    }
    assert!(!edited.contains("it serves the configuration of the files"), "{edited}");
}

#[test]
fn nat_list_without_interfaces_asks_and_says_whom() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &[]);
    let admin = gateway.admin.to_string();

    let asked = output(&["nat", "list", "--admin", &admin]);
    let unanswered = output(&["nat", "list", "--admin", "127.0.0.1:1"]);

    assert_eq!(asked.status.code(), Some(4), "{}", stdout(&asked));
    assert!(stderr(&asked).contains("carries nothing in the kernel"), "{}", stderr(&asked));
    assert_eq!(unanswered.status.code(), Some(4));
    assert!(stderr(&unanswered).contains("--admin"), "{}", stderr(&unanswered));
}

// Issue 10, point 4.
#[test]
fn a_socket_at_all_addresses_serves_nobody_at_an_address_of_another() {
    let origin = Origin::http1(HERE);
    let (dir, admin) = (TempDir::new(), admin_address());
    let [theirs, out, mine, nobodys] = std::array::from_fn(|_| unique_loopback());
    let everywhere = free_port([0, 0, 0, 0]);
    let v = tenant("v", theirs.into(), 8080, origin.address());
    dir.write(
        "v.yaml",
        v.replace(&format!("addresses: [{theirs}]"), &format!("addresses: [{out}]")),
    );
    let x = tenant("x", mine.into(), 80, origin.address());
    let listen = format!(
        "listen: {{address: 0.0.0.0, port: {everywhere}, destination: Port}}, protocol: HTTP,"
    );
    dir.write("x.yaml", x.replace("protocol: HTTP,", &listen));
    let child = spawn(dir.path(), admin, &[]);
    let ready = || status(admin, "/readyz") == Some(200);
    assert!(eventually_blocking(DEADLINE, ready), "{}", child.output());

    let config = dir.path().to_str().unwrap();
    for (address, served) in [(mine, true), (nobodys, true), (theirs, false), (out, false)] {
        let at = SocketAddr::from((address, everywhere));
        let answer = request(at, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let told = stdout(&output(&["explain", "-c", config, &at.to_string()]));

        assert_eq!(answer.is_some_and(|(code, _)| code == 200), served, "{at}: {}", child.output());
        assert_eq!(told.contains("SERVED by"), served, "{at}: {told}");
        assert_eq!(told.contains("is an address of tenant v"), !served, "{at}: {told}");
    }
}
