//! Faults on request, and what the double has seen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::kind::GroupResource;
use super::request::Call;

/// Requests kept in the log.
const LOG: usize = 50_000;

/// Requests that a fault meets.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    verb: Option<String>,
    resource: Option<String>,
    subresource: Option<String>,
    name: Option<String>,
}

impl Requests {
    /// All requests.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those with this verb, as RBAC names it: `list`, `watch`, `patch`, ...
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only those for this resource type, as in `secrets` or `tenants.durward.dev`.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only those for this subresource; empty for the object itself.
    #[must_use]
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = Some(subresource.to_owned());
        self
    }

    /// Only those for an object of this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    fn includes(&self, call: &Call) -> bool {
        let target = call.target.clone().unwrap_or_default();
        let fits = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        fits(&self.verb, call.verb)
            && fits(&self.resource, &target.resource.to_string())
            && fits(&self.subresource, &target.subresource)
            && fits(&self.name, &target.name)
    }
}

/// What happens to a request instead of its answer, or before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429 with `Retry-After` in seconds.
    TooManyRequests(u64),
    /// 500.
    InternalError,
    /// 503 without a `Status` object, as a load balancer in front answers.
    Unavailable,
    /// 409, as if someone else had written just before.
    Conflict,
    /// 410 as an HTTP status.
    Gone,
    /// The answer comes later.
    Delay(Duration),
    /// No answer at all; the connection stays open.
    Hang,
}

/// Faults that are waiting for their requests.
#[derive(Debug)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    /// Time between two bookmarks.
    pub(crate) bookmark_every: Duration,
    /// Bookmarks that are left out from now on.
    pub(crate) bookmarks_to_drop: u64,
    /// Watches that are cut end with the error of an expired history.
    pub(crate) cuts_with_error: bool,
}

#[derive(Debug)]
struct Rule {
    requests: Requests,
    fault: Fault,
    /// Requests that it still meets.
    left: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            bookmark_every: Duration::from_secs(10),
            bookmarks_to_drop: 0,
            cuts_with_error: false,
        }
    }
}

impl Faults {
    pub(crate) fn add(&mut self, requests: Requests, fault: Fault, times: u64) {
        self.rules.push(Rule { requests, fault, left: times });
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Takes the fault of a request, the oldest first.
    pub(crate) fn take(&mut self, call: &Call) -> Option<Fault> {
        let rule =
            self.rules.iter_mut().find(|rule| rule.left > 0 && rule.requests.includes(call))?;
        rule.left = rule.left.saturating_sub(1);
        Some(rule.fault.clone())
    }
}

/// Request that the double has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Verb as RBAC names it.
    pub verb: String,
    /// Resource type, as in `tenants.durward.dev`; a path where it is none.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// Name of the user.
    pub user: String,
    /// Field manager, or the begin of the user agent.
    pub manager: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// True for a write that changed an object.
    pub changed: bool,
}

/// Counts of requests and watches.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) log: VecDeque<Seen>,
    counts: BTreeMap<(String, String), u64>,
    watches: BTreeMap<GroupResource, u64>,
    /// Writes that were answered well, by resource and subresource: those that changed something, and those that did not.
    writes: BTreeMap<(String, String), (u64, u64)>,
}

impl Counters {
    pub(crate) fn record(&mut self, call: &Call, code: u16, changed: bool) {
        let target = call.target.clone().unwrap_or_default();
        let resource = match &call.target {
            Some(target) => target.resource.to_string(),
            None => call.path.clone(),
        };
        *self.counts.entry((call.verb.to_owned(), resource.clone())).or_default() += 1;
        let is_write = matches!(call.verb, "create" | "update" | "patch" | "delete");
        if is_write && code < 300 {
            let place = (resource.clone(), target.subresource.clone());
            let (effective, idle) = self.writes.entry(place).or_default();
            *if changed { effective } else { idle } += 1;
        }
        self.log.push_back(Seen {
            verb: call.verb.to_owned(),
            resource,
            subresource: target.subresource,
            namespace: target.namespace,
            name: target.name,
            user: call.user.name.clone(),
            manager: call.manager(),
            code,
            changed,
        });
        if self.log.len() > LOG {
            self.log.pop_front();
        }
    }

    pub(crate) fn count(&self, verb: &str, resource: &str) -> u64 {
        self.counts.get(&(verb.to_owned(), resource.to_owned())).copied().unwrap_or_default()
    }

    /// Returns the writes that changed something and those that did not.
    pub(crate) fn writes(&self, resource: &str, subresource: &str) -> (u64, u64) {
        let place = (resource.to_owned(), subresource.to_owned());
        self.writes.get(&place).copied().unwrap_or_default()
    }

    pub(crate) fn watches(&self) -> &BTreeMap<GroupResource, u64> {
        &self.watches
    }

    /// Forgets all but the watches that are open.
    pub(crate) fn clear(&mut self) {
        self.log.clear();
        self.counts.clear();
        self.writes.clear();
    }
}

/// Counts a watch as open while it lives.
pub(crate) struct WatchGuard {
    shared: Arc<Shared>,
    resource: GroupResource,
}

impl WatchGuard {
    pub(crate) fn new(shared: &Arc<Shared>, resource: &GroupResource) -> Self {
        *shared.counters().watches.entry(resource.clone()).or_default() += 1;
        Self { shared: Arc::clone(shared), resource: resource.clone() }
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let mut counters = self.shared.counters();
        let left = counters.watches.get(&self.resource).copied().unwrap_or_default();
        match left {
            0 | 1 => counters.watches.remove(&self.resource),
            left => counters.watches.insert(self.resource.clone(), left - 1),
        };
    }
}
