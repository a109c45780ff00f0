//! Routes that fit in one message: a gateway refuses a whole message because of one route that is too long, or one too many.

use super::codec::LONG;
use crate::route::{ROUTES, Route};

/// Bytes of a message that are no routes.
const ENVELOPE: usize = 64 * 1024;
/// Letters of a route that are shown.
const SHOWN: usize = 100;

/// Splits routes into those that a gateway takes in one message, and the rest, each with a sentence that says why. Of too many the first are taken.
pub fn fitting(routes: impl IntoIterator<Item = Route>) -> (Vec<Route>, Vec<(Route, String)>) {
    let (mut fit, mut rest) = (Vec::new(), Vec::new());
    let mut left = LONG - ENVELOPE;
    for route in routes {
        // With the comma.
        let bytes = serde_json::to_vec(&route).map_or(usize::MAX, |json| json.len() + 1);
        let why = if let Some(excess) = route.excess() {
            excess
        } else if fit.len() == ROUTES {
            format!("is one route more than the {ROUTES} that a link carries")
        } else if bytes > left {
            format!("is beyond the {} KiB of routes that a link carries", (LONG - ENVELOPE) / 1024)
        } else {
            left -= bytes;
            fit.push(route);
            continue;
        };
        let shown: String = route.host.chars().chain(route.path.chars()).take(SHOWN).collect();
        rest.push((route, format!("{shown} {why}")));
    }
    (fit, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Decoder, ToGateway, encode};
    use crate::route::{HOST, INGRESS, PATH, RouteSet};

    fn route(host: String, path: String, ingress: String) -> Route {
        let target = "app:80".parse().unwrap();
        let (exact, tunnel_only, passthrough, backend_tls) = (false, false, false, None);
        Route { host, path, exact, target, tunnel_only, passthrough, backend_tls, ingress }
    }

    fn is_taken(routes: Vec<Route>) -> bool {
        let message = encode(&ToGateway::Routes(RouteSet::new(1, routes)));
        let mut decoder = Decoder::default();
        decoder.allow(LONG);
        decoder.push(&message);
        matches!(decoder.take::<ToGateway>(), Ok(Some(ToGateway::Routes(_))))
    }

    #[test]
    fn what_fits_is_taken_and_one_route_that_does_not_costs_no_other() {
        let text = |letter: &str, most: usize| letter.repeat(most);
        let good = || route("a.example".to_owned(), "/".to_owned(), "shop/a".to_owned());
        let at_bound = route(text("a", HOST), text("/", PATH), text("i", INGRESS));
        let beyond = [
            Route { host: text("a", HOST + 1), ..good() },
            Route { path: text("/", PATH + 1), ..good() },
            Route { ingress: text("i", INGRESS + 1), ..good() },
            Route { backend_tls: Some(text("n", HOST + 1)), ..good() },
        ];
        for one in &beyond {
            assert!(!is_taken(vec![one.clone()]), "the gateway's bound is the same: {one:?}");
        }

        let (fit, rest) = fitting(beyond.iter().cloned().chain([good(), at_bound.clone()]));

        assert_eq!(fit, [good(), at_bound]);
        assert_eq!(rest.len(), beyond.len());
        assert!(rest[1].1.contains("has a path of 4097 bytes"), "{}", rest[1].1);
        assert!(is_taken(fit));
    }

    #[test]
    fn of_more_than_a_message_holds_the_first_are_taken() {
        let many = |path: usize, count: usize| {
            let one = move |at| route(format!("a{at}.example"), "\"".repeat(path), String::new());
            (0..count).map(one)
        };

        for (routes, cut) in [(many(1, ROUTES + 5), 5), (many(PATH, 1_000), 0)] {
            let all = routes.len();
            let (fit, rest) = fitting(routes);

            assert_eq!(fit.len() + rest.len(), all);
            assert!(!rest.is_empty() && (cut == 0 || rest.len() == cut), "{}", rest.len());
            assert_eq!(fit[0].host, "a0.example");
            assert!(is_taken(fit));
        }
    }
}
