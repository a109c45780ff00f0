//! Deletion of objects and collections, with finalizers and preconditions.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::crd;
use super::failure::Failure;
use super::kind::GroupResource;
use super::policy;
use super::read::{Encoding, selector};
use super::request::Call;
use super::settle::{remove_now, settle};
use super::state::{Place, State, seconds, typed};
use super::store::Key;
use super::write::Answer;

/// How dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of a deletion.
struct Options {
    propagation: Propagation,
    uid: Option<String>,
    resource_version: Option<String>,
    grace: Option<u64>,
    dry_run: bool,
}

impl Options {
    fn read(call: &Call) -> Self {
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let word = body["propagationPolicy"].as_str();
        let propagation = match word.unwrap_or_else(|| call.query.text("propagationPolicy")) {
            "Foreground" => Propagation::Foreground,
            "Orphan" => Propagation::Orphan,
            _ => Propagation::Background,
        };
        Self {
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            grace: body["gracePeriodSeconds"]
                .as_u64()
                .or_else(|| call.query.number("gracePeriodSeconds")),
            dry_run: call.query.is_dry_run() || body["dryRun"] == json!(["All"]),
        }
    }
}

/// Deletes one object.
pub(crate) fn delete(state: &mut State, call: &Call, place: &Place) -> Result<Answer, Failure> {
    let options = Options::read(call);
    let key = place.key();
    let stored = state.store.get(place.resource(), &key);
    let stored = stored.ok_or_else(|| Failure::not_found(place.resource(), &key.name))?;
    let object = typed(stored.value(), &place.kind, &place.version.name);
    check_preconditions(place, &options, &object, stored.revision)?;
    policy::check_deletion(state, call, place, &object)?;
    if options.dry_run {
        return Ok(success(place, &key, &stored.uid));
    }
    let remains = begin(state, place, &key, &options);
    settle(state, place.resource(), &key);
    match remains {
        Some(object) => {
            let encoding = Encoding::new(call, place);
            let body = encoding.object(&object).into();
            Ok(Answer { code: 200, body, changed: true, ..Answer::default() })
        }
        // Of a few kinds the server shows what it has deleted.
        None if matches!(place.kind.kind.as_str(), "Service" | "ServiceAccount" | "Pod") => {
            let body = Encoding::new(call, place).object(&stored).into();
            Ok(Answer { code: 200, body, changed: true, ..Answer::default() })
        }
        None => Ok(success(place, &key, &stored.uid)),
    }
}

/// Deletes what a list would show.
pub(crate) fn delete_collection(
    state: &mut State,
    call: &Call,
    place: &Place,
) -> Result<Answer, Failure> {
    let selector = selector(call, place)?;
    let options = Options::read(call);
    let objects = state.store.objects(place.resource());
    let keys: Vec<Key> = objects
        .filter(|object| selector.matches(object))
        .map(|object| object.key.clone())
        .collect();
    if !options.dry_run {
        for key in &keys {
            begin(state, place, key, &options);
            settle(state, place.resource(), key);
        }
    }
    let list = json!({
        "apiVersion": place.api_version(),
        "kind": place.kind.list_kind,
        "metadata": {"resourceVersion": state.store.revision().to_string()},
        "items": [],
    });
    Ok(Answer {
        code: 200,
        body: list.to_string().into(),
        changed: !keys.is_empty(),
        ..Answer::default()
    })
}

fn check_preconditions(
    place: &Place,
    options: &Options,
    object: &Value,
    revision: u64,
) -> Result<(), Failure> {
    let name = &place.target.name;
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    // The server names the kind here, not the resource.
    let subject = GroupResource::new(&place.resource().group, &place.kind.kind);
    let refuse = |what: &str, wanted: &str, found: &str, guess: &str| {
        let detail = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have been {guess}"
        );
        Err(Failure::conflict(&subject, name, &detail))
    };
    if let Some(wanted) = &options.uid
        && wanted != uid
    {
        return refuse("UID", wanted, uid, "deleted and then recreated");
    }
    if let Some(wanted) = &options.resource_version
        && *wanted != revision.to_string()
    {
        return refuse("ResourceVersion", wanted, &revision.to_string(), "modified");
    }
    Ok(())
}

/// Marks an object as being deleted where something holds it, or removes it; returns what remains.
fn begin(
    state: &mut State,
    place: &Place,
    key: &Key,
    options: &Options,
) -> Option<std::sync::Arc<super::store::Stored>> {
    let stored = state.store.get(place.resource(), key)?;
    let mut object = typed(stored.value(), &place.kind, &place.kind.storage().name);
    let own = match options.propagation {
        Propagation::Foreground => Some("foregroundDeletion"),
        Propagation::Orphan => Some("orphan"),
        Propagation::Background if place.resource() == &crd::resource() => Some(crd::CLEAN_UP),
        Propagation::Background => None,
    };
    if let Some(own) = own {
        let mut finalizers =
            object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !finalizers.contains(&own.into()) {
            finalizers.push(own.into());
            object["metadata"]["finalizers"] = finalizers.into();
        }
    }
    let grace = grace_period(place, &object, options);
    if !is_held(place, &object) && grace == 0 {
        remove_now(state, place, key, &object);
        return None;
    }
    let is_new = object["metadata"]["deletionTimestamp"].is_null();
    if is_new {
        let end = state.time().checked_add(SignedDuration::from_secs(grace.cast_signed()));
        object["metadata"]["deletionTimestamp"] = seconds(end.unwrap_or_default()).into();
        if let Some(generation) = object["metadata"]["generation"].as_u64() {
            object["metadata"]["generation"] = (generation + 1).into();
        }
    }
    match place.kind.kind.as_str() {
        "Namespace" if !place.kind.custom => object["status"]["phase"] = "Terminating".into(),
        _ => object["metadata"]["deletionGracePeriodSeconds"] = grace.into(),
    }
    if !is_new && own.is_none() {
        return Some(stored);
    }
    Some(state.store.put(place.resource(), &object))
}

/// Returns whether finalizers keep an object.
pub(crate) fn is_held(place: &Place, object: &Value) -> bool {
    let has_items = |list: &Value| list.as_array().is_some_and(|items| !items.is_empty());
    let is_namespace = place.kind.kind == "Namespace" && !place.kind.custom;
    has_items(&object["metadata"]["finalizers"])
        || (is_namespace && has_items(&object["spec"]["finalizers"]))
}

/// Seconds that a pod on a node is given; its node confirms its end by a deletion without any.
fn grace_period(place: &Place, object: &Value, options: &Options) -> u64 {
    let is_running = place.kind.kind == "Pod" && object["spec"]["nodeName"].is_string();
    if !is_running {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_u64();
    options.grace.unwrap_or_else(|| own.unwrap_or(30))
}

fn success(place: &Place, key: &Key, uid: &str) -> Answer {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": key.name, "kind": place.resource().resource, "uid": uid},
    });
    if !place.resource().group.is_empty() {
        status["details"]["group"] = place.resource().group.as_str().into();
    }
    Answer { code: 200, body: status.to_string().into(), changed: true, ..Answer::default() }
}
