//! Files that documents refer to, and entries of objects in their place: which of the paths that a name may mean is meant, and whether the document may have
//! it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Store;
use crate::change::Fact;
use crate::document::{FileFault, Source};
use crate::file_roots::is_within;
use crate::named_file::{Digest, MISSING, NamedFile};
use crate::reference::Reference;

/// Bytes that a document refers to.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// Where they are.
    pub place: Place,
    /// Their SHA-256.
    pub digest: Digest,
    /// True if every user of the host may change them.
    pub writable_by_all: bool,
    /// The bytes.
    pub bytes: &'a Arc<[u8]>,
}

/// Place of bytes that a document refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// An entry of a Secret or `ConfigMap`, by its key.
    Entry(Reference, Arc<str>),
}

impl Place {
    /// Returns what the place depends on.
    #[must_use]
    pub fn is_of(&self, references: &BTreeSet<Reference>) -> bool {
        match self {
            Self::File(path) => references.contains(&Reference::File(Arc::from(path.as_path()))),
            Self::Entry(reference, _) => references.contains(reference),
        }
    }

    /// Returns the path of a file, and for an entry the name that a document would have it by: `secret:NAMESPACE/NAME/KEY`.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Entry(reference, key) => {
                let (prefix, namespace, name) = match reference {
                    Reference::Secret { namespace, name } => ("secret", &**namespace, &**name),
                    Reference::ConfigMap { namespace, name } => {
                        ("configMap", &**namespace, &**name)
                    }
                    _ => ("", "", ""),
                };
                PathBuf::from(format!("{prefix}:{namespace}/{name}/{key}"))
            }
        }
    }
}

impl<'a> Found<'a> {
    fn file(path: PathBuf, file: &'a NamedFile, bytes: &'a Arc<[u8]>) -> Self {
        let (digest, writable_by_all) = (*file.digest(), file.writable_by_all);
        Self { place: Place::File(path), digest, writable_by_all, bytes }
    }
}

impl Store {
    fn file_at(&self, path: &Path) -> Option<&Fact> {
        self.fact(&Reference::File(Arc::from(path)))
    }

    /// Returns the file `written` refers to in a document of `source`, and the path it is at.
    ///
    /// # Errors
    /// When the document may name none of the paths it may mean, or none of them could be read: the sentence names the paths and why.
    pub fn file(&self, source: &Source, written: &str) -> Result<Found<'_>, FileFault> {
        if source.object.is_some() {
            return Err(FileFault::InObject);
        }
        let candidates = source.candidates(written);
        if candidates.is_empty() {
            let meant = source.meant(written).into_iter().next().unwrap_or_default();
            return Err(source.outside(&source.roots.clean(&meant)));
        }
        let mut faults = Vec::new();
        for path in candidates {
            let fault = match self.file_at(&path) {
                Some(Fact::File(file)) => match (self.links.files.get(&*path), file.bytes()) {
                    (Some(real), _) if !self.reaches(source, real) => {
                        return Err(source.outside(real));
                    }
                    (_, Some(bytes)) => return Ok(Found::file(path, file, bytes)),
                    (_, None) => "was not read",
                },
                Some(Fact::Missing) => MISSING,
                Some(Fact::Unreadable(reason)) => reason,
                Some(_) | None => "was not read",
            };
            faults.push(format!("{} {fault}", path.display()));
        }
        Err(FileFault::Unreadable(faults.join("; ")))
    }

    /// Returns a file of the directory of issued certificates, which no document names itself; `None` if it is not there.
    ///
    /// # Errors
    /// If it is there and cannot be read: the phrase says why.
    pub(crate) fn issued_file(&self, path: &Path) -> Result<Option<Found<'_>>, String> {
        match self.file_at(path) {
            Some(Fact::File(file)) => {
                Ok(file.bytes().map(|bytes| Found::file(path.to_owned(), file, bytes)))
            }
            Some(Fact::Unreadable(reason)) => Err(reason.clone()),
            Some(_) | None => Ok(None),
        }
    }

    /// Returns whether `written` was found at all, readable or not.
    #[must_use]
    pub fn has_file(&self, source: &Source, written: &str) -> bool {
        let is_there = |path: &PathBuf| match self.file_at(path) {
            Some(Fact::Missing) | None => false,
            Some(_) => true,
        };
        source.candidates(written).iter().any(is_there)
    }

    /// Returns whether a file that links lead to is in a directory the document may name files in, that directory's own links followed.
    fn reaches(&self, source: &Source, real: &Path) -> bool {
        let mut roots = source.roots.of(&source.bases);
        roots.any(|root| is_within(real, self.links.roots.get(&root).unwrap_or(&root)))
    }
}
