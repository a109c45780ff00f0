//! Decides claims to addresses, ports and sockets: the oldest claim wins, and the loser's finding names the holder and where its claim is written.
//!
//! Deliberately absent: sockets; here it is decided what they will be asked to be.

mod named;
mod ports;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::discriminator::told_apart;
use durward_model::mapping::PortMapping;
use durward_model::transport::Transport;
use durward_model::{AddressOwners, DestinationMode, Listener, ListenerKey, Origin, Service};

use super::addresses::{Addresses, Role, Taken};
use super::body::{Candidate, Candidates, List};
use super::claim_table::{Claim, Door};
use super::contribution::merge;
use super::mapping::Applicant;
use super::precedence::Precedence;
use super::report::Field;
use super::roster::Roster;
use super::upstream_set::UpstreamSet;
use super::{Compiled, last_good};
use named::{Named, Names, Wanted};
use ports::Ports;

/// Listeners and upstreams that are served once all claims are decided.
#[derive(Debug, Default)]
pub(crate) struct Claimed<'a> {
    /// The listeners that have their address and socket.
    pub(crate) listeners: Vec<Candidate>,
    /// Destination mode of each socket.
    pub(crate) modes: HashMap<SocketAddr, DestinationMode>,
    /// Holders of addresses, for sockets that must tell them from their own.
    pub(crate) owners: AddressOwners,
    /// Each tenant's upstreams.
    pub(crate) upstreams: Vec<UpstreamSet<'a>>,
}

/// Decides all claims.
pub(crate) fn decide<'a>(
    roster: &mut Roster<'a>,
    candidates: Candidates<'a>,
    mappings: &mut [Applicant<'_>],
    (addresses, previous): (&mut Addresses, Option<&Compiled>),
) -> Claimed<'a> {
    let Candidates { listeners, mut upstreams } = candidates;
    let mut register = Register::new(addresses);
    listeners.iter().for_each(|candidate| note_claim(roster, candidate));
    let (named, listeners): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|candidate| candidate.listener.names.is_some());
    let mut asking: Vec<Asking> = listeners.into_iter().map(Asking::Listener).collect();
    let mut named: Vec<Named> = named.into_iter().map(Named::new).collect();
    for (at, one) in named.iter().enumerate() {
        asking.extend(one.wanted(at, roster, previous).map(Asking::Names));
    }
    for (at, applicant) in mappings.iter().enumerate() {
        asking.push(Asking::Mapping(at));
        if applicant.current.is_some() && applicant.former.is_some() {
            asking.push(Asking::FormerMapping(at));
        }
    }
    asking.sort_by_cached_key(|asking| match asking {
        Asking::Listener(candidate) => rank(roster, candidate, previous),
        Asking::Names(wanted) => wanted.rank.clone(),
        Asking::FormerMapping(at) => (mappings[*at].precedence(true), 0),
        Asking::Mapping(at) => (mappings[*at].precedence(mappings[*at].held()), 1),
    });
    let mut unlucky = Vec::new();
    for asking in asking {
        unlucky.extend(register.ask(roster, (mappings, &mut named), asking));
    }
    let mut losers = Vec::new();
    for asking in without_luck(&mut register, roster, (mappings, &mut named), unlucky) {
        match asking {
            Asking::Listener(candidate) => {
                if let Some(objection) = register.objection(roster, &candidate) {
                    objection.tell(roster, &candidate);
                }
                losers.push(candidate);
            }
            Asking::Names(wanted) => named[wanted.at].refuse(wanted.names),
            Asking::Mapping(at) | Asking::FormerMapping(at) => {
                register.ports.tell(&mut mappings[at]);
            }
        }
    }
    for named in named {
        if register.tell_names(roster, &named) {
            losers.push(named.candidate);
        }
    }
    for loser in losers {
        stand_in(roster, &mut register, &mut upstreams, &loser, previous);
    }
    // Listeners of before that stand in have made no claim yet.
    let accepted = register.accepted.iter().filter(|candidate| candidate.entry.is_none());
    accepted.for_each(|candidate| note_claim(roster, candidate));
    let (listeners, modes) = (register.accepted, register.modes);
    merge::settle(roster, &listeners);
    Claimed { listeners, modes, owners: AddressOwners::default(), upstreams }
}

/// Lets those ask again that could not have what they asked for: what a mapping gave up while others asked is free now. Returns those that cannot
/// have it.
fn without_luck(
    register: &mut Register<'_>,
    roster: &Roster<'_>,
    (mappings, named): (&mut [Applicant<'_>], &mut [Named]),
    mut unlucky: Vec<Asking>,
) -> Vec<Asking> {
    loop {
        let before = unlucky.len();
        let again = unlucky.into_iter();
        let ask = |asking| register.ask(roster, (&mut *mappings, &mut *named), asking);
        unlucky = again.filter_map(ask).collect();
        let stuck = unlucky.iter().filter_map(|asking| match asking {
            Asking::Mapping(at) => Some(*at),
            Asking::Listener(_) | Asking::Names(_) | Asking::FormerMapping(_) => None,
        });
        let stuck: Vec<usize> = stuck.collect();
        let is_changed = register.ports.exchange(mappings, &stuck);
        if !is_changed && unlucky.len() == before {
            return unlucky;
        }
    }
}

fn note_claim(roster: &mut Roster<'_>, candidate: &Candidate) {
    let door = Door::new(&candidate.listener, &candidate.mode);
    let entrant = &mut roster.entrants[candidate.entrant];
    entrant.claims.push(Claim::Door(Arc::new(door)));
    entrant.cite(&candidate.listener.origin);
}

/// Claimant of addresses and ports.
enum Asking {
    Listener(Candidate),
    /// Of a listener that shares its address and port by names.
    Names(Wanted),
    /// Ports that a mapping held before, so that no other claim takes them while it asks for others. By position.
    FormerMapping(usize),
    /// By position.
    Mapping(usize),
}

type Rank = (Precedence, usize);

fn rank(roster: &Roster<'_>, candidate: &Candidate, previous: Option<&Compiled>) -> Rank {
    let entrant = &roster.entrants[candidate.entrant];
    let key = candidate.listener.full_key();
    let former = entrant
        .previous
        .and_then(|former| former.listeners.iter().find(|listener| listener.full_key() == key));
    let held = match former {
        Some(former) => has(former, candidate, previous),
        // Of an earlier process only this much is known.
        None => entrant.past.listeners.contains(&key),
    };
    let age = candidate.added.as_ref().and_then(|added| added.age(roster));
    let position = candidate.entry.map_or(usize::MAX, |entry| entry.position);
    (entrant.precedence_as(age.as_ref(), held), position)
}

/// Returns whether the former listener had all that the candidate asks for: its socket, the way in which the socket knows destinations, and
/// where others share them the clients it is for. Whoever asks for more than it had comes after those who have it.
fn has(former: &Listener, candidate: &Candidate, previous: Option<&Compiled>) -> bool {
    let listener = &candidate.listener;
    let bind = previous.and_then(|previous| previous.snapshot.bind_of(former));
    former.bind == listener.bind
        && bind.is_some_and(|bind| bind.mode == candidate.mode)
        && former.names.is_some() == listener.names.is_some()
        && (listener.names.is_some()
            || !(shares(former) || shares(listener))
            || has_same_clients(former, listener))
}

fn has_same_clients(known: &Listener, listener: &Listener) -> bool {
    let (Service::Forward(was), Service::Forward(is)) = (&known.service, &listener.service) else {
        return false;
    };
    known.allowed_sources == listener.allowed_sources
        && (was.shared, &was.tls, &was.holders) == (is.shared, &is.tls, &is.holders)
        && was.credentials == is.credentials
}

/// The loser's tenant keeps what it had before in place of what it may not have.
fn stand_in<'a>(
    roster: &Roster<'a>,
    register: &mut Register<'_>,
    upstreams: &mut [UpstreamSet<'a>],
    loser: &Candidate,
    previous: Option<&Compiled>,
) {
    let entrant = &roster.entrants[loser.entrant];
    if loser.entry.is_none() || entrant.former.is_none() {
        return;
    }
    let accepted = register.accepted.iter().filter(|candidate| candidate.entrant == loser.entrant);
    let mut claimed: BTreeSet<_> =
        accepted.map(|candidate| candidate.listener.full_key()).collect();
    let key = loser.listener.full_key();
    let mut former = entrant.former.iter().flat_map(|former| &former.listeners);
    // The former listener at this place, or else one that would be gone.
    let broken = former.any(|former| former.full_key() == key).then_some(key);
    if broken.is_none() {
        claimed.insert(key);
    }
    for listener in last_good::for_broken(entrant.former, &[broken], &mut claimed) {
        let set = &mut upstreams[loser.entrant];
        let Some(former) = last_good::candidate(loser.entrant, entrant, &listener, set, previous)
        else {
            continue;
        };
        let added = loser.added.as_ref().filter(|_| former.listener.full_key() == key);
        let former = match added {
            Some(added) => added.again(former),
            None => former,
        };
        match former.listener.names.clone() {
            Some(names) => {
                let names = names.iter().cloned().collect();
                drop(register.ask_names(roster, &mut Named::new(former), names));
            }
            None if register.objection(roster, &former).is_none() => {
                register.accept(roster, former);
            }
            None => {}
        }
    }
}

struct Register<'r> {
    addresses: &'r mut Addresses,
    accepted: Vec<Candidate>,
    by_key: HashMap<ListenerKey, Vec<usize>>,
    by_bind: HashMap<SocketAddr, usize>,
    /// Holders of sockets for datagrams.
    by_udp_bind: HashMap<SocketAddr, usize>,
    by_bind_and_address: HashMap<(SocketAddr, IpAddr), usize>,
    modes: HashMap<SocketAddr, DestinationMode>,
    names: Names,
    ports: Ports,
}

impl<'r> Register<'r> {
    fn new(addresses: &'r mut Addresses) -> Self {
        Self {
            addresses,
            accepted: Vec::new(),
            by_key: HashMap::new(),
            by_bind: HashMap::new(),
            by_udp_bind: HashMap::new(),
            by_bind_and_address: HashMap::new(),
            modes: HashMap::new(),
            names: Names::default(),
            ports: Ports::default(),
        }
    }

    /// Gives who asks what it asks for; returns who cannot have it.
    fn ask(
        &mut self,
        roster: &Roster<'_>,
        (mappings, named): (&mut [Applicant<'_>], &mut [Named]),
        asking: Asking,
    ) -> Option<Asking> {
        match asking {
            Asking::Names(Wanted { at, rank, names }) => {
                let names = self.ask_names(roster, &mut named[at], names);
                (!names.is_empty()).then_some(Asking::Names(Wanted { at, rank, names }))
            }
            Asking::Listener(candidate) => {
                if self.objection(roster, &candidate).is_some() {
                    return Some(Asking::Listener(candidate));
                }
                self.accept(roster, candidate);
                None
            }
            Asking::FormerMapping(at) => {
                self.ports.reserve(&mut mappings[at]);
                None
            }
            Asking::Mapping(at) => {
                let had = self.ports.decide(&mut mappings[at]);
                (!had).then_some(Asking::Mapping(at))
            }
        }
    }

    fn accept(&mut self, roster: &Roster<'_>, candidate: Candidate) {
        let at = self.accepted.len();
        let listener = &candidate.listener;
        for (address, role) in addresses_of(listener) {
            self.addresses.take(roster, candidate.entrant, address, role);
        }
        self.by_key.entry(listener.full_key()).or_default().push(at);
        self.ports.listen(listener);
        if listener.transport() == Transport::Udp {
            self.by_udp_bind.insert(listener.bind, at);
            self.accepted.push(candidate);
            return;
        }
        self.by_bind.entry(listener.bind).or_insert(at);
        self.by_bind_and_address.entry((listener.bind, listener.address.0)).or_insert(at);
        self.modes.entry(listener.bind).or_insert_with(|| candidate.mode.clone());
        self.accepted.push(candidate);
    }

    /// Returns the reason why a candidate cannot be served beside those accepted.
    fn objection(&self, roster: &Roster<'_>, candidate: &Candidate) -> Option<Objection> {
        let listener = &candidate.listener;
        let holder = |at: usize| self.holder(roster, at);
        let mut addresses = addresses_of(listener);
        let foreign = addresses.find_map(|(address, role)| {
            let objection = self.addresses.objection(roster, candidate.entrant, address, role)?;
            Some(Objection::Foreign { role, objection })
        });
        if foreign.is_some() {
            return foreign;
        }
        let there = self.by_key.get(&listener.full_key()).map_or(&[][..], Vec::as_slice);
        let by_names =
            |at: &usize| listener.names.is_some() || self.accepted[*at].listener.names.is_some();
        if let Some(&first) = there.first().filter(|first| by_names(first)) {
            if let Some(objection) = self.objection_by_names(roster, first, candidate) {
                return Some(objection);
            }
        } else if let Some(&at) = there.iter().find(|at| !self.apart(**at, candidate)) {
            let shared = [listener, &self.accepted[at].listener].map(|listener| shares(listener));
            return Some(match shared {
                [true, true] => Objection::Door(holder(at)),
                _ => Objection::Address(holder(at)),
            });
        }
        if let Some(mapping) = self.ports.mapping_of(listener) {
            return Some(Objection::Mapped(mapping));
        }
        if listener.transport() == Transport::Udp {
            // A datagram says nothing of the listener that it is for but the socket that it arrives on.
            return self.by_udp_bind.get(&listener.bind).map(|&at| Objection::Port(holder(at)));
        }
        let (&at, mode) = self.by_bind.get(&listener.bind).zip(self.modes.get(&listener.bind))?;
        if *mode != candidate.mode {
            return Some(Objection::Mode { holder: holder(at), has: described(mode) });
        }
        // Also of those that could share it: the dialled address decides nothing here, and may be one that only one of them has.
        if *mode == DestinationMode::Port {
            return Some(Objection::Port(holder(at)));
        }
        if !there.is_empty() {
            return None;
        }
        // On a bound socket with another port than the listener's, the address alone must tell.
        let other = self.by_bind_and_address.get(&(listener.bind, listener.address.0));
        let rewritten = |at: &&usize| {
            *mode == DestinationMode::Bound
                && (self.accepted[**at].listener.port != listener.bind.port()
                    || listener.port != listener.bind.port())
        };
        other.filter(rewritten).map(|&at| Objection::Ambiguous(holder(at)))
    }

    /// Returns true if a proxy can stand beside one at the same address and port: on the same socket, another tenant's, and no client is both's.
    fn apart(&self, at: usize, candidate: &Candidate) -> bool {
        let accepted = &self.accepted[at];
        accepted.entrant != candidate.entrant
            && accepted.listener.bind == candidate.listener.bind
            && told_apart(&accepted.listener, &candidate.listener)
    }

    fn holder(&self, roster: &Roster<'_>, at: usize) -> Holder {
        let accepted = &self.accepted[at];
        Holder {
            entrant: accepted.entrant,
            tenant: roster.entrants[accepted.entrant].id.to_string(),
            origin: accepted.listener.origin.clone(),
        }
    }
}

/// The addresses a listener needs: the one clients know, and that of its socket where it is another.
fn addresses_of(listener: &Listener) -> impl Iterator<Item = (IpAddr, Role)> + use<> {
    let (address, bind) = (listener.address.0, listener.bind.ip());
    let socket = (bind != address && !bind.is_unspecified()).then_some((bind, Role::Listen));
    [(address, Role::Ingress)].into_iter().chain(socket)
}

/// Returns true if the listener may share its address and port.
pub(super) fn shares(listener: &Listener) -> bool {
    listener.names.is_some()
        || matches!(&listener.service, Service::Forward(service) if service.shared)
}

struct Holder {
    entrant: usize,
    tenant: String,
    origin: Origin,
}

/// Reason why a listener is left out.
enum Objection {
    /// One of its addresses is another tenant's.
    Foreign { role: Role, objection: Taken },
    /// Another listener holds its address and port.
    Address(Holder),
    /// They would share, but a client could be both tenants'.
    Door(Holder),
    /// They would share by names, but on another socket, or one speaks TLS and the other does not.
    Names(Holder),
    /// A port mapping has its address and port.
    Mapped(Arc<PortMapping>),
    /// The socket has another destination mode.
    Mode { holder: Holder, has: String },
    /// Socket of one listener.
    Port(Holder),
    /// Its socket could not tell it from another listener.
    Ambiguous(Holder),
}

impl Objection {
    fn tell(&self, roster: &mut Roster<'_>, candidate: &Candidate) {
        let (reason, name, sentence) = self.told(candidate);
        if let Some(added) = &candidate.added {
            added.tell(roster, (reason, &sentence));
        }
        // What was served before is in no document now, so there is nothing to point at.
        let Some(entry) = candidate.entry else { return };
        let egress = Field::SPEC.name("egress");
        let parent = match entry.list {
            List::Ingress => Field::SPEC.name("ingress"),
            List::Proxy => egress.name("proxy"),
        };
        let field = parent.index(entry.position);
        let field = field.name(name);
        roster.entrants[candidate.entrant].report.error(reason, entry.place, &field, &sentence);
    }

    fn told(&self, candidate: &Candidate) -> (&'static str, &'static str, String) {
        let listener = &candidate.listener;
        let bind = listener.bind;
        let (reason, name, holder, sentence) = match self {
            Self::Foreign { role, objection } => {
                let name = if *role == Role::Listen { "listen" } else { "address" };
                return ("AddressTaken", name, objection.with_cure("shared: true"));
            }
            Self::Address(holder) => {
                ("AddressTaken", "address", holder, format!("{listener} is taken by"))
            }
            Self::Door(holder) => (
                "ProxyAmbiguous",
                "address",
                holder,
                format!(
                    "{listener} cannot be shared, because a client could be both tenants': give both allowedSources that do not overlap, or \
                     certificateNames or credentials that differ, on the same socket and with the same TLS; it is used by"
                ),
            ),
            Self::Names(holder) => ("NamesUnfitting", "names", holder, named::unfitting(listener)),
            Self::Mapped(mapping) => {
                let sentence =
                    format!("{listener} is taken by {}, which asked first", ports::named(mapping));
                return ("AddressTaken", "address", sentence);
            }
            Self::Mode { holder, has } => (
                "BindTaken",
                "listen",
                holder,
                format!(
                    "asks {bind} to know destinations by {}, but it knows them by {has}: use another listen.address or port; it was set up by",
                    described(&candidate.mode)
                ),
            ),
            Self::Port(holder) => (
                "PortTaken",
                "listen",
                holder,
                format!(
                    "asks for {bind}, which serves one listener only: use another listen.port; it serves"
                ),
            ),
            Self::Ambiguous(holder) => (
                "BindAmbiguous",
                "listen",
                holder,
                format!(
                    "shares {bind} with another listener of the same address, which its rewritten port cannot tell apart: use another listen.port; the other is"
                ),
            ),
        };
        let own = holder.entrant == candidate.entrant;
        let who = if own {
            "this tenant's own entry".to_owned()
        } else {
            format!("tenant {}", holder.tenant)
        };
        (reason, name, format!("{sentence} {who} ({}), which asked first", holder.origin))
    }
}

fn described(mode: &DestinationMode) -> String {
    match mode {
        DestinationMode::ProxyProtocol { trusted, inner } => {
            let blocks: Vec<_> = trusted.blocks().iter().map(ToString::to_string).collect();
            let inner = if *inner { " with inner headers" } else { "" };
            format!("ProxyProtocol from {}{inner}", blocks.join(", "))
        }
        other => other.name().to_owned(),
    }
}
