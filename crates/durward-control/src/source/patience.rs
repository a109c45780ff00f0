//! Keeps one path that does not answer, on a network file system that hangs, from stopping all loads.
//!
//! Loads run on a thread of their own that says which path it is at. A thread that stays at one path for too long is left behind with it;
//! a new one goes on without that path. When the old one comes back, the path counts again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Paths of one load that may fail to answer before the load is given up.
const STRIKES: usize = 4;
/// Threads that may be left blocked at a time.
const LEFT_BEHIND: usize = 32;

/// The path a load is at, and the paths it leaves out.
#[derive(Debug, Default)]
pub(super) struct Progress {
    at: Mutex<Position>,
    abandoned: AtomicBool,
    stuck: Arc<Stuck>,
    /// Stands in for a file system that hangs.
    #[cfg(test)]
    pub(super) hook: Option<Hook>,
}

#[cfg(test)]
#[derive(Clone)]
pub(super) struct Hook(pub(super) Arc<dyn Fn(&Path) + Send + Sync>);

#[cfg(test)]
impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug, Default)]
struct Position {
    path: PathBuf,
    since: Option<Instant>,
}

impl Progress {
    /// Runs `work`, which asks the file system about `path`; `None` when the path is left out of this load.
    pub(super) fn at<T>(&self, path: &Path, work: impl FnOnce() -> T) -> Option<T> {
        if self.abandoned.load(Relaxed) || self.stuck.holds(path) {
            return None;
        }
        self.place(path, Some(Instant::now()));
        #[cfg(test)]
        if let Some(Hook(hook)) = &self.hook {
            hook(path);
        }
        let done = work();
        self.position().since = None;
        Some(done)
    }

    fn place(&self, path: &Path, since: Option<Instant>) {
        let mut at = self.position();
        at.path.clear();
        at.path.push(path);
        at.since = since;
    }

    fn position(&self) -> std::sync::MutexGuard<'_, Position> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the path is left out.
    pub(super) fn leaves_out(&self, path: &Path) -> bool {
        self.stuck.holds(path)
    }

    /// The path that has not answered for so long.
    fn overdue(&self, patience: Duration) -> Option<PathBuf> {
        let at = self.position();
        at.since.filter(|since| since.elapsed() >= patience).map(|_| at.path.clone())
    }
}

/// Paths that threads left behind are waiting for.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    count: AtomicUsize,
    paths: Mutex<BTreeMap<PathBuf, Waiting>>,
}

/// A path that does not answer.
#[derive(Debug)]
struct Waiting {
    /// The threads that wait for it.
    threads: usize,
    /// True if what lies beside it is on another file system.
    is_mount_point: bool,
}

impl Stuck {
    /// Returns whether a path does not answer: itself, what lies below it, and what lies beside it on the same file system.
    fn holds(&self, path: &Path) -> bool {
        if self.count.load(Relaxed) == 0 {
            return false;
        }
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.iter().any(|(stuck, waiting)| {
            let is_beside = path.parent().is_some() && path.parent() == stuck.parent();
            path.starts_with(stuck) || is_beside && !waiting.is_mount_point
        })
    }

    fn add(&self, path: &Path) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = paths
            .entry(path.to_owned())
            .or_insert_with(|| Waiting { threads: 0, is_mount_point: is_mount_point(path) });
        waiting.threads += 1;
        self.count.fetch_add(1, Relaxed);
    }

    fn remove(&self, path: &Path) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = paths.get_mut(path) {
            waiting.threads -= 1;
            self.count.fetch_sub(1, Relaxed);
        }
        paths.retain(|_, waiting| waiting.threads > 0);
    }

    /// The paths that do not answer.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.keys().cloned().collect()
    }
}

/// Returns whether a file system is mounted at the path. The list of mounts is asked, which answers always.
fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else { return false };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The list writes blanks and backslashes as octal numbers.
    let text = path.to_string_lossy().replace('\\', "\\134");
    let text = text.replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&*text))
}

/// Runs file-system work apart, with patience.
#[derive(Debug)]
pub(super) struct Patience {
    /// Time that one path may take to answer.
    pub(super) longest: Duration,
    pub(super) stuck: Arc<Stuck>,
    #[cfg(test)]
    pub(super) hook: Option<Hook>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            longest: Duration::from_secs(5),
            stuck: Arc::default(),
            #[cfg(test)]
            hook: None,
        }
    }
}

/// Too many paths did not answer.
#[derive(Debug)]
pub(super) struct Overdue;

impl Patience {
    /// Returns what `work` makes of a state. A path that does not answer is left out of a second try, which begins with a new state.
    pub(super) fn run<S, T>(
        &self,
        state: &mut S,
        work: impl Fn(&mut S, &Arc<Progress>) -> T + Send + Sync + 'static,
    ) -> Result<T, Overdue>
    where
        S: Default + Send + 'static,
        T: Send + 'static,
    {
        let work = Arc::new(work);
        for _ in 0..=STRIKES {
            if self.stuck.count.load(Relaxed) >= LEFT_BEHIND {
                return Err(Overdue);
            }
            let progress = Arc::new(Progress {
                stuck: Arc::clone(&self.stuck),
                #[cfg(test)]
                hook: self.hook.clone(),
                ..Progress::default()
            });
            let (done, outcome) = sync_channel(1);
            let mut taken = std::mem::take(state);
            let (its_work, its_progress) = (Arc::clone(&work), Arc::clone(&progress));
            let thread = std::thread::Builder::new().name("durward-load".to_owned());
            let spawned = thread.spawn(move || {
                let made = its_work(&mut taken, &its_progress);
                // Fails when this thread was left behind.
                drop(done.send((taken, made)));
            });
            let Ok(thread) = spawned else { return Err(Overdue) };
            loop {
                match outcome.recv_timeout(self.longest / 4) {
                    Ok((given_back, made)) => {
                        *state = given_back;
                        return Ok(made);
                    }
                    Err(RecvTimeoutError::Disconnected) => match thread.join() {
                        Ok(()) => return Err(Overdue),
                        Err(panic) => std::panic::resume_unwind(panic),
                    },
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if let Some(path) = progress.overdue(self.longest) {
                    self.leave_behind(path, &progress, thread);
                    break;
                }
            }
        }
        Err(Overdue)
    }

    /// Leaves a thread behind at its path. Another thread waits for it and lets the path count again.
    fn leave_behind(
        &self,
        path: PathBuf,
        progress: &Progress,
        thread: std::thread::JoinHandle<()>,
    ) {
        progress.abandoned.store(true, Relaxed);
        self.stuck.add(&path);
        tracing::error!(
            path = %path.display(),
            seconds = self.longest.as_secs(),
            "the file system does not answer: the file is skipped until it does, and what was served of it stays"
        );
        let stuck = Arc::clone(&self.stuck);
        let waiting = std::thread::Builder::new().name("durward-stuck".to_owned());
        let spawned = waiting.spawn(move || {
            drop(thread.join());
            stuck.remove(&path);
            tracing::info!(path = %path.display(), "the file system answers again");
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start a thread that waits for the file system: the file stays skipped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_a_mount_point_is_not_left_out_with_it() {
        let stuck = Stuck::default();

        stuck.add(Path::new("/proc"));
        stuck.add(Path::new("/nowhere/a.yaml"));

        assert!(stuck.holds(Path::new("/proc")) && stuck.holds(Path::new("/proc/self/maps")));
        assert!(!stuck.holds(Path::new("/etc")));
        assert!(stuck.holds(Path::new("/nowhere/b.yaml")));
        stuck.remove(Path::new("/nowhere/a.yaml"));
        assert!(!stuck.holds(Path::new("/nowhere/b.yaml")));
        assert_eq!(stuck.paths(), [Path::new("/proc")]);
    }
}
