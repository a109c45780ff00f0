//! `durward migrate`: SmartNat's Mapping objects as our documents, for a person to read and keep.
//!
//! Deliberately absent: writing files, and asking a cluster; `kubectl get mappings,services,endpointslices -A -o yaml` does.

use std::io::{Read, Write};

use durward_control::migrate::{SmartNatOptions, smartnat};

use crate::cli::{Migrate, Seed};
use crate::failure::{Exit, Failure};
use crate::output::{Screen, count};

/// Prints the documents; what to look at goes to standard error.
pub(crate) fn migrate(arguments: &Migrate) -> Result<Exit, Failure> {
    let texts = arguments.files.iter().map(|path| {
        let name = path.display().to_string();
        let mut text = String::new();
        let read = if name == "-" {
            std::io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(path).map(|read| text = read)
        };
        read.map_err(|error| Failure::InvalidConfig { message: format!("{name}: {error}") })?;
        Ok((name, text))
    });
    let texts = texts.collect::<Result<Vec<_>, Failure>>()?;
    let seed = Seed::environment();
    let defaults = SmartNatOptions::default();
    let options = SmartNatOptions {
        masquerade: seed.switch("SETUP_MASQUERADE").unwrap_or(defaults.masquerade),
        snat: seed.switch("SETUP_SNAT").unwrap_or(defaults.snat),
    };
    let migrated =
        smartnat(&texts, options).map_err(|message| Failure::InvalidConfig { message })?;
    Screen::stdout().text(&migrated.documents)?;
    let mut told = anstream::stderr();
    for note in &migrated.notes {
        writeln!(told, "note: {note}")?;
    }
    writeln!(told, "{}; next: durward validate -c FILE", count(migrated.mappings, "mapping"))?;
    Ok(if migrated.mappings == 0 { Exit::InvalidConfig } else { Exit::Ok })
}
