//! Brings the kernel to the state of a model and keeps it so, also against other programs; when the engine ends, the kernel goes on alone.
//!
//! Every step leads from the actual to the desired state; nothing depends on what this process did before.

mod apply;
mod look;
mod patch;
mod reconcile;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use durward_model::TenantId;
use durward_model::mapping::NatModel;

use crate::checks::{CheckedMapping, Checks, Owners, Wanted};
use crate::conntrack::Statistics;
use crate::desired::ejected::MappingId;
use crate::desired::{Desired, Difference, Ejected};
use crate::error::NatError;
use crate::nftables::table::Count;
use crate::options::{AssignedAddress, Options};
use crate::report::{Health, MappingReport, Report};
use crate::rtnetlink::GROUPS;
use crate::watch::{self, Waker};
use state::State;

/// Kernel plane of one network namespace: that of the thread that starts it.
#[derive(Debug)]
pub struct Nat {
    state: Arc<Mutex<State>>,
    waker: Arc<Waker>,
    watcher: Option<JoinHandle<()>>,
    /// Thread of the checks, started with the first mapping that has a check.
    checks: Mutex<Option<Checks>>,
    owners: Mutex<Arc<Owners>>,
}

/// Counters for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Refused packets by reason: `denied`, `unmapped`, `spoofed`, `unenrolled`, `no_endpoint`, `lost`.
    pub refused: BTreeMap<String, Count>,
    /// Packets and bytes of both directions, by tenant.
    pub tenants: BTreeMap<TenantId, Count>,
    /// Statistics of connection tracking.
    pub conntrack: Statistics,
    /// Foreign changes that were undone.
    pub repairs: u64,
}

/// Presence of a model's parts in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// True if the kernel carries the mapping; in the model's order.
    pub mappings: Vec<bool>,
    /// True if the kernel carries the egress rule; in the model's order.
    pub egress: Vec<bool>,
    /// Endpoints of each mapping that its checks took out, in the model's order.
    pub out: Vec<BTreeSet<SocketAddr>>,
}

/// Use of an egress address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Tenant of the address.
    pub tenant: Option<TenantId>,
    /// Open connections from the address.
    pub connections: u64,
    /// Ports in use to one destination, the most of all; of [`PORT_BUDGET`].
    pub ports: u32,
}

/// Ports of one address towards one destination, of one protocol: 1024 and up.
pub const PORT_BUDGET: u32 = 64_512;

impl Nat {
    /// Opens the sockets, reads the state that an earlier process left, and begins to watch. Changes nothing yet.
    ///
    /// # Errors
    /// Fails without CAP_NET_ADMIN, or if the options contradict themselves or the host.
    pub fn start(options: Options) -> Result<Self, NatError> {
        let watched = watch::Watched::open(options.timeout, GROUPS)?;
        let waker = Arc::new(Waker::new()?);
        let state = Arc::new(Mutex::new(State::open(options)?));
        let watcher = watch::spawn(Arc::clone(&state), Arc::clone(&waker), watched)?;
        let (checks, owners) = (Mutex::default(), Mutex::default());
        Ok(Self { state, waker, watcher: Some(watcher), checks, owners })
    }

    /// Sets the tenants' addresses besides those of the model: from now on no check of another tenant's endpoint leaves from them.
    pub fn set_owners(&self, owners: Arc<Owners>) {
        *lock(&self.owners) = Arc::clone(&owners);
        if let Some(checks) = &*lock(&self.checks) {
            checks.set_owners(owners);
        }
    }

    /// Brings the kernel to this model in one transaction.
    ///
    /// # Errors
    /// Fails if the kernel refuses; its state is then as before.
    pub fn apply(&self, model: Arc<NatModel>) -> Result<Report, NatError> {
        let report = {
            let mut state = self.state();
            let report = state.apply(model);
            // Under the lock, so that of two applies the later one is followed last.
            report.and_then(|report| self.follow(&state, &report).map(|()| report))
        };
        self.waker.wake();
        report
    }

    /// Starts checking the endpoints that the kernel carries now.
    fn follow(&self, state: &State, report: &Report) -> Result<(), NatError> {
        let Some(model) = &state.model else { return Ok(()) };
        let mut checks = lock(&self.checks);
        if checks.is_none() && model.mappings.iter().all(|one| one.health_check.is_none()) {
            return Ok(());
        }
        if checks.is_none() {
            let of_thread = Arc::clone(&self.state);
            let eject = move |ejected: &Ejected| lock(&of_thread).eject(ejected);
            let started = Checks::start(state.options.clone(), eject)?;
            started.set_owners(Arc::clone(&lock(&self.owners)));
            *checks = Some(started);
        }
        let rejected = report.mappings.iter().filter(|one| one.rejected.is_some());
        let id = |one: &MappingReport| MappingId {
            tenant: one.tenant.clone(),
            name: Arc::clone(&one.name),
        };
        if let Some(checks) = &*checks {
            checks.follow(Wanted {
                model: Arc::clone(model),
                rejected: rejected.map(id).collect(),
                ejected: state.ejected.clone(),
            });
        }
        Ok(())
    }

    /// Returns every mapping with checks, its endpoints, and the reason for each that is out.
    #[must_use]
    pub fn checked(&self) -> Vec<CheckedMapping> {
        lock(&self.checks).as_ref().map(Checks::checked).unwrap_or_default()
    }

    /// Returns the ejections since the start, by tenant.
    #[must_use]
    pub fn ejections(&self) -> BTreeMap<TenantId, u64> {
        lock(&self.checks).as_ref().map(Checks::ejections).unwrap_or_default()
    }

    /// Assigns these addresses to this host, removes all others of Durward's, renews those with a lifetime, and announces the new ones.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn assign(&self, addresses: BTreeMap<IpAddr, AssignedAddress>) -> Result<(), NatError> {
        let result = self.state().assign(addresses);
        self.waker.wake();
        result
    }

    /// Computes the changes of a model, without making them.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn preview(&self, model: &NatModel) -> Result<(Desired, Difference), NatError> {
        self.state().preview(model)
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn counters(&self) -> Result<Counters, NatError> {
        self.state().counters()
    }

    /// Reads the number of connections begun at each mapping of `model`, in its order, since its ports were last changed.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn begun(&self, model: &NatModel) -> Result<Vec<u64>, NatError> {
        self.state().begun(model)
    }

    /// Reads the current use of each egress address.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn leaving(&self) -> Result<BTreeMap<IpAddr, Leaving>, NatError> {
        self.state().leaving()
    }

    /// Checks for each mapping and egress rule of `model` that the kernel carries it now: all ports of a mapping, all sources of a rule.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn carried(&self, model: &NatModel) -> Result<Carried, NatError> {
        self.state().carried(model)
    }

    /// Returns the result of the last comparison with the kernel, those of the watching thread included: an address that came or went since the last
    /// [`apply`](Self::apply) is in it.
    #[must_use]
    pub fn health(&self) -> Health {
        self.state().health.clone()
    }

    /// Returns true if the kernel keeps other programs from changing the table.
    #[must_use]
    pub fn owns_table(&self) -> bool {
        self.state().owns_table()
    }

    /// Ends the watch and removes everything: table, routes, rules, addresses, connections; restores kernel parameters.
    ///
    /// # Errors
    /// Fails if the kernel refuses; the call can be repeated.
    pub fn cleanup(mut self) -> Result<(), NatError> {
        self.stop();
        self.state().cleanup()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe: every step begins by reading the kernel, so a panic leaves no half-known state.
        lock(&self.state)
    }

    fn stop(&mut self) {
        // Stops the checks first, because they change the kernel.
        *lock(&self.checks) = None;
        self.waker.stop();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Nat {
    /// Ends the watch. The kernel keeps forwarding.
    fn drop(&mut self) {
        self.stop();
    }
}
