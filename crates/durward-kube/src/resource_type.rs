//! The kinds that are read, and the version of each that a server serves.

use durward_model::Kind;
use serde::Deserialize;

use crate::request::{self, ApiError};

/// A kind of object, as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceType {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Versions that are understood.
    pub versions: &'static [&'static str],
    /// Kind, in the singular; with its group where several groups have it.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// True if its objects are namespaced.
    pub namespaced: bool,
}

/// Our own tenants.
pub const TENANTS: ResourceType = own("Tenant", "tenants", false);
/// Our own port mappings.
pub const PORT_MAPPINGS: ResourceType = own("PortMapping", "portmappings", true);
/// Our own hosted API servers.
pub const HOSTED_APIS: ResourceType = own("HostedApi", "hostedapis", true);
/// Our own egress policies.
pub const EGRESS_POLICIES: ResourceType = own("EgressPolicy", "egresspolicies", true);
/// Mappings of SmartNat.
pub const MAPPINGS: ResourceType = ResourceType {
    group: durward_control::spec::smartnat::GROUP,
    versions: &["v1alpha1"],
    kind: "Mapping",
    plural: "mappings",
    namespaced: true,
};
/// Control planes of Kamaji.
pub const KAMAJI_CONTROL_PLANES: ResourceType = ResourceType {
    group: "kamaji.clastix.io",
    versions: &["v1alpha1"],
    // Two groups have the kind.
    kind: "TenantControlPlane.kamaji.clastix.io",
    plural: "tenantcontrolplanes",
    namespaced: true,
};
/// Control planes of Steward.
pub const STEWARD_CONTROL_PLANES: ResourceType = ResourceType {
    group: "steward.butlerlabs.dev",
    kind: "TenantControlPlane.steward.butlerlabs.dev",
    ..KAMAJI_CONTROL_PLANES
};
/// TCP routes of Traefik.
pub const INGRESS_ROUTE_TCPS: ResourceType = ResourceType {
    group: "traefik.io",
    versions: &["v1alpha1"],
    kind: "IngressRouteTCP",
    plural: "ingressroutetcps",
    namespaced: true,
};
/// TLS routes of the Gateway API.
pub const TLS_ROUTES: ResourceType = ResourceType {
    group: "gateway.networking.k8s.io",
    versions: &["v1", "v1alpha3", "v1alpha2"],
    kind: "TLSRoute",
    plural: "tlsroutes",
    namespaced: true,
};
/// Namespaces.
pub const NAMESPACES: ResourceType = core("Namespace", "namespaces", false);
/// Services.
pub const SERVICES: ResourceType = core("Service", "services", true);
/// Secrets.
pub const SECRETS: ResourceType = core("Secret", "secrets", true);
/// `ConfigMap`s.
pub const CONFIG_MAPS: ResourceType = core("ConfigMap", "configmaps", true);
/// Endpoints of Services in the older form.
pub const ENDPOINTS: ResourceType = core("Endpoints", "endpoints", true);
/// Endpoints of Services.
pub const ENDPOINT_SLICES: ResourceType = ResourceType {
    group: "discovery.k8s.io",
    versions: &["v1"],
    kind: "EndpointSlice",
    plural: "endpointslices",
    namespaced: true,
};
/// Ingresses.
pub const INGRESSES: ResourceType = networking("Ingress", "ingresses", true);
/// Classes of Ingresses.
pub const INGRESS_CLASSES: ResourceType = networking("IngressClass", "ingressclasses", false);
/// Grants of references from other namespaces.
pub const REFERENCE_GRANTS: ResourceType = ResourceType {
    group: "gateway.networking.k8s.io",
    versions: &["v1", "v1beta1"],
    kind: "ReferenceGrant",
    plural: "referencegrants",
    namespaced: true,
};
/// Revisions of objects.
pub const CONTROLLER_REVISIONS: ResourceType = ResourceType {
    group: "apps",
    versions: &["v1"],
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    namespaced: true,
};
/// Leases.
pub const LEASES: ResourceType = ResourceType {
    group: "coordination.k8s.io",
    versions: &["v1"],
    kind: "Lease",
    plural: "leases",
    namespaced: true,
};
/// Events.
pub const EVENTS: ResourceType = ResourceType {
    group: "events.k8s.io",
    versions: &["v1"],
    kind: "Event",
    plural: "events",
    namespaced: true,
};

const fn own(kind: &'static str, plural: &'static str, namespaced: bool) -> ResourceType {
    ResourceType { group: "durward.dev", versions: &["v1alpha1"], kind, plural, namespaced }
}

const fn networking(kind: &'static str, plural: &'static str, namespaced: bool) -> ResourceType {
    ResourceType { group: "networking.k8s.io", versions: &["v1"], kind, plural, namespaced }
}

const fn core(kind: &'static str, plural: &'static str, namespaced: bool) -> ResourceType {
    ResourceType { group: "", versions: &["v1"], kind, plural, namespaced }
}

impl ResourceType {
    /// Returns the type of the objects that are documents of this kind.
    #[must_use]
    pub fn of(kind: Kind) -> Option<&'static Self> {
        match kind {
            Kind::Tenant => Some(&TENANTS),
            Kind::PortMapping => Some(&PORT_MAPPINGS),
            Kind::HostedApi => Some(&HOSTED_APIS),
            Kind::EgressPolicy => Some(&EGRESS_POLICIES),
            _ => None,
        }
    }

    /// Returns the newest version that is understood.
    #[must_use]
    pub fn newest(&self) -> &'static str {
        self.versions[0]
    }

    /// Returns the `apiVersion` of objects in this version.
    #[must_use]
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// Returns the path of the collection in this version, in a namespace or in all.
    #[must_use]
    pub fn path(&self, version: &str, namespace: Option<&str>) -> String {
        let group = self.group_path(version);
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{group}/namespaces/{}/{}", segment(namespace), self.plural),
            None => format!("{group}/{}", self.plural),
        }
    }

    /// Returns the path of one object.
    #[must_use]
    pub fn object_path(&self, version: &str, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{}", self.path(version, namespace), segment(name))
    }

    fn group_path(&self, version: &str) -> String {
        match self.group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        }
    }

    /// Returns the newest version that is understood and served; `None` if the server has no such kind.
    ///
    /// # Errors
    /// Fails if the server cannot be asked, or serves the kind only in versions that are not understood.
    pub async fn discover(&self, client: &kube::Client) -> Result<Option<&'static str>, ApiError> {
        let mut foreign = Vec::new();
        for version in self.served_versions(client).await? {
            if !self.is_in(client, &version).await? {
                continue;
            }
            match self.versions.iter().find(|known| **known == version) {
                Some(known) => return Ok(Some(known)),
                None => foreign.push(version),
            }
        }
        if foreign.is_empty() {
            return Ok(None);
        }
        Err(ApiError::Unreadable(format!(
            "{} is served only as {}: this release reads {}",
            self.kind,
            foreign.join(", "),
            self.versions.join(", ")
        )))
    }

    /// Returns the versions of the group, newest first.
    async fn served_versions(&self, client: &kube::Client) -> Result<Vec<String>, ApiError> {
        if self.group.is_empty() {
            return Ok(vec!["v1".to_owned()]);
        }
        let group = match request::get(client, &format!("/apis/{}", self.group)).await {
            Err(ApiError::NotFound(_)) => return Ok(Vec::new()),
            got => decode::<Group>(&got?)?,
        };
        let mut versions: Vec<String> =
            group.versions.into_iter().map(|version| version.version).collect();
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        Ok(versions)
    }

    async fn is_in(&self, client: &kube::Client, version: &str) -> Result<bool, ApiError> {
        let list = match request::get(client, &self.group_path(version)).await {
            Err(ApiError::NotFound(_)) => return Ok(false),
            got => decode::<ResourceList>(&got?)?,
        };
        Ok(list.resources.iter().any(|resource| resource.name == self.plural))
    }
}

/// Returns a name as one segment of a path.
///
/// Servers and proxies in front of them may resolve `..` before they look at rights, however it is escaped. In place of what is no segment stands `_`, a name that no object has.
fn segment(name: &str) -> String {
    let is_segment = !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '%']);
    let name = if is_segment { name } else { "_" };
    percent_encoding::utf8_percent_encode(name, ESCAPED).to_string()
}

/// Bytes that are escaped in a segment of a path: all but the unreserved ones and the colon, which names of roles have.
const ESCAPED: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::Unreadable(error.to_string()))
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<ListedResource>,
}

#[derive(Deserialize)]
struct ListedResource {
    name: String,
}

/// Orders versions as Kubernetes does: stable before beta before alpha, then by number; other names last.
fn priority(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let (major, level) = match rest.find(|letter: char| !letter.is_ascii_digit()) {
        None => (rest, None),
        Some(at) => (&rest[..at], Some(&rest[at..])),
    };
    let Some(major) = number(major) else { return (0, 0, 0) };
    match level {
        None => (3, major, 0),
        Some(level) => {
            let beta = level.strip_prefix("beta").and_then(number).map(|minor| (2, major, minor));
            let alpha = || level.strip_prefix("alpha").and_then(number);
            beta.or_else(|| alpha().map(|minor| (1, major, minor))).unwrap_or((0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions =
            ["foo", "v1alpha1", "v2", "v1beta2", "v10", "v1", "v3beta1", "v11alpha2", "v1beta10"];

        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));

        let newest_first =
            ["v10", "v2", "v1", "v3beta1", "v1beta10", "v1beta2", "v11alpha2", "v1alpha1", "foo"];
        assert_eq!(versions, newest_first);
    }

    #[test]
    fn paths_name_group_version_and_namespace() {
        assert_eq!(SECRETS.path("v1", Some("pay")), "/api/v1/namespaces/pay/secrets");
        assert_eq!(TENANTS.path("v1alpha1", Some("pay")), "/apis/durward.dev/v1alpha1/tenants");
        let slice = ENDPOINT_SLICES.object_path("v1", Some("pay"), "api-1");
        assert_eq!(slice, "/apis/discovery.k8s.io/v1/namespaces/pay/endpointslices/api-1");
        assert_eq!(TENANTS.api_version("v1alpha1"), "durward.dev/v1alpha1");
        assert_eq!(SERVICES.api_version("v1"), "v1");
    }

    #[test]
    fn no_name_leads_out_of_its_namespace() {
        for name in ["..", ".", "", "../x", "../../other/secrets/x", "a/b", "%2e%2e", "a\\..\\b"] {
            let path = SECRETS.object_path("v1", Some("pay"), name);
            assert_eq!(path, "/api/v1/namespaces/pay/secrets/_", "{name}");
        }
        let path = SECRETS.object_path("v1", Some("../kube-system"), "a?watch=1#x y");
        assert_eq!(path, "/api/v1/namespaces/_/secrets/a%3Fwatch%3D1%23x%20y");
    }
}
