//! `durward certs`: issue what a first set-up needs, and list what a configuration uses.
//!
//! Deliberately absent: renewal; rotating a file is enough, the gateway sees it.

mod issue;
mod list;

use crate::cli::{Certs, CertsWhat};
use crate::failure::{Exit, Failure};

/// Issues or lists.
pub(crate) fn certs(arguments: &Certs) -> Result<Exit, Failure> {
    match &arguments.what {
        CertsWhat::Issue(arguments) => issue::issue(arguments),
        CertsWhat::List(arguments) => list::list(arguments),
    }
}
