//! Real control planes from binaries: etcd, kube-apiserver and, where it is wanted and there, kube-controller-manager, on loopback.
//!
//! One per test binary is shared by its tests. A control plane ends with its handle, and with the test binary, also when that is killed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::certificates::{Authority, CertSpec, Identity};
use crate::process::{Child, free_port};

/// Time that a control plane is given to be ready, on a loaded machine.
const READY: Duration = Duration::from_secs(180);

const API_SERVER: &str = "kube-apiserver";

/// Begin of the names of the directories of control planes; the process id follows.
const PREFIX: &str = "durward-control-plane-";

/// Settings of a control plane.
#[derive(Clone, Debug)]
pub struct PlaneSettings {
    /// Address at which kube-apiserver listens.
    pub address: SocketAddr,
    /// Names in the server's certificate besides the usual ones.
    pub names: Vec<String>,
    /// Address that the server writes into the endpoints of `default/kubernetes`; with `None` it writes none.
    pub advertise: Option<Ipv4Addr>,
    /// True if kube-controller-manager is to run, where it is there.
    pub controllers: bool,
}

/// Running control plane.
pub struct ControlPlane {
    settings: PlaneSettings,
    authority: Authority,
    admin: Identity,
    dir: PathBuf,
    has_controllers: bool,
    assets: PathBuf,
    /// Arguments of kube-apiserver.
    server: Vec<String>,
    children: Vec<(&'static str, Child)>,
}

impl PlaneSettings {
    /// Builds the settings of a control plane at a free port of 127.0.0.1 that writes no endpoints.
    #[must_use]
    pub fn local() -> Self {
        let loopback = Ipv4Addr::LOCALHOST;
        let address = SocketAddr::from((loopback, free_port(loopback.octets())));
        Self { address, names: Vec::new(), advertise: None, controllers: true }
    }
}

impl ControlPlane {
    /// Starts a control plane of the programs in a directory, and waits until it is ready. It ends with the calling thread at the latest.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start(assets: &Path, settings: PlaneSettings) -> Self {
        Starting::new(assets.to_owned(), settings).start()
    }

    /// Returns the address of the API server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.settings.address
    }

    /// Returns the URL of the API server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.settings.address)
    }

    /// Returns the authority of the server's certificate and of its clients' certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Kills kube-apiserver; etcd keeps what was stored.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill_server(&mut self) {
        let position = self.position(API_SERVER).expect("kube-apiserver runs");
        self.children.remove(position).1.kill();
    }

    /// Starts kube-apiserver again after [`Self::kill_server`], and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    pub fn start_server_again(&mut self) {
        let mut command = command(&self.assets, API_SERVER, &self.dir);
        command.args(&self.server);
        // After etcd, which it needs, and before what needs it.
        let after = self.position("etcd").map_or(0, |etcd| etcd + 1);
        self.children.insert(after, (API_SERVER, Child::spawn(command)));
        wait_for_server(self.settings.address, &self.authority, &mut self.children);
    }

    fn position(&self, program: &str) -> Option<usize> {
        self.children.iter().position(|(name, _)| *name == program)
    }

    /// Returns whether kube-controller-manager runs.
    pub(crate) fn has_controllers(&self) -> bool {
        self.has_controllers
    }

    /// Returns a user with a client certificate, as in a kubeconfig: the administrator.
    pub(crate) fn admin(&self) -> Value {
        user(&self.admin)
    }

    /// Returns a file with the server's own certificate, and one with its key.
    #[must_use]
    pub fn serving(&self) -> [PathBuf; 2] {
        ["server.crt", "server.key"].map(|name| self.dir.join(name))
    }

    /// Returns a kubeconfig, as JSON, of a user with a client certificate for a server at a URL, whose certificate is verified for `name` if there is one.
    #[must_use]
    pub fn kubeconfig(&self, url: &str, name: Option<&str>, client: &Identity) -> Value {
        let mut cluster = json!({
            "server": url,
            "certificate-authority-data": BASE64_STANDARD.encode(self.authority.pem()),
        });
        if let Some(name) = name {
            cluster["tls-server-name"] = name.into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user(client)}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        })
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // The last first: each of them needs those before it.
        while self.children.pop().is_some() {}
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn user(client: &Identity) -> Value {
    json!({
        "client-certificate-data": BASE64_STANDARD.encode(&client.chain_pem),
        "client-key-data": BASE64_STANDARD.encode(&client.key_pem),
    })
}

/// Returns the control plane of this process; the first call starts it.
pub(crate) fn shared(assets: &Path) -> &'static ControlPlane {
    static SHARED: OnceLock<Option<ControlPlane>> = OnceLock::new();
    let started = SHARED.get_or_init(|| {
        let assets = assets.to_owned();
        let (sender, receiver) = std::sync::mpsc::channel();
        // The children end when the thread that started them does, so it has to stay.
        std::thread::Builder::new()
            .name("control plane".to_owned())
            .spawn(move || {
                let started = ControlPlane::start(&assets, PlaneSettings::local());
                let _ = sender.send(started);
                loop {
                    std::thread::park();
                }
            })
            .expect("a thread is started");
        // The thread has said why it could not; the other tests need not wait for it again.
        receiver.recv().ok()
    });
    started.as_ref().expect("the control plane starts")
}

/// Control plane on its way, and its processes.
struct Starting {
    assets: PathBuf,
    settings: PlaneSettings,
    dir: PathBuf,
    authority: Authority,
    children: Vec<(&'static str, Child)>,
}

impl Starting {
    fn new(assets: PathBuf, settings: PlaneSettings) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        clean_up();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("{PREFIX}{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self {
            assets,
            settings,
            dir,
            authority: Authority::new("kubernetes"),
            children: Vec::new(),
        }
    }

    fn start(mut self) -> ControlPlane {
        let etcd = self.start_etcd();
        let spec = CertSpec::new().ip([127, 0, 0, 1]).ip([10, 96, 0, 1]).dns("localhost");
        let spec = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .iter()
            .fold(spec.ip(self.settings.address.ip()), |spec, name| spec.dns(name));
        let names = self.settings.names.iter();
        let server = self.authority.issue(&names.fold(spec, |spec, name| spec.dns(name)).server());
        let client = |name: &str, group: &str| {
            let spec = CertSpec::new().common_name(name).organization(group).client();
            self.authority.issue(&spec)
        };
        let admin = client("kubernetes-admin", "system:masters");
        let manager = client("system:kube-controller-manager", "system:controllers");
        server.write(&self.dir, "server");
        admin.write(&self.dir, "admin");
        self.authority.write(&self.dir, "authority");
        // For the tokens of service accounts: the server takes the public key from the certificate.
        self.authority.issue(&CertSpec::new()).write(&self.dir, "accounts");
        let is_there = self.assets.join("kube-controller-manager").exists();
        let has_controllers = self.settings.controllers && is_there;
        let server = self.start_server(&etcd, has_controllers);
        wait_for_server(self.settings.address, &self.authority, &mut self.children);
        let Self { settings, dir, authority, children, assets } = self;
        let mut plane = ControlPlane {
            settings,
            authority,
            admin,
            dir,
            has_controllers,
            assets,
            server,
            children,
        };
        if has_controllers {
            plane.start_controllers(&manager);
        }
        plane
    }

    /// See [`command`].
    fn command(&self, program: &str) -> Command {
        command(&self.assets, program, &self.dir)
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    fn start_etcd(&mut self) -> String {
        let (client, peer) = (free_port([127, 0, 0, 1]), free_port([127, 0, 0, 1]));
        let (client, peer) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = self.command("etcd");
        command
            .args(["--name", "default", "--unsafe-no-fsync", "--log-level", "warn"])
            .args(["--data-dir", &self.file("etcd")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")]);
        self.children.push(("etcd", Child::spawn(command)));
        client
    }

    /// Starts kube-apiserver and returns its arguments.
    fn start_server(&mut self, etcd: &str, has_controllers: bool) -> Vec<String> {
        let PlaneSettings { address, advertise, .. } = &self.settings;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = self.command(API_SERVER);
        match advertise {
            Some(advertised) => command.args(["--advertise-address", &advertised.to_string()]),
            // With a loopback address the server would write endpoints that it refuses itself.
            None => {
                command.args(["--advertise-address", &ip, "--endpoint-reconciler-type", "none"])
            }
        };
        command
            .args(["--etcd-servers", etcd, "--bind-address", &ip, "--secure-port", &port])
            .args(["--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged"])
            .args(["--tls-cert-file", &self.file("server.crt")])
            .args(["--tls-private-key-file", &self.file("server.key")])
            .args(["--client-ca-file", &self.file("authority.crt")])
            .args(["--authorization-mode", "Node,RBAC"])
            .args(["--kubelet-certificate-authority", &self.file("authority.crt")])
            .args(["--kubelet-client-certificate", &self.file("admin.crt")])
            .args(["--kubelet-client-key", &self.file("admin.key")])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(["--service-account-key-file", &self.file("accounts.crt")])
            .args(["--service-account-signing-key-file", &self.file("accounts.key")]);
        if !has_controllers {
            // Nobody would make the service account that pods need.
            command.args(["--disable-admission-plugins", "ServiceAccount"]);
        }
        let arguments = command.get_args().map(|one| one.to_string_lossy().into_owned());
        let arguments = arguments.skip(COMMAND_ARGUMENTS).collect();
        self.children.push((API_SERVER, Child::spawn(command)));
        arguments
    }
}

/// Waits until the server says that it is ready.
fn wait_for_server(
    server: SocketAddr,
    authority: &Authority,
    children: &mut [(&'static str, Child)],
) {
    let end = Instant::now() + READY;
    while !is_ready(server, authority) {
        for (name, child) in &mut *children {
            assert!(child.is_running(), "{name} ended; its output:\n{}", child.output());
        }
        assert!(Instant::now() < end, "the control plane is not ready after {READY:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl ControlPlane {
    fn start_controllers(&mut self, manager: &Identity) {
        let file = self.dir.join("manager.kubeconfig");
        let kubeconfig = self.kubeconfig(&self.url(), None, manager).to_string();
        std::fs::write(&file, kubeconfig).expect("the temporary directory is writable");
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let mut command = command(&self.assets, "kube-controller-manager", &self.dir);
        command
            .args(["--kubeconfig", &path("manager.kubeconfig"), "--secure-port", "0"])
            .args(["--leader-elect=false", "--use-service-account-credentials"])
            .args(["--service-account-private-key-file", &path("accounts.key")])
            .args(["--root-ca-file", &path("authority.crt")]);
        self.children.push(("kube-controller-manager", Child::spawn(command)));
    }
}

/// Number of arguments of [`command`] before the program's own.
const COMMAND_ARGUMENTS: usize = 4;

/// Prepares a command that ends with the thread that starts it.
fn command(assets: &Path, program: &str, dir: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(assets.join(program));
    command.current_dir(dir);
    command
}

fn is_ready(server: SocketAddr, authority: &Authority) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    runtime.block_on(async {
        let asked = tokio::time::timeout(Duration::from_secs(10), ask(server, authority)).await;
        matches!(asked, Ok(Some(answer)) if answer.starts_with("HTTP/1.1 200"))
    })
}

/// Asks for `/readyz`, which everybody may read.
async fn ask(server: SocketAddr, authority: &Authority) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = std::sync::Arc::new(crate::certificates::client_config(authority, None));
    let stream = tokio::net::TcpStream::connect(server).await.ok()?;
    let name = rustls_pki_types::ServerName::try_from("localhost").ok()?;
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.ok()?;
    let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // A server that closes without a goodbye of TLS has still answered.
    let _ = stream.read_to_end(&mut answer).await;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Removes what control planes of processes that are gone have left.
fn clean_up() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let id = rest.split('-').next().unwrap_or_default();
        if id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists() {
            // Another test binary may be removing it, too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
