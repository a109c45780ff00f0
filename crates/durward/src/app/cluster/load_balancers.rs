//! Services of type `LoadBalancer` of our class: which of the addresses they ask for their tenants have.

use std::net::IpAddr;
use std::sync::Arc;

use durward_control::Store;
use durward_kube::Source;
use durward_kube::load_balancers::{Answer, LoadBalancer, LoadBalancerWriter};
use durward_model::{Tenant, TenantId};
use durward_proxy::present::PresentAddresses;

use super::Served;

/// Says of each Service which addresses it has.
pub(super) fn look(writer: &LoadBalancerWriter, served: &Served, store: &Store, source: &Source) {
    let services = source.load_balancers();
    let present = (!services.is_empty()).then(PresentAddresses::now);
    let answers = services.into_iter().filter_map(|service| {
        let answer = answer(&service, served, store, present.as_ref()?)?;
        Some((service, answer))
    });
    writer.want(answers.collect());
}

/// Returns what is true of a Service; `None` while that is not known.
fn answer(
    service: &LoadBalancer,
    served: &Served,
    store: &Store,
    present: &PresentAddresses,
) -> Option<Answer> {
    let addresses = match service.addresses() {
        Ok(addresses) => addresses,
        Err(refusal) => return Some(refusal),
    };
    let tenant = match store.tenant_of(&service.name.namespace, &service.labels)? {
        Ok(tenant) => tenant,
        Err(why) => return Some(Answer::Refuses("NamespaceWithoutTenant", why)),
    };
    let view = served.view.snapshot.tenants.get(&tenant);
    let is_its = |address: &&IpAddr| {
        view.is_some_and(|view| listens(view, **address)) || is_mapped(served, &tenant, **address)
    };
    if let Some(foreign) = addresses.iter().find(|address| !is_its(address)) {
        let sentence = format!(
            "{foreign} is not an address of tenant {tenant}: name it in the tenant's ingress, or ask for another one"
        );
        return Some(Answer::Refuses("AddressNotOwned", sentence));
    }
    // What another gateway has is that one's to say.
    let is_here = |address: &IpAddr| {
        let by_proxy =
            served.by_proxy && view.is_some_and(|view| listens_here(view, *address, present));
        let by_kernel = served.by_kernel && is_mapped(served, &tenant, *address);
        by_proxy || (by_kernel && present.has(*address))
    };
    addresses.iter().all(is_here).then_some(Answer::Serves(addresses))
}

fn listens(tenant: &Tenant, address: IpAddr) -> bool {
    tenant.listeners.iter().any(|listener| listener.address.0 == address)
}

/// Returns whether a listener can be reached at the address: it is on this host, or clients come by something in front that says it.
fn listens_here(tenant: &Tenant, address: IpAddr, present: &PresentAddresses) -> bool {
    let mut there = tenant.listeners.iter().filter(|listener| listener.address.0 == address);
    there.any(|listener| listener.bind.ip() != address || present.has(address))
}

fn is_mapped(served: &Served, tenant: &TenantId, address: IpAddr) -> bool {
    let mut mappings = served.view.snapshot.nat.mappings.iter();
    mappings.any(|mapping| {
        mapping.tenant == *tenant && mapping.addresses.iter().any(|one| one.0 == address)
    })
}

/// Returns the namespaces whose labels say whose the Services are.
pub(super) fn namespaces(source: &Source) -> Vec<Arc<str>> {
    let services = source.load_balancers();
    services.into_iter().map(|service| Arc::clone(&service.name.namespace)).collect()
}
