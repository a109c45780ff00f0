//! Rotated files of an audit file: `FILE.1`, `FILE-20261121` and any other name in the directory that begins with its own.

use std::io;
use std::path::{Path, PathBuf};

/// Rotated files of one audit file.
#[derive(Debug, Default)]
pub struct Rotated {
    /// Readable files, the oldest first by time of change.
    pub files: Vec<PathBuf>,
    /// Compressed files.
    pub compressed: Vec<PathBuf>,
}

/// Lists the rotated files of `path`.
///
/// # Errors
/// Fails if the directory cannot be listed.
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

/// Returns the directory of a file.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
