//! Kubernetes for tests: a double of an API server in this process, and real ones where they are at hand.
//!
//! `ApiServer` is the double. It speaks HTTP/1.1 and HTTP/2, with or without TLS, and does what clients of ours rely on: lists in pages, watches with
//! bookmarks and history, optimistic locking, patches, server-side apply with field ownership, subresources, finalizers, garbage collection, custom
//! kinds with schemas and CEL, admission policies and RBAC. `TestEnv` gives a test a client of the double or of a real server.
//!
//! Deliberately absent: protobuf, OpenAPI documents, webhooks, estimates of CEL costs, conversion between versions that differ, exec and logs.

mod apply;
mod auth;
mod built_in;
mod built_in_rules;
mod cel;
mod control_plane;
mod crd;
mod delete;
mod discovery;
mod env;
mod failure;
mod faults;
mod fields;
mod kind;
mod managed;
mod metadata;
mod patch;
mod policy;
mod rbac;
mod read;
mod request;
mod review;
mod rules;
mod schema;
mod selector;
mod serve;
mod server;
mod settle;
mod shape;
mod state;
mod store;
mod validate;
mod watch;
mod write;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch as channel;

pub use control_plane::{ControlPlane, PlaneSettings};
pub use env::{Backend, PATIENCE, TestEnv};
pub use faults::{Fault, Requests, Seen};
pub use server::{ApiServer, Settings};

use auth::Auth;
use faults::{Counters, Faults};
use state::State;

/// How the server meets its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Serving,
    Hanging,
    Resetting,
}

/// What the connections of a double share.
pub(crate) struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    counters: Mutex<Counters>,
    auth: Mutex<Auth>,
    /// Counts how often all watches were ended.
    pub(crate) cut: channel::Sender<u64>,
    pub(crate) presence: channel::Sender<Presence>,
}

impl Shared {
    fn new(minor: u32, history: usize) -> Self {
        Self {
            state: Mutex::new(State::new(minor, history)),
            faults: Mutex::default(),
            counters: Mutex::default(),
            auth: Mutex::default(),
            cut: channel::Sender::new(0),
            presence: channel::Sender::new(Presence::Serving),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        locked(&self.faults)
    }

    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        locked(&self.counters)
    }

    pub(crate) fn auth(&self) -> MutexGuard<'_, Auth> {
        locked(&self.auth)
    }

    /// Waits while the server is to answer nothing.
    pub(crate) async fn hangs_over(&self) {
        let mut presence = self.presence.subscribe();
        // An error means that the double is gone, and its connections with it.
        let _ = presence.wait_for(|presence| *presence != Presence::Hanging).await;
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
