//! Deletion: finalizers, preconditions, owners, and namespaces.

use durward_testkit::kubernetes::{PATIENCE, TestEnv};
use durward_testkit::process::eventually;
use durward_testkit::serde_json::json;
use kube::api::{DeleteParams, ListParams, Preconditions};

use super::*;

fn with_finalizer(name: &str) -> Value {
    let mut json = config_map(name, &json!({}));
    json["metadata"]["finalizers"] = json!(["durward.test/held"]);
    json
}

async fn is_gone(api: &Api<DynamicObject>, name: &str) -> bool {
    eventually(PATIENCE, async || matches!(api.get_opt(name).await, Ok(None))).await
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    created(&api, &with_finalizer("a")).await;

    let deleted = api.delete("a", &DeleteParams::default()).await.expect("it is marked");
    let marked = deleted.left().expect("the object is still there");
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(0));

    let path = config_map_path(&env, "/a");
    let body = json!({"metadata": {"finalizers": ["durward.test/held", "durward.test/late"]}});
    let status = refused(patch(&env, &path, MERGE_PATCH, &body).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(
        status.message.contains("metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"durward.test/late\"}"),
        "{}",
        status.message
    );

    let none = json!({"metadata": {"finalizers": null}});
    patch(&env, &path, MERGE_PATCH, &none).await.expect("it is let go");
    assert!(is_gone(&api, "a").await);
}

#[tokio::test]
async fn a_custom_object_that_is_being_deleted_has_a_new_generation() {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    let api = widgets(&env);
    let mut json = widget(&env, "a", &json!({"size": 1}));
    json["metadata"]["finalizers"] = json!(["durward.test/held"]);
    created(&api, &json).await;

    let marked = api.delete("a", &DeleteParams::default()).await.expect("it is marked");

    assert_eq!(marked.left().expect("it is still there").metadata.generation, Some(2));
    let path = format!("/apis/{}/v1/namespaces/{}/widgets/a", env.group(), env.namespace());
    let none = json!({"metadata": {"finalizers": null}});
    patch(&env, &path, MERGE_PATCH, &none).await.expect("it is let go");
    assert!(is_gone(&api, "a").await);
}

#[tokio::test]
async fn a_deletion_of_nothing_is_not_found() {
    let env = TestEnv::start().await;

    let status = refused(config_maps(&env).delete("a", &DeleteParams::default()).await);

    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
}

#[tokio::test]
async fn a_deletion_may_be_for_one_uid_only() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let made = created(&api, &config_map("a", &json!({}))).await;
    let uid = made.metadata.uid.expect("a uid");
    let for_uid = |uid: &str| {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        DeleteParams::default().preconditions(preconditions)
    };

    let status = refused(api.delete("a", &for_uid("another")).await);
    api.delete("a", &for_uid(&uid)).await.expect("the uid is right");

    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let expected = format!(
        "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (another) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
    );
    assert_eq!(status.message, expected);
}

#[tokio::test]
async fn a_collection_is_deleted_by_labels() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut json = config_map(name, &json!({}));
        json["metadata"]["labels"] = json!({"durward": label});
        created(&api, &json).await;
    }

    let chosen = ListParams::default().labels("durward=x");
    api.delete_collection(&DeleteParams::default(), &chosen).await.expect("they go");

    assert!(is_gone(&api, "a").await && is_gone(&api, "c").await);
    assert!(api.get_opt("b").await.expect("an answer").is_some());
}

#[tokio::test]
async fn what_an_object_owns_goes_with_it() {
    let env = TestEnv::start().await;
    if !env.need_controllers("deletion::what_an_object_owns_goes_with_it") {
        return;
    }
    let api = config_maps(&env);
    let owner = created(&api, &config_map("owner", &json!({}))).await;
    let owned_by = |name: &str, uid: &str| {
        let mut json = config_map(name, &json!({}));
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid});
        json["metadata"]["ownerReferences"] = json!([owner]);
        json
    };
    created(&api, &owned_by("owned", &owner.metadata.uid.expect("a uid"))).await;

    created(&api, &owned_by("orphan", "00000000-0000-0000-0000-000000000000")).await;
    assert!(is_gone(&api, "orphan").await, "its owner has never been there");
    assert!(api.get_opt("owned").await.expect("an answer").is_some());

    api.delete("owner", &DeleteParams::default()).await.expect("it goes");
    assert!(is_gone(&api, "owned").await);
}

#[tokio::test]
async fn an_owner_in_the_foreground_goes_last() {
    let env = TestEnv::start().await;
    if !env.need_controllers("deletion::an_owner_in_the_foreground_goes_last") {
        return;
    }
    let api = config_maps(&env);
    let owner = created(&api, &config_map("owner", &json!({}))).await;
    let mut owned = with_finalizer("owned");
    let uid = owner.metadata.uid.expect("a uid");
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": uid,
        "blockOwnerDeletion": true,
    }]);
    created(&api, &owned).await;

    api.delete("owner", &DeleteParams::foreground()).await.expect("it is marked");
    let owned_is_marked = eventually(PATIENCE, async || {
        let owned = api.get("owned").await;
        owned.is_ok_and(|owned| owned.metadata.deletion_timestamp.is_some())
    });
    assert!(owned_is_marked.await);
    assert!(api.get_opt("owner").await.expect("an answer").is_some(), "it waits for what it owns");

    let none = json!({"metadata": {"finalizers": null}});
    patch(&env, &config_map_path(&env, "/owned"), MERGE_PATCH, &none).await.expect("it is let go");
    assert!(is_gone(&api, "owned").await && is_gone(&api, "owner").await);
}

#[tokio::test]
async fn a_namespace_ends_with_everything_in_it() {
    let env = TestEnv::start().await;
    if !env.need_controllers("deletion::a_namespace_ends_with_everything_in_it") {
        return;
    }
    let api = config_maps(&env);
    created(&api, &with_finalizer("a")).await;
    let namespaces = env.api("v1", "Namespace", "namespaces", false);

    namespaces.delete(env.namespace(), &DeleteParams::default()).await.expect("it is marked");
    let is_ending = eventually(PATIENCE, async || {
        let object = api.get("a").await;
        object.is_ok_and(|object| object.metadata.deletion_timestamp.is_some())
    });
    assert!(is_ending.await);
    let status = refused(create(&api, &config_map("b", &json!({}))).await);
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    let namespace = env.namespace();
    let expected = format!(
        "configmaps \"b\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated"
    );
    assert_eq!(status.message, expected);
    assert_eq!(status.details.expect("details").causes[0].reason, "NamespaceTerminating");

    let none = json!({"metadata": {"finalizers": null}});
    patch(&env, &config_map_path(&env, "/a"), MERGE_PATCH, &none).await.expect("it is let go");
    assert!(is_gone(&namespaces, namespace).await);
}

#[tokio::test]
async fn objects_end_with_the_definition_of_their_kind() {
    let env = TestEnv::start().await;
    let definition = widget_definition(&env, &plain_spec());
    env.define(&definition).await;
    created(&widgets(&env), &widget(&env, "a", &json!({"size": 1}))).await;
    let definitions = env.api(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
    );
    let name = definition["metadata"]["name"].as_str().expect("a name");

    definitions.delete(name, &DeleteParams::default()).await.expect("it goes");

    assert!(is_gone(&definitions, name).await);
    let path = format!("/apis/{}/v1/widgets", env.group());
    let is_unserved = eventually(
        PATIENCE,
        async || matches!(env.raw("GET", &path, None).await, Err(kube::Error::Api(status)) if status.code == 404),
    );
    assert!(is_unserved.await);
}

#[tokio::test]
async fn a_pod_on_a_node_waits_for_its_node() {
    let env = TestEnv::start().await;
    let api = env.api("v1", "Pod", "pods", true);
    let pod = |name: &str, node: &Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        })
    };
    // Where a controller makes it, the service account comes a moment after the namespace.
    let made =
        eventually(PATIENCE, async || create(&api, &pod("bound", &json!("n"))).await.is_ok());
    assert!(made.await);
    created(&api, &pod("free", &Value::Null)).await;

    api.delete("free", &DeleteParams::default()).await.expect("nobody runs it");
    let bound = api.delete("bound", &DeleteParams::default()).await.expect("it is marked");
    assert!(is_gone(&api, "free").await);
    let bound = bound.left().expect("its node has to end it");
    assert_eq!(bound.metadata.deletion_grace_period_seconds, Some(30));
    assert!(api.get_opt("bound").await.expect("an answer").is_some());

    let now = DeleteParams::default().grace_period(0);
    api.delete("bound", &now).await.expect("its node says that it has ended");
    assert!(is_gone(&api, "bound").await);
}
