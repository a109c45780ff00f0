//! The addresses each tenant leaves from, and the networks whose traffic it lets out by them.
//!
//! Deliberately absent: whether the host has the address; that is asked where sockets are.

use std::net::IpAddr;
use std::sync::Arc;

use durward_model::blocks::Blocks;
use durward_model::{EgressAddress, TenantId};
use ipnet::IpNet;

use super::addresses::{Addresses, Granted, Role};
use super::claim_table::Claim;
use super::contribution::Written;
use super::mapping::Applicant;
use super::precedence::Precedence;
use super::report::Field;
use super::roster::{Basis, Roster};
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
    asked: Asked,
    pub(crate) network: At<IpNet>,
    pub(crate) precedence: Precedence,
}

/// The place where a network is asked for, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    /// Among `egress.sources`.
    Source(usize),
    /// By an object that adds to the tenant: the object's position, and that of the network in it.
    Added(usize, usize),
    /// An endpoint of one of the mappings, whose traffic leaves from the mapping's addresses.
    Endpoint(usize),
}

/// Networks and endpoints whose traffic leaves as a tenant's.
#[derive(Debug, Default)]
pub(crate) struct Steered {
    /// The networks of `egress.sources`.
    pub(crate) networks: Vec<(IpNet, TenantId)>,
    granted: Blocks<(usize, Asked)>,
}

impl Steered {
    /// Returns the network or endpoint of another tenant than the one at `entrant` that the endpoint is in, with that tenant.
    pub(crate) fn foreign(&self, endpoint: IpAddr, entrant: usize) -> Option<(IpNet, usize)> {
        let meeting = self.granted.meeting(&endpoint.into(), |(holder, _)| *holder != entrant);
        meeting.map(|(network, (holder, _))| (*network, *holder))
    }
}

/// Returns the claims of all tenants and their mappings to networks, the strongest first.
pub(crate) fn network_claims(roster: &Roster<'_>, mappings: &[Applicant<'_>]) -> Vec<NetworkClaim> {
    let mut claims = Vec::new();
    for (at, entrant) in roster.entrants.iter().enumerate() {
        let mut claim = |sources: &mut dyn Iterator<Item = At<IpNet>>| {
            claims.extend(sources.enumerate().map(|(position, network)| NetworkClaim {
                entrant: at,
                asked: Asked::Source(position),
                network,
                precedence: entrant.precedence(entrant.past.sources.contains(&network.value)),
            }));
        };
        match &entrant.basis {
            Basis::Document(body) => claim(&mut body.sources.iter().copied()),
            Basis::Kept(_) => {
                // What objects had, they ask for themselves.
                let added = &entrant.past.added_sources;
                let past = entrant.past.sources.iter().filter(|source| !added.contains(source));
                claim(&mut past.map(|source| At::new(*source, Place::default())));
            }
            Basis::Out => continue,
        }
        claims.extend(added_claims(roster, at));
    }
    let places = roster.places(mappings);
    for (position, applicant) in mappings.iter().enumerate() {
        let Some(&at) = places.get(&applicant.id.tenant) else { continue };
        if matches!(roster.entrants[at].basis, Basis::Out) {
            continue;
        }
        claims.extend(applicant.leaving().map(|(endpoint, held)| NetworkClaim {
            entrant: at,
            asked: Asked::Endpoint(position),
            network: At::new(endpoint.into(), Place::default()),
            precedence: roster.entrants[at].precedence_as(applicant.age.as_ref(), held),
        }));
    }
    claims.sort_by(|a, b| a.precedence.cmp(&b.precedence).then(a.asked.cmp(&b.asked)));
    claims
}

/// Returns the claims to networks of the objects that add to a tenant.
fn added_claims<'r>(
    roster: &'r Roster<'_>,
    entrant: usize,
) -> impl Iterator<Item = NetworkClaim> + use<'r> {
    let tenant = &roster.entrants[entrant];
    let parts =
        tenant.parts.iter().filter_map(|part| Some((*part, roster.contributions[*part].wanted()?)));
    parts.flat_map(move |(part, wanted)| {
        let networks = wanted.egress.sources.iter().enumerate();
        let held = |network: &At<IpNet>| tenant.past.sources.contains(&network.value);
        // What an earlier process granted is granted again, and no more.
        let asked = networks.filter(move |(_, it)| tenant.past.restoring.is_none() || held(it));
        asked.map(move |(position, network)| NetworkClaim {
            entrant,
            asked: Asked::Added(part, position),
            network: *network,
            precedence: tenant
                .precedence_as(roster.contributions[part].age.as_ref(), held(network)),
        })
    })
}

/// Grants each tenant the networks whose traffic it lets out; of two that claim a network, or an address in it, the older has it. Endpoints of
/// mappings with `egress` are claimed like networks.
pub(crate) fn steer(
    roster: &mut Roster<'_>,
    mappings: &[Applicant<'_>],
    addresses: &Addresses,
) -> Steered {
    let claims = network_claims(roster, mappings);
    let held = if claims.is_empty() { Granted::default() } else { addresses.granted() };
    let mut steered = Steered::default();
    for claim in claims {
        let (at, network) = (claim.entrant, claim.network.value);
        roster.entrants[at].claims.push(Claim::Network(network));
        let meeting = steered.granted.meeting(&network, |(holder, _)| *holder != at);
        let objection = meeting.map(|(known, (holder, asked))| {
            let holder = &roster.entrants[*holder];
            let (id, origin) = (&holder.id, &holder.origin);
            match asked {
                Asked::Source(_) | Asked::Added(..) => format!(
                    "{network} is or is in {known} of tenant {id} ({origin}), which asked first: its traffic leaves as that tenant's"
                ),
                Asked::Endpoint(_) => format!(
                    "{network} has in it {}, an endpoint of tenant {id} ({origin}) with egress: true, which asked first: its traffic leaves as that tenant's",
                    known.addr()
                ),
            }
        });
        if let Asked::Endpoint(_) = claim.asked {
            // Findings of a mapping are reported where its rule is made.
            if objection.is_none() {
                steered.granted.insert(network, (at, claim.asked));
            }
            continue;
        }
        let objection = objection.or_else(|| {
            let holder = held.foreign_in(roster, at, network)?;
            Some(format!("{network} has in it {holder}: name networks without it"))
        });
        let Some(sentence) = objection else {
            let is_added = matches!(claim.asked, Asked::Added(..));
            if is_added && roster.entrants[at].sources.contains(&network) {
                continue;
            }
            steered.granted.insert(network, (at, claim.asked));
            steered.networks.push((network, roster.entrants[at].id.clone()));
            roster.entrants[at].sources.push(network);
            continue;
        };
        let parent = Field::SPEC.name("egress");
        let field = parent.name("sources");
        let position = match claim.asked {
            Asked::Added(part, _) => {
                let written = Written { field: Arc::from("sources"), place: claim.network.place };
                roster.contributions[part].tell("SourceTaken", &written, &sentence);
                continue;
            }
            Asked::Source(position) | Asked::Endpoint(position) => position,
        };
        if matches!(roster.entrants[at].basis, Basis::Document(_)) {
            let place = claim.network.place;
            let report = &mut roster.entrants[at].report;
            report.error("SourceTaken", place, &field.index(position), &sentence);
        }
    }
    sources_in_order(roster);
    steered
}

/// Networks are granted by age and held in the order written, so that a second compile of the same documents changes nothing: those of the tenant's
/// document first, then those of objects.
fn sources_in_order(roster: &mut Roster<'_>) {
    let Roster { entrants, contributions, .. } = roster;
    for entrant in entrants {
        let added = entrant.parts.iter().filter_map(|part| contributions[*part].wanted());
        let added =
            added.flat_map(|wanted| wanted.egress.sources.iter().map(|source| source.value));
        let added: Vec<IpNet> = added.collect();
        let own: Vec<IpNet> = match &entrant.basis {
            Basis::Document(body) => body.sources.iter().map(|source| source.value).collect(),
            Basis::Kept(_) => {
                let mut own = entrant.past.sources.clone();
                own.retain(|source| !entrant.past.added_sources.contains(source));
                own
            }
            Basis::Out => Vec::new(),
        };
        entrant.added_sources =
            entrant.sources.iter().filter(|source| !own.contains(source)).copied().collect();
        let is_written = matches!(entrant.basis, Basis::Document(_)) || !added.is_empty();
        if is_written && entrant.sources.len() > 1 {
            let wanted: Vec<IpNet> = own.into_iter().chain(added).collect();
            entrant.sources.sort_by_key(|source| wanted.iter().position(|wanted| wanted == source));
        }
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
    let (Basis::Document(_), Some(former)) = (&entrant.basis, entrant.former) else {
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
