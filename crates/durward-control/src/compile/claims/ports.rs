//! Which external ports the kernel leads elsewhere, and which it must leave to listeners: a mapping is served whole or not at all.
//!
//! Deliberately absent: the order of claims; whoever asks first here has asked first.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::mapping::{PortMapping, PortRange, Transport};
use durward_model::{Listener, Origin};

use crate::compile::mapping::Applicant;
use crate::compile::report::Field;
use crate::place::Place;

/// Who has which port.
#[derive(Default)]
pub(super) struct Ports {
    mapped: BTreeMap<(IpAddr, Transport), Mapped>,
    /// The addresses and ports of listeners, as clients and as sockets know them.
    listeners: BTreeMap<SocketAddr, (String, Origin)>,
}

/// Ranges that do not overlap, by their first port.
type Mapped = BTreeMap<u16, (PortRange, Arc<PortMapping>)>;

/// Why a mapping is left out.
struct Objection {
    /// The port of the mapping, by position.
    port: usize,
    address: IpAddr,
    protocol: Transport,
    ports: PortRange,
    holder: String,
}

impl Ports {
    /// Takes the ports of what the mapping asks for; whether it could have them all.
    pub(super) fn decide(&mut self, applicant: &mut Applicant<'_>) -> bool {
        let Some(wanted) = applicant.wanted().cloned() else { return true };
        let Some(objection) = self.objection(&wanted) else {
            self.accept(&wanted);
            applicant.served = Some(wanted);
            return true;
        };
        // What was served before is in no document now, so there is nothing to point at.
        if applicant.current.is_some() {
            let field = Field::SPEC.name("ports");
            let field = field.index(objection.port);
            let place = applicant.places.ports.get(objection.port).copied();
            let Objection { address, protocol, ports, holder, .. } = &objection;
            let sentence =
                format!("{address} {protocol} {ports} is taken by {holder}, which asked first");
            let place = place.unwrap_or_else(Place::default);
            applicant.report.error("PortTaken", place, &field, &sentence);
        }
        false
    }

    /// Serves the mapping as it was, where nobody objects to that.
    pub(super) fn stand_in(&mut self, applicant: &mut Applicant<'_>) {
        let (Some(_), Some(former)) = (&applicant.current, applicant.former.clone()) else {
            return;
        };
        if self.objection(&former).is_none() {
            self.accept(&former);
            applicant.served = Some(former);
        }
    }

    /// Takes note of a listener that is served.
    pub(super) fn listen(&mut self, listener: &Listener) {
        let (address, port) = listener.key();
        let who = format!("listener {listener} of tenant {}", listener.tenant);
        for at in [SocketAddr::new(address, port), listener.bind] {
            self.listeners.entry(at).or_insert_with(|| (who.clone(), listener.origin.clone()));
        }
    }

    /// The mapping that keeps a listener from being reached.
    pub(super) fn mapping_of(&self, listener: &Listener) -> Option<Arc<PortMapping>> {
        let (address, port) = listener.key();
        let on = |at: SocketAddr| {
            let port = PortRange::one(at.port())?;
            if !at.ip().is_unspecified() {
                return overlapping(self.mapped.get(&(at.ip(), Transport::Tcp))?, port);
            }
            let reached = self.mapped.iter().filter(|((address, protocol), _)| {
                *protocol == Transport::Tcp && covers(at.ip(), *address)
            });
            reached.map(|(_, mapped)| mapped).find_map(|mapped| overlapping(mapped, port))
        };
        on(SocketAddr::new(address, port)).or_else(|| on(listener.bind)).map(Arc::clone)
    }

    fn accept(&mut self, mapping: &Arc<PortMapping>) {
        for address in &mapping.addresses {
            for port in &mapping.ports {
                let of = self.mapped.entry((address.0, port.protocol)).or_default();
                of.insert(port.ports.first(), (port.ports, Arc::clone(mapping)));
            }
        }
    }

    fn objection(&self, mapping: &PortMapping) -> Option<Objection> {
        mapping.addresses.iter().find_map(|address| {
            let address = address.0;
            mapping.ports.iter().enumerate().find_map(|(at, port)| {
                let (protocol, ports) = (port.protocol, port.ports);
                let holder = self.holder(address, protocol, ports)?;
                Some(Objection { port: at, address, protocol, ports, holder })
            })
        })
    }

    fn holder(&self, address: IpAddr, protocol: Transport, ports: PortRange) -> Option<String> {
        let mapped = self.mapped.get(&(address, protocol));
        if let Some(holder) = mapped.and_then(|mapped| overlapping(mapped, ports)) {
            return Some(named(holder));
        }
        if protocol != Transport::Tcp {
            return None;
        }
        let unspecified = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let bound = unspecified.into_iter().filter(|bound| covers(*bound, address));
        let (_, (who, origin)) = bound.chain([address]).find_map(|bound| {
            let at = |port| SocketAddr::new(bound, port);
            self.listeners.range(at(ports.first())..=at(ports.last())).next()
        })?;
        Some(format!("{who} ({origin})"))
    }
}

/// The mapping that has one of the ports.
fn overlapping(mapped: &Mapped, ports: PortRange) -> Option<&Arc<PortMapping>> {
    let (_, (known, mapping)) = mapped.range(..=ports.last()).next_back()?;
    known.overlaps(ports).then_some(mapping)
}

/// Whether a socket at `bound` accepts connections to `address`; `::` is for both families.
fn covers(bound: IpAddr, address: IpAddr) -> bool {
    bound == address || (bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4()))
}

/// A mapping as those who lose to it are told.
pub(super) fn named(mapping: &PortMapping) -> String {
    format!("mapping {} of tenant {} ({})", mapping.name, mapping.tenant, mapping.origin)
}
