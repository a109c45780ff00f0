//! Reading on after a response that was sent before the end of its request.
//!
//! Many clients send all of a request before they read its response, and a reset meanwhile discards what they have not read (RFC 9112 §9.6, RFC 9113
//! §8.1). So the rest of the request is read and discarded, within bounds of time and bytes.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::exchange::Http;
use crate::metrics::Counter;
use crate::turns;
use crate::watch::Watch;

/// Longest wait for more bytes.
const SILENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 5 });
/// Longest time in all.
const LONGEST: Duration = Duration::from_secs(30);
/// Bytes discarded at most.
const BYTES: u64 = 256 * 1024 * 1024;

/// Discards bytes from `next` until it returns none. They count against the tenant's bandwidth like any others.
pub(crate) async fn discard(
    http: &Http,
    watch: &Watch,
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<u64>>,
) {
    let end = Instant::now() + LONGEST;
    let left = || end.saturating_duration_since(Instant::now()).min(SILENCE);
    let mut discarded = 0;
    while discarded < BYTES {
        watch.arm(Some(left()), false);
        let Ok(Some(bytes)) = watch.guard(poll_fn(&mut next)).await else { break };
        discarded += bytes;
        turns::spend((bytes as usize).max(turns::PIECE));
        if turns::is_over() {
            tokio::task::yield_now().await;
        }
        http.cells().add(Counter::ClientBytesIn, bytes);
        if let Some(pause) = http.view.tenant().usage.bandwidth_in(http.limits(), bytes) {
            watch.arm(Some(left()), false);
            if watch.guard(sleep(pause)).await.is_err() {
                break;
            }
        }
    }
}
