//! A Kubernetes API server that is hosted for a tenant and reached through a pass-through route.
//!
//! Deliberately absent: what is inside the client's TLS session, which ends in the API server.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::names::ServerNames;
use crate::origin::Origin;
use crate::server_name::server_name;
use crate::server_tls::ServerTls;
use crate::source_set::SourceSet;

/// Hosted API server of a pass-through route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostedApi {
    /// Name of the resource, unique within its tenant; `NAME/konnectivity` for the route of its konnectivity server.
    pub name: Arc<str>,
    /// Names of the API server.
    pub names: ServerNames,
    /// Networks that may connect, directly or as proxy; `None` admits every source that the listener admits.
    pub allowed_sources: Option<SourceSet>,
    /// TLS towards the tenant cluster's API proxies, whose certificates are always required; `None` admits no proxy.
    pub relay: Option<ServerTls>,
    /// Place of the resource.
    pub origin: Origin,
}

impl HostedApi {
    /// End of the name of a konnectivity server's route.
    pub const KONNECTIVITY: &'static str = "/konnectivity";
    /// End of the name of the route for clients that name nothing.
    pub const UNNAMED: &'static str = "/unnamed";

    /// Returns true if `client` may connect.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.allowed_sources.as_ref().is_none_or(|sources| sources.contains(client))
    }

    /// Returns true if an authority, as a PROXY header has it, is a name of this API server.
    #[must_use]
    pub fn is_authority(&self, authority: &str) -> bool {
        matches!(server_name(authority), Ok(Some(name)) if self.names.match_name(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::HostPattern;

    #[test]
    fn an_authority_is_a_name_in_any_case_and_nothing_else() {
        let names = ServerNames::new(vec![HostPattern::Exact(Arc::from("api.a.example"))]);
        let (name, origin) = (Arc::from("a"), Origin::default());
        let api = HostedApi { name, names, allowed_sources: None, relay: None, origin };

        for own in ["api.a.example", "API.a.Example", "api.a.example."] {
            assert!(api.is_authority(own), "{own}");
        }
        for other in [
            "api.b.example",
            "a.example",
            "x.api.a.example",
            "",
            "10.96.0.1",
            "api.a.example:443",
            "api.a.example/",
        ] {
            assert!(!api.is_authority(other), "{other}");
        }
    }
}
