//! Schedule and results of checks, without sockets and without a clock.
//!
//! The state of an endpoint belongs to its mapping and address, so it survives every change that keeps both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::TenantId;
use durward_model::health::HealthCheck;
use durward_model::mapping::NatModel;

use super::slots::{Slot, Slots};
use super::{CheckedEndpoint, CheckedMapping};
use crate::desired::Ejected;
use crate::desired::ejected::MappingId;

/// Number of a mapping's endpoint; never reused.
pub(super) type Target = u64;

/// Check to be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) target: Target,
    pub(super) tenant: TenantId,
    pub(super) endpoint: SocketAddr,
    pub(super) timeout: Duration,
}

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The endpoint accepted a connection.
    Passed,
    /// The endpoint did not, for this reason.
    Failed(String),
    /// No check was possible from this host, for this reason: the result says nothing about the endpoint.
    Unchecked(String),
}

/// Change of an endpoint's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// The endpoint leaves rotation for this reason.
    Out(String),
    /// The endpoint is in rotation again.
    In,
    /// The endpoint can no longer be checked for this reason, and keeps its state.
    Unknown(String),
    /// The endpoint can be checked again.
    Known,
}

/// Event of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) mapping: MappingId,
    pub(super) endpoint: SocketAddr,
    pub(super) transition: Transition,
}

/// All endpoints and their states.
#[derive(Debug)]
pub(super) struct Schedule {
    mappings: BTreeMap<MappingId, Checked>,
    endpoints: BTreeMap<Target, Endpoint>,
    due: BTreeSet<(Instant, Target)>,
    /// Endpoints that wait for a slot of their tenant, the longest first.
    queues: BTreeMap<TenantId, VecDeque<Target>>,
    /// Tenants of `queues`, in the order in which they get slots.
    turns: VecDeque<TenantId>,
    running: BTreeMap<Target, (TenantId, Slot)>,
    slots: Slots,
    ejected: Ejected,
    ejections: BTreeMap<TenantId, u64>,
    next: Target,
    random: u64,
}

#[derive(Debug)]
struct Checked {
    check: HealthCheck,
    endpoints: BTreeMap<SocketAddr, Target>,
}

#[derive(Debug)]
struct Endpoint {
    mapping: MappingId,
    at: SocketAddr,
    out: bool,
    /// Consecutive results that contradict `out`.
    streak: u32,
    /// Cause of the last failure.
    cause: Option<Arc<str>>,
    /// Reason the endpoint cannot be checked.
    unchecked: Option<Arc<str>>,
    /// Time of the next check; `None` while the endpoint is queued or being checked.
    due: Option<Instant>,
}

impl Schedule {
    /// Creates a schedule without endpoints; `random` spreads the checks.
    pub(super) fn new(slots: Slots, random: u64) -> Self {
        Self {
            mappings: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            due: BTreeSet::new(),
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            running: BTreeMap::new(),
            slots,
            ejected: Ejected::default(),
            ejections: BTreeMap::new(),
            next: 0,
            // A xorshift generator never leaves 0.
            random: random | 1,
        }
    }

    /// Follows a model: new endpoints are due now, and out if `ejected` has them; known ones keep their state; others are removed. Returns the
    /// running checks that are no longer wanted.
    pub(super) fn follow(
        &mut self,
        model: &NatModel,
        rejected: &BTreeSet<MappingId>,
        ejected: &Ejected,
        now: Instant,
    ) -> Vec<Target> {
        let mut former = std::mem::take(&mut self.mappings);
        for mapping in &model.mappings {
            let Some(check) = &mapping.health_check else { continue };
            let id = MappingId::of(mapping);
            if rejected.contains(&id) {
                continue;
            }
            let mut known = former.remove(&id);
            let mut endpoints = BTreeMap::new();
            for at in mapping.tcp_endpoints() {
                let target = known.as_mut().and_then(|known| known.endpoints.remove(&at));
                let target = match target {
                    Some(target) => {
                        self.bring_forward(target, now + check.interval);
                        target
                    }
                    None => self.add(&id, at, (ejected.has(&id, at), now)),
                };
                endpoints.insert(at, target);
            }
            self.mappings.insert(id.clone(), Checked { check: check.clone(), endpoints });
            // Endpoints that the mapping no longer has stay in `former`, to be removed below.
            if let Some(gone) = known {
                former.insert(id, gone);
            }
        }
        let gone = former.into_values().flat_map(|gone| gone.endpoints.into_values());
        gone.filter(|target| self.forget(*target)).collect()
    }

    /// Starts the checks that are due, as far as there are slots.
    pub(super) fn start(&mut self, now: Instant) -> Vec<Due> {
        while let Some((_, target)) = self.due.first().filter(|(due, _)| *due <= now).copied() {
            self.due.pop_first();
            let Some(endpoint) = self.endpoints.get_mut(&target) else { continue };
            endpoint.due = None;
            let tenant = endpoint.mapping.tenant.clone();
            let queue = self.queues.entry(tenant.clone()).or_default();
            if queue.is_empty() {
                self.turns.push_back(tenant);
            }
            queue.push_back(target);
        }
        let mut started = Vec::new();
        // Tenants that get no slot now stay ahead of those that had one.
        let mut without = VecDeque::new();
        while let Some(tenant) = self.turns.pop_front() {
            if self.slots.used() >= self.slots.most() {
                without.push_back(tenant);
                break;
            }
            let Some(queue) = self.queues.get_mut(&tenant) else { continue };
            // Skips endpoints that were removed meanwhile.
            while queue.front().is_some_and(|target| !self.endpoints.contains_key(target)) {
                queue.pop_front();
            }
            let Some(target) = queue.front().copied() else {
                self.queues.remove(&tenant);
                continue;
            };
            let Some(slot) = self.slots.take(&tenant) else {
                without.push_back(tenant);
                continue;
            };
            queue.pop_front();
            if queue.is_empty() {
                self.queues.remove(&tenant);
            } else {
                self.turns.push_back(tenant.clone());
            }
            self.running.insert(target, (tenant.clone(), slot));
            started.extend(self.due_check(target, tenant));
        }
        without.append(&mut self.turns);
        self.turns = without;
        started
    }

    /// Handles the result of a check; returns its consequences.
    pub(super) fn finish(
        &mut self,
        target: Target,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Event> {
        if let Some((tenant, slot)) = self.running.remove(&target) {
            self.slots.give(&tenant, slot);
        }
        let random = self.random();
        let endpoint = self.endpoints.get_mut(&target)?;
        let check = &self.mappings.get(&endpoint.mapping)?.check;
        let due = now + jittered(check.interval, random);
        endpoint.due = Some(due);
        self.due.insert((due, target));
        let transition = endpoint.judge(outcome, check)?;
        let (mapping, at) = (endpoint.mapping.clone(), endpoint.at);
        match &transition {
            Transition::Out(_) => {
                self.ejected.insert(mapping.clone(), at);
                *self.ejections.entry(mapping.tenant.clone()).or_default() += 1;
            }
            Transition::In => self.ejected.remove(&mapping, at),
            Transition::Unknown(_) | Transition::Known => {}
        }
        Some(Event { mapping, endpoint: at, transition })
    }

    /// Returns the time of the next check; checks that wait for a slot start when one is released.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Returns the endpoints that are out.
    pub(super) const fn ejected(&self) -> &Ejected {
        &self.ejected
    }

    /// Returns the ejections so far, by tenant.
    pub(super) const fn ejections(&self) -> &BTreeMap<TenantId, u64> {
        &self.ejections
    }

    /// Returns every checked mapping with its endpoints.
    pub(super) fn checked(&self) -> Vec<CheckedMapping> {
        let endpoint = |target: &Target| {
            let endpoint = self.endpoints.get(target)?;
            Some(CheckedEndpoint {
                at: endpoint.at,
                out: endpoint.out,
                cause: endpoint.cause.clone().filter(|_| endpoint.out),
                unchecked: endpoint.unchecked.clone(),
            })
        };
        let checked = self.mappings.iter().map(|(id, checked)| CheckedMapping {
            tenant: id.tenant.clone(),
            name: Arc::clone(&id.name),
            endpoints: checked.endpoints.values().filter_map(endpoint).collect(),
        });
        checked.collect()
    }

    fn add(&mut self, id: &MappingId, at: SocketAddr, (out, now): (bool, Instant)) -> Target {
        let target = self.next;
        self.next += 1;
        if out {
            self.ejected.insert(id.clone(), at);
        }
        let cause = out.then(|| Arc::from("it was out before this process started"));
        let endpoint = Endpoint {
            mapping: id.clone(),
            at,
            out,
            streak: 0,
            cause,
            unchecked: None,
            due: Some(now),
        };
        self.endpoints.insert(target, endpoint);
        self.due.insert((now, target));
        target
    }

    /// Removes an endpoint; returns true if it is being checked.
    fn forget(&mut self, target: Target) -> bool {
        let Some(endpoint) = self.endpoints.remove(&target) else { return false };
        if let Some(due) = endpoint.due {
            self.due.remove(&(due, target));
        }
        self.ejected.remove(&endpoint.mapping, endpoint.at);
        self.running.contains_key(&target)
    }

    /// Moves a check forward if its interval became shorter.
    fn bring_forward(&mut self, target: Target, latest: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(&target) else { return };
        if let Some(due) = endpoint.due.filter(|due| *due > latest) {
            self.due.remove(&(due, target));
            self.due.insert((latest, target));
            endpoint.due = Some(latest);
        }
    }

    fn due_check(&self, target: Target, tenant: TenantId) -> Option<Due> {
        let endpoint = self.endpoints.get(&target)?;
        let timeout = self.mappings.get(&endpoint.mapping)?.check.timeout;
        Some(Due { target, tenant, endpoint: endpoint.at, timeout })
    }

    /// Returns a number of Marsaglia's xorshift; it only has to spread checks.
    const fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Endpoint {
    /// Counts a result, and changes the state after enough equal ones in a row.
    fn judge(&mut self, outcome: Outcome, check: &HealthCheck) -> Option<Transition> {
        let failure = match outcome {
            // A fault of this host says nothing about the endpoint, so it neither ejects nor restores it.
            Outcome::Unchecked(why) => {
                self.streak = 0;
                let is_new = self.unchecked.as_deref() != Some(&why);
                self.unchecked = Some(why.as_str().into());
                return is_new.then_some(Transition::Unknown(why));
            }
            Outcome::Passed => None,
            Outcome::Failed(cause) => Some(cause),
        };
        let known = self.unchecked.take().map(|_| Transition::Known);
        if let Some(cause) = failure.as_deref().filter(|cause| self.cause.as_deref() != Some(cause))
        {
            self.cause = Some(cause.into());
        }
        if failure.is_some() == self.out {
            self.streak = 0;
            return known;
        }
        self.streak += 1;
        let needed = if self.out { check.healthy_after } else { check.unhealthy_after };
        if self.streak < needed {
            return known;
        }
        self.streak = 0;
        self.out = !self.out;
        Some(failure.map_or(Transition::In, Transition::Out))
    }
}

/// Returns the interval, varied by up to a tenth.
fn jittered(interval: Duration, random: u64) -> Duration {
    let share = f64::from((random >> 32) as u32) / f64::from(u32::MAX);
    interval.mul_f64(0.9 + 0.2 * share)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
