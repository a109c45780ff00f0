//! Additions of an object to a tenant, beside its `Tenant` document: upstreams, listeners, and egress rules and networks.
//!
//! One reader per kind makes a [`Contribution`] of one object and its facts, whatever other objects say. [`merge`] puts those of a tenant together.

mod attach;
mod egress_policy;
mod foreign_api;
mod hosted_api;
mod ingress;
mod listeners;
pub(crate) mod merge;
#[cfg(test)]
mod sample;

use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::egress::Rule;
use durward_model::sni::SniRoute;
use durward_model::{
    DestinationMode, IngressAddress, Kind, Listener, Origin, ServerNames, Service, TenantId,
    Upstream,
};
use ipnet::IpNet;

use super::certificates::Files;
use super::keys::{Denied, KeyUse};
use super::part::{self, Part, Reader};
use super::report::{Field, Report};
use super::roster::Roster;
use super::scope::Scope;
use super::{Compiled, Input};
use crate::document::{Content, Document};
use crate::foreign::Finding;
use crate::place::{At, Place};
use crate::store::Asker;

/// An object that adds to a tenant.
pub(crate) type Applicant<'a> = part::Applicant<'a, Contribution>;

/// Adds to one tenant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contribution {
    /// Origin of the object.
    pub(crate) origin: Origin,
    /// Named as they are called in the tenant, and without sources: they leave from the tenant's egress addresses.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// They refer to `upstreams` by position.
    pub(crate) listeners: Vec<AddedListener>,
    pub(crate) egress: AddedEgress,
    /// Routes of an Ingress, and what they need.
    pub(crate) ingress: Option<Arc<ingress::IngressPart>>,
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
    /// True if the socket is the operator's to choose: that of the tenant's own entry at the same address and port, where there is one.
    pub(crate) follows: bool,
    /// True if it has no address of its own: its routes are served at the tenant's own listener that takes such objects and has their names.
    pub(crate) by_names: bool,
    pub(crate) written: Written,
}

impl AddedListener {
    /// Builds one that is served at a listener of the tenant's own, under names that this has.
    pub(crate) fn by_names(
        tenant: TenantId,
        routes: Vec<SniRoute>,
        origin: Origin,
        written: Written,
    ) -> Self {
        // Never bound: the listener that has the names gives the address.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let at = (IngressAddress(nowhere.ip()), nowhere.port(), nowhere);
        let listener = Arc::new(hosted_api::pass_through(tenant, at, origin));
        let mode = DestinationMode::Bound;
        Self { listener, mode, shared: true, follows: false, by_names: true, written }.with(routes)
    }

    /// Returns it with pass-through routes, and their names where it shares its address.
    fn with(self, routes: Vec<SniRoute>) -> Self {
        let names = routes.iter().flat_map(|route| route.hosts.iter().cloned()).collect();
        let names = self.shared.then(|| ServerNames::new(names));
        let service = Service::PassThrough(routes.into());
        let listener = Arc::new(Listener { names, service, ..Listener::clone(&self.listener) });
        Self { listener, ..self }
    }
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
        let (upstreams, listeners, keys) = (Vec::new(), Vec::new(), Vec::new());
        Self { origin, upstreams, listeners, egress, ingress: None, keys }
    }
}

impl Part for Contribution {
    fn is_of(kind: Kind) -> bool {
        let is_read =
            matches!(kind, Kind::EgressPolicy | Kind::HostedApi | Kind::Ingress | Kind::Namespace);
        is_read || kind.is_foreign_api()
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn is_shared(content: &Content) -> bool {
        match content {
            Content::HostedApi(hosted) => hosted_api::is_shared(&hosted.spec),
            content => matches!(content, Content::ForeignApi(_)),
        }
    }
}

impl Applicant<'_> {
    /// Reports what was found of the Ingress that it is.
    pub(crate) fn say(&mut self, finding: &Finding) {
        if self.current.is_some() {
            self.report.foreign(finding);
        }
    }

    /// Reports an error about a part of what its document says; what was served before is in no document now, so there is nothing to point at.
    pub(crate) fn tell(&mut self, reason: &str, written: &Written, sentence: &str) {
        if self.current.is_some() {
            let field = Field::SPEC.below(&written.field);
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

/// Returns the private keys that the objects of an entrant use. Whatever uses a key of another tenant is left out with a finding.
pub(crate) fn keys(roster: &mut Roster<'_>, entrant: usize, denied: &Denied) -> Vec<KeyUse> {
    let mut used = Vec::new();
    let parts = std::mem::take(&mut roster.entrants[entrant].parts);
    for at in &parts {
        let applicant = &mut roster.contributions[*at];
        let taken = |of: &Arc<Contribution>| {
            of.keys.iter().find_map(|key| Some((key.is_authority, denied.get(&key.key)?)))
        };
        if let Some((current, (is_authority, holder))) =
            applicant.current.as_ref().and_then(|it| Some((it, taken(it)?)))
        {
            // Of all kinds only a HostedApi has an authority.
            let (reason, field, sentence) = if is_authority {
                let sentence = format!(
                    "has an authority {holder}, whose API proxies it would admit: issue the certificates of each tenant's proxies by an authority of its own"
                );
                ("AuthorityTaken", "relay.clientAuthorities", sentence)
            } else {
                let sentence =
                    format!("uses the private key {holder}: a key is one tenant's, issue another");
                ("KeyTaken", if current.ingress.is_some() { "tls" } else { "relay" }, sentence)
            };
            let place = current.listeners.first().map(|added| added.written.place);
            let written = Written { field: Arc::from(field), place: place.unwrap_or_default() };
            applicant.tell(reason, &written, &sentence);
            applicant.current = None;
        }
        if applicant.former.as_ref().and_then(taken).is_some() {
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
            Content::Ingress(ingress) => Some(ingress::read(report, self.files, document, ingress)),
            Content::ForeignApi(foreign) => {
                foreign_api::read(report, self.files, document, foreign)
            }
            Content::Tenant(_) | Content::Mapping(_) | Content::Broken(_) => None,
        };
        #[cfg(test)]
        let contribution = contribution.map(|it| sample::with_listener(it, report, document));
        let keys = self.files.keys_used();
        let contribution = contribution.map(|it| Contribution { keys, ..it });
        // What is wrong with a part of an Ingress costs that part.
        contribution.filter(|it| report.errors() == 0 || it.ingress.is_some())
    }

    fn was_denied(&mut self) -> bool {
        self.files.was_denied()
    }
}
