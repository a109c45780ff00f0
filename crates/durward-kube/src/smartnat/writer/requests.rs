//! The requests that the steps are, and the Events on what they change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durward_model::ResourceId;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::super::FINALIZER;
use super::super::seen::{Pods, Seen};
use super::super::step::{Said, Step};
use super::{Due, Shared};
use crate::events::{Event, Events};
use crate::request::{self, ApiError};
use crate::resource_type::MAPPINGS;
use crate::status::{Truth, with_times};

/// Content types of patches.
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// Takes a step.
pub(super) async fn take(shared: &Shared, due: &Due) -> Result<(), ApiError> {
    let Due { id, step, seen } = due;
    match step {
        Step::Rest => shared.settle(&mut shared.state(), id),
        // Nothing but the server's time is missing.
        Step::Wait(_) => drop(read(shared, id).await?),
        Step::Finalizer(held) => {
            let finalizers: &[&str] = if *held { &[FINALIZER] } else { &[] };
            let metadata = json!({"finalizers": finalizers});
            let body = patch(id, seen, &metadata, None);
            write(shared, id, (APPLY, ""), &body).await?;
        }
        Step::Status(said) => {
            let body = patch(id, seen, &json!({}), Some(status(seen, said)));
            write(shared, id, (APPLY, "/status"), &body).await?;
            if let Some(entry) = shared.state().objects.get_mut(id) {
                entry.note_written(said);
            }
        }
        Step::Withdraw => {
            let body = patch(id, seen, &json!({}), None);
            write(shared, id, (APPLY, "/status"), &body).await?;
        }
        Step::Strip(addresses) => {
            let gone: BTreeMap<&str, Value> =
                addresses.iter().map(|address| (&**address, Value::Null)).collect();
            let body = json!({
                "metadata": {"uid": seen.uid, "resourceVersion": seen.version},
                "status": {"configuredAddresses": gone},
            });
            write(shared, id, (MERGE, "/status"), &body).await?;
        }
        Step::Free => {
            // Decided again with the state of the server at this moment, and by its clock.
            read(shared, id).await?;
            let Some(Due { step: Step::Free, seen, .. }) = shared.first_of(id) else {
                return Ok(());
            };
            let others: Vec<_> =
                seen.finalizers.iter().filter(|finalizer| ***finalizer != *FINALIZER).collect();
            let body = json!({
                "metadata": {"uid": seen.uid, "resourceVersion": seen.version, "finalizers": others},
            });
            write(shared, id, (MERGE, ""), &body).await?;
        }
    }
    Ok(())
}

/// Returns the form in which a gateway's share of a `Mapping` is applied. The uid keeps the server from creating an object again that is gone.
fn patch(id: &ResourceId, seen: &Seen, metadata: &Value, status: Option<Value>) -> Value {
    let mut body = json!({
        "apiVersion": MAPPINGS.api_version(MAPPINGS.newest()),
        "kind": MAPPINGS.kind,
        "metadata": metadata,
    });
    body["metadata"]["name"] = json!(id.name);
    body["metadata"]["namespace"] = json!(id.namespace);
    body["metadata"]["uid"] = json!(seen.uid);
    if let Some(status) = status {
        body["status"] = status;
    }
    body
}

fn status(seen: &Seen, said: &Said) -> Value {
    let now = Arc::from(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let judgements = std::slice::from_ref(&said.accepted);
    let conditions = with_times(judgements, seen.generation, &seen.status.conditions, &now);
    let configured: BTreeMap<&str, Pods> = said
        .configured
        .iter()
        .map(|(address, pods)| (&**address, Pods { pod_ips: pods.clone() }))
        .collect();
    let mut status = json!({
        "invalid": said.invalid,
        "observedGeneration": seen.generation,
        "conditions": conditions,
    });
    if !configured.is_empty() {
        status["configuredAddresses"] = json!(configured);
    }
    if let Some(vip) = &said.service_vip {
        status["serviceVIP"] = json!(vip);
    }
    status
}

fn path(id: &ResourceId) -> String {
    MAPPINGS.object_path(MAPPINGS.newest(), id.namespace.as_deref(), &id.name)
}

/// Reads a `Mapping`, and the server's time.
async fn read(shared: &Shared, id: &ResourceId) -> Result<(), ApiError> {
    let answer = request::dated(&shared.client, Method::GET, &path(id), None, Bytes::new()).await?;
    answered(shared, id, &answer)
}

async fn write(
    shared: &Shared,
    id: &ResourceId,
    (content_type, subresource): (&'static str, &str),
    body: &Value,
) -> Result<(), ApiError> {
    let query: &[(&str, &str)] = match content_type {
        APPLY => &[("fieldManager", &shared.manager), ("force", "true")],
        _ => &[("fieldManager", &shared.manager)],
    };
    let path = request::path(&format!("{}{subresource}", path(id)), query);
    let body = Bytes::from(body.to_string());
    let answer =
        request::dated(&shared.client, Method::PATCH, &path, Some(content_type), body).await?;
    {
        let mut state = shared.state();
        state.report.written += 1;
        state.report.last_error = None;
    }
    answered(shared, id, &answer)
}

/// Records an object from the answer of the server.
fn answered(shared: &Shared, id: &ResourceId, answer: &request::Dated) -> Result<(), ApiError> {
    let text = std::str::from_utf8(&answer.body);
    let text = text.map_err(|error| ApiError::Unreadable(error.to_string()))?;
    let seen = Seen::decode(text, &shared.manager)
        .map_err(|error| ApiError::Unreadable(error.to_string()))?;
    // A server that says no time has this host's.
    let time = answer.time.unwrap_or_else(Timestamp::now);
    shared.state().clock = Some((Instant::now(), time));
    if shared.state().objects.contains_key(id) {
        shared.observe(id, seen);
    }
    Ok(())
}

/// Sends Events on what a step changed.
pub(super) async fn tell(shared: &Shared, events: &mut Events, due: &Due) {
    let Due { id, step, seen } = due;
    let api_version = MAPPINGS.api_version(MAPPINGS.newest());
    let mut send = async |is_warning: bool, reason: &str, note: &str| {
        let uid = Some(&*seen.uid);
        let event = Event { id, uid, api_version: &api_version, is_warning, reason, note };
        // A server that is slow with Events does not hold finalizers.
        let sent = events.send(&event, Instant::now(), Timestamp::now());
        let sent = timeout(Duration::from_secs(1), sent).await.unwrap_or(false);
        let mut state = shared.state();
        let (told, withheld) = &mut state.report.events;
        *(if sent { told } else { withheld }) += 1;
    };
    match step {
        Step::Status(said) => {
            let accepted = &said.accepted;
            let was = seen.accepted();
            let is_same = was
                .is_some_and(|was| was.status == accepted.status && was.reason == accepted.reason);
            if !is_same {
                let is_warning = accepted.status != Truth::True;
                send(is_warning, &accepted.reason, &accepted.message).await;
            }
            let new = said.configured.keys().filter(|one| !seen.owned.addresses.contains(*one));
            let new: Vec<&str> = new.map(|address| &**address).collect();
            if !new.is_empty() {
                send(false, "Configured", &format!("{} is carried", new.join(", "))).await;
            }
        }
        Step::Withdraw | Step::Strip(_) if seen.deleted.is_some() => {
            send(false, "Released", "is no longer carried by this gateway").await;
        }
        Step::Free
            if seen.owned.others_finalize || !seen.status.configured_addresses.is_empty() =>
        {
            let note = "was deleted without waiting any longer for gateways that are gone";
            send(true, "FinalizerTimeout", note).await;
        }
        _ => {}
    }
}
