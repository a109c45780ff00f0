//! `durward migrate`: translates another program's configuration into our documents; recognizes it by its directives.

mod glob;
mod ingress;
mod smartnat;
mod squid;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::cli::{Migrate, MigrateFrom};
use crate::failure::{Exit, Failure};
use crate::output::Screen;
use durward_control::source::regular::{self, FileKind, Unread};

/// Translates the files that the user names.
pub(crate) fn migrate(arguments: &Migrate) -> Result<Exit, Failure> {
    if let Some(MigrateFrom::Ingress(arguments)) = &arguments.from {
        return ingress::migrate(arguments);
    }
    let texts = read(&arguments.files)?;
    if !texts.iter().any(|(_, text)| is_squid(text)) {
        return smartnat::migrate(arguments, &texts);
    }
    match (&*arguments.files, &*texts) {
        ([file], [(_, text)]) => squid::migrate(arguments, file, text),
        _ => Err(Failure::usage("one squid.conf at a time; it includes others itself")),
    }
}

/// Returns the texts of files, each with the name it was given by; `-` is standard input.
fn read(files: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::with_capacity(files.len());
    for path in files {
        let name = path.display().to_string();
        let mut text = String::new();
        let read = if name == "-" {
            let limit = FileKind::Document.limit();
            std::io::stdin()
                .take(limit + 1)
                .read_to_string(&mut text)
                .map_err(Unread::from)
                .and_then(|read| {
                    let fits = read as u64 <= limit;
                    fits.then_some(()).ok_or(Unread::TooLarge { kind: FileKind::Document })
                })
        } else {
            regular::read_text(path, FileKind::Document).map(|read| text = read)
        };
        read.map_err(|error| Failure::InvalidConfig { message: format!("{name}: {error}") })?;
        texts.push((name, text));
    }
    Ok(texts)
}

/// Returns true for a squid.conf: each has a port, or access rules.
fn is_squid(text: &str) -> bool {
    let directives = ["http_port ", "https_port ", "http_access "];
    text.lines().any(|line| directives.iter().any(|name| line.trim_start().starts_with(name)))
}

/// Writes documents with the names of their files into the user's directory, or prints them.
fn hand_over(
    out: Option<&Path>,
    documents: &[(String, String)],
    files: &[(String, Vec<u8>)],
) -> Result<(), Failure> {
    let Some(directory) = out else {
        if let [(name, _), ..] = files {
            let message = format!(
                "the documents refer to files of their own ({name}): name a directory for all of them with --out"
            );
            return Err(Failure::usage(message));
        }
        return print(documents);
    };
    let documents = documents
        .iter()
        .map(|(name, text)| (format!("{name}.yaml"), text.as_bytes()))
        .chain(files.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())));
    write(directory, &documents.collect::<Vec<_>>())
}

fn print(documents: &[(String, String)]) -> Result<(), Failure> {
    let mut screen = Screen::stdout();
    for (at, (_, text)) in documents.iter().enumerate() {
        let mark = if at == 0 { "" } else { "---\n" };
        screen.text(&format!("{mark}{text}"))?;
    }
    Ok(())
}

/// Writes files; existing ones are not changed.
fn write(directory: &Path, files: &[(String, &[u8])]) -> Result<(), Failure> {
    if let Some((name, _)) = files.iter().find(|(name, _)| name.contains('/')) {
        let message = format!("{name:?} cannot be a file name: leave out --out to print all");
        return Err(Failure::InvalidConfig { message });
    }
    let taken = files.iter().map(|(name, _)| directory.join(name)).find(|path| path.exists());
    if let Some(path) = taken {
        let message = format!("{} exists already: name another directory", path.display());
        return Err(Failure::usage(message));
    }
    let broken = |path: &Path| {
        let doing = format!("writing {}", path.display());
        move |error| Failure::broken(doing, error)
    };
    fs::create_dir_all(directory).map_err(broken(directory))?;
    for (name, bytes) in files {
        let path = directory.join(name);
        // Not every user of the host should read hashes of secrets.
        let mode = if name.ends_with(".credentials") { 0o640 } else { 0o666 };
        let created = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let written = created.and_then(|mut file| file.write_all(bytes));
        written.map_err(broken(&path))?;
    }
    Ok(())
}
