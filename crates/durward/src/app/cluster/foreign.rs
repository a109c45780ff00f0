//! Answers about objects that are no documents: how tenants stand to the addresses that Services ask for, and which deleted Mappings are out of the kernel.

use std::net::IpAddr;

use durward_control::stream::{Answered, Asked, Standing};
use durward_model::{DocumentKey, Tenant, TenantId};
use durward_proxy::present::PresentAddresses;

use super::Served;

/// Returns what is true of all that is asked, by what is served.
pub(super) fn answer(asked: &Asked, served: &Served) -> Answered {
    let present = (!asked.addresses.is_empty()).then(PresentAddresses::now);
    let addresses = asked.addresses.iter().filter_map(|(tenant, address)| {
        let standing = standing(served, (tenant, *address), present.as_ref()?);
        Some(((tenant.clone(), *address), standing))
    });
    let is_out = |key: &DocumentKey| served.view.verdicts.on(key).is_none() && served.by_kernel;
    let out = asked.going.iter().filter(|id| is_out(&DocumentKey::Object((*id).clone())));
    Answered { addresses: addresses.collect(), out: out.cloned().collect() }
}

fn standing(
    served: &Served,
    (tenant, address): (&TenantId, IpAddr),
    present: &PresentAddresses,
) -> Standing {
    let view = served.view.snapshot.tenants.get(tenant);
    let listens = view.is_some_and(|view| listens(view, address));
    let is_mapped = is_mapped(served, tenant, address);
    if !listens && !is_mapped {
        return Standing::Foreign;
    }
    // What another gateway has is that one's to say.
    let by_proxy = served.by_proxy && view.is_some_and(|view| listens_here(view, address, present));
    let by_kernel = served.by_kernel && is_mapped && present.has(address);
    if by_proxy || by_kernel { Standing::Here } else { Standing::Elsewhere }
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
