//! Writing: create, update, patch and apply, through the same steps as in a real server.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::apply::apply;
use super::failure::{Cause, Failure};
use super::managed::{self, Manager, Operation};
use super::patch::{json_patch, merge_patch, strategic_merge};
use super::read::Encoding;
use super::request::Call;
use super::rules::{self, Writing};
use super::settle::settle;
use super::state::{Place, State, typed};
use super::store::{Key, Stored};

/// Answer to a request that went well.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Bytes,
    /// Texts of `Warning` headers.
    pub(crate) warnings: Vec<String>,
    /// True if an object has changed.
    pub(crate) changed: bool,
    /// Media type of the body, if it is not plain JSON.
    pub(crate) content_type: Option<&'static str>,
}

/// Writer of an object and its way.
enum Writer {
    /// Owns what it changes.
    Update(Manager),
    /// Has recorded its fields already.
    Apply,
}

/// Media types of patches.
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Creates an object.
pub(crate) fn create(state: &mut State, call: &Call, place: &Place) -> Result<Answer, Failure> {
    let object = body(call, place)?;
    let manager = manager(call, place, Operation::Update);
    insert(state, call, place, object, &Writer::Update(manager))
}

/// Replaces an object, or one of its subresources.
pub(crate) fn replace(state: &mut State, call: &Call, place: &Place) -> Result<Answer, Failure> {
    let object = body(call, place)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    check_name(place, name)?;
    let writer = Writer::Update(manager(call, place, Operation::Update));
    let is_there = state.store.get(place.resource(), &place.key()).is_some();
    if !is_there && place.kind.update_creates && place.target.subresource.is_empty() {
        return insert(state, call, place, object, &writer);
    }
    change(state, call, place, &writer, |_| Ok(object))
}

/// Patches an object, or one of its subresources.
pub(crate) fn patch(state: &mut State, call: &Call, place: &Place) -> Result<Answer, Failure> {
    let kind = call.content_type.split(';').next().unwrap_or_default().trim();
    if kind == APPLY {
        return server_side_apply(state, call, place);
    }
    let patch: Value = serde_json::from_slice(&call.body)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    let writer = Writer::Update(manager(call, place, Operation::Update));
    let shape = &place.version.shape;
    match kind {
        JSON_PATCH => change(state, call, place, &writer, |live| {
            json_patch(live, &patch).map_err(|_| Failure::unprocessable())
        }),
        MERGE_PATCH => change(state, call, place, &writer, |live| Ok(merge_patch(live, &patch))),
        STRATEGIC if !place.kind.custom => {
            change(state, call, place, &writer, |live| Ok(strategic_merge(live, &patch, shape)))
        }
        STRATEGIC => {
            let accepted = [JSON_PATCH, MERGE_PATCH, APPLY];
            Err(Failure::unsupported_media_type(&accepted.join(", ")))
        }
        _ => Err(Failure::unknown_media_type()),
    }
}

fn server_side_apply(state: &mut State, call: &Call, place: &Place) -> Result<Answer, Failure> {
    if call.query.text("fieldManager").is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Failure::invalid_options("PatchOptions", cause));
    }
    let mut applied: Value = serde_json::from_slice(&call.body)
        .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")))?;
    if applied["apiVersion"].is_null() || applied["kind"].is_null() {
        return Err(Failure::bad_request("invalid object type: /, Kind="));
    }
    check_type(&applied, place)?;
    if let Some(name) = applied["metadata"]["name"].as_str() {
        check_name(place, name)?;
    }
    if applied["metadata"].get("managedFields").is_some_and(|entries| !entries.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    let has_version = applied["metadata"].get("resourceVersion").cloned();
    keep_own_part(&mut applied, place);
    let manager = manager(call, place, Operation::Apply);
    let (force, now) = (call.query.flag("force"), state.now());
    let shape = std::sync::Arc::clone(&place.version.shape);
    let merge = |live: Option<&Value>| apply(live, &applied, &shape, &manager, (force, &now));
    if state.store.get(place.resource(), &place.key()).is_some() {
        return change(state, call, place, &Writer::Apply, |live| {
            let mut merged = merge(Some(live))?;
            if let Some(version) = has_version {
                merged["metadata"]["resourceVersion"] = version;
            }
            Ok(merged)
        });
    }
    if !place.target.subresource.is_empty() {
        return Err(Failure::not_found(place.resource(), &place.target.name));
    }
    let mut object = merge(None)?;
    // The version that it is for is not looked at where nothing is.
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object["apiVersion"] = place.api_version().into();
    object["kind"] = place.kind.kind.as_str().into();
    object["metadata"]["name"] = place.target.name.as_str().into();
    insert(state, call, place, object, &Writer::Apply)
}

/// Leaves of an applied object what its endpoint writes: the status, or everything else.
fn keep_own_part(applied: &mut Value, place: &Place) {
    let Some(map) = applied.as_object_mut() else { return };
    match place.target.subresource.as_str() {
        "status" => {
            map.retain(|key, _| {
                matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            });
            let metadata = map.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut().filter(|_| place.kind.custom) {
                metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace"));
            }
        }
        _ if place.version.status => drop(map.remove("status")),
        _ => {}
    }
    map.entry("metadata").or_insert_with(|| json!({}));
}

fn manager(call: &Call, place: &Place, operation: Operation) -> Manager {
    Manager {
        operation,
        name: call.manager(),
        api_version: place.api_version(),
        subresource: place.target.subresource.clone(),
    }
}

/// Reads the object in the body of a request.
fn body(call: &Call, place: &Place) -> Result<Value, Failure> {
    let object: Value = serde_json::from_slice(&call.body).map_err(|error| {
        Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error}",
            place.kind.kind
        ))
    })?;
    check_type(&object, place)?;
    Ok(object)
}

fn check_type(object: &Value, place: &Place) -> Result<(), Failure> {
    let (kind, version) = (&place.kind.kind, place.api_version());
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let subject = format!("(must be of type {kind})");
    if !object.is_object() || (place.kind.custom && text("kind").is_empty()) {
        return Err(Failure::bad_request(format!(
            "the object provided is unrecognized {subject}: Object 'Kind' is missing in '{object}'"
        )));
    }
    let (found_version, found_kind) = (text("apiVersion"), text("kind"));
    let is_other = |found: &str, expected: &str| !found.is_empty() && found != expected;
    if place.kind.custom && is_other(found_kind, kind) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let cause = Cause::invalid("kind", &found_kind.into(), &format!("must be {kind}"));
        return Err(Failure::invalid(&place.resource().group, found_kind, name, vec![cause]));
    }
    if is_other(found_version, &version) {
        return Err(Failure::bad_request(match place.kind.custom {
            true => format!(
                "the API version in the data ({found_version}) does not match the expected API version ({version})"
            ),
            false => format!(
                "{kind} in version \"{found_version}\" cannot be handled as a {kind}: no kind \"{found_kind}\" is registered for version \"{found_version}\""
            ),
        }));
    }
    if is_other(found_kind, kind) {
        return Err(Failure::bad_request(format!(
            "{found_kind} in version \"{}\" cannot be handled as a {kind}: unknown conversion",
            place.version.name
        )));
    }
    Ok(())
}

/// Checks that an object is the one that the path names.
fn check_name(place: &Place, name: &str) -> Result<(), Failure> {
    let expected = &place.target.name;
    if name == expected {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({expected})"
    )))
}

/// Checks that a new version of an object is still of the same object.
fn check_identity(
    place: &Place,
    live: &Value,
    object: &Value,
    is_patch: bool,
) -> Result<(), Failure> {
    let text =
        |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    check_name(place, &text(object, "name"))?;
    let namespace = text(object, "namespace");
    if !namespace.is_empty() && namespace != place.target.namespace {
        return Err(Failure::bad_request(rules::OTHER_NAMESPACE));
    }
    let (uid, wanted) = (text(live, "uid"), text(object, "uid"));
    if wanted.is_empty() || wanted == uid {
        return Ok(());
    }
    let (resource, name) = (place.resource(), &place.target.name);
    if is_patch {
        let cause = Cause::invalid("metadata.uid", &wanted.into(), "field is immutable");
        return Err(Failure::invalid(&resource.group, &place.kind.kind, name, vec![cause]));
    }
    let detail = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}",
        storage_path(place)
    );
    Err(Failure::conflict(resource, name, &detail))
}

/// Key of an object in etcd, without its prefix.
fn storage_path(place: &Place) -> String {
    let (resource, target) = (place.resource(), &place.target);
    let parts = [&resource.group, &resource.resource, &target.namespace, &target.name];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.map(String::as_str).collect::<Vec<_>>().join("/")
}

/// Stores a new object.
fn insert(
    state: &mut State,
    call: &Call,
    place: &Place,
    mut object: Value,
    writer: &Writer,
) -> Result<Answer, Failure> {
    rules::name_new(state, place, &mut object)?;
    if let Some(map) = object.as_object_mut()
        && place.version.status
    {
        map.remove("status");
    }
    rules::begin_metadata(state, place, &mut object)?;
    let writing = Writing { call, place, old: None };
    let warnings = rules::admit(state, &writing, &mut object)?;
    if let Writer::Update(manager) = writer {
        let now = state.now();
        managed::record_update(None, &mut object, &place.version.shape, manager, &now);
    }
    let key = Key::of(&object);
    if state.store.get(place.resource(), &key).is_some() {
        return Err(Failure::already_exists(place.resource(), &key.name));
    }
    let stored = store(state, call, place, &object);
    let body = Encoding::new(call, place).object(&stored).into();
    if !call.query.is_dry_run() {
        settle(state, place.resource(), &key);
    }
    Ok(Answer { code: 201, body, warnings, changed: !call.query.is_dry_run(), ..Answer::default() })
}

/// Stores an object, or shows what it would be.
fn store(state: &mut State, call: &Call, place: &Place, object: &Value) -> std::sync::Arc<Stored> {
    match call.query.is_dry_run() {
        false => state.store.put(place.resource(), object),
        true => super::store::Store::preview(object),
    }
}

/// Stores a new version of an object.
fn change(
    state: &mut State,
    call: &Call,
    place: &Place,
    writer: &Writer,
    make: impl FnOnce(&Value) -> Result<Value, Failure>,
) -> Result<Answer, Failure> {
    let (resource, key) = (place.resource(), place.key());
    let current = state.store.get(resource, &key);
    let current = current.ok_or_else(|| Failure::not_found(resource, &key.name))?;
    let live = typed(current.value(), &place.kind, &place.version.name);
    let mut object = make(&live)?;
    check_identity(place, &live, &object, call.verb == "patch")?;
    check_version(place, &live, &object)?;
    rules::keep_metadata(place, &live, &mut object)?;
    keep_other_part(place, &live, &mut object);
    let writing = Writing { call, place, old: Some(&live) };
    let warnings = rules::admit(state, &writing, &mut object)?;
    if let Writer::Update(manager) = writer {
        let now = state.now();
        managed::record_update(Some(&live), &mut object, &place.version.shape, manager, &now);
    }
    if managed::comparable(&object) == managed::comparable(&live) {
        let body = Encoding::new(call, place).object(&current).into();
        return Ok(Answer { code: 200, body, warnings, changed: false, ..Answer::default() });
    }
    if has_new_generation(place, &live, &object) {
        let generation = live["metadata"]["generation"].as_u64().unwrap_or_default() + 1;
        object["metadata"]["generation"] = generation.into();
    }
    let stored = store(state, call, place, &object);
    let body = Encoding::new(call, place).object(&stored).into();
    if !call.query.is_dry_run() {
        settle(state, resource, &key);
    }
    Ok(Answer { code: 200, body, warnings, changed: !call.query.is_dry_run(), ..Answer::default() })
}

/// Checks that a writer has seen the version that it replaces.
fn check_version(place: &Place, live: &Value, object: &Value) -> Result<(), Failure> {
    let name = &place.target.name;
    let found = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let is_missing = found.is_empty() || found == "0";
    if is_missing && !place.kind.unconditional_update {
        let detail = "Invalid value: 0: must be specified for an update";
        let cause = Cause::new("FieldValueInvalid", "metadata.resourceVersion", detail);
        let resource = place.resource();
        return Err(Failure::invalid(&resource.group, &resource.resource, name, vec![cause]));
    }
    if !is_missing && live["metadata"]["resourceVersion"] != *found {
        return Err(Failure::stale(place.resource(), name));
    }
    Ok(())
}

/// Keeps what the endpoint does not write: the status, or everything else.
fn keep_other_part(place: &Place, live: &Value, object: &mut Value) {
    let (Some(map), Some(live)) = (object.as_object_mut(), live.as_object()) else { return };
    let copy = |map: &mut Map<String, Value>, key: &str| match live.get(key) {
        Some(value) => drop(map.insert(key.to_owned(), value.clone())),
        None => drop(map.remove(key)),
    };
    match place.target.subresource.as_str() {
        "status" => {
            let (metadata, status) = (map.remove("metadata"), map.remove("status"));
            map.clone_from(live);
            match status {
                Some(status) => drop(map.insert("status".to_owned(), status)),
                None => drop(map.remove("status")),
            }
            keep_metadata_of_status(place, map, metadata);
        }
        _ if place.version.status => copy(map, "status"),
        _ => {}
    }
}

/// With the status of a built-in kind its metadata is written, too; with that of a custom kind only who owns the fields.
fn keep_metadata_of_status(place: &Place, map: &mut Map<String, Value>, written: Option<Value>) {
    let Some(mut written) = written else { return };
    if !place.kind.custom {
        map.insert("metadata".to_owned(), written);
        return;
    }
    let managed = written.as_object_mut().and_then(|written| written.remove("managedFields"));
    if let (Some(managed), Some(metadata)) = (managed, map.get_mut("metadata")) {
        metadata["managedFields"] = managed;
    }
}

/// Returns whether something other than metadata and status has changed.
fn has_new_generation(place: &Place, live: &Value, object: &Value) -> bool {
    let part = |object: &Value| {
        let mut part = object.clone();
        if let Some(map) = part.as_object_mut() {
            map.remove("metadata");
            if place.version.status {
                map.remove("status");
            }
        }
        part
    };
    place.kind.has_generation && part(live) != part(object)
}
