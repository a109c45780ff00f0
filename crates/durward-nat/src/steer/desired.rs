//! Computes the kernel state of a side of the tunnel: a pure function of options, side and host.
//!
//! Without a link, or without a route to the other end, the remaining rules refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::tunnel::{Entry, Tunnel, entries, next_hop};
use super::{Options, Side, ruleset};
use crate::nftables::Ruleset;
use crate::policy_route::{
    Action, Hop, LAST, MAIN, Prohibited, Route, Routing, Rule, Selector, usual,
};
use crate::sysctl::Sysctl;

/// Metric of routes to pods, after those of a network plugin.
const BEHIND: u32 = 4242;

/// State of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Underlay address of this end, and the MTU of its interface; `None` if there is no such address.
    pub underlay: Option<(Ipv4Addr, u32)>,
    /// Index of the tunnel's link; `None` before it is created.
    pub link: Option<u32>,
}

/// Kernel state of a side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// nftables table.
    pub ruleset: Ruleset,
    /// VXLAN link, if there is an underlay.
    pub tunnel: Option<Tunnel>,
    /// Static entries of the link.
    pub entries: BTreeSet<Entry>,
    /// Routes and rules.
    pub routing: Routing,
    /// Kernel parameters.
    pub sysctls: BTreeMap<Sysctl, u32>,
}

/// Computes the kernel state that `side` asks for on such a host.
#[must_use]
pub fn desired(options: &Options, side: &Side, host: Host) -> Desired {
    let tunnel = host.underlay.map(|(local, mtu)| Tunnel {
        name: options.link.clone(),
        vni: options.vni,
        port: options.port,
        local,
        mtu: options.mtu.unwrap_or_else(|| mtu.saturating_sub(Tunnel::OVERHEAD)),
    });
    match side {
        Side::Node { gateway, networks } => Desired {
            ruleset: ruleset::node(options, networks, *gateway),
            tunnel,
            entries: entries([*gateway]),
            routing: to_gateway(options, *gateway, networks, host.link),
            sysctls: parameters(networks),
        },
        Side::Gateway { nodes } => {
            let ends: Vec<Ipv4Addr> = nodes.keys().copied().collect();
            let pods: Vec<IpNet> = nodes.values().flatten().copied().collect();
            let routes = host
                .link
                .iter()
                .flat_map(|link| nodes.iter().flat_map(|(node, pods)| to_pods(*node, pods, *link)));
            Desired {
                ruleset: ruleset::gateway(options, &ends, &pods),
                tunnel,
                entries: entries(ends),
                routing: Routing { routes: routes.collect(), rules: BTreeSet::new() },
                sysctls: BTreeMap::new(),
            }
        }
    }
}

fn to_gateway(
    options: &Options,
    gateway: Ipv4Addr,
    networks: &[IpNet],
    link: Option<u32>,
) -> Routing {
    let table = options.routing_table;
    let mut routing = Routing::default();
    for ipv4 in [true, false] {
        if !networks.iter().any(|net| net.addr().is_ipv4() == ipv4) {
            continue;
        }
        let destination =
            if ipv4 { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
        let route = |destination, metric, hop| Route { table, destination, metric, hop };
        if let Some(interface) = link {
            let hop = Hop::Gateway { gateway: next_hop(gateway, ipv4), interface };
            routing.routes.insert(route(destination, usual(&destination), hop));
        }
        // Without the link no packet may fall through to the host's own routes.
        routing.routes.insert(route(destination, LAST, Hop::Unreachable));
        if ipv4 {
            // The tunnel's own packets keep the mark, and would otherwise be routed into the tunnel again.
            let end = IpNet::from(std::net::IpAddr::V4(gateway));
            routing.routes.insert(route(end, 0, Hop::Throw));
        }
        routing.rules.extend(rules(options, networks, ipv4));
    }
    routing
}

/// Returns the rules of one family. They outlive the nftables table, so packets of an enrolled network to the world go to the gateway with one mark,
/// by the node's own routes with the other, or nowhere.
fn rules(options: &Options, networks: &[IpNet], ipv4: bool) -> Vec<Rule> {
    let [near, gateway, pass, stop, end] =
        [0, 1, 2, 3, 4].map(|group| options.rule_priority + group);
    let rule = |priority, selector, action| Rule { priority, ipv4, selector, action };
    let marked = |mark| Selector::Mark { mark, mask: mark };
    let cluster = options.cluster.iter().filter(|net| net.addr().is_ipv4() == ipv4);
    // Before the gateway plane's rules: `rp_filter` looks up the way back to a pod with the mark of the packet that it sent.
    let mut rules: Vec<Rule> =
        cluster.map(|net| rule(near, Selector::To(net.trunc()), Action::Goto(end))).collect();
    rules.extend([
        rule(gateway, marked(options.mark), Action::Lookup(options.routing_table)),
        rule(pass, Selector::Local, Action::Goto(end)),
        rule(pass, marked(options.pass_mark), Action::Goto(end)),
        rule(end, Selector::All, Action::Nothing),
    ]);
    rules.extend(Prohibited::of(networks, &options.cluster, ipv4).rules(stop, ipv4));
    rules
}

/// Returns the parameters by which `rp_filter` looks up the way back with the packet mark, so that packets for a pod pass.
fn parameters(networks: &[IpNet]) -> BTreeMap<Sysctl, u32> {
    let v4 = networks.iter().any(|net| net.addr().is_ipv4());
    if v4 { Sysctl::way_back_by_mark() } else { BTreeMap::new() }
}

fn to_pods(node: Ipv4Addr, pods: &[IpNet], interface: u32) -> impl Iterator<Item = Route> {
    pods.iter().map(move |net| {
        let gateway = next_hop(node, net.addr().is_ipv4());
        let hop = Hop::Gateway { gateway, interface };
        Route { table: MAIN, destination: net.trunc(), metric: BEHIND, hop }
    })
}

impl fmt::Display for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ruleset.fmt(f)?;
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Desired {
    /// Formats one line for each thing besides the nftables table.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let tunnel = self.tunnel.iter().map(ToString::to_string);
        let entries = self.entries.iter().map(ToString::to_string);
        tunnel.chain(entries).chain(self.routing.lines()).collect()
    }
}
