//! Listeners for agents, `protocol: LINK` and its `links`; upstreams behind a link.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::client_auth::HolderMatch;
use durward_model::link::{Link, LinkService, MOST_ROUTES, TokenDigest};
use durward_model::server_tls::ServerTls;
use durward_model::{Certificate, ClientAuth, ForwardService};

use super::certificates::Purpose;
use super::listener::Workshop;
use super::outward::holder;
use super::report::{Field, Report};
use crate::place::At;
use crate::spec::ingress::{IngressSpec, LinkSpec};
use crate::spec::upstream::UpstreamSpec;
use crate::words;

/// Routes that a document may let a link register.
const ROUTES: u32 = 10_000;

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
        let by_certificate = spec.links.iter().any(|link| link.tokens.is_empty());
        let joins = spec.links.iter().any(|link| !link.join_tokens.is_empty());
        let is_fitting = |auth: &ClientAuth| match auth {
            ClientAuth::Required(_) => true,
            // Without a certificate an agent can join, and nothing else.
            ClientAuth::Optional(_) => !by_certificate || joins,
            ClientAuth::Off => !by_certificate,
        };
        if let Some(tls) = &tls
            && !is_fitting(&tls.client_auth)
        {
            let sentence = "must be required, with authorities: an agent is known by its certificate, unless every link has tokens";
            let place = spec.client_certificates.as_ref().map_or(spec.place, |at| at.place);
            let field = field.name("clientCertificates");
            self.report.error("ClientCertificateNotRequired", place, &field, sentence);
        }
        let authority = self.agent_authority(spec, tls.as_ref(), field);
        let list = field.name("links");
        let mut known = BTreeSet::new();
        let mut links = Vec::with_capacity(spec.links.len());
        for (at, link) in spec.links.iter().enumerate() {
            let field = list.index(at);
            links.extend(self.one_link(link, &field));
            self.joins(spec, link, &field);
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
        let out = self.out(&links, spec, field);
        Some(LinkService { tls: tls?, links, out, authority })
    }

    /// Returns the authority that issues certificates to agents; `None` without one, or after an error.
    fn agent_authority(
        &mut self,
        spec: &IngressSpec,
        tls: Option<&ServerTls>,
        field: &Field<'_>,
    ) -> Option<Arc<Certificate>> {
        let written = spec.agent_authority.as_ref()?;
        let field = field.name("agentAuthority");
        let authority = self.files.certificate(self.report, written, &field, Purpose::Authority)?;
        let mut fault = |sentence: &str| {
            self.report.error("AuthorityUnfitting", written.place, &field, sentence);
        };
        let trust = tls?.client_auth.trust();
        let is_trusted = trust.is_some_and(|trust| {
            authority.chain.first().is_some_and(|own| trust.roots.contains(own))
        });
        if !is_trusted {
            fault(
                "issues certificates that this listener would refuse: name its certificate in clientCertificates",
            );
        }
        if matches!(tls?.client_auth, ClientAuth::Required(_)) {
            fault(
                "is for agents that have no certificate yet, and clientCertificates requires one: set its mode to Optional",
            );
        }
        Some(authority)
    }

    /// Checks that the agent of a link with tokens to join can be given a certificate.
    fn joins(&mut self, spec: &IngressSpec, link: &LinkSpec, field: &Field<'_>) {
        let Some(first) = link.join_tokens.first() else { return };
        let field = field.name("joinTokens");
        if spec.agent_authority.is_none() {
            let sentence = "need an authority that issues certificates: write agentAuthority";
            self.report.error("NoAuthority", first.place, &field, sentence);
        }
        if link.certificate_names.iter().all(|name| name.ends_with('*')) {
            let sentence =
                "need a name for the certificate: write one without * in certificateNames";
            self.report.error("NoName", first.place, &field, sentence);
        }
    }

    /// Returns the forward proxy for what leaves clusters; `None` where no link lets anything out, or the rules have errors.
    fn out(
        &mut self,
        links: &[Link],
        spec: &At<IngressSpec>,
        field: &Field<'_>,
    ) -> Option<ForwardService> {
        if !links.iter().any(|link| link.egress) {
            return None;
        }
        let Some(policy) = self.policy else {
            // Faults of the rules were reported where they stand.
            let sentence = "let traffic out, and spec.egress has no rules that can be used: nothing leaves by them";
            self.report.warning("NoEgressRules", spec.place, &field.name("links"), sentence);
            return None;
        };
        Some(ForwardService {
            tls: None,
            credentials: Vec::new(),
            holders: Vec::new(),
            shared: false,
            policy: Arc::clone(policy),
            transparent: None,
        })
    }

    fn one_link(&mut self, link: &At<LinkSpec>, field: &Field<'_>) -> Option<Link> {
        self.report.check("BadName", &link.name, &field.name("name"), link_name);
        let names = field.name("certificateNames");
        if link.certificate_names.is_empty() && link.tokens.is_empty() {
            let sentence = "is empty: write a name that the agent's certificate carries, or tokens";
            self.report.error("NoName", link.place, &names, sentence);
        }
        let holders: Vec<HolderMatch> = link
            .certificate_names
            .iter()
            .enumerate()
            .filter_map(|(at, name)| self.report.check("BadName", name, &names.index(at), holder))
            .collect();
        let tokens = self.tokens(&link.tokens, &field.name("tokens"));
        let join_tokens = self.tokens(&link.join_tokens, &field.name("joinTokens"));
        let hosts = field.name("hosts");
        let hosts = link.hosts.iter().enumerate().filter_map(|(at, host)| {
            self.report.check("BadHost", host, &hosts.index(at), words::route_host)
        });
        let hosts = hosts.collect();
        let cluster = link.cluster.as_ref();
        let cluster = self.report.check_optional(
            "BadCluster",
            cluster,
            &field.name("cluster"),
            cluster_id,
        )?;
        let most_routes = self.report.number(
            link.max_routes,
            &field.name("maxRoutes"),
            (1, ROUTES),
            MOST_ROUTES,
        )?;
        let origin = self.report.source().origin(link.place);
        let name = Arc::from(link.name.as_str());
        (!holders.is_empty() || !tokens.is_empty()).then_some(Link {
            name,
            holders,
            tokens,
            join_tokens,
            cluster,
            hosts,
            most_routes,
            egress: link.egress.is_some_and(|egress| egress.value),
            origin,
        })
    }

    /// Reads digests of tokens. No text is repeated in a finding: what is no digest may be the token itself.
    fn tokens(&mut self, written: &[At<String>], list: &Field<'_>) -> Vec<TokenDigest> {
        let mut tokens = Vec::with_capacity(written.len());
        for (at, written) in written.iter().enumerate() {
            match written.strip_prefix("sha256:").and_then(TokenDigest::from_hex) {
                Some(digest) => tokens.push(digest),
                None => {
                    let sentence = "is not sha256: and 64 hexadecimal digits, the SHA-256 of a token as `durward agent token` prints it; if it is the token itself, take that out of use";
                    self.report.error("BadToken", written.place, &list.index(at), sentence);
                }
            }
        }
        tokens
    }
}

/// An identifier as agents send it.
fn cluster_id(text: &str) -> Result<Arc<str>, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=63).contains(&text.len()) && text.bytes().all(fits) {
        Ok(Arc::from(text))
    } else {
        Err("is no identifier of a cluster: use 1 to 63 letters, digits, '-', '_' or '.'"
            .to_owned())
    }
}

/// A name of a link: as that of an upstream.
fn link_name(text: &str) -> Result<(), String> {
    words::upstream_name(text).map_err(|fault| fault.replace("an upstream", "a link"))
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
