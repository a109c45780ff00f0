//! The directories that are watched, and which events in them concern the configuration.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::Event;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};

use crate::source::file;
use crate::source::inventory::Inventory;
use crate::source::patience::Progress;

/// The events that concern the configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    /// Names of files that matter to the configuration.
    pub(super) names: HashSet<OsString>,
    /// Directories that are watched only because a path leads through them: other events there are ignored.
    passages: HashSet<PathBuf>,
    /// Everything on the way to a file or directory.
    ways: HashSet<PathBuf>,
}

pub(super) type Interests = Arc<Mutex<Interest>>;

impl Interest {
    /// Returns whether a path is of no concern: it is beside the way.
    pub(super) fn passes_by(&self, path: &Path) -> bool {
        let parent = path.parent().and_then(absolute);
        parent.is_some_and(|parent| self.passages.contains(&parent))
            && absolute(path).is_none_or(|path| !self.ways.contains(&path))
    }

    pub(super) fn is_named(&self, path: &Path) -> bool {
        file::holds_documents(path) || path.file_name().is_none_or(|name| self.names.contains(name))
    }
}

/// Returns true if an event may change what the configuration says: not when somebody reads, as we do ourselves, nor when a file is written that says
/// nothing, such as a log beside the documents. A name that appears or goes where files are may always be on the way to one.
pub(super) fn matters(event: &Event, interest: &Interest) -> bool {
    if !event.need_rescan()
        && !event.paths.is_empty()
        && event.paths.iter().all(|path| interest.passes_by(path))
    {
        return false;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Data(_)) => {}
        EventKind::Access(_) => return false,
        _ => return true,
    }
    event.paths.iter().any(|path| interest.is_named(path))
}

/// The directories in which something that matters may change, with device and inode, and what matters in them.
pub(super) fn directories(
    progress: &Progress,
    paths: &[PathBuf],
    found: &Inventory,
) -> (BTreeMap<PathBuf, (u64, u64)>, Interest) {
    let mut interest = Interest::default();
    let documents = found.documents.iter().map(|document| Path::new(&*document.source.file));
    let files = documents.chain(found.files.keys().map(|path| &**path));
    // Directories that hold files, or whose names are read.
    let mut holding = BTreeSet::new();
    let mut parents = BTreeSet::new();
    let (directories, single): (Vec<_>, Vec<_>) =
        paths.iter().map(PathBuf::as_path).partition(|path| is_dir(progress, path));
    holding.extend(directories.iter().map(|path| path.to_path_buf()));
    for file in single.into_iter().chain(files) {
        if parents.insert(file.parent()) {
            interest.ways.extend(file.ancestors().map(Path::to_owned));
        }
        interest.names.extend(file.file_name().map(ToOwned::to_owned));
        // A file behind a symbolic link may be written where it really is.
        let is_link = || fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_symlink());
        let real = progress.at(file, || is_link().then(|| fs::canonicalize(file).ok()));
        if let Some(real) = real.flatten().flatten() {
            interest.names.extend(real.file_name().map(ToOwned::to_owned));
            holding.extend(real.parent().map(Path::to_owned));
        }
    }
    let mut wanted = BTreeSet::new();
    for parent in parents {
        let Some(there) = existing(progress, parent) else { continue };
        if parent.is_none_or(|parent| parent == there || parent.as_os_str().is_empty()) {
            holding.insert(there.clone());
        }
        wanted.insert(there);
    }
    for directory in directories {
        interest.ways.extend(directory.ancestors().map(Path::to_owned));
        wanted.extend(existing(progress, directory.parent()));
    }
    wanted.extend(holding.iter().cloned());
    interest.passages = wanted.difference(&holding).filter_map(|path| absolute(path)).collect();
    interest.ways = interest.ways.iter().filter_map(|path| absolute(path)).collect();
    let identified =
        |directory: PathBuf| identity(progress, &directory).map(|identity| (directory, identity));
    (wanted.into_iter().filter_map(identified).collect(), interest)
}

/// Returns the whole path, as the system's notifications have it.
fn absolute(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok()
}

fn is_dir(progress: &Progress, path: &Path) -> bool {
    progress.at(path, || path.is_dir()).unwrap_or(false)
}

pub(super) fn identity(progress: &Progress, directory: &Path) -> Option<(u64, u64)> {
    let metadata = progress.at(directory, || fs::metadata(directory))?.ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The nearest directory that is there; the current one for a bare name.
fn existing(progress: &Progress, mut directory: Option<&Path>) -> Option<PathBuf> {
    while let Some(path) = directory {
        if path.as_os_str().is_empty() {
            return Some(PathBuf::from("."));
        }
        if is_dir(progress, path) {
            return Some(path.to_owned());
        }
        directory = path.parent();
    }
    None
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange};

    use super::*;

    #[test]
    fn a_log_beside_the_documents_is_nobodys_business() {
        let mut interest = Interest::default();
        interest.names.insert("acme.crt".into());
        let matters = |kind: EventKind, path: &str| {
            matters(&Event::new(kind).add_path(PathBuf::from(path)), &interest)
        };
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));

        for kind in [written, closed] {
            assert!(matters(kind, "/etc/durward/acme.crt"));
            assert!(matters(kind, "/etc/durward/acme.yaml"));
            assert!(!matters(kind, "/etc/durward/audit.log"));
        }
        assert!(matters(EventKind::Create(CreateKind::Any), "/etc/durward/..data"));
        assert!(!matters(opened, "/etc/durward/acme.yaml"));
    }

    #[test]
    fn beside_the_way_to_the_configuration_anything_may_happen() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("config")).unwrap();
        fs::write(at("config/a.yaml"), "").unwrap();
        fs::write(at("single.yaml"), "").unwrap();
        let interest = |paths: &[&str], files: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| at(path)).collect();
            let missing = || Err("does not exist".to_owned());
            let files = files.iter().map(|file| (Arc::from(at(file)), missing())).collect();
            let found = Inventory { files: Arc::new(files), ..Inventory::default() };
            let (wanted, interest) = directories(&Progress::default(), &paths, &found);
            assert!(wanted.contains_key(root.path()));
            interest
        };
        let created = |interest: &Interest, path: &str| {
            let event = Event::new(EventKind::Create(CreateKind::Any));
            matters(&event.add_path(at(path)), interest)
        };

        let directory = interest(&["config"], &["elsewhere/certs/a.crt"]);
        for (path, concerns) in [
            ("config", true),
            ("config/anything", true),
            ("elsewhere", true),
            ("other", false),
            ("b.yaml", false),
        ] {
            assert_eq!(created(&directory, path), concerns, "{path}");
        }
        // Beside a file, any name may be that of a link that leads to it.
        assert!(created(&interest(&["single.yaml"], &[]), "other"));
        assert!(created(&interest(&["config"], &["a.crt"]), "other"));
    }
}
