//! Watching: whenever something under the configuration changes, it is loaded again, and what differs is said.
//!
//! The system's notifications are believed for speed and not relied on: all files are looked at as well, every second or, where that would take
//! more than half a hundredth of a core, less often. Deliberately absent: compiling; whoever takes changes from the feed does that.

mod changed;
mod interest;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tracing::{debug, warn};

use crate::feed::Feed;
use crate::source::file::{FileSource, Seen};
use crate::source::inventory::Inventory;
use changed::{Changed, Unfinished};
use interest::{Interests, directories, identity, matters};

/// Divisor: if notifications report changes anyway, scans of all files take at most 1/SHARE of a core.
const SHARE: u32 = 200;
/// Longest interval between two scans of all files.
const SELDOM: Duration = Duration::from_secs(30);

/// Intervals at which changes are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Delay before the first change after a quiet time is loaded, if the changed files are complete.
    pub first: Duration,
    /// Quiet time after which any other change is loaded.
    pub debounce: Duration,
    /// Longest time until a change is loaded, even if changes keep arriving.
    pub longest: Duration,
    /// Interval between scans of all files, with or without notifications; longer for many files that notifications cover.
    pub poll: Duration,
    /// True if inotify notifications are used.
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

/// Watches `paths` and everything the documents in them refer to. Whenever they say something else than `source` said last, the change is said.
///
/// # Errors
/// When no thread can be started.
pub fn watch(
    source: Arc<FileSource>,
    paths: Vec<PathBuf>,
    pace: Pace,
    feed: Arc<Feed>,
) -> io::Result<Watching> {
    let (wake, woken) = sync_channel(1);
    let eyes = if pace.notified { Eyes::open(wake.clone()) } else { Eyes::default() };
    let (turn, busy, due) = (0, None, Instant::now());
    let watcher = WatcherThread { source, paths, pace, feed, eyes, turn, busy, due };
    let thread = std::thread::Builder::new()
        .name("durward-watch".to_owned())
        .spawn(move || watcher.run(&woken))?;
    Ok(Watching { wake, thread: Some(thread) })
}

struct WatcherThread {
    source: Arc<FileSource>,
    paths: Vec<PathBuf>,
    pace: Pace,
    feed: Arc<Feed>,
    eyes: Eyes,
    /// The number of the last load.
    turn: u64,
    /// When something was last loaded because of a notification.
    busy: Option<Instant>,
    /// Time of the next scan of all files, whatever notifications come before.
    due: Instant,
}

impl WatcherThread {
    fn run(mut self, woken: &Receiver<Wake>) {
        let mut notified = true;
        loop {
            self.load(notified);
            notified = false;
            match woken.recv_timeout(self.due.saturating_duration_since(Instant::now())) {
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

    /// Postpones the next scan of all files, if one takes long and notifications cover `all` changes meanwhile.
    fn looked(&mut self, took: Duration, all: bool) {
        let seldom = if all { (took * SHARE).min(SELDOM) } else { self.pace.poll };
        self.due = Instant::now() + seldom.max(self.pace.poll);
    }

    /// After a notification the watches are set again even without changes: a directory on the way to a file may have appeared.
    fn load(&mut self, notified: bool) {
        let began = Instant::now();
        let is_due = began >= self.due;
        if !notified && !self.eyes.are_stale(&self.source) {
            let is_current = self.source.is_current(self.turn);
            if is_current {
                // Nothing changed before the directories were watched.
                self.eyes.all = self.eyes.complete;
                self.looked(began.elapsed(), self.eyes.all);
                return;
            }
        }
        // A tenant that changes its files all the time must not keep the files of others from being read.
        let changed = self.eyes.changed.take().filter(|_| notified && self.eyes.all && !is_due);
        let (source, eyes, paths) = (&self.source, &mut self.eyes, &self.paths);
        let (mut as_before, all) = (true, eyes.all);
        // The user may change a file as soon as its load is reported, so a new one is watched before.
        let seen = source.look_in_turn(paths, changed, &self.feed, |found| {
            as_before = outline(found) == eyes.outline && !eyes.are_stale(source);
            if !as_before {
                eyes.look_at(source, paths, found);
            }
        });
        // A load that was given up is reported by the source, and tried again; what was loaded before stays.
        let Ok(Seen { found, is_news, turn }) = seen else {
            self.eyes.changed.note_anything();
            return;
        };
        self.turn = turn.number;
        if !turn.is_narrow {
            self.looked(began.elapsed(), all);
        }
        if is_news {
            debug!(documents = found.documents.len(), "configuration changed");
        }
        if as_before && !turn.is_narrow && (is_news || notified) {
            self.eyes.look_at(&self.source, &self.paths, &found);
        }
    }
}

/// The system's notifications for a set of directories.
#[derive(Default)]
struct Eyes {
    watcher: Option<RecommendedWatcher>,
    /// The directories and what they were when the watch was set: one that is replaced must be watched again.
    watched: Arc<BTreeMap<PathBuf, (u64, u64)>>,
    interests: Interests,
    /// The files that were looked at.
    outline: u64,
    /// True if every directory is watched.
    complete: bool,
    /// True if notifications cover every change since the last load.
    all: bool,
    unfinished: Unfinished,
    changed: Changed,
}

/// A number that is another one when there are other files.
fn outline(found: &Inventory) -> u64 {
    let documents = found.documents.iter().map(|document| Path::new(&*document.source.file));
    let files = documents.chain(found.files.keys().map(|path| &**path));
    let hashed = files.map(|file| {
        let mut hasher = DefaultHasher::new();
        file.as_os_str().hash(&mut hasher);
        hasher.finish()
    });
    // Files are in no order, and may be there more than once.
    hashed.fold(0, u64::wrapping_add)
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
            warn!(%error, "inotify is not available: files are checked every second only");
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

    /// Returns true if a directory is no longer what it was when the watch was set, or none is set yet.
    fn are_stale(&self, source: &FileSource) -> bool {
        if self.watcher.is_none() {
            return false;
        }
        let watched = Arc::clone(&self.watched);
        let replaced = source.ask(move |progress| {
            let mut directories = watched.iter();
            directories.any(|(directory, was)| identity(progress, directory) != Some(*was))
        });
        // If the file system does not answer, setting the watches again is of no use.
        self.watched.is_empty() || replaced.unwrap_or(false)
    }

    /// Directories, not files: what is renamed over a file, or appears later, is seen there.
    fn look_at(&mut self, source: &FileSource, paths: &[PathBuf], found: &Arc<Inventory>) {
        self.outline = outline(found);
        (self.complete, self.all) = (false, false);
        let Some(watcher) = &mut self.watcher else { return };
        let (paths, found) = (paths.to_owned(), Arc::clone(found));
        let found = source.ask(move |progress| directories(progress, &paths, &found));
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
        // Changes in a new directory before it was watched caused no notification.
        self.all = self.complete && before == *watched;
    }
}
