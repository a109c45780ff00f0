//! Deadlines of connections: setting one is a store, and one sweep per core finds those that have passed.
//!
//! A timer per wait would cost more than the wait. The price is precision: a deadline fires up to one [`TICK`] late.

mod narrowing;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use crate::turns;

pub(crate) use narrowing::{Client, Judge, Left, Narrowing, ShownChain, Trusted};

/// Interval of sweeps.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Reason a guarded future was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The deadline passed.
    Deadline,
    /// The connection should end now: it is idle and its core drains or its tenant changed, or its tenant is gone.
    Closing,
}

/// Stage of retirement of a configuration's connections. Shared by all cores; it only ever rises.
#[derive(Debug, Default)]
pub(crate) struct Retirement {
    stage: AtomicU8,
    /// True if `limits` is not empty; avoids the lock.
    narrowed: AtomicBool,
    /// What later edits left: connections of clients outside any of them end at once. A client that was once excluded stays so, though a later edit
    /// allows it again.
    limits: RwLock<Vec<Narrowing>>,
}

impl Retirement {
    const RENEWED: u8 = 1;
    const CHANGED: u8 = 2;
    const REMOVED: u8 = 3;
    /// Narrowings kept, and the bytes that they may keep from being freed: 16 lists of 50,000 networks. One more edit ends all connections, so that
    /// edits do not accumulate memory.
    const NARROWINGS: usize = 1024;
    const BYTES: usize = 16 * 50_000 * 32 + 16 * 1024;

    /// Lets connections go on, under the newer configuration from their next request on.
    pub(crate) fn renew(&self) {
        self.stage.fetch_max(Self::RENEWED, Relaxed);
    }

    /// Ends connections of clients that `to` excludes at once.
    pub(crate) fn narrow(&self, to: &Narrowing) {
        let mut known = self.limits.write().unwrap_or_else(PoisonError::into_inner);
        if known.contains(to) {
            return;
        }
        known.iter_mut().for_each(|former| former.supersede(to));
        let bytes: usize = known.iter().map(Narrowing::size).sum();
        if known.len() == Self::NARROWINGS || bytes + to.size() > Self::BYTES {
            return self.remove();
        }
        known.push(to.clone());
        self.narrowed.store(true, Release);
    }

    /// Ends connections after the exchange they are in.
    pub(crate) fn change(&self) {
        self.stage.fetch_max(Self::CHANGED, Relaxed);
    }

    /// Ends connections at once.
    pub(crate) fn remove(&self) {
        self.stage.fetch_max(Self::REMOVED, Relaxed);
    }

    /// Returns true if there is a newer configuration.
    pub(crate) fn outdated(&self) -> bool {
        self.stage.load(Relaxed) >= Self::RENEWED
    }

    /// Returns true if connections should end after the exchange they are in.
    pub(crate) fn changed(&self) -> bool {
        self.stage.load(Relaxed) >= Self::CHANGED
    }

    /// Returns true if connections of a client should end at once. `judged` are the edits that have been found to admit it; more are added.
    pub(crate) fn removed(&self, client: Client<'_>, judged: &Cell<usize>) -> bool {
        self.stage.load(Relaxed) >= Self::REMOVED
            || (self.narrowed.load(Acquire) && !self.admits(client, judged))
    }

    fn admits(&self, client: Client<'_>, judged: &Cell<usize>) -> bool {
        let known = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        let admits = known.iter().skip(judged.get()).all(|limit| limit.admits(client));
        if admits {
            judged.set(known.len());
        }
        admits
    }
}

/// Watches of one core.
#[derive(Default)]
pub(crate) struct Watchdog {
    watches: RefCell<Vec<Weak<Entry>>>,
    draining: Cell<bool>,
    /// True once the drain's grace is over: all connections end.
    cutting: Cell<bool>,
    /// Entries among `watches` whose watch was dropped, for the next ones.
    spare: RefCell<Vec<Rc<Entry>>>,
}

/// Entries kept for the next watches.
const SPARE: usize = 64;

#[derive(Default)]
struct Entry {
    deadline: Cell<Option<Instant>>,
    idle: Cell<bool>,
    /// Retirement of the listener's configuration, and the client's address.
    retirement: RefCell<Option<(Arc<Retirement>, IpAddr)>>,
    /// Name that the tenant was found by.
    name: RefCell<Option<Box<str>>>,
    /// Name of the hosted API server that let the client in.
    api: RefCell<Option<Arc<str>>>,
    /// True if the client is a tenant cluster's API proxy.
    is_proxy: Cell<bool>,
    /// Certificate that the client has shown.
    shown: RefCell<Option<Arc<ShownChain>>>,
    /// Edits of the configuration that admit the connection.
    judged: Cell<usize>,
    fired: Cell<Option<Expired>>,
    /// True once the connection was closed to make room; never reset.
    crowded: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Waker of the connection's work that ends when it should take nothing new.
    leaving: RefCell<Option<Waker>>,
}

impl Entry {
    /// Makes the entry as good as new.
    fn clear(&self) {
        self.deadline.set(None);
        self.idle.set(false);
        self.retirement.take();
        self.name.take();
        self.api.take();
        self.is_proxy.set(false);
        self.shown.take();
        self.judged.set(0);
        self.fired.set(None);
        self.crowded.set(false);
        self.waker.take();
        self.leaving.take();
    }

    /// Returns true if the configuration no longer permits the connection.
    fn removed(&self) -> bool {
        let retirement = self.retirement.borrow();
        let (name, api, shown) = (self.name.borrow(), self.api.borrow(), self.shown.borrow());
        retirement.as_ref().is_some_and(|(by, client)| {
            let client = Client {
                address: *client,
                name: name.as_deref(),
                api: api.as_deref(),
                is_proxy: self.is_proxy.get(),
                shown: shown.as_deref(),
            };
            by.removed(client, &self.judged)
        })
    }

    fn expired(&self) -> Option<Expired> {
        if self.crowded.get() { Some(Expired::Closing) } else { self.fired.get() }
    }
}

/// Handle that closes a connection without a tenant.
pub(crate) struct Closer(Rc<Entry>);

impl Closer {
    /// Ends the connection's present wait.
    pub(crate) fn close(&self) {
        self.0.crowded.set(true);
        let waker = self.0.waker.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Watchdog {
    /// Creates the watch of one connection.
    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        let spare = self.spare.borrow_mut().pop();
        let entry = spare.unwrap_or_else(|| {
            let entry = Rc::<Entry>::default();
            self.watches.borrow_mut().push(Rc::downgrade(&entry));
            entry
        });
        Watch { entry, watchdog: Rc::clone(self) }
    }

    /// Ends idle connections now and busy ones after their exchange.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.sweep(Instant::now());
    }

    /// Ends all connections now.
    pub(crate) fn cut(&self) {
        self.cutting.set(true);
        self.sweep(Instant::now());
    }

    /// Returns true if the core drains.
    pub(crate) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Runs until cancelled; one task per core.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep(Instant::now());
        }
    }

    fn sweep(&self, now: Instant) {
        let mut wake = Vec::new();
        self.watches.borrow_mut().retain(|entry| {
            let Some(entry) = entry.upgrade() else { return false };
            if entry.fired.get().is_none() {
                entry.fired.set(self.judge(&entry, now));
            }
            if entry.fired.get().is_some() {
                wake.extend(entry.waker.borrow_mut().take());
            }
            if entry.leaving.borrow().is_some() && self.asks_to_leave(&entry) {
                wake.extend(entry.leaving.borrow_mut().take());
            }
            true
        });
        wake.into_iter().for_each(Waker::wake);
    }

    fn asks_to_leave(&self, entry: &Entry) -> bool {
        let retirement = entry.retirement.borrow();
        self.draining.get() || retirement.as_ref().is_some_and(|(by, _)| by.changed())
    }

    fn judge(&self, entry: &Entry, now: Instant) -> Option<Expired> {
        let retirement = entry.retirement.borrow();
        let removed = entry.removed();
        let changed = retirement.as_ref().is_some_and(|(by, _)| by.changed());
        if self.cutting.get() || removed || (entry.idle.get() && (changed || self.draining.get())) {
            return Some(Expired::Closing);
        }
        entry.deadline.get().is_some_and(|deadline| deadline <= now).then_some(Expired::Deadline)
    }
}

/// Deadline of one connection. Dropping it unregisters the connection.
pub(crate) struct Watch {
    entry: Rc<Entry>,
    watchdog: Rc<Watchdog>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A closer may still have the entry, and a connection that was closed to make room stays closed.
        if Rc::strong_count(&self.entry) > 1 {
            return;
        }
        let mut spare = self.watchdog.spare.borrow_mut();
        if spare.len() < SPARE {
            self.entry.clear();
            spare.push(Rc::clone(&self.entry));
        }
    }
}

impl Watch {
    /// Ties the client's connection to the retirement of a configuration.
    pub(crate) fn retire_with(&self, retirement: &Arc<Retirement>, client: IpAddr) {
        *self.entry.retirement.borrow_mut() = Some((Arc::clone(retirement), client));
        self.entry.judged.set(0);
    }

    /// Notes the name that the tenant was found by.
    pub(crate) fn found_by(&self, name: &str) {
        *self.entry.name.borrow_mut() = Some(name.into());
        self.entry.judged.set(0);
    }

    /// Notes the hosted API server that let the client in, and whether the client is a tenant cluster's API proxy.
    pub(crate) fn let_in_by(&self, api: &Arc<str>, is_proxy: bool) {
        *self.entry.api.borrow_mut() = Some(Arc::clone(api));
        self.entry.is_proxy.set(is_proxy);
        self.entry.judged.set(0);
    }

    /// Notes the certificate that the client has shown.
    pub(crate) fn has_shown(&self, chain: &Arc<ShownChain>) {
        *self.entry.shown.borrow_mut() = Some(Arc::clone(chain));
        self.entry.judged.set(0);
    }

    /// Returns the handle that closes the connection to make room.
    pub(crate) fn closer(&self) -> Closer {
        Closer(Rc::clone(&self.entry))
    }

    /// Returns true if the connection was closed to make room.
    pub(crate) fn is_crowded(&self) -> bool {
        self.entry.crowded.get()
    }

    /// Sets the deadline, and whether the connection is idle (between exchanges). Clears an earlier expiry.
    pub(crate) fn arm(&self, after: Option<Duration>, idle: bool) {
        self.entry.deadline.set(after.map(|after| turns::now() + after));
        self.entry.idle.set(idle);
        self.entry.fired.set(None);
    }

    /// Extends the deadline after progress, and changes nothing else.
    pub(crate) fn extend(&self, after: Duration) {
        self.entry.deadline.set(Some(turns::now() + after));
    }

    /// Returns true if the connection should end after the exchange it is in.
    pub(crate) fn closing(&self) -> bool {
        self.watchdog.asks_to_leave(&self.entry)
    }

    /// Completes when the connection should end after the exchange it is in. For one task of the connection.
    pub(crate) async fn leaving(&self) {
        std::future::poll_fn(|cx| {
            if self.closing() {
                return Poll::Ready(());
            }
            *self.entry.leaving.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Returns true if the connection ends only because its core drains: its next request would be served.
    pub(crate) fn drains(&self) -> bool {
        self.watchdog.draining.get()
            && !self.watchdog.cutting.get()
            && !self.asks(Retirement::changed)
    }

    /// Returns true if the configuration that admitted the connection has changed since.
    pub(crate) fn outdated(&self) -> bool {
        self.asks(Retirement::outdated)
    }

    fn asks(&self, question: impl Fn(&Retirement) -> bool) -> bool {
        self.entry.retirement.borrow().as_ref().is_some_and(|(retirement, _)| question(retirement))
    }

    /// Returns true if the connection should end at once.
    pub(crate) fn cut(&self) -> bool {
        self.watchdog.cutting.get() || self.entry.removed()
    }

    /// Returns true if the configuration no longer admits the connection, and the process goes on.
    pub(crate) fn is_excluded(&self) -> bool {
        !self.watchdog.cutting.get() && self.entry.removed()
    }

    /// Runs `future` until it is done or this watch fires.
    pub(crate) fn guard<F: Future>(&self, future: F) -> Guarded<'_, F> {
        Guarded { watch: self, future }
    }
}

pin_project! {
    /// A future that ends when a watch fires. A type of its own, for an `async fn` keeps its argument twice.
    pub(crate) struct Guarded<'w, F> {
        watch: &'w Watch,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Guarded<'_, F> {
    type Output = Result<F::Output, Expired>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let entry = &this.watch.entry;
        if let Some(expired) = entry.expired() {
            return Poll::Ready(Err(expired));
        }
        let mut waker = entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
