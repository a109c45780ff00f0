//! Limits the number of objects that a tenant may have in its namespaces. The oldest count, so the result does not depend on the order of reading.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::DocumentKey;

use crate::document::Document;

/// Place of an object among its tenant's: those whose creation is not known are the youngest.
type Age = (bool, Option<Arc<str>>, DocumentKey);

/// Objects of one tenant, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    within: BTreeSet<Age>,
    beyond: BTreeSet<Age>,
}

/// Result of counting one more object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The object counts; the youngest of those that counted before may no longer do so.
    Within(Option<DocumentKey>),
    /// The object exceeds the limit.
    Beyond,
}

impl Counted {
    /// Counts an object, where `most` may count.
    pub(super) fn add(&mut self, document: &Document, most: usize) -> Place {
        let age = age(document);
        if self.within.len() < most {
            self.within.insert(age);
            return Place::Within(None);
        }
        if self.within.last().is_none_or(|youngest| *youngest < age) {
            self.beyond.insert(age);
            return Place::Beyond;
        }
        let pushed = self.within.pop_last();
        self.within.insert(age);
        let key = pushed.as_ref().map(|(.., key)| key.clone());
        self.beyond.extend(pushed);
        Place::Within(key)
    }

    /// Forgets an object. Returns the one that counts in its place.
    pub(super) fn take(&mut self, document: &Document) -> Option<DocumentKey> {
        let age = age(document);
        if self.beyond.remove(&age) || !self.within.remove(&age) {
            return None;
        }
        let next = self.beyond.pop_first()?;
        let key = next.2.clone();
        self.within.insert(next);
        Some(key)
    }

    /// Returns whether there are no objects.
    pub(super) fn is_empty(&self) -> bool {
        self.within.is_empty() && self.beyond.is_empty()
    }
}

fn age(document: &Document) -> Age {
    (document.created.is_none(), document.created.clone(), document.key.clone())
}
