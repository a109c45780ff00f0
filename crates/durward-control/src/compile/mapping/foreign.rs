//! Endpoints in another tenant's `egress.sources`: those are that tenant's pods, which nobody else's mapping leads to, unless it did before.
//!
//! Endpoints that are only named by other mappings are not compared: several tenants may lead to one service.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::TenantId;
use durward_model::blocks::Blocks;
use durward_model::mapping::PortMapping;

use super::Applicant;
use crate::compile::report::Field;
use crate::compile::roster::{Past, Roster};
use crate::compile::words;
use crate::place::Place;

/// Rejects mappings that newly lead to a pod of another tenant. An endpoint that was served before stays, and what was served stands in.
///
/// Ages are not compared: the network will be held in the next compile, which must decide alike.
pub(crate) fn refuse(applicants: &mut [Applicant<'_>], roster: &Roster<'_>) {
    let mut networks: Blocks<usize> = Blocks::default();
    for (at, entrant) in roster.entrants.iter().enumerate() {
        entrant.sources.iter().for_each(|network| networks.insert(*network, at));
    }
    for applicant in applicants {
        let Some(current) = applicant.current.as_deref().filter(|_| !applicant.restored) else {
            continue;
        };
        let tenant = &applicant.id.tenant;
        let is_anothers = |holder: &usize| roster.entrants[*holder].id != *tenant;
        let mut pods = new_pods(current, applicant.former.as_deref()).into_iter();
        let found = pods.find_map(|pod| Some((pod, networks.meeting(&pod.into(), is_anothers)?)));
        let Some((pod, (network, holder))) = found else { continue };
        let sentence = format!(
            "leads to {pod}, which is in {network} of tenant {}: name an endpoint of this tenant, or take it out of that tenant's egress.sources",
            roster.entrants[*holder].id
        );
        applicant.current = None;
        applicant.tell_of_endpoint(pod, &sentence);
    }
}

/// Returns whether `current` leads to pods of other tenants that `former` did not lead to.
pub(crate) fn leads_to_another(
    current: &PortMapping,
    former: Option<&Arc<PortMapping>>,
    tenants: &HashMap<TenantId, Arc<Past>>,
) -> bool {
    let pods = new_pods(current, former.map(|former| &**former));
    let others = tenants.iter().filter(|(tenant, _)| **tenant != current.tenant);
    !pods.is_empty()
        && others
            .flat_map(|(_, past)| &past.sources)
            .any(|network| pods.iter().any(|pod| network.contains(pod)))
}

fn new_pods(current: &PortMapping, former: Option<&PortMapping>) -> BTreeSet<IpAddr> {
    let mut pods = pods(current);
    if let Some(former) = former {
        let had = self::pods(former);
        pods.retain(|pod| !had.contains(pod));
    }
    pods
}

fn pods(mapping: &PortMapping) -> BTreeSet<IpAddr> {
    let ports = mapping.ports.iter();
    let all = ports.flat_map(|port| port.endpoints(true).into_iter().chain(port.endpoints(false)));
    all.map(|(address, _)| address).collect()
}

impl Applicant<'_> {
    /// Reports an error where the endpoint is written first.
    fn tell_of_endpoint(&mut self, pod: IpAddr, sentence: &str) {
        let Some(spec) = self.spec else { return };
        let leads = |written: &str| words::endpoint_address(written).is_ok_and(|(ip, _)| ip == pod);
        let common = Field::SPEC.name("endpoints");
        let ports = Field::SPEC.name("ports");
        if let Some(at) = spec.endpoints.iter().position(|written| leads(written)) {
            let place = spec.endpoints[at].place;
            return self.report.error("SourceTaken", place, &common.index(at), sentence);
        }
        for (position, port) in spec.ports.iter().enumerate() {
            let mut own = port.endpoints.iter().flat_map(|own| own.iter().enumerate());
            let Some((at, written)) = own.find(|(_, written)| leads(written)) else { continue };
            let field = ports.index(position);
            let field = field.name("endpoints");
            return self.report.error("SourceTaken", written.place, &field.index(at), sentence);
        }
        self.report.error("SourceTaken", Place::default(), &common, sentence);
    }
}
