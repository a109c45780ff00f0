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
    /// Admin listener of the running gateway, whose counters are read; `off` reads none
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    /// Time limit for its answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Number of interleaved requests in the attack, 4 to 1000000
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(4..=1_000_000))]
    pub(crate) requests: u64,
    /// Only check the configuration and read the counters; send no requests
    #[arg(long)]
    pub(crate) no_attack: bool,
    /// Output format: table, short (problems only), json or yaml
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
    /// Print the environment variables with which programs use a tenant's forward proxy
    Env(EgressEnv),
    /// Test through a forward proxy that URLs are allowed or denied as they must be
    Test(EgressTest),
}

/// `durward egress env`
#[derive(Args, Debug)]
pub(crate) struct EgressEnv {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Tenant of the proxy; needed if several tenants have one
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Address and port of the proxy [default: the tenant's first]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) proxy: Option<String>,
    /// File with NAME:SECRET, for a proxy that requires a credential
    #[arg(long, value_name = "FILE")]
    pub(crate) credential_file: Option<PathBuf>,
    /// Value of NO_PROXY: hosts and domains reached without the proxy, comma-separated
    #[arg(
        long,
        value_name = "LIST",
        default_value = "localhost,127.0.0.1,::1,.svc,.svc.cluster.local,.cluster.local,.internal"
    )]
    pub(crate) no_proxy: String,
    /// Output format: sh, dotenv, kubernetes (a container's env) or json
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
    /// URL of the proxy [env: https_proxy, HTTPS_PROXY, http_proxy, HTTP_PROXY]
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// URL that must be allowed; repeatable
    #[arg(long, value_name = "URL")]
    pub(crate) allowed: Vec<http::Uri>,
    /// URL that the proxy's rules must deny; repeatable
    #[arg(long, value_name = "URL")]
    pub(crate) denied: Vec<http::Uri>,
    /// URL that answers with its client's address, such as `https://ifconfig.me/ip`
    #[arg(long, value_name = "URL")]
    pub(crate) echo: Option<http::Uri>,
    /// Address that --echo must answer with; repeatable, any of them will do
    #[arg(long, value_name = "IP", requires = "echo")]
    pub(crate) address: Vec<IpAddr>,
    /// Host and port that must not be reachable without the proxy; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) direct: Vec<String>,
    /// PEM file of CA certificates to trust besides the system's; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Vec<PathBuf>,
    /// Time limit for each request or connection
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Output format: table, short (problems only), json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = CheckFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) output: CheckFormat,
}
