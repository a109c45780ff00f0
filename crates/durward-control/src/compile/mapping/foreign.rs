//! Pods of another tenant: those in its `egress.sources`, and the endpoints of its mappings with `egress: true`. Nobody else's mapping leads to
//! them, unless it did before; then their owner gets a warning.
//!
//! Endpoints that are only named by other mappings are not compared: several tenants may lead to one service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use durward_model::mapping::PortMapping;
use ipnet::IpNet;

use super::Applicant;
use crate::compile::egress::Steered;
use crate::compile::report::Field;
use crate::compile::roster::{Basis, Roster};
use crate::compile::words;
use crate::place::Place;

/// Reason word of the warning about another tenant's mapping.
pub(crate) const ENDPOINT_OF_ANOTHER: &str = "EndpointOfAnother";

/// Rejects mappings that newly lead to a pod of another tenant. An endpoint that was served before stays, and what was served stands in.
///
/// Ages are not compared: the pod will be held in the next compile, which must decide alike.
pub(crate) fn refuse(applicants: &mut [Applicant<'_>], roster: &mut Roster<'_>, steered: &Steered) {
    let places = roster.places(applicants);
    for applicant in applicants {
        let Some(&at) = places.get(&applicant.id.tenant) else { continue };
        let Some(current) = applicant.current.as_deref() else { continue };
        let all = pods(current);
        let mut had = applicant.former.as_deref().map(pods).unwrap_or_default();
        if applicant.restored {
            had.extend(&all);
        }
        let foreign = |pod: &IpAddr| Some((*pod, steered.foreign(*pod, at)?));
        let found = all.difference(&had).find_map(foreign);
        if let Some((pod, (network, holder))) = found {
            let holder = &roster.entrants[holder].id;
            let sentence = format!(
                "leads to {pod}, which is in {network} of tenant {holder}: name an endpoint of this tenant, or take it out of that tenant's egress.sources and of its mappings with egress: true"
            );
            applicant.current = None;
            applicant.tell_of_endpoint(pod, &sentence);
            continue;
        }
        let sentence = |pod: IpAddr| {
            let (name, tenant, origin) = (&current.name, &current.tenant, &current.origin);
            format!(
                "{pod} is one of the endpoints that mapping {name} of tenant {tenant} ({origin}) has led to since before: its clients reach them"
            )
        };
        let told: BTreeSet<_> = all.intersection(&had).filter_map(foreign).collect();
        let mut known = BTreeSet::new();
        for (pod, (network, holder)) in told {
            if known.insert((network, holder)) {
                tell_holder(roster, (network, holder), &sentence(pod));
            }
        }
    }
}

/// Warns the owner of a network if a mapping of another tenant leads into it.
fn tell_holder(roster: &mut Roster<'_>, (network, holder): (IpNet, usize), sentence: &str) {
    let entrant = &mut roster.entrants[holder];
    let Basis::Document(body) = &entrant.basis else { return };
    let parent = Field::SPEC.name("egress");
    let field = parent.name("sources");
    let written = body.sources.iter().position(|source| source.value == network);
    let (place, field) = match written {
        Some(at) => (body.sources[at].place, field.index(at)),
        None => (Place { line: 1, ..Place::default() }, parent),
    };
    entrant.report.warning(ENDPOINT_OF_ANOTHER, place, &field, sentence);
}

/// Returns the endpoints that a mapping leads to.
pub(super) fn pods(mapping: &PortMapping) -> BTreeSet<IpAddr> {
    let ports = mapping.ports.iter();
    let all = ports.flat_map(|port| port.endpoints(true).into_iter().chain(port.endpoints(false)));
    all.map(|(address, _)| address).collect()
}

impl Applicant<'_> {
    /// Reports an error where the endpoint is written first.
    fn tell_of_endpoint(&mut self, pod: IpAddr, sentence: &str) {
        let Some(spec) = self.spec() else { return };
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
