//! A squid.conf as documents, and what is not the same.
//!
//! Deliberately absent: writing the documents.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use durward_control::migrate::squid::{self, SquidOptions};
use durward_control::migrate::{Effect, Migrated};

use crate::cli::Migrate;
use crate::commands::migrate::hand_over;
use crate::failure::{Exit, Failure};
use crate::output::count;
use durward_control::source::regular::{self, FileKind};

/// Translates and prints or writes; fails when the documents let through what the other program denied.
pub(super) fn migrate(arguments: &Migrate, file: &Path, text: &str) -> Result<Exit, Failure> {
    let options =
        SquidOptions { address: arguments.address, egress: arguments.egress_address.clone() };
    let folder = file.parent().map(Path::to_owned).unwrap_or_default();
    // Squid's own paths are absolute, or from where it was started; beside the file is what a copy has.
    let open = |name: &str| {
        let beside = folder.join(Path::new(name).file_name().unwrap_or_default());
        let read = |path: &Path| regular::read_text(path, FileKind::Document);
        read(&folder.join(name)).or_else(|error| read(&beside).map_err(|_| error.to_string()))
    };
    let name = file.display().to_string();
    let migrated = squid::migrate(&name, text, &options, &open)
        .map_err(|fault| Failure::InvalidConfig { message: fault.to_string() })?;
    hand_over(arguments, &migrated.documents)?;
    tell(arguments, &migrated)
}

/// Notes are for people and go beside the documents.
fn tell(arguments: &Migrate, migrated: &Migrated) -> Result<Exit, Failure> {
    let mut notes = anstream::stderr();
    for note in &migrated.notes {
        writeln!(notes, "{note}")?;
    }
    let of = |effect| migrated.notes.iter().filter(|note| note.effect == effect).count();
    let wider = of(Effect::Wider);
    let tenants = count(migrated.documents.len(), "tenant");
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("FILE"));
    writeln!(
        notes,
        "{tenants}; {wider} wider than it was, {} narrower; next: durward validate -c {}",
        of(Effect::Narrower),
        out.display()
    )?;
    Ok(if wider == 0 { Exit::Ok } else { Exit::FailedCheck })
}
