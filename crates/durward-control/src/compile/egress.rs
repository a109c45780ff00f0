//! The addresses each tenant leaves from, and the networks whose traffic it lets out by them.
//!
//! Deliberately absent: whether the host has the address; that is asked where sockets are.

use durward_model::blocks::Blocks;
use durward_model::{EgressAddress, TenantId};
use ipnet::IpNet;

use super::addresses::{Addresses, Granted, Role};
use super::precedence::Precedence;
use super::report::Field;
use super::roster::{Basis, Entrant, Roster};
use crate::place::{At, Place};

/// Grants each tenant the egress addresses it may have. One that is left without any is kept as it was, or is out.
pub(crate) fn grant(roster: &mut Roster<'_>, addresses: &mut Addresses) {
    for entrant in 0..roster.entrants.len() {
        ask(roster, addresses, entrant);
    }
    for entrant in 0..roster.entrants.len() {
        settle(roster, addresses, entrant);
    }
}

/// One tenant's claim to a network.
pub(crate) struct NetworkClaim {
    pub(crate) entrant: usize,
    /// Place among the tenant's networks.
    position: usize,
    pub(crate) network: At<IpNet>,
    pub(crate) precedence: Precedence,
}

/// Returns the claims of all tenants to networks, the strongest first.
pub(crate) fn network_claims(roster: &Roster<'_>) -> Vec<NetworkClaim> {
    let mut claims = Vec::new();
    for (at, entrant) in roster.entrants.iter().enumerate() {
        let mut claim = |sources: &mut dyn Iterator<Item = At<IpNet>>| {
            claims.extend(sources.enumerate().map(|(position, network)| NetworkClaim {
                entrant: at,
                position,
                network,
                precedence: entrant.precedence(entrant.past.sources.contains(&network.value)),
            }));
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
    claims.sort_by(|a, b| a.precedence.cmp(&b.precedence).then(a.position.cmp(&b.position)));
    claims
}

/// Grants each tenant the networks whose traffic it lets out; of two that claim a network, or an address in it, the older has it.
pub(crate) fn steer(roster: &mut Roster<'_>, addresses: &Addresses) -> Vec<(IpNet, TenantId)> {
    let claims = network_claims(roster);
    let held = if claims.is_empty() { Granted::default() } else { addresses.granted() };
    let mut granted: Blocks<usize> = Blocks::default();
    let mut all: Vec<(IpNet, usize)> = Vec::new();
    for claim in claims {
        let (at, network) = (claim.entrant, claim.network.value);
        let meeting = granted.meeting(&network, |holder| *holder != at);
        let objection = match meeting {
            Some((known, holder)) => {
                let holder = &roster.entrants[*holder];
                Some(format!(
                    "{network} is or is in {known} of tenant {} ({}), which asked first: its traffic leaves as that tenant's",
                    holder.id, holder.origin
                ))
            }
            None => held
                .foreign_in(roster, at, network)
                .map(|holder| format!("{network} has in it {holder}: name networks without it")),
        };
        let Some(sentence) = objection else {
            granted.insert(network, at);
            all.push((network, at));
            roster.entrants[at].sources.push(network);
            continue;
        };
        if matches!(roster.entrants[at].basis, Basis::Document(_)) {
            let parent = Field::SPEC.name("egress");
            let field = parent.name("sources");
            let report = &mut roster.entrants[at].report;
            let place = claim.network.place;
            report.error("SourceTaken", place, &field.index(claim.position), &sentence);
        }
    }
    roster.entrants.iter_mut().for_each(sources_in_order);
    let owner = |at: usize| roster.entrants[at].id.clone();
    all.into_iter().map(|(source, at)| (source, owner(at))).collect()
}

/// Networks are granted by age and held in the order written, so that a second compile of the same documents changes nothing.
fn sources_in_order(entrant: &mut Entrant<'_>) {
    if let (Basis::Document(body), true) = (&entrant.basis, entrant.sources.len() > 1) {
        let wanted: Vec<IpNet> = body.sources.iter().map(|source| source.value).collect();
        entrant.sources.sort_by_key(|source| wanted.iter().position(|wanted| wanted == source));
    }
}

/// Gives the tenant the addresses it asks for and may have, in the order written.
fn ask(roster: &mut Roster<'_>, addresses: &Addresses, at: usize) {
    let wanted: Vec<At<EgressAddress>> = match &roster.entrants[at].basis {
        Basis::Document(body) => body.egress.clone(),
        Basis::Kept(tenant) => {
            tenant.egress.iter().map(|address| At::new(*address, Place::default())).collect()
        }
        Basis::Out => return,
    };
    for (position, address) in wanted.into_iter().enumerate() {
        let objection = addresses.objection(roster, at, address.value.0, Role::Egress);
        let entrant = &mut roster.entrants[at];
        match objection {
            None if entrant.egress.contains(&address.value) => {}
            None => entrant.egress.push(address.value),
            // What was served before is in no document now, so there is nothing to point at.
            Some(_) if matches!(entrant.basis, Basis::Kept(_)) => {}
            Some(objection) => {
                let sentence = objection.with_cure("egress.shared: true");
                let parent = Field::SPEC.name("egress");
                let field = parent.name("addresses");
                let (field, place) = (field.index(position), address.place);
                entrant.report.error("EgressTaken", place, &field, &sentence);
            }
        }
    }
}

/// A tenant that asked for addresses and has none is served as it was, or not at all.
fn settle(roster: &mut Roster<'_>, addresses: &mut Addresses, at: usize) {
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
        if addresses.objection(roster, at, address.0, Role::Egress).is_none() {
            addresses.take(roster, at, address.0, Role::Egress);
            roster.entrants[at].egress.push(*address);
        }
    }
    let served = !roster.entrants[at].egress.is_empty();
    roster.entrants[at].basis = if served { Basis::Kept(former) } else { Basis::Out };
}
