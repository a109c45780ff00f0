//! The definitions of our kinds, as a golden file, and what every API server asks of them.

use durward_control::document::Content;
use durward_kube::crds;
use durward_kube::object::Object;
use durward_model::Kind;
use durward_testkit::kubernetes::TestEnv;
use serde_json::{Value, json};

/// `kubectl apply` without `--server-side` keeps the whole object in an annotation of at most this size.
const ANNOTATION: usize = 256 << 10;

#[test]
fn the_definitions_are_what_the_golden_file_says() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("crds", crds::yaml().unwrap()));
}

#[test]
fn the_yaml_says_what_the_definitions_say() {
    let text = crds::yaml().unwrap();

    let documents: Vec<Value> = text
        .split("---\n")
        .filter(|part| !part.is_empty())
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect();

    assert_eq!(documents, crds::definitions());
}

#[test]
fn every_schema_is_structural_and_bounded() {
    let mut counted = 0;

    for definition in crds::definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let name = definition["metadata"]["name"].as_str().unwrap();
        check(name, schema, &mut counted);
    }

    assert!(counted > 200, "{counted}");
}

#[test]
fn a_definition_fits_into_the_annotation_of_kubectl_apply() {
    for definition in crds::definitions() {
        let length = definition.to_string().len();

        assert!(length < ANNOTATION, "{}: {length}", definition["metadata"]["name"]);
    }
}

/// Guides that show objects of a cluster.
const GUIDES: [&str; 2] = ["api-proxy.md", "hosted-api-reach.md"];

#[tokio::test]
async fn the_objects_of_the_guides_are_taken_and_read() {
    let env = TestEnv::start().await;
    for definition in crds::definitions() {
        env.define(&definition).await;
    }
    let mut seen = 0;

    for guide in GUIDES {
        let path = format!("{}/../../docs/guide/{guide}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let mut object: Value = serde_saphyr::from_str(block).unwrap();
            object["metadata"]["namespace"] = json!(env.namespace());
            assert_eq!(object["kind"], "HostedApi", "{guide}: name the plural of this kind here");
            let of = format!("/apis/durward.dev/v1alpha1/namespaces/{}", env.namespace());
            let path = format!("{of}/hostedapis?dryRun=All&fieldValidation=Strict");
            let stored = env.raw("POST", &path, Some(&object)).await;
            let stored = stored.unwrap_or_else(|error| panic!("{guide}: {error}\n{block}"));
            // The definitions say the same fields, so nothing may be dropped.
            assert_eq!(stored["spec"], object["spec"], "{guide}:\n{block}");
            let read = Object::decode(Kind::HostedApi, "durward.dev/v1alpha1", &stored.to_string());
            let content = read.unwrap().document().content;
            assert!(matches!(content, Content::HostedApi(_)), "{guide}: {content:?}\n{block}");
            seen += 1;
        }
    }

    assert!(seen >= 2, "only {seen} objects");
}

fn check(path: &str, schema: &Value, counted: &mut usize) {
    const KNOWN: [&str; 19] = [
        "description",
        "type",
        "format",
        "enum",
        "required",
        "properties",
        "items",
        "additionalProperties",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "maxItems",
        "maxProperties",
        "pattern",
        "x-kubernetes-validations",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ];
    *counted += 1;
    let object = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema}"));
    let free = "x-kubernetes-preserve-unknown-fields";
    for key in object.keys() {
        assert!(KNOWN.contains(&key.as_str()) || key == free, "{path}: {key}");
    }
    if object.contains_key(free) || object.contains_key("x-kubernetes-int-or-string") {
        return;
    }
    let has = |key: &str| object.contains_key(key);
    match object["type"].as_str().unwrap() {
        "object" => {
            assert!(!(has("properties") && has("additionalProperties")), "{path}");
            let fields = object.get("properties").and_then(Value::as_object);
            for (name, field) in fields.into_iter().flatten() {
                check(&format!("{path}.{name}"), field, counted);
            }
            if let Some(entries) = object.get("additionalProperties") {
                assert!(has("maxProperties"), "{path}");
                check(&format!("{path}.*"), entries, counted);
            }
        }
        "array" => {
            assert!(has("maxItems"), "{path}");
            check(&format!("{path}[]"), &object["items"], counted);
        }
        "string" => {
            let root = path.ends_with(".dev.apiVersion") || path.ends_with(".dev.kind");
            let bounded = has("maxLength") || has("enum") || has("format") || root;
            assert!(bounded, "{path}");
        }
        "integer" => assert!(has("format") && has("minimum"), "{path}"),
        "boolean" => {}
        other => panic!("{path}: {other}"),
    }
}
