//! `durward egress`: what clients of a forward proxy need, and whether it does what it should.
//!
//! Deliberately absent: serving; that is `run`.

mod env;
pub(crate) mod proxy;
pub(crate) mod reach;
mod test;

use crate::cli::Egress;
use crate::failure::{Exit, Failure};

/// Does what the command line asks for.
pub(crate) fn egress(arguments: &Egress) -> Result<Exit, Failure> {
    match arguments {
        Egress::Env(arguments) => env::env(arguments),
        Egress::Test(arguments) => test::test(arguments),
    }
}
