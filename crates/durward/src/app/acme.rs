//! Certificates by ACME of a running gateway: a thread of its own that orders, renews, and reports.
//!
//! What is issued enters the configuration as a changed file. One process places orders for a state directory, the one that holds its lock; all that
//! read the directory serve what is in it. Deliberately absent: anything that a connection waits for.

mod attempt;
mod plan;
mod runner;
pub(crate) mod status;
pub(crate) mod store;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use durward_acme::Roots;
use durward_acme::schedule::Pace;
use durward_control::Issuance;
use tokio_util::sync::CancellationToken;

use crate::app::Gateway;
use crate::failure::Failure;
use runner::Runner;
use status::{Shared, Status};
use store::Store;

/// Settings of certificates by ACME.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Files and authorities.
    pub(crate) issuance: Issuance,
    /// Authorities of the web servers of certificate authorities that are trusted.
    pub(crate) roots: Roots,
    /// Orders placed at one authority within an hour, at most.
    pub(crate) orders_per_hour: u32,
    /// Waits after failures.
    pub(crate) pace: Pace,
}

/// Certificates by ACME of one gateway.
pub(crate) struct Acme {
    options: Options,
    shared: Arc<Shared>,
    stopped: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Acme {
    /// Creates it; [`Self::start`] begins to order.
    pub(crate) fn new(options: Options) -> Self {
        let (shared, stopped, thread) =
            (Arc::default(), CancellationToken::new(), Mutex::default());
        Self { options, shared, stopped, thread }
    }

    /// Starts the thread that orders what the configuration of `gateway` wants.
    ///
    /// # Errors
    /// Fails if no thread can be started.
    pub(crate) fn start(&self, gateway: Weak<Gateway>) -> Result<(), Failure> {
        let store = Store::new(self.directory());
        let runner = Runner::new(self.options.clone(), store, gateway, Arc::clone(&self.shared));
        let stopped = self.stopped.clone();
        let thread = std::thread::Builder::new().name("durward-acme".to_owned());
        let thread = thread.spawn(move || serve(runner, &stopped));
        let thread =
            thread.map_err(|error| Failure::broken("starting to order certificates", error))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.options.issuance.directory.clone()
    }

    /// Returns the state of all certificates.
    pub(crate) fn status(&self) -> Status {
        self.shared.status()
    }

    /// Ends the thread and lets another process place orders.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread was reported by its hook.
            drop(thread.join());
        }
    }
}

/// Runs until stopped; an attempt under way is given up.
fn serve(mut runner: Runner, stopped: &CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "certificates cannot be ordered");
            return;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = runner.run() => {}
        }
    });
    runner.leave();
    // A look-up of a name may hang in a thread of the runtime.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests;
