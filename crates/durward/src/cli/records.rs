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
    /// Say whether the chain of hashes is intact, or where it breaks
    Verify(AuditVerify),
}

/// `durward audit verify`
#[derive(Args, Debug)]
pub(crate) struct AuditVerify {
    /// The audit file and its rotated ones, in any order [env: DURWARD_AUDIT_LOG]
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A hash that was noted elsewhere and must be in the chain; may be repeated
    #[arg(long, value_name = "HASH")]
    pub(crate) contains: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward who`
#[derive(Args, Debug)]
pub(crate) struct Who {
    /// The egress address, as the far end saw it
    #[arg(long, value_name = "IP")]
    pub(crate) ip: IpAddr,
    /// The source port, as the far end saw it
    #[arg(long, value_name = "PORT")]
    pub(crate) port: u16,
    /// When: 2026-11-21T14:03:05Z, with an offset instead of Z, or "2026-11-21 14:03" for that minute in UTC
    #[arg(long, value_name = "TIME")]
    pub(crate) at: String,
    /// How far clocks may differ
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub(crate) within: Duration,
    /// The audit file, or a file of decision lines; its rotated ones are found by themselves; may be repeated
    #[arg(long, value_name = "FILE", env = "DURWARD_AUDIT_LOG", hide_env_values = true, num_args = 1.., required = true)]
    pub(crate) audit: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `durward top`
#[derive(Args, Debug)]
pub(crate) struct Top {
    /// The admin interface of a running durward
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9440", value_parser = parse_admin)]
    pub(crate) admin: Admin,
    /// Between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub(crate) interval: Duration,
    /// How often to look; on a terminal until interrupted, otherwise once
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// How the result is printed: table, csv, json or yaml
    #[arg(short = 'o', long = "output", value_enum, default_value_t = TopFormat::Table, hide_possible_values = true, value_name = "FORMAT")]
    pub(crate) format: TopFormat,
    /// Leave out the line of names above the CSV, for a file that has it
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
