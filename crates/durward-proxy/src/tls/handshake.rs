//! Server side of a TLS handshake: reads the ClientHello, selects the certificate, finishes, and returns what was agreed.
//!
//! A failed handshake returns the socket, so that the caller can end it properly.

use std::sync::Arc;
use std::time::Instant;

use durward_model::Listener;
use durward_model::server_tls::ServerTls;
use rustls::server::{Accepted, Acceptor, ClientHello};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::server::{StartHandshake, TlsStream};

use crate::connection::TlsFacts;
use crate::io::scratch::{SCRATCH, read_some};
use crate::peek::client_hello::Gauge;
use crate::refusal::{HandshakeFailure, Refusal};
use crate::refusal::{Presented, Refused};
use crate::tls::presented;
use crate::tls::{challenge, client_certificate, failure};
use crate::watch::ShownChain;

/// Fatal alert `internal_error` as an unencrypted record (RFC 8446 §6.2).
const NO_CERTIFICATE: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Failed handshake.
pub(crate) struct Failed {
    /// Reason of the failure.
    pub(crate) refusal: Refusal,
    /// Socket of the handshake.
    pub(crate) stream: TcpStream,
    /// Server name, lower case.
    pub(crate) name: Option<String>,
}

/// Terminates TLS on `stream` with the configuration that fits the server name. `early` are bytes that were read from it before.
pub(crate) async fn terminate(
    stream: TcpStream,
    early: &[u8],
    (listener, tls): (&Listener, &ServerTls),
    configs: &[Arc<rustls::ServerConfig>],
) -> Result<(TlsStream<TcpStream>, TlsFacts), Failed> {
    let began = Instant::now();
    let accepted = match client_hello(&stream, early).await {
        Ok(accepted) => accepted,
        Err(refusal) => return Err(Failed { refusal, stream, name: None }),
    };
    let hello = accepted.client_hello();
    let normal = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let name = hello.server_name().map(normal);
    if let Some(config) = challenge::config(&hello, name.as_deref(), &listener.acme) {
        let (refusal, stream) = challenge::answer(accepted, stream, config).await;
        return Err(Failed { refusal, stream, name });
    }
    if listener.lacks_certificate(name.as_deref()) {
        // The send buffer is still empty, so the alert fits.
        let _ = stream.try_write(&NO_CERTIFICATE);
        let reason = HandshakeFailure::CertificatePending;
        let refusal = Refusal::Handshake { reason, source: None };
        return Err(Failed { refusal, stream, name });
    }
    // Among the certificates for the name, the first whose signatures the client can verify (RSA beside ECDSA).
    let fitting = tls
        .alternatives(name.as_deref())
        .find(|at| can_verify(&hello, &tls.certificates[*at].key_type))
        .unwrap_or_else(|| tls.certificate_for(name.as_deref()));
    let config = Arc::clone(&configs[fitting]);
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

/// Returns true if a client can verify signatures by a key of this type, in the version and with the suites it offers.
fn can_verify(hello: &ClientHello<'_>, key_type: &str) -> bool {
    use SignatureScheme as S;
    let has = |scheme: &S| hello.signature_schemes().contains(scheme);
    let (schemes, suites) = match key_type.split_once('-') {
        Some(("RSA", _)) => (
            &[
                S::RSA_PSS_SHA256,
                S::RSA_PSS_SHA384,
                S::RSA_PSS_SHA512,
                S::RSA_PKCS1_SHA256,
                S::RSA_PKCS1_SHA384,
                S::RSA_PKCS1_SHA512,
            ][..],
            "_RSA_",
        ),
        Some(("ECDSA", "P256")) => (&[S::ECDSA_NISTP256_SHA256][..], "_ECDSA_"),
        Some(("ECDSA", "P384")) => (&[S::ECDSA_NISTP384_SHA384][..], "_ECDSA_"),
        Some(("ECDSA", "P521")) => (&[S::ECDSA_NISTP521_SHA512][..], "_ECDSA_"),
        _ if key_type == "Ed25519" => (&[S::ED25519][..], "_ECDSA_"),
        _ => return true,
    };
    // TLS 1.3 suites do not restrict the certificate's key type.
    let suits = |suite: &CipherSuite| {
        suite.as_str().is_some_and(|name| name.starts_with("TLS13_") || name.contains(suites))
    };
    schemes.iter().any(has) && hello.cipher_suites().iter().any(suits)
}

/// Reads until the ClientHello is complete. Bytes beyond it stay with rustls.
async fn client_hello(stream: &TcpStream, early: &[u8]) -> Result<Accepted, Refusal> {
    let mut incoming = Incoming::new(stream);
    if !early.is_empty()
        && let Some(accepted) = incoming.feed(early)?
    {
        return Ok(accepted);
    }
    loop {
        let mut fed = Ok(None);
        let read = read_some(stream, SCRATCH, |bytes| {
            if !bytes.is_empty() {
                fed = incoming.feed(bytes);
            }
        });
        if read.await.map_err(failure::refusal)? == 0 {
            return Err(Refusal::Handshake { reason: HandshakeFailure::Closed, source: None });
        }
        if let Some(accepted) = fed? {
            return Ok(accepted);
        }
    }
}

/// Detail of the refusal for plain HTTP on a TLS listener.
pub(crate) const PLAIN_HTTP: &str = "plain HTTP on a TLS port";

/// ClientHello of which some bytes have arrived.
struct Incoming<'a> {
    stream: &'a TcpStream,
    acceptor: Acceptor,
    gauge: Gauge,
    begun: bool,
}

impl<'a> Incoming<'a> {
    fn new(stream: &'a TcpStream) -> Self {
        Self { stream, acceptor: Acceptor::default(), gauge: Gauge::default(), begun: false }
    }

    /// Takes the next bytes, at least one; returns the ClientHello once it is complete.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Accepted>, Refusal> {
        if !self.begun && bytes[0] != 22 {
            let detail = if looks_like_http(bytes) { PLAIN_HTTP } else { "not a TLS handshake" };
            return Err(Refusal::ClientHello { detail });
        }
        self.begun = true;
        self.gauge.feed(bytes).map_err(|detail| Refusal::ClientHello { detail })?;
        while !bytes.is_empty() {
            if self.acceptor.read_tls(&mut bytes).is_ok() {
                continue;
            }
            // rustls buffers one record; more only after it has found that the ClientHello goes on in the next. Bytes that
            // do not fit behind a complete ClientHello would be lost, so that is refused.
            let complete = self.accept()?.is_some();
            if complete || self.acceptor.read_tls(&mut bytes).is_err() {
                return Err(Refusal::ClientHello { detail: "ClientHello too long" });
            }
        }
        self.accept()
    }

    fn accept(&mut self) -> Result<Option<Accepted>, Refusal> {
        self.acceptor.accept().map_err(|(error, alert)| {
            say(self.stream, alert);
            let reason = failure::of_tls(&error);
            Refusal::Handshake { reason, source: Some(std::io::Error::other(error)) }
        })
    }
}

/// Returns true if the bytes begin like a request line: an upper-case word and a blank.
fn looks_like_http(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (3..=16).contains(&method) && bytes.get(method).is_none_or(|next| *next == b' ')
}

/// Sends an alert without waiting; the send buffer is still empty, so it fits.
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
    let now = UnixTime::now();
    Ok(TlsFacts {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        cipher: suite.and_then(|suite| suite.suite().as_str()).map_or_else(String::new, iana_name),
        sni: sni.clone(),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        handshake: began.elapsed(),
        client_certificate: client_certificate::read(chain, now)?,
        shown: shown(chain, now),
    })
}

/// Most bytes of a certificate chain that are kept for as long as the connection.
const KEPT: usize = 16 * 1024;

/// Returns the chain that a client has shown. Of one that is too long only the leaf is kept, so a change of authorities may end the connection.
fn shown(chain: &[CertificateDer<'_>], at: UnixTime) -> Option<Arc<ShownChain>> {
    let is_short = chain.iter().map(|der| der.len()).sum::<usize>() <= KEPT;
    let kept = if is_short { chain } else { chain.get(..1)? };
    let chain: Vec<_> = kept.iter().map(|der| der.clone().into_owned()).collect();
    (!chain.is_empty()).then(|| Arc::new(ShownChain { chain, at }))
}

/// Returns the IANA name of a suite; rustls has its own names for those of TLS 1.3.
fn iana_name(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}
