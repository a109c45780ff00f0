//! Arguments of `durward prove` and `durward egress`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Admin, CheckFormat, ConfigArgs, parse_admin, parse_duration};

/// `durward prove`
#[derive(Args, Debug)]
pub(crate) struct Prove {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where a running process is asked what it counted
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    /// How long it may take to answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Interleaved requests of the attack
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(4..=1_000_000))]
    pub(crate) requests: u64,
    /// Read and count only
    #[arg(long)]
    pub(crate) no_attack: bool,
    /// How the result is printed: table, short, json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = CheckFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: CheckFormat,
}

impl Prove {
    /// Returns the configuration to read, if one is named here or in the environment.
    pub(crate) fn config(&self) -> Option<&ConfigArgs> {
        let named = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let any = !self.config.config.is_empty()
            || named("DURWARD_CONFIG")
            || named("ROUTING_CONFIG_PATH");
        any.then_some(&self.config)
    }
}

/// `durward egress`
#[derive(Debug, Subcommand)]
pub(crate) enum Egress {
    /// Print the variables by which programs find a tenant's forward proxy
    Env(EgressEnv),
    /// Ask through a forward proxy for what must be allowed and what must be denied
    Test(EgressTest),
}

/// `durward egress env`
#[derive(Args, Debug)]
pub(crate) struct EgressEnv {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Whose; needed where several tenants have a forward proxy
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Which of the tenant's proxies; the first by default
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) proxy: Option<String>,
    /// A file with NAME:SECRET, where the proxy asks for a credential
    #[arg(long, value_name = "FILE")]
    pub(crate) credential_file: Option<PathBuf>,
    /// What goes direct
    #[arg(
        long,
        value_name = "LIST",
        default_value = "localhost,127.0.0.1,::1,.svc,.svc.cluster.local,.cluster.local,.internal"
    )]
    pub(crate) no_proxy: String,
    /// How they are printed: sh, dotenv, kubernetes (a container's env) or json
    #[arg(short = 'o', long = "output", value_enum, default_value_t = EnvFormat::Sh, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: EnvFormat,
}

/// Format of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvFormat {
    /// For `eval`.
    Sh,
    /// `NAME=value`.
    Dotenv,
    /// The `env` of a container.
    Kubernetes,
    /// The same as JSON.
    Json,
}

/// `durward egress test`
#[derive(Args, Debug)]
pub(crate) struct EgressTest {
    /// The proxy [env: https_proxy, HTTPS_PROXY, http_proxy, HTTP_PROXY]
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// A URL that must be allowed; may be repeated
    #[arg(long, value_name = "URL")]
    pub(crate) allowed: Vec<http::Uri>,
    /// A URL that the rules must deny; may be repeated
    #[arg(long, value_name = "URL")]
    pub(crate) denied: Vec<http::Uri>,
    /// A URL that answers with the address it was asked from, such as `https://ifconfig.me/ip`
    #[arg(long, value_name = "URL")]
    pub(crate) echo: Option<http::Uri>,
    /// The address it must see; may be repeated
    #[arg(long, value_name = "IP", requires = "echo")]
    pub(crate) address: Vec<IpAddr>,
    /// What must not be reached without the proxy; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) direct: Vec<String>,
    /// Authorities to believe besides those of the host; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Vec<PathBuf>,
    /// How long each may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// How the report is printed: table, short, json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = CheckFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) output: CheckFormat,
}
