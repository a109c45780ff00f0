//! A server for protocols that are not HTTP: each byte comes back, in order.
//! It ends its direction when the peer has ended its own, so half-close can be seen through.

use std::net::ToSocketAddrs;
use std::ops::Deref;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;

use super::{Server, upgrade};
use crate::certificates::{Authority, Identity, server_config};

/// A TCP or TLS echo; dereferences to [`Server`].
pub struct TcpEcho(Server);

impl Deref for TcpEcho {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl TcpEcho {
    /// A plain echo.
    #[must_use]
    pub fn start(bind: impl ToSocketAddrs) -> Self {
        Self(Server::start(bind, |accepted| upgrade::echo(accepted.stream)))
    }

    /// An echo under TLS.
    #[must_use]
    pub fn tls(
        bind: impl ToSocketAddrs,
        identity: &Identity,
        client_authority: Option<&Authority>,
    ) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(identity, client_authority)));
        Self(Server::start(bind, move |accepted| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(accepted.stream).await {
                    upgrade::echo(stream).await;
                }
            }
        }))
    }
}
