//! Reads the files that documents name, within a budget that is shared out among tenants.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Load;
use crate::change::Links;
use crate::document::{Content, Document};
use crate::named_file::{FileBytes, NamedFile};
use crate::source::regular::{FileKind, size};
use crate::source::shares;

/// A file that a tenant's document refers to.
#[derive(Clone, Debug)]
pub(super) struct NamedBy {
    tenant: Arc<str>,
    kind: FileKind,
    path: Arc<Path>,
}

/// Returns the files a document refers to, with the tenant that names them.
pub(super) fn referenced(document: &Document) -> Vec<NamedBy> {
    let name: Arc<str> = match (&document.content, document.tenant()) {
        (Content::Tenant(tenant), _) => Arc::from(&*tenant.metadata.name.value),
        (_, Some(tenant)) => Arc::from(tenant.as_str()),
        (_, None) => return Vec::new(),
    };
    let of_tenant = |(kind, path)| NamedBy { tenant: Arc::clone(&name), kind, path };
    document.references().into_iter().map(of_tenant).collect()
}

impl Load<'_> {
    /// Reads what the documents refer to. When all of it is too much, each tenant's files get a share.
    pub(super) fn referenced(&mut self, budget: u64) {
        let references = std::mem::take(&mut self.references);
        let references: Vec<&NamedBy> = references.iter().flat_map(|of_file| &**of_file).collect();
        // A file that is named for two purposes may be as large as the larger of them.
        let mut kinds: HashMap<&Path, FileKind> = HashMap::with_capacity(references.len());
        for reference in &references {
            let kind = kinds.entry(&*reference.path).or_insert(reference.kind);
            *kind = reference.kind.max(*kind);
        }
        let mut total = 0;
        for reference in &references {
            if self.found.files.contains_key(&reference.path) {
                continue;
            }
            let file = self.reader.read(&reference.path, kinds[&*reference.path]);
            total += file.as_ref().map_or(0, NamedFile::length);
            self.files_read().insert(Arc::clone(&reference.path), file);
            if total > budget {
                self.files_read().clear();
                self.share_out(&references, &kinds, budget);
                break;
            }
        }
        self.follow_links();
    }

    fn files_read(&mut self) -> &mut HashMap<Arc<Path>, FileBytes> {
        Arc::make_mut(&mut self.found.files)
    }

    /// Reads each tenant's files in the order written, as far as its share goes.
    fn share_out(
        &mut self,
        references: &[&NamedBy],
        kinds: &HashMap<&Path, FileKind>,
        budget: u64,
    ) {
        let mut tenants: BTreeMap<&str, Vec<&Arc<Path>>> = BTreeMap::new();
        let mut seen = HashSet::new();
        for reference in references {
            if seen.insert((&reference.tenant, &reference.path)) {
                tenants.entry(&reference.tenant).or_default().push(&reference.path);
            }
        }
        let sizes: HashMap<&Path, u64> =
            kinds.keys().map(|path| (*path, self.reader.size(path))).collect();
        let need = |files: &Vec<&Arc<Path>>| files.iter().map(|path| sizes[&***path]).sum();
        let share = shares::share(tenants.values().map(need).collect(), budget);
        for (tenant, files) in tenants {
            let mut left = share;
            for path in files {
                self.read_within(&mut left, path, (kinds[&**path], sizes[&**path]), || {
                    format!(
                        "is not read: all files that documents name may have {} together, and tenant {tenant} has used its share of {}: name fewer or smaller files",
                        size(budget),
                        size(share)
                    )
                });
            }
        }
    }

    /// Reads a file if it fits into what is `left`, or says why not. A file that was read for another tenant takes from this share too.
    fn read_within(
        &mut self,
        left: &mut u64,
        path: &Arc<Path>,
        (kind, size): (FileKind, u64),
        refusal: impl Fn() -> String,
    ) {
        if let Some(Ok(file)) = self.found.files.get(path) {
            *left = left.saturating_sub(file.length());
            return;
        }
        let file = (size <= *left).then(|| self.reader.read(path, kind));
        // The size may have been a lie.
        let file = file.filter(|file| file.as_ref().map_or(0, NamedFile::length) <= *left);
        let file = file.unwrap_or_else(|| {
            self.over_budget += 1;
            self.reader.refuse(path);
            Err(refusal())
        });
        *left -= file.as_ref().map_or(0, NamedFile::length);
        self.files_read().insert(Arc::clone(path), file);
    }

    /// Notes where the files that were read are, as far as that is not where their names say.
    fn follow_links(&mut self) {
        let mut links = Links::default();
        for (path, _) in self.found.files.iter().filter(|(_, file)| file.is_ok()) {
            let real = self.reader.real(path).filter(|real| ***real != *self.roots.clean(path));
            if let Some(real) = real {
                links.files.insert(Arc::clone(path), real.to_path_buf());
            }
        }
        if !links.files.is_empty() {
            links.roots = self.real_roots();
            self.found.links = Arc::new(links);
        }
    }

    /// The directories that documents may name files in, as far as links lead them elsewhere.
    fn real_roots(&self) -> HashMap<PathBuf, PathBuf> {
        let bases: HashSet<&[PathBuf]> =
            self.found.documents.iter().map(|document| &*document.source.bases).collect();
        let roots = bases.into_iter().flat_map(|bases| self.roots.of(bases));
        let real = |root: PathBuf| Some((self.reader.real_directory(&root)?, root));
        let moved = roots.filter_map(real).filter(|(real, root)| real != root);
        moved.map(|(real, root)| (root, real)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::source::inventory::Inventory;
    use crate::source::read::Reader;
    use crate::spec::routing_json::RoutingJsonOptions;

    #[test]
    fn one_tenants_files_do_not_use_up_the_budget_of_anothers() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, length: usize| {
            let path = root.path().join(name);
            fs::write(&path, vec![b'x'; length]).unwrap();
            path
        };
        let large = [file("1", 600), file("2", 300), file("3", 600)];
        let small = file("4", 50);
        let reference = |tenant: &str, path: &Path| NamedBy {
            tenant: Arc::from(tenant),
            kind: FileKind::Authorities,
            path: Arc::from(path),
        };
        let of_greedy = large.iter().map(|path| reference("a-greedy", path));
        let references = of_greedy.chain([reference("b-modest", &small)]).collect();
        let (mut reader, mut files) = (Reader::default(), HashMap::new());
        reader.begin(&Arc::default(), None);
        let mut load = Load {
            options: &RoutingJsonOptions::default(),
            roots: &Arc::default(),
            turn: 1,
            reader: &mut reader,
            files: &mut files,
            references: vec![references],
            writable_by_all: None,
            rank: 0,
            found: Inventory::default(),
            over_budget: 0,
        };

        load.referenced(1000);

        let found = |path: &Path| load.found.files[path].as_ref().map(NamedFile::length);
        assert_eq!(found(&small), Ok(50));
        assert_eq!((found(&large[0]), found(&large[1])), (Ok(600), Ok(300)));
        assert!(found(&large[2]).unwrap_err().contains("tenant a-greedy has used its share"));
        assert_eq!(load.over_budget, 1);
    }
}
