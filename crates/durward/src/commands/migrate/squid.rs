//! Translates a squid.conf into documents, with a note for each difference.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use durward_migrate::squid::{self, SquidFiles, SquidOptions};
use durward_migrate::{Effect, Migrated};

use crate::cli::Migrate;
use crate::commands::migrate::glob;
use crate::commands::migrate::hand_over;
use crate::failure::{Exit, Failure};
use crate::output::count;
use durward_control::source::regular::{self, FileKind};

/// Translates and prints or writes; fails if the documents allow what Squid denied, or cannot keep an address.
pub(super) fn migrate(arguments: &Migrate, file: &Path, text: &str) -> Result<Exit, Failure> {
    let options = SquidOptions {
        addresses: arguments.address.clone(),
        egress: arguments.egress_address.clone(),
    };
    let folder = file.parent().map(Path::to_owned).unwrap_or_default();
    let name = file.display().to_string();
    let migrated = squid::migrate(&name, text, &options, &Beside { folder })
        .map_err(|fault| Failure::InvalidConfig { message: fault.to_string() })?;
    hand_over(arguments.out.as_deref(), &migrated.documents, &migrated.files)?;
    report(arguments, &migrated)
}

/// Files that squid.conf names. Squid's own paths are absolute, or relative to its working directory; a copy has them beside the file.
struct Beside {
    folder: PathBuf,
}

impl Beside {
    fn candidates(&self, path: &str) -> Vec<PathBuf> {
        let parts: Vec<_> = Path::new(path).components().collect();
        let last = |count: usize| parts.iter().rev().take(count).rev().collect::<PathBuf>();
        vec![self.folder.join(path), self.folder.join(last(2)), self.folder.join(last(1))]
    }
}

impl SquidFiles for Beside {
    fn read(&self, path: &str) -> Result<String, String> {
        let candidates = self.candidates(path);
        let found = candidates.iter().find(|path| path.is_file());
        let Some(found) = found else {
            let first = fs::metadata(&candidates[0]).map(|_| "is no file".to_owned());
            return Err(first.unwrap_or_else(|error| error.to_string()));
        };
        let (_, bytes) =
            regular::read(found, FileKind::Names).map_err(|error| error.to_string())?;
        // Names in another encoding than UTF-8 match no request; each is reported where it is used.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn matching(&self, pattern: &str) -> Result<Vec<String>, String> {
        if !glob::is_pattern(pattern) {
            return Ok(vec![pattern.to_owned()]);
        }
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let tail = |count: usize| parts[parts.len().saturating_sub(count)..].join("/");
        for pattern in [pattern.to_owned(), tail(2), tail(1)] {
            let found = glob::matching(&self.folder, &pattern)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }
}

/// Prints notes to standard error, beside the documents.
fn report(arguments: &Migrate, migrated: &Migrated) -> Result<Exit, Failure> {
    let mut notes = anstream::stderr();
    for note in &migrated.notes {
        writeln!(notes, "{note}")?;
    }
    if arguments.all_notes {
        for note in &migrated.left_out {
            writeln!(notes, "{note}")?;
        }
    } else if !migrated.left_out.is_empty() {
        let count = count(migrated.left_out.len(), "directive");
        writeln!(notes, "{count} left out without effect on who may go where: see --all-notes")?;
    }
    let of = |effect| migrated.notes.iter().filter(|note| note.effect == effect).count();
    let (moved, wider) = (of(Effect::OtherAddress), of(Effect::Wider));
    let moved_text = match moved {
        0 => String::new(),
        moved => format!("{moved} to another address, "),
    };
    let tenants = count(migrated.documents.len(), "tenant");
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("FILE"));
    writeln!(
        notes,
        "{tenants}; {moved_text}{wider} wider than it was, {} narrower; next: durward validate -c {}",
        of(Effect::Narrower),
        out.display()
    )?;
    Ok(if wider == 0 && moved == 0 { Exit::Ok } else { Exit::FailedCheck })
}
