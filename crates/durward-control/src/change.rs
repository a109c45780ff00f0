//! A change of the configuration, as a source says it: documents that came, changed or went, and facts that they depend on.
//!
//! Every source, be it files, an API server or a test, speaks to the store in these words and in no other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use durward_model::DocumentKey;
use durward_model::link::LinkRoute;

use crate::document::Document;
use crate::named_file::{FileBytes, MISSING, NamedFile};
use crate::reference::{Grantee, Reference};

/// State of a thing that documents refer to.
#[derive(Clone, PartialEq, Eq)]
pub enum Fact {
    /// A file that was read.
    File(NamedFile),
    /// Entries of a Secret or `ConfigMap`, by key.
    Bytes(Entries),
    /// Endpoints of a port of a Service.
    Endpoints(ServiceEndpoints),
    /// The Service has no such port; the lower-case phrase names those that it has.
    PortUnknown(String),
    /// The Service has no endpoints that could be followed, by its nature; the lower-case phrase says why.
    WithoutEndpoints(String),
    /// Labels of a namespace.
    Labels(BTreeMap<Arc<str>, Arc<str>>),
    /// The resources of other namespaces that may refer to a resource.
    Grants(BTreeSet<Grantee>),
    /// Registered routes of a link, in order.
    LinkRoutes(Arc<[LinkRoute]>),
    /// It does not exist.
    Missing,
    /// It cannot be read, with the reason as a lower-case phrase.
    Unreadable(String),
}

/// Entries of a Secret or `ConfigMap`, by key.
#[derive(Clone, PartialEq, Eq)]
pub struct Entries {
    /// Type of a Secret, as in `kubernetes.io/tls`; `None` where there is none.
    pub r#type: Option<Arc<str>>,
    entries: BTreeMap<Arc<str>, Arc<[u8]>>,
}

impl Entries {
    /// Returns them as those of a Secret of this type.
    #[must_use]
    pub fn of_type(self, r#type: Option<Arc<str>>) -> Self {
        Self { r#type, ..self }
    }
}

impl From<BTreeMap<Arc<str>, Arc<[u8]>>> for Entries {
    fn from(entries: BTreeMap<Arc<str>, Arc<[u8]>>) -> Self {
        Self { r#type: None, entries }
    }
}

impl Deref for Entries {
    type Target = BTreeMap<Arc<str>, Arc<[u8]>>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl fmt::Debug for Entries {
    /// Shows the keys only: the values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

/// Endpoints of a port of a Service: in the order of their addresses, each once, at most [`ServiceEndpoints::MOST`].
///
/// The bound holds wherever they come from: slices are a tenant's own objects, and every place that names the Service holds its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceEndpoints {
    at: Vec<SocketAddr>,
    has_more: bool,
    /// True if the Service has `sessionAffinity: ClientIP`.
    pub by_client: bool,
    /// Protocol of the port, as the Service names it (`appProtocol`).
    pub app_protocol: Option<Arc<str>>,
}

impl ServiceEndpoints {
    /// Most endpoints of a port that are served.
    pub const MOST: usize = 1024;

    /// Returns the endpoints.
    #[must_use]
    pub fn at(&self) -> &[SocketAddr] {
        &self.at
    }

    /// Returns them as those of a port that has others, too, if `has_more` says so.
    #[must_use]
    pub(crate) fn beside(self, has_more: bool) -> Self {
        Self { has_more: self.has_more || has_more, ..self }
    }

    /// Returns whether there are others, which are left out.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.has_more
    }
}

impl FromIterator<SocketAddr> for ServiceEndpoints {
    fn from_iter<T: IntoIterator<Item = SocketAddr>>(endpoints: T) -> Self {
        let (mut kept, mut has_more) = (BTreeSet::new(), false);
        for at in endpoints {
            if kept.len() < Self::MOST {
                kept.insert(at);
                continue;
            }
            // Most of a long list ends here: it is neither copied nor sorted.
            let Some(last) = kept.last().copied().filter(|last| *last != at) else { continue };
            if at > last {
                has_more = true;
            } else if kept.insert(at) {
                kept.pop_last();
                has_more = true;
            }
        }
        Self { at: kept.into_iter().collect(), has_more, ..Self::default() }
    }
}

impl From<FileBytes> for Fact {
    fn from(read: FileBytes) -> Self {
        match read {
            Ok(file) => Self::File(file),
            Err(reason) if reason == MISSING => Self::Missing,
            Err(reason) => Self::Unreadable(reason),
        }
    }
}

impl Fact {
    /// Returns the number of bytes of a file that are held in memory.
    pub(crate) fn held(&self) -> u64 {
        if let Self::File(file) = self { file.held() } else { 0 }
    }
}

impl fmt::Debug for Fact {
    /// Shows the keys of bytes only: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Bytes(entries) => entries.fmt(f),
            Self::Endpoints(endpoints) => f.debug_tuple("Endpoints").field(&endpoints.at).finish(),
            Self::PortUnknown(reason) => f.debug_tuple("PortUnknown").field(reason).finish(),
            Self::WithoutEndpoints(reason) => {
                f.debug_tuple("WithoutEndpoints").field(reason).finish()
            }
            Self::Grants(grantees) => f.debug_tuple("Grants").field(grantees).finish(),
            Self::LinkRoutes(routes) => f.debug_tuple("LinkRoutes").field(&routes.len()).finish(),
            Self::Labels(labels) => f.debug_tuple("Labels").field(labels).finish(),
            Self::Missing => f.write_str("Missing"),
            Self::Unreadable(reason) => f.debug_tuple("Unreadable").field(reason).finish(),
        }
    }
}

/// Difference between what a source says and what it said before.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Documents that are new, or not what they were.
    pub upserts: Vec<Document>,
    /// Documents that are gone.
    pub deletes: Vec<DocumentKey>,
    /// Facts that are new or not what they were; `None` for those that no document of the source asks for any more.
    pub facts: Vec<(Reference, Option<Fact>)>,
    /// Targets of symbolic links in the paths of files, if they changed.
    pub links: Option<Arc<Links>>,
}

/// Where links lead: a document's directory says nothing of a file that is elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The real paths of files that are not where their names say.
    pub files: HashMap<Arc<Path>, PathBuf>,
    /// The real paths of directories that files may be named in, by cleaned path; itself for those that are missing here.
    pub roots: HashMap<PathBuf, PathBuf>,
}

impl Change {
    /// Returns whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { upserts, deletes, facts, links } = self;
        upserts.is_empty() && deletes.is_empty() && facts.is_empty() && links.is_none()
    }

    /// Takes in a later change: of two that concern one thing the later one counts.
    pub fn then(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        let Self { upserts, deletes, facts, links } = later;
        let keys = upserts.iter().map(|document| &document.key).chain(&deletes);
        let keys: HashSet<&DocumentKey> = keys.collect();
        self.upserts.retain(|document| !keys.contains(&document.key));
        self.deletes.retain(|key| !keys.contains(key));
        let said: HashSet<&Reference> = facts.iter().map(|(reference, _)| reference).collect();
        self.facts.retain(|(reference, _)| !said.contains(reference));
        self.upserts.extend(upserts);
        self.deletes.extend(deletes);
        self.facts.extend(facts);
        if links.is_some() {
            self.links = links;
        }
    }
}

#[cfg(test)]
mod tests {
    use durward_model::{Kind, ResourceId};

    use super::*;
    use crate::document::{Broken, Content, Source};

    fn object(name: &str, generation: u64) -> Document {
        let content = Content::Broken(Arc::new(Broken { name: None, findings: Vec::new() }));
        let key = DocumentKey::Object(ResourceId::new(Kind::Tenant, name));
        let mut document = Document::new(key, Arc::new(Source::default()), content);
        document.revision.generation = generation;
        document
    }

    #[test]
    fn of_two_changes_of_one_thing_the_later_one_counts() {
        let namespace = |name: &str| Reference::Namespace(Arc::from(name));
        let key = |name: &str| object(name, 0).key;
        let mut change = Change {
            upserts: vec![object("a", 1), object("b", 1)],
            deletes: vec![key("c"), key("d")],
            facts: vec![(namespace("x"), Some(Fact::Missing)), (namespace("y"), None)],
            links: None,
        };

        change.then(Change {
            upserts: vec![object("b", 2), object("c", 2)],
            deletes: vec![key("a")],
            facts: vec![(namespace("x"), None)],
            links: None,
        });

        let upserts = change.upserts.iter().map(|one| (&one.key, one.revision.generation));
        assert_eq!(upserts.collect::<Vec<_>>(), [(&key("b"), 2), (&key("c"), 2)]);
        assert_eq!(change.deletes, [key("d"), key("a")]);
        assert_eq!(change.facts, [(namespace("y"), None), (namespace("x"), None)]);
    }

    #[test]
    fn of_the_endpoints_of_a_service_the_first_are_kept_each_once_and_that_there_are_more_is_known()
    {
        let at = |number: usize| {
            let [.., high, low] = number.to_be_bytes();
            SocketAddr::from(([10, 0, high, low], 80))
        };
        let collect = |numbers: &mut dyn Iterator<Item = usize>| {
            numbers.map(at).collect::<ServiceEndpoints>()
        };
        let most = ServiceEndpoints::MOST;
        let first: Vec<SocketAddr> = (0..most).map(at).collect();

        let exact = collect(&mut (0..most).rev().chain(0..most));
        let more = [
            collect(&mut (0..3 * most)),
            collect(&mut (0..3 * most).rev()),
            collect(&mut (0..=most).chain(0..=most)),
        ];

        assert_eq!((exact.at(), exact.has_more()), (&first[..], false));
        for more in more {
            assert_eq!((more.at(), more.has_more()), (&first[..], true));
        }
    }

    #[test]
    fn the_bytes_of_a_secret_are_not_shown() {
        let entries = BTreeMap::from([(Arc::from("tls.key"), Arc::from(&b"hidden"[..]))]);

        let shown = format!("{:?}", Fact::Bytes(entries.into()));

        assert!(shown.contains("tls.key") && !shown.contains("104"), "{shown}");
    }
}
