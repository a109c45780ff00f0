//! The TLS handshake with a client: read its ClientHello, choose the certificate, finish, and say what was agreed.
//!
//! Deliberately absent: deadlines and who may connect; the caller has both. A failed handshake returns the socket, so that its end is seen.

use std::sync::Arc;
use std::time::Instant;

use durward_model::listener::ServerTls;
use rustls::server::{Accepted, Acceptor};
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::server::{StartHandshake, TlsStream};

use crate::peek::client_hello::MAX_WIRE;
use crate::peek::{SCRATCH, read_some};
use crate::refusal::{HandshakeFailure, Refusal};
use crate::session::TlsFacts;
use crate::tls::presented::{self, Presented, Refused};
use crate::tls::{client_certificate, failure};

/// A handshake that failed.
pub(crate) struct Failed {
    /// Why.
    pub(crate) refusal: Refusal,
    /// The socket it failed on.
    pub(crate) stream: TcpStream,
    /// The name asked for, lower case.
    pub(crate) name: Option<String>,
}

/// Ends TLS on `stream` with the configuration that fits the name asked for.
pub(crate) async fn terminate(
    stream: TcpStream,
    tls: &ServerTls,
    configs: &[Arc<rustls::ServerConfig>],
) -> Result<(TlsStream<TcpStream>, TlsFacts), Failed> {
    let began = Instant::now();
    let accepted = match client_hello(&stream).await {
        Ok(accepted) => accepted,
        Err(refusal) => return Err(Failed { refusal, stream, name: None }),
    };
    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
    let config = Arc::clone(&configs[tls.certificate_for(name.as_deref())]);
    let handshake = StartHandshake::from_parts(accepted, stream).into_stream(config);
    let (handshake, refused) = match tls.client_auth.trust() {
        Some(_) => presented::observe(handshake.into_fallible()).await,
        None => (handshake.into_fallible().await, None),
    };
    let stream = match handshake {
        Ok(stream) => stream,
        Err((error, stream)) => {
            return Err(Failed { refusal: failure::refusal_for(error, refused), stream, name });
        }
    };
    match facts(stream.get_ref().1, &name, began) {
        Ok(facts) => Ok((stream, facts)),
        Err(reason) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificate = chain.first().and_then(|leaf| Presented::read(leaf));
            let source = certificate.map(Refused::out_of_time).map(std::io::Error::other);
            let refusal = Refusal::Handshake { reason, source };
            Err(Failed { refusal, stream: stream.into_inner().0, name })
        }
    }
}

/// Reads until the ClientHello is complete. What is read beyond it stays with the TLS library.
async fn client_hello(stream: &TcpStream) -> Result<Accepted, Refusal> {
    let mut acceptor = Acceptor::default();
    let mut total = 0;
    loop {
        let mut verdict = Ok(());
        let read = read_some(stream, SCRATCH, |bytes| {
            verdict = feed(&mut acceptor, bytes, total);
        });
        let read = read.await.map_err(failure::refusal)?;
        verdict?;
        if read == 0 {
            return Err(Refusal::Handshake { reason: HandshakeFailure::Closed, source: None });
        }
        total += read;
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) if total > MAX_WIRE => {
                return Err(Refusal::ClientHello { detail: "ClientHello too long" });
            }
            Ok(None) => {}
            Err((error, alert)) => {
                say(stream, alert);
                let reason = failure::of_tls(&error);
                let source = Some(std::io::Error::other(error));
                return Err(Refusal::Handshake { reason, source });
            }
        }
    }
}

/// What a client that speaks HTTP to a TLS listener is refused with.
pub(crate) const PLAIN_HTTP: &str = "plain HTTP on a TLS port";

fn feed(acceptor: &mut Acceptor, mut bytes: &[u8], before: usize) -> Result<(), Refusal> {
    if before == 0 && bytes.first().is_some_and(|first| *first != 22) {
        let detail = if looks_like_http(bytes) { PLAIN_HTTP } else { "not a TLS handshake" };
        return Err(Refusal::ClientHello { detail });
    }
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Err(Refusal::ClientHello { detail: "ClientHello too long" });
        }
    }
    Ok(())
}

/// Whether the bytes begin as a request line does: an upper-case word and a blank.
fn looks_like_http(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (3..=16).contains(&method) && bytes.get(method).is_none_or(|next| *next == b' ')
}

/// Sends an alert if the socket takes it at once; it has sent nothing before, so it does.
fn say(stream: &TcpStream, mut alert: rustls::server::AcceptedAlert) {
    let mut bytes = Vec::new();
    if alert.write_all(&mut bytes).is_ok() {
        let _ = stream.try_write(&bytes);
    }
}

fn facts(
    connection: &ServerConnection,
    sni: &Option<String>,
    began: Instant,
) -> Result<TlsFacts, HandshakeFailure> {
    let chain = connection.peer_certificates().unwrap_or_default();
    let suite = connection.negotiated_cipher_suite();
    Ok(TlsFacts {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        cipher: suite.and_then(|suite| suite.suite().as_str()).map_or_else(String::new, iana_name),
        sni: sni.clone(),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        handshake: began.elapsed(),
        client_certificate: client_certificate::read(chain, UnixTime::now())?,
    })
}

/// The library marks TLS 1.3 suites in its own way; the registry does not.
fn iana_name(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}
