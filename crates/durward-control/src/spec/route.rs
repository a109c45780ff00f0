//! One entry of `routes`: what a request looks like and what is done with it.
//!
//! Deliberately absent: regular expressions and scripts.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::place::At;

/// Match conditions on requests and an action. The most specific route wins, then the one written first.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSpec {
    /// For logs and explanations. Default: its position, `routes[0]`.
    #[serde(default)]
    pub name: Option<At<String>>,
    /// A host name or `*.example.com`.
    #[serde(default)]
    pub host: Option<At<String>>,
    /// Any of these hosts.
    #[serde(default)]
    pub hosts: Vec<At<String>>,
    /// This path exactly.
    #[serde(default)]
    pub path: Option<At<String>>,
    /// This path and what lies below, by whole segments.
    #[serde(default)]
    pub path_prefix: Option<At<String>>,
    /// Any of these methods.
    #[serde(default)]
    pub methods: Vec<At<String>>,
    /// All of these headers.
    #[serde(default)]
    pub headers: Vec<HeaderMatchSpec>,
    /// The client is in one of these networks.
    #[serde(default)]
    pub sources: Option<At<Vec<At<String>>>>,
    /// Upstream.
    #[serde(default)]
    pub upstream: Option<At<String>>,
    /// Upstreams, by weight.
    #[serde(default)]
    pub upstreams: Vec<At<WeightedUpstreamSpec>>,
    /// The client is sent elsewhere.
    #[serde(default)]
    pub redirect: Option<At<RedirectSpec>>,
    /// The request is answered here.
    #[serde(default)]
    pub respond: Option<At<RespondSpec>>,
    /// Changes to the request's target.
    #[serde(default)]
    pub rewrite: Option<At<RewriteSpec>>,
    /// Changes to the request's headers.
    #[serde(default)]
    pub request_headers: HeaderRulesSpec,
    /// Changes to the response's headers.
    #[serde(default)]
    pub response_headers: HeaderRulesSpec,
    /// For the whole request, like `30s`; overrides `limits.timeouts.request`.
    #[serde(default)]
    pub timeout: Option<At<String>>,
}

/// A header a request must have.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatchSpec {
    /// Name.
    pub name: At<String>,
    /// Exact value. Default: any.
    #[serde(default)]
    pub value: Option<At<String>>,
}

/// An upstream and its share.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedUpstreamSpec {
    /// The upstream's name.
    pub name: At<String>,
    /// Weight. Default: 1; 0 sends nothing.
    #[serde(default)]
    pub weight: Option<u32>,
}

/// Redirect of a client.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedirectSpec {
    /// 301, 302, 303, 307 or 308. Default: 308.
    #[serde(default)]
    pub status: Option<At<u16>>,
    /// `http` or `https`. Default: the request's.
    #[serde(default)]
    pub scheme: Option<At<String>>,
    /// Default: the request's.
    #[serde(default)]
    pub host: Option<At<String>>,
    /// Default: the scheme's own.
    #[serde(default)]
    pub port: Option<At<u16>>,
    /// The whole path. Default: the request's, with its query.
    #[serde(default)]
    pub path: Option<At<String>>,
}

/// An answer given here.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RespondSpec {
    /// 200 to 599. Default: 200.
    #[serde(default)]
    pub status: Option<At<u16>>,
    /// Plain text, at most 64 KiB.
    #[serde(default)]
    pub body: Option<At<String>>,
}

/// Changes to a request's target.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RewriteSpec {
    /// Put in place of what `pathPrefix` or `path` matched.
    #[serde(default)]
    pub path_prefix: Option<At<String>>,
    /// Put in place of the `Host`.
    #[serde(default)]
    pub host: Option<At<String>>,
}

/// Changes to headers, made in this order.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderRulesSpec {
    /// Names.
    #[serde(default)]
    pub remove: Vec<At<String>>,
    /// Names and values put in place of all former ones.
    #[serde(default)]
    pub set: BTreeMap<At<String>, At<String>>,
    /// Names and values put beside former ones.
    #[serde(default)]
    pub add: BTreeMap<At<String>, At<String>>,
}
