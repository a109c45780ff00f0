//! Reads one file of a kind: regular files only, within the kind's limit, and without waiting for a peer.
//!
//! A FIFO blocks its reader until a writer opens it, opening a device may act on it, and some files (`/proc/self/pagemap`) have no end and say
//! that they are empty. Every file that a user names is read here.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use thiserror::Error;

use crate::named_file::MISSING;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The purpose a file is read for; each has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A private key, or another short secret.
    Key,
    /// A certificate and its chain.
    Certificate,
    /// A bundle of certificate authorities.
    Authorities,
    /// Names and hashes of clients' secrets.
    Credentials,
    /// Documents, `routing.json`, or another program's configuration.
    Document,
    /// Lists of host names.
    Names,
    /// Certificate revocation lists.
    RevocationLists,
}

impl FileKind {
    /// The largest file of this kind that is read, in bytes.
    #[must_use]
    pub fn limit(self) -> u64 {
        match self {
            Self::Key => 256 * KIB,
            Self::Certificate => MIB,
            Self::Authorities => 8 * MIB,
            Self::Credentials => 16 * MIB,
            Self::Document | Self::Names => 32 * MIB,
            Self::RevocationLists => 64 * MIB,
        }
    }

    /// The kind in the words of the reference.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "a key",
            Self::Certificate => "a certificate",
            Self::Authorities => "a bundle of authorities",
            Self::Credentials => "a credentials file",
            Self::Document => "a file of documents",
            Self::Names => "a list of names",
            Self::RevocationLists => "revocation lists",
        }
    }
}

/// Reason why a file was not read, as a phrase that follows its name.
#[derive(Debug, Error)]
pub enum Unread {
    /// Nothing is at the path.
    #[error("{MISSING}")]
    Missing,
    /// The path leads to a FIFO, a device, a socket or a directory.
    #[error("is {what}: only regular files are read")]
    NotRegular {
        /// The type, with its article.
        what: &'static str,
    },
    /// The file has more bytes than its kind may have.
    #[error("is larger than {}, the most that {} may have", size(kind.limit()), kind.name())]
    TooLarge {
        /// The purpose it was read for.
        kind: FileKind,
    },
    /// The file system refused.
    #[error("{}", reason(.0))]
    Failed(#[source] io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::NotFound { Self::Missing } else { Self::Failed(error) }
    }
}

/// Returns the bytes of the regular file at `path`, and what the system says of it.
///
/// # Errors
/// When it is no regular file, is larger than `kind` allows, or cannot be read.
pub fn read(path: &Path, kind: FileKind) -> Result<(Metadata, Vec<u8>), Unread> {
    let (mut file, metadata) = open(path, kind)?;
    let bytes = contents(&mut file, &metadata, kind)?;
    Ok((metadata, bytes))
}

/// Returns the bytes of an opened file, as far as `kind` allows.
pub(super) fn contents(
    file: &mut File,
    metadata: &Metadata,
    kind: FileKind,
) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // The size may be wrong, or grow meanwhile: reading a page beyond the limit detects that, and some files are read by whole words only.
    file.by_ref().take(kind.limit() + 4096).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > kind.limit() {
        return Err(Unread::TooLarge { kind });
    }
    Ok(bytes)
}

/// Opens a regular file that claims a size that `kind` may have.
pub(super) fn open(path: &Path, kind: FileKind) -> Result<(File, Metadata), Unread> {
    let file = open_now(path)?;
    let metadata = file.metadata()?;
    check_type(metadata.file_type())?;
    if metadata.len() > kind.limit() {
        return Err(Unread::TooLarge { kind });
    }
    Ok((file, metadata))
}

/// Returns the text of the regular file at `path`.
///
/// # Errors
/// When it is no regular file, is larger than `kind` allows, cannot be read, or is not UTF-8.
pub fn read_text(path: &Path, kind: FileKind) -> Result<String, Unread> {
    let (_, bytes) = read(path, kind)?;
    String::from_utf8(bytes)
        .map_err(|_| Unread::Failed(io::Error::new(ErrorKind::InvalidData, "is not UTF-8 text")))
}

/// Opens a file; one that is there and yet not is just being swapped, so it is tried again.
fn open_now(path: &Path) -> Result<File, Unread> {
    // Opening a device may act on it (a watchdog starts), so its type is asked for first. What is opened is asked again by the caller.
    let mut tries = 0;
    loop {
        let opened = fs::metadata(path).map_err(Unread::from).and_then(|metadata| {
            check_type(metadata.file_type())?;
            // NONBLOCK: a FIFO that took the file's place has no writer, and a file may be under a lease. NOCTTY: a terminal is not ours.
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let flags = i32::try_from(flags.bits()).unwrap_or_default();
            Ok(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
        });
        match opened {
            Err(Unread::Missing) if tries < 3 && fs::symlink_metadata(path).is_ok() => tries += 1,
            other => return other,
        }
    }
}

fn check_type(found: FileType) -> Result<(), Unread> {
    let what = if found.is_file() {
        return Ok(());
    } else if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a FIFO"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Unread::NotRegular { what })
}

/// Returns a size in the largest unit that fits.
pub(crate) fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(MIB) {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{} KiB", bytes.div_ceil(KIB))
    }
}

/// Returns the system's reason as a phrase.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => MISSING.to_owned(),
        ErrorKind::InvalidData => error.to_string(),
        ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
        ErrorKind::WouldBlock => {
            "cannot be read now: another process holds it, it is tried again".to_owned()
        }
        _ => {
            let text = error.to_string().to_lowercase();
            let text = text.split(" (os error").next().unwrap_or_default();
            format!("cannot be read: {text}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_else_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let (fifo, socket) = (root.path().join("fifo"), root.path().join("socket"));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _listening = UnixListener::bind(&socket).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();

        let cases = [
            (fifo.as_path(), "is a FIFO: only regular files are read"),
            (&link, "is a FIFO: only regular files are read"),
            (&socket, "is a socket: only regular files are read"),
            (root.path(), "is a directory: only regular files are read"),
            (Path::new("/dev/zero"), "is a device: only regular files are read"),
            (&root.path().join("nowhere"), MISSING),
        ];

        for (path, sentence) in cases {
            let read = read(path, FileKind::Document).map(|_| ());
            assert_eq!(read.unwrap_err().to_string(), sentence, "{}", path.display());
        }
    }

    #[test]
    fn a_file_is_read_up_to_the_limit_of_its_kind_whatever_size_it_claims() {
        let root = tempfile::tempdir().unwrap();
        let sparse = root.path().join("sparse");
        File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        let just = root.path().join("just");
        File::create(&just).unwrap().set_len(FileKind::Key.limit()).unwrap();

        let fault = |path: &Path, kind| read(path, kind).map(|_| ()).unwrap_err().to_string();

        for kind in [FileKind::Key, FileKind::Certificate, FileKind::RevocationLists] {
            assert!(fault(&sparse, kind).contains("is larger than"));
        }
        assert_eq!(
            fault(Path::new("/proc/self/pagemap"), FileKind::Key),
            "is larger than 256 KiB, the most that a key may have"
        );
        assert_eq!(read(&just, FileKind::Key).unwrap().1.len(), 256 << 10);
    }
}
