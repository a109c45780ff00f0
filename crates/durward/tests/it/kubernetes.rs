//! A gateway whose tenants are objects of a Kubernetes API, seen from outside: what is served, and what the objects say of it.
//!
//! The API server is the one that the environment asks for, by default the double of the test kit.

mod programmed;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use durward_testkit::process::{Child, TempDir, eventually, unique_loopback};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{admin_address, durward, get, status};

/// Longer than anything here takes, also on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);
const TENANTS: &str = "/apis/durward.dev/v1alpha1/tenants";

/// A process that reads an API server, and that API server.
struct Cluster {
    env: TestEnv,
    dir: TempDir,
    gateway: Child,
    admin: SocketAddr,
}

impl Cluster {
    async fn start() -> Self {
        Self::on(TestEnv::start().await).await
    }

    async fn on(env: TestEnv) -> Self {
        let kubeconfig = env.kubeconfig();
        Self::on_as(env, &kubeconfig).await
    }

    /// Starts with a process that has the rights of a kubeconfig.
    async fn on_as(env: TestEnv, kubeconfig: &str) -> Self {
        let definitions = String::from_utf8(durward(&["crds"]).output().unwrap().stdout).unwrap();
        for definition in definitions.split("---\n").filter(|part| !part.trim().is_empty()) {
            env.define(&serde_saphyr::from_str(definition).unwrap()).await;
        }
        let dir = TempDir::new();
        std::fs::write(dir.join("kubeconfig"), kubeconfig).unwrap();
        let admin = admin_address();
        let gateway = run(&dir, admin);
        Self { env, dir, gateway, admin }
    }

    /// Ends the process without a word, and starts another that knows nothing of it.
    fn restart(&mut self) {
        self.gateway.kill();
        self.gateway = run(&self.dir, self.admin);
    }

    /// Makes or changes a tenant that answers every request with `says`.
    async fn tenant(&self, name: &str, at: SocketAddr, says: &str) {
        self.apply(name, &spec(at, says)).await;
    }

    async fn apply(&self, name: &str, spec: &Value) {
        let tenant = json!({
            "apiVersion": "durward.dev/v1alpha1",
            "kind": "Tenant",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.env.create(&tenant).await;
    }

    async fn delete(&self, name: &str) {
        self.env.raw("DELETE", &format!("{TENANTS}/{name}"), None).await.unwrap();
    }

    /// Returns a condition of a tenant, as `STATUS REASON`, if it is about the object as it is now.
    async fn condition(&self, name: &str, of: &str) -> Option<String> {
        let tenant = self.env.raw("GET", &format!("{TENANTS}/{name}"), None).await.ok()?;
        let conditions = tenant["status"]["conditions"].as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == of)?;
        let is_current = condition["observedGeneration"] == tenant["metadata"]["generation"];
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        is_current.then(|| format!("{} {}", text("status"), text("reason")))
    }

    async fn until_condition(&self, name: &str, of: &str, wanted: &str) {
        let mut last = None;
        for _ in 0..DEADLINE.as_millis() / 50 {
            last = self.condition(name, of).await;
            if last.as_deref() == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{of} of {name} is {last:?} and not {wanted}");
    }
}

fn spec(at: SocketAddr, says: &str) -> Value {
    json!({
        "ingress": [{
            "address": at.ip().to_string(), "port": at.port(), "protocol": "HTTP",
            "routes": [{"respond": {"body": says}}],
        }],
    })
}

fn run(dir: &TempDir, admin: SocketAddr) -> Child {
    let (kubeconfig, admin) = (dir.join("kubeconfig"), admin.to_string());
    let kubeconfig = kubeconfig.to_str().unwrap();
    let arguments = ["run", "--kubernetes", "--kubeconfig", kubeconfig, "--admin", &admin];
    Child::spawn(durward(&[&arguments[..], &["--access-log", "off", "--workers", "1"]].concat()))
}

fn door() -> SocketAddr {
    SocketAddr::from((unique_loopback(), 8080))
}

/// Waits until a request is answered with `says`; with `None`, until nobody answers.
async fn until_served(at: SocketAddr, says: Option<&str>) {
    let is_so = || get(at, "/").map(|(_, body)| body).as_deref() == says;
    assert!(
        eventually(DEADLINE, async || is_so()).await,
        "{at} answers {:?}, not {says:?}",
        get(at, "/")
    );
}

// S1.14 S1.18+ S1.23+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_are_objects_are_served_and_say_so_in_their_status() {
    let (cluster, at, other) = (Cluster::start().await, door(), door());

    cluster.tenant("acme", at, "first").await;
    until_served(at, Some("first")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    cluster.until_condition("acme", "Programmed", "True Programmed").await;
    assert_eq!(status(cluster.admin, "/readyz"), Some(200));

    cluster.tenant("acme", at, "second").await;
    cluster.tenant("globex", other, "globex").await;
    until_served(at, Some("second")).await;
    until_served(other, Some("globex")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;

    cluster.delete("acme").await;
    until_served(at, None).await;
    assert_eq!(get(other, "/").unwrap().1, "globex");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_to_what_an_older_object_has_is_refused_in_the_younger_ones_status() {
    let (cluster, at) = (Cluster::start().await, door());
    cluster.tenant("older", at, "older").await;
    until_served(at, Some("older")).await;

    cluster.tenant("aaa-younger", at, "younger").await;

    cluster.until_condition("aaa-younger", "Accepted", "False AddressTaken").await;
    cluster.until_condition("aaa-younger", "Programmed", "False NotAccepted").await;
    assert_eq!(get(at, "/").unwrap().1, "older");
    cluster.delete("older").await;
    until_served(at, Some("younger")).await;
    cluster.until_condition("aaa-younger", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_object_is_served_as_it_was_also_by_a_process_that_starts_later() {
    let (mut cluster, at) = (Cluster::start().await, door());
    cluster.tenant("acme", at, "good").await;
    until_served(at, Some("good")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    let mut broken = spec(at, "bad");
    broken["ingress"][0]["routes"] = json!([{"upstream": "nobody"}]);

    cluster.apply("acme", &broken).await;

    cluster.until_condition("acme", "Programmed", "False NotAccepted").await;
    assert_eq!(get(at, "/").unwrap().1, "good");
    cluster.restart();
    until_served(at, Some("good")).await;
    cluster.tenant("acme", at, "mended").await;
    until_served(at, Some("mended")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_served_while_the_api_server_is_away() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let (cluster, at) = (Cluster::on(env).await, door());
    let server = cluster.env.double().unwrap();
    cluster.tenant("acme", at, "before").await;
    until_served(at, Some("before")).await;

    server.go_away();
    server.reset_connections();

    for _ in 0..20 {
        assert_eq!(get(at, "/").unwrap().1, "before");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(cluster.admin, "/readyz"), Some(200));
    server.come_back();
    cluster.tenant("acme", at, "after").await;
    until_served(at, Some("after")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_not_here_is_not_programmed() {
    let cluster = Cluster::start().await;
    // RFC 5737: on no host.
    let at = SocketAddr::from(([192, 0, 2, 77], 8080));

    cluster.tenant("acme", at, "nobody").await;

    cluster.until_condition("acme", "Accepted", "True Accepted").await;
    cluster.until_condition("acme", "Programmed", "False ListenerDown").await;
    cluster.until_condition("acme", "Ready", "False ListenerDown").await;
}

/// Makes a namespace that is a tenant's.
async fn namespace(cluster: &Cluster, tenant: &str) -> String {
    cluster.env.new_namespace(&json!({"durward.dev/tenant": tenant})).await
}

fn tls_secret(namespace: &str, name: &str, authority: &Authority, at: SocketAddr) -> Value {
    let issued = authority.issue(&CertSpec::new().ip(at.ip()).server());
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": issued.chain_pem, "tls.key": issued.key_pem},
    })
}

async fn until_trusted(at: SocketAddr, authority: &Authority) {
    let served = eventually(DEADLINE, async || {
        let config = Arc::new(client_config(authority, None));
        let Ok(mut http) = RawHttp::connect_tls(at, None, config, None).await else { return false };
        http.get("x.example", "/").await.is_ok_and(|response| response.status == 200)
    });
    assert!(served.await, "no certificate of the authority is served at {at}");
}

// S1.14 S1.17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_in_a_secret_is_served_and_renewed_while_it_is() {
    let (cluster, at) = (Cluster::start().await, door());
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let theirs = namespace(&cluster, "acme").await;
    let mut https = spec(at, "secure");
    https["namespace"] = json!(theirs);
    https["ingress"][0]["protocol"] = json!("HTTPS");
    https["ingress"][0]["certificate"] = json!({"secretName": "shop"});

    cluster.apply("acme", &https).await;
    cluster.until_condition("acme", "Accepted", "False SecretMissing").await;
    cluster.env.create(&tls_secret(&theirs, "shop", &before, at)).await;
    until_trusted(at, &before).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;

    cluster.env.create(&tls_secret(&theirs, "shop", &after, at)).await;
    until_trusted(at, &after).await;
}

// S1.4+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_a_service_has_its_ready_pods() {
    let (cluster, at) = (Cluster::start().await, door());
    let theirs = namespace(&cluster, "acme").await;
    let mut forwards = spec(at, "");
    forwards["namespace"] = json!(theirs);
    forwards["ingress"][0]["routes"] = json!([{"upstream": "pay"}]);
    forwards["upstreams"] = json!({"pay": {"service": {"name": "pay", "port": "http"}}});
    forwards["egress"] = json!({"addresses": [unique_loopback().to_string()]});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "pay", "namespace": theirs},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    let slice = |ready: &str, other: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "pay-1", "namespace": theirs, "labels": {"kubernetes.io/service-name": "pay"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [ready], "conditions": {"ready": true}},
                {"addresses": [other], "conditions": {"ready": false}},
            ],
        })
    };
    cluster.env.create(&service).await;
    cluster.env.create(&slice("192.0.2.1", "192.0.2.2")).await;

    cluster.apply("acme", &forwards).await;

    let admin = cluster.admin;
    let shown = |address: &'static str| async move {
        let has = async || {
            get(admin, "/snapshot?tenant=acme").is_some_and(|(_, text)| text.contains(address))
        };
        assert!(eventually(DEADLINE, has).await, "{:?}", get(admin, "/snapshot?tenant=acme"));
    };
    shown("192.0.2.1:8080").await;
    assert!(!get(admin, "/snapshot?tenant=acme").unwrap().1.contains("192.0.2.2:8080"));
    cluster.env.create(&slice("192.0.2.2", "192.0.2.1")).await;
    shown("192.0.2.2:8080").await;
    let gone = async || !get(admin, "/snapshot?tenant=acme").unwrap().1.contains("192.0.2.1:8080");
    assert!(eventually(DEADLINE, gone).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_another_tenants_namespace_is_not_served() {
    let (cluster, at) = (Cluster::start().await, door());
    let authority = Authority::new("theirs");
    let (own, theirs) = (namespace(&cluster, "mallory").await, namespace(&cluster, "acme").await);
    cluster.env.create(&tls_secret(&theirs, "shop", &authority, at)).await;
    for (name, in_namespace) in [(format!("{theirs}/shop"), &own), ("shop".to_owned(), &theirs)] {
        let mut https = spec(at, "stolen");
        https["namespace"] = json!(in_namespace);
        https["ingress"][0]["protocol"] = json!("HTTPS");
        https["ingress"][0]["certificate"] = json!({"secretName": name});

        cluster.apply("mallory", &https).await;

        cluster.until_condition("mallory", "Accepted", "False NamespaceForeign").await;
        assert!(TcpStream::connect(at).await.is_err(), "nobody listens");
    }
}

/// Applies a manifest of the repository for the service account `durward` of the test's namespace; `theirs` is the namespace of a tenant.
async fn install(env: &TestEnv, file: &str, theirs: &str) {
    for part in crate::text(file).split("---\n") {
        let mut object: Value = serde_saphyr::from_str(part).unwrap();
        if let Some(namespace) = object["metadata"].get_mut("namespace") {
            let own = namespace == "durward";
            *namespace = json!(if own { env.namespace() } else { theirs });
        }
        let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            subject["namespace"] = json!(env.namespace());
        }
        env.create(&object).await;
    }
}

// S1.65
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_in_the_manifests_suffice_and_open_no_other_secret() {
    let env = TestEnv::start().await;
    let kubeconfig = env.service_account("durward").await;
    let theirs = env.new_namespace(&json!({"durward.dev/tenant": "acme"})).await;
    install(&env, "deploy/kubernetes/rbac.yaml", &theirs).await;
    install(&env, "deploy/kubernetes/tenant-secrets.yaml", &theirs).await;
    let (at, authority) = (door(), Authority::new("acme"));
    let cluster = Cluster::on_as(env, &kubeconfig).await;
    cluster.env.create(&tls_secret(&theirs, "shop", &authority, at)).await;
    cluster.env.create(&tls_secret(&theirs, "other", &authority, at)).await;
    let mut https = spec(at, "secure");
    https["namespace"] = json!(theirs);
    https["ingress"][0]["protocol"] = json!("HTTPS");
    https["ingress"][0]["certificate"] = json!({"secretName": "shop"});

    cluster.apply("acme", &https).await;

    until_trusted(at, &authority).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    https["ingress"][0]["certificate"] = json!({"secretName": "other"});
    cluster.apply("acme", &https).await;
    cluster.until_condition("acme", "Accepted", "False SecretUnreadable").await;
    until_trusted(at, &authority).await;
    let account = format!("system:serviceaccount:{}:durward", cluster.env.namespace());
    let can = async |verb: &str, group: &str, resource: &str, namespace: &str, name: &str| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": account, "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = cluster.env.raw("POST", path, Some(&review)).await.unwrap();
        answer["status"]["allowed"] == true
    };
    assert!(can("get", "", "secrets", &theirs, "shop").await);
    for (verb, group, resource, name) in [
        ("get", "", "secrets", "other"),
        ("list", "", "secrets", ""),
        ("create", "", "secrets", ""),
        ("get", "", "configmaps", "any"),
        ("patch", "durward.dev", "tenants", "acme"),
        ("delete", "durward.dev", "tenants", "acme"),
        ("patch", "", "namespaces", &theirs),
        ("create", "", "pods", ""),
    ] {
        assert!(!can(verb, group, resource, &theirs, name).await, "{verb} {resource} {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_describes_the_metrics_of_the_api_server_and_no_others() {
    let (cluster, at) = (Cluster::start().await, door());
    cluster.tenant("acme", at, "acme").await;
    cluster.until_condition("acme", "Ready", "True Ready").await;

    let (_, metrics) = get(cluster.admin, "/metrics").unwrap();

    let exposed = metrics.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let total = if kind == "counter" { "_total" } else { "" };
        name.starts_with("durward_kube_").then(|| format!("{name}{total} {kind}"))
    });
    let page = crate::text("docs/reference/metrics.md");
    let documented = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `durward_kube_")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`');
        Some(format!("durward_kube_{name} {}", cells.next()?))
    });
    let sorted = |names: Vec<String>| BTreeSet::from_iter(names);
    assert_eq!(sorted(exposed.collect()), sorted(documented.collect()));
    assert!(metrics.contains("durward_kube_objects{kind=\"Tenant\"} "), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_what_documents_name_and_writes_one_status() {
    let mut cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.gateway.kill();
    let (at, authority) = (door(), Authority::new("acme"));
    let theirs = namespace(&cluster, "acme").await;
    cluster.env.create(&tls_secret(&theirs, "shop", &authority, at)).await;
    let mut https = spec(at, "secure");
    https["namespace"] = json!(theirs);
    https["ingress"][0]["protocol"] = json!("HTTPS");
    https["ingress"][0]["certificate"] = json!({"secretName": "shop"});
    cluster.apply("acme", &https).await;

    cluster.restart();

    cluster.until_condition("acme", "Ready", "True Ready").await;
    let (changed, _) = cluster.env.double().unwrap().status_writes("tenants.durward.dev");
    assert_eq!(changed, 1, "{}", cluster.gateway.output());
    assert!(!cluster.gateway.output().contains("ObjectUnread"), "{}", cluster.gateway.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_last_accepted_revision_is_read_by_a_process_that_starts_later() {
    let (mut cluster, at) = (Cluster::start().await, door());
    let authority = Authority::new("acme");
    let theirs = namespace(&cluster, "acme").await;
    cluster.env.create(&tls_secret(&theirs, "shop", &authority, at)).await;
    let mut https = spec(at, "secure");
    https["namespace"] = json!(theirs);
    https["ingress"][0]["protocol"] = json!("HTTPS");
    https["ingress"][0]["certificate"] = json!({"secretName": "shop"});
    cluster.apply("acme", &https).await;
    until_trusted(at, &authority).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;

    https["ingress"][0]["certificate"] = json!({"secretName": "gone"});
    cluster.apply("acme", &https).await;
    cluster.until_condition("acme", "Accepted", "False SecretMissing").await;
    until_trusted(at, &authority).await;
    cluster.restart();

    until_trusted(at, &authority).await;
    cluster.until_condition("acme", "Programmed", "False NotAccepted").await;
    until_trusted(at, &authority).await;
}

/// Returns the status of a request for a host by a forward proxy, from one of the tenant's clients.
async fn asked_for(proxy: SocketAddr, host: &str) -> Option<String> {
    let mut stream = TcpStream::connect(proxy).await.ok()?;
    let request =
        format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).map(str::to_owned)
}

/// Waits until a forward proxy denies requests for a host, or lets them through; nobody answers then, for there is no such host.
async fn until_denied(proxy: SocketAddr, host: &str, denied: bool) {
    let is_so = async || {
        let status = asked_for(proxy, host).await;
        status.is_some_and(|status| (status == "403") == denied)
    };
    assert!(eventually(DEADLINE, is_so).await, "{:?}", asked_for(proxy, host).await);
}

// S2.16 S2.17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn egress_policies_and_the_labels_of_a_namespace_add_to_the_rules_of_its_tenant() {
    let (mut cluster, proxy) = (Cluster::start().await, door());
    let theirs = namespace(&cluster, "acme").await;
    let tenant = json!({
        "egress": {
            "addresses": [unique_loopback().to_string()],
            // Nobody answers there.
            "resolvers": [format!("{}:1", unique_loopback())],
            "proxy": [{"address": proxy.ip().to_string(), "port": proxy.port(), "allowedSources": ["127.0.0.0/8"]}],
        },
    });
    cluster.apply("acme", &tenant).await;
    until_denied(proxy, "pay.example", true).await;
    let policy = |rules: Value| {
        json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "EgressPolicy",
            "metadata": {"name": "pay", "namespace": theirs}, "spec": rules,
        })
    };
    let path = format!("/apis/durward.dev/v1alpha1/namespaces/{theirs}/egresspolicies/pay");

    cluster.env.create(&policy(json!({"allow": [{"host": "pay.example"}]}))).await;
    until_denied(proxy, "pay.example", false).await;
    until_policy(&cluster, &path, "Ready", "True Ready").await;

    // A mistake is said, and what was served stays, also for the next process.
    cluster.env.create(&policy(json!({"allow": [{"host": "pay example"}]}))).await;
    until_policy(&cluster, &path, "Accepted", "False BadHost").await;
    until_policy(&cluster, &path, "Programmed", "False NotAccepted").await;
    until_denied(proxy, "pay.example", false).await;
    cluster.restart();
    until_denied(proxy, "pay.example", false).await;
    cluster.env.raw("DELETE", &path, None).await.unwrap();
    until_denied(proxy, "pay.example", true).await;

    let labels = json!({"tenant": "acme", "network/isolation": "egress-proxy"});
    cluster.env.new_namespace(&labels).await;
    until_denied(proxy, "pay.example", false).await;
    assert_eq!(asked_for(proxy, "127.0.0.1").await.as_deref(), Some("403"), "it is guarded");
}

/// Waits for a condition of the object at a path, as `STATUS REASON`, about the object as it is now.
async fn until_policy(cluster: &Cluster, path: &str, of: &str, wanted: &str) {
    let is_so = async || {
        let Ok(object) = cluster.env.raw("GET", path, None).await else { return false };
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let current = conditions.iter().find(|condition| {
            condition["type"] == of
                && condition["observedGeneration"] == object["metadata"]["generation"]
        });
        let text = |condition: &Value, field: &str| condition[field].as_str().unwrap().to_owned();
        let said = current.map(|it| format!("{} {}", text(it, "status"), text(it, "reason")));
        said.as_deref() == Some(wanted)
    };
    assert!(eventually(DEADLINE, is_so).await, "{of} of {path} is not {wanted}");
}
