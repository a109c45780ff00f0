//! What an agent shows: a client certificate or a token, and the link that the configuration gives it for that.

use std::rc::Rc;
use std::sync::Arc;

use durward_link::control::Token;
use durward_model::Service;
use durward_model::link::{Link, LinkService, TokenDigest};

use crate::connection::ConnectionFacts;
use crate::prepared::TenantView;
use crate::registry::Caller;

/// What a client has shown.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// Names of a verified client certificate.
    Certificate(Vec<String>),
    /// A token.
    Token(TokenDigest),
}

/// An agent, by what it was admitted for.
#[derive(Clone, Debug)]
pub(super) struct AdmittedAgent {
    name: Arc<str>,
    shown: Shown,
}

impl Shown {
    /// Returns what counts of what was shown: a token if there is one, else the certificate.
    pub(super) fn by(facts: &ConnectionFacts, token: Option<&Token>) -> Option<Self> {
        if let Some(token) = token {
            return Some(Self::Token(TokenDigest::new(token.digest())));
        }
        let certificate = facts.tls.as_ref()?.client_certificate.as_ref()?;
        Some(Self::Certificate(certificate.names().map(str::to_owned).collect()))
    }

    /// Returns the links of a listener that it is for.
    pub(super) fn links<'s>(&self, service: &'s LinkService) -> Vec<&'s Link> {
        let links = service.links.iter();
        links.filter(|link| self.link(service, &link.name).is_some()).collect()
    }

    /// Returns the agent of the only link that it is for; `None` where there is none, or another.
    pub(super) fn only_link(self, view: &TenantView) -> Option<AdmittedAgent> {
        let Service::Link(service) = &view.listener().service else { return None };
        let name = match &self.links(service)[..] {
            [link] => Arc::clone(&link.name),
            _ => return None,
        };
        Some(AdmittedAgent::new(&name, self))
    }

    fn link<'s>(&self, service: &'s LinkService, name: &str) -> Option<&'s Link> {
        match self {
            Self::Certificate(names) => service.link(name, names.iter().map(String::as_str)),
            Self::Token(token) => service.link_of_token(name, token),
        }
    }
}

impl AdmittedAgent {
    /// Names a link and what was shown for it.
    pub(super) fn new(name: &str, shown: Shown) -> Self {
        Self { name: Arc::from(name), shown }
    }

    /// Returns the name of the link.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the link, if the listener admits the agent.
    pub(super) fn link<'v>(&self, view: &'v TenantView) -> Option<&'v Link> {
        let Service::Link(service) = &view.listener().service else { return None };
        self.shown.link(service, &self.name)
    }

    /// Returns the agent as one that registers, if the listener admits it.
    pub(super) fn caller(&self, view: &TenantView, facts: &Rc<ConnectionFacts>) -> Option<Caller> {
        Some(caller(view, self.link(view)?, facts))
    }
}

/// Returns one who calls for a link of the listener.
pub(super) fn caller(view: &TenantView, link: &Link, facts: &Rc<ConnectionFacts>) -> Caller {
    let tenant = view.tenant().tenant.id.clone();
    let losses = view.tenant().links.named(&link.name).losses().clone();
    let (client, number) = (facts.client.0.ip(), Caller::next_number());
    Caller { tenant, link: link.clone(), client, number, losses }
}
