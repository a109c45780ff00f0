//! Client of the demo: real TLS over a real socket, the certificate verified for its IP address as a partner would.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{self, Client, Stream, Tunnel};
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(10);
/// Largest body in bytes.
const BODY: usize = 64 * 1024;

/// Client of one tenant, with one connection that it keeps.
pub(crate) struct Caller {
    address: SocketAddr,
    /// Name to ask for; the address itself without one.
    name: Option<&'static str>,
    /// Forward proxy to use.
    proxy: Option<SocketAddr>,
    connector: TlsConnector,
    connection: Option<Client>,
}

impl Caller {
    /// Creates a client that trusts `certs/ca.crt` and shows the certificate called `shown`.
    pub(crate) fn new(
        address: SocketAddr,
        certificates: &Path,
        shown: Option<&str>,
    ) -> Result<Self, Failure> {
        let config = config(certificates, shown)
            .map_err(|error| Failure::broken("making a client's TLS", error))?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { address, name: None, proxy: None, connector, connection: None })
    }

    /// Asks for a name, by SNI and `Host`, and verifies the certificate for it.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Sends requests through a forward proxy.
    pub(crate) fn through(self, proxy: SocketAddr) -> Self {
        Self { proxy: Some(proxy), ..self }
    }

    /// Requests `path`; returns the status and the body's text.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, String), String> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(path)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn exchange(&mut self, path: &str) -> Result<(u16, String), String> {
        let host = match self.name {
            Some(name) => format!("{name}:{}", self.address.port()),
            None => self.address.to_string(),
        };
        let request = client::get(path, &host)?;
        let answer = self.connected().await?.send(request, BODY).await?;
        Ok((answer.status.as_u16(), answer.text()))
    }

    async fn connected(&mut self) -> Result<&mut Client, String> {
        let kept = match self.connection.take() {
            Some(mut kept) => kept.is_open().await.then_some(kept),
            None => None,
        };
        let connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        Ok(self.connection.insert(connection))
    }

    async fn connect(&self) -> Result<Client, String> {
        let stream = TcpStream::connect(self.proxy.unwrap_or(self.address)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let stream: Box<dyn Stream> = match self.proxy {
            None => Box::new(stream),
            Some(_) => {
                match client::tunnel(stream, &self.address.to_string(), None, PATIENCE).await? {
                    Tunnel::Open(tunnel) => Box::new(tunnel),
                    Tunnel::Refused(status, _) => return Err(format!("the proxy said {status}")),
                }
            }
        };
        let name = match self.name {
            Some(name) => ServerName::try_from(name).map_err(|error| error.to_string())?,
            None => ServerName::IpAddress(self.address.ip().into()),
        };
        let stream =
            self.connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        Client::on(stream, PATIENCE).await
    }
}

fn config(
    certificates: &Path,
    shown: Option<&str>,
) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.join("ca.crt"))?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots);
    let Some(stem) = shown else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(certificates.join(format!("{stem}.crt")))?
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificates.join(format!("{stem}.key")))?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}
