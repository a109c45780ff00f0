//! The agent's configuration: a file in YAML.

mod detection;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use durward_link::carrier::{Dialler, GatewayUrl, HttpProxy};
use durward_link::control::Token;
use durward_link::control::fit::fitting;
use durward_link::route::{PATH, ROUTES};
use durward_link::{Bounds, Kind, Route, RouteSet, Target};
use ipnet::IpNet;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::sync::watch;

use crate::identity::Identity;
use crate::policy::Policy;
use crate::{Services, Settings, TokenSource};

/// Services of a file at most.
const SERVICES: usize = 10_000;
/// Data carriers at most where the file does not say.
const CARRIERS: u32 = 8;

/// The file, as it is written. Names of files are relative to its directory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentFile {
    /// Name of the link within its tenant. Default: the only one that the token or certificate is for.
    #[serde(default)]
    pub link: String,
    /// Addresses of the gateway: `tls://HOST[:PORT]` or `wss://HOST[:PORT]`, in the order in which they are tried. Default: `PIPEOPS_API_URL`.
    #[serde(default)]
    pub gateways: Vec<String>,
    /// True to keep carriers to all gateways, which are replicas of one another. Default: to the first that takes the agent.
    #[serde(default)]
    pub every_gateway: Option<bool>,
    /// Name or address that the gateway's certificate must carry. Default: the host of its address.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Authorities to trust, PEM. Default: the host's own set.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate with its chain, PEM.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// File with a token in place of a client certificate. Default: the token in `DURWARD_AGENT_TOKEN` or `PIPEOPS_TOKEN`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// True to register the cluster's Ingresses. Default: false; `ENABLE_INGRESS_SYNC` comes before it.
    #[serde(default)]
    pub enable_ingress_sync: Option<bool>,
    /// The same in the form of a `ConfigMap` for PipeOps' agent.
    #[serde(default)]
    pub agent: Option<AgentSection>,
    /// True to register routes at all, in the form of PipeOps' values. Default: true.
    #[serde(default)]
    pub gateway: Option<GatewaySection>,
    /// A kubeconfig for the cluster whose Ingresses are registered. Default: the pod's service account, or `KUBECONFIG`.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// Services of ingress controllers whose address makes the cluster public, each `NAMESPACE/NAME` or `LABEL=VALUE`. Default: those of ingress-nginx, Traefik, RKE2 and HAProxy.
    #[serde(default)]
    pub ingress_controllers: Option<Vec<String>>,
    /// Seconds to wait for the address of a controller's Service before the cluster counts as private, up to 3600. Default: 120.
    #[serde(default)]
    pub endpoint_wait_seconds: Option<u64>,
    /// True to use the link although the cluster has a public address. Default: false.
    #[serde(default)]
    pub force_tunnel: Option<bool>,
    /// True to say that requests may go both ways. Default: false.
    #[serde(default)]
    pub dual: Option<bool>,
    /// The same two in the form of PipeOps' configuration.
    #[serde(default)]
    pub tunnels: Option<TunnelsSection>,
    /// True to offer an address of a private range, which the gateway's operator must have named. Default: false.
    #[serde(default)]
    pub offer_private_endpoint: Option<bool>,
    /// Listener that answers the gateway's proofs of a public endpoint without TLS. Default: none.
    #[serde(default)]
    pub proof: Option<ProofSection>,
    /// Forward proxy for programs in the cluster, whose traffic leaves by the link. Default: none.
    #[serde(default)]
    pub egress_proxy: Option<EgressProxySection>,
    /// Routes.
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
    /// TCP and UDP services that the tenant's upstreams may name, beside the targets of `routes`.
    #[serde(default)]
    pub services: Vec<ServiceSpec>,
    /// Guarded places that may be connected to all the same: `ADDRESS:PORT`, an address, or a network.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Data carriers at most, 1 to 64. Default: 8.
    #[serde(default)]
    pub max_carriers: Option<u32>,
    /// Seconds in which a backend must be connected, 1 to 300. Default: 10.
    #[serde(default)]
    pub connect_timeout_seconds: Option<u64>,
    /// Seconds that streams have to finish when the agent ends, up to 86400. Default: 30.
    #[serde(default)]
    pub drain_grace_seconds: Option<u64>,
}

/// `agent` of PipeOps' configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    /// True if the cluster's Ingresses are registered.
    #[serde(default)]
    pub enable_ingress_sync: Option<bool>,
}

/// `gateway` of PipeOps' configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewaySection {
    /// False to register no Ingress.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// `tunnels` of PipeOps' configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelsSection {
    /// Way of requests.
    #[serde(default)]
    pub routing: Option<RoutingSection>,
}

/// `tunnels.routing` of PipeOps' configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingSection {
    /// True to use the link always.
    #[serde(default)]
    pub force_tunnel_mode: Option<bool>,
    /// True to say that requests may go both ways.
    #[serde(default)]
    pub dual_mode_enabled: Option<bool>,
}

/// Listener for proofs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofSection {
    /// Address and port.
    pub listen: SocketAddr,
    /// Host of the Ingress that leads to it.
    pub host: String,
}

/// Forward proxy of the agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressProxySection {
    /// Address and port.
    pub listen: SocketAddr,
    /// Networks of the programs that may use it. Default: all that reach it.
    #[serde(default)]
    pub allowed_sources: Vec<IpNet>,
}

/// One route of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSpec {
    /// Host name, or `*.` and a name.
    pub host: String,
    /// Prefix of the path. Default: `/`.
    #[serde(default)]
    pub path: Option<String>,
    /// Backend: `HOST:PORT`.
    pub target: String,
}

/// One service of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Place of the service: `HOST:PORT`.
    pub target: String,
    /// `TCP` or `UDP`. Default: `TCP`.
    #[serde(default)]
    pub protocol: ServiceProtocol,
}

/// Protocol of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ServiceProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the file system.
        source: std::io::Error,
    },
    /// Not the YAML that was expected; says line, column and excerpt.
    #[error("{path}: {message}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Sentence with line, column and excerpt.
        message: String,
    },
    /// A field with a value that cannot be used.
    #[error("{field} {written:?} {fault}")]
    Field {
        /// The field.
        field: String,
        /// Value as it is written.
        written: String,
        /// Fault of the value and its cure, as a phrase.
        fault: String,
    },
    /// Certificates or keys that cannot be used.
    #[error("{path}: {fault}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Fault of the certificate or key, as a phrase.
        fault: String,
    },
}

/// Settings from the environment, which are added to those of the file.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `HTTPS_PROXY`.
    pub https_proxy: Option<String>,
    /// `KUBERNETES_SERVICE_HOST`.
    pub api_server: Option<String>,
    /// `DURWARD_AGENT_TOKEN`, or `PIPEOPS_TOKEN`.
    pub token: Option<Token>,
    /// `PIPEOPS_API_URL`.
    pub api_url: Option<String>,
    /// `ENABLE_INGRESS_SYNC`.
    pub ingress_sync: Option<String>,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub fn of_this_process() -> Self {
        let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            https_proxy: of("HTTPS_PROXY").or_else(|| of("https_proxy")),
            api_server: of("KUBERNETES_SERVICE_HOST"),
            token: of("DURWARD_AGENT_TOKEN").or_else(|| of("PIPEOPS_TOKEN")).map(Token::new),
            api_url: of("PIPEOPS_API_URL"),
            ingress_sync: of("ENABLE_INGRESS_SYNC"),
        }
    }
}

impl AgentFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Fails if it cannot be read or is not of this form.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        serde_saphyr::from_slice(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// Returns the routes as a set with this revision.
    ///
    /// # Errors
    /// Fails on the first route that cannot be used.
    pub fn routes(&self, revision: u64) -> Result<RouteSet, ConfigError> {
        let route = |(at, route): (usize, &RouteSpec)| {
            let target = route.target.parse::<Target>();
            let target = target.map_err(|_| {
                bad(&format!("routes[{at}].target"), &route.target, "is not HOST:PORT")
            })?;
            let name = route.host.strip_prefix("*.").unwrap_or(&route.host);
            let named = Target::new(name, 443);
            let named = named.map_err(|_| {
                bad(&format!("routes[{at}].host"), &route.host, "is not a host name")
            })?;
            let wildcard = if name.len() < route.host.len() { "*." } else { "" };
            let path = route.path.clone().unwrap_or_else(|| "/".to_owned());
            if !path.starts_with('/') {
                let field = format!("routes[{at}].path");
                return Err(bad(&field, &path, "does not begin with a slash"));
            }
            if path.len() > PATH {
                let field = format!("routes[{at}].path");
                let written: String = path.chars().take(60).collect();
                return Err(bad(&field, &written, &format!("is longer than {PATH} bytes")));
            }
            let host = format!("{wildcard}{}", named.host());
            Ok(Route {
                host,
                path,
                exact: false,
                target,
                tunnel_only: false,
                passthrough: false,
                backend_tls: None,
                ingress: String::new(),
            })
        };
        if self.routes.len() > ROUTES {
            let fault = format!("is more than {ROUTES} routes: split them among several links");
            return Err(bad("routes", &self.routes.len().to_string(), &fault));
        }
        let routes: Result<Vec<_>, _> = self.routes.iter().enumerate().map(route).collect();
        let (routes, rest) = fitting(routes?);
        if let Some((_, why)) = rest.first() {
            let fault = format!("are more than a link carries: {why}");
            return Err(bad("routes", &self.routes.len().to_string(), &fault));
        }
        Ok(RouteSet::new(revision, routes))
    }

    /// Returns the TCP and UDP services.
    ///
    /// # Errors
    /// Fails on the first that cannot be used.
    pub fn services(&self) -> Result<Services, ConfigError> {
        if self.services.len() > SERVICES {
            let fault = format!("is more than {SERVICES} services: split them among several links");
            return Err(bad("services", &self.services.len().to_string(), &fault));
        }
        let service = |(at, service): (usize, &ServiceSpec)| {
            let target = service.target.parse::<Target>().map_err(|_| {
                bad(&format!("services[{at}].target"), &service.target, "is not HOST:PORT")
            })?;
            let kind = match service.protocol {
                ServiceProtocol::Tcp => Kind::Tcp,
                ServiceProtocol::Udp => Kind::Udp,
            };
            Ok((kind, target))
        };
        self.services.iter().enumerate().map(service).collect()
    }

    /// Returns the settings of an agent. Names of files are relative to `directory`.
    ///
    /// # Errors
    /// Fails on the first field or file that cannot be used.
    pub fn settings(
        &self,
        directory: &Path,
        environment: &Environment,
    ) -> Result<Settings, ConfigError> {
        if self.link.len() > 63 {
            return Err(bad("link", &self.link, "is longer than 63 characters"));
        }
        let gateways = self.gateway_urls(environment)?;
        let proxy = environment.https_proxy.as_deref().map(HttpProxy::parse).transpose();
        let proxy = proxy.map_err(|error| bad("HTTPS_PROXY", "(not shown)", &error.to_string()))?;
        let tls = self.tls(directory)?;
        let timeout = Duration::from_secs(15);
        let most_carriers = self.max_carriers.unwrap_or(CARRIERS);
        if !(1..=64).contains(&most_carriers) {
            return Err(bad(
                "maxCarriers",
                &most_carriers.to_string(),
                "is not a number from 1 to 64",
            ));
        }
        let token = self.token_source(directory, environment)?;
        if token.is_none() && self.certificate_file.is_none() {
            let fault = "is not given, and there is no token: name a client certificate or tokenFile, or set DURWARD_AGENT_TOKEN or PIPEOPS_TOKEN";
            return Err(bad("certificateFile", "", fault));
        }
        Ok(Settings {
            link: self.link.clone(),
            gateways,
            every_gateway: self.every_gateway.unwrap_or(false),
            token,
            credentials: self.credential_files(directory),
            retry: Arc::default(),
            addresses: watch::channel(Arc::default()).1,
            services: watch::channel(Arc::new(self.services()?)).1,
            cluster: watch::channel(None).1,
            proofs: Arc::default(),
            exits: self.egress_proxy.is_some().then(Arc::default),
            dialler: Dialler::new(&tls, self.server_name.clone(), proxy, timeout),
            policy: self.policy(environment)?,
            bounds: Bounds::default(),
            most_carriers,
            memory: Arc::default(),
            connect_timeout: seconds(
                "connectTimeoutSeconds",
                self.connect_timeout_seconds,
                (300, 10),
            )?,
            grace: seconds("drainGraceSeconds", self.drain_grace_seconds, (86_400, 30))?,
        })
    }

    fn credential_files(&self, directory: &Path) -> Vec<PathBuf> {
        let files = [&self.token_file, &self.certificate_file, &self.key_file];
        files.into_iter().flatten().map(|file| directory.join(file)).collect()
    }

    /// Returns the addresses of the gateway, in the order in which they are tried.
    fn gateway_urls(&self, environment: &Environment) -> Result<Vec<GatewayUrl>, ConfigError> {
        let written = match &environment.api_url {
            Some(url) if self.gateways.is_empty() => vec![websocket(url)],
            _ => self.gateways.clone(),
        };
        if written.is_empty() {
            return Err(bad(
                "gateways",
                "",
                "is empty: add an address such as wss://gateway.example, or set PIPEOPS_API_URL",
            ));
        }
        written
            .iter()
            .enumerate()
            .map(|(at, url)| {
                url.parse::<GatewayUrl>().map_err(|_| {
                    bad(
                        &format!("gateways[{at}]"),
                        url,
                        "is not tls://HOST[:PORT] or wss://HOST[:PORT]",
                    )
                })
            })
            .collect()
    }

    /// Returns whether the cluster's Ingresses are registered.
    ///
    /// # Errors
    /// Fails if `ENABLE_INGRESS_SYNC` is neither true nor false.
    pub fn ingress_sync(&self, environment: &Environment) -> Result<bool, ConfigError> {
        if self.gateway.as_ref().is_some_and(|gateway| gateway.enabled == Some(false)) {
            return Ok(false);
        }
        let of_agent = self.agent.as_ref().and_then(|agent| agent.enable_ingress_sync);
        match environment.ingress_sync.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => Ok(self.enable_ingress_sync.or(of_agent).unwrap_or(false)),
            Some("true" | "1" | "yes" | "on") => Ok(true),
            Some("false" | "0" | "no" | "off") => Ok(false),
            Some(other) => Err(bad("ENABLE_INGRESS_SYNC", other, "is neither true nor false")),
        }
    }

    fn token_source(
        &self,
        directory: &Path,
        environment: &Environment,
    ) -> Result<Option<TokenSource>, ConfigError> {
        let Some(file) = &self.token_file else {
            return Ok(environment.token.clone().map(TokenSource::Given));
        };
        let path = directory.join(file);
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        if token(&text).is_none() {
            let fault = "holds no token: write it there in one line".to_owned();
            return Err(ConfigError::Certificate { path, fault });
        }
        Ok(Some(TokenSource::File(path)))
    }

    fn policy(&self, environment: &Environment) -> Result<Policy, ConfigError> {
        let allow = self.allow.iter().enumerate().map(|(at, written)| {
            place(written).ok_or_else(|| {
                bad(
                    &format!("allow[{at}]"),
                    written,
                    "is not ADDRESS:PORT, an address, or a network",
                )
            })
        });
        let allow = allow.collect::<Result<_, _>>()?;
        let (name, addresses) = match &environment.api_server {
            None => (None, Vec::new()),
            Some(host) => api_server(host)?,
        };
        Ok(Policy::new(allow, addresses).with_api_server_name(name))
    }

    fn tls(&self, directory: &Path) -> Result<ClientConfig, ConfigError> {
        let fault =
            |path: &Path, fault: String| ConfigError::Certificate { path: path.to_owned(), fault };
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(file) => {
                let path = directory.join(file);
                for root in certificates(&path)? {
                    roots.add(root).map_err(|error| fault(&path, error.to_string()))?;
                }
            }
            None => drop(
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
            ),
        }
        if roots.is_empty() {
            return Err(bad(
                "caFile",
                "",
                "is not given and this host has no trusted roots: name a file",
            ));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("caFile", "", &error.to_string()))?
            .with_root_certificates(roots);
        let (chain, key) = match (&self.certificate_file, &self.key_file) {
            (Some(chain), Some(key)) => (directory.join(chain), directory.join(key)),
            (None, None) => return Ok(builder.with_no_client_auth()),
            (Some(_), None) => return Err(bad("keyFile", "", "is missing beside certificateFile")),
            (None, Some(_)) => return Err(bad("certificateFile", "", "is missing beside keyFile")),
        };
        let identity = Identity::new(chain, key, provider)?;
        Ok(builder.with_client_cert_resolver(Arc::new(identity)))
    }
}

/// Returns the token in a text of one line.
pub(crate) fn token(text: &str) -> Option<Token> {
    let text = text.trim();
    let is_one = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_one.then(|| Token::new(text.to_owned()))
}

/// Returns the address of a carrier for the URL of an API: `https://HOST` is reached by `wss://HOST`.
fn websocket(url: &str) -> String {
    let url = url.trim_end_matches('/');
    url.strip_prefix("https://").map_or_else(|| url.to_owned(), |host| format!("wss://{host}"))
}

/// Returns the name and the addresses of the API server. Without them streams could not be kept from it, so nothing starts.
fn api_server(host: &str) -> Result<(Option<String>, Vec<IpAddr>), ConfigError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok((None, vec![address]));
    }
    let found = (host, 0).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect());
    let fault = "cannot be looked up, so streams could not be kept from the API server: make the name resolvable where the agent runs";
    match found {
        Ok(addresses) => Ok((Some(host.trim_end_matches('.').to_owned()), addresses)),
        Err(_) => Err(bad("KUBERNETES_SERVICE_HOST", host, fault)),
    }
}

/// Returns a number of seconds from 1 to `most`.
fn seconds(
    field: &str,
    written: Option<u64>,
    (most, default): (u64, u64),
) -> Result<Duration, ConfigError> {
    let seconds = written.unwrap_or(default);
    if (1..=most).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    let fault = format!("is not a number of seconds from 1 to {most}");
    Err(bad(field, &seconds.to_string(), &fault))
}

/// Returns the network and port of an entry of `allow`.
fn place(written: &str) -> Option<(IpNet, Option<u16>)> {
    if let Ok(address) = written.parse::<SocketAddr>() {
        return Some((IpNet::from(address.ip().to_canonical()), Some(address.port())));
    }
    if let Ok(address) = written.parse::<IpAddr>() {
        return Some((IpNet::from(address.to_canonical()), None));
    }
    written.parse().ok().map(|net| (net, None))
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let fault = |fault: String| ConfigError::Certificate { path: path.to_owned(), fault };
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| fault(format!("is not PEM: {error}")))?;
    if all.is_empty() { Err(fault("has no certificate".to_owned())) } else { Ok(all) }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn bad(field: &str, written: &str, fault: &str) -> ConfigError {
    ConfigError::Field {
        field: field.to_owned(),
        written: written.to_owned(),
        fault: fault.to_owned(),
    }
}

#[cfg(test)]
mod tests;
