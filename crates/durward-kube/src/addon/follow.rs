//! Follows the `HostedApi`s, and looks after each in a task of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::AddonOptions;
use super::management::Management;
use super::target::Target;
use super::work::{Outcome, Work};
use crate::Clients;
use crate::backoff::{Backoff, between};
use crate::health::{Health, WatchHealth};
use crate::object::{Metadata, ObjectName};
use crate::resource_type::HOSTED_APIS;
use crate::watch::{Reflector, Scope, Sink};

/// Longest pause between two looks for the kind while it is not installed.
const ABSENT: Duration = Duration::from_secs(10);
/// First pause after an attempt that failed.
const FIRST: Duration = Duration::from_secs(2);

/// State of the installations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddonsReport {
    /// Tenant clusters in which everything is there and ready.
    pub installed: usize,
    /// Tenant clusters in which proxies are not ready yet.
    pub progressing: usize,
    /// `HostedApi`s of which the last attempt failed, by namespace and name, each with the sentence.
    pub failed: BTreeMap<String, String>,
    /// Attempts since the start that connected to a tenant cluster or failed.
    pub attempts: u64,
}

#[derive(Default)]
struct State {
    outcomes: BTreeMap<ObjectName, Outcome>,
    attempts: u64,
}

type Shared = Arc<Mutex<State>>;

/// A running installer. It ends when this is dropped; what is installed stays.
pub struct Addons {
    shared: Shared,
    watch: Arc<WatchHealth>,
    _tasks: JoinSet<()>,
}

impl Addons {
    /// Starts to look after the `HostedApi`s of an API server. Called within a runtime.
    #[must_use]
    pub fn start(clients: &Clients, options: AddonOptions) -> Self {
        let shared = Shared::default();
        let health = Health::default();
        let watch = health.of_start(&HOSTED_APIS);
        let scope = Scope { namespace: options.namespace.clone(), ..Scope::all(&HOSTED_APIS) };
        let management = Management { read: clients.watch.clone(), write: clients.write.clone() };
        let sink = Targets {
            at_once: Arc::new(Semaphore::new(options.at_once.max(1))),
            management,
            options,
            shared: Arc::clone(&shared),
            api_version: String::new(),
            tasks: HashMap::new(),
        };
        let mut tasks = JoinSet::new();
        let reflector =
            Reflector::new(clients.watch.clone(), scope, sink, Arc::clone(&watch), ABSENT);
        tasks.spawn(reflector.run());
        Self { shared, watch, _tasks: tasks }
    }

    /// Returns whether all `HostedApi`s were read.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.watch.is_synced()
    }

    /// Returns the state.
    #[must_use]
    pub fn report(&self) -> AddonsReport {
        let state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = AddonsReport { attempts: state.attempts, ..AddonsReport::default() };
        for (name, outcome) in &state.outcomes {
            match outcome {
                Outcome::Nothing => {}
                Outcome::Installed(_) => report.installed += 1,
                Outcome::Progressing(..) => report.progressing += 1,
                Outcome::Failed(_, sentence) => {
                    report.failed.insert(name.to_string(), sentence.clone());
                }
            }
        }
        report
    }
}

/// Reader of `HostedApi`s, with a task for each.
struct Targets {
    at_once: Arc<Semaphore>,
    management: Management,
    options: AddonOptions,
    shared: Shared,
    api_version: String,
    tasks: HashMap<ObjectName, (watch::Sender<Arc<Target>>, AbortHandle)>,
}

impl Sink for Targets {
    fn begin(&mut self, version: &'static str) {
        self.api_version = HOSTED_APIS.api_version(version);
    }

    fn applied(&mut self, _: &Metadata, json: &str) -> Result<bool, String> {
        let target = Arc::new(Target::read(&self.api_version, json)?);
        let name = target.name.clone();
        if let Some((sender, _)) = self.tasks.get(&name) {
            let is_same = sender.borrow().uid == target.uid;
            if is_same {
                sender.send_replace(target);
                return Ok(true);
            }
            self.forget(&name);
        }
        if matches!(target.plan, Ok(None)) && target.installed_by.is_none() && target.said.is_none()
        {
            return Ok(true);
        }
        let (sender, targets) = watch::channel(target);
        let work = Work {
            management: self.management.clone(),
            options: self.options.clone(),
            at_once: Arc::clone(&self.at_once),
            applied: None,
        };
        let task = tokio::spawn(look_after(targets, work, Arc::clone(&self.shared)));
        self.tasks.insert(name, (sender, task.abort_handle()));
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        self.forget(name);
    }
}

impl Targets {
    fn forget(&mut self, name: &ObjectName) {
        if let Some((_, task)) = self.tasks.remove(name) {
            task.abort();
        }
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).outcomes.remove(name);
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.tasks.values().for_each(|(_, task)| task.abort());
    }
}

/// Looks after one `HostedApi` until it is gone.
async fn look_after(mut targets: watch::Receiver<Arc<Target>>, mut work: Work, shared: Shared) {
    let mut backoff = Backoff::new(FIRST, work.options.resync);
    loop {
        let target = Arc::clone(&targets.borrow_and_update());
        let was_applied = work.applied.is_some();
        let outcome = work.attempt(&target).await;
        if let Err(error) = work.management.say(&target, outcome.judgement()).await {
            tracing::debug!(hosted_api = %target.name, %error, "the condition was not written");
        }
        let is_settled = outcome.is_settled();
        note(&shared, &target.name, outcome, was_applied);
        let pause = if is_settled {
            backoff.reset();
            between(work.options.resync / 2, work.options.resync)
        } else {
            backoff.next() + FIRST / 2
        };
        tokio::select! {
            () = sleep(pause) => {}
            changed = wanting_change(&mut targets, &target) => match changed {
                Some(()) => backoff.reset(),
                None => return,
            },
        }
    }
}

/// Waits until what is asked for is another; our own writes change nothing of it. `None` when the object is gone.
async fn wanting_change(targets: &mut watch::Receiver<Arc<Target>>, seen: &Target) -> Option<()> {
    loop {
        targets.changed().await.ok()?;
        let now = targets.borrow_and_update();
        let same =
            (now.generation, now.deleted.is_some()) == (seen.generation, seen.deleted.is_some());
        // Somebody took the finalizer or the condition away.
        let is_held = now.installed_by == seen.installed_by || now.installed_by.is_some();
        if !same || !is_held {
            return Some(());
        }
    }
}

fn note(shared: &Shared, name: &ObjectName, outcome: Outcome, was_applied: bool) {
    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if !(was_applied && matches!(outcome, Outcome::Installed(_))) {
        state.attempts += 1;
    }
    if let Outcome::Failed(reason, sentence) = &outcome {
        let former = state.outcomes.get(name);
        if former != Some(&outcome) {
            tracing::warn!(hosted_api = %name, reason, sentence, "API proxies are not installed");
        }
    }
    state.outcomes.insert(name.clone(), outcome);
}
