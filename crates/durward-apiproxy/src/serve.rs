//! The life of a client's connection: accept, dial a gateway, header, relay, record.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection_id::{ConnectionId, ConnectionIds};
use crate::gateways::{DialError, Dialled, Gateways};
use crate::metrics::{Metrics, Outcome};
use crate::proxy_header::{self, Header};
use crate::relay::{Carried, End, relay};
use crate::resolve::Endpoint;
use crate::settings::{Limits, Settings};
use crate::stream::{BoxStream, tune};
use crate::tls::{Reloading, TlsFault, TlsState};

/// Pause of a listener that has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for the alert of a gateway that has ended a connection.
const LAST_WORD: Duration = Duration::from_millis(100);

/// A reason why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The server name is no DNS name.
    #[error("server name is not a DNS name")]
    ServerName(#[from] rustls_pki_types::InvalidDnsNameError),
    /// A listening socket cannot be used.
    #[error("listening socket cannot be used")]
    Listen(#[from] io::Error),
}

/// A running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    /// Cancelled when nothing more is accepted.
    accepting: CancellationToken,
    /// Cancelled when open connections end.
    serving: CancellationToken,
    listeners: TaskTracker,
    connections: TaskTracker,
    background: CancellationToken,
    tls: watch::Receiver<TlsState>,
}

struct Shared {
    server_name: String,
    limits: Limits,
    gateways: Arc<Gateways>,
    metrics: Arc<Metrics>,
    ids: ConnectionIds,
    tls: watch::Receiver<TlsState>,
    clients: Mutex<HashMap<IpAddr, usize>>,
}

impl Proxy {
    /// Serves `listeners` in tasks of the current runtime.
    ///
    /// # Errors
    /// Fails if certificates or sockets cannot be used. Gateways that are away are no error.
    pub fn start(
        settings: Settings,
        listeners: Vec<std::net::TcpListener>,
    ) -> Result<Self, StartError> {
        let reloading = Reloading::new(settings.carrier.clone())?;
        let tls = reloading.state();
        let metrics = Arc::<Metrics>::default();
        let gateways = Gateways::new(&settings, tls.clone(), Arc::clone(&metrics))?;
        let shared = Arc::new(Shared {
            server_name: settings.server_name,
            limits: settings.limits,
            gateways: Arc::new(gateways),
            metrics,
            ids: ConnectionIds::new(),
            tls: tls.clone(),
            clients: Mutex::default(),
        });
        let proxy = Self {
            shared,
            accepting: CancellationToken::new(),
            serving: CancellationToken::new(),
            listeners: TaskTracker::new(),
            connections: TaskTracker::new(),
            background: CancellationToken::new(),
            tls,
        };
        for listener in listeners {
            listener.set_nonblocking(true)?;
            proxy.accept(TcpListener::from_std(listener)?);
        }
        let background = &proxy.background;
        tokio::spawn(background.clone().run_until_cancelled_owned(reloading.follow()));
        let check = Arc::clone(&proxy.shared.gateways).check();
        tokio::spawn(background.clone().run_until_cancelled_owned(check));
        Ok(proxy)
    }

    /// Returns the gateways.
    #[must_use]
    pub fn gateways(&self) -> &Arc<Gateways> {
        &self.shared.gateways
    }

    /// Returns the counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Returns the metrics as text, without the line that ends an exposition.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let expires = self.tls.borrow().expires;
        self.shared.metrics.text(&self.shared.gateways.report(), expires)
    }

    /// Stops accepting, gives open connections `grace` to end, and closes the rest.
    pub async fn drain(&self, grace: Duration) {
        self.accepting.cancel();
        self.listeners.close();
        self.listeners.wait().await;
        self.connections.close();
        if timeout(grace, self.connections.wait()).await.is_err() {
            self.serving.cancel();
            self.connections.wait().await;
        }
        self.background.cancel();
    }

    fn accept(&self, listener: TcpListener) {
        let (shared, serving) = (Arc::clone(&self.shared), self.serving.clone());
        let connections = self.connections.clone();
        let accepting = async move {
            loop {
                match listener.accept().await {
                    Ok((socket, peer)) => {
                        let (shared, serving) = (Arc::clone(&shared), serving.clone());
                        connections
                            .spawn(async move { shared.serve(socket, peer, &serving).await });
                    }
                    Err(error) => {
                        // Without descriptors the next call would fail at once, too.
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        self.listeners.spawn(self.accepting.clone().run_until_cancelled_owned(accepting));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.cancel();
        self.serving.cancel();
        self.background.cancel();
    }
}

/// A client's place among the open connections, given back when dropped.
struct Place<'a> {
    shared: &'a Shared,
    client: IpAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.metrics.closed();
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Facts of a client's connection.
struct Client {
    id: ConnectionId,
    address: SocketAddr,
    destination: SocketAddr,
    since: Instant,
}

/// How a connection went.
struct Served {
    outcome: Outcome,
    gateway: Option<String>,
    carried: (u64, u64),
    reason: Option<String>,
}

impl Served {
    fn unserved(outcome: Outcome, reason: String) -> Self {
        Self { outcome, gateway: None, carried: (0, 0), reason: Some(reason) }
    }
}

impl Shared {
    /// Serves a client until the end of its connection, and records it once.
    async fn serve(&self, socket: TcpStream, peer: SocketAddr, serving: &CancellationToken) {
        let client = Client {
            id: self.ids.next(),
            address: peer,
            destination: dialled_address(&socket),
            since: Instant::now(),
        };
        let served = match self.take_place(peer.ip().to_canonical()) {
            Some(_place) => self.carry(socket, &client, serving).await,
            None => Served::unserved(Outcome::Limit, "too many connections".to_owned()),
        };
        self.record(&client, &served);
    }

    fn take_place(&self, client: IpAddr) -> Option<Place<'_>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let open = usize::try_from(self.metrics.open()).unwrap_or(usize::MAX);
        let of_client = clients.get(&client).copied().unwrap_or_default();
        let is_full = |limit: Option<usize>, count| limit.is_some_and(|limit| count >= limit);
        if is_full(self.limits.connections, open) || is_full(self.limits.per_client, of_client) {
            return None;
        }
        *clients.entry(client).or_default() += 1;
        self.metrics.opened();
        Some(Place { shared: self, client })
    }

    async fn carry(
        &self,
        socket: TcpStream,
        client: &Client,
        serving: &CancellationToken,
    ) -> Served {
        tune(&socket);
        let connecting = serving.run_until_cancelled(self.connect(socket, client));
        let (mut near, dialled) = match connecting.await {
            Some(Ok(connected)) => connected,
            Some(Err(failed)) => return failed,
            None => return Served::unserved(Outcome::Drained, "the proxy stops".to_owned()),
        };
        let Dialled { stream: mut far, endpoint, .. } = dialled;
        let carried = Carried::default();
        let relaying = relay(&mut near, &mut far, &carried, self.limits.idle);
        let hearing = async {
            carried.heard.notified().await;
            self.gateways.heard(&endpoint);
            std::future::pending().await
        };
        let end = tokio::select! {
            end = serving.run_until_cancelled(relaying) => end,
            never = hearing => never,
        };
        let carried = (carried.up.load(Ordering::Relaxed), carried.down.load(Ordering::Relaxed));
        let (outcome, reason) = match end {
            Some(End::Closed) => (Outcome::Closed, None),
            Some(End::Broken(error)) => {
                let reason = error.to_string();
                if carried.1 == 0 {
                    self.unheard(&mut far, &endpoint, error).await;
                }
                (Outcome::Broken, Some(reason))
            }
            Some(End::Idle) => (Outcome::Idle, None),
            None => (Outcome::Drained, None),
        };
        Served { outcome, gateway: Some(endpoint.to_string()), carried, reason }
    }

    /// Connects to a gateway and makes the connection ready for the client's bytes.
    async fn connect(
        &self,
        socket: TcpStream,
        client: &Client,
    ) -> Result<(BoxStream, Dialled), Served> {
        let unreachable = |error: DialError| {
            tracing::warn!(id = %client.id, %error, "no gateway for a connection");
            Served::unserved(Outcome::Unreachable, error.to_string())
        };
        let config = self.tls.borrow().server.clone();
        if let Some(config) = config {
            return self.reoriginate(socket, config, unreachable).await;
        }
        self.await_client(&socket).await?;
        let mut dialled = self.gateways.connect(&[]).await.map_err(unreachable)?;
        let unique_id = client.id.to_string();
        let header = proxy_header::encode(&Header {
            source: client.address,
            destination: client.destination,
            authority: &self.server_name,
            unique_id: &unique_id,
        });
        let written = async {
            dialled.stream.write_all(&header).await?;
            dialled.stream.flush().await
        };
        match written.await {
            Ok(()) => Ok((Box::new(socket), dialled)),
            Err(error) => {
                let reason = error.to_string();
                self.unheard(&mut dialled.stream, &dialled.endpoint, error).await;
                Err(Served::unserved(Outcome::Broken, reason))
            }
        }
    }

    /// Takes note of a gateway's connection that broke before the gateway had sent a byte. Its alert may still wait behind a write that failed.
    async fn unheard(&self, far: &mut BoxStream, endpoint: &Endpoint, error: io::Error) {
        let last = timeout(LAST_WORD, far.read(&mut [0; 16])).await;
        let error = if let Ok(Err(last)) = last { last } else { error };
        self.gateways.ended_unheard(endpoint, error);
    }

    /// Waits for the client's first byte. TLS clients speak first; one that does not costs no connection to a gateway.
    async fn await_client(&self, socket: &TcpStream) -> Result<(), Served> {
        let unserved = |outcome, reason: String| Err(Served::unserved(outcome, reason));
        match timeout(self.limits.connect, socket.peek(&mut [0])).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0)) => unserved(Outcome::Closed, "the client has sent nothing".to_owned()),
            Ok(Err(error)) => unserved(Outcome::Broken, error.to_string()),
            Err(_) => {
                unserved(Outcome::Handshake, "the client has sent nothing in time".to_owned())
            }
        }
    }

    /// Ends the client's TLS and begins new TLS, with the protocol that the API server chooses of those that the client offers.
    async fn reoriginate(
        &self,
        socket: TcpStream,
        config: Arc<ServerConfig>,
        unreachable: impl Fn(DialError) -> Served,
    ) -> Result<(BoxStream, Dialled), Served> {
        let failed = |error: io::Error| Served::unserved(Outcome::Handshake, error.to_string());
        let late = || failed(io::ErrorKind::TimedOut.into());
        let accepting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket);
        let hello = timeout(self.limits.connect, accepting).await;
        let hello = hello.map_err(|_| late())?.map_err(failed)?;
        let offered: Vec<Vec<u8>> = {
            let hello = hello.client_hello();
            hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect()
        };
        let dialled = self.gateways.connect(&offered).await.map_err(unreachable)?;
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols = dialled.alpn.clone().into_iter().collect();
        let accepted = timeout(self.limits.connect, hello.into_stream(Arc::new(config))).await;
        let tls = accepted.map_err(|_| late())?.map_err(failed)?;
        Ok((Box::new(tls), dialled))
    }

    fn record(&self, client: &Client, served: &Served) {
        let (up, down) = served.carried;
        self.metrics.ended(served.outcome, served.carried);
        tracing::info!(
            id = %client.id,
            client = %client.address,
            destination = %client.destination,
            server_name = self.server_name,
            gateway = served.gateway,
            outcome = served.outcome.label(),
            reason = served.reason,
            bytes_up = up,
            bytes_down = down,
            seconds = client.since.elapsed().as_secs_f64(),
            "connection"
        );
    }
}

/// Returns the address that the client dialled: before DNAT, if kube-proxy translated it on this host.
fn dialled_address(socket: &TcpStream) -> SocketAddr {
    let kernel = SockRef::from(socket);
    let original = kernel.original_dst_v4().or_else(|_| kernel.original_dst_v6());
    let original = original.ok().and_then(|address| address.as_socket());
    let local = socket.local_addr();
    original.or_else(|| local.ok()).unwrap_or_else(|| SocketAddr::from(([0; 4], 0)))
}
