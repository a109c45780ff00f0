//! What the Mappings of SmartNat are to say: what became of each, which of its addresses this gateway carries, and when it may be gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use durward_control::spec::smartnat::{invalid, served_name};
use durward_control::{Document, Store};
use durward_kube::Source;
use durward_kube::object::Object;
use durward_kube::smartnat::{Mapping, MappingWriter, Said, Wish};
use durward_kube::status::judge;
use durward_model::mapping::PortMapping;
use durward_model::{DocumentKey, ResourceId, TenantId};
use durward_nat::MappingReport;
use durward_proxy::present::PresentAddresses;

use super::Served;

/// Result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything was said.
    Settled,
    /// An object waits for what happens without a change of the configuration.
    Unsettled,
}

/// The objects that were read, what they say, and where more is known of them.
pub(super) type Cluster<'a> = (&'a BTreeMap<ResourceId, Object>, &'a Store, &'a Source);

/// Mappings by tenant and name, as they are served and in the kernel.
type Carried<'a> =
    HashMap<(&'a TenantId, &'a str), (&'a Arc<PortMapping>, Option<&'a MappingReport>)>;

/// Says of each Mapping what became of it.
pub(super) fn look(writer: &MappingWriter, served: &Served, cluster: Cluster<'_>) -> Look {
    let (objects, store, source) = cluster;
    let (carried, mut present) = (carried(served), None);
    let mut look = Look::Settled;
    for (id, object) in objects {
        let Some(mapping) = &object.mapping else { continue };
        let key = DocumentKey::Object(id.clone());
        if object.is_going() {
            let is_out = served.view.verdicts.on(&key).is_none() && served.by_kernel;
            let wish = if is_out {
                let present = present.get_or_insert_with(PresentAddresses::now);
                Wish::LetGo { here: here(mapping, present) }
            } else {
                look = Look::Unsettled;
                Wish::Hold
            };
            writer.want(id, wish);
            continue;
        }
        if !served.by_kernel {
            // What the kernel carries is not known until it carries this configuration.
            look = Look::Unsettled;
            continue;
        }
        let tenant = store.document(&key).and_then(Document::tenant);
        let name = served_name(id);
        let found = tenant.as_ref().and_then(|tenant| carried.get(&(tenant, &*name)));
        if let Some(said) = said(object, mapping, served, found.copied()) {
            let vip = source.cluster_ip(&object.metadata.namespace, &mapping.spec.service_name);
            writer.want(id, Wish::Say(Box::new(Said { service_vip: vip, ..said })));
        }
    }
    look
}

fn carried(served: &Served) -> Carried<'_> {
    let reports = served.kernel.iter().flat_map(|kernel| &kernel.report.mappings);
    let reports: HashMap<_, _> =
        reports.map(|report| ((&report.tenant, &*report.name), report)).collect();
    let mappings = served.view.snapshot.nat.mappings.iter();
    mappings
        .map(|mapping| {
            let key = (&mapping.tenant, &*mapping.name);
            (key, (mapping, reports.get(&key).copied()))
        })
        .collect()
}

/// Returns the addresses in the status that this host has.
fn here(mapping: &Mapping, present: &PresentAddresses) -> Vec<Arc<str>> {
    let is_here =
        |address: &&Arc<str>| address.parse::<IpAddr>().is_ok_and(|address| present.has(address));
    mapping.configured().filter(is_here).cloned().collect()
}

/// Returns what is to be said of a Mapping; `None` while nothing is known of it as it is now.
fn said(
    object: &Object,
    mapping: &Mapping,
    served: &Served,
    found: Option<(&Arc<PortMapping>, Option<&MappingReport>)>,
) -> Option<Said> {
    let verdict = served.view.verdicts.on(&DocumentKey::Object(object.id.clone()))?;
    if verdict.observed != object.revision {
        return None;
    }
    let mut configured = BTreeMap::new();
    if let Some((mapping, Some(report))) = found
        && report.rejected.is_none()
    {
        let ports = mapping
            .ports
            .iter()
            .flat_map(|port| [port.endpoints(false), port.endpoints(true)].into_iter().flatten());
        let pods: BTreeSet<IpAddr> = ports.map(|(pod, _)| pod).collect();
        let pods: Vec<Arc<str>> = pods.iter().map(|pod| Arc::from(pod.to_string())).collect();
        let here = mapping.addresses.iter().map(|address| address.0);
        let here = here.filter(|address| !report.foreign_addresses.contains(address));
        configured.extend(here.map(|address| (Arc::from(address.to_string()), pods.clone())));
    }
    let [accepted, ..] = judge(verdict, &[]);
    Some(Said {
        revision: object.revision.clone(),
        carried: !configured.is_empty(),
        invalid: Arc::from(invalid(&mapping.spec, verdict)),
        accepted,
        service_vip: None,
        configured,
    })
}
