//! State from inotify notifications: paths that changed since the last load, and files that are still being written.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use notify::Event;
use notify::event::{
    AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode,
};

/// Unfinished files that are told apart; with more of them there is no hurry.
const MOST_UNFINISHED: usize = 1024;
/// Most changed paths that are read on their own; with more of them everything is read.
const MOST_CHANGED: usize = 256;

/// Paths at which something has changed since the last load; `None` once that could be anywhere.
#[derive(Clone, Debug)]
pub(super) struct Changed(Arc<Mutex<Option<HashSet<PathBuf>>>>);

impl Default for Changed {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(HashSet::new()))))
    }
}

impl Changed {
    pub(super) fn note(&self, event: &Event) {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_folder = matches!(
            event.kind,
            EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder)
        );
        let paths = changed.as_mut().filter(|paths| {
            !event.need_rescan()
                && !event.paths.is_empty()
                && !is_of_folder
                && paths.len() < MOST_CHANGED
        });
        match paths {
            Some(paths) => paths.extend(event.paths.iter().cloned()),
            None => *changed = None,
        }
    }

    pub(super) fn note_anything(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn take(&self) -> Option<HashSet<PathBuf>> {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.replace(HashSet::new())
    }
}

/// Files that are being written, or were moved away perhaps to be written again: their present content is not final.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfinished(Arc<Mutex<HashSet<PathBuf>>>);

impl Unfinished {
    /// Records an event. `is_named` says which files the configuration consists of.
    pub(super) fn note(&self, event: &Event, matters: bool, is_named: impl Fn(&PathBuf) -> bool) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            // An editor moves a file away before it writes it again, so a rename does not mean that the file is complete.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                if let [from, to, ..] = &event.paths[..] {
                    if !is_named(from) {
                        files.remove(from);
                    }
                    files.remove(to);
                }
            }
            // Put in place, or closed by its writer.
            EventKind::Modify(ModifyKind::Name(RenameMode::To))
            | EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                files.retain(|file| !event.paths.contains(file));
            }
            EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Data(_))
            | EventKind::Create(CreateKind::File)
            | EventKind::Remove(_)
                if matters && files.len() < MOST_UNFINISHED =>
            {
                files.extend(event.paths.iter().cloned());
            }
            _ => {}
        }
    }

    pub(super) fn any(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use notify::event::DataChange;

    use super::*;
    use crate::source::file;

    #[test]
    fn a_file_is_unfinished_until_it_is_closed_or_put_in_place() {
        let unfinished = Unfinished::default();
        let note = |kind: EventKind, paths: &[&str]| {
            let event = Event {
                kind,
                paths: paths.iter().map(PathBuf::from).collect(),
                ..Event::default()
            };
            unfinished.note(&event, true, |path| file::holds_documents(path));
            unfinished.any()
        };
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));

        // Written in place.
        assert!(note(written, &["/d/a.yaml"]));
        assert!(!note(closed, &["/d/a.yaml"]));
        // Written beside it and renamed over it.
        assert!(note(EventKind::Create(CreateKind::File), &["/d/.tmp"]));
        assert!(!note(closed, &["/d/.tmp"]));
        assert!(note(renamed(RenameMode::From), &["/d/.tmp"]));
        assert!(note(renamed(RenameMode::To), &["/d/a.yaml"]));
        assert!(!note(renamed(RenameMode::Both), &["/d/.tmp", "/d/a.yaml"]));
        // Moved away by an editor, and written anew.
        assert!(note(renamed(RenameMode::From), &["/d/a.yaml"]));
        assert!(note(renamed(RenameMode::To), &["/d/a.yaml~"]));
        assert!(note(renamed(RenameMode::Both), &["/d/a.yaml", "/d/a.yaml~"]));
        assert!(note(EventKind::Create(CreateKind::File), &["/d/a.yaml"]));
        assert!(!note(closed, &["/d/a.yaml"]));
        assert!(note(EventKind::Remove(RemoveKind::File), &["/d/a.yaml"]));
        unfinished.forget();
        assert!(!unfinished.any());
    }
}
