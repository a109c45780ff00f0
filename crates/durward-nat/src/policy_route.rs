//! Routes and routing rules by which a connection's packets leave by the interface it came in by.
//!
//! Each external interface has a routing table; the packet mark or the source address leads to it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::interface::{External, Interfaces};
use crate::mark::{ANSWER_SLOT, OWN_SLOT};
use crate::options::Options;

/// Main routing table of the host.
pub(crate) const MAIN: u32 = 254;
/// Enrolled networks above which rules for whole networks of the cluster take their place: the kernel tests rules one by one.
const SOURCE_RULES: usize = 1024;
/// Metric after every other route of a table.
pub(crate) const LAST: u32 = 0xffff_0000;
/// Metric of an IPv6 route without one.
pub(crate) const USUAL_V6: u32 = 1024;

/// Routes and rules of policy routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Routes in Durward's own tables.
    pub routes: BTreeSet<Route>,
    /// Rules that lead to these tables.
    pub rules: BTreeSet<Rule>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Table of the route.
    pub table: u32,
    /// Destination network.
    pub destination: IpNet,
    /// Metric; lower ones come first.
    pub metric: u32,
    /// Next hop.
    pub hop: Hop,
}

/// Next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// Neighbours at an interface.
    Link {
        /// Index of the interface.
        interface: u32,
    },
    /// Router at an interface.
    Gateway {
        /// Address of the router.
        gateway: IpAddr,
        /// Index of the interface.
        interface: u32,
    },
    /// None: "host unreachable".
    Unreachable,
    /// Back to the rules, as if the table had no route.
    Throw,
    /// Local delivery to this host, as if it had the address.
    Local,
}

/// Routing rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Priority; lower ones come first.
    pub priority: u32,
    /// True for IPv4.
    pub ipv4: bool,
    /// Packets that the rule matches.
    pub selector: Selector,
    /// Action for these packets.
    pub action: Action,
}

/// Action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Look up a table.
    Lookup(u32),
    /// Continue at the rule of this priority.
    Goto(u32),
    /// Do nothing: the target of a `Goto`.
    Nothing,
    /// Refuse with "administratively prohibited".
    Prohibit,
}

/// Packets that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Packets to a network.
    To(IpNet),
    /// Packets from a network.
    From(IpNet),
    /// Packets of this host itself, and lookups for the way back to a source.
    Local,
    /// All packets.
    All,
    /// Packets with a mark.
    Mark {
        /// Bits of the mark.
        mark: u32,
        /// Mask of the bits compared.
        mask: u32,
    },
}

impl Routing {
    /// Computes the routes and rules for these interfaces, external addresses and enrolled networks.
    #[must_use]
    pub fn wanted(
        options: &Options,
        interfaces: &Interfaces,
        addresses: &BTreeSet<IpAddr>,
        enrolled: &[IpNet],
    ) -> Self {
        let mut wanted = Self::default();
        for external in interfaces.external.values() {
            wanted.routes.extend(routes(options, external));
            wanted.rules.extend(marks(options, external.slot));
            let own = external.addresses.iter().map(IpNet::addr);
            let routed = addresses.iter().copied();
            let routed = routed.filter(|ip| interfaces.slot_of(*ip) == Some(external.slot));
            let all = own.chain(routed).filter(|ip| !is_link_local(*ip)).map(IpNet::from);
            // The kernel tests rules one by one, so adjacent addresses share one, which covers no other address.
            let all = IpNet::aggregate(&all.collect::<Vec<_>>());
            wanted.rules.extend(all.into_iter().map(|block| Rule {
                priority: options.rule_priority + 2,
                ipv4: block.addr().is_ipv4(),
                selector: Selector::From(block),
                action: Action::Lookup(options.routing_table + u32::from(external.slot)),
            }));
        }
        wanted.rules.extend(unmarked(options, enrolled));
        if !wanted.rules.is_empty() {
            // Packets into the cluster take the host's own routes, whatever their source.
            wanted.rules.extend(options.cluster.iter().map(|net| Rule {
                priority: options.rule_priority,
                ipv4: net.addr().is_ipv4(),
                selector: Selector::To(net.trunc()),
                action: Action::Lookup(MAIN),
            }));
        }
        wanted
    }

    /// Adds routes and rules that keep packets for this host's forward proxy here, whatever their destination.
    #[must_use]
    pub fn with_own(mut self, options: &Options) -> Self {
        let table = options.routing_table + u32::from(OWN_SLOT);
        for destination in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
            let metric = usual(&destination);
            self.routes.insert(Route { table, destination, metric, hop: Hop::Local });
        }
        self.rules.extend(marks(options, OWN_SLOT));
        self
    }

    /// Returns true if there are routes for this host's forward proxy.
    #[must_use]
    pub fn has_own(&self) -> bool {
        self.routes.iter().any(|route| route.hop == Hop::Local)
    }

    /// Returns the routes and rules that `other` does not have.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self {
            routes: self.routes.difference(&other.routes).cloned().collect(),
            rules: self.rules.difference(&other.rules).cloned().collect(),
        }
    }

    /// Returns the rules in the order in which they are added: a target before the rules that continue there, and prohibitions after their
    /// exceptions.
    pub(crate) fn rules_to_add(&self) -> impl Iterator<Item = &Rule> {
        let passing = self.rules.iter().rev().filter(|rule| !rule.prohibits());
        passing.chain(self.prohibitions())
    }

    /// Returns the rules in the order in which they are removed: prohibitions before their exceptions.
    pub(crate) fn rules_to_remove(&self) -> impl Iterator<Item = &Rule> {
        self.prohibitions().chain(self.rules.iter().filter(|rule| !rule.prohibits()))
    }

    fn prohibitions(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.prohibits())
    }

    /// Returns the networks whose unmarked packets the rules prohibit.
    pub(crate) fn prohibited(&self) -> impl Iterator<Item = IpNet> {
        self.prohibitions().filter_map(|rule| match rule.selector {
            Selector::From(net) => Some(net),
            _ => None,
        })
    }

    /// Returns true if there are no routes and no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.rules.is_empty()
    }

    /// Formats one line per route and rule.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let routes = self.routes.iter().map(ToString::to_string);
        routes.chain(self.rules.iter().map(ToString::to_string)).collect()
    }
}

impl Rule {
    const fn prohibits(&self) -> bool {
        matches!(self.action, Action::Prohibit)
    }
}

/// Networks of one family whose packets must have a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prohibited {
    /// Networks with prohibitions.
    pub(crate) blocks: Vec<IpNet>,
    /// True if the cluster's networks replace the enrolled ones, which are too many for rules of their own.
    pub(crate) whole_cluster: bool,
}

impl Prohibited {
    /// Chooses the networks, so that each enrolled network of the family is covered.
    pub(crate) fn of(enrolled: &[IpNet], cluster: &[IpNet], ipv4: bool) -> Self {
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == ipv4;
        let enrolled: Vec<IpNet> = enrolled.iter().filter(of_family).copied().collect();
        let mut blocks = IpNet::aggregate(&enrolled);
        let whole_cluster = blocks.len() > SOURCE_RULES;
        if whole_cluster {
            blocks.extend(cluster.iter().filter(of_family));
            blocks = IpNet::aggregate(&blocks);
        }
        Self { blocks, whole_cluster }
    }

    /// Returns the prohibiting rules.
    pub(crate) fn rules(self, priority: u32, ipv4: bool) -> impl Iterator<Item = Rule> {
        let prohibit = move |net: IpNet| {
            let selector = Selector::From(net.trunc());
            Rule { priority, ipv4, selector, action: Action::Prohibit }
        };
        self.blocks.into_iter().map(prohibit)
    }
}

fn routes(options: &Options, external: &External) -> Vec<Route> {
    let table = options.routing_table + u32::from(external.slot);
    let interface = external.index;
    let any_v4 = IpNet::V4(Ipv4Net::default());
    let any_v6 = IpNet::V6(Ipv6Net::default());
    // A table without a gateway must not let packets fall through to the host's.
    let mut found: Vec<Route> = [any_v4, any_v6]
        .map(|destination| Route { table, destination, metric: LAST, hop: Hop::Unreachable })
        .into();
    if !external.up {
        return found;
    }
    for net in &external.addresses {
        if net.prefix_len() < net.max_prefix_len() && !is_link_local(net.addr()) {
            let hop = Hop::Link { interface };
            found.push(Route { table, destination: net.trunc(), metric: usual(net), hop });
        }
    }
    let gateways = [
        (any_v4, external.gateway_v4.map(IpAddr::V4)),
        (any_v6, external.gateway_v6.map(IpAddr::V6)),
    ];
    for (destination, gateway) in gateways {
        if let Some(gateway) = gateway {
            let hop = Hop::Gateway { gateway, interface };
            found.push(Route { table, destination, metric: usual(&destination), hop });
        }
    }
    found
}

/// Prohibits packets of enrolled networks without a mark: these rules stay when the nftables table is gone, flushed by others or with a process that
/// died. Packets of this host are exempt, as are answers to connections begun elsewhere, which have a mark of their own.
fn unmarked(options: &Options, enrolled: &[IpNet]) -> Vec<Rule> {
    let [pass, stop, end] = [3, 4, 5].map(|group| options.rule_priority + group);
    let mut rules = Vec::new();
    for ipv4 in [true, false] {
        let prohibited = Prohibited::of(enrolled, &options.cluster, ipv4);
        if prohibited.blocks.is_empty() {
            continue;
        }
        let rule = |priority, selector, action| Rule { priority, ipv4, selector, action };
        let mark = options.packet_mark(ANSWER_SLOT);
        let answers = Selector::Mark { mark, mask: options.mark_mask };
        rules.push(rule(pass, Selector::Local, Action::Goto(end)));
        rules.push(rule(pass, answers, Action::Goto(end)));
        rules.extend(prohibited.rules(stop, ipv4));
        rules.push(rule(end, Selector::All, Action::Nothing));
    }
    rules
}

/// Returns the metric of a route without one.
pub(crate) fn usual(net: &IpNet) -> u32 {
    if net.addr().is_ipv4() { 0 } else { USUAL_V6 }
}

fn marks(options: &Options, slot: u8) -> [Rule; 2] {
    [true, false].map(|ipv4| Rule {
        priority: options.rule_priority + 1,
        ipv4,
        selector: Selector::Mark { mark: options.packet_mark(slot), mask: options.mark_mask },
        action: Action::Lookup(options.routing_table + u32::from(slot)),
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Returns the address of routes without a destination.
pub(crate) const fn any(ipv4: bool) -> IpAddr {
    if ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, destination, metric, hop } = self;
        write!(f, "route {destination} ")?;
        match hop {
            Hop::Link { interface } => write!(f, "dev #{interface}")?,
            Hop::Gateway { gateway, interface } => write!(f, "via {gateway} dev #{interface}")?,
            Hop::Unreachable => f.write_str("unreachable")?,
            Hop::Throw => f.write_str("throw")?,
            Hop::Local => f.write_str("local dev lo")?,
        }
        write!(f, " table {table} metric {metric}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} ", self.priority)?;
        match &self.selector {
            Selector::To(net) => write!(f, "to {net}")?,
            Selector::From(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "from {}", net.addr())?
            }
            Selector::From(net) => write!(f, "from {net}")?,
            Selector::Mark { mark, mask } => write!(f, "fwmark {mark:#x}/{mask:#x}")?,
            Selector::Local => write!(f, "iif lo")?,
            Selector::All => write!(f, "from all")?,
        }
        match self.action {
            Action::Lookup(table) => write!(f, " lookup {table}")?,
            Action::Goto(priority) => write!(f, " goto {priority}")?,
            Action::Nothing => f.write_str(" nop")?,
            Action::Prohibit => f.write_str(" prohibit")?,
        }
        write!(f, " {}", if self.ipv4 { "ipv4" } else { "ipv6" })
    }
}
