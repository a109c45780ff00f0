//! Direct routes: requests go to the public endpoint of a link's cluster while that is proven, and over the link otherwise.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::TestEnv;
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use serde_json::{Value, json};

use super::registry::{ACME, digest};
use super::world::{HTTP, LINK};
use crate::kubernetes::install;
use crate::support::{
    DEADLINE, HERE, admin_address, durward, get, output, request, spawn, status, stdout,
};

const HOST: &str = "a.example.com";
/// Token of another cluster of the tenant.
const SECOND: &str = "token-of-second";
/// Networks of the tests' endpoints, which the gateway's operator names.
const NAMED: [&str; 2] = ["--direct-networks", "127.0.0.0/8"];

/// A gateway in a process of its own, with a tenant whose registered routes may be direct.
struct Place {
    gateway: Child,
    admin: SocketAddr,
    address: IpAddr,
    /// Address of another tenant.
    other: IpAddr,
    _dir: TempDir,
    servers: Authority,
    /// Issues the certificates of ingress controllers.
    controllers: Authority,
}

impl Place {
    fn start(direct_routes: &str, more: &[&str]) -> Self {
        let fields = format!("directRoutes: {{{direct_routes}}}");
        Self::start_with(&fields, "", more)
    }

    /// Starts it with fields of its HTTP entry, and with more entries, in which `ADDRESS` stands for its address.
    fn start_with(fields: &str, entries: &str, more: &[&str]) -> Self {
        let (dir, servers, controllers) =
            (TempDir::new(), Authority::new("servers"), Authority::new("controllers"));
        let address = IpAddr::from(unique_loopback());
        std::fs::create_dir(dir.join("documents")).unwrap();
        let identity = servers.issue(&CertSpec::new().ip(address).server());
        identity.write(dir.join("documents"), "link");
        controllers.write(dir.join("documents"), "controllers");
        let second = digest(SECOND);
        let (digest, entries) =
            (digest(ACME.token), entries.replace("ADDRESS", &address.to_string()));
        let document = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  ingress:\n  \
             - {{address: {address}, port: {HTTP}, protocol: HTTP, linkRoutes: [onprem, second], {fields}}}\n  {entries}\
             - {{address: {address}, port: {LINK}, protocol: LINK, certificate: {{file: link}}, \
             links: [{{name: onprem, tokens: ['sha256:{digest}'], hosts: ['*.example.com']}}, \
             {{name: second, tokens: ['sha256:{second}'], hosts: [second.example.org]}}]}}\n  \
             egress: {{addresses: [{address}]}}\n"
        );
        std::fs::write(dir.join("documents/acme.yaml"), document).unwrap();
        let other = IpAddr::from(unique_loopback());
        let bolt = crate::support::tenant("bolt", other, HTTP, crate::support::nowhere());
        std::fs::write(dir.join("documents/bolt.yaml"), bolt).unwrap();
        let admin = admin_address();
        let gateway = spawn(&dir.join("documents"), admin, more);
        let ready = || status(admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE, ready), "{}", gateway.output());
        Self { gateway, admin, address, other, _dir: dir, servers, controllers }
    }

    fn ask(&self, host: &str) -> Option<(u16, String)> {
        ask((self.address, HTTP).into(), host)
    }

    /// Asks by HTTPS at the entry that carries TLS through. Only the cluster's certificates are trusted; the gateway has no key of them.
    fn fetch(&self, host: &str) -> Option<u16> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (at, config) =
                ((self.address, 8443).into(), client_config(&self.controllers, None));
            let connecting = RawHttp::connect_tls(at, None, config, Some(host));
            let mut client = tokio::time::timeout(DEADLINE, connecting).await.ok()?.ok()?;
            client.get(host, "/x").await.ok().map(|answer| answer.status)
        })
    }

    fn explain(&self) -> String {
        let (running, at) =
            (format!("--running={}", self.admin), format!("{}:{HTTP}", self.address));
        stdout(&output(&["explain", &running, &at, "--host", HOST]))
    }

    fn explains(&self, words: &str) {
        let says = || self.explain().contains(words);
        let shown = || format!("{}\n{}", self.explain(), self.gateway.output());
        assert!(eventually_blocking(DEADLINE * 2, says), "{words}\n{}", shown());
    }
}

fn ask(address: SocketAddr, host: &str) -> Option<(u16, String)> {
    request(address, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// Requests that are no proofs.
fn asked(origin: &Origin) -> usize {
    let is_proof = |agent: &str| agent == "durward-proof";
    origin.seen().iter().filter(|seen| !seen.header("user-agent").is_some_and(is_proof)).count()
}

/// A private cluster on the double of an API server, and its agent.
struct Cluster {
    runtime: tokio::runtime::Runtime,
    env: TestEnv,
    dir: TempDir,
    agent: Child,
    admin: SocketAddr,
}

impl Cluster {
    /// Starts an agent that reads the cluster if `more` of its file says so; `None` without a double.
    fn start(test: &str, place: &Place, more: &str) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let env = runtime.block_on(TestEnv::start());
        env.need_double(test)?;
        let dir = TempDir::new();
        place.servers.write(dir.path(), "servers");
        let kubeconfig = runtime.block_on(async {
            let kubeconfig = env.service_account("durward-agent").await;
            install(&env, "deploy/agent/base/rbac.yaml", env.namespace()).await;
            kubeconfig
        });
        std::fs::write(dir.join("kubeconfig"), kubeconfig).unwrap();
        std::fs::write(dir.join("token"), format!("{}\n", ACME.token)).unwrap();
        env.double().unwrap().clear_log();
        let config = dir.write("agent.yaml", Self::file(place, env.namespace(), more));
        let admin = admin_address();
        let agent = run(&config, admin, &[]);
        Some(Self { runtime, env, dir, agent, admin })
    }

    fn file(place: &Place, namespace: &str, more: &str) -> String {
        format!(
            "link: onprem\ngateways: ['wss://{}:{LINK}']\ncaFile: servers.crt\ntokenFile: token\nkubeconfig: kubeconfig\n\
             ingressControllers: [{namespace}/controller]\nofferPrivateEndpoint: true\nallow: [127.0.0.0/8]\ndrainGraceSeconds: 5\n{more}\n",
            place.address
        )
    }

    /// Replaces the end of the agent's file, which it reads again.
    fn edit(&self, place: &Place, more: &str) {
        self.dir.replace("agent.yaml", Self::file(place, self.env.namespace(), more));
    }

    /// An Ingress for the host of the tests, whose Service is a backend here.
    fn ingress(&self, backend: SocketAddr, annotations: &Value) {
        let namespace = self.env.namespace();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "app", "namespace": namespace},
            "spec": {"clusterIP": backend.ip().to_string(), "ports": [{"port": backend.port()}]},
        });
        let backend = json!({"service": {"name": "app", "port": {"number": backend.port()}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        let ingress = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "a", "namespace": namespace, "annotations": annotations},
            "spec": {"rules": [{"host": HOST, "http": {"paths": paths}}]},
        });
        let double = self.env.double().unwrap();
        double.put(&service);
        double.put(&ingress);
    }

    /// A Service with one port, which is that of a backend here.
    fn put_service(&self, name: &str, at: SocketAddr, port: &Value) {
        let mut port = port.clone();
        port["port"] = json!(at.port());
        self.env.double().unwrap().put(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": self.env.namespace()},
            "spec": {"clusterIP": at.ip().to_string(), "ports": [port]},
        }));
    }

    /// An Ingress for all paths of a host.
    fn put_ingress(&self, name: &str, host: &str, (service, port): (&str, u16), tls: &Value) {
        let backend = json!({"service": {"name": service, "port": {"number": port}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        self.env.double().unwrap().put(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": self.env.namespace()},
            "spec": {"tls": tls, "rules": [{"host": host, "http": {"paths": paths}}]},
        }));
    }

    /// The Service of the ingress controller, with these addresses.
    fn controller(&self, kind: &str, port: (&str, u16), addresses: &[IpAddr]) {
        let addresses: Vec<Value> =
            addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        self.env.double().unwrap().put(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "controller", "namespace": self.env.namespace()},
            "spec": {"type": kind, "clusterIP": "10.96.0.9", "ports": [{"name": port.0, "port": port.1}]},
            "status": {"loadBalancer": {"ingress": addresses}},
        }));
    }

    fn logs(&self, words: &str) {
        self.agent.wait_for_line_blocking(words, DEADLINE * 2);
    }

    fn status(&self) -> String {
        stdout(&output(&["agent", "status", "--admin", &self.admin.to_string()]))
    }

    fn shows(&self, words: &str) {
        let says = || self.status().contains(words);
        let shown = || format!("{}\n{}", self.status(), self.agent.output());
        assert!(eventually_blocking(DEADLINE, says), "{words}\n{}", shown());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.agent.kill();
        // The double's tasks live in it.
        let _ = &self.runtime;
    }
}

fn run(config: &std::path::Path, admin: SocketAddr, more: &[&str]) -> Child {
    let admin = admin.to_string();
    let arguments =
        ["--log-format", "json", "agent", "run", "-c", config.to_str().unwrap(), "--admin", &admin];
    let mut command = durward(&[&arguments[..], more].concat());
    command.env("RUST_LOG", "info,durward=debug");
    for name in [
        "ENABLE_INGRESS_SYNC",
        "PIPEOPS_TOKEN",
        "PIPEOPS_API_URL",
        "KUBERNETES_SERVICE_HOST",
        "HTTPS_PROXY",
    ] {
        command.env_remove(name);
    }
    Child::spawn(command)
}

/// Clients that ask without a pause; each answer must be 200.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut lost = Vec::new();
                while !stop.load(Relaxed) {
                    match ask(address, HOST) {
                        Some((200, _)) => drop(answered.fetch_add(1, Relaxed)),
                        other => lost.push(format!("{other:?}")),
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                lost
            })
        };
        let clients = (0..2).map(client).collect();
        Self { stop, answered, clients }
    }

    fn stop(self) {
        self.stop.store(true, Relaxed);
        let lost: Vec<String> =
            self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let answered = self.answered.load(Relaxed);
        assert!(answered > 0 && lost.is_empty(), "{answered} answered, lost: {lost:?}");
    }
}

/// A private cluster of the tenant's at the same gateway, which is served.
fn second_cluster(place: &Place) -> (Child, Origin, TempDir) {
    let (other, dir) = (Origin::http1(HERE), TempDir::new());
    place.servers.write(dir.path(), "servers");
    std::fs::write(dir.join("token"), SECOND).unwrap();
    let text = format!(
        "link: second\ngateways: ['tls://{}:{LINK}']\ncaFile: servers.crt\ntokenFile: token\nallow: [127.0.0.0/8]\n\
         routes: [{{host: second.example.org, target: '{}'}}]\n",
        place.address,
        other.address()
    );
    let second = run(&dir.write("agent.yaml", text), admin_address(), &[]);
    let served = || place.ask("second.example.org").is_some_and(|(status, _)| status == 200);
    assert!(eventually_blocking(DEADLINE, served), "{}", second.output());
    (second, other, dir)
}

// S3.70 S3.7 S3.11 S3.12+ S3.13 S3.14 S3.15 S3.16 S3.18 S3.20 S3.57 S3.69 S3.90
#[test]
fn a_cluster_that_gets_an_address_is_reached_directly_once_that_is_proven_and_over_the_link_before_and_after()
 {
    let place = Place::start("caFile: controllers.crt", &NAMED);
    let app = Origin::http1(HERE);
    let identity = place.controllers.issue(&CertSpec::new().dns(HOST).server());
    let controller = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    let sync = "enableIngressSync: true\nendpointWaitSeconds: 3600";
    let Some(cluster) = Cluster::start("direct routes", &place, sync) else { return };
    cluster.logs("Private cluster detected - using tunnel routing");
    cluster.shows("private because no Service of an ingress controller is there");
    let port = ("https", controller.address().port());

    // The load balancer has no address yet.
    cluster.controller("LoadBalancer", port, &[]);
    cluster.ingress(app.address(), &json!({}));
    cluster.logs("Waiting for the external address of the ingress controller");
    let served = || place.ask(HOST).is_some_and(|(status, _)| status == 200);
    assert!(eventually_blocking(DEADLINE * 2, served), "{}", cluster.agent.output());
    assert_eq!((asked(&app) > 0, asked(&controller)), (true, 0));
    let load = Load::start((place.address, HTTP).into());

    cluster.controller("LoadBalancer", port, &[controller.address().ip()]);
    cluster.logs("Public cluster detected - using direct routing");
    place.explains("requests go directly to");
    let is_direct = || {
        let before = asked(&app);
        let at = asked(&controller);
        eventually_blocking(DEADLINE, || asked(&controller) > at + 20) && asked(&app) == before
    };
    assert!(eventually_blocking(DEADLINE * 2, is_direct), "no request takes the link any more");
    let seen = controller.seen();
    let direct = seen.iter().find(|seen| seen.method == "GET").unwrap();
    assert_eq!(direct.header("host"), Some(HOST));
    assert!(
        direct.header("x-forwarded-for").is_some() && direct.header("x-forwarded-proto").is_some()
    );
    assert_eq!(direct.peer.ip(), place.address, "from the tenant's own address");
    cluster.shows("cluster: public, routing mode: direct, routes served: 1");
    let metrics = get(cluster.admin, "/metrics").unwrap().1;
    assert!(metrics.contains("gateway_routing_mode{mode=\"direct\"} 1"), "{metrics}");
    assert!(metrics.contains("gateway_cluster_type{type=\"public\"} 1"), "{metrics}");
    let metrics = get(place.admin, "/metrics").unwrap().1;
    assert!(
        metrics.contains("durward_link_direct_hosts{tenant=\"acme\",link=\"onprem\"} 1"),
        "{metrics}"
    );

    let _second = second_cluster(&place);
    place.explains("requests go directly to");

    // The endpoint is gone before anybody says so.
    controller.stop();
    let at = asked(&app);
    assert!(eventually_blocking(DEADLINE, || asked(&app) > at + 20), "{}", place.gateway.output());
    controller.restart();
    place.explains("requests go directly to");

    // The address is taken away.
    cluster.controller("NodePort", port, &[]);
    cluster.shows("is of type NodePort");
    place.explains("its agent offers no public endpoint");
    let at = asked(&app);
    assert!(eventually_blocking(DEADLINE, || asked(&app) > at + 20));
    load.stop();
}

// S3.32 S3.87 S3.90+
#[test]
fn an_endpoint_that_is_guarded_or_does_not_give_what_the_link_gives_is_not_used() {
    let app = Origin::http1(HERE);
    let place = Place::start("caFile: controllers.crt", &[]);
    let identity = place.controllers.issue(&CertSpec::new().dns(HOST).server());
    let controller = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    let Some(cluster) =
        Cluster::start("endpoints that are not used", &place, "enableIngressSync: true")
    else {
        return;
    };
    cluster.ingress(app.address(), &json!({}));
    cluster.controller(
        "LoadBalancer",
        ("https", controller.address().port()),
        &[controller.address().ip()],
    );

    // The operator named no network.
    place.explains("guard:loopback");
    assert_eq!(
        (place.ask(HOST).map(|(status, _)| status), controller.connections()),
        (Some(200), 0)
    );
    drop((cluster, place));

    let place = Place::start("caFile: controllers.crt", &NAMED);
    let identity = place.controllers.issue(&CertSpec::new().dns("other.example.com").server());
    let wrong_name = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    let identity = place.servers.issue(&CertSpec::new().dns(HOST).server());
    let wrong_authority = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    let identity = place.controllers.issue(&CertSpec::new().dns(HOST).server());
    let wrong_answer = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    wrong_answer.fail_with(404);
    let Some(cluster) =
        Cluster::start("endpoints that are not used", &place, "enableIngressSync: true")
    else {
        return;
    };
    cluster.ingress(app.address(), &json!({}));
    for (origin, words) in [
        (&wrong_name, "not valid for name"),
        (&wrong_authority, "UnknownIssuer"),
        (&wrong_answer, "answers 404 where the link answers 200"),
    ] {
        cluster.controller(
            "LoadBalancer",
            ("https", origin.address().port()),
            &[origin.address().ip()],
        );
        place.explains(&format!("not to {}", origin.address()));
        place.explains(words);
        assert_eq!(place.ask(HOST).map(|(status, _)| status), Some(200));
        assert_eq!(asked(origin), 0, "{words}");
    }
    // The gateway itself is no cluster.
    cluster.controller("LoadBalancer", ("https", LINK), &[place.address]);
    place.explains("guard:gateway");
    cluster.controller("LoadBalancer", ("https", HTTP), &[place.other]);
    place.explains("guard:other-tenant");
}

/// Leads requests by their host to a place, as an ingress controller does; others to the first.
fn controller(places: Vec<(&'static str, SocketAddr)>) -> SocketAddr {
    let listener = TcpListener::bind(HERE).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let places = places.clone();
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&head).to_lowercase();
                let has =
                    |place: &&(&str, SocketAddr)| text.contains(&format!("host: {}\r\n", place.0));
                let (_, at) = places.iter().find(has).unwrap_or(&places[0]);
                let mut server = TcpStream::connect(at).unwrap();
                let head =
                    String::from_utf8_lossy(&head).replacen("\r\n", "\r\nConnection: close\r\n", 1);
                server.write_all(head.as_bytes()).unwrap();
                let _ = std::io::copy(&mut server, &mut client);
            });
        }
    });
    address
}

// S3.90+ S3.68 S3.7+
#[test]
fn an_endpoint_without_tls_must_lead_to_the_agent_itself_and_the_link_can_be_forced() {
    let place = Place::start("plaintext: true", &NAMED);
    let app = Origin::http1(HERE);
    let proof = SocketAddr::new(unique_loopback().into(), 9442);
    let file = |more: &str| {
        format!(
            "enableIngressSync: true\nproof: {{listen: '{proof}', host: proof.invalid}}\n{more}"
        )
    };
    let Some(cluster) = Cluster::start("endpoints without TLS", &place, &file("")) else { return };
    let (behind, stranger) = (Origin::http1(HERE), Origin::http1(HERE));
    cluster.ingress(app.address(), &json!({}));

    // A stranger answers every request with 200.
    let strange = stranger.address();
    cluster.controller("LoadBalancer", ("http", strange.port()), &[strange.ip()]);
    place.explains("is not that of the link's agent");
    let of_cluster = controller(vec![("", behind.address()), ("proof.invalid", proof)]);
    assert_eq!(place.ask(HOST).map(|(status, _)| status), Some(200));
    assert_eq!((asked(&stranger), asked(&behind)), (0, 0));

    cluster.controller("LoadBalancer", ("http", of_cluster.port()), &[of_cluster.ip()]);
    place.explains("requests go directly to");
    assert!(eventually_blocking(DEADLINE, || place.ask(HOST).is_some() && asked(&behind) > 0));

    // One Ingress wants the link.
    cluster.ingress(app.address(), &json!({"durward.dev/routing-mode": "tunnel"}));
    let by_link = || {
        let before = asked(&app);
        place.ask(HOST).is_some_and(|(status, _)| status == 200) && asked(&app) > before
    };
    assert!(eventually_blocking(DEADLINE, by_link), "{}", place.explain());
    cluster.ingress(app.address(), &json!({}));
    place.explains("requests go directly to");

    // The agent's operator wants the link.
    cluster.edit(&place, &file("forceTunnel: true"));
    cluster.logs("forceTunnel is set, using tunnel routing");
    place.explains("its agent offers no public endpoint");
    cluster.shows("cluster: public, routing mode: tunnel");
    cluster.edit(&place, &file("dual: true"));
    cluster.shows("cluster: public, routing mode: dual");
    place.explains("requests go directly to");
}

/// Returns true if a process has a socket of TCP or UDP.
fn has_sockets(process: u32) -> bool {
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    let open: Vec<String> = links
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|path| {
            Some(path.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    ["tcp", "tcp6", "udp", "udp6"].iter().any(|table| {
        let table = std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap();
        let inodes = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9));
        inodes.into_iter().any(|inode| open.iter().any(|own| own == inode))
    })
}

// S3.1 S3.10
#[test]
fn an_agent_with_nothing_switched_on_does_nothing_and_the_switch_is_obeyed_while_it_runs() {
    let place = Place::start("", &[]);
    let app = Origin::http1(HERE);
    let Some(mut cluster) = Cluster::start("an agent that is off", &place, "") else { return };
    cluster.agent.kill();
    cluster.agent = run_without_admin(&cluster.dir.join("agent.yaml"));
    cluster.ingress(app.address(), &json!({}));
    cluster.logs("nothing is switched on, so nothing is dialled");
    for _ in 0..20 {
        assert!(!has_sockets(cluster.agent.id()), "{}", cluster.agent.output());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(cluster.env.double().unwrap().log().len(), 0);
    assert_eq!(place.ask(HOST).map(|(status, _)| status), Some(404));

    cluster.edit(&place, "enableIngressSync: true");
    let is = |status: u16| {
        let is = || place.ask(HOST).map(|(status, _)| status) == Some(status);
        assert!(eventually_blocking(DEADLINE * 2, is), "{status}\n{}", cluster.agent.output());
    };
    is(200);
    cluster.edit(&place, "enableIngressSync: false");
    is(404);
    cluster.edit(&place, "agent: {enable_ingress_sync: true}");
    is(200);
}

fn run_without_admin(config: &std::path::Path) -> Child {
    let mut command = durward(&[
        "--log-format",
        "json",
        "agent",
        "run",
        "-c",
        config.to_str().unwrap(),
        "--admin",
        "off",
    ]);
    for name in [
        "ENABLE_INGRESS_SYNC",
        "PIPEOPS_TOKEN",
        "PIPEOPS_API_URL",
        "KUBERNETES_SERVICE_HOST",
        "HTTPS_PROXY",
    ] {
        command.env_remove(name);
    }
    Child::spawn(command)
}

// S3.88 S3.51
#[test]
fn tls_is_carried_through_to_the_cluster_by_name_and_spoken_to_backends_that_say_so() {
    let carrying = "- {address: ADDRESS, port: 8443, protocol: TLS, linkRoutes: [onprem]}\n  ";
    let place = Place::start_with("backendTls: {caFile: controllers.crt}", carrying, &[]);
    let identity = place.controllers.issue(&CertSpec::new().dns(HOST).server());
    let controller = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    let Some(cluster) = Cluster::start("TLS in the cluster", &place, "enableIngressSync: true")
    else {
        return;
    };
    let namespace = cluster.env.namespace().to_owned();
    let name = format!("app.{namespace}.svc.cluster.local");
    let identity = place.controllers.issue(&CertSpec::new().dns(&name).server());
    let app = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    let identity = place.servers.issue(&CertSpec::new().dns(&name).server());
    let other = Origin::tls(HERE, &identity, None, &["http/1.1"]);
    cluster.put_service("controller", controller.address(), &json!({"name": "https"}));
    cluster.put_service("app", app.address(), &json!({"appProtocol": "https"}));
    cluster.put_ingress(
        "a",
        HOST,
        ("app", app.port()),
        &json!([{"hosts": [HOST], "secretName": "a"}]),
    );
    cluster.put_ingress("b", "b.example.com", ("app", app.port()), &json!([]));

    let carried = || place.fetch(HOST) == Some(200);
    assert!(
        eventually_blocking(DEADLINE * 2, carried),
        "{}\n{}",
        cluster.agent.output(),
        place.gateway.output()
    );
    assert_eq!(controller.seen()[0].header("host"), Some(HOST));
    assert_eq!(place.fetch("b.example.com"), None, "it is not in spec.tls");

    // Its backend says that it takes TLS, and is verified by the Service's name.
    for host in [HOST, "b.example.com"] {
        let served = || place.ask(host).is_some_and(|(status, _)| status == 200);
        assert!(eventually_blocking(DEADLINE, served), "{host}: {:?}", place.ask(host));
    }
    assert!(asked(&app) >= 2);
    cluster.put_service("other", other.address(), &json!({"appProtocol": "https"}));
    cluster.put_ingress("c", "c.example.com", ("other", other.port()), &json!([]));
    let refused = || {
        place
            .ask("c.example.com")
            .is_some_and(|(status, body)| status == 502 && body.contains("upstream_tls"))
    };
    assert!(eventually_blocking(DEADLINE, refused), "{:?}", place.ask("c.example.com"));
    // The port alone says nothing.
    let plain = Origin::http1(HERE);
    cluster.put_service("plain", plain.address(), &json!({"name": "https-like"}));
    cluster.put_ingress("d", "d.example.com", ("plain", plain.port()), &json!([]));
    let served = || place.ask("d.example.com").is_some_and(|(status, _)| status == 200);
    assert!(eventually_blocking(DEADLINE, served), "{:?}", place.ask("d.example.com"));
}

// S3.28 S3.62
#[test]
fn two_hundred_changes_of_ingresses_at_once_converge() {
    let place = Place::start_with("allowedSources: [127.0.0.0/8]", "", &[]);
    let Some(cluster) = Cluster::start("many changes", &place, "enableIngressSync: true") else {
        return;
    };
    let origins = [Origin::http1(HERE), Origin::http1(HERE)];
    let namespace = cluster.env.namespace().to_owned();
    let double = cluster.env.double().unwrap();
    for (name, origin) in ["one", "two"].iter().zip(&origins) {
        double.put(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": origin.address().ip().to_string(), "ports": [{"port": origin.port()}]}}));
    }
    // Of any controller, and of none.
    let classes = [json!("nginx"), json!("traefik"), json!("haproxy"), Value::Null];
    let put = |number: usize, to: usize| {
        let (name, port) = (["one", "two"][to], origins[to].port());
        let backend = json!({"service": {"name": name, "port": {"number": port}}});
        double.put(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": format!("i{number}"), "namespace": namespace},
            "spec": {"ingressClassName": classes[number % 4], "rules": [{"host": format!("h{number}.example.com"),
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}));
    };
    std::thread::scope(|scope| {
        for from in 0..20 {
            let put = &put;
            scope.spawn(move || {
                // Each is changed several times; the last one counts.
                for number in (from..200).step_by(20) {
                    put(number, 0);
                    put(number, 1);
                    put(number, number % 2);
                }
            });
        }
    });

    let right = |number: usize| {
        let before = asked(&origins[number % 2]);
        let host = format!("h{number}.example.com");
        place.ask(&host).is_some_and(|(status, _)| status == 200)
            && asked(&origins[number % 2]) > before
    };
    for number in 0..200 {
        assert!(
            eventually_blocking(DEADLINE * 2, || right(number)),
            "{number}\n{}",
            cluster.status()
        );
    }
    cluster.shows("routes served: 200");
}

// S3.66
#[test]
fn annotations_that_a_link_does_not_carry_are_said_and_never_served_without_what_they_ask_for() {
    let place = Place::start_with("allowedSources: [127.0.0.0/8]", "", &[]);
    let Some(cluster) = Cluster::start("annotations", &place, "enableIngressSync: true") else {
        return;
    };
    let app = Origin::http1(HERE);

    cluster.ingress(app.address(), &json!({"nginx.ingress.kubernetes.io/ssl-redirect": "true"}));
    let served = || place.ask(HOST).is_some_and(|(status, _)| status == 200);
    assert!(eventually_blocking(DEADLINE * 2, served), "{}", cluster.agent.output());
    cluster.shows("write redirectToHttps in the tenant's HTTP entry");

    let both = json!({"nginx.ingress.kubernetes.io/ssl-redirect": "true", "nginx.ingress.kubernetes.io/rewrite-target": "/x"});
    cluster.ingress(app.address(), &both);
    let withdrawn = || place.ask(HOST).is_some_and(|(status, _)| status == 404);
    assert!(eventually_blocking(DEADLINE, withdrawn), "{:?}", place.ask(HOST));
    cluster.shows("a rewrite is not carried by a link");
}
