//! The kernel's part: the mappings that are served, whose traffic leaves from where, and the ports of this host's own listeners.
//!
//! Deliberately absent: decisions; all are made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use durward_model::mapping::{KernelEgress, NatModel, PortMapping};
use durward_model::{AddressOwners, Bind, DestinationMode, SharedMap, Snapshot, TenantId};
use ipnet::IpNet;

use super::mapping::Applicant;
use super::mapping::egress::{self, Taken};
use super::roster::{Entrant, Roster};
use super::scope::Scope;
use super::transparent::Wish;

/// Everything that the tenants that were compiled ask of the kernel.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// The mappings that are served, the oldest first.
    mappings: Vec<Arc<PortMapping>>,
    /// By tenant.
    egress: BTreeMap<TenantId, Vec<Arc<KernelEgress>>>,
}

/// Gathers what is served; numbers and listeners come with [`model`].
pub(crate) fn rules(
    roster: &Roster<'_>,
    applicants: &mut [Applicant<'_>],
    steered: Vec<(IpNet, TenantId)>,
    owners: &AddressOwners,
) -> Rules {
    let mut rules = Rules::default();
    let taken = &mut Taken::new(roster, steered, owners);
    let of_mappings = egress::rules(applicants, taken);
    let of_tenants = roster.entrants.iter().filter_map(tenant_egress).map(Arc::new);
    for rule in of_tenants.chain(of_mappings) {
        rules.egress.entry(rule.tenant.clone()).or_default().push(rule);
    }
    let mut served: Vec<_> = applicants
        .iter()
        .filter_map(|applicant| Some((applicant.seniority, applicant.served.clone()?)))
        .collect();
    served.sort_by_key(|(seniority, _)| *seniority);
    rules.mappings = served.into_iter().map(|(_, mapping)| mapping).collect();
    rules
}

/// Returns the egress rule for the traffic of a tenant's networks, if it has any.
fn tenant_egress(entrant: &Entrant<'_>) -> Option<KernelEgress> {
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

/// Everything that the model is made of beside the rules of the tenants that were compiled.
pub(crate) struct Around<'a, F> {
    pub(crate) binds: &'a SharedMap<SocketAddr, Arc<Bind>>,
    /// Sockets for datagrams.
    pub(crate) udp: &'a SharedMap<SocketAddr, Arc<Bind>>,
    /// Sockets that may be others than before.
    pub(crate) touched: &'a BTreeSet<SocketAddr>,
    /// True if the host listens where it did.
    pub(crate) same_binds: bool,
    /// Former mappings of the tenants that were compiled, if others stay as they were.
    pub(crate) gone: Vec<Arc<PortMapping>>,
    /// The place of each mapping in the order of arrival.
    pub(crate) seniority: F,
}

/// Builds the whole model: tenants with their numbers of before, new ones with free ones, and this host's own listeners. What tenants ask for
/// that were not compiled stays as it was.
pub(crate) fn model(
    rules: &Rules,
    around: &Around<'_, impl Fn(&PortMapping) -> u64>,
    former: Option<&Arc<Snapshot>>,
    scope: &Scope,
) -> Arc<NatModel> {
    let base = former.map(|former| &former.nat).filter(|_| matches!(scope, Scope::Part(_)));
    if let Some(base) = base.filter(|base| around.same_binds && rules.are_same(base, around, scope))
    {
        return Arc::clone(base);
    }
    let mut model = NatModel::default();
    if let Some(base) = base {
        (model.mappings, model.egress) = (base.mappings.clone(), base.egress.clone());
    }
    let Around { gone, seniority, .. } = around;
    let place = |mappings: &[Arc<PortMapping>], mapping: &PortMapping| {
        let own = seniority(mapping);
        mappings.partition_point(|other| seniority(other) < own)
    };
    for mapping in gone {
        let at = place(&model.mappings, mapping);
        model.mappings.remove(at);
    }
    for mapping in &rules.mappings {
        let at = place(&model.mappings, mapping);
        model.mappings.insert(at, Arc::clone(mapping));
    }
    for tenant in scope.tenants() {
        let rules = of_tenant(&model.egress, tenant);
        model.egress.drain(rules);
    }
    for (tenant, rules) in &rules.egress {
        let at = of_tenant(&model.egress, tenant).start;
        model.egress.splice(at..at, rules.iter().cloned());
    }
    if !model.mappings.is_empty() || !model.egress.is_empty() {
        model.tenants = numbers(rules, former, scope);
        model.local = local(base, around);
        model.local_udp = around.udp.keys().copied().collect();
    }
    match former {
        Some(former) if *former.nat == model => Arc::clone(&former.nat),
        _ => Arc::new(model),
    }
}

/// Returns where this host's own listeners accept connections.
fn local<F>(base: Option<&Arc<NatModel>>, around: &Around<'_, F>) -> BTreeSet<SocketAddr> {
    let Around { binds, touched, .. } = around;
    let is_outer = |bind: &Arc<Bind>| bind.mode != DestinationMode::Anywhere;
    // A model that asks for nothing lists no listener.
    let Some(base) = base.filter(|base| !base.mappings.is_empty() || !base.egress.is_empty())
    else {
        return binds.values().filter(|bind| is_outer(bind)).map(|bind| bind.address).collect();
    };
    let mut local = base.local.clone();
    for address in *touched {
        match binds.get(address) {
            Some(bind) if is_outer(bind) => drop(local.insert(*address)),
            _ => drop(local.remove(address)),
        }
    }
    local
}

/// Returns where the rules of a tenant are, or would be.
fn of_tenant(rules: &[Arc<KernelEgress>], tenant: &TenantId) -> Range<usize> {
    let start = rules.partition_point(|rule| rule.tenant < *tenant);
    let end = rules[start..].partition_point(|rule| rule.tenant == *tenant);
    start..start + end
}

impl Rules {
    /// Returns whether these are the rules that the tenants had.
    fn are_same<F>(&self, base: &NatModel, around: &Around<'_, F>, scope: &Scope) -> bool {
        let same_rules = |tenant: &TenantId| {
            let rules = self.egress.get(tenant).map_or(&[][..], Vec::as_slice);
            base.egress[of_tenant(&base.egress, tenant)] == *rules
        };
        around.gone == self.mappings && scope.tenants().all(same_rules)
    }
}

/// Returns the number of each tenant that asks for something.
fn numbers(
    rules: &Rules,
    former: Option<&Arc<Snapshot>>,
    scope: &Scope,
) -> SharedMap<TenantId, u16> {
    let of_mappings = rules.mappings.iter().map(|mapping| &mapping.tenant);
    let asking: BTreeSet<&TenantId> = of_mappings.chain(rules.egress.keys()).collect();
    let mut numbers = former.map(|former| former.nat.tenants.clone()).unwrap_or_default();
    match scope {
        Scope::Everything => numbers.retain(|tenant, _| asking.contains(tenant)),
        Scope::Part(part) => {
            for tenant in part.tenants.iter().filter(|tenant| !asking.contains(tenant)) {
                numbers.remove(tenant);
            }
        }
    }
    if asking.iter().all(|tenant| numbers.contains_key(*tenant)) {
        return numbers;
    }
    let mut taken = vec![false; usize::from(u16::MAX) + 1];
    numbers.values().for_each(|number| taken[usize::from(*number)] = true);
    let mut free = (1..=u16::MAX).filter(|number| !taken[usize::from(*number)]);
    for tenant in asking {
        if !numbers.contains_key(tenant)
            && let Some(number) = free.next()
        {
            numbers.insert(tenant.clone(), number);
        }
    }
    numbers
}
