//! Validation by TLS-ALPN-01 (RFC 8737): a handshake with the certificate of a challenge, after which the connection is closed.
//!
//! A configuration is built per validation: there are few, and only while an authority validates.

use std::sync::Arc;

use durward_model::Acme;
use durward_model::acme::TLS_PROTOCOL;
use rustls::ServerConfig;
use rustls::server::{Accepted, ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::StartHandshake;

use crate::refusal::Refusal;
use crate::tls::failure;
use crate::tls::server_config::provider;

/// Returns the configuration for a client that validates: one that offers `acme-tls/1` alone and asks for a name with a challenge.
pub(crate) fn config(
    hello: &ClientHello<'_>,
    name: Option<&str>,
    acme: &Acme,
) -> Option<Arc<ServerConfig>> {
    if acme.answers.is_empty() {
        return None;
    }
    let mut offered = hello.alpn()?;
    if offered.next() != Some(TLS_PROTOCOL) || offered.next().is_some() {
        return None;
    }
    let (certificate, key) = acme.tls_answer(name?)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose().to_vec()));
    let key = provider().key_provider.load_private_key(key).ok()?;
    // Not compared with the certificate: rustls refuses the critical extension that carries the digest.
    let key = CertifiedKey::new(vec![CertificateDer::from(certificate.to_vec())], key);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![TLS_PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(Arc::new(config))
}

/// Shows the certificate of a challenge and ends the session; returns how the connection is recorded, and its socket.
pub(crate) async fn answer(
    accepted: Accepted,
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> (Refusal, TcpStream) {
    let handshake = StartHandshake::from_parts(accepted, stream).into_stream(config);
    match handshake.into_fallible().await {
        Ok(mut stream) => {
            // Nothing is read or written after the handshake (RFC 8737 §3); a client that is gone has seen what it wanted.
            drop(stream.shutdown().await);
            (Refusal::Challenge, stream.into_inner().0)
        }
        Err((error, stream)) => (failure::refusal(error), stream),
    }
}
