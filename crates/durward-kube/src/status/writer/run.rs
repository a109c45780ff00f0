//! Writes the statuses whose turn it is, several at once: each takes a request or more, and the API server answers each in its time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::super::{Condition, READY, Truth, with_times};
use super::{Due, Shared};
use crate::backoff::Backoff;
use crate::events::{Event, Events};
use crate::lease::{MayWrite, Tenure};
use crate::object::Head;
use crate::request::{self, ApiError};
use crate::resource_type::ResourceType;
use crate::revisions::Accepted;

/// Statuses that are written at once.
const AT_ONCE: usize = 8;
/// Objects in a row whose status the server failed to write, after which it is asked less often, with this pause at most.
const FAULTY_IN_A_ROW: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// End of a write.
enum End {
    Written,
    Failed(ApiError),
    /// The right to write is over; the status waits for the next one.
    NotOurs,
}

type Written = (Due, End);

/// Writes for ever, while this process may.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut may_write: MayWrite,
    _kept: watch::Sender<Tenure>,
) {
    let events = Arc::new(Mutex::new(Events::new(shared.client.clone(), &shared.options)));
    let mut pace = interval(Duration::from_secs(1) / shared.options.rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut writing, mut failures) = (JoinSet::new(), Failures::new());
    loop {
        may_write.granted().await;
        let arrived = shared.arrived.notified();
        let next = if writing.len() < AT_ONCE { shared.next() } else { Err(None) };
        let over = match next {
            Ok(due) => {
                pace.tick().await;
                let (shared, events) = (Arc::clone(&shared), Arc::clone(&events));
                writing.spawn(write_one(shared, events, may_write.clone(), due));
                writing.try_join_next()
            }
            Err(until) => tokio::select! {
                Some(over) = writing.join_next() => Some(over),
                () = arrived => None,
                () = until_then(until) => None,
            },
        };
        if let Some(Ok((due, end))) = over {
            let pause = failures.note(&shared, &due, end);
            shared.finish(&due);
            sleep(pause).await;
        }
    }
}

async fn until_then(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn write_one(
    shared: Arc<Shared>,
    events: Arc<Mutex<Events>>,
    mut may_write: MayWrite,
    due: Due,
) -> Written {
    let Some(resource) = ResourceType::of(due.id.kind) else {
        shared.postpone(&due);
        return (due, End::Written);
    };
    let written = tokio::select! {
        // Looked at first: nothing is sent once another may be the writer. A request that is under way is withdrawn; one that the server has already
        // read carries the version that it is about.
        biased;
        () = may_write.lost() => return (due, End::NotOurs),
        written = write(&shared, &due, resource) => written,
    };
    match written {
        Ok(conditions) => {
            tell(&shared, &events, &due, &conditions, resource).await;
            (due, End::Written)
        }
        Err(error) => (due, End::Failed(error)),
    }
}

/// Failures in a row.
struct Failures {
    backoff: Backoff,
    faulty_objects: u32,
}

impl Failures {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        Self { backoff, faulty_objects: 0 }
    }

    /// Notes the end of a write, and returns the time for which none is begun.
    fn note(&mut self, shared: &Shared, due: &Due, end: End) -> Duration {
        match end {
            End::Written => {
                *self = Self::new();
                Duration::ZERO
            }
            End::Failed(error) => {
                shared.note_failure(&error);
                self.react(shared, due, &error)
            }
            End::NotOurs => Duration::ZERO,
        }
    }

    /// Decides when the status is tried again, and returns the time for which none is.
    fn react(&mut self, shared: &Shared, due: &Due, error: &ApiError) -> Duration {
        match error {
            ApiError::Unreachable(_) | ApiError::Unauthorized(_) => self.backoff.next(),
            ApiError::Throttled { after, .. } => {
                shared.hold(due, false);
                (*after).min(Duration::from_mins(1)) + self.backoff.next()
            }
            error if error.is_passing() => {
                // A webhook that fails for one object says nothing of the others; one for many in a row does.
                shared.hold(due, false);
                self.faulty_objects += 1;
                let pauses = self.faulty_objects > FAULTY_IN_A_ROW;
                if pauses { self.backoff.next().min(PAUSE) } else { Duration::ZERO }
            }
            ApiError::Forbidden(_) | ApiError::Refused { .. } => {
                tracing::debug!(id = %due.id, %error, "status is refused");
                shared.hold(due, true);
                Duration::ZERO
            }
            error => {
                // The object changed, is gone, or is another one: the watch brings what comes next.
                tracing::debug!(id = %due.id, %error, "status was not written");
                shared.postpone(due);
                Duration::ZERO
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patch<'a> {
    api_version: String,
    kind: &'a str,
    metadata: PatchMetadata<'a>,
    status: PatchStatus<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PatchMetadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    /// An object of the same name that is not the one meant is left alone: the server compares this version. It need not compare the uid when it writes a status.
    #[serde(skip_serializing_if = "str::is_empty")]
    resource_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PatchStatus<'a> {
    observed_generation: u64,
    conditions: &'a [Condition],
}

/// Writes a status, and before it the revision that it says is served: a process that starts between the two finds the revision.
async fn write(
    shared: &Shared,
    due: &Due,
    resource: &ResourceType,
) -> Result<Vec<Condition>, ApiError> {
    let Due { id, desired, seen, .. } = due;
    let version = resource.newest();
    let generation = desired.revision.generation;
    if let Some(text) = desired.accepted.as_ref().filter(|_| seen.generation != generation) {
        let accepted = Accepted { id, revision: &desired.revision, text };
        shared.revisions.keep(&accepted, &resource.api_version(version)).await?;
        shared.state().report.revisions += 1;
    }
    let now = Arc::from(now());
    let conditions = with_times(&desired.judgements, generation, &seen.conditions(), &now);
    let patch = Patch {
        api_version: resource.api_version(version),
        kind: resource.kind,
        metadata: PatchMetadata {
            name: &id.name,
            namespace: id.namespace.as_deref(),
            resource_version: &due.version,
            uid: desired.revision.uid.as_deref(),
        },
        status: PatchStatus { observed_generation: generation, conditions: &conditions },
    };
    let body =
        serde_json::to_vec(&patch).map_err(|error| ApiError::Unreadable(error.to_string()))?;
    let object = resource.object_path(version, id.namespace.as_deref(), &id.name);
    let query = [("fieldManager", &*shared.options.field_manager), ("force", "true")];
    let path = request::path(&format!("{object}/status"), &query);
    let answer = request::send(
        &shared.client,
        Method::PATCH,
        &path,
        "application/apply-patch+yaml",
        Bytes::from(body),
    )
    .await?;
    let head: Head =
        serde_json::from_slice(&answer).map_err(|error| ApiError::Unreadable(error.to_string()))?;
    shared.written(due, &conditions, head.metadata.resource_version);
    Ok(conditions)
}

/// Sends an Event for each condition that changed. The summary repeats one of the others, and waiting is no event.
async fn tell(
    shared: &Shared,
    events: &Mutex<Events>,
    due: &Due,
    conditions: &[Condition],
    resource: &ResourceType,
) {
    let Due { id, desired, seen, .. } = due;
    let api_version = resource.api_version(resource.newest());
    for (judgement, condition) in desired.judgements.iter().zip(conditions) {
        if judgement.r#type == READY || &*judgement.reason == "Pending" || seen.had(judgement) {
            continue;
        }
        let event = Event {
            id,
            uid: desired.revision.uid.as_deref(),
            api_version: &api_version,
            is_warning: judgement.status != Truth::True,
            reason: &condition.reason,
            note: &condition.message,
        };
        let sent = events.lock().await.send(&event, Instant::now(), Timestamp::now()).await;
        let mut state = shared.state();
        let (told, withheld) = &mut state.report.events;
        *(if sent { told } else { withheld }) += 1;
    }
}

/// Returns the time of the wall clock as conditions have it: in UTC, to the second.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
