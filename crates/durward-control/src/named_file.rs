//! The content of a file that documents name, and whether every user of the host may change it.
//!
//! The digest outlives the bytes: of a file that only rejected documents name, nothing but the digest is kept between loads.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

/// A file, or why it could not be read, as a lower-case phrase.
pub type FileBytes = Result<NamedFile, String>;

/// Reason for a file that is not there.
pub const MISSING: &str = "does not exist";

/// The SHA-256 of a file.
pub type Digest = [u8; 32];

/// A file that was read.
#[derive(Clone)]
pub struct NamedFile {
    bytes: Option<Arc<[u8]>>,
    digest: Digest,
    length: u64,
    /// True if every user of the host may change the file.
    pub writable_by_all: bool,
}

impl NamedFile {
    /// A file with these bytes that only its owner and group may change.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let (digest, length) = (digest_of(&bytes), bytes.len() as u64);
        Self { bytes: Some(Arc::from(bytes)), digest, length, writable_by_all: false }
    }

    /// The bytes; `None` once they were released.
    #[must_use]
    pub fn bytes(&self) -> Option<&Arc<[u8]>> {
        self.bytes.as_ref()
    }

    /// The SHA-256 of the bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The number of bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The number of bytes that are held in memory.
    #[must_use]
    pub fn held(&self) -> u64 {
        if self.bytes.is_some() { self.length } else { 0 }
    }

    /// The file without its bytes.
    #[must_use]
    pub fn released(&self) -> Self {
        Self { bytes: None, ..self.clone() }
    }
}

/// Returns the SHA-256 of bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap_or_default()
}

impl PartialEq for NamedFile {
    /// Equal content and permission, with the bytes at hand or not.
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.writable_by_all == other.writable_by_all
    }
}

impl Eq for NamedFile {}

impl fmt::Debug for NamedFile {
    /// The size only: the bytes may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedFile").field("length", &self.length).finish_non_exhaustive()
    }
}
