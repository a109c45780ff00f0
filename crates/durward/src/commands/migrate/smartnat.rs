//! SmartNat's Mapping objects as our documents, for a person to read and keep.
//!
//! Deliberately absent: writing files, and asking a cluster; `kubectl get mappings,services,endpointslices -A -o yaml` does.

use std::io::Write as _;

use durward_control::migrate::smartnat::{self, SmartNatOptions};

use crate::cli::Seed;
use crate::failure::{Exit, Failure};
use crate::output::{Screen, count};

/// Prints the documents; what to look at goes to standard error.
pub(super) fn migrate(texts: &[(String, String)]) -> Result<Exit, Failure> {
    let seed = Seed::environment();
    let defaults = SmartNatOptions::default();
    let options = SmartNatOptions {
        masquerade: seed.switch("SETUP_MASQUERADE").unwrap_or(defaults.masquerade),
        snat: seed.switch("SETUP_SNAT").unwrap_or(defaults.snat),
    };
    let migrated =
        smartnat::migrate(texts, options).map_err(|message| Failure::InvalidConfig { message })?;
    Screen::stdout().text(&migrated.documents)?;
    let mut told = anstream::stderr();
    for note in &migrated.notes {
        writeln!(told, "note: {note}")?;
    }
    writeln!(told, "{}; next: durward validate -c FILE", count(migrated.mappings, "mapping"))?;
    Ok(if migrated.mappings == 0 { Exit::InvalidConfig } else { Exit::Ok })
}
