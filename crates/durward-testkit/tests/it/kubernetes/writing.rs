//! Creating, replacing and patching.

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::serde_json::{self, json};
use kube::api::{Patch, PatchParams, PostParams};

use super::*;

#[tokio::test]
async fn a_new_object_gets_what_only_the_server_knows() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);

    let made = created(&api, &config_map("a", &json!({"x": "1"}))).await;

    assert!(made.metadata.uid.is_some_and(|uid| !uid.is_empty()));
    assert!(made.metadata.creation_timestamp.is_some());
    assert!(made.metadata.resource_version.is_some());
    assert_eq!(made.metadata.generation, None, "a ConfigMap has no generation");
    assert_eq!(made.metadata.namespace.as_deref(), Some(env.namespace()));
}

#[tokio::test]
async fn an_object_is_created_once() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    created(&api, &config_map("a", &json!({}))).await;

    let status = refused(create(&api, &config_map("a", &json!({}))).await);

    assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(status.message, "configmaps \"a\" already exists");
}

#[tokio::test]
async fn a_prefix_makes_names_that_differ() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let nameless =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-"}});

    let (one, other) = (created(&api, &nameless).await, created(&api, &nameless).await);

    let (one, other) = (one.metadata.name.expect("a name"), other.metadata.name.expect("a name"));
    assert!(one.starts_with("a-") && one.len() == 7, "{one}");
    assert_ne!(one, other);
}

#[tokio::test]
async fn names_are_checked() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);

    let status = refused(create(&api, &config_map("Not_A_Name", &json!({}))).await);

    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(
        status.message.starts_with(
            "ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value: \"Not_A_Name\": a lowercase RFC 1123 subdomain must consist of"
        ),
        "{}",
        status.message
    );
    let details = status.details.expect("details");
    assert_eq!((details.kind.as_str(), details.name.as_str()), ("ConfigMap", "Not_A_Name"));
    assert_eq!(details.causes[0].field, "metadata.name");
    assert_eq!(details.causes[0].reason, "FieldValueInvalid");
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_not_found() {
    let env = TestEnv::start().await;
    let path = "/api/v1/namespaces/durward-nowhere/configmaps";

    let status = refused(env.raw("POST", path, Some(&config_map("a", &json!({})))).await);

    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
    assert_eq!(status.message, "namespaces \"durward-nowhere\" not found");
}

#[tokio::test]
async fn a_dry_run_shows_the_object_and_stores_nothing() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let dry = PostParams { dry_run: true, ..PostParams::default() };

    let shown = api.create(&dry, &object(&config_map("a", &json!({"x": "1"})))).await;

    let shown = shown.expect("it would be made");
    assert_eq!(shown.data["data"], json!({"x": "1"}));
    assert_eq!(shown.metadata.resource_version, None, "it is no version of anything");
    assert_eq!(api.get_opt("a").await.expect("an answer").map(|found| found.metadata.name), None);
}

#[tokio::test]
async fn a_stale_version_is_a_conflict() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let first = created(&api, &config_map("a", &json!({"x": "1"}))).await;
    let mut second = first.clone();
    second.data = json!({"data": {"x": "2"}});
    api.replace("a", &PostParams::default(), &second).await.expect("the first one is fresh");

    let status = refused(api.replace("a", &PostParams::default(), &second).await);

    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
}

#[tokio::test]
async fn a_config_map_is_replaced_without_a_version_and_a_lease_is_not() {
    let env = TestEnv::start().await;
    created(&config_maps(&env), &config_map("a", &json!({"x": "1"}))).await;
    let leases = env.api("coordination.k8s.io/v1", "Lease", "leases", true);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "a"},
        "spec": {"holderIdentity": "x"},
    });
    created(&leases, &lease).await;

    let map = object(&config_map("a", &json!({"x": "2"})));
    let map = config_maps(&env).replace("a", &PostParams::default(), &map).await;
    let status = refused(leases.replace("a", &PostParams::default(), &object(&lease)).await);

    assert_eq!(map.expect("no version is needed").data["data"]["x"], "2");
    assert_eq!(status.code, 422);
    assert_eq!(
        status.message,
        "leases.coordination.k8s.io \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_version() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let made = created(&api, &config_map("a", &json!({"x": "1"}))).await;

    let same = api.replace("a", &PostParams::default(), &made).await.expect("it is fresh");
    let patched =
        patch(&env, &config_map_path(&env, "/a"), MERGE_PATCH, &json!({"data": {"x": "1"}})).await;

    assert_eq!(same.metadata.resource_version, made.metadata.resource_version);
    let version = made.metadata.resource_version.expect("a version");
    assert_eq!(patched.expect("it is patched")["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn a_merge_patch_adds_and_removes_fields() {
    let env = TestEnv::start().await;
    created(&config_maps(&env), &config_map("a", &json!({"x": "1", "y": "2"}))).await;

    let body = json!({"data": {"x": null, "z": "3"}});
    let patched = patch(&env, &config_map_path(&env, "/a"), MERGE_PATCH, &body).await;

    assert_eq!(patched.expect("it is patched")["data"], json!({"y": "2", "z": "3"}));
}

#[tokio::test]
async fn a_json_patch_tests_for_null_where_nothing_is() {
    let env = TestEnv::start().await;
    created(&config_maps(&env), &config_map("a", &json!({"x": "1"}))).await;
    let path = config_map_path(&env, "/a");
    let add = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["durward.test/a"]},
    ]);

    let first = patch(&env, &path, JSON_PATCH, &add).await.expect("there is none");
    let second = refused(patch(&env, &path, JSON_PATCH, &add).await);

    assert_eq!(first["metadata"]["finalizers"], json!(["durward.test/a"]));
    assert_eq!((second.code, second.reason.as_str()), (422, "Invalid"));
    let clear = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    patch(&env, &path, JSON_PATCH, &clear).await.expect("it is removed");
}

#[tokio::test]
async fn a_patch_may_carry_the_version_that_it_is_for() {
    let env = TestEnv::start().await;
    created(&config_maps(&env), &config_map("a", &json!({"x": "1"}))).await;
    let body = json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "2"}});

    let status = refused(patch(&env, &config_map_path(&env, "/a"), MERGE_PATCH, &body).await);

    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
}

#[tokio::test]
async fn the_name_in_the_body_is_the_one_in_the_path() {
    let env = TestEnv::start().await;
    created(&config_maps(&env), &config_map("a", &json!({}))).await;

    let body = config_map("b", &json!({}));
    let status = refused(env.raw("PUT", &config_map_path(&env, "/a"), Some(&body)).await);

    assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"));
    assert_eq!(status.message, "the name of the object (b) does not match the name on the URL (a)");
}

#[tokio::test]
async fn a_status_is_written_apart_and_moves_no_generation() {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    let api = widgets(&env);
    let mut json = widget(&env, "a", &json!({"size": 1}));
    json["status"] = json!({"phase": "Ready"});

    let made = created(&api, &json).await;
    assert_eq!(made.data.get("status"), None, "a status is not created with its object");
    assert_eq!(made.metadata.generation, Some(1));

    let both = json!({"spec": {"size": 2}, "status": {"phase": "Ready"}});
    let params = PatchParams::default();
    let written = api.patch_status("a", &params, &Patch::Merge(&both)).await.expect("a status");
    assert_eq!(written.data["spec"]["size"], 1, "the spec is not written with the status");
    assert_eq!(written.data["status"]["phase"], "Ready");
    assert_eq!(written.metadata.generation, Some(1));

    let both = json!({"spec": {"size": 3}, "status": {"phase": "Other"}});
    let written = api.patch("a", &params, &Patch::Merge(&both)).await.expect("a spec");
    assert_eq!(written.data["spec"]["size"], 3);
    assert_eq!(written.data["status"]["phase"], "Ready", "the status is not written with the spec");
    assert_eq!(written.metadata.generation, Some(2));

    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let written = api.patch("a", &params, &Patch::Merge(&labels)).await.expect("labels");
    assert_eq!(written.metadata.generation, Some(2), "metadata moves no generation");
}

#[tokio::test]
async fn a_custom_object_is_not_replaced_without_its_version() {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    let api = widgets(&env);
    let json = widget(&env, "a", &json!({"size": 1}));
    created(&api, &json).await;

    let status = refused(api.replace("a", &PostParams::default(), &object(&json)).await);

    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let expected = format!(
        "widgets.{} \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update",
        env.group()
    );
    assert_eq!(status.message, expected);
}

#[tokio::test]
async fn a_strategic_patch_of_a_custom_object_is_no_media_type() {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    created(&widgets(&env), &widget(&env, "a", &json!({"size": 1}))).await;
    let path = format!("/apis/{}/v1/namespaces/{}/widgets/a", env.group(), env.namespace());

    let media_type = "application/strategic-merge-patch+json";
    let status = refused(patch(&env, &path, media_type, &json!({"spec": {"size": 2}})).await);

    assert_eq!((status.code, status.reason.as_str()), (415, "UnsupportedMediaType"));
    let json = serde_json::to_string(&status).expect("a status is JSON");
    assert!(json.contains("application/merge-patch+json"), "{json}");
}

#[tokio::test]
async fn an_object_stays_the_one_that_it_is() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    created(&api, &config_map("a", &json!({}))).await;
    let path = config_map_path(&env, "/a");
    let merge = async |body: Value| refused(patch(&env, &path, MERGE_PATCH, &body).await);

    let renamed = merge(json!({"metadata": {"name": "b"}})).await;
    let moved = merge(json!({"metadata": {"namespace": "elsewhere"}})).await;
    let other = merge(json!({"metadata": {"uid": "other"}})).await;
    let mut replacement = config_map("a", &json!({}));
    replacement["metadata"]["uid"] = "other".into();
    let replaced = refused(env.raw("PUT", &path, Some(&replacement)).await);

    assert_eq!(
        (renamed.code, renamed.message.as_str()),
        (400, "the name of the object (b) does not match the name on the URL (a)")
    );
    assert_eq!(
        (moved.code, moved.message.as_str()),
        (
            400,
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    );
    assert_eq!(other.code, 422);
    assert!(
        other.message.contains("metadata.uid: Invalid value: \"other\": field is immutable"),
        "{}",
        other.message
    );
    assert_eq!((replaced.code, replaced.reason.as_str()), (409, "Conflict"));
    assert!(
        replaced
            .message
            .contains("Precondition failed: UID in precondition: other, UID in object meta: "),
        "{}",
        replaced.message
    );
}

#[tokio::test]
async fn a_new_object_has_no_version_yet() {
    let env = TestEnv::start().await;
    let mut json = config_map("a", &json!({}));
    json["metadata"]["resourceVersion"] = "5".into();

    let mut config = env.config();
    config.default_retry = false;
    let client = kube::Client::try_from(config).expect("a client");
    let request = http::Request::post(config_map_path(&env, ""))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(json.to_string().into_bytes())
        .expect("a request");
    let status = refused(client.request::<Value>(request).await);

    assert_eq!((status.code, status.reason.as_str()), (500, ""));
    assert_eq!(status.message, "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn metadata_is_checked() {
    let env = TestEnv::start().await;
    let table = [
        (
            json!({"labels": {"a b": "c"}}),
            "metadata.labels: Invalid value: \"a b\": name part must consist of",
        ),
        (
            json!({"labels": {"a": "b c"}}),
            "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or",
        ),
        (
            json!({"finalizers": ["plain"]}),
            "metadata.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified",
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "x", "uid": ""}]}),
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ),
        (
            json!({"generateName": "", "name": ""}),
            "metadata.name: Required value: name or generateName is required",
        ),
    ];

    for (metadata, expected) in table {
        let mut json = config_map("a", &json!({}));
        for (key, value) in metadata.as_object().expect("an object") {
            json["metadata"][key] = value.clone();
        }
        let status = refused(env.raw("POST", &config_map_path(&env, ""), Some(&json)).await);

        assert_eq!(status.code, 422, "{metadata}");
        assert!(status.message.contains(expected), "{}", status.message);
    }
}

#[tokio::test]
async fn a_patch_of_no_known_media_type_is_refused_as_such() {
    let env = TestEnv::start().await;
    created(&config_maps(&env), &config_map("a", &json!({}))).await;

    let status =
        refused(patch(&env, &config_map_path(&env, "/a"), "application/x-patch", &json!({})).await);

    assert_eq!((status.code, status.reason.as_str()), (415, "UnsupportedMediaType"));
    assert_eq!(status.message, "415: Unsupported Media Type");
}
