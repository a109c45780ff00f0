//! What was said of a cluster, and the last revision of each object of which something was served.

use std::collections::{BTreeMap, BTreeSet};

use durward_control::change::Change;
use durward_control::document::Document;
use durward_control::stream::{Item, ItemKey, ObjectReport, Said};
use durward_model::ResourceId;

use super::Begun;

/// Everything that was said, and what of it was served last.
#[derive(Default)]
pub(crate) struct Record {
    said: Said,
    /// The last revision of each object of which something was served.
    accepted: BTreeMap<ResourceId, Document>,
    /// Objects whose last served revision is not the present one.
    differing: BTreeSet<ResourceId>,
}

impl Record {
    /// Takes in everything that was read first.
    pub(crate) fn begin(&mut self, begun: &Begun) {
        self.take(begun.change.clone());
        self.note_former(begun.former.clone());
    }

    /// Takes in a change, and returns the names of what it is about.
    pub(crate) fn take(&mut self, change: Change) -> BTreeSet<ItemKey> {
        let touched = self.said.take(change);
        for key in &touched {
            if let ItemKey::Document(id) = key {
                self.compare(id);
            }
        }
        touched
    }

    /// Notes what became of an object.
    pub(crate) fn note(&mut self, report: &ObjectReport) {
        let Some(document) = self.said.document(&report.id) else { return };
        if report.is_served() && document.revision == report.observed {
            self.accepted.insert(report.id.clone(), document.clone());
            self.compare(&report.id);
        }
    }

    /// Returns everything that was said.
    pub(crate) fn said(&self) -> &Said {
        &self.said
    }

    /// Returns the objects whose last served revision is another than the present one.
    pub(crate) fn differing(&self) -> &BTreeSet<ResourceId> {
        &self.differing
    }

    /// Returns the last served revision of an object that is another now.
    pub(crate) fn former(&self, id: &ResourceId) -> Option<&Document> {
        self.differing.get(id).and_then(|id| self.accepted.get(id))
    }

    /// Returns all last served revisions of objects that are another now.
    pub(crate) fn all_former(&self) -> Vec<Document> {
        self.differing.iter().filter_map(|id| self.accepted.get(id).cloned()).collect()
    }

    /// Returns everything that was said, each object as it was served last, or as it is if it never was.
    pub(crate) fn served(&self) -> Vec<Item> {
        let items = self.said.items().map(|(key, item)| match key {
            ItemKey::Document(id) => match self.former(id) {
                Some(former) => Item::Document(former.clone()),
                None => item.clone(),
            },
            ItemKey::Fact(_) => item.clone(),
        });
        items.collect()
    }

    /// Takes in last served revisions that are known elsewhere, of objects of which nothing is known here.
    pub(crate) fn note_former(&mut self, former: Vec<Document>) {
        for document in former {
            let Some(id) = document.key.object().cloned() else { continue };
            self.accepted.entry(id.clone()).or_insert(document);
            self.compare(&id);
        }
    }

    /// Notes whether an object is another now than it was when it was served last.
    fn compare(&mut self, id: &ResourceId) {
        let (now, before) = (self.said.document(id), self.accepted.get(id));
        let differs = match (now, before) {
            (Some(now), Some(before)) if now.revision.uid == before.revision.uid => {
                now.revision != before.revision
            }
            // It is gone, or is another one of its name.
            _ => {
                self.accepted.remove(id);
                false
            }
        };
        if differs {
            self.differing.insert(id.clone());
        } else {
            self.differing.remove(id);
        }
    }
}
