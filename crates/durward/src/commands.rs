//! One file per command; each takes its arguments and says how it ended.
//!
//! Deliberately absent: the grammar, which is in `cli`, and the running gateway, which is in `app`.

mod certs;
mod check;
mod completions;
mod demo;
mod explain;
mod migrate;
mod nat;
mod run;
mod schema;
mod validate;
mod version;

use crate::cli::{Cli, Command};
use crate::failure::{Exit, Failure};

/// Does what the command line asks for.
pub(crate) fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let log = cli.log_format;
    match cli.command {
        Command::Demo(arguments) => demo::demo(&arguments, log),
        Command::Run(arguments) => run::run(&arguments, log),
        Command::Validate(arguments) => validate::validate(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Check(arguments) => check::check(*arguments),
        Command::Nat(arguments) => nat::nat(&arguments),
        Command::Migrate(arguments) => migrate::migrate(&arguments),
        Command::Certs(arguments) => certs::certs(&arguments),
        Command::Schema => schema::schema(),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Version(arguments) => version::version(&arguments),
    }
}
