//! On a node that is not the gateway: what pods of tenants send to the world goes to the gateway, with the pod's address kept.
//!
//! Both ends are here, a VXLAN link joins them, and the kernel goes on when this process ends. Deliberately absent: the choice of an
//! egress address, which is the gateway's; several gateways; knowing whether the gateway is alive. A pod whose gateway is gone
//! reaches nobody, and never leaves with the node's address.

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

use crate::engine::NatError;
use crate::nftables::table::Count;
use crate::rtnetlink::{GROUPS, NEIGHBOURS};
use crate::watch::{self, Waker};
pub use desired::{Desired, Host, desired};
use state::State;
pub use state::cleanup;

/// The names of counters.
pub mod counter {
    /// It would have left the node by another way than the gateway.
    pub const NO_GATEWAY: &str = "no_gateway";
    /// It would have gone to the gateway with another address than a pod's.
    pub const FOREIGN_SOURCE: &str = "foreign_source";
    /// A tunnel's packet from somebody who is no end of it.
    pub const STRANGER: &str = "stranger";
    /// It came out of the tunnel with an address that is no pod's.
    pub const SPOOFED: &str = "spoofed";
}

/// What a host decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name of the packet filter's table, of family `inet`.
    pub table: String,
    /// Whether others are kept from changing the table, where the kernel can do that.
    pub own_table: bool,
    /// The name of the tunnel's link.
    pub link: String,
    /// The tunnel's number, 24 bits; the same at both ends.
    pub vni: u32,
    /// The tunnel's UDP port; the same at both ends.
    pub port: u16,
    /// This end's underlay address; that which leads to the other end when it is not given.
    pub local: Option<Ipv4Addr>,
    /// The largest packet in the tunnel; what the underlay's interface leaves of its own when it is not given.
    pub mtu: Option<u32>,
    /// What stays on the node's own ways: pods, nodes, services.
    pub cluster: Vec<IpNet>,
    /// The bit of the packet mark that says "to the gateway"; bits but this and the next are never touched.
    pub mark: u32,
    /// The bit of the packet mark that says "by the node's own ways": without it or the other, what an enrolled network sends to the
    /// world is prohibited.
    pub pass_mark: u32,
    /// The routing table that leads to the gateway.
    pub routing_table: u32,
    /// The priority of the first of five groups of routing rules.
    pub rule_priority: u32,
    /// What routes and rules are labelled with.
    pub protocol: u8,
    /// How long a burst of changes is waited out.
    pub debounce: Duration,
    /// How often the kernel is compared although nothing happened.
    pub audit: Duration,
    /// How long the kernel may take for an answer.
    pub timeout: Duration,
}

/// A side of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// A node with pods.
    Node {
        /// The gateway's underlay address.
        gateway: Ipv4Addr,
        /// Where pods of tenants are.
        networks: Vec<IpNet>,
    },
    /// The gateway.
    Gateway {
        /// The pods' networks by the underlay address of their node.
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

/// The number of groups of routing rules.
pub const RULE_GROUPS: u32 = 5;

/// The routes' and rules' label, another than the gateway plane's, which takes away those of its own that it does not know.
pub const PROTOCOL: u8 = 158;

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
            protocol: PROTOCOL,
            debounce: Duration::from_millis(50),
            audit: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
        }
    }
}

/// The name of the table beside the gateway plane's.
#[must_use]
pub fn table_beside(table: &str) -> String {
    format!("{table}-steer")
}

impl Side {
    /// The underlay addresses of the other ends.
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
    /// Without CAP_NET_ADMIN.
    pub fn start(options: Options) -> Result<Self, NatError> {
        let watched = watch::Watched::open(options.timeout, GROUPS | NEIGHBOURS)?;
        let waker = Arc::new(Waker::new()?);
        let state = Arc::new(Mutex::new(State::open(options)?));
        let watcher = watch::spawn(Arc::clone(&state), Arc::clone(&waker), watched)?;
        Ok(Self { state, waker, watcher: Some(watcher) })
    }

    /// Makes the kernel so, the refusals first. It is tried again by itself when something about the host changes.
    ///
    /// # Errors
    /// When the kernel refuses, or there is no way to the other end; what is not steered is then refused.
    pub fn apply(&self, side: Side) -> Result<Vec<String>, NatError> {
        self.state().apply(side)
    }

    /// What a side would change, one line each, without changing it.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn preview(&self, side: &Side) -> Result<String, NatError> {
        self.state().preview(side)
    }

    /// The networks the kernel steers now, whoever told it.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn enrolled(&self) -> Result<BTreeSet<IpNet>, NatError> {
        self.state().enrolled()
    }

    /// Packets by why they were refused, see [`counter`].
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<String, Count>, NatError> {
        self.state().counters()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every step begins by reading, so a step that panicked leaves nothing half-known.
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

/// The address this host uses towards another.
fn address_towards(other: Ipv4Addr) -> Option<Ipv4Addr> {
    const DISCARD: u16 = 9;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((other, DISCARD)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(local) if !local.is_unspecified() => Some(local),
        _ => None,
    }
}
