//! What the watches make of an API server's objects, and of its moods.

use std::time::Duration;

use durward_control::document::Content;
use durward_kube::Sources;
use durward_kube::health::Phase;
use durward_model::{Kind, ResourceId};
use durward_testkit::kubernetes::{ApiServer, Fault, Requests, TestEnv};
use serde_json::json;

use crate::cluster::{Cluster, eventually, gather, names, next, sources, tenant};

const TENANTS: &str = "tenants.durward.dev";

fn tenant_path(name: &str) -> String {
    format!("/apis/durward.dev/v1alpha1/tenants/{name}")
}

#[tokio::test]
async fn objects_become_documents_and_their_end_is_said() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace();
    cluster.tenant(name, "203.0.113.1").await;
    let source = cluster.source(&sources());

    let first = gather(&source, |seen| names(seen).contains(&name)).await;
    cluster.tenant(name, "203.0.113.2").await;
    let second = gather(&source, |seen| names(seen).contains(&name)).await;
    cluster.delete(&tenant_path(name)).await;
    let id = ResourceId::new(Kind::Tenant, name);
    let last = gather(&source, |seen| seen.deletes.contains(&id)).await;

    let generations = [&first, &second].map(|seen| {
        let object = seen.upserts.iter().find(|object| object.id == id).unwrap();
        assert!(object.revision.uid.is_some() && object.metadata.creation_timestamp.is_some());
        object.revision.generation
    });
    assert_eq!(generations, [1, 2]);
    assert!(last.upserts.iter().all(|object| object.id != id));
    let change = second.into_change();
    let document =
        change.upserts.iter().find(|document| document.id.as_ref() == Some(&id)).unwrap();
    let Content::Tenant(read) = &document.content else { panic!("{:?}", document.content) };
    assert_eq!(read.spec.egress.addresses[0].value, "203.0.113.2");
}

#[tokio::test]
async fn a_kind_that_is_installed_later_is_read_without_a_restart() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let cluster = Cluster::on(env).await;
    let source = cluster.source(&sources());
    eventually("absent", async || {
        source.health().reports().get("Tenant").is_some_and(|report| report.phase == Phase::Absent)
    })
    .await;

    cluster.install().await;
    cluster.tenant("acme", "203.0.113.1").await;
    let seen = gather(&source, |seen| !seen.upserts.is_empty()).await;

    assert_eq!(names(&seen), ["acme"]);
}

#[tokio::test]
async fn a_kind_that_is_uninstalled_takes_its_objects_with_it_and_comes_back() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let cluster = Cluster::on(env).await;
    cluster.install().await;
    cluster.tenant("acme", "203.0.113.1").await;
    let source = cluster.source(&sources());
    gather(&source, |seen| !seen.upserts.is_empty()).await;

    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tenants.durward.dev";
    cluster.delete(definition).await;
    let gone = gather(&source, |seen| !seen.deletes.is_empty()).await;
    eventually("undefined", async || cluster.env.raw("GET", definition, None).await.is_err()).await;
    cluster.install().await;
    cluster.tenant("acme", "203.0.113.2").await;
    let again = gather(&source, |seen| !seen.upserts.is_empty()).await;

    assert_eq!(gone.deletes, [ResourceId::new(Kind::Tenant, "acme")]);
    assert_eq!(names(&again), ["acme"]);
}

#[tokio::test]
async fn after_a_410_only_what_is_really_gone_is_said_to_be_gone() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    for name in ["a", "b", "c"] {
        cluster.tenant(name, "203.0.113.1").await;
    }
    let source = cluster.source(&sources());
    gather(&source, |seen| seen.upserts.len() == 3).await;

    double.go_away();
    let (revised, fresh) = (tenant("b", "203.0.113.2"), tenant("d", "203.0.113.1"));
    double.put(&revised);
    double.put(&fresh);
    double.come_back();
    let changed = gather(&source, |seen| names(seen).contains(&"d")).await;
    double.go_away();
    eventually("watch is down", async || {
        matches!(source.health().reports()["Tenant"].phase, Phase::Stale(_))
    })
    .await;
    double.forget_history();
    double.come_back();
    cluster.delete(&tenant_path("a")).await;
    double.forget_history();
    double.expire_watches();
    let gone = gather(&source, |seen| !seen.deletes.is_empty()).await;

    assert_eq!(names(&changed), ["b", "d"]);
    assert_eq!(gone.deletes, [ResourceId::new(Kind::Tenant, "a")]);
    assert_eq!(names(&gone), Vec::<&str>::new(), "what did not change is not said again");
}

#[tokio::test]
async fn while_the_server_is_away_nothing_is_said_and_afterwards_what_changed() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    cluster.tenant("acme", "203.0.113.1").await;
    let source = cluster.source(&sources());
    gather(&source, |seen| !seen.upserts.is_empty()).await;

    double.go_away();
    eventually("stale", async || {
        let reports = source.health().reports();
        reports.values().all(|report| matches!(report.phase, Phase::Stale(_)))
    })
    .await;
    let report = source.health().reports()["Tenant"].clone();
    let silence = tokio::time::timeout(Duration::from_millis(300), source.next()).await;
    let lag = source.health().lag();
    double.come_back();
    cluster.tenant("globex", "203.0.113.2").await;
    let seen = gather(&source, |seen| !seen.upserts.is_empty()).await;
    eventually("live", async || source.health().lag().is_zero()).await;

    assert!(silence.is_err(), "{silence:?}");
    assert!(report.synced && report.objects == 1 && report.last_error.is_some(), "{report:?}");
    assert!(lag >= Duration::from_millis(300), "{lag:?}");
    assert_eq!((names(&seen), seen.deletes.len()), (vec!["globex"], 0));
}

#[tokio::test]
async fn watches_that_the_server_ends_go_on_where_they_were() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    cluster.tenant("acme", "203.0.113.1").await;
    let source = cluster.source(&sources());
    gather(&source, |seen| !seen.upserts.is_empty()).await;
    let lists = source.health().reports()["Tenant"].lists;

    for round in 2..5 {
        double.cut_watches();
        cluster.tenant("acme", &format!("203.0.113.{round}")).await;
        gather(&source, |seen| seen.upserts.iter().any(|it| it.revision.generation == round)).await;
    }

    assert_eq!(source.health().reports()["Tenant"].lists, lists, "nothing was listed again");
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_keeps_its_last_form_and_costs_no_other() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    cluster.tenant("bad", "203.0.113.1").await;
    cluster.tenant("good", "203.0.113.2").await;
    let source = cluster.source(&sources());
    gather(&source, |seen| seen.upserts.len() == 2).await;

    let mut broken = tenant("bad", "203.0.113.9");
    broken["metadata"]["generation"] = json!("not a number");
    double.put(&broken);
    cluster.tenant("good", "203.0.113.3").await;
    let seen = gather(&source, |seen| names(seen).contains(&"good")).await;
    double.forget_history();
    double.expire_watches();
    eventually("listed again", async || source.health().reports()["Tenant"].lists >= 2).await;
    let faults = source.health().reports()["Tenant"].undecodable.clone();
    cluster.tenant("good", "203.0.113.4").await;
    let after = gather(&source, |seen| names(seen).contains(&"good")).await;
    cluster.delete(&tenant_path("bad")).await;
    let gone = gather(&source, |seen| !seen.deletes.is_empty()).await;

    assert!(!names(&seen).contains(&"bad"));
    assert_eq!(seen.deletes.len() + after.deletes.len(), 0, "it is still there");
    assert_eq!(faults.keys().map(|name| &*name.name).collect::<Vec<_>>(), ["bad"]);
    assert_eq!(gone.deletes, [ResourceId::new(Kind::Tenant, "bad")]);
    assert!(source.health().reports()["Tenant"].undecodable.is_empty());
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_read_in_pages() {
    let settings = ApiServer::settings().version(25);
    let cluster = Cluster::on(TestEnv::on_double(settings).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    for number in 0..1_203 {
        let mut object = tenant(&format!("t{number:04}"), "203.0.113.1");
        object["metadata"]["generation"] = json!(1);
        double.put(&object);
    }
    // The second page is lost once, and everything has to be read again.
    double.inject(Requests::all().verb("list").resource(TENANTS), Fault::Delay(Duration::ZERO), 1);
    double.inject(Requests::all().verb("list").resource(TENANTS), Fault::Gone, 1);
    let source = cluster.source(&sources());

    let seen = next(&source).await;

    assert_eq!(seen.upserts.len(), 1_203);
    assert!(double.count("list", TENANTS) >= 5, "{}", double.count("list", TENANTS));
}

#[tokio::test]
async fn a_list_without_its_last_bookmark_is_read_in_pages_instead() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    cluster.tenant("acme", "203.0.113.1").await;
    double.send_bookmarks_every(Duration::from_millis(200));
    double.drop_bookmarks(4);
    let source = cluster.source(&sources());

    let seen = gather(&source, |seen| !seen.upserts.is_empty()).await;

    assert_eq!(names(&seen), ["acme"]);
}

#[tokio::test]
async fn a_burst_becomes_few_changes() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    let source = cluster.source(&sources());
    cluster.tenant("first", "203.0.113.1").await;
    gather(&source, |seen| names(seen).contains(&"first")).await;

    for number in 0..500 {
        double.put(&tenant(&format!("t{number}"), "203.0.113.1"));
    }
    let mut changes = 0;
    let seen = gather(&source, |seen| {
        changes += 1;
        seen.upserts.len() == 500
    })
    .await;

    assert_eq!(seen.upserts.len(), 500);
    assert!(changes < 100, "{changes}");
}

#[tokio::test]
async fn nothing_is_handed_out_before_every_kind_was_read() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    cluster.tenant("acme", "203.0.113.1").await;
    let late = Requests::all().resource("portmappings.durward.dev");
    double.inject(late.clone(), Fault::InternalError, 3);
    let source = cluster.source(&sources());

    eventually("tenants are read", async || source.health().reports()["Tenant"].synced).await;
    let is_synced = source.health().is_synced();
    let failures = source.health().reports()["PortMapping"].failures;
    let seen = next(&source).await;

    assert!(source.health().is_synced());
    assert_eq!(names(&seen), ["acme"]);
    // On a loaded machine the retries may have been over when the tenants were read.
    assert!(!is_synced || failures > 0);
}

/// A document must not make the gateway unready; what the operator asks for is waited for.
#[tokio::test]
async fn readiness_waits_for_services_that_are_looked_at_from_the_start() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    double.inject(Requests::all().resource("services"), Fault::InternalError, u64::MAX);
    let source = cluster.source(&Sources { load_balancers: true, ..sources() });

    let failed = async || {
        let reports = source.health().reports();
        reports["Service"].failures > 0
            && reports.iter().all(|(kind, it)| *kind == "Service" || it.synced)
    };
    eventually("all but Services are read", failed).await;
    let (early, unread) = (source.health().is_synced(), source.health().unread());
    double.clear_faults();

    assert!(!early && unread.is_empty(), "{unread:?}");
    eventually("Services are read", async || source.health().is_synced()).await;
}

#[tokio::test]
async fn one_namespace_is_served_without_any_right_on_others() {
    let cluster = Cluster::with_tls().await;
    let namespace = cluster.env.namespace().to_owned();
    let mapping = |namespace: &str| {
        json!({"apiVersion": "durward.dev/v1alpha1", "kind": "PortMapping",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"tenant": "acme", "addresses": ["203.0.113.1"],
                "ports": [{"port": 443}], "endpoints": ["10.0.0.1"]}})
    };
    let other = cluster.env.new_namespace(&json!({})).await;
    cluster.env.create(&mapping(&namespace)).await;
    cluster.env.create(&mapping(&other)).await;
    let rules = json!([{"apiGroups": ["durward.dev"], "resources": ["portmappings", "egresspolicies", "hostedapis"],
        "verbs": ["get", "list", "watch"]}]);
    let cluster_rules = json!([
        {"apiGroups": ["durward.dev"], "resources": ["tenants"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": [namespace],
            "verbs": ["get", "list", "watch"]}]);
    let kubeconfig = cluster.env.service_account("durward").await;
    grant(&cluster, &namespace, &rules, &cluster_rules).await;
    let clients = cluster.clients_of(&kubeconfig).await;
    let only = Sources { namespace: Some(namespace.as_str().into()), ..sources() };

    let source = durward_kube::Source::start(&clients, &only);
    let seen = gather(&source, |seen| !seen.upserts.is_empty()).await;

    let ids: Vec<String> = seen.upserts.iter().map(|object| object.id.to_string()).collect();
    assert_eq!(ids, [format!("PortMapping/{namespace}/web")]);
}

// S2.17
#[tokio::test]
async fn a_namespace_that_is_isolated_stands_for_a_policy_and_one_that_is_not_for_nothing() {
    let cluster = Cluster::start().await;
    let labels = json!({"tenant": "acme", "network/isolation": "egress-proxy"});
    let isolated = cluster.env.new_namespace(&labels).await;
    let other = cluster.env.new_namespace(&json!({"tenant": "acme"})).await;
    let source = cluster.source(&sources());
    let id = ResourceId::new(Kind::Namespace, &isolated);

    let seen = gather(&source, |seen| seen.upserts.iter().any(|object| object.id == id)).await;
    cluster.delete(&format!("/api/v1/namespaces/{isolated}")).await;
    let last = gather(&source, |seen| seen.deletes.contains(&id)).await;

    let no = ResourceId::new(Kind::Namespace, &other);
    assert!(seen.upserts.iter().chain(&last.upserts).all(|object| object.id != no));
    let change = seen.into_change();
    let document =
        change.upserts.iter().find(|document| document.id.as_ref() == Some(&id)).unwrap();
    let Content::Policy(read) = &document.content else { panic!("{:?}", document.content) };
    assert_eq!(read.spec.allow.as_ref().map(|rules| rules.value.len()), Some(2));
    assert_eq!(document.namespace().map(|namespace| &**namespace), Some(&*isolated));
}

/// Grants the service account `durward` these rules in its namespace and in the cluster.
pub(crate) async fn grant(
    cluster: &Cluster,
    namespace: &str,
    rules: &serde_json::Value,
    cluster_rules: &serde_json::Value,
) {
    let subject = json!([{"kind": "ServiceAccount", "name": "durward", "namespace": namespace}]);
    let role = |kind: &str, rules: &serde_json::Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": {"name": format!("durward-{namespace}")}, "rules": rules})
    };
    let binding = |kind: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": {"name": format!("durward-{namespace}")}, "subjects": subject,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role,
                "name": format!("durward-{namespace}")}})
    };
    cluster.env.create(&role("Role", rules)).await;
    cluster.env.create(&binding("RoleBinding", "Role")).await;
    cluster.env.create(&role("ClusterRole", cluster_rules)).await;
    cluster.env.create(&binding("ClusterRoleBinding", "ClusterRole")).await;
}

#[tokio::test]
async fn an_object_that_could_not_be_decoded_and_goes_unseen_is_missed_by_the_next_list() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    let double = cluster.env.double().unwrap();
    let namespace = cluster.env.namespace().to_owned();
    let path = format!("/api/v1/namespaces/{namespace}/secrets/cert");
    let put = |data: serde_json::Value| {
        double.put(&json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "cert", "namespace": namespace}, "data": data}));
    };
    put(json!({"key": "YWJj"}));
    let mut source = cluster.source(&sources());
    let reference = durward_control::reference::Reference::Secret {
        namespace: namespace.as_str().into(),
        name: "cert".into(),
    };
    source.want([&reference]);
    cluster.install().await;
    gather(&source, |seen| !seen.facts.is_empty()).await;

    put(json!({"key": "not base64"}));
    cluster.delete(&path).await;
    double.forget_history();
    double.expire_watches();
    let seen = gather(&source, |seen| !seen.facts.is_empty()).await;

    assert_eq!(seen.facts, [(reference, Some(durward_control::change::Fact::Missing))]);
}
