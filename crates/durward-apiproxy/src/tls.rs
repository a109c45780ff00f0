//! TLS of the proxy: whom it trusts, what it shows, and new certificates without a restart.
//!
//! A switch that turns verification off is deliberately absent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::settings::{ALPN, Carrier, IdentityFiles, KeyPin, Trust};

/// Time between two looks at the files. A mounted Secret changes at most once a minute.
const RELOAD: Duration = Duration::from_secs(2);

/// A reason why certificates or keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsFault {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{file}: {fault}")]
    File {
        /// The file.
        file: PathBuf,
        /// Error, as a phrase.
        fault: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("{certificate} and {key}: {fault}")]
    Pair {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// Error, as a phrase.
        fault: String,
    },
}

/// TLS configurations made of the files as they are.
#[derive(Clone)]
pub struct TlsState {
    /// Towards the gateway, or in re-originate mode the API server; `None` without outer TLS.
    pub client: Option<Arc<ClientConfig>>,
    /// Towards API clients, in re-originate mode.
    pub server: Option<Arc<ServerConfig>>,
    /// Time at which the certificate that we show ends, in seconds since 1970.
    pub expires: Option<i64>,
}

/// TLS configurations that follow their files.
pub struct Reloading {
    carrier: Carrier,
    state: watch::Sender<TlsState>,
    contents: Vec<Option<Vec<u8>>>,
}

impl TlsState {
    /// Reads the files that `carrier` names.
    ///
    /// # Errors
    /// Fails if a file cannot be used.
    pub fn load(carrier: &Carrier) -> Result<Self, TlsFault> {
        let (client, server, shown) = match carrier {
            Carrier::OuterTls { trust, identity } => {
                let shown = Identity::read(identity)?;
                let expires = shown.expires;
                (Some(outer(trust, shown)?), None, expires)
            }
            Carrier::ProxyHeader => (None, None, None),
            Carrier::Reoriginate { serving, trust } => {
                let shown = Identity::read(serving)?;
                let expires = shown.expires;
                let client = builder(trust, rustls::ALL_VERSIONS)?.with_no_client_auth();
                (Some(client), Some(shown.server()?), expires)
            }
        };
        Ok(Self { client: client.map(Arc::new), server: server.map(Arc::new), expires: shown })
    }
}

impl Reloading {
    /// Reads the files.
    ///
    /// # Errors
    /// Fails if a file cannot be used.
    pub fn new(carrier: Carrier) -> Result<Self, TlsFault> {
        let contents = contents(&files(&carrier));
        let state = watch::Sender::new(TlsState::load(&carrier)?);
        Ok(Self { carrier, state, contents })
    }

    /// Returns the configurations of the moment, also later ones.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<TlsState> {
        self.state.subscribe()
    }

    /// Follows the files without end. While they cannot be used, the configurations before stay.
    pub async fn follow(mut self) {
        loop {
            sleep(RELOAD).await;
            let paths = files(&self.carrier);
            // Files may be on a volume that hangs: other connections go on meanwhile.
            let Ok(now) = tokio::task::spawn_blocking(move || contents(&paths)).await else {
                continue;
            };
            if now == self.contents {
                continue;
            }
            match TlsState::load(&self.carrier) {
                Ok(state) => {
                    tracing::info!(expires = state.expires, "certificates reloaded");
                    self.state.send_replace(state);
                }
                Err(fault) => {
                    tracing::warn!(%fault, "changed certificates cannot be used: those before stay");
                }
            }
            self.contents = now;
        }
    }
}

fn files(carrier: &Carrier) -> Vec<PathBuf> {
    let trusted = |trust: &Trust| match trust {
        Trust::Authorities(file) => Some(file.clone()),
        Trust::Pins(_) => None,
    };
    let (identity, trust) = match carrier {
        Carrier::OuterTls { trust, identity } => (identity, trust),
        Carrier::Reoriginate { serving, trust } => (serving, trust),
        Carrier::ProxyHeader => return Vec::new(),
    };
    [identity.certificate.clone(), identity.key.clone()].into_iter().chain(trusted(trust)).collect()
}

fn contents(files: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    files.iter().map(|file| std::fs::read(file).ok()).collect()
}

/// A certificate chain with its key.
struct Identity<'a> {
    files: &'a IdentityFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    expires: Option<i64>,
}

impl<'a> Identity<'a> {
    fn read(files: &'a IdentityFiles) -> Result<Self, TlsFault> {
        let chain = certificates(&files.certificate)?;
        let key =
            PrivateKeyDer::from_pem_file(&files.key).map_err(|error| fault(&files.key, &error))?;
        let leaf = X509Certificate::from_der(&chain[0]).ok();
        let expires = leaf.map(|(_, leaf)| leaf.validity().not_after.timestamp());
        Ok(Self { files, chain, key, expires })
    }

    fn server(self) -> Result<ServerConfig, TlsFault> {
        let files = self.files;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(self.chain, self.key)
            });
        config.map_err(|error| unfit(files, &error))
    }
}

/// Returns the certificates of a PEM file, at least one.
///
/// # Errors
/// Fails if the file cannot be read or holds no certificate.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let read = CertificateDer::pem_file_iter(file).map_err(|error| fault(file, &error))?;
    let read = read.collect::<Result<Vec<_>, _>>().map_err(|error| fault(file, &error))?;
    if read.is_empty() {
        return Err(fault(file, &"holds no certificate in PEM"));
    }
    Ok(read)
}

/// TLS towards the gateway: 1.3 only, because both ends are ours, and only there does half-closing work.
fn outer(trust: &Trust, shown: Identity<'_>) -> Result<ClientConfig, TlsFault> {
    let files = shown.files;
    let mut config = builder(trust, &[&rustls::version::TLS13])?
        .with_client_auth_cert(shown.chain, shown.key)
        .map_err(|error| unfit(files, &error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn builder(
    trust: &Trust,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsFault> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
    let builder = builder.map_err(|error| fault(Path::new("TLS"), &error))?;
    Ok(match trust {
        Trust::Authorities(file) => builder.with_root_certificates(authorities(file)?),
        Trust::Pins(pins) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned {
                pins: pins.clone(),
                provider: provider(),
            }))
        }
    })
}

/// Returns TLS towards the network's HTTP proxy: the system's authorities, no client certificate.
pub(crate) fn of_system() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let versions = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions");
    Arc::new(versions.with_root_certificates(roots).with_no_client_auth())
}

/// Returns the authorities of a PEM file.
///
/// # Errors
/// Fails if the file cannot be read, or a certificate in it is no authority's.
pub fn authorities(file: &Path) -> Result<RootCertStore, TlsFault> {
    let mut store = RootCertStore::empty();
    for authority in certificates(file)? {
        store.add(authority).map_err(|error| fault(file, &error))?;
    }
    Ok(store)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn fault(file: &Path, fault: &dyn std::fmt::Display) -> TlsFault {
    TlsFault::File { file: file.to_owned(), fault: fault.to_string() }
}

fn unfit(files: &IdentityFiles, error: &dyn std::fmt::Display) -> TlsFault {
    let IdentityFiles { certificate, key } = files.clone();
    TlsFault::Pair { certificate, key, fault: error.to_string() }
}

/// Returns the digest of the public key of a certificate.
#[must_use]
pub fn key_pin(certificate: &CertificateDer<'_>) -> Option<KeyPin> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let digest = aws_lc_rs_digest(parsed.tbs_certificate.subject_pki.raw);
    Some(KeyPin(digest))
}

fn aws_lc_rs_digest(bytes: &[u8]) -> [u8; 32] {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 digest has 32 bytes")
}

/// Verifies that a server holds one of the pinned keys.
#[derive(Debug)]
struct Pinned {
    pins: Vec<KeyPin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The signature of the handshake proves that the peer has the key; the pin proves that it is the right one.
        match key_pin(end_entity) {
            Some(pin) if self.pins.contains(&pin) => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
