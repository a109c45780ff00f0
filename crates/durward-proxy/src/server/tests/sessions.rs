//! HTTP/2 sessions on real sockets: what a client gets when it breaks the rules of the connection, leaves early, or is asked to leave.

use std::time::Duration;

use durward_testkit::client::h2_frames::{
    Frame, flag, frame, get, header_block, kind, opening, read_frame, reset,
};
use durward_testkit::origin::Origin;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::{Rig, Setup};
use crate::http::h2::session::code;

async fn connect(rig: &Rig, frames: &[u8]) -> TcpStream {
    let mut stream = rig.stream().await;
    stream.write_all(&[opening(), frames.to_vec()].concat()).await.unwrap();
    stream
}

/// Reads up to a frame of this kind.
async fn next(stream: &mut TcpStream, kind: u8) -> Frame {
    loop {
        let frame = read_frame(stream).await.unwrap();
        if frame.kind == kind {
            return frame;
        }
    }
}

// S1.38
#[tokio::test]
async fn a_client_that_breaks_the_connections_rules_is_told_with_the_code_of_the_rfc() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let block = header_block(&[(":method", "GET")]);
            let cases = [
                (frame(kind::DATA, 0, 1, b"x"), code::PROTOCOL_ERROR, "bad_request"),
                (frame(kind::PING, 0, 0, b"short"), code::FRAME_SIZE_ERROR, "bad_request"),
                (frame(kind::HEADERS, 5, 1, &[0x80]), code::COMPRESSION_ERROR, "bad_request"),
                (
                    frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
                    code::FLOW_CONTROL_ERROR,
                    "bad_request",
                ),
                (frame(kind::HEADERS, 4, 2, &block), code::PROTOCOL_ERROR, "bad_request"),
                (frame(kind::PING, 0, 0, &[0; 8]).repeat(1001), code::ENHANCE_YOUR_CALM, "flood"),
            ];
            for (at, (frames, code, reason)) in cases.into_iter().enumerate() {
                let mut stream = connect(&rig, &[]).await;
                next(&mut stream, kind::SETTINGS).await;
                stream.write_all(&frames).await.unwrap();

                let goaway = next(&mut stream, kind::GOAWAY).await;

                assert_eq!(goaway.error_code(), Some(code), "{frames:x?}");
                assert!(read_frame(&mut stream).await.is_err(), "the connection ends");
                assert_eq!(rig.log(at + 1).await[at]["reason"], reason);
            }
            assert_eq!(origin.connections(), 0);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn streams_that_are_reset_at_once_ask_no_upstream_and_are_recorded() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let pairs = |at: u32| [get(2 * at + 1, "http", "a", "/"), reset(2 * at + 1)].concat();
            let wire: Vec<u8> = (0..100).flat_map(pairs).collect();
            let mut stream = connect(&rig, &wire).await;

            let log = rig.log(100).await;

            assert!(log.iter().all(|line| line["reason"] == "client_closed"), "{:?}", log[0]);
            assert!(origin.connections() <= 2, "a read may end between the two frames");
            stream.write_all(&get(201, "http", "a", "/")).await.unwrap();
            assert_eq!(next(&mut stream, kind::HEADERS).await.stream, 201);
        })
        .await;
}

// S1.58+
#[tokio::test]
async fn a_drain_tells_the_client_twice_and_serves_what_it_sent_meanwhile() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut stream = connect(&rig, &get(1, "http", "a", "/slow/200")).await;
            while origin.connections() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            rig.core.watchdog.drain();
            stream.write_all(&frame(kind::PING, 0, 0, &[1; 8])).await.unwrap();

            let first = next(&mut stream, kind::GOAWAY).await;
            let ping = next(&mut stream, kind::PING).await;
            assert_eq!((&first.payload[..4], ping.flags), (&[0x7f, 255, 255, 255][..], 0));
            let ack = frame(kind::PING, flag::END_STREAM_OR_ACK, 0, &ping.payload);
            stream.write_all(&[get(3, "http", "a", "/"), ack].concat()).await.unwrap();
            let last = next(&mut stream, kind::GOAWAY).await;

            assert_eq!(last.payload[..], [0, 0, 0, 3, 0, 0, 0, 0]);
            let mut answered = [
                next(&mut stream, kind::HEADERS).await.stream,
                next(&mut stream, kind::HEADERS).await.stream,
            ];
            answered.sort_unstable();
            assert_eq!(answered, [1, 3]);
            while read_frame(&mut stream).await.is_ok() {}
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_client_that_leaves_is_served_to_the_end() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let goodbye = frame(kind::GOAWAY, 0, 0, &[0; 8]);
            let wire = [get(1, "http", "a", "/slow/100"), goodbye].concat();
            let mut stream = connect(&rig, &wire).await;

            assert_eq!(next(&mut stream, kind::HEADERS).await.stream, 1);
            assert_eq!(next(&mut stream, kind::GOAWAY).await.error_code(), Some(code::NO_ERROR));
            assert!(read_frame(&mut stream).await.is_err());
        })
        .await;
}
