//! Steps from the actual to the desired state, in an order in which a pod is refused before it is steered, and never let past.
//!
//! Nothing is remembered: each step reads the kernel, so a crash, a restart and tampering are one case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;

use super::desired::{Desired, Host, desired};
use super::strays::{Steered, is_stray};
use super::tunnel::Tunnel;
use super::{Options, Side, address_towards};
use crate::conntrack::{Conntrack, Flow};
use crate::error::NatError;
use crate::netlink::Message;
use crate::nftables::table::{Count, Ownership};
use crate::nftables::{Changes, Table};
use crate::options::AssignedAddress;
use crate::policy_route::Routing;
use crate::program::words;
use crate::rtnetlink::Rtnetlink;
use crate::rtnetlink::tunnel::{HeldTunnel, index, is_neighbour};
use crate::sysctl::{self, REMEMBERED, Sysctl, Wrong};
use crate::watch::Kept;

/// Loose `rp_filter`: answers of the world come out of the tunnel, and the host's own route to the world is another.
const LOOSE: &str = "2";

/// State of one side.
#[derive(Debug)]
pub(super) struct State {
    options: Options,
    table: Table,
    route: Rtnetlink,
    conntrack: Conntrack,
    /// Side of the tunnel; `None` until the first `apply`: the state left by an earlier process stays until then.
    side: Option<Side>,
    /// True if connections from before this process have been judged.
    judged: bool,
    /// Last known index of the link.
    link: Option<u32>,
}

impl State {
    pub(super) fn open(options: Options) -> Result<Self, NatError> {
        let ownership = if options.own_table { Ownership::Ours } else { Ownership::Shared };
        let table = Table::open(&options.table, ownership, options.timeout)?;
        let socket = |what| move |error| NatError::Socket { what, error };
        let route = Rtnetlink::open(options.timeout).map_err(socket("routing"))?;
        let conntrack = Conntrack::open(options.timeout).map_err(socket("connection tracking"))?;
        if table.read()?.exists {
            tracing::info!(table = options.table, "adopts what an earlier process left");
        }
        Ok(Self { options, table, route, conntrack, side: None, judged: false, link: None })
    }

    pub(super) fn apply(&mut self, side: Side) -> Result<Vec<String>, NatError> {
        self.side = Some(side);
        self.reconcile()?;
        Ok(self.parameters())
    }

    pub(super) fn counters(&self) -> Result<BTreeMap<String, Count>, NatError> {
        Ok(self.table.counters()?)
    }

    pub(super) fn enrolled(&self) -> Result<BTreeSet<IpNet>, NatError> {
        let steered = Steered::of(&self.table.read()?.ruleset, &self.read_routing()?);
        Ok(steered.networks().collect())
    }

    pub(super) fn preview(&self, side: &Side) -> Result<String, NatError> {
        let held = self.tunnels()?.into_iter().find(|held| self.is_its_link(held));
        let host =
            Host { underlay: self.underlay(side)?, link: held.as_ref().map(|held| held.index) };
        let mut wanted = desired(&self.options, side, host);
        let ruleset = self.table.read()?.ruleset;
        if let (Some(old), Some(new)) =
            (ruleset.sets.get(REMEMBERED), wanted.ruleset.sets.get_mut(REMEMBERED))
        {
            new.elements.clone_from(&old.elements);
        }
        let mut text = words::changes(&Changes::between(&ruleset, &wanted.ruleset));
        let (before, after) = (self.held(held.as_ref())?.lines(), wanted.lines());
        for (sign, these, those) in [('+', &after, &before), ('-', &before, &after)] {
            for line in these.iter().filter(|line| !those.contains(line)) {
                let _ = writeln!(text, "{sign} {line}");
            }
        }
        for line in sysctl::change_lines(&sysctl::wrong(&wanted.sysctls)) {
            let _ = writeln!(text, "{line}");
        }
        Ok(text)
    }

    /// Brings the kernel to the desired state; returns true if anything had to be changed.
    fn reconcile(&mut self) -> Result<bool, NatError> {
        let Some(side) = self.side.clone() else { return Ok(false) };
        let mut wanted = desired(&self.options, &side, Host::default());
        let mut changed = self.bring_refusals(&mut wanted, matches!(side, Side::Node { .. }))?;
        // From here on no packet leaves another way; the route comes next.
        let underlay = self.underlay(&side)?;
        let link = match desired(&self.options, &side, Host { underlay, link: None }).tunnel {
            Some(tunnel) => Some(self.bring_link(&tunnel, &mut changed)?),
            None => None,
        };
        self.link = link;
        wanted = desired(&self.options, &side, Host { underlay, link });
        if let Some(link) = link {
            changed |= self.bring_entries(link, &wanted)?;
        }
        changed |= self.bring_routing(&wanted.routing)?;
        if underlay.is_none() {
            let ends: Vec<String> = side.ends().iter().map(ToString::to_string).collect();
            let problem = format!("this host has no address towards {}", ends.join(", "));
            return Err(NatError::Options { problem });
        }
        Ok(changed)
    }

    /// Brings table, rules and parameters to the desired state, which need no link. Networks that are no longer enrolled stay prohibited until their
    /// connections are cut, because those would keep the pod's own address.
    fn bring_refusals(&mut self, wanted: &mut Desired, is_node: bool) -> Result<bool, NatError> {
        let (before, routing) = (self.table.read()?.ruleset, self.read_routing()?);
        sysctl::remember(&before, &mut wanted.ruleset, &wanted.sysctls);
        let mut changed = self.table.bring_to(&wanted.ruleset)?;
        // While the table was wrong, connections may have begun another way, so they are judged again.
        self.judged &= !changed;
        changed |= set_parameters(&wanted.sysctls);
        let new = wanted.routing.without(&routing);
        self.add_routing(&new)?;
        if is_node {
            let is = Steered::of(&wanted.ruleset, &wanted.routing);
            let was = Steered::of(&before, &routing).with_near_of(&is);
            self.cut(&was, &is)?;
        }
        let old = Routing { rules: routing.without(&wanted.routing).rules, ..Routing::default() };
        remove(&self.route, &old, self.options.protocol)?;
        Ok(changed || !new.is_empty() || !old.is_empty())
    }

    fn underlay(&self, side: &Side) -> Result<Option<(Ipv4Addr, u32)>, NatError> {
        let local =
            self.options.local.or_else(|| side.ends().into_iter().find_map(address_towards));
        let Some(local) = local else { return Ok(None) };
        let mtu = self.route.mtu_at(local).map_err(kernel("interfaces"))?;
        Ok(mtu.map(|mtu| (local, mtu)))
    }

    fn tunnels(&self) -> Result<Vec<HeldTunnel>, NatError> {
        self.route.tunnels().map_err(kernel("links"))
    }

    fn is_its_link(&self, held: &HeldTunnel) -> bool {
        held.is_ours() && held.tunnel.name == self.options.link
    }

    fn bring_link(&self, wanted: &Tunnel, changed: &mut bool) -> Result<u32, NatError> {
        let mut found = None;
        for held in self.tunnels()?.into_iter().filter(HeldTunnel::is_ours) {
            if held.tunnel.is_same_link(wanted) {
                found = Some(held);
            } else {
                *changed = true;
                self.route.remove_tunnel(held.index).map_err(kernel("an old link"))?;
            }
        }
        if found.is_none() {
            *changed = true;
            self.make_link(wanted)?;
            found = self.tunnels()?.into_iter().find(|held| self.is_its_link(held));
        }
        let Some(held) = found else { return Err(kernel("the link")(Errno::NODEV)) };
        if held.mtu != wanted.mtu || !held.up {
            *changed = true;
            self.route.set_tunnel(held.index, wanted.mtu).map_err(kernel("the link"))?;
        }
        *changed |= self.bring_address(held.index, wanted.local)?;
        self.loosen();
        Ok(held.index)
    }

    /// Sets an address on the link: on an interface without one even a loose reverse-path check fails (`fib_validate_source`).
    fn bring_address(&self, link: u32, local: Ipv4Addr) -> Result<bool, NatError> {
        let held = self.route.addresses().map_err(kernel("addresses"))?;
        let address = IpAddr::V4(local);
        if held.iter().any(|held| held.index == link && held.net.addr() == address) {
            return Ok(false);
        }
        let interface = self.options.link.clone();
        let assigned = AssignedAddress { interface, prefix_len: 32, valid: None };
        let added = self.route.add_address(link, address, &assigned, self.options.protocol);
        added.map_err(kernel("the link's address"))?;
        Ok(true)
    }

    fn make_link(&self, wanted: &Tunnel) -> Result<(), NatError> {
        self.route.add_tunnel(wanted).map_err(|errno| match errno {
            Errno::EXIST => NatError::Options {
                problem: format!(
                    "another program has created a link {}, or a VXLAN tunnel {} at port {}",
                    wanted.name, wanted.vni, wanted.port
                ),
            },
            errno => kernel("the link")(errno),
        })
    }

    /// Loosens `rp_filter` of the link, which is ours; the parameter goes with the link.
    fn loosen(&self) {
        let path = format!("/proc/sys/net/ipv4/conf/{}/rp_filter", self.options.link);
        let is = std::fs::read_to_string(&path).unwrap_or_default();
        if is.trim() != LOOSE
            && let Err(error) = std::fs::write(&path, LOOSE)
        {
            tracing::warn!(path, %error, "answers may be lost: it should be 2");
        }
    }

    fn bring_entries(&self, link: u32, wanted: &Desired) -> Result<bool, NatError> {
        let held = self.route.entries(link).map_err(kernel("neighbours"))?;
        for old in held.difference(&wanted.entries) {
            self.route.remove_entry(link, old).map_err(kernel("a neighbour"))?;
        }
        for new in wanted.entries.difference(&held) {
            self.route.add_entry(link, new).map_err(kernel("a neighbour"))?;
        }
        Ok(held != wanted.entries)
    }

    fn bring_routing(&self, wanted: &Routing) -> Result<bool, NatError> {
        let held = self.read_routing()?;
        let (new, old) = (wanted.without(&held), held.without(wanted));
        self.add_routing(&new)?;
        remove(&self.route, &old, self.options.protocol)?;
        Ok(!new.is_empty() || !old.is_empty())
    }

    fn read_routing(&self) -> Result<Routing, NatError> {
        self.route.routing(self.options.protocol).map_err(kernel("routes"))
    }

    fn add_routing(&self, new: &Routing) -> Result<(), NatError> {
        let protocol = self.options.protocol;
        for route in &new.routes {
            self.route.add_route(route, protocol).map_err(kernel("a route"))?;
        }
        for rule in new.rules_to_add() {
            self.route.add_rule(rule, protocol).map_err(kernel("a routing rule"))?;
        }
        Ok(())
    }

    /// Cuts connections that have another source than the pod's although they are steered now, and those that are no longer steered.
    fn cut(&mut self, was: &Steered, is: &Steered) -> Result<(), NatError> {
        if self.judged && was == is {
            return Ok(());
        }
        let flows = self.conntrack.flows(0, 0).map_err(kernel("connections"))?;
        let strays: Vec<Flow> = flows.into_iter().filter(|flow| is_stray(flow, was, is)).collect();
        let cut = self.conntrack.cut(&strays).map_err(kernel("connections"))?;
        if cut > 0 {
            tracing::info!(connections = cut, "cut: they went another way");
        }
        self.judged = true;
        Ok(())
    }

    fn held(&self, link: Option<&HeldTunnel>) -> Result<Desired, NatError> {
        let entries = match link {
            Some(link) => self.route.entries(link.index).map_err(kernel("neighbours"))?,
            None => BTreeSet::new(),
        };
        let routing = self.read_routing()?;
        let tunnel = link.map(|link| link.tunnel.clone());
        Ok(Desired { tunnel, entries, routing, ..Desired::default() })
    }

    /// Returns the kernel parameters that keep steering from working.
    fn parameters(&self) -> Vec<String> {
        let networks = match &self.side {
            Some(Side::Node { networks, .. }) => networks.clone(),
            Some(Side::Gateway { nodes }) => nodes.values().flatten().copied().collect(),
            None => Vec::new(),
        };
        let wanted = [(true, "ipv4/ip_forward"), (false, "ipv6/conf/all/forwarding")];
        let off = wanted.into_iter().filter(|(ipv4, path)| {
            networks.iter().any(|net| net.addr().is_ipv4() == *ipv4)
                && std::fs::read_to_string(format!("/proc/sys/net/{path}"))
                    .is_ok_and(|held| held.trim() == "0")
        });
        let off = off.map(|(_, path)| format!("net/{path} is 0 instead of 1"));
        off.chain(self.unset_parameters()).collect()
    }

    fn unset_parameters(&self) -> Vec<String> {
        let Some(side) = &self.side else { return Vec::new() };
        let wrong = sysctl::wrong(&desired(&self.options, side, Host::default()).sysctls);
        let line = |(sysctl, Wrong { held, wanted }): (&Sysctl, &Wrong)| {
            format!("{sysctl} is {held} instead of {wanted}")
        };
        wrong.iter().map(line).collect()
    }
}

impl Kept for State {
    fn debounce(&self) -> Duration {
        self.options.debounce
    }

    fn audit(&self) -> Duration {
        self.options.audit
    }

    /// Treats own changes like foreign ones: a repair after them finds nothing to do.
    fn made(&self, _: u32) -> bool {
        false
    }

    /// Ignores neighbours other than the tunnel's, which come and go all the time.
    fn concerns(&self, event: &Message) -> bool {
        !is_neighbour(event) || index(event) == self.link
    }

    fn repair(&mut self) -> Result<bool, NatError> {
        let changed = self.reconcile()?;
        if changed {
            tracing::warn!(table = self.options.table, "undid a foreign change, or followed one");
        }
        Ok(changed)
    }
}

/// Removes all of a side: routes, rules, link, table, connections. Parts that are gone already are no error.
///
/// # Errors
/// Fails if the kernel refuses; the call can be repeated.
pub fn cleanup(options: &Options) -> Result<(), NatError> {
    let mut state = State::open(Options { own_table: false, ..options.clone() })?;
    let (before, held) = (state.table.read()?.ruleset, state.read_routing()?);
    state.table.delete()?;
    // The routing rules stay until connections with a pod's own address are cut: they prohibit what the table no longer steers.
    state.cut(&Steered::of(&before, &held), &Steered::default())?;
    sysctl::restore(&before);
    remove(&state.route, &held, options.protocol)?;
    for held in state.tunnels()?.iter().filter(|held| held.is_ours()) {
        state.route.remove_tunnel(held.index).map_err(kernel("the link"))?;
    }
    Ok(())
}

/// Sets parameters; one that cannot be set is among the problems that `apply` returns.
fn set_parameters(wanted: &BTreeMap<Sysctl, u32>) -> bool {
    let mut changed = false;
    for (sysctl, Wrong { wanted, .. }) in sysctl::wrong(wanted) {
        match sysctl.write(wanted) {
            Ok(()) => changed = true,
            Err(error) => tracing::warn!(%sysctl, %error, "a kernel parameter could not be set"),
        }
    }
    changed
}

fn remove(route: &Rtnetlink, old: &Routing, protocol: u8) -> Result<(), NatError> {
    for rule in old.rules_to_remove() {
        route.remove_rule(rule, protocol).map_err(kernel("a routing rule"))?;
    }
    for old in &old.routes {
        route.remove_route(old, protocol).map_err(kernel("a route"))?;
    }
    Ok(())
}

fn kernel(what: &'static str) -> impl FnOnce(Errno) -> NatError {
    move |errno| NatError::Kernel { what, errno }
}
