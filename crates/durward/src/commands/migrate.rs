//! `durward migrate`: another program's configuration as our documents, told by what is in it.
//!
//! Deliberately absent: the translations.

mod smartnat;
mod squid;

use std::io::Read as _;

use crate::cli::Migrate;
use crate::failure::{Exit, Failure};

/// Translates what the user names.
pub(crate) fn migrate(arguments: &Migrate) -> Result<Exit, Failure> {
    let mut texts = Vec::with_capacity(arguments.files.len());
    for path in &arguments.files {
        let name = path.display().to_string();
        let mut text = String::new();
        let read = if name == "-" {
            std::io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(path).map(|read| text = read)
        };
        read.map_err(|error| Failure::InvalidConfig { message: format!("{name}: {error}") })?;
        texts.push((name, text));
    }
    if !texts.iter().any(|(_, text)| is_squid(text)) {
        return smartnat::migrate(&texts);
    }
    match (&*arguments.files, &*texts) {
        ([file], [(_, text)]) => squid::migrate(arguments, file, text),
        _ => Err(Failure::usage("one squid.conf at a time; it includes others itself")),
    }
}

/// Every squid.conf has a port, or says who has access.
fn is_squid(text: &str) -> bool {
    let directives = ["http_port ", "https_port ", "http_access "];
    text.lines().any(|line| directives.iter().any(|name| line.trim_start().starts_with(name)))
}
