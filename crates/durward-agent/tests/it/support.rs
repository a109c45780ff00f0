//! A gateway that takes every agent, and an agent with its certificates.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use durward_agent::config::{AgentFile, Environment};
use durward_agent::status::Status;
use durward_link::carrier::{ALPN, websocket};
use durward_link::control::{Hello, Refused, Verdicts};
use durward_link::session::gateway::{self, Admission, Carrier};
use durward_link::{Bounds, RouteSet};
use durward_testkit::certificates::{Authority, CertSpec, Identity, server_config};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Generous bound of waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Authority of both certificates, and the two of them.
pub(crate) struct World {
    dir: tempfile::TempDir,
    servers: Authority,
    server: Identity,
}

/// State of a gateway that its test looks at.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) carriers: Mutex<Vec<Arc<Carrier>>>,
    pub(crate) routes: Mutex<Vec<RouteSet>>,
    pub(crate) hellos: AtomicU32,
    /// Agents are refused while this is true.
    pub(crate) refuses: AtomicBool,
    /// Milliseconds that they are to wait then, beside one.
    pub(crate) wait: AtomicU32,
}

/// Gateway that listens on loopback.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    pub(crate) drain: CancellationToken,
    stop: CancellationToken,
}

struct Host(Arc<Seen>);

impl gateway::Host for Host {
    fn admit(&mut self, _: &Hello) -> Result<Admission, Refused> {
        self.0.hellos.fetch_add(1, Relaxed);
        if self.0.refuses.load(Relaxed) {
            return Err(Refused {
                reason: "not now".to_owned(),
                retry_after_ms: 1 + u64::from(self.0.wait.load(Relaxed)),
            });
        }
        Ok(Admission { carriers: 2, core: 0, replica: "test".to_owned(), proof_key: None })
    }

    fn opened(&mut self, carrier: &Arc<Carrier>) {
        self.0.carriers.lock().unwrap().push(Arc::clone(carrier));
    }

    fn hold(&mut self, _: usize) -> bool {
        true
    }

    fn routes(&mut self, routes: RouteSet) {
        self.0.routes.lock().unwrap().push(routes);
    }

    fn cluster(&mut self, _: durward_link::control::ClusterState) {}

    async fn registered(&mut self) -> Verdicts {
        std::future::pending().await
    }

    fn closed(&mut self, carrier: &Arc<Carrier>) {
        self.0.carriers.lock().unwrap().retain(|one| !Arc::ptr_eq(one, carrier));
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let servers = Authority::new("servers");
        let server = servers.issue(&CertSpec::new().ip([127, 0, 0, 1]).server());
        let agent = servers.issue(&CertSpec::new().dns("agent.example").client());
        agent.write(dir.path(), "agent");
        servers.write(dir.path(), "ca");
        Self { dir, servers, server }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a gateway.
    pub(crate) async fn gateway(&self) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = server_config(&self.server, Some(&self.servers));
        config.alpn_protocols = vec![ALPN.to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let gateway = Gateway {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let (seen, drain) = (Arc::clone(&gateway.seen), gateway.drain.clone());
        tokio::spawn(gateway.stop.clone().run_until_cancelled_owned(async move {
            // Connections end with the set.
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, seen, drain) = (acceptor.clone(), Arc::clone(&seen), drain.clone());
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let drain = async {
                        drain.cancelled().await;
                        (Duration::from_millis(100), Vec::new())
                    };
                    let mut host = Host(seen);
                    let bounds = Bounds::default();
                    if stream.get_ref().1.alpn_protocol() == Some(ALPN) {
                        let _ = gateway::serve(stream, bounds, &mut host, drain).await;
                    } else if let Ok(socket) = websocket::accept(stream).await {
                        let _ = gateway::serve(socket, bounds, &mut host, drain).await;
                    }
                });
            }
        }));
        gateway
    }
}

impl Gateway {
    /// Closes everything at once, as a crash would.
    pub(crate) fn kill(&self) {
        self.stop.cancel();
    }

    /// Returns a carrier for data, once there is one.
    pub(crate) async fn carrier(&self) -> Arc<Carrier> {
        eventually(|| self.seen.carriers.lock().unwrap().last().cloned()).await
    }
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it comes about")
}

/// Running agent.
pub(crate) struct Agent {
    pub(crate) status: Arc<Status>,
    pub(crate) routes: watch::Sender<Arc<RouteSet>>,
    pub(crate) retry: Arc<tokio::sync::Notify>,
    pub(crate) stopped: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl World {
    /// Starts an agent with these lines beside link and certificates.
    pub(crate) fn agent(&self, more: &str) -> Agent {
        self.agent_in(more, &Environment::default())
    }

    pub(crate) fn agent_in(&self, more: &str, environment: &Environment) -> Agent {
        let path = self.dir().join("agent.yaml");
        let text = format!(
            "link: onprem\ncaFile: ca.crt\ncertificateFile: agent.crt\nkeyFile: agent.key\n{more}\n"
        );
        std::fs::write(&path, text).unwrap();
        let file = AgentFile::read(&path).unwrap();
        let settings = file.settings(self.dir(), environment).unwrap();
        let retry = Arc::clone(&settings.retry);
        let (routes, held) = watch::channel(Arc::new(file.routes(1).unwrap()));
        let (status, stopped) = (Arc::<Status>::default(), CancellationToken::new());
        let running = durward_agent::run(settings, held, Arc::clone(&status), stopped.clone());
        Agent { status, routes, retry, stopped, task: tokio::spawn(running) }
    }
}
