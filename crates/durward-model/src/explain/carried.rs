//! The part of an explanation about TLS that is carried through: the route of its server name, and the hosted API server there.

use crate::client_auth::ClientAuth;
use crate::explain::{Ending, Question, Trail, list};
use crate::hosted::HostedApi;
use crate::listener::Listener;
use crate::origin::Origin;
use crate::server_tls::{API_PROXY, ServerTls};
use crate::sni::SniTable;
use crate::source_set::SourceSet;
use crate::tenant::Tenant;

impl Trail {
    pub(super) fn pass_through(
        &mut self,
        (tenant, listener): (&Tenant, &Listener),
        routes: &SniTable,
        (question, sni): (&Question, Option<&str>),
    ) -> Ending {
        let Some(route) = routes.select(sni) else {
            let sentence = "no route has this SNI".to_owned();
            return self.refuse("route", Some(&listener.origin), "no_route", sentence);
        };
        let sentence = format!("SNI {} is carried through", sni.unwrap_or("(none)"));
        self.note("route", Some(&route.origin), sentence);
        if let Some(ending) = route.hosted.as_ref().and_then(|api| self.hosted(api, question)) {
            return ending;
        }
        self.upstreams(tenant, &route.upstreams)
    }

    /// Says which hosted API server a route is of; returns the refusal of a client that it does not admit.
    fn hosted(&mut self, api: &HostedApi, question: &Question) -> Option<Ending> {
        let sentence = format!("{}: {}", api.name, of_proxies(api.relay.as_ref()));
        self.note("hosted API", Some(&api.origin), sentence);
        self.judge_source(api.allowed_sources.as_ref()?, &api.origin, question)
    }

    /// Compares the client with allowed sources; returns its refusal.
    pub(super) fn judge_source(
        &mut self,
        sources: &SourceSet,
        origin: &Origin,
        question: &Question,
    ) -> Option<Ending> {
        let blocks = || list(sources.blocks());
        let Some(client) = question.client else {
            let sentence = format!("only from {}; name a client to have it checked", blocks());
            self.note("source", Some(origin), sentence);
            return None;
        };
        match sources.matching(client) {
            Some(block) => {
                self.note("source", Some(origin), format!("{client} is in {block}"));
                None
            }
            None => {
                let sentence = format!("{client} is in none of {}", blocks());
                Some(self.refuse("source", Some(origin), "source_not_allowed", sentence))
            }
        }
    }
}

/// Says how API proxies of the tenant cluster are admitted.
fn of_proxies(relay: Option<&ServerTls>) -> String {
    match relay.map(|relay| &relay.client_auth) {
        Some(ClientAuth::Required(trust)) => format!(
            "API proxies (ALPN {}) are admitted with a certificate from {}",
            API_PROXY.escape_ascii(),
            list(&trust.subjects)
        ),
        _ => "no API proxies are admitted".to_owned(),
    }
}
