//! Liveness of a connection, by PING and by the bytes that come.

use std::pin::pin;
use std::time::Duration;

use h2::{Ping, PingPong};

use super::wire::Signs;

/// Parts of a wait. The clock is looked at in each of them, so that a process which was held up does not count that time as the peer's silence.
const TICKS: u32 = 10;
/// Waits after which a PING must be answered even if other bytes come: a peer that sends and reads nothing is of no use.
const UNANSWERED: u32 = 6;
/// Pause between PINGs that measure a round trip.
const MEASURE: Duration = Duration::from_millis(50);

/// Rhythm of the PINGs on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Time between an answer and the next PING.
    pub interval: Duration,
    /// Silence after a PING that means the end.
    pub silence: Duration,
}

impl Rhythm {
    /// Rhythm of carriers.
    pub const CARRIER: Self =
        Self { interval: Duration::from_secs(5), silence: Duration::from_secs(10) };
}

/// Completes when the peer is dead: after a PING nothing came for the time of silence, and nothing was taken of what waits for the peer; or the answer did
/// not come within six such times. Answers may come behind bulk, and on a busy machine late. A connection that ended otherwise is its driver's to notice.
///
/// `round` hears how many bytes came between a PING and its answer, and returns true to hear that again at once.
pub async fn lost(
    pings: Option<PingPong>,
    signs: Signs,
    rhythm: Rhythm,
    round: impl Fn(u64) -> bool,
) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut again = false;
    loop {
        tokio::time::sleep(if again { MEASURE } else { rhythm.interval }).await;
        let before = signs.bytes();
        match answer(&mut pings, &signs, rhythm.silence).await {
            Some(Ok(())) => again = round(signs.bytes() - before),
            Some(Err(_)) => return std::future::pending().await,
            None => return,
        }
    }
}

/// Sends a PING; returns how it was answered, or `None` if the peer is dead.
async fn answer(
    pings: &mut PingPong,
    signs: &Signs,
    silence: Duration,
) -> Option<Result<(), h2::Error>> {
    let mut answered = pin!(pings.ping(Ping::opaque()));
    let (mut quiet, mut seen) = (0, signs.count());
    for _ in 0..TICKS * UNANSWERED {
        if let Ok(answer) = tokio::time::timeout(silence / TICKS, &mut answered).await {
            return Some(answer.map(drop));
        }
        let now = signs.count();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
        if quiet == TICKS {
            return None;
        }
    }
    None
}
