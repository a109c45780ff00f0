//! "This client, this address, this host: what happens and why?", answered by the functions that serve.
//!
//! Deliberately absent: anything only a running process knows (health, pools, resolved names); those screens add it.

mod carried;
mod door;
mod mapped;
mod named;
mod outside;
mod shown;
mod transparent;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::EgressAddress;
use crate::client_auth::ClientAuth;
use crate::link::LinkService;
use crate::listener::{HttpService, Listener, Service};
use crate::origin::Origin;
use crate::path;
use crate::request;
use crate::route::{self, Action, RequestView, WeightedUpstream};
use crate::server_name::server_name;
use crate::snapshot::Snapshot;
use crate::tenant::Tenant;
use crate::tenant_id::TenantId;
use crate::transport::Transport;
use crate::upstream::Target;

pub use shown::Shown;

/// Question to explain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// The client; `None` leaves source rules unanswered.
    pub client: Option<IpAddr>,
    /// The address and port it connects to.
    pub destination: SocketAddr,
    /// By which protocol.
    pub transport: Transport,
    /// The SNI it sends.
    pub sni: Option<String>,
    /// The `Host` it sends.
    pub host: Option<String>,
    /// Path with or without query.
    pub path: String,
    /// The method.
    pub method: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Client certificate that it shows, by one of the names in it.
    pub client_certificate: Shown,
    /// Credential that it shows a forward proxy, by its name or by `TENANT/NAME`.
    pub credential: Shown,
    /// Address of the name asked of a forward proxy; `None` leaves rules about addresses unanswered.
    pub resolved: Option<IpAddr>,
}

/// The answer: the steps in order, and how it ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Kind of traffic that the question turned out to be about.
    pub kind: Kind,
    /// Target: the host and port of a tunnel, the name of a port mapping.
    pub target: Option<String>,
    /// The tenant whose traffic it is; `None` where nothing has the destination.
    pub tenant: Option<Arc<str>>,
    /// The addresses it may leave from, as addresses or `first-last`; empty where nothing leaves.
    pub leaves_from: Vec<String>,
    /// Decisions in order.
    pub steps: Vec<Step>,
    /// Outcome.
    pub ending: Ending,
}

/// Kind of traffic that a question is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Nothing has the destination.
    #[default]
    Unknown,
    /// An HTTP request to a listener.
    Request,
    /// A TCP connection to a listener.
    Connection,
    /// Datagrams of a client to a listener.
    Datagrams,
    /// A TLS connection that is passed through a listener.
    PassThrough,
    /// A tunnel through a forward proxy.
    Tunnel,
    /// A plain request through a forward proxy.
    ProxiedRequest,
    /// A port mapping of the kernel.
    PortMapping,
    /// Traffic of a pod that the kernel translates.
    KernelEgress,
    /// Traffic of a pod that the kernel hands to the forward proxy.
    TransparentEgress,
}

/// One decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The stage: `door`, `name`, `listener`, `source`, `certificate`, `client certificate`, `route`, `hosted API`, `upstream`, `leaves from`; of the kernel
    /// `mapping`, `source`, `endpoint`, `seen as`, `egress`, `handed over`, `leaves from`.
    pub stage: Cow<'static, str>,
    /// Decision and its reason.
    pub sentence: String,
    /// Origin of the rule.
    pub origin: Option<Origin>,
}

/// Outcome of a connection or request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Served by these upstream endpoints.
    Served {
        /// The upstream's name.
        upstream: Arc<str>,
    },
    /// Served only if a condition holds that the question leaves open.
    ServedIf {
        /// The upstream's name.
        upstream: Arc<str>,
        /// Condition.
        condition: String,
    },
    /// Answered by the gateway itself.
    Answered {
        /// The status.
        status: u16,
    },
    /// Refused.
    Refused {
        /// The refusal's reason code, as in logs and metrics.
        reason: Cow<'static, str>,
    },
}

/// Answers `question` from `snapshot`.
#[must_use]
pub fn explain(snapshot: &Snapshot, question: &Question) -> Explanation {
    let mut trail = Trail::default();
    let ending = trail.follow(snapshot, question);
    let Trail { kind, target, tenant, mut leaves_from, steps } = trail;
    if matches!(ending, Ending::Refused { .. } | Ending::Answered { .. }) {
        leaves_from.clear();
    }
    leaves_from.sort();
    leaves_from.dedup();
    Explanation { kind, target, tenant, leaves_from, steps, ending }
}

/// Explanation as far as it is known.
#[derive(Default)]
struct Trail {
    kind: Kind,
    target: Option<String>,
    tenant: Option<Arc<str>>,
    leaves_from: Vec<String>,
    steps: Vec<Step>,
}

impl Trail {
    fn note(&mut self, stage: &'static str, origin: Option<&Origin>, sentence: String) {
        self.steps.push(Step { stage: stage.into(), sentence, origin: origin.cloned() });
    }

    fn refuse(
        &mut self,
        stage: &'static str,
        origin: Option<&Origin>,
        reason: &'static str,
        sentence: String,
    ) -> Ending {
        self.note(stage, origin, sentence);
        Ending::Refused { reason: reason.into() }
    }

    fn belongs_to(&mut self, tenant: &TenantId) {
        self.tenant = Some(tenant.as_str().into());
    }

    fn follow(&mut self, snapshot: &Snapshot, question: &Question) -> Ending {
        let tcp = question.transport == Transport::Tcp;
        match self.by_name(snapshot, question).filter(|_| tcp) {
            Some(Err(ending)) => return ending,
            Some(Ok(listener)) => return self.at_listener(snapshot, listener, question),
            None => {}
        }
        let listener = door::find_listener(snapshot, question);
        let Some(listener) = listener else {
            if let Some(ending) = self.mapped(snapshot, question) {
                return ending;
            }
            let sentence = door::unserved(snapshot, question.destination);
            return self.refuse("listener", None, "tenant_not_found", sentence);
        };
        match self.shared_door(snapshot, question) {
            Some(ending) => ending,
            None => self.at_listener(snapshot, listener, question),
        }
    }

    /// Follows a client to a listener that is known to be the one for it.
    fn at_listener(
        &mut self,
        snapshot: &Snapshot,
        listener: &Listener,
        question: &Question,
    ) -> Ending {
        let tenant = match self.enter(snapshot, listener, question) {
            Ok(tenant) => tenant,
            Err(ending) => return ending,
        };
        match self.secure(listener, question) {
            Ok(sni) => self.serve(snapshot, (tenant, listener), question, sni.as_deref()),
            Err(ending) => ending,
        }
    }

    /// Returns the tenant of a listener, unless the client's address is not allowed there.
    fn enter<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        listener: &Listener,
        question: &Question,
    ) -> Result<&'s Tenant, Ending> {
        let Some(tenant) = snapshot.tenants.get(&listener.tenant) else {
            let sentence = format!("tenant {} is not served", listener.tenant);
            return Err(self.refuse("listener", None, "tenant_not_found", sentence));
        };
        self.belongs_to(&tenant.id);
        self.kind = kind_of(&listener.service);
        self.note(
            "listener",
            Some(&listener.origin),
            format!("{listener} belongs to tenant {}, {}", tenant.id, listener.protocol()),
        );
        self.source(listener, question).map_or(Ok(&**tenant), Err)
    }

    /// Returns the SNI of a TLS session that is made.
    fn secure(
        &mut self,
        listener: &Listener,
        question: &Question,
    ) -> Result<Option<String>, Ending> {
        let sni = self.server_name(listener, question)?;
        self.tls(listener, question, sni.as_deref()).map_or(Ok(sni), Err)
    }

    fn serve(
        &mut self,
        snapshot: &Snapshot,
        (tenant, listener): (&Tenant, &Listener),
        question: &Question,
        sni: Option<&str>,
    ) -> Ending {
        match &listener.service {
            Service::Http(service) => self
                .challenge(listener, question)
                .unwrap_or_else(|| self.http((snapshot, listener, tenant), service, question, sni)),
            Service::Tcp(service) => self.upstreams(tenant, &service.upstreams),
            Service::Udp(service) => self.upstreams(tenant, &service.upstreams),
            Service::Forward(service) => self.outside(snapshot, tenant, service, question),
            Service::PassThrough(routes) => {
                self.pass_through((tenant, listener), routes, (question, sni))
            }
            Service::Link(service) => self.agents(service),
        }
    }

    fn agents(&mut self, service: &LinkService) -> Ending {
        for link in &service.links {
            let sentence = match link.holders.as_slice() {
                [] => "agents with a token".to_owned(),
                holders if link.tokens.is_empty() => {
                    format!("agents with a certificate for {}", list(holders))
                }
                holders => format!("agents with a token or a certificate for {}", list(holders)),
            };
            self.note("link", Some(&link.origin), format!("{}: {sentence}", link.name));
        }
        let condition = "the client is the agent of a link".to_owned();
        Ending::ServedIf { upstream: "link".into(), condition }
    }

    fn source(&mut self, listener: &Listener, question: &Question) -> Option<Ending> {
        let sources = listener.allowed_sources.as_ref()?;
        self.judge_source(sources, &listener.origin, question)
    }

    /// Returns the name that is asked for in the ClientHello, where one is read.
    fn server_name(
        &mut self,
        listener: &Listener,
        question: &Question,
    ) -> Result<Option<String>, Ending> {
        let reads = listener.tls().is_some() || matches!(listener.service, Service::PassThrough(_));
        let Some(name) = question.sni.as_deref().filter(|_| reads) else { return Ok(None) };
        server_name(name).map_err(|fault| {
            self.refuse("certificate", None, "client_hello", format!("{name}: {fault}"))
        })
    }

    fn tls(
        &mut self,
        listener: &Listener,
        question: &Question,
        sni: Option<&str>,
    ) -> Option<Ending> {
        let tls = listener.tls()?;
        if listener.lacks_certificate(sni) {
            let sentence =
                "the certificate has not been issued yet, and no other is shown".to_owned();
            let origin = Some(&listener.origin);
            return Some(self.refuse("certificate", origin, "certificate_pending", sentence));
        }
        let certificate = &tls.certificates[tls.certificate_for(sni)];
        self.note(
            "certificate",
            Some(&certificate.origin),
            format!(
                "{} ({}), chosen by destination address{}",
                certificate.name,
                certificate.subject,
                if sni.is_some() { " and SNI" } else { "" }
            ),
        );
        match &tls.client_auth {
            ClientAuth::Off => None,
            ClientAuth::Required(trust) if question.client_certificate == Shown::Nothing => {
                Some(self.refuse(
                    "client certificate",
                    Some(&listener.origin),
                    "client_certificate_missing",
                    format!("required, from {}; none is shown", list(&trust.subjects)),
                ))
            }
            ClientAuth::Required(trust) | ClientAuth::Optional(trust) => {
                self.note(
                    "client certificate",
                    Some(&listener.origin),
                    format!("{}, from {}", tls.client_auth.mode(), list(&trust.subjects)),
                );
                None
            }
        }
    }

    /// Answers a request for the text of an ACME challenge.
    fn challenge(&mut self, listener: &Listener, question: &Question) -> Option<Ending> {
        listener.acme.http_answer(&question.method, &question.path)?;
        let sentence = "the path of an ACME challenge is answered before routes".to_owned();
        self.note("route", Some(&listener.origin), sentence);
        Some(Ending::Answered { status: 200 })
    }

    fn http(
        &mut self,
        (snapshot, listener, tenant): (&Snapshot, &Listener, &Tenant),
        service: &HttpService,
        question: &Question,
        sni: Option<&str>,
    ) -> Ending {
        let path = match path_of(question) {
            Ok(path) => path,
            Err(sentence) => return self.refuse("route", None, "bad_request", sentence),
        };
        let host = match self.host_asked_for(question) {
            Ok(host) => host.unwrap_or_else(|| question.destination.ip().to_string()),
            Err(ending) => return ending,
        };
        if !request::is_directed(service.tls.as_ref(), sni, &host) {
            let sni = sni.unwrap_or_default();
            let sentence = format!("the TLS session is for {sni}, the request for {host}: 421");
            return self.refuse("host", None, "misdirected", sentence);
        }
        if !snapshot.is_named(listener, &host) {
            let sentence = format!("{host} is no name of {} there: 421", tenant.id);
            return self.refuse("host", None, "misdirected", sentence);
        }
        let client = question.client.unwrap_or_else(|| IpAddr::from([0, 0, 0, 0]));
        let view = RequestView {
            host: &host,
            path: &path,
            method: &question.method,
            client,
            headers: &question.headers,
        };
        let selected = service.routes.select(&view);
        let passed = selected.map_or(service.routes.len(), |(position, _)| position);
        for skipped in &service.routes[..passed] {
            let mismatch = skipped.matches.mismatch(&view);
            self.note(
                "route",
                Some(&skipped.origin),
                format!(
                    "not {}: the {} differs",
                    skipped.name,
                    mismatch.map_or("request", describe)
                ),
            );
        }
        let Some((_, route)) = selected else {
            return self.refuse(
                "route",
                None,
                "no_route",
                format!("no route takes {} {host}{path}", question.method),
            );
        };
        self.note(
            "route",
            Some(&route.origin),
            format!("{} takes {} {host}{path}", route.name, question.method),
        );
        match &route.action {
            Action::Forward(forward) => self.upstreams(tenant, &forward.upstreams),
            Action::Redirect(redirect) => Ending::Answered { status: redirect.status },
            Action::Respond { status, .. } => Ending::Answered { status: *status },
        }
    }

    /// Returns the host in the form in which routes compare it; `None` where the client names none.
    fn host_asked_for(&mut self, question: &Question) -> Result<Option<String>, Ending> {
        let field = question.host.as_deref().filter(|field| !field.is_empty());
        let Some(field) = field else { return Ok(None) };
        if request::valid_authority(field.as_bytes()).is_none() {
            let sentence = format!("{field:?} is no host with an optional port: 400");
            return Err(self.refuse("host", None, "bad_request", sentence));
        }
        Ok(Some(request::normal_host(request::split_host(field).0).into_owned()))
    }

    fn upstreams(&mut self, tenant: &Tenant, choices: &[WeightedUpstream]) -> Ending {
        let mut served = None;
        // A choice or endpoint of weight 0 is never taken.
        for choice in choices.iter().filter(|choice| choice.weight > 0) {
            let upstream = tenant.upstream(choice.upstream);
            let weighed = || upstream.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
            let endpoints: Vec<String> =
                weighed().map(|endpoint| endpoint.target.to_string()).collect();
            if endpoints.is_empty() {
                let sentence = format!("{}: every endpoint has weight 0", upstream.name);
                self.note("upstream", Some(&upstream.origin), sentence);
                served.get_or_insert_with(|| Ending::Refused { reason: "no_endpoint".into() });
                continue;
            }
            let tls = if upstream.tls.is_some() { " over verified TLS" } else { "" };
            let (name, weight) = (&upstream.name, choice.weight);
            let sentence = format!("{name} at {}{tls}, weight {weight}", endpoints.join(", "));
            self.note("upstream", Some(&upstream.origin), sentence);
            if let Some(link) = &upstream.link {
                let sentence = format!("through the link {link}, by its agent's network");
                self.note("leaves from", Some(&upstream.origin), sentence);
                let upstream = Arc::clone(&upstream.name);
                served = Some(Ending::Served { upstream });
                continue;
            }
            let targets = || weighed().map(|endpoint| &endpoint.target);
            let reaches = |source: &&EgressAddress| {
                targets().any(|target| match target {
                    Target::Address(address) => source.reaches(address.ip()),
                    Target::Name { .. } => true,
                })
            };
            let sources: Vec<_> = upstream.sources.iter().filter(reaches).collect();
            let sentence = format!("{}, {}'s own", list(&sources), tenant.id);
            self.note("leaves from", Some(&tenant.origin), sentence);
            self.leaves_from.extend(sources.iter().map(ToString::to_string));
            let upstream = Arc::clone(&upstream.name);
            if !matches!(served, Some(Ending::Served { .. })) {
                served = Some(Ending::Served { upstream });
            }
        }
        served.unwrap_or_else(|| Ending::Refused { reason: "no_route".into() })
    }
}

/// Returns the path that routes are asked for.
fn path_of(question: &Question) -> Result<Cow<'_, str>, String> {
    let (raw, _query) = question.path.split_once('?').unwrap_or((&question.path, ""));
    match raw {
        "*" if question.method == "OPTIONS" => Ok(Cow::Borrowed(request::routed_path(raw))),
        _ => path::normalise(raw).map_err(|fault| format!("{raw}: {fault}")),
    }
}

fn describe(mismatch: route::Mismatch) -> &'static str {
    match mismatch {
        route::Mismatch::Host => "host",
        route::Mismatch::Path => "path",
        route::Mismatch::Method => "method",
        route::Mismatch::Source => "client address",
        route::Mismatch::Header(_) => "headers",
    }
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns the kind of traffic of a service.
const fn kind_of(service: &Service) -> Kind {
    match service {
        Service::Http(_) => Kind::Request,
        Service::Tcp(_) => Kind::Connection,
        Service::Udp(_) => Kind::Datagrams,
        Service::PassThrough(_) => Kind::PassThrough,
        Service::Forward(_) => Kind::Tunnel,
        Service::Link(_) => Kind::Connection,
    }
}
