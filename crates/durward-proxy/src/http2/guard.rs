//! Budgets for frames that cost a peer nothing and us work (rapid reset, PING and SETTINGS floods).
//!
//! Only the nine bytes of each frame's header are read. Frames of upstreams are counted before `h2` sees them.

use std::time::{Duration, Instant};

use crate::http2::frames::{Frame, Frames, Piece, kind};
use crate::turns;

/// Length of a budget's window.
const WINDOW: Duration = Duration::from_secs(1);

/// Frames of each kind that a peer may send in a window.
const PINGS: u32 = 1000;
const SETTINGS: u32 = 50;
const PRIORITIES: u32 = 1000;
const RESETS: u32 = 200;
const EMPTY_DATA: u32 = 100;
const CONTINUATIONS: u32 = 100;
const WINDOW_UPDATES: u32 = 1000;
const UNKNOWN: u32 = 500;
/// Requests that may wait for their response on one connection to an upstream.
const OPEN_REQUESTS: u64 = 100;
/// Bytes of the smallest request: a frame header, and a header block that refers to the HPACK table only.
const BYTES_PER_REQUEST: u64 = 9 + 5;
/// CONTINUATION frames of an upstream's largest head.
const PER_HEAD: u32 = 4;
/// Bytes sent that allow the peer one more WINDOW_UPDATE.
const BYTES_PER_UPDATE: u64 = 256;

/// Frames counted in the present window.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    of_upstream: bool,
    pings: u32,
    settings: u32,
    priorities: u32,
    resets: u32,
    empty_data: u32,
    continuations: u32,
    window_updates: u32,
    unknown: u32,
}

/// Budgets of one connection's frames.
#[derive(Debug)]
pub(crate) struct Budget {
    counts: Counts,
    since: Instant,
    sent: u64,
}

impl Budget {
    /// Creates the budgets of a client's new connection.
    pub(crate) fn of_client(now: Instant) -> Self {
        Self { counts: Counts::default(), since: now, sent: 0 }
    }

    fn of_upstream(now: Instant) -> Self {
        let counts = Counts { of_upstream: true, ..Counts::default() };
        Self { counts, since: now, sent: 0 }
    }

    /// Records bytes sent to the peer.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
    }

    /// Begins the next window if the present one is over.
    pub(crate) fn renew(&mut self, now: Instant) {
        if now.duration_since(self.since) >= WINDOW {
            let of_upstream = self.counts.of_upstream;
            self.counts = Counts { of_upstream, ..Counts::default() };
            (self.since, self.sent) = (now, 0);
        }
    }

    /// Counts a frame received; returns the budget that it exceeds, if any.
    pub(crate) fn add(&mut self, frame: Frame) -> Option<&'static str> {
        self.counts.add(frame, self.sent)
    }
}

/// Counter of the frames in the bytes of an upstream.
#[derive(Debug)]
pub(crate) struct FrameMeter {
    frames: Frames,
    budget: Budget,
}

impl FrameMeter {
    /// Creates the counter of a new connection to an upstream.
    pub(crate) fn of_upstream(now: Instant) -> Self {
        Self { frames: Frames::default(), budget: Budget::of_upstream(now) }
    }

    /// Records bytes sent to the peer.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.budget.sent(bytes);
    }

    /// Returns the bytes received of an incomplete frame header.
    pub(crate) fn partial(&self) -> usize {
        self.frames.partial()
    }

    /// Counts the frames in bytes received, passes each piece of a frame to `each`, and returns the budget that is exceeded, if any.
    pub(crate) fn received(
        &mut self,
        bytes: &[u8],
        now: Instant,
        mut each: impl FnMut(Piece<'_>),
    ) -> Option<&'static str> {
        self.budget.renew(now);
        let mut broken = None;
        let mut frames = 0;
        let budget = &mut self.budget;
        self.frames.walk(bytes, |piece| {
            if piece.first {
                frames += 1;
                let found = budget.add(piece.frame);
                broken = broken.or(found);
            }
            each(piece);
        });
        turns::spend(bytes.len() + frames * turns::FRAME);
        broken
    }
}

impl Counts {
    fn add(&mut self, frame: Frame, sent: u64) -> Option<&'static str> {
        let updates = u32::try_from(sent / BYTES_PER_UPDATE).unwrap_or(u32::MAX);
        // An upstream answers each request with a head of several frames, or resets it, and its response may begin with an empty DATA frame.
        let requests = match self.of_upstream {
            true => u32::try_from(OPEN_REQUESTS + sent / BYTES_PER_REQUEST).unwrap_or(u32::MAX),
            false => 0,
        };
        let (count, budget, word) = match frame.kind {
            kind::DATA if frame.length == 0 && !frame.ends_stream() => {
                (&mut self.empty_data, EMPTY_DATA.saturating_add(requests), "empty DATA")
            }
            kind::DATA | kind::HEADERS => return None,
            kind::PRIORITY => (&mut self.priorities, PRIORITIES, "PRIORITY"),
            kind::RST_STREAM => (&mut self.resets, RESETS.saturating_add(requests), "RST_STREAM"),
            kind::SETTINGS => (&mut self.settings, SETTINGS, "SETTINGS"),
            kind::PING => (&mut self.pings, PINGS, "PING"),
            kind::WINDOW_UPDATE => {
                let budget = WINDOW_UPDATES.saturating_add(updates);
                (&mut self.window_updates, budget, "WINDOW_UPDATE")
            }
            kind::CONTINUATION => {
                let budget = CONTINUATIONS.saturating_add(requests.saturating_mul(PER_HEAD));
                (&mut self.continuations, budget, "CONTINUATION")
            }
            _ => (&mut self.unknown, UNKNOWN, "unknown frames"),
        };
        *count += 1;
        (*count > budget).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use durward_testkit::client::h2_frames::{PREFACE as OPENING, frame, kind};
    use proptest::prelude::*;

    use super::{Budget, FrameMeter, Frames, Instant, WINDOW};

    fn of_client(now: Instant) -> FrameMeter {
        FrameMeter { frames: Frames::new(OPENING.len()), budget: Budget::of_client(now) }
    }

    fn feed(wire: &[u8], cuts: &[usize]) -> Option<&'static str> {
        let now = Instant::now();
        let mut meter = of_client(now);
        let mut start = 0;
        let mut broken = None;
        for end in cuts.iter().copied().chain([wire.len()]) {
            let end = end.clamp(start, wire.len());
            let found = meter.received(&wire[start..end], now, |_| {});
            broken = broken.or(found);
            start = end;
        }
        broken
    }

    fn many(count: usize, kind: u8, payload: &[u8]) -> Vec<u8> {
        [OPENING.to_vec(), frame(kind, 0, 0, payload).repeat(count)].concat()
    }

    #[test]
    fn each_kind_has_a_budget() {
        let cases = [
            (kind::PING, 1000, &[0; 8][..], "PING"),
            (kind::SETTINGS, 50, &[], "SETTINGS"),
            (kind::PRIORITY, 1000, &[0; 5], "PRIORITY"),
            (kind::RST_STREAM, 200, &[0; 4], "RST_STREAM"),
            (kind::DATA, 100, &[], "empty DATA"),
            (kind::CONTINUATION, 100, &[], "CONTINUATION"),
            (kind::WINDOW_UPDATE, 1000, &[0; 4], "WINDOW_UPDATE"),
            (0x77, 500, &[], "unknown frames"),
        ];

        for (kind, budget, payload, word) in cases {
            assert_eq!(feed(&many(budget, kind, payload), &[]), None, "{word}");
            assert_eq!(feed(&many(budget + 1, kind, payload), &[]), Some(word));
        }
    }

    #[test]
    fn a_budget_is_for_a_second() {
        let begin = Instant::now();
        let mut meter = of_client(begin);

        let first = meter.received(&many(50, kind::SETTINGS, &[]), begin, |_| {});
        let second =
            meter.received(&frame(kind::SETTINGS, 0, 0, &[]).repeat(50), begin + WINDOW, |_| {});

        assert_eq!((first, second), (None, None));
    }

    #[test]
    fn what_is_sent_allows_for_window_updates() {
        let now = Instant::now();
        let mut meter = of_client(now);
        meter.sent(256 * 500);

        assert_eq!(meter.received(&many(1500, kind::WINDOW_UPDATE, &[0; 4]), now, |_| {}), None);
    }

    #[test]
    fn an_upstream_that_answers_many_requests_with_large_heads_is_no_flood() {
        let now = Instant::now();
        for (kind, payload, per_request) in [
            (kind::CONTINUATION, &[0; 9][..], 4),
            (kind::RST_STREAM, &[0; 4], 1),
            (kind::DATA, &[], 1),
        ] {
            let (mut busy, mut idle) = (FrameMeter::of_upstream(now), FrameMeter::of_upstream(now));
            busy.sent(14 * 5_000);
            let frames = frame(kind, 0, 1, payload).repeat(5_000 * per_request);

            assert_eq!(busy.received(&frames, now, |_| {}), None, "{kind}");
            assert!(idle.received(&frames, now, |_| {}).is_some(), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn splits_do_not_hide_frames(payload in proptest::collection::vec(any::<u8>(), 0..20), mut cuts in proptest::collection::vec(0usize..4000, 0..30)) {
            cuts.sort_unstable();

            prop_assert_eq!(feed(&many(51, kind::SETTINGS, &payload), &cuts), Some("SETTINGS"));
        }
    }
}
