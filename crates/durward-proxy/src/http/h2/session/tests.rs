//! Sessions without sockets, in the order of RFC 9113.

mod messages;
mod random;
mod windows;

use std::sync::Arc;
use std::time::Duration;

use durward_testkit::client::h2_frames::{
    self as wire, Frame as Sent, flag, frame, header_block, reset,
};

use super::*;
use crate::http::flow::PollBody;
use crate::http::framing::{Content, End};
use crate::http::message::{Framing, Response};
use crate::memory::{Kind, Memory};

const ENDS: u8 = flag::END_HEADERS | flag::END_STREAM_OR_ACK;
const STREAMS: u32 = 4;
const LIST: u32 = 4096;
/// Stream window that we announce.
const OURS: u32 = 64 * 1024;

/// Session with its client's side.
struct Peer {
    session: Session,
    memory: Arc<Memory>,
    rules: Rules,
    /// Bytes that are no complete frame yet.
    rest: Vec<u8>,
}

impl Peer {
    /// Connects, with nothing sent by the client.
    fn connected() -> Self {
        let memory = Arc::new(Memory::new(1 << 30));
        let of_connection = ConnectionMemory::new(memory.hold(&Arc::default(), Kind::Clients));
        let announced = Announced { streams: STREAMS, window: OURS, list: LIST };
        let session = Session::new(announced, of_connection, Instant::now());
        let rules = Rules { bytes: LIST as usize / 2, fields: 20, connect: false };
        Self { session, memory, rules, rest: Vec::new() }
    }

    /// Connects, and exchanges SETTINGS.
    fn new() -> Self {
        let mut peer = Self::connected();
        assert!(peer.send(&wire::opening()).unwrap().is_empty());
        peer.sent();
        peer
    }

    /// Sends bytes; returns the events, or the error code of the connection and the reason.
    fn send(&mut self, bytes: &[u8]) -> Result<Vec<Event>, (u32, &'static str)> {
        let mut events = Vec::new();
        self.rest.extend_from_slice(bytes);
        loop {
            let rules = self.rules;
            let received = self.session.receive(&self.rest, true, &mut || rules);
            let received = received.map_err(|broken| (broken.code, broken.refusal.word()))?;
            self.rest.drain(..received.used);
            match received.event {
                Some(event) => events.push(event),
                None if received.frames == AT_ONCE => {}
                None => return Ok(events),
            }
        }
    }

    /// Sends the head of a request, and returns the slot of its stream.
    fn open(&mut self, id: u32, flags: u8, fields: &[(&str, &str)]) -> usize {
        let head = [get(), fields.to_vec()].concat();
        let mut events = self.send(&frame(kind::HEADERS, flags, id, &header_block(&head))).unwrap();
        match events.pop() {
            Some(Event::Begun(Begun { at, fault: None, .. })) => at,
            _ => panic!("stream {id} has not begun"),
        }
    }

    /// Takes the frames that wait for the client.
    fn sent(&mut self) -> Vec<Sent> {
        let mut frames = Vec::new();
        let mut bytes = self.session.pending();
        while let Some((header, rest)) = bytes.split_first_chunk() {
            let Frame { kind, flags, stream, length } = Frame::parse(*header);
            let (payload, rest) = rest.split_at(length);
            frames.push(Sent { kind, flags, stream, payload: payload.to_vec() });
            bytes = rest;
        }
        let count = self.session.pending().len();
        self.session.written(count);
        frames
    }

    /// Takes the error codes of RST_STREAM frames that wait, with their streams.
    fn resets(&mut self) -> Vec<(u32, u32)> {
        let sent = self.sent();
        let resets = sent.iter().filter(|frame| frame.kind == kind::RST_STREAM);
        resets.map(|frame| (frame.stream, frame.error_code().unwrap())).collect()
    }

    /// Takes the increments of WINDOW_UPDATE frames that wait, with their streams.
    fn updates(&mut self) -> Vec<(u32, u32)> {
        let sent = self.sent();
        let updates = sent.iter().filter(|frame| frame.kind == kind::WINDOW_UPDATE);
        let increment = |frame: &Sent| u32::from_be_bytes(frame.payload[..].try_into().unwrap());
        updates.map(|frame| (frame.stream, increment(frame))).collect()
    }

    /// Takes a stream's next data as its exchange does, and consumes it.
    fn read(&mut self, at: usize) -> Result<(PollBody, Vec<u8>), &'static str> {
        let mut chunk = Vec::new();
        match self.session.take(at, &mut chunk) {
            Taken::Data => {
                self.session.release_on(at, chunk.len());
                Ok((PollBody::Data, chunk))
            }
            Taken::End(_) => Ok((PollBody::End, chunk)),
            Taken::Nothing => Err("nothing"),
            Taken::Malformed(detail) => Err(detail),
            Taken::Gone => Err("gone"),
        }
    }

    fn respond(&mut self, at: usize) {
        let mut response =
            Response { status: 200, content: Content::Open(End::Marked), ..Response::default() };
        response.fields.append(b"Server", b"x");
        self.session.head(at, &response, None, false).unwrap();
    }

    /// Sends as much of `data` as there is room for; returns the octets.
    fn write(&mut self, at: usize, data: &[u8]) -> usize {
        let mut done = 0;
        loop {
            let room = self.session.room(at, data.len() - done).unwrap();
            if room == 0 {
                return done;
            }
            self.session.data(at, &data[done..done + room], false).unwrap();
            done += room;
        }
    }
}

fn get() -> Vec<(&'static str, &'static str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
}

fn settings(name: u16, value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// Returns the error code with which a connection ends after its opening.
fn broken_by(bytes: &[u8]) -> u32 {
    let mut peer = Peer::new();
    peer.send(bytes).err().map_or(code::NO_ERROR, |(code, _)| code)
}

// RFC 9113 section 3.4.
#[test]
fn a_connection_begins_with_its_preface_and_settings() {
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), Some(code::PROTOCOL_ERROR)),
        ([wire::PREFACE, &frame(kind::PING, 0, 0, &[0; 8])].concat(), Some(code::PROTOCOL_ERROR)),
        ([wire::PREFACE, &frame(kind::SETTINGS, 1, 0, &[])].concat(), Some(code::PROTOCOL_ERROR)),
        (wire::PREFACE[..10].to_vec(), None),
        (wire::opening(), None),
    ] {
        let mut peer = Peer::connected();
        let ours = peer.sent();
        assert_eq!(
            (ours[0].kind, ours[0].flags, ours[1].kind),
            (kind::SETTINGS, 0, kind::WINDOW_UPDATE)
        );

        let ended = bytes.iter().find_map(|byte| peer.send(&[*byte]).err());

        assert_eq!(ended.map(|(code, _)| code), expected, "{}", bytes.escape_ascii());
    }
}

// RFC 9113 sections 4.1 and 4.2.
#[test]
fn frames_of_unknown_kinds_are_ignored_and_those_that_are_too_large_are_not() {
    let mut peer = Peer::new();

    let unknown =
        [frame(0x77, 0xff, 9, b"x"), frame(16, 0, 0, b"0;u=1"), frame(kind::PING, 0, 0, &[7; 8])];
    peer.send(&unknown.concat()).unwrap();

    assert_eq!(peer.sent().len(), 1, "the answer to PING");
    assert_eq!(broken_by(&frame(0x77, 0, 0, &[0; LARGEST + 1])), code::FRAME_SIZE_ERROR);
    assert_eq!(broken_by(&frame(kind::DATA, 0, 1, &[0; LARGEST + 1])), code::FRAME_SIZE_ERROR);
}

// RFC 9113 sections 4.3 and 6.10.
#[test]
fn a_header_block_is_one_whole_and_nothing_comes_in_between() {
    let block = header_block(&get());
    let begun = frame(kind::HEADERS, flag::END_STREAM_OR_ACK, 1, &block[..5]);
    let rest = frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block[5..]);
    let mut peer = Peer::new();

    assert!(peer.send(&begun).unwrap().is_empty() && peer.session.incomplete().is_some());
    assert_eq!(peer.send(&rest).unwrap().len(), 1);
    assert_eq!(peer.session.incomplete(), None);

    let foreign = frame(kind::CONTINUATION, flag::END_HEADERS, 3, &block[5..]);
    for second in [frame(kind::PING, 0, 0, &[0; 8]), foreign, begun.clone(), frame(0x77, 0, 0, &[])]
    {
        assert_eq!(broken_by(&[begun.clone(), second].concat()), code::PROTOCOL_ERROR);
    }
    assert_eq!(broken_by(&rest), code::PROTOCOL_ERROR);
    let undecodable = frame(kind::HEADERS, ENDS, 1, &[0x80]);
    assert_eq!(broken_by(&undecodable), code::COMPRESSION_ERROR);
}

#[test]
fn a_header_block_larger_than_any_list_ends_the_connection() {
    let part = header_block(&[("x", &"y".repeat(15_000))]);
    let mut flood = frame(kind::HEADERS, 0, 1, &header_block(&get()));
    flood.extend(frame(kind::CONTINUATION, 0, 1, &part).repeat(10));

    let mut peer = Peer::new();
    let ended = peer.send(&flood).err();

    assert_eq!(ended, Some((code::ENHANCE_YOUR_CALM, "head_too_large")));
}

// RFC 9113 section 5.1.
#[test]
fn frames_on_streams_that_are_not_open_are_errors() {
    let request = frame(kind::HEADERS, ENDS, 1, &header_block(&get()));
    let data = frame(kind::DATA, 0, 1, b"x");
    for (bytes, expected) in [
        (data.clone(), code::PROTOCOL_ERROR),
        (reset(1), code::PROTOCOL_ERROR),
        (update(1, 1), code::PROTOCOL_ERROR),
        (frame(kind::HEADERS, ENDS, 2, &header_block(&get())), code::PROTOCOL_ERROR),
        (frame(kind::HEADERS, ENDS, 0, &header_block(&get())), code::PROTOCOL_ERROR),
        (frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 1, 1]), code::NO_ERROR),
    ] {
        assert_eq!(broken_by(&bytes), expected, "{bytes:x?}");
    }
    // Half-closed by the client.
    for bytes in [data.clone(), request.clone()] {
        let mut peer = Peer::new();
        let at = peer.open(1, ENDS, &[]);
        peer.send(&bytes).unwrap();
        assert_eq!(peer.resets(), [(1, code::STREAM_CLOSED)], "{bytes:x?}");
        assert!(peer.session.is_gone(at));
    }
    // Reset by the client, which must not send on it after that.
    for bytes in [data.clone(), request.clone()] {
        let mut peer = Peer::new();
        peer.open(1, flag::END_HEADERS, &[]);
        peer.send(&frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])).unwrap();
        peer.send(&bytes).unwrap();
        assert_eq!(peer.resets(), [(1, code::STREAM_CLOSED)], "{bytes:x?}");
    }
    // Closed by both sides.
    let closed = || {
        let mut peer = Peer::new();
        let at = peer.open(1, ENDS, &[]);
        peer.respond(at);
        peer.session.finish(at, None).unwrap();
        peer.session.close(at, 0);
        peer.sent();
        peer
    };
    let mut peer = closed();
    peer.send(&data).unwrap();
    assert_eq!(peer.resets(), [(1, code::STREAM_CLOSED)]);
    assert_eq!(closed().send(&request).err().map(|(code, _)| code), Some(code::STREAM_CLOSED));
    for late in [update(1, 1), reset(1), frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1])] {
        assert!(closed().send(&late).is_ok());
    }
}

#[test]
fn frames_that_cross_our_reset_are_ignored_and_their_header_blocks_decoded() {
    let mut peer = Peer::new();
    let at = peer.open(1, flag::END_HEADERS, &[]);
    peer.session.close(at, 0);
    assert_eq!(peer.resets(), [(1, code::CANCEL)]);

    let mut indexed = header_block(&[("x", "y")]);
    indexed[0] = 0x40;
    let late = [
        frame(kind::DATA, 0, 1, b"x"),
        frame(kind::HEADERS, ENDS, 1, &indexed),
        frame(kind::HEADERS, ENDS, 3, &[header_block(&get()), vec![0x80 | 62]].concat()),
    ];
    let events = peer.send(&late.concat()).unwrap();

    assert!(matches!(&events[..], [Event::Begun(begun)] if begun.request.fields.len() == 1));
    assert!(peer.sent().is_empty());
}

// RFC 9113 section 5.1.1.
#[test]
fn stream_identifiers_only_rise() {
    let mut peer = Peer::new();
    peer.open(5, ENDS, &[]);

    let older = peer.send(&frame(kind::HEADERS, ENDS, 3, &header_block(&get())));

    assert_eq!(older.err().map(|(code, _)| code), Some(code::PROTOCOL_ERROR));
}

// RFC 9113 section 5.1.2.
#[test]
fn more_streams_than_announced_are_refused_and_may_be_tried_again() {
    let mut peer = Peer::new();
    let slots: Vec<_> = (0..STREAMS).map(|at| peer.open(2 * at + 1, ENDS, &[])).collect();

    assert!(peer.send(&frame(kind::HEADERS, ENDS, 21, &header_block(&get()))).unwrap().is_empty());
    assert_eq!(peer.resets(), [(21, code::REFUSED_STREAM)]);
    peer.session.close(slots[0], 0);
    assert_eq!(peer.resets(), [(1, code::CANCEL)]);

    peer.open(23, ENDS, &[]);
}

// RFC 9113 sections 5.3 and 6.3.
#[test]
fn priorities_are_ignored_but_a_stream_cannot_depend_on_itself() {
    for (id, payload, expected) in [
        (3, &[0, 0, 0, 3, 1][..], code::PROTOCOL_ERROR),
        (3, &[0x80, 0, 0, 3, 1], code::PROTOCOL_ERROR),
        (3, &[0, 0, 0, 1], code::FRAME_SIZE_ERROR),
    ] {
        let mut peer = Peer::new();
        peer.send(&frame(kind::PRIORITY, 0, id, payload)).unwrap();
        assert_eq!(peer.resets(), [(id, expected)]);
    }
    assert_eq!(broken_by(&frame(kind::PRIORITY, 0, 0, &[0; 5])), code::PROTOCOL_ERROR);
    let mut peer = Peer::new();
    let block = [&[0, 0, 0, 1, 1][..], &header_block(&get())].concat();
    let events = peer.send(&frame(kind::HEADERS, 0x20 | ENDS, 1, &block)).unwrap();
    assert!(matches!(events[..], [Event::Rejected(Fault::Malformed(_))]));
    assert_eq!(peer.resets(), [(1, code::PROTOCOL_ERROR)]);
}

// RFC 9113 section 5.4.
#[test]
fn a_client_that_makes_too_many_mistakes_loses_its_connection() {
    let mut peer = Peer::new();
    let itself = |id: u32| frame(kind::PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[1]].concat());
    let mistakes: Vec<u8> = (0..MISTAKES).flat_map(|at| itself(2 * at + 1)).collect();

    assert!(peer.send(&mistakes).is_ok());

    assert_eq!(peer.send(&itself(7)).err(), Some((code::ENHANCE_YOUR_CALM, "flood")));
}

// RFC 9113 section 6.4.
#[test]
fn a_stream_that_the_client_resets_ends_both_ways() {
    let mut peer = Peer::new();
    let at = peer.open(1, flag::END_HEADERS, &[]);
    peer.send(&[frame(kind::DATA, 0, 1, b"hi"), reset(1)].concat()).unwrap();

    assert!(peer.session.is_gone(at));
    assert_eq!(peer.read(at).err(), Some("gone"));
    assert!(peer.session.room(at, 5).is_err());
    peer.session.reset(at, code::INTERNAL_ERROR);
    peer.session.close(at, 0);

    assert!(peer.sent().is_empty(), "the client does not hear of it again");
    assert_eq!(broken_by(&frame(kind::RST_STREAM, 0, 0, &[0; 4])), code::PROTOCOL_ERROR);
    assert_eq!(broken_by(&frame(kind::RST_STREAM, 0, 1, &[0; 3])), code::FRAME_SIZE_ERROR);
}

#[test]
fn a_response_that_ends_before_its_request_asks_the_client_to_stop() {
    let mut peer = Peer::new();
    let at = peer.open(1, flag::END_HEADERS, &[]);
    peer.respond(at);
    peer.session.finish(at, None).unwrap();
    peer.session.close(at, 0);

    assert_eq!(peer.resets(), [(1, code::NO_ERROR)]);
}

#[test]
fn beyond_a_burst_frames_are_read_up_to_the_next_head() {
    let mut peer = Peer::new();
    let (first, second) = (peer.open(1, ENDS, &[]), peer.open(3, ENDS, &[]));
    let next = frame(kind::HEADERS, ENDS, 5, &header_block(&get()));
    let wire = [reset(1), next.clone(), reset(3)].concat();
    let rules = peer.rules;

    let received = peer.session.receive(&wire, false, &mut || rules).unwrap();

    assert_eq!((received.used, received.frames), (reset(1).len(), 1));
    assert!(received.event.is_none());
    assert_eq!([first, second].map(|at| peer.session.is_gone(at)), [true, false]);
    assert_eq!(peer.send(&next).unwrap().len(), 1);
}

// RFC 9113 section 6.5.
#[test]
fn settings_are_acknowledged_and_checked() {
    let mut peer = Peer::new();
    peer.send(&[settings(99, 7), settings(setting::ENABLE_PUSH, 0)].concat()).unwrap();
    let acknowledged: Vec<_> = peer.sent().iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(acknowledged, [(kind::SETTINGS, 1), (kind::SETTINGS, 1)]);

    for (bytes, expected) in [
        (settings(setting::ENABLE_PUSH, 2), code::PROTOCOL_ERROR),
        (settings(setting::INITIAL_WINDOW_SIZE, 0x8000_0000), code::FLOW_CONTROL_ERROR),
        (settings(setting::MAX_FRAME_SIZE, 16_383), code::PROTOCOL_ERROR),
        (settings(setting::MAX_FRAME_SIZE, 0x0100_0000), code::PROTOCOL_ERROR),
        (settings(setting::ENABLE_CONNECT_PROTOCOL, 2), code::PROTOCOL_ERROR),
        (frame(kind::SETTINGS, 0, 1, &[]), code::PROTOCOL_ERROR),
        (frame(kind::SETTINGS, 1, 0, &[0; 6]), code::FRAME_SIZE_ERROR),
        (frame(kind::SETTINGS, 0, 0, &[0; 5]), code::FRAME_SIZE_ERROR),
        (frame(kind::SETTINGS, 1, 0, &[]), code::NO_ERROR),
        (settings(setting::MAX_FRAME_SIZE, 0x00ff_ffff), code::NO_ERROR),
    ] {
        assert_eq!(broken_by(&bytes), expected, "{bytes:x?}");
    }
}

// RFC 9113 sections 6.6 and 6.7.
#[test]
fn pings_are_answered_and_clients_do_not_push() {
    let mut peer = Peer::new();
    peer.send(&frame(kind::PING, 0, 0, b"12345678")).unwrap();
    let answer = peer.sent().remove(0);
    assert_eq!((answer.kind, answer.flags, &answer.payload[..]), (kind::PING, 1, &b"12345678"[..]));

    assert_eq!(broken_by(&frame(kind::PING, 0, 1, &[0; 8])), code::PROTOCOL_ERROR);
    assert_eq!(broken_by(&frame(kind::PING, 0, 0, &[0; 7])), code::FRAME_SIZE_ERROR);
    let promise = frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]);
    assert_eq!(Peer::new().send(&promise).err(), Some((code::ENHANCE_YOUR_CALM, "flood")));
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_from() {
    let mut peer = Peer::new();
    let pings = frame(kind::PING, 0, 0, &[0; 8]);
    for seconds in 0..=REPLIES as u64 / 500 {
        peer.session.renew_budget(Instant::now() + Duration::from_secs(5 * seconds));
        peer.send(&pings.repeat(500)).unwrap();
    }

    assert!(peer.session.is_stuffed() && !peer.rest.is_empty());
    assert_eq!(peer.sent().len(), REPLIES + 1);

    peer.send(&[]).unwrap();
    assert!(peer.rest.is_empty());
}

// RFC 9113 section 6.8.
#[test]
fn we_leave_in_two_steps_and_serve_what_is_on_its_way() {
    let mut peer = Peer::new();
    peer.open(1, ENDS, &[]);
    peer.session.leave();
    let goodbye = peer.sent();
    assert_eq!(
        (goodbye[0].kind, &goodbye[0].payload[..4]),
        (kind::GOAWAY, &[0x7f, 255, 255, 255][..])
    );
    assert_eq!((goodbye[1].kind, goodbye[1].flags), (kind::PING, 0));
    peer.open(3, ENDS, &[]);
    assert!(!peer.session.is_left());

    peer.send(&frame(kind::PING, 1, 0, &goodbye[1].payload)).unwrap();

    let last = peer.sent();
    assert_eq!((last[0].kind, &last[0].payload[..]), (kind::GOAWAY, &[0, 0, 0, 3, 0, 0, 0, 0][..]));
    assert!(peer.session.is_left());
    let late = [frame(kind::HEADERS, 4, 5, &header_block(&get())), frame(kind::DATA, 1, 5, b"x")];
    assert!(peer.send(&late.concat()).unwrap().is_empty());
    assert!(peer.sent().is_empty());
}

#[test]
fn a_client_that_leaves_has_its_streams_served() {
    let mut peer = Peer::new();
    let at = peer.open(1, ENDS, &[]);

    peer.send(&frame(kind::GOAWAY, 0, 0, &[0; 8])).unwrap();

    assert!(peer.session.is_left());
    peer.respond(at);
    assert_eq!(broken_by(&frame(kind::GOAWAY, 0, 1, &[0; 8])), code::PROTOCOL_ERROR);
    assert_eq!(broken_by(&frame(kind::GOAWAY, 0, 0, &[0; 7])), code::FRAME_SIZE_ERROR);
}
