//! `durward egress`: variables for clients of a forward proxy, and a test of its rules.

mod env;
pub(crate) mod proxy;
pub(crate) mod reach;
mod test;

use crate::cli::Egress;
use crate::failure::{Exit, Failure};

/// Runs the subcommand.
pub(crate) fn egress(arguments: &Egress) -> Result<Exit, Failure> {
    match arguments {
        Egress::Env(arguments) => env::env(arguments),
        Egress::Test(arguments) => test::test(arguments),
    }
}
