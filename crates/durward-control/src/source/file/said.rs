//! Reports what was found in files: to a feed the changes since the last report, or all of it to a caller that reads once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use super::{FileSource, Turn};
use crate::change::Change;
use crate::feed::Feed;
use crate::named_file::NamedFile;
use crate::reference::Reference;
use crate::source::inventory::Inventory;
use crate::source::patience::Overdue;
use crate::store::Store;

/// State that was reported last.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) store: Store,
    /// Files that this process wrote, with the number of the last load that may have read what was in them before.
    written: HashMap<Arc<Path>, u64>,
}

impl Said {
    /// Returns what a load found that was not said yet.
    pub(super) fn news(&mut self, found: &Inventory, turn: u64) -> Change {
        self.written.retain(|_, last| turn <= *last);
        let mut change = found.since(&self.store);
        // What the load has read of these may be from before they were written.
        change.facts.retain(|(reference, fact)| match reference {
            Reference::File(path) => fact.is_none() || !self.written.contains_key(path),
            _ => true,
        });
        self.store.apply(change.clone());
        change
    }
}

/// Result of one scan of the files.
#[derive(Debug)]
pub(in crate::source) struct Seen {
    /// All that was found.
    pub(in crate::source) found: Arc<Inventory>,
    /// True if it is not what was said before.
    pub(in crate::source) is_news: bool,
    pub(in crate::source) turn: Turn,
}

impl FileSource {
    /// Returns everything in `paths`: files as they are, directories with their `*.yaml`, `*.yml`, `*.json` and `*.toml` files in order of name.
    ///
    /// A path that cannot be read is a broken document of the result, never an error for the rest. Says nothing to any feed. Performs blocking
    /// I/O.
    pub fn load(&self, paths: &[PathBuf]) -> Store {
        let loaded = || self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, mut store) = match self.load_in_turn(paths, None) {
            Ok((_memory, found, _)) => (found, loaded()),
            Err(Overdue) => (Inventory::unanswered(paths), loaded()),
        };
        let change = found.since(&store);
        store.apply(change);
        store.clone()
    }

    /// Reads everything in `paths`, and says what is not as it was said last. Performs blocking I/O.
    pub fn look(&self, paths: &[PathBuf], feed: &Feed) {
        if let Err(Overdue) = self.look_in_turn(paths, None, feed, |_| ()) {
            let mut said = self.said();
            let change = said.news(&Inventory::unanswered(paths), 0);
            feed.say(change);
        }
    }

    /// Says what this process wrote into files, as far as documents refer to them; `None` for those it removed. A load that began before does
    /// not bring the former content back.
    pub fn say_written(&self, files: &[(&Path, Option<&[u8]>)], feed: &Feed) {
        let written = files
            .iter()
            .map(|(path, bytes)| (*path, bytes.map(|bytes| NamedFile::new(bytes.to_vec()))));
        let written: Vec<_> = written.collect();
        let mut said = self.said();
        let files = written.iter().map(|(path, file)| (*path, file.as_ref()));
        let change = said.store.with_files(files);
        let last = self.turn.load(Relaxed);
        for (reference, _) in &change.facts {
            if let Reference::File(path) = reference {
                said.written.insert(Arc::clone(path), last);
            }
        }
        said.store.apply(change.clone());
        feed.say(change);
    }

    /// Does the same; before anything is said, `meanwhile` is called with what was found. If `changed` names everything that has changed since
    /// the last load, only that is looked at, and the names in directories. A load that is given up says nothing.
    pub(in crate::source) fn look_in_turn(
        &self,
        paths: &[PathBuf],
        changed: Option<HashSet<PathBuf>>,
        feed: &Feed,
        meanwhile: impl FnOnce(&Arc<Inventory>),
    ) -> Result<Seen, Overdue> {
        let (memory, found, turn) = self.load_in_turn(paths, changed)?;
        let found = Arc::new(found);
        meanwhile(&found);
        let mut said = self.said();
        drop(memory);
        let change = said.news(&found, turn.number);
        let is_news = !change.is_empty();
        // The load has read them again.
        let released = if is_news { Vec::new() } else { said.store.released() };
        // Said before the lock is given up: a later load must not be heard of first.
        feed.say(change);
        drop(said);
        self.release(&released);
        Ok(Seen { found, is_news, turn })
    }
}
