//! Links: which agents may connect to a listener, and which upstreams they serve.
//!
//! Deliberately absent: carriers and streams; those live in the proxy.

use std::sync::Arc;

use serde::Serialize;

use crate::client_auth::HolderMatch;
use crate::origin::Origin;
use crate::server_tls::ServerTls;

/// Listener for agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkService {
    /// TLS towards agents. A client certificate is required.
    pub tls: ServerTls,
    /// Links whose agents may connect, by name.
    pub links: Vec<Link>,
}

/// A tenant's relation to an agent in a private cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Name within the tenant.
    pub name: Arc<str>,
    /// Names of which a client certificate must carry one. Never empty.
    pub holders: Vec<HolderMatch>,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

impl LinkService {
    /// Returns the link called `name`, if a certificate with these names is its agent's.
    ///
    /// ```
    /// # use durward_model::{ClientAuth, Origin, client_auth::HolderMatch, link::{Link, LinkService}, server_tls::ServerTls};
    /// # let tls = ServerTls { certificates: vec![], client_auth: ClientAuth::Off, tls13_only: false, alpn: vec![] };
    /// let holders = vec![HolderMatch::Exact("agent.example".to_owned())];
    /// let link = Link { name: "onprem".into(), holders, origin: Origin::default() };
    /// let service = LinkService { tls, links: vec![link] };
    /// assert!(service.link("onprem", ["agent.example"].into_iter()).is_some());
    /// assert!(service.link("onprem", ["other.example"].into_iter()).is_none());
    /// assert!(service.link("other", ["agent.example"].into_iter()).is_none());
    /// ```
    pub fn link<'n>(&self, name: &str, names: impl Iterator<Item = &'n str>) -> Option<&Link> {
        let link = self.links.iter().find(|link| *link.name == *name)?;
        let mut names = names;
        let is_its = |name: &str| link.holders.iter().any(|holder| holder.matches(name));
        names.any(is_its).then_some(link)
    }
}
