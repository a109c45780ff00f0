//! The documents that what is served of a tenant was made from, so that the next process can make it again.
//!
//! Most tenants have one: that of their file. Where it has mistakes, parts of earlier ones stand in, and these are remembered as long as they do.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::ListenerKey;

use super::body::Candidate;
use super::roster::{Basis, Entrant, Verdict};
use crate::document::{Document, Source};

/// The most earlier documents that are remembered of a tenant. Of more, the oldest is forgotten: what it stands in for is then not served by
/// the next process, though held.
const MOST_EARLIER: usize = 8;

/// Documents of one tenant.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServedDocuments {
    /// The last one that anything was made from.
    pub(crate) last: Option<Arc<Source>>,
    /// True if the last one lacks an upstream or a policy that an earlier one supplies.
    pub(crate) leans: bool,
    /// Those that stand in for parts of later ones, the oldest first.
    pub(crate) earlier: Vec<EarlierDocument>,
}

/// A document that was replaced by one with mistakes.
#[derive(Clone, Debug)]
pub(crate) struct EarlierDocument {
    pub(crate) source: Arc<Source>,
    /// The listeners that are still served as it says.
    pub(crate) listeners: BTreeSet<ListenerKey>,
    /// True if it lacks a part that an earlier one supplies.
    pub(crate) leans: bool,
}

impl ServedDocuments {
    /// Returns the documents after one was compiled: `standing_in` are the listeners that are served and not from it, `leans` says that it
    /// lacks other parts.
    pub(crate) fn with(
        &self,
        source: &Arc<Source>,
        standing_in: &BTreeSet<ListenerKey>,
        leans: bool,
    ) -> Self {
        let mut earlier = Vec::new();
        if leans || !standing_in.is_empty() {
            earlier.extend(self.before(source, standing_in));
        }
        for document in &mut earlier {
            document.listeners.retain(|key| standing_in.contains(key));
        }
        // One that supplies nothing stays if a later one needs more than listeners of those before it.
        let mut is_leant_on = leans;
        let mut needed: Vec<_> = earlier.into_iter().rev().collect();
        needed.retain(|document| {
            let stays = is_leant_on || !document.listeners.is_empty();
            is_leant_on |= stays && document.leans;
            stays
        });
        needed.truncate(MOST_EARLIER);
        needed.reverse();
        Self { last: Some(Arc::clone(source)), leans, earlier: needed }
    }

    /// Returns the documents before `source`. A supplied part that is from none of those before the last one is from the last one.
    fn before(
        &self,
        source: &Arc<Source>,
        standing_in: &BTreeSet<ListenerKey>,
    ) -> Vec<EarlierDocument> {
        let mut before = self.earlier.clone();
        let is_same = |last: &&Arc<Source>| last.text == source.text && last.file == source.file;
        if let Some(last) = self.last.as_ref().filter(|last| !is_same(last)) {
            let known = |key: &&ListenerKey| before.iter().any(|one| one.listeners.contains(key));
            let listeners = standing_in.iter().filter(|key| !known(key)).copied().collect();
            let (source, leans) = (Arc::clone(last), self.leans);
            before.push(EarlierDocument { source, listeners, leans });
        }
        before
    }
}

/// Writes down with a tenant the documents that its listeners are from. One whose document cannot be served stays as it was.
pub(crate) fn remember(
    entrant: &mut Entrant<'_>,
    listeners: &[Candidate],
    documents: &[&Document],
) {
    let (Basis::Document(_), Verdict::Own(at)) = (&entrant.basis, entrant.verdict) else { return };
    let Some(document) = documents.get(at) else { return };
    if entrant.past.restoring.is_some() {
        return;
    }
    let former = |candidate: &&Candidate| candidate.entry.is_none() && !candidate.is_added();
    let standing_in = listeners.iter().filter(former);
    let standing_in = standing_in.map(|candidate| candidate.listener.full_key()).collect();
    let documents = entrant.past.documents.with(&document.source, &standing_in, entrant.leans);
    entrant.past.documents = documents;
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use durward_model::transport::Transport;

    use super::*;

    fn source(text: &str) -> Arc<Source> {
        Arc::new(Source { text: Arc::from(text), ..Source::default() })
    }

    fn keys(ports: &[u16]) -> BTreeSet<ListenerKey> {
        ports.iter().map(|port| (IpAddr::from([198, 51, 100, 1]), *port, Transport::Tcp)).collect()
    }

    fn texts(documents: &ServedDocuments) -> Vec<&str> {
        let earlier = documents.earlier.iter().map(|document| &*document.source.text);
        earlier.chain(documents.last.as_deref().map(|last| &*last.text)).collect()
    }

    #[test]
    fn a_document_is_remembered_as_long_as_it_stands_in_for_something() {
        let first = ServedDocuments::default().with(&source("a"), &keys(&[]), false);
        let second = first.with(&source("b"), &keys(&[1, 2]), false);
        let third = second.with(&source("c"), &keys(&[1, 3]), false);

        assert_eq!(texts(&second), ["a", "b"]);
        assert_eq!(texts(&third), ["a", "b", "c"]);
        assert_eq!(third.earlier[0].listeners, keys(&[1]));
        assert_eq!(third.earlier[1].listeners, keys(&[3]));
        let again = third.with(&source("c"), &keys(&[1, 3]), false);
        assert_eq!(texts(&again), texts(&third));
        assert_eq!(texts(&third.with(&source("d"), &keys(&[3]), false)), ["b", "d"]);
        assert_eq!(texts(&third.with(&source("d"), &keys(&[]), false)), ["d"]);
    }

    #[test]
    fn what_a_document_lacks_beside_listeners_keeps_those_before_it() {
        let first = ServedDocuments::default().with(&source("a"), &keys(&[]), false);
        let second = first.with(&source("b"), &keys(&[]), true);
        let third = second.with(&source("c"), &keys(&[1]), false);

        assert_eq!(texts(&second), ["a", "b"]);
        assert_eq!(texts(&third), ["a", "b", "c"], "b stands in, and a for what b lacks");
        assert_eq!(texts(&second.with(&source("c"), &keys(&[]), false)), ["c"]);
    }

    #[test]
    fn edits_without_end_do_not_fill_memory() {
        let mut documents = ServedDocuments::default();
        for edit in 0..100 {
            documents = documents.with(&source(&edit.to_string()), &keys(&[]), true);
        }

        assert_eq!(documents.earlier.len(), MOST_EARLIER);
        assert_eq!(texts(&documents)[MOST_EARLIER], "99");
    }
}
