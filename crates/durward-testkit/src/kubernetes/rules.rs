//! Rules that every write keeps: names, metadata, schema, and policies.

use serde_json::{Value, json};

use super::built_in;
use super::crd;
use super::failure::{Cause, Failure};
use super::kind::GroupResource;
use super::metadata;
use super::policy;
use super::request::Call;
use super::state::{Place, State};
use super::store::Key;
use super::validate::Validation;

/// Message about an object whose namespace is not the one of the path.
pub(crate) const OTHER_NAMESPACE: &str =
    "the namespace of the provided object does not match the namespace sent on the request";

/// A write on its way.
pub(crate) struct Writing<'w> {
    pub(crate) call: &'w Call,
    pub(crate) place: &'w Place,
    /// Version before; `None` for a new object.
    pub(crate) old: Option<&'w Value>,
}

/// Gives a new object its name and namespace.
pub(crate) fn name_new(
    state: &mut State,
    place: &Place,
    object: &mut Value,
) -> Result<(), Failure> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let metadata = &mut object["metadata"];
    let text = |metadata: &Value, key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
    let (name, prefix) = (text(metadata, "name"), text(metadata, "generateName"));
    if name.is_empty() && !prefix.is_empty() {
        let suffix = suffix(&state.next_uid());
        metadata["name"] = format!("{}{suffix}", &prefix[..prefix.len().min(58)]).into();
    }
    let namespace = text(metadata, "namespace");
    if !namespace.is_empty() && namespace != place.target.namespace {
        return Err(Failure::bad_request(OTHER_NAMESPACE));
    }
    if place.kind.namespaced {
        metadata["namespace"] = place.target.namespace.as_str().into();
    }
    let name = text(metadata, "name");
    if place.kind.namespaced {
        check_namespace(state, place, &name)?;
    }
    if text(metadata, "resourceVersion").as_str() > "0" {
        return Err(Failure::new_with_version());
    }
    Ok(())
}

/// Five letters that the server puts behind a prefix.
fn suffix(uid: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut number =
        uid.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let letters = (0..5).map(|_| {
        let letter = LETTERS[(number % LETTERS.len() as u64) as usize];
        number /= LETTERS.len() as u64;
        char::from(letter)
    });
    letters.collect()
}

fn check_namespace(state: &State, place: &Place, name: &str) -> Result<(), Failure> {
    let namespaces = GroupResource::new("", "namespaces");
    let namespace = &place.target.namespace;
    let found = state.store.get(&namespaces, &Key::new("", namespace));
    let found = found.ok_or_else(|| Failure::not_found(&namespaces, namespace))?;
    if found.value()["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let detail = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let message = format!("namespace {namespace} is being terminated");
    let cause = Cause::new("NamespaceTerminating", "metadata.namespace", message);
    Err(Failure::forbidden(place.resource(), name, &detail).with_causes(vec![cause]))
}

/// Sets what the server says of a new object.
pub(crate) fn begin_metadata(
    state: &mut State,
    place: &Place,
    object: &mut Value,
) -> Result<(), Failure> {
    let (uid, now) = (state.next_uid(), state.now());
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return Err(Failure::bad_request("metadata is no object"));
    };
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(key);
    }
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), now.into());
    if place.kind.has_generation {
        metadata.insert("generation".to_owned(), 1.into());
    }
    drop_empty(metadata);
    Ok(())
}

/// Removes lists and maps that say nothing.
fn drop_empty(metadata: &mut serde_json::Map<String, Value>) {
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let is_empty = metadata.get(key).is_some_and(|value| match value {
            Value::Null => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        });
        if is_empty {
            metadata.remove(key);
        }
    }
}

/// Keeps what a writer may not change of an object's metadata.
pub(crate) fn keep_metadata(
    place: &Place,
    live: &Value,
    object: &mut Value,
) -> Result<(), Failure> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["apiVersion"] = place.api_version().into();
    object["kind"] = place.kind.kind.as_str().into();
    let kept = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ];
    let before = &live["metadata"];
    let Some(metadata) = object["metadata"].as_object_mut() else { return Ok(()) };
    for key in kept {
        match before.get(key) {
            Some(value) => drop(metadata.insert(key.to_owned(), value.clone())),
            None => drop(metadata.remove(key)),
        }
    }
    drop_empty(metadata);
    if !metadata.contains_key("managedFields")
        && let Some(entries) = before.get("managedFields")
    {
        metadata.insert("managedFields".to_owned(), entries.clone());
    }
    let list = |metadata: &Value| metadata["finalizers"].as_array().cloned().unwrap_or_default();
    let known = list(before);
    let new: Vec<String> = list(&object["metadata"])
        .iter()
        .filter(|finalizer| !known.contains(finalizer))
        .map(Value::to_string)
        .collect();
    if before.get("deletionTimestamp").is_some() && !new.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            new.join(", ")
        );
        return Err(invalid(place, object, vec![Cause::forbidden("metadata.finalizers", &detail)]));
    }
    Ok(())
}

fn invalid(place: &Place, object: &Value, causes: Vec<Cause>) -> Failure {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    // To the server an Event is the same in both of its groups.
    let group = match place.kind.kind.as_str() {
        "Event" if !place.kind.custom => "",
        _ => &place.resource().group,
    };
    Failure::invalid(group, &place.kind.kind, name, causes)
}

/// Prunes, defaults and validates an object, then asks the policies; returns warnings.
pub(crate) fn admit(
    state: &mut State,
    writing: &Writing<'_>,
    object: &mut Value,
) -> Result<Vec<String>, Failure> {
    let place = writing.place;
    let mut unknown = Vec::new();
    if let Some(schema) = &place.version.schema {
        unknown = schema.prune(object);
        schema.fill_in(object);
    }
    let warnings = strictness(writing, &unknown)?;
    built_in::check_types(place, object)?;
    let mut causes = metadata::causes(place, state.minor, object);
    built_in::fill_in(state, place, writing.old, object);
    causes.extend(built_in::causes(place, writing.old, object));
    if place.resource() == &crd::resource() {
        crd::fill_in(object);
        causes.extend(crd::causes(state, object));
    }
    if let Some(schema) = &place.version.schema {
        let minor = state.minor;
        let mut validation = Validation { ratchets: minor >= 30, minor, causes: &mut causes };
        validation.object(schema, object, writing.old);
    }
    if !causes.is_empty() {
        return Err(invalid(place, object, causes));
    }
    policy::check(state, writing, object)?;
    Ok(warnings)
}

/// Refuses, warns of, or ignores unknown fields, as the request says.
fn strictness(writing: &Writing<'_>, unknown: &[String]) -> Result<Vec<String>, Failure> {
    let words = |path: &String| format!("unknown field \"{path}\"");
    match writing.call.query.text("fieldValidation") {
        "Strict" if !unknown.is_empty() => {
            let words: Vec<String> = unknown.iter().map(words).collect();
            let (kind, version) = (&writing.place.kind.kind, &writing.place.version.name);
            let message = format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
                words.join(", ")
            );
            Err(Failure::bad_request(message))
        }
        "Ignore" => Ok(Vec::new()),
        _ => Ok(unknown.iter().map(words).collect()),
    }
}
