//! Way of a request from the Ingress to the backend, piece by piece, as the agent knows it: for people who ask why a host is not served.

use durward_link::control::Rejected;
use durward_link::{Route, RouteSet};
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::backend;
use crate::lookup::Lookups;
use crate::status::Report;

/// Piece of the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// `ingress`, `link`, `gateway` or `backend`.
    pub name: String,
    /// False if requests end here.
    pub works: bool,
    /// State of the piece, and the cure if it is broken.
    pub sentence: String,
}

impl Piece {
    fn new(name: &str, works: bool, sentence: impl Into<String>) -> Self {
        Self { name: name.to_owned(), works, sentence: sentence.into() }
    }
}

/// Returns the pieces of the way of a request. Connects to the backend, as a stream of the gateway would.
pub async fn way(
    settings: &Settings,
    routes: &RouteSet,
    report: &Report,
    (host, path): (&str, &str),
) -> Vec<Piece> {
    let host = host.to_ascii_lowercase();
    let link = link(report);
    let Some(route) = find(routes, &host, path) else {
        return vec![Piece::new("ingress", false, without_route(report, &host, path)), link];
    };
    let ingress = match route.ingress.as_str() {
        "" => format!("the agent's file has {}{} to {}", route.host, route.path, route.target),
        name => format!("{name} has {}{} to {}", route.host, route.path, route.target),
    };
    let reached = backend::probe(settings, routes, &Lookups::default(), &route.target).await;
    let backend = match reached {
        Ok(address) => Piece::new("backend", true, format!("{address} accepts connections")),
        Err(declined) => Piece::new("backend", false, declined.to_string()),
    };
    vec![Piece::new("ingress", true, ingress), link, gateway(report, route), backend]
}

/// Returns the route of a request: that of the host itself before one of a wildcard, the longest path first.
fn find<'r>(routes: &'r RouteSet, host: &str, path: &str) -> Option<&'r Route> {
    let has_host = |route: &&Route| match route.host.strip_prefix('*') {
        None => route.host == host,
        Some(parent) => host.strip_suffix(parent).is_some_and(|below| !below.is_empty()),
    };
    let has_path = |route: &&Route| {
        let prefix = route.path.trim_end_matches('/');
        let below = path.strip_prefix(prefix);
        if route.exact {
            route.path == path
        } else {
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        }
    };
    let rank = |route: &&Route| {
        (!route.host.starts_with('*'), route.host.len(), route.exact, route.path.len())
    };
    let of_requests = routes.routes().iter().filter(|route| !route.passthrough);
    of_requests.filter(has_host).filter(has_path).max_by_key(rank)
}

fn without_route(report: &Report, host: &str, path: &str) -> String {
    let about = |text: &str| text.contains(host);
    let left_out = report.left_out.iter().find(|one| about(&one.reason));
    match left_out {
        Some(one) => format!("{} is not registered: {}", one.ingress, one.reason),
        None if report.left_out.is_empty() => {
            format!("no Ingress and no route of the agent's file is for {host}{path}: add one")
        }
        None => format!(
            "no Ingress that is registered is for {host}{path}: see the {} parts that are not, in `durward agent status`",
            report.left_out.len()
        ),
    }
}

fn link(report: &Report) -> Piece {
    if report.ready {
        let up = report.carriers.iter().filter(|one| one.state == "up").count();
        return Piece::new("link", true, format!("{up} carriers to the gateway are up"));
    }
    let why = report.last_error.as_deref().unwrap_or("the first one is being dialled");
    Piece::new("link", false, format!("no data carrier to the gateway is up: {why}"))
}

fn gateway(report: &Report, route: &Route) -> Piece {
    let is_it = |one: &&Rejected| one.host == route.host && one.path == route.path;
    if let Some(rejected) = report.routes_rejected.iter().find(is_it) {
        let sentence =
            format!("does not serve {}{}: {}", rejected.host, rejected.path, rejected.reason);
        return Piece::new("gateway", false, sentence);
    }
    if report.routes_held.is_none() {
        return Piece::new("gateway", false, "has not taken the routes yet");
    }
    if report.routes_served == 0 {
        let sentence = "registers no route of this link: the document's own routes are served; to register, add `hosts` to the link in the tenant's document and `linkRoutes` to a listener";
        return Piece::new("gateway", true, sentence);
    }
    Piece::new("gateway", true, format!("serves {} routes of this link", report.routes_served))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: &str, exact: bool) -> Route {
        let target = "app.shop.svc.cluster.local:80".parse().unwrap();
        Route {
            host: host.to_owned(),
            path: path.to_owned(),
            exact,
            target,
            tunnel_only: false,
            passthrough: false,
            backend_tls: None,
            ingress: String::new(),
        }
    }

    #[test]
    fn the_route_of_a_request_is_the_most_special_one() {
        let all = vec![
            route("*.example", "/", false),
            route("a.example", "/", false),
            route("a.example", "/x", false),
            route("a.example", "/x", true),
        ];
        let routes = RouteSet::new(1, all);
        let cases = [
            ("b.example", "/x", Some(0)),
            ("a.example", "/", Some(1)),
            ("a.example", "/xy", Some(1)),
            ("a.example", "/x/y", Some(2)),
            ("a.example", "/x", Some(3)),
            ("example", "/", None),
            (".example", "/", None),
        ];
        for (host, path, expected) in cases {
            let found = find(&routes, host, path);
            assert_eq!(found, expected.map(|at: usize| &routes.routes()[at]), "{host}{path}");
        }
    }
}
