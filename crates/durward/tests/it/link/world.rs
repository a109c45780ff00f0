//! A gateway with tenants behind links, and agents for them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use durward_agent::config::{AgentFile, Environment};
use durward_agent::status::Status;
use durward_testkit::certificates::{Authority, CertSpec, Identity};
use durward_testkit::process::{TempDir, eventually_blocking, unique_loopback};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gateway::{Gateway, Preparation};
use crate::support::DEADLINE;

/// Ports of a tenant: HTTP, TCP and its agents' listener.
pub(super) const HTTP: u16 = 8080;
pub(super) const TCP: u16 = 9000;
pub(super) const LINK: u16 = 7443;

/// A tenant whose only upstreams are behind its link `onprem`.
pub(super) struct Tenant {
    pub(super) name: &'static str,
    pub(super) address: IpAddr,
    agents: Authority,
}

impl Tenant {
    /// A tenant on an address of its own, with its certificates in `dir`.
    pub(super) fn new(name: &'static str, dir: &Path, servers: &Authority) -> Self {
        let address = IpAddr::from(unique_loopback());
        let agents = Authority::new(&format!("agents of {name}"));
        agents.write(dir, &format!("{name}-agents"));
        servers.issue(&CertSpec::new().ip(address).server()).write(dir, &format!("{name}-link"));
        Self { name, address, agents }
    }

    pub(super) fn http(&self) -> SocketAddr {
        (self.address, HTTP).into()
    }

    pub(super) fn tcp(&self) -> SocketAddr {
        (self.address, TCP).into()
    }

    /// The list that revokes these certificates of its agents, PEM.
    pub(super) fn revoke(&self, agents: &[&Identity]) -> String {
        self.agents.revoke(agents).pem
    }

    /// Its document: HTTP to `http`, TCP to `tcp`, both behind the link.
    pub(super) fn document(&self, http: SocketAddr, tcp: SocketAddr) -> String {
        let Self { name, address, .. } = self;
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n  \
             - {{address: {address}, port: {HTTP}, protocol: HTTP, upstream: app}}\n  \
             - {{address: {address}, port: {TCP}, protocol: TCP, upstream: raw}}\n  \
             - {{address: {address}, port: {LINK}, protocol: LINK, certificate: {{file: {name}-link}}, clientCertificates: {{caFile: {name}-agents.crt}}, \
             links: [{{name: onprem, certificateNames: [agent.{name}.example]}}]}}\n  upstreams:\n    \
             app: {{link: onprem, endpoints: ['{http}']}}\n    raw: {{link: onprem, protocol: TCP, endpoints: ['{tcp}']}}\n  \
             egress: {{addresses: [{address}]}}\n---\n"
        )
    }
}

/// Agent in a thread of its own.
pub(super) struct Agent {
    pub(super) status: Arc<Status>,
    stopped: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What an agent shows and dials.
pub(super) struct AgentOf<'a> {
    /// Tenant whose authority issued its certificate.
    pub(super) tenant: &'a Tenant,
    /// Name in its certificate.
    pub(super) certificate: &'a str,
    /// Name of the link that it says.
    pub(super) link: &'a str,
    /// Where it dials.
    pub(super) gateway: SocketAddr,
    /// `tls` or `wss`.
    pub(super) scheme: &'a str,
    /// Backends that it connects to.
    pub(super) backends: &'a [SocketAddr],
    /// Services that it connects to, each with its protocol.
    pub(super) services: &'a [(&'a str, SocketAddr)],
}

impl AgentOf<'_> {
    /// Writes its configuration with its certificates.
    pub(super) fn write(&self, dir: &TempDir, servers: &Authority) -> PathBuf {
        self.write_shown(dir, servers).0
    }

    fn write_shown(&self, dir: &TempDir, servers: &Authority) -> (PathBuf, Identity) {
        let identity = self.tenant.agents.issue(&CertSpec::new().dns(self.certificate).client());
        identity.write(dir.path(), "agent");
        servers.write(dir.path(), "servers");
        let (link, scheme, gateway) = (self.link, self.scheme, self.gateway);
        let all = self.backends.iter().chain(self.services.iter().map(|(_, at)| at));
        let places = all.clone().map(|at| format!("'{at}'")).collect::<Vec<_>>().join(", ");
        let routes = self.backends.iter().enumerate();
        let routes =
            routes.map(|(number, at)| format!("{{host: app{number}.example, target: '{at}'}}"));
        let services = self.services.iter();
        let services =
            services.map(|(protocol, at)| format!("{{protocol: {protocol}, target: '{at}'}}"));
        let text = format!(
            "link: {link}\ngateways: ['{scheme}://{gateway}']\ncaFile: servers.crt\ncertificateFile: agent.crt\nkeyFile: agent.key\n\
             allow: [{places}]\ndrainGraceSeconds: 20\nservices: [{}]\nroutes: [{}]\n",
            services.collect::<Vec<_>>().join(", "),
            routes.collect::<Vec<_>>().join(", ")
        );
        (dir.write("agent.yaml", text), identity)
    }

    pub(super) fn start(self, servers: &Authority) -> Agent {
        self.start_shown(servers).0
    }

    /// Starts it, and returns the certificate that it shows as well.
    pub(super) fn start_shown(self, servers: &Authority) -> (Agent, Identity) {
        let dir = TempDir::new();
        let (path, identity) = self.write_shown(&dir, servers);
        (Agent::start_file(dir, &path), identity)
    }
}

impl Agent {
    /// Starts an agent by its file, which is in `dir`.
    pub(super) fn start_file(dir: TempDir, path: &Path) -> Self {
        let file = AgentFile::read(path).unwrap();
        let settings = file.settings(dir.path(), &Environment::default()).unwrap();
        let routes = file.routes(1).unwrap();
        let (status, stopped) = (Arc::<Status>::default(), CancellationToken::new());
        let thread = std::thread::spawn({
            let (status, stopped) = (Arc::clone(&status), stopped.clone());
            move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let (_kept, held) = watch::channel(Arc::new(routes));
                runtime.block_on(durward_agent::run(settings, held, status, stopped));
                drop(dir);
            }
        });
        Self { status, stopped, thread: Some(thread) }
    }

    /// Waits until the gateway can open streams and holds the routes.
    pub(super) fn wait_ready(&self) {
        let ready = || {
            let report = self.status.report();
            report.ready && report.routes_held.is_some()
        };
        assert!(eventually_blocking(DEADLINE, ready), "{:?}", self.status.report());
    }

    /// Ends it gracefully.
    pub(super) fn stop(mut self) {
        self.stopped.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

/// Tenants and their gateway, before it starts.
pub(super) struct World {
    pub(super) servers: Authority,
    preparation: Preparation,
}

impl World {
    pub(super) fn new() -> Self {
        Self { servers: Authority::new("servers"), preparation: Gateway::prepare() }
    }

    pub(super) fn tenant(&self, name: &'static str) -> Tenant {
        Tenant::new(name, self.preparation.dir(), &self.servers)
    }

    /// Writes a file where documents find it.
    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.preparation.dir().join(name), text).unwrap();
    }

    /// Writes the authority of servers where documents find it.
    pub(super) fn write_servers(&self) {
        self.servers.write(self.preparation.dir(), "servers");
    }

    /// Starts the gateway; nothing is wrong with the documents.
    pub(super) fn start(self, documents: &str) -> (Gateway, Authority) {
        let gateway = self.preparation.start(documents);
        assert_eq!(gateway.findings(), Vec::<String>::new());
        (gateway, self.servers)
    }
}

/// An agent as it should be, that dials its tenant's listener.
pub(super) fn agent<'a>(
    tenant: &'a Tenant,
    certificate: &'a str,
    backends: &'a [SocketAddr],
) -> AgentOf<'a> {
    let gateway = (tenant.address, LINK).into();
    AgentOf { tenant, certificate, link: "onprem", gateway, scheme: "tls", backends, services: &[] }
}
