//! The gateway reads the API server itself.

use std::sync::Arc;
use std::time::Duration;

use durward_control::Feed;
use tokio::time::{Instant, sleep_until};

use super::mappings::Look;
use super::reporter::{LOOK, Reporter};
use super::{
    ApiOptions, Cache, First, Follower, Record, Saver, Served, Serving, Shared, begin, until_taken,
};

/// Pause after a change that the kernel does not carry yet.
const SOON: Duration = Duration::from_millis(100);
/// Time in which the kernel carries a change, unless it refuses it.
const CARRIED: Duration = Duration::from_secs(10);

/// Reads and follows for ever. `first` is told when the feed holds everything.
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
    let mut changes = match gateway.upgrade() {
        Some(gateway) => gateway.changes(),
        None => return,
    };
    let (mut next_look, mut changed_at) = (Instant::now(), Instant::now());
    let mut reporter = Reporter::default();
    loop {
        tokio::select! {
            change = follower.next() => {
                if cache.is_some() {
                    record.take(change.clone());
                    saver.note();
                }
                feed.say(change);
                continue;
            }
            () = saver.due() => {
                saver.save(record.served()).await;
                continue;
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                changed_at = Instant::now();
            }
            () = sleep_until(next_look) => {}
        }
        let Some(gateway) = gateway.upgrade() else { return };
        follower.want_also(follower.wanted_beside(gateway.wanted_of_cluster()));
        next_look = Instant::now() + LOOK;
        if (reports_any || cache.is_some())
            && let Some(served) = Served::by(gateway).await
        {
            let objects = follower.objects().keys();
            for report in reporter.reports(&served, objects, follower.store()) {
                follower.note(&report);
                if cache.is_some() {
                    record.note(&report);
                    saver.note();
                }
            }
            let look = follower.look_at_foreign(&served);
            if look == Look::Unsettled && changed_at.elapsed() < CARRIED {
                next_look = Instant::now() + SOON;
            }
        }
        follower.show();
    }
}
