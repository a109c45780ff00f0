//! The watches of Services and `EndpointSlice`s, which begin with the first reference to a Service, or at once where Services of type `LoadBalancer` are watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Sources;
use crate::backoff::Backoff;
use crate::endpoints::{Index, ReadService, SERVICE_NAME, Service, Services, Slice, Slices};
use crate::health::{Health, WatchHealth};
use crate::load_balancers::LoadBalancer;
use crate::object::{Head, ObjectName};
use crate::pace::Gather;
use crate::request::{self, ApiError};
use crate::resource_type::{ENDPOINT_SLICES, ResourceType, SERVICES};
use crate::watch::{Kept, Page, Reflector, Scope};

/// Services that are read by themselves at once.
const READ_AT_ONCE: usize = 8;
/// Slices of a Service that are read at once: as many of the largest ones as an answer holds.
const PAGE: &str = "20";

/// The watches, and the Services that are read by themselves.
pub(super) struct ServiceWatches {
    client: kube::Client,
    namespace: Option<Arc<str>>,
    absent_pause: Duration,
    index: Index,
    health: Arc<Health>,
    kept: Option<[Kept; 2]>,
    at_once: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl ServiceWatches {
    pub(super) fn new(
        client: kube::Client,
        sources: &Sources,
        gather: &Arc<Gather>,
        health: &Arc<Health>,
    ) -> Self {
        let mut watches = Self {
            client,
            namespace: sources.namespace.clone(),
            absent_pause: sources.absent_pause,
            index: Index::new(
                Arc::clone(gather),
                sources.namespace.clone(),
                sources.load_balancers,
            ),
            health: Arc::clone(health),
            kept: None,
            at_once: Arc::new(Semaphore::new(READ_AT_ONCE)),
            tasks: JoinSet::new(),
        };
        if sources.load_balancers {
            watches.kept = Some(watches.begin(Health::of_start));
        }
        watches
    }

    pub(super) fn load_balancers(&self) -> Vec<Arc<LoadBalancer>> {
        self.index.balanced()
    }

    /// Replaces the Services that are referred to, with their ports.
    pub(super) fn want(&mut self, wanted: &BTreeMap<ObjectName, BTreeSet<Arc<str>>>) {
        self.index.keep_only(wanted);
        self.want_more(wanted);
    }

    /// Adds to the Services that are referred to.
    pub(super) fn want_more(&mut self, wanted: &BTreeMap<ObjectName, BTreeSet<Arc<str>>>) {
        let new = self.index.want_more(wanted);
        if self.kept.is_none() && !wanted.is_empty() {
            self.kept = Some(self.begin(Health::of));
        }
        while self.tasks.try_join_next().is_some() {}
        let Some(kept) = &self.kept else { return };
        for unread in new {
            let (client, index, kept) = (self.client.clone(), self.index.clone(), kept.clone());
            let at_once = Arc::clone(&self.at_once);
            self.tasks.spawn(async move {
                let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
                loop {
                    let Ok(permit) = at_once.acquire().await else { return };
                    if !index.awaits(&unread) {
                        return;
                    }
                    let name = &unread.name;
                    match read(&client, name, &kept).await {
                        Ok(read) => return index.read(&unread, read),
                        Err(error) => tracing::debug!(%name, %error, "service cannot be read"),
                    }
                    // Others are read meanwhile.
                    drop(permit);
                    sleep(backoff.next()).await;
                }
            });
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.index.waiting()
    }

    pub(super) fn cluster_ip(&self, name: &ObjectName) -> Option<Arc<str>> {
        self.index.cluster_ip(name)
    }

    /// Begins the watches. `of` says whether documents or the operator asked for them.
    fn begin(&mut self, of: impl Fn(&Health, &ResourceType) -> Arc<WatchHealth>) -> [Kept; 2] {
        let scope = |kind| Scope { namespace: self.namespace.clone(), ..Scope::all(kind) };
        let health = |kind| of(&self.health, kind);
        let services = Reflector::new(
            self.client.clone(),
            scope(&SERVICES),
            Services(self.index.clone()),
            health(&SERVICES),
            self.absent_pause,
        );
        let slices = Reflector::new(
            self.client.clone(),
            Scope { labels: SERVICE_NAME.into(), ..scope(&ENDPOINT_SLICES) },
            Slices(self.index.clone()),
            health(&ENDPOINT_SLICES),
            self.absent_pause,
        );
        let kept = [services.kept(), slices.kept()];
        self.tasks.spawn(services.run());
        self.tasks.spawn(slices.run());
        kept
    }
}

/// Reads one Service and its slices. What is read counts as kept by the watches, so that they notice when it is gone.
async fn read(
    client: &kube::Client,
    name: &ObjectName,
    [services, slices]: &[Kept; 2],
) -> Result<ReadService, ApiError> {
    let unreadable = |error: String| ApiError::Unreadable(error);
    let namespace = name.namespace();
    let service =
        match request::get(client, &SERVICES.object_path("v1", namespace, &name.name)).await {
            Err(ApiError::NotFound(_)) => None,
            got => {
                let json = text(&got?)?;
                let head: Head =
                    serde_json::from_str(&json).map_err(|error| unreadable(error.to_string()))?;
                let version = head.metadata.resource_version;
                services.lock().entry(name.clone()).or_insert_with(|| Arc::clone(&version));
                Some((Service::decode(&json).map_err(unreadable)?, version))
            }
        };
    let selector = format!("{SERVICE_NAME}={}", name.name);
    let path = ENDPOINT_SLICES.path("v1", namespace);
    let (mut read, mut next) = (Vec::new(), None::<String>);
    loop {
        let mut query = vec![("labelSelector", &*selector), ("limit", PAGE)];
        query.extend(next.as_deref().map(|next| ("continue", next)));
        let got = request::get(client, &request::path(&path, &query)).await?;
        let page: Page<'_> =
            serde_json::from_slice(&got).map_err(|error| unreadable(error.to_string()))?;
        for item in page.items.unwrap_or_default() {
            // One that cannot be decoded is missed, and the watch says so when it comes to it.
            let (Ok(head), Ok(slice)) =
                (serde_json::from_str::<Head>(item.get()), Slice::decode(item.get()))
            else {
                continue;
            };
            let version = Arc::clone(&head.metadata.resource_version);
            let mut kept = slices.lock();
            kept.entry(head.metadata.object_name()).or_insert_with(|| Arc::clone(&version));
            read.push((Arc::clone(&head.metadata.name), slice, version));
        }
        next = page.metadata.r#continue.filter(|next| !next.is_empty());
        if next.is_none() {
            return Ok(ReadService { service, slices: read });
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, ApiError> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|error| ApiError::Unreadable(error.to_string()))
}
