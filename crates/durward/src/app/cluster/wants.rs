//! Effect of a change on the things that are read, because documents name them.

use std::collections::BTreeSet;

use durward_control::change::Change;
use durward_control::reference::Reference;
use durward_control::{Store, Touched};
use durward_model::DocumentKey;

/// Effect of a change on the things that are read.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Things that documents name and may have now, and did not before.
    pub(super) more: BTreeSet<Reference>,
    /// True if there may be things that are named no more.
    pub(super) less: bool,
}

impl Wants {
    /// Compares what documents name and may have in the store after a change with the same in the store before it. Looks at what the change touches only.
    pub(super) fn of(touched: &Touched, change: &Change, (before, now): (&Store, &Store)) -> Self {
        let mut wants = Self::default();
        let by = |store: &Store, key: &DocumentKey| -> BTreeSet<Reference> {
            store.document(key).into_iter().flat_map(|document| store.wanted_by(document)).collect()
        };
        for key in &touched.documents {
            wants.compare(&by(before, key), by(now, key));
        }
        // The labels of a namespace, and grants, decide which objects a document may name.
        for (reference, _) in &change.facts {
            if matches!(reference, Reference::Namespace(_) | Reference::Grant(_)) {
                wants.compare(&before.wanted_with(reference), now.wanted_with(reference));
            }
        }
        wants
    }

    fn compare(&mut self, before: &BTreeSet<Reference>, now: BTreeSet<Reference>) {
        self.less |= !before.is_subset(&now);
        self.more.extend(now.into_iter().filter(|reference| !before.contains(reference)));
    }
}
