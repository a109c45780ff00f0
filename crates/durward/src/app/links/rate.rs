//! Rate of each link's operations over REST.

use std::collections::BTreeMap;
use std::time::Instant;

use durward_control::registry::LinkId;

/// Operations of a link a second, and the number that may come at once.
const RATE: f64 = 100.0;
const BURST: f64 = 500.0;
/// Bytes of a body that count as one operation more: reading and comparing them takes about as long.
const BYTES: f64 = 16_384.0;

/// Operations that each link has left, and when that was computed.
#[derive(Debug, Default)]
pub(super) struct Rates(BTreeMap<LinkId, (f64, Instant)>);

impl Rates {
    /// Takes one operation with a body of so many bytes from a link's rate; false if too little is left.
    pub(super) fn may_go_on(&mut self, id: &LinkId, bytes: usize) -> bool {
        self.may_go_on_at(id, bytes, Instant::now())
    }

    fn may_go_on_at(&mut self, id: &LinkId, bytes: usize, now: Instant) -> bool {
        let (left, at) = self.0.entry(id.clone()).or_insert((BURST, now));
        *left = (*left + now.duration_since(*at).as_secs_f64() * RATE).min(BURST);
        *at = now;
        let bytes = u32::try_from(bytes).map_or(f64::INFINITY, f64::from);
        let cost = (1.0 + (bytes / BYTES).floor()).min(BURST);
        let may = *left >= cost;
        *left -= if may { cost } else { 0.0 };
        may
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn id(link: &str) -> LinkId {
        LinkId { tenant: Arc::from("acme"), link: Arc::from(link) }
    }

    // S3.31+
    #[test]
    fn operations_of_one_link_have_a_rate_and_take_none_of_anothers() {
        let (mut rates, now) = (Rates::default(), Instant::now());

        let at_once = (0..1_000).filter(|_| rates.may_go_on_at(&id("a"), 0, now)).count();
        let later = now + Duration::from_millis(100);
        let a_moment_later = (0..1_000).filter(|_| rates.may_go_on_at(&id("a"), 0, later)).count();

        assert_eq!((at_once, a_moment_later), (500, 10));
        assert!(rates.may_go_on_at(&id("b"), 0, now));
    }

    // S3.31+
    #[test]
    fn long_bodies_count_more() {
        let (mut rates, now) = (Rates::default(), Instant::now());

        let at_once = (0..1_000).filter(|_| rates.may_go_on_at(&id("a"), 4 << 20, now)).count();

        assert_eq!(at_once, 1);
        assert!(rates.may_go_on_at(&id("a"), 4 << 20, now + Duration::from_secs(5)));
    }
}
