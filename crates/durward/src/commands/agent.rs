//! `durward agent`: the agent of a link, in a private cluster.

mod admin;
mod follow;
mod join;
mod lint;
mod network;
mod run;
mod status;
mod sync;
mod token;

use crate::cli::{Agent, AgentWhat, LogFormat};
use crate::failure::{Exit, Failure};

/// Runs the part that is asked for.
pub(crate) fn agent(arguments: &Agent, log: LogFormat) -> Result<Exit, Failure> {
    match &arguments.what {
        AgentWhat::Run(arguments) => run::run(arguments, log),
        AgentWhat::Join(arguments) => join::join(arguments),
        AgentWhat::Status(arguments) => status::status(arguments),
        AgentWhat::Lint(arguments) => lint::lint(arguments),
        AgentWhat::Token(arguments) => token::token(arguments),
    }
}
