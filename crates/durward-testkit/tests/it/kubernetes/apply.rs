//! Server-side apply.

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::serde_json::json;
use kube::api::{Patch, PatchParams};

use super::*;

async fn apply(env: &TestEnv, manager: &str, data: &Value) -> Result<DynamicObject, kube::Error> {
    let params = PatchParams::apply(manager);
    config_maps(env).patch("a", &params, &Patch::Apply(config_map("a", data))).await
}

/// Fields of a manager, as `managedFields` has them.
fn fields(object: &DynamicObject, manager: &str) -> Value {
    let entries = object.metadata.managed_fields.iter().flatten();
    let mut entries = entries.filter(|entry| entry.manager.as_deref() == Some(manager));
    let fields = entries.next().and_then(|entry| entry.fields_v1.as_ref());
    fields.map(|fields| fields.0.clone()).unwrap_or_default()
}

#[tokio::test]
async fn managers_own_what_they_apply() {
    let env = TestEnv::start().await;

    apply(&env, "one", &json!({"x": "1"})).await.expect("it is new");
    let both = apply(&env, "two", &json!({"y": "2"})).await.expect("another field");

    assert_eq!(both.data["data"], json!({"x": "1", "y": "2"}));
    assert_eq!(fields(&both, "one"), json!({"f:data": {"f:x": {}}}));
    assert_eq!(fields(&both, "two"), json!({"f:data": {"f:y": {}}}));
}

#[tokio::test]
async fn another_managers_field_is_a_conflict_that_names_it() {
    let env = TestEnv::start().await;
    apply(&env, "one", &json!({"x": "1"})).await.expect("it is new");

    let status = refused(apply(&env, "two", &json!({"x": "2"})).await);

    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    let causes = status.details.expect("details").causes;
    assert_eq!(causes.len(), 1);
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].message.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", "conflict with \"one\"", ".data.x")
    );
}

#[tokio::test]
async fn two_conflicts_are_listed_by_their_manager() {
    let env = TestEnv::start().await;
    apply(&env, "one", &json!({"x": "1", "y": "1"})).await.expect("it is new");

    let status = refused(apply(&env, "two", &json!({"x": "2", "y": "2"})).await);

    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.x\n- .data.y"
    );
}

#[tokio::test]
async fn force_takes_a_field_over() {
    let env = TestEnv::start().await;
    apply(&env, "one", &json!({"x": "1", "y": "1"})).await.expect("it is new");

    let params = PatchParams::apply("two").force();
    let config = config_map("a", &json!({"x": "2"}));
    let forced = config_maps(&env).patch("a", &params, &Patch::Apply(&config)).await;

    let forced = forced.expect("by force");
    assert_eq!(forced.data["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(fields(&forced, "one"), json!({"f:data": {"f:y": {}}}));
    assert_eq!(fields(&forced, "two"), json!({"f:data": {"f:x": {}}}));
}

#[tokio::test]
async fn the_same_value_is_owned_together() {
    let env = TestEnv::start().await;
    apply(&env, "one", &json!({"x": "1"})).await.expect("it is new");
    apply(&env, "two", &json!({"x": "1"})).await.expect("the value is the same");

    let left = apply(&env, "one", &json!({})).await.expect("one lets go");
    let gone = apply(&env, "two", &json!({})).await.expect("two lets go");

    assert_eq!(left.data["data"]["x"], "1");
    assert!(gone.data.get("data").is_none_or(|data| data["x"].is_null()), "{:?}", gone.data);
}

#[tokio::test]
async fn a_field_that_is_no_longer_applied_goes() {
    let env = TestEnv::start().await;
    apply(&env, "one", &json!({"x": "1", "y": "1"})).await.expect("it is new");

    let less = apply(&env, "one", &json!({"y": "1"})).await.expect("less");

    assert_eq!(less.data["data"], json!({"y": "1"}));
}

#[tokio::test]
async fn an_update_takes_fields_and_is_named_in_a_conflict() {
    let env = TestEnv::start().await;
    apply(&env, "one", &json!({"x": "1"})).await.expect("it is new");
    let path = config_map_path(&env, "/a?fieldManager=editor");
    patch(&env, &path, MERGE_PATCH, &json!({"data": {"x": "2"}})).await.expect("an update");

    let status = refused(apply(&env, "one", &json!({"x": "1"})).await);

    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.x"
    );
}

#[tokio::test]
async fn applying_the_same_again_changes_nothing() {
    let env = TestEnv::start().await;
    let first = apply(&env, "one", &json!({"x": "1"})).await.expect("it is new");
    // Times in managedFields have whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;

    let second = apply(&env, "one", &json!({"x": "1"})).await.expect("the same");

    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
}

#[tokio::test]
async fn a_manager_is_needed() {
    let env = TestEnv::start().await;

    let config = config_map("a", &json!({}));
    let status = refused(patch(&env, &config_map_path(&env, "/a"), APPLY, &config).await);

    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert_eq!(
        status.message,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
}

#[tokio::test]
async fn finalizers_of_two_managers_are_one_set() {
    let env = TestEnv::start().await;
    let config = |finalizers: &[&str]| {
        let mut config = config_map("a", &json!({"x": "1"}));
        config["metadata"]["finalizers"] = json!(finalizers);
        config
    };
    let api = config_maps(&env);
    let apply = async |manager: &str, finalizers: &[&str]| {
        let params = PatchParams::apply(manager);
        let applied = api.patch("a", &params, &Patch::Apply(config(finalizers))).await;
        applied.expect("nobody is in the way").metadata.finalizers.unwrap_or_default()
    };

    apply("one", &["durward.test/one"]).await;
    let both = apply("two", &["durward.test/two"]).await;
    let left = apply("one", &[]).await;
    let none = apply("two", &[]).await;

    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!(left, ["durward.test/two"]);
    assert_eq!(none, Vec::<String>::new());
}

#[tokio::test]
async fn a_list_that_is_a_map_merges_by_its_keys() {
    let env = TestEnv::start().await;
    let schema = json!({
        "type": "object",
        "properties": {
            "ports": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "port": {"type": "integer"}},
                },
            },
            "plain": {"type": "array", "items": {"type": "string"}},
        },
    });
    env.define(&widget_definition(&env, &schema)).await;
    let api = widgets(&env);
    let apply = async |manager: &str, spec: Value| {
        let params = PatchParams::apply(manager);
        api.patch("a", &params, &Patch::Apply(widget(&env, "a", &spec))).await
    };

    apply("one", json!({"ports": [{"name": "a", "port": 1}], "plain": ["x"]})).await.expect("new");
    let both =
        apply("two", json!({"ports": [{"name": "b", "port": 2}]})).await.expect("its own item");
    assert_eq!(
        both.data["spec"]["ports"],
        json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])
    );
    let own = json!({"f:spec": {"f:ports": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}, "f:port": {}}}}});
    assert_eq!(fields(&both, "two"), own);

    let status = refused(apply("two", json!({"plain": ["y"]})).await);
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.plain");
    let status = refused(apply("two", json!({"ports": [{"name": "a", "port": 3}]})).await);
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[name=\"a\"].port"
    );

    let less = apply("one", json!({"plain": ["x"]})).await.expect("less");
    assert_eq!(less.data["spec"]["ports"], json!([{"name": "b", "port": 2}]));
}

#[tokio::test]
async fn a_status_is_applied_by_its_own_managers() {
    let env = TestEnv::start().await;
    let schema = plain_spec();
    let mut definition = widget_definition(&env, &schema);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"] = json!({
        "type": "object",
        "properties": {
            "phase": {"type": "string"},
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"type": "string"}, "status": {"type": "string"}},
                },
            },
        },
    });
    env.define(&definition).await;
    let api = widgets(&env);
    created(&api, &widget(&env, "a", &json!({"size": 1}))).await;
    let apply = async |manager: &str, status: Value| {
        let mut config = widget(&env, "a", &json!({"size": 9}));
        config["status"] = status;
        let params = PatchParams::apply(manager);
        api.patch_status("a", &params, &Patch::Apply(&config)).await
    };
    let condition = |kind: &str| json!([{"type": kind, "status": "True"}]);

    apply("one", json!({"conditions": condition("A")})).await.expect("new");
    let both = apply("two", json!({"conditions": condition("B")})).await.expect("its own");

    assert_eq!(both.data["spec"]["size"], 1, "a status writer writes no spec");
    assert_eq!(both.data["status"]["conditions"].as_array().map(Vec::len), Some(2));
    let entries = both.metadata.managed_fields.iter().flatten();
    let one = entries.into_iter().find(|entry| entry.manager.as_deref() == Some("one"));
    assert_eq!(one.and_then(|entry| entry.subresource.as_deref()), Some("status"));
    let own = json!({"f:status": {"f:conditions": {"k:{\"type\":\"B\"}": {".": {}, "f:status": {}, "f:type": {}}}}});
    assert_eq!(fields(&both, "two"), own);

    let phase = json!({"status": {"phase": "Ready"}});
    let params = PatchParams { field_manager: Some("editor".to_owned()), ..PatchParams::default() };
    api.patch_status("a", &params, &Patch::Merge(&phase)).await.expect("an update");
    let status = refused(apply("one", json!({"phase": "Other"})).await);
    let expected = format!(
        "Apply failed with 1 conflict: conflict with \"editor\" with subresource \"status\" using {}/v1: .status.phase",
        env.group()
    );
    assert_eq!(status.message, expected);
}

#[tokio::test]
async fn an_empty_map_is_owned_though_it_is_not_kept() {
    let env = TestEnv::start().await;
    let first = apply(&env, "one", &json!({})).await.expect("it is new");

    let status = refused(apply(&env, "two", &json!({})).await);

    assert_eq!(first.data.get("data"), None, "a typed map without entries is dropped");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data");
}

#[tokio::test]
async fn an_update_owns_also_what_its_fields_are_in() {
    let env = TestEnv::start().await;
    let mut json = config_map("a", &json!({"x": "1"}));
    json["metadata"]["labels"] = json!({"l": "1"});
    json["metadata"]["finalizers"] = json!(["durward.test/f"]);
    let path = config_map_path(&env, "?fieldManager=editor");

    env.raw("POST", &path, Some(&json)).await.expect("it is new");
    let made = config_maps(&env).get("a").await.expect("it is there");
    let path = config_map_path(&env, "/a?fieldManager=editor");
    let none = json!({"metadata": {"finalizers": null}});
    patch(&env, &path, MERGE_PATCH, &none).await.expect("it is let go");
    let left = config_maps(&env).get("a").await.expect("it is there");

    let expected = json!({
        "f:data": {".": {}, "f:x": {}},
        "f:metadata": {
            "f:finalizers": {".": {}, "v:\"durward.test/f\"": {}},
            "f:labels": {".": {}, "f:l": {}},
        },
    });
    assert_eq!(fields(&made, "editor"), expected);
    assert_eq!(fields(&left, "editor")["f:metadata"], json!({"f:labels": {".": {}, "f:l": {}}}));
}

#[tokio::test]
async fn a_custom_objects_parts_come_and_go_with_their_fields() {
    let env = TestEnv::start().await;
    let schema = json!({
        "type": "object",
        "properties": {
            "inner": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    });
    env.define(&widget_definition(&env, &schema)).await;
    let api = widgets(&env);
    let apply = async |config: Value| {
        let applied = api.patch("a", &PatchParams::apply("one"), &Patch::Apply(&config)).await;
        applied.expect("nobody is in the way")
    };
    let full = json!({"inner": {"a": "1"}, "free": {"x": {"y": 1}}});

    let full = apply(widget(&env, "a", &full)).await;
    let less = apply(widget(&env, "a", &json!({}))).await;
    let mut bare = widget(&env, "a", &json!({}));
    bare.as_object_mut().expect("an object").remove("spec");
    let bare = apply(bare).await;
    created(&api, &widget(&env, "b", &json!({"inner": {"a": "1"}}))).await;
    let updated = api.get("b").await.expect("it is there");

    let own = json!({"f:spec": {"f:free": {"f:x": {".": {}, "f:y": {}}}, "f:inner": {"f:a": {}}}});
    assert_eq!(fields(&full, "one"), own);
    assert_eq!(less.data["spec"], json!({}), "an empty spec is applied");
    assert_eq!(bare.data.get("spec"), None);
    let managers = updated.metadata.managed_fields.expect("managers");
    let own = managers[0].fields_v1.as_ref().map(|fields| fields.0.clone());
    assert_eq!(own, Some(json!({"f:spec": {".": {}, "f:inner": {".": {}, "f:a": {}}}})));
}

#[tokio::test]
async fn a_version_to_apply_to_is_looked_at_where_an_object_is() {
    let env = TestEnv::start().await;
    let mut config = config_map("a", &json!({"x": "1"}));
    config["metadata"]["resourceVersion"] = "1".into();
    let path = config_map_path(&env, "/a?fieldManager=one");

    patch(&env, &path, APPLY, &config).await.expect("there is none yet");
    config["data"] = json!({"x": "2"});
    let status = refused(patch(&env, &path, APPLY, &config).await);

    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let nameless = json!({"metadata": {"name": "a"}});
    let status = refused(patch(&env, &path, APPLY, &nameless).await);
    assert_eq!((status.code, status.message.as_str()), (400, "invalid object type: /, Kind="));
}
