//! The part of an explanation that is about a program that knows no proxy: what the kernel hands over, and what the proxy then says.
//!
//! Deliberately absent: what the proxy says by itself; see `outside`.

use std::net::IpAddr;

use super::outside::split;
use super::{Ending, Kind, Question, Trail};
use crate::egress::{Asked, ForwardService, Host, Taken};
use crate::listener::Service;
use crate::mapping::KernelEgress;
use crate::snapshot::Snapshot;
use crate::tenant::Tenant;

impl Trail {
    /// Returns the outcome of traffic that is handed over or refused; `None` if it simply leaves.
    pub(super) fn taken_over(
        &mut self,
        snapshot: &Snapshot,
        rule: &KernelEgress,
        question: &Question,
    ) -> Option<Ending> {
        let (port, transport) = (question.destination.port(), question.transport);
        let origin = Some(&rule.origin);
        let taken = rule.transparent.as_ref()?.take(transport.number(), port);
        let how = match taken {
            Taken::Translated => return None,
            Taken::Denied => {
                let sentence =
                    format!("{transport} port {port} is not handed to the proxy: refused");
                return Some(self.refuse("handed over", origin, "withheld", sentence));
            }
            Taken::Quic => {
                let sentence =
                    format!("udp port {port} hides names: refused, so that TCP is tried");
                return Some(self.refuse("handed over", origin, "quic", sentence));
            }
            Taken::Tls => "TLS, and the name in its ClientHello",
            Taken::Http => "HTTP, and the Host of each request",
        };
        let tenant = snapshot.tenants.get(&rule.tenant);
        let Some((tenant, service)) = tenant.and_then(|tenant| proxy(tenant, question)) else {
            let sentence = "to a proxy that has no rules: refused".to_owned();
            return Some(self.refuse("handed over", origin, "tenant_not_found", sentence));
        };
        self.kind = Kind::TransparentEgress;
        self.note("handed over", origin, format!("to the forward proxy: {how} is judged"));
        Some(self.named_or_not(snapshot, (tenant, service), question, taken == Taken::Http))
    }

    fn named_or_not(
        &mut self,
        snapshot: &Snapshot,
        (tenant, service): (&Tenant, &ForwardService),
        question: &Question,
        http: bool,
    ) -> Ending {
        let said = question.host.as_deref().and_then(split).map(|(host, _)| host);
        // An address is no name of TLS's (RFC 6066 section 3).
        let is_name = |name: &&str| name.parse::<IpAddr>().is_err();
        let sni = || question.sni.as_deref().or(said).filter(is_name);
        let name = if http { said } else { sni() };
        let host = match name.map(Host::parse) {
            Some(Ok(host)) => host,
            Some(Err(fault)) => {
                return self.refuse("target", None, "bad_request", fault.to_string());
            }
            None => {
                let sentence = "no name is said, so the address is judged".to_owned();
                self.note("target", None, sentence);
                Host::Address(question.destination.ip().to_canonical())
            }
        };
        let (port, method) = (question.destination.port(), question.method.as_str());
        let asked = Asked { host: &host, port, method: http.then_some(method) };
        self.judged(snapshot, (tenant, service), asked, question.resolved)
    }
}

fn proxy<'t>(tenant: &'t Tenant, question: &Question) -> Option<(&'t Tenant, &'t ForwardService)> {
    let family = |ipv4: bool| question.client.is_some_and(|client| client.is_ipv4() == ipv4);
    let listener = tenant.transparent.iter().find(|one| family(one.bind.is_ipv4()))?;
    match &listener.service {
        Service::Forward(service) => Some((tenant, service)),
        _ => None,
    }
}
