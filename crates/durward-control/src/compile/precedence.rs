//! The order in which claims are decided: among documents of files whoever holds the thing, then the oldest; among objects of a cluster the oldest.
//!
//! One rule for every kind of claim, so that no kind can be asked for in a way that another refuses. The age of an object is the API server's word, so that a
//! process that has just started, or another replica, decides as this one does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use durward_model::Kind;

use crate::document::Document;

/// Sort key of a claim; the strongest claim sorts first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Precedence {
    /// A document of a file that had the thing before.
    Holder { seniority: u64 },
    /// An object.
    Object(Arc<Age>),
    /// A document of a file that asks for what it had not.
    Newcomer { is_undated: bool, created: Option<Arc<str>>, seniority: u64 },
}

/// Age of an object, by what an API server says of it. The strongest sorts first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    /// True if it belongs to the tenant of its namespace, where the tenant's users write. What the operator writes comes before all of these, so that nobody takes
    /// from a tenant what its `Tenant` names.
    is_of_users: bool,
    created: Arc<str>,
    namespace: Option<Arc<str>>,
    kind: Kind,
    name: Arc<str>,
}

impl Age {
    /// Returns the age of the object that a document is; `None` for documents of files, and where the time of creation is not known.
    pub(crate) fn of(document: &Document) -> Option<Arc<Self>> {
        let object = document.source.object.as_ref()?;
        Some(Arc::new(Self {
            is_of_users: document.is_in_namespace_of_tenant(),
            created: document.created.clone()?,
            namespace: object.namespace.clone(),
            kind: object.kind,
            name: Arc::clone(&object.name),
        }))
    }
}

impl Precedence {
    /// Builds the key of a claim by a resource that arrived as number `seniority`; `held` says that it had the thing before.
    ///
    /// The author of a document writes `created`, so it counts only among resources none of which holds the thing.
    pub(crate) fn new(held: bool, created: Option<&Arc<str>>, seniority: u64) -> Self {
        if held {
            return Self::Holder { seniority };
        }
        Self::Newcomer { is_undated: created.is_none(), created: created.cloned(), seniority }
    }

    /// Returns the key without the order of arrival, for claims that are sorted by another order where they are of one age.
    pub(crate) fn without_seniority(mut self) -> Self {
        match &mut self {
            Self::Holder { seniority } | Self::Newcomer { seniority, .. } => *seniority = 0,
            Self::Object(_) => {}
        }
        self
    }
}

/// Returns for each key the position of the claim that wins it: of those with the same key the one with the lowest rank.
pub(crate) fn winners<K: Eq + Hash, R: Ord>(
    keys: impl ExactSizeIterator<Item = K>,
    rank: impl Fn(usize) -> R,
) -> Vec<usize> {
    let mut first: HashMap<K, usize> = HashMap::with_capacity(keys.len());
    let mut places = Vec::with_capacity(keys.len());
    let mut best: Vec<usize> = Vec::with_capacity(keys.len());
    for (at, key) in keys.enumerate() {
        let place = *first.entry(key).or_insert(at);
        places.push(place);
        best.push(at);
        if place != at && rank(at) < rank(best[place]) {
            best[place] = at;
        }
    }
    places.into_iter().map(|place| best[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn precedence(held: bool, created: Option<&str>, seniority: u64) -> Precedence {
        Precedence::new(held, created.map(Arc::from).as_ref(), seniority)
    }

    #[test]
    fn a_written_date_never_beats_a_holder() {
        let holder = precedence(true, Some("2025-01-01T00:00:00Z"), 9);

        for newcomer in [Some("1970-01-01T00:00:00Z"), Some("2025-01-01T00:00:00Z"), None] {
            assert!(holder < precedence(false, newcomer, 0), "{newcomer:?}");
        }
        assert!(precedence(true, None, 1) < precedence(true, Some("1970-01-01T00:00:00Z"), 2));
        assert!(precedence(false, Some("1970-01-01T00:00:00Z"), 2) < precedence(false, None, 1));
    }

    #[test]
    fn each_key_is_won_by_its_lowest_rank_and_equals_by_the_first() {
        let keys = ["a", "b", "a", "b", "c", "a"];
        let ranks = [2, 1, 1, 1, 0, 1];

        assert_eq!(winners(keys.iter(), |at| ranks[at]), [2, 1, 2, 1, 4, 2]);
    }
}
