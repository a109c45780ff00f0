//! Grammar of the command line.

mod acme;
mod demo;
mod egress;
mod logs;
pub(crate) mod nat;
mod records;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use durward_control::spec::ingress::DestinationSpec;
use durward_model::explain::Shown;
use durward_model::mapping::Transport;

use crate::commands::explain::expect;
use crate::output::Format;
pub(crate) use nat::{NatArgs, NatCommand, NatWhat, Seed, SteerArgs, TraceArgs};

pub(crate) use acme::AcmeArgs;
pub(crate) use demo::{Demo, Lab};
pub(crate) use egress::{Egress, EgressEnv, EgressTest, EnvFormat, Prove};
pub(crate) use logs::{AccessLog, AuditSync};
pub(crate) use records::{Audit, AuditVerify, AuditWhat, Top, TopFormat, Who};

/// Every tenant its own door, in and out.
///
/// Durward is one gateway for many tenants: the address a client connects to names the tenant, and the tenant's
/// traffic leaves from the tenant's own address.
#[derive(Debug, Parser)]
#[command(name = "durward", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// How log lines look on standard error.
    #[arg(long, global = true, display_order = 900, value_enum, default_value_t = LogFormat::Auto, hide_possible_values = true, value_name = "auto|human|json")]
    pub(crate) log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Begin with `durward demo`; it needs no root, no Kubernetes and leaves nothing behind.

Exit codes: 0 ok, 1 a check failed, 2 usage, 3 invalid configuration, 4 unreachable.
Environment: DURWARD_CONFIG, ROUTING_CONFIG_PATH, DURWARD_LOG, RUST_LOG, NO_COLOR, CLICOLOR_FORCE.";

/// The commands, in the order a newcomer meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show three tenants and a partner at work, in one process, on this machine
    Demo(Demo),
    /// Show the kernel's share: partners, a gateway and pods on networks of their own, without root
    Lab(Lab),
    /// Serve a configuration
    Run(Box<Run>),
    /// Compile a configuration and say what becomes of each document
    Validate(Validate),
    /// Say what happens to a connection or request, and why, with file and line
    Explain(Explain),
    /// Look for what would keep a configuration from working on this host
    Check(Box<Check>),
    /// Show what each tenant carries now, and its totals
    Top(Top),
    /// Say which tenant and client used an egress address and port at a time
    Who(Who),
    /// Verify the audit file of decisions
    Audit(Audit),
    /// Look at and clean up what the kernel carries for port mappings
    Nat(NatCommand),
    /// Issue and list certificates
    Certs(Certs),
    /// Prove that no connection can leave with another tenant's address
    Prove(Prove),
    /// Set up and test clients of a forward proxy
    #[command(subcommand)]
    Egress(Egress),
    /// Translate a squid.conf, Ingresses or SmartNat's objects into documents, and say what is not the same
    Migrate(Migrate),
    /// Print the JSON Schema of the documents
    Schema,
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
    /// A document, a routing.json, or a directory of documents; may be repeated [env: DURWARD_CONFIG (`:` between paths), ROUTING_CONFIG_PATH]
    #[arg(short = 'c', long = "config", value_name = "FILE|DIR")]
    pub(crate) config: Vec<PathBuf>,
    /// Where documents may name files, beside their own directory; may be repeated
    #[arg(
        long,
        value_name = "DIR",
        env = "DURWARD_FILES_ROOT",
        hide_env_values = true,
        value_delimiter = ':'
    )]
    pub(crate) files_root: Vec<PathBuf>,
    /// Where `run` keeps claims and last good documents for the next start; other commands read there who holds what, and answer as a
    /// gateway that starts now would [default: $STATE_DIRECTORY, which systemd sets, else off]
    #[arg(long, value_name = "DIR|off", env = "DURWARD_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// The directory URL of an ACME authority that documents may name beside Let's Encrypt's; may be repeated, and the first is the default
    #[arg(long, value_name = "URL", env = "DURWARD_ACME_DIRECTORY", hide_env_values = true, value_delimiter = ',', value_parser = acme::parse_https)]
    pub(crate) acme_directory: Vec<String>,
    /// Where connections for routing.json are accepted, such as 0.0.0.0:8443; each address itself on port 443 by default
    #[arg(long, value_name = "ADDRESS:PORT", env = "DURWARD_ROUTING_BIND", hide_env_values = true, help_heading = ROUTING)]
    pub(crate) routing_bind: Option<SocketAddr>,
    /// How the address a client connected to is known there: Bound, ProxyProtocol, OriginalDestination or Transparent
    #[arg(long, value_name = "HOW", env = "DURWARD_ROUTING_DESTINATION", hide_env_values = true, default_value = "Bound", value_parser = parse_destination, help_heading = ROUTING)]
    pub(crate) routing_destination: DestinationSpec,
    /// Networks that may send a PROXY header, with commas; for ProxyProtocol
    #[arg(long, value_name = "CIDR", env = "DURWARD_ROUTING_TRUSTED_PROXIES", hide_env_values = true, value_delimiter = ',', help_heading = ROUTING)]
    pub(crate) routing_trusted_proxies: Vec<String>,
    /// The port of a backend that names none
    #[arg(long, value_name = "PORT", env = "DURWARD_ROUTING_BACKEND_PORT", hide_env_values = true, default_value_t = 80, help_heading = ROUTING)]
    pub(crate) routing_backend_port: u16,
    /// Where its certificates are, when neither beside it nor in ../certs
    #[arg(long, value_name = "DIR", env = "DURWARD_ROUTING_CERTS", hide_env_values = true, help_heading = ROUTING)]
    pub(crate) routing_certs: Option<PathBuf>,
}

const ROUTING: &str = "Options for a routing.json";

/// How results are printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// How the result is printed: table, wide, json or yaml
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
    /// Threads that serve connections; 0 means one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) workers: usize,
    /// Where /livez, /readyz, /metrics and /snapshot are served [default: 127.0.0.1:9440]
    #[arg(long, value_name = "ADDRESS:PORT|off", value_parser = parse_admin)]
    pub(crate) admin: Option<Admin>,
    /// Where access-log lines go: `-` is standard output; see --decision-log for URLs
    #[arg(long, value_name = "-|PATH|URL|off", default_value = "-", env = "DURWARD_ACCESS_LOG", hide_env_values = true, value_parser = logs::parse)]
    pub(crate) access_log: AccessLog,
    /// Where decisions of the forward proxy go, one line at open and one at close; may be repeated; by default with the access log.
    /// URLs: syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT, syslog+unix:///dev/log, otlp+http://HOST:4318, otlp+https://HOST:4318
    #[arg(long, value_name = "-|PATH|URL|off", env = "DURWARD_DECISION_LOG", hide_env_values = true, value_delimiter = ',', value_parser = logs::parse)]
    pub(crate) decision_log: Vec<AccessLog>,
    /// Keep decisions in this file too, as a chain of hashes; nothing is let out before its record is in it
    #[arg(long, value_name = "FILE", env = "DURWARD_AUDIT_LOG", hide_env_values = true)]
    pub(crate) audit_log: Option<PathBuf>,
    /// When an audit record counts as written: when the kernel has it, or the disk
    #[arg(long, value_name = "kernel|disk", env = "DURWARD_AUDIT_SYNC", hide_env_values = true, value_enum, default_value_t = AuditSync::Kernel, hide_possible_values = true)]
    pub(crate) audit_sync: AuditSync,
    /// Memory this process may have, such as 512MiB; half of it is for heads, bodies and DNS answers [default: the limit of the cgroup, or the
    /// host's memory]
    #[arg(long, value_name = "SIZE", env = "DURWARD_MEMORY", hide_env_values = true, value_parser = parse_memory)]
    pub(crate) memory: Option<usize>,
    /// How long connections may take to end when the process stops or hands over
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) drain_grace: Duration,
    /// How long to go on accepting after SIGTERM while already not ready, for load balancers to notice
    #[arg(long, value_name = "TIME", default_value = "0s", env = "DURWARD_DRAIN_DELAY", hide_env_values = true, value_parser = parse_duration)]
    pub(crate) drain_delay: Duration,
    #[command(flatten)]
    pub(crate) acme: AcmeArgs,
    /// Do not watch the files; reload on SIGHUP only
    #[arg(long)]
    pub(crate) no_watch: bool,
    /// Refuse to start unless every document is accepted
    #[arg(long)]
    pub(crate) strict: bool,
    /// Listen also where another Durward of the same user does: the kernel spreads new connections over both
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
    pub(crate) output: OutputArgs,
}

/// `durward explain`
#[derive(Args, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Where the client connects: ADDRESS:PORT, or a URL
    #[arg(value_name = "ADDRESS:PORT|URL")]
    pub(crate) destination: String,
    /// The client's address
    #[arg(long, value_name = "IP")]
    pub(crate) client: Option<IpAddr>,
    /// By which protocol: tcp, udp or sctp
    #[arg(long, value_enum, default_value_t = Protocol::Tcp, hide_possible_values = true, value_name = "NAME")]
    pub(crate) protocol: Protocol,
    /// The address a URL's name stands for, when it should not be looked up; behind ADDRESS:PORT of a forward proxy, the address the
    /// name of --host stands for
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// The server name the client asks for by TLS
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// The Host the client sends
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// The path, with or without query
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// The method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub(crate) method: String,
    /// A header, `name: value`; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = parse_header)]
    pub(crate) headers: Vec<(String, String)>,
    /// The client shows a valid certificate, with this common name, DNS name or URI in it
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) client_cert: Option<Shown>,
    /// The client shows a forward proxy a valid credential, the one of this name; TENANT/NAME where several tenants have one of that name
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) credential: Option<Shown>,
    /// Ask the running gateway with this admin interface what it does now, not the files what it should do
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) running: Option<Admin>,
    /// Exit with 1 unless this holds: served, answered[:STATUS], refused[:REASON], tenant=NAME, upstream=NAME, egress=ADDRESS; may be
    /// repeated, and then all of it must hold; with egress every address it may leave from must be named
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
    pub(crate) nat: NatArgs,
    /// The admin interface of a running durward, to tell its ports from a stranger's
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    /// How long one upstream may take to answer
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// How the result is printed: table, short, json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = CheckFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: CheckFormat,
}

/// The parts of `durward check`.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckWhat {
    /// Follow one listener to its upstreams and dial each of them
    Route {
        /// The listener
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
    /// Issue a server or client certificate; makes the authority when there is none
    Issue(CertsIssue),
    /// List certificates: names, issuer, key, days left, chain
    List(CertsList),
}

/// `durward certs issue`
#[derive(Args, Debug)]
pub(crate) struct CertsIssue {
    /// Where the authority (ca.crt, ca.key) is kept and the certificate is written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// An IP address the server is reached at; may be repeated
    #[arg(long, value_name = "IP", required_unless_present_any = ["dns", "client"])]
    pub(crate) ip: Vec<IpAddr>,
    /// A name the server is reached at; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) dns: Vec<String>,
    /// A client certificate instead of a server certificate
    #[arg(long, requires = "name")]
    pub(crate) client: bool,
    /// The common name and the files' name; the first IP address or name by default
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Days until the certificate ends
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// The kind of key: ecdsa, rsa or ed25519
    #[arg(long, value_enum, default_value_t = KeyKind::Ecdsa, hide_possible_values = true, value_name = "KIND")]
    pub(crate) key: KeyKind,
    /// Overwrite files that exist (never the authority)
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
    /// A directory of PEM files instead of a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub(crate) dir: Option<PathBuf>,
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
    /// A squid.conf (files it names are looked for where it says, then beside it), or SmartNat's Mapping objects with the Service and
    /// EndpointSlice objects they refer to; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// squid.conf: an address clients know, where http_port names none; may be repeated
    #[arg(long, value_name = "IP")]
    pub(crate) address: Vec<IpAddr>,
    /// squid.conf: an address to leave from for clients without tcp_outgoing_address; may be repeated
    #[arg(long, value_name = "IP")]
    pub(crate) egress_address: Vec<IpAddr>,
    /// A directory for one file per tenant, instead of standard output
    #[arg(short = 'd', long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// squid.conf: also list the directives that do not decide who may go where
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
    /// The shell
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
