//! Places for work on tenant clusters: so many at once, and few of them for the `HostedApi`s of one namespace.
//!
//! A tenant chooses how slowly its clusters answer. Those who wait are served in the order in which they came, and of each namespace few wait at once: with so many slow namespaces
//! as there may be, a place is free after each of them had its turn, and a turn has a deadline.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for the `HostedApi`s of one namespace.
const SHARE: usize = 2;

/// All places.
pub(super) struct Places {
    at_once: usize,
    share: usize,
    all: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    shares: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
}

/// The places of one namespace.
#[derive(Clone)]
pub(super) struct Share {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

/// A place, until it is dropped.
pub(super) struct Place {
    _own: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Makes `at_once` places. With one namespace there is nobody to share with.
    pub(super) fn new(at_once: usize, has_one_namespace: bool) -> Self {
        let at_once = at_once.max(1);
        Self {
            at_once,
            share: if has_one_namespace { at_once } else { SHARE.min(at_once) },
            all: Arc::new(Semaphore::new(at_once)),
            reading: Arc::new(Semaphore::new(at_once)),
            shares: Mutex::default(),
        }
    }

    /// Returns the share of a namespace.
    pub(super) fn of(&self, namespace: &Arc<str>) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let own = shares.get(namespace).and_then(Weak::upgrade).unwrap_or_else(|| {
            // Those of namespaces that are gone go with the next one that comes.
            shares.retain(|_, share| share.strong_count() > 0);
            let own = Arc::new(Semaphore::new(self.share.min(self.at_once)));
            shares.insert(Arc::clone(namespace), Arc::downgrade(&own));
            own
        });
        Share { own, all: Arc::clone(&self.all), reading: Arc::clone(&self.reading) }
    }
}

impl Share {
    /// Waits for a place to work on a cluster.
    pub(super) async fn take(&self) -> Place {
        // In this order, so that of a namespace no more wait in the common queue than work.
        let own = Arc::clone(&self.own).acquire_owned().await.ok();
        let all = Arc::clone(&self.all).acquire_owned().await.ok();
        Place { _own: own, _all: all }
    }

    /// Waits for a place to read Secrets, for which no tenant cluster is asked.
    pub(super) async fn reading(&self) -> Place {
        let all = Arc::clone(&self.reading).acquire_owned().await.ok();
        Place { _own: None, _all: all }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_free(share: &Share) -> Option<Place> {
        timeout(Duration::from_secs(1), share.take()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn slow_clusters_of_one_namespace_leave_places_for_others() {
        let places = Places::new(4, false);
        let (slow, other) = (places.of(&Arc::from("slow")), places.of(&Arc::from("other")));
        let held = (is_free(&slow).await, is_free(&slow).await);
        let third = is_free(&places.of(&Arc::from("slow"))).await;

        let others = (is_free(&other).await, is_free(&other).await);

        assert!(held.0.is_some() && held.1.is_some() && third.is_none());
        assert!(others.0.is_some() && others.1.is_some());
        drop(held);
        assert!(is_free(&slow).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_namespace_has_all_places_and_a_single_place_is_had_by_all() {
        let one = Places::new(4, true).of(&Arc::from("a"));
        let single = Places::new(1, false);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(is_free(&one).await);
        }
        let first = is_free(&single.of(&Arc::from("a"))).await;

        assert!(held.iter().all(Option::is_some) && is_free(&one).await.is_none());
        assert!(first.is_some() && is_free(&single.of(&Arc::from("b"))).await.is_none());
    }
}
