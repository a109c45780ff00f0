//! Listeners, routes and upstreams of one tenant, from what its Ingresses ask for.
//!
//! The oldest Ingress that asks for a host and path gets it; the others get a finding. What cannot be served as it was asked for is answered
//! 503, so that no broader rule gets its requests.

mod attach;
mod claims;
mod listeners;
mod routes;
mod rules;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::asked::{Asked, Backend, Host, IngressId, SecretRef};
use super::finding::{Effect, Finding, Findings};
use crate::place::At;
use crate::spec::ingress::{CertificateSpec, IngressSpec};
use crate::spec::tenant::{LimitsSpec, TimeoutsSpec};
use crate::spec::upstream::UpstreamSpec;

pub use attach::{Attached, Attachment, Protocol, Taker, attach};

/// Addresses at which a tenant is served.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The address of HTTP at port 80 and HTTPS at port 443.
    pub address: IpAddr,
    /// The address of TLS that is carried through, at port 443; `None` where there is only one address.
    pub passthrough: Option<IpAddr>,
    /// True if other tenants have the address too, so that names tell them apart.
    pub is_shared: bool,
}

/// Things that Ingresses refer to, as the source of the Ingresses knows them.
pub trait Lookup {
    /// Returns where a backend's requests go.
    fn endpoints(&self, backend: &Backend) -> Endpoints;

    /// Returns the certificate in a Secret that an Ingress of `namespace` names.
    ///
    /// # Errors
    /// When the Ingress may not use it, or it is not there; the phrase follows the Secret's name.
    fn certificate(&self, namespace: &str, secret: &SecretRef) -> Result<CertificateSpec, String>;

    /// Returns the file of the authorities in a Secret that an Ingress of `namespace` names.
    ///
    /// # Errors
    /// When the Ingress may not use it, or it is not there; the phrase follows the Secret's name.
    fn authorities(&self, namespace: &str, secret: &SecretRef) -> Result<String, String>;
}

/// Upstreams of backends, by name.
pub trait Backends {
    /// Returns the name of the upstream for a backend of an Ingress' requests.
    ///
    /// # Errors
    /// When nothing can be served from it; the phrase says why.
    fn of_requests(&mut self, asked: &Asked, backend: &Backend) -> Result<String, String>;

    /// Returns the name of the upstream for a backend that gets TLS unopened.
    ///
    /// # Errors
    /// When nothing can be served from it; the phrase says why.
    fn of_bytes(&mut self, asked: &Asked, backend: &Backend) -> Result<String, String>;
}

/// Endpoints of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// To these addresses.
    Addresses(Vec<SocketAddr>),
    /// To a host that is looked up.
    Host {
        /// Name.
        name: String,
        /// The port.
        port: u16,
    },
    /// Nowhere, for a reason that is a phrase behind the backend's name.
    Nowhere(String),
}

/// Parts of a tenant's document.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// Entries of `spec.ingress`: HTTP, HTTPS and TLS, each where there is something to serve.
    pub ingress: Vec<At<IngressSpec>>,
    /// Entries of `spec.upstreams`.
    pub upstreams: BTreeMap<At<String>, At<UpstreamSpec>>,
    /// Limits that annotations ask for. They are the whole tenant's: whoever runs the gateway decides whether to grant them.
    pub limits: LimitsSpec,
    /// Findings beyond those of the Ingresses themselves, by Ingress, oldest first.
    pub findings: Vec<(IngressId, Finding)>,
}

/// Merges what Ingresses of one tenant ask for. The order of `asked` has no influence.
#[must_use]
pub fn merge(asked: &[Asked], place: &Place, lookup: &dyn Lookup) -> Merged {
    let mut asked: Vec<&Asked> = asked.iter().collect();
    asked.sort_by(|a, b| age(a).cmp(&age(b)));
    let mut notes = Notes::new(&asked);
    let (canaries, asked): (Vec<&Asked>, Vec<&Asked>) =
        asked.into_iter().partition(|asked| asked.settings.canary.is_some());
    let entries = claims::TlsEntries::WithSecret;
    let claims = claims::decide(&asked, &canaries, (entries, &mut notes));
    say_wildcards(&claims, &mut notes);
    let limits = limits(&asked, &mut notes);
    let mut upstreams = upstreams::Upstreams::new(lookup);
    let ingress = listeners::Listeners { asked: &asked, place, lookup, claims: &claims }
        .entries(&mut upstreams, &mut notes);
    Merged { ingress, upstreams: upstreams.into_map(), limits, findings: notes.into_vec() }
}

/// Returns the sort key of an Ingress: those with a time first, then by namespace and name.
fn age(asked: &Asked) -> (bool, Option<&str>, &IngressId) {
    (asked.created.is_none(), asked.created.as_deref(), &asked.id)
}

/// Findings by Ingress.
struct Notes {
    order: Vec<IngressId>,
    of: BTreeMap<IngressId, Findings>,
}

impl Notes {
    fn new(asked: &[&Asked]) -> Self {
        Self { order: asked.iter().map(|asked| asked.id.clone()).collect(), of: BTreeMap::new() }
    }

    fn add(
        &mut self,
        id: &IngressId,
        (effect, reason): (Effect, &'static str),
        field: impl Into<String>,
        sentence: impl Into<String>,
    ) {
        self.of.entry(id.clone()).or_default().add(effect, reason, field, sentence);
    }

    fn into_vec(mut self) -> Vec<(IngressId, Finding)> {
        let mut seen = BTreeSet::new();
        let order = std::mem::take(&mut self.order);
        let ids = order.into_iter().filter(|id| seen.insert(id.clone()));
        ids.flat_map(|id| {
            let findings = self.of.remove(&id).unwrap_or_default().into_vec();
            findings.into_iter().map(move |finding| (id.clone(), finding))
        })
        .collect()
    }
}

/// A wildcard of a document is for names of any number of labels.
fn say_wildcards(claims: &claims::Claims<'_>, notes: &mut Notes) {
    for claim in claims.rules.iter().chain(&claims.passed) {
        if let Host::Wildcard(parent) = &claim.rule.host {
            let sentence = format!(
                "is for all names below {parent}, of any number of labels, where the Ingress API has one label"
            );
            let said = (Effect::Otherwise, "WildcardDeeper");
            notes.add(&claim.asked.id, said, &*claim.rule.field, sentence);
        }
    }
}

/// Limits are a tenant's: of several values the most generous counts.
fn limits(asked: &[&Asked], notes: &mut Notes) -> LimitsSpec {
    let most = |of: fn(&Asked) -> Option<Duration>, up_to: u64| {
        let most = asked.iter().filter_map(|asked| of(asked)).max();
        most.map(|most| most.min(Duration::from_secs(up_to)))
    };
    let stream = |asked: &Asked| asked.settings.limits.read.max(asked.settings.limits.send);
    let connect = most(|asked| asked.settings.limits.connect, 60);
    let response = most(|asked| asked.settings.limits.read, 3_600);
    // A shorter one would cut the streams of Ingresses that say nothing.
    let stream_idle = most(stream, 86_400).filter(|idle| *idle > Duration::from_secs(300));
    let bodies: Vec<u64> = asked.iter().filter_map(|asked| asked.settings.limits.body).collect();
    let body = if bodies.contains(&0) { None } else { bodies.iter().max().copied() };
    for asked in asked {
        if asked.settings.limits.body.is_some_and(|size| size > 0 && Some(size) != body) {
            let sentence = "asks for a smaller limit of bodies than another Ingress of the tenant: the larger one counts";
            notes.add(&asked.id, (Effect::Weaker, "TenantLimit"), "metadata.annotations", sentence);
        }
    }
    LimitsSpec {
        body_bytes: body.map(|bytes| at(bytes_text(bytes))),
        timeouts: TimeoutsSpec {
            connect: connect.map(duration_text).map(at),
            response: response.map(duration_text).map(at),
            stream_idle: stream_idle.map(duration_text).map(at),
            ..TimeoutsSpec::default()
        },
        ..LimitsSpec::default()
    }
}

fn duration_text(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

fn bytes_text(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(size, _)| bytes.is_multiple_of(*size));
    unit.map_or_else(|| format!("{bytes}B"), |(size, name)| format!("{}{name}", bytes / size))
}

/// A value that stands nowhere in a text.
fn at<T>(value: T) -> At<T> {
    At { value, place: crate::place::Place::default() }
}
