//! Watching: whenever something under the configuration changes, it is loaded again and handed on if it says something else.
//!
//! The system's notifications are believed for speed and not relied on: all files are looked at as well, every second or, where that would take
//! more than half a hundredth of a core, less often. Deliberately absent: compiling; whoever receives the resources does that.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{
    AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode,
};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch::Sender;
use tracing::{debug, warn};

use crate::resources::Resources;
use crate::source::file::{self, FileSource};
use crate::source::patience::Progress;

/// Unfinished files that are told apart; with more of them there is no hurry.
const MOST_UNFINISHED: usize = 1024;
/// Changed paths that are looked at alone; with more of them everything is.
const MOST_CHANGED: usize = 256;
/// All files are looked at only so often that it takes no more than this part of a core, where the system's notifications tell of changes anyway.
const SHARE: u32 = 200;
/// And so often at the least.
const SELDOM: Duration = Duration::from_secs(30);

/// How eagerly changes are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The first change after a quiet time is loaded so soon, if what changed is whole.
    pub first: Duration,
    /// Any other change is loaded once nothing further has changed for so long.
    pub debounce: Duration,
    /// And after so long at the latest, however busy it is.
    pub longest: Duration,
    /// All files are looked at so often, notified or not; many files, of whose changes the system notifies, less often.
    pub poll: Duration,
    /// Whether the system's notifications are used at all.
    pub notified: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(5),
            debounce: Duration::from_millis(50),
            longest: Duration::from_millis(500),
            poll: Duration::from_secs(1),
            notified: true,
        }
    }
}

/// A running watch; dropping it ends the watch and waits for its thread.
#[derive(Debug)]
pub struct Watching {
    wake: SyncSender<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The channel holds one wake; the thread is taking it out, so this waits for a moment at most.
            let sent = self.wake.send(Wake::Stop);
            if sent.is_ok() && thread.join().is_err() {
                warn!("the configuration watcher had panicked");
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Changed,
    Stop,
}

/// Watches `paths` and everything the documents in them refer to. Whenever they say something else than what `changed` holds, the new
/// resources are sent there.
///
/// # Errors
/// When no thread can be started.
pub fn watch(
    source: Arc<FileSource>,
    paths: Vec<PathBuf>,
    pace: Pace,
    changed: Sender<Arc<Resources>>,
) -> io::Result<Watching> {
    let (wake, woken) = sync_channel(1);
    let eyes = if pace.notified { Eyes::open(wake.clone()) } else { Eyes::default() };
    let (turn, busy, poll) = (0, None, pace.poll);
    let watcher = WatcherThread { source, paths, pace, changed, eyes, turn, busy, poll };
    let thread = std::thread::Builder::new()
        .name("durward-watch".to_owned())
        .spawn(move || watcher.run(&woken))?;
    Ok(Watching { wake, thread: Some(thread) })
}

struct WatcherThread {
    source: Arc<FileSource>,
    paths: Vec<PathBuf>,
    pace: Pace,
    changed: Sender<Arc<Resources>>,
    eyes: Eyes,
    /// The number of the last load.
    turn: u64,
    /// When something was last loaded because of a notification.
    busy: Option<Instant>,
    /// The time after which all files are looked at next.
    poll: Duration,
}

impl WatcherThread {
    fn run(mut self, woken: &Receiver<Wake>) {
        let mut notified = true;
        loop {
            self.load(notified);
            notified = false;
            match woken.recv_timeout(self.poll) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Changed) => {
                    if self.settle(woken) == Wake::Stop {
                        return;
                    }
                    notified = true;
                }
            }
        }
    }

    /// Waits until nothing has changed for a while, but never for long. One file that was put in place is loaded almost at once; where files
    /// are still being written, or change after change comes, more of them are gathered.
    fn settle(&mut self, woken: &Receiver<Wake>) -> Wake {
        let began = Instant::now();
        let deadline = began + self.pace.longest;
        let quiet = self.busy.is_none_or(|busy| began.duration_since(busy) >= self.pace.longest);
        let wake = loop {
            let soon = quiet && !self.eyes.unfinished.any();
            let patience = if soon { self.pace.first } else { self.pace.debounce };
            let left = deadline.saturating_duration_since(Instant::now()).min(patience);
            match woken.recv_timeout(left) {
                Ok(Wake::Changed) if Instant::now() < deadline => {}
                Ok(Wake::Stop) => break Wake::Stop,
                _ => break Wake::Changed,
            }
        };
        self.busy = Some(Instant::now());
        self.eyes.unfinished.forget();
        wake
    }

    /// Returns when all files are to be looked at again, if one look takes so long.
    fn next_look(&self, took: Duration) -> Duration {
        let seldom = if self.eyes.all { (took * SHARE).min(SELDOM) } else { self.pace.poll };
        seldom.max(self.pace.poll)
    }

    /// After a notification the watches are set anew even without news: a directory on the way to a file may have appeared.
    fn load(&mut self, notified: bool) {
        if !notified && !self.eyes.are_stale(&self.source) {
            let began = Instant::now();
            let is_current = self.source.is_current(self.turn);
            self.poll = self.next_look(began.elapsed());
            if is_current {
                // Nothing changed before the directories were watched.
                self.eyes.all = self.eyes.complete;
                return;
            }
        }
        let changed = self.eyes.changed.take().filter(|_| notified && self.eyes.all);
        // A load that was given up is said so by the source, and tried again; what was loaded before stays.
        let Ok((resources, turn)) = self.source.load_in_turn(&self.paths, changed) else {
            self.eyes.changed.note_anything();
            return;
        };
        self.turn = turn.number;
        let resources = Arc::new(resources);
        let news = !self.changed.borrow().same_as(&resources);
        // Whoever is told of a file may change it at once, so a new one is watched before.
        let as_before =
            outline(&resources) == self.eyes.outline && !self.eyes.are_stale(&self.source);
        let looks = !as_before || !turn.is_narrow && (news || notified);
        if looks && !as_before {
            self.eyes.look_at(&self.source, &self.paths, &resources);
        }
        if !news {
            // This load has read them again.
            let released = self.changed.borrow().released();
            self.source.release(&released);
        }
        if news {
            debug!(documents = resources.documents.len(), "configuration changed");
            self.changed.send_replace(Arc::clone(&resources));
        }
        if looks && as_before {
            self.eyes.look_at(&self.source, &self.paths, &resources);
        }
    }
}

/// The system's notifications for a set of directories.
#[derive(Default)]
struct Eyes {
    watcher: Option<RecommendedWatcher>,
    /// The directories and what they were when the watch was set: one that is replaced must be watched anew.
    watched: Arc<BTreeMap<PathBuf, (u64, u64)>>,
    interests: Interests,
    /// The files that were looked at.
    outline: u64,
    /// True if every directory is watched.
    complete: bool,
    /// True if every change since the last load is told.
    all: bool,
    unfinished: Unfinished,
    changed: Changed,
}

/// Paths at which something has changed since the last load; `None` once that could be anywhere.
#[derive(Clone, Debug)]
struct Changed(Arc<Mutex<Option<HashSet<PathBuf>>>>);

impl Default for Changed {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(HashSet::new()))))
    }
}

impl Changed {
    fn note(&self, event: &Event) {
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

    fn note_anything(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn take(&self) -> Option<HashSet<PathBuf>> {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.replace(HashSet::new())
    }
}

/// Files that somebody has begun to write, or taken away perhaps to write them anew: what they say now is not what is meant.
#[derive(Clone, Debug, Default)]
struct Unfinished(Arc<Mutex<HashSet<PathBuf>>>);

impl Unfinished {
    /// Takes note of an event. `is_named` says which files the configuration consists of.
    fn note(&self, event: &Event, matters: bool, is_named: impl Fn(&PathBuf) -> bool) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            // An editor moves a file away before it writes it anew, so that one is not whole by being renamed.
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

    fn any(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A number that is another one when there are other files.
fn outline(resources: &Resources) -> u64 {
    let documents = resources.documents.iter().map(|document| Path::new(&*document.source.file));
    let files = documents.chain(resources.files.keys().map(|path| &**path));
    let hashed = files.map(|file| {
        let mut hasher = DefaultHasher::new();
        file.as_os_str().hash(&mut hasher);
        hasher.finish()
    });
    // Files are in no order, and may be there more than once.
    hashed.fold(0, u64::wrapping_add)
}

/// The events that concern the configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interest {
    /// What files are called that say something.
    names: HashSet<OsString>,
    /// Directories that are watched only because one of the ways leads through them: what else happens there is nobody's business.
    passages: HashSet<PathBuf>,
    /// Everything on the way to a file or directory.
    ways: HashSet<PathBuf>,
}

type Interests = Arc<Mutex<Interest>>;

impl Interest {
    /// Returns whether a path is of no concern: it is beside the way.
    fn passes_by(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.passages.contains(parent))
            && !self.ways.contains(path)
    }

    fn is_named(&self, path: &Path) -> bool {
        file::holds_documents(path) || path.file_name().is_none_or(|name| self.names.contains(name))
    }
}

impl Eyes {
    fn open(wake: SyncSender<Wake>) -> Self {
        let (interests, unfinished) = (Interests::default(), Unfinished::default());
        let changed = Changed::default();
        let (known, begun) = (Arc::clone(&interests), unfinished.clone());
        let noted = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return noted.note_anything() };
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let matters = matters(&event, &known);
            begun.note(&event, matters, |path| known.is_named(path));
            drop(known);
            if matters {
                noted.note(&event);
                // A full channel has a wake in it already.
                let _ = wake.try_send(Wake::Changed);
            }
        });
        if let Err(error) = &watcher {
            warn!(%error, "no notifications from the system: files are looked at every second only");
        }
        let watcher = watcher.ok();
        Self {
            watcher,
            watched: Arc::default(),
            complete: false,
            all: false,
            interests,
            outline: 0,
            unfinished,
            changed,
        }
    }

    /// Whether a directory is no longer what it was when the watch was set, or none is set yet.
    fn are_stale(&self, source: &FileSource) -> bool {
        if self.watcher.is_none() {
            return false;
        }
        let watched = Arc::clone(&self.watched);
        let replaced = source.ask(move |progress| {
            let mut directories = watched.iter();
            directories.any(|(directory, was)| identity(progress, directory) != Some(*was))
        });
        // Where no answer comes there is no use in watching anew.
        self.watched.is_empty() || replaced.unwrap_or(false)
    }

    /// Directories, not files: what is renamed over a file, or appears later, is seen there.
    fn look_at(&mut self, source: &FileSource, paths: &[PathBuf], resources: &Arc<Resources>) {
        self.outline = outline(resources);
        (self.complete, self.all) = (false, false);
        let Some(watcher) = &mut self.watcher else { return };
        let (paths, resources) = (paths.to_owned(), Arc::clone(resources));
        let found = source.ask(move |progress| directories(progress, &paths, &resources));
        let Some((wanted, interest)) = found else { return };
        let watched = Arc::make_mut(&mut self.watched);
        let before = watched.clone();
        self.complete = true;
        *self.interests.lock().unwrap_or_else(PoisonError::into_inner) = interest;
        let stale: Vec<PathBuf> = watched
            .iter()
            .filter(|(directory, was)| wanted.get(*directory) != Some(*was))
            .map(|(directory, _)| directory.clone())
            .collect();
        for directory in stale {
            watched.remove(&directory);
            // The system may have ended the watch with the directory.
            let _ = watcher.unwatch(&directory);
        }
        for (directory, identity) in wanted {
            if watched.contains_key(&directory) {
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(directory, identity);
                }
                Err(error) => {
                    self.complete = false;
                    debug!(%error, directory = %directory.display(), "not notified here");
                }
            }
        }
        // Of what changed in a new directory before it was watched nobody was told.
        self.all = self.complete && before == *watched;
    }
}

/// Whether an event may change what the configuration says: not when somebody reads, as we do ourselves, nor when a file is written that says
/// nothing, such as a log beside the documents. A name that appears or goes where files are may always be on the way to one.
fn matters(event: &Event, interest: &Interest) -> bool {
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
fn directories(
    progress: &Progress,
    paths: &[PathBuf],
    resources: &Resources,
) -> (BTreeMap<PathBuf, (u64, u64)>, Interest) {
    let mut interest = Interest::default();
    let documents = resources.documents.iter().map(|document| Path::new(&*document.source.file));
    let files = documents.chain(resources.files.keys().map(|path| &**path));
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
    interest.passages = wanted.difference(&holding).cloned().collect();
    let identified =
        |directory: PathBuf| identity(progress, &directory).map(|identity| (directory, identity));
    (wanted.into_iter().filter_map(identified).collect(), interest)
}

fn is_dir(progress: &Progress, path: &Path) -> bool {
    progress.at(path, || path.is_dir()).unwrap_or(false)
}

fn identity(progress: &Progress, directory: &Path) -> Option<(u64, u64)> {
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
    use notify::event::{DataChange, RemoveKind};

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
            let resources = Resources { files: Arc::new(files), ..Resources::default() };
            let (wanted, interest) = directories(&Progress::default(), &paths, &resources);
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
