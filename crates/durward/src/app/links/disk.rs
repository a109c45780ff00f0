//! Claims of links in the state directory: one file per link, so that a registration writes its own link's alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use durward_control::registry::{LinkId, Registry as Claims};

/// Directory of the files.
const DIRECTORY: &str = "links";
/// Ending of a file, and of one that is being written.
const ENDING: &str = ".json";
const UNFINISHED: &str = ".new";
/// Bytes of a file at most.
const LARGEST: u64 = 16 << 20;
/// Wait before a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Thread that writes claims. Dropped, it writes what waits, once.
#[derive(Debug)]
pub(super) struct Disk {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    /// Contents that are to be written; `None` removes the file.
    waiting: BTreeMap<LinkId, Option<Vec<u8>>>,
    /// True while contents are written.
    busy: bool,
    fault: Option<String>,
    ends: bool,
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: &LinkId) -> PathBuf {
        self.directory.join(format!("{}+{}{ENDING}", id.tenant, id.link))
    }

    fn run(&self) {
        let mut work = self.work();
        loop {
            while work.waiting.is_empty() && !work.ends {
                work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
            }
            if work.waiting.is_empty() {
                return;
            }
            let batch = std::mem::take(&mut work.waiting);
            work.busy = true;
            drop(work);
            let failed = self.write(batch);
            work = self.work();
            work.busy = false;
            work.fault = failed.as_ref().map(|(_, error)| error.to_string());
            if let Some((left, error)) = failed {
                tracing::error!(directory = %self.directory.display(), %error, "claims of links cannot be stored");
                // What came meanwhile is newer.
                for (id, contents) in left {
                    work.waiting.entry(id).or_insert(contents);
                }
                self.changed.notify_all();
                if work.ends {
                    return;
                }
                work = self
                    .changed
                    .wait_timeout(work, AGAIN)
                    .map_or_else(|error| error.into_inner().0, |(work, _)| work);
            } else {
                self.changed.notify_all();
            }
        }
    }

    /// Writes files; on a failure returns those that are left.
    fn write(
        &self,
        batch: BTreeMap<LinkId, Option<Vec<u8>>>,
    ) -> Option<(BTreeMap<LinkId, Option<Vec<u8>>>, io::Error)> {
        let written = batch.iter().try_for_each(|(id, contents)| {
            let path = self.file(id);
            match contents {
                Some(contents) => replace(&path, contents),
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                },
            }
        });
        let synced = written.and_then(|()| File::open(&self.directory)?.sync_all());
        synced.err().map(|error| (batch, error))
    }
}

impl Disk {
    /// Makes the directory, and starts the thread.
    pub(super) fn start(state: &Path) -> io::Result<Self> {
        let directory = state.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        let shared =
            Arc::new(Shared { directory, work: Mutex::default(), changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("durward-links".to_owned());
        let thread = thread.spawn(move || writer.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Queues contents; later ones of a link replace those that still wait.
    pub(super) fn keep(&self, contents: impl Iterator<Item = (LinkId, Option<Vec<u8>>)>) {
        self.shared.work().waiting.extend(contents);
        self.shared.changed.notify_all();
    }

    /// Waits until nothing is left to be written.
    ///
    /// # Errors
    /// Fails with the fault if a write failed, or after `patience`.
    pub(super) fn wait(&self, patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        let mut work = self.shared.work();
        while work.busy || !work.waiting.is_empty() {
            if let Some(fault) = &work.fault {
                return Err(fault.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the disk is slow".to_owned());
            }
            let waited = self.shared.changed.wait_timeout(work, left);
            work = waited.map_or_else(|error| error.into_inner().0, |(work, _)| work);
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.work().ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by its hook.
            drop(thread.join());
        }
    }
}

/// Writes a file in place of another, so that a crash leaves one of both.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension(&UNFINISHED[1..]);
    let mut file = File::create(&unfinished)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

/// Takes in what the files of a state directory say. A file that cannot be used is reported and left there until its link registers again.
pub(super) fn read(state: &Path, claims: &mut Claims) {
    let directory = state.join(DIRECTORY);
    let Ok(entries) = fs::read_dir(&directory) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ENDING));
    paths.sort();
    for path in paths {
        let size = fs::metadata(&path).map_or(0, |data| data.len());
        let read =
            if size > LARGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { fs::read(&path) };
        let restored = read.map_err(|error| error.to_string()).and_then(|bytes| {
            let restored = claims.restore(&bytes);
            restored.map_err(|error| error.to_string())
        });
        if let Err(error) = restored {
            tracing::error!(file = %path.display(), error, "claims of a link cannot be used: its agent registers anew");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(link: &str) -> LinkId {
        LinkId { tenant: "acme".into(), link: link.into() }
    }

    fn claims(link: &str) -> Vec<u8> {
        let route = r#"{"host":"a.example","path":{"prefix":""},"target":"a.b.svc.cluster.local","port":80}"#;
        format!(r#"{{"version":1,"tenant":"acme","link":"{link}","routes":[{route}]}}"#)
            .into_bytes()
    }

    #[test]
    fn what_was_kept_is_read_again_and_what_is_damaged_costs_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::start(directory.path()).unwrap();
        disk.keep([(id("a"), Some(claims("a"))), (id("b"), Some(claims("b")))].into_iter());
        disk.keep([(id("b"), None)].into_iter());
        disk.wait(Duration::from_secs(60)).unwrap();
        fs::write(directory.path().join("links/acme+c.json"), "{").unwrap();

        let mut read_again = Claims::default();
        read(directory.path(), &mut read_again);

        assert_eq!(read_again.to_json(&id("a")), Some(claims("a")));
        assert_eq!(read_again.to_json(&id("b")), None);
        assert!(!directory.path().join("links/acme+b.json").exists());
    }

    #[test]
    fn a_disk_that_fails_is_said_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::start(directory.path()).unwrap();
        let links = directory.path().join("links");
        // A directory stands where the file belongs.
        fs::create_dir(links.join("acme+a.json")).unwrap();
        disk.keep([(id("a"), Some(claims("a")))].into_iter());

        assert!(disk.wait(Duration::from_secs(60)).is_err());

        fs::remove_dir(links.join("acme+a.json")).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while disk.wait(Duration::from_secs(60)).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(fs::read(links.join("acme+a.json")).unwrap(), claims("a"));
    }
}
