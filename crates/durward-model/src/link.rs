//! Links: which agents may connect to a listener, which host names they may register, and the routes that they registered.
//!
//! Deliberately absent: carriers and streams; those live in the proxy.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::certificate::Certificate;
use crate::client_auth::HolderMatch;
use crate::egress::ForwardService;
use crate::origin::Origin;
use crate::route::{GrantedHosts, HostPattern, PathMatch};
use crate::server_tls::ServerTls;

/// Routes that a link may register where its document does not say how many.
pub const MOST_ROUTES: u32 = 500;

/// Listener for agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkService {
    /// TLS towards agents. A client certificate is required, unless every link has tokens.
    pub tls: ServerTls,
    /// Links whose agents may connect, by name.
    pub links: Vec<Link>,
    /// Forward proxy for what leaves clusters through links with `egress`; `None` without one.
    pub out: Option<ForwardService>,
    /// Authority with which certificates are issued to agents that join; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<Arc<Certificate>>,
}

/// A tenant's relation to an agent in a private cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Name within the tenant.
    pub name: Arc<str>,
    /// Names of which a client certificate must carry one. Empty only where there are tokens.
    pub holders: Vec<HolderMatch>,
    /// Digests of the tokens that stand for a certificate.
    pub tokens: Vec<TokenDigest>,
    /// Digests of the tokens that are each good for one certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join_tokens: Vec<TokenDigest>,
    /// Identifier of the cluster that a registration must name; `None` for any.
    pub cluster: Option<Arc<str>>,
    /// Host names that may be registered; none where the list is empty.
    pub hosts: GrantedHosts,
    /// Number of routes that may be registered.
    pub most_routes: u32,
    /// True if the cluster's own traffic may leave by the link, under the tenant's egress rules.
    pub egress: bool,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

impl LinkService {
    /// Returns the link called `name`, if a certificate with these names is its agent's.
    ///
    /// ```
    /// # use durward_model::{ClientAuth, client_auth::HolderMatch, link::{Link, LinkService}, server_tls::ServerTls};
    /// # let tls = ServerTls { certificates: vec![], client_auth: ClientAuth::Off, tls13_only: false, alpn: vec![] };
    /// let holders = vec![HolderMatch::Exact("agent.example".to_owned())];
    /// let link = Link::new("onprem", holders);
    /// let service = LinkService { tls, links: vec![link], out: None, authority: None };
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

    /// Returns the link called `name`, if the token is one of its own. All tokens are compared, each in constant time.
    #[must_use]
    pub fn link_of_token(&self, name: &str, token: &TokenDigest) -> Option<&Link> {
        let has_it = |link: &Link| {
            link.tokens.iter().fold(false, |found, one| found | one.is_equal_to(token))
        };
        self.links.iter().find(|link| *link.name == *name && has_it(link))
    }

    /// Returns the link whose agent may have a certificate for this token. All tokens are compared, each in constant time.
    #[must_use]
    pub fn link_of_join_token(&self, token: &TokenDigest) -> Option<&Link> {
        let has_it = |link: &Link| {
            link.join_tokens.iter().fold(false, |found, one| found | one.is_equal_to(token))
        };
        let links = self.links.iter();
        links.fold(None, |found, link| if has_it(link) { Some(link) } else { found })
    }
}

impl Link {
    /// Creates a link that may register nothing, written nowhere.
    #[must_use]
    pub fn new(name: &str, holders: Vec<HolderMatch>) -> Self {
        Self {
            name: Arc::from(name),
            holders,
            tokens: Vec::new(),
            join_tokens: Vec::new(),
            cluster: None,
            hosts: GrantedHosts::default(),
            most_routes: MOST_ROUTES,
            egress: false,
            origin: Origin::default(),
        }
    }

    /// Returns the name that a certificate for its agent carries: the first that is no prefix.
    #[must_use]
    pub fn certificate_name(&self) -> Option<&str> {
        self.holders.iter().find_map(|holder| match holder {
            HolderMatch::Exact(name) => Some(name.as_str()),
            HolderMatch::Prefix(_) => None,
        })
    }

    /// Returns true if the link may register a route for `host`.
    ///
    /// ```
    /// # use durward_model::{link::Link, route::HostPattern};
    /// let mut link = Link::new("onprem", Vec::new());
    /// let host = |name: &str| HostPattern::Exact(name.into());
    /// assert!(!link.may_register(&host("app.example")));
    /// link.hosts = [host("app.example"), HostPattern::Wildcard("acme.example".into())].into_iter().collect();
    /// assert!(link.may_register(&host("app.example")) && link.may_register(&host("a.b.acme.example")));
    /// assert!(link.may_register(&HostPattern::Wildcard("b.acme.example".into())));
    /// assert!(link.may_register(&HostPattern::Wildcard("acme.example".into())));
    /// assert!(!link.may_register(&host("acme.example")) && !link.may_register(&HostPattern::Wildcard("example".into())));
    /// ```
    #[must_use]
    pub fn may_register(&self, host: &HostPattern) -> bool {
        self.hosts.grants(host)
    }
}

/// SHA-256 of a token. Tokens are random, so the digest of one tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Wraps a digest.
    #[must_use]
    pub fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Compares two digests in a time that does not depend on their bytes.
    #[must_use]
    pub fn is_equal_to(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }

    /// Reads 64 hexadecimal digits; `None` if `text` is anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
        let bytes: Vec<u8> = digits?
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit))
            .collect();
        (text.len() == 64).then_some(())?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(redacted)")
    }
}

impl Serialize for TokenDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("redacted")
    }
}

/// Route that an agent registered: host, path, and the backend as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LinkRoute {
    /// The host.
    pub host: HostPattern,
    /// The path.
    pub path: LinkPath,
    /// Host of the backend: a name in lower case, or an address.
    pub target: Arc<str>,
    /// Port of the backend.
    pub port: u16,
    /// True if requests go over the link even where its cluster is reached directly.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tunnel_only: bool,
    /// Name that the backend's certificate must carry; `None` without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<Arc<str>>,
}

/// Path of a registered route, normalised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkPath {
    /// This path alone.
    Exact(Arc<str>),
    /// This path and what lies below; the empty one is for every path.
    Prefix(Arc<str>),
    /// No path: TLS for the host, which is carried through to the cluster.
    Tls,
}

impl From<&LinkPath> for PathMatch {
    fn from(path: &LinkPath) -> Self {
        match path {
            LinkPath::Exact(path) => Self::Exact(Arc::clone(path)),
            LinkPath::Prefix(path) => Self::Prefix(Arc::clone(path)),
            // Paths are within the TLS that is carried through.
            LinkPath::Tls => Self::Prefix("".into()),
        }
    }
}

impl fmt::Display for LinkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(path) if path.is_empty() => f.write_str("/"),
            Self::Tls => f.write_str(" (TLS)"),
            Self::Exact(path) | Self::Prefix(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits_and_is_never_shown_by_debug() {
        let text = "0f".repeat(32);
        let digest = TokenDigest::from_hex(&text).unwrap();

        assert_eq!(digest.to_string(), text);
        assert_eq!(format!("{digest:?}"), "TokenDigest(redacted)");
        let other = TokenDigest::from_hex(&("0f".repeat(31) + "1f")).unwrap();
        assert!(digest.is_equal_to(&digest) && !digest.is_equal_to(&other));
        for bad in ["", "0f", &"0g".repeat(32), &"0f".repeat(33), &"é".repeat(32), &"0".repeat(63)]
        {
            assert_eq!(TokenDigest::from_hex(bad), None, "{bad:?}");
        }
    }
}
