//! Steps from the actual to the desired state, in an order in which no packet goes wrong between two of them.
//!
//! New routes are added before the rules that mark for them, old ones removed after; connections are cut last.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::state::{State, adopted_numbers, kernel};
use crate::announce::{Announcer, AnnouncingInterface, Mac};
use crate::conntrack::Flow;
use crate::conntrack::hygiene;
use crate::desired::{Desired, Ejected, Policy, desired_without};
use crate::error::NatError;
use crate::hand_over;
use crate::interface::Link;
use crate::mark::{self, EGRESS};
use crate::nftables::{Changes, TableError};
use crate::options::AssignedAddress;
use crate::policy_route::Routing;
use crate::report::Report;
use crate::sysctl::{self, Sysctl};
use crate::watch::Kept;

/// Tries of a transaction, because other programs may change rulesets at the same time.
const ATTEMPTS: usize = 50;
/// Interval at which draining connections are checked.
const DRAIN_STEP: Duration = Duration::from_secs(1);

impl State {
    /// Brings the kernel to the model. The cached state of the kernel is trusted, because a transaction of another generation is refused.
    pub(super) fn reconcile(&mut self) -> Result<Report, NatError> {
        let result = self.reconcile_once();
        self.health.record(&result);
        result
    }

    fn reconcile_once(&mut self) -> Result<Report, NatError> {
        let Some(model) = self.model.clone() else { return Ok(Report::default()) };
        self.last = None;
        let interfaces = self.interfaces(&model)?;
        self.slots.extend(interfaces.slots());
        let options = self.options_for(&model)?;
        let mut desired = desired_without(&model, &self.ejected, &options, &interfaces);
        let routing = match self.routing.take() {
            Some(routing) => routing,
            None => self.read_routing()?,
        };
        // Routes before the rules that mark for them, and old routes after: no packet finds a mark without its route.
        self.add_routing(&desired.routing.without(&routing))?;
        self.change_table(&mut desired)?;
        self.remove_routing(&routing.without(&desired.routing))?;
        self.routing = Some(desired.routing.clone());
        let mut report = std::mem::take(&mut desired.report);
        self.last = Some((interfaces, report.clone()));
        report.host.extend(sysctls(&desired.sysctls, self.options.set_sysctls));
        report.host.extend(self.obstacles(&desired.routing)?);
        self.restore_addresses(&mut report)?;
        // Last: connections that are cut must not come back by the former rules.
        report.connections_cut = self.cut_connections(desired.policy)?;
        Ok(report)
    }

    /// Counts and logs that a foreign change was undone.
    fn cured(&mut self, what: &str, which: &str) {
        self.repairs += 1;
        tracing::warn!(what, which, "undid a foreign change");
    }

    /// Returns the kernel parameters that differ from the last configuration, if they are ours to set.
    fn wrong_parameters(&self) -> Vec<Sysctl> {
        let Some((interfaces, _)) = self.last.as_ref().filter(|_| self.options.set_sysctls) else {
            return Vec::new();
        };
        sysctl::wrong(&Sysctl::wanted(interfaces)).into_keys().collect()
    }

    /// Returns the obstacles that keep connections from this host's forward proxy, if it takes any.
    pub(super) fn obstacles(&self, routing: &Routing) -> Result<Vec<String>, NatError> {
        if !routing.has_own() {
            return Ok(Vec::new());
        }
        let links = self.route.links(self.options.protocol).map_err(kernel("interfaces"))?;
        Ok(hand_over::obstacles(&links))
    }

    pub(super) fn assign(
        &mut self,
        addresses: BTreeMap<IpAddr, AssignedAddress>,
    ) -> Result<(), NatError> {
        let leased: Vec<IpAddr> =
            addresses.iter().filter(|(_, one)| one.valid.is_some()).map(|(ip, _)| *ip).collect();
        self.addresses = addresses;
        self.place_addresses(&leased, &mut Report::default())?;
        self.reconcile().map(|_| ())
    }

    pub(super) fn cleanup(&mut self) -> Result<(), NatError> {
        // Former values and tenants' numbers are in the table, so both are read before it is deleted.
        let held = self.table.read()?;
        sysctl::restore(&held.ruleset);
        let numbers = adopted_numbers(&held.ruleset);
        self.table.delete()?;
        let routing = self.read_routing()?;
        self.remove_routing(&routing)?;
        self.addresses.clear();
        self.place_addresses(&[], &mut Report::default())?;
        for number in numbers.values().copied() {
            let tenant = mark::mark(number, 0, 0);
            self.conntrack.flush(tenant, mark::TENANT_MASK).map_err(kernel("connections"))?;
        }
        (self.model, self.held, self.routing) = (None, None, None);
        self.ejected = Ejected::default();
        Ok(())
    }

    pub(super) fn read_routing(&self) -> Result<Routing, NatError> {
        self.route.routing(self.options.protocol).map_err(kernel("routes"))
    }

    fn add_routing(&self, new: &Routing) -> Result<(), NatError> {
        let protocol = self.options.protocol;
        // Routes first: a rule must not lead to an empty table.
        for route in new.routes.iter() {
            self.route.add_route(route, protocol).map_err(kernel("a route"))?;
        }
        for rule in new.rules_to_add() {
            self.route.add_rule(rule, protocol).map_err(kernel("a routing rule"))?;
        }
        Ok(())
    }

    fn remove_routing(&self, old: &Routing) -> Result<(), NatError> {
        let protocol = self.options.protocol;
        for rule in old.rules_to_remove() {
            self.route.remove_rule(rule, protocol).map_err(kernel("a routing rule"))?;
        }
        for route in &old.routes {
            self.route.remove_route(route, protocol).map_err(kernel("a route"))?;
        }
        Ok(())
    }

    fn change_table(&mut self, desired: &mut Desired) -> Result<(), NatError> {
        let (mut refused, mut anew) = (false, false);
        for _ in 0..ATTEMPTS {
            let held = match self.held.take() {
                Some(held) => held,
                None => self.table.read()?,
            };
            let to_set = self.options.set_sysctls.then(|| desired.sysctls.clone());
            sysctl::remember(&held.ruleset, &mut desired.ruleset, &to_set.unwrap_or_default());
            let changes = if anew && held.exists {
                Changes::anew(&desired.ruleset)
            } else {
                Changes::between(&held.ruleset, &desired.ruleset)
            };
            if changes.is_empty() && held.exists {
                match self.table.take(held.generation) {
                    Err(TableError::Outdated) => continue,
                    Err(error) if !anew && self.is_of_an_owner(&error) => {
                        anew = true;
                        continue;
                    }
                    other => other?,
                }
                self.held = Some(held);
                return Ok(());
            }
            match self.table.change(held.generation, &changes) {
                Ok(generation) => {
                    self.own(generation);
                    self.check.change(Instant::now());
                    let ruleset = std::mem::take(&mut desired.ruleset);
                    self.held =
                        Some(crate::nftables::table::Held { exists: true, ruleset, generation });
                    return Ok(());
                }
                Err(TableError::Outdated) => {}
                Err(error) if !anew && self.is_of_an_owner(&error) => anew = true,
                // The cached table may have been outdated: tries once more.
                Err(TableError::Refused { .. }) if !refused => refused = true,
                Err(error) => return Err(error.into()),
            }
        }
        Err(TableError::Outdated.into())
    }

    /// Returns true if a process that owned the table left it, and it is to be shared now: the kernel rejects changes of such a table with
    /// EOPNOTSUPP, so it is created anew, in one transaction. While its owner lives the kernel returns EPERM instead.
    fn is_of_an_owner(&self, error: &TableError) -> bool {
        let kept_apart = matches!(error, TableError::Refused { object, errno }
            if object == "the table" && *errno == Errno::OPNOTSUPP);
        if kept_apart && !self.options.own_table {
            tracing::info!(
                table = self.options.table,
                "replaces the table that an owning process left"
            );
        }
        kept_apart && !self.options.own_table
    }

    /// Cuts connections that are no longer allowed; those that may drain are checked again when their grace is over.
    pub(super) fn cut_connections(&mut self, new: Policy) -> Result<usize, NatError> {
        let old = std::mem::replace(&mut self.policy, new);
        // After a start the former policy is unknown: every connection is judged once.
        let first = old == Policy::default();
        let tenants = old.tightened_in(&self.policy);
        let flows = if first || !self.draining.is_empty() || tenants.len() > 4 {
            self.flows(0, 0)?
        } else {
            let mut flows = Vec::new();
            for tenant in tenants {
                flows.extend(self.flows(mark::mark(tenant, 0, 0), mark::TENANT_MASK)?);
            }
            flows
        };
        let before = if first { self.policy.clone() } else { old };
        let (cut, drain) = hygiene::sort(flows, &before, &self.policy);
        self.settle(cut, drain)
    }

    /// Cuts connections, and draining ones whose grace is over.
    pub(super) fn settle(
        &mut self,
        mut cut: Vec<Flow>,
        drain: Vec<(Flow, Duration)>,
    ) -> Result<usize, NatError> {
        let now = Instant::now();
        let since = std::mem::take(&mut self.draining);
        for (flow, grace) in drain {
            let key = (flow.protocol, flow.source, flow.destination);
            let begin = since.get(&key).copied().unwrap_or(now);
            if now.duration_since(begin) >= grace {
                cut.push(flow);
            } else {
                self.draining.insert(key, begin);
            }
        }
        self.conntrack.cut(&cut).map_err(kernel("connections"))
    }

    pub(super) fn flows(&self, mark: u32, mask: u32) -> Result<Vec<Flow>, NatError> {
        let mut flows = self.conntrack.flows(mark, mask).map_err(kernel("connections"))?;
        flows.retain(|flow| mark::is_ours(flow.mark));
        // A pod's packets to this host itself are not translated.
        let stays = |flow: &Flow| {
            flow.mark & EGRESS != 0 && flow.reply_destination.ip() == flow.source.ip()
        };
        if flows.iter().any(stays) {
            let here = self.route.addresses().map_err(kernel("addresses"))?;
            let here: BTreeSet<IpAddr> = here.iter().map(|held| held.net.addr()).collect();
            flows.retain(|flow| !stays(flow) || !here.contains(&flow.destination.ip()));
        }
        Ok(flows)
    }

    /// Judges all connections by the current policy. Not only those of changed tenants: a packet on its way during a change may have created a
    /// connection that fits neither state.
    fn check_all(&mut self, now: Instant) -> Result<(), NatError> {
        self.check.done(now);
        let flows = self.flows(0, 0)?;
        let policy = self.policy.clone();
        let (cut, drain) = hygiene::sort(flows, &policy, &policy);
        let cut = self.settle(cut, drain)?;
        if cut > 0 {
            tracing::warn!(
                connections = cut,
                "cut connections that were made while something changed"
            );
        }
        Ok(())
    }

    /// Restores permanent addresses. An address with a lifetime is set by `assign` only: if it is not renewed, it must expire.
    pub(super) fn restore_addresses(&mut self, report: &mut Report) -> Result<(), NatError> {
        let permanent: Vec<IpAddr> = self
            .addresses
            .iter()
            .filter(|(_, one)| one.valid.is_none())
            .map(|(ip, _)| *ip)
            .collect();
        self.place_addresses(&permanent, report)
    }

    /// Sets these of the wanted addresses, and removes those of ours that are not wanted.
    fn place_addresses(&mut self, put: &[IpAddr], report: &mut Report) -> Result<(), NatError> {
        let protocol = self.options.protocol;
        let held = self.route.addresses().map_err(kernel("addresses"))?;
        if self.addresses.is_empty() && held.iter().all(|held| held.protocol != protocol) {
            return Ok(());
        }
        let links = self.route.links(protocol).map_err(kernel("interfaces"))?;
        for address in put {
            let Some(assigned) = self.addresses.get(address) else { continue };
            let Some(link) = links.iter().find(|link| link.name == assigned.interface) else {
                report.host.push(format!("{address}: no interface {}", assigned.interface));
                continue;
            };
            let here = held.iter().any(|one| one.net.addr() == *address && one.index == link.index);
            if !here || assigned.valid.is_some() {
                let added = self.route.add_address(link.index, *address, assigned, protocol);
                added.map_err(kernel("an address"))?;
            }
            if let Err(error) =
                announce(&mut self.announcer, &mut self.announced, (*address, link, here))
            {
                report.host.push(format!("{address} could not be announced: {error}"));
            }
        }
        for old in held.iter().filter(|old| old.protocol == protocol) {
            if !self.addresses.contains_key(&old.net.addr()) {
                self.route.remove_address(old).map_err(kernel("an address"))?;
                self.announced.remove(&old.net.addr());
                if let Some(announcer) = &mut self.announcer {
                    announcer.withdraw(old.net.addr());
                }
            }
        }
        Ok(())
    }
}

impl Kept for State {
    fn debounce(&self) -> Duration {
        self.options.debounce
    }

    fn audit(&self) -> Duration {
        self.options.audit
    }

    fn made(&self, generation: u32) -> bool {
        self.own_generations.contains(&generation)
    }

    fn repair(&mut self) -> Result<bool, NatError> {
        if self.model.is_none() {
            return Ok(false);
        }
        let before = self.held.take();
        let read = self.table.read().map_err(NatError::from);
        let read = read.inspect_err(|error| self.health.fault = Some(error.to_string()))?;
        let tampered = before.is_some_and(|before| before.ruleset != read.ruleset);
        self.held = Some(read);
        let (routing, found) = (self.routing.take().unwrap_or_default(), self.read_routing()?);
        self.routing = Some(found.clone());
        let parameters = self.wrong_parameters();
        self.reconcile()?;
        if tampered {
            self.cured("the packet filter's table", &self.options.table.clone());
        }
        let now = self.routing.clone().unwrap_or_default();
        let back = routing.without(&found).lines().into_iter();
        let back = back.filter(|line| now.lines().contains(line));
        let lines: Vec<String> =
            back.chain(found.without(&routing).without(&now).lines()).collect();
        // Before the first comparison no state was known, so a difference is no foreign change.
        let rerouted = !routing.is_empty() && !lines.is_empty();
        if rerouted {
            self.cured("routes or routing rules", &lines.join(", "));
        }
        let still = self.wrong_parameters();
        let set = parameters.iter().filter(|one| !still.contains(one));
        let set: Vec<String> = set.map(|one| one.path().display().to_string()).collect();
        if !set.is_empty() {
            self.cured("kernel parameters", &set.join(", "));
        }
        Ok(tampered || rerouted || !set.is_empty())
    }

    fn tick(&mut self, now: Instant) -> Option<Instant> {
        let announcement = self.announcer.as_mut().and_then(|announcer| announcer.send_due(now));
        let due = self.check.due().is_some_and(|due| due <= now);
        if (due || !self.draining.is_empty())
            && let Err(error) = self.check_all(now)
        {
            tracing::error!(%error, "cannot compare conntrack entries with the configuration");
        }
        let drain = (!self.draining.is_empty()).then(|| now + DRAIN_STEP);
        announcement.into_iter().chain(drain).chain(self.check.due()).min()
    }
}

/// Announces an address that is new here, or whose interface has another hardware address or has lost its carrier since.
fn announce(
    announcer: &mut Option<Announcer>,
    announced: &mut BTreeMap<IpAddr, (AnnouncingInterface, u32)>,
    (address, link, here): (IpAddr, &Link, bool),
) -> io::Result<()> {
    let (Some(announcer), Some(mac)) = (announcer, link.mac) else { return Ok(()) };
    if !link.running {
        announced.remove(&address);
        announcer.withdraw(address);
        return Ok(());
    }
    let place = AnnouncingInterface { interface: link.index, mac: Mac(mac) };
    let known = announced.insert(address, (place, link.carrier_changes));
    if here && known == Some((place, link.carrier_changes)) {
        return Ok(());
    }
    announcer.announce(address, place, Instant::now())
}

/// Sets the parameters, or only compares them; returns the deviations.
pub(super) fn sysctls(wanted: &BTreeMap<Sysctl, u32>, set: bool) -> Vec<String> {
    let one = |(sysctl, value): (&Sysctl, &u32)| {
        let held = sysctl.read();
        if held.as_ref().is_ok_and(|held| sysctl.suffices(*held, *value)) {
            return None;
        }
        let why = match held {
            _ if set => sysctl.write(*value).err()?.to_string(),
            Ok(held) => format!("it is {held}"),
            Err(error) => error.to_string(),
        };
        Some(format!("{} should be {value}: {why}", sysctl.path().display()))
    };
    let dropped = sysctl::no_way_back(wanted).map(|interfaces| {
        format!(
            "no default route, and rp_filter on {interfaces}: clients that no route leads to are dropped"
        )
    });
    wanted.iter().filter_map(one).chain(dropped).collect()
}
