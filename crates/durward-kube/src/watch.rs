//! Follows the objects of one kind: reads them all, then their changes, and goes on after whatever happens.
//!
//! The reader (a [`Sink`]) hears of each object once per change. When the server no longer knows where to go on from (410), everything is read again and compared: only
//! objects that are really gone are reported as gone. While the server is away nothing is reported at all.

mod list;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use list::Page;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::backoff::{Backoff, between};
use crate::health::WatchHealth;
use crate::object::{Head, Metadata, ObjectName};
use crate::request::{self, ApiError, Status};
use crate::resource_type::ResourceType;
use wire::{Bookmark, Event, Named};

/// Annotation of the bookmark that ends a streamed list.
const LIST_END: &str = "k8s.io/initial-events-end";
/// Time after which the server closes a watch, and we begin the next one.
const WATCH_SECONDS: (u64, u64) = (300, 600);
/// Time without an event that a watch may take beyond that.
const WATCH_GRACE: Duration = Duration::from_secs(15);
/// Time without an event after which a streamed list counts as stuck.
const LIST_PATIENCE: Duration = Duration::from_secs(30);
/// Time after which a streamed list counts as stuck though there are events now and then.
const LIST_WHOLE: Duration = Duration::from_mins(10);
/// Refusals in a row after which everything is listed again.
const REFUSALS: u32 = 5;
/// A watch that lives for less than this counts as failed, so that a server that closes each one at once is not asked without pause.
const SHORT: Duration = Duration::from_secs(1);

/// Longest pause between two attempts, where nothing else is said.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Reader of the objects of one kind.
pub(crate) trait Sink: Send {
    /// Begins to read objects in this version of the API.
    fn begin(&mut self, version: &'static str) {
        let _ = version;
    }

    /// Takes an object as it is now. Returns whether it is kept: the reader gets an object that it does not keep again when everything is listed again.
    ///
    /// # Errors
    /// Fails, with a phrase for people, if the object cannot be decoded. What it was before is kept.
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String>;

    /// Forgets an object. `version` is that of its deletion, where it is known.
    fn deleted(&mut self, name: &ObjectName, version: Option<&str>);

    /// Everything is read now, or once more: what it shows counts, whatever was seen before. A server that was restored has versions that it had before.
    fn listing(&mut self) {}

    /// Everything was read.
    fn listed(&mut self) {}

    /// An attempt to read failed.
    fn failed(&mut self, error: &ApiError) {
        let _ = error;
    }
}

/// Resource versions of the objects that a reader keeps. Shared with those who read single objects for the same reader.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<HashMap<ObjectName, Arc<str>>>>);

impl Kept {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<ObjectName, Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which objects of a kind are followed.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) kind: &'static ResourceType,
    /// One namespace; `None` for all.
    pub(crate) namespace: Option<Arc<str>>,
    /// One object of the namespace; `None` for all.
    pub(crate) name: Option<Arc<str>>,
    /// Label selector; empty for all.
    pub(crate) labels: Cow<'static, str>,
}

impl Scope {
    /// All objects of a kind.
    pub(crate) fn all(kind: &'static ResourceType) -> Self {
        Self { kind, namespace: None, name: None, labels: Cow::Borrowed("") }
    }
}

/// Follows objects for a reader, until it is dropped.
pub(crate) struct Reflector<S> {
    client: kube::Client,
    scope: Scope,
    sink: S,
    health: Arc<WatchHealth>,
    kept: Kept,
    /// Interval at which a kind that is not installed is looked for.
    absent_pause: Duration,
    /// Longest pause between two attempts.
    longest_pause: Duration,
    api_version: Option<&'static str>,
    /// Looks for the kind in a row that did not find it.
    absences: u32,
    /// The version of the collection to go on from; `None` when everything has to be read.
    version: Option<Arc<str>>,
    /// True if the server is asked to stream the list.
    streams: bool,
    /// Streamed lists in a row that did not come to their end.
    unfinished: u32,
    /// Objects that are asked for at once where lists are read in pages.
    page: u32,
    /// Attempts in a row that the server refused.
    refusals: u32,
}

/// Outcome of one attempt.
enum Round {
    /// Something was read.
    Progress,
    /// The server has no such kind.
    Absent,
}

/// Next action of a watch after an event.
enum After {
    GoOn,
    /// The streamed list is complete.
    Listed,
}

/// The names of the objects that a list has shown, and whether there were any whose name could not be read.
#[derive(Default)]
struct Seen {
    names: HashSet<ObjectName>,
    has_nameless: bool,
}

impl<S: Sink> Reflector<S> {
    pub(crate) fn new(
        client: kube::Client,
        scope: Scope,
        sink: S,
        health: Arc<WatchHealth>,
        absent_pause: Duration,
    ) -> Self {
        Self {
            client,
            scope,
            sink,
            health,
            kept: Kept::default(),
            absent_pause,
            longest_pause: LONGEST_PAUSE,
            api_version: None,
            absences: 0,
            version: None,
            streams: true,
            unfinished: 0,
            page: list::LIMIT,
            refusals: 0,
        }
    }

    /// Sets the longest pause between two attempts.
    pub(crate) fn retrying_within(self, longest_pause: Duration) -> Self {
        Self { longest_pause, ..self }
    }

    /// Returns the versions of what the reader keeps.
    pub(crate) fn kept(&self) -> Kept {
        self.kept.clone()
    }

    /// Follows without end.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(250), self.longest_pause);
        loop {
            let started = Instant::now();
            let error = match self.round().await {
                Ok(Round::Progress) if started.elapsed() >= SHORT => {
                    backoff.reset();
                    continue;
                }
                Ok(Round::Progress) => None,
                Ok(Round::Absent) => {
                    backoff.reset();
                    sleep(between(self.absent_pause / 2, self.absent_pause)).await;
                    continue;
                }
                Err(error) => Some(error),
            };
            let mut pause = backoff.next();
            self.note_answer(error.as_ref());
            if let Some(error) = &error {
                tracing::debug!(kind = self.scope.kind.kind, %error, "watch failed");
                self.health.failed(error);
                self.sink.failed(error);
                if let ApiError::Throttled { after, .. } = error {
                    pause += (*after).min(Duration::from_mins(1));
                }
            }
            sleep(pause).await;
        }
    }

    /// Lists everything again once the server has refused to resume the watch several times in a row: one that was restored does not know our version yet.
    fn note_answer(&mut self, error: Option<&ApiError>) {
        let is_refused = matches!(error, Some(ApiError::Refused { .. } | ApiError::Unreadable(_)));
        self.refusals = if is_refused { self.refusals + 1 } else { 0 };
        if self.refusals >= REFUSALS {
            self.refusals = 0;
            self.version = None;
        }
    }

    async fn round(&mut self) -> Result<Round, ApiError> {
        let Some(version) = self.discover().await? else { return Ok(Round::Absent) };
        let followed = self.follow(version).await;
        match &followed {
            Err(ApiError::Gone(_)) => self.version = None,
            // The kind went, or moved to another version.
            Err(ApiError::NotFound(_)) => self.api_version = None,
            _ => {}
        }
        followed.map(|()| Round::Progress)
    }

    async fn discover(&mut self) -> Result<Option<&'static str>, ApiError> {
        if self.api_version.is_some() {
            return Ok(self.api_version);
        }
        let kind = self.scope.kind;
        // The core group has one version only, and there may be a thousand watches of single objects.
        let found =
            if kind.group.is_empty() { Some("v1") } else { kind.discover(&self.client).await? };
        match found {
            Some(version) => {
                self.absences = 0;
                self.api_version = Some(version);
                self.sink.begin(version);
            }
            None => self.note_absence(),
        }
        Ok(found)
    }

    /// Forgets the objects of a kind that was uninstalled. A server that starts may not know its kinds for a moment, so one look is not enough.
    fn note_absence(&mut self) {
        self.absences += 1;
        if self.absences < 2 && !self.kept.lock().is_empty() {
            return;
        }
        self.version = None;
        self.retain(&Seen::default());
        self.health.absent();
        self.sink.listed();
    }

    /// Reads everything unless it is known where to go on from, and then changes, until the server closes the watch.
    async fn follow(&mut self, version: &'static str) -> Result<(), ApiError> {
        if self.version.is_none() {
            self.sink.listing();
        }
        if self.version.is_none() && !self.streams {
            self.list(version).await?;
        }
        let seconds =
            between(Duration::from_secs(WATCH_SECONDS.0), Duration::from_secs(WATCH_SECONDS.1))
                .as_secs();
        let mut seen = self.version.is_none().then(Seen::default);
        let path = self.watch_path(version, seconds);
        let mut lines = match request::lines(&self.client, &path).await {
            Err(ApiError::Refused { .. }) if seen.is_some() => {
                // A server before 1.32, or one whose operator switched it off.
                self.streams = false;
                return Ok(());
            }
            lines => lines?,
        };
        if seen.is_none() {
            self.health.live();
        }
        let list_end = Instant::now() + LIST_WHOLE;
        loop {
            let now = Instant::now();
            let deadline = match seen {
                Some(_) => list_end.min(now + LIST_PATIENCE),
                None => now + Duration::from_secs(seconds) + WATCH_GRACE,
            };
            match lines.next(deadline).await {
                Ok(Some(line)) => match self.event(&line, seen.as_mut())? {
                    After::GoOn => {}
                    After::Listed => {
                        self.finish(&seen.take().unwrap_or_default());
                        self.health.live();
                    }
                },
                Ok(None) if seen.is_none() => return Ok(()),
                ended => return self.unfinished(ended.map(|_| ())),
            }
        }
    }

    /// Records the end of a watch: a streamed list that does not come to its end twice in a row is read in pages instead.
    fn unfinished(&mut self, ended: Result<(), ApiError>) -> Result<(), ApiError> {
        if self.version.is_none() {
            self.unfinished += 1;
            self.streams = self.unfinished < 2;
        }
        ended
    }

    fn watch_path(&self, version: &str, seconds: u64) -> String {
        let seconds = seconds.to_string();
        let mut query =
            vec![("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", &*seconds)];
        match &self.version {
            Some(version) => query.push(("resourceVersion", version)),
            None => query
                .extend([("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]),
        }
        let selector = self.field_selector();
        self.select(&mut query, selector.as_deref());
        request::path(&self.scope.kind.path(version, self.scope.namespace.as_deref()), &query)
    }

    fn field_selector(&self) -> Option<String> {
        self.scope.name.as_ref().map(|name| format!("metadata.name={name}"))
    }

    fn select<'a>(&'a self, query: &mut Vec<(&'a str, &'a str)>, fields: Option<&'a str>) {
        query.extend(fields.map(|fields| ("fieldSelector", fields)));
        if !self.scope.labels.is_empty() {
            query.push(("labelSelector", &self.scope.labels));
        }
    }

    fn event(&mut self, line: &Bytes, seen: Option<&mut Seen>) -> Result<After, ApiError> {
        if line.is_empty() {
            return Ok(After::GoOn);
        }
        self.health.event();
        let event = serde_json::from_slice::<Event<'_>>(line).map_err(|error| {
            // Where the stream goes on is not clear any more.
            self.version = None;
            ApiError::Unreadable(error.to_string())
        })?;
        let is_list = seen.is_some();
        match event.r#type {
            "ADDED" | "MODIFIED" => {
                let version = self.apply(event.object.get(), seen);
                // The objects of a streamed list come in no order, so none of them says where to go on.
                if !is_list && version.is_some() {
                    self.version = version;
                }
            }
            "DELETED" => self.remove(event.object.get(), seen),
            "BOOKMARK" => return self.bookmark(event.object.get(), is_list),
            "ERROR" => {
                let status: Status = serde_json::from_str(event.object.get()).unwrap_or_default();
                return Err(ApiError::of_status(&status));
            }
            // Kinds of events that a later server may know change nothing that we know of.
            _ => {}
        }
        Ok(After::GoOn)
    }

    fn bookmark(&mut self, json: &str, is_list: bool) -> Result<After, ApiError> {
        let bookmark: Bookmark = serde_json::from_str(json)
            .map_err(|error| ApiError::Unreadable(format!("bookmark: {error}")))?;
        let ends_list = bookmark.metadata.annotations.contains_key(LIST_END);
        if is_list && !ends_list {
            // A server before 1.27 ignores the wish for a list, and would never say that it has ended.
            self.streams = false;
            return Err(ApiError::Unreadable("server does not stream lists".to_owned()));
        }
        self.version = Some(bookmark.metadata.resource_version);
        Ok(if is_list { After::Listed } else { After::GoOn })
    }

    /// Hands an object to the reader unless it has it already. Returns its resource version.
    fn apply(&mut self, json: &str, seen: Option<&mut Seen>) -> Option<Arc<str>> {
        let metadata = match serde_json::from_str::<Head>(json) {
            Ok(head) => head.metadata,
            Err(error) => {
                self.note_undecodable(json, seen, &error);
                return None;
            }
        };
        let name = metadata.object_name();
        if let Some(seen) = seen {
            seen.names.insert(name.clone());
        }
        let version = Arc::clone(&metadata.resource_version);
        if self.kept.lock().get(&name).is_some_and(|kept| *kept == version) {
            return Some(version);
        }
        match self.sink.applied(&metadata, json) {
            Ok(true) => {
                self.health.decoded(&name);
                self.kept.lock().insert(name, Arc::clone(&version));
            }
            Ok(false) => {
                self.kept.lock().remove(&name);
            }
            Err(fault) => {
                tracing::warn!(kind = self.scope.kind.kind, %name, fault, "object cannot be decoded");
                self.health.undecodable(&name, fault);
                // Kept, so that the next list notices if it is gone.
                self.kept.lock().insert(name, Arc::clone(&version));
            }
        }
        self.health.holds(self.kept.lock().len());
        Some(version)
    }

    /// Records an object whose metadata cannot be read.
    fn note_undecodable(&mut self, json: &str, seen: Option<&mut Seen>, error: &serde_json::Error) {
        let kind = self.scope.kind.kind;
        match (serde_json::from_str::<Named>(json), seen) {
            (Ok(named), seen) => {
                let name = named.metadata.object_name();
                tracing::warn!(kind, %name, %error, "object cannot be decoded");
                self.health.undecodable(&name, error.to_string());
                seen.into_iter().for_each(|seen| {
                    seen.names.insert(name.clone());
                });
            }
            (Err(_), seen) => {
                tracing::warn!(kind, %error, "object without a readable name");
                seen.into_iter().for_each(|seen| seen.has_nameless = true);
            }
        }
    }

    fn remove(&mut self, json: &str, seen: Option<&mut Seen>) {
        // Also the end of an object whose other metadata cannot be read.
        let Ok(Named { metadata }) = serde_json::from_str::<Named>(json) else { return };
        let name = metadata.object_name();
        match seen {
            Some(seen) => {
                seen.names.remove(&name);
            }
            None => self.version = Some(Arc::clone(&metadata.resource_version)),
        }
        self.kept.lock().remove(&name);
        self.health.decoded(&name);
        self.sink.deleted(&name, Some(&metadata.resource_version));
        self.health.holds(self.kept.lock().len());
    }

    /// A list is complete: what it did not show is gone.
    fn finish(&mut self, seen: &Seen) {
        self.unfinished = 0;
        self.retain(seen);
        self.health.listed(self.kept.lock().len());
        self.sink.listed();
    }

    fn retain(&mut self, seen: &Seen) {
        if seen.has_nameless {
            // One of them may be an object that seems to be gone.
            return;
        }
        let mut gone = Vec::new();
        self.kept.lock().retain(|name, _| {
            let is_there = seen.names.contains(name);
            if !is_there {
                gone.push(name.clone());
            }
            is_there
        });
        for name in gone {
            self.health.decoded(&name);
            self.sink.deleted(&name, None);
        }
    }
}

/// Returns whether `version` is one of a later time than `other`. Both are of one collection.
pub(crate) fn is_later(version: &str, other: &str) -> bool {
    let digits = |text: &str| text.trim_start_matches('0').to_owned();
    let (version, other) = (digits(version), digits(other));
    (version.len(), version) > (other.len(), other)
}
