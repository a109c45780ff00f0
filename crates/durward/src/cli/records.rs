//! What may be asked of the records a gateway keeps.
//!
//! Deliberately absent: where a gateway is told to keep them; that is `durward run`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArgs;

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
