//! What the kernel carries: the mappings that are served, whose traffic leaves from where, and who let which port in.
//!
//! Deliberately absent: decisions; all are made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_model::mapping::{KernelEgress, NatModel};
use durward_model::{AddressOwners, Bind, DestinationMode, Snapshot, TenantId};
use ipnet::IpNet;

use super::mapping::Applicant;
use super::mapping::egress::{self, Taken};
use super::roster::{Entrant, Roster};
use super::transparent::Wish;

/// The mappings that are served, the oldest first, and the egress rules; numbers and listeners come with [`finish`].
pub(crate) fn assemble(
    roster: &Roster<'_>,
    applicants: &mut [Applicant<'_>],
    steered: Vec<(IpNet, TenantId)>,
    owners: &AddressOwners,
) -> NatModel {
    let mut rules = tenants_egress(roster);
    rules.extend(egress::rules(applicants, &mut Taken::new(roster, steered, owners)));
    let mut served: Vec<_> = applicants
        .iter()
        .filter_map(|applicant| Some((applicant.precedence(true), applicant.served.clone()?)))
        .collect();
    served.sort_by(|a, b| a.0.cmp(&b.0));
    let mappings = served.into_iter().map(|(_, mapping)| mapping).collect();
    NatModel { mappings, egress: rules, ..NatModel::default() }
}

fn tenants_egress(roster: &Roster<'_>) -> Vec<Arc<KernelEgress>> {
    roster.entrants.iter().filter_map(tenant_egress).map(Arc::new).collect()
}

/// How the traffic of a tenant's networks leaves, if it has any.
pub(super) fn tenant_egress(entrant: &Entrant<'_>) -> Option<KernelEgress> {
    if entrant.sources.is_empty() || entrant.egress.is_empty() {
        return None;
    }
    Some(KernelEgress {
        tenant: entrant.id.clone(),
        name: Arc::from("egress"),
        sources: entrant.sources.clone(),
        addresses: entrant.egress.iter().map(|address| address.0.into()).collect(),
        transparent: entrant.transparent.ports(),
        enrolled: !matches!(entrant.transparent, Wish::Broken),
        drain: std::time::Duration::ZERO,
        origin: entrant.origin.clone(),
    })
}

/// The whole model: tenants with their numbers of before, new ones with free ones, and this host's own listeners.
pub(crate) fn finish<'b>(
    mut model: NatModel,
    binds: impl Iterator<Item = &'b Arc<Bind>>,
    former: Option<&Arc<Snapshot>>,
) -> Arc<NatModel> {
    if model.mappings.is_empty() && model.egress.is_empty() {
        // Nobody asks the kernel for anything, so it need not know the listeners either.
        let nothing = || Arc::new(NatModel::default());
        return former.map_or_else(nothing, |former| reuse(&former.nat, NatModel::default()));
    }
    let tenants: BTreeSet<&TenantId> = model
        .mappings
        .iter()
        .map(|mapping| &mapping.tenant)
        .chain(model.egress.iter().map(|rule| &rule.tenant))
        .collect();
    let known = |tenant: &TenantId| former?.nat.tenants.get(tenant).copied();
    let mut numbers: BTreeMap<TenantId, u16> =
        tenants.iter().filter_map(|tenant| Some(((*tenant).clone(), known(tenant)?))).collect();
    let mut free = (1..=u16::MAX).filter({
        let taken: BTreeSet<u16> = numbers.values().copied().collect();
        move |number| !taken.contains(number)
    });
    for tenant in tenants {
        if !numbers.contains_key(tenant)
            && let Some(number) = free.next()
        {
            numbers.insert(tenant.clone(), number);
        }
    }
    model.tenants = numbers;
    let outer = binds.filter(|bind| bind.mode != DestinationMode::Anywhere);
    model.local = outer.map(|bind| bind.address).collect();
    match former {
        Some(former) => reuse(&former.nat, model),
        None => Arc::new(model),
    }
}

fn reuse(former: &Arc<NatModel>, model: NatModel) -> Arc<NatModel> {
    if **former == model { Arc::clone(former) } else { Arc::new(model) }
}
