//! Grammar of the command line.

mod acme;
mod agent;
mod api;
mod demo;
mod egress;
mod kubernetes;
mod logs;
pub(crate) mod nat;
mod records;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use durward_control::spec::ingress::DestinationSpec;
use durward_model::explain::Shown;
use durward_model::transport::Transport;

use crate::commands::explain::expect;
use crate::output::Format;
pub(crate) use nat::{NatArgs, NatCommand, NatWhat, Seed, SteerArgs, TraceArgs};

pub(crate) use acme::AcmeArgs;
pub(crate) use agent::{Agent, AgentJoin, AgentLint, AgentRun, AgentStatus, AgentToken, AgentWhat};
pub(crate) use api::{
    Api, ApiAddons, ApiCheck, ApiDns, ApiHandBack, ApiHosts, ApiKubeconfig, ApiProxy, ApiRoutes,
    CarrierArgs, Mode, NameServer,
};
pub(crate) use demo::{Demo, Lab};
pub(crate) use egress::{Egress, EgressEnv, EgressTest, EnvFormat, Prove};
pub(crate) use kubernetes::{ApiArgs, Crds, Init, Kube, KubernetesArgs, LiveArgs};
pub(crate) use logs::{AccessLog, AuditSync};
pub(crate) use records::{Audit, AuditVerify, AuditWhat, Top, TopFormat, Who};

/// Multi-tenant network gateway: every tenant its own door, in and out.
///
/// The address or server name that a client connects to identifies the tenant, and the tenant's traffic leaves from
/// the tenant's own egress address.
#[derive(Debug, Parser)]
#[command(name = "durward", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// Format of log lines on standard error; `auto` is human on a terminal, json otherwise.
    #[arg(long, global = true, display_order = 900, value_enum, default_value_t = LogFormat::Auto, hide_possible_values = true, value_name = "auto|human|json")]
    pub(crate) log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Begin with `durward demo`: it needs no root and no Kubernetes, and leaves nothing behind.

Exit codes: 0 ok, 1 a check or operation failed, 2 wrong command line, 3 invalid configuration,
4 no answer from the gateway or proxy that was asked.
DURATION is a number with a unit, such as 500ms, 30s, 2m or 1h; at most 24h.
Environment: DURWARD_CONFIG, ROUTING_CONFIG_PATH, DURWARD_LOG, RUST_LOG, NO_COLOR, CLICOLOR_FORCE.";

/// The commands, in the order a newcomer meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a demo on loopback: three tenants and a partner, in one process
    Demo(Demo),
    /// Run a demo of port mappings and egress in the kernel: partners, a gateway and pods in network
    /// namespaces, without root
    Lab(Lab),
    /// Run the gateway with a configuration
    Run(Box<Run>),
    /// Run the agent of a link in a private cluster, or show its state
    Agent(Agent),
    /// Write the manifests of a gateway whose tenants are objects of a Kubernetes cluster
    Init(Init),
    /// Read the Kubernetes API for gateways that have no right there, and hand them the objects through a Unix socket
    Kube(Kube),
    /// Compile a configuration and report whether each document is accepted
    Validate(Validate),
    /// Explain what happens to a connection or request, and which line of which file decides it
    Explain(Explain),
    /// Check that a configuration can work on this host: addresses, ports, routes, certificates, upstreams
    Check(Box<Check>),
    /// Show the traffic of each tenant: current rates and totals
    Top(Top),
    /// Find the tenant and client that used an egress address and port at a given time
    Who(Who),
    /// Verify the audit file of the forward proxy's decisions
    Audit(Audit),
    /// Inspect, trace and remove port mappings and egress in the kernel
    Nat(NatCommand),
    /// Issue and list certificates
    Certs(Certs),
    /// Show what a tenant's partners have to know of it
    Tenant(TenantCommand),
    /// Prove that no connection can leave from another tenant's address
    Prove(Prove),
    /// Configure and test clients of a forward proxy
    #[command(subcommand)]
    Egress(Egress),
    /// Run the proxy inside a tenant's cluster that leads `kubernetes.default.svc` to its hosted API server
    ApiProxy(Box<ApiProxy>),
    /// Install, upgrade and remove API proxies in the clusters of hosted API servers, through the kubeconfig of each
    ApiAddons(Box<ApiAddons>),
    /// Check hosted API servers, and print what their clients need
    #[command(subcommand)]
    Api(Api),
    /// Convert a squid.conf, Ingresses or SmartNat's objects to documents, and list what differs
    Migrate(Migrate),
    /// Print the JSON Schema of the documents
    Schema,
    /// Print the CustomResourceDefinitions of the documents, for `kubectl apply -f -`
    Crds(Crds),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the version
    Version(Version),
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// `human` on a terminal, `json` otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArgs {
    /// Document, routing.json, or directory of documents; repeatable [env: DURWARD_CONFIG (`:` between paths), ROUTING_CONFIG_PATH]
    #[arg(short = 'c', long = "config", value_name = "FILE|DIR")]
    pub(crate) config: Vec<PathBuf>,
    /// Directory that documents may name files in, besides their own; repeatable
    #[arg(
        long,
        value_name = "DIR",
        env = "DURWARD_FILES_ROOT",
        hide_env_values = true,
        value_delimiter = ':'
    )]
    pub(crate) files_root: Vec<PathBuf>,
    /// Directory in which `run` keeps claims and last good documents for its next start; other commands read them, and answer as a
    /// gateway that starts now would [default: $STATE_DIRECTORY, which systemd sets, else off]
    #[arg(long, value_name = "DIR|off", env = "DURWARD_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Directory URL of an ACME authority that documents may name besides Let's Encrypt's; repeatable, the first is the default authority
    #[arg(long, value_name = "URL", env = "DURWARD_ACME_DIRECTORY", hide_env_values = true, value_delimiter = ',', value_parser = acme::parse_https)]
    pub(crate) acme_directory: Vec<String>,
    /// Address and port on which connections are accepted, such as 0.0.0.0:8443 [default: port 443 of each ingress address]
    #[arg(long, value_name = "ADDRESS:PORT", env = "DURWARD_ROUTING_BIND", hide_env_values = true, help_heading = ROUTING)]
    pub(crate) routing_bind: Option<SocketAddr>,
    /// How the gateway learns the address that a client connected to: Bound (from the socket), ProxyProtocol (from the PROXY header),
    /// OriginalDestination (after DNAT or REDIRECT) or Transparent (after TPROXY)
    #[arg(long, value_name = "HOW", env = "DURWARD_ROUTING_DESTINATION", hide_env_values = true, default_value = "Bound", value_parser = parse_destination, help_heading = ROUTING)]
    pub(crate) routing_destination: DestinationSpec,
    /// Networks trusted to send a PROXY header, comma-separated; used with ProxyProtocol
    #[arg(long, value_name = "CIDR", env = "DURWARD_ROUTING_TRUSTED_PROXIES", hide_env_values = true, value_delimiter = ',', help_heading = ROUTING)]
    pub(crate) routing_trusted_proxies: Vec<String>,
    /// Port of backends that the file gives without one
    #[arg(long, value_name = "PORT", env = "DURWARD_ROUTING_BACKEND_PORT", hide_env_values = true, default_value_t = 80, help_heading = ROUTING)]
    pub(crate) routing_backend_port: u16,
    /// Directory of the certificates [default: beside the file, then ../certs]
    #[arg(long, value_name = "DIR", env = "DURWARD_ROUTING_CERTS", hide_env_values = true, help_heading = ROUTING)]
    pub(crate) routing_certs: Option<PathBuf>,
}

const ROUTING: &str = "Options for a routing.json";

/// How results are printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// Output format: table, wide, json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// `durward run`
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) nat: NatArgs,
    /// Number of threads that serve connections; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) workers: usize,
    /// Address and port of the admin listener (/livez, /readyz, /metrics, /snapshot); `off` disables it [default: 127.0.0.1:9440]
    #[arg(long, value_name = "ADDRESS:PORT|off", value_parser = parse_admin)]
    pub(crate) admin: Option<Admin>,
    /// Destination of access-log lines: `-` (standard output), a file, or a URL as in --decision-log; `off` disables them
    #[arg(long, value_name = "-|PATH|URL|off", default_value = "-", env = "DURWARD_ACCESS_LOG", hide_env_values = true, value_parser = logs::parse)]
    pub(crate) access_log: AccessLog,
    /// Destination of the forward proxy's decision lines, one when it decides and one at the end; repeatable [default: as --access-log].
    /// URLs: syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT, syslog+unix:///dev/log, otlp+http://HOST:4318, otlp+https://HOST:4318
    #[arg(long, value_name = "-|PATH|URL|off", env = "DURWARD_DECISION_LOG", hide_env_values = true, value_delimiter = ',', value_parser = logs::parse)]
    pub(crate) decision_log: Vec<AccessLog>,
    /// Audit file: also records each decision, as a chain of hashes; a request whose record cannot be written is refused
    #[arg(long, value_name = "FILE", env = "DURWARD_AUDIT_LOG", hide_env_values = true)]
    pub(crate) audit_log: Option<PathBuf>,
    /// When an audit record counts as written: `kernel` survives a crash of the process, `disk` (fdatasync) a power failure
    #[arg(long, value_name = "kernel|disk", env = "DURWARD_AUDIT_SYNC", hide_env_values = true, value_enum, default_value_t = AuditSync::Kernel, hide_possible_values = true)]
    pub(crate) audit_sync: AuditSync,
    /// Memory limit of this process, such as 512MiB, at least 64MiB; half of it is the budget for heads, bodies and DNS answers [default: the
    /// limit of the cgroup, or the host's memory]
    #[arg(long, value_name = "SIZE", env = "DURWARD_MEMORY", hide_env_values = true, value_parser = parse_memory)]
    pub(crate) memory: Option<usize>,
    /// Time that open connections have to finish when the process stops or hands over; then they are closed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) drain_grace: Duration,
    /// Time to keep accepting connections after SIGTERM while /readyz already fails, so that load balancers can react
    #[arg(long, value_name = "DURATION", default_value = "0s", env = "DURWARD_DRAIN_DELAY", hide_env_values = true, value_parser = parse_duration)]
    pub(crate) drain_delay: Duration,
    /// Network of private addresses in which the public endpoint of a link's cluster may lie, such as 10.20.0.0/16; repeatable [default: none]
    #[arg(
        long,
        value_name = "CIDR",
        env = "DURWARD_DIRECT_NETWORKS",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) direct_networks: Vec<ipnet::IpNet>,
    #[command(flatten)]
    pub(crate) acme: AcmeArgs,
    #[command(flatten)]
    pub(crate) kubernetes: KubernetesArgs,
    /// Do not watch the configuration files; reload on SIGHUP only
    #[arg(long)]
    pub(crate) no_watch: bool,
    /// Exit with code 3 instead of starting unless every document is accepted
    #[arg(long)]
    pub(crate) strict: bool,
    /// Bind also where another Durward of the same user listens (SO_REUSEPORT): the kernel spreads new connections over both
    #[arg(long)]
    pub(crate) share_addresses: bool,
}

/// Address of the admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admin {
    /// No admin listener.
    Off,
    /// This address and port.
    At(SocketAddr),
}

/// `durward validate`
#[derive(Args, Debug)]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward explain`
#[derive(Args, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// Address and port that the client connects to, or a URL whose host is looked up
    #[arg(value_name = "ADDRESS:PORT|URL")]
    pub(crate) destination: String,
    /// Address of the client
    #[arg(long, value_name = "IP")]
    pub(crate) client: Option<IpAddr>,
    /// Transport protocol: tcp, udp or sctp
    #[arg(long, value_enum, default_value_t = Protocol::Tcp, hide_possible_values = true, value_name = "NAME")]
    pub(crate) protocol: Protocol,
    /// Address to use for the host of the URL instead of looking it up; with ADDRESS:PORT of a forward proxy, the address of
    /// --host
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// Server name that the client sends in its TLS ClientHello
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// Host that the client requests
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// Path of the request, with or without query
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Method of the request
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub(crate) method: String,
    /// Header of the request, `name: value`; repeatable
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = parse_header)]
    pub(crate) headers: Vec<(String, String)>,
    /// The client presents a valid certificate; with =NAME, one with this common name, DNS name or URI
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) client_cert: Option<Shown>,
    /// The client presents a valid credential to the forward proxy; with =NAME, the one of this name, or TENANT/NAME where several
    /// tenants have that name
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) credential: Option<Shown>,
    /// Ask the running gateway at this admin listener, 127.0.0.1:9440 without a value, instead of reading the files
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) running: Option<Admin>,
    /// Exit with code 1 unless the answer is this: served, answered[:STATUS], refused[:REASON], tenant=NAME, upstream=NAME,
    /// egress=ADDRESS; repeatable, all must hold; name every address that the request may leave from
    // The brackets are of the help text, not of a link.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = expect::parse)]
    pub(crate) expect: Vec<expect::Expectation>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

/// `durward check`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Check {
    #[command(subcommand)]
    pub(crate) what: Option<CheckWhat>,
    #[command(flatten)]
    pub(crate) common: CheckArgs,
}

/// What `durward check` shares with its parts.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    #[command(flatten)]
    pub(crate) nat: NatArgs,
    /// Admin listener of the running gateway, whose own ports do not count as taken; `off` asks no gateway
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    /// Time limit for each upstream to answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Output format: table, short (problems only), json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = CheckFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: CheckFormat,
}

/// The parts of `durward check`.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckWhat {
    /// Check one listener: its routes, and a connection to each of its upstreams
    Route {
        /// Address and port of the listener
        #[arg(value_name = "ADDRESS:PORT")]
        listener: SocketAddr,
        #[command(flatten)]
        common: CheckArgs,
    },
}

/// How check results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    /// All checks, by category.
    Table,
    /// The same as table.
    Wide,
    /// What is wrong, one line each.
    Short,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// `durward certs`
#[derive(Args, Debug)]
pub(crate) struct Certs {
    #[command(subcommand)]
    pub(crate) what: CertsWhat,
}

/// What is done with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsWhat {
    /// Issue a server or client certificate; creates the authority if there is none
    Issue(CertsIssue),
    /// List certificates with names, issuer, key type, days left and chain
    List(Box<CertsList>),
}

/// `durward certs issue`
#[derive(Args, Debug)]
pub(crate) struct CertsIssue {
    /// Directory of the authority (ca.crt, ca.key) and of the new certificate
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// IP address of the server, for the certificate's SAN; repeatable
    #[arg(long, value_name = "IP", required_unless_present_any = ["dns", "client"])]
    pub(crate) ip: Vec<IpAddr>,
    /// DNS name of the server, for the certificate's SAN; repeatable
    #[arg(long, value_name = "NAME")]
    pub(crate) dns: Vec<String>,
    /// Issue a client certificate instead of a server certificate
    #[arg(long, requires = "name")]
    pub(crate) client: bool,
    /// Common name, and name of the files [default: the first IP address or DNS name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Validity in days, 1 to 3650
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// Key type: ecdsa (P-256), rsa (2048 bits) or ed25519
    #[arg(long, value_enum, default_value_t = KeyKind::Ecdsa, hide_possible_values = true, value_name = "KIND")]
    pub(crate) key: KeyKind,
    /// Overwrite existing files, but never the authority's
    #[arg(long)]
    pub(crate) force: bool,
}

/// Kinds of private keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyKind {
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA with 2048 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

/// `durward certs list`
#[derive(Args, Debug)]
pub(crate) struct CertsList {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// Directory of PEM files to list instead of a configuration
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "kubernetes"])]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward tenant`
#[derive(Args, Debug)]
pub(crate) struct TenantCommand {
    #[command(subcommand)]
    pub(crate) what: TenantWhat,
}

/// What is shown of a tenant.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantWhat {
    /// Show the addresses that its connections come from, where it is reached, and its certificates
    Passport(Passport),
}

/// `durward tenant passport`
#[derive(Args, Debug)]
pub(crate) struct Passport {
    /// Name of the tenant
    #[arg(value_name = "TENANT")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward migrate`
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub(crate) struct Migrate {
    #[command(subcommand)]
    pub(crate) from: Option<MigrateFrom>,
    /// squid.conf (files that it names are looked for at their paths, then beside it), or SmartNat's Mapping objects with the Service and
    /// EndpointSlice objects that they refer to; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// squid.conf: address that clients connect to, where http_port has none; repeatable
    #[arg(long, value_name = "IP")]
    pub(crate) address: Vec<IpAddr>,
    /// squid.conf: egress address of clients without tcp_outgoing_address; repeatable
    #[arg(long, value_name = "IP")]
    pub(crate) egress_address: Vec<IpAddr>,
    /// Directory to write one file per tenant to, instead of standard output
    #[arg(short = 'd', long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// squid.conf: also list the directives that do not affect who may go where
    #[arg(long)]
    pub(crate) all_notes: bool,
}

/// Other objects that are migrated by name
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateFrom {
    /// Translate Ingresses, with the Services, EndpointSlices and Secrets they refer to, and say what changes
    Ingress(MigrateIngress),
}

/// `durward migrate ingress`
#[derive(Args, Debug)]
pub(crate) struct MigrateIngress {
    /// What `kubectl get ingress,ingressclass,service,endpointslice,secret -A -o yaml` writes; `-` is standard input. No key is read
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The address clients connect to; once more, the one of TLS that is carried through unopened
    #[arg(long, value_name = "IP", required = true)]
    pub(crate) address: Vec<IpAddr>,
    /// An address that connections to endpoints leave from; may be repeated
    #[arg(long, value_name = "IP", required = true)]
    pub(crate) egress_address: Vec<IpAddr>,
    /// One tenant for all namespaces, of this name, instead of one per namespace
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Only Ingresses of this class
    #[arg(long, value_name = "NAME")]
    pub(crate) class: Option<String>,
    /// A directory for one file per tenant, instead of standard output
    #[arg(short = 'd', long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `durward completions`
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// Shell that the script is for
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `durward version`
#[derive(Args, Debug)]
pub(crate) struct Version {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn parse_admin(text: &str) -> Result<Admin, String> {
    if text == "off" {
        return Ok(Admin::Off);
    }
    text.parse().map(Admin::At).map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor off"))
}

/// Parses a destination mode other than `Port`, by which one port would have to stand for all the addresses of a table.
fn parse_destination(text: &str) -> Result<DestinationSpec, String> {
    match text {
        "Bound" => Ok(DestinationSpec::Bound),
        "ProxyProtocol" => Ok(DestinationSpec::ProxyProtocol),
        "OriginalDestination" => Ok(DestinationSpec::OriginalDestination),
        "Transparent" => Ok(DestinationSpec::Transparent),
        _ => Err("use Bound, ProxyProtocol, OriginalDestination or Transparent".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is not a time such as 500ms, 30s or 2m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3_600))),
        _ => Err(format!("{unit:?} is not a unit of time: use ms, s, m or h")),
    }
    .and_then(|time| {
        let day = Duration::from_secs(86_400);
        (time <= day).then_some(time).ok_or_else(|| format!("{text:?} is too long: at most 24h"))
    })
}

/// Least memory in bytes with which a process with an empty configuration can work.
const LEAST_MEMORY: u64 = 64 * 1024 * 1024;

fn parse_memory(text: &str) -> Result<usize, String> {
    let bytes = durward_control::quantity::size(text).map_err(|fault| fault.to_string())?;
    if bytes < LEAST_MEMORY {
        return Err(format!("{text:?} is too little: use 64MiB or more"));
    }
    usize::try_from(bytes).map_err(|_| format!("{text:?} is more than can be addressed"))
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME:VALUE"))?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn memory_has_a_unit_and_a_least() {
        assert_eq!(parse_memory("512MiB"), Ok(512 << 20));
        for bad in ["1KiB", "much", "-1GiB", ""] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("25h").is_err());
    }

    #[test]
    fn times_have_units_and_everything_else_is_refused() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for junk in ["", "s", "-1s", "3 days", "1.5s"] {
            assert!(parse_duration(junk).is_err(), "{junk}");
        }
    }
}
