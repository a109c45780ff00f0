//! All that `compile` looks at: parsed documents, and the bytes of the files they refer to.
//!
//! Deliberately absent: handles and paths still to be read; whoever builds `Resources` has done all I/O.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durward_model::verdict::{Finding, Outcome, Severity, Verdict};
use durward_model::{DocumentKey, Kind, Origin, ResourceId, Revision, TenantId, Verdicts};

use crate::excerpt;
use crate::file_roots::{FileRoots, is_within};
use crate::named_file::NamedFile;
use crate::place::Place;
use crate::source::regular::FileKind;
use crate::spec::port_mapping::PortMappingDocument;
use crate::spec::references::{by_acme, references};
use crate::spec::tenant::TenantDocument;

/// What configuration says, and everything it refers to.
#[derive(Clone, Default)]
pub struct Resources {
    /// The documents, in the order of files and within them.
    pub documents: Vec<Document>,
    /// Files that could not be read, and why.
    pub unreadable: Vec<Unreadable>,
    /// The bytes of files documents refer to; why, for those that could not be read.
    pub files: Arc<HashMap<Arc<Path>, FileBytes>>,
    /// Where links in the paths of those files lead.
    pub links: Arc<Links>,
}

/// Where links lead: a document's directory says nothing of a file that is elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The real paths of files that are not where their names say.
    pub files: HashMap<Arc<Path>, PathBuf>,
    /// The real paths of directories that files may be named in, by cleaned path; itself for those that are missing here.
    pub roots: HashMap<PathBuf, PathBuf>,
}

/// A file, or why it could not be read, as a lower-case phrase.
pub type FileBytes = Result<NamedFile, String>;

/// A file that a document refers to.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The path it is at.
    pub path: PathBuf,
    /// The file.
    pub file: &'a NamedFile,
    /// Its bytes.
    pub bytes: &'a Arc<[u8]>,
}

impl fmt::Debug for Resources {
    /// Files by name only: they hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resources")
            .field("documents", &self.documents.len())
            .field("unreadable", &self.unreadable)
            .field("files", &self.files.keys())
            .finish()
    }
}

/// A configuration file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Why, as a lower-case sentence.
    pub reason: String,
}

/// One document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Place in its source.
    pub key: DocumentKey,
    /// The resource it is about; `None` when its name, or that of its tenant, cannot be read.
    pub id: Option<ResourceId>,
    /// Version of the resource.
    pub revision: Revision,
    /// Time of creation by the clock of an API server, in RFC 3339; `None` for documents of files, which may write one down themselves.
    pub created: Option<Arc<str>>,
    /// Its text, and where that comes from.
    pub source: Arc<Source>,
    /// What it says.
    pub content: Content,
}

impl Document {
    /// Builds a document that names its resource itself.
    #[must_use]
    pub fn new(key: DocumentKey, source: Arc<Source>, content: Content) -> Self {
        let id = content.id(source.kind);
        Self { key, id, revision: Revision::default(), created: None, source, content }
    }

    /// Builds the document at a position of a file, counted from 0.
    #[must_use]
    pub fn of_file(position: usize, source: Source, content: Content) -> Self {
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        let key = DocumentKey::File { rank: 0, file: Arc::clone(&source.file), position };
        Self::new(key, Arc::new(source), content)
    }

    /// Moves a document of a file to another position in it, counted from 0.
    pub(crate) fn set_position(&mut self, to: usize) {
        if let DocumentKey::File { position, .. } = &mut self.key {
            *position = u32::try_from(to).unwrap_or(u32::MAX);
        }
    }

    /// Returns the files the document refers to, wherever they may be, with the purpose of each.
    #[must_use]
    pub fn references(&self) -> Vec<(FileKind, Arc<Path>)> {
        let Content::Tenant(tenant) = &self.content else { return Vec::new() };
        let names = references(&tenant.spec).into_iter();
        let candidates = |(kind, name): (FileKind, String)| {
            let paths = self.source.candidates(&name).into_iter();
            paths.map(move |path| (kind, Arc::from(path)))
        };
        let issued = self.source.roots.issuance().into_iter().flat_map(|issuance| {
            let name = &tenant.metadata.name.value;
            let wanted = by_acme(&tenant.spec).into_iter();
            wanted.filter_map(move |(address, spec)| issuance.files(name, address, spec)).flatten()
        });
        let issued = issued.map(|path| (FileKind::Certificate, path));
        names.flat_map(candidates).chain(issued).collect()
    }
}

/// What a document says.
#[derive(Clone, Debug)]
pub enum Content {
    /// A tenant.
    Tenant(Arc<TenantDocument>),
    /// A mapping of external ports.
    Mapping(Arc<PortMappingDocument>),
    /// It cannot be read.
    Broken(Arc<Broken>),
}

impl Content {
    /// Returns the resource that a document of this kind is about, if it says so.
    fn id(&self, kind: Kind) -> Option<ResourceId> {
        let tenant = |name: &str| Some(ResourceId::new(kind, TenantId::new(name).ok()?.as_str()));
        match self {
            Self::Tenant(tenant_document) => tenant(&tenant_document.metadata.name),
            Self::Mapping(mapping) => {
                let namespace = TenantId::new(&mapping.spec.tenant).ok()?;
                let name =
                    Some(&*mapping.metadata.name).filter(|name| ResourceId::is_name(name))?;
                Some(ResourceId::namespaced(kind, namespace.as_str(), name))
            }
            // What a broken mapping says of its tenant was not read.
            Self::Broken(_) if kind == Kind::PortMapping => None,
            Self::Broken(broken) => tenant(broken.name.as_deref()?),
        }
    }
}

/// A document that cannot be read, as far as it could be understood.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The tenant or mapping it is about, when that much is clear.
    pub name: Option<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// The text of a document and where it comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The kind of document.
    pub kind: Kind,
    /// The file as the user named it.
    pub file: Arc<str>,
    /// The document's text.
    pub text: Arc<str>,
    /// The line of the file the text begins at, counted from 1.
    pub first_line: u32,
    /// Directories that relative file names are looked up in, in this order.
    pub bases: Vec<PathBuf>,
    /// The file or directory through which every user of the host could change the document.
    pub writable_by_all: Option<Arc<str>>,
    /// What the fields of an adapted document are called where the user wrote them: longest prefix of ours, theirs.
    pub field_names: Vec<(String, String)>,
    /// The directories that files may be named in beside `bases`.
    pub roots: Arc<FileRoots>,
}

/// Why a document cannot have a file it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// The path is outside of the directories the document may name files in.
    Outside(String),
    /// None of the paths the name may mean could be read.
    Unreadable(String),
}

impl FileFault {
    /// Returns the stable word for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Outside(_) => "FileOutside",
            Self::Unreadable(_) => "FileMissing",
        }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside(place) => {
                write!(
                    f,
                    "{place}: keep it there, or let the operator allow its directory with --files-root DIR"
                )
            }
            Self::Unreadable(fault) => write!(f, "cannot be read: {fault}"),
        }
    }
}

impl Source {
    /// The file and line of a place in the text.
    #[must_use]
    pub fn origin(&self, place: Place) -> Origin {
        let line = (self.first_line + place.line).saturating_sub(1);
        Origin::File { file: Arc::clone(&self.file), line }
    }

    /// A finding about `field`, written at `place`.
    #[must_use]
    pub fn finding(
        &self,
        severity: Severity,
        reason: &str,
        place: Place,
        field: &str,
        sentence: &str,
    ) -> Finding {
        Finding {
            severity,
            reason: Arc::from(reason),
            field: Arc::from(self.named(field)),
            sentence: Arc::from(sentence),
            origin: self.origin(place),
            excerpt: excerpt::excerpt(self, place, severity).map(Arc::from),
        }
    }

    /// What the user calls `field`.
    fn named(&self, field: &str) -> String {
        let theirs = self
            .field_names
            .iter()
            .filter(|(ours, _)| field.starts_with(ours.as_str()))
            .max_by_key(|(ours, _)| ours.len());
        theirs.map_or_else(|| field.to_owned(), |(_, theirs)| theirs.clone())
    }

    /// Returns the paths that `written` may mean and the document may name, in the order they are tried.
    #[must_use]
    pub fn candidates(&self, written: &str) -> Vec<PathBuf> {
        let mut paths = self.meant(written);
        paths.retain(|path| {
            let clean = self.roots.clean(path);
            self.roots.of(&self.bases).any(|root| is_within(&clean, &root))
        });
        paths
    }

    fn meant(&self, written: &str) -> Vec<PathBuf> {
        let path = Path::new(written);
        if path.is_absolute() {
            return vec![path.to_owned()];
        }
        self.bases.iter().map(|base| base.join(path)).collect()
    }

    /// Says that `path` is not in the document's directories.
    fn outside(&self, path: &Path) -> FileFault {
        let own = self.bases.first().map(|base| self.roots.clean(base)).unwrap_or_default();
        let (path, own) = (path.display(), own.display());
        FileFault::Outside(format!("is {path}, outside of the document's directory {own}"))
    }
}

impl Resources {
    /// Whether both say the same, byte by byte.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let documents = |(a, b): (&Document, &Document)| {
            Arc::ptr_eq(&a.source, &b.source)
                || a.source.file == b.source.file
                    && a.source.first_line == b.source.first_line
                    && a.source.text == b.source.text
                    && a.source.writable_by_all == b.source.writable_by_all
        };
        self.unreadable == other.unreadable
            && self.documents.len() == other.documents.len()
            && self.documents.iter().zip(&other.documents).all(documents)
            && self.links == other.links
            && (Arc::ptr_eq(&self.files, &other.files)
                || self.files.len() == other.files.len() && holds_all(&self.files, &other.files))
    }

    /// Returns the same with only these documents.
    pub(crate) fn with_documents(&self, documents: Vec<Document>) -> Self {
        let Self { documents: _, unreadable, files, links } = self;
        let (unreadable, files, links) = (unreadable.clone(), Arc::clone(files), Arc::clone(links));
        Self { documents, unreadable, files, links }
    }

    /// The file `written` refers to in a document of `source`, and the path it is at.
    ///
    /// # Errors
    /// When the document may name none of the paths it may mean, or none of them could be read: the sentence names the paths and why.
    pub fn file(&self, source: &Source, written: &str) -> Result<Found<'_>, FileFault> {
        let candidates = source.candidates(written);
        if candidates.is_empty() {
            let meant = source.meant(written).into_iter().next().unwrap_or_default();
            return Err(source.outside(&source.roots.clean(&meant)));
        }
        let mut faults = Vec::new();
        for path in candidates {
            match self.files.get(path.as_path()) {
                Some(Ok(file)) => match (self.links.files.get(path.as_path()), file.bytes()) {
                    (Some(real), _) if !self.reaches(source, real) => {
                        return Err(source.outside(real));
                    }
                    (_, Some(bytes)) => return Ok(Found { path, file, bytes }),
                    (_, None) => faults.push(format!("{} was not read", path.display())),
                },
                Some(Err(fault)) => faults.push(format!("{} {fault}", path.display())),
                None => faults.push(format!("{} was not read", path.display())),
            }
        }
        Err(FileFault::Unreadable(faults.join("; ")))
    }

    /// Returns a file of the directory of issued certificates, which no document names itself; `None` if it is not there.
    ///
    /// # Errors
    /// If it is there and cannot be read: the phrase says why.
    pub(crate) fn issued_file(&self, path: &Path) -> Result<Option<Found<'_>>, String> {
        let file = match self.files.get(path) {
            Some(Ok(file)) => file,
            Some(Err(fault)) if fault != MISSING => return Err(fault.clone()),
            Some(Err(_)) | None => return Ok(None),
        };
        Ok(file.bytes().map(|bytes| Found { path: path.to_owned(), file, bytes }))
    }

    /// Returns the resources with other content of these files, as far as documents refer to them; `None` for a file that is gone.
    #[must_use]
    pub fn with_files<'a>(
        &self,
        changed: impl IntoIterator<Item = (&'a Path, Option<&'a NamedFile>)>,
    ) -> Self {
        let mut resources = self.clone();
        for (path, file) in changed {
            let now = file.cloned().ok_or_else(|| MISSING.to_owned());
            if resources.files.get(path).is_some_and(|held| {
                *held != now || held.as_ref().is_ok_and(|held| held.bytes().is_none())
            }) && let Some(held) = Arc::make_mut(&mut resources.files).get_mut(path)
            {
                *held = now;
            }
        }
        resources
    }

    /// Returns whether a file that links lead to is in a directory the document may name files in, that directory's own links followed.
    fn reaches(&self, source: &Source, real: &Path) -> bool {
        let mut roots = source.roots.of(&source.bases);
        roots.any(|root| is_within(real, self.links.roots.get(&root).unwrap_or(&root)))
    }

    /// Returns the files that rejected documents refer to and no other, where any has bytes.
    #[must_use]
    pub fn files_of_rejected(&self, verdicts: &Verdicts) -> Vec<Arc<Path>> {
        let is_held =
            |path: &Arc<Path>| matches!(self.files.get(path), Some(Ok(file)) if file.held() > 0);
        self.named_by_rejected(&verdicts.verdicts).into_iter().filter(is_held).collect()
    }

    /// Returns the files that rejected documents refer to and no other.
    pub(crate) fn named_by_rejected(&self, verdicts: &[Arc<Verdict>]) -> BTreeSet<Arc<Path>> {
        let outcomes = verdicts.iter().map(|verdict| verdict.outcome);
        let is_rejected = |outcome| matches!(outcome, Outcome::Rejected | Outcome::KeptLastGood);
        // The verdicts on documents come first, in their order.
        let (rejected, others): (Vec<_>, Vec<_>) =
            self.documents.iter().zip(outcomes).partition(|(_, outcome)| is_rejected(*outcome));
        let referenced = |document: &Document| -> Vec<Arc<Path>> {
            document.references().into_iter().map(|(_, path)| path).collect()
        };
        let mut files: BTreeSet<_> =
            rejected.into_iter().flat_map(|(document, _)| referenced(document)).collect();
        if !files.is_empty() {
            for path in others.into_iter().flat_map(|(document, _)| referenced(document)) {
                files.remove(&path);
            }
        }
        files
    }

    /// Returns the resources without the bytes of these files.
    #[must_use]
    pub fn without_bytes_of(&self, files: &[Arc<Path>]) -> Self {
        let mut resources = self.clone();
        for path in files {
            if let Some(Ok(file)) = Arc::make_mut(&mut resources.files).get_mut(path) {
                *file = file.released();
            }
        }
        resources
    }

    /// Returns the files whose bytes were released.
    #[must_use]
    pub fn released(&self) -> Vec<Arc<Path>> {
        let released = |file: &FileBytes| matches!(file, Ok(file) if file.bytes().is_none());
        let files = self.files.iter().filter(|(_, file)| released(file));
        files.map(|(path, _)| Arc::clone(path)).collect()
    }

    /// Whether `written` was found at all, readable or not.
    #[must_use]
    pub fn has_file(&self, source: &Source, written: &str) -> bool {
        source.candidates(written).into_iter().any(|path| match self.files.get(path.as_path()) {
            Some(Ok(_)) => true,
            Some(Err(fault)) => fault != MISSING,
            None => false,
        })
    }
}

/// Whether all these files are among the others, with the same bytes.
pub(crate) fn holds_all(
    these: &HashMap<Arc<Path>, FileBytes>,
    others: &HashMap<Arc<Path>, FileBytes>,
) -> bool {
    these.iter().all(|(path, read)| others.get(path).is_some_and(|other| read == other))
}

/// What `Resources::files` says of a file that is not there.
pub const MISSING: &str = "does not exist";
