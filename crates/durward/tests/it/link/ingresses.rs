//! An agent that registers the Ingresses of its cluster: from an object to a request at the tenant's address.

use std::net::SocketAddr;
use std::path::PathBuf;

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::registry::{ACME, Registering};
use crate::kubernetes::install;
use crate::support::{DEADLINE, HERE, admin_address, durward, output, request, stdout};

/// A private cluster with an agent, and the gateway of its tenant.
struct Cluster {
    env: TestEnv,
    gateway: Registering,
    dir: TempDir,
    agent: Child,
    admin: SocketAddr,
}

impl Cluster {
    async fn start(env: TestEnv) -> Self {
        let gateway = blocking(|| Registering::start(&[ACME])).await;
        let dir = TempDir::new();
        gateway.servers.write(dir.path(), "servers");
        // With the rights of the manifests, and no others.
        let kubeconfig = env.service_account("durward-agent").await;
        let namespace = env.namespace().to_owned();
        install(&env, "deploy/agent/base/rbac.yaml", &namespace).await;
        std::fs::write(dir.join("kubeconfig"), kubeconfig).unwrap();
        std::fs::write(dir.join("token"), format!("{}\n", ACME.token)).unwrap();
        let text = format!(
            "link: onprem\ngateways: ['wss://{}']\ncaFile: servers.crt\ntokenFile: token\nkubeconfig: kubeconfig\n\
             agent: {{enable_ingress_sync: true}}\nallow: [127.0.0.0/8]\ndrainGraceSeconds: 5\n",
            gateway.link(0)
        );
        let config = dir.write("agent.yaml", text);
        let admin = admin_address();
        let agent = run(&config, admin);
        Self { env, gateway, dir, agent, admin }
    }

    async fn ingress(&self, name: &str, hosts: &[&str], service: &str, port: u16) {
        let backend = json!({"service": {"name": service, "port": {"number": port}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        let rules = hosts.iter().map(|host| json!({"host": host, "http": {"paths": paths}}));
        let ingress = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
            "spec": {"ingressClassName": "haproxy", "rules": rules.collect::<Value>()},
        });
        self.env.create(&ingress).await;
    }

    /// A Service whose address is that of a backend here.
    async fn service(&self, name: &str, at: SocketAddr) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": at.ip().to_string(), "ports": [{"port": at.port()}]},
        });
        self.env.create(&service).await;
    }

    async fn delete(&self, name: &str) {
        let namespace = self.env.namespace();
        let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}");
        self.env.raw("DELETE", &path, None).await.unwrap();
    }

    /// Waits until a request for a host has this status.
    async fn becomes(&self, host: &str, status: u16) {
        let address = self.gateway.address(0);
        let ask = || {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            blocking(move || request(address, &text).map(|(status, _)| status))
        };
        // An agent that was refused dials again after 30 seconds.
        let is = eventually(DEADLINE * 4, async || ask().await == Some(status)).await;
        let last = ask().await;
        assert!(is, "{host}: {last:?}\n{}\n{}", self.agent.output(), self.gateway.child.output());
    }

    fn config(&self) -> PathBuf {
        self.dir.join("agent.yaml")
    }
}

fn run(config: &std::path::Path, admin: SocketAddr) -> Child {
    let (config, admin) = (config.to_str().unwrap(), admin.to_string());
    let mut command =
        durward(&["--log-format", "json", "agent", "run", "-c", config, "--admin", &admin]);
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

/// Blocks while the test's own runtime serves the double.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The addresses of Services are backends of this host here, which no real cluster gives.
async fn double(test: &str) -> Option<TestEnv> {
    let env = TestEnv::start().await;
    env.need_double(test)?;
    Some(env)
}

// S3.3 S3.26+ S3.40 S3.41 S3.42 S3.43 S3.44 S3.45 S3.46 S3.54 S3.55+ S3.67 S3.74
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_of_a_private_cluster_is_served_at_its_tenants_address_as_long_as_it_is_there() {
    let Some(env) = double("ingresses of an agent").await else { return };
    let (first, second) = (Origin::http1(HERE), Origin::http1(HERE));
    let cluster = Cluster::start(env).await;
    cluster.service("app", first.address()).await;
    cluster.service("other", second.address()).await;
    cluster
        .agent
        .wait_for_line("Gateway proxy ingress watcher started successfully", DEADLINE)
        .await;
    cluster.becomes("a.example.com", 404).await;

    cluster
        .ingress("a", &["a.example.com", "shared.example.com"], "app", first.address().port())
        .await;
    cluster.becomes("a.example.com", 200).await;
    cluster
        .ingress(
            "b",
            &["b.example.com", "not-granted.example.org", "shared.example.com"],
            "other",
            second.address().port(),
        )
        .await;
    cluster.becomes("b.example.com", 200).await;
    cluster.becomes("shared.example.com", 200).await;
    cluster.becomes("not-granted.example.org", 404).await;
    assert!(second.requests() > 0 && first.requests() > 0);

    // An update drops a host, and the deletion of one Ingress leaves a shared host to the other.
    cluster
        .ingress(
            "b",
            &["renamed.example.com", "shared.example.com"],
            "other",
            second.address().port(),
        )
        .await;
    cluster.becomes("renamed.example.com", 200).await;
    cluster.becomes("b.example.com", 404).await;
    cluster.delete("a").await;
    cluster.becomes("a.example.com", 404).await;
    cluster.becomes("shared.example.com", 200).await;

    shows_what_is_served(&cluster).await;
}

/// Looks at metrics, commands and the log of an agent that serves `renamed.example.com` and `shared.example.com`.
async fn shows_what_is_served(cluster: &Cluster) {
    let admin = cluster.admin.to_string();
    let ask = |path: &'static str| {
        let address = cluster.admin;
        blocking(move || crate::support::get(address, path).unwrap().1)
    };
    let metrics = ask("/metrics").await;
    assert!(metrics.contains("gateway_routes_active 2\n"), "{metrics}");
    let registered = metrics.lines().find_map(|line| {
        line.strip_prefix("gateway_routes_registered_total ")?.parse::<u64>().ok()
    });
    assert!(registered.is_some_and(|number| number >= 4), "{metrics}");
    assert!(metrics.contains("gateway_cluster_type{type=\"private\"} 1"), "{metrics}");
    let shown = blocking(move || stdout(&output(&["agent", "status", "--admin", &admin]))).await;
    assert!(shown.contains("cluster: private, routing mode: tunnel, routes served: 2"), "{shown}");
    let admin = cluster.admin.to_string();
    let linted = blocking(move || output(&["agent", "lint", "--no-dns", "--admin", &admin])).await;
    let text = stdout(&linted);
    assert_eq!(linted.status.code(), Some(1), "{text}");
    assert!(text.contains("renamed.example.com is not in spec.tls"), "{text}");
    let log = cluster.agent.output();
    let phrases = [
        "Initializing gateway proxy detection...",
        "Private cluster detected - using tunnel routing",
        "Syncing existing ingresses",
        "Ingress event detected",
        "Registering route with controller",
        "Route registered successfully",
    ];
    for phrase in phrases {
        assert!(log.contains(phrase), "{phrase}\n{log}");
    }
    assert!(
        log.contains("not-granted.example.org") && log.contains("is not among the hosts"),
        "{log}"
    );
    assert!(!log.contains(ACME.token), "{log}");
}

// S3.65 S3.73
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_while_an_agent_was_away_is_made_up_for_and_switching_it_off_withdraws_all() {
    let Some(env) = double("an agent that was away").await else { return };
    let origin = Origin::http1(HERE);
    let mut cluster = Cluster::start(env).await;
    let port = origin.address().port();
    cluster.service("app", origin.address()).await;
    cluster.ingress("a", &["a.example.com"], "app", port).await;
    cluster.ingress("b", &["b.example.com"], "app", port).await;
    cluster.becomes("a.example.com", 200).await;
    cluster.becomes("b.example.com", 200).await;

    cluster.agent.signal(Signal::TERM);
    cluster.agent.wait(DEADLINE).await;
    cluster.becomes("a.example.com", 503).await;
    cluster.delete("a").await;
    cluster.ingress("c", &["c.example.com"], "app", port).await;
    // Its API server cannot be read: what was registered stays.
    let double = cluster.env.double().unwrap();
    double.hang();
    cluster.admin = admin_address();
    cluster.agent = run(&cluster.config(), cluster.admin);
    cluster.agent.wait_for_line("Initializing gateway proxy detection", DEADLINE).await;
    cluster.becomes("b.example.com", 503).await;
    cluster.env.double().unwrap().come_back();

    cluster.becomes("c.example.com", 200).await;
    cluster.becomes("b.example.com", 200).await;
    cluster.becomes("a.example.com", 404).await;

    let text = std::fs::read_to_string(cluster.config()).unwrap();
    std::fs::write(cluster.config(), text + "gateway: {enabled: false}\n").unwrap();
    cluster.agent.signal(Signal::TERM);
    cluster.agent.wait(DEADLINE).await;
    cluster.agent = run(&cluster.config(), cluster.admin);
    cluster.becomes("b.example.com", 404).await;
    cluster.becomes("c.example.com", 404).await;
}

// S3.58 S3.81+ S3.83
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_connects_to_nothing_that_no_ingress_of_its_cluster_names_and_its_token_ends_its_carriers()
 {
    let Some(env) = double("what an agent connects to").await else { return };
    let (app, hidden) = (Origin::http1(HERE), Origin::http1(HERE));
    let cluster = Cluster::start(env).await;
    cluster.service("app", app.address()).await;
    cluster.service("hidden", hidden.address()).await;
    cluster.ingress("a", &["a.example.com"], "app", app.address().port()).await;
    cluster.becomes("a.example.com", 200).await;

    // Somebody with the token registers what no Ingress names.
    let namespace = cluster.env.namespace().to_owned();
    let body = json!({"hostname": "hidden.example.com", "cluster_uuid": "abc-123", "namespace": namespace,
        "service_name": "hidden", "service_port": hidden.address().port(), "ingress_name": "x"});
    let (gateway, body) = (&cluster.gateway, &body);
    let status = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| gateway.call(0, ACME.token, "register", body).0).join().unwrap()
        })
    });
    assert_eq!(status, 200);
    cluster.becomes("hidden.example.com", 502).await;
    assert_eq!(hidden.requests(), 0);

    cluster.gateway.write(&ACME, 0, &["another"]);
    cluster.becomes("a.example.com", 503).await;
    let line = cluster
        .agent
        .wait_for_line("API request failed: the gateway refused the agent", DEADLINE)
        .await;
    assert!(line.contains("401") && !cluster.agent.output().contains(ACME.token), "{line}");
    std::fs::write(cluster.dir.join("token"), "another").unwrap();
    cluster.becomes("a.example.com", 200).await;
}

// S3.82
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_may_read_ingresses_and_services_and_nothing_else() {
    let env = TestEnv::start().await;
    env.service_account("durward-agent").await;
    let own = env.namespace().to_owned();
    install(&env, "deploy/agent/base/rbac.yaml", &own).await;
    let other = env.new_namespace(&json!({})).await;
    let user = format!("system:serviceaccount:{own}:durward-agent");
    let groups = [
        ("networking.k8s.io", "ingresses"),
        ("", "services"),
        ("", "secrets"),
        ("", "configmaps"),
        ("", "pods"),
        ("", "nodes"),
        ("", "serviceaccounts"),
        ("discovery.k8s.io", "endpointslices"),
        ("networking.k8s.io", "ingressclasses"),
        ("rbac.authorization.k8s.io", "clusterroles"),
    ];
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete"];
    for (at, (group, resource)) in groups.iter().enumerate() {
        for verb in verbs {
            for namespace in [&own, &other] {
                let review = json!({
                    "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                    "spec": {"user": user, "resourceAttributes":
                        {"verb": verb, "group": group, "resource": resource, "namespace": namespace}},
                });
                let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
                let expected = at < 2 && ["get", "list", "watch"].contains(&verb);
                // A server's authorizer has its rules from a watch.
                let is_so = eventually(DEADLINE, async || {
                    let answer = env.raw("POST", path, Some(&review)).await.unwrap();
                    (answer["status"]["allowed"] == true) == expected
                });
                assert!(is_so.await, "{verb} {resource} in {namespace}");
            }
        }
    }
}
