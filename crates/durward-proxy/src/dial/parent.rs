//! CONNECT to a parent proxy.
//!
//! Plain requests go through a tunnel too, so that every parent sees one kind of request.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use durward_model::egress::{Host, Parent};

use crate::http::client::{self, Ask};
use crate::io::Io;
use crate::refusal::Refusal;
use crate::relay::Side;

/// Asks the parent for a tunnel. Bytes in the returned side come from the far end of the tunnel.
///
/// # Errors
/// [`Refusal::ParentRefused`] if the parent does not open it.
pub(crate) async fn ask(io: Io, parent: &Parent, host: &Host, port: u16) -> Result<Side, Refusal> {
    let target = match host {
        Host::Address(address) => std::net::SocketAddr::new(*address, port).to_string(),
        Host::Name(name) => format!("{name}:{port}"),
    };
    let credential = parent.credential.as_ref();
    let credential = credential
        .map(|credential| format!("Basic {}", BASE64_STANDARD.encode(credential.expose())));
    let shown = credential.as_ref().map(|value| ("Proxy-Authorization", value.as_str()));
    let fields = shown.as_slice();
    let ask = Ask { method: "CONNECT", target: &target, host: &target, fields };
    let answer = client::ask(io, ask).await.map_err(|_| Refusal::ParentRefused { status: None })?;
    match answer.status {
        200..=299 => Ok(Side { io: answer.io, early: answer.early }),
        status => Err(Refusal::ParentRefused { status: Some(status) }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use durward_model::Secret;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn it_is_asked_as_rfc_9110_says() {
        let credential = Some(Secret::new(b"acme:pass".to_vec()));
        let host = Host::Name(Arc::from("proxy.example"));
        let parent = Parent { host: host.clone(), port: 3128, hosts: Vec::new(), credential };
        let expected = "CONNECT proxy.example:443 HTTP/1.1\r\nHost: proxy.example:443\r\nProxy-Authorization: Basic YWNtZTpwYXNz\r\n\r\n";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();

        let asking = ask(Io::Tcp(stream), &parent, &host, 443);
        let answering = async {
            let mut asked = vec![0; expected.len()];
            peer.read_exact(&mut asked).await.unwrap();
            peer.write_all(b"HTTP/1.0 407\r\n\r\n").await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        let (refused, asked) = tokio::join!(asking, answering);

        assert_eq!(asked, expected);
        let status = refused.err();
        assert!(matches!(status, Some(Refusal::ParentRefused { status: Some(407) })), "{status:?}");
    }
}
