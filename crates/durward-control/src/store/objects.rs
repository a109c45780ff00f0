//! Objects of a cluster that documents refer to: whether a document may have one, and what is in it.
//!
//! A document may have an object in a namespace of its tenant, or in the gateway's own; of another namespace than its own only what is granted. The right is asked for
//! first: of another tenant's object not even its existence is disclosed.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::{Kind, TenantId};

use super::{Found, Place, Store, Touched};
use crate::change::{Entries, Fact, ServiceEndpoints};
use crate::cluster::{
    Cluster, ObjectFault, Owner, Ownerless, TENANT_LABEL, TLS_SECRET, Target, Viewpoint,
    tenant_label,
};
use crate::document::{Document, entry_target, service_target};
use crate::named_file::digest_of;
use crate::reference::{Grantee, Reference};
use crate::spec::object_name::EntryName;
use crate::spec::service::ServiceSpec;

/// Document on whose behalf names are looked up.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// Tenant.
    pub(crate) tenant: TenantId,
    /// The namespace from which it looks names up, or why there is none.
    pub(crate) viewpoint: Result<Viewpoint, String>,
}

impl Asker {
    /// Returns who looks up the names in a document; `None` if its tenant cannot be determined.
    pub(crate) fn of(document: &Document) -> Option<Self> {
        Some(Self { tenant: document.tenant()?, viewpoint: document.viewpoint() })
    }

    fn viewpoint(&self) -> Result<&Viewpoint, ObjectFault> {
        self.viewpoint.as_ref().map_err(|why| ObjectFault::BadNamespace(why.clone()))
    }
}

impl Store {
    /// Says which cluster's API server is read, and `None` that none is. Touches everything if that is another than before.
    pub fn read_cluster(&mut self, cluster: Option<Cluster>) -> Touched {
        let cluster = cluster.map(Arc::new);
        let mut touched = Touched::default();
        if self.cluster != cluster {
            self.cluster = cluster;
            touched.everything = true;
            let namespaces = self.dependents.keys().filter_map(|reference| match reference {
                Reference::Namespace(namespace) => Some(Arc::clone(namespace)),
                _ => None,
            });
            for namespace in namespaces.collect::<Vec<_>>() {
                self.change_owners(&namespace, &mut touched);
            }
            self.history.note(&touched);
        }
        touched
    }

    /// Returns the cluster whose API server is read.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// Returns to whom a document belongs.
    pub(super) fn owner(&self, document: &Document) -> Owner {
        let Some(namespace) = document.namespace() else { return Owner::Written };
        let Some(cluster) = &self.cluster else { return Owner::Nobody(Ownerless::NotRead) };
        if cluster.namespace == *namespace {
            return match document.content.part() {
                _ if document.source.kind == Kind::Ingress => Owner::Nobody(Ownerless::Operators),
                Some(part) if part.tenant.is_none() => Owner::Nobody(Ownerless::Unsaid),
                _ => Owner::Written,
            };
        }
        match self.label(namespace) {
            Ok(tenant) => Owner::OfNamespace(tenant),
            Err(why) => Owner::Nobody(why),
        }
    }

    /// Returns whose an object in a namespace is that is no document, or why it is nobody's, as a phrase; `None` while that is not known. In the gateway's own namespace its
    /// label says so.
    #[must_use]
    pub fn tenant_of(
        &self,
        namespace: &Arc<str>,
        labels: &BTreeMap<Arc<str>, Arc<str>>,
    ) -> Option<Result<TenantId, String>> {
        let is_own = self.cluster.as_ref().is_some_and(|own| own.namespace == *namespace);
        let label = match labels.get(TENANT_LABEL) {
            Some(label) if is_own => {
                TenantId::new(label).map_err(|_| Ownerless::BadLabel(Arc::clone(label)))
            }
            None if is_own => Err(Ownerless::Unlabelled),
            _ => self.label(namespace),
        };
        match label {
            Ok(tenant) => Some(Ok(tenant)),
            Err(Ownerless::Unread) => None,
            Err(why) => Some(Err(format!("namespace {namespace} {why}"))),
        }
    }

    /// Returns the tenant that the label of a namespace names.
    fn label(&self, namespace: &Arc<str>) -> Result<TenantId, Ownerless> {
        match self.fact(&Reference::Namespace(Arc::clone(namespace))) {
            Some(Fact::Labels(labels)) => {
                let label = tenant_label(labels).ok_or(Ownerless::Unlabelled)?;
                TenantId::new(label).map_err(|_| Ownerless::BadLabel(Arc::clone(label)))
            }
            Some(Fact::Missing) => Err(Ownerless::Missing),
            Some(Fact::Unreadable(why)) => Err(Ownerless::Unreadable(why.clone())),
            Some(_) | None => Err(Ownerless::Unread),
        }
    }

    /// Returns whether a document asks for a thing, and may have it.
    pub(super) fn is_wanted(&self, reference: &Reference) -> bool {
        let Some(dependents) = self.dependents.get(reference) else { return false };
        let Some(target) = Target::of(reference) else { return true };
        let mut documents = dependents.iter().filter_map(|key| self.document(key));
        documents.any(|document| {
            Asker::of(document).is_some_and(|asker| {
                asker
                    .viewpoint()
                    .is_ok_and(|from| self.permit(&asker.tenant, from, &target).is_ok())
            })
        })
    }

    /// Checks that a tenant's document with this viewpoint may have an object.
    fn permit(
        &self,
        tenant: &TenantId,
        viewpoint: &Viewpoint,
        target: &Target,
    ) -> Result<(), ObjectFault> {
        let cluster = self.cluster.as_ref().ok_or(ObjectFault::NotRead)?;
        self.permit_namespace(cluster, tenant, target.namespace())?;
        let Some(grantee) = viewpoint.grantee(target.namespace()) else { return Ok(()) };
        // Anybody could say that they look from a namespace to which something is granted.
        self.permit_namespace(cluster, tenant, &grantee.namespace)?;
        self.permit_grantee(grantee, target)
    }

    fn permit_namespace(
        &self,
        cluster: &Cluster,
        tenant: &TenantId,
        namespace: &Arc<str>,
    ) -> Result<(), ObjectFault> {
        if cluster.namespace == *namespace {
            return Ok(());
        }
        match self.label(namespace) {
            Ok(owner) if owner == *tenant => Ok(()),
            Err(Ownerless::Missing) => Err(ObjectFault::NamespaceMissing(Arc::clone(namespace))),
            Err(Ownerless::Unreadable(why)) => {
                Err(ObjectFault::NamespaceUnreadable(Arc::clone(namespace), why))
            }
            Err(Ownerless::Unread) => Err(ObjectFault::Unread(format!("namespace {namespace}"))),
            Ok(_) | Err(_) => {
                let (namespace, tenant) = (Arc::clone(namespace), tenant.clone());
                Err(ObjectFault::NamespaceForeign { namespace, tenant })
            }
        }
    }

    fn permit_grantee(&self, grantee: &Grantee, target: &Target) -> Result<(), ObjectFault> {
        match self.fact(&Reference::Grant(target.id.clone())) {
            Some(Fact::Grants(grantees)) if grantees.contains(grantee) => Ok(()),
            None => {
                let what = format!("whether the {target} is granted");
                Err(ObjectFault::Unread(what))
            }
            Some(_) => Err(ObjectFault::GrantMissing(target.clone(), grantee.clone())),
        }
    }

    /// Returns what is known of an object that the document may have.
    fn object(&self, asker: &Asker, target: &Target) -> Result<&Fact, ObjectFault> {
        self.permit(&asker.tenant, asker.viewpoint()?, target)?;
        match self.fact(&target.reference()) {
            Some(Fact::Missing) => Err(ObjectFault::Missing(target.clone())),
            Some(Fact::Unreadable(why)) => {
                Err(ObjectFault::Unreadable(target.clone(), why.clone()))
            }
            Some(Fact::PortUnknown(why)) => {
                Err(ObjectFault::PortUnknown(target.clone(), why.clone()))
            }
            Some(Fact::WithoutEndpoints(why)) => {
                Err(ObjectFault::WithoutEndpoints(target.clone(), why.clone()))
            }
            Some(fact) => Ok(fact),
            None => Err(ObjectFault::Unread(format!("the {target}"))),
        }
    }

    /// Returns an entry of a Secret or `ConfigMap`.
    ///
    /// # Errors
    /// Fails if the document may not have the object, or there is no such entry.
    pub(crate) fn entry(
        &self,
        asker: &Asker,
        name: &EntryName<'_>,
    ) -> Result<Found<'_>, ObjectFault> {
        let target = entry_target(name, asker.viewpoint()?);
        let Fact::Bytes(entries) = self.object(asker, &target)? else {
            return Err(ObjectFault::Unread(format!("the {target}")));
        };
        let Some((key, bytes)) = entries.get_key_value(name.key) else {
            return Err(ObjectFault::KeyMissing(target, keys(entries)));
        };
        let place = Place::Entry(target.reference(), Arc::clone(key));
        Ok(Found { place, digest: digest_of(bytes), writable_by_all: false, bytes })
    }

    /// Checks that the Secret of an entry is one for certificates, if it may be had and is there.
    ///
    /// # Errors
    /// Fails if it is of another type.
    pub(crate) fn check_tls_secret(
        &self,
        asker: &Asker,
        name: &EntryName<'_>,
    ) -> Result<(), ObjectFault> {
        let target = entry_target(name, asker.viewpoint()?);
        match self.object(asker, &target) {
            Ok(Fact::Bytes(Entries { r#type: Some(r#type), .. })) if **r#type != *TLS_SECRET => {
                Err(ObjectFault::NoTlsSecret(target, Arc::clone(r#type)))
            }
            // What else is wrong with it is said where its entries are read.
            _ => Ok(()),
        }
    }

    /// Returns the endpoints of a port of a Service.
    ///
    /// # Errors
    /// Fails if the document may not have the Service, or there is no such port.
    pub(crate) fn endpoints(
        &self,
        asker: &Asker,
        spec: &ServiceSpec,
    ) -> Result<&ServiceEndpoints, ObjectFault> {
        let target = service_target(spec, asker.viewpoint()?).map_err(ObjectFault::BadService)?;
        match self.object(asker, &target)? {
            Fact::Endpoints(endpoints) => Ok(endpoints),
            _ => Err(ObjectFault::Unread(format!("the {target}"))),
        }
    }
}

/// Says which entries an object has. Keys are no secrets.
fn keys(entries: &BTreeMap<Arc<str>, Arc<[u8]>>) -> String {
    const MOST: usize = 10;
    let known: Vec<&str> = entries.keys().take(MOST).map(|key| &**key).collect();
    match known.len() {
        0 => "has none".to_owned(),
        MOST => format!("has {} others", entries.len()),
        _ => format!("has {}", known.join(", ")),
    }
}
