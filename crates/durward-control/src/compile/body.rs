//! Each tenant's upstreams and listeners, compiled by themselves; what was served before fills in for what is broken.
//!
//! Deliberately absent: other tenants; whether a listener may have its address is decided afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_model::egress::Policy;
use durward_model::upstream::UpstreamProtocol;
use durward_model::{Acme, DestinationMode, EgressAddress, Listener, ListenerKey, Tenant};

use super::acme::{self, Doors};
use super::certificates::Files;
use super::contribution;
use super::contribution::merge::{self, Added};
use super::keys::{KeyUse, Keys};
use super::link_routes::LinkGrants;
use super::listener::{self, Outward, Workshop};
use super::outward;
use super::report::{Field, Report};
use super::roster::{Basis, Body, Entrant, Roster};
use super::transparent::Wish;
use super::upstream::{self, Surroundings};
use super::upstream_set::UpstreamSet;
use super::{Compiled, last_good, transparent};
use crate::place::{At, Place};
use crate::spec::egress::EgressSpec;
use crate::spec::ingress::{IngressSpec, ProtocolSpec};
use crate::spec::object_name::is_namespace;

/// All listeners that want to be served, and each tenant's upstreams.
#[derive(Debug, Default)]
pub(crate) struct Candidates<'a> {
    pub(crate) listeners: Vec<Candidate>,
    /// By entrant.
    pub(crate) upstreams: Vec<UpstreamSet<'a>>,
}

/// A listener that wants to be served.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) entrant: usize,
    pub(crate) listener: Arc<Listener>,
    pub(crate) mode: DestinationMode,
    /// The entry of the document it comes from; `None` when it was served before, or only objects ask for it.
    pub(crate) entry: Option<Entry>,
    /// Additions of objects.
    pub(crate) added: Option<Arc<Added>>,
}

impl Candidate {
    /// Returns whether only objects ask for it.
    pub(crate) fn is_added(&self) -> bool {
        self.added.as_ref().is_some_and(|added| added.alone.is_none())
    }
}

/// An entry of `spec.ingress` or `spec.egress.proxy`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) list: List,
    pub(crate) position: usize,
    pub(crate) place: Place,
}

/// The list an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// `spec.ingress`
    Ingress,
    /// `spec.egress.proxy`
    Proxy,
}

/// Compiles everybody's upstreams and listeners; whoever uses an older tenant's key is compiled again without it.
pub(crate) fn compile<'a>(
    roster: &mut Roster<'a>,
    files: &mut Files<'_>,
    previous: Option<&Compiled>,
) -> Candidates<'a> {
    let mut candidates = Candidates::default();
    let mut keys = Keys::default();
    let marks: Vec<_> = roster.entrants.iter().map(|entrant| entrant.report.mark()).collect();
    for at in 0..roster.entrants.len() {
        let upstreams =
            entrant(at, roster, files, (previous, &mut keys), &mut candidates.listeners);
        candidates.upstreams.push(upstreams);
    }
    // What stands in for a denied key may use another one, so this goes on until nothing new is denied.
    loop {
        let losers = keys.conflicts(roster);
        if losers.is_empty() {
            break;
        }
        candidates.listeners.retain(|candidate| !losers.contains(&candidate.entrant));
        for at in losers {
            roster.entrants[at].report.rewind(marks[at]);
            let again =
                entrant(at, roster, files, (previous, &mut keys), &mut candidates.listeners);
            candidates.upstreams[at] = again;
        }
    }
    keys.remember(roster);
    merge::merge(roster, &mut candidates);
    candidates
}

fn entrant<'a>(
    at: usize,
    roster: &mut Roster<'a>,
    files: &mut Files<'_>,
    (previous, keys): (Option<&Compiled>, &mut Keys),
    listeners: &mut Vec<Candidate>,
) -> UpstreamSet<'a> {
    let entrant = &mut roster.entrants[at];
    entrant.leans = false;
    let basis = std::mem::replace(&mut entrant.basis, Basis::Out);
    let former = || {
        entrant.past.keys.iter().map(|held| KeyUse {
            key: held.key,
            shared: held.shared,
            is_authority: false,
            origin: entrant.origin.clone(),
            age: None,
        })
    };
    let (upstreams, mut used) = match &basis {
        Basis::Document(body) => {
            let denied = keys.denied(at);
            let former: Vec<_> = former().filter(|used| !denied.contains_key(&used.key)).collect();
            files.deny(denied);
            files.ask_for(&entrant.id, body.spec);
            namespace(&mut entrant.report, body);
            let upstreams = document(at, entrant, body, files, previous, listeners);
            let mut used = files.keys_used();
            if entrant.report.errors() > 0 {
                // What stands in for the broken parts has keys of before.
                used.extend(former);
            }
            (upstreams, used)
        }
        Basis::Kept(tenant) => {
            let used = former().collect();
            entrant.transparent = entrant.past.transparent.clone();
            (kept(at, entrant, tenant, previous, listeners), used)
        }
        Basis::Out => (UpstreamSet::default(), Vec::new()),
    };
    entrant.basis = basis;
    used.extend(contribution::keys(roster, at, &keys.denied(at)));
    keys.note(at, used);
    upstreams
}

fn kept<'a>(
    at: usize,
    entrant: &Entrant<'_>,
    tenant: &Tenant,
    previous: Option<&Compiled>,
    candidates: &mut Vec<Candidate>,
) -> UpstreamSet<'a> {
    let mut upstreams = UpstreamSet::default();
    for upstream in &tenant.upstreams {
        if let Some(upstream) = last_good::upstream(upstream, &entrant.egress) {
            upstreams.add(upstream);
        }
    }
    for listener in &tenant.listeners {
        candidates.extend(last_good::candidate(at, entrant, listener, &mut upstreams, previous));
    }
    upstreams
}

/// Compiles the upstreams and listeners of a tenant's document.
fn document<'a>(
    at: usize,
    entrant: &mut Entrant<'a>,
    body: &Body<'a>,
    files: &mut Files<'_>,
    previous: Option<&Compiled>,
    candidates: &mut Vec<Candidate>,
) -> UpstreamSet<'a> {
    let mut upstreams = upstreams(entrant, body, files);
    let first = candidates.len();
    let restoring = entrant.past.restoring.clone();
    let mut broken: Vec<Option<ListenerKey>> = Vec::new();
    let egress = &body.spec.egress;
    let policy = policy(entrant, egress, links_let_out(body), files);
    let without_rules = files.was_denied();
    let proxies: Vec<_> = egress.proxy.iter().map(At::as_ingress).collect();
    let (ingress_field, egress_field) = (Field::SPEC.name("ingress"), Field::SPEC.name("egress"));
    let proxy_field = egress_field.name("proxy");
    let (doors, sources) = (Doors::of(&body.spec.ingress), entrant.egress.clone());
    let links = LinkGrants::of(&body.spec.ingress, &sources);
    let entries = body.spec.ingress.iter().enumerate().map(|(at, spec)| (List::Ingress, at, spec));
    let exits = proxies.iter().enumerate().map(|(at, spec)| (List::Proxy, at, spec));
    for (list, position, spec) in entries.chain(exits) {
        let key = listener::key(spec);
        if restoring.as_ref().is_some_and(|part| !key.is_some_and(|key| part.makes(&key))) {
            continue;
        }
        let (field, outward) = match list {
            List::Ingress => (&ingress_field, None),
            List::Proxy => {
                let (spec, policy) = (&egress.proxy[position], policy.as_ref());
                (&proxy_field, Some(Outward { spec, policy }))
            }
        };
        let mut workshop = Workshop {
            report: &mut entrant.report,
            files: &mut *files,
            upstreams: &mut upstreams,
            tenant: &entrant.id,
            outward,
            policy: policy.as_ref(),
            doors: &doors,
            acme: Acme::default(),
            links: &links,
        };
        match workshop.listener(spec, &field.index(position)) {
            Some((listener, mode)) => candidates.push(Candidate {
                entrant: at,
                listener: Arc::new(listener),
                mode,
                entry: Some(Entry { list, position, place: spec.address.place }),
                added: None,
            }),
            // What it had of an object that is not the tenant's any more must not stand in.
            None if files.was_denied() || (without_rules && list == List::Proxy) => {}
            None => broken.push(key),
        }
    }
    acme::share_answers(&mut candidates[first..]);
    let mut claimed: BTreeSet<_> =
        candidates[first..].iter().map(|candidate| candidate.listener.full_key()).collect();
    if let Some(part) = restoring {
        broken = part.kept().map(|key| Some(*key)).collect();
    }
    for listener in last_good::for_broken(entrant.former, &broken, &mut claimed) {
        candidates.extend(last_good::candidate(at, entrant, &listener, &mut upstreams, previous));
    }
    unused(&mut entrant.report, body, &upstreams);
    upstreams
}

/// Reports a namespace that cannot be one, also where no name is looked up in it yet.
fn namespace(report: &mut Report<'_>, body: &Body<'_>) {
    let Some(written) = &body.spec.namespace else { return };
    report.check(
        "BadNamespace",
        written,
        &Field::SPEC.name("namespace"),
        |text| match is_namespace(text) {
            true => Ok(()),
            false => Err("is no name of a namespace".to_owned()),
        },
    );
}

/// Returns true if a link lets traffic of its cluster out.
fn links_let_out(body: &Body<'_>) -> bool {
    let links = body.spec.ingress.iter().flat_map(|entry| &entry.links);
    links.into_iter().any(|link| link.egress.is_some_and(|egress| egress.value))
}

/// Returns the rules for where a tenant's clients may go; `None` where it has no proxy, or the rules cannot be read.
fn policy(
    entrant: &mut Entrant<'_>,
    egress: &EgressSpec,
    by_links: bool,
    files: &mut Files<'_>,
) -> Option<Arc<Policy>> {
    let asked = by_links || !egress.proxy.is_empty() || egress.transparent.is_some();
    let policy = asked.then(|| outward::policy(&mut entrant.report, files, egress)).flatten();
    if !asked {
        outward::unasked(&mut entrant.report, egress);
    }
    let before = entrant.report.errors();
    entrant.transparent =
        transparent::read(&mut entrant.report, egress, policy.as_ref(), &entrant.past.transparent);
    let is_faulty = policy.is_none() || entrant.report.errors() > before;
    entrant.leans |= is_faulty && matches!(entrant.transparent, Wish::Served(..));
    policy
}

/// An upstream nobody refers to is most often a slip, as long as everything that could refer to it was understood.
fn unused(report: &mut Report<'_>, body: &Body<'_>, upstreams: &UpstreamSet<'_>) {
    if report.errors() > 0 {
        return;
    }
    let field = Field::SPEC.name("upstreams");
    for name in body.spec.upstreams.keys().filter(|name| !upstreams.is_used(name)) {
        report.warning(
            "UpstreamUnused",
            name.place,
            &field.name(name),
            "is used by no route and no listener",
        );
    }
    let links: BTreeSet<&str> = body
        .spec
        .ingress
        .iter()
        .flat_map(|entry| entry.links.iter().map(|link| link.name.as_str()))
        .collect();
    for (name, upstream) in &body.spec.upstreams {
        let unknown = upstream.link.as_ref().filter(|link| !links.contains(link.as_str()));
        if let Some(link) = unknown {
            let sentence = format!(
                "{:?} is no link of this tenant: requests are answered with 503 until an entry with protocol LINK has it",
                link.value
            );
            let field = field.name(name);
            report.warning("LinkUnknown", link.place, &field.name("link"), &sentence);
        }
    }
}

fn upstreams<'a>(
    entrant: &mut Entrant<'a>,
    body: &Body<'a>,
    files: &mut Files<'_>,
) -> UpstreamSet<'a> {
    let wanted: Vec<EgressAddress> = body.egress.iter().map(|address| address.value).collect();
    let implied = implied(body);
    let share = upstream::share(files, &body.spec.upstreams);
    let (egress, wanted, implied) = (&entrant.egress, &wanted, &implied);
    let around = Surroundings { egress, wanted, implied, share };
    let mut upstreams = UpstreamSet::default();
    for named in &body.spec.upstreams {
        let made = upstream::upstream(&mut entrant.report, files, named, around);
        let was_denied = files.was_denied();
        match made {
            Some(upstream) => {
                let (upstream, part) = (Arc::new(upstream), entrant.past.restoring.as_ref());
                upstreams.add(match part {
                    Some(part) => part.upstream(upstream),
                    None => upstream,
                });
            }
            None if was_denied => upstreams.add_broken(named.0),
            None => {
                let former = entrant.former.and_then(|tenant| {
                    tenant.upstreams.iter().find(|former| *former.name == *named.0.value)
                });
                match former.and_then(|former| last_good::upstream(former, &entrant.egress)) {
                    Some(former) => {
                        entrant.leans = true;
                        upstreams.add(former);
                    }
                    None => upstreams.add_broken(named.0),
                }
            }
        }
    }
    upstreams
}

/// Returns the protocol of each upstream that only listeners of one kind refer to, where that is not HTTP.
fn implied<'a>(body: &Body<'a>) -> BTreeMap<&'a str, UpstreamProtocol> {
    let carried = |spec: &IngressSpec| match listener::protocol(spec) {
        ProtocolSpec::Tcp | ProtocolSpec::Tls => UpstreamProtocol::Tcp,
        ProtocolSpec::Udp => UpstreamProtocol::Udp,
        ProtocolSpec::Http | ProtocolSpec::Https | ProtocolSpec::Link | ProtocolSpec::Proxy => {
            UpstreamProtocol::Http1
        }
    };
    let mut implied = BTreeMap::new();
    for entry in &body.spec.ingress {
        let protocol = carried(entry);
        let own = entry.upstream.iter().chain(entry.upstreams.iter().map(|choice| &choice.name));
        let routed = entry.routes.iter().flat_map(|route| {
            route.upstream.iter().chain(route.upstreams.iter().map(|choice| &choice.name))
        });
        for name in own.chain(routed) {
            let known = implied.entry(name.value.as_str()).or_insert(protocol);
            // Where kinds differ it must be written, and is HTTP/1.1 where it is not.
            if *known != protocol {
                *known = UpstreamProtocol::Http1;
            }
        }
    }
    implied
}
