//! The way from sources to the store: changes wait here until they are applied, those of all sources together.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::change::Change;

/// Changes that sources have reported and that are not applied yet. Of several changes of one thing the last one counts.
#[derive(Debug)]
pub struct Feed {
    waiting: Mutex<Change>,
    news: watch::Sender<()>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { waiting: Mutex::default(), news: watch::Sender::new(()) }
    }
}

impl Feed {
    /// Adds a change and wakes the receiver. Sources that share a feed must not report each other's documents and facts.
    pub fn say(&self, change: Change) {
        if change.is_empty() {
            return;
        }
        self.waiting().then(change);
        self.news.send_replace(());
    }

    /// Takes what is waiting out.
    #[must_use]
    pub fn take(&self) -> Change {
        std::mem::take(&mut *self.waiting())
    }

    /// Returns a copy of what is waiting, and leaves it there.
    #[must_use]
    pub fn peek(&self) -> Change {
        self.waiting().clone()
    }

    /// Returns whether nothing is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Returns a receiver that is notified when there are changes to take.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    fn waiting(&self) -> MutexGuard<'_, Change> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
