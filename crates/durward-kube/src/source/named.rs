//! Secrets and `ConfigMap`s that documents name.
//!
//! By name, each has a watch of its own, many on one connection; it needs `get`, `list` and `watch` with `resourceNames` and shows no other object. Beyond a number of watches the
//! rest is read from time to time. Where a namespace holds nothing else, or the cluster is to be read as a whole, there is one watch.

mod index;
mod polled;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(super) use shares::Asked;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::Reading;
use crate::backoff::{Backoff, between};
use crate::client::{Clients, Traffic};
use crate::health::{Health, Phase, WatchHealth};
use crate::object::ObjectName;
use crate::pace::Gather;
use crate::request::ApiError;
use crate::resource_type::ResourceType;
use crate::source::named::index::{Index, NamedSink};
use crate::source::named::shares::shared_out;
use crate::watch::{Kept, Reflector, Scope};

/// Objects that are read by themselves at once.
const READ_AT_ONCE: usize = 8;
/// Longest time until an object that may not be read is tried again.
const FORBIDDEN: Duration = Duration::from_mins(1);

/// Report on how the objects of one kind are being read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedReport {
    /// Objects that documents name.
    pub wanted: usize,
    /// Watches that are held.
    pub watches: usize,
    /// Watches that are down; what they read is served on.
    pub failing: usize,
    /// Objects that are read from time to time instead of being watched.
    pub polled: usize,
}

/// The objects of one kind that documents name.
pub(super) struct Named {
    client: kube::Client,
    traffic: Traffic,
    kind: &'static ResourceType,
    reading: Reading,
    index: Index,
    health: Arc<Health>,
    /// Watches by name.
    watches: BTreeMap<ObjectName, (AbortHandle, Arc<WatchHealth>)>,
    polled: polled::Names,
    /// The versions that the one watch keeps, once it has begun.
    kept: Option<Kept>,
    at_once: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Named {
    pub(super) fn new(
        clients: &Clients,
        kind: &'static ResourceType,
        reading: Reading,
        gather: Arc<Gather>,
        health: &Arc<Health>,
    ) -> Self {
        Self {
            client: clients.watch.clone(),
            traffic: clients.traffic[0].clone(),
            kind,
            index: Index::new(kind, reading_namespace(&reading), gather),
            reading,
            health: Arc::clone(health),
            watches: BTreeMap::new(),
            polled: polled::Names::default(),
            kept: None,
            at_once: Arc::new(Semaphore::new(READ_AT_ONCE)),
            tasks: JoinSet::new(),
        }
    }

    /// Replaces the objects that are named, each with the tenant whose document names it.
    pub(super) fn want(&mut self, asked: &Asked) {
        let names: BTreeSet<ObjectName> = asked.keys().cloned().collect();
        let new = self.index.want(&names);
        while self.tasks.try_join_next().is_some() {}
        match self.reading {
            Reading::ByName { watches } => {
                // A third of the connections: the watches of whole kinds must always find a place.
                self.watch_each(asked, watches.min(self.traffic.capacity() / 3));
            }
            Reading::Namespace(_) | Reading::Cluster => self.watch_all(&names, new),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.index.waiting()
    }

    pub(super) fn report(&self) -> NamedReport {
        let failing = |(_, health): &&(AbortHandle, Arc<WatchHealth>)| {
            let report = health.report();
            matches!(report.phase, Phase::Stale(_)) || report.last_error.is_some()
        };
        NamedReport {
            wanted: self.index.wanted(),
            watches: self.watches.len() + usize::from(self.kept.is_some()),
            failing: self.watches.values().filter(failing).count(),
            polled: self.polled.len(),
        }
    }

    /// Gives objects a watch of their own, as long as there are some left.
    fn watch_each(&mut self, asked: &Asked, most: usize) {
        let chosen = shared_out(asked, |name| self.watches.contains_key(name), most);
        self.watches.retain(|name, (task, _)| {
            let stays = chosen.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        for name in &chosen {
            if !self.watches.contains_key(name) {
                self.watch(name);
            }
        }
        let polled: BTreeSet<_> =
            asked.keys().filter(|name| !chosen.contains(*name)).cloned().collect();
        let begins = self.polled.replace(polled);
        if begins {
            let poll = polled::run(self.client.clone(), self.index.clone(), self.polled.clone());
            self.tasks.spawn(poll);
        }
    }

    fn watch(&mut self, name: &ObjectName) {
        let scope = Scope {
            kind: self.kind,
            namespace: Some(Arc::clone(&name.namespace)),
            name: Some(Arc::clone(&name.name)),
            labels: "".into(),
        };
        let health = Arc::<WatchHealth>::default();
        let sink = NamedSink::of_one(self.index.clone(), name.clone());
        let pause = Duration::from_secs(10);
        let reflector =
            Reflector::new(self.client.clone(), scope, sink, Arc::clone(&health), pause);
        let task = self.tasks.spawn(reflector.run());
        self.watches.insert(name.clone(), (task, health));
    }

    /// Begins the one watch, or reads by themselves those that it saw before they were named.
    fn watch_all(&mut self, names: &BTreeSet<ObjectName>, new: Vec<ObjectName>) {
        if names.is_empty() && self.kept.is_none() {
            return;
        }
        let Some(kept) = &self.kept else {
            let scope =
                Scope { namespace: reading_namespace(&self.reading), ..Scope::all(self.kind) };
            let sink = NamedSink::of_all(self.index.clone());
            let health = self.health.of(self.kind);
            let pause = Duration::from_secs(10);
            let reflector = Reflector::new(self.client.clone(), scope, sink, health, pause);
            self.kept = Some(reflector.kept());
            self.tasks.spawn(reflector.run());
            return;
        };
        for name in new {
            let (client, index, kept) = (self.client.clone(), self.index.clone(), kept.clone());
            let at_once = Arc::clone(&self.at_once);
            self.tasks.spawn(async move {
                read_alone(&client, &index, &name, &kept, &at_once).await;
            });
        }
    }
}

/// Reads an object by itself, until it is read or named no more.
async fn read_alone(
    client: &kube::Client,
    index: &Index,
    name: &ObjectName,
    kept: &Kept,
    at_once: &Semaphore,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        let Ok(permit) = at_once.acquire().await else { return };
        if !index.is_unread(name) {
            return;
        }
        let read = index.read(client, name, Some(kept)).await;
        // Others are read meanwhile.
        drop(permit);
        let Err(error) = read else { return };
        tracing::debug!(%name, %error, "object cannot be read");
        let pause = match error {
            // The right may be granted later.
            ApiError::Forbidden(_) => between(FORBIDDEN / 2, FORBIDDEN),
            _ => backoff.next(),
        };
        sleep(pause).await;
    }
}

fn reading_namespace(reading: &Reading) -> Option<Arc<str>> {
    match reading {
        Reading::Namespace(namespace) => Some(Arc::clone(namespace)),
        Reading::ByName { .. } | Reading::Cluster => None,
    }
}
