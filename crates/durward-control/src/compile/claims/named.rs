//! Decides claims to names where tenants share an address and port: each name is a claim of its own, and the oldest wins it.
//!
//! A listener is served for the names that it got. Deliberately absent: names below another tenant's wildcard; those are names of their own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::route::HostPattern;
use durward_model::{Listener, ServerNames};

use super::{Holder, Objection, Rank, Register, has};
use crate::compile::Compiled;
use crate::compile::body::{Candidate, List};
use crate::compile::report::Field;
use crate::compile::roster::{Basis, Roster};
use crate::compile::server_names;

/// Address and port that are shared by names.
type Key = (IpAddr, u16);

/// The names that are granted, and the listeners that have some: positions among those accepted.
#[derive(Default)]
pub(super) struct Names {
    holders: HashMap<(Key, HostPattern), usize>,
    /// By entrant.
    own: HashMap<(Key, usize), usize>,
}

/// A listener that asks for names.
pub(super) struct Named {
    pub(super) candidate: Candidate,
    accepted: Option<usize>,
    refused: Vec<HostPattern>,
}

/// Names that a listener asks for at one time: those that it has, or the others.
pub(super) struct Wanted {
    /// Position of the listener.
    pub(super) at: usize,
    pub(super) rank: Rank,
    pub(super) names: Vec<HostPattern>,
}

impl Named {
    pub(super) fn new(candidate: Candidate) -> Self {
        Self { candidate, accepted: None, refused: Vec::new() }
    }

    /// Returns what the listener asks for, the strongest claims first: what it has comes first, as nobody may take that while it asks for more; of objects the oldest.
    pub(super) fn wanted(
        &self,
        at: usize,
        roster: &Roster<'_>,
        previous: Option<&Compiled>,
    ) -> impl Iterator<Item = Wanted> + use<> {
        let Candidate { entrant, listener, entry, added, .. } = &self.candidate;
        let entrant = &roster.entrants[*entrant];
        let (key, full_key) = (listener.key(), listener.full_key());
        let former = entrant.previous.and_then(|former| {
            former.listeners.iter().find(|listener| listener.full_key() == full_key)
        });
        let of_before = entrant.past.names.iter().filter(|(at, _)| *at == key);
        let of_before: HashSet<&HostPattern> = of_before.map(|(_, name)| name).collect();
        let had = |name: &HostPattern| match former {
            Some(former) => former.names.as_ref().is_some_and(|names| names.has(name)),
            // Of an earlier process only this much is known.
            None => of_before.contains(name),
        };
        // The documents of an earlier process are compiled one after the other: a name that is free here may belong to a document that comes later.
        let is_restoring = entrant.past.restoring.is_some();
        let keeps = former.is_none_or(|former| has(former, &self.candidate, previous));
        let position = entry.map_or(usize::MAX, |entry| entry.position);
        let mut wanted: BTreeMap<Rank, Vec<HostPattern>> = BTreeMap::new();
        let names = listener.names.iter().flatten();
        for name in names.filter(|name| !is_restoring || of_before.contains(*name)) {
            let age = added.as_ref().and_then(|added| added.age_of_name(roster, name));
            let precedence = entrant.precedence_as(age.as_ref(), keeps && had(name));
            wanted.entry((precedence, position)).or_default().push(name.clone());
        }
        wanted.into_iter().map(move |(rank, names)| Wanted { at, rank, names })
    }
}

impl Register<'_> {
    /// Gives a listener the names that are free; returns those that are not.
    pub(super) fn ask_names(
        &mut self,
        roster: &Roster<'_>,
        named: &mut Named,
        names: Vec<HostPattern>,
    ) -> Vec<HostPattern> {
        let entrant = named.candidate.entrant;
        if named.accepted.is_none() && self.objection(roster, &named.candidate).is_some() {
            return names;
        }
        let key = named.candidate.listener.key();
        let (taken, free): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| self.names.holders.contains_key(&(key, name.clone())));
        if free.is_empty() {
            return taken;
        }
        let at = named.accepted.unwrap_or(self.accepted.len());
        let had = named.accepted.and_then(|at| self.accepted[at].listener.names.clone());
        let all = had.iter().flatten().chain(&free).cloned().collect();
        let listener = with_names(&named.candidate.listener, ServerNames::new(all));
        match named.accepted {
            Some(at) => self.accepted[at].listener = listener,
            None => {
                let Candidate { mode, entry, added, .. } = &named.candidate;
                let (mode, entry, added) = (mode.clone(), *entry, added.clone());
                self.accept(roster, Candidate { entrant, listener, mode, entry, added });
                self.names.own.insert((key, entrant), at);
                named.accepted = Some(at);
            }
        }
        self.names.holders.extend(free.into_iter().map(|name| ((key, name), at)));
        taken
    }

    /// Returns what keeps a listener from standing among those at its address and port, where it or they have names.
    pub(super) fn objection_by_names(
        &self,
        roster: &Roster<'_>,
        first: usize,
        candidate: &Candidate,
    ) -> Option<Objection> {
        let (there, listener) = (&self.accepted[first].listener, &candidate.listener);
        if there.names.is_none() || listener.names.is_none() {
            return Some(Objection::Address(self.holder(roster, first)));
        }
        if let Some(&own) = self.names.own.get(&(listener.key(), candidate.entrant)) {
            return Some(Objection::Address(self.holder(roster, own)));
        }
        let fits = there.bind == listener.bind && there.opening() == listener.opening();
        (!fits).then(|| Objection::Names(self.holder(roster, first)))
    }

    /// Says of a listener's names who has those that it did not get; returns whether it got none.
    pub(super) fn tell_names(&self, roster: &mut Roster<'_>, named: &Named) -> bool {
        let candidate = &named.candidate;
        let objection =
            named.accepted.is_none().then(|| self.objection(roster, candidate)).flatten();
        if let Some(objection) = objection {
            objection.tell(roster, candidate);
            return true;
        }
        let key = candidate.listener.key();
        for name in &named.refused {
            let Some(&at) = self.names.holders.get(&(key, name.clone())) else { continue };
            let holder = self.holder(roster, at);
            tell_taken(roster, candidate, name, &holder);
        }
        named.accepted.is_none()
    }
}

impl Named {
    pub(super) fn refuse(&mut self, names: Vec<HostPattern>) {
        self.refused.extend(names);
    }
}

fn tell_taken(roster: &mut Roster<'_>, candidate: &Candidate, name: &HostPattern, holder: &Holder) {
    let (listener, Holder { tenant, origin, .. }) = (&candidate.listener, holder);
    let sentence =
        format!("{name} at {listener} is taken by tenant {tenant} ({origin}), which asked first");
    if let Some(added) = &candidate.added {
        let alone = added.alone.as_ref().and_then(|alone| alone.names.as_ref());
        added.tell_of_name(roster, name, &sentence);
        if !alone.is_some_and(|names| names.has(name)) {
            return;
        }
    }
    // What was served before is in no document now, so there is nothing to point at.
    let Some(entry) = candidate.entry.filter(|entry| entry.list == List::Ingress) else { return };
    let entrant = &mut roster.entrants[candidate.entrant];
    let field = Field::SPEC.name("ingress");
    let field = field.index(entry.position);
    let field = field.name("names");
    let written = match &entrant.basis {
        Basis::Document(body) => body
            .spec
            .ingress
            .get(entry.position)
            .and_then(|spec| server_names::written(spec, name))
            .map(|(at, written)| (at, written.place)),
        Basis::Kept(_) | Basis::Out => None,
    };
    let (at, place) = written.unwrap_or((0, entry.place));
    entrant.report.error("ServerNameTaken", place, &field.index(at), &sentence);
}

/// The listener with other names; the same `Arc` where they are its own.
fn with_names(listener: &Arc<Listener>, names: ServerNames) -> Arc<Listener> {
    if listener.names.as_ref() == Some(&names) {
        return Arc::clone(listener);
    }
    Arc::new(Listener { names: Some(names), ..Listener::clone(listener) })
}

/// Returns the message for a listener that cannot share an address and port by names.
pub(super) fn unfitting(listener: &Listener) -> String {
    format!(
        "shares {listener} with listeners on another socket, or of which only one side speaks TLS, so that names cannot tell them apart: use the \
         same listen and the same kind of protocol, or another port; it is used by"
    )
}
