//! Which files beside an audit file are its former ones: `FILE.1`, `FILE-20261121` and whatever else begins with its name.
//!
//! Deliberately absent: looking into them.

use std::io;
use std::path::{Path, PathBuf};

/// Former files of one audit file.
#[derive(Debug, Default)]
pub struct Rotated {
    /// Those that can be read, the oldest first by time of change.
    pub files: Vec<PathBuf>,
    /// Those that are compressed.
    pub compressed: Vec<PathBuf>,
}

/// Looks for the former files of `path`.
///
/// # Errors
/// When its directory cannot be listed.
pub fn rotated(path: &Path) -> io::Result<Rotated> {
    let Some(name) = path.file_name() else { return Ok(Rotated::default()) };
    let name = name.as_encoded_bytes();
    let (mut files, mut compressed) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder(path))? {
        let entry = entry?;
        let found = entry.file_name();
        let rest = found.as_encoded_bytes().strip_prefix(name);
        if !rest.is_some_and(|rest| rest.starts_with(b".") || rest.starts_with(b"-")) {
            continue;
        }
        let at = path.with_file_name(&found);
        let Ok(about) = at.metadata() else { continue };
        if !about.is_file() {
            continue;
        }
        let end = at.extension().unwrap_or_default().to_string_lossy().into_owned();
        if matches!(end.as_str(), "gz" | "xz" | "bz2" | "zst" | "lz4") {
            compressed.push(at);
        } else {
            files.push((about.modified()?, at));
        }
    }
    files.sort();
    compressed.sort();
    Ok(Rotated { files: files.into_iter().map(|(_, path)| path).collect(), compressed })
}

/// The directory a file is in.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
