//! Entry points of the parsers of `http` and `socks` for fuzz targets; each checks the promises that the engine relies on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http::body::{Decoder, Step};
use crate::http::fields::Fields;
use crate::http::framing::{Kind, incoming, outgoing};
use crate::http::h1::write;
use crate::http::h2::head::Rules;
use crate::http::h2::session::{Announced, Event, Session};
use crate::http::message::{Framing, Request, Response, Version};
use crate::http::parse::{Asked, HeadLimits, Parsed, Progress, parse_request, parse_response};
use crate::http2::guard::FrameMeter;
use crate::memory::{ConnectionMemory, Kind as MemoryKind, Memory};
use crate::socks::wire;
use crate::syntax::{Fault, is_value_byte};

const LIMITS: HeadLimits =
    HeadLimits { bytes: 16 * 1024, line: 4 * 1024, fields: 64, outward: true };

/// Preface and an empty SETTINGS frame.
const H2_OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Parses the target of a CONNECT: an accepted one is a host and a port, and names the very bytes that were sent.
pub fn connect_target(target: &[u8]) {
    let head = [b"CONNECT ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let mut request = Request::default();
    let read = parse_request(&head, &mut Progress::default(), LIMITS, &mut request);
    if read != Ok(Parsed::Head(head.len())) {
        return;
    }
    let authority = request.fields.bytes(request.authority);
    assert_eq!(authority, target, "{}", head.escape_ascii());
    let host = request.host();
    assert!(authority.len() > host.len() && !host.contains(['@', '/', ' ']), "{host:?}");
}

/// Parses SOCKS 5 messages: the result does not change when more bytes follow.
pub fn socks(bytes: &[u8]) {
    steady(bytes, wire::greeting);
    steady(bytes, wire::pair);
    steady(bytes, wire::wish);
}

fn steady<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    read: fn(&[u8]) -> Result<wire::Read<T>, wire::Fault>,
) {
    let more = |read: &Result<wire::Read<T>, wire::Fault>| *read == Ok(wire::Read::More);
    let first = (0..=bytes.len()).find(|end| !more(&read(&bytes[..*end])));
    match first {
        None => assert!(more(&read(bytes))),
        Some(end) => {
            let known = read(&bytes[..end]);
            if let Ok(wire::Read::Complete(_, length)) = &known {
                assert_eq!(*length, end, "read beyond its end, or late");
            }
            assert_eq!(read(bytes), known);
        }
    }
}

/// Parses a request's head whole and byte by byte; both must agree, and the head we write from it must parse to the same request.
pub fn request_head(bytes: &[u8]) {
    let mut whole = Request::default();
    let read = parse_request(bytes, &mut Progress::default(), LIMITS, &mut whole);
    let mut grown = Request::default();
    assert_eq!(byte_by_byte(bytes, |part, at| parse_request(part, at, LIMITS, &mut grown)), read);
    let Ok(Parsed::Head(length)) = read else { return };
    assert!(length <= bytes.len() && length <= LIMITS.bytes);
    check_fields(&whole.fields);
    if whole.authority.is_empty() || whole.path() == "*" || whole.method() == "CONNECT" {
        return;
    }
    let mut wire = Vec::new();
    write::request(&mut wire, &whole);
    let mut again = Request::default();
    let limits = HeadLimits { bytes: 64 * 1024, line: 64 * 1024, fields: 80, outward: true };
    let reread = parse_request(&wire, &mut Progress::default(), limits, &mut again);
    assert_eq!(reread, Ok(Parsed::Head(wire.len())), "{}", wire.escape_ascii());
    assert_eq!(
        (again.method(), again.path(), again.host()),
        (whole.method(), whole.path(), whole.host())
    );
    assert_eq!((again.framing, again.upgrade.is_none()), (whole.framing, whole.upgrade.is_none()));
    assert!(again.fields.iter().eq(whole.fields.iter()), "{}", wire.escape_ascii());
}

/// Parses a response's head likewise.
pub fn response_head(bytes: &[u8]) {
    let [first, bytes @ ..] = bytes else { return };
    let kind = if first & 1 != 0 { Kind::Head } else { Kind::Other };
    let asked = Asked { kind, upgrade: first & 2 != 0 };
    let mut whole = Response::default();
    let read = parse_response(bytes, &mut Progress::default(), asked, &mut whole);
    let mut grown = Response::default();
    assert_eq!(byte_by_byte(bytes, |part, at| parse_response(part, at, asked, &mut grown)), read);
    let Ok(Parsed::Head(_)) = read else { return };
    check_fields(&whole.fields);
    assert!((100..600).contains(&whole.status));
    if whole.fields.len() > 250 {
        // The fields that we add would exceed the limit when the head is read again.
        return;
    }
    let request = Request::default();
    let sent = outgoing(kind, whole.status, Version::Http11, whole.content);
    let mut wire = Vec::new();
    write::response(&mut wire, &request, &whole, sent, false);
    let mut again = Response::default();
    let reread = parse_response(&wire, &mut Progress::default(), asked, &mut again);
    assert_eq!(reread, Ok(Parsed::Head(wire.len())), "{}", wire.escape_ascii());
    let received = incoming(kind, again.status, again.content);
    assert_eq!((again.status, received), (whole.status, sent.framing));
}

/// Decodes chunks whole and in pieces whose sizes the first bytes choose; both must agree.
pub fn chunked(bytes: &[u8]) {
    let (cuts, wire) = bytes.split_at(bytes.len().min(8));
    let whole = decode(wire, &mut std::iter::once(wire.len()));
    let mut sizes = cuts.iter().cycle().map(|size| usize::from(*size % 64) + 1);
    let pieces = decode(wire, &mut sizes);
    assert_eq!(whole, pieces);
}

/// Feeds a client's frames to a session whole and byte by byte; both must agree. Requests that begin are answered, so that later frames meet streams in
/// every state.
pub fn h2_session(bytes: &[u8]) {
    let wire = [H2_OPENING, bytes].concat();
    let whole = h2_serve(&wire, wire.len());
    assert_eq!(whole, h2_serve(&wire, 1));
}

/// Returns the error code that ended the session, the number of requests, and the bytes it sent.
fn h2_serve(wire: &[u8], step: usize) -> (Option<u32>, usize, Vec<u8>) {
    let memory = Arc::new(Memory::new(1 << 30));
    let held = ConnectionMemory::new(memory.hold(&Arc::default(), MemoryKind::Clients));
    let announced = Announced { streams: 8, window: 64 * 1024, list: 16 * 1024 };
    let rules = Rules { bytes: 8 * 1024, fields: 32, connect: true };
    let mut session = Session::new(announced, held, Instant::now());
    let (mut sent, mut begun) = (Vec::new(), 0);
    let (mut start, mut ended) = (0, None);
    for end in (step..wire.len()).step_by(step).chain([wire.len()]) {
        loop {
            let received = match session.receive(&wire[start..end], true, &mut || rules) {
                Ok(received) => received,
                Err(broken) => {
                    ended = Some(broken.code);
                    break;
                }
            };
            start += received.used;
            sent.extend_from_slice(session.pending());
            session.written(session.pending().len());
            match received.event {
                Some(Event::Begun(request)) => {
                    begun += 1;
                    h2_answer(&mut session, request.at, begun);
                }
                Some(Event::Rejected(_)) => {}
                None => break,
            }
        }
        assert!(session.settle().is_ok());
        if ended.is_some() {
            break;
        }
    }
    sent.extend_from_slice(session.pending());
    drop(session);
    assert_eq!(memory.used(), 0);
    (ended, begun, sent)
}

/// Answers every second request at once, and leaves the others open.
fn h2_answer(session: &mut Session, at: usize, number: usize) {
    if number.is_multiple_of(2) {
        let mut response = Response { status: 200, ..Response::default() };
        response.fields.append(b"Server", b"fuzz");
        let _ = session.head(at, &response, Some(0), true);
        session.close(at, 0);
    }
}

/// Counts frames whole and byte by byte; both must agree.
pub fn h2_guard(bytes: &[u8]) {
    let now = Instant::now();
    let mut whole = FrameMeter::of_upstream(now);
    let found = whole.received(bytes, now + Duration::from_millis(1), |_| {});
    let mut grown = FrameMeter::of_upstream(now);
    let mut again = None;
    for byte in bytes {
        let later = now + Duration::from_millis(1);
        let broken = grown.received(std::slice::from_ref(byte), later, |_| {});
        again = again.or(broken);
    }
    assert_eq!(found, again);
}

fn byte_by_byte(
    bytes: &[u8],
    mut parse: impl FnMut(&[u8], &mut Progress) -> Result<Parsed, Fault>,
) -> Result<Parsed, Fault> {
    let mut progress = Progress::default();
    for end in 1..bytes.len() {
        match parse(&bytes[..end], &mut progress) {
            Ok(Parsed::Incomplete) => {}
            other => return other,
        }
    }
    parse(bytes, &mut progress)
}

fn check_fields(fields: &Fields) {
    for field in fields.iter() {
        assert!(!field.name.is_empty());
        assert!(field.value.iter().all(|byte| is_value_byte(*byte)));
        assert_eq!(field.value.trim_ascii(), field.value);
        assert!(!field.known.hop_by_hop());
    }
}

type Decoded = Result<(Vec<u8>, usize, bool), &'static str>;

fn decode(wire: &[u8], sizes: &mut dyn Iterator<Item = usize>) -> Decoded {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut trailers, mut body) = (None, Vec::new());
    let (mut start, mut end) = (0, 0);
    loop {
        match decoder.step(&wire[start..end], &mut trailers)? {
            Step::Data(count) => {
                body.extend_from_slice(&wire[start..start + count]);
                decoder.taken(count);
                start += count;
            }
            Step::Skip(count) => start += count,
            Step::End => return Ok((body, start, true)),
            Step::More if end == wire.len() => return Ok((body, 0, false)),
            Step::More => end = (end + sizes.next().unwrap_or(wire.len())).min(wire.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Pieces of heads and bodies, so that random sequences of them often get far.
    const PIECES: &[&[u8]] = &[
        b"GET ",
        b"POST ",
        b"CONNECT a:1",
        b"http://b:2/",
        b"/",
        b"*",
        b"http://a",
        b"a.example",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"HTTP/1.1 ",
        b"200",
        b"101",
        b"304",
        b" OK\r\n",
        b"Host: a\r\n",
        b"Host: a.example\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: ",
        b"close",
        b"Upgrade",
        b", ",
        b"X-A",
        b": ",
        b"b",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\0",
        b"_",
        b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
        b"TE: trailers\r\n",
        b"5",
        b"0",
        b";x",
        b"hello",
        b"\x80",
        b"\xff\xff\xff",
    ];

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop::sample::select(PIECES), 0..24)
            .prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn promises_are_kept_for_all_sequences_of_pieces(bytes in bytes(), frames in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::request_head(&bytes);
            super::request_head(&[b"GET / HTTP/1.1\r\nHost: a\r\n", &bytes[..]].concat());
            super::response_head(&bytes);
            super::response_head(&[b"\x02HTTP/1.1 200 OK\r\n", &bytes[..]].concat());
            super::chunked(&bytes);
            super::h2_guard(&frames);
            super::h2_session(&frames);
            super::h2_session(&[b"\0\0\x07\x01\x05\0\0\0\x01\x82\x86\x84\x41\x02aa", &frames[..]].concat());
            super::connect_target(&bytes);
        }

        #[test]
        fn promises_of_the_forward_proxys_parsers_are_kept(
            target in "(\\[?[0-9a-fA-F:.xX]{0,20}\\]?|[a-z0-9.@_-]{0,20}):[0-9]{0,6}",
            start in prop::sample::select(vec![&b"\x05\x01\x00"[..], b"\x05\x02\x00\x02", b"\x05\x01\x00\x01", b"\x05\x01\x00\x03\x04", b"\x05\x01\x00\x04", b"\x01\x02ci", b""]),
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            super::connect_target(target.as_bytes());
            super::socks(&[start, &rest].concat());
        }
    }
}
