//! A gateway and its registry of routes: what programs register over REST, and what is served of it.

use std::net::SocketAddr;

use durward_link::control::Token;
use durward_model::link::TokenDigest;
use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::world::{HTTP, LINK};
use crate::support::{
    DEADLINE, HERE, admin_address, durward, output, request, spawn, status, stdout,
};

/// A link of a tenant, by token.
pub(super) struct Link {
    pub(super) tenant: &'static str,
    pub(super) token: &'static str,
    pub(super) hosts: &'static str,
}

/// A gateway in a process of its own, and its tenants.
pub(super) struct Registering {
    pub(super) child: Child,
    pub(super) dir: TempDir,
    pub(super) servers: Authority,
    /// Address of the first tenant; the others follow.
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
    /// False to keep no state.
    state: bool,
}

pub(super) fn digest(token: &str) -> TokenDigest {
    TokenDigest::new(Token::new(token.to_owned()).digest())
}

/// Document of a tenant whose routes are all registered.
pub(super) fn document(link: &Link, address: SocketAddr, tokens: &[&str]) -> String {
    let Link { tenant, hosts, .. } = link;
    let ip = address.ip();
    let tokens = tokens.iter().map(|token| format!("'sha256:{}'", digest(token)));
    let tokens = tokens.collect::<Vec<_>>().join(", ");
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {tenant}}}\nspec:\n  ingress:\n  \
         - {{address: {ip}, port: {HTTP}, protocol: HTTP, linkRoutes: [onprem]}}\n  \
         - {{address: {ip}, port: {LINK}, protocol: LINK, certificate: {{file: {tenant}-link}}, \
         links: [{{name: onprem, tokens: [{tokens}], cluster: abc-123, hosts: [{hosts}], maxRoutes: 20}}]}}\n  \
         egress: {{addresses: [{ip}]}}\n"
    )
}

impl Registering {
    pub(super) fn start(links: &[Link]) -> Self {
        Self::start_keeping(links, true)
    }

    fn start_keeping(links: &[Link], state: bool) -> Self {
        Self::start_as(links, state, "maxRoutes: 20")
    }

    /// Starts a gateway whose links may register another number of routes.
    pub(super) fn start_with(links: &[Link], most: &str) -> Self {
        Self::start_as(links, true, most)
    }

    fn start_as(links: &[Link], state: bool, most: &str) -> Self {
        let (dir, servers) = (TempDir::new(), Authority::new("servers"));
        std::fs::create_dir(dir.join("documents")).unwrap();
        let mut addresses = Vec::new();
        for link in links {
            let address = SocketAddr::new(unique_loopback().into(), HTTP);
            let identity = servers.issue(&CertSpec::new().ip(address.ip()).server());
            identity.write(dir.join("documents"), &format!("{}-link", link.tenant));
            let text = document(link, address, &[link.token]).replace("maxRoutes: 20", most);
            std::fs::write(dir.join(format!("documents/{}.yaml", link.tenant)), text).unwrap();
            addresses.push(address);
        }
        let admin = admin_address();
        let child = Self::run(&dir, admin, state);
        let gateway = Self { child, dir, servers, addresses, admin, state };
        gateway.wait_ready();
        gateway
    }

    fn run(dir: &TempDir, admin: SocketAddr, keeps_state: bool) -> Child {
        let state = dir.join("state");
        let state = ["--state-dir", state.to_str().unwrap()];
        spawn(&dir.join("documents"), admin, if keeps_state { &state } else { &[] })
    }

    fn wait_ready(&self) {
        let ready = || status(self.admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE, ready), "{}", self.child.output());
    }

    pub(super) fn address(&self, tenant: usize) -> SocketAddr {
        self.addresses[tenant]
    }

    pub(super) fn link(&self, tenant: usize) -> SocketAddr {
        SocketAddr::new(self.addresses[tenant].ip(), LINK)
    }

    /// Replaces a tenant's document.
    pub(super) fn write(&self, link: &Link, tenant: usize, tokens: &[&str]) {
        let text = document(link, self.addresses[tenant], tokens);
        let (path, next) =
            (self.dir.join(format!("documents/{}.yaml", link.tenant)), self.dir.join("next"));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, path).unwrap();
    }

    /// Ends the gateway without a word, and starts another on the same state.
    fn crash(&mut self) {
        self.child.kill();
        self.start_again();
    }

    pub(super) fn start_again(&mut self) {
        self.admin = admin_address();
        self.child = Self::run(&self.dir, self.admin, self.state);
        self.wait_ready();
    }

    /// Sends a request of JSON with a token.
    pub(super) fn call(
        &self,
        tenant: usize,
        token: &str,
        operation: &str,
        body: &Value,
    ) -> (u16, Value) {
        let head = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.send(tenant, ("POST", operation), &head, &body.to_string())
    }

    /// Sends a call for the tunnels of the first tenant's cluster.
    pub(super) fn tunnels(
        &self,
        token: &str,
        (method, rest): (&str, &str),
        body: &str,
    ) -> (u16, Value) {
        let head = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.send_to(0, (method, &format!("/api/v1/clusters/agent/{rest}")), &head, body)
    }

    fn send(
        &self,
        tenant: usize,
        (method, operation): (&str, &str),
        head: &str,
        body: &str,
    ) -> (u16, Value) {
        let path = format!("/api/v1/gateway/routes/{operation}");
        self.send_to(tenant, (method, &path), head, body)
    }

    fn send_to(
        &self,
        tenant: usize,
        (method, path): (&str, &str),
        head: &str,
        body: &str,
    ) -> (u16, Value) {
        let length = format!("Content-Length: {}\r\n", body.len());
        let length =
            if head.contains("ength: ") || head.contains("Transfer") { "" } else { &length };
        let text = format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\n{head}{length}\r\n{body}");
        let address = self.link(tenant);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let config = client_config(&self.servers, None);
            let connected = RawHttp::connect_tls(address, None, config, None).await.unwrap();
            connected.deadline(DEADLINE).exchange(text).await.unwrap()
        });
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        (answer.status, body)
    }

    /// Returns the status of a request for a host at a tenant's listener.
    pub(super) fn served(&self, tenant: usize, host: &str) -> Option<u16> {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        request(self.addresses[tenant], &text).map(|(status, _)| status)
    }

    /// Waits until a host is served, or not: without an agent a route answers 503, and no route 404.
    fn becomes(&self, tenant: usize, host: &str, status: u16) {
        let is = || self.served(tenant, host) == Some(status);
        let shown = || (self.served(tenant, host), self.child.output());
        assert!(eventually_blocking(DEADLINE, is), "{host}: {:?}", shown());
    }
}

pub(super) const ACME: Link =
    Link { tenant: "acme", token: "token-of-acme", hosts: "'*.example.com'" };
const BOLT: Link = Link { tenant: "bolt", token: "token-of-bolt", hosts: "'*.example.com'" };

/// The body of the original's manual, with another host.
fn body(host: &str) -> Value {
    json!({"hostname": host, "cluster_uuid": "abc-123", "namespace": "default", "service_name": "my-app",
           "service_port": 8080, "ingress_name": "my-app", "path": "/", "path_type": "Prefix", "tls": false,
           "public_endpoint": "203.0.113.45:80", "routing_mode": "direct"})
}

// S3.4 S3.29 S3.34 S3.35 S3.37 S3.49
#[test]
fn a_route_is_served_once_it_is_registered_survives_a_crash_and_is_its_holders_alone() {
    let mut gateway = Registering::start(&[ACME, BOLT]);
    let host = "my-app.example.com";
    assert_eq!(gateway.served(0, host), Some(404));

    let (status, answer) = gateway.call(0, ACME.token, "register", &body(host));
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");
    gateway.becomes(0, host, 503);
    assert_eq!(gateway.served(1, host), Some(404), "not at another tenant's address");
    assert_eq!(gateway.call(1, BOLT.token, "register", &body(host)).0, 409);

    gateway.crash();
    assert_eq!(gateway.served(0, host), Some(503), "it is served from the first request on");
    assert_eq!(gateway.call(1, BOLT.token, "register", &body(host)).0, 409, "and still held");

    let name = json!({"hostname": host});
    assert_eq!(gateway.call(0, ACME.token, "unregister", &name).0, 200);
    gateway.becomes(0, host, 404);
    assert_eq!(gateway.call(0, ACME.token, "unregister", &name).0, 404);
    let (status, answer) = gateway.call(1, BOLT.token, "register", &body(host));
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("host_released")));

    // The operator gives the name to the other tenant.
    gateway.write(&Link { hosts: "other.example.com", ..ACME }, 0, &[ACME.token]);
    let taken = || gateway.call(1, BOLT.token, "register", &body(host)).0 == 200;
    assert!(eventually_blocking(DEADLINE, taken));
    gateway.becomes(1, host, 503);
    gateway.child.signal(Signal::TERM);
    assert!(gateway.child.wait_blocking(DEADLINE).success(), "{}", gateway.child.output());
}

// S3.31
#[test]
fn requests_are_answered_with_the_status_that_says_what_is_wrong() {
    let gateway = Registering::start(&[ACME, BOLT]);
    let good = body("a.example.com").to_string();
    let token = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let json = "Content-Type: application/json\r\n";
    let with = |head: &str| token(ACME.token) + json + head;
    let many = format!("[{}]", "1,".repeat(3 << 20));
    let register = ("POST", "register");
    let cases = [
        (200, register, with(""), good.as_str()),
        (
            200,
            register,
            token(ACME.token) + "content-type: Application/JSON; charset=utf-8\r\n",
            &good,
        ),
        (400, register, with(""), "{"),
        (401, register, json.to_owned(), &good),
        (401, register, token("other") + json, &good),
        (401, register, token(BOLT.token) + json, &good),
        (401, register, format!("Authorization: Basic {}\r\n{json}", ACME.token), &good),
        (401, register, token(ACME.token) + &token(ACME.token) + json, &good),
        (404, ("POST", "remove"), with(""), &good),
        (404, ("POST", "register/x"), with(""), &good),
        (405, ("GET", "register"), with(""), ""),
        (411, register, with("Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
        (411, register, with("Content-Length: +5\r\n"), "12345"),
        (413, register, with(""), &many),
        (413, register, with("Content-Length: 99999999999999999999999\r\n"), ""),
        (415, register, token(ACME.token), &good),
        (415, register, token(ACME.token) + "Content-Type: text/plain\r\n", &good),
    ];
    for (number, (expected, what, head, body)) in cases.iter().enumerate() {
        let (status, answer) = gateway.send(0, *what, head, body);
        assert_eq!(status, *expected, "case {number}: {answer}");
        assert!(
            *expected == 200 || !answer["error"]["message"].is_null(),
            "case {number}: {answer}"
        );
    }
    let other = json!({"hostname": "a.example.com", "cluster_uuid": "other"});
    assert_eq!(gateway.call(0, ACME.token, "unregister", &other).0, 403);
    assert_eq!(gateway.call(0, ACME.token, "register", &body("a.example.org")).0, 403);
    let log = gateway.child.output();
    assert!(!log.contains(ACME.token) && !log.contains(BOLT.token), "{log}");
}

// S3.31+
#[test]
fn floods_of_registrations_of_one_link_are_bounded_and_cost_no_other_link() {
    let gateway = Registering::start(&[ACME, BOLT]);
    let head =
        format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", ACME.token);
    let long = format!("[{}]", "1,".repeat((2 << 20) - 8));
    let flood = || (0..6).map(|_| gateway.send(0, ("POST", "sync"), &head, &long).0).collect();

    let statuses: Vec<Vec<u16>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });

    let statuses = statuses.concat();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(statuses.iter().all(|status| [400, 429, 503].contains(status)), "{statuses:?}");
    assert_eq!(gateway.call(1, BOLT.token, "register", &body("b.example.com")).0, 200);
}

// S3.37+
#[test]
fn a_registration_survives_a_hand_over_without_a_state_directory() {
    let mut gateway = Registering::start_keeping(&[ACME, BOLT], false);
    let host = "a.example.com";
    assert_eq!(gateway.call(0, ACME.token, "register", &body(host)).0, 200);
    gateway.becomes(0, host, 503);

    gateway.child.signal(Signal::USR2);
    let line = gateway.child.wait_for_line_blocking("the new process serves", DEADLINE);
    assert!(gateway.child.wait_blocking(DEADLINE * 2).success(), "{}", gateway.child.output());

    let served = gateway.served(0, host);
    let taken = gateway.call(1, BOLT.token, "register", &body(host)).0;
    let again = gateway.call(0, ACME.token, "register", &body("b.example.com")).0;
    crate::state_dir::end(&line);
    assert_eq!((served, taken, again), (Some(503), 409, 200));
}

// S3.37+
#[test]
fn a_disk_that_fails_and_a_damaged_file_cost_no_served_route_and_no_other_link() {
    let mut gateway = Registering::start(&[ACME, BOLT]);
    for (tenant, link, host) in [(0, &ACME, "a.example.com"), (1, &BOLT, "b.example.com")] {
        assert_eq!(gateway.call(tenant, link.token, "register", &body(host)).0, 200);
        gateway.becomes(tenant, host, 503);
    }
    let file = gateway.dir.join("state/links/acme+onprem.json");
    let good = std::fs::read(&file).unwrap();

    // A directory stands where the file belongs, so nothing can take its place.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let (status, answer) = gateway.call(0, ACME.token, "register", &body("c.example.com"));
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("not_stored")), "{answer}");
    assert_eq!(gateway.served(0, "a.example.com"), Some(503), "the route is there, its agent not");
    assert_eq!(gateway.call(1, BOLT.token, "register", &body("d.example.com")).0, 200);
    std::fs::remove_dir(&file).unwrap();
    let stored = || gateway.call(0, ACME.token, "register", &body("c.example.com")).0 == 200;
    assert!(eventually_blocking(DEADLINE, stored), "{}", gateway.child.output());

    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    gateway.crash();
    assert_eq!(gateway.served(1, "b.example.com"), Some(503));
    assert_eq!(gateway.served(0, "a.example.com"), Some(404));
    let log = gateway.child.output();
    assert!(log.contains("claims of a link are damaged"), "{log}");
    assert_eq!(gateway.call(0, ACME.token, "register", &body("e.example.com")).0, 200);

    // The operator restores it.
    let aside = gateway.dir.join("state/links/acme+onprem.json.damaged");
    assert_eq!(std::fs::read(&aside).unwrap(), good[..good.len() / 2]);
    gateway.child.kill();
    std::fs::write(&file, &good).unwrap();
    gateway.start_again();
    assert_eq!(gateway.served(0, "a.example.com"), Some(503));
}

// S3.56+ S3.73+
#[test]
fn what_an_agent_said_is_registered_once_the_document_grants_it() {
    let gateway = Registering::start(&[Link { hosts: "", ..ACME }]);
    let (origin, dir) = (Origin::http1(HERE), TempDir::new());
    gateway.servers.write(dir.path(), "servers");
    let (at, backend) = (gateway.link(0), origin.address());
    let text = format!(
        "link: onprem\ngateways: ['tls://{at}']\ncaFile: servers.crt\ntokenFile: token\nallow: ['{backend}']\n\
         routes: [{{host: a.example.com, target: '{backend}'}}]\n"
    );
    std::fs::write(dir.join("token"), ACME.token).unwrap();
    let config = dir.write("agent.yaml", text);
    let (config, admin) = (config.to_str().unwrap(), admin_address());
    let agent =
        Child::spawn(durward(&["agent", "run", "-c", config, "--admin", &admin.to_string()]));
    let ready = || status(admin, "/readyz") == Some(200);
    assert!(eventually_blocking(DEADLINE, ready), "{}", agent.output());
    assert_eq!(gateway.served(0, "a.example.com"), Some(404));

    gateway.write(&ACME, 0, &[ACME.token]);

    gateway.becomes(0, "a.example.com", 200);
    let explain = || {
        let (running, at) = (format!("--running={}", gateway.admin), gateway.address(0));
        stdout(&output(&["explain", &running, &at.to_string(), "--host", "a.example.com"]))
    };
    let explained = explain();
    assert!(explained.contains("SERVED") && explained.contains("onprem is up"), "{explained}");
    drop(agent);
    let says = || explain().contains("onprem has no carrier: run `durward agent status`");
    assert!(eventually_blocking(DEADLINE, says), "{}", explain());
    assert!(explain().contains("REFUSED link_absent"), "{}", explain());
}

// S3.83+
#[test]
fn a_token_that_is_taken_out_of_the_document_is_refused_within_seconds_and_its_successor_is_not() {
    let gateway = Registering::start(&[ACME]);
    let call = |token: &str| gateway.call(0, token, "register", &body("a.example.com")).0;
    assert_eq!(call(ACME.token), 200);
    assert_eq!(call("its-successor"), 401);

    gateway.write(&ACME, 0, &[ACME.token, "its-successor"]);
    assert!(eventually_blocking(DEADLINE, || call("its-successor") == 200));
    assert_eq!(call(ACME.token), 200, "both are good meanwhile");
    gateway.write(&ACME, 0, &["its-successor"]);

    assert!(eventually_blocking(DEADLINE, || call(ACME.token) == 401));
    assert_eq!(call("its-successor"), 200);
}

// S3.33+
#[test]
fn names_that_the_document_takes_back_are_not_served_and_free_for_others() {
    let gateway = Registering::start(&[ACME, BOLT]);
    let host = "a.example.com";
    let all = json!({"cluster_uuid": "abc-123", "ingresses": [{"namespace": "shop", "ingress_name": "a", "rules": [
        {"host": host, "tls": false, "paths": [{"path": "/", "path_type": "Prefix", "service_name": "app", "service_port": 80}]},
        {"host": "b.example.com", "tls": false, "paths": [{"path": "/", "path_type": "Prefix", "service_name": "app", "service_port": 80}]},
    ]}]});
    assert_eq!(gateway.call(0, ACME.token, "sync", &all).1["routes"], json!(2));
    gateway.becomes(0, host, 503);

    gateway.write(&Link { hosts: "b.example.com", ..ACME }, 0, &[ACME.token]);

    gateway.becomes(0, host, 404);
    assert_eq!(gateway.served(0, "b.example.com"), Some(503), "the other is");
    let taken = || gateway.call(1, BOLT.token, "register", &body(host)).0 == 200;
    assert!(eventually_blocking(DEADLINE, taken));
    assert_eq!(gateway.call(1, BOLT.token, "register", &body("b.example.com")).0, 409);
    let (status, answer) = gateway.call(0, ACME.token, "sync", &all);
    assert_eq!(
        (status, &answer["routes"]),
        (403, &json!(1)),
        "the name is not theirs any more: {answer}"
    );
}
