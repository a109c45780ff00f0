//! How the fields of a kind merge: which lists are sets or maps by keys, and which values are replaced as a whole.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

/// How a list tells its items apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum ListKind {
    /// The list is one value.
    #[default]
    Atomic,
    /// Items are scalars, each at most once.
    Set,
    /// Items are objects, told apart by these fields; a missing one has its default.
    Map(Vec<(String, Option<Value>)>),
}

/// What is known of a value's parts.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// An object that is replaced as a whole.
    pub(crate) atomic: bool,
    pub(crate) list: ListKind,
    pub(crate) fields: BTreeMap<String, Self>,
    /// Values of an object that is a map; its keys are owned themselves.
    pub(crate) entries: Option<Box<Self>>,
    pub(crate) items: Option<Box<Self>>,
    /// An object that is not always there, as those of custom kinds.
    pub(crate) optional: bool,
    fallback: Fallback,
}

/// Shape of a part that is not described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallback {
    /// A field of a type that is known to the server, if not to this table.
    Field,
    /// Anything: objects are maps, lists are atomic.
    Untyped,
}

static FIELD: LazyLock<Shape> = LazyLock::new(|| Shape::with(Fallback::Field));
static UNTYPED: LazyLock<Shape> = LazyLock::new(|| Shape::with(Fallback::Untyped));

impl Shape {
    fn with(fallback: Fallback) -> Self {
        let (fields, list) = (BTreeMap::new(), ListKind::Atomic);
        let optional = fallback == Fallback::Untyped;
        Self { atomic: false, list, fields, entries: None, items: None, optional, fallback }
    }

    /// Returns whether an object of the shape is a field of its own that can be owned.
    pub(crate) fn comes_and_goes(&self) -> bool {
        self.optional || self.entries.is_some()
    }

    /// Shape of a type whose fields are not described.
    pub(crate) fn field_of_type() -> Self {
        Self::with(Fallback::Field)
    }

    /// Shape of a value that may be anything.
    pub(crate) fn untyped() -> Self {
        Self::with(Fallback::Untyped)
    }

    /// Returns the shape of a field, and true if its key is owned itself.
    pub(crate) fn field(&self, key: &str) -> (&Self, bool) {
        if let Some(field) = self.fields.get(key) {
            return (field, false);
        }
        if let Some(entries) = &self.entries {
            return (entries, true);
        }
        match self.fallback {
            Fallback::Field => (&FIELD, false),
            Fallback::Untyped => (&UNTYPED, true),
        }
    }

    pub(crate) fn items(&self) -> &Self {
        match (&self.items, self.fallback) {
            (Some(items), _) => items,
            (None, Fallback::Field) => &FIELD,
            (None, Fallback::Untyped) => &UNTYPED,
        }
    }

    /// Describes `metadata`, alike for all kinds.
    pub(crate) fn metadata() -> Self {
        let mut metadata = Self::field_of_type();
        for rule in METADATA {
            metadata.apply(rule);
        }
        metadata
    }

    /// Returns the shape of a built-in kind.
    pub(crate) fn built_in(kind: &str) -> Self {
        let mut shape = Self::field_of_type();
        shape.fields.insert("metadata".to_owned(), Self::metadata());
        let rules = BUILT_IN
            .iter()
            .filter(|(kinds, _)| kinds.split(' ').any(|one| one == kind || one == "*"));
        for rule in rules.flat_map(|(_, rules)| rules.iter()) {
            shape.apply(rule);
        }
        shape
    }

    /// Applies a rule: a path, `[]` for items, and what the value there is.
    fn apply(&mut self, rule: &str) {
        let (path, what) = rule.split_once(' ').unwrap_or((rule, "atomic"));
        let mut place = self;
        for step in path.split('.') {
            let (field, is_item) = match step.strip_suffix("[]") {
                Some(field) => (field, true),
                None => (step, false),
            };
            place = place.fields.entry(field.to_owned()).or_insert_with(Self::field_of_type);
            if is_item {
                place = place.items.get_or_insert_with(|| Box::new(Self::field_of_type()));
            }
        }
        match what.split_once(' ').unwrap_or((what, "")) {
            ("set", _) => place.list = ListKind::Set,
            ("map", keys) => place.list = ListKind::Map(keys.split(' ').map(list_key).collect()),
            ("entries", _) => place.entries = Some(Box::new(Self::untyped())),
            _ => place.atomic = true,
        }
    }
}

/// Reads the key of a list in a rule: `protocol=TCP` has a default.
fn list_key(key: &str) -> (String, Option<Value>) {
    match key.split_once('=') {
        Some((key, default)) => (key.to_owned(), Some(default.into())),
        None => (key.to_owned(), None),
    }
}

const METADATA: &[&str] =
    &["finalizers set", "ownerReferences map uid", "labels entries", "annotations entries"];

/// Kinds, and the rules of their fields that are not plain.
const BUILT_IN: &[(&str, &[&str])] = &[
    ("*", &["status.conditions map type"]),
    ("ConfigMap Secret", &["data entries", "binaryData entries", "stringData entries"]),
    ("ControllerRevision", &["data entries"]),
    (
        "Service",
        &[
            "spec.ports map port protocol=TCP",
            "spec.selector atomic",
            "status.loadBalancer.ingress atomic",
        ],
    ),
    ("ServiceAccount", &["secrets map name", "imagePullSecrets atomic"]),
    ("Namespace", &["spec.finalizers atomic"]),
    (
        "Node",
        &[
            "status.addresses map type",
            "spec.podCIDRs set",
            "status.capacity entries",
            "status.allocatable entries",
        ],
    ),
    (
        "Pod",
        &[
            "spec.containers map name",
            "spec.containers[].ports map containerPort protocol=TCP",
            "spec.containers[].env map name",
            "spec.containers[].volumeMounts map mountPath",
            "spec.volumes map name",
            "spec.imagePullSecrets map name",
            "spec.nodeSelector atomic",
            "status.podIPs map ip",
            "status.hostIPs atomic",
            "spec.hostAliases map ip",
        ],
    ),
    (
        "Deployment DaemonSet ReplicaSet StatefulSet",
        &[
            "spec.selector atomic",
            "spec.template.metadata.labels entries",
            "spec.template.metadata.annotations entries",
            "spec.template.spec.containers map name",
            "spec.template.spec.containers[].ports map containerPort protocol=TCP",
            "spec.template.spec.containers[].env map name",
            "spec.template.spec.containers[].volumeMounts map mountPath",
            "spec.template.spec.volumes map name",
            "spec.template.spec.imagePullSecrets map name",
            "spec.template.spec.nodeSelector atomic",
        ],
    ),
    ("CustomResourceDefinition", &["spec.versions[].schema atomic"]),
    ("RoleBinding ClusterRoleBinding", &["roleRef atomic"]),
    ("ClusterRole", &["aggregationRule.clusterRoleSelectors atomic"]),
    ("ValidatingAdmissionPolicy", &["spec.matchConditions map name", "spec.variables map name"]),
    ("ValidatingAdmissionPolicyBinding", &["spec.validationActions set"]),
    ("ValidatingWebhookConfiguration", &["webhooks map name"]),
];
