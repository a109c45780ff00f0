//! Statuses of `TLSRoute`s that name hosted API servers: an entry of ours in `status.parents` (Gateway API) for each parent that a route names.
//!
//! Entries of other controllers stay as they are: the list is one field, so it is read, changed and written under the version that was read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use durward_control::stream::ObjectReport;
use durward_model::ResourceId;
use durward_model::verdict::{Finding, Severity};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::backoff::Backoff;
use crate::lease::MayWrite;
use crate::object::Object;
use crate::request::{self, ApiError};
use crate::resource_type::TLS_ROUTES;
use crate::status::{Condition, Judgement, Truth, WriterOptions, judge, with_times};

/// Controller of the entries.
pub const CONTROLLER: &str = "durward.dev/gateway";
/// Condition that says whether each backend can be used.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Field manager of the statuses.
const MANAGER: &str = "durward-tls-routes";
/// Entries that the API allows.
const MOST_PARENTS: usize = 32;
/// Statuses that are written at once.
const AT_ONCE: usize = 4;

/// Status of a route, as far as it is read.
#[derive(Default, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    parents: Vec<Parent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parent {
    #[serde(default)]
    parent_ref: Value,
    #[serde(default)]
    controller_name: String,
    #[serde(default)]
    conditions: Vec<Condition>,
}

impl Status {
    /// Returns the conditions of our entries, one after another.
    pub(crate) fn conditions(self) -> Vec<Condition> {
        let ours = self.parents.into_iter().filter(|parent| parent.controller_name == CONTROLLER);
        ours.flat_map(|parent| parent.conditions).collect()
    }
}

/// Writes the statuses of `TLSRoute`s until it is dropped.
pub struct TlsRouteWriter {
    shared: Arc<Shared>,
    said: Mutex<HashMap<ResourceId, Said>>,
}

struct Shared {
    client: kube::Client,
    may_write: MayWrite,
    pace: tokio::sync::Mutex<Interval>,
    at_once: Semaphore,
}

/// Status that was said last of a route, and the task that writes it.
struct Said {
    wanted: Wanted,
    task: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    uid: Arc<str>,
    generation: u64,
    /// Conditions of each entry; without any there is to be no entry of ours.
    judgements: Vec<Judgement>,
}

impl Drop for Said {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl TlsRouteWriter {
    /// Starts to write, while this process has the right to. Called within a runtime.
    #[must_use]
    pub fn start(client: kube::Client, options: &WriterOptions, may_write: MayWrite) -> Self {
        let mut pace = interval(Duration::from_secs(1) / options.rate.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (pace, at_once) = (tokio::sync::Mutex::new(pace), Semaphore::new(AT_ONCE));
        let shared = Arc::new(Shared { client, may_write, pace, at_once });
        Self { shared, said: Mutex::default() }
    }

    /// Says what became of a route of a tenant.
    pub fn note(&self, object: &Object, report: &ObjectReport) {
        let [accepted, programmed, _] = judge(&report.verdict(), &report.planes);
        let judgements = vec![accepted, resolved(&report.findings), programmed];
        self.say(object, judgements, report.observed.generation);
    }

    /// Says nothing of a route that is nobody's: an entry that is there goes.
    pub fn leave(&self, object: &Object) {
        if !object.conditions.is_empty() {
            self.say(object, Vec::new(), object.revision.generation);
        }
    }

    /// Notes a route as it is now: what was said of it is written again where the status says otherwise.
    pub fn observe(&self, object: &Object) {
        let wanted = self.said().get(&object.id).map(|said| said.wanted.clone());
        if let Some(wanted) = wanted.filter(|wanted| is_of(wanted, object)) {
            self.say(object, wanted.judgements, wanted.generation);
        }
    }

    /// Forgets a route that is gone, or that names no host any more: there an entry of ours goes.
    pub fn forget(&self, id: &ResourceId) {
        let Some(said) = self.said().remove(id) else { return };
        let wanted = Wanted { judgements: Vec::new(), ..said.wanted.clone() };
        // A write that is under way is about the route as it was.
        drop(said);
        tokio::spawn(write(Arc::clone(&self.shared), id.clone(), wanted));
    }

    fn say(&self, object: &Object, judgements: Vec<Judgement>, generation: u64) {
        let uid = Arc::clone(&object.metadata.uid);
        let wanted = Wanted { uid, generation, judgements };
        let is_right = is_right(object, &wanted);
        let mut said = self.said();
        let known = said.get(&object.id);
        // A write that is on its way ends in the same.
        let is_written = known.is_some_and(|known| {
            known.wanted == wanted && known.task.as_ref().is_some_and(|task| !task.is_finished())
        });
        if is_written {
            return;
        }
        let write =
            || tokio::spawn(write(Arc::clone(&self.shared), object.id.clone(), wanted.clone()));
        let task = (!is_right).then(write);
        said.insert(object.id.clone(), Said { wanted, task });
    }

    fn said(&self) -> MutexGuard<'_, HashMap<ResourceId, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of(wanted: &Wanted, object: &Object) -> bool {
    wanted.uid == object.metadata.uid && wanted.generation == object.revision.generation
}

/// Returns whether the entries say what is to be said, for each parent that the route names.
fn is_right(object: &Object, wanted: &Wanted) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Whole {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default)]
        parent_refs: Vec<serde::de::IgnoredAny>,
    }
    let parents = serde_saphyr::from_str(&object.text);
    let parents = parents.map_or(0, |Whole { spec }| spec.parent_refs.len().min(MOST_PARENTS));
    let each = wanted.judgements.len();
    if object.conditions.len() != parents * each {
        return false;
    }
    object.conditions.iter().zip(wanted.judgements.iter().cycle()).all(|(condition, judgement)| {
        *condition.r#type == *judgement.r#type
            && condition.status == judgement.status
            && condition.reason == judgement.reason
            && condition.message == judgement.message
            && condition.observed_generation == wanted.generation
    })
}

/// Returns the condition on the backends of a route, with the reasons that the Gateway API has.
fn resolved(findings: &[Finding]) -> Judgement {
    let is_of_backend = |finding: &&Finding| {
        finding.severity == Severity::Error && finding.field.contains("backendRefs")
    };
    let Some(fault) = findings.iter().find(is_of_backend) else {
        let message = "every backend can be used";
        return Judgement::new(RESOLVED_REFS, Truth::True, RESOLVED_REFS, message);
    };
    let reason = match &*fault.reason {
        "GrantMissing" | "NamespaceForeign" => "RefNotPermitted",
        "FieldUnfitting" => "InvalidKind",
        _ => "BackendNotFound",
    };
    Judgement::new(RESOLVED_REFS, Truth::False, reason, &fault.to_string())
}

/// Writes a status until that succeeds, or the route is another one by now.
async fn write(shared: Arc<Shared>, id: ResourceId, wanted: Wanted) {
    let mut may_write = shared.may_write.clone();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
    loop {
        may_write.granted().await;
        let Ok(permit) = shared.at_once.acquire().await else { return };
        shared.pace.lock().await.tick().await;
        // A request is not sent, or is withdrawn, once this process may not write any more.
        let replaced = tokio::select! {
            biased;
            () = may_write.lost() => continue,
            replaced = shared.replace(&id, &wanted) => replaced,
        };
        match replaced {
            Ok(()) => return,
            // Another controller has written its own entry.
            Err(error) if error.is_passing() || matches!(error, ApiError::Conflict(_)) => {
                drop(permit);
                sleep(backoff.next()).await;
            }
            Err(error) => {
                tracing::warn!(object = %id, %error, "status of a TLSRoute was not written");
                return;
            }
        }
    }
}

impl Shared {
    /// Reads the status, and writes it where our entries are other ones.
    async fn replace(&self, id: &ResourceId, wanted: &Wanted) -> Result<(), ApiError> {
        let Some(version) = TLS_ROUTES.discover(&self.client).await? else { return Ok(()) };
        let path = TLS_ROUTES.object_path(version, id.namespace.as_deref(), &id.name);
        let object = match request::get_within(&self.client, &path, request::LONGEST_OBJECT).await {
            Err(ApiError::NotFound(_)) => return Ok(()),
            object => object?,
        };
        let unreadable = |error: serde_json::Error| ApiError::Unreadable(error.to_string());
        let object: Value = serde_json::from_slice(&object).map_err(unreadable)?;
        let is_other = object["metadata"]["uid"] != *wanted.uid
            || (!wanted.judgements.is_empty()
                && object["metadata"]["generation"] != wanted.generation);
        if is_other {
            // The watch brings it, and a report on it follows.
            return Ok(());
        }
        let now = Arc::from(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let parents = parents(&object, wanted, &now);
        if list(&object["status"]["parents"]).eq(&parents) {
            return Ok(());
        }
        let body = json!({
            "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]},
            "status": {"parents": parents},
        });
        let path = request::path(&format!("{path}/status"), &[("fieldManager", MANAGER)]);
        let body = Bytes::from(body.to_string());
        let kind = "application/merge-patch+json";
        request::send(&self.client, Method::PATCH, &path, kind, body).await.map(drop)
    }
}

/// Returns the entries of a route: those of others as they are, and ours as they are to be.
fn parents(object: &Value, wanted: &Wanted, now: &Arc<str>) -> Vec<Value> {
    let is_ours = |entry: &Value| entry["controllerName"] == CONTROLLER;
    let (ours, others): (Vec<_>, Vec<_>) =
        list(&object["status"]["parents"]).cloned().partition(is_ours);
    let ours: Vec<Parent> =
        ours.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect();
    let named = list(&object["spec"]["parentRefs"]).filter(|_| !wanted.judgements.is_empty());
    let entries = named.map(|parent_ref| {
        let former = ours.iter().find(|entry| entry.parent_ref == *parent_ref);
        let former = former.map(|entry| &*entry.conditions).unwrap_or_default();
        json!({
            "parentRef": parent_ref, "controllerName": CONTROLLER,
            "conditions": with_times(&wanted.judgements, wanted.generation, former, now),
        })
    });
    let room = MOST_PARENTS.saturating_sub(others.len());
    let entries: Vec<Value> = entries.take(room).collect();
    [others, entries].concat()
}

fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map(|all| all.iter()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use durward_model::Origin;

    use super::*;

    fn finding(severity: Severity, reason: &str, field: &str) -> Finding {
        Finding {
            severity,
            reason: Arc::from(reason),
            field: Arc::from(field),
            sentence: Arc::from("is wrong"),
            origin: Origin::default(),
            excerpt: None,
        }
    }

    #[test]
    fn a_backend_that_cannot_be_used_has_the_reason_of_the_gateway_api() {
        let field = "spec.rules[0].backendRefs[0]";
        for (findings, reason) in [
            (vec![], "ResolvedRefs"),
            (vec![finding(Severity::Warning, "NoEndpoints", field)], "ResolvedRefs"),
            (vec![finding(Severity::Error, "NameForeign", "spec.hostnames[0]")], "ResolvedRefs"),
            (vec![finding(Severity::Error, "GrantMissing", field)], "RefNotPermitted"),
            (vec![finding(Severity::Error, "FieldUnfitting", field)], "InvalidKind"),
            (vec![finding(Severity::Error, "ServiceMissing", field)], "BackendNotFound"),
        ] {
            let judged = resolved(&findings);

            assert_eq!(&*judged.reason, reason, "{findings:?}");
            assert_eq!(judged.status == Truth::True, reason == "ResolvedRefs");
        }
    }

    #[test]
    fn entries_of_others_stay_and_there_are_never_more_than_the_api_allows() {
        let parent = |number: usize| json!({"name": format!("gateway-{number}")});
        let theirs = |number: usize| json!({"parentRef": parent(number), "controllerName": "other.example/c", "conditions": []});
        let judgements = vec![Judgement::new("Accepted", Truth::True, "Accepted", "served")];
        let wanted = Wanted { uid: Arc::from("u"), generation: 3, judgements };
        let now = Arc::from("2026-12-01T00:00:00Z");
        let object = |others: usize| {
            json!({
                "spec": {"parentRefs": (0..4).map(parent).collect::<Vec<_>>()},
                "status": {"parents": (0..others).map(theirs).collect::<Vec<_>>()},
            })
        };

        let written = parents(&object(2), &wanted, &now);
        let full = parents(&object(31), &wanted, &now);
        let none = Wanted { judgements: Vec::new(), ..wanted.clone() };
        let mut again = object(2);
        again["status"]["parents"] = written.clone().into();
        let left = parents(&again, &none, &now);
        let later = Arc::from("2026-12-02T00:00:00Z");

        assert_eq!((written.len(), full.len()), (6, 32));
        assert_eq!(written[..2], [theirs(0), theirs(1)]);
        assert_eq!(written[2]["parentRef"], parent(0));
        assert_eq!(written[2]["conditions"][0]["observedGeneration"], 3);
        assert_eq!(left, [theirs(0), theirs(1)]);
        assert_eq!(parents(&again, &wanted, &later), written, "nothing has changed but the time");
    }
}
