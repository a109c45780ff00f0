//! Services of type `LoadBalancer` of our class: which of the addresses they ask for their tenants have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use durward_control::Store;
use durward_control::stream::{Answered, Standing};
use durward_kube::Source;
use durward_kube::load_balancers::{Answer, LoadBalancer, LoadBalancerWriter};
use durward_model::TenantId;

/// Returns what is to be asked: the addresses of all Services, each with the tenant of its Service.
pub(super) fn asked(store: &Store, source: &Source) -> BTreeSet<(TenantId, IpAddr)> {
    let services = source.load_balancers().into_iter();
    let of = |service: Arc<LoadBalancer>| {
        let tenant = store.tenant_of(&service.name.namespace, &service.labels)?.ok()?;
        let addresses = service.addresses().ok()?.into_iter();
        Some(addresses.map(move |address| (tenant.clone(), address)))
    };
    services.filter_map(of).flatten().collect()
}

/// Says of each Service which addresses it has.
pub(super) fn look(
    writer: &LoadBalancerWriter,
    answered: &Answered,
    store: &Store,
    source: &Source,
) {
    let answers = source.load_balancers().into_iter().filter_map(|service| {
        let answer = answer(&service, answered, store)?;
        Some((service, answer))
    });
    writer.want(answers.collect());
}

/// Returns what is true of a Service; `None` while that is not known.
fn answer(service: &LoadBalancer, answered: &Answered, store: &Store) -> Option<Answer> {
    let addresses = match service.addresses() {
        Ok(addresses) => addresses,
        Err(refusal) => return Some(refusal),
    };
    let tenant = match store.tenant_of(&service.name.namespace, &service.labels)? {
        Ok(tenant) => tenant,
        Err(why) => return Some(Answer::Refuses("NamespaceWithoutTenant", why)),
    };
    let standing = |address: &IpAddr| answered.addresses.get(&(tenant.clone(), *address)).copied();
    let is_foreign = |address: &&IpAddr| standing(address) == Some(Standing::Foreign);
    if let Some(foreign) = addresses.iter().find(is_foreign) {
        let sentence = format!(
            "{foreign} is not an address of tenant {tenant}: name it in the tenant's ingress, or ask for another one"
        );
        return Some(Answer::Refuses("AddressNotOwned", sentence));
    }
    let is_here = |address: &IpAddr| standing(address) == Some(Standing::Here);
    addresses.iter().all(is_here).then_some(Answer::Serves(addresses))
}

/// Returns the namespaces whose labels say whose the Services are.
pub(super) fn namespaces(source: &Source) -> Vec<Arc<str>> {
    let services = source.load_balancers();
    services.into_iter().map(|service| Arc::clone(&service.name.namespace)).collect()
}
