//! What an origin remembers of the requests it saw, for a test to ask afterwards.
//! Bodies are not kept, only counted and hashed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

const KEPT: usize = 10_000;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case; the order is kept per name, not across names.
    pub headers: Vec<(String, String)>,
    /// Where its connection came from.
    pub peer: SocketAddr,
    /// The connection, numbered from 0.
    pub connection_id: u64,
}

impl SeenRequest {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// The first value under a name, in any case.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A body `/upload` received; also its JSON answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Bytes received.
    pub bytes: u64,
    /// SHA-256 of them, in lower-case hexadecimal.
    pub sha256: String,
    /// Whether the body ended as its framing promised.
    pub complete: bool,
    /// Trailer fields after it.
    pub trailers: Vec<(String, String)>,
}

#[derive(Default)]
pub(crate) struct Record {
    requests: AtomicU64,
    aborted: AtomicU64,
    failed_handshakes: AtomicU64,
    seen: Mutex<VecDeque<SeenRequest>>,
    uploads: Mutex<Vec<Uploaded>>,
}

impl Record {
    pub(crate) fn request(&self, request: SeenRequest) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut seen = lock(&self.seen);
        if seen.len() == KEPT {
            seen.pop_front();
        }
        seen.push_back(request);
    }

    pub(crate) fn upload(&self, upload: Uploaded) {
        lock(&self.uploads).push(upload);
    }

    pub(crate) fn abort(&self) {
        self.aborted.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn failed_handshake(&self) {
        self.failed_handshakes.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::SeqCst)
    }

    pub(crate) fn failed_handshakes(&self) -> u64 {
        self.failed_handshakes.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        lock(&self.seen).iter().cloned().collect()
    }

    pub(crate) fn uploads(&self) -> Vec<Uploaded> {
        lock(&self.uploads).clone()
    }

    pub(crate) fn forget(&self) {
        self.requests.store(0, Ordering::SeqCst);
        self.aborted.store(0, Ordering::SeqCst);
        self.failed_handshakes.store(0, Ordering::SeqCst);
        lock(&self.seen).clear();
        lock(&self.uploads).clear();
    }
}

/// A poisoned record is still a record.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
