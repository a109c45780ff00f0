//! The state file as one process leaves it and the next one finds it.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::*;

#[test]
fn a_state_file_is_whole_private_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::start(directory.path()).unwrap();

    file.save(&Arc::new(Compiled::default()));
    file.close();

    let path = directory.path().join(NAME);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(read(directory.path()).unwrap(), Some(Compiled::default().state()));
    assert_eq!(look(directory.path()).unwrap(), Some(Compiled::default().state()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(file.status().kept.is_ok() && file.status().aside.is_empty());
}

#[test]
fn a_damaged_state_file_is_set_aside_and_a_missing_directory_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    let damaged = ["", "{", "{\"version\":99,\"texts\":[],\"tenants\":[],\"mappings\":[]}", "[]"];
    for (at, damaged) in damaged.into_iter().enumerate() {
        fs::write(&path, damaged).unwrap();

        assert!(look(directory.path()).is_err() && path.exists(), "{damaged}");
        assert_eq!(read(directory.path()).unwrap(), None, "{damaged}");

        assert!(!path.exists(), "{damaged}");
        assert_eq!(aside(directory.path()).len(), at + 1, "none is overwritten: {damaged}");
    }
    assert_eq!(fs::read(directory.path().join("claims.unreadable.2")).unwrap(), b"{");
    fs::create_dir(&path).unwrap();
    assert_eq!(read(directory.path()).unwrap(), None, "a directory");
    let large = File::create(&path).unwrap();
    large.set_len(state::LARGEST + 1).unwrap();
    assert_eq!(read(directory.path()).unwrap(), None, "a large file");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    assert_eq!(read(directory.path()).unwrap(), None, "a FIFO");
    assert_eq!(aside(directory.path()).len(), 7);

    // They are told of also after a state was written.
    let file = StateFile::start(directory.path()).unwrap();
    file.save(&Arc::new(Compiled::default()));
    file.close();
    assert!(path.exists() && file.status().kept.is_ok());
    assert_eq!(file.status().aside.len(), 7);

    let nowhere = StateFile::start(&directory.path().join("nowhere")).unwrap();
    nowhere.save(&Arc::new(Compiled::default()));
    while nowhere.status().kept.is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    nowhere.close();
}

#[test]
fn of_two_processes_with_one_directory_the_second_writes_when_the_first_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let first = StateFile::start(directory.path()).unwrap();
    first.save(&Arc::new(Compiled::default()));
    let path = directory.path().join(NAME);
    until(|| path.exists());
    let written = fs::metadata(&path).unwrap().ino();
    let second = StateFile::start(directory.path()).unwrap();

    second.save(&Arc::new(Compiled::default()));

    until(|| second.status().kept.is_err());
    let fault = second.status().kept.unwrap_err();
    assert!(fault.contains("another process keeps its state there"), "{fault}");
    assert!(fault.contains("give each gateway a --state-dir of its own"), "{fault}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), written);
    first.close();
    until(|| second.status().kept.is_ok());
    assert_ne!(fs::metadata(&path).unwrap().ino(), written);
    second.close();
}

#[test]
fn a_process_that_pauses_lets_the_younger_one_write_and_goes_on_when_that_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    let elder = StateFile::start(directory.path()).unwrap();
    elder.save(&Arc::new(Compiled::default()));
    until(|| path.exists());
    elder.pause();
    let younger = StateFile::start(directory.path()).unwrap();
    fs::remove_file(&path).unwrap();

    younger.save(&Arc::new(Compiled::default()));
    until(|| path.exists());

    assert!(younger.status().kept.is_ok());
    younger.close();
    fs::remove_file(&path).unwrap();
    elder.resume();
    elder.close();
    assert!(elder.status().kept.is_ok());
}

#[test]
fn a_state_file_that_cannot_be_read_keeps_the_process_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    // A link to itself cannot be read by root either.
    std::os::unix::fs::symlink(&path, &path).unwrap();

    let failure = read(directory.path()).unwrap_err().to_string();

    assert!(failure.contains("claims.json") && failure.contains("make it readable"));
    assert!(fs::symlink_metadata(&path).is_ok() && aside(directory.path()).is_empty());
}

#[test]
fn a_state_that_is_too_large_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    let sync = Box::new(File::sync_all);
    let mut writer = Writer::new(path.clone(), Arc::default(), AGAIN, sync);
    let largest = usize::try_from(state::LARGEST).unwrap();

    assert!(writer.replace(&vec![b' '; largest + 1]).is_err());

    assert!(!path.exists());
}

#[test]
fn what_a_process_left_half_written_is_removed_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    // No process has the first id; the second one is still writing.
    let ended = directory.path().join("claims.new.4194305");
    let writing = directory.path().join(format!("claims.new.{}", std::process::id()));
    let foreign = directory.path().join("claims.new.copy");
    for path in [&ended, &writing, &foreign] {
        fs::write(path, "half").unwrap();
    }

    StateFile::start(directory.path()).unwrap().close();

    assert_eq!([&ended, &writing, &foreign].map(|path| path.exists()), [false, true, true]);
}

/// A disk that fails when it is told to.
#[derive(Clone, Default)]
struct Disk {
    files_fail: Arc<AtomicBool>,
    directories_fail: Arc<AtomicBool>,
    /// Milliseconds that each sync takes.
    delay: Arc<AtomicU64>,
    /// Files that were written.
    files: Arc<AtomicU64>,
}

impl Disk {
    fn sync(&self) -> writer::Sync {
        let disk = self.clone();
        Box::new(move |file| {
            let is_file = !file.metadata()?.is_dir();
            let fails = if is_file { &disk.files_fail } else { &disk.directories_fail };
            disk.files.fetch_add(u64::from(is_file), Relaxed);
            std::thread::sleep(Duration::from_millis(disk.delay.load(Relaxed)));
            let eio = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
            if fails.load(Relaxed) { Err(eio) } else { Ok(()) }
        })
    }
}

/// A state file on a disk, with its directory.
struct Stage {
    directory: tempfile::TempDir,
    disk: Disk,
    file: StateFile,
}

impl Stage {
    fn new(again: Duration) -> Self {
        let (directory, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let file = StateFile::start_with(directory.path(), again, disk.sync()).unwrap();
        Self { directory, disk, file }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    fn holds(&self, compiled: &Compiled) -> bool {
        fs::read(self.path()).is_ok_and(|bytes| bytes == compiled.state().to_json())
    }

    fn save(&self, compiled: &Arc<Compiled>) {
        self.file.save(compiled);
        until(|| self.holds(compiled));
    }
}

/// Compiles a tenant's document.
fn compiled(name: &str) -> Arc<Compiled> {
    let directory = tempfile::tempdir().unwrap();
    let document = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{egress: {{addresses: [127.0.0.7]}}}}\n"
    );
    fs::write(directory.path().join("tenant.yaml"), document).unwrap();
    let source = durward_control::FileSource::default();
    let resources = source.load(&[directory.path().to_owned()]);
    let compiled = Arc::new(durward_control::compile(&resources, None, 0));
    let state = compiled.state();
    assert_ne!(state.to_json(), state.without_documents().to_json());
    compiled
}

/// Waits until the condition holds.
fn until(mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < end, "in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const OFTEN: Duration = Duration::from_millis(5);
const NEVER: Duration = Duration::from_secs(86_400);

#[test]
fn a_disk_that_fails_leaves_the_old_file_whole_and_is_tried_again() {
    let (old, new) = (compiled("old"), compiled("new"));
    let stage = Stage::new(OFTEN);
    stage.save(&old);

    stage.disk.files_fail.store(true, Relaxed);
    stage.file.save(&new);
    until(|| stage.file.status().kept.is_err());

    assert!(stage.holds(&old));
    let fault = stage.file.status().kept.unwrap_err();
    for part in ["claims.json", "os error 5", "neither claims nor documents", "look at the disk"] {
        assert!(fault.contains(part), "{part}: {fault}");
    }
    stage.disk.files_fail.store(false, Relaxed);
    until(|| stage.file.status().kept.is_ok());
    assert!(stage.holds(&new));
    stage.file.close();
    assert_eq!(fs::read_dir(stage.directory.path()).unwrap().count(), 1);
}

#[test]
fn changes_that_follow_one_another_are_written_together() {
    let states = ["a", "b", "c", "d", "e"].map(compiled);
    let stage = Stage::new(NEVER);
    stage.disk.delay.store(100, Relaxed);
    stage.save(&states[0]);

    states[1..].iter().for_each(|state| stage.file.save(state));
    until(|| stage.holds(&states[4]));

    assert_eq!(
        stage.disk.files.load(Relaxed),
        2,
        "the first, and the last of those that came soon after"
    );
}

#[test]
fn a_directory_that_cannot_be_synced_costs_no_documents() {
    let (old, new) = (compiled("old"), compiled("new"));
    let stage = Stage::new(OFTEN);
    stage.save(&old);

    stage.disk.directories_fail.store(true, Relaxed);
    stage.file.save(&new);
    until(|| stage.file.status().kept.is_err());

    assert!(stage.holds(&new));
    let fault = stage.file.status().kept.unwrap_err();
    assert!(fault.contains("a crash of this host may lose them"), "{fault}");
    stage.disk.directories_fail.store(false, Relaxed);
    until(|| stage.file.status().kept.is_ok());
    assert!(stage.holds(&new));
}

#[test]
fn a_file_that_is_damaged_while_the_process_runs_is_replaced() {
    let state = compiled("acme");
    let stage = Stage::new(OFTEN);
    stage.save(&state);

    fs::write(stage.path(), "{").unwrap();
    until(|| stage.holds(&state));
    fs::remove_file(stage.path()).unwrap();
    until(|| stage.holds(&state));
    fs::remove_file(stage.path()).unwrap();
    fs::create_dir(stage.path()).unwrap();
    until(|| stage.holds(&state));

    assert!(stage.file.status().kept.is_ok());
    assert_eq!(stage.file.status().aside.len(), 1, "the directory");
}

#[test]
fn what_is_not_in_the_file_is_written_at_the_end() {
    let (old, new) = (compiled("old"), compiled("new"));
    let damaged = Stage::new(NEVER);
    damaged.save(&old);
    fs::write(damaged.path(), "{").unwrap();
    let failed = Stage::new(NEVER);
    failed.save(&old);
    failed.disk.files_fail.store(true, Relaxed);
    failed.file.save(&new);
    until(|| failed.file.status().kept.is_err());
    failed.disk.files_fail.store(false, Relaxed);

    damaged.file.close();
    failed.file.close();

    assert!(damaged.holds(&old));
    assert!(failed.holds(&new) && failed.file.status().kept.is_ok());
}

#[test]
fn what_a_younger_process_wrote_is_not_overwritten_by_an_older_one() {
    let (old, new) = (compiled("old"), compiled("new"));
    let stage = Stage::new(OFTEN);
    stage.save(&old);

    stage.file.pause();
    stage.file.save(&new);
    fs::write(stage.path(), "younger").unwrap();
    stage.file.leave();
    stage.file.close();

    assert_eq!(fs::read(stage.path()).unwrap(), b"younger");
    let stage = Stage::new(OFTEN);
    stage.save(&old);
    stage.file.pause();
    stage.file.save(&new);
    fs::write(stage.path(), "younger").unwrap();
    stage.file.resume();
    until(|| stage.holds(&new));
}
