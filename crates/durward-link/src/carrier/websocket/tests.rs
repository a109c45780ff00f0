//! Both ends over memory, and each against foreign bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

async fn pair(buffer: usize) -> (WebSocket<DuplexStream>, WebSocket<DuplexStream>) {
    let (client, server) = duplex(buffer);
    let (client, server) = tokio::join!(connect(client, "gateway.example:443"), accept(server));
    (client.unwrap(), server.unwrap())
}

#[tokio::test]
async fn bytes_arrive_in_order_whatever_their_number() {
    for buffer in [7, 1_000, 1 << 20] {
        let (client, server) = pair(buffer.max(64)).await;
        let (mut client_read, mut client_write) = tokio::io::split(client);
        let (mut server_read, mut server_write) = tokio::io::split(server);
        let sent: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        let writing = async {
            for piece in sent.chunks(buffer * 3 + 1) {
                client_write.write_all(piece).await.unwrap();
                server_write.write_all(piece).await.unwrap();
            }
            client_write.flush().await.unwrap();
            server_write.flush().await.unwrap();
        };
        let (mut up, mut down) = (vec![0; sent.len()], vec![0; sent.len()]);
        let reading = async {
            tokio::join!(server_read.read_exact(&mut up), client_read.read_exact(&mut down))
        };

        let ((), (one, other)) = tokio::join!(writing, reading);

        assert!(one.is_ok() && other.is_ok());
        assert!(up == sent && down == sent, "buffer of {buffer}");
    }
}

#[tokio::test]
async fn a_close_is_an_end_and_a_broken_connection_an_error() {
    let (mut client, mut server) = pair(1_000).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last words");

    let (client, mut server) = pair(1_000).await;
    drop(client);
    assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

/// Returns what a server makes of `frames` of a client.
async fn received(frames: &[u8]) -> (io::Result<Vec<u8>>, Vec<u8>) {
    let (mut client, server) = duplex(1 << 16);
    let mut server = WebSocket::new(server, Role::Server, &[], 1);
    client.write_all(frames).await.unwrap();
    let mut bytes = Vec::new();
    let mut room = [0; 64];
    let ended = loop {
        match server.read(&mut room).await {
            Ok(0) => break Ok(bytes),
            Ok(more) => bytes.extend_from_slice(&room[..more]),
            Err(error) => break Err(error),
        }
    };
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    (ended, answer)
}

#[tokio::test]
async fn pings_are_answered_between_data_and_fragments_are_one_stream() {
    let mut frames = BytesMut::new();
    frame::write(&mut frames, Opcode::Binary, Some([1, 2, 3, 4]), b"one ");
    // The first fragment of a message has no FIN bit.
    frames[0] &= 0x7f;
    frame::write(&mut frames, Opcode::Ping, Some([9, 8, 7, 6]), b"there?");
    frame::write(&mut frames, Opcode::Continuation, Some([5, 5, 5, 5]), b"stream");
    frame::write(&mut frames, Opcode::Pong, Some([5, 5, 5, 5]), b"unasked");
    frame::write(&mut frames, Opcode::Close, Some([0, 0, 0, 1]), &frame::NORMAL.to_be_bytes());

    let (bytes, answer) = received(&frames).await;

    assert_eq!(bytes.unwrap(), b"one stream");
    let mut expected = BytesMut::new();
    frame::write(&mut expected, Opcode::Pong, None, b"there?");
    frame::write(&mut expected, Opcode::Close, None, &frame::NORMAL.to_be_bytes());
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection() {
    let cases: [(&str, &[u8]); 6] = [
        ("without a mask", &[0x82, 0x01, 0x00]),
        ("an extension", &[0xc2, 0x81, 0, 0, 0, 0, 0]),
        ("text", &[0x81, 0x81, 0, 0, 0, 0, 0]),
        ("a reserved opcode", &[0x83, 0x81, 0, 0, 0, 0, 0]),
        ("a long ping", &[0x89, 0xfe, 0x01, 0x00]),
        ("a fragmented ping", &[0x09, 0x80, 0, 0, 0, 0]),
    ];
    for (case, frames) in cases {
        let (ended, _) = received(frames).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData, "{case}");
    }
}

#[tokio::test]
async fn requests_for_something_else_are_answered_and_refused() {
    let good = "GET /durward-link HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: durward-link.v1\r\n\r\n";
    let cases = [
        (good.to_owned(), "101"),
        (good.replace("/durward-link", "/other"), "404"),
        (good.replace("GET", "POST"), "404"),
        (good.replace("websocket", "h2c"), "400"),
        (good.replace(": 13", ": 8"), "400"),
        (good.replace("link.v1", "link.v9"), "400"),
        (good.replace("dGhl", ""), "400"),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400"),
    ];
    for (request, status) in cases {
        let (mut client, server) = duplex(1 << 16);
        client.write_all(request.as_bytes()).await.unwrap();

        let accepted = accept(server).await;

        assert_eq!(accepted.is_ok(), status == "101", "{request}");
        drop(accepted);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_by_a_program_in_between_says_its_status_and_wait() {
    let (client, mut server) = duplex(1 << 16);
    server.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n").await.unwrap();

    let refused = connect(client, "gateway.example").await.unwrap_err();

    match refused {
        HandshakeError::Refused { status: 503, retry_after } => {
            assert_eq!(retry_after, Some(std::time::Duration::from_secs(7)));
        }
        other => panic!("{other:?}"),
    }
}

proptest::proptest! {
    /// Bytes of anybody end in bytes or an error, never in a panic or endless work.
    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = duplex(1 << 16);
            let mut server = WebSocket::new(server, Role::Server, &[], 1);
            client.write_all(&bytes).await.unwrap();
            drop(client);
            let mut all = Vec::new();
            let _ = server.read_to_end(&mut all).await;
            assert!(all.len() <= bytes.len());
        });
    }
}
