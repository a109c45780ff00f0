//! Claims of mappings, and which mappings are not served as their documents say.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::TenantId;
use durward_model::mapping::PortMapping;

use super::{Applicant, foreign};
use crate::compile::claim_table::Claim;
use crate::compile::roster::Roster;

/// Notes with each tenant what its mappings ask for: now, and until that is granted what they had.
pub(crate) fn note_claims(applicants: &[Applicant<'_>], roster: &mut Roster<'_>) {
    let places = roster.places(applicants);
    for applicant in applicants {
        let Some(at) = places.get(&applicant.id.tenant) else { continue };
        let Applicant { current, former, .. } = applicant;
        let is_other = |former: &&Arc<PortMapping>| {
            let asked = |mapping: &PortMapping| claims_of(mapping, applicant.shared);
            current.as_ref().is_none_or(|current| asked(current) != asked(former))
        };
        let entrant = &mut roster.entrants[*at];
        for mapping in current.iter().chain(former.as_ref().filter(is_other)) {
            entrant.claims.extend(claims_of(mapping, applicant.shared));
            entrant.cite(&mapping.origin);
        }
    }
}

fn claims_of(mapping: &PortMapping, shared: bool) -> Vec<Claim> {
    let mut claims = Vec::new();
    for address in &mapping.addresses {
        claims.push(Claim::Address { address: address.0, is_socket: false, shared });
        if mapping.egress {
            claims.push(Claim::Leaving(address.0));
        }
        let ports = mapping.ports.iter().map(|port| Claim::Ports {
            address: address.0,
            transport: port.protocol,
            ports: port.ports,
        });
        claims.extend(ports);
    }
    for pod in foreign::pods(mapping) {
        claims.push(Claim::Endpoint(pod));
        if mapping.egress {
            claims.push(Claim::Network(pod.into()));
        }
    }
    claims
}

/// Returns the tenants of mappings that are not served as their documents say, or that have given an address up, which is free only now.
pub(crate) fn unsettled(applicants: &[Applicant<'_>]) -> BTreeSet<TenantId> {
    let is_settled = |applicant: &&Applicant<'_>| {
        let Applicant { served, current, former, .. } = applicant;
        let had = former.iter().flat_map(|former| &former.addresses);
        served.as_ref().zip(current.as_ref()).is_some_and(|(served, current)| {
            Arc::ptr_eq(served, current) && had.clone().all(|one| served.addresses.contains(one))
        })
    };
    let unsettled = applicants.iter().filter(|applicant| !is_settled(applicant));
    unsettled.map(|applicant| applicant.id.tenant.clone()).collect()
}
