//! The gateway reads the API server itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use durward_control::Feed;
use tokio::time::{Instant, sleep_until};

use super::foreign;
use super::looks::{LOOK, Looks};
use super::mappings::Look;
use super::reporter::Reporter;
use super::{
    ApiOptions, Cache, First, Follower, Record, Saver, Served, Serving, Shared, begin, until_taken,
};
use crate::app::Gateway;

/// Pause after a change that the kernel does not carry yet.
pub(super) const SOON: Duration = Duration::from_millis(100);
/// Time in which the kernel carries a change, unless it refuses it.
pub(super) const CARRIED: Duration = Duration::from_secs(10);

/// Lists and watches for ever. `first` is notified once the feed holds everything.
pub(super) async fn run(
    options: ApiOptions,
    feed: Arc<Feed>,
    shared: Arc<Shared>,
    (first, mut serving): (First, Serving),
) {
    let reports_any = options.statuses.is_some();
    let cache = options.cache.as_ref();
    let cache = cache.map(|files| Cache::open(files, Arc::clone(&options.cluster.namespace)));
    let cache = match cache.transpose() {
        Ok(cache) => cache.map(Arc::new),
        Err(error) => return drop(first.send(Err(error))),
    };
    let mut follower = match Follower::start(options, Arc::clone(&shared)).await {
        Ok(follower) => follower,
        Err(error) => return drop(first.send(Err(error))),
    };
    let mut is_cached = false;
    let begun = begin(&mut follower, cache.as_ref(), &shared, |cached| {
        is_cached = true;
        feed.say(cached);
        drop(first.try_send(Ok(())));
    });
    let begun = begun.await;
    let (mut record, mut saver) = (Record::default(), Saver::new(cache.clone()));
    if cache.is_some() {
        record.begin(&begun);
        saver.note();
    }
    // Where a cache is served, that has the last served revisions.
    let (begun, later) = if is_cached {
        (begun.change, None)
    } else {
        let (begun, later) = begun.split();
        (begun, Some(later))
    };
    feed.say(begun);
    // Whoever has waited may have lost patience.
    drop(first.try_send(Ok(())));
    let known = serving.wait_for(Option::is_some).await.map(|known| known.clone());
    let Ok(Some(gateway)) = known else { return };
    if let Some(later) = later {
        until_taken(&feed).await;
        feed.say(later);
    }
    let keeps = cache.is_some();
    Following { follower, feed, record, saver, keeps, reports_any }.run(&gateway).await;
}

/// State after everything was read once.
struct Following {
    follower: Follower,
    feed: Arc<Feed>,
    record: Record,
    saver: Saver,
    /// True if there is a cache.
    keeps: bool,
    reports_any: bool,
}

impl Following {
    async fn run(mut self, gateway: &Weak<Gateway>) {
        let mut changes = match gateway.upgrade() {
            Some(gateway) => gateway.changes(),
            None => return,
        };
        let (mut looks, mut changed_at) = (Looks::new(), Instant::now());
        let mut reporter = Reporter::default();
        loop {
            tokio::select! {
                change = self.follower.next() => {
                    if self.keeps {
                        self.record.take(change.clone());
                        self.saver.note();
                    }
                    self.feed.say(change);
                    continue;
                }
                () = self.saver.due() => {
                    self.saver.save(self.record.served()).await;
                    continue;
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    changed_at = Instant::now();
                    looks.hurry();
                    continue;
                }
                () = sleep_until(looks.next()) => {}
            }
            let Some(gateway) = gateway.upgrade() else { return };
            self.follower.want_also(self.follower.wanted_beside(gateway.wanted_of_cluster()));
            let (began, mut pause) = (Instant::now(), LOOK);
            if (self.reports_any || self.keeps)
                && let Some(served) = Served::by(gateway).await
            {
                for report in reporter.reports(&served, self.follower.objects()) {
                    self.follower.note(&report);
                    if self.keeps {
                        self.record.note(&report);
                        self.saver.note();
                    }
                }
                let answered = foreign::answer(&self.follower.asked(), &served);
                let look = self.follower.look_at_foreign(&answered);
                if look == Look::Unsettled && changed_at.elapsed() < CARRIED {
                    pause = SOON;
                }
            }
            looks.looked(began, pause);
            self.follower.show();
        }
    }
}
