//! Receiving end of the stream: items become changes, only complete ones are applied, and held items are identified by digest.

use std::collections::BTreeMap;

use durward_model::{DocumentKey, Kind, ResourceId};
use thiserror::Error;

use super::{Item, ItemDigest, ItemKey, Untransferable};
use crate::change::Change;

/// Largest change in bytes, as its messages have them.
const LARGEST_CHANGE: usize = 2 << 30;

/// State that was received.
#[derive(Debug, Default)]
pub struct Received {
    held: BTreeMap<ItemKey, ItemDigest>,
    /// An unfinished change: items with their digests; `None` for those that are gone.
    pending: BTreeMap<ItemKey, Option<(Item, ItemDigest)>>,
    /// Bytes of the unfinished change.
    bytes: usize,
}

/// Reason why a message cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReceivedFault {
    /// The change has too many bytes.
    #[error("a change is larger than {LARGEST_CHANGE} bytes")]
    TooLarge,
    /// Facts of files are not transferred.
    #[error(transparent)]
    Untransferable(#[from] Untransferable),
}

impl Received {
    /// Forgets an unfinished change: the connection has ended, and what it lacked is said again on the next one.
    pub fn break_off(&mut self) {
        self.pending.clear();
        self.bytes = 0;
    }

    /// Returns what is held.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (&ItemKey, ItemDigest)> {
        self.held.iter().map(|(key, digest)| (key, *digest))
    }

    /// Returns the objects whose documents are held.
    pub fn objects(&self) -> impl Iterator<Item = &ResourceId> {
        self.held.keys().filter_map(|key| match key {
            ItemKey::Document(id) => Some(id),
            ItemKey::Fact(_) => None,
        })
    }

    /// Returns the objects of a kind whose documents are held.
    pub fn objects_of(&self, kind: Kind) -> impl Iterator<Item = &ResourceId> {
        let first = ItemKey::Document(ResourceId::new(kind, ""));
        let objects = self.held.range(first..).map_while(|(key, _)| match key {
            ItemKey::Document(id) => Some(id),
            ItemKey::Fact(_) => None,
        });
        objects.take_while(move |id| id.kind == kind)
    }

    /// Returns whether an object is held.
    #[must_use]
    pub fn has_object(&self, id: &ResourceId) -> bool {
        self.held.contains_key(&ItemKey::Document(id.clone()))
    }

    /// Takes in an item, of which this is the message.
    ///
    /// # Errors
    /// Fails if the change becomes too large, or the item is a thing of files.
    pub fn item(&mut self, item: Item, message: &[u8]) -> Result<(), ReceivedFault> {
        self.bytes += message.len();
        if self.bytes > LARGEST_CHANGE {
            return Err(ReceivedFault::TooLarge);
        }
        let key = item.key()?;
        self.pending.insert(key, Some((item, ItemDigest::of(message))));
        Ok(())
    }

    /// Takes in that a thing is gone.
    pub fn gone(&mut self, key: ItemKey) {
        self.pending.insert(key, None);
    }

    /// Ends a change, and returns it.
    pub fn commit(&mut self) -> Change {
        self.bytes = 0;
        let mut change = Change::default();
        for (key, item) in std::mem::take(&mut self.pending) {
            match item {
                Some((item, digest)) => {
                    self.held.insert(key, digest);
                    match item {
                        Item::Document(document) => change.upserts.push(document),
                        Item::Fact(reference, fact) => change.facts.push((reference, Some(fact))),
                    }
                }
                None => {
                    self.held.remove(&key);
                    match key {
                        ItemKey::Document(id) => change.deletes.push(DocumentKey::Object(id)),
                        ItemKey::Fact(reference) => change.facts.push((reference, None)),
                    }
                }
            }
        }
        change
    }
}
