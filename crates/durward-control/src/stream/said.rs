//! The sender's end: everything that a source has said, and what of it a receiver lacks.

use std::collections::{BTreeMap, BTreeSet};

use durward_model::ResourceId;

use super::{FrameFault, Item, ItemDigest, ItemKey, ToGateway, frame};
use crate::change::{Change, Fact};
use crate::document::Document;

/// Everything that a source says, in its last state.
#[derive(Clone, Debug, Default)]
pub struct Said {
    items: BTreeMap<ItemKey, Item>,
}

/// Queue of items for a receiver: each item once, by name, sent in the state it has when its turn comes.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    due: BTreeSet<ItemKey>,
    /// Digests of what the receiver held when it connected.
    held: BTreeMap<ItemKey, ItemDigest>,
}

impl Said {
    /// Takes a change in, and returns the names of what it is about. Things of files are left out.
    pub fn take(&mut self, change: Change) -> BTreeSet<ItemKey> {
        let mut touched = BTreeSet::new();
        let gone = change.deletes.iter().filter_map(|key| key.object());
        let gone = gone.cloned().map(ItemKey::Document).collect::<Vec<_>>();
        let items = change.upserts.into_iter().map(Item::Document);
        let facts = change.facts.into_iter();
        let (present, unasked): (Vec<_>, Vec<_>) = facts.partition(|(_, fact)| fact.is_some());
        let present = present.into_iter().filter_map(|(name, fact)| Some(Item::Fact(name, fact?)));
        let unasked = unasked.into_iter().map(|(name, _)| ItemKey::Fact(name));
        for key in gone.into_iter().chain(unasked) {
            self.items.remove(&key);
            touched.insert(key);
        }
        for item in items.chain(present) {
            let Ok(key) = item.key() else { continue };
            self.items.insert(key.clone(), item);
            touched.insert(key);
        }
        touched
    }

    /// Returns the document of an object.
    #[must_use]
    pub fn document(&self, id: &ResourceId) -> Option<&Document> {
        match self.items.get(&ItemKey::Document(id.clone()))? {
            Item::Document(document) => Some(document),
            Item::Fact(..) => None,
        }
    }

    /// Returns all things by name.
    pub fn items(&self) -> impl Iterator<Item = (&ItemKey, &Item)> {
        self.items.iter()
    }

    /// Returns the names of all things.
    pub fn keys(&self) -> impl Iterator<Item = &ItemKey> {
        self.items.keys()
    }
}

impl Outbox {
    /// Notes what a receiver holds, as it says itself.
    pub fn note_held(&mut self, held: impl IntoIterator<Item = (ItemKey, ItemDigest)>) {
        self.held.extend(held);
    }

    /// Returns whether the receiver held a thing when it connected.
    #[must_use]
    pub fn holds(&self, key: &ItemKey) -> bool {
        self.held.contains_key(key)
    }

    /// Makes due everything that is there, and everything that the receiver holds.
    pub fn begin(&mut self, said: &Said) {
        self.due.extend(said.keys().cloned());
        self.due.extend(self.held.keys().cloned());
    }

    /// Makes things due.
    pub fn extend(&mut self, keys: impl IntoIterator<Item = ItemKey>) {
        self.due.extend(keys);
    }

    /// Returns whether nothing is due.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Takes the names of what is due, in order.
    #[must_use]
    pub fn take(&mut self) -> BTreeSet<ItemKey> {
        std::mem::take(&mut self.due)
    }

    /// Returns the message about a thing in its present state; `None` if the receiver holds it so.
    ///
    /// # Errors
    /// Fails if it is a document that is larger than a message may be.
    pub fn message(&mut self, key: &ItemKey, said: &Said) -> Result<Option<Vec<u8>>, FrameFault> {
        self.message_of(key, said.items.get(key).cloned())
    }

    /// Returns the message that says that a thing is this, or that it is gone.
    ///
    /// # Errors
    /// Fails if it is a document that is larger than a message may be.
    pub fn message_of(
        &mut self,
        key: &ItemKey,
        item: Option<Item>,
    ) -> Result<Option<Vec<u8>>, FrameFault> {
        // What was held counts once: from now on the receiver has what it is sent.
        let held = self.held.remove(key);
        let Some(item) = item else {
            return frame(&ToGateway::Gone(key.clone())).map(Some);
        };
        let bytes = match (frame(&ToGateway::Item(Box::new(item))), key) {
            (Err(FrameFault::TooLarge(length)), ItemKey::Fact(reference)) => {
                let why = format!("is too large to be handed to the gateway: {length} bytes");
                let fact = Item::Fact(reference.clone(), Fact::Unreadable(why));
                frame(&ToGateway::Item(Box::new(fact)))?
            }
            (bytes, _) => bytes?,
        };
        let digest = ItemDigest::of(frame::body(&bytes));
        Ok((held != Some(digest)).then_some(bytes))
    }
}

#[cfg(test)]
impl Said {
    /// Returns a thing as JSON, to compare it.
    pub(super) fn items_json(&self, key: &ItemKey) -> Option<String> {
        serde_json::to_string(self.items.get(key)?).ok()
    }
}
