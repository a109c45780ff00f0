//! `durward`: one gateway for many tenants, every tenant its own door, in and out.
//!
//! Only the way from a command line to an exit code; everything else is in `commands` and `app`.

mod admin;
mod app;
mod authority;
mod cli;
mod client;
mod commands;
mod config;
mod digest;
mod explained;
mod failure;
mod handover;
mod inspect;
mod live;
mod output;
mod percent;
mod state_file;
mod telemetry;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

fn main() -> ExitCode {
    let mut grammar = cli::Cli::command();
    if live::is_plugin() {
        grammar = grammar.bin_name("kubectl durward");
    }
    let cli = cli::Cli::from_arg_matches(&grammar.get_matches());
    match commands::dispatch(cli.unwrap_or_else(|error| error.exit())) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !matches!(failure, failure::Failure::OutputClosed) {
                // Nothing is left to do if standard error is closed too.
                drop(writeln!(anstream::stderr(), "durward: {failure}"));
            }
            failure.exit().into()
        }
    }
}
