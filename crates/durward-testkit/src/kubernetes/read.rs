//! Reading: single objects, and lists in pages.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::failure::{Cause, Failure};
use super::request::Call;
use super::selector::Selector;
use super::state::{Place, State};
use super::store::Stored;

/// Lists whose next page may be asked for at one time.
const OPEN_LISTS: usize = 64;

/// How objects are written for a reader.
#[derive(Clone, Debug)]
pub(crate) struct Encoding {
    api_version: String,
    kind: String,
    list_kind: String,
    /// Writes metadata only.
    metadata: bool,
    /// Items of a list carry their kind, which those of built-in kinds do not.
    typed_items: bool,
}

impl Encoding {
    pub(crate) fn new(call: &Call, place: &Place) -> Self {
        if call.wants_metadata() {
            return Self {
                api_version: "meta.k8s.io/v1".to_owned(),
                kind: "PartialObjectMetadata".to_owned(),
                list_kind: "PartialObjectMetadataList".to_owned(),
                metadata: true,
                typed_items: false,
            };
        }
        Self {
            api_version: place.api_version(),
            kind: place.kind.kind.clone(),
            list_kind: place.kind.list_kind.clone(),
            metadata: false,
            typed_items: place.kind.custom,
        }
    }

    /// Writes an object with its kind.
    pub(crate) fn object(&self, object: &Stored) -> Vec<u8> {
        let mut text =
            format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",", self.api_version, self.kind);
        match self.metadata {
            true => text.push_str(&format!("\"metadata\":{}}}", object.value()["metadata"])),
            false => text.push_str(body(object)),
        }
        text.into_bytes()
    }

    /// Writes an object as an item of a list.
    fn item(&self, object: &Stored, into: &mut Vec<u8>) {
        if self.typed_items || self.metadata {
            into.extend(self.object(object));
        } else {
            into.extend(&object.body);
        }
    }

    /// Writes an object that only says how far the changes have been sent.
    pub(crate) fn bookmark(&self, revision: u64, ends_initial_events: bool) -> Value {
        let mut object = json!({
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        });
        if ends_initial_events {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        object
    }
}

/// JSON of an object after its opening brace.
fn body(object: &Stored) -> &str {
    std::str::from_utf8(&object.body[1..]).expect("JSON is UTF-8")
}

/// Reads one object.
pub(crate) fn get(state: &State, call: &Call, place: &Place) -> Result<Bytes, Failure> {
    let current = state.store.revision();
    if let Some(wanted) = call.query.resource_version()?
        && wanted > current
    {
        return Err(Failure::too_new(wanted, current));
    }
    let found = state.store.get(place.resource(), &place.key());
    let found = found.ok_or_else(|| Failure::not_found(place.resource(), &place.target.name))?;
    Ok(Encoding::new(call, place).object(&found).into())
}

/// Reads the selectors of a list or watch.
pub(crate) fn selector(call: &Call, place: &Place) -> Result<Selector, Failure> {
    let (labels, fields) = (call.query.text("labelSelector"), call.query.text("fieldSelector"));
    let selector = Selector::read(&place.target.namespace, labels, fields);
    let selector = selector.map_err(Failure::bad_request)?;
    let unknown =
        selector.fields().find(|field| !place.kind.is_selectable(&place.version.name, field));
    let is_typed = place.kind.custom || !place.version.selectable.is_empty();
    match unknown {
        None => Ok(selector),
        Some(field) if is_typed => {
            Err(Failure::bad_request(format!("field label not supported: {field}")))
        }
        Some(field) => Err(Failure::bad_request(format!(
            "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ))),
    }
}

/// Lists objects, a page at a time where a limit is given.
pub(crate) fn list(state: &mut State, call: &Call, place: &Place) -> Result<Bytes, Failure> {
    let selector = selector(call, place)?;
    let wanted = list_version(state, call, place)?;
    let current = state.store.revision();
    let (revision, objects) = match call.query.text("continue") {
        "" => {
            let objects = state.store.objects(place.resource());
            (current, objects.filter(|object| selector.matches(object)).cloned().collect())
        }
        token => continued(state, token)?,
    };
    // Any version will do: then the server answers from memory, and whole.
    let is_whole = wanted == Some(0);
    let limit = call.query.number("limit").filter(|&limit| limit > 0 && !is_whole);
    let limit = limit.map_or(objects.len(), |limit| objects.len().min(limit as usize));
    let (page, rest) = objects.split_at(limit);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if !rest.is_empty() {
        metadata["continue"] = keep(state, revision, rest.to_vec()).into();
        if !call.query.has("labelSelector") && !call.query.has("fieldSelector") {
            metadata["remainingItemCount"] = rest.len().into();
        }
    }
    Ok(encode_list(&Encoding::new(call, place), &metadata, page))
}

/// Reads the version that a list is asked for, and checks that it can be had.
fn list_version(state: &mut State, call: &Call, place: &Place) -> Result<Option<u64>, Failure> {
    let forbidden = |field: &str, detail: &str| {
        Err(Failure::invalid_options("ListOptions", Cause::forbidden(field, detail)))
    };
    if call.query.has("sendInitialEvents") {
        return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    let wanted = call.query.resource_version()?;
    let matching = call.query.text("resourceVersionMatch");
    match (matching, wanted) {
        ("", _) | ("NotOlderThan" | "Exact", Some(_)) => {}
        ("NotOlderThan" | "Exact", None) => {
            let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return forbidden("resourceVersionMatch", detail);
        }
        (other, _) => {
            let message = format!(
                "Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\""
            );
            let cause = Cause::new("FieldValueNotSupported", "resourceVersionMatch", message);
            return Err(Failure::invalid_options("ListOptions", cause));
        }
    }
    let current = state.store.revision();
    let Some(wanted) = wanted else { return Ok(None) };
    if wanted > current {
        return Err(Failure::too_new(wanted, current));
    }
    // The double keeps no old states: it has one if nothing has changed since.
    let is_unchanged = |state: &mut State| {
        let events = state.store.table(place.resource()).events_after(wanted, 1);
        events.is_ok_and(|events| events.is_empty())
    };
    if matching == "Exact" && !is_unchanged(state) {
        return Err(Failure::expired("The resourceVersion for the provided list is too old."));
    }
    Ok(Some(wanted))
}

fn encode_list(encoding: &Encoding, metadata: &Value, page: &[Arc<Stored>]) -> Bytes {
    let mut text = format!(
        "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{metadata},\"items\":[",
        encoding.api_version, encoding.list_kind
    )
    .into_bytes();
    for (index, object) in page.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        encoding.item(object, &mut text);
    }
    text.extend(b"]}");
    text.into()
}

/// Keeps the rest of a list for its next page and returns the token of it.
fn keep(state: &mut State, revision: u64, rest: Vec<Arc<Stored>>) -> String {
    let number = state.pages.last_key_value().map_or(0, |(last, _)| last + 1);
    state.pages.insert(number, rest);
    if state.pages.len() > OPEN_LISTS {
        state.pages.pop_first();
    }
    BASE64_URL_SAFE_NO_PAD
        .encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": number}).to_string())
}

fn continued(state: &State, token: &str) -> Result<(u64, Vec<Arc<Stored>>), Failure> {
    let invalid = || Failure::bad_request("invalid continue token: continue key is not valid");
    let token = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let token: Value = serde_json::from_slice(&token).map_err(|_| invalid())?;
    let (Some(revision), Some(number)) = (token["rv"].as_u64(), token["start"].as_u64()) else {
        return Err(invalid());
    };
    match state.pages.get(&number) {
        Some(rest) => Ok((revision, rest.clone())),
        None => Err(Failure::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
        )),
    }
}
