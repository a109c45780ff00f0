//! Fields that HTTP/2 forbids (RFC 9113 section 8.2): they cost their stream, not the others of its connection, and each is recorded.

use durward_model::upstream::UpstreamProtocol;
use durward_testkit::client::H2Client;
use durward_testkit::client::h2_frames::{self, Frame, flag, frame, header_block, kind};
use durward_testkit::origin::{Echo, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Rig, Setup};

/// The number of the counter of malformed requests.
const BAD_REQUEST: usize = 9;
const END: u8 = flag::END_HEADERS | flag::END_STREAM_OR_ACK;

/// First octets of literals: without indexing, never indexed, with incremental indexing (RFC 7541 section 6.2).
const LITERALS: [u8; 3] = [0x00, 0x10, INDEXED];
const INDEXED: u8 = 0x40;
/// The reference to the newest entry of the dynamic table.
const NEWEST: u8 = 0x80 | 62;

const FIELDS: &[(&[u8], &[u8])] = &[
    (b"x\0y", b"z"),
    (b"x\ny", b"z"),
    (b"x\ry", b"z"),
    (b"x:y", b"z"),
    (b"x y", b"z"),
    (b"x\"y", b"z"),
    (b"x\x7fy", b"z"),
    (b"x\xc3\xa9", b"z"),
    (b"xY", b"z"),
    (b"", b"zz"),
    (b"", b"z"),
    (b"", b""),
    (b":unknown", b"z"),
    (b":", b"z"),
    (b":", b""),
    (b":unknown", b""),
    (b"x", b"a\0b"),
    (b"x", b"a\rb"),
    (b"x", b"a\nb"),
    (b"x", b"a\r\nevil: b"),
    (b"x", b"\x01"),
    (b"x", b"\x7f"),
    (b"content-length", b"1\0"),
];

/// Pseudo-header fields that stand where a sound one would.
const PSEUDO: &[(&[u8], &[u8])] = &[
    (b":method", b""),
    (b":method", b"G T"),
    (b":method", b"GET\0"),
    (b":method", b"GET\r\nx: y"),
    (b":scheme", b"http\xff"),
    (b":path", b"/\xff"),
    (b":path", b"/\0"),
    (b":path", b"/\r\nx: y"),
    (b":authority", b"a\xff"),
    (b":authority", b"a\0"),
    (b":authority", b"a\r\nx: y"),
];

/// Pseudo-header fields that a request has already.
const REPEATED: &[(&[u8], &[u8])] =
    &[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")];

const GOOD: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn string(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short string")], text].concat()
}

fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![first], string(name), string(value)].concat()
}

/// Returns malformed requests: the fault's name, the literal's first octet, and the header block.
fn malformed() -> Vec<(String, u8, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut add = |name: &[u8], first: u8, block: Vec<u8>, more: &str| {
        let name = format!("{} {first:#x} {more}", name.escape_ascii());
        cases.push((name, first, block));
    };
    for first in LITERALS {
        for (name, value) in FIELDS {
            let block = [header_block(&GOOD), literal(first, name, value)].concat();
            add(name, first, block, &value.escape_ascii().to_string());
        }
        for (name, value) in PSEUDO {
            let others = GOOD.iter().filter(|(other, _)| other.as_bytes() != *name).copied();
            let others: Vec<_> = others.collect();
            let block = [literal(first, name, value), header_block(&others)].concat();
            add(name, first, block, &value.escape_ascii().to_string());
        }
        // The same in Huffman's code: a NUL b, a LF a.
        for coded in [&[0x1f, 0xfe, 0x23][..], &[0x1f, 0xff, 0xff, 0xff, 0x83]] {
            let coded = [&[0x80 | coded.len() as u8], coded].concat();
            let value = [&[first, 1, b'x'], &coded[..]].concat();
            add(b"x", first, [header_block(&GOOD), value].concat(), "Huffman value");
            let name = [&[first], &coded[..], &[1, b'z']].concat();
            add(b"", first, [header_block(&GOOD), name].concat(), "Huffman name");
        }
    }
    for (name, value) in REPEATED {
        let block = [header_block(&GOOD), literal(INDEXED, name, value)].concat();
        add(name, INDEXED, block, "repeated");
    }
    // A name from the static table: accept-charset, :status.
    for index in [15, 8] {
        let value = [&[INDEXED | index, 3], &b"a\0b"[..]].concat();
        add(b"", INDEXED, [header_block(&GOOD), value].concat(), "static name");
    }
    cases
}

/// A client that sends frames.
struct Client(TcpStream);

impl Client {
    async fn of(rig: &Rig) -> Self {
        let mut stream = rig.stream().await;
        stream.write_all(&h2_frames::opening()).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, stream: u32, flags: u8, block: &[u8]) {
        // In two parts, so that no block comes whole with its frame.
        let bytes = frame(kind::HEADERS, flags, stream, block);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for part in [first, second] {
            let _ = self.0.write_all(part).await;
            tokio::task::yield_now().await;
        }
    }

    /// Returns the first frame of a stream that begins or ends its answer; `None` if the connection ends.
    async fn answer(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = h2_frames::read_frame(&mut self.0).await.ok()?;
            match frame.kind {
                kind::GOAWAY => return None,
                kind::HEADERS | kind::RST_STREAM if frame.stream == stream => return Some(frame),
                _ => {}
            }
        }
    }

    /// Returns the request that an origin echoes in the answer on a stream.
    async fn echo(&mut self, stream: u32) -> Option<Echo> {
        let mut body = Vec::new();
        loop {
            let frame = h2_frames::read_frame(&mut self.0).await.ok()?;
            if frame.stream == stream && frame.kind == kind::DATA {
                body.extend(&frame.payload);
                if frame.flags & flag::END_STREAM_OR_ACK != 0 {
                    return Some(Echo::parse(&body));
                }
            }
        }
    }
}

/// Sends a malformed request between others of its connection, and tells what they suffer.
async fn between_others(rig: &Rig, first: u8, block: &[u8]) -> Result<(), &'static str> {
    let mut client = Client::of(rig).await;
    let opened = [header_block(&[(":method", "POST")]), header_block(&GOOD[1..])].concat();
    let entry = literal(INDEXED, b"x-first", b"one");
    client.send(1, flag::END_HEADERS, &[opened, entry].concat()).await;

    client.send(3, END, block).await;
    let answer = client.answer(3).await.ok_or("the connection ended")?;
    if answer.kind == kind::RST_STREAM && answer.error_code() != Some(1) {
        return Err("the stream was reset without PROTOCOL_ERROR");
    }

    // The table is what the client believes it is.
    let newest = if first == INDEXED { NEWEST + 1 } else { NEWEST };
    client.send(5, END, &[header_block(&GOOD), vec![newest]].concat()).await;
    let echo = client.echo(5).await.ok_or("a later request is not served")?;
    if echo.header("x-first") != Some("one") {
        return Err("a later reference leads elsewhere");
    }
    let _ = client.0.write_all(&frame(kind::DATA, 1, 1, b"")).await;
    client.answer(1).await.ok_or("the running request is not answered")?;
    Ok(())
}

// S1.38
#[tokio::test]
async fn a_field_that_http2_forbids_costs_its_stream_alone() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let cases = malformed();
            assert!(cases.len() > 90, "{}", cases.len());
            let mut costly = Vec::new();
            for (name, first, block) in &cases {
                if let Err(cost) = between_others(&rig, *first, block).await {
                    costly.push((name, cost));
                }
            }

            assert!(costly.is_empty(), "{} of {}: {costly:#?}", costly.len(), cases.len());
            assert_eq!(rig.metrics().refusals()[BAD_REQUEST], cases.len() as u64);
            let log = rig.log(3 * cases.len()).await;
            let refused = log.iter().filter(|line| line["reason"] == "bad_request");
            assert_eq!((log.len(), refused.count()), (3 * cases.len(), cases.len()));
        })
        .await;
}

// S1.38
#[tokio::test]
async fn references_count_the_entries_that_the_codec_was_not_given() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = Client::of(&rig).await;
            let entry = literal(INDEXED, b"x-first", b"one");
            let odd = [
                literal(INDEXED, b"", b""),
                literal(INDEXED, b":method", b""),
                literal(INDEXED, b"xY", b"z"),
                literal(INDEXED, b"x\0", &b"z".repeat(100)),
            ];
            client.send(1, END, &[header_block(&GOOD), entry].concat()).await;
            client.send(3, END, &[header_block(&GOOD), odd.concat()].concat()).await;

            // The field itself; its name; the method, whose name is the third entry's; and the odd entry again.
            let by_name = [&[0x0f, NEWEST - 0x80 + 5 - 15][..], &string(b"two")].concat();
            let method = [&[INDEXED | 0x3f, 62 + 2 - 63][..], &string(b"GET")].concat();
            let others = header_block(&GOOD[1..]);
            client.send(5, END, &[&method, &others, &[NEWEST + 5][..]].concat()).await;
            client.send(7, END, &[&header_block(&GOOD)[..], &by_name].concat()).await;
            client.send(9, END, &[header_block(&GOOD), vec![NEWEST + 4]].concat()).await;

            let mut bodies = std::collections::BTreeMap::<u32, Vec<u8>>::new();
            let mut ended = std::collections::BTreeSet::new();
            while ended.len() < 5 {
                let frame = h2_frames::read_frame(&mut client.0).await.unwrap();
                assert_ne!(frame.kind, kind::GOAWAY);
                if frame.kind == kind::DATA {
                    bodies.entry(frame.stream).or_default().extend(&frame.payload);
                }
                let ends = matches!(frame.kind, kind::DATA | kind::HEADERS)
                    && frame.flags & flag::END_STREAM_OR_ACK != 0;
                if ends || frame.kind == kind::RST_STREAM {
                    ended.insert(frame.stream);
                }
            }
            let first = |stream| Echo::parse(&bodies[&stream]).header("x-first").map(str::to_owned);
            assert_eq!((first(5), first(7)), (Some("one".to_owned()), Some("two".to_owned())));
            assert_eq!(rig.metrics().refusals()[BAD_REQUEST], 2, "streams 3 and 9");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_stream_that_depends_on_itself_costs_itself_alone() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = Client::of(&rig).await;
            let block = [header_block(&GOOD), literal(INDEXED, b"x-first", b"one")].concat();
            let priority = |stream: u8| [&[0, 0, 0, stream, 9][..], &block].concat();
            client.send(1, END | 0x20, &priority(1)).await;
            let answer = client.answer(1).await.unwrap();
            let cut = priority(3);
            client.send(3, 1 | 0x20, &cut[..20]).await;
            client.0.write_all(&frame(kind::CONTINUATION, 4, 3, &cut[20..])).await.unwrap();
            let second = client.answer(3).await.unwrap();

            client.send(5, END, &[header_block(&GOOD), vec![NEWEST + 1]].concat()).await;

            assert_eq!(client.echo(5).await.unwrap().header("x-first"), Some("one"));
            for answer in [answer, second] {
                assert!(answer.kind == kind::HEADERS || answer.error_code() == Some(1));
            }
            assert_eq!(rig.metrics().refusals()[BAD_REQUEST], 2);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_trailer_that_http2_forbids_costs_its_stream_alone() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = Client::of(&rig).await;
            let opened = [header_block(&[(":method", "POST")]), header_block(&GOOD[1..])].concat();
            let cases = LITERALS.iter().flat_map(|first| FIELDS.iter().map(move |it| (first, it)));
            let mut stream = 1;
            for (first, (name, value)) in cases {
                client.send(stream, flag::END_HEADERS, &opened).await;
                client.send(stream, END, &literal(*first, name, value)).await;

                let answer = client.answer(stream).await;

                let shown = (name.escape_ascii().to_string(), value.escape_ascii().to_string());
                assert!(answer.is_some(), "{shown:?}, {first:#x}");
                stream += 2;
            }

            client.send(stream, END, &header_block(&GOOD)).await;
            assert!(client.echo(stream).await.is_some());
            let refused = rig.metrics().refusals()[BAD_REQUEST];
            assert_eq!(refused, (LITERALS.len() * FIELDS.len()) as u64);
        })
        .await;
}

/// Frames for which a connection ends (RFC 9113 sections 4.3, 5.4.1 and 6).
fn connection_errors() -> Vec<(&'static str, Vec<u8>)> {
    let head = |block: &[u8]| frame(kind::HEADERS, END, 1, block);
    vec![
        ("index 0", head(&[0x80])),
        ("index beyond the table", head(&[0xff, 0x20])),
        ("a string without its end", head(&[0x40, 5, b'x'])),
        ("padding of a Huffman code", head(&[0x40, 1, b'x', 0x81, 0x00])),
        ("a table larger than announced", head(&[0x3f, 0xe2, 0x1f])),
        ("a table's size behind a field", head(&[&header_block(&GOOD)[..], &[0x20]].concat())),
        ("the end of a string in Huffman's code", head(&[0x40, 1, b'x', 0x84, 255, 255, 255, 255])),
        ("an integer without end", head(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 1])),
        ("DATA on the connection", frame(kind::DATA, 0, 0, b"x")),
        ("HEADERS on the connection", frame(kind::HEADERS, END, 0, &header_block(&GOOD))),
        ("HEADERS on an even stream", frame(kind::HEADERS, END, 2, &header_block(&GOOD))),
        ("HEADERS with padding beyond its end", frame(kind::HEADERS, END | 8, 1, &[200, 0])),
        ("CONTINUATION without HEADERS", frame(kind::CONTINUATION, 4, 1, &header_block(&GOOD))),
        ("SETTINGS of three bytes", frame(kind::SETTINGS, 0, 0, &[0; 3])),
        ("PING of seven bytes", frame(kind::PING, 0, 0, &[0; 7])),
        ("RST_STREAM of an idle stream", frame(kind::RST_STREAM, 0, 9, &[0; 4])),
        ("a frame of more than 16 KiB", frame(kind::DATA, 0, 1, &[0; 16_385])),
    ]
}

// S1.38
#[tokio::test]
async fn an_error_of_the_connection_is_recorded() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            for (at, (name, frames)) in connection_errors().into_iter().enumerate() {
                let mut client = Client::of(&rig).await;

                client.0.write_all(&frames).await.unwrap();

                let mut rest = Vec::new();
                let _ = client.0.read_to_end(&mut rest).await;
                let counted = rig.metrics().refusals()[BAD_REQUEST];
                assert_eq!(counted, at as u64 + 1, "{name}");
                assert_eq!(rig.log(at + 1).await.len(), at + 1, "{name}");
            }
            assert_eq!(origin.connections(), 0);
        })
        .await;
}

/// Returns header blocks of malformed answers.
fn answers() -> Vec<Vec<u8>> {
    let ok = || header_block(&[(":status", "200")]);
    let mut blocks = Vec::new();
    for first in LITERALS {
        for (name, value) in FIELDS {
            blocks.push([ok(), literal(first, name, value)].concat());
        }
        for value in [&b""[..], b"20", b"2000", b"abc", b"2\0\0", b"099"] {
            blocks.push(literal(first, b":status", value));
        }
        blocks.push([ok(), literal(first, b":path", b"/\xff")].concat());
    }
    blocks.push(Vec::new());
    blocks
}

/// An upstream of one connection. It answers a request for `/hang` when the next for `/end` comes, and `/n` by the n-th block.
async fn malformed_upstream(listener: TcpListener, blocks: Vec<Vec<u8>>) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    let ok = || header_block(&[(":status", "200")]);
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await?;
    let mut preface = [0; h2_frames::PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    let (mut hanging, mut at) = (None, 0);
    loop {
        let read = h2_frames::read_frame(&mut stream).await?;
        match read.kind {
            kind::SETTINGS if read.flags == 0 => {
                let acknowledged = frame(kind::SETTINGS, flag::END_STREAM_OR_ACK, 0, &[]);
                stream.write_all(&acknowledged).await?;
            }
            kind::HEADERS if hanging.is_none() => {
                let entry = literal(INDEXED, b"x-first", b"one");
                let head = [ok(), entry].concat();
                stream.write_all(&frame(kind::HEADERS, 4, read.stream, &head)).await?;
                stream.write_all(&frame(kind::DATA, 0, read.stream, b"be")).await?;
                hanging = Some(read.stream);
            }
            kind::HEADERS => match blocks.get(at) {
                Some(block) => {
                    at += 1;
                    stream.write_all(&frame(kind::HEADERS, END, read.stream, block)).await?;
                }
                None => {
                    stream.write_all(&frame(kind::HEADERS, END, read.stream, &ok())).await?;
                    let data = frame(kind::DATA, 1, hanging.unwrap_or_default(), b"gun");
                    stream.write_all(&data).await?;
                }
            },
            _ => {}
        }
    }
}

/// Reads up to these bytes, or to the end.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) && stream.read_buf(&mut read).await.unwrap() > 0 {}
    String::from_utf8(read).unwrap()
}

// S1.38
#[tokio::test]
async fn a_malformed_answer_of_an_http2_upstream_costs_its_request_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut setup = Setup::to(listener.local_addr().unwrap());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    let blocks = answers();
    let count = blocks.len();
    tokio::spawn(malformed_upstream(listener, blocks));
    setup
        .run(|rig| async move {
            let mut hanging = rig.stream().await;
            hanging.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert!(until(&mut hanging, "be\r\n").await.contains("x-first: one"));
            let builder = h2::client::Builder::new();
            let client = H2Client::over(rig.stream().await, &builder, "a").await.unwrap();

            let mut statuses = Vec::new();
            for at in 0..count {
                statuses.push(client.get(&format!("/{at}")).await.unwrap().status);
            }
            let sound = client.get("/end").await.unwrap();

            assert_eq!(statuses, vec![502; count]);
            assert_eq!(sound.status, 200);
            assert!(until(&mut hanging, "0\r\n\r\n").await.contains("gun"));
            let log = rig.log(count + 1).await;
            let refused = log.iter().filter(|line| line["reason"] == "bad_response").count();
            assert_eq!(refused, count);
        })
        .await;
}
