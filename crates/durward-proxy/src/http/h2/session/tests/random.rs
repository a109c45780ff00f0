//! Random sequences of frames: nothing panics, no bound is exceeded, and heads are judged as the inspection of upstreams' heads judges them.

use durward_testkit::client::h2_frames::get;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::http2::hpack::{Blocks, Section};

/// Generates a frame that is mostly sound, with a stream id that is mostly near.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![5 => (0u32..8).prop_map(|at| 2 * at + 1), 1 => 0u32..4];
    let bytes = || vec(any::<u8>(), 0..40);
    prop_oneof![
        4 => id.clone().prop_map(|id| get(id, "http", "a", "/")),
        2 => id.clone().prop_map(|id| frame(kind::HEADERS, 4, id, &header_block(&super::get()))),
        1 => id.clone().prop_map(|id| frame(kind::HEADERS, 0, id, &header_block(&super::get()))),
        1 => (id.clone(), any::<u8>()).prop_map(|(id, flags)| frame(kind::CONTINUATION, flags, id, &[])),
        4 => (id.clone(), 0u8..2, bytes()).prop_map(|(id, flags, data)| frame(kind::DATA, flags, id, &data)),
        1 => id.clone().prop_map(|id| frame(kind::DATA, 0, id, &[0; LARGEST])),
        2 => id.clone().prop_map(reset),
        2 => (id.clone(), any::<u32>()).prop_map(|(id, by)| update(id, by >> 4)),
        1 => (1u16..9, any::<u32>()).prop_map(|(name, value)| settings(name, value >> 8)),
        1 => Just(frame(kind::PING, 0, 0, &[0; 8])),
        1 => (any::<u8>(), any::<u8>(), id, bytes()).prop_map(|(kind, flags, id, data)| frame(kind, flags, id, &data)),
    ]
}

/// Step of the exchanges.
#[derive(Clone, Debug)]
enum Step {
    Frames(Vec<u8>),
    Head(usize),
    Write(usize, usize),
    Read(usize),
    Finish(usize),
    Close(usize),
    Flush,
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0usize..5;
    prop_oneof![
        8 => vec(any_frame(), 1..4).prop_map(|frames| Step::Frames(frames.concat())),
        2 => at().prop_map(Step::Head),
        3 => (at(), 0usize..100_000).prop_map(|(at, count)| Step::Write(at, count)),
        2 => at().prop_map(Step::Read),
        1 => at().prop_map(Step::Finish),
        2 => at().prop_map(Step::Close),
        2 => Just(Step::Flush),
        1 => Just(Step::Leave),
    ]
}

/// Client's view of what it was sent.
#[derive(Default)]
struct Seen {
    ended: std::collections::BTreeSet<u32>,
    data: usize,
}

impl Seen {
    fn take(&mut self, frames: &[Sent]) {
        for sent in frames {
            let over = matches!(sent.kind, kind::DATA | kind::HEADERS) && sent.stream > 0;
            assert!(!over || !self.ended.contains(&sent.stream), "after the end: {sent:?}");
            if over && sent.flags & END_STREAM != 0 || sent.kind == kind::RST_STREAM {
                self.ended.insert(sent.stream);
            }
            self.data += if sent.kind == kind::DATA { sent.payload.len() } else { 0 };
            assert!(sent.payload.len() <= LARGEST);
        }
    }
}

const END_STREAM: u8 = flag::END_STREAM_OR_ACK;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_sequence_of_frames_and_exchanges_exceeds_the_bounds(steps in vec(step(), 1..60)) {
        let (mut peer, mut open, mut seen) = (Peer::new(), Vec::new(), Seen::default());
        for step in steps {
            let at = |at: usize| open.get(at % open.len().max(1)).copied();
            match step {
                Step::Frames(bytes) => {
                    let Ok(events) = peer.send(&bytes) else { break };
                    for event in events {
                        if let Event::Begun(begun) = event {
                            open.push(begun.at);
                        }
                    }
                }
                Step::Head(slot) => {
                    let response = Response { status: 200, ..Response::default() };
                    let _ = at(slot).map(|at| peer.session.head(at, &response, None, false));
                }
                Step::Write(slot, count) => {
                    if let Some(at) = at(slot) {
                        peer.session.enter(at);
                        while let Ok(room @ 1..) = peer.session.room(at, count) {
                            peer.session.data(at, &vec![0; room], false).unwrap();
                        }
                        peer.session.grant(Some(at));
                    }
                }
                Step::Read(slot) => drop(at(slot).map(|at| peer.read(at))),
                Step::Finish(slot) => drop(at(slot).map(|at| peer.session.finish(at, None))),
                Step::Close(slot) => {
                    if let Some(at) = at(slot) {
                        peer.session.close(at, 0);
                        open.retain(|slot| *slot != at);
                    }
                }
                Step::Flush => seen.take(&peer.sent()),
                Step::Leave => peer.session.leave(),
            }
            prop_assert!(open.len() <= STREAMS as usize);
            prop_assert!(peer.session.pending().len() <= 2 * output::GATHER);
            peer.session.settle().unwrap();
            let most = (STREAMS * WINDOWS * OURS) as usize + 4 * output::GATHER + 256 * 1024;
            prop_assert!(peer.memory.used() <= most, "{}", peer.memory.used());
        }
        seen.take(&peer.sent());
        open.into_iter().for_each(|at| peer.session.close(at, 0));
        drop(peer.session);
        prop_assert_eq!(peer.memory.used(), 0);
    }

    #[test]
    fn frames_are_the_same_however_their_bytes_come(frames in vec(any_frame(), 1..20), cuts in vec(1usize..50, 1..20)) {
        let outcome = |sizes: &mut dyn Iterator<Item = usize>| {
            let (mut peer, wire) = (Peer::new(), frames.concat());
            let (mut rest, mut count) = (&wire[..], 0);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
                rest = later;
                match peer.send(now) {
                    Ok(events) => count += events.len(),
                    Err(broken) => return (Some(broken), 0, Vec::new()),
                }
            }
            (None, count, peer.sent())
        };

        let whole = outcome(&mut std::iter::repeat(usize::MAX));
        let split = outcome(&mut cuts.iter().copied().cycle());

        prop_assert_eq!(whole, split);
    }

    #[test]
    fn heads_are_judged_by_the_rules_for_all_heads(
        order in vec(0usize..14, 1..8),
        indexed in any::<bool>(),
    ) {
        let fields = [
            (":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/"),
            (":path", "/#"), (":path", ""), (":status", "200"), (":x", "y"), ("x", "y"),
            ("connection", "x"), ("X", "y"), ("x", "\n"), ("te", "trailers"), ("a b", "c"),
        ];
        let mut block = Vec::new();
        for at in order {
            let mut field = header_block(&fields[at..=at]);
            field[0] = if indexed { 0x40 } else { 0 };
            block.extend(field);
        }
        let former = Blocks::default().read(&block, Section::Request).unwrap();

        let mut peer = Peer::new();
        let event = peer.send(&frame(kind::HEADERS, ENDS, 1, &block)).unwrap().pop();

        match former.fault {
            Some(detail) => {
                prop_assert!(matches!(event, Some(Event::Rejected(fault)) if fault == Fault::Malformed(detail)));
            }
            None => prop_assert!(event.is_some()),
        }
    }
}
