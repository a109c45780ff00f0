//! Connections of one core that belong to no tenant yet: their PROXY header, ClientHello or credential has not arrived.
//!
//! Such connections are charged to no tenant, so they have a share of their own. When it is used up the oldest connection is closed: of the source that exceeds
//! its part, or else of the bind that has most. A flood at one bind then costs only that bind's own oldest, and accepting never pauses for it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::watch::Closer;

/// Divisor of the share for one source.
const SOURCE: usize = 4;
/// Smallest share.
const LEAST: usize = 8;

/// Connections without a tenant.
#[derive(Default)]
pub(crate) struct Unidentified {
    waiting: RefCell<Waiting>,
    next: Cell<u64>,
}

#[derive(Default)]
struct Waiting {
    /// Connections from the oldest to the newest.
    all: BTreeMap<u64, Entry>,
    binds: HashMap<SocketAddr, BTreeSet<u64>>,
    sources: HashMap<IpAddr, BTreeSet<u64>>,
}

struct Entry {
    bind: SocketAddr,
    source: Option<IpAddr>,
    closer: Closer,
}

/// Guard of one connection; released on drop, when its tenant is known or it has ended.
pub(crate) struct UnidentifiedGuard {
    unidentified: Rc<Unidentified>,
    number: u64,
}

impl Drop for UnidentifiedGuard {
    fn drop(&mut self) {
        self.unidentified.waiting.borrow_mut().remove(self.number);
    }
}

impl Unidentified {
    /// Gives a connection a place, and closes an older one if `most` are taken. `source` is its address, unless that is a trusted proxy with many
    /// clients.
    pub(crate) fn enter(
        self: &Rc<Self>,
        most: usize,
        (bind, source): (SocketAddr, Option<IpAddr>),
        closer: Closer,
    ) -> UnidentifiedGuard {
        let most = most.max(LEAST);
        let source = source.map(network);
        let mut waiting = self.waiting.borrow_mut();
        if let Some(own) = source.and_then(|source| waiting.sources.get(&source))
            && own.len() >= (most / SOURCE).max(1)
        {
            let oldest = own.first().copied();
            waiting.close(oldest);
        }
        if waiting.all.len() >= most {
            waiting.close_of_largest_bind();
        }
        let number = self.next.replace(self.next.get() + 1);
        waiting.binds.entry(bind).or_default().insert(number);
        if let Some(source) = source {
            waiting.sources.entry(source).or_default().insert(number);
        }
        waiting.all.insert(number, Entry { bind, source, closer });
        drop(waiting);
        UnidentifiedGuard { unidentified: Rc::clone(self), number }
    }

    /// Closes the oldest connection of the bind that has most; false if there is none.
    pub(crate) fn make_room(&self) -> bool {
        self.waiting.borrow_mut().close_of_largest_bind()
    }
}

impl Waiting {
    fn close_of_largest_bind(&mut self) -> bool {
        let largest = self.binds.values().max_by_key(|numbers| numbers.len());
        let oldest = largest.and_then(|numbers| numbers.first().copied());
        self.close(oldest)
    }

    fn close(&mut self, number: Option<u64>) -> bool {
        let Some(entry) = number.and_then(|number| self.remove(number)) else { return false };
        entry.closer.close();
        true
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.all.remove(&number)?;
        leave(&mut self.binds, &entry.bind, number);
        if let Some(source) = &entry.source {
            leave(&mut self.sources, source, number);
        }
        Some(entry)
    }
}

fn leave<K: Eq + Hash>(groups: &mut HashMap<K, BTreeSet<u64>>, key: &K, number: u64) {
    if let Some(numbers) = groups.get_mut(key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            groups.remove(key);
        }
    }
}

/// Returns the network that counts as one source: an IPv4 address, or the /64 that an IPv6 host usually has to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Watch, Watchdog};

    fn bind(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn source(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([198, 51, 100, last]))
    }

    /// Connections that stay silent, and those that are told to close.
    struct Silent {
        watchdog: Rc<Watchdog>,
        unidentified: Rc<Unidentified>,
        open: Vec<(Watch, UnidentifiedGuard)>,
    }

    impl Silent {
        fn new() -> Self {
            Self { watchdog: Rc::default(), unidentified: Rc::default(), open: Vec::new() }
        }

        fn enter(&mut self, most: usize, bind: SocketAddr, source: Option<IpAddr>) {
            let watch = self.watchdog.watch();
            let place = self.unidentified.enter(most, (bind, source), watch.closer());
            self.open.push((watch, place));
        }

        fn closed(&self) -> Vec<usize> {
            let closed = |at: &usize| self.open[*at].0.is_crowded();
            (0..self.open.len()).filter(closed).collect()
        }
    }

    #[test]
    fn a_flood_at_one_bind_closes_its_own_oldest_and_leaves_other_binds_alone() {
        let mut silent = Silent::new();
        silent.enter(16, bind(1), source(1));

        (0..20).for_each(|at| silent.enter(16, bind(2), source(100 + at)));

        assert_eq!(silent.closed(), [1, 2, 3, 4, 5]);
        assert_eq!(silent.unidentified.waiting.borrow().all.len(), 16);
    }

    #[test]
    fn one_source_has_a_part_of_the_share_also_as_an_ipv6_network() {
        let mut silent = Silent::new();
        let in_one_64 =
            |host: u16| Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, host)));

        (0..6).for_each(|host| silent.enter(16, bind(1), in_one_64(host)));
        silent.enter(16, bind(1), Some("2001:db8:0:8::1".parse().unwrap()));

        assert_eq!(silent.closed(), [0, 1]);
    }

    #[test]
    fn a_trusted_proxy_is_not_taken_for_one_client() {
        let mut silent = Silent::new();

        (0..16).for_each(|_| silent.enter(16, bind(1), None));

        assert!(silent.closed().is_empty());
        assert!(silent.unidentified.make_room());
        assert_eq!(silent.closed(), [0]);
    }

    #[test]
    fn nothing_is_remembered_of_connections_that_found_their_tenant() {
        let mut silent = Silent::new();
        (0..5).for_each(|at| silent.enter(16, bind(1), source(at)));

        silent.open.clear();

        let waiting = silent.unidentified.waiting.borrow();
        assert!(waiting.all.is_empty() && waiting.binds.is_empty() && waiting.sources.is_empty());
    }
}
