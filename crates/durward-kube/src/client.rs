//! Clients of the API server: `kube::Client` over HTTP/2 connections of our own.
//!
//! kube-client speaks HTTP/1.1 only, so each watch would take a connection. Here about a hundred watches share one, and writes have a connection of their own, because a
//! burst of writes delays the watches on the same connection. Nothing is retried in this module: the callers know when a retry makes sense.

mod access;
mod dial;
mod reach;
mod target;
mod tls;
mod token;
mod transport;

use std::time::Duration;

use kube::client::ConfigExt;
use thiserror::Error;
use tower::ServiceBuilder;

pub use access::{AccessError, Location};
pub use reach::Reach;
pub(crate) use transport::chain;
pub use transport::{Traffic, Transport, TransportError};

/// Bounds of the connections to the API server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// HTTP/2 connections at once.
    pub connections: usize,
    /// Requests at once on one HTTP/2 connection. kube-apiserver accepts 100 or 250, depending on its version.
    pub streams: usize,
    /// HTTP/1.1 connections at once, for servers and proxies without HTTP/2.
    pub http1_connections: usize,
    /// Age after which a connection gets no new requests, so that renewed authorities and client certificates come into use.
    pub max_age: Duration,
    /// Time for TCP and TLS handshake.
    pub connect: Duration,
    /// Time from a request to the head of its response.
    pub head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8,
            streams: 100,
            http1_connections: 64,
            max_age: Duration::from_mins(30),
            connect: Duration::from_secs(5),
            head: Duration::from_secs(30),
        }
    }
}

/// Clients of one API server.
#[derive(Clone)]
pub struct Clients {
    /// For lists and watches.
    pub watch: kube::Client,
    /// For writes.
    pub write: kube::Client,
    /// Traffic of [`Self::watch`] and [`Self::write`], in this order.
    pub traffic: [Traffic; 2],
}

/// A reason why no client can be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig or the service account cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The credentials of the kubeconfig cannot be used.
    #[error("credentials of the kubeconfig cannot be used")]
    Credentials(#[source] Box<kube::Error>),
}

impl Clients {
    /// Makes the clients. Connections are opened by the first request that needs one.
    ///
    /// # Errors
    /// Fails if the kubeconfig or the service account cannot be read, or asks for something that is not supported.
    pub async fn new(location: Location, limits: Limits) -> Result<Self, ConnectError> {
        let config = location.load().await?;
        // One connection is enough for writes: they are short and limited by rate.
        let one = Limits { connections: 1, http1_connections: 4, ..limits };
        let watch = Transport::new(location.clone(), &config, limits)?;
        let write = Transport::new(location, &config, one)?;
        let traffic = [watch.traffic(), write.traffic()];
        Ok(Self { watch: client(&config, watch)?, write: client(&config, write)?, traffic })
    }
}

/// Adds the credentials of `config` to each request on `transport`.
fn client(config: &kube::Config, transport: Transport) -> Result<kube::Client, ConnectError> {
    let credentials = |error| ConnectError::Credentials(Box::new(error));
    // The transport reads token files itself, because the library would wait a minute for a renewed one.
    let auth = match access::token_file(config) {
        Some(_) => None,
        None => config.auth_layer().map_err(credentials)?,
    };
    let service = ServiceBuilder::new()
        .layer(config.extra_headers_layer().map_err(credentials)?)
        .option_layer(auth)
        .service(transport);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}
