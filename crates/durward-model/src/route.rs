//! Which request goes where: matches, their precedence, and what is done with a request that matches.
//!
//! Precedence is the Gateway API's: most specific host, then path, then method, then number of headers, then the order written.
//! Deliberately absent: regular expressions; a route is read by people and by `explain`.

mod granted;
pub mod table;

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use granted::GrantedHosts;
use serde::Serialize;

use crate::origin::Origin;
use crate::source_set::SourceSet;
use crate::upstream::UpstreamIndex;

/// A route of an HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Name, or its position when it has none: `routes[2]`.
    pub name: Arc<str>,
    /// Match conditions.
    pub matches: RouteMatch,
    /// Action.
    pub action: Action,
    /// Changes to the request's headers, made last.
    pub request_headers: HeaderRules,
    /// Changes to the response's headers, made last.
    pub response_headers: HeaderRules,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// Match conditions of a route. An empty list matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteMatch {
    /// Any of these hosts.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathMatch,
    /// Any of these methods.
    pub methods: Vec<Arc<str>>,
    /// All of these headers.
    pub headers: Vec<HeaderMatch>,
    /// The client's address is in the set.
    pub sources: Option<SourceSet>,
}

/// A host name, or all names one or more labels below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum HostPattern {
    /// The name itself, lower case.
    Exact(Arc<str>),
    /// `*.example.com`, held as `example.com`.
    Wildcard(Arc<str>),
}

impl HostPattern {
    /// Returns true if the pattern matches `host` (lower case, without port and trailing dot).
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(parent) => host
                .strip_suffix(&**parent)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }

    /// Returns the specificity of the pattern; greater wins.
    #[must_use]
    pub fn rank(&self) -> (bool, usize) {
        match self {
            Self::Exact(name) => (true, name.len()),
            Self::Wildcard(parent) => (false, parent.len()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// Path condition. Paths are compared in the form of [`crate::path::normalise`], by whole segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathMatch {
    /// This path and nothing else.
    Exact(Arc<str>),
    /// This path and what lies below it: `/a` matches `/a` and `/a/b`, not `/ab`. No trailing slash, so every path matches the empty one.
    Prefix(Arc<str>),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix(Arc::from(""))
    }
}

impl PathMatch {
    /// Returns true if the pattern matches `path` (without query).
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    fn rank(&self) -> (bool, usize) {
        match self {
            Self::Exact(exact) => (true, exact.len()),
            Self::Prefix(prefix) => (false, prefix.len()),
        }
    }
}

/// Header condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// Name, lower case.
    pub name: Arc<str>,
    /// One of its values is exactly this; `None`: it is present.
    pub value: Option<Arc<str>>,
}

/// Action of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Forwards the request to one of these upstreams, by weight.
    Forward(Forward),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// Answers the request without an upstream.
    Respond {
        /// The status.
        status: u16,
        /// The body, `text/plain`.
        body: Arc<str>,
    },
}

/// Forwarding of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// Upstreams, by weight; at least one.
    pub upstreams: Vec<WeightedUpstream>,
    /// Put in place of the matched prefix.
    pub replace_prefix: Option<Arc<str>>,
    /// Put in place of the `Host`; `None` passes the client's on.
    pub host: Option<Arc<str>>,
    /// Overrides the tenant's limit for the whole request.
    pub timeout: Option<Duration>,
}

/// An upstream and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightedUpstream {
    /// The upstream.
    pub upstream: UpstreamIndex,
    /// Share, from 1.
    pub weight: u32,
}

/// Redirect of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; `None` keeps it.
    pub scheme: Option<Arc<str>>,
    /// `None` keeps it.
    pub host: Option<Arc<str>>,
    /// `None`: the scheme's own.
    pub port: Option<u16>,
    /// The whole path; `None` keeps it, query included.
    pub path: Option<Arc<str>>,
}

/// Changes to headers, in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderRules {
    /// Names, lower case.
    pub remove: Vec<Arc<str>>,
    /// Names and values put in place of all former ones.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Names and values put beside former ones.
    pub add: Vec<(Arc<str>, Arc<str>)>,
}

impl HeaderRules {
    /// Returns true if nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// A request's header fields, as matching needs them.
pub trait HeaderFields {
    /// Returns true if a field called `name` (lower case) has a value for which `test` holds.
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

impl HeaderFields for Vec<(String, String)> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter().any(|(field, value)| field.eq_ignore_ascii_case(name) && test(value.as_bytes()))
    }
}

/// Parts of a request that routes match on.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    /// Lower case, without port and trailing dot; a literal IPv6 address without brackets.
    pub host: &'a str,
    /// Normalised, without query.
    pub path: &'a str,
    /// As sent.
    pub method: &'a str,
    /// The client.
    pub client: IpAddr,
    /// The header fields.
    pub headers: &'a dyn HeaderFields,
}

impl RouteMatch {
    /// The first thing about `request` this match does not accept, or `None` when it accepts all.
    #[must_use]
    pub fn mismatch(&self, request: &RequestView<'_>) -> Option<Mismatch> {
        if !self.path.matches(request.path) {
            return Some(Mismatch::Path);
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.matches(request.host)) {
            return Some(Mismatch::Host);
        }
        self.mismatch_of_rest(request)
    }

    /// Returns whether a request whose host and path match is accepted.
    fn accepts_rest(&self, request: &RequestView<'_>) -> bool {
        self.mismatch_of_rest(request).is_none()
    }

    fn mismatch_of_rest(&self, request: &RequestView<'_>) -> Option<Mismatch> {
        if !self.methods.is_empty()
            && !self.methods.iter().any(|method| **method == *request.method)
        {
            return Some(Mismatch::Method);
        }
        if self.sources.as_ref().is_some_and(|sources| !sources.contains(request.client)) {
            return Some(Mismatch::Source);
        }
        let missing =
            self.headers.iter().position(|header| !header_matches(header, request.headers));
        missing.map(Mismatch::Header)
    }

    /// Returns the sort key of a route, smallest first; sorting must be stable so that the written order breaks ties.
    #[must_use]
    pub fn precedence(&self) -> impl Ord + use<> {
        let host = self.hosts.iter().map(HostPattern::rank).max();
        let path = self.path.rank();
        Reverse((host, path, !self.methods.is_empty(), self.headers.len(), self.sources.is_some()))
    }
}

fn header_matches(wanted: &HeaderMatch, fields: &dyn HeaderFields) -> bool {
    fields.any(&wanted.name, &mut |value| {
        wanted.value.as_ref().is_none_or(|expected| expected.as_bytes() == value)
    })
}

/// Part of a request that a route does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The host.
    Host,
    /// The path.
    Path,
    /// The method.
    Method,
    /// The client's address.
    Source,
    /// The header at this position of the match.
    Header(usize),
}

/// The position of the choice that `draw` (uniform over all `u32`) falls on, by weight. `None` when all weights are 0.
#[must_use]
pub fn pick_weighted(weights: impl Iterator<Item = u32> + Clone, draw: u32) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    let mut at = (u64::from(draw) * total) >> 32;
    weights.enumerate().find_map(|(index, weight)| {
        if at < u64::from(weight) {
            return Some(index);
        }
        at -= u64::from(weight);
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_whole_segments_only() {
        let prefix = PathMatch::Prefix(Arc::from("/a"));

        assert!(prefix.matches("/a") && prefix.matches("/a/b"));
        assert!(!prefix.matches("/ab"));
        assert!(PathMatch::default().matches("/"));
    }

    #[test]
    fn a_wildcard_matches_below_and_never_the_name_itself() {
        let wildcard = HostPattern::Wildcard(Arc::from("example.com"));

        assert!(wildcard.matches("a.example.com") && wildcard.matches("a.b.example.com"));
        assert!(
            !wildcard.matches("example.com")
                && !wildcard.matches("badexample.com")
                && !wildcard.matches(".example.com")
        );
    }

    #[test]
    fn weights_are_shares() {
        let picks: Vec<_> =
            (0..4u32).map(|quarter| pick_weighted([1, 0, 3].into_iter(), quarter << 30)).collect();

        assert_eq!(picks, [Some(0), Some(2), Some(2), Some(2)]);
        assert_eq!(pick_weighted([0, 0].into_iter(), 7), None);
    }

    #[test]
    fn the_more_specific_match_comes_first() {
        let on = |host: Option<HostPattern>, path: &str| RouteMatch {
            hosts: host.into_iter().collect(),
            path: PathMatch::Prefix(Arc::from(path)),
            ..RouteMatch::default()
        };
        let exact = on(Some(HostPattern::Exact(Arc::from("a.example"))), "");
        let wild = on(Some(HostPattern::Wildcard(Arc::from("example"))), "/long/path");
        let anywhere = on(None, "/even/longer/path");

        assert!(exact.precedence() < wild.precedence());
        assert!(wild.precedence() < anywhere.precedence());
    }
}
