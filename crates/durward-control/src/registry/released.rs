//! Host names that a link released: for a while no other tenant gets them, so that a mistake of an agent can be undone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use durward_model::route::HostPattern;

/// Time for which a released name is kept from other tenants.
const QUARANTINE: Duration = Duration::from_secs(600);
/// Names of one link at most; beyond, the oldest are free.
const MOST: usize = 10_000;

/// Released names of one link, with the time at which each is free, in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    until: BTreeMap<HostPattern, u64>,
    /// The same by time.
    order: BTreeSet<(u64, HostPattern)>,
}

impl Released {
    /// Adds a name that is released now. Returns a name that is free because there are too many.
    pub(super) fn add(&mut self, host: HostPattern, now: u64) -> Option<HostPattern> {
        self.restore(host, now + QUARANTINE.as_secs());
        if self.until.len() <= MOST {
            return None;
        }
        let (_, oldest) = self.order.pop_first()?;
        self.until.remove(&oldest);
        Some(oldest)
    }

    /// Adds a name that is free at a time.
    pub(super) fn restore(&mut self, host: HostPattern, until: u64) {
        self.remove(&host);
        self.order.insert((until, host.clone()));
        self.until.insert(host, until);
    }

    /// Removes a name. Returns false if it is none of these.
    pub(super) fn remove(&mut self, host: &HostPattern) -> bool {
        let Some(until) = self.until.remove(host) else { return false };
        self.order.remove(&(until, host.clone()))
    }

    /// Returns true if a name is kept from other tenants, false if it is free by now, and `None` if it is none of these.
    pub(super) fn is_kept(&mut self, host: &HostPattern, now: u64) -> Option<bool> {
        let until = *self.until.get(host)?;
        let latest = now + QUARANTINE.as_secs();
        if until > latest {
            // The clock was set back: the time begins anew, so that the name is kept neither for longer nor for none.
            self.restore(host.clone(), latest);
        }
        Some(until > now)
    }

    /// Removes the names whose time is over, and returns them.
    pub(super) fn expire(&mut self, now: u64) -> Vec<HostPattern> {
        let mut freed = Vec::new();
        while self.order.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, host)) = self.order.pop_first() {
                self.until.remove(&host);
                freed.push(host);
            }
        }
        freed
    }

    /// Returns true if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Returns the names with their times.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&HostPattern, u64)> {
        self.until.iter().map(|(host, until)| (host, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_released_names_the_oldest_are_free() {
        let name = |number: usize| HostPattern::Exact(format!("a{number}.example").into());
        let mut released = Released::default();
        for number in 0..MOST {
            assert_eq!(released.add(name(number), number as u64), None);
        }

        let freed = released.add(name(MOST), MOST as u64);

        assert_eq!((freed, released.is_kept(&name(0), 0)), (Some(name(0)), None));
        assert_eq!(released.is_kept(&name(1), 600), Some(true));
        assert_eq!(released.is_kept(&name(1), 601), Some(false));
        assert_eq!(released.is_kept(&name(MOST), 0), Some(true), "the clock was set back");
        assert_eq!(released.is_kept(&name(MOST), 599), Some(true));
        assert_eq!(released.is_kept(&name(MOST), 600), Some(false), "the time begins anew");
        assert_eq!(released.expire(u64::MAX).len(), MOST);
        assert!(released.is_empty());
    }
}
