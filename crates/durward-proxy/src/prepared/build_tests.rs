//! Random sequences of configurations, against a model that knows only what each connection was admitted by.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use durward_model::limits::Limits;
use durward_model::listener::TcpService;
use durward_model::{DestinationMode, EgressAddress, IngressAddress, Origin, Service, SourceSet};
use proptest::prelude::*;

use super::*;
use crate::watch::Client;

const ADDRESSES: usize = 3;
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn is_removed(retirement: &Retirement) -> bool {
    let client = Client { address: CLIENT, name: None, api: None, is_proxy: false, shown: None };
    retirement.removed(client, &Cell::new(0))
}

/// Listener: its tenant, and the sources it admits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Door {
    tenant: usize,
    sources: usize,
}

/// Configuration: the listener at each address, and each tenant's egress and limit.
#[derive(Clone, Debug)]
struct Config {
    doors: [Option<Door>; ADDRESSES],
    egress: [u8; 2],
    limit: [u32; 2],
}

fn config() -> impl Strategy<Value = Config> {
    let door = proptest::option::of(
        (0usize..2, 0usize..3).prop_map(|(tenant, sources)| Door { tenant, sources }),
    );
    let doors = proptest::array::uniform3(door);
    (doors, proptest::array::uniform2(1u8..4), proptest::array::uniform2(1u32..3))
        .prop_map(|(doors, egress, limit)| Config { doors, egress, limit })
}

fn sources(at: usize) -> Option<SourceSet> {
    let block = ["192.0.2.0/24", "198.51.100.0/24"].get(at)?;
    Some(SourceSet::new([block.parse().unwrap()]))
}

fn address(at: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 10 + at as u8], 443))
}

/// Returns the addresses in bits 1 and 2 of `egress`.
fn egress(bits: u8) -> Vec<EgressAddress> {
    let address = |bit: u8| EgressAddress([203, 0, 113, bit].into());
    [1, 2].into_iter().filter(|bit| bits & bit != 0).map(address).collect()
}

fn snapshot(config: &Config) -> Snapshot {
    let id = |tenant: usize| TenantId::new(["a", "b"][tenant]).unwrap();
    let listener = |at: usize, door: Door| {
        Arc::new(Listener {
            tenant: id(door.tenant),
            address: IngressAddress(address(at).ip()),
            port: 443,
            bind: address(at),
            names: None,
            allowed_sources: sources(door.sources),
            service: Service::Tcp(TcpService { tls: None, upstreams: Vec::new() }),
            hosts_apis: false,
            acme: durward_model::Acme::default(),
            takes_ingresses: false,
            origin: Origin::default(),
        })
    };
    let doors = || config.doors.iter().enumerate();
    let bind = |(at, door): (usize, &Option<Door>)| {
        let listeners = vec![listener(at, (*door)?)];
        let bind = Bind {
            address: address(at),
            mode: DestinationMode::Bound,
            listeners,
            names: BTreeMap::new(),
            owners: Arc::default(),
        };
        Some((address(at), Arc::new(bind)))
    };
    let tenant = |tenant: usize| {
        let own = |(at, door): (usize, &Option<Door>)| {
            door.filter(|door| door.tenant == tenant).map(|door| listener(at, door))
        };
        let made = Tenant {
            id: id(tenant),
            egress: egress(config.egress[tenant]),
            upstreams: Vec::new(),
            listeners: doors().filter_map(own).collect(),
            transparent: Vec::new(),
            limits: Limits { connections: Some(config.limit[tenant]), ..Limits::default() },
            origin: Origin::default(),
        };
        (id(tenant), Arc::new(made))
    };
    Snapshot {
        generation: 1,
        tenants: (0..2).map(tenant).collect(),
        binds: doors().filter_map(bind).collect(),
        ..Snapshot::default()
    }
}

/// Returns the snapshot with unchanged parts as the same value, as the compile step makes it.
fn after(before: &Snapshot, mut now: Snapshot) -> Arc<Snapshot> {
    for (id, tenant) in &before.tenants {
        if now.tenants.get(id) == Some(tenant) {
            now.tenants.insert(id.clone(), Arc::clone(tenant));
        }
    }
    for (address, bind) in &before.binds {
        if now.binds.get(address) == Some(bind) {
            now.binds.insert(*address, Arc::clone(bind));
        }
    }
    now.nat = Arc::clone(&before.nat);
    Arc::new(now)
}

/// Connection made while `door` was at `at` and its tenant had these settings.
struct Connection {
    listener: Arc<PreparedListener>,
    at: usize,
    door: Door,
    egress: u8,
    limit: u32,
    must_end: bool,
}

impl Connection {
    /// Computes the effect of the new configuration by the model.
    fn live_through(&mut self, config: &Config) -> bool {
        let permitted = config.doors[self.at].is_some_and(|door| {
            door.tenant == self.door.tenant
                && sources(door.sources).is_none_or(|sources| sources.contains(CLIENT))
        });
        let leaves = self.egress & !config.egress[self.door.tenant] == 0;
        self.must_end |= !permitted || !leaves;
        config.doors[self.at] == Some(self.door)
            && config.egress[self.door.tenant] == self.egress
            && config.limit[self.door.tenant] == self.limit
    }
}

fn connect(prepared: &Prepared, config: &Config) -> Vec<Connection> {
    let connect = |(at, door): (usize, &Option<Door>)| {
        let door = (*door)?;
        let listener = prepared.binds[&address(at)].listeners[0].clone()?;
        let (egress, limit) = (config.egress[door.tenant], config.limit[door.tenant]);
        listener.listener.admits(CLIENT).then_some(Connection {
            listener,
            at,
            door,
            egress,
            limit,
            must_end: false,
        })
    };
    config.doors.iter().enumerate().filter_map(connect).collect()
}

proptest! {
    #[test]
    fn a_connection_ends_when_it_would_not_be_admitted_any_more_and_only_changes_disturb_it(
        configs in proptest::collection::vec(config(), 2..8),
    ) {
        let metrics = Metrics::new(1);
        let mut prepared = Prepared::default();
        let mut open: Vec<Connection> = Vec::new();
        let mut same = Vec::new();

        for config in &configs {
            let now = after(&prepared.snapshot, snapshot(config));
            let built = build(now, &prepared, &metrics);
            prop_assert!(built.problems.is_empty());
            built.retiring.retire();
            prepared = built.prepared;
            prop_assert_eq!(&*prepared.neighbours, &Neighbours::of(&prepared.snapshot));

            same.resize(open.len(), true);
            for (connection, same) in open.iter_mut().zip(&mut same) {
                *same &= connection.live_through(config);
                let retirement = &connection.listener.retirement;
                prop_assert!(!connection.must_end || is_removed(retirement), "it goes on");
                prop_assert!(!*same || !retirement.changed(), "it was disturbed for nothing");
            }
            for (at, door) in config.doors.iter().enumerate() {
                let bind = prepared.binds.get(&address(at));
                prop_assert_eq!(bind.is_some(), door.is_some());
                let Some(listener) = bind.and_then(|bind| bind.listeners[0].clone()) else { continue };
                let tenant = &listener.tenant.tenant;
                prop_assert_eq!(&tenant.id, &listener.listener.tenant);
                prop_assert!(Arc::ptr_eq(&listener.tenant, &prepared.tenants[&tenant.id]));
                prop_assert!(!listener.retirement.changed(), "new connections would end");
            }
            open.extend(connect(&prepared, config));
        }
    }
}
