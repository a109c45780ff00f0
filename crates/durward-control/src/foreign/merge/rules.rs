//! Routes of one rule: where its requests go, or why they are answered 503.

use super::routes::{self, Targets};
use super::{Backends, Notes, at};
use crate::foreign::annotations::AUTH_TLS_SECRET;
use crate::foreign::asked::{Action, Asked, ToHttps};
use crate::foreign::finding::{self, Effect};
use crate::foreign::merge::claims::Claim;
use crate::place::At;
use crate::spec::route::RouteSpec;

/// What becomes of an Ingress that asks for client certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Clients {
    /// They are asked for.
    Asked,
    /// The rules are answered 503, for this reason.
    Refused(&'static str),
}

/// Returns the routes of a rule, as they are where the rule is served and not redirected.
pub(super) fn routes(
    claim: &Claim<'_>,
    clients: Clients,
    backends: &mut dyn Backends,
    notes: &mut Notes,
) -> Vec<At<RouteSpec>> {
    let (asked, rule) = (claim.asked, claim.rule);
    let route = routes::matching(&rule.host, &rule.path);
    let refused = |route| vec![at(routes::answered(route, 503))];
    let backend = match &rule.action {
        Action::Refuse => return refused(route),
        Action::Redirect(to) => return vec![at(routes::redirected(route, to))],
        Action::Forward(backend) => backend,
    };
    if let Some(wanted) = &asked.settings.client_certificates
        && let Clients::Refused(why) = clients
    {
        let sentence = format!(
            "asks for client certificates by Secret {}: {why}; the rules are answered 503",
            wanted.secret
        );
        let field = finding::annotation(AUTH_TLS_SECRET);
        notes.add(&asked.id, (Effect::Refused, "ClientCertificates"), field, sentence);
        return refused(route);
    }
    let main = match backends.of_requests(asked, backend) {
        Ok(main) => main,
        Err(why) => {
            let sentence = format!("is answered 503: {why}");
            notes.add(&asked.id, (Effect::Refused, "BackendUnusable"), &*rule.field, sentence);
            return refused(route);
        }
    };
    let canary = canary(claim, backends, notes);
    let canary = canary.and_then(|(asked, name)| Some((asked.settings.canary.as_ref()?, name)));
    routes::forwarded(&route, &asked.settings, &Targets { main, canary })
}

fn canary<'c>(
    claim: &Claim<'c>,
    backends: &mut dyn Backends,
    notes: &mut Notes,
) -> Option<(&'c Asked, String)> {
    let (asked, rule) = claim.canary?;
    let Action::Forward(backend) = &rule.action else { return None };
    match backends.of_requests(asked, backend) {
        Ok(name) => Some((asked, name)),
        Err(why) => {
            let sentence = format!("gets no requests: {why}");
            notes.add(&asked.id, (Effect::Refused, "BackendUnusable"), &*rule.field, sentence);
            None
        }
    }
}

/// Returns what plain HTTP gives for a rule: the routes themselves, or a redirect to https.
pub(super) fn plain(
    claim: &Claim<'_>,
    is_tls: bool,
    clients: Clients,
    routes: Vec<At<RouteSpec>>,
) -> Vec<At<RouteSpec>> {
    let settings = &claim.asked.settings;
    let wants_clients = settings.client_certificates.is_some() && clients == Clients::Asked;
    let is_redirected = match settings.to_https {
        ToHttps::Always => true,
        ToHttps::Unsaid | ToHttps::WithTls => is_tls,
        ToHttps::Never => false,
    };
    let route = || routes::matching(&claim.rule.host, &claim.rule.path);
    // A client certificate is never shown by plain HTTP.
    match (is_redirected || (wants_clients && is_tls), wants_clients) {
        (true, _) => vec![at(routes::to_https(route()))],
        (false, true) => vec![at(routes::answered(route(), 503))],
        (false, false) => routes,
    }
}
