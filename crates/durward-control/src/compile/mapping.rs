//! Port mappings: each document by itself, first; a mapping is served whole, or as it was, or not at all.
//!
//! Deliberately absent: other claims to its ports; those are decided in `claims`.

pub(crate) mod egress;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use durward_model::mapping::{Affinity, PortMapping, SourceMode};
use durward_model::verdict::Finding;
use durward_model::{IngressAddress, Origin, SourceSet, TenantId};
use ipnet::IpNet;

use super::Compiled;
use super::names;
use super::report::{Field, Report};
use super::roster::{Basis, NOWHERE, Roster};
use super::verdict::Served;
use super::{route, times, words};
use crate::place::Place;
use crate::resources::{Content, Resources, Source};
use crate::spec::port_mapping::{AffinitySpec, KIND, PortMappingDocument, SourceSpec};

/// What is remembered of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    file: Arc<str>,
    pub(crate) seniority: u64,
    created: Option<Arc<str>>,
    served: Option<Arc<PortMapping>>,
}

impl Past {
    /// What is served of it.
    pub(super) fn served(&self) -> Option<&Arc<PortMapping>> {
        self.served.as_ref()
    }
}

/// A mapping that asks to be served.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) name: Arc<str>,
    /// The verdict, among the drafts, it is told in; a file's when its document cannot be found.
    draft: usize,
    of_file: bool,
    pub(crate) report: Report<'a>,
    /// What its document says, when all of it is sound.
    pub(crate) current: Option<Arc<PortMapping>>,
    /// What was served before.
    pub(crate) former: Option<Arc<PortMapping>>,
    file: Arc<str>,
    pub(crate) seniority: u64,
    pub(crate) created: Option<Arc<str>>,
    /// Where its addresses and ports are written.
    pub(crate) places: Places,
    /// What is served, once decided.
    pub(crate) served: Option<Arc<PortMapping>>,
}

/// Where the parts of a claim are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) ports: Vec<Place>,
    pub(crate) egress: Place,
}

/// Everybody who asks, the verdicts of the rest being written already.
pub(crate) fn enrol<'a>(
    resources: &'a Resources,
    roster: &mut Roster<'_>,
    previous: Option<&Compiled>,
) -> Vec<Applicant<'a>> {
    let live = roster.entrants.iter().filter(|entrant| !matches!(entrant.basis, Basis::Out));
    let tenants = live.map(|entrant| entrant.id.clone()).collect();
    let mut office = Office { previous, tenants, applicants: Vec::new(), taken: BTreeMap::new() };
    for (draft, document) in resources.documents.iter().enumerate() {
        if let Content::Mapping(mapping) = &document.content {
            office.document(roster, draft, &document.source, mapping);
        }
    }
    office.keep_broken(resources);
    office.applicants
}

struct Office<'a, 'p> {
    previous: Option<&'p Compiled>,
    /// Those that are served.
    tenants: BTreeSet<TenantId>,
    applicants: Vec<Applicant<'a>>,
    taken: BTreeMap<Arc<str>, Origin>,
}

impl<'a> Office<'a, '_> {
    fn past(&self, name: &str) -> Option<&Past> {
        self.previous?.memory.mappings.get(name)
    }

    fn document(
        &mut self,
        roster: &mut Roster<'_>,
        draft: usize,
        source: &'a Source,
        document: &'a PortMappingDocument,
    ) {
        let mut report = Report::new(source);
        let written = &document.metadata.name;
        let Some(name) = report.check("BadName", written, &Field::NAME, words::mapping_name) else {
            roster.drafts[draft].findings = report.into_findings();
            return;
        };
        if let Some(holder) = self.taken.get(&name) {
            let sentence =
                format!("{name:?} is taken by the mapping at {holder}: give this one another name");
            report.error("NameTaken", written.place, &Field::NAME, &sentence);
            roster.drafts[draft].findings = report.into_findings();
            return;
        }
        self.taken.insert(Arc::clone(&name), source.origin(written.place));
        let created = names::created(&mut report, &document.metadata);
        let tenants = &self.tenants;
        let current = Reading { report: &mut report, roster, tenants }.mapping(&name, document);
        let past = self.past(&name).cloned();
        let seniority = past.as_ref().map(|past| past.seniority);
        self.applicants.push(Applicant {
            name,
            draft,
            of_file: false,
            report,
            current: current.map(Arc::new),
            former: past.and_then(|past| past.served).filter(|past| tenants.contains(&past.tenant)),
            file: Arc::clone(&source.file),
            seniority: seniority.unwrap_or_else(|| roster.newcomer()),
            created,
            places: Places {
                ports: document.spec.ports.iter().map(|port| port.place).collect(),
                egress: document.spec.egress.place,
            },
            served: None,
        });
    }

    /// Keeps what broken documents and unreadable files were before.
    fn keep_broken(&mut self, resources: &'a Resources) {
        let mut nameless: Vec<(&str, usize)> = Vec::new();
        for (draft, document) in resources.documents.iter().enumerate() {
            let Content::Broken(broken) = &document.content else { continue };
            match (&broken.name, &*document.source.kind == KIND) {
                (Some(name), true) => self.keep(name, draft, false, &document.source),
                (None, _) => nameless.push((&document.source.file, draft)),
                (Some(_), false) => {}
            }
        }
        for (index, unreadable) in resources.unreadable.iter().enumerate() {
            // Their drafts stand behind those of the documents, in this order.
            nameless.push((&unreadable.file, resources.documents.len() + index));
        }
        for (file, draft) in nameless {
            let Some(previous) = self.previous else { return };
            let of_file = previous.memory.mappings.iter();
            let of_file = of_file.filter(|(_, past)| Path::new(&*past.file).starts_with(file));
            for name in of_file.map(|(name, _)| Arc::clone(name)).collect::<Vec<_>>() {
                self.keep(&name, draft, true, &NOWHERE);
            }
        }
    }

    fn keep(&mut self, name: &str, draft: usize, of_file: bool, source: &'a Source) {
        let Some(past) = self.past(name).cloned() else { return };
        let Some(former) = past.served.filter(|past| self.tenants.contains(&past.tenant)) else {
            return;
        };
        if self.taken.contains_key(name) {
            return;
        }
        self.taken.insert(Arc::from(name), former.origin.clone());
        self.applicants.push(Applicant {
            name: Arc::from(name),
            draft,
            of_file,
            report: Report::new(source),
            current: None,
            former: Some(former),
            file: past.file,
            seniority: past.seniority,
            created: past.created,
            places: Places::default(),
            served: None,
        });
    }
}

/// A document while it is read.
struct Reading<'r, 's, 'o> {
    report: &'r mut Report<'s>,
    roster: &'r Roster<'o>,
    tenants: &'r BTreeSet<TenantId>,
}

impl Reading<'_, '_, '_> {
    fn mapping(&mut self, name: &Arc<str>, document: &PortMappingDocument) -> Option<PortMapping> {
        let spec = &document.spec;
        let before = self.report.errors();
        let tenant = self.tenant(document);
        let addresses = self.addresses(document);
        let ports = ports::ports(self.report, spec);
        let field = Field::SPEC.name("allowedSources");
        let allowed = route::networks(self.report, spec.allowed_sources.as_ref(), &field);
        let field = Field::SPEC.name("drain");
        let read = |text: &str| times::DRAIN.read(text);
        let drain = self.report.check_optional("BadDuration", spec.drain.as_ref(), &field, read);
        if self.report.errors() > before {
            return None;
        }
        Some(PortMapping {
            tenant: tenant?,
            name: Arc::clone(name),
            addresses,
            ports,
            allowed_sources: allowed.unwrap_or_else(everybody),
            mode: match spec.source.map(|at| at.value).unwrap_or_default() {
                SourceSpec::Preserve => SourceMode::PreserveSource,
                SourceSpec::Gateway => SourceMode::Snat,
            },
            affinity: match spec.affinity.map(|at| at.value).unwrap_or_default() {
                AffinitySpec::None => Affinity::None,
                AffinitySpec::ClientIp => Affinity::ClientIp,
            },
            drain: drain?.unwrap_or(Duration::ZERO),
            egress: spec.egress.value,
            origin: self.report.source().origin(document.metadata.name.place),
        })
    }

    fn tenant(&mut self, document: &PortMappingDocument) -> Option<TenantId> {
        let (roster, tenants) = (self.roster, self.tenants);
        let field = Field::SPEC.name("tenant");
        let written = &document.spec.tenant;
        self.report.check("TenantUnknown", written, &field, |text| {
            if let Some(tenant) = TenantId::new(text).ok().and_then(|id| tenants.get(&id)) {
                return Ok(tenant.clone());
            }
            let mut names = roster.entrants.iter().map(|entrant| entrant.id.as_str());
            if names.any(|name| name == text) {
                return Err("is not served, see what is said about it".to_owned());
            }
            let hint = crate::suggest::hint(text, tenants.iter().map(TenantId::as_str));
            Err(format!("is no tenant here{hint}: write a Tenant document of this name"))
        })
    }

    fn addresses(&mut self, document: &PortMappingDocument) -> Vec<IngressAddress> {
        let field = Field::SPEC.name("addresses");
        let written = &document.spec.addresses;
        if written.is_empty() {
            let place = document.spec.tenant.place;
            self.report.error(
                "AddressMissing",
                place,
                &field,
                "is empty: name an external address",
            );
        }
        let mut addresses = Vec::with_capacity(written.len());
        for (at, written) in written.iter().enumerate() {
            let Some(address) =
                self.report.check("BadAddress", written, &field.index(at), words::address)
            else {
                continue;
            };
            let address = IngressAddress(address);
            if addresses.contains(&address) {
                let sentence = format!("{:?} is written twice", written.value);
                self.report.warning("AddressTwice", written.place, &field.index(at), &sentence);
            } else {
                addresses.push(address);
            }
        }
        addresses
    }
}

fn everybody() -> SourceSet {
    SourceSet::new([IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())])
}

impl Applicant<'_> {
    /// What claims are sorted by, the strongest first, as for tenants.
    pub(crate) fn precedence(&self, held: bool) -> (u8, Option<Arc<str>>, bool, u64) {
        let tier = match (&self.created, held) {
            (None, true) => 0,
            (Some(_), _) => 1,
            (None, false) => 2,
        };
        (tier, self.created.clone(), !held, self.seniority)
    }

    /// Whether all it asks for now it had before.
    pub(crate) fn held(&self) -> bool {
        match (&self.current, &self.former) {
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

    /// What it asks for first.
    pub(crate) fn wanted(&self) -> Option<&Arc<PortMapping>> {
        self.current.as_ref().or(self.former.as_ref())
    }
}

/// What a document now says of a mapping that is served, and what is found in it; `None` when it is anything but sound, or asks for other
/// addresses or ports.
pub(super) fn again(
    source: &Source,
    document: &PortMappingDocument,
    past: &Past,
) -> Option<(Past, Vec<Finding>)> {
    let former = past.served.as_ref()?;
    let mut report = Report::new(source);
    let written = &document.metadata.name;
    let name = report.check("BadName", written, &Field::NAME, words::mapping_name)?;
    let created = names::created(&mut report, &document.metadata);
    let (roster, tenants) = (Roster::default(), [former.tenant.clone()].into());
    let reading = &mut Reading { report: &mut report, roster: &roster, tenants: &tenants };
    let current = reading.mapping(&name, document)?;
    let claims = |of: &PortMapping| {
        let ports = of.ports.iter().map(|port| (port.protocol, port.ports));
        (of.addresses.clone(), ports.collect::<Vec<_>>())
    };
    // What leaves from a mapping's addresses depends on what others have.
    let moved = current.egress || former.egress || claims(&current) != claims(former);
    if moved || report.errors() > 0 {
        return None;
    }
    let served = Some(if **former == current { Arc::clone(former) } else { Arc::new(current) });
    let past = Past { file: Arc::clone(&source.file), seniority: past.seniority, created, served };
    Some((past, report.into_findings()))
}

/// The verdicts of all applicants, and what to remember of them.
pub(crate) fn conclude(
    applicants: Vec<Applicant<'_>>,
    drafts: &mut [super::verdict::Draft],
) -> BTreeMap<Arc<str>, Past> {
    let mut pasts = BTreeMap::new();
    for mut applicant in applicants {
        let draft = &mut drafts[applicant.draft];
        let served = match (&applicant.served, &applicant.current) {
            (Some(served), Some(current)) if Arc::ptr_eq(served, current) => Served::Current,
            (Some(_), _) => Served::Former,
            (None, _) => Served::Nothing,
        };
        if applicant.of_file {
            if served != Served::Nothing {
                draft.note_kept(&format!("mapping {}", applicant.name));
            }
        } else {
            draft.served = served;
            draft.findings.append(&mut applicant.report.take());
        }
        let past = Past {
            file: applicant.file,
            seniority: applicant.seniority,
            created: applicant.created,
            served: applicant.served,
        };
        pasts.insert(applicant.name, past);
    }
    pasts
}
