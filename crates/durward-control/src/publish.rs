//! Publishes the last compile on a watch channel to all that serve it.
//!
//! Deliberately absent: watching files; whoever does calls `reload`.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::compile::{Compiled, compile};
use crate::store::Store;

/// Compiles what a source loads and publishes what came of it.
#[derive(Debug)]
pub struct Publisher {
    turn: Mutex<()>,
    sender: watch::Sender<Arc<Compiled>>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Publisher {
    /// Nothing served yet: an empty snapshot of generation 0.
    #[must_use]
    pub fn new() -> Self {
        Self::after(Compiled::default())
    }

    /// Goes on after what an earlier process served, see [`crate::compile::retained::restore`].
    #[must_use]
    pub fn after(earlier: Compiled) -> Self {
        Self { turn: Mutex::new(()), sender: watch::Sender::new(Arc::new(earlier)) }
    }

    /// The last compile.
    #[must_use]
    pub fn current(&self) -> Arc<Compiled> {
        Arc::clone(&self.sender.borrow())
    }

    /// A receiver of all later compiles; it holds the last one already.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Compiled>> {
        self.sender.subscribe()
    }

    /// Compiles what the store holds at `now` (seconds since the Unix epoch) and publishes the outcome.
    ///
    /// The snapshot is the same `Arc`, with the same generation, when nothing that is served changed.
    pub fn reload(&self, store: &Store, now: i64) -> Arc<Compiled> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.current();
        let compiled = Arc::new(compile(store, Some(&previous), now));
        self.sender.send_replace(Arc::clone(&compiled));
        compiled
    }
}
