//! Arguments of `durward api-proxy` and `durward api`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use durward_apiproxy::settings::{KeyPin, Target};
use ipnet::IpNet;

use super::{Admin, CheckFormat, parse_admin, parse_duration};

/// Port of a gateway whose port is not given.
const HTTPS: u16 = 443;

/// `durward api-proxy`
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub(crate) struct ApiProxy {
    /// Name of the hosted API server, which the gateway knows it by
    #[arg(long, value_name = "NAME", env = "DURWARD_API_SERVER_NAME", hide_env_values = true)]
    pub(crate) server_name: String,
    /// Gateway that connections go to, the preferred one first; repeatable [default: the server name, port 443]
    #[arg(long, value_name = "HOST[:PORT]", env = "DURWARD_API_GATEWAYS", hide_env_values = true, value_delimiter = ',', value_parser = parse_target)]
    pub(crate) gateway: Vec<Target>,
    /// How the proxies become the endpoints of `kubernetes`: `advertised` (one IP on every node, which the API server advertises), `slice` (they keep the
    /// EndpointSlice on their own addresses) or `re-originate` (as `slice`, or as `advertised` with --advertise-address; TLS ends here, and client certificates
    /// are lost)
    #[arg(long, value_enum, default_value_t = Mode::Advertised, hide_possible_values = true, value_name = "MODE", env = "DURWARD_API_MODE", hide_env_values = true)]
    pub(crate) mode: Mode,
    /// Address that the API server advertises; private, and outside the networks of pods and Services; one for each family
    #[arg(
        long,
        value_name = "IP",
        env = "DURWARD_API_ADVERTISE_ADDRESS",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) advertise_address: Vec<IpAddr>,
    /// Put the advertised address on this dummy device, which is made if it does not exist; it stays when the proxy ends
    #[arg(
        long,
        value_name = "NAME",
        requires = "advertise_address",
        env = "DURWARD_API_DEVICE",
        hide_env_values = true
    )]
    pub(crate) device: Option<String>,
    /// Address of this node, on which the proxy listens and which it writes into the EndpointSlice; one for each family
    #[arg(long, value_name = "IP", env = "POD_IPS", hide_env_values = true, value_delimiter = ',')]
    pub(crate) node_ip: Vec<IpAddr>,
    /// Port of the proxies; with `advertised` the API server's own (`--secure-port`)
    #[arg(long, value_name = "PORT", default_value_t = 6443, env = "DURWARD_API_PORT", hide_env_values = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Networks of pods, comma-separated; the advertised address must not be in one
    #[arg(
        long,
        value_name = "CIDR",
        env = "DURWARD_API_POD_CIDR",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) pod_cidr: Vec<IpNet>,
    /// Networks of Services, comma-separated; no address in one is ever advertised or written
    #[arg(
        long,
        value_name = "CIDR",
        env = "DURWARD_API_SERVICE_CIDR",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) service_cidr: Vec<IpNet>,
    #[command(flatten)]
    pub(crate) carrier: CarrierArgs,
    #[command(flatten)]
    pub(crate) way: WayArgs,
    /// Connections at once; more are closed [default: half of the descriptors, less 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: Option<u32>,
    /// Connections at once of one client address; more are closed [default: a quarter of --max-connections, at most 7000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections_per_client: Option<u32>,
    /// Time without a byte in either direction after which a connection is closed; watches are silent for long
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub(crate) idle_timeout: Duration,
    /// Address and port of the admin listener (/healthz, /readyz, /metrics); `off` disables it
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9441", value_parser = parse_admin, env = "DURWARD_API_ADMIN", hide_env_values = true)]
    pub(crate) admin: Admin,
    /// Time that open connections have to finish when the process stops; then they are closed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) drain_grace: Duration,
    /// Time to keep accepting after SIGTERM while /readyz already fails, once no endpoint leads here any more
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) drain_delay: Duration,
    #[command(flatten)]
    pub(crate) slice: SliceArgs,
}

/// How the proxies become the endpoints of `kubernetes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The API server advertises an address of every node.
    Advertised,
    /// The proxies write their addresses.
    Slice,
    /// TLS ends here.
    ReOriginate,
}

/// Certificates of the connection to the gateway.
#[derive(Args, Debug)]
#[command(next_help_heading = "TLS")]
pub(crate) struct CarrierArgs {
    /// Authorities that the gateway's certificate is verified against, PEM; with `re-originate` those of the API server, which every kubeconfig has
    #[arg(long, value_name = "FILE", env = "DURWARD_API_CA", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,
    /// SHA-256 of the public key that the gateway must have, in place of an authority and the name; repeatable
    #[arg(long, value_name = "sha256/BASE64", conflicts_with = "ca")]
    pub(crate) pin: Vec<KeyPin>,
    /// Client certificate shown to the gateway, PEM; read again when it changes
    #[arg(
        long,
        value_name = "FILE",
        requires = "key",
        env = "DURWARD_API_CERT",
        hide_env_values = true
    )]
    pub(crate) cert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert",
        env = "DURWARD_API_KEY",
        hide_env_values = true
    )]
    pub(crate) key: Option<PathBuf>,
    /// No outer TLS: a PROXY v2 header and the client's own TLS, from a network that the gateway trusts
    #[arg(long, conflicts_with_all = ["ca", "pin", "cert"])]
    pub(crate) proxy_header: bool,
    /// With `re-originate`: certificate of the API server that clients are shown, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "serving_key",
        env = "TLS_CERT_FILE",
        hide_env_values = true
    )]
    pub(crate) serving_cert: Option<PathBuf>,
    /// With `re-originate`: its key, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "serving_cert",
        env = "TLS_KEY_FILE",
        hide_env_values = true
    )]
    pub(crate) serving_key: Option<PathBuf>,
    /// Of steward-tcp-proxy; refused.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) upstream_insecure: Option<String>,
}

/// The way to the gateways.
#[derive(Args, Debug)]
#[command(next_help_heading = "Way to the gateway")]
pub(crate) struct WayArgs {
    /// Address of names that DNS does not know yet, as in a pod's hostAliases; repeatable
    #[arg(long, value_name = "IP=NAME[,NAME]")]
    pub(crate) host_alias: Vec<String>,
    /// Host that is dialled in place of the gateways' names, unless a host alias knows them
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_target, env = "DURWARD_API_INTERNAL_ENDPOINT", hide_env_values = true)]
    pub(crate) internal_endpoint: Option<Target>,
    /// HTTP proxy of the network, which is asked with CONNECT; hosts and networks in NO_PROXY are reached without it [env: HTTPS_PROXY, NO_PROXY]
    #[arg(long, value_name = "URL", env = "HTTPS_PROXY", hide_env_values = true, hide_env = true)]
    pub(crate) https_proxy: Option<String>,
    /// Hosts, domains and networks that are reached without the HTTP proxy
    #[arg(long, value_name = "LIST", env = "NO_PROXY", hide_env_values = true, hide_env = true)]
    pub(crate) no_proxy: Option<String>,
}

/// The EndpointSlice of `kubernetes`.
#[derive(Args, Debug)]
#[command(next_help_heading = "EndpointSlice")]
pub(crate) struct SliceArgs {
    /// Kubeconfig of the tenant's cluster, whose server is not `kubernetes.default.svc` [default: the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Service of the proxies: its ready endpoints are written into the EndpointSlice
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/durward-api-proxy", value_parser = parse_object)]
    pub(crate) service: (String, String),
    /// Name of this proxy [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME", hide_env_values = true)]
    pub(crate) proxy_name: Option<String>,
}

/// `durward api-addons`
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub(crate) struct ApiAddons {
    /// Image of the proxies, unless a HostedApi says another; there is no official one, deploy/Dockerfile builds it
    #[arg(long, value_name = "IMAGE", env = "DURWARD_API_ADDONS_IMAGE", hide_env_values = true)]
    pub(crate) image: String,
    /// Kubeconfig of the cluster that has the HostedApis [default: in a pod its service account, else $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) kube_context: Option<String>,
    /// Look at HostedApis of this namespace only
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) kube_namespace: Option<String>,
    /// Networks that the API servers of tenant clusters are in, comma-separated; no other address is connected to [default: all but those of this host and its links]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) cluster_network: Vec<IpNet>,
    /// Time between two looks at the Secrets that a HostedApi names, and the longest pause between two attempts; after six times as long everything is applied again
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub(crate) resync: Duration,
    /// Time after which a HostedApi that is being deleted no longer waits for a tenant cluster that does not answer; its objects then stay there
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    pub(crate) longest_wait: Duration,
    /// Tenant clusters that are worked on at once; of those in one namespace two, unless --kube-namespace is given
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) at_once: u16,
    /// Time for one request to a tenant cluster; a whole attempt has six times as much
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) patience: Duration,
    /// Address and port of the admin listener (/healthz, /readyz, /metrics); `off` disables it. Only clients of the host itself learn the names of tenants
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9442", value_parser = parse_admin)]
    pub(crate) admin: Admin,
}

/// `durward api`
#[derive(Debug, Subcommand)]
pub(crate) enum Api {
    /// Check the certificate, names, networks and endpoints of a hosted API server
    Check(Box<ApiCheck>),
    /// Print a kubeconfig for a hosted API server
    Kubeconfig(ApiKubeconfig),
    /// Print the DNS records that lead clients to the gateway
    Dns(ApiDns),
    /// Print the lines of a hosts file for names that DNS does not know
    Hosts(ApiHosts),
    /// Print the routes of HostedApi documents for the ingress controllers of others (`spec.publish`)
    Routes(ApiRoutes),
    /// Give the endpoints of `kubernetes` back after the proxies were removed
    HandBack(ApiHandBack),
}

/// `durward api check`
#[derive(Args, Debug)]
pub(crate) struct ApiCheck {
    /// Name of the hosted API server, with its port if that is not 443
    #[arg(value_name = "HOST[:PORT]", value_parser = parse_target)]
    pub(crate) server: Target,
    /// Connect to this address instead of those that DNS has
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// Certificate authority of the tenant's cluster, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Name of the konnectivity server, with its port if that is not 443
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_target)]
    pub(crate) konnectivity: Option<Target>,
    /// Further name or address that the certificate must have; repeatable
    #[arg(long, value_name = "NAME|IP")]
    pub(crate) san: Vec<String>,
    /// DNS domain of the cluster
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Address that the API server advertises; with it the proxies are expected in mode `advertised`
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) advertise_address: Vec<String>,
    /// Networks of pods, comma-separated
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) pod_cidr: Vec<IpNet>,
    /// Networks of Services, comma-separated
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) service_cidr: Vec<IpNet>,
    /// Networks of nodes, comma-separated
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) node_cidr: Vec<IpNet>,
    /// Kubeconfig of the tenant's cluster, to look at the endpoints of `kubernetes`
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Time limit for each answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Output format: table, short (problems only), json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = CheckFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: CheckFormat,
}

/// `durward api kubeconfig`
#[derive(Args, Debug)]
pub(crate) struct ApiKubeconfig {
    /// Name of the hosted API server, with its port if that is not 443
    #[arg(value_name = "HOST[:PORT]", value_parser = parse_target)]
    pub(crate) server: Target,
    /// Certificate authority of the tenant's cluster, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: PathBuf,
    /// Client certificate of the user, PEM
    #[arg(long, value_name = "FILE", requires = "key", required_unless_present = "token_file")]
    pub(crate) cert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// File with the user's token, which the kubeconfig names and does not contain
    #[arg(long, value_name = "FILE", conflicts_with = "cert")]
    pub(crate) token_file: Option<String>,
    /// Name of cluster, user and context [default: the first label of the server's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Name that the API server's certificate is verified against, if it is not the server's
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
}

/// `durward api dns`
#[derive(Args, Debug)]
pub(crate) struct ApiDns {
    /// Zone whose names lead to the gateway, such as k8s.example.com; repeatable
    #[arg(long, value_name = "DOMAIN", required = true)]
    pub(crate) zone: Vec<String>,
    /// Address of the gateway; repeatable
    #[arg(long, value_name = "IP", required = true)]
    pub(crate) address: Vec<IpAddr>,
    /// Name server: bind, dnsmasq, coredns, windows, infoblox, or cloudflare for a tunnel
    #[arg(long = "for", value_enum, value_name = "SERVER", hide_possible_values = true)]
    pub(crate) server: NameServer,
    /// Time to live in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) ttl: u32,
    /// Serial number of the zone, for BIND; greater than the one before [default: seconds since 1970]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) serial: Option<u32>,
}

/// Name servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NameServer {
    /// BIND 9.
    Bind,
    /// dnsmasq and Pi-hole.
    Dnsmasq,
    /// CoreDNS.
    #[value(name = "coredns")]
    CoreDns,
    /// Windows Server DNS.
    Windows,
    /// Infoblox.
    Infoblox,
    /// Cloudflare Tunnel.
    Cloudflare,
}

/// `durward api hosts`
#[derive(Args, Debug)]
pub(crate) struct ApiHosts {
    /// Names of hosted API servers and konnectivity servers
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Address of the gateway; repeatable
    #[arg(long, value_name = "IP", required = true)]
    pub(crate) address: Vec<IpAddr>,
}

/// `durward api routes`
#[derive(Args, Debug)]
pub(crate) struct ApiRoutes {
    /// Document or directory of documents; repeatable
    #[arg(short = 'c', long = "config", value_name = "FILE|DIR", required = true)]
    pub(crate) config: Vec<PathBuf>,
    /// Version of TLSRoute that the cluster serves: v1, v1alpha3 or v1alpha2 [default: v1]
    #[arg(long, value_name = "VERSION", value_parser = ["v1", "v1alpha3", "v1alpha2"], hide_possible_values = true)]
    pub(crate) tls_route_version: Option<String>,
}

/// `durward api hand-back`
#[derive(Args, Debug)]
pub(crate) struct ApiHandBack {
    /// Kubeconfig of the tenant's cluster [default: the pod's service account, or $KUBECONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl ApiProxy {
    /// Returns the sockets to listen on.
    pub(crate) fn listen(&self) -> Vec<SocketAddr> {
        let addresses = match self.keeps_slice() {
            true => &self.node_ip,
            false => &self.advertise_address,
        };
        addresses.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect()
    }

    /// Returns whether the proxies write the EndpointSlice.
    pub(crate) fn keeps_slice(&self) -> bool {
        match self.mode {
            Mode::Advertised => false,
            Mode::Slice => true,
            Mode::ReOriginate => self.advertise_address.is_empty(),
        }
    }
}

fn parse_target(text: &str) -> Result<Target, String> {
    Target::parse(text, HTTPS).map_err(|fault| fault.to_string())
}

fn parse_object(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
    }
}
