//! Egress of a mapping's endpoints: their traffic leaves from the mapping's addresses, unless another tenant has those addresses or pods.
//!
//! Deliberately absent: a share in another tenant's egress address; only tenants' own documents can agree to that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::blocks::Blocks;
use durward_model::mapping::{AddressRange, KernelEgress, PortMapping};
use durward_model::{AddressOwners, TenantId};
use ipnet::IpNet;

use super::Applicant;
use crate::compile::report::Field;
use crate::compile::roster::Roster;

/// Addresses and networks that already have an owner.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    /// The tenants that hold each address, in any role.
    owners: &'a AddressOwners,
    pods: Blocks<TenantId>,
    addresses: BTreeMap<IpAddr, TenantId>,
}

impl<'a> Taken<'a> {
    /// By the tenants' own egress: `pods` with whose they are, and every address.
    pub(crate) fn new(
        roster: &Roster<'_>,
        pods: Vec<(IpNet, TenantId)>,
        owners: &'a AddressOwners,
    ) -> Self {
        let addresses = roster.entrants.iter().flat_map(|entrant| {
            entrant.egress.iter().map(|address| (address.0, entrant.id.clone()))
        });
        let mut taken = Self { owners, pods: Blocks::default(), addresses: addresses.collect() };
        pods.into_iter().for_each(|(block, holder)| taken.pods.insert(block, holder));
        taken
    }

    fn address(&self, address: IpAddr, tenant: &TenantId) -> Option<&TenantId> {
        self.addresses.get(&address).filter(|holder| *holder != tenant)
    }

    fn pod(&self, pod: &IpNet) -> Option<&TenantId> {
        self.pods.meeting(pod, |_| true).map(|(_, holder)| holder)
    }

    /// Returns who has the address, if only others than the tenant have it.
    fn owner(&self, address: IpAddr, tenant: &TenantId) -> Option<&'a TenantId> {
        let owners = self.owners.of(address);
        owners.first().filter(|_| !owners.contains(tenant))
    }
}

/// The egress rules of mappings that ask for one, in their order.
pub(crate) fn rules(
    applicants: &mut [Applicant<'_>],
    taken: &mut Taken<'_>,
) -> Vec<Arc<KernelEgress>> {
    let mut order: Vec<usize> = (0..applicants.len()).collect();
    order.sort_by_cached_key(|at| applicants[*at].precedence(true));
    order.into_iter().filter_map(|at| rule(&mut applicants[at], taken)).map(Arc::new).collect()
}

fn rule(applicant: &mut Applicant<'_>, taken: &mut Taken<'_>) -> Option<KernelEgress> {
    let mapping = applicant.served.clone().filter(|mapping| mapping.egress)?;
    let addresses = addresses(applicant, &mapping, taken);
    let sources = sources(applicant, &mapping, taken);
    if addresses.is_empty() || sources.is_empty() {
        return None;
    }
    taken.addresses.extend(addresses.iter().map(|address| (*address, mapping.tenant.clone())));
    sources.iter().for_each(|pod| taken.pods.insert(*pod, mapping.tenant.clone()));
    Some(KernelEgress {
        tenant: mapping.tenant.clone(),
        name: KernelEgress::name_of_mapping(&mapping.name),
        sources,
        addresses: addresses.into_iter().map(AddressRange::from).collect(),
        transparent: None,
        enrolled: true,
        drain: mapping.drain,
        origin: mapping.origin.clone(),
    })
}

/// The first address of each family, unless it is another tenant's to leave from.
fn addresses(
    applicant: &mut Applicant<'_>,
    mapping: &PortMapping,
    taken: &Taken<'_>,
) -> Vec<IpAddr> {
    let first = |ipv4: bool| {
        let mut all = mapping.addresses.iter().map(|address| address.0);
        all.find(|address| address.is_ipv4() == ipv4)
    };
    let mut free = Vec::new();
    for address in first(true).into_iter().chain(first(false)) {
        match taken.address(address, &mapping.tenant) {
            None => free.push(address),
            Some(holder) => {
                let sentence =
                    format!("is not served: {address} is the egress address of tenant {holder}");
                tell(applicant, "EgressTaken", &sentence);
            }
        }
    }
    free
}

/// The endpoints, but for those whose traffic leaves otherwise.
fn sources(applicant: &mut Applicant<'_>, mapping: &PortMapping, taken: &Taken<'_>) -> Vec<IpNet> {
    let endpoints = mapping.ports.iter().flat_map(|port| {
        port.endpoints(true).into_iter().chain(port.endpoints(false)).map(|(address, _)| address)
    });
    let pods: BTreeSet<IpNet> = endpoints.map(IpNet::from).collect();
    let mut free = Vec::new();
    for pod in pods {
        if let Some(owner) = taken.owner(pod.addr(), &mapping.tenant) {
            let sentence = format!("leaves {} out, an address of tenant {owner}", pod.addr());
            tell(applicant, "SourceTaken", &sentence);
            continue;
        }
        match taken.pod(&pod) {
            None => free.push(pod),
            Some(holder) if *holder == mapping.tenant => {}
            Some(holder) => {
                let sentence =
                    format!("leaves {} out, whose traffic leaves as tenant {holder}'s", pod.addr());
                tell(applicant, "SourceTaken", &sentence);
            }
        }
    }
    free
}

fn tell(applicant: &mut Applicant<'_>, reason: &str, sentence: &str) {
    // What was served before is in no document now, so there is nothing to point at.
    if applicant.current.is_some() {
        let place = applicant.place(|spec| Some(spec.egress.place));
        applicant.report.error(reason, place, &Field::SPEC.name("egress"), sentence);
    }
}
