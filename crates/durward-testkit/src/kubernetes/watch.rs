//! Watches: changes in order, from a revision on, with bookmarks; nothing is left out in silence.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::failure::{Cause, Failure};
use super::faults::WatchGuard;
use super::read::{Encoding, selector};
use super::request::Call;
use super::selector::Selector;
use super::state::Place;
use super::store::{Change, Event, Stored};

/// Changes that are sent in one piece.
const BATCH: usize = 500;

/// Length of a watch that asks for none.
const LONGEST: Duration = Duration::from_secs(3_600);

/// A running watch.
struct Feed {
    shared: Arc<Shared>,
    place: Place,
    selector: Selector,
    encoding: Encoding,
    /// Changes up to this revision have been sent.
    cursor: u64,
    /// Lines to be sent.
    ready: VecDeque<Bytes>,
    changed: watch::Receiver<u64>,
    cut: watch::Receiver<u64>,
    wants_bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    is_over: bool,
    _guard: WatchGuard,
}

/// Begins a watch.
///
/// # Errors
/// If its options do not fit each other.
pub(crate) fn start(
    shared: &Arc<Shared>,
    call: &Call,
    place: &Place,
) -> Result<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<>, Failure> {
    let selector = selector(call, place)?;
    let mut state = shared.state();
    let wants_bookmarks = call.query.flag("allowWatchBookmarks");
    let sends_initial = initial_events(call, state.minor)?;
    let wanted = call.query.resource_version()?;
    let current = state.store.revision();
    let encoding = Encoding::new(call, place);
    let bookmark_every = shared.faults().bookmark_every;
    let length = call.query.number("timeoutSeconds").filter(|&seconds| seconds > 0);
    let length = length.map_or(LONGEST, Duration::from_secs);
    let mut feed = Feed {
        shared: Arc::clone(shared),
        place: place.clone(),
        selector,
        encoding,
        cursor: current,
        ready: VecDeque::new(),
        changed: state.store.table(place.resource()).subscribe(),
        cut: shared.cut.subscribe(),
        wants_bookmarks,
        next_bookmark: Instant::now() + bookmark_every,
        end: Instant::now() + length,
        is_over: false,
        _guard: WatchGuard::new(shared, place.resource()),
    };
    match (sends_initial, wanted) {
        (Some(true), Some(wanted)) if wanted > current => {
            let failure = Failure::too_new(wanted, current);
            feed.ready.push_back(line("ERROR", failure.status().to_string().as_bytes()));
            feed.is_over = true;
        }
        (Some(true), _) | (None, None | Some(0)) => {
            let objects = state.store.objects(place.resource());
            let objects = objects.filter(|object| feed.selector.matches(object));
            let lines: Vec<Bytes> =
                objects.map(|object| line("ADDED", &feed.encoding.object(object))).collect();
            feed.ready.extend(lines);
            if sends_initial == Some(true) && wants_bookmarks {
                let bookmark = feed.encoding.bookmark(current, true);
                feed.ready.push_back(line("BOOKMARK", bookmark.to_string().as_bytes()));
            }
        }
        (Some(false), None | Some(0)) => {}
        (_, Some(revision)) => feed.cursor = revision,
    }
    drop(state);
    Ok(stream::unfold(feed, |mut feed| async move {
        let bytes = feed.next().await?;
        Some((Ok(Frame::data(bytes)), feed))
    }))
}

/// Reads whether the watch begins with all objects.
fn initial_events(call: &Call, minor: u32) -> Result<Option<bool>, Failure> {
    let forbidden = |field: &str, detail: &str| {
        Failure::invalid_options("ListOptions", Cause::forbidden(field, detail))
    };
    let matching = call.query.text("resourceVersionMatch");
    if !call.query.has("sendInitialEvents") {
        return match matching {
            "" => Ok(None),
            _ => Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
        };
    }
    // Beta and on in 1.32, off again in 1.33, on from 1.34.
    if minor < 32 || minor == 33 {
        let detail =
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(forbidden("sendInitialEvents", detail));
    }
    if matching != "NotOlderThan" {
        let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(forbidden("resourceVersionMatch", detail));
    }
    Ok(Some(call.query.flag("sendInitialEvents")))
}

impl Feed {
    /// Returns the next piece of the answer; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.shared.hangs_over().await;
            if !self.ready.is_empty() {
                let pieces: Vec<Bytes> = self.ready.drain(..).collect();
                return Some(pieces.concat().into());
            }
            if self.is_over {
                return None;
            }
            self.changed.borrow_and_update();
            if self.collect() {
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => self.is_over = changed.is_err(),
                cut = self.cut.changed() => self.cut(cut.is_ok()),
                () = tokio::time::sleep_until(self.next_bookmark) => self.bookmark(),
                () = tokio::time::sleep_until(self.end) => {
                    // A real server sends one more before the end, so that the next watch begins late.
                    self.bookmark();
                    self.is_over = true;
                }
            }
        }
    }

    /// Gathers changes to be sent; true if the history moved on.
    fn collect(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        let current = state.store.revision();
        let events = state.store.table(self.place.resource()).events_after(self.cursor, BATCH);
        drop(state);
        match events {
            Err(oldest) => {
                self.expire(oldest);
                true
            }
            Ok(events) if events.is_empty() => {
                // Changes of other kinds need not be looked through again.
                self.cursor = self.cursor.max(current);
                false
            }
            Ok(events) => {
                self.cursor = events.last().map_or(self.cursor, |event| event.revision);
                let lines: Vec<Bytes> =
                    events.iter().filter_map(|event| self.line(event)).collect();
                self.ready.extend(lines);
                true
            }
        }
    }

    /// Ends the watch with the error of a history that is gone.
    fn expire(&mut self, oldest: u64) {
        let failure =
            Failure::expired(format!("too old resource version: {} ({oldest})", self.cursor));
        self.ready.push_back(line("ERROR", failure.status().to_string().as_bytes()));
        self.is_over = true;
    }

    /// Ends the watch on request of a test, with an error where it asks for one.
    fn cut(&mut self, still_served: bool) {
        if still_served && self.shared.faults().cuts_with_error {
            self.expire(self.cursor + 1);
        }
        self.is_over = true;
    }

    fn bookmark(&mut self) {
        let mut faults = self.shared.faults();
        self.next_bookmark = Instant::now() + faults.bookmark_every;
        if !self.wants_bookmarks {
            return;
        }
        if faults.bookmarks_to_drop > 0 {
            faults.bookmarks_to_drop -= 1;
            return;
        }
        drop(faults);
        let bookmark: Value = self.encoding.bookmark(self.cursor, false);
        self.ready.push_back(line("BOOKMARK", bookmark.to_string().as_bytes()));
    }

    /// Returns the line of a change; an object that comes into the selection is added, one that leaves it is deleted.
    fn line(&self, event: &Event) -> Option<Bytes> {
        let is_now = event.change != Change::Deleted && self.selector.matches(&event.object);
        let was_before =
            event.previous.as_ref().is_some_and(|previous| self.selector.matches(previous));
        let object = || self.encoding.object(&event.object);
        match (was_before, is_now) {
            (false, false) => None,
            (false, true) => Some(line("ADDED", &object())),
            (true, true) => Some(line("MODIFIED", &object())),
            (true, false) if event.change == Change::Deleted => Some(line("DELETED", &object())),
            (true, false) => {
                let previous: &Stored = event.previous.as_ref()?;
                let mut value: Value =
                    serde_json::from_slice(&self.encoding.object(previous)).ok()?;
                value["metadata"]["resourceVersion"] = event.revision.to_string().into();
                Some(line("DELETED", value.to_string().as_bytes()))
            }
        }
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = format!("{{\"type\":{},\"object\":", json!(kind)).into_bytes();
    line.extend(object);
    line.extend(b"}\n");
    line.into()
}
