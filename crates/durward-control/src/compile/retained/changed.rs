//! Finds objects that changed since an earlier process read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::{DocumentKey, Kind, ResourceId, TenantId};

use super::{KnownText, PartId};
use crate::state::{PartState, State};
use crate::store::Store;

/// Returns the parts, by their names in [`Served`](super::Served), whose objects were deleted or changed since an earlier process read them. `store` holds all objects of the
/// cluster, or of the namespace `only`: what is not in it does not exist.
#[must_use]
pub fn changed_objects(state: &State, store: &Store, only: Option<&str>) -> BTreeSet<String> {
    let is_read = |object: &ResourceId| match (only, object.namespace.as_deref()) {
        (Some(only), Some(namespace)) => only == namespace,
        _ => true,
    };
    let is_changed = |good: Option<usize>, text: Option<&Arc<str>>| {
        let Some(good) = good.and_then(|at| state.texts.get(at)) else { return false };
        let Some(object) = good.object.as_ref().filter(|object| is_read(object)) else {
            return false;
        };
        let known = match text {
            Some(hash) => KnownText::Hash(Arc::clone(hash)),
            None => KnownText::Whole(Arc::clone(&good.text)),
        };
        let document = store.document(&DocumentKey::Object(object.clone()));
        // Its last good text may stand in for it.
        let is_same = |text: &str| known.is(text) || *good.text == *text;
        document.is_none_or(|document| !is_same(&document.source.text))
    };
    let mut changed = BTreeSet::new();
    let of_tenant =
        |tenant: &str| [format!("tenant {tenant}"), format!("egress rule {tenant}/egress")];
    for tenant in &state.tenants {
        if is_changed(tenant.good, tenant.text.as_ref()) {
            changed.extend(of_tenant(&tenant.name));
        }
    }
    let tenants = changed.clone();
    for part in state.mappings.iter().chain(&state.contributions) {
        let PartState { tenant, kind, namespace, name, good, text, .. } = part;
        let is_changed = is_changed(*good, text.as_ref());
        if !is_changed && !tenants.contains(&format!("tenant {tenant}")) {
            continue;
        }
        let Ok(id) = TenantId::new(tenant) else { continue };
        let id = PartId {
            tenant: id,
            kind: *kind,
            namespace: namespace.clone(),
            name: Arc::from(name.as_str()),
        };
        changed.insert(id.to_string());
        if *kind == Kind::PortMapping {
            changed.insert(format!("egress rule {tenant}/{}", id.qualified()));
        } else if is_changed {
            // What it adds is served as its tenant's own.
            changed.extend(of_tenant(tenant));
        }
    }
    changed
}
