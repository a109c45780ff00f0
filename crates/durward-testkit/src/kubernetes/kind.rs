//! Kinds of objects that the double serves: names, versions, and what they may do.

use std::fmt;
use std::sync::Arc;

use super::schema::Schema;
use super::shape::Shape;

/// Resource type without its version, as in `tenants.durward.dev`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupResource {
    /// Empty for the core group.
    pub(crate) group: String,
    /// Plural, in lower case.
    pub(crate) resource: String,
}

impl GroupResource {
    pub(crate) fn new(group: &str, resource: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_str() {
            "" => formatter.write_str(&self.resource),
            group => write!(formatter, "{}.{group}", self.resource),
        }
    }
}

/// Rule that the names of a kind's objects follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label.
    ServiceLabel,
    /// Anything that can be one segment of a path.
    PathSegment,
}

/// Kind of objects.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: GroupResource,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Versions, the preferred one first.
    pub(crate) versions: Vec<Version>,
    /// Keeps `metadata.generation`.
    pub(crate) has_generation: bool,
    /// Allows an update without a resource version.
    pub(crate) unconditional_update: bool,
    /// Allows an update of an object that is not there yet, which makes it.
    pub(crate) update_creates: bool,
    pub(crate) names: NameRule,
    /// True for kinds of a CustomResourceDefinition.
    pub(crate) custom: bool,
    /// First minor version of the server that has the kind.
    pub(crate) since: u32,
}

/// Version of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) served: bool,
    pub(crate) storage: bool,
    /// Has the subresource `status`.
    pub(crate) status: bool,
    /// Structural schema of a custom kind.
    pub(crate) schema: Option<Arc<Schema>>,
    pub(crate) shape: Arc<Shape>,
    /// Fields beside name and namespace that a field selector may name, without the leading dot.
    pub(crate) selectable: Vec<String>,
}

impl Kind {
    pub(crate) fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// Version that objects are stored in.
    pub(crate) fn storage(&self) -> &Version {
        let stored = self.versions.iter().find(|version| version.storage);
        stored.unwrap_or(&self.versions[0])
    }

    pub(crate) fn api_version(&self, version: &str) -> String {
        match self.resource.group.as_str() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// True if the kind is there in this minor version of the server.
    pub(crate) fn is_served_by(&self, minor: u32) -> bool {
        self.since <= minor && self.versions.iter().any(|version| version.served)
    }

    /// Returns whether the field may be named in a field selector.
    pub(crate) fn is_selectable(&self, version: &str, field: &str) -> bool {
        let is_common =
            field == "metadata.name" || (self.namespaced && field == "metadata.namespace");
        let own = self.version(version);
        is_common || own.is_some_and(|own| own.selectable.iter().any(|known| known == field))
    }
}

/// Row of the table of built-in kinds: group/version, plural, kind, short names, and letters for what it may do: `n` namespaced, `s` status, `g` generation,
/// `c` conditional update only, `u` update creates, `l` name is a label, `p` name is a path segment, `r` name is a service label.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

const BUILT_IN: &[Row] = &[
    ("v1", "namespaces", "Namespace", "ns", "sl"),
    ("v1", "nodes", "Node", "no", "s"),
    ("v1", "pods", "Pod", "po", "nsg"),
    ("v1", "services", "Service", "svc", "nsr"),
    ("v1", "endpoints", "Endpoints", "ep", "n"),
    ("v1", "secrets", "Secret", "", "n"),
    ("v1", "configmaps", "ConfigMap", "cm", "n"),
    ("v1", "serviceaccounts", "ServiceAccount", "sa", "n"),
    ("v1", "events", "Event", "ev", "nu"),
    ("apps/v1", "deployments", "Deployment", "deploy", "nsg"),
    ("apps/v1", "daemonsets", "DaemonSet", "ds", "nsg"),
    ("apps/v1", "replicasets", "ReplicaSet", "rs", "nsg"),
    ("apps/v1", "statefulsets", "StatefulSet", "sts", "nsg"),
    ("apps/v1", "controllerrevisions", "ControllerRevision", "", "n"),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", "", "ng"),
    ("networking.k8s.io/v1", "ingresses", "Ingress", "ing", "nsg"),
    ("networking.k8s.io/v1", "ingressclasses", "IngressClass", "", "g"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", "netpol", "ng"),
    ("coordination.k8s.io/v1", "leases", "Lease", "", "ncu"),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", "nsgc"),
    ("events.k8s.io/v1", "events", "Event", "ev", "nu"),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", "", "nup"),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", "", "nup"),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", "", "up"),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", "", "up"),
    (
        "apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd,crds",
        "sgc",
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        "",
        "sg",
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "",
        "g",
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        "",
        "g",
    ),
];

/// Fields of built-in kinds that a field selector may name.
const SELECTABLE: &[(&str, &[&str])] = &[
    ("namespaces", &["status.phase"]),
    ("nodes", &["spec.unschedulable"]),
    ("pods", &["spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"]),
    ("services", &["spec.clusterIP", "spec.type"]),
    ("secrets", &["type"]),
    (
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "reason",
            "type",
        ],
    ),
];

/// Returns the built-in kinds.
pub(crate) fn built_in() -> Vec<Kind> {
    BUILT_IN.iter().map(built_in_kind).collect()
}

fn built_in_kind(&(group_version, plural, kind, short_names, letters): &Row) -> Kind {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let has = |letter| letters.contains(letter);
    let selectable = SELECTABLE.iter().filter(|(resource, _)| *resource == plural);
    let selectable =
        selectable.flat_map(|(_, fields)| fields.iter().map(|&field| field.to_owned()));
    let names = match () {
        () if has('l') => NameRule::Label,
        () if has('r') => NameRule::ServiceLabel,
        () if has('p') => NameRule::PathSegment,
        () => NameRule::Subdomain,
    };
    Kind {
        resource: GroupResource::new(group, plural),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        singular: kind.to_lowercase(),
        short_names: short_names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        categories: Vec::new(),
        namespaced: has('n'),
        versions: vec![Version {
            name: version.to_owned(),
            served: true,
            storage: true,
            status: has('s'),
            schema: None,
            shape: Arc::new(Shape::built_in(kind)),
            selectable: selectable.collect(),
        }],
        has_generation: has('g'),
        unconditional_update: !has('c'),
        update_creates: has('u'),
        names,
        custom: false,
        since: if plural.starts_with("validatingadmission") { 30 } else { 0 },
    }
}
