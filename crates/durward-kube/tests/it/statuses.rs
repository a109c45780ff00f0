//! Statuses, Events and accepted revisions, as they stand in the API server.

use std::sync::Arc;
use std::time::Duration;

use durward_control::document::Content;
use durward_kube::lease::LeaseOptions;
use durward_kube::object::Object;
use durward_kube::revisions::Revisions;
use durward_kube::status::{Desired, PlaneReport, Writer, WriterOptions};
use durward_model::verdict::{Finding, Outcome, Severity, Verdict};
use durward_model::{DocumentKey, Kind, Origin, Revision};
use durward_testkit::kubernetes::{ApiServer, Fault, Requests, TestEnv};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, tenant};

const RESOURCE: &str = "tenants.durward.dev";

fn verdict(object: &Object, outcome: Outcome, reason: Option<&str>) -> Verdict {
    let findings = reason.into_iter().map(|reason| Finding {
        severity: Severity::Error,
        reason: Arc::from(reason),
        field: Arc::from("spec.egress"),
        sentence: Arc::from("is taken"),
        origin: Origin::default(),
        excerpt: None,
    });
    Verdict {
        document: DocumentKey::Object(object.id.clone()),
        resource: object.id.clone(),
        observed: object.revision.clone(),
        outcome,
        findings: findings.collect(),
        origin: Origin::default(),
    }
}

fn confirmed(object: &Object) -> [PlaneReport; 1] {
    let confirmed = Some(object.revision.clone());
    [PlaneReport { plane: Arc::from("proxy"), confirmed, problem: None }]
}

fn good(object: &Object) -> Desired {
    Desired::new(object, &verdict(object, Outcome::Accepted, None), &confirmed(object))
}

fn bad(object: &Object, reason: &str) -> Desired {
    Desired::new(object, &verdict(object, Outcome::Rejected, Some(reason)), &confirmed(object))
}

fn path(name: &str) -> String {
    format!("/apis/durward.dev/v1alpha1/tenants/{name}")
}

async fn read(cluster: &Cluster, name: &str) -> (Object, Value) {
    let value = cluster.env.raw("GET", &path(name), None).await.unwrap();
    let version = "durward.dev/v1alpha1";
    (Object::decode(Kind::Tenant, version, &value.to_string()).unwrap(), value)
}

fn condition<'a>(object: &'a Object, r#type: &str) -> (&'a str, bool, u64) {
    let found = object.conditions.iter().find(|it| &*it.r#type == r#type).unwrap();
    let holds = found.status == durward_kube::status::Truth::True;
    (&found.reason, holds, found.observed_generation)
}

fn options(cluster: &Cluster) -> WriterOptions {
    let namespace = Arc::from(cluster.env.namespace());
    WriterOptions { rate: 1_000, namespace, ..WriterOptions::default() }
}

fn writer(cluster: &Cluster) -> Writer {
    Writer::start(cluster.clients.write.clone(), options(cluster))
}

async fn settled(writer: &Writer) {
    eventually("all is written", async || writer.report().pending == 0).await;
}

#[tokio::test]
async fn a_status_says_what_became_of_the_object_and_is_written_once() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace().to_owned();
    cluster.tenant(&name, "203.0.113.1").await;
    let (object, _) = read(&cluster, &name).await;
    let writer = writer(&cluster);

    writer.observe(&object);
    writer.want(&object.id, good(&object));
    settled(&writer).await;
    let (written, value) = read(&cluster, &name).await;
    writer.observe(&written);
    writer.want(&written.id, good(&written));
    settled(&writer).await;

    assert_eq!(condition(&written, "Accepted"), ("Accepted", true, 1));
    assert_eq!(condition(&written, "Programmed"), ("Programmed", true, 1));
    assert_eq!(condition(&written, "Ready"), ("Ready", true, 1));
    assert_eq!(value["status"]["observedGeneration"], 1);
    assert_eq!(writer.report().written, 1);
    if let Some(double) = cluster.env.double() {
        assert_eq!(double.status_writes(RESOURCE), (1, 0));
    }
}

#[tokio::test]
async fn a_start_over_objects_whose_status_is_right_writes_nothing() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    let first = writer(&cluster);
    let mut objects = Vec::new();
    for number in 0..200 {
        let name = format!("t{number}");
        double.put(&tenant(&name, "203.0.113.1"));
        let (object, _) = read(&cluster, &name).await;
        first.observe(&object);
        first.want(&object.id, if number % 2 == 0 { good(&object) } else { bad(&object, "Taken") });
        objects.push(object);
    }
    settled(&first).await;
    drop(first);
    double.clear_log();

    let second = writer(&cluster);
    for (number, object) in objects.iter().enumerate() {
        let (object, _) = read(&cluster, &object.id.name).await;
        let desired = if number % 2 == 0 { good(&object) } else { bad(&object, "Taken") };
        // In either order: a verdict may be there before the watch brings the object.
        second.observe(&object);
        second.want(&object.id, desired);
    }
    settled(&second).await;

    let writes =
        double.log().into_iter().filter(|it| !matches!(&*it.verb, "get" | "list" | "watch"));
    assert_eq!(writes.collect::<Vec<_>>(), []);
    assert_eq!((second.report().unchanged, second.report().written), (200, 0));
}

#[tokio::test]
async fn the_newest_change_is_written_first_and_the_rate_is_kept() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    let slow = WriterOptions { rate: 20, ..options(&cluster) };
    let writer = Writer::start(cluster.clients.write.clone(), slow);
    let mut objects = Vec::new();
    for number in 0..10 {
        let name = format!("t{number}");
        double.put(&tenant(&name, "203.0.113.1"));
        objects.push(read(&cluster, &name).await.0);
    }
    let start = tokio::time::Instant::now();

    for object in &objects {
        writer.observe(object);
        writer.want(&object.id, bad(object, "Taken"));
    }
    settled(&writer).await;

    let took = start.elapsed();
    let patched: Vec<String> = double
        .log()
        .into_iter()
        .filter(|it| it.verb == "patch" && it.subresource == "status")
        .map(|it| it.name)
        .collect();
    assert_eq!(patched.len(), 10);
    assert_eq!(patched[0], "t9", "{patched:?}");
    assert_eq!(patched[9], "t0", "{patched:?}");
    assert!(took >= Duration::from_millis(9 * 50), "{took:?}");
}

#[tokio::test]
async fn of_many_changes_of_one_object_only_the_last_is_written() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    cluster.tenant("acme", "203.0.113.1").await;
    let (object, _) = read(&cluster, "acme").await;
    double.inject(Requests::all().verb("patch").subresource("status"), Fault::InternalError, 2);
    let writer = writer(&cluster);
    writer.observe(&object);

    for number in 0..100 {
        writer.want(&object.id, bad(&object, &format!("Reason{number}")));
    }
    settled(&writer).await;
    let (written, _) = read(&cluster, "acme").await;

    assert_eq!(condition(&written, "Accepted").0, "Reason99");
    assert_eq!((writer.report().written, writer.report().failed), (1, 2));
}

#[tokio::test]
async fn conditions_of_others_and_times_that_did_not_change_stay() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace().to_owned();
    cluster.tenant(&name, "203.0.113.1").await;
    let (object, _) = read(&cluster, &name).await;
    let writer = writer(&cluster);
    writer.observe(&object);
    writer.want(&object.id, good(&object));
    settled(&writer).await;
    let (first, _) = read(&cluster, &name).await;
    let foreign = json!([{"type": "Audited", "status": "True", "reason": "Looked", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let other = json!({"apiVersion": "durward.dev/v1alpha1", "kind": "Tenant",
        "metadata": {"name": name}, "status": {"conditions": foreign}});
    http_apply(&cluster, &format!("{}/status?fieldManager=auditor", path(&name)), &other).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    let (seen, _) = read(&cluster, &name).await;
    writer.observe(&seen);
    let warned =
        Desired::new(&seen, &verdict(&seen, Outcome::Partial, Some("Taken")), &confirmed(&seen));
    writer.want(&seen.id, warned);
    settled(&writer).await;
    let (last, _) = read(&cluster, &name).await;

    let time = |object: &Object, r#type: &str| {
        let found = object.conditions.iter().find(|it| &*it.r#type == r#type).unwrap();
        found.last_transition_time.clone()
    };
    assert_eq!(condition(&last, "Audited").0, "Looked");
    assert_eq!(condition(&last, "Accepted"), ("Taken", false, 1));
    assert_ne!(time(&first, "Accepted"), time(&last, "Accepted"));
    assert_eq!(time(&first, "Programmed"), time(&last, "Programmed"));
}

async fn http_apply(cluster: &Cluster, path: &str, body: &Value) {
    let request = http::Request::patch(path)
        .header("content-type", "application/apply-patch+yaml")
        .body(body.to_string().into_bytes())
        .unwrap();
    cluster.env.client().request::<Value>(request).await.unwrap();
}

#[tokio::test]
async fn an_object_that_was_made_anew_does_not_get_the_status_of_the_one_before_it() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace().to_owned();
    cluster.tenant(&name, "203.0.113.1").await;
    let (old, _) = read(&cluster, &name).await;
    cluster.delete(&path(&name)).await;
    cluster.tenant(&name, "203.0.113.1").await;
    let writer = writer(&cluster);

    // The watch has not brought the new one yet.
    writer.observe(&old);
    writer.want(&old.id, bad(&old, "Taken"));
    settled(&writer).await;
    let (new, _) = read(&cluster, &name).await;
    let before = new.conditions.clone();
    writer.observe(&new);
    writer.want(&new.id, good(&new));
    settled(&writer).await;
    let (new, _) = read(&cluster, &name).await;

    assert_ne!(old.revision.uid, new.revision.uid);
    assert_eq!(before, []);
    assert_eq!(condition(&new, "Ready"), ("Ready", true, 1));
    assert_eq!(writer.report().written, 1);
}

#[tokio::test]
async fn a_server_that_is_away_gets_the_last_statuses_when_it_is_back() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let double = cluster.env.double().unwrap();
    cluster.tenant("acme", "203.0.113.1").await;
    let (object, _) = read(&cluster, "acme").await;
    let writer = writer(&cluster);
    writer.observe(&object);

    double.go_away();
    writer.want(&object.id, bad(&object, "Taken"));
    eventually("a failure", async || writer.report().failed > 0).await;
    writer.want(&object.id, good(&object));
    let away = writer.report();
    double.come_back();
    settled(&writer).await;
    let (written, _) = read(&cluster, "acme").await;

    assert!(away.pending == 1 && away.last_error.is_some(), "{away:?}");
    assert_eq!(condition(&written, "Ready"), ("Ready", true, 1));
    assert_eq!((writer.report().written, writer.report().last_error), (1, None));
}

#[tokio::test]
async fn events_are_sent_for_conditions_that_changed_and_for_no_others() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace().to_owned();
    cluster.tenant(&name, "203.0.113.1").await;
    let (object, _) = read(&cluster, &name).await;
    let writer = writer(&cluster);
    writer.observe(&object);

    let waiting = Desired::new(&object, &verdict(&object, Outcome::Accepted, None), &[]);
    writer.want(&object.id, waiting);
    settled(&writer).await;
    writer.want(&object.id, good(&object));
    settled(&writer).await;
    writer.want(&object.id, bad(&object, "AddressTaken"));
    settled(&writer).await;
    // Events follow the status.
    eventually("events", async || writer.report().events.0 >= 4).await;

    // Where Events on objects without a namespace are.
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let list = cluster.env.raw("GET", events, None).await.unwrap();
    let mut said: Vec<String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["regarding"]["uid"].as_str() == object.revision.uid.as_deref())
        .map(|event| {
            assert_eq!(event["regarding"]["kind"], "Tenant");
            format!("{} {}", event["type"].as_str().unwrap(), event["reason"].as_str().unwrap())
        })
        .collect();
    said.sort();
    let expected =
        ["Normal Accepted", "Normal Programmed", "Warning AddressTaken", "Warning NotAccepted"];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn the_last_accepted_revision_is_found_by_a_fresh_process() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace().to_owned();
    let keeper =
        || Revisions::new(cluster.clients.watch.clone(), Arc::from(cluster.env.namespace()));
    let writer = writer(&cluster);
    let mut texts = Vec::new();
    for round in 1..=4_u64 {
        cluster.tenant(&name, &format!("203.0.113.{round}")).await;
        let (object, _) = read(&cluster, &name).await;
        assert_eq!(object.revision.generation, round);
        writer.observe(&object);
        writer.want(&object.id, if round == 3 { bad(&object, "Taken") } else { good(&object) });
        settled(&writer).await;
        texts.push(object);
    }
    let uid = texts[0].revision.uid.clone().unwrap();
    let mut other = texts[3].clone();
    other.revision.uid = Some(Arc::from("00000000-0000-0000-0000-000000000000"));

    let newest = keeper().last_accepted(&texts[3]).await.unwrap().unwrap();
    let kept = cluster.env.raw("GET", &revisions(&name), None).await.unwrap();
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    let found = keeper().former_documents([&texts[3], &other], deadline).await;

    assert_eq!((newest.generation, &newest.text), (4, &texts[3].text));
    assert_eq!(found.unread, 0);
    let [document] = &found.documents[..] else { panic!("{found:?}") };
    assert_eq!((document.id.as_ref(), document.revision.generation), (Some(&texts[3].id), 4));
    assert!(matches!(document.content, Content::Tenant(_)));
    let mut generations: Vec<u64> = kept["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|revision| {
            assert_eq!(revision["metadata"]["ownerReferences"][0]["uid"], &*uid);
            revision["revision"].as_u64().unwrap()
        })
        .collect();
    generations.sort_unstable();
    assert_eq!(generations, [2, 4], "a revision that was not accepted is not kept");
    assert_eq!(writer.report().revisions, 3);
}

fn revisions(namespace: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/controllerrevisions")
}

#[tokio::test]
async fn accepted_revisions_go_with_their_object() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace().to_owned();
    if !cluster.env.need_controllers("accepted_revisions_go_with_their_object") {
        return;
    }
    cluster.tenant(&name, "203.0.113.1").await;
    let (object, _) = read(&cluster, &name).await;
    let writer = writer(&cluster);
    writer.observe(&object);
    writer.want(&object.id, good(&object));
    settled(&writer).await;
    let count = async || {
        let list = cluster.env.raw("GET", &revisions(&name), None).await.unwrap();
        list["items"].as_array().unwrap().len()
    };

    let before = count().await;
    cluster.delete(&path(&name)).await;
    eventually("they are gone", async || count().await == 0).await;

    assert_eq!(before, 1);
}

#[tokio::test]
async fn a_revision_of_another_uid_confirms_nothing() {
    let cluster = Cluster::start().await;
    let name = cluster.env.namespace().to_owned();
    cluster.tenant(&name, "203.0.113.1").await;
    let (object, _) = read(&cluster, &name).await;
    let writer = writer(&cluster);
    writer.observe(&object);
    let former = Revision { uid: Some(Arc::from("former")), ..object.revision.clone() };
    let planes = [PlaneReport { plane: Arc::from("nat"), confirmed: Some(former), problem: None }];

    let accepted = verdict(&object, Outcome::Accepted, None);
    writer.want(&object.id, Desired::new(&object, &accepted, &planes));
    settled(&writer).await;
    let (written, _) = read(&cluster, &name).await;

    assert_eq!(condition(&written, "Accepted"), ("Accepted", true, 1));
    assert_eq!(condition(&written, "Programmed"), ("Pending", false, 1));
    assert_eq!(condition(&written, "Ready"), ("Pending", false, 1));
}

/// Options of a writer that writes only while it holds the Lease of the test.
fn sharing(cluster: &Cluster, identity: &str) -> WriterOptions {
    let namespace: Arc<str> = Arc::from(cluster.env.namespace());
    let lease = LeaseOptions {
        name: Arc::from("statuses"),
        namespace,
        identity: Arc::from(identity),
        duration: Duration::from_secs(3),
    };
    WriterOptions { lease: Some(lease), ..options(cluster) }
}

async fn until_reason(cluster: &Cluster, name: &str, wanted: &str) {
    eventually(&format!("{name} says {wanted}"), async || {
        let (object, _) = read(cluster, name).await;
        object.conditions.iter().any(|one| &*one.reason == wanted)
    })
    .await;
}

#[tokio::test]
async fn of_two_that_say_different_things_one_writes_and_the_other_when_that_one_goes() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let api = cluster.env.double().unwrap();
    cluster.tenant("acme", "203.0.113.1").await;
    let (object, _) = read(&cluster, "acme").await;
    let first = Writer::start(cluster.clients.write.clone(), sharing(&cluster, "one"));
    first.observe(&object);
    first.want(&object.id, bad(&object, "SaidByOne"));
    until_reason(&cluster, "acme", "SaidByOne").await;

    let second = Writer::start(cluster.clients.write.clone(), sharing(&cluster, "two"));
    second.observe(&object);
    second.want(&object.id, bad(&object, "SaidByTwo"));
    let before = api.status_writes(RESOURCE);
    for _ in 0..40 {
        // Each sees what the other would have written.
        let (object, _) = read(&cluster, "acme").await;
        first.observe(&object);
        second.observe(&object);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(api.status_writes(RESOURCE), before, "they do not fight");

    first.lease().unwrap().release().await.unwrap();
    drop(first);
    until_reason(&cluster, "acme", "SaidByTwo").await;
    // One that ends without a word is waited for.
    let third = Writer::start(cluster.clients.write.clone(), sharing(&cluster, "three"));
    let (object, _) = read(&cluster, "acme").await;
    third.observe(&object);
    third.want(&object.id, bad(&object, "SaidByThree"));
    drop(second);
    until_reason(&cluster, "acme", "SaidByThree").await;
}

#[tokio::test]
async fn who_may_use_no_lease_writes_all_the_same() {
    let cluster = Cluster::start().await;
    let (namespace, name) = (cluster.env.namespace().to_owned(), "no-lease");
    cluster.tenant(&namespace, "203.0.113.1").await;
    let kubeconfig = cluster.env.service_account(name).await;
    let role = format!("{name}-{namespace}");
    let group = "rbac.authorization.k8s.io";
    for object in [
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": role},
            "rules": [{"apiGroups": ["durward.dev"], "resources": ["tenants/status"], "verbs": ["patch"]}]}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": role},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]}),
    ] {
        cluster.env.create(&object).await;
    }
    let clients = cluster.clients_of(&kubeconfig).await;
    let (object, _) = read(&cluster, &namespace).await;
    let writer = Writer::start(clients.write.clone(), sharing(&cluster, "one"));

    writer.observe(&object);
    writer.want(&object.id, bad(&object, "SaidAlone"));

    until_reason(&cluster, &namespace, "SaidAlone").await;
}
