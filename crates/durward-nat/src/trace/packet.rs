//! Joins the steps of one packet: how far it came, its headers then, and the reason it came no further.
//!
//! Packets whose first step was not seen belong to other traces.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::event::{Event, Seen, TraceVerdict};
use super::header::Header;
use super::ruleset::ENDS;
use crate::nftables::ruleset::Point;

/// Silence after which a packet counts as finished.
const QUIET: Duration = Duration::from_millis(150);
/// Steps of a packet at most. The kernel forbids jumps in circles, but not very long tables.
const MOST_STEPS: usize = 2000;

/// Steps of a packet so far.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) first: Seen,
    pub(super) last: Seen,
    pub(super) events: Vec<Event>,
    heard: Instant,
    /// Hook whose last chain the packet has passed.
    pub(super) reached: Option<Point>,
}

/// Packets on their way, by trace id.
#[derive(Debug, Default)]
pub(super) struct Ways {
    open: BTreeMap<u32, Way>,
    /// Further trace ids of packets: the kernel derives the id from the packet's place in memory and its hash, and both may change on its way.
    also: BTreeMap<u32, u32>,
    order: VecDeque<u32>,
    ended: VecDeque<Way>,
}

impl Ways {
    /// Adds a step; `own` is the name of the temporary table.
    pub(super) fn take(&mut self, event: Event, own: &str, now: Instant) {
        let is_own = event.family == "inet" && event.table == own;
        let begins = is_own && event.handle.is_some();
        let id = if begins && event.verdict == TraceVerdict::Continue && event.seen.is_some() {
            // The kernel reuses trace ids for later packets.
            self.also.remove(&event.id);
            self.end(event.id);
            event.id
        } else {
            self.known(&event)
        };
        let way = match self.open.entry(id) {
            Entry::Occupied(way) => way.into_mut(),
            Entry::Vacant(free) => {
                let Some(seen) = event.seen.filter(|_| begins) else { return };
                self.order.push_back(id);
                let events = Vec::new();
                free.insert(Way { first: seen, last: seen, events, heard: now, reached: None })
            }
        };
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

    /// Returns the next finished packet; with `all` the others too.
    pub(super) fn next(&mut self, now: Instant, all: bool) -> Option<Way> {
        if let Some(way) = self.ended.pop_front() {
            return Some(way);
        }
        let ended = |way: &Way| all || now.duration_since(way.heard) >= QUIET;
        let id = *self.order.iter().find(|id| self.open.get(id).is_some_and(ended))?;
        self.end(id);
        self.ended.pop_front()
    }

    /// Returns the time when the next packet counts as finished, if no further step arrives.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.values().map(|way| way.heard + QUIET).min()
    }

    /// Returns the first trace id of the step's packet: its own, or that of the youngest packet that was last seen with equal headers.
    fn known(&mut self, event: &Event) -> u32 {
        if self.open.contains_key(&event.id) {
            return event.id;
        }
        if let Some(id) = self.also.get(&event.id) {
            return *id;
        }
        let Some(seen) = event.seen.filter(|seen| seen.header.is_some()) else { return event.id };
        let same = |id: &&u32| {
            let way = self.open.get(id).map(|way| (way.last.header, way.last.input));
            way == Some((seen.header, seen.input))
        };
        match self.order.iter().rev().find(same).copied() {
            Some(id) => {
                self.also.insert(event.id, id);
                id
            }
            None => event.id,
        }
    }

    fn end(&mut self, id: u32) {
        self.order.retain(|other| *other != id);
        self.also.retain(|_, of| *of != id);
        self.ended.extend(self.open.remove(&id));
    }
}

impl Way {
    /// Returns the step that dropped the packet.
    pub(super) fn dropped(&self) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.verdict == TraceVerdict::Drop)
    }

    /// Returns the first and the last headers.
    pub(super) fn headers(&self) -> Option<(Header, Header)> {
        let first = self.first.header?;
        Some((first, self.last.header.unwrap_or(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u32, table: &str, handle: Option<u64>, verdict: TraceVerdict) -> Event {
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
        take(event(1, "theirs", Some(4), TraceVerdict::Drop));
        take(event(2, "own", Some(3), TraceVerdict::Continue));
        take(event(2, "theirs", Some(4), TraceVerdict::Accept));
        take(event(2, "own", None, TraceVerdict::Accept));
        take(event(2, "own", Some(3), TraceVerdict::Continue));
        take(event(2, "theirs", Some(5), TraceVerdict::Drop));

        let first = ways.next(now, false).unwrap();
        let early = ways.next(now, false);
        let second = ways.next(now + QUIET, false).unwrap();

        assert_eq!((first.reached, first.events.len()), (Some(Point::Forward), 1));
        assert!(first.dropped().is_none());
        assert!(early.is_none());
        assert_eq!(second.dropped().unwrap().handle, Some(5));
        assert!(ways.next(now, true).is_none(), "the other one was somebody else's");
    }

    #[test]
    fn a_packet_whose_number_changes_on_its_way_is_still_the_same() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        let header = |last: u8| {
            let network = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, last];
            Header::read(&network, &[0, 1, 0, 2])
        };
        let seen = |last| Some(Seen { header: header(last), input: Some(7), ..Seen::default() });
        let mut take = |id, table, handle, verdict, last| {
            let event = Event { seen: seen(last), ..event(id, table, handle, verdict) };
            ways.take(event, "own", now);
        };
        take(1, "own", Some(3), TraceVerdict::Continue, 8);
        take(2, "own", Some(3), TraceVerdict::Continue, 9);
        take(9, "theirs", Some(4), TraceVerdict::Drop, 8);
        take(7, "theirs", Some(4), TraceVerdict::Drop, 5);

        let (first, second) = (ways.next(now, true).unwrap(), ways.next(now, true).unwrap());

        assert_eq!((first.events.len(), second.events.len()), (1, 0));
        assert!(first.dropped().is_some());
    }
}
