//! Answers about objects that are no documents: how tenants stand to the addresses that Services ask for, and which deleted Mappings are out of the kernel.

use std::collections::HashSet;
use std::net::IpAddr;

use durward_control::stream::{Answered, Asked, Standing};
use durward_model::{DocumentKey, Tenant, TenantId};
use durward_proxy::present::PresentAddresses;

use super::Served;

/// Returns what is true of all that is asked, by what is served.
pub(super) fn answer(asked: &Asked, served: &Served) -> Answered {
    let known = (!asked.addresses.is_empty()).then(|| (PresentAddresses::now(), mapped(served)));
    let addresses = asked.addresses.iter().filter_map(|(tenant, address)| {
        let (present, mapped) = known.as_ref()?;
        let is_mapped = mapped.contains(&(tenant, *address));
        let standing = standing(served, (tenant, *address), is_mapped, present);
        Some(((tenant.clone(), *address), standing))
    });
    let is_out = |key: &DocumentKey| served.view.verdicts.on(key).is_none() && served.by_kernel;
    let out = asked.going.iter().filter(|id| is_out(&DocumentKey::Object((*id).clone())));
    Answered { addresses: addresses.collect(), out: out.cloned().collect() }
}

fn standing(
    served: &Served,
    (tenant, address): (&TenantId, IpAddr),
    is_mapped: bool,
    present: &PresentAddresses,
) -> Standing {
    let view = served.view.snapshot.tenants.get(tenant);
    let listens = view.is_some_and(|view| listens(view, address));
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

/// Returns the addresses that port mappings use, each with its tenant.
fn mapped(served: &Served) -> HashSet<(&TenantId, IpAddr)> {
    let mappings = served.view.snapshot.nat.mappings.iter();
    let addresses = mappings
        .flat_map(|mapping| mapping.addresses.iter().map(|address| (&mapping.tenant, address.0)));
    addresses.collect()
}
