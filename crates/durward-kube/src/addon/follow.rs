//! Follows the `HostedApi`s, and looks after each in a task of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::AddonOptions;
use super::management::Management;
use super::places::Places;
use super::routes::Published;
use super::target::Target;
use super::work::{Outcome, Work};
use crate::Clients;
use crate::backoff::{Backoff, between};
use crate::health::{Health, WatchHealth};
use crate::object::{Metadata, ObjectName};
use crate::request::ApiError;
use crate::resource_type::HOSTED_APIS;
use crate::watch::{Reflector, Scope, Sink};

/// Longest pause between two looks for the kind while it is not installed.
const ABSENT: Duration = Duration::from_secs(10);
/// First pause after an attempt that failed.
const FIRST: Duration = Duration::from_secs(2);
/// Attempts to write a condition into an object that others write too.
const SAYINGS: usize = 5;
/// Time in which the watch shows an object that was written.
const FRESH: Duration = Duration::from_secs(2);

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
    outcomes: BTreeMap<ObjectName, (Outcome, Published)>,
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
            places: Places::new(options.at_once, options.namespace.is_some()),
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
        for (name, (outcome, published)) in &state.outcomes {
            if let Published::Failed(_, sentence) = published {
                report.failed.insert(name.to_string(), sentence.clone());
            }
            match outcome {
                Outcome::Nothing => {}
                Outcome::Installed(..) => report.installed += 1,
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
    places: Places,
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
        let asks_nothing = matches!(target.plan, Ok(None)) && !target.asks_for_routes;
        if asks_nothing && !target.has_finalizer && target.said.is_empty() {
            return Ok(true);
        }
        let share = self.places.of(&target.name.namespace);
        let (sender, targets) = watch::channel(target);
        let work = Work::new(self.management.clone(), self.options.clone(), share);
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
        let was_applied = work.is_applied();
        // Routes wait for no cluster of a tenant.
        let published = work.publish(&target).await;
        let outcome = work.attempt(&target).await;
        let came = (outcome, published);
        let is_said = say(&work, &mut targets, &target, &came).await;
        let is_settled = came.0.is_settled() && came.1.is_settled() && is_said;
        note(&shared, &target.name, came, was_applied);
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

/// Writes what came of an attempt, once more where the object was written meanwhile. Returns whether it is said, or another attempt follows at once.
async fn say(
    work: &Work,
    targets: &mut watch::Receiver<Arc<Target>>,
    attempted: &Target,
    (outcome, published): &(Outcome, Published),
) -> bool {
    for _ in 0..SAYINGS {
        let now = Arc::clone(&targets.borrow_and_update());
        if asks_otherwise(&now, attempted) {
            return true;
        }
        let judgements = [outcome.judgement(), published.judgement(), now.abandonment()];
        match work.management.say(&now, judgements.into_iter().flatten().collect()).await {
            // An object that is gone has nothing to say.
            Ok(()) | Err(ApiError::NotFound(_)) => return true,
            Err(ApiError::Conflict(_)) => {
                // The sender is gone with the object; the next look at it ends the task.
                let _ = timeout(FRESH, targets.changed()).await;
            }
            Err(error) => {
                tracing::warn!(hosted_api = %now.name, %error, "the condition of a HostedApi cannot be written");
                return false;
            }
        }
    }
    false
}

/// Waits until what is asked for is another; our own writes change nothing of it. `None` when the object is gone.
async fn wanting_change(targets: &mut watch::Receiver<Arc<Target>>, seen: &Target) -> Option<()> {
    while !asks_otherwise(&targets.borrow_and_update(), seen) {
        targets.changed().await.ok()?;
    }
    Some(())
}

/// Returns whether something else is asked for than was `seen`, or somebody took away what holds the object.
fn asks_otherwise(now: &Target, seen: &Target) -> bool {
    let asked = |target: &Target| (target.generation, target.is_deleted);
    asked(now) != asked(seen)
        || (seen.is_held() && !now.is_held())
        || now.abandoned.len() < seen.abandoned.len()
}

fn note(shared: &Shared, name: &ObjectName, came: (Outcome, Published), was_applied: bool) {
    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if !(was_applied && matches!(came.0, Outcome::Installed(..))) {
        state.attempts += 1;
    }
    let former = state.outcomes.get(name);
    if let Outcome::Failed(reason, sentence) = &came.0
        && former.map(|former| &former.0) != Some(&came.0)
    {
        tracing::warn!(hosted_api = %name, reason, sentence, "API proxies are not installed");
    }
    if let Published::Failed(reason, sentence) = &came.1
        && former.map(|former| &former.1) != Some(&came.1)
    {
        tracing::warn!(hosted_api = %name, reason, sentence, "routes for another controller are not written");
    }
    state.outcomes.insert(name.clone(), came);
}
