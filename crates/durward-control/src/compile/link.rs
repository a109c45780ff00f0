//! Listeners for agents, `protocol: LINK` and its `links`; upstreams behind a link.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::ClientAuth;
use durward_model::client_auth::HolderMatch;
use durward_model::link::{Link, LinkService};

use super::listener::Workshop;
use super::outward::holder;
use super::report::{Field, Report};
use crate::place::At;
use crate::spec::ingress::{IngressSpec, LinkSpec};
use crate::spec::upstream::UpstreamSpec;

impl Workshop<'_, '_, '_, '_> {
    /// The service of a listener for agents, or `None` after an error.
    pub(super) fn link(
        &mut self,
        spec: &At<IngressSpec>,
        address: Option<IpAddr>,
        field: &Field<'_>,
    ) -> Option<LinkService> {
        let before = self.report.errors();
        let tls = self.tls(spec, address, field);
        if let Some(tls) = &tls
            && !matches!(tls.client_auth, ClientAuth::Required(_))
        {
            let sentence =
                "must be required, with authorities: an agent is known by its certificate";
            let place = spec.client_certificates.as_ref().map_or(spec.place, |at| at.place);
            let field = field.name("clientCertificates");
            self.report.error("ClientCertificateNotRequired", place, &field, sentence);
        }
        let list = field.name("links");
        let mut known = BTreeSet::new();
        let mut links = Vec::with_capacity(spec.links.len());
        for (at, link) in spec.links.iter().enumerate() {
            let field = list.index(at);
            links.extend(self.one_link(link, &field));
            if !known.insert(link.name.as_str()) {
                let sentence = format!("{:?} is there twice: keep one", link.name.value);
                self.report.error("LinkTwice", link.name.place, &field.name("name"), &sentence);
            }
        }
        if spec.links.is_empty() {
            let sentence = "is empty: name a link and the names of its agent's certificate";
            self.report.error("NoLink", spec.place, &list, sentence);
        }
        if self.report.errors() > before {
            return None;
        }
        Some(LinkService { tls: tls?, links })
    }

    fn one_link(&mut self, link: &At<LinkSpec>, field: &Field<'_>) -> Option<Link> {
        self.report.check("BadName", &link.name, &field.name("name"), link_name);
        let names = field.name("certificateNames");
        if link.certificate_names.is_empty() {
            let sentence = "is empty: write a name that the agent's certificate carries";
            self.report.error("NoName", link.place, &names, sentence);
        }
        let holders: Vec<HolderMatch> = link
            .certificate_names
            .iter()
            .enumerate()
            .filter_map(|(at, name)| self.report.check("BadName", name, &names.index(at), holder))
            .collect();
        let origin = self.report.source().origin(link.place);
        (!holders.is_empty()).then(|| Link { name: Arc::from(link.name.as_str()), holders, origin })
    }
}

/// A name of a link: as that of an upstream.
fn link_name(text: &str) -> Result<(), String> {
    super::words::upstream_name(text).map_err(|fault| fault.replace("an upstream", "a link"))
}

/// Rejects what an upstream behind a link cannot have.
pub(super) fn behind(report: &mut Report<'_>, spec: &UpstreamSpec, field: &Field<'_>) {
    let Some(link) = &spec.link else { return };
    report.check("BadName", link, &field.name("link"), link_name);
    let unfitting = [
        (
            "service",
            spec.service.as_ref().map(|at| at.place),
            "the agent's cluster has Services of its own: name one in endpoints",
        ),
        (
            "sourceAddresses",
            spec.source_addresses.first().map(|at| at.place),
            "the connection leaves from the agent's network",
        ),
    ];
    for (name, place, why) in unfitting {
        if let Some(place) = place {
            let sentence = format!("means nothing beside link: {why}");
            report.error("FieldUnfitting", place, &field.name(name), &sentence);
        }
    }
}
