//! Proof by the configuration: each address belongs to one tenant, nothing refers to another's, no client may ask the proxy for a neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use durward_control::isolation;
use durward_model::egress::neighbours::{NO_HOST, Surroundings};
use durward_model::egress::{Asked, Host, Neighbours, Outcome};
use durward_model::{Service, Snapshot, Tenant, Verdicts};

use super::Tally;
use crate::commands::check::report::Category;
use crate::output::count;

/// Policy evaluations at most; the report says how many there were.
const MOST: u64 = 2_000_000;

pub(super) fn prove(snapshot: &Snapshot, verdicts: &Verdicts) -> Category {
    let mut category = Category::new("static");
    addresses(&mut category, snapshot);
    names(&mut category, snapshot);
    let crossings = isolation::crossings(snapshot);
    for crossing in &crossings {
        category.error(crossing.to_string(), "this is a fault of durward: please report it");
    }
    if crossings.is_empty() {
        category.ok("no listener, route, upstream or proxy refers to what is another tenant's");
    }
    rules(&mut category, snapshot);
    if !verdicts.all_accepted() {
        category.warn(
            "some documents are not accepted as they are, and not part of this",
            "see: durward validate",
        );
    }
    category
}

/// Says how many names lead to tenants at shared ports; that each leads to one is part of what is proved of crossings.
fn names(category: &mut Category, snapshot: &Snapshot) {
    let tables = snapshot.binds.values().flat_map(|bind| bind.names.values());
    let (ports, names) =
        tables.fold((0, 0), |(ports, names), table| (ports + 1, names + table.len()));
    if ports > 0 {
        let (ports, names) = (count(ports, "port"), count(names, "name"));
        category
            .ok(format!("{names} at {ports} that tenants share: each name belongs to one tenant"));
    }
}

/// Checks that each address maps to one tenant, unless all that have it declare it shared.
fn addresses(category: &mut Category, snapshot: &Snapshot) {
    let mut owners: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    for tenant in snapshot.tenants.values() {
        for address in &tenant.egress {
            owners.entry(address.0.to_canonical()).or_default().insert(tenant.id.as_str());
        }
    }
    let tenants = count(snapshot.tenants.len(), "tenant");
    let addresses = format!("{} egress addresses", owners.len());
    let shared: Vec<_> = owners.iter().filter(|(_, owners)| owners.len() > 1).collect();
    if shared.is_empty() {
        category.ok(format!("{tenants}, {addresses}: each address belongs to one tenant"));
    }
    for (address, owners) in shared {
        let owners: Vec<&str> = owners.iter().copied().collect();
        category.warn(
            format!("{tenants}, {addresses}: {} leave from {address} together", owners.join(", ")),
            "each says egress.shared: true; a partner cannot tell them apart",
        );
    }
}

/// Evaluates every proxy's policy for every address of every other tenant, at the ports of its listeners and at 443.
fn rules(category: &mut Category, snapshot: &Snapshot) {
    let neighbours = Neighbours::of(snapshot);
    let mut tally = Tally::default();
    let askers = snapshot.tenants.values().filter(|tenant| policies(tenant).next().is_some());
    'all: for tenant in askers {
        let around = Surroundings { tenant: &tenant.id, neighbours: &neighbours, host: &NO_HOST };
        let others = snapshot.tenants.values().filter(|other| other.id != tenant.id);
        for (address, port) in others.flat_map(|other| places(other)) {
            if tenant.egress.iter().any(|own| own.0.to_canonical() == address) {
                continue;
            }
            for policy in policies(tenant) {
                let host = Host::Address(address);
                let asked = Asked { host: &host, port, method: None };
                let outcome = policy.decide(around, asked, &[address]).outcome;
                tally.add(outcome != Outcome::Deny);
                if tally.tried >= MOST {
                    break 'all;
                }
            }
        }
    }
    if tally.tried == 0 {
        return;
    }
    let asked =
        format!("{} evaluations of the proxies' rules for other tenants' addresses", tally.tried);
    if tally.crossed == 0 {
        category.ok(format!("{asked}: all denied"));
    } else {
        let sentence = format!("{asked}: {} let through", tally.crossed);
        category.error(sentence, "this is a fault of durward: please report it");
    }
}

fn policies(tenant: &Tenant) -> impl Iterator<Item = &durward_model::egress::Policy> {
    tenant.listeners.iter().filter_map(|listener| match &listener.service {
        Service::Forward(service) => Some(&*service.policy),
        _ => None,
    })
}

fn places(tenant: &Tenant) -> Vec<(IpAddr, u16)> {
    let doors = tenant.listeners.iter().map(|listener| (listener.address.0, listener.port));
    let leaving = tenant.egress.iter().map(|address| (address.0, 443));
    doors.chain(leaving).map(|(address, port)| (address.to_canonical(), port)).collect()
}
