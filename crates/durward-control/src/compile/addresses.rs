//! Claims to addresses: an address belongs to one tenant as a whole, at every port and in both directions, unless all who use it share it.
//!
//! A tenant claims what its documents name, whether or not all of it can be served. Ports, sockets and networks are decided elsewhere,
//! among those who have the address.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::blocks::Blocks;
use durward_model::{AddressOwners, Origin};
use ipnet::IpNet;

use super::claim_table;
use super::contribution;
use super::egress;
use super::mapping::Applicant;
use super::precedence::{Age, Precedence};
use super::roster::{Basis, Body, Entrant, Roster};
use super::words;
use crate::place::{At, Place};
use crate::spec::ingress::ListenSpec;

/// Part that an address plays for a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Clients connect to it.
    Ingress,
    /// The tenant's traffic leaves from it.
    Egress,
    /// The kernel leads its ports to endpoints.
    Mapped,
    /// A socket accepts there what clients sent to another address of the tenant; several tenants may have such sockets side by side.
    Listen,
}

impl Role {
    fn named(self) -> &'static str {
        match self {
            Self::Ingress => "an ingress address",
            Self::Egress => "the egress address",
            Self::Mapped => "an address of a port mapping",
            Self::Listen => "a listen address",
        }
    }
}

/// An address that a tenant was granted, as the next compile must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) address: IpAddr,
    pub(crate) role: Role,
    /// True if the tenant lets others that also say so use it.
    pub(crate) shared: bool,
    /// True if only objects that add to the tenant ask for it.
    pub(crate) added: bool,
}

/// All that one tenant asks of one address.
#[derive(Clone, Debug)]
struct Claim {
    entrant: usize,
    role: Role,
    shared: bool,
    /// True if only objects that add to the tenant ask for it.
    added: bool,
    /// Age of the object that asks for it, if none but objects that add to the tenant do.
    age: Option<Arc<Age>>,
    origin: Origin,
}

impl Claim {
    fn fits(&self, other: &Self) -> bool {
        self.entrant == other.entrant
            || (self.role == Role::Listen && other.role == Role::Listen)
            || (self.shared && other.shared)
    }

    /// Returns what the claim is sorted by.
    fn rank(&self, roster: &Roster<'_>, address: IpAddr) -> Precedence {
        let (entrant, role) = (&roster.entrants[self.entrant], self.role);
        let held = entrant.past.addresses.iter().any(|held| {
            held.address == address && (role == Role::Listen || held.role != Role::Listen)
        });
        entrant.precedence_as(self.age.as_ref(), held)
    }

    /// Names the address and who has it, in the words of a finding.
    fn described(&self, roster: &Roster<'_>, address: IpAddr) -> String {
        let (role, id) = (self.role.named(), &roster.entrants[self.entrant].id);
        format!("{address}, {role} of tenant {id} ({}), which asked first", self.origin)
    }
}

/// The claims to one address.
#[derive(Debug, Default)]
struct Claims {
    granted: Vec<Claim>,
    refused: Vec<Claim>,
}

/// Claims to an address that no document names.
static NOBODYS: Claims = Claims { granted: Vec::new(), refused: Vec::new() };

/// The tenant that holds each address.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    claims: HashMap<IpAddr, Claims>,
    networks: Networks,
}

/// Claims to networks whose traffic leaves as a tenant's: an address in one is no other tenant's, unless that asked first.
#[derive(Debug, Default)]
struct Networks(Blocks<(usize, Precedence)>);

impl Networks {
    /// Returns those that may be granted. One with an address of somebody else in it, or one that meets another's network, which asked first,
    /// will not be, and keeps nobody out.
    fn asked(roster: &Roster<'_>, mappings: &[Applicant<'_>], asked: &Asked) -> Self {
        let mut networks: Blocks<(usize, Precedence)> = Blocks::default();
        let claims = egress::network_claims(roster, mappings);
        let mut addresses = BTreeMap::new();
        if !claims.is_empty() {
            addresses.extend(asked.0.iter());
        }
        // The strongest first: of two claims to one network the weaker is hopeless.
        for egress::NetworkClaim { entrant, network, precedence, .. } in claims {
            let network = network.value;
            let is_first = |(address, claims): (&&IpAddr, &&Vec<Claim>)| {
                !claims.iter().any(|claim| claim.entrant == entrant)
                    && claims.iter().any(|claim| {
                        claim.role != Role::Listen && claim.rank(roster, **address) < precedence
                    })
            };
            let mut there = addresses.range(network.network()..=network.broadcast());
            let taken = networks.meeting(&network, |(holder, _)| *holder != entrant).is_some();
            if !taken && !there.any(|(address, claims)| is_first((address, claims))) {
                networks.insert(network, (entrant, precedence));
            }
        }
        Self(networks)
    }

    /// Returns the network of another tenant that the address is in and that comes before the claim to it, with the tenant.
    fn before(
        &self,
        roster: &Roster<'_>,
        address: IpAddr,
        claim: &Claim,
    ) -> Option<(&IpNet, usize)> {
        // A socket is no address of the tenant's own.
        if claim.role == Role::Listen {
            return None;
        }
        let precedence = claim.rank(roster, address);
        let is_meant = |(entrant, network): &(usize, Precedence)| {
            *entrant != claim.entrant && *network < precedence
        };
        let (network, (entrant, _)) = self.0.meeting(&address.into(), is_meant)?;
        Some((network, *entrant))
    }
}

/// Reason for which a tenant may not use an address.
pub(crate) struct Taken {
    holder: String,
    /// True if the address itself is another tenant's, so that both could share it.
    can_be_shared: bool,
}

impl Taken {
    /// Returns the sentence of a finding; `shared` is what both tenants would have to say.
    pub(crate) fn with_cure(&self, shared: &str) -> String {
        if self.can_be_shared {
            return format!("{}: use another, or let both say {shared}", self.holder);
        }
        format!("{}: use another, or take it out of that tenant's egress.sources", self.holder)
    }
}

/// The addresses that are granted, in order.
#[derive(Default)]
pub(crate) struct Granted<'a>(BTreeMap<IpAddr, &'a [Claim]>);

impl Granted<'_> {
    /// Returns an address in the network that only other tenants than the one at `entrant` have, in the words of a finding.
    pub(crate) fn foreign_in(
        &self,
        roster: &Roster<'_>,
        entrant: usize,
        network: IpNet,
    ) -> Option<String> {
        let there = self.0.range(network.network()..=network.broadcast());
        there.into_iter().find_map(|(address, claims)| {
            let own = claims.iter().any(|claim| claim.entrant == entrant);
            let holder = claims.iter().find(|claim| claim.role != Role::Listen)?;
            (!own).then(|| holder.described(roster, *address))
        })
    }
}

impl Addresses {
    /// Decides the claims of all tenants and their mappings.
    pub(crate) fn decide(roster: &Roster<'_>, mappings: &[Applicant<'_>]) -> Self {
        let mut asked = Asked::default();
        for (at, entrant) in roster.entrants.iter().enumerate() {
            asked.entrant(at, entrant);
        }
        let places = roster.places(mappings);
        for applicant in mappings {
            if let Some(at) = places.get(&applicant.id.tenant) {
                asked.mapping(*at, applicant);
            }
        }
        for (at, entrant) in roster.entrants.iter().enumerate() {
            if !matches!(entrant.basis, Basis::Out) {
                let parts = entrant.parts.iter().map(|part| &roster.contributions[*part]);
                parts.for_each(|part| asked.contribution(at, part));
            }
        }
        let networks = Networks::asked(roster, mappings, &asked);
        let settle = |(address, claims)| (address, settled(roster, &networks, address, claims));
        Self { claims: asked.0.into_iter().map(settle).collect(), networks }
    }

    /// Returns who keeps the tenant at `entrant` from using the address, in the words of a finding.
    pub(crate) fn objection(
        &self,
        roster: &Roster<'_>,
        entrant: usize,
        address: IpAddr,
        role: Role,
    ) -> Option<Taken> {
        let claims = self.claims.get(&address).unwrap_or(&NOBODYS);
        if claims.granted.iter().any(|claim| claim.entrant == entrant) {
            return None;
        }
        let refused = claims.refused.iter().find(|claim| claim.entrant == entrant);
        // What is served from before is in no document, so nobody has asked for it yet.
        let former = former(&roster.entrants[entrant], entrant, address, role);
        let asking = refused.unwrap_or(&former);
        if let Some(holder) = claims.granted.iter().find(|claim| !claim.fits(asking)) {
            let Entrant { id, .. } = &roster.entrants[holder.entrant];
            let (role, origin) = (holder.role.named(), &holder.origin);
            let holder =
                format!("{address} is {role} of tenant {id} ({origin}), which asked first");
            return Some(Taken { holder, can_be_shared: true });
        }
        let (network, holder) = self.networks.before(roster, address, asking)?;
        let Entrant { id, origin, .. } = &roster.entrants[holder];
        let holder = format!(
            "{address} is in {network}, whose traffic leaves as tenant {id}'s ({origin}), which asked first"
        );
        Some(Taken { holder, can_be_shared: false })
    }

    /// Returns the addresses that are granted, in order.
    pub(crate) fn granted(&self) -> Granted<'_> {
        let granted = self.claims.iter().filter(|(_, claims)| !claims.granted.is_empty());
        Granted(granted.map(|(address, claims)| (*address, claims.granted.as_slice())).collect())
    }

    /// Records that the tenant uses an address from before that its documents do not name now.
    pub(crate) fn take(
        &mut self,
        roster: &Roster<'_>,
        entrant: usize,
        address: IpAddr,
        role: Role,
    ) {
        let claims = self.claims.entry(address).or_default();
        if !claims.granted.iter().any(|claim| claim.entrant == entrant) {
            claims.granted.push(former(&roster.entrants[entrant], entrant, address, role));
        }
    }

    /// Returns the tenants that hold each address. Where a tenant has but a socket, the address may be that of others, too.
    pub(crate) fn owners(&self, roster: &Roster<'_>) -> AddressOwners {
        let mut owners = AddressOwners::default();
        for (address, claims) in &self.claims {
            for claim in claims.granted.iter().filter(|claim| claim.role != Role::Listen) {
                owners.insert(*address, &roster.entrants[claim.entrant].id, claim.shared);
            }
        }
        owners
    }

    /// Writes down with each tenant what it asked for and what it was granted.
    pub(crate) fn remember(self, roster: &mut Roster<'_>) {
        for entrant in &mut roster.entrants {
            entrant.past.addresses.clear();
        }
        // In order, so that the claims of a tenant can be compared with those of before.
        let mut all: Vec<_> = self.claims.into_iter().collect();
        all.sort_unstable_by_key(|(address, _)| *address);
        for (address, claims) in all {
            for claim in claims.granted.iter().chain(&claims.refused) {
                let (is_socket, shared) = (claim.role == Role::Listen, claim.shared);
                let asked = claim_table::Claim::Address { address, is_socket, shared };
                let entrant = &mut roster.entrants[claim.entrant];
                entrant.claims.push(asked);
                entrant.cite(&claim.origin);
            }
            for Claim { entrant, role, shared, added, .. } in claims.granted {
                let held = Held { address, role, shared, added };
                roster.entrants[entrant].past.addresses.push(held);
            }
        }
    }
}

fn former(entrant: &Entrant<'_>, at: usize, address: IpAddr, role: Role) -> Claim {
    let held = entrant.past.addresses.iter().find(|held| held.address == address);
    Claim {
        entrant: at,
        role,
        shared: held.is_some_and(|held| held.shared),
        added: held.is_some_and(|held| held.added),
        age: None,
        origin: entrant.origin.clone(),
    }
}

fn settled(
    roster: &Roster<'_>,
    networks: &Networks,
    address: IpAddr,
    mut claims: Vec<Claim>,
) -> Claims {
    if claims.len() > 1 {
        claims.sort_by_cached_key(|claim| claim.rank(roster, address));
    }
    let mut settled = Claims::default();
    for claim in claims {
        let fits = settled.granted.iter().all(|granted| granted.fits(&claim));
        let free = fits && networks.before(roster, address, &claim).is_none();
        if free { settled.granted.push(claim) } else { settled.refused.push(claim) }
    }
    settled
}

/// The claims to each address, one for each tenant.
#[derive(Default)]
struct Asked(HashMap<IpAddr, Vec<Claim>>);

impl Asked {
    fn claim(&mut self, address: IpAddr, claim: Claim) {
        let claims = match self.0.entry(address) {
            Entry::Vacant(vacant) => {
                vacant.insert(vec![claim]);
                return;
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        // A tenant's claims come one after the other, but for those of its mappings.
        let known = claims.iter_mut().rev().find(|known| known.entrant == claim.entrant);
        match known {
            None => claims.push(claim),
            Some(known) => {
                known.shared &= claim.shared;
                known.added &= claim.added;
                // The document is asked first, and stronger than all that adds to it.
                known.age = known.age.take().zip(claim.age).map(|(one, other)| one.min(other));
                if known.role == Role::Listen && claim.role != Role::Listen {
                    known.role = claim.role;
                    known.origin = claim.origin;
                }
            }
        }
    }

    fn entrant(&mut self, at: usize, entrant: &Entrant<'_>) {
        match &entrant.basis {
            // What an earlier process granted is granted again, and no more.
            Basis::Document(_) if entrant.past.restoring.is_some() => {
                self.former(at, entrant, |_| true);
            }
            Basis::Document(body) => self.document(at, entrant, body),
            // What objects had, they ask for themselves.
            Basis::Kept(_) => {
                self.former(at, entrant, |held| held.role != Role::Mapped && !held.added);
            }
            Basis::Out => {}
        }
    }

    fn document(&mut self, at: usize, entrant: &Entrant<'_>, body: &Body<'_>) {
        let egress = &body.spec.egress;
        let source = entrant.report.source();
        let claim = |role, shared, place| {
            let origin = source.origin(place);
            Claim { entrant: at, role, shared, added: false, age: None, origin }
        };
        for address in &body.egress {
            self.claim(address.value.0, claim(Role::Egress, egress.shared, address.place));
        }
        let ingress =
            body.spec.ingress.iter().map(|entry| (&entry.address, &entry.listen, entry.shared));
        let proxies =
            egress.proxy.iter().map(|entry| (&entry.address, &entry.listen, entry.shared));
        let mut unreadable = false;
        for (address, listen, shared) in ingress.chain(proxies) {
            match words::address(address) {
                Ok(ip) => self.claim(ip, claim(Role::Ingress, shared, address.place)),
                Err(_) => unreadable = true,
            }
            if let Some((ip, place)) = listen.as_ref().and_then(listening) {
                self.claim(ip, claim(Role::Listen, shared, place));
            }
        }
        if unreadable {
            // The entry may have meant any of the addresses it had; what stands in for it must find its own. An address that clients did not
            // connect to is none of these, and what no document names must not be held.
            self.former(at, entrant, |held| !held.added && is_of_listener(entrant, held));
        }
    }

    /// Claims the addresses in question that the tenant had before.
    fn former(&mut self, at: usize, entrant: &Entrant<'_>, is_meant: impl Fn(&Held) -> bool) {
        for held in &entrant.past.addresses {
            if is_meant(held) {
                let origin = entrant.origin.clone();
                let Held { role, shared, added, .. } = *held;
                let claim = Claim { entrant: at, role, shared, added, age: None, origin };
                self.claim(held.address, claim);
            }
        }
    }

    fn mapping(&mut self, at: usize, applicant: &Applicant<'_>) {
        let Some(mapping) = applicant.wanted() else { return };
        for address in &mapping.addresses {
            let origin = mapping.origin.clone();
            let (role, shared, age) = (Role::Mapped, applicant.shared, applicant.age.clone());
            let claim = Claim { entrant: at, role, shared, added: false, age, origin };
            self.claim(address.0, claim);
        }
    }

    fn contribution(&mut self, at: usize, applicant: &contribution::Applicant<'_>) {
        let asked = applicant.wanted().into_iter().flat_map(|wanted| &wanted.listeners);
        // One without an address is served at an address that the tenant's document asks for.
        for added in asked.filter(|added| !added.by_names) {
            let (listener, shared) = (&added.listener, added.shared);
            let claim = |role| {
                let origin = listener.origin.clone();
                let age = applicant.age.clone();
                Claim { entrant: at, role, shared, added: true, age, origin }
            };
            let (address, bind) = (listener.address.0, listener.bind.ip());
            self.claim(address, claim(Role::Ingress));
            if bind != address && !bind.is_unspecified() {
                self.claim(bind, claim(Role::Listen));
            }
        }
    }
}

/// Returns whether a listener of before has the address, whatever else the tenant has it for. An address that an object's tenant was granted while nothing was served
/// there is none: a process that starts from the last accepted revision does not know of it.
fn is_of_listener(entrant: &Entrant<'_>, held: &Held) -> bool {
    let former = entrant.former.iter().flat_map(|former| &former.listeners);
    let mut addresses = former.flat_map(|listener| [listener.address.0, listener.bind.ip()]);
    let is_in_file = entrant.age.is_none();
    is_in_file && matches!(held.role, Role::Ingress | Role::Listen)
        || held.role != Role::Mapped && addresses.any(|address| address == held.address)
}

/// The one address an entry's socket is at, where it says so.
fn listening(listen: &At<ListenSpec>) -> Option<(IpAddr, Place)> {
    let written = listen.address.as_ref()?;
    let address = words::local_address(written).ok().filter(|address| !address.is_unspecified())?;
    Some((address, written.place))
}
