//! A start of reading: what the API server says, or, while it is away, what a cache has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use durward_control::change::Change;
use durward_control::stream::{Item, ItemKey};
use tokio::time::{Instant, timeout};

use super::cache::{Cache, Cached};
use super::{Begun, Follower, Shared};

/// Time that the API server has before a cache is served.
const BEFORE_CACHE: Duration = Duration::from_secs(5);
/// Pause between two looks at whether there is something to save.
const SAVE: Duration = Duration::from_secs(1);

/// Reads everything once. If that takes long, `early` gets what the cache has, and what is returned also says what of it is gone.
pub(crate) async fn begin(
    follower: &mut Follower,
    cache: Option<&Arc<Cache>>,
    shared: &Shared,
    mut early: impl FnMut(Change),
) -> Begun {
    let mut cached = cache.and_then(|cache| cache.read());
    if let Some(cached) = &mut cached {
        follower.complete(&mut cached.change);
    }
    let mut beginning = std::pin::pin!(follower.begin());
    let Some(Cached { change, written }) = cached else { return beginning.await };
    if let Ok(begun) = timeout(BEFORE_CACHE, &mut beginning).await {
        return begun;
    }
    tracing::warn!(
        written,
        "the Kubernetes API is away: the cache of an earlier process is served"
    );
    shared.state().cached = Some(written);
    let held = keys(&change);
    early(change);
    let mut begun = beginning.await;
    let gone = held.difference(&keys(&begun.change)).cloned().collect();
    begun.change.then(absent(gone));
    shared.state().cached = None;
    begun
}

/// Returns the names of what a change brings.
fn keys(change: &Change) -> BTreeSet<ItemKey> {
    let documents = change.upserts.iter().filter_map(|document| document.key.object().cloned());
    let facts = change.facts.iter().map(|(reference, _)| ItemKey::Fact(reference.clone()));
    documents.map(ItemKey::Document).chain(facts).collect()
}

/// Returns the change by which things go.
fn absent(gone: BTreeSet<ItemKey>) -> Change {
    let mut change = Change::default();
    for key in gone {
        match key {
            ItemKey::Document(id) => {
                change.deletes.push(durward_control::DocumentKey::Object(id));
            }
            ItemKey::Fact(reference) => change.facts.push((reference, None)),
        }
    }
    change
}

/// Saves what is said in a cache, if there is one.
pub(crate) struct Saver {
    cache: Option<Arc<Cache>>,
    is_due: bool,
    next: Instant,
}

impl Saver {
    pub(crate) fn new(cache: Option<Arc<Cache>>) -> Self {
        Self { cache, is_due: false, next: Instant::now() }
    }

    /// Notes that something was said.
    pub(crate) fn note(&mut self) {
        self.is_due = self.cache.is_some();
    }

    /// Waits until something is to be saved. Cancelling the wait loses nothing.
    pub(crate) async fn due(&self) {
        if !self.is_due {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.next).await;
    }

    /// Saves everything that was said.
    pub(crate) async fn save(&mut self, items: Vec<Item>) {
        let Some(cache) = self.cache.clone() else { return };
        self.is_due = false;
        let begun = Instant::now();
        let saved = tokio::task::spawn_blocking(move || cache.save(&items)).await;
        let saved = saved.map_err(|error| error.to_string());
        if let Err(error) = saved.and_then(|saved| saved.map_err(|error| error.to_string())) {
            tracing::warn!(error, "the cache of the cluster cannot be written: trying again");
            self.is_due = true;
        }
        // A large cache is written seldom.
        self.next = Instant::now() + SAVE + begun.elapsed() * 10;
    }
}
