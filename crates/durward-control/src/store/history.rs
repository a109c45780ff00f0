//! The changes of a store, so that a compile finds what was touched since the state it knows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Touched;

/// Changes that are remembered at most. What is older is answered with "everything".
const MOST_CHANGES: usize = 256;
/// Documents and tenants that all remembered changes touch at most.
const MOST_TOUCHED: usize = 4096;

/// Number of the last state of any store: stores that were copies of one another must not have one number for different states.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Returns a number that no state has yet.
pub(super) fn next() -> u64 {
    LAST.fetch_add(1, Relaxed) + 1
}

/// The last changes of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    version: u64,
    changes: VecDeque<Noted>,
    /// Documents and tenants that they touch.
    touched: usize,
}

/// A change, and the version before it.
#[derive(Clone, Debug)]
struct Noted {
    before: u64,
    touched: Arc<Touched>,
}

impl Noted {
    fn size(&self) -> usize {
        self.touched.documents.len() + self.touched.tenants.len()
    }
}

impl History {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Notes a change. One that touches nothing makes no new version.
    pub(super) fn note(&mut self, touched: &Touched) {
        if touched.is_empty() {
            return;
        }
        let noted = Noted { before: self.version, touched: Arc::new(touched.clone()) };
        self.version = next();
        self.touched += noted.size();
        self.changes.push_back(noted);
        while self.changes.len() > MOST_CHANGES || self.touched > MOST_TOUCHED {
            let Some(oldest) = self.changes.pop_front() else { return };
            self.touched -= oldest.size();
        }
    }

    /// Returns what was touched since a version; `None` if that is not known.
    pub(super) fn since(&self, version: u64) -> Option<Touched> {
        let mut touched = Touched::default();
        if version == self.version {
            return Some(touched);
        }
        let first = self.changes.iter().position(|noted| noted.before == version)?;
        self.changes.range(first..).for_each(|noted| touched.take_in(&noted.touched));
        Some(touched)
    }
}
