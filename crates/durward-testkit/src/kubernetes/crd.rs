//! CustomResourceDefinitions: their own rules, and the kinds that they define.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::Cause;
use super::kind::{GroupResource, Kind, NameRule, Version};
use super::schema::Schema;
use super::shape::Shape;
use super::state::{State, typed};
use super::store::Key;

/// Finalizer that keeps a definition until its objects are gone.
pub(crate) const CLEAN_UP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(crate) fn resource() -> GroupResource {
    GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions")
}

/// Returns the resource type that a definition defines.
pub(crate) fn defined(definition: &Value) -> GroupResource {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    GroupResource { group: text(&spec["group"]), resource: text(&spec["names"]["plural"]) }
}

/// Fills in the names and the conversion that a definition leaves out.
pub(crate) fn fill_in(definition: &mut Value) {
    let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let names = &mut definition["spec"]["names"];
    if names["singular"].as_str().unwrap_or_default().is_empty() {
        names["singular"] = kind.to_lowercase().into();
    }
    if names["listKind"].as_str().unwrap_or_default().is_empty() {
        names["listKind"] = format!("{kind}List").into();
    }
    if definition["spec"]["conversion"].is_null() {
        definition["spec"]["conversion"] = json!({"strategy": "None"});
    }
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

/// Returns what is wrong with a definition.
pub(crate) fn causes(state: &State, definition: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &definition["spec"];
    let expected = defined(definition).to_string();
    if definition["metadata"]["name"] != *expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &definition["metadata"]["name"], detail));
    }
    causes.extend(unapproved(definition));
    match spec["scope"].as_str() {
        Some("Namespaced" | "Cluster") => {}
        None => causes.push(Cause::required("spec.scope", "")),
        Some(_) => {
            causes.push(unsupported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]));
        }
    }
    if versions(definition).filter(|version| version["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], detail));
    }
    let schemas: Vec<&Value> = versions(definition).map(|version| &version["schema"]).collect();
    let all_alike = schemas.windows(2).all(|pair| pair[0] == pair[1]);
    for (index, version) in versions(definition).enumerate() {
        // What is the same in all versions is one schema to the server.
        let path = match all_alike {
            true if index > 0 => break,
            true => "spec.validation.openAPIV3Schema".to_owned(),
            false => format!("spec.versions[{index}].schema.openAPIV3Schema"),
        };
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            causes.push(Cause::required(path, "schemas are required"));
            continue;
        }
        check_node(state, schema, &path, &mut causes);
    }
    causes
}

/// Annotation without which a definition in one of the community's groups is refused.
const APPROVAL: &str = "api-approved.kubernetes.io";

/// Returns why a definition in a group of the community is refused: it has no annotation that says who approved it, or that nobody did.
fn unapproved(definition: &Value) -> Option<Cause> {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let is_within = |domain: &str| {
        group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if !is_within("k8s.io") && !is_within("kubernetes.io") {
        return None;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    let annotation = &definition["metadata"]["annotations"][APPROVAL];
    let text = annotation.as_str().unwrap_or_default();
    let reference = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_url =
        text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
    match text {
        "" => {
            let detail = format!(
                "protected groups must have approval annotation \"{APPROVAL}\", {reference}"
            );
            Some(Cause::required(path, &detail))
        }
        reason if reason.starts_with("unapproved") || is_url => None,
        _ => {
            let detail = format!(
                "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting with \"unapproved\", {reference}"
            );
            Some(Cause::invalid(path, annotation, &detail))
        }
    }
}

fn unsupported(field: &str, value: &Value, known: &[&str]) -> Cause {
    let known: Vec<String> = known.iter().map(|known| format!("{known:?}")).collect();
    let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
    Cause::new("FieldValueNotSupported", field, message)
}

/// Types of a schema.
const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// Checks what a node of a schema says without its parts.
fn check_own(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let kind = schema["type"].as_str().unwrap_or_default();
    if !kind.is_empty() && !TYPES.contains(&kind) {
        causes.push(unsupported(&format!("{path}.type"), &schema["type"], TYPES));
    }
    if schema["properties"].is_object() && schema["additionalProperties"].is_object() {
        let detail = "additionalProperties and properties are mutual exclusive";
        causes.push(Cause::forbidden(format!("{path}.additionalProperties"), detail));
    }
    if schema["uniqueItems"] == true {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.push(Cause::forbidden(format!("{path}.uniqueItems"), detail));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex_lite::Regex::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        causes.push(Cause::invalid(format!("{path}.pattern"), &pattern.into(), &detail));
    }
}

/// Shows a rule as the server does.
fn shown_rule(rule: &Value) -> Value {
    let text = |key: &str| rule[key].as_str().unwrap_or_default();
    serde_json::json!({
        "Rule": text("rule"),
        "Message": text("message"),
        "MessageExpression": text("messageExpression"),
        "Reason": rule["reason"],
        "FieldPath": text("fieldPath"),
        "OptionalOldSelf": rule["optionalOldSelf"],
    })
}

/// Checks a node of a schema and its parts.
fn check_node(state: &State, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let is_any = schema["x-kubernetes-preserve-unknown-fields"] == true
        || schema["x-kubernetes-int-or-string"] == true;
    if schema["type"].as_str().unwrap_or_default().is_empty() && !is_any {
        let detail = "must not be empty for specified object fields";
        causes.push(Cause::required(format!("{path}.type"), detail));
    }
    if schema["x-kubernetes-list-type"] == "map" {
        check_list_map(schema, path, causes);
    }
    check_own(schema, path, causes);
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    for (index, rule) in rules.enumerate() {
        let place = format!("{path}.x-kubernetes-validations[{index}].rule");
        for error in super::cel::Rules::errors_of(rule, state.minor) {
            let detail = format!("compilation failed: {error}");
            causes.push(Cause::invalid(place.as_str(), &shown_rule(rule), &detail));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        check_node(state, property, &format!("{path}.properties[{name}]"), causes);
    }
    if schema["items"].is_object() {
        check_node(state, &schema["items"], &format!("{path}.items"), causes);
    } else if schema["type"] == "array" {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
    if schema["additionalProperties"].is_object() {
        let path = format!("{path}.additionalProperties");
        check_node(state, &schema["additionalProperties"], &path, causes);
    }
}

/// Keys of a list that is a map must be required or have a default.
fn check_list_map(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let keys = schema["x-kubernetes-list-map-keys"].as_array().cloned().unwrap_or_default();
    if keys.is_empty() {
        let path = format!("{path}.x-kubernetes-list-map-keys");
        causes.push(Cause::required(path, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = &schema["items"];
    let required = items["required"].as_array().cloned().unwrap_or_default();
    for key in keys {
        let name = key.as_str().unwrap_or_default();
        let property = &items["properties"][name];
        if !required.contains(&key) && property["default"].is_null() {
            let path = format!("{path}.items.properties[{name}].default");
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            causes.push(Cause::required(path, detail));
        }
    }
}

/// Begins or ends serving the kind of a definition that was written or removed.
pub(crate) fn follow(state: &mut State, key: &Key) {
    let Some(stored) = state.store.get(&resource(), key) else {
        if let Some((plural, group)) = key.name.split_once('.') {
            state.undefine(&GroupResource::new(group, plural));
        }
        return;
    };
    let Some(own) = state.kind(&resource()).cloned() else { return };
    let mut definition = typed(stored.value(), &own, "v1");
    state.define(kind(&definition, state.minor));
    let now = state.now();
    if establish(&mut definition, &now) {
        state.store.put(&resource(), &definition);
    }
}

/// Writes the status of a served definition; false if it is there.
fn establish(definition: &mut Value, now: &str) -> bool {
    let names = definition["spec"]["names"].clone();
    let storage = versions(definition).find(|version| version["storage"] == true);
    let storage = storage.map_or(Value::Null, |version| version["name"].clone());
    let mut stored = definition["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    if !stored.contains(&storage) {
        stored.push(storage);
    }
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": now,
        })
    };
    let status = &definition["status"];
    let is_done = status["acceptedNames"] == names
        && status["storedVersions"] == json!(stored)
        && status["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty());
    if is_done {
        return false;
    }
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    if conditions.is_empty() {
        conditions = vec![
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
        ];
    }
    definition["status"] =
        json!({"acceptedNames": names, "storedVersions": stored, "conditions": conditions});
    true
}

fn kind(definition: &Value, minor: u32) -> Kind {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().into_iter().flatten();
        texts.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut versions: Vec<Version> =
        versions(definition).map(|version| read_version(version, minor)).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(priority(&version.name)));
    Kind {
        resource: defined(definition),
        kind: text(&spec["names"]["kind"]),
        list_kind: text(&spec["names"]["listKind"]),
        singular: text(&spec["names"]["singular"]),
        short_names: texts(&spec["names"]["shortNames"]),
        categories: texts(&spec["names"]["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        versions,
        has_generation: true,
        unconditional_update: false,
        update_creates: false,
        names: NameRule::Subdomain,
        custom: true,
        since: 0,
    }
}

fn read_version(version: &Value, minor: u32) -> Version {
    let schema = Schema::read(&version["schema"]["openAPIV3Schema"]);
    let mut shape = schema.shape();
    shape.fields.insert("metadata".to_owned(), Shape::metadata());
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    let selectable = selectable.filter(|_| minor >= 31);
    let selectable = selectable.filter_map(|field| field["jsonPath"].as_str());
    Version {
        name: version["name"].as_str().unwrap_or_default().to_owned(),
        served: version["served"] == true,
        storage: version["storage"] == true,
        status: version["subresources"]["status"].is_object(),
        schema: Some(Arc::new(schema)),
        shape: Arc::new(shape),
        selectable: selectable.map(|path| path.trim_start_matches('.').to_owned()).collect(),
    }
}

/// Order of versions: stable before beta before alpha, higher numbers first.
fn priority(name: &str) -> (u8, u32, u32) {
    let read = || {
        let rest = name.strip_prefix('v')?;
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let rest = &rest[digits..];
        match rest {
            "" => Some((3, major, 0)),
            _ => {
                let (stage, number) = match rest.strip_prefix("beta") {
                    Some(number) => (2, number),
                    None => (1, rest.strip_prefix("alpha")?),
                };
                Some((stage, major, number.parse().ok()?))
            }
        }
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_by_their_stage() {
        let mut names = vec!["v1alpha1", "v2beta1", "v1", "foo", "v10", "v1beta2"];

        names.sort_by_key(|name| std::cmp::Reverse(priority(name)));

        assert_eq!(names, ["v10", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }
}
