//! Routes of one rule: its forward route, and further routes for sources, CORS and canaries.

use super::at;
use crate::foreign::asked::{Canary, Cors, Host, PathRule, RedirectTo, Settings};
use crate::place::At;
use crate::spec::route::{
    HeaderMatchSpec, HeaderRulesSpec, RedirectSpec, RespondSpec, RewriteSpec, RouteSpec,
    WeightedUpstreamSpec,
};

/// Upstreams of a rule.
pub(super) struct Targets<'a> {
    pub(super) main: String,
    pub(super) canary: Option<(&'a Canary, String)>,
}

/// Returns the route for a host and path, without an action.
pub(super) fn matching(host: &Host, path: &PathRule) -> RouteSpec {
    let host = match host {
        Host::Any => None,
        host => Some(at(host.to_string())),
    };
    let (path, path_prefix) = match path {
        PathRule::Exact(path) => (Some(at(path.to_string())), None),
        PathRule::Prefix(prefix) if prefix.is_empty() => (None, Some(at("/".to_owned()))),
        PathRule::Prefix(prefix) => (None, Some(at(prefix.to_string()))),
    };
    RouteSpec { host, path, path_prefix, ..RouteSpec::default() }
}

/// Answers what must not reach a broader rule.
pub(super) fn answered(route: RouteSpec, status: u16) -> RouteSpec {
    RouteSpec { respond: Some(at(RespondSpec { status: Some(at(status)), body: None })), ..route }
}

pub(super) fn redirected(route: RouteSpec, to: &RedirectTo) -> RouteSpec {
    let redirect = RedirectSpec {
        status: Some(at(to.status)),
        scheme: to.scheme.map(|scheme| at(scheme.to_owned())),
        host: to.host.as_deref().map(|host| at(host.to_owned())),
        port: to.port.map(at),
        path: to.path.as_deref().map(|path| at(path.to_owned())),
    };
    RouteSpec { redirect: Some(at(redirect)), ..route }
}

pub(super) fn to_https(route: RouteSpec) -> RouteSpec {
    let redirect = RedirectSpec { scheme: Some(at("https".to_owned())), ..RedirectSpec::default() };
    RouteSpec { redirect: Some(at(redirect)), ..route }
}

/// Returns the routes that forward the requests of a rule.
pub(super) fn forwarded(
    route: &RouteSpec,
    settings: &Settings,
    targets: &Targets<'_>,
) -> Vec<At<RouteSpec>> {
    let mut routes = Vec::new();
    for choice in choices(targets) {
        for cors in variants(settings.cors.as_ref()) {
            let headers = choice.headers.iter().cloned().chain(cors.headers);
            let variant = RouteSpec {
                methods: cors.methods,
                headers: headers.collect(),
                response_headers: cors.response_headers,
                ..route.clone()
            };
            if !settings.denied_sources.is_empty() {
                let denied = RouteSpec {
                    sources: Some(networks(&settings.denied_sources)),
                    ..variant.clone()
                };
                routes.push(at(answered(denied, 403)));
            }
            let allowed =
                RouteSpec { sources: settings.sources.as_deref().map(networks), ..variant };
            routes.push(at(if cors.is_preflight {
                answered(allowed, 204)
            } else {
                to_upstreams(allowed, settings, &choice.upstreams)
            }));
        }
    }
    if settings.sources.is_some() {
        routes.push(at(answered(route.clone(), 403)));
    }
    routes
}

fn networks(networks: &[String]) -> At<Vec<At<String>>> {
    at(networks.iter().cloned().map(at).collect())
}

fn to_upstreams(route: RouteSpec, settings: &Settings, upstreams: &[(String, u32)]) -> RouteSpec {
    let rewrite = RewriteSpec {
        path_prefix: settings.rewrite_path.clone().map(at),
        host: settings.rewrite_host.clone().map(at),
    };
    let is_rewritten = rewrite.path_prefix.is_some() || rewrite.host.is_some();
    let rewrite = is_rewritten.then(|| at(rewrite));
    match upstreams {
        [(only, _)] => RouteSpec { upstream: Some(at(only.clone())), rewrite, ..route },
        several => {
            let weighted = several.iter().map(|(name, weight)| {
                at(WeightedUpstreamSpec { name: at(name.clone()), weight: Some(*weight) })
            });
            RouteSpec { upstreams: weighted.collect(), rewrite, ..route }
        }
    }
}

/// Requests with these headers, and the upstreams they go to.
struct Choice {
    headers: Vec<HeaderMatchSpec>,
    upstreams: Vec<(String, u32)>,
}

/// The header of a canary decides first, then the weights.
fn choices(targets: &Targets<'_>) -> Vec<Choice> {
    let main = || vec![(targets.main.clone(), 1)];
    let Some((canary, name)) = &targets.canary else {
        return vec![Choice { headers: Vec::new(), upstreams: main() }];
    };
    let on = |value: &str, upstreams: Vec<(String, u32)>| {
        let header = canary.header.iter().map(|header| is(header, Some(value)));
        Choice { headers: header.collect(), upstreams }
    };
    let canary_alone = || vec![(name.clone(), 1)];
    let mut choices = match (&canary.header, &canary.header_value) {
        (None, _) => Vec::new(),
        (Some(_), Some(value)) => vec![on(value, canary_alone())],
        (Some(_), None) => vec![on("always", canary_alone()), on("never", main())],
    };
    let rest = canary.total - canary.weight;
    let upstreams = match (rest, canary.weight) {
        (_, 0) => main(),
        (0, _) => canary_alone(),
        (rest, weight) => vec![(targets.main.clone(), rest), (name.clone(), weight)],
    };
    choices.push(Choice { headers: Vec::new(), upstreams });
    choices
}

/// Routes for CORS requests, and the response headers for them.
#[derive(Default)]
struct Variant {
    methods: Vec<At<String>>,
    headers: Vec<HeaderMatchSpec>,
    response_headers: HeaderRulesSpec,
    is_preflight: bool,
}

/// Per origin a preflight, which is answered here, and the request itself; then all other requests.
fn variants(cors: Option<&Cors>) -> Vec<Variant> {
    let Some(cors) = cors else { return vec![Variant::default()] };
    let origins: Vec<Option<&str>> = if cors.origins.is_empty() {
        vec![None]
    } else {
        cors.origins.iter().map(|origin| Some(&**origin)).collect()
    };
    let mut variants = Vec::new();
    for origin in origins {
        let from = origin.map(|origin| is("origin", Some(origin)));
        let asks = from.clone().into_iter().chain([is("access-control-request-method", None)]);
        variants.push(Variant {
            methods: vec![at("OPTIONS".to_owned())],
            headers: asks.collect(),
            response_headers: answers(cors, origin, true),
            is_preflight: true,
        });
        variants.push(Variant {
            headers: from.into_iter().collect(),
            response_headers: answers(cors, origin, false),
            ..Variant::default()
        });
    }
    if !cors.origins.is_empty() {
        variants.push(Variant::default());
    }
    variants
}

fn answers(cors: &Cors, origin: Option<&str>, is_preflight: bool) -> HeaderRulesSpec {
    let mut rules = HeaderRulesSpec::default();
    let mut set = |name: &str, value: &str| {
        rules.set.insert(at(name.to_owned()), at(value.to_owned()));
    };
    set("access-control-allow-origin", origin.unwrap_or("*"));
    // Browsers refuse credentials beside a star.
    if cors.credentials && origin.is_some() {
        set("access-control-allow-credentials", "true");
    }
    if is_preflight {
        set("access-control-allow-methods", &cors.methods);
        set("access-control-allow-headers", &cors.headers);
        set("access-control-max-age", &cors.max_age.to_string());
    } else if let Some(expose) = &cors.expose {
        set("access-control-expose-headers", expose);
    }
    if origin.is_some() {
        rules.add.insert(at("vary".to_owned()), at("Origin".to_owned()));
    }
    rules
}

fn is(name: &str, value: Option<&str>) -> HeaderMatchSpec {
    HeaderMatchSpec { name: at(name.to_owned()), value: value.map(|value| at(value.to_owned())) }
}
