//! One connection to one endpoint: TCP, the network's HTTP proxy where there is one, TLS.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{DialError, Dialled};
use crate::http_proxy::HttpProxy;
use crate::resolve::{Endpoint, Resolution};
use crate::settings::{ALPN, Target};
use crate::stream::{BoxStream, tune};
use crate::tls::TlsState;

/// How endpoints are connected to.
pub(super) struct Dialer {
    pub(super) server_name: ServerName<'static>,
    pub(super) tls: watch::Receiver<TlsState>,
    /// The TLS towards the endpoint is the outer connection, not one in place of an API client's.
    pub(super) is_outer: bool,
    pub(super) resolution: Resolution,
    pub(super) http_proxy: Option<HttpProxy>,
    /// TLS with the HTTP proxy.
    pub(super) proxy_tls: TlsConnector,
}

impl Dialer {
    /// Returns the endpoints of a gateway.
    pub(super) async fn endpoints(&self, target: &Target) -> io::Result<Vec<Endpoint>> {
        let proxied = self.http_proxy.as_ref().is_some_and(|proxy| proxy.applies_to(target));
        self.resolution.endpoints(target, proxied).await
    }

    /// Connects for an API client that offers these protocols.
    pub(super) async fn dial(
        &self,
        endpoint: &Endpoint,
        alpn: &[Vec<u8>],
    ) -> Result<Dialled, DialError> {
        let transport = self.transport(endpoint).await?;
        let Some(config) = self.config(alpn) else {
            return Ok(Dialled { stream: transport, endpoint: endpoint.clone(), alpn: None });
        };
        let tls = self.handshake(endpoint, transport, config).await?;
        let alpn = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        Ok(Dialled { stream: Box::new(tls), endpoint: endpoint.clone(), alpn })
    }

    /// Connects, says at once that nothing follows, and reads what the endpoint says to that.
    pub(super) async fn probe(&self, endpoint: &Endpoint) -> Result<(), DialError> {
        let transport = self.transport(endpoint).await?;
        let Some(config) = self.config(&[b"h2".to_vec(), b"http/1.1".to_vec()]) else {
            return Ok(());
        };
        let mut tls = self.handshake(endpoint, transport, config).await?;
        drop(tls.shutdown().await);
        let mut ignored = [0; 256];
        loop {
            match tls.read(&mut ignored).await {
                Ok(1..) => {}
                // In TLS 1.3 a refused client certificate shows here.
                Err(error) if alert(&error).is_some() => {
                    return Err(DialError::Tls { endpoint: endpoint.clone(), error });
                }
                // The handshake has succeeded; how the endpoint hangs up says nothing of it.
                Ok(0) | Err(_) => return Ok(()),
            }
        }
    }

    /// Opens the TCP connection, or has the HTTP proxy open it.
    async fn transport(&self, endpoint: &Endpoint) -> Result<BoxStream, DialError> {
        let failed = |error: io::Error| match is_of_this_host(&error) {
            true => DialError::Local { endpoint: endpoint.clone(), error },
            false => DialError::Connect { endpoint: endpoint.clone(), error },
        };
        let (target, proxy) = match (endpoint, &self.http_proxy) {
            (Endpoint::Direct(address), _) => {
                let socket = TcpStream::connect(address).await.map_err(failed)?;
                tune(&socket);
                return Ok(Box::new(socket));
            }
            (Endpoint::Proxied(target), Some(proxy)) => (target, proxy),
            (Endpoint::Proxied(_), None) => return Err(failed(io::ErrorKind::NotFound.into())),
        };
        let at = (proxy.target.host.as_str(), proxy.target.port);
        let socket = TcpStream::connect(at).await.map_err(failed)?;
        tune(&socket);
        proxy
            .connect(Box::new(socket), target, &self.proxy_tls)
            .await
            .map_err(|error| DialError::from((endpoint.clone(), error)))
    }

    /// Returns the TLS configuration of the moment; `None` if there is no TLS here.
    fn config(&self, alpn: &[Vec<u8>]) -> Option<Arc<ClientConfig>> {
        let config = self.tls.borrow().client.clone()?;
        if self.is_outer {
            return Some(config);
        }
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = alpn.to_vec();
        Some(Arc::new(config))
    }

    async fn handshake(
        &self,
        endpoint: &Endpoint,
        transport: BoxStream,
        config: Arc<ClientConfig>,
    ) -> Result<TlsStream<BoxStream>, DialError> {
        let not_a_gateway = || DialError::NotAGateway { endpoint: endpoint.clone() };
        let connecting = TlsConnector::from(config).connect(self.server_name.clone(), transport);
        let tls = connecting.await.map_err(|error| match alert(&error) {
            Some(AlertDescription::NoApplicationProtocol) if self.is_outer => not_a_gateway(),
            _ => DialError::Tls { endpoint: endpoint.clone(), error },
        })?;
        // Without the protocol the peer would take our header for an API client's bytes, or pass them on to somebody who does.
        if self.is_outer && tls.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(not_a_gateway());
        }
        Ok(tls)
    }
}

/// Error numbers that mean that this process or this host has no descriptor (`EMFILE`, `ENFILE`) or no buffer (`ENOBUFS`) left.
const EXHAUSTED: [i32; 3] = [24, 23, 105];

/// Returns true if a connection failed for lack of something here: descriptors, ports, memory.
fn is_of_this_host(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::AddrNotAvailable, io::ErrorKind::OutOfMemory];
    kinds.contains(&error.kind())
        || error.raw_os_error().is_some_and(|number| EXHAUSTED.contains(&number))
}

/// Returns the alert that the peer sent, if that is what the error says.
pub(super) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_is_no_fault_of_the_gateway() {
        for number in [23, 24, 99, 105, 12] {
            let error = io::Error::from_raw_os_error(number);
            assert!(is_of_this_host(&error), "{error}");
        }
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::TimedOut] {
            assert!(!is_of_this_host(&kind.into()), "{kind}");
        }
    }
}
