//! The TLS client of the load: TLS 1.3, X25519, never a resumption, one GET with a body of known length.
//! It does not verify the certificate, to keep the client cheap; the bench verifies it once, before it starts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, HandshakeKind, SignatureScheme, StreamOwned};

use crate::tunnel::dial;

pub type Connection = StreamOwned<ClientConnection, TcpStream>;

/// One client configuration for every peer, so that all do the same key exchange.
pub fn client_config() -> Result<Arc<ClientConfig>, String> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoVerification(schemes)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The bytes of a ClientHello for `name`, as they would open a connection.
pub fn client_hello(name: &str) -> Result<Vec<u8>, String> {
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let mut connection =
        ClientConnection::new(client_config()?, name).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Connects and performs a full handshake; a client of an IP address sends no SNI.
pub fn connect(config: &Arc<ClientConfig>, target: SocketAddr) -> Result<Connection, String> {
    let mut socket = dial(target)?;
    let name = ServerName::from(target.ip());
    let mut connection =
        ClientConnection::new(Arc::clone(config), name).map_err(|error| error.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|error| format!("handshake: {error}"))?;
    }
    if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
        return Err("the handshake was a resumption".to_owned());
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Sends one GET and reads the answer to its end; anything but 200 with `body` bytes is an error.
pub fn get(
    connection: &mut (impl Read + Write + ?Sized),
    host: SocketAddr,
    before_path: &str,
    body: usize,
    close: bool,
) -> Result<(), String> {
    let option = if close { "Connection: close\r\n" } else { "" };
    let request = format!("GET {before_path}/small HTTP/1.1\r\nHost: {host}\r\n{option}\r\n");
    connection.write_all(request.as_bytes()).map_err(|error| format!("write: {error}"))?;
    let mut answer = Vec::with_capacity(body + 1024);
    let mut chunk = [0; 4096];
    loop {
        if let Some(head) = head_length(&answer) {
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
                return Err(format!("status: {}", String::from_utf8_lossy(line)));
            }
            if answer.len() >= head + body {
                return exactly(answer.len() - head, body);
            }
        }
        let count = connection.read(&mut chunk).map_err(|error| format!("read: {error}"))?;
        if count == 0 {
            return Err("closed before the answer was complete".to_owned());
        }
        answer.extend_from_slice(&chunk[..count]);
    }
}

fn head_length(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn exactly(got: usize, wanted: usize) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("body of {got} bytes, not {wanted}")) }
}

#[derive(Debug)]
struct NoVerification(Vec<SignatureScheme>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
