//! The one writer of statuses: differences only, the newest change first, namespaces in turns, so many a second.
//!
//! A status is written by server-side apply under a field manager of its own, so other writers of other fields do not conflict. Whoever decides that this process is the
//! writer decides it elsewhere; nothing here reads a status in order to write it.

mod queue;
mod run;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_model::verdict::{Outcome, Verdict};
use durward_model::{ResourceId, Revision};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::digest::Seen;
use super::{Condition, Judgement, PlaneReport, judge};
use crate::lease::{Lease, LeaseOptions, MayWrite, Tenure};
use crate::object::Object;
use crate::request::ApiError;
use crate::resource_type::ResourceType;
use crate::revisions::Revisions;
use crate::watch::is_later;
use queue::{Next, Queue};

/// Settings for writing statuses.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Statuses a second, at most (`--status-rate`).
    pub rate: u32,
    /// Name that the writer's fields are owned by.
    pub field_manager: Arc<str>,
    /// Name of this process in Events: the pod's, or the host's.
    pub instance: Arc<str>,
    /// Namespace for the revisions of objects that are in none.
    pub namespace: Arc<str>,
    /// Lease that this process must hold to write, where there are several; `None` writes always.
    pub lease: Option<LeaseOptions>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            rate: 50,
            field_manager: Arc::from("durward"),
            instance: Arc::from("durward"),
            namespace: Arc::from("default"),
            lease: None,
        }
    }
}

/// Desired status of an object.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The revision that it is about.
    pub revision: Revision,
    /// The conditions.
    pub judgements: [Judgement; 3],
    /// The document in this revision if it is served, to be kept as its last accepted one.
    pub accepted: Option<Arc<str>>,
}

impl Desired {
    /// Builds what is to be said of an object from the verdict on it and the reports of the planes. It is about the revision that the verdict is on, which may be an earlier
    /// one than the object has by now.
    #[must_use]
    pub fn new(object: &Object, verdict: &Verdict, planes: &[PlaneReport]) -> Self {
        let is_served = matches!(verdict.outcome, Outcome::Accepted | Outcome::Partial);
        let is_present = verdict.observed == object.revision;
        Self {
            revision: verdict.observed.clone(),
            judgements: judge(verdict, planes),
            accepted: (is_served && is_present).then(|| Arc::clone(&object.text)),
        }
    }
}

/// Counters and backlog of a status writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterReport {
    /// Statuses that wait to be written.
    pub pending: usize,
    /// Those of them that the server refused. Each is tried again every minute.
    pub refused: usize,
    /// Statuses that were written.
    pub written: u64,
    /// Statuses that were right already.
    pub unchanged: u64,
    /// Writes that failed.
    pub failed: u64,
    /// Revisions that were kept.
    pub revisions: u64,
    /// Events that were sent, and that were not sent because there were too many or they were said before.
    pub events: (u64, u64),
    /// Error of the last write; `None` after one that succeeded while none is refused.
    pub last_error: Option<String>,
}

impl WriterReport {
    /// Adds what another writer did and has to do.
    pub fn add(&mut self, other: &Self) {
        let Self { pending, refused, written, unchanged, failed, revisions, events, last_error } =
            other;
        self.pending += pending;
        self.refused += refused;
        self.written += written;
        self.unchanged += unchanged;
        self.failed += failed;
        self.revisions += revisions;
        self.events.0 += events.0;
        self.events.1 += events.1;
        self.last_error = self.last_error.take().or_else(|| last_error.clone());
    }
}

/// Writes statuses until it is dropped.
pub struct Writer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    lease: Option<(Lease, JoinHandle<()>)>,
    may_write: MayWrite,
}

struct Shared {
    client: kube::Client,
    options: WriterOptions,
    revisions: Revisions,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    objects: HashMap<ResourceId, Entry>,
    /// Objects whose status is not what it is to be.
    pending: Queue,
    changes: u64,
    report: WriterReport,
}

/// An object whose status is written.
#[derive(Default)]
struct Entry {
    uid: Option<Arc<str>>,
    version: Arc<str>,
    seen: Seen,
    desired: Option<(u64, Desired)>,
}

/// A status that is due.
struct Due {
    id: ResourceId,
    change: u64,
    desired: Desired,
    seen: Seen,
    /// The version of the object that `seen` is of; empty if none was observed.
    version: Arc<str>,
}

impl Writer {
    /// Starts to write. Called within a runtime.
    #[must_use]
    pub fn start(client: kube::Client, options: WriterOptions) -> Self {
        let shared = Arc::new(Shared {
            revisions: Revisions::new(client.clone(), Arc::clone(&options.namespace)),
            client,
            options,
            state: Mutex::default(),
            arrived: Notify::new(),
        });
        // Without a Lease to hold, this process writes from the start.
        let at_first = if shared.options.lease.is_none() { Tenure::Always } else { Tenure::None };
        let (says, tenure) = watch::channel(at_first);
        let may_write = MayWrite::new(tenure);
        let lease = shared.options.lease.clone().map(|options| {
            let lease = Lease::new(shared.client.clone(), options);
            let task = tokio::spawn(lease.clone().claim(says.clone()));
            (lease, task)
        });
        let task = tokio::spawn(run::run(Arc::clone(&shared), may_write.clone(), says));
        Self { shared, task, lease, may_write }
    }

    /// Returns the right to write, as it comes and goes.
    #[must_use]
    pub fn may_write(&self) -> MayWrite {
        self.may_write.clone()
    }

    /// Returns the claim to the Lease, if one is needed to write.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        self.lease.as_ref().map(|(lease, _)| lease.clone())
    }

    /// Records an object as it is in the API server. Kinds that have no status of ours are left alone.
    pub fn observe(&self, object: &Object) {
        if ResourceType::of(object.id.kind).is_none() {
            return;
        }
        let mut state = self.shared.state();
        let entry = state.objects.entry(object.id.clone()).or_default();
        // A watch may bring a state from before our own last write.
        let version = &object.metadata.resource_version;
        if entry.uid == object.revision.uid && is_later(&entry.version, version) {
            return;
        }
        if entry.uid != object.revision.uid {
            *entry = Entry { desired: entry.desired.take(), ..Entry::default() };
        }
        entry.uid.clone_from(&object.revision.uid);
        entry.version = Arc::clone(version);
        entry.seen = Seen::of(&object.conditions);
        self.shared.settle(&mut state, &object.id);
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, id: &ResourceId) {
        let mut state = self.shared.state();
        if let Some(Entry { desired: Some((change, _)), .. }) = state.objects.remove(id) {
            state.pending.remove(change);
        }
        state.pending.release(id);
        state.report.pending = state.pending.len();
    }

    /// Says what the status of an object is to be.
    pub fn want(&self, id: &ResourceId, desired: Desired) {
        if ResourceType::of(id.kind).is_none() {
            return;
        }
        let mut state = self.shared.state();
        state.changes += 1;
        let change = state.changes;
        let entry = state.objects.entry(id.clone()).or_default();
        if let Some((former, _)) = entry.desired.replace((change, desired)) {
            state.pending.remove(former);
        }
        state.pending.insert(change, id);
        self.shared.settle(&mut state, id);
    }

    /// Returns what was done and is to be done.
    #[must_use]
    pub fn report(&self) -> WriterReport {
        let state = self.shared.state();
        WriterReport { refused: state.pending.refused(), ..state.report.clone() }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
        self.lease.iter().for_each(|(_, task)| task.abort());
    }
}

impl Shared {
    /// Takes an object out of the queue if its status is right, and else has it written.
    fn settle(&self, state: &mut State, id: &ResourceId) {
        let State { objects, pending, report, .. } = state;
        let Some(entry) = objects.get_mut(id) else { return };
        let Some((change, desired)) = &entry.desired else { return };
        let change = *change;
        // The object was created again since: its new status is not known yet.
        let is_other = entry.uid.is_some() && entry.uid != desired.revision.uid;
        let is_right = entry.seen.says(&desired.judgements, desired.revision.generation);
        if is_other || is_right {
            report.unchanged += u64::from(pending.remove(change) && is_right);
            pending.release(id);
        } else {
            pending.insert(change, id);
            self.arrived.notify_one();
        }
        report.pending = pending.len();
    }

    /// Returns the status whose turn it is, and until when to wait if there is none.
    fn next(&self) -> Result<Due, Option<Instant>> {
        let mut state = self.state();
        let State { objects, pending, .. } = &mut *state;
        let (change, id) = match pending.next(Instant::now()) {
            Next::Write(change, id) => (change, id),
            Next::Wait(until) => return Err(Some(until)),
            Next::Idle => return Err(None),
        };
        let entry = objects.get(&id).and_then(|entry| Some((entry, entry.desired.as_ref()?)));
        let Some((entry, (_, desired))) = entry else {
            pending.remove(change);
            pending.finish(&id);
            return Err(Some(Instant::now()));
        };
        let (seen, version) = (entry.seen.clone(), Arc::clone(&entry.version));
        Ok(Due { id, change, desired: desired.clone(), seen, version })
    }

    /// Records a status that was written.
    fn written(&self, due: &Due, conditions: &[Condition], version: Arc<str>) {
        let mut state = self.state();
        state.pending.remove(due.change);
        state.pending.release(&due.id);
        state.report.written += 1;
        if state.pending.refused() == 0 {
            state.report.last_error = None;
        }
        if let Some(entry) = state.objects.get_mut(&due.id) {
            // What the watch brought meanwhile may be later, or of another object.
            if entry.uid == due.desired.revision.uid && !is_later(&entry.version, &version) {
                entry.seen = Seen::of(conditions);
                entry.version = version;
            }
        }
        // Something else may be wanted by now, or another writer has been there.
        self.settle(&mut state, &due.id);
        state.report.pending = state.pending.len();
    }

    /// Takes a status out of the queue that cannot be written as things are, until the watch brings the object as it is now.
    fn postpone(&self, due: &Due) {
        let mut state = self.state();
        let is_as_before = |entry: &Entry| entry.version == due.version;
        if state.objects.get(&due.id).is_none_or(is_as_before) {
            state.pending.remove(due.change);
        }
        state.pending.release(&due.id);
        state.report.pending = state.pending.len();
    }

    /// Notes that a write is over, whatever came of it: the object's next status may be written.
    fn finish(&self, due: &Due) {
        self.state().pending.finish(&due.id);
    }

    /// Tries the status of an object again later, and those of others first.
    fn hold(&self, due: &Due, is_refused: bool) {
        self.state().pending.hold(&due.id, is_refused, Instant::now());
    }

    fn note_failure(&self, error: &ApiError) {
        let mut state = self.state();
        state.report.failed += 1;
        state.report.last_error = Some(error.to_string());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
