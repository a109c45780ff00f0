//! An encrypted file with everything that was said of a cluster, so that a start while the API server is away serves it.
//!
//! There are private keys in it. It is off unless the operator names a file and a key, and is sealed with AES-256-GCM: who has the file and not the key can neither read nor
//! change it. An older file of the same key in its place is not noticed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durward_control::change::Change;
use durward_control::stream::{Frames, Item, frame};
use serde::{Deserialize, Serialize};

use crate::app::sentence;
use crate::inspect::now;

/// First bytes of the file, with the version of its form.
const MAGIC: &[u8; 8] = b"DWKCACH1";
/// Bytes of the key.
const KEY: usize = 32;
/// Largest file that is read.
const LARGEST: u64 = 2 << 30;

/// Files of the cache.
#[derive(Clone, Debug)]
pub(crate) struct CacheOptions {
    /// The cache.
    pub(crate) path: PathBuf,
    /// The key: 32 bytes, as they are or in base64.
    pub(crate) key: PathBuf,
}

/// The cache of one cluster.
pub(crate) struct Cache {
    path: PathBuf,
    key: LessSafeKey,
    /// The gateway's own namespace: a cache of another is not read.
    namespace: Arc<str>,
}

/// Content of a cache.
pub(crate) struct Cached {
    /// Everything that was said.
    pub(crate) change: Change,
    /// When it was written, in seconds since the Unix epoch.
    pub(crate) written: i64,
}

/// First frame in the file.
#[derive(Serialize, Deserialize)]
struct Head {
    namespace: Arc<str>,
    written: i64,
    items: usize,
}

impl Cache {
    /// Opens a cache. The file need not be there.
    ///
    /// # Errors
    /// Fails with a sentence if the key cannot be read, is no key, or may be read by every user.
    pub(crate) fn open(options: &CacheOptions, namespace: Arc<str>) -> Result<Self, String> {
        let fault = |why: String| format!("--kube-cache-key {} {why}", options.key.display());
        let key = key(&options.key).map_err(fault)?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| fault("is no key".to_owned()))?;
        Ok(Self { path: options.path.clone(), key: LessSafeKey::new(key), namespace })
    }

    /// Returns what an earlier process has saved; `None` if there is nothing of use, with a warning where a file is there.
    pub(crate) fn read(&self) -> Option<Cached> {
        let bytes = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Ok(found) if found.len() > LARGEST => Err("is too large".to_owned()),
            Ok(_) => fs::read(&self.path).map_err(|error| format!("cannot be read: {error}")),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        match bytes.and_then(|bytes| self.opened(bytes)) {
            Ok(cached) => Some(cached),
            Err(why) => {
                let path = self.path.display();
                tracing::warn!(why, %path, "the cache of the cluster is not used");
                None
            }
        }
    }

    /// Saves everything that was said, in place of what was saved before.
    ///
    /// # Errors
    /// Fails if the file cannot be written; what was saved before is left as it is.
    pub(crate) fn save(&self, items: &[Item]) -> io::Result<()> {
        let bytes = self.sealed(items).map_err(io::Error::other)?;
        let mut unfinished = self.path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        // Locked until it has its final name: a process that hands over and the one after it may save at once.
        let mut file = locked(&unfinished)?;
        let written = write(&mut file, &bytes).and_then(|()| fs::rename(&unfinished, &self.path));
        if written.is_err() {
            drop(fs::remove_file(&unfinished));
        }
        written
    }

    fn sealed(&self, items: &[Item]) -> Result<Vec<u8>, String> {
        let head =
            Head { namespace: Arc::clone(&self.namespace), written: now(), items: items.len() };
        let mut sealed = frame(&head).map_err(|error| sentence(&error))?;
        for item in items {
            // Objects that are too large to transfer are read again by the next process.
            if let Ok(bytes) = frame(item) {
                sealed.extend(bytes);
            }
        }
        let mut nonce = [0; NONCE_LEN];
        let broken = |_| "the random number generator or the encryption failed".to_owned();
        aws_lc_rs::rand::fill(&mut nonce).map_err(broken)?;
        let by = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(by, Aad::from(MAGIC), &mut sealed).map_err(broken)?;
        Ok([&MAGIC[..], &nonce, &sealed].concat())
    }

    fn opened(&self, mut bytes: Vec<u8>) -> Result<Cached, String> {
        let start = MAGIC.len() + NONCE_LEN;
        if bytes.len() < start || bytes[..MAGIC.len()] != MAGIC[..] {
            return Err("is not a cache of this version".to_owned());
        }
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[MAGIC.len()..start]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(MAGIC), &mut bytes[start..]);
        let opened =
            opened.map_err(|_| "was sealed with another key, or was changed".to_owned())?;
        let mut frames = Frames::default();
        frames.push(opened);
        let head: Option<(Head, _)> = frames.next_message().map_err(|error| sentence(&error))?;
        let Some((head, _)) = head else { return Err("is cut off".to_owned()) };
        if head.namespace != self.namespace {
            return Err(format!("is of a gateway in namespace {}", head.namespace));
        }
        let mut change = Change::default();
        while let Some((item, _)) = frames.next_message().map_err(|error| sentence(&error))? {
            match item {
                Item::Document(document) => change.upserts.push(document),
                Item::Fact(reference, fact) => change.facts.push((reference, Some(fact))),
            }
        }
        Ok(Cached { change, written: head.written })
    }
}

/// Opens a file that no other process writes, or makes it.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        file.lock()?;
        // Who held the lock before may have given the file its final name meanwhile.
        let (opened, named) = (file.metadata()?, fs::metadata(path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())) {
            return Ok(file);
        }
    }
}

fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    // A file that was left there may have another mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    File::sync_all(file)
}

/// Reads a key, or says in a phrase why it is none.
fn key(path: &Path) -> Result<[u8; KEY], String> {
    let unread = |error: io::Error| format!("cannot be read: {error}");
    let mode = fs::metadata(path).map_err(unread)?.permissions().mode();
    if mode & 0o004 != 0 {
        return Err("may be read by every user of the host: chmod o-r".to_owned());
    }
    let bytes = fs::read(path).map_err(unread)?;
    if let Ok(key) = <[u8; KEY]>::try_from(bytes.as_slice()) {
        return Ok(key);
    }
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    let decoded = STANDARD.decode(text).ok().and_then(|key| key.try_into().ok());
    decoded.ok_or_else(|| {
        "is not a key: it must have 32 random bytes, as they are or in base64 (openssl rand -base64 32)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use durward_control::change::Fact;
    use durward_control::reference::Reference;

    use super::*;

    fn secret() -> Item {
        let name = Reference::Secret { namespace: Arc::from("acme"), name: Arc::from("shop") };
        let key: Arc<[u8]> = Arc::from(&b"very-private"[..]);
        Item::Fact(name, Fact::Bytes(BTreeMap::from([(Arc::from("tls.key"), key)]).into()))
    }

    fn open(dir: &Path, key: &[u8], namespace: &str) -> Result<Cache, String> {
        let options = CacheOptions { path: dir.join("cache"), key: dir.join("key") };
        fs::write(&options.key, key).unwrap();
        fs::set_permissions(&options.key, Permissions::from_mode(0o440)).unwrap();
        Cache::open(&options, Arc::from(namespace))
    }

    #[test]
    fn what_was_saved_is_read_with_the_same_key_and_shows_nothing_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), &[7; 32], "durward").unwrap();
        assert!(cache.read().is_none());

        cache.save(&[secret()]).unwrap();

        let bytes = fs::read(dir.path().join("cache")).unwrap();
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        assert!(!holds(b"very-private") && !holds(&STANDARD.encode("very-private").into_bytes()));
        assert_eq!(
            fs::metadata(dir.path().join("cache")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let cached =
            open(dir.path(), STANDARD.encode([7; 32]).as_bytes(), "durward").unwrap().read();
        let cached = cached.unwrap();
        let Item::Fact(name, fact) = secret() else { unreachable!() };
        assert_eq!(cached.change.facts, [(name, Some(fact))]);
        assert!(cached.written > 1_700_000_000);
    }

    #[test]
    fn of_several_processes_with_one_cache_each_reads_what_one_of_them_saved() {
        const SAVES: usize = 25;
        let dir = tempfile::tempdir().unwrap();
        let item = |by: usize| {
            let name = Reference::Secret { namespace: Arc::from("acme"), name: Arc::from("shop") };
            let key: Arc<[u8]> = Arc::from(vec![by as u8; 300_000 + by * 1_000]);
            Item::Fact(name, Fact::Bytes(BTreeMap::from([(Arc::from("tls.key"), key)]).into()))
        };
        let caches = [1, 2, 3].map(|_| open(dir.path(), &[7; 32], "durward").unwrap());
        caches[0].save(&[item(0)]).unwrap();

        std::thread::scope(|scope| {
            for (by, cache) in caches.iter().enumerate() {
                scope.spawn(move || {
                    for _ in 0..SAVES {
                        cache.save(&[item(by)]).unwrap();
                        let read = cache.read().expect("a whole one is there").change.facts;
                        let known = (0..3).map(item).any(|one| {
                            let Item::Fact(name, fact) = one else { unreachable!() };
                            read == [(name, Some(fact))]
                        });
                        assert!(known, "it is none of those that were saved");
                    }
                });
            }
        });

        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "the cache and the key: {left:?}");
    }

    #[test]
    fn a_cache_of_another_key_or_gateway_or_one_that_was_changed_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), &[7; 32], "durward").unwrap().save(&[secret()]).unwrap();
        let path = dir.path().join("cache");
        let good = fs::read(&path).unwrap();

        assert!(open(dir.path(), &[8; 32], "durward").unwrap().read().is_none());
        assert!(open(dir.path(), &[7; 32], "other").unwrap().read().is_none());
        for at in [0, MAGIC.len(), MAGIC.len() + NONCE_LEN + 3, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(open(dir.path(), &[7; 32], "durward").unwrap().read().is_none(), "{at}");
        }
        for length in [0, 7, 20, good.len() / 2] {
            fs::write(&path, &good[..length]).unwrap();
            assert!(open(dir.path(), &[7; 32], "durward").unwrap().read().is_none(), "{length}");
        }
    }

    #[test]
    fn a_key_that_is_none_or_that_everybody_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [&b""[..], b"short", &[7; 33], b"////"] {
            assert!(open(dir.path(), bad, "durward").is_err(), "{bad:?}");
        }
        let options = CacheOptions { path: dir.path().join("cache"), key: dir.path().join("key") };
        fs::write(&options.key, [7; 32]).unwrap();
        fs::set_permissions(&options.key, Permissions::from_mode(0o644)).unwrap();

        let refused = Cache::open(&options, Arc::from("durward")).err().unwrap();

        assert!(refused.contains("every user"), "{refused}");
    }
}
