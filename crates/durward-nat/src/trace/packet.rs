//! The steps of one packet, put together: how far it came, what it looked like then, and why it came no further.
//!
//! Deliberately absent: where steps come from. Packets whose first step was not seen are other people's.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::event::{Event, Seen, Told};
use super::header::Header;
use super::ruleset::ENDS;
use crate::nftables::ruleset::Point;

/// A packet of which nothing was heard for so long has come to its end.
const QUIET: Duration = Duration::from_millis(150);
/// More steps than any packet has: a table that jumps in circles is forbidden, one that is very long is not.
const MOST_STEPS: usize = 2000;

/// A packet on its way.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) first: Seen,
    pub(super) last: Seen,
    pub(super) events: Vec<Event>,
    heard: Instant,
    /// It came to the end of the last chain of this hook.
    pub(super) reached: Option<Point>,
}

/// Packets on their way, by the kernel's number.
#[derive(Debug, Default)]
pub(super) struct Ways {
    open: BTreeMap<u32, Way>,
    order: VecDeque<u32>,
    ended: VecDeque<Way>,
}

impl Ways {
    /// Takes a step; `own` is the name of the temporary table.
    pub(super) fn take(&mut self, event: Event, own: &str, now: Instant) {
        let is_own = event.family == "inet" && event.table == own;
        let begins = is_own && event.handle.is_some();
        if begins && event.verdict == Told::Continue && event.seen.is_some() {
            // The kernel gives a packet's number to a later one too.
            self.end(event.id);
        }
        if !self.open.contains_key(&event.id) {
            let Some(seen) = event.seen.filter(|_| begins) else { return };
            let way =
                Way { first: seen, last: seen, events: Vec::new(), heard: now, reached: None };
            self.open.insert(event.id, way);
            self.order.push_back(event.id);
        }
        let Some(way) = self.open.get_mut(&event.id) else { return };
        way.heard = now;
        if let Some(seen) = event.seen {
            way.last = Seen { input: seen.input.or(way.last.input), ..seen };
        }
        if is_own {
            let end = ENDS.iter().find(|(name, _)| *name == event.chain);
            way.reached = end.map(|(_, point)| *point).or(way.reached);
        } else if way.events.len() < MOST_STEPS {
            way.events.push(event);
        }
    }

    /// The next packet that has come to its end; with `all` the others too.
    pub(super) fn next(&mut self, now: Instant, all: bool) -> Option<Way> {
        if let Some(way) = self.ended.pop_front() {
            return Some(way);
        }
        let ended = |way: &Way| all || now.duration_since(way.heard) >= QUIET;
        let id = *self.order.iter().find(|id| self.open.get(id).is_some_and(ended))?;
        self.end(id);
        self.ended.pop_front()
    }

    /// When the next packet comes to its end, if nothing more is heard of it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.values().map(|way| way.heard + QUIET).min()
    }

    fn end(&mut self, id: u32) {
        self.order.retain(|other| *other != id);
        self.ended.extend(self.open.remove(&id));
    }
}

impl Way {
    /// The step that dropped it.
    pub(super) fn dropped(&self) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.verdict == Told::Drop)
    }

    /// Its headers at first and at last.
    pub(super) fn headers(&self) -> Option<(Header, Header)> {
        let first = self.first.header?;
        Some((first, self.last.header.unwrap_or(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u32, table: &str, handle: Option<u64>, verdict: Told) -> Event {
        let seen = handle.map(|_| Seen { input: Some(7), ..Seen::default() });
        let chain = if table == "own" && handle.is_none() { "at_forward" } else { "c" };
        Event {
            id,
            family: "inet",
            table: table.to_owned(),
            chain: chain.to_owned(),
            handle,
            verdict,
            seen,
        }
    }

    #[test]
    fn a_way_begins_in_our_table_and_ends_in_silence_or_with_its_number() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        let mut take = |event| ways.take(event, "own", now);
        take(event(1, "theirs", Some(4), Told::Drop));
        take(event(2, "own", Some(3), Told::Continue));
        take(event(2, "theirs", Some(4), Told::Accept));
        take(event(2, "own", None, Told::Accept));
        take(event(2, "own", Some(3), Told::Continue));
        take(event(2, "theirs", Some(5), Told::Drop));

        let first = ways.next(now, false).unwrap();
        let early = ways.next(now, false);
        let second = ways.next(now + QUIET, false).unwrap();

        assert_eq!((first.reached, first.events.len()), (Some(Point::Forward), 1));
        assert!(first.dropped().is_none());
        assert!(early.is_none());
        assert_eq!(second.dropped().unwrap().handle, Some(5));
        assert!(ways.next(now, true).is_none(), "the other one was somebody else's");
    }
}
