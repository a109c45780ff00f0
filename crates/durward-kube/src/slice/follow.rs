//! Watches and writes of a keeper.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::object;
use super::step::{Keeper, MANAGER, Outcome, Step, Write, Written};
use super::{Contest, Family, Observation, Seen, SliceOptions, Target};
use crate::Clients;
use crate::health::{Health, WatchHealth};
use crate::object::{Metadata, ObjectName};
use crate::request::{self, ApiError};
use crate::resource_type::ENDPOINT_SLICES;
use crate::watch::{Reflector, Scope, Sink};

/// Label that ties slices to their Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name=";
/// Time for one write.
const WRITE: Duration = Duration::from_secs(5);
/// Field manager of marks.
const MARKS: &str = "durward-api-proxy-marks";
/// Longest object that is read, in bytes: a slice has a thousand endpoints at the most, and the server may be a stranger's.
const LONGEST: usize = 512 << 10;
/// Longest pause between two attempts to watch: an edit made while the API server restarts is to be seen soon after.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
const ABSENT: Duration = Duration::from_secs(30);

/// State of a keeper, for readiness, people and metrics.
#[derive(Clone, Debug, Default)]
pub struct SliceReport {
    /// Everything that is watched was read.
    pub synced: bool,
    /// The objects are as they should be.
    pub right: bool,
    /// No object leads to this proxy.
    pub withdrawn: bool,
    /// Ready proxies, as their Service counts them.
    pub members: usize,
    /// The Service counts this proxy as ready.
    pub counted: bool,
    /// Another writer that rewrites the endpoints, if there is one.
    pub contest: Option<Contest>,
    /// Writes that the server took.
    pub writes: u64,
    /// Writes that met a newer object.
    pub conflicts: u64,
    /// Writes that failed.
    pub failures: u64,
    /// Error of the last write; `None` once one succeeded.
    pub last_error: Option<String>,
}

/// A keeper at work in the current runtime; it stops when dropped.
pub struct SliceKeeper {
    report: watch::Receiver<SliceReport>,
    health: Arc<Health>,
    _tasks: JoinSet<()>,
}

impl SliceKeeper {
    /// Starts to watch and to write. `ready` says whether this proxy can serve.
    #[must_use]
    pub fn start(clients: &Clients, options: SliceOptions, ready: watch::Receiver<bool>) -> Self {
        let view = Arc::<View>::default();
        let health = Arc::<Health>::default();
        let mut tasks = JoinSet::new();
        for target in Target::ALL {
            let sink = ObjectSink { view: Arc::clone(&view), target, port: options.port };
            let scope = Scope {
                kind: object::resource(target),
                namespace: Some(Arc::from("default")),
                name: Some(Arc::from(target.name())),
                labels: "".into(),
            };
            tasks.spawn(reflector(clients, scope, sink, &health).run());
        }
        let scope = Scope {
            kind: &ENDPOINT_SLICES,
            namespace: Some(Arc::clone(&options.service.namespace)),
            name: None,
            labels: format!("{SERVICE_LABEL}{}", options.service.name).into(),
        };
        let sink = MemberSink { view: Arc::clone(&view), port: options.port };
        tasks.spawn(reflector(clients, scope, sink, &health).run());
        let (sender, report) = watch::channel(SliceReport::default());
        let writer = Writer {
            client: clients.write.clone(),
            keeper: Keeper::new(options),
            view,
            ready,
            report: sender,
            started: Instant::now(),
        };
        tasks.spawn(writer.run());
        Self { report, health, _tasks: tasks }
    }

    /// Returns the state, also later ones.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<SliceReport> {
        self.report.clone()
    }

    /// Returns the state of the watches.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

fn reflector<S: Sink>(clients: &Clients, scope: Scope, sink: S, health: &Health) -> Reflector<S> {
    let health: Arc<WatchHealth> = health.of(scope.kind);
    Reflector::new(clients.watch.clone(), scope, sink, health, ABSENT).retrying_within(WATCH_PAUSE)
}

/// Objects that the watches have read.
#[derive(Default)]
struct View {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Target, Option<Seen>>,
    members: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
    members_read: bool,
}

impl View {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observation(&self, now: Duration, own_ready: bool) -> Observation {
        let state = self.state();
        let members = || state.members.values().flatten().copied().collect();
        Observation {
            now,
            own_ready,
            members: state.members_read.then(members),
            objects: state.objects.clone(),
        }
    }
}

struct ObjectSink {
    view: Arc<View>,
    target: Target,
    port: u16,
}

impl Sink for ObjectSink {
    fn applied(&mut self, _: &Metadata, json: &str) -> Result<bool, String> {
        let seen = object::decode(self.target, self.port, json);
        let seen = seen.map_err(|error| error.to_string())?;
        self.view.change(|state| {
            state.objects.insert(self.target, Some(seen));
        });
        Ok(true)
    }

    fn deleted(&mut self, _: &ObjectName, _: Option<&str>) {
        self.view.change(|state| {
            state.objects.insert(self.target, None);
        });
    }

    fn listed(&mut self) {
        self.view.change(|state| {
            state.objects.entry(self.target).or_default();
        });
    }
}

struct MemberSink {
    view: Arc<View>,
    port: u16,
}

impl Sink for MemberSink {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let ready = object::ready_addresses(json, self.port).map_err(|error| error.to_string())?;
        let name = ObjectName {
            namespace: Arc::clone(&metadata.namespace),
            name: Arc::clone(&metadata.name),
        };
        self.view.change(|state| {
            state.members.insert(name, ready);
        });
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        self.view.change(|state| {
            state.members.remove(name);
        });
    }

    fn listed(&mut self) {
        self.view.change(|state| state.members_read = true);
    }
}

struct Writer {
    client: kube::Client,
    keeper: Keeper,
    view: Arc<View>,
    ready: watch::Receiver<bool>,
    report: watch::Sender<SliceReport>,
    started: Instant,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let changed = Arc::clone(&self.view);
            let changed = changed.changed.notified();
            let own_ready = *self.ready.borrow_and_update();
            let seen = self.view.observation(self.started.elapsed(), own_ready);
            let step = self.keeper.step(&seen);
            self.note(&seen, &step);
            let has_written = !step.writes.is_empty();
            for write in step.writes {
                let (which, outcome) = self.write(&write).await;
                self.keeper.outcome(which, outcome);
            }
            if has_written {
                continue;
            }
            let next = step.next.map(|next| self.started + next);
            tokio::select! {
                () = changed => {}
                // The sender is gone: the process ends, and this task with it.
                Ok(()) = self.ready.changed() => {}
                () = sleep_until(next.unwrap_or(self.started)), if next.is_some() => {}
            }
        }
    }

    async fn write(&self, write: &Write) -> (Written, Outcome) {
        let written = timeout(WRITE, apply(&self.client, &self.keeper, write)).await;
        let written =
            written.unwrap_or_else(|_| Err(ApiError::Unreachable("no answer in time".to_owned())));
        let outcome = match &written {
            Ok(()) => Outcome::Done,
            Err(ApiError::Conflict(_)) => Outcome::Conflict,
            Err(_) => Outcome::Failed,
        };
        self.report.send_modify(|report| match written {
            Ok(()) => {
                report.writes += 1;
                report.last_error = None;
            }
            Err(ApiError::Conflict(_)) => report.conflicts += 1,
            Err(error) => {
                report.failures += 1;
                report.last_error = Some(error.to_string());
                tracing::warn!(%error, ?write, "endpoints of default/kubernetes cannot be written");
            }
        });
        (write.which(), outcome)
    }

    fn note(&self, seen: &Observation, step: &Step) {
        let synced = seen.members.is_some() && seen.objects.len() == Target::ALL.len();
        let is_new_contest = step.contest.is_some() && self.report.borrow().contest.is_none();
        if let Some(contest) = step.contest.as_ref().filter(|_| is_new_contest) {
            tracing::warn!(reason = Contest::REASON, "{contest}");
        }
        self.report.send_if_modified(|report| {
            let state = |report: &SliceReport| {
                let SliceReport { synced, right, withdrawn, counted, members, .. } = *report;
                (synced, right, withdrawn, counted, members)
            };
            let before = state(report);
            report.synced = synced;
            report.counted = step.counted;
            report.right = synced && step.right;
            report.withdrawn = synced && step.withdrawn;
            report.members = seen.members.as_ref().map_or(0, BTreeSet::len);
            let is_other = before != state(report);
            let has_contest = report.contest != step.contest;
            report.contest.clone_from(&step.contest);
            is_other || has_contest
        });
    }
}

async fn apply(client: &kube::Client, keeper: &Keeper, write: &Write) -> Result<(), ApiError> {
    match write {
        Write::Content { target, family, addresses, version, before } => {
            let port = keeper.options().port;
            let body = object::content(
                (*target, *family),
                (addresses, port),
                version.as_deref(),
                before.as_deref(),
            );
            send(client, *target, MANAGER, &body).await
        }
        Write::Mark { family, addresses, seen: None } => {
            let body = object::mark(keeper.mark(), *family, addresses);
            send(client, Target::Primary, MARKS, &body).await
        }
        Write::Mark { addresses, .. } => {
            merge(client, &object::mark_change(keeper.mark(), addresses)).await
        }
        Write::Unmark { marks, version } => {
            merge(client, &object::unmark(marks, Some(version))).await
        }
    }
}

async fn send(
    client: &kube::Client,
    target: Target,
    manager: &str,
    body: &Value,
) -> Result<(), ApiError> {
    let path = object_path(target);
    let path = request::path(&path, &[("fieldManager", manager), ("force", "true")]);
    let body = Bytes::from(body.to_string());
    let kind = "application/apply-patch+yaml";
    request::send_within(client, Method::PATCH, &path, kind, body, LONGEST).await.map(drop)
}

/// Changes marks of the primary slice. They are not applied: each field manager that applies has an entry in the object, which stays when its node is gone.
async fn merge(client: &kube::Client, change: &Value) -> Result<(), ApiError> {
    let path = request::path(&object_path(Target::Primary), &[("fieldManager", MARKS)]);
    let body = Bytes::from(change.to_string());
    let kind = "application/merge-patch+json";
    request::send_within(client, Method::PATCH, &path, kind, body, LONGEST).await.map(drop)
}

/// Reads the objects as they are. Where a port decides whether one is in form, it is none.
///
/// # Errors
/// Fails if the API server cannot be reached or does not allow it.
pub async fn read(client: &kube::Client) -> Result<BTreeMap<Target, Option<Seen>>, ApiError> {
    let mut objects = BTreeMap::new();
    for target in Target::ALL {
        let seen = match request::get_within(client, &object_path(target), LONGEST).await {
            Err(ApiError::NotFound(_)) => None,
            json => {
                let seen = object::decode(target, 0, &String::from_utf8_lossy(&json?));
                Some(seen.map_err(|error| ApiError::Unreadable(error.to_string()))?)
            }
        };
        objects.insert(target, seen);
    }
    Ok(objects)
}

/// Gives the endpoints of `default/kubernetes` back: those from before the first keeper are written again, and what the keepers made besides is removed. Proxies that still run
/// would take them over again, so they are stopped first.
///
/// Returns kind and name of the objects that were changed.
///
/// # Errors
/// Fails if the API server cannot be reached or does not allow it.
pub async fn hand_back(
    client: &kube::Client,
) -> Result<Vec<(&'static str, &'static str)>, ApiError> {
    let mut changed = Vec::new();
    for (target, seen) in read(client).await? {
        let Some(seen) = seen.filter(|seen| seen.kept) else { continue };
        match seen.before.as_deref().and_then(object::parse_before) {
            Some((addresses, port)) => {
                let family = seen.family.unwrap_or(Family::V4);
                let version = Some(&*seen.version);
                let body = object::given_back((target, family), (&addresses, port), version);
                send(client, target, MANAGER, &body).await?;
                if !seen.withdrawn.is_empty() {
                    merge(client, &object::unmark(seen.withdrawn.keys(), None)).await?;
                }
            }
            None => delete(client, target, &seen.version).await?,
        }
        changed.push((target.kind(), target.name()));
    }
    Ok(changed)
}

/// Deletes an object if it is still the one that was read: the API server may have begun to write it again.
async fn delete(client: &kube::Client, target: Target, version: &str) -> Result<(), ApiError> {
    let options = serde_json::json!({
        "apiVersion": "v1", "kind": "DeleteOptions",
        "preconditions": {"resourceVersion": version},
    });
    let (path, body) = (object_path(target), Bytes::from(options.to_string()));
    let kind = "application/json";
    request::send_within(client, Method::DELETE, &path, kind, body, LONGEST).await.map(drop)
}

fn object_path(target: Target) -> String {
    let kind = object::resource(target);
    kind.object_path(kind.newest(), Some("default"), target.name())
}
