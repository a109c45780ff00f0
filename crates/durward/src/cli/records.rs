//! Arguments of the commands that read a gateway's records.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Admin, OutputArgs, parse_admin, parse_duration};

/// `durward audit`
#[derive(Args, Debug)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) what: AuditWhat,
}

/// What is done with an audit file.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditWhat {
    /// Verify the chain of hashes, and report where it breaks
    Verify(AuditVerify),
}

/// `durward audit verify`
#[derive(Args, Debug)]
pub(crate) struct AuditVerify {
    /// Audit file and its rotated files, in any order [env: DURWARD_AUDIT_LOG]
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Hash, noted elsewhere, that must be in the chain; repeatable
    #[arg(long, value_name = "HASH")]
    pub(crate) contains: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward who`
#[derive(Args, Debug)]
pub(crate) struct Who {
    /// Egress address of the connection, as its remote end saw it
    #[arg(long, value_name = "IP")]
    pub(crate) ip: IpAddr,
    /// Source port of the connection, as its remote end saw it
    #[arg(long, value_name = "PORT")]
    pub(crate) port: u16,
    /// Time of the connection: 2026-11-21T14:03:05Z, with an offset instead of Z, or "2026-11-21 14:03" for that minute in UTC
    #[arg(long, value_name = "TIME")]
    pub(crate) at: String,
    /// Largest difference between clocks: the search begins and ends this much earlier and later
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub(crate) within: Duration,
    /// Audit file, or file of decision lines; rotated files beside it are found automatically; repeatable
    #[arg(long, value_name = "FILE", env = "DURWARD_AUDIT_LOG", hide_env_values = true, num_args = 1.., required = true)]
    pub(crate) audit: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward top`
#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Admin listener of the running gateway
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    /// Time between two readings
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) interval: Duration,
    /// Number of readings [default: until interrupted on a terminal, otherwise 1]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Output format: table, csv, json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = TopFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: TopFormat,
    /// Omit the CSV header, for appending to a file that has it
    #[arg(long)]
    pub(crate) no_header: bool,
}

/// Format of `durward top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopFormat {
    /// Rates on a terminal, totals when piped.
    Table,
    /// Totals, for spreadsheets and bills.
    Csv,
    /// Totals, for programs.
    Json,
    /// Totals, for programs and people.
    Yaml,
}
