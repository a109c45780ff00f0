//! Who leaves from which address: one tenant per address, unless all who ask for it say they share.
//!
//! Deliberately absent: whether the host has the address; that is asked where sockets are.

use std::collections::BTreeMap;

use durward_model::EgressAddress;

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

/// Addresses are granted by age and held in the order written, so that a second compile of the same documents changes nothing.
fn in_order(entrant: &mut Entrant<'_>) {
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
        let wanted: Vec<At<EgressAddress>> = match &entrant.basis {
            Basis::Document(body) => body.egress.clone(),
            Basis::Kept(tenant) => {
                tenant.egress.iter().map(|address| At::new(*address, Place::default())).collect()
            }
            Basis::Out => Vec::new(),
        };
        for (position, address) in wanted.into_iter().enumerate() {
            let held =
                entrant.previous.is_some_and(|tenant| tenant.egress.contains(&address.value));
            claims.push(Claim { entrant: at, position, address, held });
        }
    }
    claims
}

#[derive(Default)]
struct Holders(BTreeMap<EgressAddress, Vec<usize>>);

impl Holders {
    /// Whether `entrant` may have the address beside those who have it.
    fn admits(&self, roster: &Roster<'_>, address: EgressAddress, entrant: usize) -> bool {
        let shares = |at: usize| roster.entrants[at].past.shared;
        self.0.get(&address).is_none_or(|holders| {
            holders.iter().all(|holder| *holder == entrant || (shares(*holder) && shares(entrant)))
        })
    }

    fn take(&mut self, roster: &mut Roster<'_>, address: EgressAddress, entrant: usize) {
        let holders = self.0.entry(address).or_default();
        if !holders.contains(&entrant) {
            holders.push(entrant);
            roster.entrants[entrant].egress.push(address);
        }
    }

    fn ask(&mut self, roster: &mut Roster<'_>, claim: &Claim) {
        let address = claim.address.value;
        if self.admits(roster, address, claim.entrant) {
            self.take(roster, address, claim.entrant);
            return;
        }
        let first = self
            .0
            .get(&address)
            .and_then(|holders| holders.first())
            .copied()
            .unwrap_or(claim.entrant);
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
    let former = match (&entrant.basis, entrant.previous) {
        (Basis::Document(_), Some(tenant)) => tenant,
        _ => {
            roster.entrants[at].basis = Basis::Out;
            return;
        }
    };
    for address in &former.egress {
        if holders.admits(roster, *address, at) {
            holders.take(roster, *address, at);
        }
    }
    let served = !roster.entrants[at].egress.is_empty();
    roster.entrants[at].basis = if served { Basis::Kept(former) } else { Basis::Out };
}
