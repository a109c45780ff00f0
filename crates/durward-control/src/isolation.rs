//! A static proof over a snapshot: no tenant reaches what is another's.
//!
//! `compile` makes snapshots that hold; this says so without trusting it. Deliberately absent: what the kernel and other hosts do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::discriminator::told_apart;
use durward_model::route::{Action, HostPattern, WeightedUpstream};
use durward_model::transport::Transport;
use durward_model::{AddressOwners, Destination, Listener, Service, Snapshot, Tenant, TenantId};
use thiserror::Error;

/// A way in which a snapshot would let one tenant into another's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Crossing {
    /// Two listeners at one address and port.
    #[error("{address} is served for both {first} and {second}")]
    Address {
        /// The address and port.
        address: String,
        /// One of them.
        first: TenantId,
        /// The other.
        second: TenantId,
    },
    /// A listener filed under another tenant.
    #[error("listener {listener} of {owner} is held by {holder}")]
    Listener {
        /// The listener.
        listener: String,
        /// Tenant that it names as its owner.
        owner: TenantId,
        /// The tenant that holds it.
        holder: TenantId,
    },
    /// A route to an upstream the tenant does not have.
    #[error("listener {listener} of {tenant} refers to upstream {index} of {count}")]
    Upstream {
        /// The listener.
        listener: String,
        /// Owning tenant.
        tenant: TenantId,
        /// The position referred to.
        index: usize,
        /// Number of upstreams that the tenant has.
        count: usize,
    },
    /// An upstream reached from an address that is not its tenant's, or from none.
    #[error("upstream {upstream} of {tenant} leaves from {source_address}, which is not its own")]
    Source {
        /// The upstream.
        upstream: String,
        /// Owning tenant.
        tenant: TenantId,
        /// The address, or `nowhere`.
        source_address: String,
    },
    /// A socket whose listeners are not those of the tenants.
    #[error("socket {bind} and the tenants disagree about {listener}")]
    Bind {
        /// The socket.
        bind: String,
        /// The listener.
        listener: String,
    },
    /// A name that does not lead to the tenant that has it.
    #[error("{name} at {listener} does not lead to {tenant}, which has it")]
    Name {
        /// The name.
        name: String,
        /// The address and port.
        listener: String,
        /// Owning tenant.
        tenant: TenantId,
    },
    /// A socket at all addresses that serves a tenant at an address of another.
    #[error("socket {bind} serves {listener} at {address}, an address of {owner}")]
    Foreign {
        /// The socket.
        bind: String,
        /// The listener.
        listener: String,
        /// The address.
        address: String,
        /// Tenant that holds the address.
        owner: TenantId,
    },
}

/// All ways in which `snapshot` would let one tenant into another's; none when it holds.
#[must_use]
pub fn crossings(snapshot: &Snapshot) -> Vec<Crossing> {
    let mut found = Vec::new();
    let mut owners: BTreeMap<_, Place<'_>> = BTreeMap::new();
    for tenant in snapshot.tenants.values() {
        for listener in tenant.listeners.iter().chain(&tenant.transparent) {
            let confused = owners.entry(listener.full_key()).or_default().add(listener);
            found.extend(confused.map(|first| Crossing::Address {
                address: listener.to_string(),
                first: first.clone(),
                second: tenant.id.clone(),
            }));
            found.extend(misnamed(snapshot, listener));
            own(tenant, listener, &mut found);
        }
        sources(tenant, &mut found);
    }
    binds(snapshot, &mut found);
    wildcards(snapshot, &mut found);
    found
}

/// The listeners at one address and port.
#[derive(Default)]
struct Place<'s> {
    listeners: Vec<&'s Listener>,
    names: HashMap<&'s HostPattern, &'s TenantId>,
}

impl<'s> Place<'s> {
    /// Adds a listener; returns a tenant that its clients could be taken for.
    fn add(&mut self, listener: &'s Listener) -> Option<&'s TenantId> {
        let others = match listener.names {
            // Names are compared by the table, so that many listeners are not compared each with each.
            Some(_) => &self.listeners[..self.listeners.len().min(1)],
            None => &self.listeners[..],
        };
        let confused = others.iter().find(|other| !told_apart(other, listener));
        let mut confused = confused.map(|other| &other.tenant);
        for name in listener.names.iter().flatten() {
            let known = self.names.insert(name, &listener.tenant);
            confused = confused.or(known);
        }
        self.listeners.push(listener);
        confused
    }
}

/// The socket finds the listener's tenant by each of its names.
fn misnamed(snapshot: &Snapshot, listener: &Listener) -> Option<Crossing> {
    let table = snapshot.binds.get(&listener.bind)?.names.get(&listener.key());
    let finds = |name| table.and_then(|table| table.holder(name)) == Some(&listener.tenant);
    let name = listener.names.iter().flatten().find(|name| !finds(name))?;
    Some(Crossing::Name {
        name: name.to_string(),
        listener: listener.to_string(),
        tenant: listener.tenant.clone(),
    })
}

/// A socket at all addresses serves nobody at an address that only others have. A tenant has an address where it is served, and one that it shares
/// with those who are served there, also while what it asked for there is broken.
fn wildcards(snapshot: &Snapshot, found: &mut Vec<Crossing>) {
    let wildcards: Vec<_> =
        snapshot.binds.values().filter(|bind| bind.address.ip().is_unspecified()).collect();
    if wildcards.is_empty() {
        return;
    }
    let mut owners = AddressOwners::default();
    for tenant in snapshot.tenants.values() {
        let ingress = tenant.listeners.iter().map(|listener| listener.address.0);
        for address in ingress.chain(tenant.egress.iter().map(|egress| egress.0)) {
            owners.insert(address, &tenant.id, false);
        }
    }
    for mapping in &snapshot.nat.mappings {
        for address in &mapping.addresses {
            owners.insert(address.0, &mapping.tenant, false);
        }
    }
    for bind in wildcards {
        for (address, tenants, _) in owners.iter() {
            let dialled = Destination(SocketAddr::new(address, bind.address.port()));
            let Some((_, listener)) = bind.listener_at(dialled, address) else { continue };
            let shares = bind.owners.is_shared(address)
                && bind.owners.of(address).contains(&listener.tenant);
            let has = shares || tenants.contains(&listener.tenant);
            if let (false, Some(owner)) = (has, tenants.first()) {
                found.push(Crossing::Foreign {
                    bind: bind.address.to_string(),
                    listener: listener.to_string(),
                    address: address.to_string(),
                    owner: owner.clone(),
                });
            }
        }
    }
}

fn own(tenant: &Tenant, listener: &Listener, found: &mut Vec<Crossing>) {
    if listener.tenant != tenant.id {
        found.push(Crossing::Listener {
            listener: listener.to_string(),
            owner: listener.tenant.clone(),
            holder: tenant.id.clone(),
        });
    }
    let count = tenant.upstreams.len();
    for choice in choices(&listener.service) {
        if choice.upstream.0 >= count {
            found.push(Crossing::Upstream {
                listener: listener.to_string(),
                tenant: tenant.id.clone(),
                index: choice.upstream.0,
                count,
            });
        }
    }
}

/// Returns the upstreams that a listener's service names.
pub(crate) fn choices(service: &Service) -> Vec<&WeightedUpstream> {
    match service {
        Service::Http(service) => service
            .routes
            .iter()
            .filter_map(|route| match &route.action {
                Action::Forward(forward) => Some(&forward.upstreams),
                Action::Redirect(_) | Action::Respond { .. } => None,
            })
            .flatten()
            .collect(),
        Service::PassThrough(routes) => routes.iter().flat_map(|route| &route.upstreams).collect(),
        Service::Tcp(service) => service.upstreams.iter().collect(),
        Service::Udp(service) => service.upstreams.iter().collect(),
        Service::Forward(_) | Service::Link(_) => Vec::new(),
    }
}

fn sources(tenant: &Tenant, found: &mut Vec<Crossing>) {
    for upstream in &tenant.upstreams {
        let mut fault = |source_address: String| {
            found.push(Crossing::Source {
                upstream: upstream.name.to_string(),
                tenant: tenant.id.clone(),
                source_address,
            });
        };
        if upstream.sources.is_empty() {
            fault("nowhere".to_owned());
        }
        for source in upstream.sources.iter().filter(|source| !tenant.egress.contains(source)) {
            fault(source.to_string());
        }
    }
}

/// Every listener is reached through the socket it names, and no socket reaches anything else.
fn binds(snapshot: &Snapshot, found: &mut Vec<Crossing>) {
    let keyed = |listener: &Arc<Listener>| (listener.full_key(), listener.tenant.clone());
    let of_tcp = snapshot.binds.iter().map(|(address, bind)| (Transport::Tcp, *address, bind));
    let of_udp = snapshot.udp.iter().map(|(address, bind)| (Transport::Udp, *address, bind));
    let reached: BTreeSet<_> = of_tcp
        .chain(of_udp)
        .flat_map(|(transport, address, bind)| {
            let listeners = bind.listeners.iter();
            listeners.map(move |listener| ((transport, address), keyed(listener)))
        })
        .collect();
    let known: BTreeSet<_> = snapshot
        .tenants
        .values()
        .flat_map(|tenant| tenant.listeners.iter().chain(&tenant.transparent))
        .map(|listener| ((listener.transport(), listener.bind), keyed(listener)))
        .collect();
    for ((_, bind), ((address, port, _), _)) in reached.symmetric_difference(&known) {
        let listener = SocketAddr::new(*address, *port).to_string();
        found.push(Crossing::Bind { bind: bind.to_string(), listener });
    }
}
