//! Items for gateways: everything that was read, and per gateway what it lacks and what it reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_control::change::Change;
use durward_control::document::Document;
use durward_control::stream::{
    Answered, Asked, FrameFault, Item, ItemDigest, ItemKey, ObjectReport, Outbox, SourceState,
};
use durward_model::ResourceId;
use tokio::sync::Notify;

use crate::app::cluster::{Begun, Record};

/// Gateways at once: one that serves, one that takes over from it, and some that are going.
const MOST_PEERS: usize = 8;

/// Everything that was read, and the gateways that have it.
pub(super) struct Hub {
    /// The gateway's own namespace.
    pub(super) namespace: Arc<str>,
    state: Mutex<State>,
    reported: Notify,
}

#[derive(Default)]
struct State {
    /// True once everything was read: until then no gateway is told that an item is gone.
    begun: bool,
    record: Record,
    source: SourceState,
    asked: Asked,
    peers: BTreeMap<u64, Peer>,
    connections: u64,
    /// Objects on which a report has not been taken.
    unread: BTreeSet<ResourceId>,
    /// True if an answer has not been taken.
    is_answered: bool,
}

/// A gateway that is connected.
struct Peer {
    wake: Arc<Notify>,
    outbox: Outbox,
    /// True until it has been sent everything once.
    is_new: bool,
    state_is_due: bool,
    question_is_due: bool,
    reports: BTreeMap<ResourceId, ObjectReport>,
    answered: Option<Answered>,
}

/// Next batch for a gateway.
pub(super) struct Batch {
    /// Things in order, which are one change.
    pub(super) items: BTreeSet<ItemKey>,
    /// True for the first change, which is sent even if nothing is in it.
    pub(super) is_first: bool,
    /// State of the reading, if that is to be sent.
    pub(super) state: Option<SourceState>,
    /// What is asked, if that is to be sent.
    pub(super) asked: Option<Asked>,
}

impl Hub {
    pub(super) fn new(namespace: Arc<str>) -> Self {
        Self { namespace, state: Mutex::default(), reported: Notify::new() }
    }

    /// Takes in everything that was read first. Where a cache was taken in before, it is one more change.
    pub(super) fn begin(&self, begun: Begun) {
        let mut state = self.state();
        if state.begun {
            state.record.note_former(begun.former);
            drop(state);
            return self.say(begun.change);
        }
        state.record.begin(&begun);
        state.begun = true;
        let State { peers, record, .. } = &mut *state;
        for peer in peers.values_mut() {
            peer.outbox.begin(record.said());
            peer.wake.notify_one();
        }
    }

    /// Takes in a change.
    pub(super) fn say(&self, change: Change) {
        let mut state = self.state();
        let touched = state.record.take(change);
        let State { peers, record, .. } = &mut *state;
        let gone = touched.iter().filter_map(|key| match key {
            ItemKey::Document(id) if record.said().document(id).is_none() => Some(id),
            _ => None,
        });
        let gone: Vec<&ResourceId> = gone.collect();
        for peer in peers.values_mut() {
            gone.iter().for_each(|id| drop(peer.reports.remove(*id)));
            peer.outbox.extend(touched.iter().cloned());
            peer.wake.notify_one();
        }
    }

    /// Says the state of the reading to all gateways.
    pub(super) fn say_state(&self, source: SourceState) {
        let mut state = self.state();
        state.source = source;
        for peer in state.peers.values_mut() {
            peer.state_is_due = true;
            peer.wake.notify_one();
        }
    }

    /// Asks all gateways.
    pub(super) fn ask(&self, asked: Asked) {
        let mut state = self.state();
        if state.asked == asked {
            return;
        }
        state.asked = asked;
        for peer in state.peers.values_mut() {
            peer.question_is_due = true;
            peer.wake.notify_one();
        }
    }

    /// Takes in what a gateway answers.
    pub(super) fn answer(&self, number: u64, answered: Answered) {
        let mut state = self.state();
        let answered = answered.only(&state.asked);
        let Some(peer) = state.peers.get_mut(&number) else { return };
        peer.answered = Some(answered);
        if state.heard() == Some(number) {
            state.is_answered = true;
            self.reported.notify_one();
        }
    }

    /// Returns what the gateway that is heard answers.
    pub(super) fn answered(&self) -> Answered {
        let mut state = self.state();
        state.is_answered = false;
        let heard = state.heard().and_then(|number| state.peers.get(&number));
        heard.and_then(|peer| peer.answered.clone()).unwrap_or_default()
    }

    /// Returns the last served revisions of objects that are another now. What they name is read on, for gateways that start.
    pub(super) fn former(&self) -> Vec<Document> {
        self.state().record.all_former()
    }

    /// Returns everything that was said, each object as it was served last.
    pub(super) fn served(&self) -> Vec<Item> {
        self.state().record.served()
    }

    /// Adds a gateway that holds these things, and returns its number and what wakes whoever sends to it; `None` if there are too many.
    pub(super) fn join(&self, held: Vec<(ItemKey, ItemDigest)>) -> Option<(u64, Arc<Notify>)> {
        let mut state = self.state();
        if state.peers.len() >= MOST_PEERS {
            return None;
        }
        let (mut outbox, wake) = (Outbox::default(), Arc::new(Notify::new()));
        outbox.note_held(held);
        if state.begun {
            outbox.begin(state.record.said());
        }
        state.connections += 1;
        let number = state.connections;
        let question_is_due = !state.asked.is_empty();
        let peer = Peer {
            wake: Arc::clone(&wake),
            outbox,
            is_new: true,
            state_is_due: true,
            question_is_due,
            reports: BTreeMap::new(),
            answered: None,
        };
        peer.wake.notify_one();
        state.peers.insert(number, peer);
        Some((number, wake))
    }

    /// Removes a gateway. If statuses were written after it, they are written after the next one.
    pub(super) fn leave(&self, number: u64) {
        let mut state = self.state();
        let was_heard = state.heard() == Some(number);
        state.peers.remove(&number);
        if was_heard && let Some(next) = state.heard() {
            let known = state.peers.get(&next).map(|peer| peer.reports.keys().cloned());
            let known: Vec<ResourceId> = known.into_iter().flatten().collect();
            state.unread.extend(known);
            state.is_answered = true;
            self.reported.notify_one();
        }
    }

    /// Takes what a gateway is to be sent next; `None` if that is nothing.
    pub(super) fn batch(&self, number: u64) -> Option<Batch> {
        let mut state = self.state();
        let State { begun, record, source, asked, peers, .. } = &mut *state;
        let peer = peers.get_mut(&number)?;
        let said = std::mem::take(&mut peer.state_is_due).then(|| source.clone());
        if !*begun {
            let (items, is_first) = (BTreeSet::new(), false);
            return said.map(|state| Batch { items, is_first, state: Some(state), asked: None });
        }
        let is_first = std::mem::take(&mut peer.is_new);
        let items = peer.outbox.take();
        if is_first {
            // First as they were last served; what they are now comes after that.
            let keys = record.differing().iter().cloned().map(ItemKey::Document);
            let later: Vec<ItemKey> = keys.filter(|key| !peer.outbox.holds(key)).collect();
            if !later.is_empty() {
                peer.outbox.extend(later);
                peer.wake.notify_one();
            }
        }
        let asked = std::mem::take(&mut peer.question_is_due).then(|| asked.clone());
        let is_empty = items.is_empty() && !is_first && said.is_none() && asked.is_none();
        (!is_empty).then_some(Batch { items, is_first, state: said, asked })
    }

    /// Returns the message about a thing for a gateway; `None` if it needs none. With `is_first`, about an object that it does not hold as it was last served.
    ///
    /// # Errors
    /// Fails if it is a document that is larger than a message may be.
    pub(super) fn message(
        &self,
        number: u64,
        key: &ItemKey,
        is_first: bool,
    ) -> Result<Option<Vec<u8>>, FrameFault> {
        let mut state = self.state();
        let State { record, peers, .. } = &mut *state;
        let Some(peer) = peers.get_mut(&number) else { return Ok(None) };
        let former = match key {
            ItemKey::Document(id) if is_first && !peer.outbox.holds(key) => record.former(id),
            _ => None,
        };
        match former {
            Some(former) => {
                peer.outbox.message_of(key, Some(Item::Document(Document::clone(former))))
            }
            None => peer.outbox.message(key, record.said()),
        }
    }

    /// Takes in what a gateway says of an object.
    pub(super) fn report(&self, number: u64, report: ObjectReport) {
        let mut state = self.state();
        let id = report.id.clone();
        // A gateway reports what it was sent; whoever has taken one over cannot fill this memory.
        if state.record.said().document(&id).is_none() {
            return;
        }
        let Some(peer) = state.peers.get_mut(&number) else { return };
        peer.reports.insert(id.clone(), report);
        if state.heard() == Some(number) {
            state.unread.insert(id);
            self.reported.notify_one();
        }
    }

    /// Waits until there is a report to take. Cancelling the wait loses nothing.
    pub(super) async fn reported(&self) {
        loop {
            let notified = self.reported.notified();
            let is_due = {
                let state = self.state();
                !state.unread.is_empty() || state.is_answered
            };
            if is_due {
                return;
            }
            notified.await;
        }
    }

    /// Takes the reports of the gateway that is heard.
    pub(super) fn reports(&self) -> Vec<ObjectReport> {
        let mut state = self.state();
        let unread = std::mem::take(&mut state.unread);
        let Some(heard) = state.heard() else { return Vec::new() };
        let Some(peer) = state.peers.get(&heard) else { return Vec::new() };
        let reports = unread.iter().filter_map(|id| peer.reports.get(id));
        let reports: Vec<ObjectReport> = reports.cloned().collect();
        for report in &reports {
            state.record.note(report);
        }
        reports
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the gateway whose word is written: the youngest that has said anything. Gateways report only once they serve.
    fn heard(&self) -> Option<u64> {
        let mut youngest_first = self.peers.iter().rev();
        let has_spoken = |peer: &Peer| !peer.reports.is_empty() || peer.answered.is_some();
        youngest_first.find(|(_, peer)| has_spoken(peer)).map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests;
