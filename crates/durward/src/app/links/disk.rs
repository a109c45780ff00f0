//! Claims of links in the state directory: one file per link, so that a registration writes its own link's alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use durward_control::registry::{BadClaims, Image, LinkId, Registry as Claims};

/// Directory of the files.
pub(super) const DIRECTORY: &str = "links";
/// Ending of a file, of one that is being written, and of one that could not be used.
const ENDING: &str = ".json";
const UNFINISHED: &str = ".new";
const DAMAGED: &str = ".damaged";
const UNREADABLE: &str = ".unreadable";
/// Ending of a file that a newer Durward wrote: that finds it again.
const NEWER: &str = ".newer";
/// Bytes of a file at most: more than the routes that a link may have.
const LARGEST: u64 = 128 << 20;
/// Wait before a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Contents of files by link; `None` removes the file.
type Contents = BTreeMap<LinkId, Option<Image>>;

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
    /// Contents that are to be written.
    waiting: Contents,
    /// Links whose contents are being written.
    writing: BTreeSet<LinkId>,
    /// Reason for which the last write of a link failed.
    faults: BTreeMap<LinkId, String>,
    /// True while the files are those of another process.
    held: bool,
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
            while !work.ends && (work.held || work.waiting.is_empty()) {
                work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
            }
            if work.held || work.waiting.is_empty() {
                return;
            }
            let batch = std::mem::take(&mut work.waiting);
            work.writing = batch.keys().cloned().collect();
            drop(work);
            let faults = self.write(&batch);
            work = self.work();
            let failed = work.finish(batch, &faults);
            self.changed.notify_all();
            if failed && work.ends {
                return;
            }
            if failed {
                let waited = self.changed.wait_timeout(work, AGAIN);
                work = waited.map_or_else(|error| error.into_inner().0, |(work, _)| work);
            }
        }
    }

    /// Writes files, each for itself, and returns why some were not stored.
    fn write(&self, batch: &Contents) -> BTreeMap<LinkId, String> {
        let written = |(id, contents): (&LinkId, &Option<Image>)| {
            let path = self.file(id);
            let written = match contents {
                Some(image) => replace(&path, &image.to_json().unwrap_or_default()),
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                },
            };
            let error = written.err()?;
            Some((id.clone(), format!("{}: {error}", path.display())))
        };
        let faults = batch.iter().filter_map(written).collect();
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        match synced {
            Ok(()) => faults,
            // The directory is made with the first file: there is nothing in it that could be lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => faults,
            Err(error) => {
                let fault = format!("{}: {error}", self.directory.display());
                batch.keys().map(|id| (id.clone(), fault.clone())).collect()
            }
        }
    }
}

impl Work {
    /// Takes note of what was written; what failed waits again, unless something newer does. Returns true if anything failed.
    fn finish(&mut self, batch: Contents, faults: &BTreeMap<LinkId, String>) -> bool {
        self.writing.clear();
        for (id, contents) in batch {
            let Some(fault) = faults.get(&id) else {
                self.faults.remove(&id);
                continue;
            };
            if self.faults.get(&id) != Some(fault) {
                tracing::error!(link = %id, error = fault, "claims of a link cannot be stored: they are tried again each second");
            }
            self.waiting.entry(id.clone()).or_insert(contents);
            self.faults.insert(id, fault.clone());
        }
        !faults.is_empty()
    }

    fn is_stored(&self, id: &LinkId) -> bool {
        !self.waiting.contains_key(id) && !self.writing.contains(id)
    }
}

impl Disk {
    /// Starts the thread.
    pub(super) fn start(state: &Path) -> io::Result<Self> {
        let directory = state.join(DIRECTORY);
        let shared =
            Arc::new(Shared { directory, work: Mutex::default(), changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("durward-links".to_owned());
        let thread = thread.spawn(move || writer.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Queues contents; later ones of a link replace those that still wait.
    pub(super) fn keep(&self, contents: impl Iterator<Item = (LinkId, Option<Image>)>) {
        self.shared.work().waiting.extend(contents);
        self.shared.changed.notify_all();
    }

    /// Waits until the claims of these links are stored.
    ///
    /// # Errors
    /// Fails with the fault if a write of theirs failed, or after `patience`.
    pub(super) fn wait(&self, ids: &[&LinkId], patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        let mut work = self.shared.work();
        while let Some(id) = ids.iter().find(|id| !work.is_stored(id)) {
            if let Some(fault) = work.faults.get(id) {
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

    /// Writes nothing from now on: another process has the files. Returns false if what is being written is not finished after `patience`.
    pub(super) fn hold(&self, patience: Duration) -> bool {
        let mut work = self.shared.work();
        work.held = true;
        let is_writing = |work: &mut Work| !work.writing.is_empty();
        let waited = self.shared.changed.wait_timeout_while(work, patience, is_writing);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes again.
    pub(super) fn resume(&self) {
        self.shared.work().held = false;
        self.shared.changed.notify_all();
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

/// Writes a file in place of another, so that a crash leaves one of both. Its directory is made with the first.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let unfinished = path.with_extension(&UNFINISHED[1..]);
    let mut file = File::create(&unfinished)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

/// Takes in what the files of a state directory say. A file that cannot be used is reported and set aside; the others are not affected.
pub(super) fn read(state: &Path, claims: &mut Claims) {
    let directory = state.join(DIRECTORY);
    let entries = fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::error!(directory = %directory.display(), %error, "claims of links cannot be read: no registered route is served until its agent registers it again");
            return;
        }
    };
    let mut paths: Vec<PathBuf> = entries.iter().map(|entry| found_again(entry.path())).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ENDING));
    paths.sort();
    for path in paths {
        match restore(&path, claims) {
            Ok(()) => {}
            Err(Fault::Unreadable(error)) => {
                let aside = set_aside(&path, UNREADABLE);
                tracing::error!(
                    file = %path.display(), kept_as = %aside.display(), %error,
                    "claims of a link cannot be read: its routes are not served until its agent registers them again; to restore them, name the file as before and restart"
                );
            }
            Err(Fault::Newer(error)) => {
                let aside = set_aside(&path, NEWER);
                tracing::error!(
                    file = %path.display(), kept_as = %aside.display(), error,
                    "claims of a link are of a newer Durward, which finds them again: its routes are not served until its agent registers them again"
                );
            }
            Err(Fault::Damaged(error)) => {
                let aside = set_aside(&path, DAMAGED);
                tracing::error!(
                    file = %path.display(), kept_as = %aside.display(), error,
                    "claims of a link are damaged: its routes are not served until its agent registers them again; to restore them, mend the file, name it as before and restart"
                );
            }
        }
    }
}

/// Reason for which a file gives no claims.
enum Fault {
    Unreadable(io::Error),
    Newer(String),
    Damaged(String),
}

/// Returns the path of a file. One that was set aside because a newer Durward wrote it has its name again, if nothing was written since.
fn found_again(path: PathBuf) -> PathBuf {
    let name = path.to_string_lossy();
    let Some(before) = name.strip_suffix(NEWER).map(PathBuf::from) else { return path };
    if before.exists() || fs::rename(&path, &before).is_err() {
        return path;
    }
    before
}

fn restore(path: &Path, claims: &mut Claims) -> Result<(), Fault> {
    let size = fs::metadata(path).map_err(Fault::Unreadable)?.len();
    if size > LARGEST {
        return Err(Fault::Damaged(format!("it has {size} bytes, and at most {LARGEST} are read")));
    }
    let bytes = fs::read(path).map_err(Fault::Unreadable)?;
    let restored = claims.restore(&bytes);
    restored.map(drop).map_err(|error| match error {
        BadClaims::Version(_) => Fault::Newer(crate::app::sentence(&error)),
        error => Fault::Damaged(crate::app::sentence(&error)),
    })
}

/// Gives a file another name, so that the next registration of its link does not write over it; returns the name that it has now.
fn set_aside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    let aside = PathBuf::from(name);
    match fs::rename(path, &aside) {
        Ok(()) => aside,
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn id(link: &str) -> LinkId {
        LinkId { tenant: "acme".into(), link: link.into() }
    }

    fn claims(link: &str) -> Vec<u8> {
        let host = format!("{link}.example");
        let route = format!(
            r#"{{"host":"{host}","path":{{"prefix":""}},"target":"a.b.svc.cluster.local","port":80}}"#
        );
        format!(r#"{{"version":1,"tenant":"acme","link":"{link}","routes":[{route}]}}"#)
            .into_bytes()
    }

    fn image(link: &str) -> Image {
        let mut registry = Claims::default();
        registry.restore(&claims(link)).unwrap();
        registry.image(&id(link)).unwrap()
    }

    fn kept(disk: &Disk, links: &[&str]) {
        disk.keep(links.iter().map(|link| (id(link), Some(image(link)))));
    }

    // S3.37+
    #[test]
    fn what_was_kept_is_read_again_and_what_is_damaged_costs_no_other_and_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::start(directory.path()).unwrap();
        kept(&disk, &["a", "b"]);
        disk.keep([(id("b"), None)].into_iter());
        disk.wait(&[&id("a"), &id("b")], PATIENCE).unwrap();
        let damaged = directory.path().join("links/acme+c.json");
        fs::write(&damaged, "{").unwrap();

        let mut read_again = Claims::default();
        read(directory.path(), &mut read_again);

        assert_eq!(read_again.to_json(&id("a")), Some(claims("a")));
        assert_eq!(read_again.to_json(&id("b")), None);
        assert!(!directory.path().join("links/acme+b.json").exists());
        kept(&disk, &["c"]);
        disk.wait(&[&id("c")], PATIENCE).unwrap();
        assert_eq!(fs::read(&damaged).unwrap(), claims("c"));
        let aside = directory.path().join("links/acme+c.json.damaged");
        assert_eq!(fs::read(aside).unwrap(), b"{", "what was damaged can still be mended");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_said_and_tried_again_and_costs_no_other_link() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::start(directory.path()).unwrap();
        let links = directory.path().join("links");
        // A directory stands where the file belongs.
        fs::create_dir_all(links.join("acme+a.json")).unwrap();
        kept(&disk, &["a", "b"]);

        assert!(disk.wait(&[&id("a")], PATIENCE).is_err());
        assert_eq!(disk.wait(&[&id("b")], PATIENCE), Ok(()));

        fs::remove_dir(links.join("acme+a.json")).unwrap();
        let until = Instant::now() + PATIENCE;
        while disk.wait(&[&id("a")], PATIENCE).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(fs::read(links.join("acme+a.json")).unwrap(), claims("a"));
    }

    #[test]
    fn a_link_without_claims_is_stored_where_no_link_ever_had_any() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::start(directory.path()).unwrap();

        disk.keep([(id("a"), None)].into_iter());

        assert_eq!(disk.wait(&[&id("a")], PATIENCE), Ok(()));
        assert!(!directory.path().join("links").exists());
    }

    #[test]
    fn claims_of_a_newer_version_outlive_a_downgrade_and_what_cannot_be_read_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let links = directory.path().join("links");
        let newer =
            String::from_utf8(claims("a")).unwrap().replace("\"version\":1", "\"version\":9");
        fs::create_dir_all(links.join("acme+b.json")).unwrap();
        fs::write(links.join("acme+a.json"), &newer).unwrap();

        read(directory.path(), &mut Claims::default());

        assert_eq!(fs::read_to_string(links.join("acme+a.json.newer")).unwrap(), newer);
        assert!(
            links.join("acme+b.json.unreadable").exists() && !links.join("acme+b.json").exists()
        );
        // Stands for the newer Durward: what it finds is of its version.
        fs::write(links.join("acme+a.json.newer"), claims("a")).unwrap();
        let mut found = Claims::default();
        read(directory.path(), &mut found);
        assert_eq!(found.to_json(&id("a")), Some(claims("a")));
        assert_eq!(fs::read(links.join("acme+a.json")).unwrap(), claims("a"));
    }

    #[test]
    fn files_that_another_process_has_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::start(directory.path()).unwrap();
        let file = directory.path().join("links/acme+a.json");

        assert!(disk.hold(PATIENCE));
        kept(&disk, &["a"]);
        assert!(disk.wait(&[&id("a")], Duration::from_millis(50)).is_err());
        assert!(!file.exists());
        disk.resume();
        disk.wait(&[&id("a")], PATIENCE).unwrap();
        assert!(disk.hold(PATIENCE));
        disk.keep([(id("a"), None)].into_iter());
        drop(disk);

        assert!(file.exists(), "it is the other process's");
    }
}
