//! Entries of `spec.ingress`: plain HTTP, HTTPS and TLS that is carried through.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::claims::Claims;
use super::routes;
use super::rules::{self, Clients};
use super::upstreams::Upstreams;
use super::{Backends, Lookup, Notes, Place, at};
use crate::foreign::annotations::AUTH_TLS_SECRET;
use crate::foreign::asked::{Action, Asked, Host, PathRule, SecretRef};
use crate::foreign::finding::{self, Effect};
use crate::place::At;
use crate::spec::ingress::{
    CertificateSpec, ClientCertificatesSpec, ClientModeSpec, IngressSpec, IpSanSpec, ProtocolSpec,
};
use crate::spec::route::RouteSpec;

/// Inputs from which listeners are built.
pub(super) struct Listeners<'a> {
    pub(super) asked: &'a [&'a Asked],
    pub(super) place: &'a Place,
    pub(super) lookup: &'a dyn Lookup,
    pub(super) claims: &'a Claims<'a>,
}

impl Listeners<'_> {
    /// Returns the entries for which there is something to serve.
    pub(super) fn entries(
        &self,
        upstreams: &mut Upstreams<'_>,
        notes: &mut Notes,
    ) -> Vec<At<IngressSpec>> {
        let certificates = self.certificates(notes);
        let clients = self.client_certificates(notes);
        let served = Served { has_certificate: !certificates.is_empty(), clients };
        let mut plain = Vec::new();
        let mut secured = Vec::new();
        let mut hosts = [BTreeSet::new(), BTreeSet::new()];
        for claim in &self.claims.rules {
            // A host whose certificate is missing is not served by plain HTTP instead.
            let is_tls = self.claims.is_tls(claim);
            let clients =
                if served.clients.is_some() { Clients::Asked } else { Clients::Refused(DIFFERENT) };
            let routes = rules::routes(claim, clients, upstreams, notes);
            if is_tls && served.has_certificate {
                hosts[1].insert(&claim.rule.host);
                secured.extend(routes.iter().cloned());
            }
            hosts[0].insert(&claim.rule.host);
            plain.extend(rules::plain(claim, is_tls, clients, routes));
        }
        let [mut plain_hosts, secured_hosts] = hosts;
        let passed = self.passed(!secured.is_empty(), upstreams, notes);
        let mut entries = Vec::new();
        let mut beside = Vec::new();
        if let Some((passed_hosts, _)) = &passed {
            let redirects = passed_hosts.iter().map(|host| at(routes::to_https(whole(host))));
            match self.place.passthrough {
                Some(address) => {
                    let entry = self.entry(ProtocolSpec::Http, address, passed_hosts);
                    beside.push(at(IngressSpec { routes: redirects.collect(), ..entry }));
                }
                None => {
                    plain.extend(redirects);
                    plain_hosts.extend(passed_hosts);
                }
            }
        }
        if !plain.is_empty() {
            let entry = self.entry(ProtocolSpec::Http, self.place.address, &plain_hosts);
            entries.push(at(IngressSpec { routes: plain, ..entry }));
        }
        if !secured.is_empty() {
            let entry = self.entry(ProtocolSpec::Https, self.place.address, &secured_hosts);
            entries.push(at(secured_entry(entry, secured, certificates, served.clients)));
        }
        entries.extend(beside);
        entries.extend(passed.map(|(_, entry)| at(entry)));
        entries
    }

    fn entry(
        &self,
        protocol: ProtocolSpec,
        address: IpAddr,
        hosts: &BTreeSet<&Host>,
    ) -> IngressSpec {
        let own = address.to_string();
        let names = hosts.iter().map(|host| match host {
            // Clients that name nothing are all that can be told of every other host where tenants share an address.
            Host::Any => own.clone(),
            host => host.to_string(),
        });
        let names: Vec<At<String>> = names.map(at).collect();
        IngressSpec {
            address: at(own.clone()),
            protocol: Some(at(protocol)),
            shared: self.place.is_shared,
            names: if self.place.is_shared { names } else { Vec::new() },
            ..IngressSpec::default()
        }
    }

    /// Certificates, each Secret once. Where one may not be used, clients are shown another, which they refuse.
    fn certificates(&self, notes: &mut Notes) -> Vec<At<CertificateSpec>> {
        let mut seen: BTreeSet<&SecretRef> = BTreeSet::new();
        let mut certificates = Vec::new();
        for (asked, secret, field) in &self.claims.certificates {
            if !seen.insert(secret) {
                continue;
            }
            match self.lookup.certificate(&asked.id.namespace, secret) {
                Ok(certificate) => certificates.push(at(certificate)),
                Err(why) => {
                    let sentence = format!("names Secret {secret}, which {why}");
                    let field = format!("{field}.secretName");
                    notes.add(&asked.id, (Effect::Refused, "SecretUnusable"), field, sentence);
                }
            }
        }
        certificates
    }

    /// All HTTPS of an address asks the same of clients: what is served must have it all, or nothing.
    fn client_certificates(&self, notes: &mut Notes) -> Option<At<ClientCertificatesSpec>> {
        let secured = self.claims.rules.iter().filter(|claim| self.claims.is_tls(claim));
        let mut asked = secured.map(|claim| claim.asked.settings.client_certificates.as_ref());
        let first = asked.next()??;
        if !asked.all(|other| other == Some(first)) {
            return None;
        }
        let one = self
            .asked
            .iter()
            .find(|asked| asked.settings.client_certificates.as_ref() == Some(first))?;
        match self.lookup.authorities(&one.id.namespace, &first.secret) {
            Ok(file) => {
                let mode = if first.is_optional {
                    ClientModeSpec::Optional
                } else {
                    ClientModeSpec::Required
                };
                let spec = ClientCertificatesSpec {
                    mode: Some(at(mode)),
                    ca_file: Some(at(file)),
                    ..ClientCertificatesSpec::default()
                };
                Some(at(spec))
            }
            Err(why) => {
                let sentence =
                    format!("asks for client certificates by Secret {}, which {why}", first.secret);
                notes.add(
                    &one.id,
                    (Effect::Refused, "SecretUnusable"),
                    finding::annotation(AUTH_TLS_SECRET),
                    sentence,
                );
                None
            }
        }
    }

    /// The entry for TLS that is carried through, with its hosts. Port 443 of one address ends TLS, or carries it through.
    fn passed(
        &self,
        is_taken: bool,
        upstreams: &mut Upstreams<'_>,
        notes: &mut Notes,
    ) -> Option<(BTreeSet<&Host>, IngressSpec)> {
        let address = match self.place.passthrough {
            Some(address) => address,
            None if is_taken => {
                for claim in &self.claims.passed {
                    let sentence = "has its TLS carried through, and port 443 of the address is where TLS ends: give it an address of its own";
                    notes.add(
                        &claim.asked.id,
                        (Effect::Refused, "AddressMissing"),
                        &*claim.rule.field,
                        sentence,
                    );
                }
                return None;
            }
            None => self.place.address,
        };
        let mut hosts = BTreeSet::new();
        let mut routes = Vec::new();
        for claim in &self.claims.passed {
            let Action::Forward(backend) = &claim.rule.action else { continue };
            match upstreams.of_bytes(claim.asked, backend) {
                Ok(upstream) => {
                    hosts.insert(&claim.rule.host);
                    let host = Some(at(claim.rule.host.to_string()));
                    let upstream = Some(at(upstream));
                    routes.push(at(RouteSpec { host, upstream, ..RouteSpec::default() }));
                }
                Err(why) => {
                    let sentence = format!("is not served: {why}");
                    notes.add(
                        &claim.asked.id,
                        (Effect::Refused, "BackendUnusable"),
                        &*claim.rule.field,
                        sentence,
                    );
                }
            }
        }
        let entry = self.entry(ProtocolSpec::Tls, address, &hosts);
        if routes.is_empty() { None } else { Some((hosts, IngressSpec { routes, ..entry })) }
    }
}

/// Reason why client certificates that an Ingress wants cannot be asked for.
const DIFFERENT: &str =
    "they are asked of all clients of an address, so all Ingresses with TLS must want the same";

/// TLS settings of the HTTPS listener.
struct Served {
    has_certificate: bool,
    clients: Option<At<ClientCertificatesSpec>>,
}

fn secured_entry(
    entry: IngressSpec,
    routes: Vec<At<RouteSpec>>,
    mut certificates: Vec<At<CertificateSpec>>,
    client_certificates: Option<At<ClientCertificatesSpec>>,
) -> IngressSpec {
    let only = (certificates.len() == 1).then(|| certificates.remove(0));
    IngressSpec {
        certificate: only,
        certificates,
        // Clients ask for names; certificates of Ingresses name no address.
        ip_san: Some(IpSanSpec::Warn),
        client_certificates,
        routes,
        ..entry
    }
}

/// All paths of a host.
fn whole(host: &Host) -> RouteSpec {
    routes::matching(host, &PathRule::Prefix("".into()))
}
