//! `durward certs`: issues certificates for a first set-up, and lists those that a configuration uses.
//!
//! Deliberately absent: renewal; replacing the file is enough, the gateway notices it, and what an ACME authority issues it renews itself.

mod issue;
mod list;

use crate::cli::{Certs, CertsWhat};
use crate::failure::{Exit, Failure};

/// Issues or lists certificates.
pub(crate) fn certs(arguments: &Certs) -> Result<Exit, Failure> {
    match &arguments.what {
        CertsWhat::Issue(arguments) => issue::issue(arguments),
        CertsWhat::List(arguments) => list::list(arguments),
    }
}
