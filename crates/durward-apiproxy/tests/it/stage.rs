//! A tenant's proxy, a stand-in of the gateway, an API server behind it, and clients.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use durward_apiproxy::Proxy;
use durward_apiproxy::resolve::Resolution;
use durward_apiproxy::settings::{ALPN, Carrier, IdentityFiles, Limits, Settings, Target, Trust};
use durward_testkit::certificates::{
    Authority, CertSpec, Identity, client_config, server_config, server_config_optional_client,
};
use durward_testkit::process::TempDir;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Longer than anything here takes, also on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Name of the hosted API server. It is in no DNS.
pub(crate) const NAME: &str = "acme.k8s.test";

/// Certificates of everybody, and files of those that the proxy reads.
pub(crate) struct Pki {
    pub(crate) dir: TempDir,
    /// Authority of gateways' certificates.
    pub(crate) gateways: Authority,
    /// Authority of the tenant's proxies.
    pub(crate) proxies: Authority,
    /// Authority of the tenant's cluster.
    pub(crate) cluster: Authority,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let pki = Self {
            dir: TempDir::new(),
            gateways: Authority::new("gateways"),
            proxies: Authority::new("proxies of acme"),
            cluster: Authority::new("kubernetes"),
        };
        pki.gateways.write(pki.dir.path(), "gateways");
        pki.cluster.write(pki.dir.path(), "cluster");
        pki.write_proxy("proxy-1");
        pki.api_server().write(pki.dir.path(), "api");
        pki
    }

    /// Writes a new certificate of the proxy.
    pub(crate) fn write_proxy(&self, name: &str) {
        let identity = self.proxies.issue(&CertSpec::new().common_name(name).client());
        identity.write(self.dir.path(), "proxy");
    }

    pub(crate) fn api_server(&self) -> Identity {
        let spec = CertSpec::new().dns(NAME).dns("kubernetes.default.svc").server();
        self.cluster.issue(&spec)
    }

    pub(crate) fn identity(&self, stem: &str) -> IdentityFiles {
        let file = |end: &str| self.dir.join(format!("{stem}.{end}"));
        IdentityFiles { certificate: file("crt"), key: file("key") }
    }

    pub(crate) fn outer(&self) -> Carrier {
        let trust = Trust::Authorities(self.dir.join("gateways.crt"));
        Carrier::OuterTls { trust, identity: self.identity("proxy") }
    }
}

/// What a gateway saw of one connection.
#[derive(Clone, Debug)]
pub(crate) struct SeenConnection {
    pub(crate) sni: Option<String>,
    pub(crate) proxy: String,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) authority: String,
    pub(crate) unique_id: String,
}

/// Stand-in of the gateway: ends the outer connection, reads the header, and carries the rest to the API server.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<SeenConnection>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Gateway {
    pub(crate) async fn start(pki: &Pki, api: SocketAddr) -> Self {
        let identity = pki.gateways.issue(&CertSpec::new().dns(NAME).server());
        Self::with(&identity, &pki.proxies, &[ALPN], api).await
    }

    pub(crate) async fn with(
        identity: &Identity,
        clients: &Authority,
        alpn: &[&[u8]],
        api: SocketAddr,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::at(listener, identity, clients, (alpn, api))
    }

    /// Admits proxies of other authorities from now on, at the same address.
    pub(crate) async fn refuse(
        &mut self,
        identity: &Identity,
        clients: &Authority,
        alpn: &[&[u8]],
        api: SocketAddr,
    ) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        *self = Self::at(listener, identity, clients, (alpn, api));
    }

    fn at(
        listener: TcpListener,
        identity: &Identity,
        clients: &Authority,
        (alpn, api): (&[&[u8]], SocketAddr),
    ) -> Self {
        let mut tls = server_config(identity, Some(clients));
        tls.alpn_protocols = alpn.iter().map(|it| it.to_vec()).collect();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<SeenConnection>>>::default();
        let notes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, notes) = (tls.clone(), Arc::clone(&notes));
                tokio::spawn(async move {
                    let mut outer = tls.accept(socket).await?;
                    let seen = read_outer(&mut outer).await?;
                    notes.lock().unwrap().push(seen);
                    let mut inner = TcpStream::connect(api).await?;
                    copy_bidirectional(&mut outer, &mut inner).await
                });
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn seen(&self) -> Vec<SeenConnection> {
        self.seen.lock().unwrap().clone()
    }

    /// Refuses connections from now on.
    pub(crate) async fn stop(&mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }
}

async fn read_outer(outer: &mut server::TlsStream<TcpStream>) -> io::Result<SeenConnection> {
    let header = read_header(outer).await?;
    let (_, tls) = outer.get_ref();
    let certificate = tls.peer_certificates().unwrap()[0].clone();
    Ok(SeenConnection {
        sni: tls.server_name().map(str::to_owned),
        proxy: common_name(&certificate),
        ..header
    })
}

pub(crate) async fn read_header<T: AsyncReadExt + Unpin>(
    from: &mut T,
) -> io::Result<SeenConnection> {
    let mut fixed = [0; 16];
    from.read_exact(&mut fixed).await?;
    assert_eq!(fixed[..14], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "PROXY v2 over IPv4");
    let mut body = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
    from.read_exact(&mut body).await?;
    let address = |ip: usize, port: usize| {
        let ip: [u8; 4] = body[ip..ip + 4].try_into().unwrap();
        SocketAddr::from((ip, u16::from_be_bytes([body[port], body[port + 1]])))
    };
    let mut tlvs = std::collections::BTreeMap::new();
    let mut rest = &body[12..];
    while let [kind, high, low, more @ ..] = rest {
        let (value, after) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        tlvs.insert(*kind, String::from_utf8(value.to_vec()).unwrap());
        rest = after;
    }
    Ok(SeenConnection {
        sni: None,
        proxy: String::new(),
        source: address(0, 8),
        destination: address(4, 10),
        authority: tlvs[&2].clone(),
        unique_id: tlvs[&5].clone(),
    })
}

fn common_name(certificate: &[u8]) -> String {
    use x509_parser::prelude::FromDer as _;
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(certificate).unwrap();
    let name = certificate.subject().iter_common_name().next().unwrap();
    name.as_str().unwrap().to_owned()
}

/// Stand-in of an API server: says who the client is and which protocol was chosen, then returns what it gets.
pub(crate) async fn api_server(pki: &Pki) -> SocketAddr {
    let mut tls = server_config_optional_client(&pki.api_server(), &pki.cluster);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut stream = tls.accept(socket).await?;
                let (_, session) = stream.get_ref();
                let user = session.peer_certificates().map(|chain| common_name(&chain[0]));
                let greeting = format!(
                    "user={} protocol={} sni={}\n",
                    user.unwrap_or_else(|| "anonymous".to_owned()),
                    String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()),
                    session.server_name().unwrap_or_default(),
                );
                stream.write_all(greeting.as_bytes()).await?;
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            });
        }
    });
    address
}

/// A proxy at a loopback address.
pub(crate) struct Running {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) address: SocketAddr,
}

pub(crate) fn settings(carrier: Carrier, gateways: &[SocketAddr]) -> Settings {
    Settings {
        server_name: NAME.to_owned(),
        gateways: gateways.iter().map(|address| Target::from(*address)).collect(),
        resolution: Resolution::default(),
        http_proxy: None,
        carrier,
        limits: Limits {
            attempt: Duration::from_secs(60),
            connect: Duration::from_secs(90),
            check: Duration::from_millis(50),
            ..Limits::default()
        },
    }
}

pub(crate) fn start(settings: Settings) -> Running {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    Running { proxy: Arc::new(Proxy::start(settings, vec![listener]).unwrap()), address }
}

/// Everything, in good order.
pub(crate) struct Stage {
    pub(crate) pki: Pki,
    pub(crate) gateway: Gateway,
    pub(crate) running: Running,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let pki = Pki::new();
        let gateway = Gateway::start(&pki, api_server(&pki).await).await;
        let running = start(settings(pki.outer(), &[gateway.address]));
        Self { pki, gateway, running }
    }
}

pub(crate) type ApiClient = client::TlsStream<TcpStream>;

/// Connects as a program of the cluster does, with a client certificate or none.
pub(crate) async fn connect(
    pki: &Pki,
    address: SocketAddr,
    user: Option<&str>,
) -> io::Result<ApiClient> {
    let user = user.map(|name| pki.cluster.issue(&CertSpec::new().common_name(name).client()));
    let mut tls = client_config(&pki.cluster, user.as_ref());
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("kubernetes.default.svc").unwrap();
    TlsConnector::from(Arc::new(tls)).connect(name, socket).await
}

/// Reads the line that the API server begins with.
pub(crate) async fn greeting<T: AsyncReadExt + Unpin>(stream: &mut T) -> String {
    let mut line = String::new();
    while !line.ends_with('\n') {
        line.push(char::from(stream.read_u8().await.unwrap()));
    }
    line
}

/// Waits until `is_so`.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFnMut() -> bool) {
    assert!(durward_testkit::process::eventually(PATIENCE, is_so).await, "never: {what}");
}
