//! Files and directories become documents, with the files that they refer to; of both is said what changed.
//!
//! Deliberately absent: watching, and any write.

mod named;
mod parse;
mod said;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::document::Document;
use crate::file_roots::FileRoots;
use crate::issuance::Issuance;
use crate::named_file::{Digest, FileBytes, MISSING, NamedFile};
use crate::source::inventory::Inventory;
use crate::source::patience::{Overdue, Patience, Progress};
use crate::source::read::Reader;
use crate::source::regular::FileKind;
use crate::source::shares::BUDGET;
use crate::spec::routing_json::RoutingJsonOptions;
use crate::state::Text;
use crate::store::Store;
use named::{NamedBy, referenced};
use parse::Former;
use said::Said;
pub(super) use said::Seen;

/// Names of files that are read from a directory end so.
const ENDINGS: [&str; 4] = ["yaml", "yml", "json", "toml"];

/// Reads configuration from files; what has not changed since the last load is neither read nor parsed again.
#[derive(Debug)]
pub struct FileSource {
    options: Arc<RoutingJsonOptions>,
    roots: Arc<FileRoots>,
    /// Locked while `memory` still is, so that changes are said in the order of the loads.
    said: Mutex<Said>,
    /// Result of the last [`Self::load`].
    loaded: Mutex<Store>,
    memory: Mutex<Memory>,
    patience: Patience,
    /// The number of the last load.
    turn: AtomicU64,
    health: Mutex<LoadHealth>,
}

/// State of the loads, for readiness and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadHealth {
    /// Time of the last load that read everything it was to read.
    pub succeeded: Option<SystemTime>,
    /// Time at which all files were last found to be as loaded.
    pub unchanged: Option<SystemTime>,
    /// Paths whose file system does not answer.
    pub stuck: Vec<PathBuf>,
    /// True if the last load was given up.
    pub overdue: bool,
    /// Bytes held of the files that documents name.
    pub named_bytes: u64,
    /// Files left out because all named files together are too large.
    pub over_budget: u64,
}

#[derive(Debug, Default)]
struct Memory {
    reader: Reader,
    files: HashMap<PathBuf, Known>,
    /// The number of the load it is of.
    turn: u64,
}

/// Content of a file.
#[derive(Clone, Debug)]
struct Known {
    digest: Digest,
    writable_by_all: Option<Arc<str>>,
    documents: Vec<Document>,
    /// The files its documents refer to.
    references: Arc<[NamedBy]>,
    /// The last turn it was read in.
    turn: u64,
}

/// The outcome of one load.
struct Loaded {
    found: Inventory,
    over_budget: u64,
    is_narrow: bool,
}

/// One load among others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Number, by which [`FileSource::is_current`] knows it.
    pub(super) number: u64,
    /// True if only paths that were reported as changed were read.
    pub(super) is_narrow: bool,
}

impl Default for FileSource {
    fn default() -> Self {
        Self::new(RoutingJsonOptions::default())
    }
}

impl FileSource {
    /// A source that treats `routing.json` as `options` say.
    #[must_use]
    pub fn new(options: RoutingJsonOptions) -> Self {
        let source = Self {
            options: Arc::new(options),
            roots: Arc::default(),
            said: Mutex::default(),
            loaded: Mutex::default(),
            memory: Mutex::default(),
            patience: Patience::default(),
            turn: AtomicU64::new(0),
            health: Mutex::default(),
        };
        source.with_files_from(&[])
    }

    /// Lets documents name files in these directories too, beside those in their own.
    #[must_use]
    pub fn with_files_from(mut self, directories: &[PathBuf]) -> Self {
        let here = std::env::current_dir().unwrap_or_default();
        self.roots = Arc::new(FileRoots::new(here, directories));
        self
    }

    /// Lets documents ask for certificates by ACME. Called after [`Self::with_files_from`].
    #[must_use]
    pub fn with_issuance(mut self, issuance: Issuance) -> Self {
        self.roots = Arc::new(FileRoots::clone(&self.roots).with_issuance(issuance));
        self
    }

    fn load_in_turn(
        &self,
        paths: &[PathBuf],
        changed: Option<HashSet<PathBuf>>,
    ) -> Result<(MutexGuard<'_, Memory>, Inventory, Turn), Overdue> {
        let turn = self.turn.fetch_add(1, Relaxed) + 1;
        let (options, roots) = (Arc::clone(&self.options), Arc::clone(&self.roots));
        let paths = paths.to_owned();
        let mut memory = self.memory();
        let loaded = self.patience.run(&mut *memory, move |memory, progress| {
            let Memory { reader, files, turn: last } = memory;
            *last = turn;
            reader.begin(progress, changed.as_ref());
            let mut load = Load::new((&options, &roots), turn, reader, files);
            for (rank, path) in paths.iter().enumerate() {
                load.rank = rank;
                load.path(path);
            }
            load.referenced(BUDGET);
            let Load { found, over_budget, .. } = load;
            files.retain(|_, known| known.turn == turn);
            reader.finish();
            Loaded { found, over_budget, is_narrow: reader.is_narrow() }
        });
        let mut health = self.health_now();
        health.overdue = loaded.is_err();
        health.stuck = self.patience.stuck.paths();
        let loaded = loaded?;
        if health.stuck.is_empty() {
            health.succeeded = Some(SystemTime::now());
        }
        health.unchanged = health.succeeded;
        health.over_budget = loaded.over_budget;
        health.named_bytes = loaded.found.files.values().flatten().map(NamedFile::held).sum();
        let turn = Turn { number: turn, is_narrow: loaded.is_narrow };
        drop(health);
        Ok((memory, loaded.found, turn))
    }

    /// Returns the documents in texts that were in files once, each with the position of its text.
    pub(crate) fn parse_again(&self, texts: &[Text]) -> Vec<(usize, Document)> {
        let (mut reader, mut files) = (Reader::default(), HashMap::new());
        let load = Load::new((&self.options, &self.roots), 0, &mut reader, &mut files);
        let documents = texts.iter().enumerate();
        documents
            .flat_map(|(at, text)| load.restored(text).into_iter().map(move |one| (at, one)))
            .collect()
    }

    /// Returns the documents with the files they refer to. Performs blocking I/O.
    pub(crate) fn with_references(&self, documents: Vec<Document>) -> Store {
        let (options, roots) = (Arc::clone(&self.options), Arc::clone(&self.roots));
        let wanted = documents.clone();
        let read = self.patience.run(&mut *self.memory(), move |memory, progress| {
            let Memory { reader, files, .. } = memory;
            reader.begin(progress, None);
            let mut load = Load::new((&options, &roots), 0, reader, files);
            load.references.push(wanted.iter().flat_map(referenced).collect());
            load.found.documents.clone_from(&wanted);
            load.referenced(BUDGET);
            let found = load.found;
            reader.finish();
            found
        });
        let read = read.unwrap_or_else(|Overdue| Inventory { documents, ..Inventory::default() });
        let mut store = Store::default();
        store.apply(read.since(&store));
        store
    }

    /// Returns true if the load of this number was the last one, and another would find the same. Performs blocking I/O, but much less of it.
    pub(super) fn is_current(&self, turn: u64) -> bool {
        let current = self.patience.run(&mut *self.memory(), move |memory, progress| {
            memory.turn == turn && memory.reader.is_current(progress)
        });
        let current = current.unwrap_or(false);
        let mut health = self.health_now();
        health.stuck = self.patience.stuck.paths();
        if current && health.stuck.is_empty() {
            health.unchanged = Some(SystemTime::now());
        }
        current
    }

    /// Runs other questions to the file system with the same patience; `None` when it does not answer.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Progress) -> T + Send + Sync + 'static,
    ) -> Option<T> {
        self.patience.run(&mut (), move |(), progress| question(progress)).ok()
    }

    /// Lets the bytes of files go. A later load reads them again.
    pub fn release(&self, files: &[Arc<Path>]) {
        if files.is_empty() {
            return;
        }
        let mut memory = self.memory();
        let released: u64 = files.iter().map(|path| memory.reader.release(path)).sum();
        drop(memory);
        self.said().store.release(files);
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).release(files);
        let mut health = self.health_now();
        health.named_bytes = health.named_bytes.saturating_sub(released);
    }

    /// The state of the loads.
    #[must_use]
    pub fn health(&self) -> LoadHealth {
        self.health_now().clone()
    }

    fn health_now(&self) -> MutexGuard<'_, LoadHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if a file of a directory is one of documents, by its name.
pub(super) fn holds_documents(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let ending = path.extension().and_then(|ending| ending.to_str());
    !hidden && ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

struct Load<'a> {
    options: &'a RoutingJsonOptions,
    roots: &'a Arc<FileRoots>,
    turn: u64,
    reader: &'a mut Reader,
    files: &'a mut HashMap<PathBuf, Known>,
    references: Vec<Arc<[NamedBy]>>,
    /// The directory whose files are read now, if every user may add files to it.
    writable_by_all: Option<Arc<str>>,
    /// Position of the path that is read now.
    rank: usize,
    found: Inventory,
    over_budget: u64,
}

impl<'a> Load<'a> {
    fn new(
        (options, roots): (&'a RoutingJsonOptions, &'a Arc<FileRoots>),
        turn: u64,
        reader: &'a mut Reader,
        files: &'a mut HashMap<PathBuf, Known>,
    ) -> Self {
        let (references, found) = (Vec::new(), Inventory::default());
        Self {
            options,
            roots,
            turn,
            reader,
            files,
            references,
            writable_by_all: None,
            rank: 0,
            found,
            over_budget: 0,
        }
    }

    fn path(&mut self, path: &Path) {
        self.writable_by_all = None;
        if !self.reader.is_dir(path) {
            self.file(path);
            return;
        }
        match self.documents_in(path) {
            Err(reason) => self.unreadable(path, &reason),
            Ok(files) => {
                for file in files {
                    self.entry(&file);
                }
            }
        }
    }

    /// The files of a directory that hold documents, in order of name.
    fn documents_in(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let mut files = Vec::new();
        let listing = self.reader.names(directory)?;
        if listing.writable_by_all {
            self.writable_by_all = Some(Arc::from(directory.display().to_string()));
        }
        for (name, is_file) in &*listing.names {
            if !holds_documents(Path::new(name)) {
                continue;
            }
            let path = directory.join(name);
            if *is_file || !self.reader.is_dir(&path) {
                files.push(path);
            } else {
                // It may become a file. The reason why it cannot be listed does not matter until then.
                let _ = self.reader.names(&path);
            }
        }
        Ok(files)
    }

    /// A file of a directory: one that is gone was deleted and contributes nothing.
    fn entry(&mut self, path: &Path) {
        match self.reader.read(path, FileKind::Document) {
            Err(reason) if reason == MISSING && self.reader.is_gone(path) => {}
            read => self.read(path, read),
        }
    }

    fn file(&mut self, path: &Path) {
        let read = self.reader.read(path, FileKind::Document);
        self.read(path, read);
    }

    fn read(&mut self, path: &Path, read: FileBytes) {
        let file = match read {
            Ok(file) => file,
            Err(reason) => return self.unreadable(path, &reason),
        };
        let turn = self.turn;
        let writable_by_all = match &self.writable_by_all {
            None if file.writable_by_all => Some(Arc::from(path.display().to_string())),
            directory => directory.clone(),
        };
        let known = self.files.get_mut(path);
        let is_same = |known: &&mut Known| {
            known.digest == *file.digest() && known.writable_by_all == writable_by_all
        };
        if let Some(known) = known.filter(is_same) {
            known.turn = turn;
            add(&mut self.found, self.rank, &known.documents);
            self.references.push(Arc::clone(&known.references));
            return;
        }
        let Some(bytes) = file.bytes() else { return };
        let former = self.files.get(path).map_or(&[][..], |known| &known.documents);
        match self.documents(path, bytes, (former, &writable_by_all)) {
            Ok(documents) => {
                let references = documents.iter().flat_map(referenced).collect();
                let digest = *file.digest();
                let known = Known { digest, writable_by_all, documents, references, turn };
                add(&mut self.found, self.rank, &known.documents);
                self.references.push(Arc::clone(&known.references));
                self.files.insert(path.to_owned(), known);
            }
            Err(reason) => self.unreadable(path, reason),
        }
    }

    /// Returns the documents of a file, or the reason why there are none. Documents that were in it before and are unchanged are not parsed again.
    fn documents(
        &self,
        path: &Path,
        bytes: &[u8],
        former: Former<'_>,
    ) -> Result<Vec<Document>, &'static str> {
        match std::str::from_utf8(bytes) {
            // Who writes a file in place empties it first.
            Ok(text) if text.trim().is_empty() => Err("is empty: delete it if nothing is meant"),
            Ok(text) => Ok(self.text(path, text.strip_prefix('\u{feff}').unwrap_or(text), former)),
            Err(_) => Err("is not UTF-8 text"),
        }
    }

    fn unreadable(&mut self, path: &Path, reason: &str) {
        let file = Arc::from(path.display().to_string());
        add(&mut self.found, self.rank, &[Document::unreadable(&file, reason)]);
    }
}

/// Adds the documents of a file that was found by the path at position `rank` of those that were given.
fn add(found: &mut Inventory, rank: usize, documents: &[Document]) {
    let first = found.documents.len();
    found.documents.extend_from_slice(documents);
    found.documents[first..].iter_mut().for_each(|document| document.set_rank(rank));
}

#[cfg(test)]
mod tests;
