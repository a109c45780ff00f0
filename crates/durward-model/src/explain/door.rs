//! The part of an explanation that finds the listener a client is for, and says why it is for none.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::address::Destination;
use crate::explain::{Ending, Question, Trail, kind_of, list};
use crate::listener::Listener;
use crate::snapshot::Snapshot;

impl Trail {
    /// Says which tenants' proxies stand at one door, and how it ends for a client that none of them admits: it is no tenant's.
    pub(super) fn shared_door(
        &mut self,
        snapshot: &Snapshot,
        listener: &Listener,
        question: &Question,
    ) -> Option<Ending> {
        let client = question.client.filter(|_| listener.names.is_none())?;
        let known = known_at(snapshot, question.destination);
        let names = |listeners: &[&Arc<Listener>]| {
            list(&listeners.iter().map(|listener| &listener.tenant).collect::<Vec<_>>())
        };
        let admitting: Vec<_> = known.iter().filter(|one| one.admits(client)).copied().collect();
        match admitting.len() {
            0 if known.len() > 1 => {
                self.kind = kind_of(&listener.service);
                let tenants = names(&known);
                let sentence = format!("{client} is in the allowedSources of none of {tenants}");
                Some(self.refuse("source", None, "source_not_allowed", sentence))
            }
            0 | 1 => None,
            _ => {
                let (tenants, first) = (names(&admitting), &listener.tenant);
                let sentence = format!(
                    "{tenants} share it, told apart by credential or certificate: what follows is for clients of {first}"
                );
                self.note("door", None, sentence);
                None
            }
        }
    }
}

/// Listeners are asked for by the address clients know, whatever bind they arrive on. Of several proxies at one door it is the one whose
/// sources the client is among.
pub(super) fn find_listener<'a>(
    snapshot: &'a Snapshot,
    question: &Question,
) -> Option<&'a Listener> {
    let destination = question.destination;
    let known = known_at(snapshot, destination);
    let admitted = || {
        let client = question.client?;
        known.iter().find(|listener| listener.admits(client))
    };
    let arrived = || {
        snapshot
            .bind_for(destination)
            .and_then(|bind| bind.listener_at(Destination(destination), destination.ip()))
            .map(|(_, listener)| listener)
    };
    let found = admitted().or_else(|| known.first());
    found.copied().or_else(arrived).map(|listener| &**listener)
}

/// Returns the listeners that clients know by this address and port; several only where they share it.
pub(super) fn known_at(snapshot: &Snapshot, destination: SocketAddr) -> Vec<&Arc<Listener>> {
    let listeners = snapshot.tenants.values().flat_map(|tenant| &tenant.listeners);
    listeners.filter(|listener| listener.key() == (destination.ip(), destination.port())).collect()
}

/// Says why no listener serves a destination.
pub(super) fn unserved(snapshot: &Snapshot, destination: SocketAddr) -> String {
    let bind = snapshot.bind_for(destination);
    let foreign = bind.and_then(|bind| Some((bind, bind.foreign_owner(destination.ip())?)));
    let Some((bind, owner)) = foreign else { return format!("no tenant has {destination}") };
    let ip = destination.ip();
    format!(
        "no tenant has {destination}: the socket at {} refuses it, for {ip} is an address of tenant {owner}",
        bind.address
    )
}
