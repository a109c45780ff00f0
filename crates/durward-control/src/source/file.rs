//! Files and directories become `Resources`: documents parsed, and the files they refer to read.
//!
//! Deliberately absent: watching, and any write.

mod named;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::file_roots::FileRoots;
use crate::named_file::{Digest, NamedFile};
use crate::resources::{Content, Document, FileBytes, MISSING, Resources, Source, Unreadable};
use crate::source::read::Reader;
use crate::source::regular::{FileKind, reason};
use crate::source::shares::BUDGET;
use crate::spec::document::{self, Part};
use crate::spec::routing_json::{self, ROUTING_JSON, RoutingJsonOptions};
use crate::spec::{port_mapping, tenant, toml};
use crate::state::Text;
use named::{Reference, referenced};

/// Names of files that are read from a directory end so.
const ENDINGS: [&str; 4] = ["yaml", "yml", "json", "toml"];

/// Reads configuration from files; what has not changed since the last load is neither read nor parsed again.
#[derive(Debug)]
pub struct FileSource {
    options: RoutingJsonOptions,
    roots: Arc<FileRoots>,
    memory: Mutex<Memory>,
    usage: Mutex<Usage>,
}

/// Memory that the files named by documents have taken in the last load, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of them that are held.
    pub named_bytes: u64,
    /// Files left out because all named files together are too large.
    pub over_budget: u64,
}

/// How the kind of a document's text is told, and how it is read.
type Grammar = (fn(&str) -> &'static str, fn(&Source) -> Content);

#[derive(Debug, Default)]
struct Memory {
    reader: Reader,
    files: HashMap<PathBuf, Known>,
    /// How often everything was read.
    turn: u64,
}

/// What a file says.
#[derive(Clone, Debug)]
struct Known {
    digest: Digest,
    documents: Vec<Document>,
    /// The files its documents refer to.
    references: Arc<[Reference]>,
    /// The last turn it was read in.
    turn: u64,
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
            options,
            roots: Arc::default(),
            memory: Mutex::default(),
            usage: Mutex::default(),
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

    /// Everything in `paths`: files as they are, directories with their `*.yaml`, `*.yml`, `*.json` and `*.toml` files in order of name.
    ///
    /// A path that cannot be read is an unreadable file of the result, never an error for the rest. Performs blocking I/O.
    pub fn load(&self, paths: &[PathBuf]) -> Resources {
        self.load_in_turn(paths).0
    }

    /// The same, and the number by which [`Self::is_current`] knows it.
    pub(super) fn load_in_turn(&self, paths: &[PathBuf]) -> (Resources, u64) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Memory { reader, files, turn } = &mut *memory;
        *turn += 1;
        reader.begin();
        let mut load = Load {
            options: &self.options,
            roots: &self.roots,
            turn: *turn,
            reader,
            files,
            references: Vec::new(),
            resources: Resources::default(),
            over_budget: 0,
        };
        for path in paths {
            load.path(path);
        }
        load.referenced(BUDGET);
        let Load { resources, over_budget, .. } = load;
        files.retain(|_, known| known.turn == *turn);
        reader.finish();
        let named_bytes = resources.files.values().flatten().map(NamedFile::held).sum();
        *self.usage() = Usage { named_bytes, over_budget };
        (resources, *turn)
    }

    /// Returns the documents in texts that were in files once, each with the position of its text.
    pub(crate) fn parse_again(&self, texts: &[Text]) -> Vec<(usize, Document)> {
        let (mut reader, mut files) = (Reader::default(), HashMap::new());
        let load = self.empty(&mut reader, &mut files);
        let documents = texts.iter().enumerate();
        documents
            .flat_map(|(at, text)| load.restored(text).into_iter().map(move |one| (at, one)))
            .collect()
    }

    /// Returns the documents with the files they refer to. Performs blocking I/O.
    pub(crate) fn with_references(&self, documents: Vec<Document>) -> Resources {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Memory { reader, files, .. } = &mut *memory;
        reader.begin();
        let mut load = self.empty(reader, files);
        load.references.push(documents.iter().flat_map(referenced).collect());
        load.resources.documents = documents;
        load.referenced(BUDGET);
        let resources = load.resources;
        reader.finish();
        resources
    }

    fn empty<'a>(
        &'a self,
        reader: &'a mut Reader,
        files: &'a mut HashMap<PathBuf, Known>,
    ) -> Load<'a> {
        Load {
            options: &self.options,
            roots: &self.roots,
            turn: 0,
            reader,
            files,
            references: Vec::new(),
            resources: Resources::default(),
            over_budget: 0,
        }
    }

    /// Lets the bytes of files go. A later load reads them again.
    pub fn release(&self, files: &[Arc<Path>]) {
        if files.is_empty() {
            return;
        }
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let released: u64 = files.iter().map(|path| memory.reader.release(path)).sum();
        let mut usage = self.usage();
        usage.named_bytes = usage.named_bytes.saturating_sub(released);
    }

    /// The memory that the files named by documents take.
    #[must_use]
    pub fn usage_now(&self) -> Usage {
        *self.usage()
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the load of this number was the last one, and another would find the same. Performs blocking I/O, but much less of it.
    pub(super) fn is_current(&self, turn: u64) -> bool {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.turn == turn && memory.reader.is_current()
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
    resources: Resources,
    over_budget: u64,
}

impl Load<'_> {
    fn path(&mut self, path: &Path) {
        if !path.is_dir() {
            self.file(path);
            return;
        }
        match self.documents_in(path) {
            Err(error) => self.unreadable(path, reason(&error)),
            Ok(files) => {
                for file in files {
                    self.entry(&file);
                }
            }
        }
    }

    /// The files of a directory that hold documents, in order of name.
    fn documents_in(&mut self, directory: &Path) -> std::io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for (name, is_file) in &*self.reader.names(directory)? {
            if !holds_documents(Path::new(name)) {
                continue;
            }
            let path = directory.join(name);
            if *is_file || !path.is_dir() {
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
        let gone = |reason: &str| reason == MISSING && fs::symlink_metadata(path).is_err();
        match self.reader.read(path, FileKind::Document) {
            Err(reason) if gone(&reason) => {}
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
        let known = self.files.get_mut(path);
        if let Some(known) = known.filter(|known| known.digest == *file.digest()) {
            known.turn = turn;
            self.resources.documents.extend_from_slice(&known.documents);
            self.references.push(Arc::clone(&known.references));
            return;
        }
        let Some(bytes) = file.bytes() else { return };
        let former = self.files.get(path).map_or(&[][..], |known| &known.documents);
        match self.documents(path, bytes, former) {
            Ok(documents) => {
                let references = documents.iter().flat_map(referenced).collect();
                let known = Known { digest: *file.digest(), documents, references, turn };
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
        former: &[Document],
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

    fn text(&self, path: &Path, text: &str, former: &[Document]) -> Vec<Document> {
        let file: Arc<str> = Arc::from(path.display().to_string());
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        if path.file_name().is_some_and(|name| name == ROUTING_JSON) {
            let bases = self.routing_bases(directory);
            let (text, roots) = (Arc::from(text), Arc::clone(self.roots));
            let source = Source { file, text, first_line: 1, bases, roots, ..Source::default() };
            return routing_json::parse(source, self.options);
        }
        let former = former.iter().map(|document| (&*document.source.text, document)).collect();
        let parser = Parser { file, directory, roots: self.roots, former };
        if path.extension().is_some_and(|ending| ending == "toml") {
            vec![parser.document(Part { text, first_line: 1 }, (toml::kind, toml::content))]
        } else {
            let parts = document::split(text).into_iter();
            parts.map(|part| parser.document(part, (document::kind, document::content))).collect()
        }
    }

    /// The documents in a text that was in a file once.
    fn restored(&self, text: &Text) -> Vec<Document> {
        let path = Path::new(&*text.file);
        let is_whole = path.file_name().is_some_and(|name| name == ROUTING_JSON)
            || path.extension().is_some_and(|ending| ending == "toml");
        if is_whole {
            return self.text(path, &text.text, &[]);
        }
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        let file = Arc::clone(&text.file);
        let parser = Parser { file, directory, roots: self.roots, former: HashMap::new() };
        let part = Part { text: &text.text, first_line: text.first_line };
        vec![parser.document(part, (document::kind, document::content))]
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
}

impl Parser<'_> {
    fn document(&self, part: Part<'_>, (kind, parse): Grammar) -> Document {
        let former = self.former.get(part.text);
        if let Some(same) = former.filter(|former| former.source.first_line == part.first_line) {
            return Document::clone(same);
        }
        // Findings about a broken document name lines, and those have moved.
        let known = former.filter(|former| !matches!(former.content, Content::Broken(_)));
        let (text, content) = match known {
            Some(known) => (Arc::clone(&known.source.text), Some(known.content.clone())),
            None => (Arc::from(part.text), None),
        };
        let kind = match &content {
            Some(Content::Tenant(_)) => tenant::KIND,
            Some(Content::Mapping(_)) => port_mapping::KIND,
            Some(Content::Broken(_)) | None => kind(&text),
        };
        let bases = vec![self.directory.clone()];
        let source = document::source(kind, &self.file, text, part.first_line, bases);
        let source = Source { roots: Arc::clone(self.roots), ..source };
        let content = content.unwrap_or_else(|| parse(&source));
        Document { source: Arc::new(source), content }
    }
}
