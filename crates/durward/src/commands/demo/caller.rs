//! A client of the demo: real TLS over a real socket, the certificate checked by its IP address as a partner would.
//!
//! Deliberately absent: knowledge of the gateway; it could be any other client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(10);

/// A client of one tenant, with one connection that it keeps.
pub(crate) struct Caller {
    address: SocketAddr,
    connector: TlsConnector,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Caller {
    /// A client that trusts `certs/ca.crt` and shows the certificate called `shown`.
    pub(crate) fn new(
        address: SocketAddr,
        certificates: &Path,
        shown: Option<&str>,
    ) -> Result<Self, Failure> {
        let config = config(certificates, shown)
            .map_err(|error| Failure::broken("making a client's TLS", error))?;
        Ok(Self { address, connector: TlsConnector::from(Arc::new(config)), connection: None })
    }

    /// Asks for `path`: the status and the body's text.
    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, String), String> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(path)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn exchange(&mut self, path: &str) -> Result<(u16, String), String> {
        let request = Request::get(path)
            .header("host", self.address.to_string())
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let sender = self.connected().await?;
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| chain(&error))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Empty<Bytes>>, String> {
        let kept = match self.connection.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        Ok(self.connection.insert(sender))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream =
            self.connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        // Its end shows in the next request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// hyper puts the cause below its own words.
fn chain(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
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
