//! What a host decides for its kernel plane: names, numbers, interfaces.
//!
//! Deliberately absent: tenants and their mappings; those are the model.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

/// What a host decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name of the packet filter's table, of family `inet`.
    pub table: String,
    /// Whether others are kept from changing the table, where the kernel can do that.
    pub own_table: bool,
    /// Names of external interfaces: a regular expression that must match the whole name.
    pub external: String,
    /// Names that are not external whatever the expression says, such as the default gateway's interface.
    pub not_external: Vec<String>,
    /// Where an external interface's gateway is.
    pub gateway: GatewayRule,
    /// Where pods and nodes are; traffic to there is never egress, and never comes from outside.
    pub cluster: Vec<IpNet>,
    /// The gateway's own address towards the cluster, which endpoints see in mode `Snat`; that of the interface when it
    /// is not given. With an address connections survive a take-over by another gateway that takes it too.
    pub cluster_address_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub cluster_address_v6: Option<Ipv6Addr>,
    /// Services of this host that are let in from outside, beside the listeners in the model. `0.0.0.0` stands for
    /// all IPv4 addresses of external interfaces, `::` for all.
    pub local: Vec<LocalService>,
    /// The bits of the packet mark that are Durward's: eight adjoining ones. Others are never touched.
    pub mark_mask: u32,
    /// The routing table of slot 0; slot 1 has the next.
    pub routing_table: u32,
    /// The priority of the first of six groups of routing rules.
    pub rule_priority: u32,
    /// What routes, rules and addresses of Durward are labelled with.
    pub protocol: u8,
    /// Two gateways place connections alike when their seeds are alike.
    pub seed: u32,
    /// Addresses to put on interfaces, and to announce.
    pub addresses: BTreeMap<IpAddr, AssignedAddress>,
    /// Whether kernel parameters are set; otherwise they are only checked.
    pub set_sysctls: bool,
    /// Whether the kernel can hand connections to this host's forward proxy; an engine finds out by itself.
    pub hand_over: bool,
    /// How long a burst of changes is waited out.
    pub debounce: Duration,
    /// How often the kernel is compared although nothing happened.
    pub audit: Duration,
    /// How long the kernel may take for an answer.
    pub timeout: Duration,
}

/// A service of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalService {
    /// Its address.
    pub address: IpAddr,
    /// Its protocol.
    pub protocol: durward_model::mapping::Transport,
    /// Its port.
    pub port: u16,
}

/// An address this host is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedAddress {
    /// The interface.
    pub interface: String,
    /// The prefix length.
    pub prefix_len: u8,
    /// After how long without renewal the kernel takes it away; `None` for never.
    pub valid: Option<Duration>,
}

/// Where a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayRule {
    /// So many addresses from the beginning of the interface's first network, or from its end when negative.
    Offset(i32),
    /// Where the host's own default route by that interface leads.
    Learned,
    /// As written, by interface; an interface that is not written has none.
    Configured(BTreeMap<String, Vec<IpAddr>>),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            table: "durward".to_owned(),
            own_table: true,
            external: String::new(),
            not_external: Vec::new(),
            gateway: GatewayRule::Learned,
            cluster: Vec::new(),
            cluster_address_v4: None,
            cluster_address_v6: None,
            local: Vec::new(),
            mark_mask: 0xff00,
            routing_table: 10100,
            rule_priority: 999,
            protocol: 157,
            seed: 0x6475_7277,
            addresses: BTreeMap::new(),
            set_sysctls: true,
            hand_over: true,
            debounce: Duration::from_millis(50),
            audit: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// The packet mark of a slot.
    #[must_use]
    pub const fn packet_mark(&self, slot: u8) -> u32 {
        (slot as u32) << self.mark_mask.trailing_zeros()
    }
}
