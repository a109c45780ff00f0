//! Claims of all tenants, kept from one compile to the next: from what one tenant asks for to the others that it concerns.
//!
//! Two tenants whose claims do not meet can be compiled without each other. Deliberately absent: who wins; that is decided among
//! those who meet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use durward_model::discriminator::{Opening, told_apart};
use durward_model::mapping::PortRange;
use durward_model::route::HostPattern;
use durward_model::transport::Transport;
use durward_model::{DestinationMode, Listener, ServerNames, SharedMap, TenantId};
use ipnet::IpNet;

use super::keys::KeyId;
use super::roster::Past;

/// One thing that a tenant asks for, whether or not it has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Claim {
    /// An address, in any direction.
    Address {
        address: IpAddr,
        /// True if only a socket is asked for, beside those of others.
        is_socket: bool,
        shared: bool,
    },
    /// The address that the endpoints of a mapping leave from; two tenants never share one for that.
    Leaving(IpAddr),
    /// A network whose traffic leaves as the tenant's.
    Network(IpNet),
    /// An endpoint that a mapping leads to.
    Endpoint(IpAddr),
    /// A private key or a file of secrets.
    Key { key: KeyId, shared: bool },
    /// A listener's address, port and socket.
    Door(Arc<Door>),
    /// External ports of a mapping.
    Ports { address: IpAddr, transport: Transport, ports: PortRange },
}

/// All of a listener that another one, or a mapping, can be in the way of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Door {
    key: (IpAddr, u16),
    transport: Transport,
    bind: SocketAddr,
    mode: DestinationMode,
    /// The listener, if it lets others have its address and port.
    shared: Option<Arc<Listener>>,
}

/// Socket, and what clients send first: only listeners that agree in this stand at one address and port.
type Way = (SocketAddr, Option<Opening>);

impl Door {
    pub(crate) fn new(listener: &Arc<Listener>, mode: &DestinationMode) -> Self {
        let shared = super::claims::shares(listener).then(|| Arc::clone(listener));
        Self {
            key: listener.key(),
            transport: listener.transport(),
            bind: listener.bind,
            mode: mode.clone(),
            shared,
        }
    }

    /// Returns whether both can be served at one address and port.
    fn is_apart(&self, other: &Self) -> bool {
        let both = self.shared.as_ref().zip(other.shared.as_ref());
        self.bind == other.bind && both.is_some_and(|(one, other)| told_apart(one, other))
    }

    /// Returns whether both can be served through one socket.
    fn shares_socket(&self, other: &Self) -> bool {
        let named = self.key == other.key && self.names().is_some() && other.names().is_some();
        let apart = self.key.0 != other.key.0;
        self.transport == Transport::Tcp
            && self.mode == other.mode
            && self.mode != DestinationMode::Port
            && (named || apart)
    }

    fn place(&self) -> (Transport, (IpAddr, u16)) {
        (self.transport, self.key)
    }

    fn socket(&self) -> (Transport, SocketAddr) {
        (self.transport, self.bind)
    }

    fn names(&self) -> Option<&ServerNames> {
        self.shared.as_ref()?.names.as_ref()
    }

    fn way(&self) -> Way {
        (self.bind, self.shared.as_ref().and_then(|listener| listener.opening()))
    }
}

/// The claims of all tenants by what is claimed.
///
/// An index of everybody is built when it is asked for first, and shared by later tables; those have the claims of tenants that were compiled since in an index of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClaimTable {
    base: Arc<Base>,
    since: Arc<Since>,
}

/// More tenants than these that were compiled since, and the next table has a new base.
const MOST_SINCE: usize = 256;

#[derive(Debug, Default)]
struct Base {
    tenants: Tenants,
    index: OnceLock<Index>,
}

/// State of all tenants in one compile.
pub(crate) type Tenants = SharedMap<TenantId, Arc<Past>>;

#[derive(Clone, Debug, Default)]
struct Since {
    /// The tenants whose claims in the base are those of before.
    tenants: HashSet<TenantId>,
    index: Index,
}

impl ClaimTable {
    /// Returns the table of all these tenants.
    pub(crate) fn new(tenants: &Tenants) -> Self {
        let base = Base { tenants: tenants.clone(), index: OnceLock::new() };
        Self { base: Arc::new(base), since: Arc::default() }
    }

    /// Returns the table after some tenants were compiled: `former` and `present` are the states of all tenants before and after.
    pub(crate) fn with<'a>(
        &self,
        compiled: impl Iterator<Item = &'a TenantId>,
        former: &Tenants,
        present: &Tenants,
    ) -> Self {
        if self.since.tenants.len() > MOST_SINCE {
            return Self::new(present);
        }
        let mut since = Arc::clone(&self.since);
        for tenant in compiled {
            let claims = |of: &Tenants| of.get(tenant).map(|past| Arc::clone(&past.claims));
            let (was, is) = (claims(former), claims(present));
            if was == is && !self.since.tenants.contains(tenant) {
                continue;
            }
            let since = Arc::make_mut(&mut since);
            if !since.tenants.insert(tenant.clone()) {
                since.index.remove(tenant, &was.unwrap_or_default());
            }
            since.index.add(tenant, &is.unwrap_or_default());
        }
        Self { base: Arc::clone(&self.base), since }
    }

    /// Notes everybody with a claim that cannot be granted beside this one. Of the claims of one tenant each is granted beside the others.
    pub(crate) fn meeting(&self, claim: &Claim, meet: &mut impl FnMut(&TenantId)) {
        self.since.index.meeting(claim, meet);
        self.base.index().meeting(claim, &mut |tenant| {
            if !self.since.tenants.contains(tenant) {
                meet(tenant);
            }
        });
    }
}

impl Base {
    fn index(&self) -> &Index {
        self.index.get_or_init(|| {
            let mut index = Index::default();
            self.tenants.iter().for_each(|(tenant, past)| index.add(tenant, &past.claims));
            index
        })
    }
}

/// Tenants by what they claim.
#[derive(Clone, Debug, Default)]
struct Index {
    addresses: Places<IpAddr, (bool, bool)>,
    leaving: Places<IpAddr, ()>,
    networks: Places<IpNet, ()>,
    /// Number of networks of each prefix length.
    lengths: BTreeMap<u8, usize>,
    endpoints: Places<IpAddr, ()>,
    keys: HashMap<KeyId, Vec<(TenantId, bool)>>,
    /// Without those that have names.
    doors: Places<(Transport, (IpAddr, u16)), Arc<Door>>,
    /// Those that have names, in the ways in which they tell them apart, and by each name.
    named: BTreeMap<(IpAddr, u16), BTreeMap<Way, BTreeSet<TenantId>>>,
    names: HashMap<((IpAddr, u16), HostPattern), BTreeSet<TenantId>>,
    sockets: Places<(Transport, SocketAddr), Arc<Door>>,
    ports: Places<(IpAddr, Transport), PortRange>,
}

type Places<K, T> = BTreeMap<K, Vec<(TenantId, T)>>;

impl Index {
    /// Takes a tenant's claims in.
    fn add(&mut self, tenant: &TenantId, claims: &[Claim]) {
        for claim in claims {
            match claim {
                Claim::Address { address, is_socket, shared } => {
                    put(&mut self.addresses, *address, tenant, (*is_socket, *shared));
                }
                Claim::Leaving(address) => put(&mut self.leaving, *address, tenant, ()),
                Claim::Network(network) => {
                    let network = network.trunc();
                    *self.lengths.entry(network.prefix_len()).or_default() += 1;
                    put(&mut self.networks, network, tenant, ());
                }
                Claim::Endpoint(address) => put(&mut self.endpoints, *address, tenant, ()),
                Claim::Key { key, shared } => {
                    self.keys.entry(*key).or_default().push((tenant.clone(), *shared));
                }
                Claim::Door(door) => {
                    match door.names() {
                        Some(names) => self.name(tenant, door, names),
                        None => put(&mut self.doors, door.place(), tenant, Arc::clone(door)),
                    }
                    put(&mut self.sockets, door.socket(), tenant, Arc::clone(door));
                }
                Claim::Ports { address, transport, ports } => {
                    put(&mut self.ports, (*address, *transport), tenant, *ports);
                }
            }
        }
    }

    /// Takes a tenant's claims out.
    fn remove(&mut self, tenant: &TenantId, claims: &[Claim]) {
        for claim in claims {
            match claim {
                Claim::Address { address, .. } => take(&mut self.addresses, address, tenant),
                Claim::Leaving(address) => take(&mut self.leaving, address, tenant),
                Claim::Network(network) => {
                    let network = network.trunc();
                    if let Some(count) = self.lengths.get_mut(&network.prefix_len()) {
                        *count -= 1;
                        if *count == 0 {
                            self.lengths.remove(&network.prefix_len());
                        }
                    }
                    take(&mut self.networks, &network, tenant);
                }
                Claim::Endpoint(address) => take(&mut self.endpoints, address, tenant),
                Claim::Key { key, .. } => {
                    if let Some(there) = self.keys.get_mut(key) {
                        there.retain(|(holder, _)| holder != tenant);
                        if there.is_empty() {
                            self.keys.remove(key);
                        }
                    }
                }
                Claim::Door(door) => {
                    match door.names() {
                        Some(names) => self.unname(tenant, door, names),
                        None => take(&mut self.doors, &door.place(), tenant),
                    }
                    take(&mut self.sockets, &door.socket(), tenant);
                }
                Claim::Ports { address, transport, .. } => {
                    take(&mut self.ports, &(*address, *transport), tenant);
                }
            }
        }
    }

    fn meeting(&self, claim: &Claim, meet: &mut impl FnMut(&TenantId)) {
        match claim {
            Claim::Address { address, is_socket, shared } => {
                for (tenant, (other_is_socket, other_shared)) in at(&self.addresses, address) {
                    if !(*is_socket && *other_is_socket || *shared && *other_shared) {
                        meet(tenant);
                    }
                }
                all(at(&self.leaving, address), meet);
                if !is_socket {
                    self.around(IpNet::from(*address), meet);
                }
            }
            Claim::Leaving(address) => {
                all(at(&self.addresses, address), meet);
                all(at(&self.leaving, address), meet);
            }
            Claim::Network(network) => self.network(network.trunc(), meet),
            Claim::Endpoint(address) => self.around(IpNet::from(*address), meet),
            Claim::Key { key, shared } => {
                let there = self.keys.get(key).map_or(&[][..], Vec::as_slice);
                let others = there.iter().filter(|(_, other)| !(*shared && *other));
                others.for_each(|(tenant, _)| meet(tenant));
            }
            Claim::Door(door) => self.door(door, meet),
            Claim::Ports { address, transport, ports } => {
                let there = at(&self.ports, &(*address, *transport)).iter();
                let others = there.filter(|(_, other)| other.overlaps(*ports));
                others.for_each(|(tenant, _)| meet(tenant));
                self.listening(*address, (*transport, *ports), meet);
            }
        }
    }

    fn network(&self, network: IpNet, meet: &mut impl FnMut(&TenantId)) {
        self.around(network, meet);
        let (first, last) = (network.network(), network.broadcast());
        for (inner, there) in self.networks.range(network..) {
            if !network.contains(&inner.addr()) {
                break;
            }
            all(there, meet);
        }
        for (_, there) in self.addresses.range(first..=last) {
            let own = there.iter().filter(|(_, (is_socket, _))| !is_socket);
            own.for_each(|(tenant, _)| meet(tenant));
        }
        self.endpoints.range(first..=last).for_each(|(_, there)| all(there, meet));
    }

    /// Notes who asks for a network that contains this one.
    fn around(&self, network: IpNet, meet: &mut impl FnMut(&TenantId)) {
        for length in self.lengths.keys().take_while(|length| **length <= network.prefix_len()) {
            if let Ok(wider) = IpNet::new(network.addr(), *length) {
                all(at(&self.networks, &wider.trunc()), meet);
            }
        }
    }

    fn name(&mut self, tenant: &TenantId, door: &Door, names: &ServerNames) {
        let ways = self.named.entry(door.key).or_default();
        ways.entry(door.way()).or_default().insert(tenant.clone());
        for name in names {
            self.names.entry((door.key, name.clone())).or_default().insert(tenant.clone());
        }
    }

    fn unname(&mut self, tenant: &TenantId, door: &Door, names: &ServerNames) {
        let ways = self.named.entry(door.key).or_default();
        let way = door.way();
        if ways.get_mut(&way).is_some_and(|there| there.remove(tenant) && there.is_empty()) {
            ways.remove(&way);
        }
        if ways.is_empty() {
            self.named.remove(&door.key);
        }
        for name in names {
            let key = (door.key, name.clone());
            if let Some(there) = self.names.get_mut(&key)
                && there.remove(tenant)
                && there.is_empty()
            {
                self.names.remove(&key);
            }
        }
    }

    /// Notes who has names at the address and port of a listener that those of the listener cannot stand beside.
    fn named(&self, door: &Door, meet: &mut impl FnMut(&TenantId)) {
        let ways = self.named.get(&door.key).into_iter().flatten();
        let Some(names) = door.names() else {
            return ways.flat_map(|(_, there)| there).for_each(meet);
        };
        let way = door.way();
        ways.filter(|(other, _)| **other != way).flat_map(|(_, there)| there).for_each(&mut *meet);
        for name in names {
            self.names.get(&(door.key, name.clone())).into_iter().flatten().for_each(&mut *meet);
        }
    }

    fn door(&self, door: &Door, meet: &mut impl FnMut(&TenantId)) {
        self.named(door, meet);
        let there = at(&self.doors, &door.place()).iter();
        there.filter(|(_, other)| !door.is_apart(other)).for_each(|(tenant, _)| meet(tenant));
        let there = at(&self.sockets, &door.socket()).iter();
        there.filter(|(_, other)| !door.shares_socket(other)).for_each(|(tenant, _)| meet(tenant));
        let transport = door.transport;
        self.mapped(SocketAddr::new(door.key.0, door.key.1), transport, meet);
        if door.bind.ip().is_unspecified() {
            let reached = self.ports.keys().filter(|(address, _)| covers(door.bind.ip(), *address));
            reached.for_each(|(address, _)| {
                self.mapped(SocketAddr::new(*address, door.bind.port()), transport, meet);
            });
        } else {
            self.mapped(door.bind, transport, meet);
        }
    }

    /// Notes whose mappings have a port.
    fn mapped(&self, socket: SocketAddr, transport: Transport, meet: &mut impl FnMut(&TenantId)) {
        let there = at(&self.ports, &(socket.ip(), transport)).iter();
        let port = socket.port();
        let having = there.filter(|(_, ports)| (ports.first()..=ports.last()).contains(&port));
        having.for_each(|(tenant, _)| meet(tenant));
    }

    /// Notes who listens at ports of an address.
    fn listening(
        &self,
        address: IpAddr,
        (transport, ports): (Transport, PortRange),
        meet: &mut impl FnMut(&TenantId),
    ) {
        let (first, last) = ((address, ports.first()), (address, ports.last()));
        let doors = self.doors.range((transport, first)..=(transport, last));
        doors.for_each(|(_, there)| all(there, meet));
        if transport == Transport::Tcp {
            let named = self.named.range(first..=last);
            named.flat_map(|(_, ways)| ways.values().flatten()).for_each(&mut *meet);
        }
        let unspecified = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        for bound in
            unspecified.into_iter().filter(|bound| covers(*bound, address)).chain([address])
        {
            let socket = |port| (transport, SocketAddr::new(bound, port));
            let sockets = self.sockets.range(socket(ports.first())..=socket(ports.last()));
            sockets.for_each(|(_, there)| all(there, meet));
        }
    }
}

/// Returns whether a socket at `bound` accepts connections to `address`; `::` is for both families.
pub(super) fn covers(bound: IpAddr, address: IpAddr) -> bool {
    bound == address || (bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4()))
}

fn at<'a, K: Ord, T>(places: &'a Places<K, T>, key: &K) -> &'a [(TenantId, T)] {
    places.get(key).map_or(&[], Vec::as_slice)
}

fn all<T>(there: &[(TenantId, T)], meet: &mut impl FnMut(&TenantId)) {
    there.iter().for_each(|(tenant, _)| meet(tenant));
}

fn put<K: Ord, T>(places: &mut Places<K, T>, key: K, tenant: &TenantId, terms: T) {
    places.entry(key).or_default().push((tenant.clone(), terms));
}

fn take<K: Ord, T>(places: &mut Places<K, T>, key: &K, tenant: &TenantId) {
    if let Some(there) = places.get_mut(key) {
        there.retain(|(holder, _)| holder != tenant);
        if there.is_empty() {
            places.remove(key);
        }
    }
}
