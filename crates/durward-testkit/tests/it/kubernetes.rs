//! Conformance of the double: the cases hold on it and on a real API server, which `TestEnv` chooses by the environment. Each surprise of a real
//! server becomes a case here. Only `faults` is about the double alone.

mod access;
mod apply;
mod built_in;
mod custom;
mod deletion;
mod faults;
mod policy;
mod reading;
mod validation;
mod watching;
mod writing;

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::serde_json::{Value, json};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::Status;

/// ConfigMaps of the test's namespace.
fn config_maps(env: &TestEnv) -> Api<DynamicObject> {
    env.api("v1", "ConfigMap", "configmaps", true)
}

/// Path of the ConfigMaps of the test's namespace, or of one of them.
fn config_map_path(env: &TestEnv, rest: &str) -> String {
    format!("/api/v1/namespaces/{}/configmaps{rest}", env.namespace())
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": data,
    })
}

/// Custom kind for a test: Widget, in namespaces, with a status.
fn widget_definition(env: &TestEnv, spec_schema: &Value) -> Value {
    let group = env.group();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": spec_schema,
                        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                    },
                }},
            }],
        },
    })
}

/// Schema of a spec with one number and one text.
fn plain_spec() -> Value {
    json!({
        "type": "object",
        "properties": {"size": {"type": "integer"}, "color": {"type": "string"}},
    })
}

fn widgets(env: &TestEnv) -> Api<DynamicObject> {
    env.api(&format!("{}/v1", env.group()), "Widget", "widgets", true)
}

fn widget(env: &TestEnv, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("{}/v1", env.group()),
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// Reads JSON as an object of any kind.
fn object(json: &Value) -> DynamicObject {
    serde_json::from_value(json.clone()).expect("an object has metadata")
}

async fn create(api: &Api<DynamicObject>, json: &Value) -> Result<DynamicObject, kube::Error> {
    api.create(&PostParams::default(), &object(json)).await
}

async fn created(api: &Api<DynamicObject>, json: &Value) -> DynamicObject {
    create(api, json).await.expect("the object is created")
}

/// Returns the refusal of a server.
fn refused<T>(result: Result<T, kube::Error>) -> Status {
    match result {
        Ok(_) => panic!("the server refuses it"),
        Err(kube::Error::Api(status)) => *status,
        Err(error) => panic!("the server answers, but: {error}"),
    }
}

/// Sends a patch with a media type of its own.
async fn patch(
    env: &TestEnv,
    path: &str,
    media_type: &str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let request = http::Request::patch(path)
        .header(http::header::CONTENT_TYPE, media_type)
        .body(body.to_string().into_bytes())
        .expect("a path makes a request");
    env.client().request(request).await
}

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
