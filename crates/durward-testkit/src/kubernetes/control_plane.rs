//! A real control plane from binaries: etcd, kube-apiserver and, where it is there, kube-controller-manager, on free loopback ports.
//!
//! There is one per test binary. It ends with the test binary, also when that is killed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::certificates::{Authority, CertSpec, Identity};
use crate::process::{Child, free_port};

/// Time that a control plane is given to be ready, on a loaded machine.
const READY: Duration = Duration::from_secs(180);

/// Begin of the names of the directories of control planes; the process id follows.
const PREFIX: &str = "durward-control-plane-";

/// Running control plane.
pub(crate) struct ControlPlane {
    pub(crate) url: String,
    pub(crate) authority: String,
    /// Administrator.
    pub(crate) admin: Identity,
    /// True if kube-controller-manager runs.
    pub(crate) has_controllers: bool,
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
                let mut plane = Starting::new(assets);
                let started = plane.start();
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
    dir: PathBuf,
    authority: Authority,
    children: Vec<(&'static str, Child)>,
}

impl Starting {
    fn new(assets: PathBuf) -> Self {
        clean_up();
        let dir = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self { assets, dir, authority: Authority::new("kubernetes"), children: Vec::new() }
    }

    fn start(&mut self) -> ControlPlane {
        let loopback = [127, 0, 0, 1];
        let etcd = self.start_etcd();
        let port = free_port(loopback);
        let spec = CertSpec::new().ip(loopback).ip([10, 96, 0, 1]).dns("localhost");
        let server = self.authority.issue(&spec.dns("kubernetes.default.svc").server());
        let client = |name: &str, group: &str| {
            let spec = CertSpec::new().common_name(name).organization(group).client();
            self.authority.issue(&spec)
        };
        let admin = client("kubernetes-admin", "system:masters");
        let manager = client("system:kube-controller-manager", "system:controllers");
        server.write(&self.dir, "server");
        admin.write(&self.dir, "admin");
        manager.write(&self.dir, "manager");
        self.authority.write(&self.dir, "authority");
        // For the tokens of service accounts: the server takes the public key from the certificate.
        self.authority.issue(&CertSpec::new()).write(&self.dir, "accounts");
        let has_controllers = self.assets.join("kube-controller-manager").exists();
        self.start_server(&etcd, port, has_controllers);
        let url = format!("https://127.0.0.1:{port}");
        self.wait_for_server(port);
        if has_controllers {
            self.start_controllers(&url);
        }
        let authority = self.authority.pem();
        ControlPlane { url, authority, admin, has_controllers }
    }

    /// Prepares a command that ends with the thread that starts it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.assets.join(program));
        command.current_dir(&self.dir);
        command
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

    fn start_server(&mut self, etcd: &str, port: u16, has_controllers: bool) {
        let mut command = self.command("kube-apiserver");
        command
            .args(["--etcd-servers", etcd, "--bind-address", "127.0.0.1"])
            .args(["--secure-port", &port.to_string()])
            // With a loopback address the server would write endpoints that it refuses itself.
            .args(["--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"])
            .args(["--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged"])
            .args(["--tls-cert-file", &self.file("server.crt")])
            .args(["--tls-private-key-file", &self.file("server.key")])
            .args(["--client-ca-file", &self.file("authority.crt")])
            .args(["--authorization-mode", "Node,RBAC"])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(["--service-account-key-file", &self.file("accounts.crt")])
            .args(["--service-account-signing-key-file", &self.file("accounts.key")]);
        if !has_controllers {
            // Nobody would make the service account that pods need.
            command.args(["--disable-admission-plugins", "ServiceAccount"]);
        }
        self.children.push(("kube-apiserver", Child::spawn(command)));
    }

    fn start_controllers(&mut self, url: &str) {
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": self.file("authority.crt")}}],
            "users": [{"name": "u", "user": {
                "client-certificate": self.file("manager.crt"),
                "client-key": self.file("manager.key"),
            }}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        });
        let file = self.file("manager.kubeconfig");
        std::fs::write(&file, kubeconfig.to_string()).expect("the temporary directory is writable");
        let mut command = self.command("kube-controller-manager");
        command
            .args(["--kubeconfig", &file, "--secure-port", "0", "--leader-elect=false"])
            .args(["--use-service-account-credentials"])
            .args(["--service-account-private-key-file", &self.file("accounts.key")])
            .args(["--root-ca-file", &self.file("authority.crt")]);
        self.children.push(("kube-controller-manager", Child::spawn(command)));
    }

    /// Waits until the server says that it is ready.
    fn wait_for_server(&mut self, port: u16) {
        let end = Instant::now() + READY;
        while !is_ready(port, &self.authority) {
            for (name, child) in &mut self.children {
                assert!(child.is_running(), "{name} ended; its output:\n{}", child.output());
            }
            assert!(Instant::now() < end, "the control plane is not ready after {READY:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn is_ready(port: u16, authority: &Authority) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    runtime.block_on(async {
        let asked = tokio::time::timeout(Duration::from_secs(10), ask(port, authority)).await;
        matches!(asked, Ok(Some(answer)) if answer.starts_with("HTTP/1.1 200"))
    })
}

/// Asks for `/readyz`, which everybody may read.
async fn ask(port: u16, authority: &Authority) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = std::sync::Arc::new(crate::certificates::client_config(authority, None));
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
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
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists() {
            // Another test binary may be removing it, too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
