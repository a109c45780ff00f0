//! Client-side TLS: one configuration per upstream identity, always verified, never shared between tenants.
//!
//! Sessions for resumption live inside the configuration, so they cannot cross tenants either. Verification cannot be turned off.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, OnceLock};

use durward_link::session::LinkStream;
use durward_model::certificate::{Certificate, KeyEncoding};
use durward_model::upstream::{Target, TrustRoots, UpstreamProtocol, UpstreamTls};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::io::Io;
use crate::refusal::Refusal;

/// Sessions kept per upstream.
const SESSIONS: usize = 64;

/// TLS part of a pool key: connections with equal identities may replace each other. See [`PoolKey`](super::path::PoolKey).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TlsIdentity {
    /// SHA-256 of our client certificate, hexadecimal.
    pub(crate) client_certificate: Option<Arc<str>>,
    /// Trusted roots: their generation, or `system`.
    pub(crate) roots: Arc<str>,
    /// Name or address that the upstream's certificate must carry.
    pub(crate) verify_name: Arc<str>,
    /// True if TLS 1.2 is refused.
    pub(crate) tls13_only: bool,
}

/// Certificate verification of an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Verify {
    name: ServerName<'static>,
    /// TLS identity of connections to the endpoint.
    pub(crate) identity: TlsIdentity,
}

impl Verify {
    /// Verifies the configured name, or the endpoint's own.
    pub(crate) fn new(tls: &UpstreamTls, target: &Target) -> Result<Self, String> {
        let verify_name: Arc<str> = match (&tls.verify_name, target) {
            (Some(name), _) => Arc::clone(name),
            (None, Target::Address(address)) => address.ip().to_canonical().to_string().into(),
            (None, Target::Name { host, .. }) => Arc::clone(host),
        };
        let name = ServerName::try_from(verify_name.to_string()).map_err(|_| {
            format!("{verify_name:?} is neither a DNS name nor an IP address to verify")
        })?;
        let roots = match &tls.roots {
            TrustRoots::System => Arc::from("system"),
            TrustRoots::Private { generation, .. } => Arc::clone(generation),
        };
        let client_certificate =
            tls.client_certificate.as_ref().map(|c| Arc::clone(&c.fingerprint));
        let tls13_only = tls.tls13_only;
        Ok(Self {
            name,
            identity: TlsIdentity { client_certificate, roots, verify_name, tls13_only },
        })
    }
}

/// Builds the configuration for one upstream. Called when the configuration changes.
pub(crate) fn client_config(
    tls: &UpstreamTls,
    protocol: UpstreamProtocol,
) -> Result<Arc<ClientConfig>, String> {
    let versions: &[_] = if tls.tls13_only {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(&tls.roots)?);
    let mut config =
        match &tls.client_certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => builder
                .with_client_auth_cert(chain(certificate), key(certificate)?)
                .map_err(|error| format!("client certificate {}: {error}", certificate.name))?,
        };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    config.alpn_protocols = match protocol {
        UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
        UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
        UpstreamProtocol::Tcp | UpstreamProtocol::Udp => Vec::new(),
    };
    Ok(Arc::new(config))
}

/// Builds the configuration for DNS servers.
pub(crate) fn dns_client_config(trust: &TrustRoots) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots(trust)?).with_no_client_auth())
}

/// Performs the handshake on a connected stream and checks the ALPN result: HTTP/2 is never spoken to a server that did not agree to it.
pub(crate) async fn handshake(
    config: &Arc<ClientConfig>,
    verify: &Verify,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<Io, Refusal> {
    Ok(Io::tls(connect(config, verify, stream, peer).await?.into()))
}

/// Performs the handshake like [`handshake`], on a stream of a link whose agent is at `peer`.
pub(crate) async fn handshake_through(
    config: &Arc<ClientConfig>,
    verify: &Verify,
    stream: LinkStream,
    peer: SocketAddr,
) -> Result<Io, Refusal> {
    Ok(Io::LinkTls(Box::new(connect(config, verify, stream, peer).await?)))
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: &Arc<ClientConfig>,
    verify: &Verify,
    stream: S,
    peer: SocketAddr,
) -> Result<TlsStream<S>, Refusal> {
    let refused = |source| Refusal::UpstreamTls { peer, source };
    let stream = TlsConnector::from(Arc::clone(config))
        .connect(verify.name.clone(), stream)
        .await
        .map_err(refused)?;
    let h2_only = config.alpn_protocols.iter().any(|protocol| protocol == b"h2");
    if h2_only && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(refused(io::Error::other("the upstream did not agree to h2 by ALPN")));
    }
    Ok(stream)
}

/// Returns the first bytes of a handshake that is never finished: it shows whether a TLS server listens, and verifies nothing.
pub(crate) fn client_hello() -> Result<Vec<u8>, String> {
    let said = |error: rustls::Error| error.to_string();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(said)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    // An address is no server name, so none is sent.
    let name = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(said)?;
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).map_err(|error| error.to_string())?;
    }
    Ok(hello)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

fn roots(trust: &TrustRoots) -> Result<Arc<RootCertStore>, String> {
    match trust {
        TrustRoots::System => system_roots(),
        TrustRoots::Private { roots, .. } => {
            let mut store = RootCertStore::empty();
            for root in roots {
                store
                    .add(CertificateDer::from(root.to_vec()))
                    .map_err(|error| format!("a trusted root cannot be used: {error}"))?;
            }
            if store.is_empty() {
                return Err("no root is trusted, so nothing could be verified".to_owned());
            }
            Ok(Arc::new(store))
        }
    }
}

/// Returns the host's roots, read at the first call.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let causes: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!("this host has no trusted roots: {}", causes.join("; ")));
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(store))))
}

fn chain(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

fn key(certificate: &Certificate) -> Result<PrivateKeyDer<'static>, String> {
    let der = certificate.key.der.expose().to_vec();
    if der.is_empty() {
        return Err(format!("client certificate {} has no private key", certificate.name));
    }
    Ok(match certificate.key.encoding {
        KeyEncoding::Pkcs8 => PrivateKeyDer::Pkcs8(der.into()),
        KeyEncoding::Pkcs1 => PrivateKeyDer::Pkcs1(der.into()),
        KeyEncoding::Sec1 => PrivateKeyDer::Sec1(der.into()),
    })
}
