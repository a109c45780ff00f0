//! Files of certificates by ACME: accounts, certificates with their keys, answers to challenges, and the ledger of attempts.
//!
//! All are private to the user of the gateway (mode 0600 in directories of mode 0700) and replaced atomically. A lock says which process writes them.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Directories below the store's own.
const PARTS: [&str; 3] = ["accounts", "certificates", "challenges"];

/// Directory of all files.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
}

/// Right to write the files; it ends with the process.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it is what unlocks")] File);

/// Attempts, kept over restarts so that these do not use up an authority's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Ledger {
    /// By the identifier of the certificate.
    pub(crate) certificates: BTreeMap<String, Record>,
    /// Times of orders within the last hour, by directory URL.
    pub(crate) placed: BTreeMap<String, Vec<i64>>,
}

/// Record of the attempts for one certificate. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    /// Failures since the last success.
    pub(crate) failures: u32,
    /// Reason of the last failure.
    pub(crate) fault: Option<String>,
    /// Time before which nothing is tried after a failure.
    pub(crate) not_before: Option<i64>,
    /// Time of the next attempt as planned last.
    pub(crate) next: Option<i64>,
    /// Time of the last certificate.
    pub(crate) issued: Option<i64>,
}

impl Store {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Makes the directories.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        for part in PARTS {
            let path = self.directory.join(part);
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        }
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))
    }

    /// Takes the lock; `None` while another process has it.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        let path = self.directory.join("lock");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces a file: a crash leaves the old one or the new one, and no other user can read either.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let outcome = (|| {
            // What a crash left may have another mode.
            remove(&temporary)?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        })();
        if outcome.is_err() {
            drop(fs::remove_file(&temporary));
        }
        outcome
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        remove(path)
    }

    /// Removes answers to challenges, which no authority asks for any more.
    pub(crate) fn clear_challenges(&self) {
        let left = fs::read_dir(self.directory.join("challenges")).into_iter().flatten().flatten();
        for entry in left {
            // One that stays does no harm: its challenge is over.
            drop(fs::remove_file(entry.path()));
        }
    }

    /// Returns the credentials of an account; `None` if there is none yet.
    pub(crate) fn account(&self, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.account_file(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the credentials of an account.
    pub(crate) fn keep_account(&self, name: &str, credentials: &str) -> io::Result<()> {
        self.write(&self.account_file(name), credentials.as_bytes())
    }

    /// Forgets an account that is no longer valid.
    pub(crate) fn forget_account(&self, name: &str) -> io::Result<()> {
        remove(&self.account_file(name))
    }

    fn account_file(&self, name: &str) -> PathBuf {
        self.directory.join("accounts").join(format!("{name}.json"))
    }

    /// Returns the ledger; an empty one if there is none that can be read.
    pub(crate) fn ledger(&self) -> Ledger {
        let bytes = fs::read(self.directory.join(LEDGER)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Keeps the ledger.
    pub(crate) fn keep_ledger(&self, ledger: &Ledger) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(ledger)?;
        self.write(&self.directory.join(LEDGER), &bytes)
    }
}

/// Name of the file of attempts.
const LEDGER: &str = "attempts.json";

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    // S3.48+
    #[test]
    fn keys_and_accounts_are_readable_for_the_user_of_the_gateway_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("acme"));
        store.prepare().unwrap();
        let key = directory.path().join("acme/certificates/a.pem");

        store.keep_account("a", "credentials").unwrap();
        fs::write(key.with_extension("pem.new"), "left by a crash").unwrap();
        store.write(&key, b"key").unwrap();

        assert_eq!(mode(&key), 0o600);
        assert_eq!(mode(&directory.path().join("acme/accounts/a.json")), 0o600);
        for part in ["", "accounts", "certificates", "challenges"] {
            assert_eq!(mode(&directory.path().join("acme").join(part)), 0o700, "{part}");
        }
        assert_eq!(fs::read(&key).unwrap(), b"key");
        assert!(!key.with_extension("pem.new").exists());
        assert_eq!(store.account("a").unwrap().as_deref(), Some("credentials"));
        store.forget_account("a").unwrap();
        assert_eq!(store.account("a").unwrap(), None);
    }

    #[test]
    fn one_process_at_a_time_places_orders() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let held = store.lock().unwrap().unwrap();

        assert!(Store::new(directory.path().to_owned()).lock().unwrap().is_none());
        drop(held);
        assert!(store.lock().unwrap().is_some());
    }

    #[test]
    fn a_damaged_ledger_is_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let record = Record { failures: 3, fault: Some("why".into()), ..Record::default() };
        let certificates = BTreeMap::from([("a".to_owned(), record)]);
        let ledger = Ledger { certificates, ..Ledger::default() };

        store.keep_ledger(&ledger).unwrap();
        assert_eq!(store.ledger(), ledger);
        fs::write(directory.path().join(LEDGER), "{").unwrap();
        assert_eq!(store.ledger(), Ledger::default());
    }
}
