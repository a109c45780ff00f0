//! Makes the kernel as the model says and keeps it so, also against others; when it ends, the kernel goes on alone.
//!
//! Every step leads from what is to what should be; nothing depends on what this process did before. Deliberately
//! absent: deciding who owns an address.

mod apply;
mod look;
mod patch;
mod reconcile;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use durward_model::TenantId;
use durward_model::mapping::NatModel;
use rustix::io::Errno;
use thiserror::Error;

use crate::checks::{CheckedMapping, Checks, Owners, Wanted};
use crate::conntrack::Statistics;
use crate::desired::ejected::MappingId;
use crate::desired::{Desired, Difference, Ejected};
use crate::nftables::TableError;
use crate::nftables::table::Count;
use crate::options::{AssignedAddress, Options};
use crate::report::{Health, MappingReport, Report};
use crate::rtnetlink::GROUPS;
use crate::watch::{self, Waker};
use state::State;

/// The kernel plane of one network namespace: that of the thread that starts it.
#[derive(Debug)]
pub struct Nat {
    state: Arc<Mutex<State>>,
    waker: Arc<Waker>,
    watcher: Option<JoinHandle<()>>,
    /// Starts with the first mapping that has a check.
    checks: Mutex<Option<Checks>>,
    owners: Mutex<Arc<Owners>>,
}

/// Why the kernel is not as it should be.
#[derive(Debug, Error)]
pub enum NatError {
    /// The packet filter refused.
    #[error("the packet filter cannot be changed")]
    Table(#[from] TableError),
    /// Routing or connection tracking refused.
    #[error("{what} cannot be read or changed")]
    Kernel {
        /// What.
        what: &'static str,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
    /// A socket could not be opened.
    #[error("no socket for {what}")]
    Socket {
        /// For what.
        what: &'static str,
        /// The reason.
        #[source]
        error: io::Error,
    },
    /// The options contradict themselves or the host.
    #[error("{problem}")]
    Options {
        /// How.
        problem: String,
    },
}

/// What is counted, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Why packets were refused: `denied`, `unmapped`, `spoofed`, `unenrolled`, `no_endpoint`, `lost`.
    pub refused: BTreeMap<String, Count>,
    /// Both directions together, by tenant.
    pub tenants: BTreeMap<TenantId, Count>,
    /// What connection tracking counts.
    pub conntrack: Statistics,
    /// How often foreign changes were undone.
    pub repairs: u64,
}

/// Presence in the kernel of what a model asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// One per mapping, in the model's order.
    pub mappings: Vec<bool>,
    /// One per egress rule, in the model's order.
    pub egress: Vec<bool>,
    /// Endpoints of each mapping that its checks took out, in the model's order.
    pub out: Vec<BTreeSet<SocketAddr>>,
}

/// What leaves from an egress address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Whose it is.
    pub tenant: Option<TenantId>,
    /// Connections.
    pub connections: u64,
    /// Ports in use to one destination, the most of all; of [`PORT_BUDGET`].
    pub ports: u32,
}

/// Ports of one address there are towards one destination, of one protocol: 1024 and up.
pub const PORT_BUDGET: u32 = 64_512;

impl Nat {
    /// Opens the sockets, reads what an earlier process left, and begins to watch. Changes nothing yet.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or when the options cannot be meant.
    pub fn start(options: Options) -> Result<Self, NatError> {
        let watched = watch::Watched::open(options.timeout, GROUPS)?;
        let waker = Arc::new(Waker::new()?);
        let state = Arc::new(Mutex::new(State::open(options)?));
        let watcher = watch::spawn(Arc::clone(&state), Arc::clone(&waker), watched)?;
        let (checks, owners) = (Mutex::default(), Mutex::default());
        Ok(Self { state, waker, watcher: Some(watcher), checks, owners })
    }

    /// Says which addresses are which tenants' beside those of the model: from now on no check of another tenant's endpoint leaves from them.
    pub fn set_owners(&self, owners: Arc<Owners>) {
        *lock(&self.owners) = Arc::clone(&owners);
        if let Some(checks) = &*lock(&self.checks) {
            checks.set_owners(owners);
        }
    }

    /// Makes the kernel as this model says, in one transaction.
    ///
    /// # Errors
    /// When the kernel refuses; it is then as before.
    pub fn apply(&self, model: Arc<NatModel>) -> Result<Report, NatError> {
        let report = {
            let mut state = self.state();
            let report = state.apply(model);
            // Within the lock, so that of two applies the later one is followed last.
            report.and_then(|report| self.follow(&state, &report).map(|()| report))
        };
        self.waker.wake();
        report
    }

    /// Has the endpoints checked of what the kernel carries now.
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

    /// Returns every mapping with checks, its endpoints, and which of them are out and why.
    #[must_use]
    pub fn checked(&self) -> Vec<CheckedMapping> {
        lock(&self.checks).as_ref().map(Checks::checked).unwrap_or_default()
    }

    /// Returns how often checks took an endpoint out, by tenant, since the start.
    #[must_use]
    pub fn ejections(&self) -> BTreeMap<TenantId, u64> {
        lock(&self.checks).as_ref().map(Checks::ejections).unwrap_or_default()
    }

    /// Gives this host these addresses and no others of Durward's, renews those with a time, and announces the new ones.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn assign(&self, addresses: BTreeMap<IpAddr, AssignedAddress>) -> Result<(), NatError> {
        let result = self.state().assign(addresses);
        self.waker.wake();
        result
    }

    /// What a model would change, without changing it.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn preview(&self, model: &NatModel) -> Result<(Desired, Difference), NatError> {
        self.state().preview(model)
    }

    /// What is counted.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn counters(&self) -> Result<Counters, NatError> {
        self.state().counters()
    }

    /// How many connections began at each mapping of `model`, in its order, since its ports were last changed.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn begun(&self, model: &NatModel) -> Result<Vec<u64>, NatError> {
        self.state().begun(model)
    }

    /// What leaves from each egress address now.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn leaving(&self) -> Result<BTreeMap<IpAddr, Leaving>, NatError> {
        self.state().leaving()
    }

    /// For each mapping and egress rule of `model` whether the kernel carries it now: all ports of a mapping, all sources of a rule.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn carried(&self, model: &NatModel) -> Result<Carried, NatError> {
        self.state().carried(model)
    }

    /// What the last comparison with the kernel found, those of the watching thread included: an address that came or went
    /// since the last [`apply`](Self::apply) is in it.
    #[must_use]
    pub fn health(&self) -> Health {
        self.state().health.clone()
    }

    /// Whether others are kept from changing the table.
    #[must_use]
    pub fn owns_table(&self) -> bool {
        self.state().owns_table()
    }

    /// Ends the watch and takes everything away: table, routes, rules, addresses, connections; kernel parameters are
    /// as they were before.
    ///
    /// # Errors
    /// When the kernel refuses; it can be tried again.
    pub fn cleanup(mut self) -> Result<(), NatError> {
        self.stop();
        self.state().cleanup()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every step begins by reading, so a step that panicked leaves nothing half-known.
        lock(&self.state)
    }

    fn stop(&mut self) {
        // Checks first: they change the kernel.
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
