//! Makes the kernel as the model says and keeps it so, also against others; when it ends, the kernel goes on alone.
//!
//! Every step leads from what is to what should be; nothing depends on what this process did before. Deliberately
//! absent: deciding who owns an address.

mod look;
mod patch;
mod reconcile;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use durward_model::TenantId;
use durward_model::mapping::NatModel;
use rustix::io::Errno;
use thiserror::Error;

use crate::conntrack::Statistics;
use crate::desired::{Desired, Difference};
use crate::nftables::TableError;
use crate::nftables::table::Count;
use crate::options::{AssignedAddress, Options};
use crate::report::{Health, Report};
use crate::rtnetlink::GROUPS;
use crate::watch::{self, Waker};
use state::State;

/// The kernel plane of one network namespace: that of the thread that starts it.
#[derive(Debug)]
pub struct Nat {
    state: Arc<Mutex<State>>,
    waker: Arc<Waker>,
    watcher: Option<JoinHandle<()>>,
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
        Ok(Self { state, waker, watcher: Some(watcher) })
    }

    /// Makes the kernel as this model says, in one transaction.
    ///
    /// # Errors
    /// When the kernel refuses; it is then as before.
    pub fn apply(&self, model: Arc<NatModel>) -> Result<Report, NatError> {
        let report = self.state().apply(model);
        self.waker.wake();
        report
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&mut self) {
        self.waker.stop();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

impl Drop for Nat {
    /// Ends the watch. The kernel keeps forwarding.
    fn drop(&mut self) {
        self.stop();
    }
}
