//! Translates SmartNat's Mapping objects into our documents, for a person to review; `kubectl get mappings,services,endpointslices -A -o yaml` writes
//! them.

use std::io::Write as _;
use std::path::PathBuf;

use durward_migrate::smartnat::{self, SmartNatOptions};

use crate::cli::{Migrate, Seed};
use crate::commands::migrate::hand_over;
use crate::failure::{Exit, Failure};
use crate::output::count;

/// Prints or writes the documents; notes go to standard error.
pub(super) fn migrate(arguments: &Migrate, texts: &[(String, String)]) -> Result<Exit, Failure> {
    let seed = Seed::environment();
    let defaults = SmartNatOptions::default();
    let options = SmartNatOptions {
        masquerade: seed.switch("SETUP_MASQUERADE").unwrap_or(defaults.masquerade),
        snat: seed.switch("SETUP_SNAT").unwrap_or(defaults.snat),
    };
    let migrated =
        smartnat::migrate(texts, options).map_err(|message| Failure::InvalidConfig { message })?;
    hand_over(arguments.out.as_deref(), &migrated.documents, &[])?;
    let mut told = anstream::stderr();
    for note in &migrated.notes {
        writeln!(told, "note: {note}")?;
    }
    for note in &migrated.left_out {
        writeln!(told, "left out: {note}")?;
    }
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("FILE"));
    let mappings = count(migrated.mappings, "mapping");
    writeln!(told, "{mappings}; next: durward validate -c {}", out.display())?;
    Ok(match (migrated.mappings, migrated.left_out.len()) {
        (0, _) => Exit::InvalidConfig,
        (_, 0) => Exit::Ok,
        _ => Exit::FailedCheck,
    })
}
