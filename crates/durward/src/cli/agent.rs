//! Arguments of `durward agent`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Admin, OutputArgs, parse_admin};

/// `durward agent`
#[derive(Args, Debug)]
pub(crate) struct Agent {
    #[command(subcommand)]
    pub(crate) what: AgentWhat,
}

/// Parts of `durward agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentWhat {
    /// Dial out to the gateway and connect its streams to the backends of the file's routes
    Run(AgentRun),
    /// Get a client certificate for an agent with a token that is good for one, and write its files
    Join(AgentJoin),
    /// Show a running agent's carriers, routes and last error, or the way of one host's requests
    Status(AgentStatus),
    /// Show what is worth mending in the Ingresses that a running agent registers: host names, TLS, DNS, number of routes
    Lint(AgentLint),
    /// Make a token for an agent, and the digest of it for the tenant's document
    Token(AgentToken),
}

/// `durward agent run`
#[derive(Args, Debug)]
pub(crate) struct AgentRun {
    /// The agent's configuration, read again when it changes [default: the environment alone: PIPEOPS_API_URL, DURWARD_AGENT_TOKEN, ENABLE_INGRESS_SYNC]
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        env = "DURWARD_AGENT_CONFIG",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// Address and port of the agent's admin listener (/livez, /readyz, /metrics, /status); `off` disables it
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9441", value_parser = parse_admin)]
    pub(crate) admin: Admin,
}

/// `durward agent join`
#[derive(Args, Debug)]
pub(crate) struct AgentJoin {
    /// The gateway's listener for agents: wss://HOST[:PORT]
    #[arg(value_name = "GATEWAY")]
    pub(crate) gateway: String,
    /// File with the token, one of `joinTokens` of the link in the tenant's document [default: the token in DURWARD_JOIN_TOKEN]
    #[arg(long, value_name = "FILE", conflicts_with = "renew")]
    pub(crate) token_file: Option<PathBuf>,
    /// Renew the certificate in the directory, which stands for a token while it is valid
    #[arg(long)]
    pub(crate) renew: bool,
    /// Authorities to trust for the gateway's certificate, PEM [default: those of this host]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Name or address that the gateway's certificate must carry [default: the host of its address]
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Directory for agent.key, agent.crt and, unless it is there, agent.yaml
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward agent status`
#[derive(Args, Debug)]
pub(crate) struct AgentStatus {
    /// Show the way of requests for this host from the Ingress to the backend, and name the first broken piece
    #[arg(value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Path of the requests
    #[arg(long, value_name = "PATH", default_value = "/", requires = "host")]
    pub(crate) path: String,
    /// Admin listener of the agent
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9441", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward agent lint`
#[derive(Args, Debug)]
pub(crate) struct AgentLint {
    /// Address of the tenant's listener, to which DNS should lead; repeatable. Default: the addresses that the agent dials
    #[arg(long = "address", value_name = "ADDRESS")]
    pub(crate) addresses: Vec<IpAddr>,
    /// Look no host up in DNS
    #[arg(long)]
    pub(crate) no_dns: bool,
    /// Admin listener of the agent
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9441", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward agent token`
#[derive(Args, Debug)]
pub(crate) struct AgentToken {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
