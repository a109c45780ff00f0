//! `durward audit verify`: verifies the chain of an audit file, and reports where it breaks.

use std::path::PathBuf;

use durward_proxy::audit::chain::Link;
use durward_proxy::audit::verify::{Part, Verified, find, verify};
use serde::Serialize;

use crate::cli::{Audit, AuditVerify, AuditWhat};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, Tone, count, plain};

/// Verifies the files.
pub(crate) fn audit(arguments: &Audit) -> Result<Exit, Failure> {
    let AuditWhat::Verify(arguments) = &arguments.what;
    let files = files(&arguments.files)?;
    let verified =
        verify(&files).map_err(|error| Failure::Unreachable { message: error.to_string() })?;
    let missing = missing(arguments, &files)?;
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => {
            screen.value(&Report::of(&verified, &missing), format)?;
        }
        Format::Table | Format::Wide => print(&mut screen, &verified, &missing)?,
    }
    let intact = verified.broken.is_none() && missing.is_empty();
    Ok(if intact { Exit::Ok } else { Exit::FailedCheck })
}

/// Returns the files that the user names, or else the one in `DURWARD_AUDIT_LOG`.
pub(super) fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    match std::env::var_os("DURWARD_AUDIT_LOG").filter(|path| !path.is_empty()) {
        Some(path) => Ok(vec![PathBuf::from(path)]),
        None => Err(Failure::usage("no audit file: name it, or set DURWARD_AUDIT_LOG")),
    }
}

fn missing(arguments: &AuditVerify, files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    for hash in &arguments.contains {
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Failure::usage(format!("{hash:?} is not 64 hexadecimal digits")));
        }
    }
    let found = find(files, &arguments.contains)
        .map_err(|error| Failure::Unreachable { message: error.to_string() })?;
    let missing = arguments.contains.iter().filter(|hash| !found.contains(&hash.to_lowercase()));
    Ok(missing.cloned().collect())
}

#[derive(Serialize)]
struct Report<'a> {
    intact: bool,
    files: Vec<PartReport>,
    broken: Option<BreakReport>,
    missing: &'a [String],
}

#[derive(Serialize)]
struct PartReport {
    file: PathBuf,
    records: u64,
    first: Option<u64>,
    last: Option<u64>,
    hash: Option<String>,
    torn: u64,
    lost: u64,
}

#[derive(Serialize)]
struct BreakReport {
    file: PathBuf,
    line: u64,
    byte: u64,
    reason: String,
}

impl<'a> Report<'a> {
    fn of(verified: &Verified, missing: &'a [String]) -> Self {
        let part = |part: &Part| PartReport {
            file: part.path.clone(),
            records: part.records,
            first: part.ends.map(|(first, _)| first.sequence),
            last: part.ends.map(|(_, last)| last.sequence),
            hash: part.ends.map(|(_, last)| last.hash.to_string()),
            torn: part.torn,
            lost: part.lost,
        };
        Self {
            intact: verified.broken.is_none() && missing.is_empty(),
            files: verified.parts.iter().map(part).collect(),
            broken: verified.broken.as_ref().map(|broken| BreakReport {
                file: broken.path.clone(),
                line: broken.line,
                byte: broken.byte,
                reason: broken.reason.to_string(),
            }),
            missing,
        }
    }
}

fn print(screen: &mut Screen, verified: &Verified, missing: &[String]) -> Result<(), Failure> {
    let mut table = Table::new(&["FILE", "RECORDS", "FROM", "TO", "TORN", "LOST", "STATE"]);
    for part in &verified.parts {
        let broken = verified.broken.as_ref().is_some_and(|broken| broken.path == part.path);
        let number = |link: Option<Link>| {
            link.map_or_else(|| "-".to_owned(), |link| link.sequence.to_string())
        };
        table.row(vec![
            plain(part.path.display()),
            plain(part.records),
            plain(number(part.ends.map(|(first, _)| first))),
            plain(number(part.ends.map(|(_, last)| last))),
            plain(part.torn),
            plain(part.lost),
            if broken {
                ("broken".to_owned(), Tone::Bad)
            } else {
                ("intact".to_owned(), Tone::Good)
            },
        ]);
    }
    table.print(screen)?;
    screen.line("")?;
    if let Some(broken) = &verified.broken {
        return screen.line(format!("{} {broken}", Tone::Bad.paint("broken:")));
    }
    for hash in missing {
        screen.line(format!("{} no record has the hash {hash}", Tone::Bad.paint("missing:")))?;
    }
    let records: u64 = verified.parts.iter().map(|part| part.records).sum();
    let Some((_, last)) = verified.parts.last().and_then(|part| part.ends) else { return Ok(()) };
    if let Some((first, _)) = verified.parts.first().and_then(|part| part.ends)
        && first.sequence > 1
    {
        screen
            .line(format!("records before {} are in files that were not given", first.sequence))?;
    }
    let records = count(usize::try_from(records).unwrap_or(usize::MAX), "record");
    screen.line(format!("{records} in one chain; the last is {} with hash", last.sequence))?;
    screen.line(format!("  {}", last.hash))?;
    screen.line("keep this hash elsewhere: with --contains HASH a later check shows whether the file was cut short")
}
