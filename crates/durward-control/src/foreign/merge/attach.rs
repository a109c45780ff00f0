//! Routes that Ingresses add to listeners of their tenant's document. Addresses, names and clients of a listener are what the document says.

use super::claims::{self, Claim, Claims, TlsEntries};
use super::rules::{self, Clients};
use super::{Backends, Notes, age, at, routes, say_wildcards};
use crate::foreign::asked::{Action, Asked, Host, IngressId, PathRule};
use crate::foreign::finding::{Effect, Finding};
use crate::place::At;
use crate::spec::route::RouteSpec;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
    /// TLS that is carried through.
    Tls,
}

/// A listener that takes routes of Ingresses.
#[derive(Clone, Copy)]
pub struct Taker<'a> {
    /// What it speaks.
    pub protocol: Protocol,
    /// Returns whether requests for a host may be the tenant's there.
    pub holds: &'a dyn Fn(&Host) -> bool,
}

/// Routes of one rule at one listener.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    /// The Ingress.
    pub asked: &'a Asked,
    /// The field the rule stands in.
    pub field: &'a str,
    /// The routes.
    pub routes: Vec<At<RouteSpec>>,
}

/// Routes of all Ingresses of a tenant.
#[derive(Clone, Debug, Default)]
pub struct Attached<'a> {
    /// By listener.
    pub routes: Vec<Vec<Attachment<'a>>>,
    /// What a user should know, beyond the findings of the Ingresses themselves, by Ingress from the oldest on.
    pub findings: Vec<(IngressId, Finding)>,
}

/// Why an Ingress cannot ask for client certificates.
const OF_LISTENER: &str = "they are asked for by the tenant's listener alone, let the operator write clientCertificates there and remove the annotation";

/// Returns the routes that Ingresses of one tenant add to its listeners, at most `most` of all listeners together. The order of `asked` has no influence.
pub fn attach<'a>(
    asked: &[&'a Asked],
    takers: &[Taker<'_>],
    (backends, most): (&mut dyn Backends, usize),
) -> Attached<'a> {
    let mut asked: Vec<&Asked> = asked.to_vec();
    asked.sort_by(|a, b| age(a).cmp(&age(b)));
    let mut notes = Notes::new(&asked);
    within(&mut asked, most / takers.len().max(1), &mut notes);
    let (canaries, asked): (Vec<&Asked>, Vec<&Asked>) =
        asked.into_iter().partition(|asked| asked.settings.canary.is_some());
    let claims = claims::decide(&asked, &canaries, (TlsEntries::All, &mut notes));
    say_wildcards(&claims, &mut notes);
    let routes = takers.iter().map(|_| Vec::new()).collect();
    let mut attaching = Attaching { takers, routes, notes };
    attaching.requests(&claims, backends);
    attaching.passed(&claims, backends);
    let Attaching { routes, notes, .. } = attaching;
    Attached { routes, findings: notes.into_vec() }
}

/// Leaves out what would make more routes than a listener may have, the youngest Ingresses first.
fn within(asked: &mut Vec<&Asked>, most: usize, notes: &mut Notes) {
    let mut left = most;
    asked.retain(|asked| {
        let cost = cost(asked);
        let fits = cost <= left;
        if fits {
            left -= cost;
        } else {
            let sentence = "makes more routes than are left to the tenant: write fewer paths, hosts, networks or origins, or delete older Ingresses";
            notes.add(&asked.id, (Effect::Refused, "TooMany"), "spec", sentence);
        }
        fits
    });
}

/// Returns about how many routes an Ingress makes; long lists of networks, which each route has, count for more.
fn cost(asked: &Asked) -> usize {
    let settings = &asked.settings;
    let origins = settings.cors.as_ref().map_or(0, |cors| cors.origins.len() + 1);
    let choices = if settings.canary.is_some() { 3 } else { 1 };
    let networks = settings.sources.as_ref().map_or(0, Vec::len) + settings.denied_sources.len();
    let variants = choices * (1 + 2 * origins) * if networks > 0 { 2 } else { 1 };
    asked.rules.len().saturating_mul(variants).saturating_mul(1 + networks / 10)
}

struct Attaching<'a, 't> {
    takers: &'t [Taker<'t>],
    routes: Vec<Vec<Attachment<'a>>>,
    notes: Notes,
}

impl<'a> Attaching<'a, '_> {
    /// Returns the listeners of these protocols at which a host may be the tenant's.
    fn takers_of(&self, host: &Host, protocols: &[Protocol]) -> Vec<usize> {
        let takers = self.takers.iter().enumerate();
        let fitting =
            takers.filter(|(_, taker)| protocols.contains(&taker.protocol) && (taker.holds)(host));
        fitting.map(|(at, _)| at).collect()
    }

    fn add(&mut self, taker: usize, claim: &Claim<'a>, routes: Vec<At<RouteSpec>>) {
        let (asked, field) = (claim.asked, &*claim.rule.field);
        self.routes[taker].push(Attachment { asked, field, routes });
    }

    /// Says that no listener takes a rule.
    fn say_untaken(&mut self, claim: &Claim<'_>, protocols: &[Protocol], wanted: &str) {
        let is_there = self.takers.iter().any(|taker| protocols.contains(&taker.protocol));
        let (reason, sentence) = if is_there {
            let sentence = format!(
                "is for {}, which is not among the names of the tenant's listeners: let the operator add it there",
                claim.rule.host
            );
            ("HostNotHeld", sentence)
        } else {
            let sentence = format!(
                "needs a listener with protocol {wanted} that has allowedRoutes: let the operator write it in the tenant's ingress"
            );
            ("ListenerMissing", sentence)
        };
        self.notes.add(&claim.asked.id, (Effect::Refused, reason), &*claim.rule.field, sentence);
    }

    fn requests(&mut self, claims: &Claims<'a>, backends: &mut dyn Backends) {
        let protocols = [Protocol::Http, Protocol::Https];
        let clients = Clients::Refused(OF_LISTENER);
        for claim in &claims.rules {
            let takers = self.takers_of(&claim.rule.host, &protocols);
            if takers.is_empty() {
                self.say_untaken(claim, &protocols, "HTTP or HTTPS");
                continue;
            }
            let made = rules::routes(claim, clients, backends, &mut self.notes);
            let is_tls = claims.is_tls(claim);
            for at in takers {
                let routes = match self.takers[at].protocol {
                    Protocol::Http => rules::plain(claim, is_tls, clients, made.clone()),
                    Protocol::Https | Protocol::Tls => made.clone(),
                };
                self.add(at, claim, routes);
            }
        }
    }

    /// Hosts whose TLS is carried through; plain HTTP sends their clients to https.
    fn passed(&mut self, claims: &Claims<'a>, backends: &mut dyn Backends) {
        for claim in &claims.passed {
            let Action::Forward(backend) = &claim.rule.action else { continue };
            let host = &claim.rule.host;
            let takers = self.takers_of(host, &[Protocol::Tls]);
            if takers.is_empty() {
                self.say_untaken(claim, &[Protocol::Tls], "TLS");
                continue;
            }
            let upstream = match backends.of_bytes(claim.asked, backend) {
                Ok(upstream) => upstream,
                Err(why) => {
                    let (id, said) = (&claim.asked.id, (Effect::Refused, "BackendUnusable"));
                    let sentence = format!("is not served: {why}");
                    self.notes.add(id, said, &*claim.rule.field, sentence);
                    continue;
                }
            };
            let (host_text, upstream) = (Some(at(host.to_string())), Some(at(upstream)));
            let route = RouteSpec { host: host_text, upstream, ..RouteSpec::default() };
            for taker in takers {
                self.add(taker, claim, vec![at(route.clone())]);
            }
            let redirect = routes::to_https(routes::matching(host, &PathRule::Prefix("".into())));
            for taker in self.takers_of(host, &[Protocol::Http]) {
                self.add(taker, claim, vec![at(redirect.clone())]);
            }
        }
    }
}
