//! Events on objects: few, and none twice.
//!
//! An Event that was said a short while ago is not said again, and there is a budget for all: a cluster of broken objects must not become a flood of writes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durward_model::ResourceId;
use http::Method;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use crate::backoff::random;
use crate::request;
use crate::resource_type::EVENTS;
use crate::status::WriterOptions;

/// Time for which an Event is not repeated.
const REPEAT: Duration = Duration::from_mins(10);
/// Events that are remembered for that.
const REMEMBERED: usize = 4_096;
/// Events that may be sent at once, after a time without any.
const BURST: f64 = 25.0;
/// Events a second, in the long run.
const RATE: f64 = 1.0;
/// The namespace of Events on objects that are in none: the API accepts no other.
const CLUSTER_SCOPED: &str = "default";
/// Longest note, in bytes: the limit of the API.
const LONGEST_NOTE: usize = 1_024;

/// Something that happened to an object.
pub(crate) struct Event<'a> {
    pub(crate) id: &'a ResourceId,
    pub(crate) uid: Option<&'a str>,
    pub(crate) api_version: &'a str,
    pub(crate) is_warning: bool,
    pub(crate) reason: &'a str,
    pub(crate) note: &'a str,
}

/// Sends Events.
pub(crate) struct Events {
    client: kube::Client,
    instance: Arc<str>,
    budget: Budget,
}

impl Events {
    pub(crate) fn new(client: kube::Client, options: &WriterOptions) -> Self {
        Self { client, instance: Arc::clone(&options.instance), budget: Budget::default() }
    }

    /// Sends an Event, unless it was said before or there were too many. Returns whether it was sent. One that fails is not sent again: the condition says the same.
    pub(crate) async fn send(&mut self, event: &Event<'_>, now: Instant, time: Timestamp) -> bool {
        if !self.budget.allows(event, now) {
            return false;
        }
        let namespace = event.id.namespace.as_deref().unwrap_or(CLUSTER_SCOPED);
        let body = self.body(event, namespace, time).to_string();
        let sent = request::send(
            &self.client,
            Method::POST,
            &EVENTS.path("v1", Some(namespace)),
            "application/json",
            Bytes::from(body),
        )
        .await;
        sent.inspect_err(|error| tracing::debug!(%error, "event was not sent")).is_ok()
    }

    fn body(&self, event: &Event<'_>, namespace: &str, time: Timestamp) -> serde_json::Value {
        let Event { id, uid, api_version, is_warning, reason, note } = event;
        let mut note = (*note).to_owned();
        while note.len() > LONGEST_NOTE {
            note.pop();
        }
        // The name must differ from that of any other Event, and begins with the object's for `kubectl get events`.
        let name = format!("{}.{:016x}", shortened(&id.name), random());
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            "type": if *is_warning { "Warning" } else { "Normal" },
            "reason": reason,
            "action": "Configure",
            "note": note,
            "reportingController": "durward.dev/durward",
            "reportingInstance": &*self.instance,
            "regarding": {
                "apiVersion": api_version, "kind": id.kind.as_str(), "name": &*id.name,
                "namespace": id.namespace.as_deref(), "uid": uid,
            },
        })
    }
}

/// Returns the name, short enough that a suffix makes it no longer than a name may be.
fn shortened(name: &str) -> &str {
    let end = name.len().min(200);
    name.get(..end).unwrap_or(name).trim_end_matches(['.', '-'])
}

/// What was sent, and how many more may be.
#[derive(Default)]
struct Budget {
    said: HashMap<u64, Instant>,
    spent: f64,
    refilled: Option<Instant>,
}

impl Budget {
    fn allows(&mut self, event: &Event<'_>, now: Instant) -> bool {
        let since = self.refilled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.refilled = Some(now);
        self.spent = (self.spent - since.as_secs_f64() * RATE).max(0.0);
        self.said.retain(|_, at| now.saturating_duration_since(*at) < REPEAT);
        let mut hasher = DefaultHasher::new();
        (event.id, event.uid, event.reason, event.note, event.is_warning).hash(&mut hasher);
        let key = hasher.finish();
        let is_new = !self.said.contains_key(&key);
        if !is_new || self.spent + 1.0 > BURST || self.said.len() >= REMEMBERED {
            return false;
        }
        self.spent += 1.0;
        self.said.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use durward_model::Kind;

    use super::*;

    fn id(name: &str) -> ResourceId {
        ResourceId::new(Kind::Tenant, name)
    }

    fn event<'a>(id: &'a ResourceId, reason: &'a str) -> Event<'a> {
        let api_version = "durward.dev/v1alpha1";
        Event { id, uid: None, api_version, is_warning: false, reason, note: "note" }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_event_is_not_said_twice_in_ten_minutes() {
        let mut budget = Budget::default();
        let acme = id("acme");
        let now = Instant::now();

        let first = budget.allows(&event(&acme, "Programmed"), now);
        let again = budget.allows(&event(&acme, "Programmed"), now + REPEAT / 2);
        let other = budget.allows(&event(&acme, "AddressTaken"), now + REPEAT / 2);
        let later = budget.allows(&event(&acme, "Programmed"), now + REPEAT);

        assert_eq!([first, again, other, later], [true, false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_events_is_cut_at_the_burst_and_goes_on_at_the_rate() {
        let mut budget = Budget::default();
        let now = Instant::now();
        let ids: Vec<ResourceId> = (0..100).map(|number| id(&number.to_string())).collect();

        let at_once = ids.iter().filter(|id| budget.allows(&event(id, "Bad"), now)).count();
        let later = now + Duration::from_secs(3);
        let more = ids.iter().filter(|id| budget.allows(&event(id, "Worse"), later)).count();

        assert_eq!((at_once, more), (25, 3));
    }
}
