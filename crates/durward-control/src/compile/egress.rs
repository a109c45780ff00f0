//! Who leaves from which address: one tenant per address, unless all who ask for it say they share.
//!
//! Deliberately absent: whether the host has the address; that is asked where sockets are.

use std::collections::HashMap;

use durward_model::blocks::Blocks;
use durward_model::{EgressAddress, TenantId};
use ipnet::IpNet;

use super::report::Field;
use super::roster::{Basis, Entrant, Roster};
use crate::place::{At, Place};

/// Grants each tenant the egress addresses it may have. One that is left without any is kept as it was, or is out.
pub(crate) fn grant(roster: &mut Roster<'_>) {
    let mut holders = Holders::default();
    let mut claims = claims(roster);
    claims.sort_by(|a, b| {
        let rank = |claim: &Claim| roster.entrants[claim.entrant].precedence(claim.held);
        rank(a).cmp(&rank(b)).then(a.position.cmp(&b.position))
    });
    for claim in &claims {
        holders.ask(roster, claim);
    }
    for entrant in 0..roster.entrants.len() {
        settle(roster, &mut holders, entrant);
        in_order(&mut roster.entrants[entrant]);
    }
}

/// Grants each tenant the networks whose traffic it lets out; of two that claim a network the older has it.
pub(crate) fn steer(roster: &mut Roster<'_>) -> Vec<(IpNet, TenantId)> {
    let mut claims: Vec<(usize, usize, At<IpNet>)> = Vec::new();
    for (at, entrant) in roster.entrants.iter().enumerate() {
        let mut claim = |sources: &mut dyn Iterator<Item = At<IpNet>>| {
            claims.extend(sources.enumerate().map(|(position, source)| (at, position, source)));
        };
        match &entrant.basis {
            Basis::Document(body) => claim(&mut body.sources.iter().copied()),
            Basis::Kept(_) => {
                let past = entrant.past.sources.iter();
                claim(&mut past.map(|source| At::new(*source, Place::default())));
            }
            Basis::Out => {}
        }
    }
    claims.sort_by(|a, b| {
        let rank = |claim: &(usize, usize, At<IpNet>)| {
            let entrant = &roster.entrants[claim.0];
            entrant.precedence(entrant.past.sources.contains(&claim.2.value))
        };
        rank(a).cmp(&rank(b)).then(a.1.cmp(&b.1))
    });
    let mut granted = Blocks::default();
    let mut all: Vec<(IpNet, usize)> = Vec::new();
    for (at, position, source) in claims {
        let Some((known, holder)) = granted.meeting(&source.value, |holder| *holder != at) else {
            granted.insert(source.value, at);
            all.push((source.value, at));
            roster.entrants[at].sources.push(source.value);
            continue;
        };
        let holder = &roster.entrants[*holder];
        let sentence = format!(
            "{} is or is in {known} of tenant {} ({}), which asked first: its traffic leaves as that tenant's",
            source.value, holder.id, holder.origin
        );
        if matches!(roster.entrants[at].basis, Basis::Document(_)) {
            let parent = Field::SPEC.name("egress");
            let field = parent.name("sources");
            let report = &mut roster.entrants[at].report;
            report.error("SourceTaken", source.place, &field.index(position), &sentence);
        }
    }
    roster.entrants.iter_mut().for_each(sources_in_order);
    let owner = |at: usize| roster.entrants[at].id.clone();
    all.into_iter().map(|(source, at)| (source, owner(at))).collect()
}

/// The same of networks.
fn sources_in_order(entrant: &mut Entrant<'_>) {
    if let (Basis::Document(body), true) = (&entrant.basis, entrant.sources.len() > 1) {
        let wanted: Vec<IpNet> = body.sources.iter().map(|source| source.value).collect();
        entrant.sources.sort_by_key(|source| wanted.iter().position(|wanted| wanted == source));
    }
}

/// Addresses are granted by age and held in the order written, so that a second compile of the same documents changes nothing.
fn in_order(entrant: &mut Entrant<'_>) {
    if entrant.egress.len() < 2 {
        return;
    }
    let wanted: Vec<EgressAddress> = match &entrant.basis {
        Basis::Document(body) => body.egress.iter().map(|address| address.value).collect(),
        Basis::Kept(tenant) => tenant.egress.clone(),
        Basis::Out => Vec::new(),
    };
    entrant.egress.sort_by_key(|address| wanted.iter().position(|wanted| wanted == address));
}

/// A wish of a tenant to leave from an address.
struct Claim {
    entrant: usize,
    position: usize,
    address: At<EgressAddress>,
    held: bool,
}

fn claims(roster: &Roster<'_>) -> Vec<Claim> {
    let mut claims = Vec::with_capacity(roster.entrants.len());
    for (at, entrant) in roster.entrants.iter().enumerate() {
        let mut claim = |(position, address): (usize, At<EgressAddress>)| {
            let held = entrant.past.egress.contains(&address.value);
            claims.push(Claim { entrant: at, position, address, held });
        };
        match &entrant.basis {
            Basis::Document(body) => body.egress.iter().copied().enumerate().for_each(&mut claim),
            Basis::Kept(tenant) => {
                let addresses =
                    tenant.egress.iter().map(|address| At::new(*address, Place::default()));
                addresses.enumerate().for_each(&mut claim);
            }
            Basis::Out => {}
        }
    }
    claims
}

/// Who has an address: the first who asked, and whether it shares. Whoever came after shares too.
#[derive(Clone, Copy)]
struct Holder {
    entrant: usize,
    shares: bool,
}

#[derive(Default)]
struct Holders(HashMap<EgressAddress, Holder>);

impl Holders {
    /// Who keeps `entrant` from having the address.
    fn objector(
        &self,
        roster: &Roster<'_>,
        address: EgressAddress,
        entrant: usize,
    ) -> Option<usize> {
        let asking = &roster.entrants[entrant];
        let holder = self.0.get(&address)?;
        let shared = holder.shares && asking.past.shared;
        (!shared && !asking.egress.contains(&address)).then_some(holder.entrant)
    }

    fn take(&mut self, roster: &mut Roster<'_>, address: EgressAddress, at: usize) {
        let entrant = &mut roster.entrants[at];
        let holder = Holder { entrant: at, shares: entrant.past.shared };
        self.0.entry(address).or_insert(holder);
        if !entrant.egress.contains(&address) {
            entrant.egress.push(address);
        }
    }

    fn ask(&mut self, roster: &mut Roster<'_>, claim: &Claim) {
        let address = claim.address.value;
        let Some(first) = self.objector(roster, address, claim.entrant) else {
            self.take(roster, address, claim.entrant);
            return;
        };
        if matches!(roster.entrants[claim.entrant].basis, Basis::Kept(_)) {
            // What was served before is in no document now, so there is nothing to point at.
            return;
        }
        let holder = &roster.entrants[first];
        let sentence = format!(
            "{address} is the egress address of tenant {} ({}), which asked first: use another, or let both say egress.shared: true",
            holder.id, holder.origin
        );
        let parent = Field::SPEC.name("egress");
        let field = parent.name("addresses");
        let report = &mut roster.entrants[claim.entrant].report;
        report.error("EgressTaken", claim.address.place, &field.index(claim.position), &sentence);
    }
}

/// A tenant that asked for addresses and has none is served as it was, or not at all.
fn settle(roster: &mut Roster<'_>, holders: &mut Holders, at: usize) {
    let entrant = &roster.entrants[at];
    let wanted = match &entrant.basis {
        Basis::Document(body) => !body.egress.is_empty(),
        Basis::Kept(tenant) => !tenant.egress.is_empty(),
        Basis::Out => return,
    };
    if !wanted || !entrant.egress.is_empty() {
        return;
    }
    let (Basis::Document(_), Some(former)) = (&entrant.basis, entrant.previous) else {
        roster.entrants[at].basis = Basis::Out;
        return;
    };
    for address in &former.egress {
        if holders.objector(roster, *address, at).is_none() {
            holders.take(roster, *address, at);
        }
    }
    let served = !roster.entrants[at].egress.is_empty();
    roster.entrants[at].basis = if served { Basis::Kept(former) } else { Basis::Out };
}
