//! State of the engine: sockets, the last model, and the last known state of the kernel.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::mapping::NatModel;
use durward_model::{SharedMap, TenantId};
use rustix::io::Errno;

use super::Counters;
use crate::announce::{Announcer, AnnouncingInterface};
use crate::conntrack::Conntrack;
use crate::desired::{Ejected, Policy, counted_tenant};
use crate::error::NatError;
use crate::interface::{Interfaces, full_match};
use crate::mark;
use crate::nftables::probe;
use crate::nftables::table::{Held, Ownership};
use crate::nftables::{Ruleset, Table};
use crate::options::{AssignedAddress, Options};
use crate::policy_route::Routing;
use crate::report::{Health, Report};
use crate::rtnetlink::Rtnetlink;

/// Own ruleset generations remembered, to tell them from foreign changes.
const OWN_GENERATIONS: usize = 4096;

/// Time for which the number of a removed tenant is not given to another.
const QUARANTINE: Duration = Duration::from_secs(600);
/// Pause between two comparisons of all connections.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// Schedule of comparing all connections with the policy: soon after a change, and once more for packets that were on their way meanwhile and created
/// their connection later.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Check {
    changed: Option<Instant>,
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Check {
    /// Records a change.
    pub(super) fn change(&mut self, now: Instant) {
        self.changed = Some(now);
        let soon = self.last.map_or(now, |last| now.max(last + CHECK_PAUSE));
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Returns the time of the next comparison.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Records a comparison.
    pub(super) fn done(&mut self, now: Instant) {
        let again = self.changed.is_some_and(|changed| now < changed + CHECK_PAUSE);
        self.last = Some(now);
        self.due = again.then(|| now + CHECK_PAUSE);
    }
}

/// State of the engine.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: Options,
    pub(super) table: Table,
    pub(super) route: Rtnetlink,
    pub(super) conntrack: Conntrack,
    /// Announcer of addresses; `None` without CAP_NET_RAW.
    pub(super) announcer: Option<Announcer>,
    /// Model; `None` until the first: the state left by an earlier process stays until then.
    pub(super) model: Option<Arc<NatModel>>,
    /// The model's endpoints that checks took out of rotation.
    pub(super) ejected: Ejected,
    /// Contents of the table when it was last read or changed; `None` after a foreign change.
    pub(super) held: Option<Held>,
    /// Routes and rules as they were last read or changed.
    pub(super) routing: Option<Routing>,
    pub(super) policy: Policy,
    /// Interfaces and report of the last complete computation, with later changes.
    pub(super) last: Option<(Interfaces, Report)>,
    /// Slots by interface name, so that an interface that comes back gets its old one.
    pub(super) slots: BTreeMap<String, u8>,
    /// Numbers of tenants in the marks of existing connections.
    pub(super) numbers: SharedMap<TenantId, u16>,
    /// Numbers of removed tenants, with the time of removal: packets and connections may still carry them.
    pub(super) retired: BTreeMap<u16, Instant>,
    /// Schedule of comparing all connections with the policy.
    pub(super) check: Check,
    /// Start of draining, by connection.
    pub(super) draining: BTreeMap<(u8, SocketAddr, SocketAddr), Instant>,
    pub(super) addresses: BTreeMap<IpAddr, AssignedAddress>,
    /// Interface of the last announcement of each address, with the number of its carrier changes then.
    pub(super) announced: BTreeMap<IpAddr, (AnnouncingInterface, u32)>,
    pub(super) own_generations: BTreeSet<u32>,
    pub(super) repairs: u64,
    /// Result of the last comparison with the kernel.
    pub(super) health: Health,
    /// True if the kernel can hand connections over; probed when first needed.
    can_hand_over: OnceCell<bool>,
}

impl State {
    pub(super) fn open(options: Options) -> Result<Self, NatError> {
        check(&options)?;
        let ownership = if options.own_table { Ownership::Ours } else { Ownership::Shared };
        let table = Table::open(&options.table, ownership, options.timeout)?;
        let socket = |what| move |error| NatError::Socket { what, error };
        let route = Rtnetlink::open(options.timeout).map_err(socket("routing"))?;
        let conntrack = Conntrack::open(options.timeout).map_err(socket("connection tracking"))?;
        let announcer = Announcer::open()
            .inspect_err(|error| tracing::warn!(%error, "cannot announce addresses (ARP, neighbour advertisements)"))
            .ok();
        let held = table.read()?;
        let slots = adopted_slots(&held.ruleset);
        let numbers = adopted_numbers(&held.ruleset);
        // An earlier process may have ended between removing a tenant and cutting its connections.
        let retired = left_over(&conntrack, &numbers)?;
        if held.exists {
            tracing::info!(table = options.table, "adopts what an earlier process left");
        }
        let addresses = options.addresses.clone();
        Ok(Self {
            options,
            table,
            route,
            conntrack,
            announcer,
            model: None,
            ejected: Ejected::default(),
            held: Some(held),
            routing: None,
            policy: Policy::default(),
            last: None,
            slots,
            numbers,
            retired,
            check: Check::default(),
            draining: BTreeMap::new(),
            addresses,
            announced: BTreeMap::new(),
            own_generations: BTreeSet::new(),
            repairs: 0,
            health: Health::default(),
            can_hand_over: OnceCell::new(),
        })
    }

    pub(super) const fn owns_table(&self) -> bool {
        matches!(self.table.ownership(), Ownership::Ours)
    }

    pub(super) fn counters(&self) -> Result<Counters, NatError> {
        let mut counters = Counters { repairs: self.repairs, ..Counters::default() };
        for (name, count) in self.table.counters()? {
            match counted_tenant(&name) {
                Some((tenant, _)) => counters.tenants.insert(tenant, count),
                None => counters.refused.insert(name, count),
            };
        }
        counters.conntrack = self.conntrack.statistics().map_err(kernel("connection tracking"))?;
        Ok(counters)
    }

    /// Records a generation as our own.
    pub(super) fn own(&mut self, generation: u32) {
        self.own_generations.insert(generation);
        if self.own_generations.len() > OWN_GENERATIONS {
            self.own_generations.pop_first();
        }
    }

    /// Returns the model with the numbers that connections already have; a new tenant gets the model's number, or a free one.
    pub(super) fn numbered(&self, model: Arc<NatModel>) -> Arc<NatModel> {
        let known = |tenant: &TenantId| self.numbers.get(tenant).copied();
        let mut taken: BTreeSet<u16> = self.numbers.values().copied().collect();
        let mut numbers = SharedMap::new();
        let resting = |number: &u16| self.retired.contains_key(number);
        for (tenant, wished) in &model.tenants {
            let unused = || (1..=u16::MAX).filter(|number| !taken.contains(number));
            let free = || unused().find(|number| !resting(number));
            let longest = || unused().min_by_key(|number| self.retired.get(number).copied());
            let own = (!taken.contains(wished) && !resting(wished)).then_some(*wished);
            let number = known(tenant).or(own).or_else(free).or_else(longest);
            let Some(number) = number else { continue };
            taken.insert(number);
            numbers.insert(tenant.clone(), number);
        }
        if numbers == model.tenants {
            return model;
        }
        Arc::new(NatModel { tenants: numbers, ..(*model).clone() })
    }

    /// Replaces the numbers. Those no longer used rest for [`QUARANTINE`].
    pub(super) fn renumber(&mut self, numbers: SharedMap<TenantId, u16>, now: Instant) {
        let former = std::mem::replace(&mut self.numbers, numbers);
        self.retired.extend(former.values().map(|number| (*number, now)));
        let used: BTreeSet<u16> = self.numbers.values().copied().collect();
        self.retired.retain(|number, since| {
            !used.contains(number) && now.duration_since(*since) < QUARANTINE
        });
    }

    /// Returns the options, with the kernel's abilities that the model needs.
    pub(super) fn options_for(&self, model: &NatModel) -> Result<Options, NatError> {
        let mut options = self.options.clone();
        if model.egress.iter().any(|rule| rule.transparent.is_some()) {
            let known = self.can_hand_over.get().copied();
            let can = known.map_or_else(|| probe::hand_over(options.timeout), Ok)?;
            options.hand_over &= *self.can_hand_over.get_or_init(|| can);
        }
        Ok(options)
    }

    /// Reads the external interfaces.
    pub(super) fn interfaces(&self, model: &NatModel) -> Result<Interfaces, NatError> {
        let links = self.route.links(self.options.protocol).map_err(kernel("interfaces"))?;
        Ok(Interfaces::pick(&links, &self.options, &model.slots, &self.slots))
    }
}

pub(super) fn kernel(what: &'static str) -> impl FnOnce(Errno) -> NatError {
    move |errno| NatError::Kernel { what, errno }
}

/// Returns numbers in connections that belong to no known tenant: an earlier process ended before it cut them.
fn left_over(
    conntrack: &Conntrack,
    numbers: &SharedMap<TenantId, u16>,
) -> Result<BTreeMap<u16, Instant>, NatError> {
    let used: BTreeSet<u16> = numbers.values().copied().collect();
    let flows = conntrack.flows(0, 0).map_err(kernel("connections"))?;
    let found = flows.iter().filter(|flow| mark::is_ours(flow.mark));
    let found = found.map(|flow| mark::tenant(flow.mark)).filter(|number| !used.contains(number));
    Ok(found.map(|number| (number, Instant::now())).collect())
}

fn check(options: &Options) -> Result<(), NatError> {
    let problem = |problem: String| Err(NatError::Options { problem });
    let field = options.mark_mask >> options.mark_mask.trailing_zeros().min(31);
    if field != 0xff {
        return problem(format!("mark mask {:#x} is not eight adjoining bits", options.mark_mask));
    }
    if !options.external.is_empty() && full_match(&options.external).is_none() {
        return problem(format!("{:?} is not a regular expression", options.external));
    }
    Ok(())
}

/// Reads the numbers an earlier process gave, from the names of its counters.
pub(super) fn adopted_numbers(ruleset: &Ruleset) -> SharedMap<TenantId, u16> {
    ruleset.counters.iter().filter_map(|counter| counted_tenant(counter)).collect()
}

/// Reads the slots an earlier process gave, from its map of interfaces.
fn adopted_slots(ruleset: &Ruleset) -> BTreeMap<String, u8> {
    use crate::nftables::{Value, Verdict};
    let Some(map) = ruleset.sets.get("ext_in") else { return BTreeMap::new() };
    let slot = |value: &Value| match value {
        Value::Verdict(Verdict::Goto(chain)) => chain.strip_prefix("in_")?.parse().ok(),
        _ => None,
    };
    let entries = map.elements.iter().filter_map(|(key, element)| {
        let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
        Some((String::from_utf8(key[..end].to_vec()).ok()?, slot(&element.value)?))
    });
    entries.collect()
}
