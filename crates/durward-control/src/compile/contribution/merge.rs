//! Puts what objects add to a tenant beside what its document says, in order of seniority: the document first, then the oldest object.
//!
//! An object that cannot be put beside what is there is left out as a whole with a finding; what was served of it before is kept where possible.
//! Deliberately absent: other tenants; whether a listener may have its address is decided afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use durward_model::route::HostPattern;
use durward_model::upstream::{Target, UpstreamIndex};
use durward_model::{
    Acme, DestinationMode, EgressAddress, Listener, ListenerKey, ServerNames, Service, Upstream,
};

use super::attach;
use super::listeners::{Joined, Unfitting};
use super::{AddedListener, Applicant, Contribution, Written};
use crate::compile::body::{Candidate, Candidates};
use crate::compile::bounds;
use crate::compile::last_good;
use crate::compile::precedence::Age;
use crate::compile::report::Field;
use crate::compile::roster::{Basis, Entrant, Roster};
use crate::compile::transparent::Wish;
use crate::compile::upstream_set::UpstreamSet;
use crate::place::Place;

/// Additions of objects to a listener.
#[derive(Debug)]
pub(crate) struct Added {
    /// The listener as the tenant's document makes it, if that has one there.
    pub(crate) alone: Option<Arc<Listener>>,
    parts: Vec<AddedPart>,
}

/// Addition of one object to a listener.
#[derive(Clone, Debug)]
pub(super) struct AddedPart {
    /// Position among the contributions.
    contribution: usize,
    /// Listener with references to the tenant's upstreams.
    listener: Arc<Listener>,
    /// Names that it has by the names of the tenant's document; `None` if it claims its names itself.
    by_names: Option<ServerNames>,
    written: Written,
    /// True if it is an Ingress, which asks for no address or name itself.
    is_of_ingress: bool,
}

impl AddedPart {
    /// Builds what an Ingress adds.
    pub(super) fn of_ingress(
        contribution: usize,
        listener: Arc<Listener>,
        written: Written,
    ) -> Self {
        Self { contribution, listener, by_names: None, written, is_of_ingress: true }
    }
}

impl AddedPart {
    /// Returns whether it is asked for by a name, or by one below a wildcard.
    fn asks(&self, name: &HostPattern) -> bool {
        match &self.by_names {
            Some(names) => names.iter().any(|own| is_below(own, name)),
            None => self.listener.names.as_ref().is_some_and(|names| names.has(name)),
        }
    }

    /// Returns whether clients that ask for it come to a listener with the granted names.
    fn is_reached(&self, granted: Option<&ServerNames>) -> bool {
        match (&self.by_names, &self.listener.names, granted) {
            (Some(names), _, Some(granted)) => names.iter().any(|own| holds(granted, own)),
            (None, Some(asked), Some(granted)) => asked.meet(granted),
            _ => true,
        }
    }
}

/// Returns whether a name is one of these, or below a wildcard among them.
fn holds(names: &ServerNames, name: &HostPattern) -> bool {
    names.iter().any(|held| is_below(name, held))
}

fn is_below(name: &HostPattern, held: &HostPattern) -> bool {
    match name {
        HostPattern::Exact(name) => held.matches(name),
        HostPattern::Wildcard(_) => name == held,
    }
}

impl Added {
    /// Returns another listener at the same address and port with what objects add to it, and the objects with it.
    pub(crate) fn again(&self, candidate: Candidate) -> Candidate {
        let alone = Arc::clone(&candidate.listener);
        let mut joined = Joined::new(&alone);
        let mut parts = Vec::new();
        for part in &self.parts {
            let mut part = part.clone();
            if part.is_of_ingress {
                let Some(listener) = at_home(&alone, &part.listener) else { continue };
                part.listener = Arc::new(listener);
            }
            if joined.objection(&part.listener).is_none() {
                joined.add(Arc::clone(&part.listener));
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return candidate;
        }
        let added = Some(Arc::new(Self { alone: Some(alone), parts }));
        Candidate { listener: joined.finish(), added, ..candidate }
    }

    /// Returns the age of the oldest object that asks for the listener; `None` if the tenant's document does, or an object in a file.
    pub(crate) fn age(&self, roster: &Roster<'_>) -> Option<Arc<Age>> {
        self.age_of(roster, self.alone.is_some(), |_| true)
    }

    /// Returns the age of the oldest object that asks for a name of the listener; `None` if the tenant's document does, or an object in a file.
    pub(crate) fn age_of_name(&self, roster: &Roster<'_>, name: &HostPattern) -> Option<Arc<Age>> {
        let has = |listener: &Listener| listener.names.as_ref().is_some_and(|it| it.has(name));
        let is_own = self.alone.as_ref().is_some_and(|alone| has(alone));
        self.age_of(roster, is_own, |part| has(&part.listener))
    }

    fn age_of(
        &self,
        roster: &Roster<'_>,
        is_own: bool,
        asks: impl Fn(&AddedPart) -> bool,
    ) -> Option<Arc<Age>> {
        if is_own {
            return None;
        }
        let asking = self.parts.iter().filter(|part| asks(part));
        let ages = asking.map(|part| roster.contributions[part.contribution].age.clone());
        // An object in a file has none, and is the operator's.
        ages.min().flatten()
    }

    /// Says of the objects why the listener is not served.
    pub(crate) fn tell(&self, roster: &mut Roster<'_>, (reason, sentence): (&str, &str)) {
        for part in &self.parts {
            roster.contributions[part.contribution].tell(reason, &part.written, sentence);
        }
    }

    /// Says of the objects that ask for a name who has it.
    pub(crate) fn tell_of_name(&self, roster: &mut Roster<'_>, name: &HostPattern, sentence: &str) {
        // The names at which routes of Ingresses are served are the document's.
        let parts = self.parts.iter().filter(|part| !part.is_of_ingress);
        for part in parts.filter(|part| part.asks(name)) {
            let applicant = &mut roster.contributions[part.contribution];
            applicant.tell("ServerNameTaken", &part.written, sentence);
        }
    }
}

/// Returns the routes of an Ingress as those of another listener of its tenant; `None` if that takes none.
fn at_home(listener: &Listener, part: &Listener) -> Option<Listener> {
    let is_alike = listener.protocol() == part.protocol();
    (listener.takes_ingresses && is_alike).then(|| Listener {
        service: part.service.clone(),
        acme: Acme::default(),
        ..listener.clone()
    })
}

/// Adds to every tenant what objects add to it.
pub(crate) fn merge(roster: &mut Roster<'_>, candidates: &mut Candidates<'_>) {
    if roster.contributions.is_empty() {
        return;
    }
    let mut own: Vec<Vec<usize>> = vec![Vec::new(); roster.entrants.len()];
    for (at, candidate) in candidates.listeners.iter().enumerate() {
        own[candidate.entrant].push(at);
    }
    for (at, own) in own.into_iter().enumerate() {
        let parts = std::mem::take(&mut roster.entrants[at].parts);
        if matches!(roster.entrants[at].basis, Basis::Out) {
            for part in &parts {
                roster.contributions[*part].leave_out_with_tenant();
            }
        } else if !parts.is_empty() {
            let listeners = &candidates.listeners;
            let is_proxy =
                |at: &usize| matches!(listeners[*at].listener.service, Service::Forward(_));
            let entrant = &roster.entrants[at];
            let is_asked =
                own.iter().any(is_proxy) || matches!(entrant.transparent, Wish::Served(..));
            let own = own.iter().map(|at| (*at, &listeners[*at]));
            let mut tenant = Together::new(at, entrant, own, &mut candidates.upstreams[at]);
            for part in &parts {
                tenant.ask(*part, &mut roster.contributions[*part]);
            }
            attach::attach(&mut tenant, &parts, &mut roster.contributions);
            tenant.finish(&mut candidates.listeners);
            add_rules(roster, (at, &parts), is_asked);
        }
        roster.entrants[at].parts = parts;
    }
}

/// Adds the rules of the objects that are served; `is_asked` says that the tenant has a proxy, which asks them.
fn add_rules(roster: &mut Roster<'_>, (at, parts): (usize, &[usize]), is_asked: bool) {
    let has_rules = |part: &&usize| {
        let served = roster.contributions[**part].served.as_ref();
        served.is_some_and(|it| !it.egress.allow.is_empty() || !it.egress.deny.is_empty())
    };
    let with_rules: Vec<usize> = parts.iter().filter(has_rules).copied().collect();
    for part in with_rules {
        let applicant = &mut roster.contributions[part];
        let Some(served) = applicant.served.clone() else { continue };
        if !is_asked && applicant.current.is_some() {
            let place = applicant.head().map(|head| head.place).unwrap_or_default();
            let sentence = "has rules that nobody asks: the tenant has neither egress.proxy nor egress.transparent";
            applicant.report.warning("RulesUnused", place, &Field::SPEC, sentence);
        }
        let rules = &mut roster.entrants[at].rules;
        rules.allow.extend(served.egress.allow.iter().cloned());
        rules.deny.extend(served.egress.deny.iter().cloned());
    }
}

/// A tenant while objects are put beside its document.
pub(super) struct Together<'r, 'u> {
    entrant: usize,
    pub(super) egress: &'r [EgressAddress],
    pub(super) upstreams: &'r mut UpstreamSet<'u>,
    /// By address, port and transport protocol.
    pub(super) listeners: HashMap<ListenerKey, Shared>,
    /// Rules that objects have added.
    rules: usize,
}

/// A listener while objects add to it.
pub(super) struct Shared {
    /// Position among the candidates; `None` while only objects have a listener there.
    candidate: Option<usize>,
    mode: DestinationMode,
    alone: Option<Arc<Listener>>,
    pub(super) joined: Joined,
    pub(super) parts: Vec<AddedPart>,
}

impl Shared {
    fn key(&self) -> ListenerKey {
        self.joined.base().full_key()
    }
}

/// Reason why an object is left out.
struct Conflict {
    reason: &'static str,
    written: Written,
    sentence: String,
}

impl<'r, 'u> Together<'r, 'u> {
    fn new<'c>(
        entrant: usize,
        tenant: &'r Entrant<'_>,
        own: impl Iterator<Item = (usize, &'c Candidate)>,
        upstreams: &'r mut UpstreamSet<'u>,
    ) -> Self {
        let listeners = own.map(|(at, candidate)| {
            let alone = Arc::clone(&candidate.listener);
            let place = Shared {
                candidate: Some(at),
                mode: candidate.mode.clone(),
                joined: Joined::new(&alone),
                alone: Some(alone),
                parts: Vec::new(),
            };
            (candidate.listener.full_key(), place)
        });
        let listeners = listeners.collect();
        Self { entrant, egress: &tenant.egress, upstreams, listeners, rules: 0 }
    }

    /// Gives an object what it asks for, or what it had.
    fn ask(&mut self, at: usize, applicant: &mut Applicant<'_>) {
        // Their routes come last, all together.
        if applicant.wanted().is_some_and(|wanted| wanted.ingress.is_some()) {
            return;
        }
        if let Some(current) = applicant.current.clone() {
            match self.placed(&current) {
                Ok(placed) => {
                    self.take(at, &current, placed);
                    applicant.served = Some(current);
                    return;
                }
                Err(conflict) => {
                    let Conflict { reason, written, sentence } = conflict;
                    applicant.tell(reason, &written, &sentence);
                }
            }
        }
        if let Some(former) = applicant.former.clone()
            && let Ok(placed) = self.placed(&former)
        {
            self.take(at, &former, placed);
            applicant.served = Some(former);
        }
    }

    /// Returns the listeners that an object asks for, each at its address.
    ///
    /// # Errors
    /// Fails if the object cannot be put beside what is there.
    fn placed(&self, asked: &Contribution) -> Result<Vec<AddedListener>, Conflict> {
        let listeners = asked.listeners.iter().map(|added| self.at_its_names(added));
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        match self.conflict(asked, &listeners) {
            Some(conflict) => Err(conflict),
            None => Ok(listeners),
        }
    }

    /// Returns a listener at the tenant's own that has its names, if it has no address itself.
    fn at_its_names(&self, added: &AddedListener) -> Result<AddedListener, Conflict> {
        if !added.by_names {
            return Ok(self.at_its_socket(added));
        }
        let asked = added.listener.names.iter().flatten();
        let takes = |place: &&Shared| {
            let own = place.alone.as_ref().filter(|own| own.hosts_apis);
            own.is_some_and(|own| {
                own.names.as_ref().is_none_or(|names| asked.clone().all(|name| holds(names, name)))
            })
        };
        let Some(place) = self.listeners.values().filter(takes).min_by_key(|place| place.key())
        else {
            return Err(self.homeless(added));
        };
        let own = place.joined.base();
        let listener = Arc::new(Listener {
            address: own.address,
            port: own.port,
            bind: own.bind,
            names: own.names.clone(),
            allowed_sources: own.allowed_sources.clone(),
            ..Listener::clone(&added.listener)
        });
        Ok(AddedListener { listener, mode: place.mode.clone(), ..added.clone() })
    }

    /// Returns a listener at the socket of the tenant's own at the same address and port, if it follows that.
    fn at_its_socket(&self, added: &AddedListener) -> AddedListener {
        let place = self.listeners.get(&added.listener.full_key()).filter(|_| added.follows);
        let Some((mode, own)) = place.and_then(|place| Some((&place.mode, place.alone.as_ref()?)))
        else {
            return added.clone();
        };
        let listener = Listener { bind: own.bind, ..Listener::clone(&added.listener) };
        AddedListener { listener: Arc::new(listener), mode: mode.clone(), ..added.clone() }
    }

    /// Returns why no listener of the tenant has the names of one that has no address.
    fn homeless(&self, added: &AddedListener) -> Conflict {
        let written = added.written.clone();
        let own = || self.listeners.values().filter_map(|place| place.alone.as_ref());
        if !own().any(|own| own.hosts_apis) {
            let sentence = "needs an entry in spec.ingress of the Tenant that serves it, and none has acceptHostedApis: true: add protocol TLS, names and acceptHostedApis to one";
            return Conflict { reason: "ListenerMissing", written, sentence: sentence.to_owned() };
        }
        let names = added.listener.names.iter().flatten();
        let names: Vec<_> = names.map(ToString::to_string).collect();
        let sentence = format!(
            "has {}, which no entry in spec.ingress of the Tenant with acceptHostedApis holds: add it to the names of one",
            names.join(", ")
        );
        Conflict { reason: "NameNotHeld", written, sentence }
    }

    fn conflict(&self, asked: &Contribution, listeners: &[AddedListener]) -> Option<Conflict> {
        let of_upstream = |upstream: &Arc<Upstream>| {
            let (reason, sentence) = self.upstream_conflict(upstream)?;
            let written = asked.listeners.first().map(|first| first.written.clone());
            let nowhere = || Written { field: Arc::from("upstreams"), place: Place::default() };
            Some(Conflict { reason, written: written.unwrap_or_else(nowhere), sentence })
        };
        if let Some(conflict) = asked.upstreams.iter().find_map(of_upstream) {
            return Some(conflict);
        }
        if let Some((what, most)) = self.excess(asked) {
            let sentence = format!(
                "makes more than {most} {what} of all objects of the tenant together: give some to another tenant"
            );
            let written = Written { field: Arc::from(what), place: Place::default() };
            return Some(Conflict { reason: "TooMany", written, sentence });
        }
        listeners.iter().find_map(|added| {
            let place = self.listeners.get(&added.listener.full_key())?;
            let objection = if place.mode == added.mode {
                place.joined.objection(&added.listener)
            } else {
                let what = "knows destinations in another way than".to_owned();
                let holder = place.alone.as_ref().unwrap_or(&added.listener).origin.clone();
                Some(Unfitting { reason: "ListenerUnfitting", what, holder })
            };
            let Unfitting { reason, what, holder } = objection?;
            let sentence = format!("{what} {holder}");
            Some(Conflict { reason, written: added.written.clone(), sentence })
        })
    }

    /// Returns what there would be too much of, and how much of it there may be.
    fn excess(&self, asked: &Contribution) -> Option<(&'static str, usize)> {
        let more = asked.egress.allow.len() + asked.egress.deny.len();
        let sums = [
            ("rules", self.rules + more, bounds::RULES),
            ("upstreams", self.upstreams.len() + asked.upstreams.len(), bounds::UPSTREAMS),
            ("listeners", self.listeners.len() + asked.listeners.len(), bounds::LISTENERS),
        ];
        let too_many = sums.into_iter().find(|(_, sum, most)| sum > most);
        too_many.map(|(what, _, most)| (what, most))
    }

    fn upstream_conflict(&self, upstream: &Upstream) -> Option<(&'static str, String)> {
        let name = &upstream.name;
        if let Some(known) = self.upstreams.get(name) {
            let sentence =
                format!("has the upstream {name:?}, whose name is taken at {}", known.origin);
            return Some(("UpstreamTaken", sentence));
        }
        if self.egress.is_empty() {
            let sentence = "needs an address that its connections leave from, and the tenant has none: name one in egress.addresses of the Tenant";
            return Some(("EgressMissing", sentence.to_owned()));
        }
        let unreached = upstream.endpoints.iter().find_map(|endpoint| match &endpoint.target {
            Target::Address(at) => {
                let is_reached = self.egress.iter().any(|source| source.reaches(at.ip()));
                (!is_reached).then_some(*at)
            }
            Target::Name { .. } => None,
        });
        let at = unreached?;
        let family = if at.is_ipv4() { "IPv4" } else { "IPv6" };
        let sentence = format!(
            "leads to {at}, and the tenant has no {family} egress address: add one to its Tenant"
        );
        Some(("EgressFamily", sentence))
    }

    fn take(&mut self, at: usize, asked: &Contribution, placed: Vec<AddedListener>) {
        self.rules += asked.egress.allow.len() + asked.egress.deny.len();
        let moved: Vec<UpstreamIndex> = asked
            .upstreams
            .iter()
            .map(|upstream| {
                let sources = self.egress.to_vec();
                self.upstreams
                    .add_of_object(Arc::new(Upstream { sources, ..Upstream::clone(upstream) }))
            })
            .collect();
        for (added, asked) in placed.into_iter().zip(&asked.listeners) {
            let moved = |index: UpstreamIndex| moved.get(index.0).copied();
            let Some(listener) = last_good::reindexed(&added.listener, moved) else { continue };
            let key = listener.full_key();
            let part = AddedPart {
                contribution: at,
                listener: Arc::clone(&listener),
                by_names: added.by_names.then(|| asked.listener.names.clone()).flatten(),
                written: added.written,
                is_of_ingress: false,
            };
            match self.listeners.get_mut(&key) {
                Some(place) => {
                    place.joined.add(listener);
                    place.parts.push(part);
                }
                None => {
                    let (mode, joined) = (added.mode.clone(), Joined::new(&listener));
                    let parts = vec![part];
                    let place = Shared { candidate: None, mode, alone: None, joined, parts };
                    self.listeners.insert(key, place);
                }
            }
        }
    }

    fn finish(self, candidates: &mut Vec<Candidate>) {
        let mut places: Vec<_> = self.listeners.into_iter().collect();
        places.retain(|(_, place)| !place.parts.is_empty());
        places.sort_by_key(|(key, _)| *key);
        for (_, Shared { candidate, mode, alone, joined, parts }) in places {
            let (listener, entrant) = (joined.finish(), self.entrant);
            let added = Some(Arc::new(Added { alone, parts }));
            match candidate {
                Some(at) => (candidates[at].listener, candidates[at].added) = (listener, added),
                None => candidates.push(Candidate { entrant, listener, mode, entry: None, added }),
            }
        }
    }
}

/// Takes from objects what they did not get of the listeners that they ask for: those of which nothing is served are left out.
pub(crate) fn settle(roster: &mut Roster<'_>, accepted: &[Candidate]) {
    let mut got = vec![false; roster.contributions.len()];
    for candidate in accepted {
        let Some(added) = &candidate.added else { continue };
        for part in &added.parts {
            got[part.contribution] |= part.is_reached(candidate.listener.names.as_ref());
        }
    }
    for (applicant, got) in roster.contributions.iter_mut().zip(got) {
        let asks = applicant
            .served
            .as_ref()
            .is_some_and(|served| !served.listeners.is_empty() || served.ingress.is_some());
        if asks && !got {
            applicant.served = None;
        }
    }
}
