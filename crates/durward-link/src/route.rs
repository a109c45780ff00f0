//! Routes that an agent registers: which host and path it has a backend for.

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::digest;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::target::Target;

/// Routes in one set at most; more are refused by the gateway.
pub const ROUTES: usize = 10_000;
/// Bytes of a route's host at most.
pub const HOST: usize = 255;
/// Bytes of a route's path at most.
pub const PATH: usize = 4_096;

/// Bytes of the Ingress that a route names at most: namespace, slash and name.
pub const INGRESS: usize = 63 + 1 + 253;

/// One host and path, and the backend that serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Host name, or `*.` and a name; lower case.
    pub host: String,
    /// Prefix of the path. Default: `/`.
    #[serde(default = "root")]
    pub path: String,
    /// True if the path is meant alone, without what lies below.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// Backend.
    pub target: Target,
    /// True if requests go over the link even where the cluster is reached directly.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tunnel_only: bool,
    /// True for TLS that is carried through to the backend, by the name that clients ask for; the path means nothing then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passthrough: bool,
    /// Name that the backend's certificate must carry; `None` for a backend without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<String>,
    /// Ingress that asks for the route, as `NAMESPACE/NAME`; empty for one of the agent's file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ingress: String,
}

fn root() -> String {
    "/".to_owned()
}

impl Route {
    /// Returns why no gateway takes a message with this route, as a phrase that follows it; `None` if one may.
    #[must_use]
    pub fn excess(&self) -> Option<String> {
        let name = self.backend_tls.as_deref().unwrap_or_default();
        let parts = [
            ("host", self.host.as_str(), HOST),
            ("path", &self.path, PATH),
            ("name of a backend", name, HOST),
            ("name of an Ingress", &self.ingress, INGRESS),
        ];
        let (what, part, most) = parts.into_iter().find(|(_, part, most)| part.len() > *most)?;
        Some(format!("has a {what} of {} bytes, and a link carries {most}", part.len()))
    }
}

/// All routes of an agent, sorted, with a number that rises with each change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Received")]
pub struct RouteSet {
    /// Number of the change.
    pub revision: u64,
    /// Version of the cluster's objects that the routes are of, to compare with that of other agents; 0 where there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed: u64,
    routes: Vec<Route>,
    /// Digest of the routes, once it was asked for: that of thousands takes milliseconds.
    #[serde(skip)]
    digest: OnceLock<String>,
}

impl PartialEq for RouteSet {
    fn eq(&self, other: &Self) -> bool {
        let number = |set: &Self| (set.revision, set.observed);
        number(self) == number(other) && self.routes == other.routes
    }
}

impl Eq for RouteSet {}

/// Route set as it is received, in any order.
#[derive(Deserialize)]
struct Received {
    revision: u64,
    #[serde(default)]
    observed: u64,
    #[serde(deserialize_with = "bounded")]
    routes: Vec<Route>,
}

impl From<Received> for RouteSet {
    fn from(Received { revision, observed, routes }: Received) -> Self {
        Self::new(revision, routes).observed_at(observed)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Reads routes; fails at the first that is too much, before the rest is held.
fn bounded<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Route>, D::Error> {
    struct Routes;
    impl<'de> Visitor<'de> for Routes {
        type Value = Vec<Route>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{ROUTES} routes at most")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<Route>, A::Error> {
            let mut routes = Vec::new();
            while let Some(route) = from.next_element::<Route>()? {
                if routes.len() == ROUTES {
                    return Err(A::Error::invalid_length(ROUTES + 1, &self));
                }
                let name = route.backend_tls.as_ref().map_or(0, String::len);
                if route.host.len() > HOST || route.path.len() > PATH || name > HOST {
                    let long = "a route whose host has at most 255 bytes and whose path 4096";
                    return Err(A::Error::invalid_length(
                        route.host.len() + route.path.len(),
                        &long,
                    ));
                }
                if route.ingress.len() > INGRESS {
                    let long = "a route whose Ingress has a name of Kubernetes";
                    return Err(A::Error::invalid_length(route.ingress.len(), &long));
                }
                routes.push(route);
            }
            Ok(routes)
        }
    }
    from.deserialize_seq(Routes)
}

/// Revision and digest of a route set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesId {
    /// Number of the change.
    pub revision: u64,
    /// SHA-256 of the routes, hexadecimal; empty where no routes are held.
    pub digest: String,
}

impl RouteSet {
    /// Creates a set; the order of `routes` and repeated ones make no difference.
    #[must_use]
    pub fn new(revision: u64, mut routes: Vec<Route>) -> Self {
        routes.sort();
        routes.dedup();
        Self { revision, observed: 0, routes, digest: OnceLock::new() }
    }

    /// Says of which version of the cluster's objects the routes are.
    #[must_use]
    pub fn observed_at(self, observed: u64) -> Self {
        Self { observed, ..self }
    }

    /// Returns the routes, sorted.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Returns the routes, sorted, by value.
    #[must_use]
    pub fn into_routes(self) -> Vec<Route> {
        self.routes
    }

    /// Returns revision and digest.
    #[must_use]
    pub fn id(&self) -> RoutesId {
        let digest = self.digest.get_or_init(|| digest(&self.routes)).clone();
        RoutesId { revision: self.revision, digest }
    }

    /// Returns true if a route has this target.
    #[must_use]
    pub fn has(&self, target: &Target) -> bool {
        self.routes.iter().any(|route| route.target == *target)
    }
}

/// Returns the SHA-256 of routes, hexadecimal.
fn digest(routes: &[Route]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for route in routes {
        let Route { host, path, exact, target, ingress, .. } = route;
        let exact = if *exact { "=" } else { "" };
        // A NUL is in none of the parts, so no two different routes give the same bytes.
        for part in [host.as_str(), path.as_str(), exact, &target.to_string(), ingress] {
            context.update(part.as_bytes());
            context.update(b"\0");
        }
        // Only where it says something: a gateway that does not know the field has the same digest otherwise.
        if route.tunnel_only {
            context.update(b"tunnel\0");
        }
        if route.passthrough {
            context.update(b"passthrough\0");
        }
        if let Some(name) = &route.backend_tls {
            context.update(format!("tls {name}\0").as_bytes());
        }
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, target: &str) -> Route {
        let target = target.parse().unwrap();
        Route {
            host: host.to_owned(),
            path: root(),
            exact: false,
            target,
            tunnel_only: false,
            passthrough: false,
            backend_tls: None,
            ingress: String::new(),
        }
    }

    #[test]
    fn the_digest_says_the_routes_and_not_their_order() {
        let (a, b) = (route("a.example", "a:80"), route("b.example", "b:80"));
        let one = RouteSet::new(1, vec![a.clone(), b.clone(), a.clone()]);
        let other = RouteSet::new(2, vec![b.clone(), a.clone()]);

        assert_eq!(one.id().digest, other.id().digest);
        assert_ne!(one.id(), other.id());
        assert_ne!(one.id().digest, RouteSet::new(1, vec![a]).id().digest);
        assert_ne!(one.id().digest, RouteSet::new(1, vec![b.clone()]).id().digest);
        let digest = |route| RouteSet::new(1, vec![route]).id().digest;
        for other in [
            Route { tunnel_only: true, ..b.clone() },
            Route { passthrough: true, ..b.clone() },
            Route { backend_tls: Some("b".to_owned()), ..b.clone() },
        ] {
            assert_ne!(digest(other), digest(b.clone()));
        }
        assert!(one.has(&"a:80".parse().unwrap()) && !one.has(&"a:81".parse().unwrap()));
    }
}
