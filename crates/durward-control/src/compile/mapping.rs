//! Port mappings: each document by itself, first; a mapping is served whole, or as it was, or not at all.
//!
//! Deliberately absent: other claims to its ports; those are decided in `claims`.

mod claimed;
pub(crate) mod egress;
pub(crate) mod foreign;
mod health;
mod ports;
mod reading;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::mapping::PortMapping;
use durward_model::{Kind, Origin};

use super::addresses::{Addresses, Role};
use super::part::{self, Part};
use super::report::Field;
use super::roster::{Basis, Roster};
use super::scope::Scope;
use super::{Compiled, Input};
use crate::document::Content;
use crate::place::Place;
use crate::spec::port_mapping::PortMappingSpec;
pub(crate) use claimed::{note_claims, unsettled};
use reading::Reading;

/// A mapping that asks to be served.
pub(crate) type Applicant<'a> = part::Applicant<'a, PortMapping>;

impl Part for PortMapping {
    fn is_of(kind: Kind) -> bool {
        kind == Kind::PortMapping
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn is_shared(content: &Content) -> bool {
        matches!(content, Content::Mapping(mapping) if mapping.spec.shared)
    }
}

/// Returns everybody who asks; the verdicts of documents that have no part in it are written already.
pub(crate) fn enrol<'a>(
    input: &Input<'a>,
    roster: &mut Roster<'_>,
    (previous, scope): (Option<&Compiled>, &Scope),
) -> Vec<Applicant<'a>> {
    let pasts = previous.map(|previous| &previous.memory.mappings);
    let reader = &mut Reading { store: input.store };
    part::collect(input, roster, pasts, (reader, scope.is_part()))
}

/// Leaves out what asks for another tenant's address or belongs to a tenant that is not served; what was served before stands in where it may.
pub(crate) fn yield_addresses(
    applicants: &mut [Applicant<'_>],
    roster: &Roster<'_>,
    addresses: &mut Addresses,
) {
    let places = roster.places(applicants);
    for applicant in applicants {
        let Some(&at) = places.get(&applicant.id.tenant) else { continue };
        if matches!(roster.entrants[at].basis, Basis::Out) {
            applicant.leave_out_with_tenant();
            continue;
        }
        let objection = |mapping: &PortMapping| {
            let mut all = mapping.addresses.iter().enumerate();
            all.find_map(|(position, address)| {
                Some((position, addresses.objection(roster, at, address.0, Role::Mapped)?))
            })
        };
        let refused = applicant.current.as_deref().and_then(objection);
        if let Some((position, objection)) = &refused {
            applicant.current = None;
            let place = applicant.place(|spec| Some(spec.addresses.get(*position)?.place));
            let field = Field::SPEC.name("addresses");
            let sentence = objection.with_cure("shared: true");
            applicant.report.error("AddressTaken", place, &field.index(*position), &sentence);
        }
        if applicant.former.as_deref().and_then(objection).is_some() {
            applicant.former = None;
        }
        for address in applicant.former.iter().flat_map(|former| &former.addresses) {
            addresses.take(roster, at, address.0, Role::Mapped);
        }
    }
}

impl<'a> Applicant<'a> {
    /// Returns true if the mapping held all that it claims now.
    pub(crate) fn held(&self) -> bool {
        match (&self.current, &self.former) {
            (Some(_), None) => self.restored,
            (None, Some(_)) => true,
            (Some(current), Some(former)) => {
                current.addresses.iter().all(|address| former.addresses.contains(address))
                    && current.ports.iter().all(|port| {
                        let same = |known: &durward_model::mapping::MappedPort| {
                            (known.protocol, known.ports) == (port.protocol, port.ports)
                        };
                        former.ports.iter().any(same)
                    })
            }
            _ => false,
        }
    }

    /// Returns the endpoints whose traffic is to leave from the mapping's addresses, each with whether it did before.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        let of = |mapping: Option<&Arc<PortMapping>>| -> BTreeSet<IpAddr> {
            let ports = mapping.filter(|mapping| mapping.egress).into_iter();
            let ports = ports.flat_map(|mapping| &mapping.ports);
            let both = ports.flat_map(|port| [port.endpoints(true), port.endpoints(false)]);
            both.flatten().map(|(address, _)| address).collect()
        };
        let (wanted, former) = (of(self.wanted()), of(self.former.as_ref()));
        let restored = self.restored;
        wanted.into_iter().map(move |pod| (pod, restored || former.contains(&pod)))
    }

    /// Returns the `spec` of its document, when it has one.
    fn spec(&self) -> Option<&'a PortMappingSpec> {
        match &self.document?.content {
            Content::Mapping(mapping) => Some(&mapping.spec),
            _ => None,
        }
    }

    /// Returns where a field of its document is written.
    pub(crate) fn place(&self, of: impl Fn(&PortMappingSpec) -> Option<Place>) -> Place {
        self.spec().and_then(of).unwrap_or_default()
    }
}
