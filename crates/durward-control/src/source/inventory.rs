//! Everything that a source has to say at one time, and what of that differs from what it said before.
//!
//! Sources that read all they have again, as that of files does, say a change in this way.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durward_model::DocumentKey;

use crate::change::{Change, Fact, Links};
use crate::document::Document;
use crate::named_file::FileBytes;
use crate::reference::Reference;
use crate::store::Store;

/// Documents and files of one source.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The documents, among them those that say that a file cannot be read.
    pub documents: Vec<Document>,
    /// The files that documents refer to.
    pub files: Arc<HashMap<Arc<Path>, FileBytes>>,
    /// Targets of symbolic links in the paths of those files.
    pub links: Arc<Links>,
}

impl Inventory {
    /// Builds what is found where no path answers.
    pub(super) fn unanswered(paths: &[PathBuf]) -> Self {
        let document = |path: &PathBuf| {
            let file = Arc::from(path.display().to_string());
            Document::unreadable(&file, "cannot be read: too many files do not answer")
        };
        Self { documents: paths.iter().map(document).collect(), ..Self::default() }
    }

    /// Returns the difference to what the source said before, which `said` holds and nothing else.
    #[must_use]
    pub fn since(&self, said: &Store) -> Change {
        let Self { documents, files, links } = self;
        let keys: HashSet<&DocumentKey> = documents.iter().map(|document| &document.key).collect();
        let gone = said.documents().map(|document| &document.key);
        let deletes: Vec<_> = gone.filter(|key| !keys.contains(key)).cloned().collect();
        let is_news = |document: &Document| {
            !said.document(&document.key).is_some_and(|known| known.is_same_as(document))
        };
        let upserts: Vec<_> = documents.iter().filter(|one| is_news(one)).cloned().collect();
        let mut facts = Vec::new();
        // Files whose bytes were released, and were read again.
        let mut again = Vec::new();
        for (path, read) in &**files {
            let reference = Reference::File(Arc::clone(path));
            let fact = Fact::from(read.clone());
            match said.fact(&reference) {
                Some(known) if *known != fact => facts.push((reference, Some(fact))),
                Some(known) if known.held() < fact.held() => again.push((reference, Some(fact))),
                Some(_) => {}
                None => facts.push((reference, Some(fact))),
            }
        }
        let gone = said.facts().filter_map(|(reference, _)| match reference {
            Reference::File(path) if !files.contains_key(path) => Some((reference.clone(), None)),
            _ => None,
        });
        facts.extend(gone);
        let links = Some(links).filter(|links| *links != said.links()).cloned();
        let mut change = Change { upserts, deletes, facts, links };
        // With any news a document that was rejected may be served, and its files are needed; without, they are not.
        if !change.is_empty() {
            change.facts.extend(again);
        }
        change
    }
}
