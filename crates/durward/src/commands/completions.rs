//! `durward completions`: a script that completes the command line in a shell.

use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::failure::{Exit, Failure};
use crate::output::Screen;

/// Prints the script.
pub(crate) fn completions(arguments: &Completions) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "durward", &mut script);
    Screen::stdout().text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
