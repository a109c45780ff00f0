//! Answers that are given before a client has sent all of its request.

use durward_testkit::client::h2_frames::{flag, frame, header_block, kind, opening, read_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use durward_model::route::table::RouteTable;

use super::support::Setup;
use crate::metrics::Counter;

/// More than any window, buffer or bound of old.
const UPLOAD: usize = 3_000_000;

// S1.38
#[tokio::test]
async fn an_http2_client_may_send_all_of_its_request_after_the_answer() {
    let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
    setup.service.routes = RouteTable::default();
    setup
        .run(|rig| async move {
            let mut stream = rig.stream().await;
            let fields =
                [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
            let head = frame(kind::HEADERS, flag::END_HEADERS, 1, &header_block(&fields));
            stream.write_all(&[opening(), head].concat()).await.unwrap();
            let (mut sent, mut rooms, mut status) = (0, [65_535, 65_535], false);
            let mut ended = false;

            loop {
                let room = rooms[0].min(rooms[1]).min(16_384);
                if status && !ended && room > 0 {
                    let count = room.min(UPLOAD - sent);
                    sent += count;
                    rooms = rooms.map(|room| room - count);
                    ended = sent == UPLOAD;
                    let data = frame(kind::DATA, u8::from(ended), 1, &vec![0; count]);
                    let ping = frame(kind::PING, 0, 0, &[7; 8]);
                    stream.write_all(&data).await.unwrap();
                    if ended {
                        stream.write_all(&ping).await.unwrap();
                    }
                    continue;
                }
                let read = read_frame(&mut stream).await.unwrap();
                match read.kind {
                    kind::HEADERS => status = true,
                    kind::WINDOW_UPDATE => {
                        let more = u32::from_be_bytes(read.payload.try_into().unwrap()) as usize;
                        rooms[usize::from(read.stream > 0)] += more;
                    }
                    kind::SETTINGS if read.flags & 1 == 0 => {
                        // The initial window is the one of the six values with number 4.
                        let values = read.payload.chunks(6).filter(|value| value[1] == 4);
                        for value in values {
                            let window =
                                u32::from_be_bytes([value[2], value[3], value[4], value[5]]);
                            rooms[1] = rooms[1] + window as usize - 65_535;
                        }
                        let ack = frame(kind::SETTINGS, flag::END_STREAM_OR_ACK, 0, &[]);
                        stream.write_all(&ack).await.unwrap();
                    }
                    kind::PING if read.flags & 1 == 1 => break,
                    kind::RST_STREAM | kind::GOAWAY => panic!("{sent}: {read:?}"),
                    _ => {}
                }
            }

            assert_eq!(sent, UPLOAD);
            assert!(rig.metrics().total(Counter::ClientBytesIn) >= UPLOAD as u64);
        })
        .await;
}

// S1.38
#[tokio::test]
async fn an_http1_client_may_send_all_of_its_request_before_it_reads_the_answer() {
    let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
    setup.service.routes = RouteTable::default();
    setup
        .run(|rig| async move {
            let mut stream = rig.stream().await;
            let head =
                format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 4 * UPLOAD);
            stream.write_all(head.as_bytes()).await.unwrap();

            for _ in 0..4 {
                stream.write_all(&vec![0; UPLOAD]).await.unwrap();
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();

            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        })
        .await;
}

// S1.38 S1.63
#[tokio::test]
async fn a_client_that_sends_nothing_more_is_not_waited_for_without_end() {
    let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
    setup.service.routes = RouteTable::default();
    setup
        .run(|rig| async move {
            let mut stream = rig.stream().await;
            let fields =
                [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
            let head = frame(kind::HEADERS, flag::END_HEADERS, 1, &header_block(&fields));
            stream.write_all(&[opening(), head].concat()).await.unwrap();

            let reset = loop {
                let read = read_frame(&mut stream).await.unwrap();
                if read.kind == kind::RST_STREAM {
                    break read;
                }
            };

            assert_eq!(reset.error_code(), Some(0));
        })
        .await;
}
