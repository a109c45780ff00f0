//! TCP connect checks of mapping endpoints, by a thread of the gateway that carries the mappings.
//!
//! Failing endpoints are one more input of the kernel state, see [`Ejected`]. Deliberately absent: UDP and SCTP, where silence proves nothing.

mod claims;
mod dial;
mod schedule;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use durward_model::TenantId;
use durward_model::mapping::NatModel;
use rustix::process::{Resource, getrlimit};

use crate::desired::Ejected;
use crate::desired::ejected::MappingId;
use crate::error::NatError;
use crate::options::Options;
use crate::watch::Waker;
pub use claims::Owners;
use claims::{Claims, NoSource};
use dial::Dials;
use schedule::{Due, Event, Outcome, Schedule, Transition};
use slots::Slots;

/// Pause before another try to eject endpoints that the kernel refused.
const AGAIN: Duration = Duration::from_secs(1);

/// Rest after a change of the kernel, as a multiple of the change's duration.
const REST: u32 = 4;
/// Slots per connection that may be ending beside those being checked.
const ENDING: usize = 4;

/// Mapping with checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedMapping {
    /// Tenant of the mapping.
    pub tenant: TenantId,
    /// Name of the mapping.
    pub name: Arc<str>,
    /// TCP endpoints of the mapping.
    pub endpoints: Vec<CheckedEndpoint>,
}

/// Endpoint and the result of its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedEndpoint {
    /// Address and port that checks connect to.
    pub at: SocketAddr,
    /// True if the endpoint is out of rotation.
    pub out: bool,
    /// Reason the endpoint is out.
    pub cause: Option<Arc<str>>,
    /// Reason the endpoint cannot be checked; its state then stays as it was.
    pub unchecked: Option<Arc<str>>,
}

/// Input of the checks.
pub(crate) struct Wanted {
    pub(crate) model: Arc<NatModel>,
    /// Mappings that the kernel does not carry.
    pub(crate) rejected: BTreeSet<MappingId>,
    /// Endpoints that are out now.
    pub(crate) ejected: Ejected,
}

/// Thread that checks endpoints; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Checks {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    waker: Waker,
    schedule: Mutex<Schedule>,
    wanted: Mutex<Option<Wanted>>,
    /// Addresses of tenants besides those in the model.
    owners: Mutex<Arc<Owners>>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("mappings", &self.model.mappings.len()).finish()
    }
}

impl Checks {
    /// Starts the thread, in the network namespace of the caller. It passes all endpoints that are out to `eject` whenever they change.
    pub(crate) fn start(
        options: Options,
        eject: impl Fn(&Ejected) -> Result<(), NatError> + Send + 'static,
    ) -> Result<Self, NatError> {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let slots = Slots::new(usize::try_from(files).unwrap_or(usize::MAX));
        let ending = slots.most() / ENDING;
        let random = RandomState::new().hash_one(0);
        let shared = Arc::new(Shared {
            waker: Waker::new()?,
            schedule: Mutex::new(Schedule::new(slots, random)),
            wanted: Mutex::default(),
            owners: Mutex::default(),
        });
        let dials = Dials::open(&shared.waker, ending)?;
        let room = Room {
            options,
            dials,
            claims: Claims::default(),
            changed: None,
            rests_until: Instant::now(),
        };
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("durward-checks".to_owned());
        let thread = thread.spawn(move || room.run(&of_thread, eject));
        let thread =
            thread.map_err(|error| NatError::Socket { what: "the thread of checks", error })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Replaces the input of the checks.
    pub(crate) fn follow(&self, wanted: Wanted) {
        *lock(&self.shared.wanted) = Some(wanted);
        self.shared.waker.wake();
    }

    /// Keeps checks from using these tenants' addresses, from the next check on.
    pub(crate) fn set_owners(&self, owners: Arc<Owners>) {
        *lock(&self.shared.owners) = owners;
    }

    /// Returns every checked mapping with its endpoints.
    pub(crate) fn checked(&self) -> Vec<CheckedMapping> {
        lock(&self.shared.schedule).checked()
    }

    /// Returns the ejections so far, by tenant.
    pub(crate) fn ejections(&self) -> BTreeMap<TenantId, u64> {
        lock(&self.shared.schedule).ejections().clone()
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.shared.waker.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State of the thread.
struct Room {
    options: Options,
    dials: Dials,
    claims: Claims,
    /// Time to bring the ejections into the kernel; `None` without a change.
    changed: Option<Instant>,
    /// Time before which no change is made, so that flapping endpoints leave the kernel and the processor to others.
    rests_until: Instant,
}

impl Room {
    fn run(mut self, shared: &Shared, eject: impl Fn(&Ejected) -> Result<(), NatError>) {
        while !shared.waker.is_stopping() {
            self.follow(shared);
            self.start(shared);
            let next = lock(&shared.schedule).next_due();
            let change = self.changed.map(|due| due.max(self.rests_until));
            let outcomes = self.dials.wait(next.into_iter().chain(change).min());
            shared.waker.calm();
            for (target, outcome) in outcomes {
                self.finish(shared, target, outcome);
            }
            if self.changed.is_some_and(|due| due.max(self.rests_until) <= Instant::now()) {
                self.eject(shared, &eject);
            }
        }
    }

    fn eject(&mut self, shared: &Shared, eject: impl Fn(&Ejected) -> Result<(), NatError>) {
        self.changed = None;
        // Not locked while the kernel is changed: an apply waits for this lock while it holds the engine's.
        let ejected = lock(&shared.schedule).ejected().clone();
        let begin = Instant::now();
        if let Err(error) = eject(&ejected) {
            tracing::error!(%error, "endpoints could not be taken out of the kernel or put back: trying again");
            self.changed = Some(Instant::now() + AGAIN);
        }
        self.rests_until = Instant::now() + begin.elapsed() * REST;
    }

    fn follow(&mut self, shared: &Shared) {
        let Some(wanted) = lock(&shared.wanted).take() else { return };
        self.claims = Claims::new(&wanted.model);
        let now = Instant::now();
        let mut schedule = lock(&shared.schedule);
        let gone = schedule.follow(&wanted.model, &wanted.rejected, &wanted.ejected, now);
        for target in gone {
            self.dials.cancel(target);
            schedule.finish(target, Outcome::Passed, now);
        }
        if *schedule.ejected() != wanted.ejected {
            self.changed = Some(now);
        }
    }

    fn start(&mut self, shared: &Shared) {
        let due = lock(&shared.schedule).start(Instant::now());
        for due in due {
            if let Some(outcome) = self.dial(shared, &due) {
                self.finish(shared, due.target, outcome);
            }
        }
    }

    fn dial(&mut self, shared: &Shared, due: &Due) -> Option<Outcome> {
        self.claims.owners = Arc::clone(&lock(&shared.owners));
        match claims::source(&self.claims, &self.options, &due.tenant, due.endpoint) {
            Ok(source) => {
                let deadline = Instant::now() + due.timeout;
                self.dials.connect(due.target, source, due.endpoint, deadline)
            }
            Err(NoSource::Unreachable(error)) => Some(dial::failed(&error)),
            Err(NoSource::Unfit(why)) => Some(Outcome::Unchecked(why)),
        }
    }

    fn finish(&mut self, shared: &Shared, target: schedule::Target, outcome: Outcome) {
        let now = Instant::now();
        let Some(event) = lock(&shared.schedule).finish(target, outcome, now) else { return };
        log(&event);
        if matches!(event.transition, Transition::Out(_) | Transition::In) {
            // The debounce joins endpoints that failed at the same moment in one transaction.
            self.changed.get_or_insert(now + self.options.debounce);
        }
    }
}

fn log(event: &Event) {
    let Event { mapping: MappingId { tenant, name }, endpoint, transition } = event;
    match transition {
        Transition::Out(cause) => {
            tracing::warn!(%tenant, mapping = %name, %endpoint, %cause, "endpoint ejected: its checks fail");
        }
        Transition::In => {
            tracing::info!(%tenant, mapping = %name, %endpoint, "endpoint restored: its checks pass");
        }
        Transition::Unknown(cause) => {
            tracing::warn!(%tenant, mapping = %name, %endpoint, %cause, "endpoint cannot be checked: it stays as it is");
        }
        Transition::Known => {
            tracing::info!(%tenant, mapping = %name, %endpoint, "endpoint can be checked again");
        }
    }
}
