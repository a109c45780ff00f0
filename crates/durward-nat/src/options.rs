//! Options of a host's kernel plane: names, numbers, interfaces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

/// Options of the kernel plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the nftables table, of family `inet`.
    pub table: String,
    /// True to keep other programs from changing the table, where the kernel supports that.
    pub own_table: bool,
    /// Names of external interfaces: a regular expression that must match the whole name.
    pub external: String,
    /// Names of interfaces that are not external even if the expression matches, such as the default gateway's.
    pub not_external: Vec<String>,
    /// Source of an external interface's gateway.
    pub gateway: GatewayRule,
    /// Networks of pods and nodes; traffic to them is never egress, and none arrives from outside with their addresses.
    pub cluster: Vec<IpNet>,
    /// Address of the gateway towards the cluster, which endpoints see in mode `Snat`; that of the interface if not set. If it is set, connections
    /// survive a take-over by another gateway that takes it too.
    pub cluster_address_v4: Option<Ipv4Addr>,
    /// IPv6 address of the gateway towards the cluster, likewise.
    pub cluster_address_v6: Option<Ipv6Addr>,
    /// Services of this host that are admitted from outside, besides the listeners in the model. `0.0.0.0` stands for all IPv4 addresses of external
    /// interfaces, `::` for all.
    pub local: Vec<LocalService>,
    /// Bits of the packet mark that Durward uses: eight adjoining ones. It never touches the others.
    pub mark_mask: u32,
    /// Routing table of slot 0; slot 1 has the next.
    pub routing_table: u32,
    /// Priority of the first of six groups of routing rules.
    pub rule_priority: u32,
    /// Protocol number (`rtm_protocol`) that labels Durward's routes, rules and addresses.
    pub protocol: u8,
    /// Seed of hashes: gateways with equal seeds choose equal endpoints.
    pub seed: u32,
    /// Addresses to assign to interfaces, and to announce.
    pub addresses: BTreeMap<IpAddr, AssignedAddress>,
    /// True to set kernel parameters; otherwise they are only checked.
    pub set_sysctls: bool,
    /// True if the kernel can hand connections to this host's forward proxy; an engine probes for it.
    pub hand_over: bool,
    /// Quiet time after which a burst of changes is handled.
    pub debounce: Duration,
    /// Interval at which the kernel is compared although nothing happened.
    pub audit: Duration,
    /// Timeout of the kernel's answers.
    pub timeout: Duration,
}

/// Service of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalService {
    /// Address of the service.
    pub address: IpAddr,
    /// Transport protocol.
    pub protocol: durward_model::transport::Transport,
    /// Port of the service.
    pub port: u16,
}

/// Address to assign to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedAddress {
    /// Name of the interface.
    pub interface: String,
    /// Prefix length.
    pub prefix_len: u8,
    /// Valid lifetime, after which the kernel removes the address unless it is renewed; `None` for ever.
    pub valid: Option<Duration>,
}

/// Source of a gateway's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayRule {
    /// Offset from the first address of the interface's first network, or from its last if negative.
    Offset(i32),
    /// Gateway of the host's own default route by that interface.
    Learned,
    /// Configured gateways by interface; an interface that is not listed has none.
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
    /// Returns the packet mark of a slot.
    #[must_use]
    pub const fn packet_mark(&self, slot: u8) -> u32 {
        (slot as u32) << self.mark_mask.trailing_zeros()
    }
}
