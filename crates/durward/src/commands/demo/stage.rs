//! Stage of the demo: free ports, and a directory with real documents and certificates, removed when the demo ends.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use durward_apiproxy::kubeconfig::{Access, Credential, Kubeconfig};
use tempfile::TempDir;

use crate::authority::{Authority, Wish, write};
use crate::cli::KeyKind;
use crate::failure::Failure;

/// Ingress and egress address of acme.
pub(crate) const ACME: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Ingress and egress address of globex.
pub(crate) const GLOBEX: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// Ingress address that acme and initech share by names.
pub(crate) const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));
/// Names at the shared address, each with its tenant.
pub(crate) const NAMES: [(&str, &str); 2] = [("acme", "acme.demo"), ("initech", "initech.demo")];
/// Address of both API servers.
pub(crate) const APIS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
/// Names of API servers, each with its tenant and the directory of its cluster's authority.
pub(crate) const API_SERVERS: [(&str, &str, &str); 2] =
    [("acme", "acme-api.demo", "acme-cluster"), ("initech", "initech-api.demo", "initech-cluster")];
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const ACME_DOCUMENT: &str = include_str!("acme.yaml");
const GLOBEX_DOCUMENT: &str = include_str!("globex.yaml");
const INITECH_DOCUMENT: &str = include_str!("initech.yaml");
const API_DOCUMENTS: &str = include_str!("api-servers.yaml");

/// Ports of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Ingress port of all tenants.
    pub(crate) gateway: u16,
    /// Port of the partner.
    pub(crate) bank: u16,
    /// Port of the tenants' application.
    pub(crate) shop: u16,
    /// Port without a listener.
    pub(crate) dead: u16,
    /// Port of the admin listener.
    pub(crate) admin: u16,
    /// Port of acme's forward proxy.
    pub(crate) proxy: u16,
    /// Ports of the API servers, in the order of [`API_SERVERS`].
    pub(crate) apis: [u16; 2],
}

impl Ports {
    /// Preferred ports.
    pub(crate) const WISHED: Self = Self {
        gateway: 8443,
        bank: 9443,
        shop: 9081,
        dead: 9082,
        admin: 9440,
        proxy: 3128,
        apis: [6443, 6444],
    };

    /// Returns the preferred ports, or the next free ones.
    pub(crate) fn find() -> Result<Self, Failure> {
        let wished = Self::WISHED;
        let gateway = next_free(wished.gateway, &[ACME, GLOBEX, SHARED, APIS], &[])?;
        let bank = next_free(wished.bank, &[HERE], &[gateway])?;
        let shop = next_free(wished.shop, &[HERE], &[gateway, bank])?;
        let dead = next_free(wished.dead, &[HERE], &[gateway, bank, shop])?;
        let admin = next_free(wished.admin, &[HERE], &[gateway, bank, shop, dead])?;
        let proxy = next_free(wished.proxy, &[ACME], &[gateway, bank, shop, dead, admin])?;
        let taken = [gateway, bank, shop, dead, admin, proxy];
        let first = next_free(wished.apis[0], &[HERE], &taken)?;
        // The search begins after the first one.
        let second = next_free(first.saturating_add(1), &[HERE], &taken)?;
        Ok(Self { gateway, bank, shop, dead, admin, proxy, apis: [first, second] })
    }

    /// Describes the ports that are not the preferred ones.
    pub(crate) fn moved(&self) -> Option<String> {
        let wished = Self::WISHED;
        let pairs = [
            ("gateway", wished.gateway, self.gateway),
            ("bank", wished.bank, self.bank),
            ("admin", wished.admin, self.admin),
            ("proxy", wished.proxy, self.proxy),
        ];
        let moved: Vec<String> = pairs
            .iter()
            .filter(|(_, wished, got)| wished != got)
            .map(|(name, wished, got)| format!("{name} {wished} is taken, {got} is used"))
            .collect();
        (!moved.is_empty()).then(|| moved.join("; "))
    }
}

fn next_free(from: u16, addresses: &[IpAddr], taken: &[u16]) -> Result<u16, Failure> {
    let free = |port: &u16| {
        !taken.contains(port)
            && addresses
                .iter()
                .all(|address| TcpListener::bind(SocketAddr::new(*address, *port)).is_ok())
    };
    (from..from.saturating_add(200)).find(free).ok_or_else(|| {
        let address = addresses.first().map(ToString::to_string).unwrap_or_default();
        Failure::broken(
            format!("looking for a free port from {from} on {address}"),
            "there is none; outside Linux 127.0.0.2 to 127.0.0.6 must be added to the loopback interface first",
        )
    })
}

/// Returns the documents, in the order of their files.
pub(crate) fn documents(ports: &Ports) -> [(&'static str, String); 4] {
    let fill = |text: &str| {
        text.replace("@PORT@", &ports.gateway.to_string())
            .replace("@BANK@", &ports.bank.to_string())
            .replace("@SHOP@", &ports.shop.to_string())
            .replace("@DEAD@", &ports.dead.to_string())
            .replace("@PROXY@", &ports.proxy.to_string())
            .replace("@ACME_API@", &ports.apis[0].to_string())
            .replace("@INITECH_API@", &ports.apis[1].to_string())
    };
    [
        ("acme.yaml", fill(ACME_DOCUMENT)),
        ("globex.yaml", fill(GLOBEX_DOCUMENT)),
        ("initech.yaml", fill(INITECH_DOCUMENT)),
        ("api-servers.yaml", fill(API_DOCUMENTS)),
    ]
}

/// Directory with everything the demo serves.
pub(crate) struct Stage {
    dir: TempDir,
    /// Ports in the documents.
    pub(crate) ports: Ports,
}

impl Stage {
    /// Creates the directory, its certificates and documents.
    pub(crate) fn build() -> Result<Self, Failure> {
        let ports = Ports::find()?;
        let dir = tempfile::Builder::new()
            .prefix("durward-demo-")
            .tempdir()
            .map_err(|error| Failure::broken("making a temporary directory", error))?;
        let stage = Self { dir, ports };
        stage.certificates()?;
        for (name, text) in documents(&ports) {
            write(&stage.path().join(name), &text, 0o644, false)?;
        }
        write(&stage.path().join("env"), &stage.environment(), 0o644, false)?;
        Ok(stage)
    }

    /// Returns the directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the path of a file in the directory with certificates.
    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.path().join("certs").join(name)
    }

    fn certificates(&self) -> Result<(), Failure> {
        let dir = self.path().join("certs");
        fs::create_dir_all(&dir)
            .map_err(|error| Failure::broken(format!("making {}", dir.display()), error))?;
        let (authority, _) = Authority::keep_in(&dir)?;
        let server = |ip| wish(&[ip], &[]);
        let wishes = [
            ("acme", Wish { name: "acme".to_owned(), ..server(ACME) }),
            // Seven days of validity show as six whole days left; that is soon for a certificate of 60 days.
            ("globex", Wish { name: "globex".to_owned(), passed: 53, days: 7, ..server(GLOBEX) }),
            ("acme-by-name", Wish { name: "acme".to_owned(), ..wish(&[], &["acme.demo"]) }),
            ("initech", Wish { name: "initech".to_owned(), ..wish(&[], &["initech.demo"]) }),
            ("bank", Wish { name: "bank".to_owned(), ..wish(&[HERE], &["bank.demo"]) }),
            ("partner", client("partner")),
            ("acme-at-bank", client("acme")),
        ];
        for (stem, wish) in &wishes {
            authority.issue(wish)?.write(&dir, stem, false)?;
        }
        API_SERVERS.iter().try_for_each(|(tenant, name, cluster)| {
            let dir = dir.join(cluster);
            let (authority, _) = Authority::keep_in(&dir)?;
            let server = wish(&[], &[name, "kubernetes", "kubernetes.default.svc"]);
            authority.issue(&server)?.write(&dir, "server", false)?;
            authority.issue(&client("admin"))?.write(&dir, "admin", false)?;
            self.kubeconfig(tenant, name, &dir)
        })
    }

    /// Writes the kubeconfig of a tenant's administrator.
    fn kubeconfig(&self, tenant: &str, name: &str, cluster: &Path) -> Result<(), Failure> {
        let read = |file: &str| {
            let path = cluster.join(file);
            fs::read_to_string(&path)
                .map_err(|error| Failure::broken(format!("reading {}", path.display()), error))
        };
        let (certificate, key) = (read("admin.crt")?, read("admin.key")?);
        let kubeconfig = Kubeconfig::new(&Access {
            name: tenant,
            server: &format!("https://{}", SocketAddr::new(APIS, self.ports.gateway)),
            authority: &read("ca.crt")?,
            // The demo has no DNS.
            tls_server_name: Some(name),
            credential: Credential::Certificate { certificate: &certificate, key: &key },
        });
        let text = serde_saphyr::to_string(&kubeconfig)
            .map_err(|error| Failure::broken("writing a kubeconfig", error))?;
        write(&self.path().join(format!("{tenant}.kubeconfig")), &text, 0o600, false)
    }

    /// Returns shell functions that shorten the commands.
    fn environment(&self) -> String {
        let dir = self.path().display();
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("durward"));
        let (port, proxy) = (self.ports.gateway, self.ports.proxy);
        format!(
            "# Read this into a shell: . {dir}/env\n\
             export DURWARD_CONFIG='{dir}'\n\
             durward() {{ '{program}' \"$@\"; }}\n\
             acme() {{ curl -sS --cacert '{dir}/certs/ca.crt' --cert '{dir}/certs/partner.crt' --key '{dir}/certs/partner.key' \"https://{ACME}:{port}$1\"; }}\n\
             globex() {{ curl -sS --cacert '{dir}/certs/ca.crt' \"https://{GLOBEX}:{port}$1\"; }}\n\
             named() {{ curl -sS --cacert '{dir}/certs/ca.crt' --resolve \"$1:{port}:{SHARED}\" \"https://$1:{port}$2\"; }}\n\
             out() {{ curl -sS --noproxy '' -x http://{ACME}:{proxy} --cacert '{dir}/certs/ca.crt' \"$@\"; }}\n",
            program = program.display(),
        )
    }
}

/// Certificate of a server, without a name of its subject.
fn wish(ips: &[IpAddr], dns: &[&str]) -> Wish {
    Wish {
        name: dns.first().copied().unwrap_or_default().to_owned(),
        ips: ips.to_vec(),
        dns: dns.iter().map(|name| (*name).to_owned()).collect(),
        client: false,
        days: 60,
        passed: 0,
        key: KeyKind::Ecdsa,
    }
}

fn client(name: &str) -> Wish {
    Wish { name: name.to_owned(), client: true, ..wish(&[], &[]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_give_way_to_the_next_free_ones() {
        let taken = TcpListener::bind((ACME, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();

        let found = next_free(port, &[ACME, GLOBEX], &[]).unwrap();

        assert_ne!(found, port);
    }

    #[test]
    fn every_placeholder_of_the_documents_is_filled() {
        for (name, text) in documents(&Ports::WISHED) {
            assert!(!text.contains('@'), "{name}");
        }
    }
}
