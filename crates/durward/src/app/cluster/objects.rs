//! Objects whose results are reported, as each source keeps them.

use std::collections::BTreeMap;

use durward_control::stream::Received;
use durward_kube::object::Object;
use durward_model::{Kind, ResourceId};

/// Objects whose results are reported.
pub(super) trait Objects {
    /// Returns all objects.
    fn all(&self) -> impl Iterator<Item = &ResourceId>;

    /// Returns the objects of a kind.
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &ResourceId>;

    /// Returns whether an object is one of them.
    fn has(&self, id: &ResourceId) -> bool;
}

impl Objects for Received {
    fn all(&self) -> impl Iterator<Item = &ResourceId> {
        self.objects()
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &ResourceId> {
        self.objects_of(kind)
    }

    fn has(&self, id: &ResourceId) -> bool {
        self.has_object(id)
    }
}

impl Objects for BTreeMap<ResourceId, Object> {
    fn all(&self) -> impl Iterator<Item = &ResourceId> {
        self.keys()
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &ResourceId> {
        of_kind(self, kind).map(|(id, _)| id)
    }

    fn has(&self, id: &ResourceId) -> bool {
        self.contains_key(id)
    }
}

/// Returns the objects of a kind.
pub(super) fn of_kind(
    objects: &BTreeMap<ResourceId, Object>,
    kind: Kind,
) -> impl Iterator<Item = (&ResourceId, &Object)> {
    let first = ResourceId::new(kind, "");
    objects.range(first..).take_while(move |(id, _)| id.kind == kind)
}
