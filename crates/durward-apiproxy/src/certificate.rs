//! The certificate that an API server or a gateway shows, and the names that it must have.
//!
//! Looking at a certificate sends nothing beyond a ClientHello; nothing is believed of what is shown here except its own words.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate as a server shows it.
#[derive(Clone, Debug)]
pub struct ShownCertificate {
    /// The chain in DER, the leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// DNS names and addresses of the leaf.
    pub names: BTreeSet<Name>,
    /// Time at which the leaf ends, in seconds since 1970.
    pub not_after: i64,
    /// Protocol that the server chose of those that were offered.
    pub alpn: Option<Vec<u8>>,
}

/// A name of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A DNS name in lower case, perhaps with `*` as its first label.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl Name {
    /// Reads a host.
    #[must_use]
    pub fn of(host: &str) -> Self {
        host.parse().map_or_else(|_| Self::Dns(host.to_ascii_lowercase()), Self::Ip)
    }
}

/// Returns the names that programs in a cluster call their API server by: the five of every cluster, and the loopback address.
#[must_use]
pub fn automatic_names(cluster_domain: &str) -> Vec<Name> {
    let fifth = format!("kubernetes.default.svc.{cluster_domain}");
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", &fifth, "localhost"];
    let mut all: Vec<Name> = names.into_iter().map(Name::of).collect();
    all.push(Name::Ip(IpAddr::from([127, 0, 0, 1])));
    all
}

impl ShownCertificate {
    /// Reads a chain, the leaf first.
    ///
    /// # Errors
    /// Fails if it is empty or the leaf is no certificate.
    pub fn read(chain: Vec<CertificateDer<'static>>) -> io::Result<Self> {
        let malformed = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let leaf = chain.first().ok_or_else(|| malformed("no certificate was shown".to_owned()))?;
        let (_, leaf) =
            X509Certificate::from_der(leaf).map_err(|error| malformed(error.to_string()))?;
        let names =
            leaf.subject_alternative_name().map_err(|error| malformed(error.to_string()))?;
        let names = names.into_iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(name).collect();
        let not_after = leaf.validity().not_after.timestamp();
        Ok(Self { chain, names, not_after, alpn: None })
    }

    /// Returns whether the leaf is valid for `name`.
    #[must_use]
    pub fn covers(&self, name: &Name) -> bool {
        if self.names.contains(name) {
            return true;
        }
        let Name::Dns(name) = name else { return false };
        let wildcard = name.split_once('.').map(|(_, parent)| Name::Dns(format!("*.{parent}")));
        wildcard.is_some_and(|wildcard| self.names.contains(&wildcard))
    }

    /// Returns those of `names` that the leaf does not have.
    #[must_use]
    pub fn missing<'a>(&self, names: &'a [Name]) -> Vec<&'a Name> {
        names.iter().filter(|name| !self.covers(name)).collect()
    }

    /// Verifies the chain and the name.
    ///
    /// # Errors
    /// Fails, with the reason in the TLS library's words, if the chain does not lead to `roots` or the leaf has not this name.
    pub fn verify(&self, roots: RootCertStore, name: &str) -> Result<(), String> {
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let provider = crate::tls::provider();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.map_err(|error| error.to_string())?;
        let (leaf, others) = self.chain.split_first().ok_or("no certificate was shown")?;
        let verified = verifier.verify_server_cert(leaf, others, &name, &[], UnixTime::now());
        verified.map(drop).map_err(|error| error.to_string())
    }
}

fn name(name: &GeneralName<'_>) -> Option<Name> {
    match name {
        GeneralName::DNSName(name) => Some(Name::Dns(name.to_ascii_lowercase())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(Name::Ip)
        }
        _ => None,
    }
}

/// Returns the certificate that the server at `address` shows to a client that asks for `server_name` and offers `alpn`.
///
/// # Errors
/// Fails if there is no connection, or the server ends it before it shows a certificate.
pub async fn shown(
    address: SocketAddr,
    server_name: &str,
    alpn: &[&[u8]],
    patience: Duration,
) -> io::Result<ShownCertificate> {
    let look = Arc::new(Look { seen: Mutex::default(), provider: crate::tls::provider() });
    let config = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Look>::clone(&look);
    let mut config =
        config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
    let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let ended = timeout(patience, handshake(address, session)).await;
    let chain = std::mem::take(&mut *look.seen.lock().unwrap_or_else(PoisonError::into_inner));
    match ended {
        Ok(Ok(alpn)) => Ok(ShownCertificate { alpn, ..ShownCertificate::read(chain)? }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Runs the handshake up to the verification of the certificate, which ends it. Returns the protocol that the server chose.
async fn handshake(
    address: SocketAddr,
    mut session: ClientConnection,
) -> io::Result<Option<Vec<u8>>> {
    let mut socket = TcpStream::connect(address).await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut out = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut out)?;
        }
        socket.write_all(&out).await?;
        let count = socket.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut read = &buffer[..count];
        while !read.is_empty() {
            session.read_tls(&mut read)?;
            match session.process_new_packets() {
                Ok(_) => {}
                Err(rustls::Error::InvalidCertificate(_)) => {
                    return Ok(session.alpn_protocol().map(<[u8]>::to_vec));
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

/// Records the chain and then ends the handshake: the connection can carry nothing.
#[derive(Debug)]
struct Look {
    seen: Mutex<Vec<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
