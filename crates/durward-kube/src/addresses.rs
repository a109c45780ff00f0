//! Writes addresses into `status.loadBalancer` of objects of Kubernetes' own kinds, and Events about them: Services of type `LoadBalancer`, Ingresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use durward_model::ResourceId;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use crate::backoff::{Backoff, between};
use crate::events::{Event, Events};
use crate::lease::MayWrite;
use crate::request::{self, ApiError};
use crate::resource_type::ResourceType;
use crate::status::WriterOptions;

/// Statuses that are written at once.
const AT_ONCE: usize = 4;
/// Longest pause after a refusal.
const AFTER_REFUSAL: Duration = Duration::from_mins(1);

/// An object as it is in the API server, as far as its addresses go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addressed {
    /// Its identity.
    pub(crate) id: ResourceId,
    /// Identifier that no other object ever had.
    pub(crate) uid: Arc<str>,
    /// The addresses that its status has.
    pub(crate) has: Vec<Arc<str>>,
}

/// A warning about an object: the reason and the sentence of an Event.
pub(crate) type Warning = (Arc<str>, Arc<str>);

/// What is to be said of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saying {
    /// The addresses of its status; `None` leaves it as it is.
    pub(crate) addresses: Option<Vec<IpAddr>>,
    /// Warnings, each of which becomes an Event.
    pub(crate) warnings: Vec<Warning>,
}

/// Which statuses are written, and how.
pub(crate) struct Form {
    /// The kind.
    pub(crate) resource: &'static ResourceType,
    /// Field manager of the statuses.
    pub(crate) manager: &'static str,
    /// What is written beside each address.
    pub(crate) beside: Value,
    /// Right of this process to write; `None` where every one writes its share.
    pub(crate) may_write: Option<MayWrite>,
}

/// Writes the statuses of one kind until it is dropped.
pub(crate) struct AddressWriter {
    shared: Arc<Shared>,
    /// What was said last of each, and the task that writes it.
    said: Mutex<HashMap<ResourceId, Said>>,
}

struct Shared {
    client: kube::Client,
    form: Form,
    events: tokio::sync::Mutex<Events>,
    pace: tokio::sync::Mutex<Interval>,
    at_once: Semaphore,
}

struct Said {
    object: Addressed,
    saying: Saying,
    task: JoinHandle<()>,
}

impl Drop for Said {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    #[serde(default)]
    load_balancer: StatusOfBalancer,
}

#[derive(Default, Deserialize)]
struct StatusOfBalancer {
    #[serde(default)]
    ingress: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    ip: Arc<str>,
}

impl Status {
    /// Returns the addresses in a status, as they are written.
    pub(crate) fn addresses(self) -> Vec<Arc<str>> {
        let entries = self.load_balancer.ingress.into_iter().flatten();
        entries.map(|entry| entry.ip).collect()
    }
}

impl AddressWriter {
    /// Starts to write. Called within a runtime.
    pub(crate) fn start(client: kube::Client, options: &WriterOptions, form: Form) -> Self {
        let events = tokio::sync::Mutex::new(Events::new(client.clone(), options));
        let mut pace = interval(Duration::from_secs(1) / options.rate.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (pace, at_once) = (tokio::sync::Mutex::new(pace), Semaphore::new(AT_ONCE));
        let shared = Arc::new(Shared { client, form, events, pace, at_once });
        Self { shared, said: Mutex::default() }
    }

    /// Says what is true of an object.
    pub(crate) fn say(&self, object: Addressed, saying: Saying) {
        let mut said = self.said();
        let known = said.get(&object.id).filter(|known| known.object.uid == object.uid);
        let is_same = known.is_some_and(|known| known.object == object && known.saying == saying);
        if is_same {
            return;
        }
        let is_news =
            |warning: &&Warning| known.is_none_or(|known| !known.saying.warnings.contains(warning));
        let news = saying.warnings.iter().filter(is_news).cloned().collect();
        let (addresses, id) = (saying.addresses.clone(), object.id.clone());
        let task = write(Arc::clone(&self.shared), (object.clone(), addresses, news));
        let task = tokio::spawn(task);
        said.insert(id, Said { object, saying, task });
    }

    /// Notes an object as it is now: what was said of it is written again where the status says otherwise.
    pub(crate) fn observe(&self, object: Addressed) {
        let saying = self
            .said()
            .get(&object.id)
            .and_then(|known| (known.object.uid == object.uid).then(|| known.saying.clone()));
        match saying {
            Some(saying) => self.say(object, saying),
            // One made anew is another: nothing is known of it yet.
            None => drop(self.said().remove(&object.id)),
        }
    }

    /// Says nothing any more of an object.
    pub(crate) fn forget(&self, id: &ResourceId) {
        self.said().remove(id);
    }

    /// Says nothing any more of objects that are not among these.
    pub(crate) fn retain(&self, is_kept: impl Fn(&ResourceId) -> bool) {
        self.said().retain(|id, _| is_kept(id));
    }

    fn said(&self) -> MutexGuard<'_, HashMap<ResourceId, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a status until that succeeds, and sends Events: of new addresses, and of warnings that are news.
async fn write(
    shared: Arc<Shared>,
    (object, addresses, news): (Addressed, Option<Vec<IpAddr>>, Vec<Warning>),
) {
    shared.granted().await;
    let addresses = addresses.map(|all| all.iter().map(IpAddr::to_string).collect::<Vec<_>>());
    let has: Vec<&str> = object.has.iter().map(|ip| &**ip).collect();
    let wanted = addresses.filter(|addresses| has != *addresses);
    if let Some(addresses) = &wanted
        && !shared.apply_at_last(&object, addresses).await
    {
        return;
    }
    for (reason, note) in &news {
        shared.send(&object, true, (reason, note)).await;
    }
    if let Some(addresses) = wanted.filter(|addresses| !addresses.is_empty()) {
        let note = format!("serves {}", addresses.join(", "));
        shared.send(&object, false, ("Serves", &note)).await;
    }
}

impl Shared {
    /// Writes a status until that succeeds; returns false if the object is another one by now.
    async fn apply_at_last(&self, object: &Addressed, addresses: &[String]) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        loop {
            let Ok(permit) = self.at_once.acquire().await else { return false };
            self.pace.lock().await.tick().await;
            match self.apply_while_allowed(object, addresses).await {
                None => {
                    drop(permit);
                    self.granted().await;
                }
                Some(Ok(())) => return true,
                Some(Err(error)) if error.is_passing() => {
                    // Others are written meanwhile.
                    drop(permit);
                    sleep(backoff.next()).await;
                }
                Some(Err(error @ (ApiError::Forbidden(_) | ApiError::Refused { .. }))) => {
                    tracing::debug!(object = %object.id, %error, "status is refused");
                    // A right may be granted later, and no watch says so.
                    drop(permit);
                    sleep(between(AFTER_REFUSAL / 2, AFTER_REFUSAL)).await;
                }
                Some(Err(error)) => {
                    // It changed or is gone: the watch brings what comes next.
                    tracing::debug!(object = %object.id, %error, "status was not written");
                    return false;
                }
            }
        }
    }

    /// Waits until this process may write.
    async fn granted(&self) {
        if let Some(mut may_write) = self.form.may_write.clone() {
            may_write.granted().await;
        }
    }

    /// Writes a status, unless this process may not write any more: then the request is not sent, or is withdrawn.
    async fn apply_while_allowed(
        &self,
        object: &Addressed,
        addresses: &[String],
    ) -> Option<Result<(), ApiError>> {
        let Some(mut may_write) = self.form.may_write.clone() else {
            return Some(self.apply(object, addresses).await);
        };
        tokio::select! {
            biased;
            () = may_write.lost() => None,
            applied = self.apply(object, addresses) => Some(applied),
        }
    }

    async fn apply(&self, object: &Addressed, addresses: &[String]) -> Result<(), ApiError> {
        let Form { resource, manager, beside, .. } = &self.form;
        let Addressed { id, uid, .. } = object;
        let entries = addresses.iter().map(|ip| {
            let mut entry = beside.clone();
            entry["ip"] = json!(ip);
            entry
        });
        let entries: Vec<Value> = entries.collect();
        let balancer = if entries.is_empty() { json!({}) } else { json!({"ingress": entries}) };
        let version = resource.newest();
        let body = json!({
            "apiVersion": resource.api_version(version), "kind": resource.kind,
            "metadata": {"name": id.name, "namespace": id.namespace, "uid": uid},
            "status": {"loadBalancer": balancer},
        });
        let path = resource.object_path(version, id.namespace.as_deref(), &id.name);
        let query = [("fieldManager", *manager), ("force", "true")];
        let path = request::path(&format!("{path}/status"), &query);
        let body = Bytes::from(body.to_string());
        let apply = "application/apply-patch+yaml";
        request::send(&self.client, Method::PATCH, &path, apply, body).await.map(drop)
    }

    async fn send(&self, object: &Addressed, is_warning: bool, (reason, note): (&str, &str)) {
        let api_version = self.form.resource.api_version(self.form.resource.newest());
        let (id, uid) = (&object.id, Some(&*object.uid));
        let event = Event { id, uid, api_version: &api_version, is_warning, reason, note };
        self.events.lock().await.send(&event, Instant::now(), Timestamp::now()).await;
    }
}
