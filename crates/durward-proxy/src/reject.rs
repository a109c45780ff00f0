//! How a connection that is turned away ends: at once, with a TLS alert, or with a line of text.
//!
//! An alert or a text that is followed by a reset may never be read, so the client is given a moment to close first. Deliberately absent:
//! anything that tells a stranger what is served here.

use std::time::Duration;

use durward_model::Listener;
use durward_model::listener::Protocol;
use tokio::net::TcpStream;

use crate::io::scratch::{SCRATCH, read_some};
use crate::refusal::Refusal;
use crate::tls::handshake::PLAIN_HTTP;
use crate::watch::Watch;

/// How long a client may take to read a farewell, and how much more it may send meanwhile.
const MOMENT: Duration = Duration::from_secs(1);
const PATIENCE: usize = 64 * 1024;
/// How long a stranger may take to say that it speaks TLS.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Alert descriptions of RFC 8446 section 6.
pub(crate) const UNRECOGNIZED_NAME: u8 = 112;
/// See [`UNRECOGNIZED_NAME`].
pub(crate) const INTERNAL_ERROR: u8 = 80;
const DECODE_ERROR: u8 = 50;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// With a reset, and no byte.
    Reset,
    /// With a fatal alert, if the client turns out to speak TLS.
    AlertToTls(u8),
    /// With a fatal alert.
    Alert(u8),
    /// With these bytes.
    Text(&'static str),
    /// What there was to say is said.
    Close,
}

const SPEAK_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 24\r\nConnection: close\r\n\r\nThis port speaks HTTPS.\n";
const TOO_MANY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 22\r\nRetry-After: 1\r\nConnection: close\r\n\r\nToo many connections.\n";

/// The farewell for a refusal, at a listener or (`None`) at a bind.
pub(crate) fn choose(
    refusal: &Refusal,
    listener: Option<&Listener>,
    bind_speaks_tls: bool,
) -> Farewell {
    let protocol = listener.map(Listener::protocol);
    match refusal {
        Refusal::UnknownAddress { .. } if bind_speaks_tls => {
            Farewell::AlertToTls(UNRECOGNIZED_NAME)
        }
        Refusal::ClientHello { detail } if *detail == PLAIN_HTTP => Farewell::Text(SPEAK_TLS),
        Refusal::ClientHello { .. } => Farewell::Alert(DECODE_ERROR),
        Refusal::ConnectionLimit | Refusal::FairShare { .. } | Refusal::Memory
            if protocol == Some(Protocol::Http) =>
        {
            Farewell::Text(TOO_MANY)
        }
        Refusal::Handshake { .. } => Farewell::Close,
        _ => Farewell::Reset,
    }
}

/// Takes leave.
pub(crate) async fn say(stream: TcpStream, farewell: Farewell, watch: &Watch) {
    match farewell {
        Farewell::Reset => reset(&stream),
        Farewell::Close => see_off(&stream, b"", watch).await,
        Farewell::Text(text) => see_off(&stream, text.as_bytes(), watch).await,
        Farewell::Alert(description) => see_off(&stream, &alert(description), watch).await,
        Farewell::AlertToTls(description) => {
            if speaks_tls(&stream, watch).await {
                see_off(&stream, &alert(description), watch).await;
            } else {
                reset(&stream);
            }
        }
    }
}

/// Makes closing the socket a reset.
pub(crate) fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// A fatal alert as it goes over the wire before there are keys.
pub(crate) fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

async fn speaks_tls(stream: &TcpStream, watch: &Watch) -> bool {
    let mut first = None;
    watch.arm(Some(FIRST_WORD), false);
    let read = read_some(stream, SCRATCH, |bytes| first = bytes.first().copied());
    let _ = watch.guard(read).await;
    first == Some(22)
}

/// Sends `last`, says that nothing follows, and reads what still comes for a moment.
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
        for text in [SPEAK_TLS, TOO_MANY] {
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
