//! One request of the gateway's own over HTTP/1.1: a CONNECT to a parent proxy, or a health check.
//!
//! Heads are written and read by the same codec as those of tenants' requests.

use std::future::poll_fn;

pub(crate) use crate::http::flow::HeadFault;
use crate::http::flow::{Sink, Upstream};
use crate::http::h1::Conn;
use crate::http::message::{PooledRequest, PooledResponse};
use crate::io::Io;
use crate::refusal::Refusal;

/// Interim responses (1xx) skipped before the final one at most.
const INTERIMS: usize = 16;

/// Request without content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// Method.
    pub(crate) method: &'static str,
    /// The request target: a path, or host and port for CONNECT.
    pub(crate) target: &'a str,
    /// Value of `Host`.
    pub(crate) host: &'a str,
    /// Other fields.
    pub(crate) fields: &'a [(&'static str, &'a str)],
}

/// Response to an [`Ask`], and its connection.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status of the final response.
    pub(crate) status: u16,
    /// Connection the response came on.
    pub(crate) io: Io,
    /// Bytes read after the head.
    pub(crate) early: Vec<u8>,
}

/// Sends `ask` and reads the head of the response. The caller sets the deadline.
///
/// # Errors
/// Fails if the connection ended, or what came is not the head of a response.
pub(crate) async fn ask(io: Io, ask: Ask<'_>) -> Result<Answer, HeadFault> {
    let request = request(ask);
    let mut response = PooledResponse::new();
    let mut conn = Conn::new(io);
    conn.request(&request).map_err(HeadFault::Unfit)?;
    poll_fn(|cx| conn.poll_flush(cx)).await.map_err(|_| HeadFault::Closed)?;
    for _ in 0..=INTERIMS {
        poll_fn(|cx| conn.poll_head(cx, &request, &mut response)).await?;
        if !response.is_interim() {
            let early = conn.input.buffer.take();
            return Ok(Answer { status: response.status, io: conn.io, early });
        }
        response.clear();
    }
    Err(HeadFault::Malformed(Refusal::BadResponse { detail: "too many interim responses" }))
}

fn request(ask: Ask<'_>) -> PooledRequest {
    let mut request = PooledRequest::new();
    request.method = request.fields.store(ask.method.as_bytes());
    request.path = request.fields.store(ask.target.as_bytes());
    request.authority = request.fields.store(ask.host.as_bytes());
    for (name, value) in ask.fields {
        request.fields.append(name.as_bytes(), value.as_bytes());
    }
    request
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const CONNECT: Ask<'_> = Ask {
        method: "CONNECT",
        target: "a.example:443",
        host: "a.example:443",
        fields: &[("Proxy-Authorization", "Basic eA==")],
    };

    /// Returns the result of `ask` for a given answer, and the bytes it sent.
    async fn answered(ask: Ask<'_>, answer: &[u8]) -> (Result<(u16, Vec<u8>), HeadFault>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(answer).await.unwrap();
        peer.shutdown().await.unwrap();

        let asked = super::ask(Io::Tcp(stream), ask).await;

        let told = asked.map(|answer| (answer.status, answer.early));
        let mut sent = String::new();
        peer.read_to_string(&mut sent).await.unwrap();
        (told, sent)
    }

    #[tokio::test]
    async fn the_final_status_and_what_follows_the_head_are_returned() {
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\nSSH-2.0", 200, "SSH-2.0"),
            ("HTTP/1.0 407\r\nContent-Length: 0\r\n\r\n", 407, ""),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ];

        for (answer, status, early) in cases {
            let (told, sent) = answered(CONNECT, answer.as_bytes()).await;

            assert_eq!(told.unwrap(), (status, early.as_bytes().to_vec()), "{answer}");
            let request = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic eA==\r\n\r\n";
            assert_eq!(sent, request);
        }
    }

    #[tokio::test]
    async fn what_is_no_response_of_http_1_has_no_status() {
        let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(INTERIMS + 1);
        let cases = [
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nServer: cut",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            &many,
        ];

        for answer in cases {
            let (told, _) = answered(CONNECT, answer.as_bytes()).await;

            assert!(told.is_err(), "{answer:?}: {told:?}");
        }
    }
}
