//! Opens regular files without waiting for a peer: a FIFO among audit files would block its reader until a writer opens it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file for reading.
///
/// # Errors
/// Fails if the file cannot be opened, or is a directory, FIFO, socket or device.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a regular file as `options` say.
///
/// # Errors
/// Fails if the file cannot be opened, or is a directory, FIFO, socket or device.
pub(crate) fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Opening a device may act on it (a tape rewinds), so the type is checked first.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(not_regular());
    }
    let file = options.custom_flags(flags()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

/// Returns the flags for open(2) that keep it from waiting.
pub(crate) fn flags() -> i32 {
    i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default()
}

fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")
}
