//! The text of a file becomes documents; those that were in it before and are unchanged are not parsed again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durward_model::{Kind, ResourceId, Revision};

use super::Load;
use crate::document::{Content, Document, Source};
use crate::file_roots::FileRoots;
use crate::spec::document::{self, Part};
use crate::spec::routing_json::{self, ROUTING_JSON};
use crate::spec::toml;
use crate::state::Text;

/// The documents that were in a file before, and the path through which every user could change them now.
pub(super) type Former<'a> = (&'a [Document], &'a Option<Arc<str>>);

/// Functions that determine the kind of a text and read it.
type Grammar = (fn(&str) -> Kind, fn(&Source) -> Content);

impl Load<'_> {
    pub(super) fn text(
        &self,
        path: &Path,
        text: &str,
        (former, writable): Former<'_>,
    ) -> Vec<Document> {
        let file: Arc<str> = Arc::from(path.display().to_string());
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        if path.file_name().is_some_and(|name| name == ROUTING_JSON) {
            let bases = self.routing_bases(directory);
            let (text, roots) = (Arc::from(text), Arc::clone(self.roots));
            let writable_by_all = writable.clone();
            let source = Source { file, text, first_line: 1, bases, roots, ..Source::default() };
            let source = Source { writable_by_all, ..source };
            return routing_json::parse(source, self.options);
        }
        let former = former.iter().map(|document| (&*document.source.text, document)).collect();
        let writable_by_all = writable.clone();
        let parser = Parser { file, directory, roots: self.roots, former, writable_by_all };
        if path.extension().is_some_and(|ending| ending == "toml") {
            vec![parser.document(0, Part { text, first_line: 1 }, (toml::kind, toml::content))]
        } else {
            let parts = document::split(text).into_iter().enumerate();
            let document = |(position, part)| {
                parser.document(position, part, (document::kind, document::content))
            };
            parts.map(document).collect()
        }
    }

    /// The documents in a text that was in a file once.
    pub(super) fn restored(&self, text: &Text) -> Vec<Document> {
        if let Some(id) = &text.object {
            return vec![self.restored_object(id, text)];
        }
        if routing_json::is_of_config_map(&text.file) {
            // Whether clients need certificates is said by other entries, which were not kept: it is served once the API server says it again.
            return Vec::new();
        }
        let path = Path::new(&*text.file);
        let is_whole = path.file_name().is_some_and(|name| name == ROUTING_JSON)
            || path.extension().is_some_and(|ending| ending == "toml");
        if is_whole {
            return self.text(path, &text.text, (&[], &None));
        }
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        let file = Arc::clone(&text.file);
        let parser = Parser {
            file,
            directory,
            roots: self.roots,
            former: HashMap::new(),
            writable_by_all: None,
        };
        let part = Part { text: &text.text, first_line: text.first_line };
        vec![parser.document(0, part, (document::kind, document::content))]
    }

    /// The object that an API server had once.
    fn restored_object(&self, id: &ResourceId, text: &Text) -> Document {
        let (file, written) = (Arc::clone(&text.file), Arc::clone(&text.text));
        let kind = document::kind_of_object(id.kind);
        let source = document::source(kind, &file, written, text.first_line, Vec::new());
        let source = Source { roots: Arc::clone(self.roots), ..source };
        let content = document::content(&source);
        Document::of_object(id.clone(), Revision::default(), None, source, content)
    }

    /// Beside the file, in `certs` beside its directory, and where the options say.
    fn routing_bases(&self, directory: PathBuf) -> Vec<PathBuf> {
        let certs = directory.join("..").join("certs");
        [directory, certs].into_iter().chain(self.options.certs_dir.clone()).collect()
    }
}

/// Parses the documents of one file.
struct Parser<'a> {
    file: Arc<str>,
    directory: PathBuf,
    roots: &'a Arc<FileRoots>,
    /// Former documents of the file, by text.
    former: HashMap<&'a str, &'a Document>,
    writable_by_all: Option<Arc<str>>,
}

impl Parser<'_> {
    fn document(&self, position: usize, part: Part<'_>, (kind, parse): Grammar) -> Document {
        let former = self.former.get(part.text);
        let stands = |former: &&&Document| {
            former.source.first_line == part.first_line
                && former.source.writable_by_all == self.writable_by_all
        };
        if let Some(same) = former.filter(stands) {
            let mut same = Document::clone(same);
            same.set_position(position);
            return same;
        }
        // Findings about a broken document name lines, and those have moved.
        let known = former.filter(|former| !matches!(former.content, Content::Broken(_)));
        let (text, content) = match known {
            Some(known) => (Arc::clone(&known.source.text), Some(known.content.clone())),
            None => (Arc::from(part.text), None),
        };
        let kind = match &content {
            Some(Content::Tenant(_)) => Kind::Tenant,
            Some(Content::Mapping(_)) => Kind::PortMapping,
            Some(Content::Policy(_)) => Kind::EgressPolicy,
            Some(Content::HostedApi(_)) => Kind::HostedApi,
            Some(Content::Ingress(_)) => Kind::Ingress,
            // Objects of other controllers come from an API server alone.
            Some(Content::ForeignApi(_) | Content::Broken(_)) | None => kind(&text),
        };
        let bases = vec![self.directory.clone()];
        let source = document::source(kind, &self.file, text, part.first_line, bases);
        let writable_by_all = self.writable_by_all.clone();
        let source = Source { roots: Arc::clone(self.roots), writable_by_all, ..source };
        let content = content.unwrap_or_else(|| parse(&source));
        Document::of_file(position, source, content)
    }
}
