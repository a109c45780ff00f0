//! `spec.egress.transparent`: connections that the kernel hands to a tenant's forward proxy because its programs are not configured with one.
//!
//! Traffic that was asked for here and cannot be handed over is refused, never let out another way. Deliberately absent: the rules; they are the proxy's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::egress::{Others, Policy, Transparent, transparent};
use durward_model::{ForwardService, IngressAddress, Listener, Origin, Service};
use ipnet::IpNet;

use super::report::{Field, Report};
use super::roster::Entrant;
use crate::place::At;
use crate::spec::egress::{EgressSpec, OthersSpec, TransparentSpec};

/// Transparent egress of a tenant.
#[derive(Clone, Debug, Default)]
pub(crate) enum Wish {
    /// Nothing, as it asked for nothing.
    #[default]
    None,
    /// This.
    Served(Box<ForwardService>, Origin),
    /// Nothing, although it asked: its networks' traffic must not leave.
    Broken,
}

impl Wish {
    /// Returns the ports that the kernel hands over.
    pub(crate) fn ports(&self) -> Option<Arc<Transparent>> {
        match self {
            Self::Served(service, _) => service.transparent.clone(),
            Self::None | Self::Broken => None,
        }
    }
}

/// Reads transparent egress from a document; a broken field keeps the value that was served before.
pub(crate) fn read(
    report: &mut Report<'_>,
    spec: &EgressSpec,
    policy: Option<&Arc<Policy>>,
    former: &Wish,
) -> Wish {
    let Some(written) = &spec.transparent else { return Wish::None };
    let ports = ports(report, spec, written);
    let (Some(ports), Some(policy)) = (ports, policy) else {
        return match former {
            Wish::None | Wish::Broken => Wish::Broken,
            Wish::Served(..) => former.clone(),
        };
    };
    let service = ForwardService {
        tls: None,
        credentials: Vec::new(),
        holders: Vec::new(),
        shared: true,
        policy: Arc::clone(policy),
        transparent: Some(Arc::new(ports)),
    };
    Wish::Served(Box::new(service), report.source().origin(written.place))
}

fn ports(
    report: &mut Report<'_>,
    egress: &EgressSpec,
    spec: &At<TransparentSpec>,
) -> Option<Transparent> {
    let parent = Field::SPEC.name("egress");
    let field = parent.name("transparent");
    let before = report.errors();
    if egress.sources.is_empty() {
        let sentence =
            "is for nobody: name the networks of the tenant's programs in egress.sources";
        report.error("SourcesMissing", spec.place, &field, sentence);
    }
    let http = list(report, spec.http.as_ref(), &field.name("http"), 80);
    let tls = list(report, spec.tls.as_ref(), &field.name("tls"), 443);
    if let Some(port) = http.intersection(&tls).next() {
        let sentence = format!(
            "has {port} in http and in tls: what is sent there is read one way, name it once"
        );
        report.error("PortTwice", spec.place, &field, &sentence);
    }
    if http.is_empty() && tls.is_empty() && report.errors() == before {
        let sentence = "hands nothing over: name a port in http or tls, or remove it";
        report.error("TransparentEmpty", spec.place, &field, sentence);
    }
    let others = match spec.others {
        OthersSpec::Deny => Others::Deny,
        OthersSpec::Translate => Others::Translate,
    };
    (report.errors() == before).then_some(Transparent { http, tls, others })
}

fn list(
    report: &mut Report<'_>,
    written: Option<&At<Vec<At<u16>>>>,
    field: &Field<'_>,
    default: u16,
) -> BTreeSet<u16> {
    let Some(written) = written else { return [default].into() };
    let ports = written.iter().enumerate();
    let ports = ports.filter_map(|(at, port)| {
        report.number(Some(*port), &field.index(at), (1, u16::MAX), default)
    });
    ports.collect()
}

/// Returns the listeners for the tenant's connections: one for each family that both its networks and its addresses have.
pub(crate) fn listeners(entrant: &Entrant<'_>) -> Vec<Arc<Listener>> {
    let Wish::Served(service, origin) = &entrant.transparent else { return Vec::new() };
    let of_family = |ipv4: bool| {
        let sources: Vec<IpNet> =
            entrant.sources.iter().filter(|net| net.addr().is_ipv4() == ipv4).copied().collect();
        let leaves = entrant.egress.iter().any(|address| address.0.is_ipv4() == ipv4);
        (leaves && !sources.is_empty()).then(|| listener(entrant, service, origin, (ipv4, sources)))
    };
    [true, false].into_iter().filter_map(of_family).map(Arc::new).collect()
}

fn listener(
    entrant: &Entrant<'_>,
    service: &ForwardService,
    origin: &Origin,
    (ipv4, sources): (bool, Vec<IpNet>),
) -> Listener {
    let bind = transparent::socket(ipv4);
    Listener {
        tenant: entrant.id.clone(),
        address: IngressAddress(bind.ip()),
        port: bind.port(),
        bind,
        names: None,
        allowed_sources: Some(sources.into_iter().collect()),
        service: Service::Forward(service.clone()),
        hosts_apis: false,
        acme: durward_model::Acme::default(),
        takes_ingresses: false,
        origin: origin.clone(),
    }
}

/// Returns true if `address` is a socket to which the kernel hands connections.
pub(crate) fn is_socket(address: SocketAddr) -> bool {
    address == transparent::socket(true) || address == transparent::socket(false)
}
