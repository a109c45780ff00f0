//! End of a refused connection: a reset, a TLS alert, or a text.
//!
//! An alert or a text that is followed by a reset may never be read, so the client is given a moment to close first.

use std::time::Duration;

use durward_model::Listener;
use durward_model::listener::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::io::Io;
use crate::io::scratch::{SCRATCH, read_some};
use crate::refusal::Refusal;
use crate::tls::handshake::PLAIN_HTTP;
use crate::watch::Watch;

/// Time for the client to read the last bytes and close, and bytes that it may still send meanwhile.
const MOMENT: Duration = Duration::from_secs(1);
const PATIENCE: usize = 64 * 1024;
/// Time for the client to send a first byte that shows TLS.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Alert descriptions of RFC 8446 section 6.
pub(crate) const UNRECOGNIZED_NAME: u8 = 112;
/// `internal_error`.
pub(crate) const INTERNAL_ERROR: u8 = 80;
const DECODE_ERROR: u8 = 50;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Way to end a refused connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// Reset, without a byte.
    Reset,
    /// Fatal alert, if the client turns out to speak TLS.
    AlertToTls(u8),
    /// Fatal alert.
    Alert(u8),
    /// Fixed text.
    Text(&'static str),
    /// Close; the answer has been sent already.
    Close,
}

const SPEAK_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 24\r\nConnection: close\r\n\r\nThis port speaks HTTPS.\n";
const UNKNOWN_NAME: &str = "HTTP/1.1 421 Misdirected Request\r\nContent-Type: text/plain\r\nContent-Length: 27\r\nConnection: close\r\n\r\nThis name is unknown here.\n";
const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 19\r\nConnection: close\r\n\r\nMalformed request.\n";
const HEAD_TOO_LARGE: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain\r\nContent-Length: 23\r\nConnection: close\r\n\r\nThe head is too large.\n";
const TOO_MANY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 22\r\nRetry-After: 1\r\nConnection: close\r\n\r\nToo many connections.\n";

/// Chooses the end for a refusal, at a listener or (`None`) before one is found; `speaks_tls` says whether the client is expected to begin with a
/// ClientHello.
pub(crate) fn choose(refusal: &Refusal, listener: Option<&Listener>, speaks_tls: bool) -> Farewell {
    let protocol = listener.map(Listener::protocol);
    match refusal {
        Refusal::UnknownAddress { .. } if speaks_tls => Farewell::AlertToTls(UNRECOGNIZED_NAME),
        Refusal::UnknownName { .. } if speaks_tls => Farewell::Alert(UNRECOGNIZED_NAME),
        Refusal::UnknownName { .. } => Farewell::Text(UNKNOWN_NAME),
        Refusal::BadRequest { .. } if listener.is_none() && !speaks_tls => {
            Farewell::Text(BAD_REQUEST)
        }
        Refusal::HeadTooLarge if listener.is_none() => Farewell::Text(HEAD_TOO_LARGE),
        Refusal::ClientHello { detail } if *detail == PLAIN_HTTP => Farewell::Text(SPEAK_TLS),
        Refusal::ClientHello { .. } => Farewell::Alert(DECODE_ERROR),
        Refusal::NoApiProxy => Farewell::Alert(NO_APPLICATION_PROTOCOL),
        Refusal::ConnectionLimit | Refusal::FairShare { .. } | Refusal::Memory
            if protocol == Some(Protocol::Http) =>
        {
            Farewell::Text(TOO_MANY)
        }
        Refusal::Handshake { .. } | Refusal::Challenge => Farewell::Close,
        _ => Farewell::Reset,
    }
}

/// Ends the connection.
pub(crate) async fn say(stream: TcpStream, farewell: Farewell, watch: &Watch) {
    match farewell {
        Farewell::Reset => reset(&stream),
        Farewell::Close => see_off(&stream, b"", watch).await,
        Farewell::Text(text) => see_off(&stream, text.as_bytes(), watch).await,
        Farewell::Alert(description) => see_off(&stream, &alert(description), watch).await,
        Farewell::AlertToTls(description) => {
            if turns_out_to_speak_tls(&stream, watch).await {
                see_off(&stream, &alert(description), watch).await;
            } else {
                reset(&stream);
            }
        }
    }
}

/// Makes closing the socket a reset (`SO_LINGER` 0).
pub(crate) fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Encodes a fatal alert as an unencrypted record.
pub(crate) fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// Ends a TLS session that is carried inside `io` by a fatal alert, then `io` itself.
pub(crate) async fn say_inside(io: &mut Io, description: u8, watch: &Watch) {
    watch.arm(Some(MOMENT), false);
    let ending = async {
        io.write_all(&alert(description)).await?;
        io.shutdown().await?;
        let mut rest = io.take(PATIENCE as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = watch.guard(ending).await;
}

async fn turns_out_to_speak_tls(stream: &TcpStream, watch: &Watch) -> bool {
    let mut first = None;
    watch.arm(Some(FIRST_WORD), false);
    let read = read_some(stream, SCRATCH, |bytes| first = bytes.first().copied());
    let _ = watch.guard(read).await;
    first == Some(22)
}

/// Sends `last`, shuts the write side down, and reads what still arrives for a moment.
async fn see_off(stream: &TcpStream, last: &[u8], watch: &Watch) {
    if !last.is_empty() && stream.try_write(last).is_err() {
        return;
    }
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    watch.arm(Some(MOMENT), false);
    let mut left = PATIENCE;
    while left > 0 {
        match watch.guard(read_some(stream, SCRATCH, |_| ())).await {
            Ok(Ok(read)) if read > 0 => left = left.saturating_sub(read),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_long_as_they_say() {
        for text in [SPEAK_TLS, TOO_MANY, UNKNOWN_NAME, BAD_REQUEST, HEAD_TOO_LARGE] {
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
        }
    }

    #[test]
    fn a_stranger_gets_an_alert_only_where_tls_is_spoken() {
        let refusal = Refusal::UnknownAddress { destination: "127.0.0.9:443".parse().unwrap() };

        assert_eq!(choose(&refusal, None, true), Farewell::AlertToTls(UNRECOGNIZED_NAME));
        assert_eq!(choose(&refusal, None, false), Farewell::Reset);
    }
}
