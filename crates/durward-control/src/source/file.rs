//! Files and directories become `Resources`: documents parsed, and the files they refer to read.
//!
//! Deliberately absent: watching, and any write.

mod named;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use durward_model::Kind;

use crate::file_roots::FileRoots;
use crate::issuance::Issuance;
use crate::named_file::{Digest, NamedFile};
use crate::resources::{Content, Document, FileBytes, MISSING, Resources, Source, Unreadable};
use crate::source::patience::{Overdue, Patience, Progress};
use crate::source::read::Reader;
use crate::source::regular::FileKind;
use crate::source::shares::BUDGET;
use crate::spec::document::{self, Part};
use crate::spec::routing_json::{self, ROUTING_JSON, RoutingJsonOptions};
use crate::spec::toml;
use crate::state::Text;
use named::{Reference, referenced};

/// Names of files that are read from a directory end so.
const ENDINGS: [&str; 4] = ["yaml", "yml", "json", "toml"];

/// Reads configuration from files; what has not changed since the last load is neither read nor parsed again.
#[derive(Debug)]
pub struct FileSource {
    options: Arc<RoutingJsonOptions>,
    roots: Arc<FileRoots>,
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

/// The documents that were in a file before, and the path through which every user could change them now.
type Former<'a> = (&'a [Document], &'a Option<Arc<str>>);

/// How the kind of a document's text is told, and how it is read.
type Grammar = (fn(&str) -> Kind, fn(&Source) -> Content);

#[derive(Debug, Default)]
struct Memory {
    reader: Reader,
    files: HashMap<PathBuf, Known>,
    /// The number of the load it is of.
    turn: u64,
}

/// What a file says.
#[derive(Clone, Debug)]
struct Known {
    digest: Digest,
    writable_by_all: Option<Arc<str>>,
    documents: Vec<Document>,
    /// The files its documents refer to.
    references: Arc<[Reference]>,
    /// The last turn it was read in.
    turn: u64,
}

/// The outcome of one load.
struct Loaded {
    resources: Resources,
    over_budget: u64,
    is_narrow: bool,
}

/// One load among others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Its number, by which [`FileSource::is_current`] knows it.
    pub(super) number: u64,
    /// True if only what was said to have changed was looked at.
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

    /// Everything in `paths`: files as they are, directories with their `*.yaml`, `*.yml`, `*.json` and `*.toml` files in order of name.
    ///
    /// A path that cannot be read is an unreadable file of the result, never an error for the rest. Performs blocking I/O.
    pub fn load(&self, paths: &[PathBuf]) -> Resources {
        match self.load_in_turn(paths, None) {
            Ok((resources, _)) => resources,
            Err(Overdue) => {
                let unreadable = paths.iter().map(|path| Unreadable {
                    file: Arc::from(path.display().to_string()),
                    reason: "cannot be read: too many files do not answer".to_owned(),
                });
                Resources { unreadable: unreadable.collect(), ..Resources::default() }
            }
        }
    }

    /// The same, and which load it was. If `changed` names everything that has changed since the last load, only
    /// that is looked at, and the names in directories.
    pub(super) fn load_in_turn(
        &self,
        paths: &[PathBuf],
        changed: Option<HashSet<PathBuf>>,
    ) -> Result<(Resources, Turn), Overdue> {
        let turn = self.turn.fetch_add(1, Relaxed) + 1;
        let (options, roots) = (Arc::clone(&self.options), Arc::clone(&self.roots));
        let paths = paths.to_owned();
        let loaded = self.patience.run(&mut *self.memory(), move |memory, progress| {
            let Memory { reader, files, turn: last } = memory;
            *last = turn;
            reader.begin(progress, changed.as_ref());
            let mut load = Load::new((&options, &roots), turn, reader, files);
            for path in &paths {
                load.path(path);
            }
            load.referenced(BUDGET);
            let Load { resources, over_budget, .. } = load;
            files.retain(|_, known| known.turn == turn);
            reader.finish();
            Loaded { resources, over_budget, is_narrow: reader.is_narrow() }
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
        health.named_bytes = loaded.resources.files.values().flatten().map(NamedFile::held).sum();
        Ok((loaded.resources, Turn { number: turn, is_narrow: loaded.is_narrow }))
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
    pub(crate) fn with_references(&self, documents: Vec<Document>) -> Resources {
        let (options, roots) = (Arc::clone(&self.options), Arc::clone(&self.roots));
        let wanted = documents.clone();
        let read = self.patience.run(&mut *self.memory(), move |memory, progress| {
            let Memory { reader, files, .. } = memory;
            reader.begin(progress, None);
            let mut load = Load::new((&options, &roots), 0, reader, files);
            load.references.push(wanted.iter().flat_map(referenced).collect());
            load.resources.documents.clone_from(&wanted);
            load.referenced(BUDGET);
            let resources = load.resources;
            reader.finish();
            resources
        });
        read.unwrap_or_else(|Overdue| Resources { documents, ..Resources::default() })
    }

    /// Whether the load of this number was the last one, and another would find the same. Performs blocking I/O, but much less of it.
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

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file of a directory is one of documents, by its name.
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
    references: Vec<Arc<[Reference]>>,
    /// The directory whose files are read now, if every user may add files to it.
    writable_by_all: Option<Arc<str>>,
    resources: Resources,
    over_budget: u64,
}

impl<'a> Load<'a> {
    fn new(
        (options, roots): (&'a RoutingJsonOptions, &'a Arc<FileRoots>),
        turn: u64,
        reader: &'a mut Reader,
        files: &'a mut HashMap<PathBuf, Known>,
    ) -> Self {
        let (references, resources) = (Vec::new(), Resources::default());
        Self {
            options,
            roots,
            turn,
            reader,
            files,
            references,
            writable_by_all: None,
            resources,
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
            Err(reason) => self.unreadable(path, reason),
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
                // It may be a file's one day. Why it cannot be listed is nobody's business until then.
                let _ = self.reader.names(&path);
            }
        }
        Ok(files)
    }

    /// A file of a directory: one that is gone by now was deleted, and says nothing.
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
            Err(reason) => return self.unreadable(path, reason),
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
            self.resources.documents.extend_from_slice(&known.documents);
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
                self.resources.documents.extend_from_slice(&known.documents);
                self.references.push(Arc::clone(&known.references));
                self.files.insert(path.to_owned(), known);
            }
            Err(reason) => self.unreadable(path, reason.to_owned()),
        }
    }

    /// What a file says, or why it says nothing. Documents that were in it before and are unchanged are not parsed again.
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

    fn unreadable(&mut self, path: &Path, reason: String) {
        let file = Arc::from(path.display().to_string());
        self.resources.unreadable.push(Unreadable { file, reason });
    }

    fn text(&self, path: &Path, text: &str, (former, writable): Former<'_>) -> Vec<Document> {
        let file: Arc<str> = Arc::from(path.display().to_string());
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        if path.file_name().is_some_and(|name| name == ROUTING_JSON) {
            let bases = self.routing_bases(directory);
            let (text, roots) = (Arc::from(text), Arc::clone(self.roots));
            let writable_by_all = writable.clone();
            let source = Source { file, text, first_line: 1, bases, roots, ..Source::default() };
            let source = Source { writable_by_all, ..source };
            return routing_json::parse(source, self.options);
        }
        let former = former.iter().map(|document| (&*document.source.text, document)).collect();
        let writable_by_all = writable.clone();
        let parser = Parser { file, directory, roots: self.roots, former, writable_by_all };
        if path.extension().is_some_and(|ending| ending == "toml") {
            vec![parser.document(0, Part { text, first_line: 1 }, (toml::kind, toml::content))]
        } else {
            let parts = document::split(text).into_iter().enumerate();
            let document = |(position, part)| {
                parser.document(position, part, (document::kind, document::content))
            };
            parts.map(document).collect()
        }
    }

    /// The documents in a text that was in a file once.
    fn restored(&self, text: &Text) -> Vec<Document> {
        let path = Path::new(&*text.file);
        let is_whole = path.file_name().is_some_and(|name| name == ROUTING_JSON)
            || path.extension().is_some_and(|ending| ending == "toml");
        if is_whole {
            return self.text(path, &text.text, (&[], &None));
        }
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        let file = Arc::clone(&text.file);
        let parser = Parser {
            file,
            directory,
            roots: self.roots,
            former: HashMap::new(),
            writable_by_all: None,
        };
        let part = Part { text: &text.text, first_line: text.first_line };
        vec![parser.document(0, part, (document::kind, document::content))]
    }

    /// Beside the file, in `certs` beside its directory, and where the options say.
    fn routing_bases(&self, directory: PathBuf) -> Vec<PathBuf> {
        let certs = directory.join("..").join("certs");
        [directory, certs].into_iter().chain(self.options.certs_dir.clone()).collect()
    }
}

/// Parses the documents of one file.
struct Parser<'a> {
    file: Arc<str>,
    directory: PathBuf,
    roots: &'a Arc<FileRoots>,
    /// What was in it before, by text.
    former: HashMap<&'a str, &'a Document>,
    writable_by_all: Option<Arc<str>>,
}

impl Parser<'_> {
    fn document(&self, position: usize, part: Part<'_>, (kind, parse): Grammar) -> Document {
        let former = self.former.get(part.text);
        let stands = |former: &&&Document| {
            former.source.first_line == part.first_line
                && former.source.writable_by_all == self.writable_by_all
        };
        if let Some(same) = former.filter(stands) {
            let mut same = Document::clone(same);
            same.set_position(position);
            return same;
        }
        // Findings about a broken document name lines, and those have moved.
        let known = former.filter(|former| !matches!(former.content, Content::Broken(_)));
        let (text, content) = match known {
            Some(known) => (Arc::clone(&known.source.text), Some(known.content.clone())),
            None => (Arc::from(part.text), None),
        };
        let kind = match &content {
            Some(Content::Tenant(_)) => Kind::Tenant,
            Some(Content::Mapping(_)) => Kind::PortMapping,
            Some(Content::Broken(_)) | None => kind(&text),
        };
        let bases = vec![self.directory.clone()];
        let source = document::source(kind, &self.file, text, part.first_line, bases);
        let writable_by_all = self.writable_by_all.clone();
        let source = Source { roots: Arc::clone(self.roots), writable_by_all, ..source };
        let content = content.unwrap_or_else(|| parse(&source));
        Document::of_file(position, source, content)
    }
}

#[cfg(test)]
mod tests;
