//! Cases that hold in both forms: in one process, and with `durward kube` beside the gateway.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use durward_testkit::process::{eventually, unique_loopback};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Cluster, DEADLINE, Form, door, spec, until_served};
use crate::support::{get, status};

pub(super) async fn tenants_that_are_objects_are_served_and_say_so_in_their_status(form: Form) {
    let (cluster, at, other) = (Cluster::start(form).await, door(), door());

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

pub(super) async fn a_claim_to_what_an_older_object_has_is_refused_in_the_younger_ones_status(
    form: Form,
) {
    let (cluster, at) = (Cluster::start(form).await, door());
    cluster.tenant("older", at, "older").await;
    until_served(at, Some("older")).await;
    // Times of creation have whole seconds; of two objects of one second the name decides.
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    cluster.tenant("aaa-younger", at, "younger").await;

    cluster.until_condition("aaa-younger", "Accepted", "False AddressTaken").await;
    cluster.until_condition("aaa-younger", "Programmed", "False NotAccepted").await;
    assert_eq!(get(at, "/").unwrap().1, "older");
    cluster.delete("older").await;
    until_served(at, Some("younger")).await;
    cluster.until_condition("aaa-younger", "Ready", "True Ready").await;
}

pub(super) async fn a_broken_object_is_served_as_it_was_also_by_a_process_that_starts_later(
    form: Form,
) {
    let (mut cluster, at) = (Cluster::start(form).await, door());
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

pub(super) async fn what_was_read_is_served_while_the_api_server_is_away(form: Form) {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let (cluster, at) = (Cluster::on(env, form).await, door());
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

pub(super) async fn an_address_that_is_not_here_is_not_programmed(form: Form) {
    let cluster = Cluster::start(form).await;
    // RFC 5737: on no host.
    let at = SocketAddr::from(([192, 0, 2, 77], 8080));

    cluster.tenant("acme", at, "nobody").await;

    cluster.until_condition("acme", "Accepted", "True Accepted").await;
    cluster.until_condition("acme", "Programmed", "False ListenerDown").await;
    cluster.until_condition("acme", "Ready", "False ListenerDown").await;
}

/// Makes a namespace that is a tenant's.
pub(super) async fn namespace(cluster: &Cluster, tenant: &str) -> String {
    cluster.env.new_namespace(&json!({"durward.dev/tenant": tenant})).await
}

pub(super) fn tls_secret(
    namespace: &str,
    name: &str,
    authority: &Authority,
    at: SocketAddr,
) -> Value {
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

pub(super) async fn a_certificate_in_a_secret_is_served_and_renewed_while_it_is(form: Form) {
    let (cluster, at) = (Cluster::start(form).await, door());
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

pub(super) async fn an_upstream_that_is_a_service_has_its_ready_pods(form: Form) {
    let (cluster, at) = (Cluster::start(form).await, door());
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

pub(super) async fn a_secret_of_another_tenants_namespace_is_not_served(form: Form) {
    let (cluster, at) = (Cluster::start(form).await, door());
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
pub(crate) async fn install(env: &TestEnv, file: &str, theirs: &str) {
    for part in crate::text(file).split("---\n") {
        let mut object: Value = serde_saphyr::from_str(part).unwrap();
        if let Some(namespace) = object["metadata"].get_mut("namespace") {
            let own = namespace == "durward";
            *namespace = json!(if own { env.namespace() } else { theirs });
        }
        if object["kind"] == "ClusterRoleBinding" {
            // Other tests on the same server have their own accounts.
            let name = object["metadata"]["name"].as_str().unwrap();
            object["metadata"]["name"] = json!(format!("{name}-{}", env.namespace()));
        }
        let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            subject["namespace"] = json!(env.namespace());
        }
        env.create(&object).await;
    }
}

pub(super) async fn the_rights_in_the_manifests_suffice_and_open_no_other_secret(form: Form) {
    let env = TestEnv::start().await;
    let kubeconfig = env.service_account("durward").await;
    let theirs = env.new_namespace(&json!({"durward.dev/tenant": "acme"})).await;
    install(&env, "deploy/kubernetes/rbac.yaml", &theirs).await;
    install(&env, "deploy/kubernetes/tenant-secrets.yaml", &theirs).await;
    let (at, authority) = (door(), Authority::new("acme"));
    let cluster = Cluster::on_as(env, &kubeconfig, form).await;
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

pub(super) async fn the_reference_describes_the_metrics_of_the_api_server_and_no_others(
    form: Form,
) {
    let (cluster, at) = (Cluster::start(form).await, door());
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

pub(super) async fn a_start_waits_for_what_documents_name_and_writes_one_status(form: Form) {
    let mut cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await, form).await;
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

pub(super) async fn the_secret_of_a_last_accepted_revision_is_read_by_a_process_that_starts_later(
    form: Form,
) {
    let (mut cluster, at) = (Cluster::start(form).await, door());
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
