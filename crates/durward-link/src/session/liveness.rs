//! Liveness of a carrier, by PING.

use std::time::Duration;

use h2::{Ping, PingPong};

/// Interval of PINGs.
const INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered intervals after which a carrier is dead.
const MISSED: u32 = 2;

/// Completes when the other end does not answer any more. A connection that ended otherwise is its driver's to notice.
pub(super) async fn lost(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(INTERVAL).await;
        match tokio::time::timeout(INTERVAL * MISSED, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
