//! Content of an Ingress, independent of Durward's documents: hosts, paths, backends, TLS and settings.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::finding::Finding;

/// Content of one Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whose it is.
    pub id: IngressId,
    /// When the Ingress was created, as it says; of two that ask for one path the older one gets it.
    pub created: Option<Arc<str>>,
    /// The class; `None` where neither the Ingress nor a default class names one.
    pub class: Option<Arc<str>>,
    /// Rules in order of precedence: the first that is for a request decides.
    pub rules: Vec<Rule>,
    /// Hosts that are served by TLS.
    pub tls: Vec<Tls>,
    /// Settings from annotations.
    pub settings: Settings,
    /// Findings for the user, in the order of fields.
    pub findings: Vec<Finding>,
}

impl Asked {
    /// Returns the rule for a request. `host` is in lower case and without port, `path` normalised and without query.
    #[must_use]
    pub fn rule(&self, host: &str, path: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.host.matches(host) && rule.path.matches(path))
    }

    /// Returns whether a host is in `spec.tls`. An entry without hosts is for all of the Ingress.
    #[must_use]
    pub fn is_tls(&self, host: &Host) -> bool {
        self.tls.iter().any(|tls| tls.covers(host))
    }
}

/// Namespace and name of an Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IngressId {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for IngressId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A host and path, and what is done with its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The host.
    pub host: Host,
    /// The path.
    pub path: PathRule,
    /// Action.
    pub action: Action,
    /// True if any other rule for the same host and path comes before it: a default backend, or the fixed part of a regular expression.
    pub is_fallback: bool,
    /// The field the rule stands in.
    pub field: String,
}

impl Rule {
    /// Returns what rules are sorted by, smallest first.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let host = match &self.host {
            Host::Exact(name) => (0, Reverse(name.len())),
            Host::Wildcard(parent) => (1, Reverse(parent.len())),
            Host::Any => (2, Reverse(0)),
        };
        let path = match &self.path {
            PathRule::Exact(path) => (0, Reverse(path.len())),
            PathRule::Prefix(path) => (1, Reverse(path.len())),
        };
        (host, path, self.is_fallback)
    }
}

/// The host of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The host itself, lower case.
    Exact(Arc<str>),
    /// `*.example.com`, held as `example.com`: one label more, as the Ingress API has it.
    Wildcard(Arc<str>),
    /// Every host that no other rule is for.
    Any,
}

impl Host {
    /// Returns whether a host (lower case, without port) is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *host,
            Self::Wildcard(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && *rest == **parent),
        }
    }
}

impl Host {
    /// Returns the wildcard that a host is below, as the Ingress API has it.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let Self::Exact(name) = self else { return None };
        let (label, parent) = name.split_once('.')?;
        (!label.is_empty()).then(|| Self::Wildcard(Arc::from(parent)))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("every host"),
        }
    }
}

/// The path of a rule, normalised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathRule {
    /// This path alone.
    Exact(Arc<str>),
    /// This path and what lies below, by whole elements; without a slash at the end, so that the empty one is for every path.
    Prefix(Arc<str>),
}

impl PathRule {
    /// Returns whether a path is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "exactly {path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("/"),
            Self::Prefix(path) => f.write_str(path),
        }
    }
}

/// Action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// They go to a Service.
    Forward(Backend),
    /// The client is sent elsewhere.
    Redirect(RedirectTo),
    /// They are answered 503: a finding says why. A broader rule must not get them.
    Refuse,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The Service.
    pub service: Arc<str>,
    /// The number of its port; `None` where the Service is not known that a name stands for.
    pub number: Option<u16>,
    /// The name of its port: as written, or as the Service has it.
    pub port_name: Option<Arc<str>>,
    /// Protocol that the Service names.
    pub protocol: Option<BackendProtocol>,
}

impl Backend {
    /// Returns the port by number, or by name where the number is not known.
    #[must_use]
    pub fn port(&self) -> String {
        let name = || self.port_name.as_deref().unwrap_or_default().to_owned();
        self.number.map_or_else(name, |number| number.to_string())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port())
    }
}

/// Protocol of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 without TLS, as gRPC servers want it.
    H2c,
    /// HTTP/2 over TLS.
    H2,
}

impl BackendProtocol {
    /// Returns what a port of a Service says by its `appProtocol`; `None` if that names nothing that is known.
    #[must_use]
    pub fn of_service(app_protocol: &str) -> Option<Self> {
        match app_protocol {
            "https" | "HTTPS" => Some(Self::Https),
            "kubernetes.io/h2c" | "h2c" => Some(Self::H2c),
            _ => None,
        }
    }

    /// Returns whether TLS is spoken.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }
}

/// Redirect target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedirectTo {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; `None` keeps it.
    pub scheme: Option<&'static str>,
    /// `None` keeps it.
    pub host: Option<Arc<str>>,
    /// `None`: the scheme's own.
    pub port: Option<u16>,
    /// `None` keeps it, with the query.
    pub path: Option<Arc<str>>,
}

/// Hosts that are served by TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The hosts; empty for all of the Ingress.
    pub hosts: Vec<Host>,
    /// The Secret with certificate and key; `None` leaves the certificate to the gateway.
    pub secret: Option<SecretRef>,
    /// The field.
    pub field: String,
}

impl Tls {
    /// Returns whether a host of the same Ingress is meant.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        self.hosts.is_empty()
            || self.hosts.iter().any(|covered| match host {
                Host::Exact(name) => covered.matches(name),
                Host::Wildcard(_) => covered == host,
                Host::Any => false,
            })
    }
}

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Settings from annotations; the defaults are those of an Ingress without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// True if no rule may be served, because it would be open or otherwise not what was asked for.
    pub is_refused: bool,
    /// TLS is carried through to the backend by name.
    pub passthrough: bool,
    /// Paths are regular expressions.
    pub regex: bool,
    /// When plain HTTP is sent to https.
    pub to_https: ToHttps,
    /// Networks that clients must be in; `None` for every client.
    pub sources: Option<Vec<String>>,
    /// Networks that clients must not be in.
    pub denied_sources: Vec<String>,
    /// Put in place of the path that matched.
    pub rewrite_path: Option<String>,
    /// Put in place of the `Host`.
    pub rewrite_host: Option<String>,
    /// Redirect of every path.
    pub redirect: Option<RedirectTo>,
    /// The path that clients are sent to from `/`.
    pub app_root: Option<String>,
    /// Protocol of backends; `None` leaves it to the Service.
    pub protocol: Option<BackendProtocol>,
    /// TLS towards backends.
    pub backend_tls: BackendTls,
    /// Requirements on client certificates.
    pub client_certificates: Option<ClientCertificates>,
    /// Share of another Ingress' requests that it gets.
    pub canary: Option<Canary>,
    /// CORS settings.
    pub cors: Option<Cors>,
    /// Endpoints are chosen by client address.
    pub by_client: bool,
    /// Limits, which are a tenant's here.
    pub limits: AskedLimits,
}

/// When plain HTTP is sent to https.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToHttps {
    /// Where the host is served by TLS. Nothing was said.
    #[default]
    Unsaid,
    /// Where the host is served by TLS.
    WithTls,
    /// Always: something in front ends TLS.
    Always,
    /// Never.
    Never,
}

/// TLS towards backends; the certificate is always verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendTls {
    /// The Secret with the authorities (`ca.crt`); `None` for the host's own set.
    pub authorities: Option<SecretRef>,
    /// The Secret with a client certificate and key.
    pub client_certificate: Option<SecretRef>,
    /// The name that the certificate must carry.
    pub name: Option<Arc<str>>,
}

/// Requirements on client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The Secret with the authorities (`ca.crt`).
    pub secret: SecretRef,
    /// True if a client without a certificate is let in.
    pub is_optional: bool,
}

/// A part of the requests of another Ingress with the same hosts and paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canary {
    /// Share of `total`.
    pub weight: u32,
    /// All shares together, at least 1.
    pub total: u32,
    /// The header that decides before weights do.
    pub header: Option<Arc<str>>,
    /// The header's value; `None`: `always` and `never`.
    pub header_value: Option<Arc<str>>,
}

/// CORS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// The origins; empty for all.
    pub origins: Vec<Arc<str>>,
    /// `Access-Control-Allow-Methods`.
    pub methods: Arc<str>,
    /// `Access-Control-Allow-Headers`.
    pub headers: Arc<str>,
    /// `Access-Control-Expose-Headers`.
    pub expose: Option<Arc<str>>,
    /// `Access-Control-Allow-Credentials`.
    pub credentials: bool,
    /// `Access-Control-Max-Age`, in seconds.
    pub max_age: u32,
}

/// Limits that an Ingress asks for; `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedLimits {
    /// Size of a request's body in bytes; 0 for no limit.
    pub body: Option<u64>,
    /// To connect to a backend.
    pub connect: Option<Duration>,
    /// From a request's end to the response's head, and between two bytes of a body.
    pub read: Option<Duration>,
    /// Between two bytes of a request's body.
    pub send: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_of_an_ingress_is_for_one_label() {
        let wildcard = Host::Wildcard(Arc::from("foo.com"));

        assert!(wildcard.matches("bar.foo.com"));
        assert!(!wildcard.matches("baz.bar.foo.com") && !wildcard.matches("foo.com"));
        assert!(!wildcard.matches(".foo.com"));
    }
}
