//! Limits of concurrent checks, so that one tenant's slow endpoints neither fill this process with sockets nor delay another tenant's checks.
//!
//! A tenant has a few slots of its own and may use some common ones, as in the proxy's health checks.

use std::collections::BTreeMap;

use durward_model::TenantId;

/// Slots reserved for each tenant.
pub(super) const OWN: usize = 2;
/// Common slots that one tenant may hold.
pub(super) const MORE: usize = 30;
/// Common slots of all tenants.
pub(super) const COMMON: usize = 256;
/// Slots in this process, whatever the number of tenants.
pub(super) const MOST: usize = 512;
/// Divisor of the process's file descriptors for checks.
const FILES: usize = 16;

/// Slots of all tenants.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    used: usize,
    common: usize,
    tenants: BTreeMap<TenantId, Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    own: usize,
    more: usize,
}

/// Slot that was taken; released by [`Slots::give`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Own,
    Common,
}

impl Slots {
    /// Creates the slots of a process with a limit of `files` file descriptors.
    pub(super) fn new(files: usize) -> Self {
        let most = (files / FILES).clamp(MORE + OWN, MOST);
        Self { most, used: 0, common: 0, tenants: BTreeMap::new() }
    }

    /// Returns the number of slots.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Returns the number of slots taken.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Takes a slot for a tenant, unless it has used up its share or none is left.
    pub(super) fn take(&mut self, tenant: &TenantId) -> Option<Slot> {
        if self.used >= self.most {
            return None;
        }
        let held = self.tenants.get(tenant).copied().unwrap_or_default();
        let slot = if held.own < OWN {
            Slot::Own
        } else if held.more < MORE && self.common < COMMON {
            Slot::Common
        } else {
            return None;
        };
        let held = self.tenants.entry(tenant.clone()).or_default();
        match slot {
            Slot::Own => held.own += 1,
            Slot::Common => {
                held.more += 1;
                self.common += 1;
            }
        }
        self.used += 1;
        Some(slot)
    }

    /// Releases a slot.
    pub(super) fn give(&mut self, tenant: &TenantId, slot: Slot) {
        let Some(held) = self.tenants.get_mut(tenant) else { return };
        match slot {
            Slot::Own => held.own -= 1,
            Slot::Common => {
                held.more -= 1;
                self.common -= 1;
            }
        }
        self.used -= 1;
        if held.own + held.more == 0 {
            self.tenants.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: usize) -> TenantId {
        TenantId::new(&format!("t{number}")).unwrap()
    }

    fn taken(slots: &mut Slots, tenant: &TenantId) -> Vec<Slot> {
        std::iter::from_fn(|| slots.take(tenant)).collect()
    }

    #[test]
    fn tenants_that_take_all_they_can_leave_each_other_its_own_slots() {
        let mut slots = Slots::new(100_000);
        let taken: Vec<_> = (0..20).map(|at| taken(&mut slots, &tenant(at)).len()).collect();

        assert_eq!(taken[0], OWN + MORE);
        assert_eq!(taken[19], OWN, "the common slots are gone, its own are not");
        assert_eq!(slots.used(), COMMON + 20 * OWN);
    }

    #[test]
    fn many_tenants_take_no_more_than_the_process_has() {
        for (files, most) in [(1_024, 64), (0, OWN + MORE), (1_000_000, MOST)] {
            let mut slots = Slots::new(files);

            (0..10_000).for_each(|at| drop(taken(&mut slots, &tenant(at))));

            assert_eq!((slots.used(), slots.most()), (most, most));
        }
    }

    #[test]
    fn slots_that_are_given_back_can_be_taken_again() {
        let mut slots = Slots::new(1_024);
        let first = taken(&mut slots, &tenant(1));
        assert_eq!(slots.take(&tenant(1)), None);

        first.iter().for_each(|slot| slots.give(&tenant(1), *slot));

        assert_eq!((slots.used(), slots.tenants.len()), (0, 0));
        assert_eq!(taken(&mut slots, &tenant(1)), first);
    }
}
