//! Documents: what they say, the resources they are about, and the text they are written in.
//!
//! Reading files is the business of sources; a document is complete without them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durward_model::verdict::{Finding, Severity};
use durward_model::{DocumentKey, Kind, Origin, ResourceId, Revision, TenantId};

use crate::cluster::{Owner, Target, Viewpoint};
use crate::excerpt;
use crate::file_roots::{FileRoots, is_within};
use crate::foreign::IngressDocument;
use crate::place::{At, Place};
use crate::reference::{Grantee, Reference};
use crate::source::regular::FileKind;
use crate::spec::egress_policy::EgressPolicyDocument;
use crate::spec::foreign_api::ForeignApi;
use crate::spec::hosted_api::HostedApiDocument;
use crate::spec::object_name::{self, EntryName, WrittenName, is_namespace};
use crate::spec::port_mapping::PortMappingDocument;
use crate::spec::references::{
    by_acme, of_hosted_api, of_rules, references, services, services_of_hosted_api,
    services_of_mapping,
};
use crate::spec::service::ServiceSpec;
use crate::spec::tenant::{Metadata, TenantDocument, TenantSpec};

/// One document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Place in its source.
    pub key: DocumentKey,
    /// The resource it is about; `None` when its name, or that of its tenant, cannot be read.
    pub id: Option<ResourceId>,
    /// Version of the resource.
    pub revision: Revision,
    /// Time of creation by the clock of an API server, in RFC 3339; `None` for documents of files, which may write one down themselves.
    pub created: Option<Arc<str>>,
    /// Text, and where that comes from.
    pub source: Arc<Source>,
    /// Content.
    pub content: Content,
    /// The tenant it belongs to. The store finds it out, for it takes the labels of namespaces.
    pub(crate) owner: Owner,
}

impl Document {
    /// Builds a document that names its resource itself.
    #[must_use]
    pub fn new(key: DocumentKey, source: Arc<Source>, content: Content) -> Self {
        let id = content.id(source.kind);
        let owner = Owner::Written;
        Self { key, id, revision: Revision::default(), created: None, source, content, owner }
    }

    /// Builds the document at a position of a file, counted from 0.
    #[must_use]
    pub fn of_file(position: usize, source: Source, content: Content) -> Self {
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        let key = DocumentKey::File { rank: 0, file: Arc::clone(&source.file), position };
        Self::new(key, Arc::new(source), content)
    }

    /// Builds a document that says that a file cannot be read, with the reason as a lower-case sentence.
    #[must_use]
    pub fn unreadable(file: &Arc<str>, reason: &str) -> Self {
        let source = Source { kind: Kind::File, file: Arc::clone(file), ..Source::default() };
        let finding = Finding {
            severity: Severity::Error,
            reason: Arc::from("FileUnreadable"),
            field: Arc::from(""),
            sentence: Arc::from(format!("{file} {reason}")),
            origin: Origin::File { file: Arc::clone(file), line: 0 },
            excerpt: None,
        };
        let broken = Broken { name: None, findings: vec![finding] };
        Self::of_file(0, source, Content::Broken(Arc::new(broken)))
    }

    /// Builds the document of an object that an API server has in this version; `created` is the time of its creation, in RFC 3339.
    #[must_use]
    pub fn of_object(
        id: ResourceId,
        revision: Revision,
        created: Option<Arc<str>>,
        source: Source,
        content: Content,
    ) -> Self {
        let source = Arc::new(Source { object: Some(id.clone()), ..source });
        let key = DocumentKey::Object(id.clone());
        let owner = Owner::Written;
        Self { key, id: Some(id), revision, created, source, content, owner }
    }

    /// Returns whether the document is of another object than the one that had this uid: the object was deleted and made anew, and has nothing of the former
    /// one's age or claims.
    pub(crate) fn is_made_anew(&self, former: Option<&Arc<str>>) -> bool {
        self.revision.is_made_anew(former)
    }

    /// Returns whether both say the same, in the same place.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let same_source = |one: &Source, other: &Source| {
            (&one.file, one.first_line, one.kind) == (&other.file, other.first_line, other.kind)
                && one.text == other.text
                && one.writable_by_all == other.writable_by_all
                && one.bases == other.bases
        };
        let same_findings = |one: &Content, other: &Content| match (one, other) {
            (Content::Broken(one), Content::Broken(other)) => one.findings == other.findings,
            (Content::Broken(_), _) | (_, Content::Broken(_)) => false,
            _ => true,
        };
        self.key == other.key
            && (&self.revision, &self.created) == (&other.revision, &other.created)
            && (Arc::ptr_eq(&self.source, &other.source)
                || same_source(&self.source, &other.source))
            && same_findings(&self.content, &other.content)
    }

    /// Returns the tenant that the document is about or belongs to, if it can be determined.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match &self.owner {
            Owner::OfNamespace(tenant) => return Some(tenant.clone()),
            Owner::Nobody(_) => return None,
            Owner::Written => {}
        }
        match &self.content {
            Content::Tenant(tenant) => TenantId::new(&tenant.metadata.name).ok(),
            Content::Mapping(_)
            | Content::Policy(_)
            | Content::HostedApi(_)
            | Content::ForeignApi(_) => TenantId::new(self.content.part()?.tenant?).ok(),
            // It is its namespace's, and names no tenant.
            Content::Ingress(_) => None,
            Content::Broken(_) if is_part(self.source.kind) => None,
            Content::Broken(broken) => TenantId::new(broken.name.as_deref()?).ok(),
        }
    }

    /// Returns whether the document is an object in a namespace that is no tenant's.
    pub(crate) fn is_nobodys(&self) -> bool {
        matches!(self.owner, Owner::Nobody(_))
    }

    /// Returns the things that the document's meaning depends on, each once.
    #[must_use]
    pub fn wanted(&self) -> BTreeSet<Reference> {
        let files = self.references().into_iter().map(|(_, path)| Reference::File(path));
        let mut wanted: BTreeSet<Reference> = files.collect();
        wanted.extend(self.namespace().cloned().map(Reference::Namespace));
        wanted.extend(self.link_routes());
        let Ok(viewpoint) = self.viewpoint() else { return wanted };
        for target in self.targets(&viewpoint) {
            wanted.insert(Reference::Namespace(Arc::clone(target.namespace())));
            if let Some(own) = viewpoint.grantee(target.namespace()) {
                wanted.insert(Reference::Namespace(Arc::clone(&own.namespace)));
                wanted.insert(Reference::Grant(target.id.clone()));
            }
            wanted.insert(target.reference());
        }
        wanted
    }

    /// Returns the registered routes that a tenant's listeners serve.
    fn link_routes(&self) -> Vec<Reference> {
        let (Content::Tenant(document), Some(tenant)) = (&self.content, self.tenant()) else {
            return Vec::new();
        };
        let links = document.spec.ingress.iter().flat_map(|entry| &entry.link_routes);
        let tenant: Arc<str> = Arc::from(tenant.as_str());
        links.map(|link| link_routes_of(&tenant, link)).collect()
    }

    /// Returns whether it is an object that belongs to the tenant of its namespace: whoever may write there wrote it.
    pub(crate) fn is_in_namespace_of_tenant(&self) -> bool {
        matches!(self.owner, Owner::OfNamespace(_))
    }

    /// Returns the namespace that the document lives in, if it is an object that lives in one. A Namespace lives in itself.
    #[must_use]
    pub fn namespace(&self) -> Option<&Arc<str>> {
        let id = self.source.object.as_ref()?;
        match id.kind {
            Kind::Tenant => None,
            Kind::Namespace => Some(&id.name),
            _ => id.namespace.as_ref(),
        }
    }

    /// Returns the namespace from which names are looked up.
    ///
    /// # Errors
    /// Fails if that is no namespace: the phrase, which follows the name, says why.
    pub fn viewpoint(&self) -> Result<Viewpoint, String> {
        let kind = self.source.kind;
        if let Some(namespace) = self.namespace().cloned() {
            return Ok(Viewpoint::Namespace(Grantee { kind, namespace }));
        }
        match &self.content {
            Content::Tenant(tenant) => tenant_viewpoint(&tenant.spec, &tenant.metadata.name),
            Content::Mapping(_)
            | Content::Policy(_)
            | Content::HostedApi(_)
            | Content::Ingress(_)
            | Content::ForeignApi(_) => {
                let tenant = self.content.part().and_then(|part| part.tenant);
                let tenant = tenant.map(|tenant| tenant.value.as_str()).unwrap_or_default();
                Ok(Viewpoint::Outside(Arc::from(tenant)))
            }
            Content::Broken(_) => Err("cannot be looked up".to_owned()),
        }
    }

    /// Returns the objects that the document refers to. Names that are none are left out.
    fn targets(&self, viewpoint: &Viewpoint) -> Vec<Target> {
        let service = |spec: &ServiceSpec| service_target(spec, viewpoint).ok();
        let names = self.content.names().into_iter();
        let entries = names.filter_map(|(_, name)| match object_name::parse(&name) {
            Ok(WrittenName::Entry(entry)) => Some(entry_target(&entry, viewpoint)),
            _ => None,
        });
        let services: Vec<&ServiceSpec> = match &self.content {
            Content::Tenant(tenant) => services(&tenant.spec).collect(),
            Content::Mapping(mapping) => services_of_mapping(&mapping.spec).collect(),
            Content::HostedApi(hosted) => services_of_hosted_api(&hosted.spec).collect(),
            Content::Ingress(ingress) => ingress.services().collect(),
            Content::ForeignApi(foreign) => foreign.services().collect(),
            Content::Policy(_) | Content::Broken(_) => Vec::new(),
        };
        entries.chain(services.into_iter().filter_map(service)).collect()
    }

    /// Moves a document of a file below another of the configured paths, counted from 0.
    pub(crate) fn set_rank(&mut self, to: usize) {
        if let DocumentKey::File { rank, .. } = &mut self.key {
            *rank = u32::try_from(to).unwrap_or(u32::MAX);
        }
    }

    /// Moves a document of a file to another position in it, counted from 0.
    pub(crate) fn set_position(&mut self, to: usize) {
        if let DocumentKey::File { position, .. } = &mut self.key {
            *position = u32::try_from(to).unwrap_or(u32::MAX);
        }
    }

    /// Returns the files the document refers to, wherever they may be, with the purpose of each.
    #[must_use]
    pub fn references(&self) -> Vec<(FileKind, Arc<Path>)> {
        // Whoever may write objects is no user of the gateway's host.
        let is_object = self.source.object.is_some();
        let is_file =
            |name: &str| !is_object && matches!(object_name::parse(name), Ok(WrittenName::File(_)));
        let names = self.content.names().into_iter().filter(|(_, name)| is_file(name));
        let candidates = |(kind, name): (FileKind, String)| {
            let paths = self.source.candidates(&name).into_iter();
            paths.map(move |path| (kind, Arc::from(path)))
        };
        let tenant = match &self.content {
            Content::Tenant(tenant) => Some(tenant),
            Content::Mapping(_)
            | Content::Policy(_)
            | Content::HostedApi(_)
            | Content::Ingress(_)
            | Content::ForeignApi(_)
            | Content::Broken(_) => None,
        };
        let issuance = tenant.and_then(|tenant| Some((tenant, self.source.roots.issuance()?)));
        let issued = issuance.into_iter().flat_map(|(tenant, issuance)| {
            let name = &tenant.metadata.name.value;
            let wanted = by_acme(&tenant.spec).into_iter();
            wanted.filter_map(move |(address, spec)| issuance.files(name, address, spec)).flatten()
        });
        let issued = issued.map(|path| (FileKind::Certificate, path));
        names.flat_map(candidates).chain(issued).collect()
    }
}

/// Returns the reference to the registered routes of a tenant's link.
pub(crate) fn link_routes_of(tenant: &Arc<str>, link: &str) -> Reference {
    Reference::LinkRoutes { tenant: Arc::clone(tenant), link: Arc::from(link) }
}

/// Returns the namespace from which the names in a tenant's document are looked up.
///
/// # Errors
/// Fails if that is no namespace.
pub(crate) fn tenant_viewpoint(spec: &TenantSpec, name: &str) -> Result<Viewpoint, String> {
    let written = spec.namespace.as_ref().map(|written| written.value.as_str());
    let namespace = written.unwrap_or(name);
    if is_namespace(namespace) {
        return Ok(Viewpoint::Namespace(Grantee {
            kind: Kind::Tenant,
            namespace: Arc::from(namespace),
        }));
    }
    Err(match written {
        Some(_) => {
            format!("is looked up in spec.namespace, and {namespace:?} is no name of a namespace")
        }
        None => format!(
            "is looked up in a namespace of the tenant's name, and {namespace:?} is no name of one: say which with spec.namespace"
        ),
    })
}

/// Returns the object of which an entry is named.
pub(crate) fn entry_target(entry: &EntryName<'_>, viewpoint: &Viewpoint) -> Target {
    let namespace = viewpoint.namespace(entry.namespace);
    let (kind, name) = (entry.kind, Arc::from(entry.name));
    Target { id: ResourceId { kind, namespace: Some(namespace), name }, port: None }
}

/// Returns the Service that is named.
///
/// # Errors
/// Fails if the name, the namespace or the port cannot be one: the phrase, which follows it, says so.
pub(crate) fn service_target(spec: &ServiceSpec, viewpoint: &Viewpoint) -> Result<Target, String> {
    let written = spec.namespace.as_ref().map(|written| written.value.as_str());
    if !is_namespace(&spec.name) {
        return Err("is no name of a Service".to_owned());
    }
    let namespace = viewpoint.namespace(written);
    if !is_namespace(&namespace) {
        return Err(format!("is in namespace {namespace:?}, which is no name of one"));
    }
    if !spec.port.is_port() {
        return Err(format!("has the port {:?}, which is no name or number of one", spec.port.0));
    }
    let (kind, name) = (Kind::Service, Arc::from(spec.name.value.as_str()));
    let id = ResourceId { kind, namespace: Some(namespace), name };
    // One port is one reference, however many zeros are written before it.
    let number = spec.port.0.parse::<u16>().ok().map(|number| number.to_string());
    let port = number.as_deref().unwrap_or(&spec.port.0);
    Ok(Target { id, port: Some(Arc::from(port)) })
}

/// Content of a document.
#[derive(Clone, Debug)]
pub enum Content {
    /// A tenant.
    Tenant(Arc<TenantDocument>),
    /// A mapping of external ports.
    Mapping(Arc<PortMappingDocument>),
    /// Rules and networks of a tenant's egress.
    Policy(Arc<EgressPolicyDocument>),
    /// A hosted Kubernetes API server.
    HostedApi(Arc<HostedApiDocument>),
    /// An Ingress, which is always an object of a cluster.
    Ingress(Arc<IngressDocument>),
    /// An object of another controller that names hosted Kubernetes API servers.
    ForeignApi(Arc<ForeignApi>),
    /// It cannot be read.
    Broken(Arc<Broken>),
}

impl Content {
    /// Returns the resource that a document of this kind is about, if it says so.
    fn id(&self, kind: Kind) -> Option<ResourceId> {
        let tenant = |name: &str| Some(ResourceId::new(kind, TenantId::new(name).ok()?.as_str()));
        match self {
            Self::Tenant(tenant_document) => tenant(&tenant_document.metadata.name),
            Self::Mapping(_) | Self::Policy(_) | Self::HostedApi(_) | Self::ForeignApi(_) => {
                let part = self.part()?;
                let namespace = TenantId::new(part.tenant?).ok()?;
                let name = Some(&*part.metadata.name).filter(|name| ResourceId::is_name(name))?;
                Some(ResourceId::namespaced(kind, namespace.as_str(), name))
            }
            Self::Ingress(_) => None,
            // What a broken part says of its tenant was not read.
            Self::Broken(_) if is_part(kind) => None,
            Self::Broken(broken) => tenant(broken.name.as_deref()?),
        }
    }

    /// Returns what the document says of itself if it adds to a tenant that another document describes.
    pub(crate) fn part(&self) -> Option<PartHead<'_>> {
        match self {
            Self::Mapping(mapping) => {
                let spec = &mapping.spec;
                let (tenant, place) = (spec.tenant.as_ref(), spec.place());
                Some(PartHead { metadata: &mapping.metadata, tenant, place })
            }
            Self::Policy(policy) => {
                let spec = &policy.spec;
                let (tenant, place) = (spec.tenant.as_ref(), spec.place());
                Some(PartHead { metadata: &policy.metadata, tenant, place })
            }
            Self::HostedApi(hosted) => {
                let spec = &hosted.spec;
                let (tenant, place) = (spec.tenant.as_ref(), spec.place());
                Some(PartHead { metadata: &hosted.metadata, tenant, place })
            }
            Self::Ingress(ingress) => {
                let (metadata, tenant, place) = (&ingress.metadata, None, Place::default());
                Some(PartHead { metadata, tenant, place })
            }
            Self::ForeignApi(foreign) => {
                let place = foreign.place();
                Some(PartHead { metadata: &foreign.metadata, tenant: None, place })
            }
            Self::Tenant(_) | Self::Broken(_) => None,
        }
    }

    /// Returns all names that are written in the place of a file's.
    fn names(&self) -> Vec<(FileKind, String)> {
        match self {
            Self::Tenant(tenant) => references(&tenant.spec),
            Self::Policy(policy) => {
                of_rules([&policy.spec.allow, &policy.spec.deny].into_iter().flatten()).collect()
            }
            Self::HostedApi(hosted) => of_hosted_api(&hosted.spec),
            Self::Ingress(ingress) => ingress.names().to_vec(),
            Self::Mapping(_) | Self::ForeignApi(_) | Self::Broken(_) => Vec::new(),
        }
    }
}

/// Returns whether documents of this kind add to a tenant that another document describes.
pub(crate) fn is_part(kind: Kind) -> bool {
    use Kind::{EgressPolicy, HostedApi, Ingress, Namespace, PortMapping};
    kind.is_foreign_api()
        || matches!(kind, PortMapping | EgressPolicy | HostedApi | Ingress | Namespace)
}

/// Head of a document that adds to a tenant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartHead<'a> {
    pub(crate) metadata: &'a Metadata,
    /// Tenant, as written.
    pub(crate) tenant: Option<&'a At<String>>,
    /// Position of the tenant field, or of the first content if there is none.
    pub(crate) place: Place,
}

/// A document that cannot be read, as far as it could be understood.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The tenant or mapping it is about, when that much is clear.
    pub name: Option<String>,
    /// Findings.
    pub findings: Vec<Finding>,
}

/// The text of a document and where it comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The kind of document.
    pub kind: Kind,
    /// The file as the user named it.
    pub file: Arc<str>,
    /// The document's text.
    pub text: Arc<str>,
    /// The line of the file the text begins at, counted from 1.
    pub first_line: u32,
    /// Directories that relative file names are looked up in, in this order.
    pub bases: Vec<PathBuf>,
    /// The file or directory through which every user of the host could change the document.
    pub writable_by_all: Option<Arc<str>>,
    /// Field names of an adapted document as the user wrote them: (our longest prefix, theirs).
    pub field_names: Vec<(String, String)>,
    /// The directories that files may be named in beside `bases`.
    pub roots: Arc<FileRoots>,
    /// The object of an API server that the text is of; `None` for files.
    pub object: Option<ResourceId>,
}

/// Reason why a document cannot use a file that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// The path is outside of the directories the document may name files in.
    Outside(String),
    /// None of the paths the name may mean could be read.
    Unreadable(String),
    /// The document is an object, and objects name no files.
    InObject,
}

impl FileFault {
    /// Returns the stable word for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Outside(_) | Self::InObject => "FileOutside",
            Self::Unreadable(_) => "FileMissing",
        }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside(place) => {
                write!(
                    f,
                    "{place}: keep it there, or let the operator allow its directory with --files-root DIR"
                )
            }
            Self::Unreadable(fault) => write!(f, "cannot be read: {fault}"),
            Self::InObject => f.write_str(
                "is a file of the gateway's host, and an object names none: put it into a Secret or ConfigMap, and write secret:NAME/KEY or configMap:NAME/KEY",
            ),
        }
    }
}

impl Source {
    /// The file and line of a place in the text.
    #[must_use]
    pub fn origin(&self, place: Place) -> Origin {
        if let Some(id) = &self.object {
            return Origin::Object { id: id.clone(), field: Arc::from("") };
        }
        let line = (self.first_line + place.line).saturating_sub(1);
        Origin::File { file: Arc::clone(&self.file), line }
    }

    /// A finding about `field`, written at `place`.
    #[must_use]
    pub fn finding(
        &self,
        severity: Severity,
        reason: &str,
        place: Place,
        field: &str,
        sentence: &str,
    ) -> Finding {
        Finding {
            severity,
            reason: Arc::from(reason),
            field: Arc::from(self.named(field)),
            sentence: Arc::from(sentence),
            origin: match &self.object {
                Some(id) => Origin::Object { id: id.clone(), field: Arc::from(self.named(field)) },
                None => self.origin(place),
            },
            excerpt: excerpt::excerpt(self.written(), place, severity).map(Arc::from),
        }
    }

    fn written(&self) -> excerpt::Written<'_> {
        excerpt::Written { file: &self.file, first_line: self.first_line, text: &self.text }
    }

    /// Returns the name of `field` as the user wrote it.
    fn named(&self, field: &str) -> String {
        let theirs = self
            .field_names
            .iter()
            .filter(|(ours, _)| field.starts_with(ours.as_str()))
            .max_by_key(|(ours, _)| ours.len());
        theirs.map_or_else(|| field.to_owned(), |(_, theirs)| theirs.clone())
    }

    /// Returns the paths that `written` may mean and the document may name, in the order they are tried.
    #[must_use]
    pub fn candidates(&self, written: &str) -> Vec<PathBuf> {
        let mut paths = self.meant(written);
        paths.retain(|path| {
            let clean = self.roots.clean(path);
            self.roots.of(&self.bases).any(|root| is_within(&clean, &root))
        });
        paths
    }

    pub(crate) fn meant(&self, written: &str) -> Vec<PathBuf> {
        let path = Path::new(written);
        if path.is_absolute() {
            return vec![path.to_owned()];
        }
        self.bases.iter().map(|base| base.join(path)).collect()
    }

    /// Says that `path` is not in the document's directories.
    pub(crate) fn outside(&self, path: &Path) -> FileFault {
        let own = self.bases.first().map(|base| self.roots.clean(base)).unwrap_or_default();
        let (path, own) = (path.display(), own.display());
        FileFault::Outside(format!("is {path}, outside of the document's directory {own}"))
    }
}
