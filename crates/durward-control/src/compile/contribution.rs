//! What an object adds to a tenant beside the `Tenant` document: upstreams, listeners, and rules and networks of egress.
//!
//! One reader per kind makes a [`Contribution`] of one object and its facts, whatever other objects say. [`merge`] puts those of a tenant together.

mod egress_policy;
mod hosted_api;
mod listeners;
pub(crate) mod merge;
#[cfg(test)]
mod sample;

use std::sync::Arc;

use durward_model::egress::Rule;
use durward_model::{DestinationMode, Kind, Listener, Origin, Upstream};
use ipnet::IpNet;

use super::certificates::Files;
use super::keys::{Denied, KeyUse};
use super::part::{self, Part, Reader};
use super::report::{Field, Report};
use super::roster::Roster;
use super::scope::Scope;
use super::{Compiled, Input};
use crate::document::{Content, Document};
use crate::place::{At, Place};
use crate::store::Asker;

/// An object that adds to a tenant.
pub(crate) type Applicant<'a> = part::Applicant<'a, Contribution>;

/// Adds to one tenant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contribution {
    /// Where the object is written.
    pub(crate) origin: Origin,
    /// Named as they are called in the tenant, and without sources: they leave from the tenant's egress addresses.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// They refer to `upstreams` by position.
    pub(crate) listeners: Vec<AddedListener>,
    pub(crate) egress: AddedEgress,
    /// Private keys that it uses, and where each is written.
    pub(crate) keys: Vec<KeyUse>,
}

/// A listener of an object. Where the tenant has one at the address and port already, what both serve is put together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AddedListener {
    pub(crate) listener: Arc<Listener>,
    pub(crate) mode: DestinationMode,
    /// True if other tenants that also say so may use its address.
    pub(crate) shared: bool,
    pub(crate) written: Written,
}

/// The field of an object that a part of it comes from, below `spec`, and its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) field: Arc<str>,
    pub(crate) place: Place,
}

/// Rules and networks that an object adds to the egress of its tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AddedEgress {
    /// Networks whose traffic leaves as the tenant's.
    pub(crate) sources: Vec<At<IpNet>>,
    pub(crate) allow: Vec<Rule>,
    pub(crate) deny: Vec<Rule>,
}

impl Contribution {
    /// Builds one that adds nothing yet.
    pub(crate) fn new(origin: Origin) -> Self {
        let egress = AddedEgress::default();
        Self { origin, upstreams: Vec::new(), listeners: Vec::new(), egress, keys: Vec::new() }
    }
}

impl Part for Contribution {
    fn is_of(kind: Kind) -> bool {
        matches!(kind, Kind::EgressPolicy | Kind::HostedApi | Kind::Namespace)
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn is_shared(content: &Content) -> bool {
        matches!(content, Content::HostedApi(hosted) if hosted_api::is_shared(&hosted.spec))
    }
}

impl Applicant<'_> {
    /// Reports an error about a part of what its document says; what was served before is in no document now, so there is nothing to point at.
    pub(crate) fn tell(&mut self, reason: &str, written: &Written, sentence: &str) {
        if self.current.is_some() {
            let field = Field::SPEC.name(&written.field);
            self.report.error(reason, written.place, &field, sentence);
        }
    }
}

/// Reads the contributions to all tenants, and writes down with each tenant its own in order of seniority.
pub(crate) fn enrol<'a>(
    input: &Input<'a>,
    roster: &mut Roster<'a>,
    files: &mut Files<'_>,
    (previous, scope): (Option<&Compiled>, &Scope),
) {
    let pasts = previous.map(|previous| &previous.memory.contributions);
    let reader = &mut ByKind { files };
    let mut contributions = part::collect(input, roster, pasts, (reader, scope.is_part()));
    contributions.sort_by_cached_key(|applicant| {
        // Those with a time come first, by namespace and name where that is the same; the others in the order in which they were first seen.
        let (precedence, id) = (applicant.precedence(false), &applicant.id);
        let by_name = applicant.created.is_some().then(|| (id.namespace.clone(), id.name.clone()));
        (precedence.without_seniority(), by_name, applicant.seniority)
    });
    let places = roster.places(&contributions);
    for (at, applicant) in contributions.iter().enumerate() {
        if let Some(entrant) = places.get(&applicant.id.tenant) {
            roster.entrants[*entrant].parts.push(at);
        }
    }
    roster.contributions = contributions;
}

/// Returns the private keys that the objects of an entrant use. What uses a key of another tenant is left out, and told.
pub(crate) fn keys(roster: &mut Roster<'_>, entrant: usize, denied: &Denied) -> Vec<KeyUse> {
    let mut used = Vec::new();
    let parts = std::mem::take(&mut roster.entrants[entrant].parts);
    for at in &parts {
        let applicant = &mut roster.contributions[*at];
        let holder = |of: &Arc<Contribution>| of.keys.iter().find_map(|key| denied.get(&key.key));
        if let Some((current, holder)) =
            applicant.current.as_ref().and_then(|it| Some((it, holder(it)?)))
        {
            let sentence =
                format!("uses the private key {holder}: a key is one tenant's, issue another");
            let written = current.listeners.first().map(|added| added.written.place);
            // Of all kinds only a HostedApi has one.
            let written = Written { field: Arc::from("relay"), place: written.unwrap_or_default() };
            applicant.tell("KeyTaken", &written, &sentence);
            applicant.current = None;
        }
        if applicant.former.as_ref().and_then(holder).is_some() {
            applicant.former = None;
        }
        let wanted = applicant.wanted().into_iter().flat_map(|it| it.keys.iter());
        used.extend(wanted.map(|key| KeyUse { age: applicant.age.clone(), ..key.clone() }));
    }
    roster.entrants[entrant].parts = parts;
    used
}

/// The readers of all kinds.
struct ByKind<'r, 'f> {
    files: &'r mut Files<'f>,
}

impl Reader<Contribution> for ByKind<'_, '_> {
    fn read(&mut self, report: &mut Report<'_>, document: &Document) -> Option<Contribution> {
        self.files.deny(Denied::new());
        self.files.ask_as(Asker::of(document));
        let contribution = match &document.content {
            Content::Policy(policy) => egress_policy::read(report, self.files, document, policy),
            Content::HostedApi(hosted) => hosted_api::read(report, self.files, document, hosted),
            Content::Tenant(_) | Content::Mapping(_) | Content::Broken(_) => None,
        };
        #[cfg(test)]
        let contribution = contribution.map(|it| sample::with_listener(it, report, document));
        let keys = self.files.keys_used();
        let contribution = contribution.map(|it| Contribution { keys, ..it });
        contribution.filter(|_| report.errors() == 0)
    }

    fn was_denied(&mut self) -> bool {
        self.files.was_denied()
    }
}
