//! What follows from a write: the end of what is no longer held, garbage collection, the end of namespaces, new kinds.
//!
//! A real control plane does this a moment later in its controllers; here it is done before the next request.

use serde_json::Value;

use super::crd;
use super::kind::GroupResource;
use super::request::Target;
use super::state::{Place, State, typed};
use super::store::Key;

/// Does what follows from a write of this object.
pub(crate) fn settle(state: &mut State, resource: &GroupResource, key: &Key) {
    run(state, vec![(resource.clone(), key.clone())]);
}

/// Removes an object that nothing holds, and does what follows.
pub(crate) fn remove_now(state: &mut State, place: &Place, key: &Key, object: &Value) {
    let written = remove(state, place, key, object);
    run(state, written);
}

fn run(state: &mut State, mut written: Vec<(GroupResource, Key)>) {
    while let Some((resource, key)) = written.pop() {
        written.extend(step(state, &resource, &key));
    }
}

/// Does what follows from one write; returns the objects that this has written.
fn step(state: &mut State, resource: &GroupResource, key: &Key) -> Vec<(GroupResource, Key)> {
    if *resource == crd::resource() {
        crd::follow(state, key);
    }
    let Some(place) = place(state, resource, key) else { return Vec::new() };
    let Some(object) = state.object(&place, key) else {
        return after_removal(state, &place, key);
    };
    if object["metadata"]["deletionTimestamp"].is_null() {
        return match state.controllers && has_lost_owners(state, &object) {
            true => remove(state, &place, key, &object),
            false => Vec::new(),
        };
    }
    if !super::delete::is_held(&place, &object) {
        let grace = object["metadata"]["deletionGracePeriodSeconds"].as_u64();
        return match grace {
            Some(0) | None => remove(state, &place, key, &object),
            Some(_) => Vec::new(),
        };
    }
    finalize(state, &place, key, object)
}

/// Returns a resource type in its stored version.
fn place(state: &State, resource: &GroupResource, key: &Key) -> Option<Place> {
    let kind = state.kind(resource)?;
    let version = kind.storage().clone();
    let target = Target {
        resource: resource.clone(),
        version: version.name.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        subresource: String::new(),
    };
    Some(Place { kind: std::sync::Arc::clone(kind), version, target })
}

/// Removes an object, or marks it where finalizers hold it.
fn remove(
    state: &mut State,
    place: &Place,
    key: &Key,
    object: &Value,
) -> Vec<(GroupResource, Key)> {
    let written = (place.resource().clone(), key.clone());
    if !super::delete::is_held(place, object) {
        state.store.remove(place.resource(), key);
        return dependents_of(state, object).into_iter().chain([written]).collect();
    }
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    let mut object = object.clone();
    object["metadata"]["deletionTimestamp"] = state.now().into();
    object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    state.store.put(place.resource(), &object);
    vec![written]
}

/// Looks at what was held up by an object that is gone: its namespace or its definition.
fn after_removal(state: &State, place: &Place, key: &Key) -> Vec<(GroupResource, Key)> {
    let mut next = Vec::new();
    if !key.namespace.is_empty() {
        next.push((GroupResource::new("", "namespaces"), Key::new("", &key.namespace)));
    }
    if place.kind.custom {
        next.push((crd::resource(), Key::new("", &place.resource().to_string())));
    }
    // Only what is on its way out has anything to do.
    next.retain(|(resource, key)| {
        let found = state.store.get(resource, key);
        found.is_some_and(|found| !found.value()["metadata"]["deletionTimestamp"].is_null())
    });
    next
}

/// Returns what an object owned, and its owners, which may wait for its end.
fn dependents_of(state: &State, object: &Value) -> Vec<(GroupResource, Key)> {
    if !state.controllers {
        return Vec::new();
    }
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let mut next = state.store.dependents(uid);
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let owners = owners.filter_map(|owner| state.store.by_uid(owner["uid"].as_str()?));
    next.extend(owners.cloned());
    next
}

/// Returns whether an object names owners and none of them is there.
fn has_lost_owners(state: &State, object: &Value) -> bool {
    let Some(owners) = object["metadata"]["ownerReferences"].as_array() else { return false };
    let is_there = |owner: &Value| {
        let uid = owner["uid"].as_str().unwrap_or_default();
        state.store.by_uid(uid).is_some_and(|(_, key)| owner["name"] == *key.name)
    };
    !owners.is_empty() && !owners.iter().any(is_there)
}

/// Does the work of the finalizers that belong to the control plane.
fn finalize(
    state: &mut State,
    place: &Place,
    key: &Key,
    mut object: Value,
) -> Vec<(GroupResource, Key)> {
    let has = |object: &Value, name: &str| {
        let list = object["metadata"]["finalizers"].as_array();
        list.is_some_and(|list| list.contains(&name.into()))
    };
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let this = (place.resource().clone(), key.clone());
    if has(&object, crd::CLEAN_UP) {
        let resource = crd::defined(&object);
        let (next, left) = empty(state, &resource, None);
        if left {
            return next;
        }
        drop_finalizer(&mut object, crd::CLEAN_UP);
    } else if place.kind.kind == "Namespace" && state.controllers {
        let namespace = key.name.clone();
        let (mut all, mut any_left) = (Vec::new(), false);
        for resource in state.store.resources() {
            let (next, left) = empty(state, &resource, Some(&namespace));
            all.extend(next);
            any_left |= left;
        }
        if any_left {
            return all;
        }
        object["spec"]["finalizers"] = Value::Array(Vec::new());
        object["status"]["phase"] = "Terminating".into();
    } else if state.controllers && has(&object, "orphan") {
        for (resource, dependent) in state.store.dependents(&uid) {
            disown(state, &resource, &dependent, &uid);
        }
        drop_finalizer(&mut object, "orphan");
    } else if state.controllers && has(&object, "foregroundDeletion") {
        let dependents = state.store.dependents(&uid);
        let mut next = Vec::new();
        for (resource, dependent) in &dependents {
            next.extend(remove_dependent(state, resource, dependent));
        }
        if !state.store.dependents(&uid).is_empty() {
            return next;
        }
        drop_finalizer(&mut object, "foregroundDeletion");
    } else {
        return Vec::new();
    }
    state.store.put(place.resource(), &object);
    vec![this]
}

fn drop_finalizer(object: &mut Value, name: &str) {
    if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
        list.retain(|finalizer| finalizer != name);
    }
}

fn remove_dependent(
    state: &mut State,
    resource: &GroupResource,
    key: &Key,
) -> Vec<(GroupResource, Key)> {
    let Some(place) = place(state, resource, key) else { return Vec::new() };
    match state.object(&place, key) {
        Some(object) => remove(state, &place, key, &object),
        None => Vec::new(),
    }
}

/// Deletes all objects of a resource type, or those of a namespace; returns what was written, and whether some are left.
fn empty(
    state: &mut State,
    resource: &GroupResource,
    namespace: Option<&str>,
) -> (Vec<(GroupResource, Key)>, bool) {
    let is_meant = |key: &Key| namespace.is_none_or(|namespace| key.namespace == namespace);
    let keys = |state: &State| -> Vec<Key> {
        let keys = state.store.objects(resource).map(|object| object.key.clone());
        keys.filter(is_meant).collect()
    };
    let mut next = Vec::new();
    for key in keys(state) {
        next.extend(remove_dependent(state, resource, &key));
    }
    let left = !keys(state).is_empty();
    (next, left)
}

/// Takes an owner out of an object.
fn disown(state: &mut State, resource: &GroupResource, key: &Key, uid: &str) {
    let Some(kind) = state.kind(resource).cloned() else { return };
    let Some(stored) = state.store.get(resource, key) else { return };
    let mut object = typed(stored.value(), &kind, &kind.storage().name);
    if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
        owners.retain(|owner| owner["uid"] != *uid);
    }
    state.store.put(resource, &object);
}
