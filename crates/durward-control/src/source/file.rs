//! Files and directories become `Resources`: documents parsed, and the files they refer to read.
//!
//! Deliberately absent: watching, and any write.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::resources::{Content, Document, MISSING, Resources, Source, Unreadable};
use crate::source::read::{Reader, reason};
use crate::spec::document::{self, Part};
use crate::spec::references::references;
use crate::spec::routing_json::{self, ROUTING_JSON, RoutingJsonOptions};
use crate::spec::{port_mapping, tenant, toml};

/// Names of files that are read from a directory end so.
const ENDINGS: [&str; 4] = ["yaml", "yml", "json", "toml"];

/// Reads configuration from files; what has not changed since the last load is neither read nor parsed again.
#[derive(Debug, Default)]
pub struct FileSource {
    options: RoutingJsonOptions,
    memory: Mutex<Memory>,
}

/// How the kind of a document's text is told, and how it is read.
type Grammar = (fn(&str) -> &'static str, fn(&Source) -> Content);

#[derive(Debug, Default)]
struct Memory {
    reader: Reader,
    parsed: HashMap<Arc<str>, Content>,
}

impl FileSource {
    /// A source that treats `routing.json` as `options` say.
    #[must_use]
    pub fn new(options: RoutingJsonOptions) -> Self {
        Self { options, memory: Mutex::default() }
    }

    /// Everything in `paths`: files as they are, directories with their `*.yaml`, `*.yml`, `*.json` and `*.toml` files in order of name.
    ///
    /// A path that cannot be read is an unreadable file of the result, never an error for the rest. Performs blocking I/O.
    pub fn load(&self, paths: &[PathBuf]) -> Resources {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Memory { reader, parsed } = &mut *memory;
        let mut load = Load {
            options: &self.options,
            reader,
            known: std::mem::take(parsed),
            parsed: HashMap::new(),
            resources: Resources::default(),
        };
        for path in paths {
            load.path(path);
        }
        load.referenced();
        let Load { parsed: fresh, resources, .. } = load;
        memory.parsed = fresh;
        memory.reader.finish();
        resources
    }
}

/// Whether a file of a directory is one of documents, by its name.
pub(super) fn holds_documents(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let ending = path.extension().and_then(|ending| ending.to_str());
    !hidden && ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

/// The files of a directory that hold documents, in order of name.
fn documents_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if holds_documents(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Load<'a> {
    options: &'a RoutingJsonOptions,
    reader: &'a mut Reader,
    known: HashMap<Arc<str>, Content>,
    parsed: HashMap<Arc<str>, Content>,
    resources: Resources,
}

impl Load<'_> {
    fn path(&mut self, path: &Path) {
        if !path.is_dir() {
            self.file(path);
            return;
        }
        match documents_in(path) {
            Err(error) => self.unreadable(path, reason(&error)),
            Ok(files) => {
                for file in files {
                    self.entry(&file);
                }
            }
        }
    }

    /// A file of a directory: one that is gone by now was deleted, and says nothing.
    fn entry(&mut self, path: &Path) {
        let gone = |reason: &str| reason == MISSING && fs::symlink_metadata(path).is_err();
        match self.reader.read(path) {
            Err(reason) if gone(&reason) => {}
            read => self.read(path, read),
        }
    }

    fn file(&mut self, path: &Path) {
        let read = self.reader.read(path);
        self.read(path, read);
    }

    fn read(&mut self, path: &Path, read: Result<Arc<[u8]>, String>) {
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(reason) => return self.unreadable(path, reason),
        };
        match std::str::from_utf8(&bytes) {
            // Who writes a file in place empties it first.
            Ok(text) if text.trim().is_empty() => {
                self.unreadable(path, "is empty: delete it if nothing is meant".to_owned());
            }
            Ok(text) => self.text(path, text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(_) => self.unreadable(path, "is not UTF-8 text".to_owned()),
        }
    }

    fn unreadable(&mut self, path: &Path, reason: String) {
        let file = Arc::from(path.display().to_string());
        self.resources.unreadable.push(Unreadable { file, reason });
    }

    fn text(&mut self, path: &Path, text: &str) {
        let file: Arc<str> = Arc::from(path.display().to_string());
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        if path.file_name().is_some_and(|name| name == ROUTING_JSON) {
            let bases = self.routing_bases(directory);
            let source =
                Source { file, text: Arc::from(text), first_line: 1, bases, ..Source::default() };
            self.resources.documents.extend(routing_json::parse(source, self.options));
        } else if path.extension().is_some_and(|ending| ending == "toml") {
            let part = Part { text, first_line: 1 };
            self.document(&file, part, &directory, (toml::kind, toml::content));
        } else {
            for part in document::split(text) {
                self.document(&file, part, &directory, (document::kind, document::content));
            }
        }
    }

    /// Beside the file, in `certs` beside its directory, and where the options say.
    fn routing_bases(&self, directory: PathBuf) -> Vec<PathBuf> {
        let certs = directory.join("..").join("certs");
        [directory, certs].into_iter().chain(self.options.certs_dir.clone()).collect()
    }

    fn document(
        &mut self,
        file: &Arc<str>,
        part: Part<'_>,
        directory: &Path,
        (kind, parse): Grammar,
    ) {
        let known = self
            .known
            .get_key_value(part.text)
            .map(|(text, content)| (Arc::clone(text), content.clone()));
        let (text, content) = known
            .map_or_else(|| (Arc::from(part.text), None), |(text, content)| (text, Some(content)));
        let kind = match &content {
            Some(Content::Tenant(_)) => tenant::KIND,
            Some(Content::Mapping(_)) => port_mapping::KIND,
            Some(Content::Broken(_)) | None => kind(&text),
        };
        let bases = vec![directory.to_owned()];
        let source = document::source(kind, file, text, part.first_line, bases);
        let content = content.unwrap_or_else(|| parse(&source));
        if !matches!(content, Content::Broken(_)) {
            self.parsed.insert(Arc::clone(&source.text), content.clone());
        }
        self.resources.documents.push(Document { source: Arc::new(source), content });
    }

    /// Reads what the documents refer to.
    fn referenced(&mut self) {
        for document in &self.resources.documents {
            let Content::Tenant(tenant) = &document.content else { continue };
            for name in references(&tenant.spec) {
                for path in document.source.candidates(&name) {
                    let reader = &mut *self.reader;
                    self.resources.files.entry(path).or_insert_with_key(|path| reader.read(path));
                }
            }
        }
    }
}
