//! Steering on a node that is not the gateway: packets of tenants' pods to the world go to the gateway, with the pod's address kept.
//!
//! Both ends are here, joined by a VXLAN link, and the kernel goes on when this process ends. The egress address is the gateway's choice. There is
//! one gateway, and nothing checks that it is alive: a pod whose gateway is gone reaches no destination, and never leaves with the node's address.

mod desired;
mod ruleset;
mod state;
mod strays;
pub mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::NatError;
use crate::nftables::table::Count;
use crate::rtnetlink::{GROUPS, NEIGHBOURS, STEERED};
use crate::watch::{self, Waker};
pub use desired::{Desired, Host, desired};
use state::State;
pub use state::cleanup;

/// Names of counters.
pub mod counter {
    /// Packets that would have left the node by another way than the gateway.
    pub const NO_GATEWAY: &str = "no_gateway";
    /// Packets that would have gone to the gateway with another address than a pod's.
    pub const FOREIGN_SOURCE: &str = "foreign_source";
    /// Tunnel packets from a sender that is no end of the tunnel.
    pub const STRANGER: &str = "stranger";
    /// Packets out of the tunnel with an address that is no pod's.
    pub const SPOOFED: &str = "spoofed";
}

/// Options of steering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the nftables table, of family `inet`.
    pub table: String,
    /// True to keep other programs from changing the table, where the kernel supports that.
    pub own_table: bool,
    /// Name of the tunnel's link.
    pub link: String,
    /// VXLAN network identifier, 24 bits; the same at both ends.
    pub vni: u32,
    /// UDP port of the tunnel; the same at both ends.
    pub port: u16,
    /// Underlay address of this end; the source address towards the other end if not set.
    pub local: Option<Ipv4Addr>,
    /// MTU of the tunnel; that of the underlay's interface less the overhead if not set.
    pub mtu: Option<u32>,
    /// Destinations that keep the node's own routes: pods, nodes, services.
    pub cluster: Vec<IpNet>,
    /// Bit of the packet mark for "to the gateway"; only this bit and the next are ever touched.
    pub mark: u32,
    /// Bit of the packet mark for "by the node's own routes": without it or the other, packets of an enrolled network to the world are prohibited.
    pub pass_mark: u32,
    /// Routing table that leads to the gateway.
    pub routing_table: u32,
    /// Priority of the first of five groups of routing rules.
    pub rule_priority: u32,
    /// Protocol number that labels routes and rules.
    pub protocol: u8,
    /// Quiet time after which a burst of changes is handled.
    pub debounce: Duration,
    /// Interval at which the kernel is compared although nothing happened.
    pub audit: Duration,
    /// Timeout of the kernel's answers.
    pub timeout: Duration,
}

/// Side of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// Node with pods.
    Node {
        /// Underlay address of the gateway.
        gateway: Ipv4Addr,
        /// Networks of tenants' pods.
        networks: Vec<IpNet>,
    },
    /// Gateway.
    Gateway {
        /// Networks of pods by the underlay address of their node.
        nodes: BTreeMap<Ipv4Addr, Vec<IpNet>>,
    },
}

/// One side of the tunnel, in the network namespace of the thread that starts it.
#[derive(Debug)]
pub struct Steer {
    state: Arc<Mutex<State>>,
    waker: Arc<Waker>,
    watcher: Option<JoinHandle<()>>,
}

/// Number of groups of routing rules.
pub const RULE_GROUPS: u32 = 5;

impl Default for Options {
    fn default() -> Self {
        Self {
            table: table_beside("durward"),
            own_table: true,
            link: "durward0".to_owned(),
            vni: 157,
            port: 4789,
            local: None,
            mtu: None,
            cluster: Vec::new(),
            mark: 0x20,
            pass_mark: 0x40,
            routing_table: 10099,
            rule_priority: 994,
            protocol: STEERED,
            debounce: Duration::from_millis(50),
            audit: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Returns the name of the table, beside the gateway plane's.
#[must_use]
pub fn table_beside(table: &str) -> String {
    format!("{table}-steer")
}

impl Side {
    /// Returns the underlay addresses of the other ends.
    fn ends(&self) -> Vec<Ipv4Addr> {
        match self {
            Self::Node { gateway, .. } => vec![*gateway],
            Self::Gateway { nodes } => nodes.keys().copied().collect(),
        }
    }
}

impl Steer {
    /// Opens the sockets and begins to watch. Changes nothing yet.
    ///
    /// # Errors
    /// Fails without CAP_NET_ADMIN.
    pub fn start(options: Options) -> Result<Self, NatError> {
        let watched = watch::Watched::open(options.timeout, GROUPS | NEIGHBOURS)?;
        let waker = Arc::new(Waker::new()?);
        let state = Arc::new(Mutex::new(State::open(options)?));
        let watcher = watch::spawn(Arc::clone(&state), Arc::clone(&waker), watched)?;
        Ok(Self { state, waker, watcher: Some(watcher) })
    }

    /// Brings the kernel to this state, refusals first. Retried without a call when something about the host changes.
    ///
    /// # Errors
    /// Fails if the kernel refuses, or no route leads to the other end; what is not steered is then refused.
    pub fn apply(&self, side: Side) -> Result<Vec<String>, NatError> {
        self.state().apply(side)
    }

    /// Formats the changes of a side, one line each, without making them.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn preview(&self, side: &Side) -> Result<String, NatError> {
        self.state().preview(side)
    }

    /// Reads the networks that the kernel steers now, whichever process set that up.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn enrolled(&self) -> Result<BTreeSet<IpNet>, NatError> {
        self.state().enrolled()
    }

    /// Reads refused packets by reason, see [`counter`].
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<String, Count>, NatError> {
        self.state().counters()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe: every step begins by reading the kernel, so a panic leaves no half-known state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Steer {
    /// Ends the watch. The kernel goes on.
    fn drop(&mut self) {
        self.waker.stop();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

/// Returns the source address of this host towards another.
fn address_towards(other: Ipv4Addr) -> Option<Ipv4Addr> {
    const DISCARD: u16 = 9;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((other, DISCARD)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(local) if !local.is_unspecified() => Some(local),
        _ => None,
    }
}
