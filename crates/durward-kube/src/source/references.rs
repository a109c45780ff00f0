//! References that documents make, sorted by the reader that follows each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_control::reference::Reference;
use durward_model::ResourceId;

use super::Wanted;
use super::named::Asked;
use crate::object::ObjectName;

/// References to all but Secrets and `ConfigMap`s, by what they are to.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) services: BTreeMap<ObjectName, BTreeSet<Arc<str>>>,
    pub(super) namespaces: BTreeSet<Arc<str>>,
    pub(super) granted: BTreeSet<ResourceId>,
}

impl Sorted {
    /// Sorts references, and adds the Secrets and `ConfigMap`s among them to those that are asked for.
    pub(super) fn of<'a>(
        references: impl Iterator<Item = Wanted<'a>>,
        [secrets, config_maps]: &mut [Asked; 2],
    ) -> Self {
        let mut sorted = Self::default();
        let object = |namespace: &Arc<str>, name: &Arc<str>| ObjectName {
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
        };
        for Wanted { reference, tenant } in references {
            // Of several tenants that name one object the first pays for it.
            let ask = |asked: &mut Asked, name: ObjectName| {
                let payer = asked.entry(name).or_insert_with(|| tenant.clone());
                if tenant.is_some() && (payer.is_none() || tenant < *payer) {
                    payer.clone_from(&tenant);
                }
            };
            match reference {
                Reference::Service { namespace, name, port } => {
                    let ports = sorted.services.entry(object(namespace, name)).or_default();
                    ports.insert(Arc::clone(port));
                }
                Reference::Secret { namespace, name } => ask(secrets, object(namespace, name)),
                Reference::ConfigMap { namespace, name } => {
                    ask(config_maps, object(namespace, name));
                }
                Reference::Namespace(name) => drop(sorted.namespaces.insert(Arc::clone(name))),
                Reference::Grant(target) => drop(sorted.granted.insert(target.clone())),
                Reference::File(_) | Reference::LinkRoutes { .. } => {}
            }
        }
        sorted
    }
}
