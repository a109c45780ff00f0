//! Computes the kernel state that a model asks for: a pure function of model, options and interfaces.
//!
//! A mapping is in it whole or not at all; the report says which.

mod egress;
pub mod ejected;
mod mappings;
pub mod patch;
pub mod policy;

use std::collections::BTreeMap;
use std::net::IpAddr;

use durward_model::TenantId;
use durward_model::mapping::NatModel;
use durward_model::transport::Transport;
use ipnet::IpNet;

use crate::interface::Interfaces;
use crate::mark;
use crate::nftables::changes::Detail;
use crate::nftables::ruleset::Value;
use crate::nftables::{Changes, Element, Ruleset};
use crate::options::{AssignedAddress, Options};
use crate::policy_route::Routing;
use crate::program::step::{Ip, port_key};
use crate::program::{Shapes, program, words};
use crate::report::Report;
use crate::sysctl::{self, REMEMBERED, Sysctl, Wrong};
pub use ejected::Ejected;
pub use policy::Policy;

/// Kernel state that a model asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// nftables table.
    pub ruleset: Ruleset,
    /// Routes and rules of policy routing.
    pub routing: Routing,
    /// Kernel parameters.
    pub sysctls: BTreeMap<Sysctl, u32>,
    /// Addresses to assign to this host.
    pub addresses: BTreeMap<IpAddr, AssignedAddress>,
    /// Connections that may go on.
    pub policy: Policy,
    /// Result of each mapping and egress rule.
    pub report: Report,
}

/// Changes from one state to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Changes of the nftables table.
    pub ruleset: Changes,
    /// Routes and rules to add.
    pub new_routing: Routing,
    /// Routes and rules to remove.
    pub old_routing: Routing,
    /// Kernel parameters to set.
    pub sysctls: BTreeMap<Sysctl, Wrong>,
}

/// Computes the kernel state of `model` on a host with these interfaces, with every endpoint in rotation.
#[must_use]
pub fn desired(model: &NatModel, options: &Options, interfaces: &Interfaces) -> Desired {
    desired_without(model, &Ejected::default(), options, interfaces)
}

/// Computes the kernel state without the endpoints that checks took out of rotation: new connections do not reach them, existing ones go on.
#[must_use]
pub fn desired_without(
    model: &NatModel,
    ejected: &Ejected,
    options: &Options,
    interfaces: &Interfaces,
) -> Desired {
    let mut elements = Elements::default();
    let mut shapes = Shapes::default();
    let mut policy = Policy::default();
    let outputs = (&mut elements, &mut shapes, &mut policy);
    let mappings = mappings::compile((model, ejected), interfaces, outputs);
    let outputs = (&mut elements, &mut shapes, &mut policy);
    let egress = egress::compile(model, (options, interfaces), outputs);
    let report = Report { mappings, egress, ..Report::default() };
    let mut ruleset = program(options, interfaces, &shapes);
    count_tenants(model, &mut ruleset, &mut elements);
    let_in(model, options, interfaces, &mut elements);
    for (set, mut elements) in elements.0 {
        if let Some(set) = ruleset.sets.get_mut(&set) {
            set.elements.append(&mut elements);
        }
    }
    ruleset.sets.insert(REMEMBERED.to_owned(), sysctl::memory());
    // Sources of rejected rules are enrolled too: their traffic is refused, whichever interface it would leave by.
    let enrolled: Vec<IpNet> =
        model.egress.iter().flat_map(|rule| rule.sources.iter().copied()).collect();
    let mut routing = Routing::wanted(options, interfaces, &policy.addresses(), &enrolled);
    if shapes.transparent {
        routing = routing.with_own(options);
    }
    Desired {
        ruleset,
        routing,
        sysctls: Sysctl::wanted(interfaces),
        addresses: options.addresses.clone(),
        policy,
        report,
    }
}

/// Returns the changes from `current` to `desired`; kernel parameters are compared by the caller, which can read them.
#[must_use]
pub fn diff(current: (&Ruleset, &Routing), desired: &Desired) -> Difference {
    Difference {
        ruleset: Changes::between(current.0, &desired.ruleset),
        new_routing: desired.routing.without(current.1),
        old_routing: current.1.without(&desired.routing),
        sysctls: BTreeMap::new(),
    }
}

impl Difference {
    /// Returns true if nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ruleset.is_empty()
            && self.new_routing.is_empty()
            && self.old_routing.is_empty()
            && self.sysctls.is_empty()
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.write(f, Detail::Elements)
    }
}

impl Difference {
    /// Formats one line per change; of a table that is created as a whole, all its rules as well.
    #[must_use]
    pub fn in_full(&self) -> String {
        struct Full<'a>(&'a Difference);
        impl std::fmt::Display for Full<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.write(f, Detail::All)
            }
        }
        Full(self).to_string()
    }

    /// Returns true if the table is created as a whole, so that its rules are not shown with the rest.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.ruleset.first
    }

    fn write(&self, f: &mut std::fmt::Formatter<'_>, detail: Detail) -> std::fmt::Result {
        self.ruleset.write(f, detail, words::change)?;
        for (sign, routing) in [('+', &self.new_routing), ('-', &self.old_routing)] {
            for line in routing.lines() {
                writeln!(f, "{sign} {line}")?;
            }
        }
        sysctl::change_lines(&self.sysctls).try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Returns the name of a tenant's counter, which also keeps its number for a process that adopts the table.
fn tenant_counter(tenant: &TenantId, number: u16) -> String {
    format!("t_{number}_{tenant}")
}

/// Parses the tenant and number from the name of a counter.
pub(crate) fn counted_tenant(counter: &str) -> Option<(TenantId, u16)> {
    let (number, tenant) = counter.strip_prefix("t_")?.split_once('_')?;
    Some((TenantId::new(tenant).ok()?, number.parse().ok()?))
}

/// Elements by set, while they are collected.
#[derive(Clone, Debug, Default)]
struct Elements(BTreeMap<String, BTreeMap<Vec<u8>, Element>>);

impl Elements {
    fn put(&mut self, set: &str, key: Vec<u8>, value: Value) {
        self.put_range(set, key, None, value);
    }

    fn put_range(&mut self, set: &str, key: Vec<u8>, end: Option<Vec<u8>>, value: Value) {
        let element = Element { end, value };
        match self.0.get_mut(set) {
            Some(elements) => drop(elements.insert(key, element)),
            None => drop(self.0.insert(set.to_owned(), [(key, element)].into())),
        }
    }
}

/// Admits connections to sockets of this host at external addresses: its own listeners, and those that the options name.
fn let_in(model: &NatModel, options: &Options, interfaces: &Interfaces, elements: &mut Elements) {
    let listeners = model.local.iter().map(|at| (at.ip(), Transport::Tcp, at.port()));
    let receivers = model.local_udp.iter().map(|at| (at.ip(), Transport::Udp, at.port()));
    let named = options.local.iter().map(|one| (one.address, one.protocol, one.port));
    for (address, protocol, port) in listeners.chain(receivers).chain(named) {
        // A socket at `::` accepts both families.
        let of_host = interfaces.addresses().filter(|own| address.is_ipv6() || own.is_ipv4());
        let all = if address.is_unspecified() { of_host.collect() } else { vec![address] };
        for address in all {
            let ip = Ip::of(address.is_ipv4());
            if let Some(bytes) = ip.bytes(address) {
                let key = port_key(&bytes, protocol.number(), port);
                elements.put(&format!("local{}", ip.digit()), key, Value::Nothing);
            }
        }
    }
}

fn count_tenants(model: &NatModel, ruleset: &mut Ruleset, elements: &mut Elements) {
    for (tenant, number) in &model.tenants {
        let (counter, number) = (tenant_counter(tenant, *number), *number);
        let key = mark::mark(number, 0, 0).to_ne_bytes().to_vec();
        elements.put("ctr", key, Value::Counter(counter.clone()));
        ruleset.counters.insert(counter);
    }
}
