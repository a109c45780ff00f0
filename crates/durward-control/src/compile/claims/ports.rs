//! Which external ports the kernel leads elsewhere, and which it must leave to listeners: a mapping is served whole or not at all.
//!
//! Deliberately absent: the order of claims; whoever asks first here has asked first.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::Listener;
use durward_model::mapping::{PortMapping, PortRange};
use durward_model::transport::Transport;

use crate::compile::claim_table::covers;
use crate::compile::mapping::Applicant;
use crate::compile::report::Field;

/// Holders of ports.
#[derive(Default)]
pub(super) struct Ports {
    mapped: BTreeMap<(IpAddr, Transport), Mapped>,
    /// The addresses and ports of listeners, as clients and as sockets know them.
    listeners: BTreeMap<(Transport, SocketAddr), Arc<Listener>>,
}

/// Ranges that do not overlap, by their first port.
type Mapped = BTreeMap<u16, (PortRange, Arc<PortMapping>)>;

/// Reason why a mapping is left out.
struct Objection {
    /// The port of the mapping, by position.
    port: usize,
    address: IpAddr,
    protocol: Transport,
    ports: PortRange,
    holder: String,
}

impl Ports {
    /// Serves the mapping as it was, until it is decided whether it may be what it asks for now.
    pub(super) fn reserve(&mut self, applicant: &mut Applicant<'_>) {
        let Some(former) = applicant.former.clone() else { return };
        if self.objection(&former).is_none() {
            self.accept(&former);
            applicant.served = Some(former);
        }
    }

    /// Takes the ports of what the mapping asks for; one that cannot have them all stays as it was. Whether it could.
    pub(super) fn decide(&mut self, applicant: &mut Applicant<'_>) -> bool {
        let Some(wanted) = applicant.wanted().cloned() else { return true };
        let reserved = applicant.served.take();
        if let Some(former) = &reserved {
            self.release(former);
        }
        if self.objection(&wanted).is_none() {
            self.accept(&wanted);
            applicant.served = Some(wanted);
            return true;
        }
        if let Some(former) = &reserved {
            self.accept(former);
        }
        applicant.served = reserved;
        false
    }

    /// Lets mappings that stand in one another's way change places: `stuck` are those that cannot have what they ask for while all keep what
    /// they had. Returns whether any got it.
    ///
    /// All of them give up what they had and take what they ask for, the first first. Who cannot goes back to what it had, and so does
    /// whoever has taken that.
    pub(super) fn exchange(&mut self, applicants: &mut [Applicant<'_>], stuck: &[usize]) -> bool {
        let mut moves = BTreeMap::new();
        for at in stuck {
            let Applicant { served, current, .. } = &applicants[*at];
            if let (Some(former), Some(wanted)) = (served, current) {
                moves.insert(*at, (Arc::clone(former), Arc::clone(wanted)));
            }
        }
        moves.values().for_each(|(former, _)| self.release(former));
        let mut failed = Vec::new();
        let mut moved = BTreeMap::new();
        for at in stuck {
            let Some((_, wanted)) = moves.get(at) else { continue };
            if self.objection(wanted).is_none() {
                self.accept(wanted);
                moved.insert(Arc::as_ptr(wanted), *at);
            } else {
                failed.push(*at);
            }
        }
        while let Some(at) = failed.pop() {
            let (former, _) = &moves[&at];
            while let Some(taker) = self.overlapping(former) {
                // Only those that have moved can be there: before, nobody was.
                let Some(taker) = moved.remove(&Arc::as_ptr(&taker)) else { break };
                self.release(&moves[&taker].1);
                failed.push(taker);
            }
            self.accept(former);
        }
        for at in moved.values() {
            applicants[*at].served = Some(Arc::clone(&moves[at].1));
        }
        !moved.is_empty()
    }

    /// Returns a mapping that has one of the ports of this one.
    fn overlapping(&self, mapping: &PortMapping) -> Option<Arc<PortMapping>> {
        mapping.addresses.iter().find_map(|address| {
            mapping.ports.iter().find_map(|port| {
                let there = self.mapped.get(&(address.0, port.protocol))?;
                overlapping(there, port.ports).map(Arc::clone)
            })
        })
    }

    /// Says why the mapping cannot be what it asks for.
    pub(super) fn tell(&mut self, applicant: &mut Applicant<'_>) {
        // What was served before is in no document now, so there is nothing to point at.
        let Some(wanted) = applicant.current.clone() else { return };
        let reserved = applicant.served.clone();
        if let Some(former) = &reserved {
            self.release(former);
        }
        let objection = self.objection(&wanted);
        if let Some(former) = &reserved {
            self.accept(former);
        }
        let Some(Objection { port, address, protocol, ports, holder }) = objection else { return };
        let field = Field::SPEC.name("ports");
        let field = field.index(port);
        let place = applicant.place(|spec| Some(spec.ports.get(port)?.place));
        let sentence =
            format!("{address} {protocol} {ports} is taken by {holder}, which asked first");
        applicant.report.error("PortTaken", place, &field, &sentence);
    }

    /// Records a listener that is served.
    pub(super) fn listen(&mut self, listener: &Arc<Listener>) {
        let (address, port) = listener.key();
        let (known, transport) = (SocketAddr::new(address, port), listener.transport());
        let mut take = |at| {
            let place = self.listeners.entry((transport, at));
            place.or_insert_with(|| Arc::clone(listener));
        };
        take(known);
        if listener.bind != known {
            take(listener.bind);
        }
    }

    /// The mapping that keeps a listener from being reached.
    pub(super) fn mapping_of(&self, listener: &Listener) -> Option<Arc<PortMapping>> {
        let ((address, port), transport) = (listener.key(), listener.transport());
        let on = |at: SocketAddr| {
            let port = PortRange::one(at.port())?;
            if !at.ip().is_unspecified() {
                return overlapping(self.mapped.get(&(at.ip(), transport))?, port);
            }
            let reached = self.mapped.iter().filter(|((address, protocol), _)| {
                *protocol == transport && covers(at.ip(), *address)
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

    fn release(&mut self, mapping: &PortMapping) {
        for address in &mapping.addresses {
            for port in &mapping.ports {
                if let Some(of) = self.mapped.get_mut(&(address.0, port.protocol)) {
                    of.remove(&port.ports.first());
                }
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
        let unspecified = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let bound = unspecified.into_iter().filter(|bound| covers(*bound, address));
        let (_, listener) = bound.chain([address]).find_map(|bound| {
            let at = |port| (protocol, SocketAddr::new(bound, port));
            self.listeners.range(at(ports.first())..=at(ports.last())).next()
        })?;
        let Listener { tenant, origin, .. } = &**listener;
        Some(format!("listener {listener} of tenant {tenant} ({origin})"))
    }
}

/// The mapping that has one of the ports.
fn overlapping(mapped: &Mapped, ports: PortRange) -> Option<&Arc<PortMapping>> {
    let (_, (known, mapping)) = mapped.range(..=ports.last()).next_back()?;
    known.overlaps(ports).then_some(mapping)
}

/// Returns the description of a mapping in the findings of claims that lose to it.
pub(super) fn named(mapping: &PortMapping) -> String {
    format!("mapping {} of tenant {} ({})", mapping.name, mapping.tenant, mapping.origin)
}
