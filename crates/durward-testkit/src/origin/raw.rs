//! An origin that is a script: it sends exactly the bytes a test wrote and keeps exactly the bytes it received.
//! It repairs nothing and checks nothing, so it can misbehave in every way a real server could.

use std::net::ToSocketAddrs;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use super::Server;
use super::raw_connection::{Captures, RawConnection};
use crate::transport::Transport;

/// A scripted server; dereferences to [`Server`].
pub struct RawOrigin {
    server: Server,
    captures: Arc<Captures>,
}

impl Deref for RawOrigin {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl RawOrigin {
    /// Runs the script on each connection; when it returns, the connection is closed.
    #[must_use]
    pub fn start<S, F>(bind: impl ToSocketAddrs, script: S) -> Self
    where
        S: Fn(RawConnection) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let captures = Arc::new(Captures::default());
        let server = Server::start(bind, {
            let captures = captures.clone();
            move |accepted| {
                script(RawConnection::new(
                    accepted.stream.into(),
                    accepted.peer,
                    accepted.id,
                    &captures,
                ))
            }
        });
        Self { server, captures }
    }

    /// Like `start`, under TLS; what is captured and sent is the plain text.
    #[must_use]
    pub fn tls<S, F>(bind: impl ToSocketAddrs, config: ServerConfig, script: S) -> Self
    where
        S: Fn(RawConnection) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let captures = Arc::new(Captures::default());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let script = Arc::new(script);
        let server = Server::start(bind, {
            let captures = captures.clone();
            move |accepted| {
                let (acceptor, captures, script) =
                    (acceptor.clone(), captures.clone(), script.clone());
                async move {
                    if let Ok(stream) = acceptor.accept(accepted.stream).await {
                        let transport = Transport::from(stream);
                        script(RawConnection::new(
                            transport,
                            accepted.peer,
                            accepted.id,
                            &captures,
                        ))
                        .await;
                    }
                }
            }
        });
        Self { server, captures }
    }

    /// Sends these bytes after each complete request, on as many requests as a connection brings.
    #[must_use]
    pub fn replying(bind: impl ToSocketAddrs, reply: impl Into<Vec<u8>>) -> Self {
        let reply: Arc<[u8]> = reply.into().into();
        Self::start(bind, move |mut connection| {
            let reply = reply.clone();
            async move {
                while let Ok(Some(_)) = connection.read_request().await {
                    if connection.send(&reply).await.is_err() {
                        return;
                    }
                }
            }
        })
    }

    /// Sends these bytes after the first request of a connection, then closes it.
    #[must_use]
    pub fn once(bind: impl ToSocketAddrs, reply: impl Into<Vec<u8>>) -> Self {
        let reply: Arc<[u8]> = reply.into().into();
        Self::start(bind, move |mut connection| {
            let reply = reply.clone();
            async move {
                if let Ok(Some(_)) = connection.read_request().await {
                    let _ = connection.send(&reply).await;
                }
            }
        })
    }

    /// What each connection brought so far, in the order of acceptance. Only bytes a script has read count.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.captures.all()
    }

    /// Like `received`, with bytes outside UTF-8 replaced.
    #[must_use]
    pub fn received_text(&self) -> Vec<String> {
        self.received().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// Waits until what was received satisfies the condition, and returns it.
    ///
    /// # Panics
    /// When the deadline passes first; the message carries what was received.
    pub async fn wait_for(
        &self,
        deadline: Duration,
        condition: impl Fn(&[Vec<u8>]) -> bool,
    ) -> Vec<Vec<u8>> {
        let waited = tokio::time::timeout(deadline, async {
            loop {
                let change = self.captures.changed();
                let received = self.received();
                if condition(&received) {
                    return received;
                }
                change.await;
            }
        });
        match waited.await {
            Ok(received) => received,
            Err(_) => panic!("not within {deadline:?}; received {:?}", self.received_text()),
        }
    }
}
