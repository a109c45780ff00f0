//! The directories from which a document may name files: its own, and those the operator allows for all.
//!
//! A tenant that could name any file of the host could show another tenant's certificate with its key.

use crate::issuance::Issuance;
use std::path::{Component, Path, PathBuf};

/// Directories that the operator allows, and the base of relative paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRoots {
    working_directory: PathBuf,
    allowed: Vec<PathBuf>,
    issuance: Option<Issuance>,
}

impl FileRoots {
    /// Builds the roots of a process in `working_directory` whose operator allows the directories `allowed`.
    #[must_use]
    pub fn new(working_directory: PathBuf, allowed: &[PathBuf]) -> Self {
        let mut roots = Self { working_directory, ..Self::default() };
        roots.allowed = allowed.iter().map(|root| roots.clean(root)).collect();
        roots
    }

    /// Adds the directory of certificates by ACME. Documents name no file in it; what they ask for decides which is theirs.
    #[must_use]
    pub fn with_issuance(mut self, issuance: Issuance) -> Self {
        let directory = self.clean(&issuance.directory);
        self.issuance = Some(Issuance { directory, ..issuance });
        self
    }

    /// Returns what was decided about certificates by ACME; `None` without a directory for them.
    #[must_use]
    pub fn issuance(&self) -> Option<&Issuance> {
        self.issuance.as_ref()
    }

    /// Returns the path as an absolute one without `.` and `..`. Links are not followed.
    #[must_use]
    pub fn clean(&self, path: &Path) -> PathBuf {
        let mut clean = PathBuf::new();
        for part in self.working_directory.join(path).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => match clean.components().next_back() {
                    Some(Component::Normal(_)) => drop(clean.pop()),
                    Some(Component::RootDir | Component::Prefix(_)) => {}
                    _ => clean.push(".."),
                },
                part => clean.push(part),
            }
        }
        clean
    }

    /// Returns the directories, cleaned, from which a document with these directories may name files.
    pub fn of<'a>(&'a self, own: &'a [PathBuf]) -> impl Iterator<Item = PathBuf> + 'a {
        own.iter().map(|own| self.clean(own)).chain(self.allowed.iter().cloned())
    }
}

/// Returns whether a cleaned path is in a cleaned directory, or is that directory.
#[must_use]
pub fn is_within(path: &Path, root: &Path) -> bool {
    let rest = path.strip_prefix(root).ok();
    rest.is_some_and(|rest| {
        !matches!(rest.components().next(), Some(Component::ParentDir | Component::RootDir))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_within_a_directory_after_dots_are_taken_out_of_it() {
        let roots = FileRoots::new("/etc/durward".into(), &[PathBuf::from("../keys/")]);
        let cases = [
            ("x/certs/a", "x", true),
            ("x/./certs/../a", "x", true),
            ("x/../v/a", "x", false),
            ("x/../x/a", "x", true),
            ("xy/a", "x", false),
            ("/etc/durward/x/a", "x", true),
            ("/etc/keys/a", "../keys", true),
            ("/../../etc/durward/x/a", "x", true),
            ("/etc/durward/x/../../../root", "x", false),
        ];

        for (path, root, expected) in cases {
            let (clean, root) = (roots.clean(Path::new(path)), roots.clean(Path::new(root)));
            assert_eq!(is_within(&clean, &root), expected, "{path} in {}", root.display());
        }
        let of: Vec<_> = roots.of(&[PathBuf::from("x")]).collect();
        assert_eq!(of, [PathBuf::from("/etc/durward/x"), PathBuf::from("/etc/keys")]);
    }

    #[test]
    fn without_a_working_directory_a_relative_path_still_does_not_climb_out() {
        let roots = FileRoots::default();
        let here = roots.clean(Path::new("."));

        for (path, expected) in
            [("a/b", true), ("a/../../b", false), ("../b", false), ("/b", false)]
        {
            assert_eq!(is_within(&roots.clean(Path::new(path)), &here), expected, "{path}");
        }
    }
}
