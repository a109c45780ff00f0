//! Asking another proxy for a tunnel.
//!
//! Deliberately absent: plain requests; those go through a tunnel too, so that every parent sees one kind of request.

use durward_model::egress::{Host, Parent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::base64;
use crate::io::Io;
use crate::refusal::Refusal;

/// The most bytes of its answer's head.
const HEAD: usize = 16 * 1024;

/// Asks for a tunnel. What comes back was said by whoever is at its end.
///
/// # Errors
/// [`Refusal::ParentRefused`] when there is none.
pub(crate) async fn ask(
    io: &mut Io,
    parent: &Parent,
    (host, port): (&Host, u16),
) -> Result<Vec<u8>, Refusal> {
    let gone = |_| Refusal::ParentRefused { status: None };
    io.write_all(&request(parent, host, port)).await.map_err(gone)?;
    io.flush().await.map_err(gone)?;
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let read = io.read_buf(&mut bytes).await.map_err(gone)?;
        if read == 0 || bytes.len() > HEAD {
            return Err(Refusal::ParentRefused { status: None });
        }
    };
    match status(&bytes) {
        Some(200..=299) => Ok(bytes.split_off(end)),
        status => Err(Refusal::ParentRefused { status }),
    }
}

fn request(parent: &Parent, host: &Host, port: u16) -> Vec<u8> {
    let target = match host {
        Host::Address(address) => std::net::SocketAddr::new(*address, port).to_string(),
        Host::Name(name) => format!("{name}:{port}"),
    };
    let mut bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(credential) = &parent.credential {
        let value = base64(credential.expose());
        bytes.extend_from_slice(format!("Proxy-Authorization: Basic {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The status of an answer that begins as one.
fn status(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
    let [a, b, c, b' ' | b'\r', ..] = digits else { return None };
    let digits = [*a, *b, *c];
    let text = std::str::from_utf8(&digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    text?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use durward_model::Secret;

    use super::*;

    #[test]
    fn it_is_asked_as_rfc_9110_says() {
        let credential = Some(Secret::new(b"acme:pass".to_vec()));
        let host = Host::Name(Arc::from("proxy.example"));
        let parent = Parent { host: host.clone(), port: 3128, hosts: Vec::new(), credential };

        let asked = String::from_utf8(request(&parent, &host, 443)).unwrap();

        assert_eq!(
            asked,
            "CONNECT proxy.example:443 HTTP/1.1\r\nHost: proxy.example:443\r\nProxy-Authorization: Basic YWNtZTpwYXNz\r\n\r\n"
        );
    }

    #[test]
    fn only_an_answer_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        for bad in [
            &b"HTTP/1.1 2000 OK\r\n"[..],
            b"HTTP/2 200 OK\r\n",
            b"SSH-2.0",
            b"HTTP/1.1 20",
            b"HTTP/1.1 +20 ",
        ] {
            assert_eq!(status(bad), None, "{}", bad.escape_ascii());
        }
    }
}
