//! The shortest and the longest value that each duration in a document may have.
//!
//! A check every microsecond is a load on its target and on this process, and a timeout of a year holds a slot for a year, so that both
//! would cost other tenants. `docs/reference/configuration.md` lists the same ranges.

use std::time::Duration;

use super::words;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// `healthCheck.interval`
pub(crate) const CHECK_INTERVAL: Range = Range(100, HOUR);
/// `healthCheck.timeout`
pub(crate) const CHECK_TIMEOUT: Range = Range(10, MINUTE);
/// `outlierDetection.baseEjection`
pub(crate) const BASE_EJECTION: Range = Range(100, HOUR);
/// `pool.idleTimeout`
pub(crate) const POOL_IDLE: Range = Range(100, HOUR);
/// A route's `timeout`, and `timeouts.request`
pub(crate) const REQUEST: Range = Range(10, 24 * HOUR);
/// A port mapping's `drain`
pub(crate) const DRAIN: Range = Range(100, 24 * HOUR);
/// `timeouts.handshake`
pub(crate) const HANDSHAKE: Range = Range(100, MINUTE);
/// `timeouts.header`
pub(crate) const HEADER: Range = Range(100, 5 * MINUTE);
/// `timeouts.idle` and `timeouts.streamIdle`
pub(crate) const IDLE: Range = Range(100, 24 * HOUR);
/// `timeouts.udpIdle`
pub(crate) const UDP_IDLE: Range = Range(SECOND, HOUR);
/// `timeouts.connect`
pub(crate) const CONNECT: Range = Range(10, MINUTE);
/// `timeouts.response`
pub(crate) const RESPONSE: Range = Range(10, HOUR);

/// The shortest and the longest duration, in milliseconds, both allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range(u64, u64);

impl Range {
    /// Reads a duration and rejects one that is out of this range.
    pub(crate) fn read(self, text: &str) -> Result<Duration, String> {
        let read = words::duration(text)?;
        if (Duration::from_millis(self.0)..=Duration::from_millis(self.1)).contains(&read) {
            return Ok(read);
        }
        Err(format!("is out of range: {} to {}", written(self.0), written(self.1)))
    }
}

/// Milliseconds in the largest unit that divides them.
fn written(milliseconds: u64) -> String {
    let units = [(HOUR, "h"), (MINUTE, "m"), (SECOND, "s")];
    let unit = units.into_iter().find(|(length, _)| milliseconds.is_multiple_of(*length));
    let (length, name) = unit.unwrap_or((1, "ms"));
    format!("{}{name}", milliseconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_out_of_range_is_refused_with_the_range() {
        for (range, text) in [(CHECK_INTERVAL, "1us"), (CHECK_INTERVAL, "2h")] {
            assert_eq!(range.read(text), Err("is out of range: 100ms to 1h".to_owned()), "{text}");
        }
        assert_eq!(CHECK_TIMEOUT.read("365d"), Err("is out of range: 10ms to 1m".to_owned()));
        assert_eq!(IDLE.read("25h"), Err("is out of range: 100ms to 24h".to_owned()));
    }

    #[test]
    fn both_ends_of_a_range_are_allowed() {
        assert_eq!(CHECK_INTERVAL.read("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(CHECK_INTERVAL.read("1h"), Ok(Duration::from_secs(3600)));
    }
}
