//! What the Mappings of SmartNat are to say: what became of each, which of its addresses this gateway carries, and when it may be gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use durward_control::spec::smartnat::{invalid, served_name};
use durward_control::stream::{Answered, ObjectReport};
use durward_kube::Source;
use durward_kube::object::Object;
use durward_kube::smartnat::{Mapping, MappingWriter, Said, Wish};
use durward_kube::status::judge;
use durward_model::mapping::PortMapping;
use durward_model::{Kind, ResourceId, TenantId};
use durward_nat::MappingReport;
use durward_proxy::present::PresentAddresses;

use super::Served;
use super::objects::of_kind;

/// Result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything was said.
    Settled,
    /// An object waits for what happens without a change of the configuration.
    Unsettled,
}

/// Addresses that the kernel carries, with the pods that connections go to.
pub(super) type Configured = Vec<(IpAddr, Vec<IpAddr>)>;

/// Mappings by tenant and name, as they are served and in the kernel.
type ByName<'a> =
    HashMap<(&'a TenantId, &'a str), (&'a Arc<PortMapping>, Option<&'a MappingReport>)>;

/// What the kernel carries of the configuration that is served.
pub(super) struct Carried<'a>(ByName<'a>);

impl<'a> Carried<'a> {
    /// Looks at what is served; `None` while it is not known what the kernel carries of it.
    pub(super) fn of(served: &'a Served) -> Option<Self> {
        if !served.by_kernel {
            return None;
        }
        let reports = served.kernel.iter().flat_map(|kernel| &kernel.report.mappings);
        let reports: HashMap<_, _> =
            reports.map(|report| ((&report.tenant, &*report.name), report)).collect();
        let mappings = served.view.snapshot.nat.mappings.iter();
        let carried = mappings.map(|mapping| {
            let key = (&mapping.tenant, &*mapping.name);
            (key, (mapping, reports.get(&key).copied()))
        });
        Some(Self(carried.collect()))
    }

    /// Returns what is configured of a Mapping of a tenant.
    pub(super) fn configured(&self, id: &ResourceId, tenant: Option<&TenantId>) -> Configured {
        let name = served_name(id);
        let found = tenant.and_then(|tenant| self.0.get(&(tenant, &*name)));
        let Some((mapping, Some(report))) = found else { return Configured::new() };
        if report.rejected.is_some() {
            return Configured::new();
        }
        let ports = mapping
            .ports
            .iter()
            .flat_map(|port| [port.endpoints(false), port.endpoints(true)].into_iter().flatten());
        let pods: BTreeSet<IpAddr> = ports.map(|(pod, _)| pod).collect();
        let pods: Vec<IpAddr> = pods.into_iter().collect();
        let here = mapping.addresses.iter().map(|address| address.0);
        let here = here.filter(|address| !report.foreign_addresses.contains(address));
        here.map(|address| (address, pods.clone())).collect()
    }
}

/// Says of each Mapping what became of it, by the last reports.
pub(super) fn look(
    writer: &MappingWriter,
    (objects, reports): (&BTreeMap<ResourceId, Object>, &BTreeMap<ResourceId, ObjectReport>),
    answered: &Answered,
    source: &Source,
) -> Look {
    let mut present = None;
    let mut look = Look::Settled;
    for (id, object) in of_kind(objects, Kind::Mapping) {
        let Some(mapping) = &object.mapping else { continue };
        if object.is_going() {
            let wish = if answered.out.contains(id) {
                // The process that serves is on this host.
                let present = present.get_or_insert_with(PresentAddresses::now);
                Wish::LetGo { here: here(mapping, present) }
            } else {
                look = Look::Unsettled;
                Wish::Hold
            };
            writer.want(id, wish);
            continue;
        }
        let report = reports.get(id).filter(|report| report.observed == object.revision);
        // What the kernel carries is not known until it carries this configuration.
        let Some((report, configured)) =
            report.and_then(|report| Some((report, report.configured.as_ref()?)))
        else {
            look = Look::Unsettled;
            writer.want(id, Wish::Hold);
            continue;
        };
        let said = said(object, mapping, report, configured);
        let vip = source.cluster_ip(&object.metadata.namespace, &mapping.spec.service_name);
        writer.want(id, Wish::Say(Box::new(Said { service_vip: vip, ..said })));
    }
    look
}

/// Returns the addresses in the status that this host has.
fn here(mapping: &Mapping, present: &PresentAddresses) -> Vec<Arc<str>> {
    let is_here =
        |address: &&Arc<str>| address.parse::<IpAddr>().is_ok_and(|address| present.has(address));
    mapping.configured().filter(is_here).cloned().collect()
}

/// Returns what is to be said of a Mapping.
fn said(
    object: &Object,
    mapping: &Mapping,
    report: &ObjectReport,
    configured: &Configured,
) -> Said {
    let text = |address: &IpAddr| Arc::<str>::from(address.to_string());
    let configured: BTreeMap<Arc<str>, Vec<Arc<str>>> = configured
        .iter()
        .map(|(address, pods)| (text(address), pods.iter().map(text).collect()))
        .collect();
    let verdict = report.verdict();
    let [accepted, ..] = judge(&verdict, &[]);
    Said {
        revision: object.revision.clone(),
        carried: !configured.is_empty(),
        invalid: Arc::from(invalid(&mapping.spec, &verdict)),
        accepted,
        service_vip: None,
        configured,
    }
}
