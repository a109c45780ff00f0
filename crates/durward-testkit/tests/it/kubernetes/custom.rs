//! Custom kinds: pruning, defaults, validation, CEL, and versions.

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::serde_json::json;
use kube::api::{ListParams, Patch, PatchParams};

use super::*;

/// Defines Widgets with a schema of their spec.
pub(crate) async fn with_spec(schema: Value) -> TestEnv {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &schema)).await;
    env
}

/// Creates a Widget that is refused and returns the causes: reason, field and message.
pub(crate) async fn causes(env: &TestEnv, spec: &Value) -> Vec<(String, String, String)> {
    let status = refused(create(&widgets(env), &widget(env, "bad", spec)).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{}", status.message);
    let subject = format!("Widget.{} \"bad\" is invalid: ", env.group());
    assert!(status.message.starts_with(&subject), "{}", status.message);
    let causes = status.details.expect("details").causes;
    causes.into_iter().map(|cause| (cause.reason, cause.field, cause.message)).collect()
}

pub(crate) fn cause(reason: &str, field: &str, message: &str) -> (String, String, String) {
    (reason.to_owned(), field.to_owned(), message.to_owned())
}

#[tokio::test]
async fn unknown_fields_are_pruned_and_defaults_filled_in() {
    let env = with_spec(json!({
        "type": "object",
        "properties": {
            "size": {"type": "integer", "default": 3},
            "inner": {"type": "object", "properties": {"kind": {"type": "string", "default": "x"}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    }))
    .await;

    let spec = json!({"nothing": 1, "inner": {"nothing": 2}, "free": {"anything": 3}});
    let made = created(&widgets(&env), &widget(&env, "a", &spec)).await;

    let expected = json!({"size": 3, "inner": {"kind": "x"}, "free": {"anything": 3}});
    assert_eq!(made.data["spec"], expected);
}

#[tokio::test]
async fn a_strict_writer_is_told_of_unknown_fields() {
    let env = with_spec(plain_spec()).await;
    let path = format!(
        "/apis/{}/v1/namespaces/{}/widgets?fieldValidation=Strict",
        env.group(),
        env.namespace()
    );

    let body = widget(&env, "a", &json!({"nothing": 1}));
    let status = refused(env.raw("POST", &path, Some(&body)).await);

    assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"));
    assert!(
        status.message.contains("strict decoding error: unknown field \"spec.nothing\""),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn rules_in_cel_refuse_with_their_message() {
    let env = with_spec(json!({
        "type": "object",
        "properties": {
            "low": {"type": "integer"},
            "high": {"type": "integer"},
            "address": {
                "type": "string",
                "maxLength": 64,
                "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "must be an IP address"}],
            },
            "fixed": {
                "type": "string",
                "maxLength": 64,
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}],
            },
        },
        "x-kubernetes-validations": [{
            "rule": "!has(self.low) || !has(self.high) || self.low <= self.high",
            "messageExpression": "'low is above ' + 'high'",
        }],
    }))
    .await;

    let found = causes(&env, &json!({"low": 2, "high": 1})).await;
    assert_eq!(found, [cause("FieldValueInvalid", "spec", "Invalid value: low is above high")]);
    let found = causes(&env, &json!({"address": "x"})).await;
    let expected = "Invalid value: \"x\": must be an IP address";
    assert_eq!(found, [cause("FieldValueInvalid", "spec.address", expected)]);

    let api = widgets(&env);
    created(&api, &widget(&env, "a", &json!({"fixed": "x", "address": "::1"}))).await;
    let change = json!({"spec": {"fixed": "y"}});
    let status = refused(api.patch("a", &PatchParams::default(), &Patch::Merge(&change)).await);
    let expected = format!(
        "Widget.{} \"a\" is invalid: spec.fixed: Invalid value: \"y\": is immutable",
        env.group()
    );
    assert_eq!(status.message, expected);
}

#[tokio::test]
async fn a_part_that_stays_wrong_may_stay() {
    let env = with_spec(plain_spec()).await;
    let api = widgets(&env);
    created(&api, &widget(&env, "a", &json!({"size": 1, "color": "blue"}))).await;
    let mut schema = plain_spec();
    schema["properties"]["color"]["enum"] = json!(["red"]);
    env.define(&widget_definition(&env, &schema)).await;
    let params = PatchParams::default();
    // A real server takes up a schema in its own time.
    let taken_up =
        durward_testkit::process::eventually(durward_testkit::kubernetes::PATIENCE, async || {
            create(&api, &widget(&env, "new", &json!({"color": "blue"}))).await.is_err()
        });
    let _ = taken_up.await;

    let other = api.patch("a", &params, &Patch::Merge(&json!({"spec": {"size": 2}}))).await;
    let same_part =
        api.patch("a", &params, &Patch::Merge(&json!({"spec": {"color": "green"}}))).await;

    assert_eq!(other.expect("the wrong part is as it was").data["spec"]["size"], 2);
    assert_eq!(refused(same_part).code, 422);
}

#[tokio::test]
async fn a_rule_that_cannot_be_compiled_refuses_the_definition() {
    let env = TestEnv::start().await;
    let mut schema = plain_spec();
    schema["x-kubernetes-validations"] = json!([{"rule": "self.size >"}]);
    let definitions = env.api(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
    );

    let status = refused(create(&definitions, &widget_definition(&env, &schema)).await);

    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let field = &status.details.expect("details").causes[0].field;
    assert!(field.contains("x-kubernetes-validations[0].rule"), "{field}");
}

#[tokio::test]
async fn a_definition_needs_types_and_its_own_name() {
    let env = TestEnv::start().await;
    let definitions = env.api(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
    );
    let untyped = widget_definition(&env, &json!({"properties": {"a": {"type": "string"}}}));
    let mut misnamed = widget_definition(&env, &plain_spec());
    misnamed["metadata"]["name"] = format!("gadgets.{}", env.group()).into();

    let untyped = refused(create(&definitions, &untyped).await);
    let misnamed = refused(create(&definitions, &misnamed).await);

    assert!(untyped.message.contains("spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"), "{}", untyped.message);
    assert!(misnamed.message.contains("metadata.name: Invalid value"), "{}", misnamed.message);
}

#[tokio::test]
async fn an_object_is_served_in_all_versions() {
    let env = TestEnv::start().await;
    let mut definition = widget_definition(&env, &plain_spec());
    let mut beta = definition["spec"]["versions"][0].clone();
    beta["name"] = "v1beta1".into();
    beta["storage"] = false.into();
    definition["spec"]["versions"].as_array_mut().expect("versions").push(beta);
    env.define(&definition).await;
    created(&widgets(&env), &widget(&env, "a", &json!({"size": 1}))).await;

    let api = env.api(&format!("{}/v1beta1", env.group()), "Widget", "widgets", true);
    let read =
        durward_testkit::process::eventually(durward_testkit::kubernetes::PATIENCE, async || {
            api.get("a").await.is_ok()
        });

    assert!(read.await);
    let read = api.get("a").await.expect("it is there");
    assert_eq!(read.types.expect("a type").api_version, format!("{}/v1beta1", env.group()));
    let group = env.raw("GET", &format!("/apis/{}", env.group()), None).await.expect("a group");
    assert_eq!(group["preferredVersion"]["version"], "v1");
}

#[tokio::test]
async fn a_field_is_selected_by_where_the_kind_says_so() {
    let env = TestEnv::start().await;
    let mut definition = widget_definition(&env, &plain_spec());
    definition["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    env.define(&definition).await;
    let api = widgets(&env);
    created(&api, &widget(&env, "a", &json!({"color": "red"}))).await;
    created(&api, &widget(&env, "b", &json!({"color": "blue"}))).await;

    let list = api.list(&ListParams::default().fields("spec.color=blue")).await.expect("a list");

    let names: Vec<_> = list.items.into_iter().filter_map(|item| item.metadata.name).collect();
    assert_eq!(names, ["b"]);
}

#[tokio::test]
async fn a_definition_is_established_and_says_its_names() {
    let env = TestEnv::start().await;
    let definition = widget_definition(&env, &plain_spec());
    env.define(&definition).await;
    let name = definition["metadata"]["name"].as_str().expect("a name");

    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let read = env.raw("GET", &path, None).await.expect("it is there");

    let conditions = read["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_true =
        |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
    assert!(is_true("NamesAccepted") && is_true("Established"), "{conditions:?}");
    assert_eq!(read["status"]["acceptedNames"]["plural"], "widgets");
    assert_eq!(read["status"]["storedVersions"], json!(["v1"]));
}

#[tokio::test]
async fn a_finalizer_of_a_custom_kind_needs_no_domain() {
    let env = with_spec(plain_spec()).await;
    let with = |name: &str, finalizer: &str| {
        let mut object = widget(&env, name, &json!({}));
        object["metadata"]["finalizers"] = json!([finalizer]);
        object
    };

    let made = created(&widgets(&env), &with("a", "mapping.finalizers.example.com")).await;
    let status = refused(create(&widgets(&env), &with("b", "not a name")).await);

    assert_eq!(
        made.metadata.finalizers.as_deref(),
        Some(&["mapping.finalizers.example.com".to_owned()][..])
    );
    assert_eq!(status.code, 422);
    let expected = "metadata.finalizers: Invalid value: \"not a name\": name part must consist of";
    assert!(status.message.contains(expected), "{}", status.message);
}

#[tokio::test]
async fn a_definition_in_a_group_of_the_community_says_who_approved_it() {
    let env = TestEnv::start().await;
    let post = async |approval: Option<&str>| {
        let group = format!("{}.k8s.io", env.namespace());
        let mut definition = widget_definition(&env, &plain_spec());
        definition["metadata"]["name"] = json!(format!("widgets.{group}"));
        definition["spec"]["group"] = json!(group);
        if let Some(approval) = approval {
            definition["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": approval});
        }
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
        env.raw("POST", path, Some(&definition)).await
    };
    let field = "metadata.annotations[api-approved.kubernetes.io]";

    for (approval, reason) in [(None, "FieldValueRequired"), (Some("yes"), "FieldValueInvalid")] {
        let status = refused(post(approval).await);

        let causes = status.details.expect("details").causes;
        let found: Vec<_> =
            causes.iter().map(|cause| (cause.reason.as_str(), cause.field.as_str())).collect();
        assert_eq!(found, [(reason, field)], "{}", status.message);
        assert!(status.message.contains("protected groups must have approval annotation"));
    }
    for approval in ["unapproved, for a test", "https://example.com/proposals/1"] {
        post(Some(approval)).await.expect("it is accepted");
    }
}
