//! The part of an explanation that finds the tenant by the name a client asks for, where several share an address and port by names.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::address::Destination;
use crate::discriminator::{Discriminator, Opening};
use crate::explain::door::known_at;
use crate::explain::{Ending, Question, Trail, kind_of, list};
use crate::listener::Listener;
use crate::names;
use crate::server_name::server_name;
use crate::snapshot::Snapshot;

impl Trail {
    /// Returns the listener of the name that is asked for, if listeners are found by name there.
    pub(super) fn by_name<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        question: &Question,
    ) -> Option<Result<&'a Listener, Ending>> {
        let mut known = known_at(snapshot, question.destination, question.transport);
        if known.is_empty() {
            known = arriving(snapshot, question.destination);
        }
        let first = known.iter().find(|listener| listener.names.is_some())?;
        self.kind = kind_of(&first.service);
        let name = match self.name_asked_for(first, question) {
            Ok(name) => name,
            Err(ending) => return Some(Err(ending)),
        };
        let what = if first.opening() == Some(Opening::Head) { "Host" } else { "SNI" };
        let bind = snapshot.binds.get(&first.bind);
        let owner = bind.and_then(|bind| bind.named(first.key(), &name));
        let found = known.iter().find(|listener| Some(&listener.tenant) == owner);
        Some(match found {
            Some(listener) => {
                self.note(
                    "name",
                    Some(&listener.origin),
                    format!("{what} {name} is {}'s", listener.tenant),
                );
                Ok(listener)
            }
            None => {
                let tenants: Vec<_> = known.iter().map(|listener| &listener.tenant).collect();
                let sentence = format!("{what} {name} is no name of {} there", list(&tenants));
                Err(self.refuse("name", None, "unknown_name", sentence))
            }
        })
    }

    /// Returns the name as the table of names has it: of clients that name nothing it is the address that they connect to.
    fn name_asked_for(
        &mut self,
        listener: &Listener,
        question: &Question,
    ) -> Result<String, Ending> {
        let unnamed = || names::unnamed(listener.address.0);
        match listener.opening() {
            Some(Opening::Head) => Ok(self.host_asked_for(question)?.unwrap_or_else(unnamed)),
            Some(Opening::ClientHello) | None => {
                let Some(asked) = question.sni.as_deref() else { return Ok(unnamed()) };
                match server_name(asked) {
                    Ok(name) => Ok(names::asked(name.as_deref(), listener.address.0).into_owned()),
                    Err(fault) => {
                        Err(self.refuse("name", None, "client_hello", format!("{asked}: {fault}")))
                    }
                }
            }
        }
    }
}

/// Returns the listeners with names that a connection to a socket's own address may be for.
fn arriving(snapshot: &Snapshot, destination: SocketAddr) -> Vec<&Arc<Listener>> {
    let bind = snapshot.bind_for(destination);
    let candidates = bind.and_then(|bind| {
        let candidates = bind.candidates(Destination(destination), destination.ip())?;
        let named = candidates.by == Discriminator::ServerName;
        named.then(|| bind.listeners[candidates.listeners].iter().collect())
    });
    candidates.unwrap_or_default()
}
