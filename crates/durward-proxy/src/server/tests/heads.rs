//! Heads that grow while they are decoded, from upstreams and from clients, and heads without end.

use std::time::Duration;

use durward_model::limits::Limits;
use durward_model::upstream::UpstreamProtocol;
use durward_testkit::client::h2_frames::{
    PREFACE, flag, frame, header_block, kind, opening, read_frame,
};
use durward_testkit::origin::Origin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Setup, ask};
use crate::memory::Kind;
use crate::refusal::Refusal;

const KIB: usize = 1024;

type Answer = fn(u32) -> Vec<u8>;

/// Sets up an HTTP/2 upstream that answers each request with the same frames, and the engine in front of it.
async fn before(answer: Answer) -> Setup {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut setup = Setup::to(listener.local_addr().unwrap());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer));
        }
    });
    setup
}

async fn serve(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await?;
    loop {
        let read = read_frame(&mut stream).await?;
        match read.kind {
            kind::SETTINGS if read.flags == 0 => {
                let acknowledged = frame(kind::SETTINGS, flag::END_STREAM_OR_ACK, 0, &[]);
                stream.write_all(&acknowledged).await?;
            }
            kind::HEADERS => stream.write_all(&answer(read.stream)).await?,
            _ => {}
        }
    }
}

fn status(code: &str) -> Vec<u8> {
    header_block(&[(":status", code)])
}

/// Builds a head of 15 MB in frames of 15 KB.
fn endless(stream: u32) -> Vec<u8> {
    let part = header_block(&[("x-b", &"b".repeat(15_000))]);
    let mut frames = frame(kind::HEADERS, flag::END_STREAM_OR_ACK, stream, &status("200"));
    frames.extend(frame(kind::CONTINUATION, 0, stream, &part).repeat(1000));
    frames.extend(frame(kind::CONTINUATION, flag::END_HEADERS, stream, &part));
    frames
}

/// Builds a field of 4,000 bytes that enters the table, and `references` to it of one byte each.
fn references(status: Vec<u8>, references: usize) -> Vec<u8> {
    let mut block = status;
    // A literal with incremental indexing (RFC 7541 section 6.2.1): the same but for its first byte.
    let mut entry = header_block(&[("x-a", &"a".repeat(4_000))]);
    entry[0] = 0x40;
    block.extend(entry);
    block.extend(std::iter::repeat_n(0x80 | 62, references));
    block
}

fn expanding(stream: u32) -> Vec<u8> {
    let flags = flag::END_HEADERS | flag::END_STREAM_OR_ACK;
    frame(kind::HEADERS, flags, stream, &references(status("200"), 10_000))
}

/// Builds 1xx heads without end, and never a final one.
fn interims(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &references(status("103"), 10)).repeat(5_000)
}

/// Builds a body that ends with trailers of 15 MB.
fn trailers(stream: u32) -> Vec<u8> {
    let mut frames = frame(kind::HEADERS, flag::END_HEADERS, stream, &status("200"));
    frames.extend(frame(kind::DATA, 0, stream, b"hello"));
    let head = endless(stream);
    let first = frame(kind::HEADERS, 0, stream, &status("200")).len();
    frames.extend(frame(kind::HEADERS, flag::END_STREAM_OR_ACK, stream, &[]));
    frames.extend(&head[first..]);
    frames
}

fn promised(stream: u32) -> Vec<u8> {
    let mut promise = 2_u32.to_be_bytes().to_vec();
    promise.extend(header_block(&[
        (":method", "GET"),
        (":path", "/"),
        ("x-b", &"b".repeat(9_000)),
    ]));
    frame(5, flag::END_HEADERS, stream, &promise).repeat(100)
}

#[tokio::test]
async fn heads_of_http2_upstreams_are_bounded_while_they_are_decoded() {
    let cases: [(&str, Answer); 4] = [
        ("CONTINUATION", endless),
        ("HPACK references", expanding),
        ("1xx", interims),
        ("PUSH_PROMISE", promised),
    ];
    for (name, answer) in cases {
        before(answer)
            .await
            .run(|rig| async move {
                let answered = ask(&rig, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;

                let (head, body) = answered.rsplit_once("\r\n\r\n").unwrap();
                assert!(head.contains("HTTP/1.1 502 "), "{name}: {head}");
                assert!(body.contains("bad_response"), "{name}: {body}");
                let memory = &rig.core.shared.memory;
                assert!(memory.used_for(Kind::Upstreams) < 2048 * KIB, "{name}");
            })
            .await;
    }
}

#[tokio::test]
async fn trailers_of_http2_upstreams_are_bounded_too() {
    before(trailers)
        .await
        .run(|rig| async move {
            let answered = ask(&rig, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;

            assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
            assert!(!answered.ends_with("\r\n0\r\n\r\n"), "it is broken off");
            assert!(rig.core.shared.memory.used_for(Kind::Upstreams) < 2048 * KIB);
        })
        .await;
}

/// Builds a request whose head is small on the wire and large once it is decoded.
fn request(stream: u32, first: bool) -> Vec<u8> {
    let mut block = header_block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", "/slow/60000"),
    ]);
    block = match first {
        true => references(block, 10),
        false => [block, vec![0x80 | 62; 10]].concat(),
    };
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM_OR_ACK, stream, &block)
}

#[tokio::test]
async fn a_client_whose_streams_hold_more_than_its_share_is_refused_and_not_served_on_credit() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits = Limits { http2_streams: 10_000, ..Limits::default() };
    setup.memory = 0;
    setup
        .run(|rig| async move {
            let budget = rig.core.shared.memory.budget();
            let (mut client, wire) = (rig.stream().await, opening());
            client.write_all(&wire).await.unwrap();
            for at in 0..2_000 {
                // The connection may end before all of them are sent.
                if client.write_all(&request(2 * at + 1, at == 0)).await.is_err() {
                    break;
                }
            }

            let turned_away = loop {
                let answer = read_frame(&mut client).await.unwrap();
                let reset = answer.kind == kind::RST_STREAM && answer.error_code() == Some(7);
                if reset || answer.kind == kind::HEADERS {
                    break answer.stream;
                }
            };

            let memory = &rig.core.shared.memory;
            assert!(memory.used() <= budget, "{} of {budget}", memory.used());
            assert!(turned_away > 40, "many streams fit: {turned_away}");
            assert!(rig.metrics().refusals()[Refusal::Memory.index()] > 0);
            drop(client);
            while memory.used_for(Kind::Clients) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
}

#[tokio::test]
async fn a_header_block_that_is_not_finished_has_the_deadline_of_a_head() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits.timeouts.header = Duration::from_millis(150);
    setup
        .run(|rig| async move {
            let block = header_block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a.example"),
            ]);
            let whole = frame(kind::HEADERS, flag::END_STREAM_OR_ACK, 1, &block);
            let complete = flag::END_STREAM_OR_ACK | flag::END_HEADERS;
            let good = frame(kind::HEADERS, complete, 1, &block);
            let next = frame(kind::HEADERS, flag::END_STREAM_OR_ACK, 3, &block);
            let cases = [
                whole.clone(),
                whole[..12].to_vec(),
                whole[..4].to_vec(),
                [whole.clone(), frame(kind::CONTINUATION, 0, 1, b"")].concat(),
                [good, next].concat(),
            ];
            for (case, bytes) in cases.iter().enumerate() {
                let mut stream = rig.stream().await;
                stream.write_all(&[opening(), bytes.clone()].concat()).await.unwrap();

                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();

                let log = rig.log(case + 1 + usize::from(case == 4)).await;
                let refused = log.iter().filter(|line| line["reason"] == "client_timeout").count();
                assert_eq!(refused, case + 1, "{log:?}");
            }
        })
        .await;
}

/// Builds a head that is begun, and no more of it.
fn begun(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_STREAM_OR_ACK, stream, &status("200"))
}

/// Builds a frame's header of which bytes are missing.
fn half_a_frame(stream: u32) -> Vec<u8> {
    begun(stream)[..5].to_vec()
}

/// Builds a head that is begun, and frames of nothing after it.
fn dripping(stream: u32) -> Vec<u8> {
    [begun(stream), frame(kind::CONTINUATION, 0, stream, b"").repeat(3)].concat()
}

#[tokio::test]
async fn a_head_that_an_http2_upstream_does_not_finish_has_the_deadline_of_a_head() {
    let cases: [(&str, Answer); 3] =
        [("HEADERS", begun), ("a frame's header", half_a_frame), ("CONTINUATION", dripping)];
    for (name, answer) in cases {
        let mut setup = before(answer).await;
        setup.limits.timeouts.header = Duration::from_millis(150);
        setup
            .run(|rig| async move {
                let request = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
                // The second waits on the same connection.
                let (first, second) = tokio::join!(ask(&rig, request), ask(&rig, request));

                for answered in [first, second] {
                    assert!(answered.contains("HTTP/1.1 504 "), "{name}: {answered}");
                    assert!(answered.contains("response_timeout"), "{name}: {answered}");
                }
                let log = rig.log(2).await;
                assert!(log.iter().all(|line| line["reason"] == "response_timeout"), "{log:?}");
                let memory = &rig.core.shared.memory;
                while memory.used_for(Kind::Upstreams) > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
    }
}

/// Builds a body whose trailers are begun, and no more of them.
fn begun_trailers(stream: u32) -> Vec<u8> {
    let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &status("200"));
    let body = frame(kind::DATA, 0, stream, b"hello");
    let trailers =
        frame(kind::HEADERS, flag::END_STREAM_OR_ACK, stream, &header_block(&[("x", "y")]));
    [head, body, trailers].concat()
}

#[tokio::test]
async fn trailers_that_an_http2_upstream_does_not_finish_have_the_deadline_of_a_head() {
    let mut setup = before(begun_trailers).await;
    setup.limits.timeouts.header = Duration::from_millis(150);
    setup
        .run(|rig| async move {
            let answered = ask(&rig, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;

            assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
            assert!(answered.contains("hello") && !answered.ends_with("0\r\n\r\n"), "{answered}");
            assert_eq!(rig.log(1).await[0]["reason"], "response_timeout");
        })
        .await;
}
