//! The configuration that was applied last, for changes of single files that this process makes itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durward_control::Resources;
use durward_control::named_file::NamedFile;
use durward_model::Verdicts;

use super::log::AbsentEgress;

/// Facts of the configuration that was applied last.
pub(super) struct Latest {
    /// Egress addresses that are not on this host, as they were logged.
    pub(super) absent_egress: AbsentEgress,
    resources: Arc<Resources>,
    /// Files that this process wrote and that a load may have read before; `None` for those it removed.
    written: HashMap<PathBuf, Option<NamedFile>>,
}

impl Latest {
    pub(super) fn new(absent_egress: AbsentEgress, resources: Arc<Resources>) -> Self {
        Self { absent_egress, resources, written: HashMap::new() }
    }

    /// Notes files that this process wrote or removed; returns the resources applied last, with these changes.
    pub(super) fn with_changed(&mut self, files: &[(&Path, Option<&[u8]>)]) -> Arc<Resources> {
        let files = files.iter().map(|(path, bytes)| {
            ((*path).to_owned(), bytes.map(|bytes| NamedFile::new(bytes.to_vec())))
        });
        self.written.extend(files);
        self.overlaid(&self.resources)
    }

    /// Returns what was loaded, with the files as this process wrote them: a load that began before must not bring the former ones back.
    pub(super) fn with_written(&mut self, resources: &Arc<Resources>) -> Arc<Resources> {
        // What the load has read as it was written is no longer this process's business.
        self.written.retain(|path, written| {
            let read = resources.files.get(path.as_path());
            read.is_some_and(|read| read.as_ref().ok() != written.as_ref())
        });
        self.overlaid(resources)
    }

    fn overlaid(&self, resources: &Arc<Resources>) -> Arc<Resources> {
        if self.written.is_empty() {
            return Arc::clone(resources);
        }
        let written = self.written.iter().map(|(path, file)| (path.as_path(), file.as_ref()));
        Arc::new(resources.with_files(written))
    }

    /// Keeps what is applied now, without the bytes of files that only rejected documents name.
    pub(super) fn keep(&mut self, resources: Arc<Resources>, verdicts: &Verdicts) {
        let rejected = resources.files_of_rejected(verdicts);
        self.resources = match rejected.is_empty() {
            true => resources,
            false => Arc::new(resources.without_bytes_of(&rejected)),
        };
    }
}

#[cfg(test)]
mod tests {
    use durward_control::resources::MISSING;

    use super::*;

    fn resources(bytes: Option<&[u8]>) -> Arc<Resources> {
        let file = bytes
            .map_or_else(|| Err(MISSING.to_owned()), |bytes| Ok(NamedFile::new(bytes.to_vec())));
        let files = HashMap::from([(Arc::from(Path::new("/state/a.pem")), file)]);
        Arc::new(Resources { files: Arc::new(files), ..Resources::default() })
    }

    fn content(resources: &Resources) -> Option<Vec<u8>> {
        let file = resources.files[Path::new("/state/a.pem")].as_ref().ok()?;
        file.bytes().map(|bytes| bytes.to_vec())
    }

    #[test]
    fn a_load_that_began_before_a_file_was_written_does_not_bring_the_former_one_back() {
        let mut latest = Latest::new(AbsentEgress::default(), resources(None));
        let path = Path::new("/state/a.pem");
        let changed = latest.with_changed(&[(path, Some(b"new"))]);

        let before = latest.with_written(&resources(Some(b"old")));
        let caught_up = latest.with_written(&resources(Some(b"new")));
        let later = latest.with_written(&resources(Some(b"by hand")));
        latest.with_changed(&[(path, None)]);
        let removed = latest.with_written(&resources(Some(b"new")));

        assert_eq!(content(&changed).as_deref(), Some(&b"new"[..]));
        assert_eq!(content(&before).as_deref(), Some(&b"new"[..]));
        assert_eq!(content(&caught_up).as_deref(), Some(&b"new"[..]));
        assert_eq!(content(&later).as_deref(), Some(&b"by hand"[..]), "a later change counts");
        assert_eq!(content(&removed), None);
    }
}
