//! A directory that is gone when the test is.
//! Files in it are written in one call, parents included.

use std::fs;
use std::path::{Path, PathBuf};

/// A temporary directory, removed on drop.
#[derive(Debug)]
pub struct TempDir(tempfile::TempDir);

impl Default for TempDir {
    fn default() -> Self {
        Self::new()
    }
}

impl TempDir {
    /// A new empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("durward-test-")
                .tempdir()
                .expect("a temporary directory can be made"),
        )
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path below it, whether it exists or not.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file in place, with the directories above it.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("the directory of a test is writable");
        }
        fs::write(&path, content).expect("the directory of a test is writable");
        path
    }

    /// Replaces a file in one step, as careful editors do: a new file renamed over the old.
    pub fn replace(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        let fresh = beside(&path);
        fs::write(&fresh, content).expect("the directory of a test is writable");
        fs::rename(&fresh, &path).expect("a file can be renamed within its directory");
        path
    }

    /// Points a symbolic link at a target in one step, as Kubernetes does with `..data`.
    pub fn point(&self, link: impl AsRef<Path>, target: impl AsRef<Path>) -> PathBuf {
        let path = self.join(link);
        let fresh = beside(&path);
        std::os::unix::fs::symlink(target, &fresh).expect("a link can be made");
        fs::rename(&fresh, &path).expect("a link can be renamed within its directory");
        path
    }
}

impl AsRef<Path> for TempDir {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

/// A hidden name in the same directory, which nobody mistakes for the file itself.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a file has a name").to_string_lossy();
    path.with_file_name(format!(".{name}.fresh"))
}
